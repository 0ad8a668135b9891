"""Failures planted into a good subject: what goes wrong in studies, by known amounts, as bad as it gets or by degrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.levels import Landmarks
from cohort_engine.io.volume import Volume
from cohort_engine.phantom.subject import MT_MASK, T2W_MASK
from cohort_engine.qmri.motion import apply_shifts
from cohort_engine.quality import vocabulary
from cohort_engine.template.packing import FloatArray

ON, OFF, T2W = schema.MT_ON, schema.MT_OFF, schema.T2W


@dataclass(frozen=True, eq=False)
class Case:
    """What is judged of a subject.

    Attributes
    ----------
    images : {role: Volume}
        MT-on, MT-off, T2w and both masks.
    landmarks : Landmarks
    positions : (voxel, 3) array
        Template map of MT, RAS+ mm.
    refit : bool
        Whether the map is to be fitted again, since its mask is another.
    """

    images: Mapping[str, Volume]
    landmarks: Landmarks
    positions: FloatArray
    refit: bool = False

    def having(self, **changed: NDArray[np.generic]) -> Case:
        """Return the same with other data in some images."""
        return replace(self, images={**self.images} | {r: Volume(d, self.images[r].affine) for r, d in changed.items()})


class Failure(NamedTuple):
    """A way to fail.

    Attributes
    ----------
    kind : str
        One of `vocabulary.FAULTS`.
    plant : callable of (`Case`, generator, size) to `Case`
        `size` is 1 for a gross failure, less for a part of it.
    graded : bool
        Whether there are degrees of it. What has none is always wrong, whatever it does to the values.
    """

    kind: str
    plant: Callable[[Case, Generator, float], Case]
    graded: bool = True


def wrong_level(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Give all landmarks a number that is one too high or too low; or move them by a part of the way there."""
    step = -1 if rng.random() < 0.5 and case.landmarks.numbers.min() > 2 else 1
    return replace(case, landmarks=_renumbered(case.landmarks, np.full(len(case.landmarks.numbers), step), size))


