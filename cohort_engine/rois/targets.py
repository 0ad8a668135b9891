"""What networks of the regions learn: maps of heat around drawn regions, and masks with their background."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX, MIN = "max", "min"
"""Distance from a pixel to a region: to its farthest pixel, as published, or to its nearest one."""
DISTANCES: Final = (MAX, MIN)
PER_ROI = "per_roi"
"""Sigma by which heat is `FAINT` one extent of the region away."""
FAINT: Final = 0.01


def heat_maps(drawn: NDArray[np.bool_], spacing: Any, *, distance: str = MAX, sigma: float | str = PER_ROI) -> NDArray[np.float32]:
    """Heat of each pixel: 1 on the region, ``exp(-d^2 / (2 sigma^2))`` elsewhere; zero everywhere where a region was not drawn.

    Parameters
    ----------
    drawn : (..., x, y) bool
    spacing : (2,) float
        Pixel size, mm.
    distance : str
        d is the distance of pixel centres to the ``"max"`` (farthest) or ``"min"`` (nearest) pixel of the region.
    sigma : float or "per_roi"
        mm; ``"per_roi"``: the larger extent of the region over ``sqrt(2 log 100)``, so that heat is 0.01 one extent away.

    Returns
    -------
    (..., x, y) float32

    Examples
    --------
    >>> drawn = np.array([[False, True, False, False]])
    >>> heat_maps(drawn, (1, 1), distance="min").round(4)  # extent 1: 0.01 one pixel away, 0.01^4 two
    array([[0.01, 1.  , 0.01, 0.  ]], dtype=float32)
    >>> two = np.array([[False, True, True, False]])
    >>> heat_maps(two, (1, 1), sigma=1.0).round(4)  # both neighbours are 2 from the farther one: exp(-2)
    array([[0.1353, 1.    , 1.    , 0.1353]], dtype=float32)
    """
    flat = drawn.reshape(-1, *drawn.shape[-2:])
    out = np.zeros(flat.shape, np.float32)
    some = np.flatnonzero(flat.any((1, 2)))
    step = np.asarray(spacing, float)
    for part in np.array_split(some, max(1, len(some) // 1024)):  # bounds the memory
        masks = flat[part]
        square = (_farthest if distance == MAX else _nearest)(masks, step)
        width = extents(masks, step) / np.sqrt(-2 * np.log(FAINT)) if sigma == PER_ROI else np.full(len(masks), float(sigma))
        out[part] = np.where(masks, 1.0, np.exp(-square / (2 * width**2)[:, None, None]))
    return out.reshape(drawn.shape)


def extents(masks: NDArray[np.bool_], spacing: Any) -> NDArray[np.float64]:
    """Larger side of the box around each mask (n, x, y) that is not empty, mm.

    Examples
    --------
    >>> extents(np.array([[[True, True, True], [False, False, False]]]), (2.0, 1.0))
    array([3.])
    """
    sides = []
    for axis in (2, 1):
        along: NDArray[np.bool_] = np.any(masks, axis=axis)
        sides.append(along.shape[1] - along.argmax(1) - along[:, ::-1].argmax(1))
    widest: NDArray[np.float64] = (np.stack(sides, 1) * np.asarray(spacing, float)).max(1)
    return widest


def _nearest(masks: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance to the nearest pixel of a mask; slices lie so far apart that none is another's neighbour."""
    from scipy.ndimage import distance_transform_edt

    far = 1e3 * float(np.dot(masks.shape[1:], spacing))
    distance: NDArray[np.float64] = distance_transform_edt(~masks, sampling=(far, *spacing))
    return distance**2


def _farthest(masks: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance to the farthest pixel of a mask: one of those at the two ends of a row.

    ``|x - r|^2 = |x|^2 + max_r (|r|^2 - 2 x r)``, the ends of one row of all masks at a time.
    """
    n, rows, columns = masks.shape
    x, y = np.arange(rows) * spacing[0], np.arange(columns) * spacing[1]
    there: NDArray[np.bool_] = np.any(masks, axis=2)
    first = there.argmax(1)
    last = rows - 1 - there[:, ::-1].argmax(1)
    best = np.full(masks.shape, -np.inf)
    for step in range(int((last - first).max()) + 1):
        row = np.minimum(first + step, last)
        row = np.where(there[np.arange(n), row], row, first)
        along = masks[np.arange(n), row]
        for end in (along.argmax(1), columns - 1 - along[:, ::-1].argmax(1)):
            r, s = x[row][:, None, None], y[end][:, None, None]
            np.maximum(best, r**2 + s**2 - 2 * (x[:, None] * r + y * s), out=best)
    return np.asarray(np.maximum(best + x[:, None] ** 2 + y**2, 0.0))


def with_background(regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the background behind regions (n, roi, x, y): what the largest of them leaves.

    Examples
    --------
    >>> with_background(np.array([0.25, 0.5], np.float32).reshape(1, 2, 1, 1)).ravel()
    array([0.25, 0.5 , 0.5 ], dtype=float32)
    """
    return np.concatenate([regions, 1 - regions.max(1, keepdims=True)], 1)
