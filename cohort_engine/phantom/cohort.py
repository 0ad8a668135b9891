"""What a simulated cohort is made of, as arrays on the template: damage of the tracts, shape of the cord, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.phantom.anatomy import BULGE, SQUEEZE, WIDEN, neck_slices
from cohort_engine.phantom.subject import MOTOR, SENSORY
from cohort_engine.phantom.tissue import BASE_MTR, DAMAGE, OTHER, TRACT_MTR, clusters
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

EVEN = "even"
SUBGROUPS: Mapping[str, tuple[float, float]] = {"motor": (1.6, 0.3), "sensory": (0.3, 1.6)}
"""Subgroup of patients -> factors on the damage of motor and of sensory tracts."""
CENTRE, WIDTH = 5.5, 2.5
"""Level number at which the damage is worst, and the levels from there to 1/e of it."""
DISCS = (4, 5, 6, 7)
"""Compression lies at the disc above one of these vertebrae."""
SIZE_SD, RIPPLE, SLICE_SD = 0.05, 0.02, 0.01
"""Relative standard deviation of a cord's size, the waves along it, and the noise of a slice."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """MTR on the packed voxels.

    Attributes
    ----------
    healthy : (voxel,) float64
        Mean of healthy people, percent.
    lost : {subgroup: (voxel,) float64}
        What the worst disease takes away, percentage points; `EVEN` for patients without a subgroup.
    motor, sensory : {subgroup: float}
        The same as a mean over the motor and sensory tracts of the neck: what scores depend on.
    """

    healthy: FloatArray
    lost: dict[str, FloatArray]
    motor: dict[str, float]
    sensory: dict[str, float]


def draw_patterns(template: Template, width: float = WIDTH) -> Patterns:
    """Work out healthy MTR and damage on a template; `width`: levels from the worst one to 1/e of the damage.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> found = draw_patterns(parametric_cord(spacing=2.0, top="C4", bottom="C5"))
    >>> sorted(found.lost), found.motor["motor"] > found.motor["even"] > found.motor["sensory"]
    (['even', 'motor', 'sensory'], True)
    """
    base, damage = [], []
    for name, tissue in zip(template.atlas.labels, clusters(template), strict=True):
        tract = next((t for t in {**TRACT_MTR, **DAMAGE} if f" {t}" in name), "")
        base.append(BASE_MTR[tissue] + TRACT_MTR.get(tract, 0.0))
        damage.append(DAMAGE.get(tract, OTHER[tissue]).at if tissue in OTHER else 0.0)
    near = np.exp(-(((template.packing.level.astype(float) - CENTRE) / width) ** 2))
    neck = float(np.exp(-(((template.slice_level[neck_slices(template)].astype(float) - CENTRE) / width) ** 2)).mean())
    members = {kind: np.array([_belongs(name, tracts) for name in template.atlas.labels]) for kind, tracts in (("m", MOTOR), ("s", SENSORY))}
    lost, motor, sensory = {}, {}, {}
    for subgroup, (on_motor, on_sensory) in {EVEN: (1.0, 1.0), **SUBGROUPS}.items():
        factor = np.where(members["m"], on_motor, np.where(members["s"], on_sensory, 1.0))
        lost[subgroup] = spread(template, np.array(damage) * factor) * near
        motor[subgroup], sensory[subgroup] = (float((np.array(damage) * factor)[members[k]].mean() * neck) for k in ("m", "s"))
    return Patterns(spread(template, np.array(base)), lost, motor, sensory)


def _belongs(label: str, tracts: tuple[str, ...]) -> bool:
    return any(f" {t}" in label for t in tracts)


def spread(template: Template, values: FloatArray) -> FloatArray:
    """Value of each voxel (voxel,): the mean of its labels' values (label,), by their weights."""
    weights = template.atlas.weights
    total = np.asarray(weights.sum(axis=0)).ravel()
    out: FloatArray = np.asarray(weights.T @ values) / np.where(total > 0, total, 1)
    return out


def spread_by_level(template: Template, values: FloatArray) -> FloatArray:
    """Value of each voxel (voxel,) where labels differ from level to level: (label, level of the template)."""
    out = np.zeros(len(template.packing))
    for i, name in enumerate(template.levels):
        inside = template.packing.level == schema.level_number(name)
        out[inside] = spread(template, values[:, i])[inside]
    return out


@dataclass(frozen=True)
class Squeeze:
    """Where one cord is compressed: height in the template (mm), level of the narrowest slice, its front-to-back diameter over the healthy one."""

    z: float
    level: str
    ratio: float


