"""People who draw regions in the cord: each has habits, and draws a little differently every time.

A rater means the core of a column (`rois.cores`), and draws it where he sees it: aside by his habit and by chance, larger or smaller, stretched, with
an uneven outline. How much of each is set so that such people agree with one another, and with themselves, as five real ones did who drew the dorsal
columns and the corticospinal tracts (Lévy 2015, doi:10.1016/j.neuroimage.2015.06.040).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.rois.cores import grow

REACH = 1.2
"""Wavelength-like scale of an uneven outline: standard deviation of the smoothing of its noise, mm."""

OUTSIDE = 10.0
"""What counts against a pixel beyond the cord or the midline, mm: people see where they are."""


@dataclass(frozen=True)
class Wobble:
    """Standard deviations of what people do.

    Attributes
    ----------
    place : float
        Along each axis, mm.
    size : float
        Of the logarithm of the area.
    stretch : float
        Of the entries of the strain.
    outline : float
        Of the depth at which the outline is drawn, mm.
    """

    place: float
    size: float
    stretch: float
    outline: float


HABIT = Wobble(place=0.35, size=0.25, stretch=0.1, outline=0.0)
CHANCE = Wobble(place=0.37, size=0.2, stretch=0.1, outline=0.1)


@dataclass(frozen=True, eq=False)
class Rater:
    """Habits of one person.

    Attributes
    ----------
    place : (roi, 2) float64
        Aside of the core, mm.
    size : (roi,) float64
        Logarithm of the area over the core's.
    stretch : (roi, 2, 2) float64
        Strain.
    """

    place: NDArray[np.float64]
    size: NDArray[np.float64]
    stretch: NDArray[np.float64]

    def draw(
        self, depth: NDArray[np.float64], room: NDArray[np.bool_], area: NDArray[np.float64], spacing: NDArray[np.float64], rng: Generator, *,
        unsure: float = 1.0, chance: Wobble = CHANCE,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Draw the core of each part once.

        Parameters
        ----------
        depth : (roi, x, y) array
            Of each part, see `rois.cores.depth`.
        room : (roi, x, y) bool
            Nobody draws beyond it: the cord, and the part's side of it.
        area : (roi,) array
            Meant, mm2.
        spacing : (2,) array
            Pixel size, mm.
        rng : Generator
        unsure : float
            Factor of what chance does: above 1 where a cord is hard to see.
        chance : Wobble

        Returns
        -------
        drawn : (roi, x, y) bool
            A pixel belongs to one region at most, the one it lies deeper in.
        """
        out, seen = np.zeros(depth.shape, bool), np.full(depth.shape, -np.inf)
        outside = np.where(room, 0.0, OUTSIDE)
        for i, below in enumerate(depth):
            place = self.place[i] + unsure * rng.normal(0, chance.place, 2)
            size = np.exp(self.size[i] + unsure * rng.normal(0, chance.size))
            strain = self.stretch[i] + unsure * rng.normal(0, chance.stretch, (2, 2))
            outline = unsure * chance.outline * _smooth(rng, below.shape, REACH / spacing)
            count = max(int(rng.random() + size * area[i] / np.prod(spacing)), 1)
            if not np.isfinite(below).any():
                continue
            middle = np.argwhere(grow(below, max(round(float(area[i] / np.prod(spacing))), 1))).mean(0)
            back = np.eye(2) - strain * (spacing[None, :] / spacing[:, None])
            offset = middle - back @ (middle + place / spacing)
            seen[i] = ndimage.affine_transform(below, back, offset, order=1, mode="nearest") + outline - outside[i]
            out[i] = grow(seen[i], count)
        taken = np.where(out, seen, -np.inf)
        return np.asarray(out & (taken == taken.max(0)))


def draw_rater(rng: Generator, sides: NDArray[np.int64], *, habit: Wobble = HABIT) -> Rater:
    """Draw a rater.

    Parameters
    ----------
    rng : Generator
    sides : (roi,) array
        Of regions that are mirror images of one another, the number of the other one; its own for one in the middle. Half of a habit's variance is
        common to both sides, and mirrored.
    habit : Wobble

    Examples
    --------
    >>> from cohort_engine import schema
    >>> draw_rater(np.random.default_rng(0), np.array(schema.OTHER_SIDE)).place.shape
    (8, 2)
    """
    n = len(sides)
    place, size, stretch = rng.normal(0, habit.place, (n, 2)), rng.normal(0, habit.size, n), rng.normal(0, habit.stretch, (n, 2, 2))
    flip = np.array([-1.0, 1.0])
    common = rng.normal(0, habit.place, (n, 2)), rng.normal(0, habit.size, n), rng.normal(0, habit.stretch, (n, 2, 2))
    first = np.minimum(np.arange(n), sides)
    mirrored = np.where(np.arange(n) == first, 1.0, -1.0)
    sign = np.stack([mirrored, np.ones(n)], axis=1)
    shear = np.where(flip[:, None] * flip < 0, mirrored[:, None, None], 1.0)
    half = np.sqrt(0.5)
    return Rater(half * (place + common[0][first] * sign), half * (size + common[1][first]), half * (stretch + common[2][first] * shear))


def raters(count: int, sides: NDArray[np.int64], *, seed: int = 0, habit: Wobble = HABIT) -> list[Rater]:
    """Draw some raters; the first are the same whatever the count."""
    return [draw_rater(np.random.default_rng(SeedSequence(seed, spawn_key=(i,))), sides, habit=habit) for i in range(count)]


def _smooth(rng: Generator, shape: tuple[int, ...], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth noise (x, y) of unit variance."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-9))
