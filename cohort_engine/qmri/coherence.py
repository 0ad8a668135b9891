"""Whether gradient directions lie in the frame of the image: all 24 ways to flip and permute their axes, by how well the fibres then follow the cord.

Had the directions been written with other signs or another order of axes, M g in place of g, the fit would give the tensors M D M' in place of D:
so no way needs a fit of its own, its first eigenvectors are M e1. Of the 48 signed permutations M and -M are one, which leaves 24.

Each is judged twice: by the mean squared cosine between eigenvectors and the centreline, and by continuity, that is how far eigenvectors of
neighbouring voxels point at one another. If the directions as given are right, e1 is about the tangent t, and M must lose 1 - (t' M t)^2 in a
slice; if M is right it gains as much. The regression of the differences found on those expected, slice by slice, is 1 in the first case and -1 in
the second, and its standard error says how far this image can tell. In a straight cord along an axis of the image nothing is expected of a flip of
the two others: then the two are called rivals. Nothing is corrected.

References
----------
Jeurissen B, Leemans A, Sijbers J. Automated correction of improperly rotated diffusion gradient orientations in diffusion weighted MRI. Med Image
Anal 2014;18:953-962 (flips and permutations judged by fibre length).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

AS_GIVEN = "+x+y+z"
SURE = 3.0
"""Standard errors by which one way must be ahead of another."""
NOTABLE = 0.01
"""Least difference of mean squared cosines that speaks against directions: 6 degrees. Fibres need not follow a mask's middle closer than that."""
LEAST = 0.005
"""Least expected difference of mean squared cosines, 4 degrees: below, two ways are rivals whatever is found."""
FEWEST_SLICES = 3
POWER = 4
"""Of the cosine between an eigenvector and the way to the neighbour: those within 30 degrees count for more than half."""
CONFIRMED, OPEN, CONTRADICTED = "confirmed", "open", "contradicted"
VERDICTS: Mapping[str, str] = {
    CONFIRMED: "the directions as given follow the cord better than all 23 others",
    OPEN: "some other flips or permutations follow the cord as well: this image cannot tell them apart",
    CONTRADICTED: "another flip or permutation of the directions follows the cord better",
}
"""Verdict -> what it means."""


class Coherence(NamedTuple):
    """Judgement of the directions of a series.

    Attributes
    ----------
    verdict : str
        A key of `VERDICTS`.
    best : str
        The way that follows the cord best, for instance ``"+x-y+z"``: what stands for the first, second and third axis of the image.
    agreement, best_agreement : float
        Mean squared cosine between e1 and the centreline, as given and the best way.
    margin : float
        How far the directions as given are ahead of the strongest other way: regression coefficient over its standard error, negative where they are
        behind, 0 where nothing is expected; NaN of fewer than `FEWEST_SLICES` slices.
    axis_margin : float
        The same against those ways alone that exchange the axis that runs along the cord.
    rivals : tuple of str
        Ways that cannot be told from the directions as given, or are better.
    continuity : float
        How far eigenvectors of neighbours point at one another, as given.
    most_continuous : str
        The way of the highest continuity.
    table : dict of str to (agreement, continuity)
        Of all 24.
    """

    verdict: str
    best: str
    agreement: float
    best_agreement: float
    margin: float
    axis_margin: float
    rivals: tuple[str, ...]
    continuity: float
    most_continuous: str
    table: dict[str, tuple[float, float]]


def ways() -> dict[str, FloatArray]:
    """Return the 24 ways by name; the one as given is first.

    Examples
    --------
    >>> len(ways()), list(ways())[:4], ways()["+y-x+z"].tolist()
    (24, ['+x+y+z', '+x+y-z', '+x-y+z', '+x-y-z'], [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """
    out: dict[str, FloatArray] = {}
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=2):
            matrix = np.zeros((3, 3))
            matrix[[0, 1, 2], list(order)] = (1.0, *signs)
            out["".join(f"{'+' if s > 0 else '-'}{'xyz'[a]}" for s, a in zip((1.0, *signs), order, strict=True))] = matrix
    return out


