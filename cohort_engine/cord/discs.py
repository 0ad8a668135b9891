"""Vertebral labelling: a straight strip along the cord, discs on it by a network, and their names by the whole chain of vertebrae.

1. The image is sampled along the cord: rows 1 mm apart along the centreline, columns from the spinous processes to the bodies (`straight_strip`).
2. A network gives a heat map of discs, and for every row how near it is to each number: from the dens, the skull base, the spinous processes, the
   bodies' size, and the cord's area along its length.
3. A chain runs from number 0 (in the head) down to 21, each a place with or without a disc, some of them outside the image. Distances follow the
   template, stretched as a whole and each on its own. Forward and backward sums over all places, names and stretches give the probability
   that disc n lies at a row (`name_discs`): where two namings are both likely, both are weak, and nothing is named.

References
----------
Rabiner LR. A tutorial on hidden Markov models. Proceedings of the IEEE 1989;77:257-286. doi:10.1109/5.18626
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask, cord_slices, slice_arc
from cohort_engine.cord.levels import FARTHEST, Landmarks
from cohort_engine.errors import GeometryError, InputError, LevelError
from cohort_engine.nn.strips import COLUMNS, FIRST, HIGHEST, LAST, SHAPE_GAIN, STATES, STEP, numbered_heights
from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network
    from cohort_engine.template.base import Heights

BEYOND = 60.0
"""A strip goes on this far (mm) beyond the cord mask, where the image does."""
BREADTH = 2.4
"""A strip is the mean over this many mm to either side of the cord's middle."""
CORE = 8.0
"""A row is in view where the image shows something within this distance (mm) of the cord."""

NAMED = 0.98
"""Discs are named where the probability of one of the names, given that a disc lies there, reaches this: all share it."""
CERTAIN = 0.94
"""Of these discs, those count whose probability of name and place reaches this,"""
SEEN = 0.8
"""and which the network sees with this probability: those half outside the image, or faded, are placed by their neighbours alone."""
CALIBRATION = (0.73, -0.09)
"""Slope and intercept from the log odds of the chain to those of being right: what it says on neighbouring discs counts one finding more than once.
Fitted to simulated strips; ``tests/real/test_calibration.py`` fits it again, and prints how often discs are right on other strips and on crops of
real images, by probability.
"""
RESOLVED = 4.0
"""Voxels that reach farther than this (mm) along the cord show no disc: it is 4 to 7 mm high. On stacks of 5 mm slices of five people the chain put
discs up to 9 mm off, with 0.94 to 0.98."""
NEAR = 3
"""Rows to either side that belong to one place."""
TRUST = 0.5
"""Weight of what the network says on numbers: what it says on neighbouring discs comes from the same pixels."""
FLOOR, NUMBER_FLOOR = 0.02, 0.01
"""Least probability of a disc, and of a number, at a row."""
AROUND = 2
"""Rows to either side in which the network may see a disc."""
TYPICAL = 0.3
"""A disc whose number has this probability counts neither for nor against being in view."""
STRETCHES = np.exp(np.linspace(-0.3, 0.3, 15))
STRETCH_SPREAD = 0.11
"""Lengths of spines over the template's: those tried, and the standard deviation of their logarithm."""
GAP_SPREAD, GAP_NOISE = 0.075, 0.7
"""Standard deviation of one distance: part of itself, and mm."""
POINT_SPREAD, BODY_SPREAD = 3.0, 5.0
"""How far (mm, along the cord) a landmark may lie from its disc; and from half-way between discs, for a body."""
FORCE = 1e12
"""How much likelier a naming is that agrees with a given landmark."""

UNSURE = "unsure"
THICK = "thick slices"
LOOSE = "landmark off"
FLAGS = {
    THICK: "voxels too long along the cord to show discs: give two landmarks",
    UNSURE: "fewer than two discs have a certain name: give a landmark",
    LOOSE: "the discs do not agree with the landmark that was given",
}
"""Flag -> what it means."""
_REMEDY = "Name one disc: --init-disc 3 --init-z SLICE for C2/C3; or give a label file with two landmarks."
_REMEDY_THICK = "Give a label file with two landmarks (--points), or label a scan of the session with thin slices: its levels travel."


