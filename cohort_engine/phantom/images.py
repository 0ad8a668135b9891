"""Rendering of simulated scans: partial volume by super-sampling near the cord, analytic surroundings, noise and bias fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.special import expit

from cohort_engine import schema
from cohort_engine.phantom.anatomy import Anatomy
from cohort_engine.phantom.head import LOWEST, Head, draw_over, given_way
from cohort_engine.phantom.tissue import BASE_MTR as MTR
from cohort_engine.phantom.tissue import FLUID, MT_OFF, T2W, WHITE, Tissue, clusters
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

ON, OFF, T2 = schema.MT_ON, schema.MT_OFF, schema.T2W
INSIDE, CORD = "inside", "cord"
FINE = (3, 3)
"""Points in plane per voxel edge, where a voxel is split."""

HALF = 0.5
RIND, FLUID_ROOM = 1.5, 3.0
"""A cord whose tissue reaches beyond its mask is drawn out over its outermost, and into its nearest, so many mm."""


class Material(NamedTuple):
    """What a surrounding looks like: signals in MT-off, T2w and fat-suppressed echo-planar images, MTR (percent), mean diffusivity (um2/ms)."""

    off: float
    t2w: float
    mtr: float
    epi: float
    md: float


BONE, DISC = Material(700.0, 420.0, 18.0, 220.0, 0.6), Material(1050.0, 260.0, 30.0, 380.0, 1.6)
MUSCLE, FAT = Material(980.0, 140.0, 38.0, 430.0, 1.5), Material(1700.0, 620.0, 2.0, 260.0, 0.1)
LIGAMENT, AIR = Material(420.0, 90.0, 25.0, 120.0, 1.0), Material(0.0, 0.0, 0.0, 0.0, 0.0)
CORTEX = 60.0
"""T2w signal of compact bone, which is drawn in T2w images only."""
TIP, ARCH = 4.0, 9.0
"""Where nobody says, the tip of the dens and the middle of the arches of C1 lie this far below the top of C1, mm."""
SPINOUS = {2: 25.0, 3: 19.0, 4: 19.0, 5: 20.0, 6: 24.0, 7: 30.0, 8: 31.0}
"""Vertebra -> how far behind the cord's middle its spinous process ends, mm; others are like the nearest."""
NECK = (29.0, 28.0, -6.0)
"""Half-widths of the neck in x and y, and the y of its middle, mm."""


@dataclass(frozen=True, eq=False)
class Section:
    """Signal channels of cord and CSF on the template's block.

    Attributes
    ----------
    grid : Grid
    channels : {name: (x, y, z) float32}
        Signals already weighted by how much of the voxel is inside; ``inside`` (cord and CSF) and ``cord`` are those fractions.
    away : (2, x, y, z) array, optional
        How many voxels away a place finds what is there, in all channels but ``cord``. To look this up and then the channel blurs no border twice.
    """

    grid: Grid
    channels: Mapping[str, NDArray[np.float32]]
    away: NDArray[np.float32] | None = None

    def look(self, names: tuple[str, ...], at: FloatArray) -> dict[str, NDArray[np.float32]]:
        """Channels (n,) at fractional indices (n, 3)."""
        found = at.T
        if self.away is not None:
            found = found + np.stack([*(map_coordinates(a, at.T, order=1, output=np.float32) for a in self.away), np.zeros(len(at), np.float32)])
        return {n: map_coordinates(self.channels[n], at.T if n == CORD else found, order=1, output=np.float32) for n in names}


class Signal(NamedTuple):
    """Signal of each label in one channel.

    Attributes
    ----------
    base : (label,) array
        Before the weighting.
    white, fluid : float
        Of white matter and CSF, before the weighting.
    ratio : (label, z) array, optional
        What the weighting leaves, at each z of the template grid; by default all.
    fluid_ratio : float
        What it leaves of CSF that no label holds.
    """

    base: FloatArray
    white: float
    fluid: float
    ratio: FloatArray | None = None
    fluid_ratio: float = 1.0


def section(template: Template, tissue: Tissue, anatomy: Anatomy | None = None, *, rim: float = 0.0) -> Section:
    """Mix MT-on, MT-off and T2w signals on the template's block: see `mixed`."""
    off = Signal(tissue.off, MT_OFF[WHITE], MT_OFF[FLUID])
    on = off._replace(ratio=1 - tissue.mtr / 100, fluid_ratio=1 - MTR[FLUID] / 100)
    return mixed(template, {OFF: off, ON: on, T2: Signal(tissue.t2w, T2W[WHITE], T2W[FLUID])}, anatomy, rim=rim)


