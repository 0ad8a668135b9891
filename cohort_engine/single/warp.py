"""Images brought from one space to the other by a warp: what the command `warp` calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cohort_engine.errors import GeometryError, InputError, MissingInputError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import read_vectors, read_volume, write_volume
from cohort_engine.mapping.ants import field_positions
from cohort_engine.mapping.resample import INTERPOLATIONS, LABELS, NEAREST, Pull, interpolation_of
from cohort_engine.single.register import TO_IMAGE, TO_TEMPLATE

AUTO = "auto"
WARPS = {"template": TO_TEMPLATE, "image": TO_IMAGE}
"""Where an image goes to -> the file of a folder of `register` that brings it there."""
NIFTI = (".nii", ".nii.gz")
WARP, ONTO = "warp", "image to lie on"


class Warped(NamedTuple):
    """One image that was brought over: its file, how it was interpolated, and the share of its grid's voxels that have a value."""

    file: str
    interpolation: str
    filled: float


def warp_images(
    images: Sequence[str | Path], warp: str | Path, out: str | Path, *, to: str | None = None, onto: str | Path | None = None,
    interpolation: str = AUTO,
) -> list[Warped]:  # fmt: skip
    """Bring images from one space to the other.

    Parameters
    ----------
    images : sequence of path
        Images, masks or labels on any grid of their space; or folders, of which all NIfTI files are taken, with the folders in them.
    warp : path
        A folder of `register`, or a warp of it, of ANTs or of the Spinal Cord Toolbox: displacements in mm, LPS, on a grid of the space that the
        images go to.
    out : path
        Of one image the file to write, where the name ends in ``.nii`` or ``.nii.gz``; else the folder for files of the same names.
    to : str, optional
        ``template`` or ``image``: which warp of a folder.
    onto : path, optional
        Image whose voxels the results lie on, in their order; by default those of the warp.
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
    vectors = read_vectors(_warp_file(Path(warp), to), what=WARP)
    like = vectors if onto is None else read_volume(onto, what=ONTO)
    pull = Pull(field_positions(vectors.data, vectors.affine), vectors.grid, like.grid)
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


def _warp_file(warp: Path, to: str | None) -> Path:
    """Find the file of a warp."""
    if to is not None and to not in WARPS:
        raise unknown_name("space to go to", to, list(WARPS), where=WARP)
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
