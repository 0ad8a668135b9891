"""Cores of the columns and of grey matter: what is drawn as a region is the inner part of a column, of a given size."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.template.base import Template

UNIONS = dict(zip(schema.PARTS, ("dorsal columns", "lateral funiculi", "ventral funiculi", "gray matter"), strict=True))
"""Part -> union of labels of the atlas, left and right."""
DRAWN_AREA = np.array([0.00078, 0.00098, 0.00063, 0.00053, 0.00101, 0.00098, 0.00073, 0.00054]) * 80.0**2
"""Area of each region of `schema.ROIS` as drawn in the DTI study (doi 10.3390/diagnostics13050817), mm2: its share of the 80 x 80 mm image."""
MOST = 0.7
"""A core takes at most this share of its part."""
SPLIT = 4
"""Distances are measured on so many points per pixel edge."""


def parts_of(template: Template) -> NDArray[np.float32]:
    """Share (roi, voxel) of each packed voxel of a template that belongs to each part of `schema.ROIS`, by the names of its labels.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> cord = parametric_cord(spacing=2.0, top="C3", bottom="C3")
    >>> parts = parts_of(cord)
    >>> parts.shape == (8, len(cord.packing)), bool(parts.sum(0).max() <= 1.001)
    (True, True)
    """
    atlas = template.atlas
    rows = np.zeros((len(schema.ROIS), len(atlas.labels)), np.float32)
    for i, name in enumerate(schema.ROIS):
        side, part = name.split(" ", 1)
        rows[i, [m for m in atlas.unions[UNIONS[part]] if f" {side} " in atlas.labels[m]]] = 1
    return np.asarray(rows @ atlas.weights, np.float32)


def depth(shares: NDArray[Any], spacing: NDArray[Any]) -> NDArray[np.float64]:
    """Depth below the border of each part, mm; negative outside.

    Parameters
    ----------
    shares : (roi, x, y) array
        Share of each pixel that belongs to each part; what is missing from 1 belongs to none.
    spacing : (2,) array
        Pixel size, mm.

    Returns
    -------
    depth : (roi, x, y) float64
        Mean over the pixel of the distance to where another part, or none, has more. Minus infinity where a part is nowhere.
    """
    fine = np.stack([ndimage.zoom(np.asarray(s, float), SPLIT, order=1, mode="nearest", grid_mode=True) for s in shares])
    most = np.argmax(np.concatenate([1 - fine.sum(0, keepdims=True), fine]), axis=0)
    out = np.full(shares.shape, -np.inf)
    size = np.asarray(spacing, float) / SPLIT
    for i in range(len(shares)):
        inside = most == i + 1
        if inside.any():
            signed = ndimage.distance_transform_edt(inside, sampling=size) - ndimage.distance_transform_edt(~inside, sampling=size)
            out[i] = signed.reshape(shares.shape[1], SPLIT, shares.shape[2], SPLIT).mean((1, 3))
    return out


def grow(height: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Grow a region of `count` pixels from the highest one, always by its highest neighbour: a level set in one piece.

    Examples
    --------
    >>> grow(np.array([[0.0, 3.0, 2.0, -1.0, 9.0, 1.0]]), 3).astype(int).tolist(), grow(np.array([[1.0, 3.0, 2.0]]), 2).astype(int).tolist()
    ([[0, 0, 0, 1, 1, 1]], [[0, 1, 1]])
    """
    out = np.zeros(height.shape, bool)
    if count < 1 or not np.isfinite(height).any():
        return out
    first = tuple(int(i) for i in np.unravel_index(np.argmax(height), height.shape))
    queue, seen = [(-float(height[first]), first)], {first}
    for _ in range(min(count, height.size)):
        _, (x, y) = heapq.heappop(queue)
        out[x, y] = True
        for near in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            if near not in seen and 0 <= near[0] < height.shape[0] and 0 <= near[1] < height.shape[1]:
                seen.add(near)
                heapq.heappush(queue, (-float(height[near]), near))
    return out


def sizes(below: NDArray[np.float64], spacing: NDArray[Any], area: NDArray[Any] = DRAWN_AREA) -> NDArray[np.float64]:
    """Area (roi,) of the core of each part, mm2: as asked, but at most `MOST` of the part, of which `depth` is given."""
    return np.asarray(np.minimum(area, MOST * (below > 0).sum((1, 2)) * float(np.prod(spacing))))


def cores(shares: NDArray[Any], spacing: NDArray[Any], area: NDArray[Any] = DRAWN_AREA) -> NDArray[np.bool_]:
    """Core of each part: the pixels deepest inside it, in one piece.

    Parameters
    ----------
    shares : (roi, x, y) array
        As in `depth`.
    spacing : (2,) array
        Pixel size, mm.
    area : (roi,) array
        Of each core, mm2; see `sizes`.

    Returns
    -------
    cores : (roi, x, y) bool
        Empty where a part is nowhere.

    Examples
    --------
    >>> shares = np.zeros((1, 9, 9))
    >>> shares[0, 2:7, 2:7] = 1
    >>> cores(shares, np.ones(2), np.array([9.0]))[0, 3:6, 3:6].all()
    np.True_
    """
    below = depth(shares, spacing)
    counts = np.rint(sizes(below, spacing, area) / float(np.prod(spacing))).astype(int)
    return np.stack([grow(d, n) for d, n in zip(below, counts, strict=True)])
