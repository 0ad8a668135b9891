"""Vertebral levels of one image: discs found and named, or given; the cord labelled by level as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask, cord_slices, slice_arc
from cohort_engine.cord.discs import Labelling, disc_name, label_discs, say_chance
from cohort_engine.cord.levels import Landmarks, LevelAxis, level_axis, levels_at
from cohort_engine.errors import ConfigError, LevelError
from cohort_engine.io.volume import on_voxels_of, read_mask, read_volume, require_signal, write_volume
from cohort_engine.nn.weights import load_discs
from cohort_engine.single.morphometry import MASK, REACH
from cohort_engine.single.reading import AUTO, LANDMARKS, read_landmarks
from cohort_engine.template.base import Heights
from cohort_engine.template.packing import FloatArray, apply_affine

if TYPE_CHECKING:
    import pandas as pd

IMAGE = "image"
GIVEN = "given"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Levels of one image.

    Attributes
    ----------
    landmarks : Landmarks
        Discs that were found, or what was given.
    confidence : (n,) array
        Of each landmark; NaN where it was given.
    axis : LevelAxis
    slice : (n,) array
        Where the landmarks lie, in slices from 0 at the bottom.
    """

    landmarks: Landmarks
    confidence: FloatArray
    axis: LevelAxis
    slice: FloatArray

    def table(self) -> pd.DataFrame:
        """One row a landmark: number, name, place and confidence."""
        import pandas as pd

        kind = self.landmarks.kind
        names = [disc_name(n) if kind == schema.DISC else schema.LEVEL_NAMES[n - 1] for n in self.landmarks.numbers]
        arc, _ = self.axis.centreline.project(self.landmarks.xyz)
        sure = [GIVEN if np.isnan(c) else say_chance(float(c)) for c in self.confidence]
        return pd.DataFrame({kind: self.landmarks.numbers, "name": names, "slice": self.slice, "mm along the cord": arc, "confidence": sure})


def label_image(
    image: str | Path, mask: str | Path, out: str | Path, *, template: Heights, discs: str | Path | None = None, points: str | Path | None = None,
    kind: str = AUTO, init: tuple[int | None, float | None] | None = None, device: str = "auto", half: bool | None = None,
    weights: str | Path | None = None,
) -> Labelled:  # fmt: skip
    """Label the cord of an image file by vertebral level.

    Parameters
    ----------
    image, mask : path or URL
        Image that shows discs, and its cord mask on the same grid.
    out : path or URL
        Cord mask labelled by level to write: 1 = C1 ... 8 = T1; 0 where the template has no level.
    template : Heights
        Distances between discs, and levels.
    discs : path or URL, optional
        One voxel a disc to write, on the centreline: value n is the disc above vertebra n (3 = C2/C3); up to 20 mm beyond the outer landmarks.
    points : path or URL, optional
        Landmarks that are known: points, or a mask labelled by level; any grid in the scanner space of the image. With two or more of them
        nothing is searched for.
    kind : str
        What points are: ``disc``, ``body``, or ``auto``: from the file name.
    init : (disc, slice), optional
        One disc that is known: its number, and its slice counted from 0 at the bottom of the image in RAS+ order.
    device, half, weights
        See `nn.weights.load_discs`.

    Returns
    -------
    Labelled

    Raises
    ------
    LevelError
        The names are not certain, and one landmark is asked for; or what was given contradicts itself or the image.
    InputError, GeometryError, CordError, StorageError, ConfigError
    """
    volume = read_volume(image, what=IMAGE)
    require_signal(volume, what=IMAGE)
    cord = on_voxels_of(volume, read_mask(mask, what=MASK), what=MASK, like="the image", remedy="Segment this very image.")
    affine = np.asarray(volume.affine, float)
    line = centreline_from_mask(cord.data, affine, what=MASK)
    given = _given(points, kind, init, line, affine, volume.data.shape[2])
    if given is not None and len(given.numbers) > 1:
        landmarks, confidence = given, np.full(len(given.numbers), np.nan)
    else:
        found: Labelling = label_discs(
            volume.data, affine, cord.data, template, network=load_discs(device=device, half=half, folder=weights), given=given, what=IMAGE
        )
        landmarks, confidence = found.landmarks(), found.confidence
    axis = level_axis(line, landmarks, template, what=LANDMARKS)
    write_volume(out, volume.with_data(level_mask(cord.data, affine, axis, template)))
    at = apply_affine(np.linalg.inv(affine), landmarks.xyz)
    if discs is not None:
        write_volume(discs, volume.with_data(_disc_points(axis, template, affine, cord.data.shape)))
    return Labelled(landmarks, confidence, axis, at[:, 2])


def level_mask(mask: NDArray[np.floating], affine: FloatArray, axis: LevelAxis, template: Heights) -> NDArray[np.uint8]:
    """Label the cord (x, y, z) by level number, each voxel by where it meets the centreline at a right angle."""
    cord, _ = cord_slices(mask, what=MASK)
    voxels = np.argwhere(cord >= 0.5)
    out = np.zeros(cord.shape, np.uint8)
    arc, _ = axis.centreline.project(apply_affine(affine, voxels.astype(float)))
    out[tuple(voxels.T)] = levels_at(axis.z(arc), template)
    return out


def _given(
    points: str | Path | None, kind: str, init: tuple[int | None, float | None] | None, line: Centreline, affine: FloatArray, slices: int
) -> Landmarks | None:
    """Landmarks that the user knows."""
    if points is not None and init is not None:
        raise ConfigError(expected="one kind of landmark", found="--points and --init-disc", where=LANDMARKS, remedy="Give one of them.")
    if points is not None:
        return read_landmarks(points, kind)
    if init is None:
        return None
    number, z = init
    if number is None or z is None:
        raise ConfigError(expected="--init-disc and --init-z", found="one of them", where=LANDMARKS, remedy="A known disc has a number and a slice.")
    if not 0 <= z <= slices - 1:
        raise LevelError(
            expected=f"a slice from 0 to {slices - 1}",
            found=f"{z:g}",
            where="--init-z",
            remedy="Slices are counted from 0 at the bottom of the image.",
        )
    arc = slice_arc(line, affine, np.array([z]))
    return Landmarks(schema.DISC, np.array([number]), line.position(arc))


def _disc_points(axis: LevelAxis, template: Heights, affine: FloatArray, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One voxel a disc on the cord, up to `REACH` mm beyond the outer landmarks."""
    known = template.landmarks[schema.DISC]
    numbers = np.array(sorted(known))
    arc = axis.arc(np.array([known[n] for n in numbers]))
    voxel = np.rint(apply_affine(np.linalg.inv(affine), axis.centreline.position(arc))).astype(int)
    near = (arc >= axis.knot_arc[0] - REACH) & (arc <= axis.knot_arc[-1] + REACH)
    kept = near & ((voxel >= 0) & (voxel < np.array(shape))).all(axis=1)
    out = np.zeros(shape, np.uint8)
    out[tuple(voxel[kept].T)] = numbers[kept]
    return out
