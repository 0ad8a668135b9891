"""How a simulated echo-planar scan goes wrong: motion, distortion and eddy currents move what is scanned, and slices get lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine.template.packing import FloatArray

EDDY_REACH = 20.0
"""Distance from the middle at which `DwiImperfection.eddy` holds, mm."""
LEAST_LEFT, MOST_LEFT = 0.02, 0.25
"""Part of its signal that a lost slice keeps."""


@dataclass(frozen=True)
class DwiImperfection:
    """What spoils a series; zero is perfect.

    Attributes
    ----------
    snr : float
        Signal-to-noise ratio of white matter without diffusion weighting; infinity for none.
    drift : float
        How far the cord wanders in the course of the series, mm; smooth in time and along z.
    jitter : float
        Motion of each slice of each volume by itself, mm.
    jumps : int
        Volumes in which the subject was elsewhere (swallowed), and was back in the next.
    jump : float
        How far they lie from their place, mm.
    interleaved : float
        Slices of odd number are scanned after those of even number, and the subject moves in between: standard deviation, mm. A jump then concerns
        the slices of one kind only.
    dropped : int
        Slices of diffusion-weighted volumes that lost nearly all of their signal.
    distortion : float
        Largest displacement of the cord along phase encoding, mm.
    eddy : float
        Largest displacement by the eddy currents of a gradient along an axis, 20 mm from the middle, mm: shift, stretch and shear.
    bias : float
        Strength of the receive field.
    rim : float
        How far outside the template's cord the tissue ends, mm: see `subject.Imperfection`.
    """

    snr: float = 20.0
    drift: float = 0.8
    jitter: float = 0.08
    jumps: int = 1
    jump: float = 4.0
    interleaved: float = 0.0
    dropped: int = 2
    distortion: float = 0.0
    eddy: float = 0.0
    bias: float = 0.08
    rim: float = 0.25


DWI_PERFECT = DwiImperfection(snr=np.inf, drift=0.0, jitter=0.0, jumps=0, jump=0.0, dropped=0, bias=0.0, rim=0.0)


def draw_motion(
    volumes: int, slices: int, thickness: float, rng: Generator, imperfection: DwiImperfection
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw how far each slice of each volume lies from its place.

    Returns
    -------
    shifts : (t, z, 2) float64
        mm along the first two (RAS+) axes.
    jumped : (t, z) bool
        Slices of volumes in which the subject was elsewhere; never of the first.

    Examples
    --------
    >>> few = DwiImperfection(jumps=2, jump=8.0, drift=0.0, jitter=0.0)
    >>> shifts, jumped = draw_motion(10, 4, 5.0, np.random.default_rng(0), few)
    >>> np.unique(np.linalg.norm(shifts, axis=-1).round(6)).tolist(), int(jumped[:, 0].sum())
    ([0.0, 8.0], 2)
    """
    odd = np.arange(slices) % 2
    interleaved = imperfection.interleaved > 0
    time = np.arange(volumes)[:, None] + (0.5 * odd if interleaved else np.zeros(slices))
    phase = 2 * np.pi * time / volumes
    z = np.arange(slices) * thickness
    shifts = np.zeros((volumes, slices, 2))
    for axis in (0, 1):
        slope, *size = rng.normal(0, imperfection.drift, 4) * [0.4, 0.6, 0.4, 0.3]
        path = slope * (time / volumes - 0.5) * 2 + sum(a * np.sin((k + 1) * phase + rng.uniform(0, 2 * np.pi)) for k, a in enumerate(size))
        shifts[..., axis] = path * (1 + 0.35 * np.sin(2 * np.pi * (z / rng.uniform(80, 160) + rng.uniform())))
    shifts += rng.normal(0, imperfection.jitter, shifts.shape)
    between = rng.normal(0, 1, (volumes, 2, 2)) * imperfection.interleaved
    shifts += between[:, odd] if interleaved else 0.0
    jumped = np.zeros((volumes, slices), bool)
    for t in rng.choice(np.arange(1, volumes), min(imperfection.jumps, volumes - 1), replace=False):
        angle, kind = rng.uniform(0, 2 * np.pi), int(rng.integers(2))
        where = odd == kind if interleaved else np.ones(slices, bool)
        shifts[t, where] += imperfection.jump * np.array([np.cos(angle), np.sin(angle)])
        jumped[t] = where
    return shifts, jumped


def draw_dropped(weighted: NDArray[np.bool_], slices: int, rng: Generator, count: int) -> NDArray[np.float64]:
    """Draw the part (t, z) of its signal that each slice keeps: 1, or nearly nothing in `count` slices of volumes that are `weighted` (t,)."""
    left = np.ones((len(weighted), slices))
    place = rng.permutation(np.flatnonzero(np.repeat(weighted, slices)))[:count]
    left.reshape(-1)[place] = rng.uniform(LEAST_LEFT, MOST_LEFT, len(place))
    return left


