"""Results in the form other tools read: NIfTI maps on the template grid, and the Spinal Cord Toolbox's ``label/`` folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from cohort_engine.errors import GeometryError, InputError
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

INFO = "info_label.txt"
FIRST_UNION = 50
"""Number of the first union in ``info_label.txt``; labels count from 0."""

TISSUES: Mapping[str, tuple[int, str]] = {
    "cord": (3, "spinal cord mask (binary)"),
    "wm": (4, "white matter mask (probabilistic)"),
    "gm": (5, "gray matter mask (probabilistic)"),
    "csf": (6, "cerebrospinal fluid mask (binary)"),
    "levels": (7, "spinal cord mask with discrete vertebral levels"),
}
"""Template images -> the number and words under which the Spinal Cord Toolbox looks them up."""


def write_map(location: str | Path, template: Template, values: NDArray[Any]) -> None:
    """Write packed values as an image on the template's grid.

    Parameters
    ----------
    location : str or Path
        ``.nii`` or ``.nii.gz``.
    template : Template
    values : (voxel,) array
        Missing: NaN, in packed voxels and outside of them.

    Raises
    ------
    AlignmentError
        Values of another template.

    Examples
    --------
    >>> import tempfile
    >>> from cohort_engine.io.volume import read_volume
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> template = parametric_cord(spacing=2.0)
    >>> path = tempfile.mkdtemp() + "/mtr.nii.gz"
    >>> write_map(path, template, np.full(len(template.packing), 42.0))
    >>> bool((template.packing.pack(read_volume(path, what="map").data) == 42).all())
    True
    """
    write_volume(location, Volume(template.packing.unpack(np.asarray(values, np.float32)), np.asarray(template.grid.affine, np.float64)))


def write_label_folder(
    out_dir: str | Path,
    *,
    template: Template,
    weights: sparse.csr_array | Iterable[FloatArray],
    cord: NDArray[Any],
    wm: FloatArray,
    gm: FloatArray,
    csf: FloatArray,
    levels: NDArray[Any],
    image: Volume,
) -> None:
    """Write atlas and template as they lie in one native image, in the layout of ``sct_warp_template``.

    ``label/template`` holds the five images of `TISSUES`, ``label/atlas`` one image a label, each with an ``info_label.txt`` that is
    written last: a folder that has it is whole.

    Parameters
    ----------
    out_dir : str or Path
        Folder in which ``label/`` is made or replaced.
    template : Template
        Gives names, unions and clusters.
    weights : (label, x * y * z) CSR array, or iterable of (x, y, z) arrays
        Part of each native voxel that belongs to each label, 0 to 1, in the atlas's order; dense ones are taken one at a time.
    cord, wm, gm, csf, levels : (x, y, z) arrays
        Native images in RAS+ order, 0 to 1; `levels` holds level numbers.
    image : Volume
        The native image: all are written on its own voxels, in their order.

    Raises
    ------
    GeometryError
        Images of different shape, or not one image a label.
    InputError
        NaN in an image: a voxel that belongs to no label has weight 0.
    StorageError
        The disk failed.
    """
    tissues = {"cord": cord, "wm": wm, "gm": gm, "csf": csf, "levels": levels}
    labels = template.atlas.labels
    folder = Path(out_dir) / "label"
    with storage_errors("label folder"):
        for name in ("template", "atlas"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / INFO).unlink(missing_ok=True)

    for name, values in tissues.items():
        dtype = np.uint8 if name == "levels" else np.float32
        _write(folder / "template" / f"{template.name}_{name}.nii.gz", values, image, f"native {name}", dtype)
    count = 0
    for count, values in enumerate(_dense(weights, image.grid.shape), 1):
        if count > len(labels):
            break
        _write(folder / "atlas" / _atlas_file(template, count - 1), values, image, labels[count - 1])
    if count != len(labels):
        raise GeometryError(
            expected=f"{len(labels)} label images", found="more" if count > len(labels) else str(count), where="native atlas",
            remedy="Give one image a label, in the atlas's order.",
        )  # fmt: skip
    with storage_errors("label folder"):
        (folder / "template" / INFO).write_text(template_info(template))
        (folder / "atlas" / INFO).write_text(atlas_info(template))


def atlas_info(template: Template) -> str:
    r"""Text of ``info_label.txt`` of an atlas folder.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> print(*atlas_info(parametric_cord(spacing=2.0)).splitlines()[3:5], sep="\n")
    0, WM left fasciculus gracilis, parametric_atlas_00.nii.gz
    1, WM right fasciculus gracilis, parametric_atlas_01.nii.gz
    """
    atlas = template.atlas
    return "\n".join([
        f"# Atlas of {template.name} {template.version}",
        *_section("IndivLabels", "ID, name, file", [(i, name, _atlas_file(template, i)) for i, name in enumerate(atlas.labels)]),
        "",
        "# Combined labels",
        *_section("CombinedLabels", "ID, name, IDgroup", [(i, name, _group(m)) for i, (name, m) in enumerate(atlas.unions.items(), FIRST_UNION)]),
        "",
        "# Clusters used for the first step of the MAP estimation",
        *_section("MAPLabels", "Name, IDgroup", [(name, _group(m)) for name, m in atlas.clusters.items()]),
        "",
    ])  # fmt: skip


def template_info(template: Template) -> str:
    """Text of ``info_label.txt`` of a template folder."""
    rows = [(number, words, f"{template.name}_{name}.nii.gz") for name, (number, words) in TISSUES.items()]
    return "\n".join([f"# Template {template.name} {template.version}", *_section("IndivLabels", "ID, name, file", rows), ""])


def _section(keyword: str, head: str, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    return [f"# Keyword={keyword} (Please DO NOT change this line)", f"# {head}", *(", ".join(map(str, row)) for row in rows)]


def _group(members: Sequence[int]) -> str:
    """Write row numbers as runs without spaces, as the reader of these files wants them.

    Examples
    --------
    >>> _group((0, 1, 2, 5, 7, 8))
    '0:2,5,7:8'
    """
    runs = [[m for _, m in run] for _, run in groupby(enumerate(sorted(members)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{r[0]}:{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _atlas_file(template: Template, label: int) -> str:
    return f"{template.name}_atlas_{label:02d}.nii.gz"


def _dense(weights: sparse.csr_array | Iterable[FloatArray], shape: tuple[int, ...]) -> Iterable[FloatArray]:
    if not isinstance(weights, sparse.csr_array):
        yield from weights
        return
    if weights.shape[1] != np.prod(shape):
        raise GeometryError(
            expected=f"weights of {np.prod(shape)} voxels", found=str(weights.shape[1]), where="native atlas", remedy="Use the weights of this image."
        )
    for i in range(weights.shape[0]):
        yield weights[[i]].toarray().reshape(shape)


def _write(path: Path, values: NDArray[Any], image: Volume, what: str, dtype: DTypeLike = np.float32) -> None:
    if np.shape(values) != image.grid.shape:
        raise GeometryError(
            expected=f"shape {image.grid.shape}", found=f"{np.shape(values)}", where=what, remedy="All must lie on the voxels of the image."
        )
    if not np.isfinite(values).all():
        raise InputError(expected="finite numbers", found="NaN or infinity", where=what, remedy="A voxel that belongs to no label has weight 0.")
    write_volume(path, image.with_data(np.asarray(values)), dtype=dtype)
