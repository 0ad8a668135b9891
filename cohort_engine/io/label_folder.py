"""The Spinal Cord Toolbox's ``label/`` folder as input: warped atlas labels and vertebral levels on the grid of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.grids import require_grid
from cohort_engine.io.volume import Volume, read_mask, read_nonzero
from cohort_engine.template.atlas import Naming, label_files, numbered_files, parse_info
from cohort_engine.template.packing import Grid

INFO = "info_label.txt"
ATLAS_FOLDER = "atlas"
TEMPLATE_FOLDER = "template"
CORD, LEVELS = 3, 7
"""Numbers of the cord mask and the vertebral levels in ``template/info_label.txt``."""
USUAL = {CORD: "PAM50_cord.nii.gz", LEVELS: "PAM50_levels.nii.gz"}
"""Their names in a folder without that list."""
LARGEST_OVERSHOOT = 0.01
"""How far above 1 and below 0 interpolation may carry a weight."""


@dataclass(frozen=True, eq=False)
class NativeAtlas:
    """Label weights in the space of an image, on the voxels that any label touches.

    Attributes
    ----------
    naming : Naming
    grid : Grid
    voxel : (voxel,) int array
        Position in the flattened (x, y, z) array, z fastest; sorted.
    weights : (label, voxel) float64 array, 0 to 1
    """

    naming: Naming
    grid: Grid
    voxel: NDArray[np.intp]
    weights: NDArray[np.float64]

    @property
    def slices(self) -> NDArray[np.intp]:
        """Slice (z index, from the bottom) of each voxel."""
        return self.voxel % self.grid.shape[2]


def read_atlas(folder: str | Path) -> NativeAtlas:
    """Read ``label/atlas`` one label at a time, keeping the non-zero voxels.

    Parameters
    ----------
    folder : str or Path
        The ``label`` folder, or its ``atlas``.

    Raises
    ------
    MissingInputError
        ``info_label.txt`` or a label it names is absent.
    InputError
        A list nobody can read, a broken volume, weights outside 0 to 1.
    GeometryError
        A label on another grid than the first.
    """
    folder = _atlas_folder(Path(folder))
    text = _text(folder / INFO)
    naming, files = Naming(*parse_info(text)), label_files(text)
    absent = [f for f in files if not (folder / f).is_file()]
    if absent:
        raise MissingInputError(
            expected=f"{len(files)} atlas labels", found=f"{len(absent)} absent: {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
            where="label folder", remedy="ml and map need every label, and no region is right without its members: warp the template again.",
        )  # fmt: skip
    grid: Grid | None = None
    index, values = [], []
    for name, file in zip(naming.labels, files, strict=True):
        what = f"atlas label '{name}'"
        found, at, weight = read_nonzero(folder / file, what=what)
        grid = grid or found
        require_grid(found, grid, what=what, like="the first label")
        _check_weights(weight, what)
        index.append(at)
        values.append(weight)
    assert grid is not None
    voxel = np.unique(np.concatenate(index))
    weights = np.zeros((len(files), len(voxel)))
    for row, at, weight in zip(weights, index, values, strict=True):
        row[np.searchsorted(voxel, at)] = weight
    return NativeAtlas(naming, grid, voxel, weights)


def read_levels(folder: str | Path, *, required: bool = True) -> Volume | None:
    """Read the vertebral level numbers in ``label/template``, int16.

    Returns
    -------
    Volume or None
        None where the file is absent and not `required`.

    Raises
    ------
    MissingInputError, InputError
        See `read_mask`.
    """
    path = _template_file(folder, LEVELS)
    if not required and not path.exists():
        return None
    return read_mask(path, what="vertebral levels of the label folder", dtype=np.int16)


def read_cord(folder: str | Path) -> Volume:
    """Read the template's cord in ``label/template``: 0 to 1; errors as of `read_mask`."""
    return read_mask(_template_file(folder, CORD), what="cord of the label folder")


def _template_file(folder: str | Path, number: int) -> Path:
    inner = _atlas_folder(Path(folder)).parent / TEMPLATE_FOLDER
    try:
        names = numbered_files((inner / INFO).read_text(encoding="utf-8", errors="replace"))
    except (OSError, InputError):
        names = {}
    return inner / names.get(number, USUAL[number])


def _atlas_folder(folder: Path) -> Path:
    inner = folder / ATLAS_FOLDER
    return inner if inner.is_dir() or folder.name != ATLAS_FOLDER else folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MissingInputError(
            expected=f"{ATLAS_FOLDER}/{INFO}", found="none", where="label folder",
            remedy="Give the folder 'label' that sct_warp_template made: it holds atlas/ and template/.",
        ) from error  # fmt: skip


def _check_weights(weights: NDArray[np.float64], what: str) -> None:
    if weights.size and not (weights.min() >= -LARGEST_OVERSHOOT and weights.max() <= 1 + LARGEST_OVERSHOOT):
        raise InputError(
            expected="weights from 0 to 1", found=f"{np.nanmin(weights):g} to {np.nanmax(weights):g}, or NaN", where=what,
            remedy="The label is damaged, or is no atlas label: warp the template again.",
        )  # fmt: skip
