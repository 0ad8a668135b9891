"""What a study lacks is made: cord masks (stages ``segment_<contrast>``) and vertebral landmarks (``levels_t2w``), so that images alone are enough.

What people made always goes first; a single landmark of a subject names all discs of its image. A file that is made lies beside the subject's
records, and is read by the stages behind it like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.cord.levels import Landmarks
from cohort_engine.errors import CohortError, CordError
from cohort_engine.io.volume import Volume, require_signal
from cohort_engine.nn.weights import CORD, DISCS
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.fit import LANDMARKS, contrasts_of, landmarks_of

SEGMENT_MEMORY = 1000.0
"""torch, and an image of 64 x 320 x 320 voxels with what the networks make of it, MiB."""


class SegmentConfig(Section):
    """Cord masks of subjects who have none (stages ``segment_<contrast>``): masks of the study always go first."""

    enabled: bool = True
    """Segment them with the networks of the package."""


class LevelsConfig(Section):
    """Vertebral landmarks of subjects who have none, from the T2w image (stage ``levels_t2w``): landmarks of the study always go first."""

    enabled: bool = True
    """Find and name the discs with the network of the package. Where it is not certain, the subject fails and asks for a landmark."""


def _quality(stage: str, quantities: dict[str, tuple[str, str]]) -> dict[str, schema.VariableSpec]:
    return schema.qc_specs(stage, quantities, stage)


def segment_quality(contrast: str) -> dict[str, schema.VariableSpec]:
    """Quality numbers of a mask that was segmented here."""
    return _quality(schema.segment_stage(contrast), dict(schema.SEGMENT_QC))


def levels_quality(contrast: str) -> dict[str, schema.VariableSpec]:
    """Quality numbers of landmarks that were found here."""
    return _quality(schema.levels_stage(contrast), dict(schema.LEVELS_QC))


def run_segment(inputs: StageInput, *, contrast: schema.Contrast) -> dict[str, Array | Volume]:
    """Segment the cord of a contrast, and say how sure it is. Slices that the image leaves open are filled from the T2w mask of the subject.

    Raises
    ------
    CordError
        No cord was found.
    """
    from cohort_engine.cord.segment import ABSENT, FLAGS, quality, segment

    what = schema.words(contrast.image)
    image = inputs.volume(contrast.image)
    require_signal(image, what=what)
    found = segment(image.data, image.affine, what=what)
    other = schema.CONTRASTS[schema.T2W].mask
    if ABSENT not in found.flags and other in inputs.files and other != contrast.mask:
        from cohort_engine.cord.prior import completed, onto

        mask = inputs.mask(other)
        found = completed(found, onto(mask.data, mask.affine, image.data.shape, image.affine), image.data)
    if ABSENT in found.flags:
        raise CordError(
            expected="a cord", found=FLAGS[ABSENT], where=what,
            remedy="Look at the image: add a cord mask made by hand (desc-manual_mask or label-SC_seg), or exclude the subject.",
        )  # fmt: skip
    return {contrast.mask: image.with_data(found.mask)} | quality_arrays(segment_quality(contrast.name), quality(found))


def run_levels(inputs: StageInput, *, contrast: schema.Contrast) -> dict[str, Array | Volume]:
    """Find and name the discs of a contrast: one voxel each, on the centreline. A landmark that the study gives names them.

    Raises
    ------
    LevelError
        The names are not certain: a landmark is asked for. Or the discs do not agree with the one that was given.
    """
    from cohort_engine.cord.discs import label_discs
    from cohort_engine.nn.weights import load_discs

    what, image = schema.words(contrast.image), inputs.volume(contrast.image)
    cord = inputs.mask(contrast.mask, on=image, like=contrast.image, remedy="Segment this very image.")
    found = label_discs(image.data, image.affine, cord.data, inputs.template, network=load_discs(), given=_given(inputs, contrast), what=what)
    landmarks = found.landmarks(what=what)
    points = np.zeros(image.data.shape, np.uint8)
    voxels = np.rint(image.grid.voxel(landmarks.xyz)).astype(int)
    inside = ((voxels >= 0) & (voxels < points.shape)).all(axis=1)
    points[tuple(voxels[inside].T)] = landmarks.numbers[inside]
    quality = {schema.DISC_COUNT: float(inside.sum()), schema.DISC_CONFIDENCE: float(found.confidence.min())}
    return {contrast.landmarks: image.with_data(points)} | quality_arrays(levels_quality(contrast.name), quality)


def is_lone(inputs: StageInput, *, contrast: schema.Contrast) -> bool:
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


def _given(inputs: StageInput, contrast: schema.Contrast) -> Landmarks | None:
    """Landmarks of the study, if any."""
    return landmarks_of(inputs, contrast.landmarks, inputs.params[LANDMARKS]) if contrast.landmarks in inputs.files else None


def network_params(task: str) -> dict[str, Any]:
    """Weights of the networks of a task; where they run is no parameter."""
    from cohort_engine.nn.weights import content

    return {"weights": content(task)}


def segment_stages(config: Config) -> Iterable[Stage]:
    """One stage for each contrast that gets a template map, and for T2w, which gives the levels."""
    if config.stages.segment.enabled:
        for name in dict.fromkeys((*contrasts_of(config), schema.T2W)):
            c = schema.CONTRASTS[name]
            yield Stage(
                name=schema.segment_stage(name), version="3", run=partial(run_segment, contrast=c), params=network_params(CORD), roles=(c.image,),
                alternatives=((),) if name == schema.T2W else ((schema.CONTRASTS[schema.T2W].mask,), ()),
                makes=c.mask, writes=tuple(segment_quality(name).values()), memory=SEGMENT_MEMORY, gpu=True,
            )  # fmt: skip


def levels_stages(config: Config) -> Iterable[Stage]:
    """One stage, for T2w."""
    if config.stages.levels.enabled:
        c = schema.CONTRASTS[schema.T2W]
        yield Stage(
            name=schema.levels_stage(c.name), version="4", run=partial(run_levels, contrast=c),
            params=network_params(DISCS) | {LANDMARKS: config.stages.fit.landmarks}, roles=(c.image, c.mask),
            alternatives=((c.landmarks,), ()), makes=c.landmarks, completes=partial(is_lone, contrast=c),
            writes=tuple(levels_quality(c.name).values()), memory=SEGMENT_MEMORY, gpu=True,
        )  # fmt: skip


register(StageKind("segment", SegmentConfig, segment_stages))
register(StageKind("levels", LevelsConfig, levels_stages))