UNSQUEEZED = Squeeze(np.nan, "", 1.0)


def template_shape(template: Template) -> dict[str, FloatArray]:
    """Area (mm2) and both diameters (mm) of the template's own cord at each of its slices (z,); NaN where there is none.

    A diameter is that of the ellipse with the same second moments.
    """
    grid = template.block_grid
    along = slice(template.corner[2], template.corner[2] + grid.shape[2])
    dx, dy = (float(s) for s in grid.spacing[:2])
    mass = template.cord.sum((0, 1)).astype(float)
    out = {m: np.full(len(template.z), np.nan) for m in (schema.AREA, schema.DIAMETER_AP, schema.DIAMETER_RL)}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, axis, step in ((schema.DIAMETER_RL, 0, dx), (schema.DIAMETER_AP, 1, dy)):
            marginal = template.cord.sum(1 - axis).astype(float)
            i = np.arange(marginal.shape[0])[:, None]
            mean = (marginal * i).sum(0) / mass
            out[name][along] = 4 * step * np.sqrt((marginal * (i - mean) ** 2).sum(0) / mass)
    out[schema.AREA][along] = np.where(mass > 0, mass * dx * dy, np.nan)
    return out


def draw_shape(template: Template, healthy: Mapping[str, FloatArray], severity: float, rng: Generator) -> tuple[dict[str, FloatArray], Squeeze]:
    """Draw one cord along the template.

    Parameters
    ----------
    template : Template
    healthy : mapping of measure to (z,)
        From `template_shape`.
    severity : float
        Compression, 0 (none) to 1; more counts as 1.
    rng : Generator

    Returns
    -------
    measures : {measure: (z,) float64}
        What ``profiles/*`` holds, for an upright ellipse.
    squeeze : Squeeze
        Its ratio is without noise.
    """
    z = template.z
    size = np.exp(rng.normal(0, SIZE_SD, 2))
    waves = [RIPPLE * np.sin(2 * np.pi * (z / rng.uniform(30, 80) + rng.uniform())) for _ in range(2)]
    noise = rng.normal(0, SLICE_SD, (2, len(z)))
    cord = np.flatnonzero((template.slice_level > 0) & np.isfinite(healthy[schema.AREA]))
    places = [template.landmarks[schema.DISC][n] for n in DISCS if _inside(template, n)] or [float(z[cord].mean())]
    centre = places[int(rng.integers(len(places)))] + rng.uniform(-3.0, 3.0)
    strength = min(max(severity, 0.0), 1.0)
    bulge = strength * np.exp(-(((z - centre) / BULGE) ** 2))
    rl, ap = 1 + WIDEN * bulge, 1 - SQUEEZE * bulge
    right, front = (size[i] * (1 + waves[i] + noise[i]) for i in (0, 1))
    a, b = healthy[schema.DIAMETER_RL] * rl * right, healthy[schema.DIAMETER_AP] * ap * front
    area = healthy[schema.AREA] * rl * ap * right * front
    with np.errstate(invalid="ignore"):
        eccentricity = np.sqrt(1 - (np.minimum(a, b) / np.maximum(a, b)) ** 2)
    flat = np.where(np.isfinite(area), 0.0, np.nan)
    measures = {
        schema.AREA: area, schema.AREA_RIGHT: area / 2, schema.AREA_LEFT: area / 2, schema.SYMMETRY: flat + 1, schema.DIAMETER_AP: b,
        schema.DIAMETER_AP_ELLIPSE: b, schema.DIAMETER_RL: a, schema.ECCENTRICITY: eccentricity, schema.SOLIDITY: flat + 1,
        schema.ORIENTATION: flat, schema.ORIENTATION_SIZE: flat, schema.ANGLE_AP: flat, schema.ANGLE_RL: flat,
    }  # fmt: skip
    if strength == 0:
        return measures, UNSQUEEZED
    at = int(cord[np.argmin(ap[cord])])
    return measures, Squeeze(float(z[at]), schema.LEVEL_NAMES[int(template.slice_level[at]) - 1], float(ap[at]))


def _inside(template: Template, disc: int) -> bool:
    """Whether a disc and the vertebrae on both sides are in the template."""
    return disc in template.landmarks[schema.DISC] and {disc - 1, disc} <= set(template.slice_level.tolist())


def slice_lengths(template: Template) -> NDArray[np.float64]:
    """Length of an upright cord in each slice of the template (z,), mm."""
    return np.full(len(template.z), float(template.grid.spacing[2]))
