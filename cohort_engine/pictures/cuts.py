"""Cuts through an image: axial tiles around the cord, and the sagittal plane that follows it.

Images are (x, y, z), RAS+, with slices along the last axis. Cuts are seen as radiologists look: an axial tile from below (the right of the body at
the left, its front at the top), a sagittal cut with the front at the left and the head at the top. Rows and columns are pixels of equal size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.template.packing import FloatArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Window:
    """Pixels of a cut.

    Attributes
    ----------
    half : float
        Half of the width, mm.
    pixel : float
        mm.
    """

    half: float = 14.0
    pixel: float = 0.25

    @property
    def offsets(self) -> FloatArray:
        """Distance (n,) of each column or row from the middle, mm; largest first."""
        count = round(2 * self.half / self.pixel)
        return (np.arange(count)[::-1] - (count - 1) / 2) * self.pixel


def cord_middles(mask: Array) -> FloatArray:
    """Middle (z, 2) of the mask in each slice, voxels; where there is none as of the nearest slice that has one. NaN where no slice has.

    Examples
    --------
    >>> mask = np.zeros((5, 5, 3))
    >>> mask[1:4, 2, 1] = 1
    >>> cord_middles(mask).tolist()
    [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    """
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    out = np.full((solid.shape[2], 2), np.nan)
    held = np.flatnonzero(solid.any(axis=(0, 1)))
    for k in held:
        out[k] = np.argwhere(solid[:, :, k]).mean(axis=0)
    if len(held):
        near = held[np.abs(np.arange(len(out))[:, None] - held).argmin(axis=1)]
        out = out[near]
    return out


def spread(slices: NDArray[np.integer], most: int) -> NDArray[np.int64]:
    """Take `most` of the slices at the most, spread evenly, first and last among them.

    Examples
    --------
    >>> spread(np.arange(3, 12), 3).tolist(), spread(np.arange(3), 5).tolist()
    ([3, 7, 11], [0, 1, 2])
    """
    every: NDArray[np.int64] = np.asarray(slices, np.int64)
    return every if len(every) <= most else every[np.rint(np.linspace(0, len(slices) - 1, most)).astype(int)]


def axial(data: Array, spacing: FloatArray, middles: FloatArray, slices: NDArray[np.integer], window: Window = Window()) -> NDArray[np.float32]:
    """Cut tiles (slice, row, column) around the cord, linear between voxels; NaN outside the image.

    Parameters
    ----------
    data : (x, y, z) array
    spacing : (3,) array
        Voxel size, mm.
    middles : (z, 2) array
        Middle of the cord in each slice, voxels.
    slices : (n,) int array
    window : Window

    Examples
    --------
    >>> data = np.zeros((5, 5, 1))
    >>> data[3, 2, 0] = 1  # 1 mm to the right of the middle
    >>> axial(data, np.ones(3), np.array([[2.0, 2.0]]), np.array([0]), Window(1.5, 1.0))[0].tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    offsets = window.offsets
    out = np.empty((len(slices), len(offsets), len(offsets)), np.float32)
    for i, k in enumerate(slices):
        x = middles[k, 0] + offsets / spacing[0]
        y = middles[k, 1] + offsets / spacing[1]
        at = np.stack(np.meshgrid(y, x, indexing="ij")[::-1])
        out[i] = ndimage.map_coordinates(np.asarray(data[:, :, k], np.float32), at, order=1, mode="constant", cval=np.nan)
    return out


def sagittal(data: Array, spacing: FloatArray, middles: FloatArray, window: Window = Window(30.0, 0.5), thick: float = 0.0) -> NDArray[np.float32]:
    """Cut along the middle of the cord from side to side: (row, column), the head at the top and the front at the left; NaN outside the image.

    Columns lie about the mean of the cord's middles from front to back. With `thick` (mm) each pixel is the mean over that width.

    Examples
    --------
    >>> data = np.zeros((3, 5, 2))
    >>> data[1, 3, 1] = 1  # before the cord, at the top
    >>> sagittal(data, np.ones(3), np.array([[1.0, 2.0], [1.0, 2.0]]), Window(1.5, 1.0)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    offsets = window.offsets
    rows = max(1, round(data.shape[2] * spacing[2] / window.pixel))
    z = (rows - 0.5 - np.arange(rows)) * window.pixel / spacing[2] - 0.5
    inside = np.clip(z, 0, data.shape[2] - 1)
    x = np.interp(inside, np.arange(data.shape[2]), middles[:, 0])
    y = np.nanmean(middles[:, 1]) + offsets / spacing[1]
    steps = np.linspace(-thick / 2, thick / 2, 3) if thick else np.zeros(1)
    values = np.asarray(data, np.float32)
    cuts = []
    for step in steps:
        at = np.stack(np.broadcast_arrays((x + step / spacing[0])[:, None], y[None], inside[:, None]))
        cuts.append(ndimage.map_coordinates(values, at, order=1, mode="constant", cval=np.nan))
    return np.asarray(np.mean(cuts, axis=0), np.float32)


def row_of(z: FloatArray | float, slices: int, spacing: FloatArray, window: Window = Window(30.0, 0.5)) -> FloatArray:
    """Row of a `sagittal` cut of an image of so many slices in which heights, in voxels, lie.

    Examples
    --------
    >>> row_of(np.array([0.0, 1.0]), 2, np.ones(3), Window(1.5, 1.0)).tolist()
    [1.0, 0.0]
    """
    rows = max(1, round(slices * spacing[2] / window.pixel))
    return np.asarray(rows - 0.5 - (np.asarray(z, float) + 0.5) * spacing[2] / window.pixel)
