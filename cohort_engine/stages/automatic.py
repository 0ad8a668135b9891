"""Stages that draw what a study lacks: cord masks and vertebral landmarks, so that images alone are enough. What people drew always goes first:
a single landmark of a subject names all discs of its image.

A file that is drawn lies beside the subject's ledger entries, and is read by the stages behind it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.cord.levels import Landmarks, landmarks_from_labels
from cohort_engine.errors import CohortError, CordError, GeometryError
from cohort_engine.io.bids import PRODUCT_OF
from cohort_engine.io.volume import Volume, read_volume, require_signal, same_grid
from cohort_engine.nn.weights import CORD, DISCS
from cohort_engine.stages.base import Array, Stage, StageInput, quality_arrays, register


def to_draw(files: Mapping[str, str], stages: Sequence[Stage]) -> frozenset[str]:
    """Roles that must be drawn for a subject so that every stage has its files, as far as that is possible.

    Parameters
    ----------
    files : mapping of role to location
        What the study has for the subject.
    stages : sequence of Stage
        Those that draw, and those that read.

    Examples
    --------
    >>> draw = Stage("segment", "1", dict, ("mt_on",), (), dict, draws="mt_mask")
    >>> read = Stage("read", "1", dict, ("mt_mask",), (), dict)
    >>> sorted(to_draw({"mt_on": "i"}, [draw, read])), sorted(to_draw({"mt_mask": "m"}, [draw, read])), sorted(to_draw({}, [draw, read]))
    (['mt_mask'], [], [])
    """
    drawers = {s.draws: s for s in stages if s.draws}
    obtainable = set(files)
    while more := {r for r, s in drawers.items() if r not in obtainable and any(obtainable.issuperset(roles) for roles in s.sets)}:
        obtainable |= more
    out: set[str] = set()
    queue = [s for s in stages if not s.draws]
    while queue:
        stage = queue.pop()
        possible = [roles for roles in stage.sets if obtainable.issuperset(roles)]
        if not stage.lacking(files) or not possible:
            continue
        drawn = set(possible[0]).difference(files, out)
        out |= drawn
        queue += [drawers[r] for r in drawn]
    return frozenset(out)


def run_segment(inputs: StageInput, *, contrast: str) -> dict[str, Array | Volume]:
    """Draw the cord mask of a contrast, and say how sure it is.

    Raises
    ------
    CordError
        No cord was found.
    """
    from cohort_engine.cord.segment import ABSENT, FLAGS, quality, segment

    what = schema.ROLES[PRODUCT_OF[contrast]]
    image = inputs.volume(PRODUCT_OF[contrast])
    require_signal(image, what=what)
    found = segment(image.data, image.affine, what=what)
    if ABSENT in found.flags:
        raise CordError(
            expected="a cord", found=FLAGS[ABSENT], where=what,
            remedy="Look at the image: add a cord mask drawn by hand (desc-manual_mask or label-SC_seg), or exclude the subject.",
        )  # fmt: skip
    return {schema.role(contrast, schema.MASK): Volume(found.mask, image.affine)} | quality_arrays(
        schema.segment_stage(contrast), schema.SEGMENT_QC, quality(found)
    )


def run_levels(inputs: StageInput, *, contrast: str) -> dict[str, Array | Volume]:
    """Find and name the discs of a contrast: one voxel each, on the centreline. A landmark that the study gives names them.

    Raises
    ------
    LevelError
        The names are not certain: a landmark is asked for. Or the discs do not agree with the one that was given.
    """
    from cohort_engine.cord.discs import label_discs
    from cohort_engine.nn.weights import load_discs

    mask = schema.role(contrast, schema.MASK)
    what, image, cord = schema.ROLES[PRODUCT_OF[contrast]], inputs.volume(PRODUCT_OF[contrast]), inputs.volume(mask)
    if not same_grid(image, cord):
        raise GeometryError(expected=f"the grid of the {what}", found="another", where=schema.ROLES[mask], remedy="Draw the mask on this very image.")
    given = _given(inputs, contrast)
    found = label_discs(image.data, image.affine, cord.data, inputs.template, network=load_discs(), given=given, what=what)
    landmarks = found.landmarks(what=what)
    points = np.zeros(image.data.shape, np.uint8)
    voxels = np.rint(image.grid.voxel(landmarks.xyz)).astype(int)
    inside = ((voxels >= 0) & (voxels < points.shape)).all(axis=1)
    points[tuple(voxels[inside].T)] = landmarks.numbers[inside]
    quality = {schema.DISC_COUNT: float(inside.sum()), schema.DISC_CONFIDENCE: float(found.confidence.min())}
    return {schema.role(contrast, schema.LANDMARKS): Volume(points, image.affine)} | quality_arrays(
        schema.levels_stage(contrast), schema.LEVELS_QC, quality
    )


def is_lone(inputs: StageInput, *, contrast: str) -> bool:
    """Tell whether the study gives a single landmark: no levels follow from one, but it names all discs.

    A file that cannot be read is left to the stages that read it.
    """
    try:
        given = _given(inputs, contrast)
    except CohortError as error:
        if error.retryable:
            raise
        return False
    return given is not None and len(given.numbers) == 1


def _given(inputs: StageInput, contrast: str) -> Landmarks | None:
    """Landmarks of the study, if any."""
    role = schema.role(contrast, schema.LANDMARKS)
    if role not in inputs.files:
        return None
    labels = read_volume(inputs.files[role], what=schema.ROLES[role], dtype=np.int32)
    kind = inputs.kinds[role] if inputs.params["landmarks"] == "auto" else inputs.params["landmarks"]
    return landmarks_from_labels(labels.data, labels.affine, kind=kind, what=schema.ROLES[role])


def levels_params(config: Config) -> dict[str, Any]:
    """Weights of the network of the discs, and what the study's landmarks are."""
    return network_params(config, task=DISCS) | {"landmarks": config.stages.fit.landmarks}