def draw_eddy(directions: NDArray[np.float64], rng: Generator, largest: float) -> NDArray[np.float64]:
    """Draw what eddy currents do to each volume along phase encoding (t, 3): shift (mm), stretch and shear, linear in the gradient (t, 3)."""
    strength = rng.normal(0, 1, (3, 3))
    share = directions @ (strength / np.abs(strength).sum(1, keepdims=True)).T
    return np.asarray(largest * share * [1.0, 1 / EDDY_REACH, 1 / EDDY_REACH])


@dataclass(frozen=True, eq=False)
class Field:
    """A smooth displacement along phase encoding: a wave along z times long waves in the plane.

    Attributes
    ----------
    along : (z,) array
        Displacement of each slice at the middle of the wave, mm.
    middle : (2,) array
        Where the wave in the plane is highest, mm from the middle of the image.
    wavelength : (2,) array
        Of the wave in the plane, mm.
    """

    along: FloatArray
    middle: FloatArray
    wavelength: FloatArray

    def at(self, x: FloatArray, y: FloatArray) -> NDArray[np.float64]:
        """Displacement (x, y, z), mm, at positions from the middle of the image, mm."""
        wave = [np.cos(2 * np.pi * (p - m) / w) for p, m, w in zip((x, y), self.middle, self.wavelength, strict=True)]
        return np.asarray(wave[0][:, None, None] * wave[1][None, :, None] * self.along) + 0.0


def draw_field(slices: int, spacing: float, rng: Generator, largest: float) -> Field:
    """Draw a distortion: small around discs, large towards the shoulders, `largest` mm at most; no fold (its slope stays below 0.5)."""
    z = np.arange(slices) * spacing
    low = np.exp(-((z / 35.0) ** 2))
    waves = sum(a * np.sin(2 * np.pi * (z / w + rng.uniform())) for a, w in ((0.45, rng.uniform(55, 80)), (0.25, rng.uniform(35, 50))))
    along = low * rng.choice([-1.0, 1.0]) + waves
    along *= largest / max(float(np.abs(along).max()), 1e-9)
    return Field(along, rng.normal(0, 3, 2), np.array([rng.uniform(160, 240), rng.uniform(150, 200)]))


def positions(count: int, spacing: float, *, split: int = 1, margin: int = 0) -> NDArray[np.float64]:
    """Centres of `count` voxels and of `margin` more on both sides, each split into `split`: mm from the middle of the image."""
    return ((np.arange(-split * margin, split * (count + margin)) + 0.5) / split - count / 2) * spacing


def scanned(
    plane: NDArray[np.float32], moved: NDArray[np.float64], across: float, spacing: tuple[float, float], shape: tuple[int, int],
    *, split: int, margin: tuple[int, int],
) -> NDArray[np.float32]:  # fmt: skip
    """Scan one slice: mean signal of each voxel after all has been moved; what is squeezed together gets brighter.

    Parameters
    ----------
    plane : (X, Y) float32
        Signal at rest, on `split` cells per voxel and `margin` voxels more on both sides.
    moved : (X, Y + 1) or (1, Y + 1) float64
        How far the edges of the cells are moved along y, mm; no fold.
    across : float
        How far all is moved along x, mm.
    spacing, shape : pairs
        Of the image.

    Returns
    -------
    (x, y) float32

    Examples
    --------
    >>> plane = np.zeros((4, 8), np.float32)
    >>> plane[1, 3] = 1.0
    >>> still = np.zeros((1, 9))
    >>> scanned(plane, still + 2.0, 1.0, (1.0, 1.0), (4, 8), split=1, margin=(0, 0)).nonzero()
    (array([2]), array([5]))
    """
    columns, rows = plane.shape
    cell = spacing[0] / split, spacing[1] / split
    sums = np.zeros((columns, rows + 1))
    np.cumsum(plane, axis=1, out=sums[:, 1:])
    edges = np.arange(rows + 1) * cell[1] + moved
    ask = (np.arange(shape[1] + 1) + margin[1]) * spacing[1]
    if len(moved) == 1:
        at = np.interp(ask, edges[0], np.arange(rows + 1))
        low = np.minimum(at.astype(int), rows - 1)
        found = sums[:, low] + (at - low) * (sums[:, low + 1] - sums[:, low])
    else:
        apart = (rows * cell[1] * 4) * np.arange(columns)[:, None]
        inside = np.clip(ask, edges[:, :1], edges[:, -1:])
        found = np.interp((inside + apart).ravel(), (edges + apart).ravel(), sums.ravel()).reshape(columns, -1)
    along = np.diff(found, axis=1) / split
    total = np.zeros((columns + 1, shape[1]))
    np.cumsum(along, axis=0, out=total[1:])
    at = np.clip((np.arange(shape[0] + 1) + margin[0]) * split - across / cell[0], 0, columns)
    low = np.minimum(at.astype(int), columns - 1)
    whole = total[low] + (at - low)[:, None] * (total[low + 1] - total[low])
    return np.asarray(np.diff(whole, axis=0) / split, np.float32)
