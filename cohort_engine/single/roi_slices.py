"""Slices with drawn regions of a study: diffusion maps and manual masks of a BIDS dataset, what a store keeps of them, or a file of slices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import GeometryError, InputError, MissingInputError, unknown_name, warn
from cohort_engine.io.grids import require_grid
from cohort_engine.io.label_folder import INFO, read_atlas
from cohort_engine.io.names import natural, without_ending
from cohort_engine.io.roi_masks import read_drawn
from cohort_engine.io.tree import Tree, place
from cohort_engine.io.volume import Volume, decode_series, on_voxels_of, read_mask, read_raw, read_volume
from cohort_engine.mapping.native import native_shares
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.rois.config import PRIOR
from cohort_engine.rois.cores import parts_of
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.single.rois import shares_of
from cohort_engine.store import layout
from cohort_engine.store.people import IN_STUDY, subjects
from cohort_engine.store.records import made_url
from cohort_engine.store.writer import read_subject
from cohort_engine.template.base import Template

CORD, DRAWN = "cord", "drawn"
ATLAS: Final = f"label/atlas/{INFO}"
"""End of the path of what describes a label folder."""
WORDS: Final[Mapping[str, str]] = {
    schema.B0_IMAGE: r"((desc|param)-)?(b0|b0mean|s0)(_mean)?(_(dwi|dwimap))?",
    **{name: rf"(model-\w+_)?((desc|param)-)?{name}(_dwimap)?" for name in (schema.FA, schema.MD, schema.AD, schema.RD)},
    CORD: r"(label-(sc|cord|spinalcord)_)?(seg|dseg|mask)",
    DRAWN: r"(label-)?rois?(_dseg)?|label-[lr](dc|lc|vc|gm)_(mask|seg)|.*roi(s|set)?\.(zip|roi)",
}
"""What a file is -> what its name ends with, in lower case, after entities of the scan."""
_SCAN = re.compile(r"(?!(desc|param|label|model)-)[a-z]+-.*|dwi|dti")
SPACING_TOLERANCE: Final = 0.01
"""Share by which pixel sizes of one study may differ."""
HALF: Final = 0.5


def load_slices(
    location: str | Path, *, images: Sequence[str] = (), view: str = "radiological", template_path: str | Path | None = None
) -> RoiSlices:  # fmt: skip
    """Read slices with drawn regions: a file that `RoiSlices.save` wrote, a BIDS dataset with manual masks, or the store of a cohort.

    See `slices_of_study` and `slices_of_store`; `template_path` is where the store's template lies, if not in the package.
    """
    if not (Path(location).is_dir() or "://" in str(location)):
        return RoiSlices.load(location)
    images = images if set(images) - {PRIOR} else (schema.B0_IMAGE, schema.FA, *images)
    if not is_store(str(location)):
        return slices_of_study(location, images=images, view=view)
    from cohort_engine.template import load_template

    attributes = layout.store_attributes(str(location))
    template = load_template(str(attributes[layout.TEMPLATE_NAME]), path=template_path)
    template.check_digest(str(attributes[layout.TEMPLATE_DIGEST]), where="template of the store")
    return slices_of_store(str(location), template, images=images)


def is_store(location: str) -> bool:
    """Tell whether a folder or URL is the store of a cohort, by its name or what lies in it."""
    return location.rstrip("/").endswith(".zarr") or (Path(location) / "zarr.json").is_file()


def slices_of_store(url: str, template: Template, *, images: Sequence[str] = (schema.B0_IMAGE, schema.FA)) -> RoiSlices:
    """Gather the slices of a cohort in which people drew regions, from what its store keeps: tensors, template maps and the regions.

    Parameters
    ----------
    url : path or URL
        Store that was built with the stage `rois`.
    template : Template
        That of the store.
    images : sequence of str
        `schema.FA`, `schema.MD`, ...; `schema.B0_IMAGE` is the tensor's S0; `rois.config.PRIOR` is never left out.

    Returns
    -------
    RoiSlices
        Patients numbered in the order of the store, sessions of one together. The cord is where the template's parts have half of a pixel or more.

    Raises
    ------
    StoreError, StorageError
        No store, or a damaged one.
    UnknownNameError
        An image that a tensor does not have.
    MissingInputError
        Nobody drew regions; the tensor of a subject was taken away.
    GeometryError
        Pixels of several sizes.
    """
    names = {schema.B0_IMAGE: "s0"} | {name: name for name in (schema.FA, schema.MD, schema.AD, schema.RD)}
    wanted = [name for name in images if name != PRIOR]
    for name in wanted:
        if name not in names:
            raise unknown_name("image of a tensor", name, list(names), where="slices of a store")
    parts: list[dict[str, Any]] = []
    people: dict[str, int] = {}
    for subject in subjects(url).to_dict("records"):
        row, manual = int(subject["row"]), [code for code, source in schema.ROI_SOURCES.items() if source == schema.MANUAL_ROIS]
        if subject["state"] != IN_STUDY or int(read_subject(url, row, schema.ROI_SPECS[schema.ROI_SOURCE].path)) not in manual:
            continue
        what = f"tensor of row {row}"
        tensor = decode_series(read_raw(made_url(url, row, schema.DWI_TENSOR), what=what), what=what)
        number, place = (read_subject(url, row, schema.ROI_SPECS[name].path) for name in (schema.ROI_NUMBER, schema.ROI_PLACE))
        drawn = _on_grid(number, place, tensor)
        positions = read_subject(url, row, schema.fit_spec(schema.DWI).path)
        prior = native_shares(positions, template, parts_of(template), tensor.affine, tensor.grid.shape)
        z = np.flatnonzero(drawn.any(axis=(0, 1, 2)))
        maps = {name: np.moveaxis(tensor.data[..., CHANNELS.index(names[name])], 2, 0)[z].astype(np.float32) for name in wanted}
        parts.append({
            "images": maps, "drawn": np.moveaxis(drawn, 3, 0)[z], PRIOR: np.moveaxis(prior, 3, 0)[z], "position": z,
            "cord": np.moveaxis(prior.sum(axis=0) >= HALF, 2, 0)[z], "spacing": tensor.grid.spacing[:2],
            "patient": np.full(len(z), people.setdefault(str(subject[schema.PARTICIPANT]), len(people))),
        })  # fmt: skip
    if not parts:
        raise MissingInputError(
            expected="regions that people drew",
            found="none",
            where="store",
            remedy="Build it from a study with manual masks, stages.rois.source set.",
        )
    return _joined(parts)


def _on_grid(number: NDArray[Any], place: NDArray[Any], image: Volume) -> NDArray[np.bool_]:
    """Masks (roi, x, y, z) on the voxels of an image, of a box of numbers and its affine (3, 4)."""
    first = np.rint(np.linalg.solve(image.affine[:3, :3], place[:, 3] - image.affine[:3, 3])).astype(int)
    where = np.argwhere(number > 0)
    out = np.zeros((len(schema.ROIS), *image.grid.shape[:3]), bool)
    out[(number[tuple(where.T)].astype(int) - 1, *(where + first).T)] = True
    return out


def slices_of_study(root: str | Path, *, images: Sequence[str] = (schema.B0_IMAGE, schema.FA), view: str = "radiological") -> RoiSlices:
    """Gather the slices of a BIDS dataset in which regions were drawn.

    Parameters
    ----------
    root : path or URL
        Maps, cord masks and drawn regions may lie anywhere under the folders of participants, derivatives included: ``sub-01_dwi_FA.nii.gz``,
        ``sub-01_dwi_S0.nii.gz`` and ``sub-01_dwi_mask.nii.gz``, as `dti` writes them, beside ``sub-01_dwi_label-rois_dseg.nii.gz`` (labels 1 to 8),
        eight masks (``label-LDC_mask``), or ``RoiSet.zip``.
    images : sequence of str
        Maps to read: `schema.B0_IMAGE`, `schema.FA`, ...; and `rois.config.PRIOR`, shares of the parts by registration, off the label folder
        (``label/atlas``, as `register` writes it for these maps) that lies under the folder of the scan's participant and session.
    view : str
        How outlines of ImageJ were drawn, see `io.imagej.outline_masks`.

    Returns
    -------
    RoiSlices
        Slices with a drawn region; patients numbered in the order of their names, sessions of one together. Planes of several sizes are filled up to
        the largest: NaN in images.

    Raises
    ------
    MissingInputError, InputError
        Nobody has drawn regions; a map or cord mask is absent or there are two; or what `read_drawn` refuses.
    GeometryError
        Masks or maps of a subject on several grids, or other pixel sizes than those of the first subject.

    Warns
    -----
    CohortWarning
        Of subjects without drawn regions, who are left out.
    """
    tree = Tree(str(root))
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in tree.paths:
        where = place(path)
        kind = PRIOR if path.endswith(ATLAS) else _kind(PurePosixPath(path).name)
        if where is not None and kind is not None:
            found[where.participant, where.session][kind].append(path)
    scans = sorted(found, key=lambda who: (natural(who[0]), natural(who[1])))
    drawn = [who for who in scans if found[who][DRAWN]]
    if not drawn:
        raise MissingInputError(
            expected="manual masks of regions: label-rois_dseg, label-LDC_mask ..., or RoiSet.zip", found=f"none of {len(scans)} scans",
            where="study with drawn regions", remedy="Put them beside the diffusion maps of each participant.",
        )  # fmt: skip
    if len(drawn) < len(scans):
        warn(f"{len(scans) - len(drawn)} of {len(scans)} scans have no drawn regions and are left out", where="study with drawn regions")
    people = list(dict.fromkeys(participant for participant, _ in drawn))
    parts = [_scan(tree, found[who], images, view, people.index(who[0]), scan) for scan, who in enumerate(drawn, 1)]
    return _joined(parts)


def _kind(name: str) -> str | None:
    ending = PurePosixPath(name).suffix.lower()
    if not name.lower().endswith((".nii", ".nii.gz", ".zip", ".roi")):
        return None
    words = without_ending(name).lower().split("_") if ending not in (".zip", ".roi") else name.lower().split("_")
    while words and _SCAN.fullmatch(words[0]):
        words = words[1:]
    tail = "_".join(words)
    return next((kind for kind, pattern in WORDS.items() if re.fullmatch(pattern, tail)), None)


def _scan(tree: Tree, files: Mapping[str, list[str]], images: Sequence[str], view: str, patient: int, scan: int) -> dict[str, Any]:
    maps = [name for name in images if name != PRIOR]

    def the(kind: str) -> str:
        what = f"{kind} of scan {scan}"
        if not files.get(kind):
            expected = "the label folder that register writes" if kind == PRIOR else f"an image named as {kind}"
            raise MissingInputError(expected=expected, found="none", where=what, remedy="See the how-to of the DTI study for names.")
        if len(files[kind]) > 1:
            raise InputError(expected="one", found=f"{len(files[kind])}", where=what, remedy="Leave only the one that was drawn on under this root.")
        return tree.location(files[kind][0])

    read = {name: read_volume(the(name), what=f"{name} of scan {scan}") for name in maps}
    first: Volume = read[maps[0]]
    like = f"{maps[0]} of scan {scan}"
    on = {
        name: on_voxels_of(first, v, what=f"{name} of scan {scan}", like=like, remedy="Make the maps from one series.").data
        for name, v in read.items()
    }
    cord = on_voxels_of(first, read_mask(the(CORD), what=f"cord mask of scan {scan}"), what=f"cord mask of scan {scan}", like=like).data > 0.5
    drawn = read_drawn([tree.location(path) for path in files[DRAWN]], first, view=view, like=like)
    prior = {PRIOR: _prior(the(PRIOR), first, like)} if PRIOR in images else {}
    z = np.flatnonzero(drawn.any(axis=(0, 1, 2)))
    return {
        "images": {name: np.moveaxis(data, 2, 0)[z].astype(np.float32) for name, data in on.items()}, "drawn": np.moveaxis(drawn, 3, 0)[z],
        **{name: np.moveaxis(shares, 3, 0)[z] for name, shares in prior.items()},
        "cord": np.moveaxis(cord, 2, 0)[z], "patient": np.full(len(z), patient), "position": z, "spacing": first.grid.spacing[:2],
    }  # fmt: skip


def _prior(listed: str, first: Volume, like: str) -> NDArray[np.float32]:
    """Shares (roi, x, y, z) of the parts, off the label folder that the file `listed` describes."""
    atlas = read_atlas(Path(listed).parent)
    require_grid(atlas.grid, first.grid, what="atlas labels", like=like)
    return shares_of(atlas)


def _joined(parts: Sequence[Mapping[str, Any]]) -> RoiSlices:
    spacing = np.asarray(parts[0]["spacing"], dtype=np.float64)
    for scan, part in enumerate(parts, 1):
        if np.abs(part["spacing"] / spacing - 1).max() > SPACING_TOLERANCE:
            raise GeometryError(
                expected=f"pixels of {' x '.join(f'{s:.3g}' for s in spacing)} mm, as of the first scan",
                found=" x ".join(f"{s:.3g}" for s in part["spacing"]), where=f"scan {scan}", remedy="Resample the maps and masks to one pixel size.",
            )  # fmt: skip
    plane = np.max([part["cord"].shape[1:] for part in parts], axis=0)

    def filled(array: NDArray[Any], fill: Any) -> NDArray[Any]:
        before = (plane - array.shape[-2:]) // 2
        pads = [(0, 0)] * (array.ndim - 2) + [(int(b), int(n - s - b)) for b, n, s in zip(before, plane, array.shape[-2:], strict=True)]
        return np.pad(array, pads, constant_values=fill)

    def all_of(name: str) -> NDArray[Any]:
        return np.concatenate([filled(part[name], False) if part[name].ndim > 1 else part[name] for part in parts])

    images = {name: np.concatenate([filled(part["images"][name], np.nan) for part in parts]) for name in parts[0]["images"]}
    prior = all_of(PRIOR) if PRIOR in parts[0] else None
    return RoiSlices(images, all_of("drawn"), all_of("cord"), all_of("patient"), all_of("position"), spacing, prior)
