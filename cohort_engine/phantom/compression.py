"""Cords of patients: pressed out of shape from any side, turned, their fluid gone, and with an inside that does not follow the outline.

All of it is a smooth in-plane map of the template onto itself, slice by slice, before the template is carried along the curve of the subject
(`phantom.anatomy`): so what is true about a pressed cord is known as exactly as about a straight one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine.errors import InputError
from cohort_engine.template.packing import FloatArray

RIGID = 0.4
"""The inside moves as one up to this share of the way from the middle to the outline; from there on it gives way to the outline."""
ITERATIONS = 3
"""Of Newton's method: the place is then exact to 1e-3 mm inside the cord."""
DENT_WIDTH = 3.5
"""Distance across from the middle of a dent at which 1/e of it is left, mm."""
RIGHT, FRONT, LEFT, BEHIND = 90.0, 0.0, 270.0, 180.0
"""Sides, as degrees from the front over the right."""


@dataclass(frozen=True)
class Inside:
    """How the inside of a cord lies against its outline, everywhere along the cord.

    Attributes
    ----------
    shift : (right, front)
        Of the middle of the cord, mm.
    turn : float
        About the middle, degrees, right side to the front.
    scale : (right, front)
        Factors of its size.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Press:
    """A compression.

    Attributes
    ----------
    left : float
        What is left of the diameter along the pressure, at the worst slice: 0.6 is a cord flattened to 60 %.
    wider : float
        Factor of the diameter across it.
    side : float
        Where the pressure comes from, degrees from the front over the right.
    dent : float
        How far the surface of that side is pushed in beyond that, mm.
    turn : float
        How far the cord is turned about its axis there, degrees, right side to the front.
    fluid : (front, behind)
        Share of the fluid that is left in front of the cord and behind it.
    contrast : float
        Share of the difference in signal between grey and white matter that is left.
    length : float
        Distance along the cord at which 1/e of the compression is left, mm.
    """

    left: float = 1.0
    wider: float = 1.0
    side: float = FRONT
    dent: float = 0.0
    turn: float = 0.0
    fluid: tuple[float, float] = (1.0, 1.0)
    contrast: float = 1.0
    length: float = 8.0


@dataclass(frozen=True)
class MaskFaults:
    """What is wrong with masks that others give.

    Attributes
    ----------
    ragged : float
        Share of the voxels on either side of the border that are on the wrong one.
    gap : float
        Length of the compressed cord without any mask, mm; a slice is empty when its middle lies in it.
    front : float
        Share of the cord's depth that is missing on its pressed side, in the slices of the compression.
    """

    ragged: float = 0.0
    gap: float = 0.0
    front: float = 0.0


@dataclass(frozen=True)
class Patient:
    """A compressed cord, and the masks that others made of it.

    Attributes
    ----------
    severity : float
        Damage of the tissue, 0 to 1.
    press : Press
    inside : Inside
    masks : MaskFaults
    """

    severity: float = 0.0
    press: Press = Press()
    inside: Inside = Inside()
    masks: MaskFaults = MaskFaults()


@dataclass(frozen=True)
class _Grade:
    """Ranges and standard deviations that patients of one grade are drawn from."""

    severity: float
    left: tuple[float, float]
    dent: float
    turn: float
    fluid: tuple[float, float]
    contrast: float
    shift: float
    inner_turn: float
    scale: float
    masks: MaskFaults


GRADES: Mapping[str, _Grade] = {
    "none": _Grade(0.0, (1.0, 1.0), 0.0, 0.0, (1.0, 1.0), 1.0, 0.08, 1.0, 0.015, MaskFaults()),
    "mild": _Grade(0.35, (0.85, 0.95), 0.3, 3.0, (0.4, 0.8), 0.9, 0.12, 1.5, 0.025, MaskFaults(ragged=0.1)),
    "moderate": _Grade(0.65, (0.70, 0.80), 0.7, 6.0, (0.1, 0.5), 0.7, 0.18, 2.5, 0.04, MaskFaults(ragged=0.2, gap=2.5, front=0.15)),
    "severe": _Grade(1.0, (0.58, 0.66), 1.1, 10.0, (0.0, 0.2), 0.4, 0.25, 4.0, 0.05, MaskFaults(ragged=0.3, gap=5.0, front=0.3)),
}  # fmt: skip
"""Grade of compression -> what its patients are drawn from; mild ones keep 85 to 95 % of their diameter, severe ones about 60 %."""


def draw_patient(grade: str, rng: Generator) -> Patient:
    """Draw a patient of a grade of `GRADES`: pressed from the front as often as from all other sides together.

    Examples
    --------
    >>> found = draw_patient("severe", np.random.default_rng(0))
    >>> 0.58 <= found.press.left <= 0.66, found.press.wider > 1, found.masks.gap
    (True, True, 5.0)
    """
    if grade not in GRADES:
        raise InputError(expected=f"one of {', '.join(GRADES)}", found=repr(grade), where="grade of compression", remedy="Choose one of these.")
    g = GRADES[grade]
    left = float(rng.uniform(*g.left))
    side = float(rng.normal(FRONT, 20.0) if rng.random() < 0.5 else rng.uniform(0, 360)) % 360.0
    turn, inner_turn = float(rng.normal(0, g.turn)), float(rng.normal(0, g.inner_turn))
    fluid = tuple(float(f) for f in rng.uniform(*g.fluid, 2))
    dent = float(rng.uniform(0.5, 1.0) * g.dent)
    shift, scale = rng.normal(0, g.shift, 2), 1 + rng.normal(0, g.scale, 2)
    press = Press(left, 1 + 0.25 * (1 - left), side, dent, turn, (fluid[0], fluid[1]), g.contrast)
    inside = Inside((float(shift[0]), float(shift[1])), inner_turn, (float(scale[0]), float(scale[1])))
    return Patient(g.severity, press, inside, g.masks)


@dataclass(frozen=True, eq=False)
class Deformity:
    """A patient's in-plane map of the template onto itself.

    About the middle of the cord: the inside moves, the side that is pressed gets its dent, the whole is flattened, and turned.

    Attributes
    ----------
    press : Press
    inside : Inside
    z : float
        Template z of the worst slice, mm.
    half : (2,) array
        Half diameters of the template's cord, mm: where the outline is.
    """

    press: Press
    inside: Inside
    z: float
    half: FloatArray

    def bulge(self, z: FloatArray) -> FloatArray:
        """Share (...) of the compression that acts at template z (...), mm."""
        return np.asarray(np.exp(-(((z - self.z) / self.press.length) ** 2)))

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vector (right, front) to the side that the pressure comes from."""
        angle = np.deg2rad(self.press.side)
        return np.array([np.sin(angle), np.cos(angle)])

    def forward(self, p: FloatArray, z: FloatArray) -> FloatArray:
        """Carry offsets from the middle of the template's cord (..., 2), mm, at template z (...)."""
        return self._forward(p, z)[0]

    def backward(self, q: FloatArray, z: FloatArray) -> FloatArray:
        """Invert `forward`: offsets (..., 2), mm, to those of the template."""
        q, bulge = np.asarray(q, float), self.bulge(np.asarray(z, float))
        p = _solve(self._whole(bulge), q)
        for _ in range(ITERATIONS):
            found, slope = self._forward(p, z)
            p = p + _solve(slope, q - found)
        return p

    def stretch(self, p: FloatArray, z: FloatArray) -> FloatArray:
        """Area (...) after over area before, at offsets (..., 2) and template z (...)."""
        a, b, c, d = self._forward(p, z)[1]
        return np.asarray(a * d - b * c)

    def fluid(self, p: FloatArray, z: FloatArray) -> FloatArray:
        """Share (...) of the fluid that is left at offsets (..., 2) and template z (...)."""
        front, behind = self.press.fluid
        forward = p[..., 1] / np.maximum(np.hypot(p[..., 0], p[..., 1]), 1e-9)
        gone = (1 - front) * (1 + forward) / 2 + (1 - behind) * (1 - forward) / 2
        return np.asarray(1 - gone * np.exp(-(((z - self.z) / self.press.length) ** 4)))

    def contrast(self, z: FloatArray) -> FloatArray:
        """Share (...) of the difference between grey and white matter that is left at template z (...)."""
        return np.asarray(1 - (1 - self.press.contrast) * self.bulge(z))

    def _forward(self, p: FloatArray, z: FloatArray) -> tuple[FloatArray, _Slope]:
        """Carry offsets (..., 2), with the derivatives there."""
        bulge = self.bulge(np.asarray(z, float))
        inner, by_inner = self._inside(np.asarray(p, float))
        dented, by_dent = self._dent(inner, bulge)
        whole = self._whole(bulge)
        return _apply(whole, dented), _times(whole, _times(by_dent, by_inner))

    def _inside(self, p: FloatArray) -> tuple[FloatArray, _Slope]:
        """Move the inside by ``w(r) (A p + s)``, with w from 1 in the middle to 0 at the outline."""
        unit = p / self.half
        r = np.hypot(unit[..., 0], unit[..., 1])
        t = np.clip((r - RIGID) / (1 - RIGID), 0, 1)
        w, slope = 1 - t * t * (3 - 2 * t), -6 * t * (1 - t) / (1 - RIGID) / np.maximum(r, 1e-9)
        cos, sin = np.cos(np.deg2rad(self.inside.turn)), np.sin(np.deg2rad(self.inside.turn))
        a = np.array([[cos, -sin], [sin, cos]]) @ np.diag(self.inside.scale) - np.eye(2)
        wanted = p @ a.T + np.asarray(self.inside.shift)
        up_x, up_y = (slope * unit[..., i] / self.half[i] for i in (0, 1))
        x, y = wanted[..., 0], wanted[..., 1]
        by = (1 + w * a[0, 0] + x * up_x, w * a[0, 1] + x * up_y, w * a[1, 0] + y * up_x, 1 + w * a[1, 1] + y * up_y)
        return p + w[..., None] * wanted, by

    def _dent(self, p: FloatArray, bulge: FloatArray) -> tuple[FloatArray, _Slope]:
        """Push the pressed side in; the opposite side stays."""
        n = self.direction
        across = np.array([n[1], -n[0]])
        depth = float(np.hypot(*(self.half * n)))
        s, t = p @ n, p @ across
        u = np.clip((s / depth + 1) / 2, 0, 1)
        rise, slope = u * u * (3 - 2 * u), 3 * u * (1 - u) / depth
        pushed = self.press.dent * bulge * np.exp(-((t / DENT_WIDTH) ** 2))
        up_n, up_t = pushed * slope, pushed * rise * -2 * t / DENT_WIDTH**2
        up_x, up_y = up_n * n[0] + up_t * across[0], up_n * n[1] + up_t * across[1]
        return p - (pushed * rise)[..., None] * n, (1 - n[0] * up_x, -n[0] * up_y, -n[1] * up_x, 1 - n[1] * up_y)

    def _whole(self, bulge: FloatArray) -> _Slope:
        """Flattening, then turn."""
        (nx, ny), press = self.direction, self.press
        along, over = bulge * (press.left - 1), bulge * (press.wider - 1)
        flat = (1 + along * nx * nx + over * ny * ny, (along - over) * nx * ny, (along - over) * nx * ny, 1 + along * ny * ny + over * nx * nx)
        cos, sin = np.cos(np.deg2rad(press.turn) * bulge), np.sin(np.deg2rad(press.turn) * bulge)
        return _times((cos, -sin, sin, cos), flat)


