"""The shape of a simulated neck: a curved, compressible cord with an exact map between template and scanner coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.phantom.compression import Deformity, Patient
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

STEP = 0.1
"""Distance of two points of the tabulated centreline, mm of template z."""
NECK_LEVELS = range(2, 8)
"""Scanned are C2 to C7, or all of a shorter template."""
BEYOND, ABOVE = 40.0, 80.0
"""The centreline goes on this far below and above the template, mm."""
COMPRESSED_DISC = 6
"""Compression is worst at the disc above this vertebra: C5/C6."""
SQUEEZE = 0.45
"""Part of the antero-posterior diameter that the worst compression takes away."""
WIDEN = 0.12
"""Part of the width that it adds."""
BULGE = 8.0
"""Distance from the compression at which 1/e of it is left, mm."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One subject's cord. Template coordinates (X, Y, Z) lie straight; scanner coordinates follow the curve.

    A template point is carried to ``c(Z) + (X - x0(Z)) fx(Z) e_x(Z) + (Y - y0(Z)) fy(Z) e_y(Z)``, with the centreline c, the template cord's own
    centre (x0, y0), the frame (e_x, e_y, tangent) turned by a small angle about the tangent, and the scale factors of this subject.

    Attributes
    ----------
    z : (n,) array
        Template z of the tabulated points, mm, upwards.
    curve, tangent, e_x, e_y : (n, 3) arrays
        Centreline in RAS+ mm and its right-handed frame.
    speed : (n,) array
        Millimetres of arc per millimetre of template z.
    centre : (n, 2) array
        Centre of the template's cord, mm.
    scale : (n, 2) array
        Factors fx and fy.
    severity : float
        Compression, 0 (none) to 1.
    compressed_z : float
        Template z of the worst compression, mm.
    deformity : Deformity, optional
        How the cord is pressed out of shape before it is carried to the scanner; the scale factors then know no compression.
    """

    z: FloatArray
    curve: FloatArray
    tangent: FloatArray
    e_x: FloatArray
    e_y: FloatArray
    speed: FloatArray
    centre: FloatArray
    scale: FloatArray
    severity: float
    compressed_z: float
    deformity: Deformity | None = None

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        """All columns side by side: curve 0:3, tangent 3:6, e_x 6:9, e_y 9:12, speed 12, centre 13:15, scale 15:17."""
        return np.concatenate([self.curve, self.tangent, self.e_x, self.e_y, self.speed[:, None], self.centre, self.scale], axis=1)

    def _at(self, z: FloatArray, columns: slice) -> NDArray[np.float64]:
        """Linear interpolation of some columns at template z; the ends go on unchanged."""
        t = np.clip((z - self.z[0]) / STEP, 0, len(self.z) - 1.000001)
        i = t.astype(np.int64)
        t = (t - i)[..., None]
        table = self._table[:, columns]
        out: NDArray[np.float64] = table[i] * (1 - t) + table[i + 1] * t
        return out

    def world(self, xyz: FloatArray) -> FloatArray:
        """Template mm (..., 3) to scanner RAS+ mm (..., 3)."""
        row = self._at(np.asarray(xyz, float)[..., 2], slice(None))
        offset = self._pressed(np.asarray(xyz, float), row[..., 13:15]) * row[..., 15:17]
        return np.asarray(row[..., 0:3] + offset[..., :1] * row[..., 6:9] + offset[..., 1:] * row[..., 9:12])

    def template(self, xyz: FloatArray, *, start: FloatArray | None = None, iterations: int = 4) -> FloatArray:
        """Scanner RAS+ mm (..., 3) to template mm (..., 3): Newton's method for the foot on the centreline, exact to 1e-3 mm near the cord.

        `start` (...) is a first guess of the template z.
        """
        xyz = np.asarray(xyz, float)
        z = np.interp(xyz[..., 2], self.curve[:, 2], self.z) if start is None else start
        for _ in range(iterations):
            row = self._at(z, slice(0, 13))
            along = ((xyz - row[..., 0:3]) * row[..., 3:6]).sum(-1)
            z = z + along / row[..., 12]
        row = self._at(z, slice(None))
        away = xyz - row[..., 0:3]
        offset: FloatArray = np.stack([(away * row[..., 6:9]).sum(-1), (away * row[..., 9:12]).sum(-1)], axis=-1) / row[..., 15:17]
        if self.deformity is not None:
            offset = self.deformity.backward(offset, z)
        return np.concatenate([offset + row[..., 13:15], z[..., None]], axis=-1)

    def _pressed(self, xyz: FloatArray, centre: FloatArray) -> FloatArray:
        """Offset (..., 2) of template points from the middle of the cord, mm of the template; where the cord is deformed, as it is then."""
        offset = xyz[..., :2] - centre
        return offset if self.deformity is None else self.deformity.forward(offset, xyz[..., 2])

    def middle(self, z: FloatArray) -> FloatArray:
        """Middle (..., 2) of the template's cord at template z (...), mm."""
        return np.asarray(self._at(np.asarray(z, float), slice(13, 15)))

    def stretch(self, xyz: FloatArray) -> FloatArray:
        """Area factor (...) of the deformity alone at template points (..., 3): 1 where there is none."""
        xyz = np.asarray(xyz, float)
        if self.deformity is None:
            return np.ones(xyz.shape[:-1])
        return self.deformity.stretch(xyz[..., :2] - self.middle(xyz[..., 2]), xyz[..., 2])

    def jacobian(self, z: FloatArray) -> FloatArray:
        """Scanner volume over template volume on the centreline at template z (...), without the deformity."""
        row = self._at(np.asarray(z, float), slice(12, 17))
        return np.asarray(row[..., 0] * row[..., 3] * row[..., 4])

    def area_factor(self, z: FloatArray) -> FloatArray:
        """Cross-section over the template's cross-section at template z (...), without the deformity."""
        row = self._at(np.asarray(z, float), slice(15, 17))
        return np.asarray(row[..., 0] * row[..., 1])

    def offset(self, xyz: FloatArray) -> FloatArray:
        """Scanner distance (..., 2) of template points (..., 3) from the centreline along e_x and e_y, mm."""
        row = self._at(np.asarray(xyz, float)[..., 2], slice(13, 17))
        return np.asarray(self._pressed(np.asarray(xyz, float), row[..., :2]) * row[..., 2:])

    def moved(self, offset: FloatArray) -> Anatomy:
        """Return the same cord elsewhere in the scanner."""
        return replace(self, curve=self.curve + np.asarray(offset, float))