def mixed(template: Template, signals: Mapping[str, Signal], anatomy: Anatomy | None = None, *, rim: float = 0.0) -> Section:
    """Mix each template voxel's signals by its label weights, each channel apart, so that partial volume weighs by signal.

    Of a deformed cord (`anatomy`), part of the fluid is gone, and grey matter is less unlike white. The tissue ends `rim` mm outside the cord of the
    template, which masks follow.
    """
    grid, packing, weights = template.block_grid, template.packing, template.atlas.weights
    label = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    voxel = weights.indices
    corner = np.asarray(template.corner)
    place = np.ravel_multi_index(tuple((packing.ijk - corner)[voxel].T), grid.shape)

    def mix(value: FloatArray) -> NDArray[np.float64]:
        return np.bincount(place, amount * value, minlength=int(np.prod(grid.shape))).reshape(grid.shape).astype(np.float64)

    amount = weights.data
    labelled = mix(np.ones(len(voxel)))
    inside = np.clip(np.maximum(labelled, template.cord + template.csf), 0, 1)
    rest = np.maximum(inside - labelled, 0)
    base = {name: signal.base[label] for name, signal in signals.items()}
    if anatomy is not None and anatomy.deformity is not None:
        xyz = grid.world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).astype(float))
        middle = xyz[..., :2] - anatomy.middle(xyz[..., 2])
        left = anatomy.deformity.fluid(middle, xyz[..., 2])
        unlike = anatomy.deformity.contrast(packing.xyz[voxel, 2])
        fluid_label = np.isin(label, np.flatnonzero(np.array(clusters(template)) == FLUID))
        for name, (_, white, fluid, *_) in signals.items():
            base[name] = np.where(fluid_label, fluid, white + unlike * (base[name] - white))
        amount = amount * np.where(fluid_label, left.reshape(-1)[place], 1.0)
        rest, inside = rest * left, mix(np.ones(len(voxel))) + rest * left
    channels = {}
    for name, signal in signals.items():
        left_over = 1.0 if signal.ratio is None else signal.ratio[label, packing.ijk[voxel, 2].astype(int)]
        channels[name] = mix(base[name] * left_over) + rest * (signal.fluid * signal.fluid_ratio)
    channels |= {INSIDE: inside, CORD: np.clip(template.cord, 0, 1)}
    away = _outgrown(template.cord, grid.spacing[:2], rim) if rim > 0 else None
    return Section(grid, {name: c.astype(np.float32) for name, c in channels.items()}, away)


def _outgrown(cord: NDArray[np.floating[Any]], spacing: FloatArray, rim: float) -> NDArray[np.float32]:
    """Voxels (2, x, y, z) from a place to its signal: the outermost `RIND` of the cord reaches `rim` mm farther; beyond `FLUID_ROOM` all stays."""
    away = np.zeros((2, *cord.shape), np.float32)
    for k in np.flatnonzero((cord >= HALF).any(axis=(0, 1))):
        solid = cord[:, :, k] >= HALF
        depth = distance_transform_edt(solid, sampling=spacing) - distance_transform_edt(~solid, sampling=spacing)
        depth = gaussian_filter(depth, 1.0)
        slope = np.stack(np.gradient(depth, *spacing))
        inward = slope / np.maximum(np.linalg.norm(slope, axis=0), 1e-9)
        share = np.interp(depth, (-FLUID_ROOM, -FLUID_ROOM / 2, 0.0, RIND), (0.0, 1.0, 1.0, 0.0))
        away[:, :, :, k] = rim * share * inward / np.reshape(spacing, (2, 1, 1))
    return away


@dataclass(frozen=True, eq=False)
class Texture:
    """A smooth random field, zero mean and unit variance, that can be evaluated anywhere: a sum of cosines."""

    waves: FloatArray
    phases: FloatArray

    @classmethod
    def draw(cls, rng: Generator, *, wavelength: float, count: int = 16) -> Texture:
        """Draw `count` waves of about `wavelength` mm, three times longer along z."""
        direction = rng.normal(size=(count, 3)) * [1, 1, 1 / 3]
        return cls(direction * 2 * np.pi / wavelength / np.sqrt(2), rng.uniform(0, 2 * np.pi, count))

    def at(self, xyz: FloatArray) -> FloatArray:
        """Evaluate at (..., 3) mm."""
        out = np.zeros(xyz.shape[:-1])
        for wave, phase in zip(self.waves, self.phases, strict=True):
            out += np.cos(xyz @ wave + phase)
        return np.asarray(out * np.sqrt(2 / len(self.phases)))