_Slope = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""Matrices [[a, b], [c, d]], entry by entry: an array for each."""


def _times(m: _Slope, n: _Slope) -> _Slope:
    a, b, c, d = m
    e, f, g, h = n
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _apply(m: _Slope, p: FloatArray) -> FloatArray:
    a, b, c, d = m
    return np.stack([a * p[..., 0] + b * p[..., 1], c * p[..., 0] + d * p[..., 1]], axis=-1)


def _solve(m: _Slope, q: FloatArray) -> FloatArray:
    a, b, c, d = m
    return _apply((d, -b, -c, a), q) / np.asarray(a * d - b * c)[..., None]


def given_mask(
    mask: NDArray[np.bool_], offset: FloatArray, z: FloatArray, distance: FloatArray, deformity: Deformity, faults: MaskFaults, rng: Generator
) -> NDArray[np.bool_]:
    """Make of a good mask one as it is given by others.

    Parameters
    ----------
    mask : (x, y, z) bool
    offset : (x, y, z, 2) array
        Of each voxel from the middle of the cord (right, front), mm of this subject.
    z : (x, y, z) array
        Template z of each voxel, mm.
    distance : (x, y, z) array
        In the plane of the slice to the border of the mask, voxels; positive inside.
    deformity : Deformity
    faults : MaskFaults
    rng : Generator
    """
    flip = (np.abs(distance) <= 1.0) & (rng.random(mask.shape) < faults.ragged / 2)
    out = mask ^ flip
    compressed = np.abs(z - deformity.z) < deformity.press.length
    ahead = np.where(mask, offset @ deformity.direction, np.nan)
    for k in range(mask.shape[2]):
        here = mask[:, :, k]
        if not here.any():
            continue
        middle = float(z[:, :, k][here].mean())
        if abs(middle - deformity.z) <= faults.gap / 2:
            out[:, :, k] = False
        elif faults.front and compressed[:, :, k][here].any():
            low, high = np.nanmin(ahead[:, :, k]), np.nanmax(ahead[:, :, k])
            out[:, :, k] &= ~(here & (ahead[:, :, k] > high - faults.front * deformity.bulge(np.array(middle)) * (high - low)))
    return np.asarray(out)
