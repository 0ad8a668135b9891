"""How a section of a cord may move: the smooth modes by which a template map is refined, and by which it may still be off."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.template.packing import FloatArray

PRIOR = {
    "shift right": 0.06, "shift forward": 0.06, "turn": 0.03, "width": 0.015, "depth": 0.015, "shear": 0.015,
    "triangle": 0.05, "triangle, turned": 0.05, "square": 0.05, "square, turned": 0.05,
    "inside right": 0.10, "inside forward": 0.125, "inside turn": 0.03, "inside width": 0.04, "inside depth": 0.06,
}  # fmt: skip
"""Modes and the standard deviation of their amplitudes: mm, radians, or parts of 1; the bends in mm at the outline. Chosen on six simulated cords
(seed 31): 1, 1/2 and 1/4 of those of the outline left tracts 0.50, 0.64 and 1.12 points off, as tissue ends outside the mask there as in real scans;
1 and 2 times those of the inside left grey matter 0.072 and 0.092 mm off, tracts 0.50 points."""
ALONG = 15.0
"""Distance along the cord (mm) at which the correlation of amplitudes falls to 1/e."""
INNER = tuple(PRIOR).index("inside right")
"""Modes from here on move the inside against the outline as the first ones move the whole."""
RIND = 2.0
"""Depth below the outline (mm) from which on the inside moves as a whole; at the outline it does not move against it."""
FARTHEST = 1.3
"""Radii from the middle at which the bends stop growing."""


def displacements(x: NDArray[Any], y: NDArray[Any], half: FloatArray) -> list[tuple[int, int, NDArray[Any]]]:
    """Displacement, mm, of modes of amplitude 1 at places (...), mm from the middle of a section: mode, axis across, and values (...); others are 0.

    Those of the inside are to be multiplied by its weight (`weight_of_inside`). `half` are the half axes of the section, mm.

    Examples
    --------
    >>> found = displacements(np.array([2.0]), np.array([1.0]), np.array([6.0, 4.0]))
    >>> [(mode, axis, values.tolist()) for mode, axis, values in found[2:4]]
    [(2, 0, [-1.0]), (2, 1, [2.0])]
    >>> len({mode for mode, *_ in found}) == len(PRIOR)
    True
    """
    one, (wide, deep) = np.ones_like(x), half.astype(x.dtype)
    moves = [[(0, one)], [(1, one)], [(0, -y), (1, x)], [(0, x)], [(1, y)], [(0, y), (1, x)]]
    u, v = x / wide, y / deep
    near = 1 / np.maximum(np.hypot(u, v) / x.dtype.type(FARTHEST), 1)
    u, v = u * near, v * near
    square, product = u * u - v * v, u * v
    for real, imaginary in ((square, 2 * product), (u * square - 2 * v * product, v * square + 2 * u * product)):  # of (u + iv) ** 2 and ** 3
        moves += [[(0, real), (1, -imaginary)], [(0, imaginary), (1, real)]]
    moves += moves[: len(PRIOR) - INNER]
    return [(mode, axis, values) for mode, move in enumerate(moves) for axis, values in move]


def weight_of_inside(depth: NDArray[Any]) -> NDArray[Any]:
    """Weight of the inside at a depth (...), mm, below the outline: 0 at it, 1 from `RIND` on.

    Examples
    --------
    >>> weight_of_inside(np.array([-1.0, 1.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    share = np.clip(depth / RIND, 0.0, 1.0)
    return np.asarray(share * share * (3 - 2 * share))