def network_params(config: Config, *, task: str) -> dict[str, Any]:
    """Weights of the networks of a task; where they run is no parameter."""
    from cohort_engine.nn.weights import content

    del config
    return {"weights": content(task)}


def _segments(config: Config) -> bool:
    return config.stages.segment.enabled


def _levels(config: Config) -> bool:
    return config.stages.levels.enabled


SEGMENT_MEMORY = 1000.0
"""torch, and an image of 64 x 320 x 320 voxels with what the networks make of it, MiB."""

for _contrast in (schema.MT, schema.T2W):
    register(
        Stage(
            name=schema.segment_stage(_contrast), version="1", run=partial(run_segment, contrast=_contrast),
            params=partial(network_params, task=CORD), wanted=_segments, roles=(PRODUCT_OF[_contrast],), draws=schema.role(_contrast, schema.MASK),
            writes=tuple(s.path for s in schema.qc_specs(schema.segment_stage(_contrast), schema.SEGMENT_QC).values()), memory=SEGMENT_MEMORY,
        ),
        schema.BIDS,
    )  # fmt: skip
register(
    Stage(
        name=schema.levels_stage(schema.T2W), version="2", run=partial(run_levels, contrast=schema.T2W), params=levels_params,
        wanted=_levels, roles=(PRODUCT_OF[schema.T2W], schema.role(schema.T2W, schema.MASK)),
        alternatives=((schema.role(schema.T2W, schema.LANDMARKS),), ()), draws=schema.role(schema.T2W, schema.LANDMARKS),
        completes=partial(is_lone, contrast=schema.T2W),
        writes=tuple(s.path for s in schema.qc_specs(schema.levels_stage(schema.T2W), schema.LEVELS_QC).values()), memory=SEGMENT_MEMORY,
    ),
    schema.BIDS,
)  # fmt: skip
