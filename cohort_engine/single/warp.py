"""Images brought from one space to the other by a warp: what the command `warp` calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cohort_engine import schema
from cohort_engine.errors import GeometryError, InputError, MissingInputError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, read_vectors, read_volume, write_volume
from cohort_engine.mapping.ants import field_positions
from cohort_engine.mapping.resample import INTERPOLATIONS, LABELS, NEAREST, Pull, interpolation_of
from cohort_engine.single.register import TO_IMAGE, TO_TEMPLATE
from cohort_engine.template.packing import FloatArray

AUTO = "auto"
WARPS = {"template": TO_TEMPLATE, "image": TO_IMAGE}
"""Where an image goes to -> the file of a folder of `register` that brings it there."""
NIFTI = (".nii", ".nii.gz")
WARP, ONTO = "warp", "image to lie on"


class Subject(NamedTuple):
    """Whose template map of a cohort store to take: participant, session where there are several, contrast; where the template is, by default the
    installed one.
    """

    participant: str
    contrast: str
    session: str | None = None
    template_path: Path | None = None


class Warped(NamedTuple):
    """One image that was brought over: its file, how it was interpolated, and the share of its grid's voxels that have a value."""

    file: str
    interpolation: str
    filled: float


def warp_images(
    images: Sequence[str | Path], warp: str | Path, out: str | Path, *, to: str | None = None, onto: str | Path | None = None,
    interpolation: str = AUTO, subject: Subject | None = None,
) -> list[Warped]:  # fmt: skip
    """Bring images from one space to the other.

    Parameters
    ----------
    images : sequence of path
        Images, masks or labels on any grid of their space; or folders, of which all NIfTI files are taken, with the folders in them.
    warp : path or URL
        A folder of `register`; a cohort store, of which `subject` says whose map; or a warp of `register`, of ANTs or of the Spinal Cord Toolbox:
        displacements in mm, LPS, on a grid of the space that the images go to.
    out : path
        Of one image the file to write, where the name ends in ``.nii`` or ``.nii.gz``; else the folder for files of the same names.
    to : str, optional
        ``template`` or ``image``: which way, of a folder or a store.
    onto : path, optional
        Image whose voxels the results lie on, in their order; by default those of the warp's grid. A store has no grid of an image.
    interpolation : str
        One of `mapping.resample.INTERPOLATIONS`, or ``auto``: by the values of each image, see `mapping.resample.interpolation_of`.

    Returns
    -------
    list of Warped
        In the order of the files.

    Raises
    ------
    UnknownNameError
        A direction or interpolation that does not exist.
    MissingInputError, InputError
        A file is missing or is no such image; a folder without images; many images for one file; labels with parts.
    GeometryError
        Nothing of the warp lies on the grid.
    StorageError
        A result cannot be written.
    """
    if interpolation not in (AUTO, *INTERPOLATIONS):
        raise unknown_name("interpolation", interpolation, [AUTO, *INTERPOLATIONS], where=WARP)
    if to is not None and to not in WARPS:
        raise unknown_name("space to go to", to, list(WARPS), where=WARP)
    chosen = None if onto is None else read_volume(onto, what=ONTO)
    field, home = _of_file(_warp_file(Path(warp), to)) if subject is None else _of_store(str(warp), subject, to, chosen)
    like = chosen or home
    pull = Pull(field, home.grid, like.grid)
    done = []
    for source, target in _targets([Path(p) for p in images], Path(out)):
        volume = read_volume(source, what="image to warp")
        how = interpolation_of(volume.data) if interpolation == AUTO else interpolation
        if how == LABELS and interpolation != AUTO and interpolation_of(volume.data) != LABELS:
            raise InputError(
                expected="labels: whole numbers from 0", found="other values", where="image to warp", remedy="Take linear, or spline for grey values."
            )
        values = pull(volume.data, volume.affine, how=how)
        known = np.isfinite(values)
        if how in (NEAREST, LABELS):
            values = np.where(known, values, 0).astype(np.float32 if how == NEAREST and interpolation_of(volume.data) != LABELS else np.int32)
        if not known.any():
            raise GeometryError(
                expected="an image in reach of the warp", found="no voxel with a value", where="image to warp",
                remedy="Check that image, warp and --to belong together.",
            )  # fmt: skip
        with storage_errors("folder of warped images"):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_volume(target, like.with_data(values))
        done.append(Warped(target.name, how, float(known.mean())))
    return done