def skipped_level(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Skip a number: from a landmark on downwards all are one too high; or move those by a part of the way."""
    numbers = case.landmarks.numbers
    inner = np.sort(numbers[numbers > 1])[1:-1]
    at = int(rng.choice(inner))
    return replace(case, landmarks=_renumbered(case.landmarks, np.where(numbers >= at, 1, 0), size))


def _renumbered(landmarks: Landmarks, steps: NDArray[np.integer[Any]], size: float) -> Landmarks:
    """Add steps to the numbers; or leave these, and move the landmarks by a part of the way to where they would then be."""
    if size >= 1:
        return replace(landmarks, numbers=landmarks.numbers + steps)
    order = np.argsort(landmarks.numbers)
    known, xyz = landmarks.numbers[order].astype(float), np.asarray(landmarks.xyz, float)[order]
    at = landmarks.numbers - size * steps  # what is called n lies where n less the step should
    moved = np.stack([_straight_on(at, known, xyz[:, axis]) for axis in range(3)], axis=1)
    return replace(landmarks, xyz=moved)


def _straight_on(at: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Linear interpolation of y over x, going on straight beyond the ends."""
    low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.asarray(np.interp(at, x, y) + low * np.minimum(at - x[0], 0) + high * np.maximum(at - x[-1], 0))


def lost_front(case: Case, rng: Generator, size: float = 1.0, role: str = MT_MASK) -> Case:
    """Cut 35 to 60 % of the depth off one side, mostly the front, in three slices or more (a tenth of them in T2w)."""
    mask = case.images[role].data > 0
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    count = int(rng.integers(3, 7)) if role == MT_MASK else max(3, round(len(slices) * rng.uniform(0.1, 0.25)))
    first = int(rng.integers(1, max(2, len(slices) - count)))
    angle = np.deg2rad(rng.normal(90, 25) if rng.random() < 0.7 else rng.uniform(0, 360))
    cut = size * rng.uniform(0.35, 0.6)
    out = mask.copy()
    x, y = np.meshgrid(*map(np.arange, mask.shape[:2]), indexing="ij")
    ahead = x * np.cos(angle) + y * np.sin(angle)
    for k in slices[first : first + count]:
        here = mask[:, :, k]
        low, high = ahead[here].min(), ahead[here].max()
        out[:, :, k] &= ahead <= high - cut * (high - low)
    return replace(case.having(**{role: out.astype(np.uint8)}), refit=role == MT_MASK)


def lost_front_t2w(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Do the same to the mask of T2w."""
    return lost_front(case, rng, size, T2W_MASK)


def shifted_mask(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Shift the MT mask by 2 to 5 mm in the plane; the map goes with it."""
    mask = case.images[MT_MASK]
    steps = size * _steps(rng, 2.0, 5.0) / mask.grid.spacing[:2]
    moved = ndimage.shift((mask.data > 0).astype(float), (*steps, 0), order=1) >= 0.5
    by = mask.grid.affine[:3, :2] @ steps
    return replace(case.having(**{MT_MASK: moved.astype(np.uint8)}), positions=case.positions + by)


def swapped_sides(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Turn the first axis of the MT images and their mask about, and leave the header."""
    del rng, size
    grid = case.images[ON].grid
    voxel = grid.voxel(np.asarray(case.positions, float))
    voxel[:, 0] = grid.shape[0] - 1 - voxel[:, 0]
    turned = {r: np.ascontiguousarray(case.images[r].data[::-1]) for r in (ON, OFF, MT_MASK)}
    return replace(case.having(**turned), positions=grid.world(voxel))


def motion_between(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Move a third to two thirds of the MT-off slices by 2 to 4 mm."""
    off = case.images[OFF]
    shifts = np.zeros((off.data.shape[2], 2))
    for k in np.flatnonzero(rng.random(len(shifts)) < rng.uniform(0.35, 0.65)):
        shifts[k] = size * _steps(rng, 2.0, 4.0)
    return case.having(**{OFF: _moved(off, shifts)})


def motion_within(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Move runs of slices of both MT images, and of the mask that was made of them, by 2.5 to 5 mm; the map is fitted to that."""
    grid = case.images[ON].grid
    n = grid.shape[2]
    shifts = np.zeros((n, 2))
    for _ in range(int(rng.integers(2, 4))):
        first, length = int(rng.integers(1, n - 2)), int(rng.integers(1, 4))
        shifts[first : first + length] = size * _steps(rng, 2.5, 5.0)
    mask = _moved(Volume(case.images[MT_MASK].data.astype(float), case.images[MT_MASK].affine), shifts, order=1) >= 0.5
    moved = {r: _moved(case.images[r], shifts) for r in (ON, OFF)} | {MT_MASK: mask.astype(np.uint8)}
    return replace(case.having(**moved), refit=True)


def no_pulse(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Take a second MT-off image for MT-on, or a quarter of the pulse's effect: of half, nobody can tell that it is not the protocol's."""
    del size
    off = case.images[OFF].data.astype(float)
    on = case.images[ON].data.astype(float)
    part = rng.uniform(0.0, 0.25)
    return case.having(**{ON: np.maximum(off + part * (on - off) + rng.normal(0, 0.02 * np.median(off[off > 0]), off.shape), 0).astype(np.float32)})


def t1w_for_mt_on(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Take an image with dark fluid for MT-on."""
    del size
    return case.having(**{ON: _dark_fluid(case.images[ON].data, rng)})


def t1w_for_t2w(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Take an image with dark fluid for T2w."""
    del size
    return case.having(**{T2W: _dark_fluid(case.images[T2W].data, rng)})


def swapped_pair(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Take MT-on for MT-off, and MT-off for MT-on."""
    del rng, size
    return case.having(**{ON: case.images[OFF].data, OFF: case.images[ON].data})


def map_astray(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Bend the map by a smooth random field of 2 to 4 mm in the plane, over a third of the cord or more."""
    p = np.asarray(case.positions, float)
    z = p[:, 2]
    low, high = np.nanmin(z), np.nanmax(z)
    length = rng.uniform(0.35, 1.0) * (high - low)
    start = rng.uniform(low, high - length)
    part = np.clip(np.minimum(z - start, start + length - z) / 5.0, 0, 1)
    far, out = size * rng.uniform(2.0, 4.0), p.copy()
    for axis in (0, 1):
        wave = rng.normal(size=(3, 3)) * [1, 1, 0.25]
        wave *= 2 * np.pi / rng.uniform(7, 12) / np.linalg.norm(wave, axis=1, keepdims=True)
        field = np.mean([np.cos(np.nan_to_num(p) @ w + rng.uniform(0, 2 * np.pi)) for w in wave], axis=0)
        out[:, axis] += far * 1.2 * part * field
    return replace(case, positions=out)


def map_collapsed(case: Case, rng: Generator, size: float = 1.0) -> Case:
    """Shrink the map about the middle of each slice to 40 to 60 %, or blow it up to 150 to 180 %."""
    grid = case.images[MT_MASK].grid
    voxel = grid.voxel(np.asarray(case.positions, float))
    factor = 1 + size * ((rng.uniform(0.4, 0.6) if rng.random() < 0.5 else rng.uniform(1.5, 1.8)) - 1)
    k = np.nan_to_num(np.rint(voxel[:, 2]), nan=-1).astype(int)
    for s in np.unique(k[k >= 0]):
        here = k == s
        middle = np.nanmean(voxel[here, :2], axis=0)
        voxel[here, :2] = middle + factor * (voxel[here, :2] - middle)
    return replace(case, positions=grid.world(voxel))


FAILURES: Mapping[str, Failure] = {
    "wrong level": Failure(vocabulary.LEVELS_FAULT, wrong_level), "skipped level": Failure(vocabulary.LEVELS_FAULT, skipped_level),
    "lost front": Failure(vocabulary.MASK_FAULT, lost_front), "lost front, T2w": Failure(vocabulary.MASK_FAULT, lost_front_t2w),
    "shifted mask": Failure(vocabulary.MASK_FAULT, shifted_mask), "swapped sides": Failure(vocabulary.SIDES_FAULT, swapped_sides, False),
    "motion between": Failure(vocabulary.MOTION_FAULT, motion_between), "motion within": Failure(vocabulary.MOTION_FAULT, motion_within),
    "no MT pulse": Failure(vocabulary.CONTRAST_FAULT, no_pulse, False), "T1w for MT-on": Failure(vocabulary.CONTRAST_FAULT, t1w_for_mt_on, False),
    "T1w for T2w": Failure(vocabulary.CONTRAST_FAULT, t1w_for_t2w, False), "MT swapped": Failure(vocabulary.CONTRAST_FAULT, swapped_pair, False),
    "map astray": Failure(vocabulary.MAP_FAULT, map_astray), "map collapsed": Failure(vocabulary.MAP_FAULT, map_collapsed),
}  # fmt: skip
"""What can be planted, by name."""


def scanned_again(case: Case, rng: Generator) -> Case:
    """Give the same subject another scan: more noise, another receive field, a little motion, masks with a few wrong voxels at their borders."""
    out: dict[str, NDArray[np.generic]] = {}
    receive = {acquisition: rng.normal(0, 0.12, 4) for acquisition in (ON, T2W)}
    for role in (ON, OFF, T2W):
        data = case.images[role].data.astype(float)
        level = np.median(data[data > 0.2 * data.max()])
        x, y, z = (np.linspace(-1, 1, n) for n in data.shape)
        c = receive[T2W if role == T2W else ON]  # both MT images are received alike
        field = np.exp(c[0] * x[:, None, None] + c[1] * y[:, None] + c[2] * z + c[3] * x[:, None, None] * y[:, None])
        out[role] = np.abs(data * field + rng.normal(0, level * rng.uniform(0.005, 0.03), data.shape)).astype(np.float32)
    drift = np.cumsum(rng.normal(0, 0.12, (case.images[OFF].data.shape[2], 2)), axis=0)
    out[OFF] = _moved(Volume(np.asarray(out[OFF]), case.images[OFF].affine), (drift - drift.mean(axis=0)).clip(-1, 1))
    for role in (MT_MASK, T2W_MASK):
        mask = case.images[role].data > 0
        disc = ndimage.generate_binary_structure(2, 1)[..., None]
        rim = ndimage.binary_dilation(mask, disc) ^ ndimage.binary_erosion(mask, disc)
        out[role] = (mask ^ (rim & (rng.random(mask.shape) < rng.uniform(0, 0.08)))).astype(np.uint8)
    return case.having(**out)


def _steps(rng: Generator, low: float, high: float) -> NDArray[np.float64]:
    """Draw a shift (2,) in a random direction, mm."""
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(low, high) * np.array([np.cos(angle), np.sin(angle)])


def _moved(volume: Volume, shifts: FloatArray, order: int = 3) -> NDArray[np.float32]:
    return np.nan_to_num(apply_shifts(volume.data, shifts, volume.grid.spacing, order=1 if order == 1 else 3)).clip(0)


def _dark_fluid(data: NDArray[np.generic], rng: Generator) -> NDArray[np.float32]:
    """Turn the contrast about where there is signal."""
    values = np.asarray(data, float)
    bright = np.percentile(values[values > 0], 99)
    body = np.clip(values / (0.1 * bright), 0, 1)
    return np.asarray(body * np.maximum(1.1 * bright - values, 0) + rng.normal(0, 0.01 * bright, values.shape), np.float32).clip(0)
