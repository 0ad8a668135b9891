"""Grey values and numbers to colours, outlines over them, and tiles to mosaics: (row, column, 3) uint8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]
Float = NDArray[np.floating]
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555")
"""Of groups, in their order; told apart by people with any kind of colour blindness (Okabe and Ito 2008)."""
HOLE: Colour = (58, 62, 70)
"""Where there is no value."""
STOPS = (
    (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44),
    (253, 231, 37),
)  # fmt: skip
"""Viridis, as matplotlib has it, in nine equal steps: it keeps its order for the colour-blind and in grey."""


def grey_range(values: Float, low: float = 1.0, high: float = 99.0) -> tuple[float, float]:
    """Grey values to be black and white: percentiles of what is finite; 0 and 1 where nothing is."""
    known = np.asarray(values)[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    a, b = np.percentile(known, [low, high])
    return float(a), float(b) if b > a else float(a) + 1.0


def greys(values: Float, low: float, high: float) -> Rgb:
    """Paint values (row, column) from black (`low`) to white (`high`); `HOLE` where they are NaN.

    Examples
    --------
    >>> greys(np.array([[0.0, 5.0, 10.0, np.nan]]), 0, 10)[0].tolist()
    [[0, 0, 0], [128, 128, 128], [255, 255, 255], [58, 62, 70]]
    """
    share = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    out: Rgb = np.repeat(np.rint(255 * share).astype(np.uint8)[..., None], 3, axis=-1)
    out[~np.isfinite(values)] = HOLE
    return out


def colours(values: Float, low: float, high: float, empty: Colour = (255, 255, 255)) -> Rgb:
    """Paint values (row, column) in the colours of `STOPS`; `empty` where they are NaN.

    Examples
    --------
    >>> colours(np.array([[0.0, 9.0, np.nan]]), 0, 9)[0].tolist()
    [[68, 1, 84], [253, 231, 37], [255, 255, 255]]
    """
    share = np.clip((np.nan_to_num(values) - low) / (high - low if high > low else 1.0), 0, 1) * (len(STOPS) - 1)
    stops = np.asarray(STOPS, float)
    out = np.stack([np.interp(share, np.arange(len(STOPS)), stops[:, c]) for c in range(3)], axis=-1)
    painted: Rgb = np.rint(out).astype(np.uint8)
    painted[~np.isfinite(values)] = empty
    return painted


def edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (row, column) of a region that touch what is outside of it.

    Examples
    --------
    >>> edge(np.pad(np.ones((3, 3), bool), 1)).sum()
    np.int64(8)
    """
    return np.asarray(inside & ~ndimage.binary_erosion(inside), bool)


def outline(picture: Rgb, values: Float, colour: Colour, at: float = 0.5) -> Rgb:
    """Draw the outline of where values (row, column) are `at` or more."""
    out = picture.copy()
    out[edge(np.nan_to_num(values) >= at)] = colour
    return out


def borders(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels (row, column) whose neighbour to the right or below has another label.

    Examples
    --------
    >>> borders(np.array([[1, 1, 2]])).tolist()
    [[False, True, False]]
    """
    out = np.zeros(labels.shape, bool)
    out[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    out[:-1] |= labels[:-1] != labels[1:]
    return out


def mosaic(tiles: Sequence[Rgb], columns: int, gap: int = 2, colour: Colour = (255, 255, 255)) -> Rgb:
    """Put tiles of one size side by side, `columns` a row.

    Examples
    --------
    >>> mosaic([np.zeros((2, 3, 3), np.uint8)] * 3, 2, gap=1).shape
    (5, 7, 3)
    """
    height, width = tiles[0].shape[:2]
    across = min(columns, len(tiles))
    down = -(-len(tiles) // across)
    out = np.empty((down * (height + gap) - gap, across * (width + gap) - gap, 3), np.uint8)
    out[:] = colour
    for i, tile in enumerate(tiles):
        top, left = (i // across) * (height + gap), (i % across) * (width + gap)
        out[top : top + height, left : left + width] = tile
    return out
