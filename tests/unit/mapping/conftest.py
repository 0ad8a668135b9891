"""A cord whose template map is known: the template bent, stretched, flattened and turned by a formula, and seen by a scanner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask
from cohort_engine.cord.levels import Landmarks, LevelAxis, level_axis
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import parametric_cord


@dataclass(frozen=True)
class Bend:
    """The true map: template (x, y, z) -> cord coordinates -> scanner mm."""

    line: Centreline
    middle: float
    stretch: float = 1.0
    wide: float = 1.0
    flat: float = 1.0
    waist: float = 0.0
    turn: float = 0.0

    def scale(self, arc: np.ndarray) -> tuple[float, np.ndarray]:
        """Native over template size, across and from front to back; a waist (a compressed cord) in the middle."""
        return self.wide, self.flat * (1 - self.waist * np.exp(-((arc - self.line.length / 2) ** 2) / (2 * 8**2)))

    def native(self, xyz: np.ndarray) -> np.ndarray:
        """Scanner position (..., 3) of template positions (..., 3)."""
        arc = self.line.length / 2 + (xyz[..., 2] - self.middle) * self.stretch
        sx, sy = self.scale(arc)
        u, v = sx * xyz[..., 0], sy * xyz[..., 1]
        c, s = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
        e_x, e_y, _ = self.line.frame(arc)
        return self.line.position(arc) + (c * u - s * v)[..., None] * e_x + (s * u + c * v)[..., None] * e_y

    def template(self, xyz: np.ndarray) -> np.ndarray:
        """Template position (n, 3) of scanner positions (n, 3)."""
        arc, _ = self.line.project(xyz)
        e_x, e_y, _ = self.line.frame(arc)
        off = xyz - self.line.position(arc)
        u, v = (off * e_x).sum(-1), (off * e_y).sum(-1)
        c, s = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
        sx, sy = self.scale(arc)
        return np.stack([(c * u + s * v) / sx, (c * v - s * u) / sy, self.middle + (arc - self.line.length / 2) / self.stretch], axis=-1)


@dataclass(frozen=True)
class Scan:
    """An image of the bent cord, `inside` the true occupancy of the cord, `levels` from landmarks placed without error."""

    bend: Bend
    mask: np.ndarray
    affine: np.ndarray
    levels: LevelAxis


MakeScan = Callable[..., Scan]


@pytest.fixture(scope="session")
def template() -> Template:
    return parametric_cord(top="C3", bottom="C6")


@pytest.fixture(scope="session")
def make_scan(template: Template) -> MakeScan:
    """Scan of a bent cord: the voxel size (mm), the tilt of the slices (degrees), their number along z, and the fields of `Bend`."""

    def make(voxel: tuple[float, float, float] = (1, 1, 1), *, tilt: float = 0.0, length: float = 60.0, sway: float = 6.0, **bend: Any) -> Scan:
        u = np.linspace(-80, 80, 3201)
        line = Centreline.through(np.stack([0.06 * u, sway * np.sin(2 * np.pi * u / 160) + 0.1 * u, u], axis=1))
        body = template.landmarks[schema.BODY]
        truth = Bend(line, (body[4] + body[5]) / 2, **bend)
        shape = tuple(int(np.ceil(f / v)) for f, v in zip((36, 56, length), voxel, strict=True))
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        affine = np.eye(4)
        affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * voxel
        affine[:3, 3] = line.position(line.length / 2) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        at = truth.template(np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3])
        index = (at - template.block_grid.affine[:3, 3]) / template.block_grid.spacing
        mask = (ndimage.map_coordinates(template.cord, index.T, order=1, mode="nearest") >= 0.5).reshape(shape).astype(np.float32)
        numbers = np.array([3, 4, 5, 6])
        places = truth.native(np.array([[0.0, 0, body[n]] for n in numbers]))
        levels = level_axis(centreline_from_mask(mask, affine, what="cord mask"), Landmarks(schema.BODY, numbers, places), template)
        return Scan(truth, mask, affine, levels)

    return make
