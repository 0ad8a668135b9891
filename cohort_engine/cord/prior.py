"""What another image of the same person knows: its cord mask, brought over by scanner coordinates, fills slices that this image leaves open.

A slice is filled only where the two masks agree in the nearest slices that have both: the other outline is moved by what they differ there in place,
so that motion between the scans does not count, and the slice is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.recover import HALF, LOCAL, SMALLEST
from cohort_engine.cord.segment import BROKEN, PARTIAL, TAKEN, Segmentation
from cohort_engine.template.packing import FloatArray

PARTS = 4
"""Sheets of a slice whose mean is taken."""
ALIKE = 0.7
"""Least Dice of the two masks, one moved onto the other, in the slices that vouch for others."""
FARTHEST = 4.0
"""The person moved by no more than this between the scans, in the plane, mm."""


def onto(mask: NDArray[Any], affine: FloatArray, shape: tuple[int, ...], to: FloatArray) -> NDArray[np.float32]:
    """Bring a mask onto another image's grid by scanner coordinates: part of each voxel that it fills.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1.
    affine, to : (4, 4) arrays
        Voxel to RAS+ mm, of the mask and of the image.
    shape : (3,)
        Of the image.

    Examples
    --------
    Slices of 2 mm over voxels of 1 mm.

    >>> mask = np.zeros((3, 3, 4))
    >>> mask[1, 1, 1:] = 1
    >>> onto(mask, np.eye(4), (3, 3, 2), np.diag([1.0, 1.0, 2.0, 1.0]) + np.outer([0, 0, 0.5, 0], [0, 0, 0, 1]))[1, 1].round(2).tolist()
    [0.5, 1.0]
    """
    back = np.linalg.inv(affine) @ to
    out = np.zeros(shape, np.float32)
    plane = np.indices(shape[:2], dtype=float)
    solid = np.nan_to_num(np.asarray(mask, np.float32))
    for z in range(shape[2]):
        for sheet in (np.arange(PARTS) + 0.5) / PARTS - 0.5:
            at = np.stack([*plane, np.full(shape[:2], z + sheet)], axis=-1) @ back[:3, :3].T + back[:3, 3]
            out[:, :, z] += ndimage.map_coordinates(solid, np.moveaxis(at, -1, 0), order=1, mode="nearest", prefilter=False) / PARTS
            outside = ((at < -0.5) | (at > np.array(mask.shape) - 0.5)).any(axis=-1)
            out[:, :, z][outside] = 0
    return out


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two masks of one cord on one grid, slice by slice; NaN where one of them is empty.

    Attributes
    ----------
    dice : (z,) array
    ratio : (z,) array
        Area of the first over that of the second.
    shift : (z, 2) array
        Middle of the first minus that of the second, mm along the first two axes.
    moved : (z,) array
        Dice once the second is moved by that.
    """

    dice: FloatArray
    ratio: FloatArray
    shift: FloatArray
    moved: FloatArray

    @property
    def distance(self) -> FloatArray:
        """Of the middles (z,), mm."""
        return np.asarray(np.hypot(self.shift[:, 0], self.shift[:, 1]))


def agreement(first: NDArray[Any], second: NDArray[Any], spacing: FloatArray) -> Agreement:
    """Compare two masks (x, y, z), 0 to 1, slice by slice; `spacing` in mm.

    Examples
    --------
    >>> a, b = np.zeros((6, 6, 2)), np.zeros((6, 6, 2))
    >>> a[1:3, 1:4, 0] = b[2:4, 1:4, 0] = 1
    >>> found = agreement(a, b, np.ones(3))
    >>> found.dice.tolist(), found.shift[0].tolist(), found.moved[0].tolist()
    ([0.5, nan], [-1.0, 0.0], 1.0)
    """
    depth = first.shape[2]
    dice, ratio, moved, shift = np.full(depth, np.nan), np.full(depth, np.nan), np.full(depth, np.nan), np.full((depth, 2), np.nan)
    for z in range(depth):
        a, b = (np.asarray(m[:, :, z], np.float32) for m in (first, second))
        if (a >= HALF).any() and (b >= HALF).any():
            off = np.array(ndimage.center_of_mass(a)) - ndimage.center_of_mass(b)
            shift[z], ratio[z] = off * spacing[:2], a.sum() / b.sum()
            dice[z], moved[z] = _dice(a, b), _dice(a, ndimage.shift(b, off, order=1))
    return Agreement(dice, ratio, shift, moved)


def _dice(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    p, q = a >= HALF, b >= HALF
    return 2 * float((p & q).sum()) / max(1.0, float(p.sum() + q.sum()))


def completed(found: Segmentation, prior: NDArray[Any], data: NDArray[Any]) -> Segmentation:
    """Fill slices without cord from another mask of the person.

    Parameters
    ----------
    found : Segmentation
    prior : (x, y, z) array
        The other mask on the image's grid, 0 to 1 (`onto`).
    data : (x, y, z) array
        The image: slices without signal are not filled.

    Returns
    -------
    Segmentation
        Slices that were filled are in `taken`; the same where none was.
    """
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    both = agreement(found.mask, prior, spacing)
    vouch = np.flatnonzero((both.moved >= ALIKE) & (both.distance <= FARTHEST))
    area = prior.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    open_ = np.flatnonzero((area >= SMALLEST) & ~found.mask.any(axis=(0, 1)) & (np.ptp(data, axis=(0, 1)) > 0))
    soft, mask, taken = found.soft.copy(), found.mask.copy(), []
    for z in open_:
        near = vouch[np.abs(vouch - z) * spacing[2] <= LOCAL]
        if not len(near):
            continue
        weight = 1 / np.abs(near - z)
        off = (both.shift[near] * weight[:, None]).sum(axis=0) / weight.sum()
        outline = ndimage.shift(np.asarray(prior[:, :, z], np.float32), off / spacing[:2], order=1)
        if (outline >= HALF).any():
            soft[:, :, z], mask[:, :, z] = outline, outline >= HALF
            taken.append(int(z))
    if not taken:
        return found
    filled = replace(found, soft=soft, mask=mask, taken=tuple(taken))
    flags = [f for f in found.flags if f not in (BROKEN, PARTIAL) or len(filled.missing[f])]
    return replace(filled, flags=(*flags, TAKEN))