def render(
    section: Section,
    anatomy: Anatomy,
    texture: Texture,
    discs: Mapping[int, float],
    grid: Grid,
    names: tuple[str, ...],
    *,
    shifts: FloatArray | None = None,
    head: Head | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Render noise-free images of one grid.

    Parameters
    ----------
    section : Section
        Cord and CSF.
    anatomy : Anatomy
    texture : Texture
        Of the surroundings.
    discs : {number: z}
        Template z of the discs, mm; 1 and 2 are the top of C1 and the joint below it.
    grid : Grid
    names : tuple of str
        Channels to render: signals (`ON`, `OFF`, `T2`) and ``cord``, the fraction of the voxel that is cord.
    shifts : (z, 2) array, optional
        How far each slice's content lies from its place, mm along the first and second axis.
    head : Head, optional
        What is above C1, in the channels `T2` and ``cord``; without one the neck goes on.

    Returns
    -------
    images : {name: (x, y, z) float32}
        The mean of each channel over the voxel's volume, near the cord; elsewhere the value at the voxel's centre.
    """
    centres = grid.world(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1))
    if shifts is not None:
        axes = grid.affine[:3, :2] / grid.spacing[:2]
        centres -= (shifts @ axes.T)[None, None]
    place = anatomy.template(centres)
    around = _surroundings(place, anatomy, texture.at(centres), discs, names, head)
    split = _near(place, anatomy, section)
    fading = np.zeros(grid.shape)
    if head is not None:
        fading = given_way(place[..., 2] - discs[1])
        split &= fading < 0.999
    inner = _average(section, anatomy, centres[split], place[split][:, 2], grid.affine, (*names, INSIDE))
    kept = 1 - fading[split]
    images = {}
    for name in names:
        image = around.get(name, np.zeros(grid.shape)).copy()
        image[split] = kept * inner[name] + (1 - kept * inner[INSIDE]) * image[split]
        images[name] = image.astype(np.float32)
    if head is not None and CORD in images:
        images[CORD] *= place[..., 2] - discs[1] < head.mask_end
    return images


def _near(place: FloatArray, anatomy: Anatomy, section: Section) -> NDArray[np.bool_]:
    """Voxels whose template place can touch the inside of the canal."""
    used = np.argwhere(section.channels[INSIDE].any(2))
    lower, upper = (section.grid.world(np.append(edge, 0.0))[:2] for edge in (used.min(0), used.max(0)))
    return np.asarray(((place[..., :2] > lower - 2.0) & (place[..., :2] < upper + 2.0)).all(-1))


def _average(
    section: Section, anatomy: Anatomy, centres: FloatArray, start: FloatArray, edges: FloatArray, names: tuple[str, ...],
    fine: tuple[int, int] = FINE,
) -> dict[str, FloatArray]:  # fmt: skip
    """Mean (n,) of each channel over boxes with these centres (n, 3) and edges (the columns of an affine), whose template z is about `start`."""
    counts = (*fine, max(2, round(float(np.linalg.norm(edges[:3, 2])) / 0.6)))
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    offsets = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) @ edges[:3, :3].T
    total = {name: np.zeros(len(centres)) for name in names}
    last = np.array(section.grid.shape) - 1.0
    for offset in offsets:
        at = section.grid.voxel(anatomy.template(centres + offset, start=start, iterations=2))
        at[:, 2] = np.clip(at[:, 2], 0, last[2])  # the cord goes on beyond the ends of the template
        for name, values in section.look(names, at).items():
            total[name] += values
    return {name: t / len(offsets) for name, t in total.items()}


def average_over(
    section: Section, anatomy: Anatomy, grid: Grid, *, thickness: float, shifts: FloatArray | None = None
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Mean of the channels of a section over the slices of a grid: (x, y, z) each, zeros far from the cord.

    Parameters
    ----------
    section, anatomy : as in `render`
    grid : Grid
        In the plane each voxel is looked at in its middle.
    thickness : float
        Of a slice, mm; the slices of `grid` may lie farther apart.
    shifts : (z, 2) array, optional
        As in `render`.
    """
    centres = grid.world(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1))
    if shifts is not None:
        centres -= (shifts @ (grid.affine[:3, :2] / grid.spacing[:2]).T)[None, None]
    place = anatomy.template(centres)
    near = _near(place, anatomy, section)
    edges = np.asarray(grid.affine[:3, :3] / [1.0, 1.0, float(grid.spacing[2]) / thickness], np.float64)
    inner = _average(section, anatomy, centres[near], place[near][:, 2], edges, tuple(section.channels), (1, 1))
    images = {name: np.zeros(grid.shape, np.float32) for name in section.channels}
    for name, image in images.items():
        image[near] = inner[name]
    return images