def check_directions(e1: Array, tangent: Array, places: Array, affine: Array) -> Coherence:
    """Judge gradient directions by the eigenvectors that they gave in the cord.

    Parameters
    ----------
    e1 : (n, 3) array
        First eigenvectors, scanner RAS+; NaN is left out.
    tangent : (n, 3) array
        Direction of the cord there.
    places : (n, 3) int array
        Voxel of each; the last index is the slice.
    affine : (4, 4) array
        Index to world: flips and permutations are those of its axes.

    Returns
    -------
    Coherence

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> places = np.argwhere(np.ones((3, 3, 12)))
    >>> bend = np.stack([0.2 + 0 * places[:, 2], (places[:, 2] - 4) / 20, 1 + 0 * places[:, 2]], axis=1)
    >>> tangent = bend / np.linalg.norm(bend, axis=1, keepdims=True)
    >>> found = check_directions(tangent + rng.normal(0, 0.05, tangent.shape), tangent, places, np.diag([1.0, 1.0, 5.0, 1.0]))
    >>> found.verdict, found.best, found.margin > 3
    ('confirmed', '+x+y+z', True)
    """
    known = np.isfinite(e1).all(axis=1)
    if not known.any():
        nothing = dict.fromkeys(ways(), (np.nan, np.nan))
        return Coherence(OPEN, AS_GIVEN, np.nan, np.nan, np.nan, np.nan, tuple(ways())[1:], np.nan, AS_GIVEN, nothing)
    e1, tangent, places = (np.asarray(a, np.float64)[known] for a in (e1, tangent, places))
    edges = np.asarray(affine, np.float64)[:3, :3]
    axes = edges / np.linalg.norm(edges, axis=0)
    inverse = np.linalg.inv(axes)
    turned = {name: (e1 @ inverse.T) @ matrix.T @ axes.T for name, matrix in ways().items()}
    slices, which = np.unique(places[:, 2], return_inverse=True)
    count = np.bincount(which, minlength=len(slices)).astype(np.float64)
    along = {name: np.bincount(which, (v * tangent).sum(axis=1) ** 2, minlength=len(slices)) / count for name, v in turned.items()}
    pairs, steps = _neighbours(places.astype(np.intp), edges)
    table = {name: (float(np.average(along[name], weights=count)), _continuity(v, pairs, steps)) for name, v in turned.items()}
    agreement, continuity = table[AS_GIVEN]
    best = max(table, key=lambda name: table[name][0])
    expected = {name: 1 - (((tangent @ inverse.T) @ m.T @ axes.T) * tangent).sum(axis=1) ** 2 for name, m in ways().items()}
    by_slice = {name: np.bincount(which, v, minlength=len(slices)) / count for name, v in expected.items()}
    ahead = {name: _ahead(along[AS_GIVEN] - along[name], by_slice[name], count) for name in table if name != AS_GIVEN}
    rivals = tuple(name for name, margin in ahead.items() if not margin >= SURE)
    cord = int(np.argmax(np.abs(tangent @ inverse.T).mean(axis=0)))
    exchanged = np.array([margin for name, margin in ahead.items() if name[2 * cord + 1] != "xyz"[cord]])
    margins = np.array(list(ahead.values()))
    margin = float(margins.min()) if np.isfinite(margins).all() else np.nan
    against = table[best][0] - agreement > NOTABLE and best != AS_GIVEN and ahead[best] <= -SURE
    verdict = CONTRADICTED if against else OPEN if rivals else CONFIRMED
    most = max(table, key=lambda name: table[name][1])
    axis_margin = float(exchanged.min()) if np.isfinite(exchanged).all() else np.nan
    return Coherence(verdict, best, agreement, table[best][0], margin, axis_margin, rivals, continuity, most, table)


def _ahead(found: FloatArray, expected: FloatArray, count: FloatArray) -> float:
    """Regression through zero of found on expected differences, over its standard error; NaN of too few slices, 0 where none is expected."""
    if len(count) < FEWEST_SLICES:
        return np.nan
    if np.average(expected, weights=count) < LEAST:
        return 0.0
    weight = count * expected / (count @ expected**2)
    slope = float(weight @ found)
    left = found - slope * expected
    return slope / max(float(np.sqrt((weight**2) @ left**2 * len(count) / (len(count) - 1))), 1e-6)


def _neighbours(places: NDArray[np.intp], edges: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Pairs of voxels (m, 2) of which each is one of the 26 neighbours of the other, and the unit vector (m, 3) from the first to the second."""
    shape = places.max(axis=0) - places.min(axis=0) + 3
    index = np.full(shape, -1, np.intp)
    at = places - places.min(axis=0) + 1
    index[tuple(at.T)] = np.arange(len(places))
    pairs, steps = [], []
    for step in itertools.product((-1, 0, 1), repeat=3):
        if step > (0, 0, 0):
            other = index[tuple((at + step).T)]
            inside = np.flatnonzero(other >= 0)
            way = edges @ step
            pairs.append(np.stack([inside, other[inside]], axis=1))
            steps.append(np.broadcast_to(way / np.linalg.norm(way), (len(inside), 3)))
    return np.concatenate(pairs), np.concatenate(steps)


def _continuity(e1: FloatArray, pairs: NDArray[np.intp], steps: FloatArray) -> float:
    """Mean over pairs of how far both eigenvectors point along the way between them; NaN without pairs."""
    if not len(pairs):
        return np.nan
    first, second = ((e1[pairs[:, k]] * steps).sum(axis=1) ** POWER for k in (0, 1))
    return float(np.mean(first * second))
