"""What the one-image commands read: images that are mostly zero, and vertebral landmarks, of which one function says what they count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cohort_engine import schema
from cohort_engine.cord.levels import Landmarks, landmarks_from_labels
from cohort_engine.errors import unknown_name
from cohort_engine.io.names import kind_of_landmarks
from cohort_engine.io.volume import Volume, read_nonzero

AUTO = "auto"
KINDS = (AUTO, schema.DISC, schema.BODY)
LANDMARKS = "vertebral landmarks"


def read_landmarks(labels: str | Path | Volume, kind: str = AUTO, *, what: str = LANDMARKS) -> Landmarks:
    """Read landmarks.

    Parameters
    ----------
    labels : path, URL or Volume
        Points, or a mask labelled by level; any grid in the scanner space of the image.
    kind : str
        What the numbers count: ``disc`` (n lies above vertebra n), ``body`` (n is vertebra n), or ``auto``: from the file name. A mask needs no name.
    what : str
        Words of the role, for messages.

    Raises
    ------
    UnknownNameError
        A kind nobody has heard of.
    LevelError
        See `cord.levels.landmarks_from_labels`.
    InputError, StorageError
        The file cannot be read.
    """
    if kind not in KINDS:
        raise unknown_name("kind of landmark", kind, list(KINDS), where="--kind")
    named = None if isinstance(labels, Volume) else kind_of_landmarks(str(labels))
    volume = labels if isinstance(labels, Volume) else read_around(labels, what=what)
    return landmarks_from_labels(volume.data, volume.affine, kind=named if kind == AUTO else kind, what=what)


def read_around(location: str | Path, *, what: str) -> Volume:
    """Read a mask or labels, cut in x and y to what is not zero; slices keep their numbers. A voxel that is not a number lies outside."""
    grid, index, values = read_nonzero(location, what=what)
    index, values = index[np.isfinite(values)], values[np.isfinite(values)]
    ijk = np.stack(np.unravel_index(index, grid.shape), axis=1)
    if len(ijk) == 0:
        return Volume(np.zeros((1, 1, grid.shape[2]), np.float32), np.asarray(grid.affine, np.float64))
    corner, end = ijk.min(axis=0), ijk.max(axis=0) + 1
    corner[2], end[2] = 0, grid.shape[2]
    data = np.zeros(end - corner, np.float32)
    data[tuple((ijk - corner).T)] = values
    affine = np.array(grid.affine, np.float64)
    affine[:3, 3] = grid.world(corner.astype(float))
    return Volume(data, affine)
