"""Stages that draw what a study lacks: cord masks, so that images alone are enough. What people drew always goes first.

A file that is drawn lies beside the subject's ledger entries, and is read by the stages behind it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.stages import Array, Stage, StageInput, quality_arrays, register
from cohort_engine.errors import CordError
from cohort_engine.io.bids import PRODUCT_OF
from cohort_engine.io.volume import Volume, require_signal


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


def segment_params(config: Config) -> dict[str, Any]:
    """Weights of the networks; where they run is no parameter."""
    from cohort_engine.nn.weights import content

    del config
    return {"weights": content()}


def _segments(config: Config) -> bool:
    return config.stages.segment.enabled


SEGMENT_MEMORY = 1000.0
"""torch, and an image of 64 x 320 x 320 voxels with what the networks make of it, MiB."""

for _contrast in (schema.MT, schema.T2W):
    register(
        Stage(
            name=schema.segment_stage(_contrast), version="1", run=partial(run_segment, contrast=_contrast), params=segment_params,
            wanted=_segments, roles=(PRODUCT_OF[_contrast],), draws=schema.role(_contrast, schema.MASK),
            writes=tuple(s.path for s in schema.qc_specs(schema.segment_stage(_contrast), schema.SEGMENT_QC).values()), memory=SEGMENT_MEMORY,
        ),
        schema.BIDS,
    )  # fmt: skip