def _of_file(file: Path) -> tuple[FloatArray, Volume]:
    """Positions that a warp holds, and an image on its voxels."""
    vectors = read_vectors(file, what=WARP)
    return field_positions(vectors.data, vectors.affine), vectors


def _of_store(url: str, subject: Subject, to: str | None, onto: Volume | None) -> tuple[FloatArray, Volume]:
    """Positions by the template map of a subject, and an image on their voxels: the template's block, or the image to lie on."""
    from cohort_engine.mapping.inverse import invert
    from cohort_engine.mapping.native import dense_positions
    from cohort_engine.mapping.template_map import TemplateMap
    from cohort_engine.store import layout
    from cohort_engine.store.people import find_rows
    from cohort_engine.store.writer import read_rows
    from cohort_engine.template import load_template

    if to is None:
        raise InputError(
            expected="to know where the images go", found="a store, which knows both ways", where=WARP, remedy="Give --to template or --to image."
        )
    if to == "image" and onto is None:
        raise InputError(
            expected="an image to lie on", found="a store, which knows no image's grid", where=ONTO, remedy="Give --onto and an image of the subject."
        )
    root = layout.open_root(url)
    path = schema.fit_spec(subject.contrast).path
    rows = find_rows(url, subject.participant, subject.session)
    if len(rows) > 1:
        raise InputError(expected="one session", found=f"{len(rows)} of this participant", where="store", remedy="Say which: --session.")
    known = sorted(name for name in layout.group_at(root, schema.FIT) if not name.startswith("."))
    if subject.contrast not in known:
        raise unknown_name("contrast with a template map", subject.contrast, known, where="store")
    positions = read_rows(root, path, slice(rows[0], rows[0] + 1))[0]
    if not np.isfinite(positions).any():
        raise MissingInputError(
            expected=f"a template map of the {subject.contrast} image", found="none of this subject", where="store", remedy="Build it first."
        )
    template = load_template(str(root.attrs[layout.TEMPLATE_NAME]), path=subject.template_path)
    template.check_digest(str(root.attrs[layout.TEMPLATE_DIGEST]), where="template of the store")
    block = dense_positions(positions, template)
    if to == "template" or onto is None:
        return block, Volume(np.asarray(template.cord), np.asarray(template.block_grid.affine, np.float64))
    return invert(TemplateMap(block, {}), template, np.asarray(onto.affine, float), onto.grid.shape), onto


def _warp_file(warp: Path, to: str | None) -> Path:
    """Find the file of a warp."""
    if not warp.is_dir():
        return warp
    if to is None:
        raise InputError(
            expected="to know where the images go", found="a folder with both warps", where=WARP, remedy="Give --to template or --to image."
        )
    if not (warp / WARPS[to]).exists():
        raise MissingInputError(
            expected=f"a folder of register, with {WARPS[to]}", found="none", where=WARP, remedy="Give its output folder, or the warp itself."
        )
    return warp / WARPS[to]


def _targets(images: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Files to read, and where each result goes."""
    files = [
        (found, Path(image.name) / found.relative_to(image)) if image.is_dir() else (found, Path(found.name))
        for image in images
        for found in (sorted(f for f in image.rglob("*") if f.name.endswith(NIFTI)) if image.is_dir() else [image])
    ]
    if not files:
        raise MissingInputError(expected="images to warp", found="none", where="images to warp", remedy="Give files, or a folder that holds some.")
    if not out.name.endswith(NIFTI):
        names = [name for _, name in files]
        if len(set(names)) < len(names):
            raise InputError(
                expected="images of different names", found="some of one name", where="images to warp", remedy="Warp them into different folders."
            )
        return [(file, out / name) for file, name in files]
    if len(files) > 1:
        raise InputError(
            expected="a folder for more than one image", found="a file", where="output", remedy="Give a name without .nii.gz: a folder is made."
        )
    return [(files[0][0], out)]