def render_fine(
    section: Section, anatomy: Anatomy, texture: Texture, discs: Mapping[int, float], grid: Grid, weightings: Mapping[str, float], *,
    split: int, thickness: float,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Render echo-planar images on `split` times as many columns and rows, each averaged over the thickness of its slice.

    Parameters
    ----------
    section, anatomy, texture, discs : as in `render`
    grid : Grid
        Of the image.
    weightings : {name: b}
        Channels of `section` to render, and how strongly the surroundings are diffusion-weighted in them, ms/um2.
    split : int
    thickness : float
        Of a slice, mm; the slices of `grid` may lie farther apart.

    Returns
    -------
    images : {name: (split x, split y, z) float32}
        The channels, and ``cord``.
    """
    centres = grid.world(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1))
    place = anatomy.template(centres)
    around = _surroundings(place, anatomy, texture.at(centres), discs, (), None, weightings)
    near = _near(place, anatomy, section).repeat(split, 0).repeat(split, 1)
    parts = np.argwhere(near)
    at = parts.astype(float)
    at[:, :2] = (at[:, :2] + 0.5) / split - 0.5
    coarse = parts // [split, split, 1]
    edges = np.asarray(grid.affine[:3, :3] / [split, split, float(grid.spacing[2]) / thickness], np.float64)
    names = (*weightings, CORD, INSIDE)
    inner = _average(section, anatomy, grid.world(at), place[tuple(coarse.T)][:, 2], edges, names, (1, 1))
    images = {CORD: np.zeros(near.shape, np.float32)}
    images[CORD][near] = inner[CORD]
    between = [((np.arange(split * n) + 0.5) / split - 0.5).clip(0, n - 1) for n in grid.shape[:2]]
    for name in weightings:
        image = around[name].astype(np.float32)
        for axis, x in enumerate(between):
            low = np.minimum(x.astype(int), grid.shape[axis] - 2)
            share = np.expand_dims((x - low).astype(np.float32), tuple(k for k in range(3) if k != axis))
            image = image.take(low, axis) * (1 - share) + image.take(low + 1, axis) * share
        image[near] = inner[name] + (1 - inner[INSIDE]) * image[near]
        images[name] = image
    return images


def _surroundings(
    place: FloatArray, anatomy: Anatomy, texture: FloatArray, discs: Mapping[int, float], names: tuple[str, ...], head: Head | None,
    weightings: Mapping[str, float] | None = None,
) -> dict[str, FloatArray]:  # fmt: skip
    """Signals of all that is not cord or CSF, from the place along and across the spine. Above C2 there is a dens in a ring, and no disc.

    `names` are MT and T2w channels, `weightings` (ms/um2) echo-planar ones.
    """
    x, y = np.moveaxis(anatomy.offset(place), -1, 0)
    z = place[..., 2]
    from_disc = np.abs(z[..., None] - np.array([d for n, d in discs.items() if n > 2] or [np.inf])).min(-1)
    tops = sorted((z, n) for n, z in discs.items())
    behind = np.interp(z, [z - 9 for z, _ in tops], [SPINOUS[min(max(n, min(SPINOUS)), max(SPINOUS))] for _, n in tops])
    over_axis, under_top = z - discs.get(2, np.inf), discs.get(1, np.inf) - z  # mm above the body of C2, mm below the top of C1
    tip, arch = (TIP, ARCH) if head is None else (head.tip, head.arch)

    def soft(distance: FloatArray) -> FloatArray:
        """1 where the distance to the edge (mm, inside positive) is large."""
        return np.asarray(expit(distance * 3))

    def vertebra(rim: float) -> tuple[FloatArray, ...]:
        """Body, dens, ring of C1, spinous processes; with a rim (mm) around."""
        body = soft(10 + rim - np.abs(x)) * soft(y - 6.5 + rim) * soft(22 + rim - y) * soft(rim - over_axis)
        dens = soft(4.5 + rim - np.hypot(x, y - 12)) * soft(over_axis + 2) * soft(under_top - tip + rim)
        sides = np.maximum(soft(2.5 + rim - np.abs(y - 21)), soft(2 + rim - np.abs(y + 11.5)))
        ring = soft(10 + rim - np.abs(x)) * soft(4.5 + rim - np.abs(under_top - arch)) * sides
        spinous = soft(3 + rim - np.abs(x) + 0.05 * y) * soft(-8 + rim - y) * soft(behind + rim + y) * soft(from_disc - 4 + rim)
        return body, dens, ring, spinous * soft(2 + rim - over_axis)

    canal = np.hypot(x / 10.5, y / 8.5)
    body, dens, ring, spinous = vertebra(0.0)
    lamina = soft(14 - np.abs(x)) * soft(3.5 - np.abs(y + 8.5 - 0.25 * np.abs(x))) * soft(from_disc - 3) * soft(2 - over_axis)
    pillar = soft(6 - np.hypot(x - 15 * np.sign(x), y - 1))
    neck = np.hypot(x / NECK[0], (y - NECK[2]) / NECK[1])
    trachea = soft(7 - np.hypot(x, y - 33))
    layers = (  # later ones cover earlier ones
        (MUSCLE, np.ones_like(x)), (BONE, pillar), (BONE, lamina), (BONE, spinous), (BONE, body), (BONE, dens), (BONE, ring),
        (DISC, body * soft(2.4 - from_disc)), (LIGAMENT, soft((1 - canal) * 9 + 1.5) * soft((canal - 0.75) * 9)),
        (FAT, soft((neck - 1) * 28)), (AIR, trachea), (AIR, soft((neck - 1.16) * 28)),
    )  # fmt: skip
    out = {}
    if T2 in names:
        rims = {}
        if head is not None:
            rims = dict(zip((4, 5, 6, 3), vertebra(1.0), strict=True))
            rims[7] = body * soft(3.2 - from_disc)
            seam = head.seam * body * soft(1.2 - np.abs(over_axis + 1.5))
        t2w = np.zeros_like(x)
        for k, (material, cover) in enumerate(layers):
            for value, part in ((CORTEX, rims.get(k)), (material.t2w, cover)):
                t2w = t2w if part is None else t2w + part * (value - t2w)
            if k == 6 and head is not None:
                t2w += seam * (DISC.t2w - t2w)
        out[T2] = t2w * (1 + 0.2 * texture)
        if head is not None:
            high = -under_top > LOWEST - 3
            out[CORD] = np.zeros_like(x)
            size = (float(anatomy.scale[-1, 0]), float(anatomy.scale[-1, 1]))
            out[T2][high], out[CORD][high] = draw_over(out[T2][high], x[high], y[high], -under_top[high], texture[high], head, size)
    if ON in names or OFF in names:
        off, mtr = np.zeros_like(x), np.zeros_like(x)
        for material, cover in layers:
            off, mtr = off + cover * (material.off - off), mtr + cover * (material.mtr - mtr)
        out[OFF] = off * (1 + 0.13 * texture)
        out[ON] = out[OFF] * (1 - mtr / 100)
    for name, b in (weightings or {}).items():
        image = np.zeros_like(x)
        for material, cover in layers:
            image += cover * (material.epi * np.exp(-b * material.md) - image)
        out[name] = image * (1 + 0.13 * texture)
    return out


def bias_field(grid: Grid, rng: Generator, amount: float) -> NDArray[np.float64]:
    """Smooth receive sensitivity (x, y, z) about 1: the exponential of a random quadratic, of which `amount` is the scale."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij", sparse=True)
    c = rng.normal(0, amount, 6)
    return np.asarray(np.exp(c[0] * x + c[1] * y + c[2] * z + 0.5 * (c[3] * x * y + c[4] * y * y - c[5] * z * z)))


def rician(image: FloatArray, sigma: float, rng: Generator) -> NDArray[np.float32]:
    """Magnitude of the image plus complex Gaussian noise of standard deviation `sigma`."""
    real, imaginary = rng.normal(0, sigma, (2, *image.shape)) if sigma > 0 else np.zeros((2, *image.shape))
    return np.asarray(np.hypot(image + real, imaginary), np.float32)


def smooth_shifts(slices: int, thickness: float, rng: Generator, *, drift: float, jitter: float) -> NDArray[np.float64]:
    """In-plane motion (z, 2) between two scans: an offset and a wave along z of about `drift` mm, and independent `jitter`, mm."""
    z = np.arange(slices) * thickness
    waves = rng.normal(0, drift, (2, 2)) * np.array([0.8, 0.5])
    out = waves[:, 0] + waves[:, 1] * np.sin(2 * np.pi * (z[:, None] / rng.uniform(80, 160, 2) + rng.uniform(size=2)))
    return np.asarray(out + rng.normal(0, jitter, out.shape))
