"""What simulated tissue looks like: signal and MTR of every label along the cord, and what the disease does to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine.phantom.anatomy import Anatomy
from cohort_engine.reduce.operator import Operator
from cohort_engine.template.atlas import Region
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange
from cohort_engine.template.packing import FloatArray

WHITE, GREY, FLUID = "white matter", "gray matter", "CSF"
BASE_MTR = {WHITE: 50.0, GREY: 38.0, FLUID: 3.0}
"""Percent, of a healthy adult of 50 at 3 T."""
MT_OFF = {WHITE: 1200.0, GREY: 1350.0, FLUID: 1600.0}
T2W = {WHITE: 330.0, GREY: 400.0, FLUID: 1000.0}
TRACT_MTR = {
    "fasciculus gracilis": 1.5, "fasciculus cuneatus": 1.0, "lateral corticospinal tract": -0.5, "spinal lemniscus": 0.5,
    "ventral corticospinal tract": -2.0, "spino-olivary tract": -1.5,
}  # fmt: skip
"""Percentage points that a tract differs from white matter."""
AGE_SLOPE = -0.06
"""Percentage points a year, in the cord."""


@dataclass(frozen=True)
class Damage:
    """Loss of MTR in one tract at severity 1, percentage points: at the compression, above it and below it."""

    at: float
    above: float
    below: float

    def along(self, at: FloatArray, above: FloatArray) -> FloatArray:
        """Loss where the lesion is felt by a part `at` (0 to 1) and lies below by a part `above` (0 to 1)."""
        return np.asarray(self.at * at + (1 - at) * (self.above * above + self.below * (1 - above)))


DAMAGE = {
    "lateral corticospinal tract": Damage(9.0, 2.5, 6.0),
    "fasciculus cuneatus": Damage(8.0, 5.0, 1.5),
    "fasciculus gracilis": Damage(7.0, 4.0, 1.5),
    "spinal lemniscus": Damage(5.0, 3.0, 1.0),
}
"""Motor tracts degenerate below a lesion, sensory ones above."""
OTHER = {WHITE: Damage(4.0, 1.0, 1.0), GREY: Damage(3.5, 0.5, 0.5)}


@dataclass(frozen=True, eq=False)
class Tissue:
    """Signal of one subject on the template.

    Attributes
    ----------
    mtr : (label, z) float64
        True MTR of each atlas label at each z of the template grid, percent.
    loss : (label, z) float64
        What the disease took away, percentage points; already taken off `mtr`.
    off, t2w : (label,) float64
        Signal of each label.
    """

    mtr: FloatArray
    loss: FloatArray
    off: FloatArray
    t2w: FloatArray


def clusters(template: Template) -> list[str]:
    """Tissue cluster of each atlas label."""
    return [next(c for c, members in template.atlas.clusters.items() if label in members) for label in range(len(template.atlas.labels))]


def grid_heights(template: Template) -> NDArray[np.float64]:
    """Template z (z,) of each slice of the template grid, mm."""
    n = template.grid.shape[2]
    return np.asarray(template.grid.world(np.stack([np.zeros(n)] * 2 + [np.arange(n)], axis=-1).astype(float))[:, 2])


def lesion(z: FloatArray, anatomy: Anatomy) -> tuple[FloatArray, FloatArray]:
    """How far each template z (mm) feels the compression, and how far it lies above it; 0 to 1."""
    distance = z - anatomy.compressed_z
    return np.exp(-((distance / 14.0) ** 2)), 1 / (1 + np.exp(-distance / 8.0))


def tract_of(name: str, tracts: Iterable[str]) -> str:
    """Return the first of `tracts` that an atlas label is part of, or nothing."""
    return next((t for t in tracts if f" {t}" in name), "")


def draw_tissue(template: Template, anatomy: Anatomy, rng: Generator, *, age: float, site_offset: float) -> Tissue:
    """Draw a subject's tissue.

    Parameters
    ----------
    template : Template
    anatomy : Anatomy
        Says where the cord is compressed, and how much.
    rng : Generator
    age : float, year
    site_offset : float
        Percentage points that this scanner adds to every tissue but CSF.

    Returns
    -------
    Tissue
        Base + tract + age + site + subject (sd 1.2) + subject x tract (sd 0.4) - damage, all smooth along z.
    """
    kind, z = clusters(template), grid_heights(template)
    at, above = lesion(z, anatomy)
    common = AGE_SLOPE * (age - 50) + site_offset + rng.normal(0, 1.2)
    wave = 0.5 * np.sin(2 * np.pi * (z / 110.0 + rng.uniform()))
    own = rng.normal(0, 0.4, len(kind))
    mtr, loss = np.empty((len(kind), len(z))), np.zeros((len(kind), len(z)))
    for label, (name, tissue) in enumerate(zip(template.atlas.labels, kind, strict=True)):
        if tissue == FLUID:
            mtr[label] = BASE_MTR[FLUID]
            continue
        tract = tract_of(name, {**TRACT_MTR, **DAMAGE})
        d = DAMAGE.get(tract, OTHER[tissue])
        loss[label] = anatomy.severity * d.along(at, above)
        mtr[label] = BASE_MTR[tissue] + TRACT_MTR.get(tract, 0.0) + common + own[label] + wave - loss[label]
    return Tissue(mtr, loss, np.array([MT_OFF[k] for k in kind]), np.array([T2W[k] for k in kind]))


def regional_truth(template: Template, truth: FloatArray, levels: tuple[LevelRange, ...], regions: tuple[Region, ...]) -> NDArray[np.float64]:
    """Weighted mean of the labels' true values (label, z) in each (level, region): what an image of unlimited resolution would show.

    No partial volume enters: a voxel shared by two tracts counts for each with that tract's own value.
    """
    packing, weights = template.packing, template.atlas.weights
    label = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    voxel = weights.indices
    value = weights.data * truth[label, packing.ijk[voxel, 2].astype(int)]
    number = packing.level[voxel].astype(int)
    size = (int(packing.level.max()) + 1, weights.shape[0])
    cell = number * size[1] + label
    sums, totals = (np.bincount(cell, v, minlength=size[0] * size[1]).reshape(size) for v in (value, weights.data))
    member = template.atlas.membership(regions).astype(float)
    pick = [list(level.numbers) for level in levels]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([member @ sums[p].sum(0) / (member @ totals[p].sum(0)) for p in pick])


def native_voxels(template: Template, anatomy: Anatomy, operator: Operator, voxel_volume: float) -> NDArray[np.float64]:
    """Volume of each (level, region) in this subject over the volume of a native voxel: how many voxels really measure it."""
    xyz = template.packing.xyz
    factor = anatomy.jacobian(xyz[:, 2]) * anatomy.stretch(xyz) * float(np.prod(template.grid.spacing)) / voxel_volume
    return np.asarray(operator.sums(factor[None])[0][0], np.float64)


def cord_area(template: Template, anatomy: Anatomy, levels: tuple[LevelRange, ...]) -> NDArray[np.float64]:
    """Return the true area of the cord across its axis, mean over the slices of each level, mm2."""
    grid, first = template.block_grid, template.corner[2]
    z = grid.world(np.stack([np.zeros(grid.shape[2])] * 2 + [np.arange(grid.shape[2])], axis=-1).astype(float))[:, 2]
    cord = template.cord
    if anatomy.deformity is not None:
        cord = cord * anatomy.stretch(grid.world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).astype(float)))
    area = cord.sum((0, 1)) * float(np.prod(grid.spacing[:2])) * anatomy.area_factor(z)
    number = template.slice_level[first : first + grid.shape[2]]
    return np.array([area[np.isin(number, level.numbers)].mean() for level in levels])