@dataclass(frozen=True, eq=False)
class Strip:
    """An image along the straightened cord.

    Attributes
    ----------
    image : (row, COLUMNS) float32 array
        Grey values; 0 outside the field of view. Rows go upwards, 1 mm apart; columns forwards, `STEP` mm apart from `FIRST`.
    shape : (row,) float32 array
        `SHAPE_GAIN` times the logarithm of the cord's area over its median; 0 outside the mask.
    inside : (row,) bool array
        Rows with cord mask.
    arc : (row,) array
        Arc length along the centreline, mm; below 0 and above its length the centreline goes straight on.
    centreline : Centreline
    """

    image: NDArray[np.float32]
    shape: NDArray[np.float32]
    inside: NDArray[np.bool_]
    arc: FloatArray
    centreline: Centreline


def straight_strip(data: NDArray[Any], affine: FloatArray, mask: NDArray[Any], *, what: str = "image") -> Strip:
    """Sample an image along the cord.

    Parameters
    ----------
    data, mask : (x, y, z) arrays
        Image and its cord mask on one grid. Grey values that are not finite or negative count as no signal.
    affine : (4, 4) array
        Voxel centres to RAS+ mm.
    what : str
        Words of the image's role.

    Raises
    ------
    GeometryError
        Shapes differ.
    CordError
        The mask carries no centreline, see `cord_slices`.
    InputError
        The image shows nothing along the cord.
    """
    if data.shape != mask.shape:
        raise GeometryError(
            expected=f"a mask of shape {data.shape}", found=str(mask.shape), where="cord mask", remedy="Segment this very image."
        )  # fmt: skip
    affine = np.asarray(affine, float)
    centreline = centreline_from_mask(mask, affine, what="cord mask")
    arc = np.arange(np.ceil(-BEYOND), np.floor(centreline.length + BEYOND) + 1)
    values = np.array(data, np.float32)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    np.maximum(values, 0.0, out=values)
    e_x, e_y, _ = centreline.frame(arc)
    a = np.linspace(-BREADTH, BREADTH, 5)
    b = FIRST + STEP * (np.arange(2 * COLUMNS) / 2 - 0.25)
    place = centreline.position(arc)[:, None, None] + b[:, None, None] * e_y[:, None, None] + a[:, None] * e_x[:, None, None]  # (row, b, a, xyz)
    inverse = np.linalg.inv(affine)
    at = np.moveaxis(place @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    limit = np.array(values.shape).reshape(3, 1, 1, 1) - 1
    seen = ((at >= -0.5) & (at <= limit + 0.5)).all(axis=0)
    sampled = ndimage.map_coordinates(values, np.clip(at, 0, limit), order=1, mode="nearest") * seen
    both = (len(arc), COLUMNS, -1)
    image = sampled.reshape(both).sum(-1) / np.maximum(seen.reshape(both).sum(-1), 1)
    core = np.abs(FIRST + STEP * np.arange(COLUMNS)) <= CORE
    view = np.flatnonzero((image[:, core] > 0).any(axis=1))
    if not len(view):
        raise InputError(expected="an image of the cord", found="no signal along the mask", where=what, remedy="Give the mask of this image.")
    rows = slice(int(view[0]), int(view[-1]) + 1)
    shape, inside = _shape(mask, affine, centreline, arc)
    return Strip(image[rows].astype(np.float32), shape[rows], inside[rows], arc[rows], centreline)


def _shape(mask: NDArray[Any], affine: FloatArray, centreline: Centreline, arc: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    cord, slices = cord_slices(mask, what="cord mask")
    pixel = np.cross(affine[:3, 0], affine[:3, 1])
    at = slice_arc(centreline, affine, slices)
    area = cord[:, :, slices].sum(axis=(0, 1)) * np.abs(centreline.direction(at) @ pixel)
    order = np.argsort(at)
    inside = (arc >= at.min() - 0.5) & (arc <= at.max() + 0.5)
    log = np.interp(arc, at[order], np.log(np.maximum(area, 1.0))[order])
    log = ndimage.gaussian_filter1d(log, 1.5)
    middle = np.median(log[inside]) if inside.any() else 0.0
    return np.where(inside, SHAPE_GAIN * np.clip(log - middle, -2 / SHAPE_GAIN, 2 / SHAPE_GAIN), 0.0).astype(np.float32), inside


class Seen(NamedTuple):
    """What the network sees: `disc` (row,) probability of a disc's back half; `number` (row, STATES) probability of being next to each number."""

    disc: NDArray[np.float64]
    number: NDArray[np.float64]


def look(strip: Strip, network: Network) -> Seen:
    """Run the network over a strip."""
    import torch

    from cohort_engine.nn.image import robust_scale

    rows = len(strip.arc)
    length = -(-rows // network.multiple) * network.multiple
    first = (length - rows) // 2
    both = np.zeros((3, length, COLUMNS), np.float32)
    both[0, first : first + rows] = np.maximum(strip.image, 1e-4 * strip.image.max()) * (strip.image > 0)
    both[1, first : first + rows] = strip.shape[:, None]
    both[2, first : first + rows] = strip.inside[:, None]
    x = torch.from_numpy(both)[None]
    x = torch.cat([robust_scale(x[:, :1]), x[:, 1:]], 1)
    parameter = next(network.module.parameters())
    with torch.inference_mode():
        y = network.module(x.to(parameter.device, parameter.dtype).contiguous(memory_format=torch.channels_last)).float().cpu()[0]
    y = y[:, first : first + rows]
    return Seen(y[0].sigmoid().amax(1).double().numpy(), y[1:].mean(-1).softmax(0).T.double().numpy())


class Point(NamedTuple):
    """A given landmark: `number` of a disc, or number + 0.5 for the vertebra below it; `row` of the strip."""

    number: float
    row: float


class Named(NamedTuple):
    """Chain of discs, for numbers 0 ... `LAST`.

    Attributes
    ----------
    row : (STATES,) array
        The likeliest place.
    confidence : (STATES,) array
        Probability that this number lies within `NEAR` rows of it, 0 to 1, calibrated (`CALIBRATION`).
    name : (STATES,) array
        Probability of this number if one of them lies there, calibrated.
    heat : (STATES,) array
        What the network says of a disc there; 1 where one was given.
    posterior : (STATES, row) array
        Of the chain, as it is.
    """

    row: NDArray[np.float64]
    confidence: NDArray[np.float64]
    name: NDArray[np.float64]
    heat: NDArray[np.float64]
    posterior: NDArray[np.float64]

    def certain(self, least: float = CERTAIN) -> NDArray[np.int64]:
        """Numbers of the discs that are named; none where the name of the surest of them does not reach `NAMED`."""
        there = (self.confidence >= least) & (self.heat >= SEEN)
        there[:HIGHEST] = False
        return np.flatnonzero(there & (self.name[there].max(initial=0.0) >= NAMED))


def name_discs(seen: Seen, gaps: FloatArray, *, points: Sequence[Point] = (), trust: float = TRUST) -> Named:
    """Name discs by the chain of all vertebrae.

    Parameters
    ----------
    seen : Seen
        Rows 1 mm apart, upwards.
    gaps : (LAST,) array
        Distance (mm) from number n to n + 1 in the template, n from 0.
    points : sequence of Point
        Landmarks that must agree.
    trust : float
        Weight of the numbers that the network gives.

    Returns
    -------
    Named

    Notes
    -----
    For every stretch s of the template, with e the evidence at a row and t the density of a distance,

        forward(n, r) = e(n, r) * (start(n, r) + sum over r' of forward(n - 1, r') t(r' - r)),

    backward alike, and the posterior is their product over e, summed over stretches. A chain starts where the number above would lie above
    the image, and ends where the next would lie below it.

    Examples
    --------
    >>> heat, number = np.full(60, 0.02), np.full((60, 22), 0.01)
    >>> heat[[50, 32, 14]], number[[50, 32, 14], [3, 4, 5]] = 0.9, 0.9
    >>> named = name_discs(Seen(heat, number), np.full(21, 18.0), trust=1.0)
    >>> named.row[3:6].round().tolist(), bool(named.confidence[3:6].min() > 0.9), bool(named.confidence[7] < 0.01)
    ([50.0, 32.0, 14.0], True, True)
    """
    rows = len(seen.disc)
    e = np.exp(_evidence(seen, trust) + _given(points, gaps, rows))
    r, apart = np.arange(rows, dtype=float), np.arange(1.0 - rows, rows)
    total, posterior = 0.0, np.zeros((STATES, rows))
    for stretch in STRETCHES:
        prior = np.exp(-0.5 * (np.log(stretch) / STRETCH_SPREAD) ** 2)
        mean = np.asarray(gaps) * stretch
        spread = GAP_SPREAD * mean + GAP_NOISE
        above = [np.ones(rows), *(ndtr((m - (rows - 0.5 - r)) / s) for m, s in zip(mean, spread, strict=True))]
        below = [*(ndtr((m - (r + 0.5)) / s) for m, s in zip(mean, spread, strict=True)), np.ones(rows)]
        step = [np.exp(-0.5 * ((apart - m) / s) ** 2) / (s * np.sqrt(2 * np.pi)) for m, s in zip(mean, spread, strict=True)]
        forward, backward = np.zeros((STATES, rows)), np.zeros((STATES, rows))
        for n in range(STATES):  # step[n]: density of number n lying `apart` rows above number n + 1
            forward[n] = e[n] * (above[n] / rows + (np.convolve(forward[n - 1], step[n - 1][::-1], "valid") if n else 0.0))
        for n in reversed(range(STATES)):
            backward[n] = below[n] + (np.convolve(e[n + 1] * backward[n + 1], step[n], "valid") if n + 1 < STATES else 0.0)
        total += prior * float((forward * below).sum())
        posterior += prior * forward * backward
    posterior /= max(total, np.finfo(float).tiny)
    mass = ndimage.uniform_filter1d(posterior, 2 * NEAR + 1, axis=1, mode="constant") * (2 * NEAR + 1)
    best = mass.argmax(axis=1)
    place = np.empty(STATES)
    for n, k in enumerate(best):
        window = slice(max(0, k - NEAR), k + NEAR + 1)
        weight = posterior[n, window]
        place[n] = (weight @ r[window]) / weight.sum() if weight.sum() > 0 else k
    own = mass.max(axis=1)
    heat = ndimage.maximum_filter1d(seen.disc, 2 * AROUND + 1)[best]
    heat[[int(p.number) for p in points if p.number % 1 == 0]] = 1.0
    name = own / np.maximum(mass[:, best].sum(axis=0), np.finfo(float).tiny)
    return Named(place, calibrated(own), calibrated(name), heat, posterior)


def calibrated(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn probabilities of the chain into how often it is right: logit q = a logit p + b, with `CALIBRATION` (a, b).

    References
    ----------
    Platt J. Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods. In: Advances in large margin
    classifiers. MIT Press 1999:61-74.

    Examples
    --------
    >>> calibrated(np.array([0.0, 0.5, 0.98, 1.0])).round(3).tolist()
    [0.0, 0.478, 0.94, 1.0]
    """
    p = np.clip(chance, 1e-9, 1 - 1e-9)
    a, b = CALIBRATION
    return np.asarray(1 / (1 + np.exp(-(a * np.log(p / (1 - p)) + b))))


def say_chance(p: float) -> str:
    """Write a probability with three digits, rounded down: what misses a limit is not written as having reached it.

    Examples
    --------
    >>> say_chance(0.9399), say_chance(0.99996), say_chance(0.6)
    ('0.939', '0.999', '0.600')
    """
    return f"{min(np.floor(p * 1000 + 1e-6) / 1000, 0.999):.3f}"


def _evidence(seen: Seen, trust: float) -> NDArray[np.float64]:
    """Log evidence (number, row)."""
    p = np.clip(seen.disc, FLOOR, 1 - FLOOR)
    number = trust * (np.log(np.maximum(seen.number.T, NUMBER_FLOOR)) - np.log(TYPICAL))
    number[HIGHEST:] += np.log(p / (1 - p))
    return np.asarray(number)


def _given(points: Sequence[Point], gaps: FloatArray, rows: int) -> NDArray[np.float64]:
    """Log of how well each (number, row) agrees with given landmarks; that of a body is spread over the discs on both sides."""
    out = np.zeros((STATES, rows))
    r = np.arange(rows)
    for point in points:
        n, body = int(point.number), point.number % 1 > 0
        half = 0.5 * gaps[min(n, LAST - 1)] if body else 0.0
        for number, row in ((n, point.row + half), (n + 1, point.row - half))[: 1 + body]:
            if number <= LAST:
                off = (r - row) / (BODY_SPREAD if body else POINT_SPREAD)
                out[number] += np.maximum(np.log(FORCE) - 0.5 * off**2, -np.log(FORCE))
    return out


@dataclass(frozen=True, eq=False)
class Labelling:
    """Discs of one image.

    Attributes
    ----------
    numbers : (n,) int array
        Named discs: n is the disc above vertebra n, 3 = C2/C3.
    arc : (n,) array
        Place along the centreline, mm.
    confidence : (n,) array
        Probability of name and place, 0 to 1.
    centreline : Centreline
    doubt : {number: confidence}
        Discs that might be in view and are not named.
    flags : tuple of str
        Keys of `FLAGS`; empty where all is well.
    lacking : {number: words}
        What each of `doubt` lacks.
    reach : float
        Length of the voxels along the cord, mm.
    """

    numbers: NDArray[np.int64]
    arc: FloatArray
    confidence: FloatArray
    centreline: Centreline
    doubt: Mapping[int, float]
    flags: tuple[str, ...]
    lacking: Mapping[int, str] = field(default_factory=dict)
    reach: float = 1.0

    @cached_property
    def xyz(self) -> FloatArray:
        """Points (n, 3) on the centreline, RAS+ mm."""
        return self.centreline.position(self.arc)

    def landmarks(self, *, what: str = "vertebral labelling") -> Landmarks:
        """Discs as landmarks for `cord.levels.level_axis`; `LevelError` asks for help where the names are not certain."""
        if THICK in self.flags:
            raise LevelError(
                expected=f"an image that shows discs, with voxels of up to {RESOLVED:g} mm along the cord", found=f"{self.reach:.1f} mm", where=what,
                remedy=_REMEDY_THICK,
            )  # fmt: skip
        if self.flags:
            likely = sorted(self.doubt, key=lambda n: -self.doubt[n])[:3]
            best = ", ".join(f"{disc_name(n)} {say_chance(self.doubt[n])}{self.lacking.get(n, '')}" for n in likely)
            alone = f"certain: {', '.join(map(disc_name, self.numbers))}; " if len(self.numbers) else ""
            raise LevelError(
                expected=f"at least two discs with certain names (probability of name and place {CERTAIN:g}, of one of the names {NAMED:g})",
                found=FLAGS[self.flags[0]] + (f" ({alone}likeliest: {best})" if best else ""), where=what, remedy=_REMEDY,
            )  # fmt: skip
        return Landmarks(schema.DISC, self.numbers, self.xyz)


def label_discs(
    data: NDArray[Any], affine: FloatArray, mask: NDArray[Any], template: Heights, *, network: Network, given: Landmarks | None = None,
    certain: float = CERTAIN, what: str = "image",
) -> Labelling:  # fmt: skip
    """Find and name the discs of an image.

    Parameters
    ----------
    data, mask : (x, y, z) arrays
        Image, and its cord mask on the same grid.
    affine : (4, 4) array
    template : Heights
        Distances between discs.
    network : Network
        From `nn.weights.load_discs`.
    given : Landmarks, optional
        Discs or bodies that somebody has named; one is enough.
    certain : float
        Probability from which on a disc counts, see `Named.certain`.
    what : str
        Words of the image's role.

    Returns
    -------
    Labelling
        `flags` says when it is unsure, or the slices are too thick to show discs; it never guesses.

    Raises
    ------
    InputError, GeometryError, CordError
        See `straight_strip`.
    LevelError
        A given landmark does not exist or lies outside the image.
    """
    strip = straight_strip(data, affine, mask, what=what)
    if (reach := reach_along(affine, strip.centreline)) > RESOLVED:
        nothing = np.zeros(0)
        return Labelling(nothing.astype(np.int64), nothing, nothing, strip.centreline, {}, (THICK,), reach=reach)
    points = [] if given is None else _points(given, strip)
    heights = numbered_heights(template)
    return labelled(look(strip, network), strip, -np.diff(heights)[:LAST], points=points, certain=certain)


def labelled(seen: Seen, strip: Strip, gaps: FloatArray, *, points: Sequence[Point] = (), certain: float = CERTAIN) -> Labelling:
    """Turn what a network sees on a strip into named discs, see `label_discs`; where landmarks are given, its opinion on numbers does not count."""
    named = name_discs(seen, gaps, points=points, trust=0.0 if points else TRUST)
    sure = named.certain(certain)
    doubt = {n: float(c) for n, c in enumerate(named.confidence) if n >= HIGHEST and c >= 0.2 and n not in sure}
    flags = (UNSURE,) if len(sure) < 2 else ()
    if points and not flags and not _agree(named, points):
        flags = (LOOSE,)
    arc = np.interp(named.row[sure], np.arange(len(strip.arc)), strip.arc)
    return Labelling(sure, arc, named.confidence[sure], strip.centreline, doubt, flags, {n: _lacks(named, n, certain) for n in doubt})


def _lacks(named: Named, n: int, certain: float) -> str:
    """Words on what a disc that is likely enough lacks; nothing where it is its probability."""
    if named.confidence[n] < certain:
        return ""
    return f" but hardly seen ({named.heat[n]:.2f})" if named.heat[n] < SEEN else f" but its name {say_chance(float(named.name[n]))}"


def reach_along(affine: FloatArray, centreline: Centreline) -> float:
    """How far (mm) the voxels of an image reach along the cord: the longest of their edges, as the cord sees it, the median along it.

    Examples
    --------
    >>> upright = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 90.0]]))
    >>> reach_along(np.diag([0.9, 0.9, 5.0, 1.0]), upright), reach_along(np.diag([4.0, 0.8, 0.8, 1.0]), upright)
    (5.0, 0.8)
    """
    return float(np.median(np.abs(centreline.tangent @ np.asarray(affine, float)[:3, :3]).max(axis=1)))


def _points(given: Landmarks, strip: Strip) -> list[Point]:
    """Given landmarks on the rows of a strip."""
    arc, distance = strip.centreline.project(given.xyz)
    row = arc - strip.arc[0]
    known = (given.numbers >= 1) & (given.numbers <= LAST)
    lost = ~known | (row < 0) | (row > len(strip.arc) - 1) | (distance > FARTHEST)
    if lost.any():
        n = given.numbers[lost][0]
        raise LevelError(
            expected=f"landmarks 1 to {LAST} in the image, near the cord", found=f"{given.kind} {n}" + (" elsewhere" if known[lost][0] else ""),
            where="vertebral landmarks", remedy="Check its number, and its place.",
        )  # fmt: skip
    half = 0.5 if given.kind == schema.BODY else 0.0
    return [Point(float(n) + half, float(k)) for n, k in zip(given.numbers, row, strict=True)]


def _agree(named: Named, points: Sequence[Point]) -> bool:
    """Whether the likeliest chain passes the given landmarks within a third of a vertebra."""
    number = np.arange(STATES)
    return all(abs(float(np.interp(p.number, number, named.row)) - p.row) < 6.0 for p in points)


def disc_name(number: int) -> str:
    """Name a disc.

    Examples
    --------
    >>> disc_name(3), disc_name(8), disc_name(20)
    ('C2/C3', 'C7/T1', 'T12/L1')
    """
    return "top of C1" if number == 1 else f"{schema.LEVEL_NAMES[number - 2]}/{schema.LEVEL_NAMES[number - 1]}"