def draw_anatomy(template: Template, rng: Generator, *, severity: float, patient: Patient | None = None) -> Anatomy:
    """Draw a subject.

    Parameters
    ----------
    template : Template
    rng : Generator
    severity : float
        Compression at C5/C6, 0 (none) to 1.
    patient : Patient, optional
        How the cord is compressed, in place of the even flattening from front to back; `severity` is then that of the tissue alone.

    Returns
    -------
    Anatomy
        Lordosis of about 20 degrees over the neck, a lateral bend of a few mm, cord size 0.9 to 1.1, length 0.85 to 1.05 of the template's.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> cord = parametric_cord(spacing=1.0, top="C3", bottom="C4")
    >>> anatomy = draw_anatomy(cord, np.random.default_rng(0), severity=0.0)
    >>> points = np.array([[3.0, -2.0, -50.0], [0.0, 4.0, -60.0]])
    >>> bool(np.abs(anatomy.template(anatomy.world(points)) - points).max() < 1e-3)
    True
    """
    low, high = _ends(template, np.flatnonzero(template.slice_level))
    z = np.arange(low - BEYOND, high + ABOVE + STEP, STEP)
    middle = sum(neck(template)) / 2
    u = np.tanh((z - middle) / 100.0)  # about -0.5 .. 0.5 over the neck; the thoracic cord goes on nearly straight
    length = rng.uniform(0.85, 1.05)
    speed = length * (1 + 0.06 * np.sin(2 * np.pi * (u * rng.uniform(1.5, 2.5) + rng.uniform())))
    sagittal = np.deg2rad(rng.normal(-8, 4) + rng.normal(20, 7) * u + rng.normal(0, 3) * np.sin(2 * np.pi * u))
    lateral = np.deg2rad(rng.normal(0, 1.5) + rng.normal(0, 4) * np.sin(2 * np.pi * (u + rng.uniform())))
    roll = np.deg2rad(rng.normal(0, 2.5) + rng.normal(0, 2.5) * np.sin(np.pi * (u + rng.uniform())))
    size = rng.uniform(0.92, 1.08) * np.array([1.0, 1.0]) * (1 + rng.normal(0, 0.02, 2))
    wander = rng.uniform(-4.0, 4.0)
    tangent = np.stack([np.sin(lateral), np.cos(lateral) * np.sin(sagittal), np.cos(lateral) * np.cos(sagittal)], axis=-1)
    walked = np.cumsum((tangent * speed[:, None])[:-1] + (tangent * speed[:, None])[1:], axis=0) * STEP / 2
    curve = np.concatenate([np.zeros((1, 3)), walked])
    curve -= curve[np.searchsorted(z, middle)]
    compressed = _compressed_z(template) + wander
    bulge = np.exp(-(((z - compressed) / BULGE) ** 2))
    squeezed = severity if patient is None else 0.0
    scale = size * np.stack([1 + WIDEN * squeezed * bulge, 1 - SQUEEZE * squeezed * bulge], axis=-1)
    right = np.array([1.0, 0.0, 0.0]) - tangent * tangent[:, :1]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    front = np.cross(tangent, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    e_x, e_y = right * cos + front * sin, front * cos - right * sin
    deformity = None if patient is None else Deformity(patient.press, patient.inside, compressed, _half_diameters(template))
    return Anatomy(z, curve, tangent, e_x, e_y, speed, _cord_centre(template, z), scale, severity, compressed, deformity)


def neck_slices(template: Template) -> NDArray[np.intp]:
    """Grid slices of the neck."""
    k = np.flatnonzero(np.isin(template.slice_level, NECK_LEVELS))
    return k if k.size else np.flatnonzero(template.slice_level)


def neck(template: Template) -> tuple[float, float]:
    """Template z of the lower and upper end of the neck, mm."""
    return _ends(template, neck_slices(template))


def _ends(template: Template, k: NDArray[np.intp]) -> tuple[float, float]:
    ends = template.grid.world(np.array([[0, 0, k[0]], [0, 0, k[-1]]], float))[:, 2]
    return float(ends[0]), float(ends[1])


def _compressed_z(template: Template) -> float:
    discs = template.landmarks[schema.DISC]
    return float(discs[COMPRESSED_DISC]) if COMPRESSED_DISC in discs else float(np.mean(neck(template)))


def _cord_centre(template: Template, z: FloatArray) -> FloatArray:
    """Centre (n, 2) of the template's cord at template z, mm; the first and last centre go on beyond the ends."""
    grid = template.block_grid
    i, j, k = (np.arange(n) for n in grid.shape)
    area = template.cord.sum((0, 1))
    used = area > 0
    centre = np.stack([(template.cord.sum(1) * i[:, None]).sum(0)[used], (template.cord.sum(0) * j[:, None]).sum(0)[used], (area * k)[used]], axis=-1)
    xyz = grid.world(centre / area[used, None])
    return np.stack([np.interp(z, xyz[:, 2], xyz[:, axis]) for axis in (0, 1)], axis=-1)


def _half_diameters(template: Template) -> NDArray[np.float64]:
    """Half diameters (right-left, front-back) of the ellipse with the second moments of the template's cord in the neck, mm: the median slice."""
    k = neck_slices(template) - template.corner[2]
    cord = template.cord[:, :, k[(k >= 0) & (k < template.cord.shape[2])]].astype(float)
    out = []
    for axis in (0, 1):
        marginal = cord.sum(1 - axis)
        i = np.arange(len(marginal))[:, None]
        mass = np.maximum(marginal.sum(0), 1e-9)
        middle = (marginal * i).sum(0) / mass
        out.append(2 * float(template.grid.spacing[axis]) * float(np.median(np.sqrt((marginal * (i - middle) ** 2).sum(0) / mass))))
    return np.array(out)
