"""Quality that can fail (stage ``quality``): numbers that are no comparison with what was fitted, and the probability that the values are usable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import CohortError
from cohort_engine.quality import vocabulary
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.fit import landmarks_of

if TYPE_CHECKING:
    from cohort_engine.quality.features import Opinion

QUALITY_MEMORY = 1000.0
"""Both MT images, a T2w image brought onto their grid, and the network of the discs, MiB."""


class QualityConfig(Section):
    """Whether a subject's values are usable (stage ``quality``): numbers of images, masks, levels and map, and one probability with its reasons."""

    enabled: bool = True
    """Judge every subject. Nobody is left out of an analysis for it unless ``analysis.least_usable`` says so."""
    opinion: bool = True
    """Let the network name the discs of T2w images whose landmarks the study gives, without knowing them, and compare."""


def run_quality(inputs: StageInput) -> dict[str, Array]:
    """Judge a subject: the numbers of `vocabulary.quality_specs`."""
    from cohort_engine.quality.features import of_subject
    from cohort_engine.quality.judge import judge, told

    t2w, mt = schema.CONTRASTS[schema.T2W], schema.CONTRASTS[schema.MT]
    images = {role: inputs.volume(role) for role in (mt.image, schema.MT_OFF, mt.mask, t2w.image, t2w.mask) if role in inputs.files}
    landmarks = landmarks_of(inputs, t2w.landmarks, inputs.params["fit.landmarks"]) if t2w.landmarks in inputs.files else None
    opinion = None
    if inputs.params["opinion"] and landmarks is not None and t2w.landmarks not in inputs.made and t2w.image in images:
        opinion = _opinion(inputs, t2w)
    found = of_subject(images, inputs.load(schema.fit_spec(mt.name).path), inputs.template, landmarks, opinion)
    verdict = judge(found.values)
    values = found.values | {vocabulary.fault(kind): p for kind, p in verdict.faults.items()} | {vocabulary.USABLE: verdict.usable}
    specs = vocabulary.quality_specs()
    reasons = specs.pop(vocabulary.REASONS)
    return quality_arrays(specs, values) | {reasons.path: np.array(told(found, verdict), dtype=object)}


def _opinion(inputs: StageInput, t2w: schema.Contrast) -> Opinion | None:
    """Ask the network for the discs of the T2w image; nothing where it is not certain, or cannot look."""
    from cohort_engine.nn.weights import load_discs
    from cohort_engine.quality.features import opinion

    image, mask = inputs.volume(t2w.image), inputs.volume(t2w.mask)
    try:
        return opinion(image.data, image.affine, mask.data, inputs.template, load_discs())
    except CohortError as error:
        if error.retryable:
            raise
        return None


def quality_params(config: Config) -> dict[str, Any]:
    """Its settings, the scorecard, and the network where it is asked."""
    from cohort_engine.nn.weights import DISCS, content
    from cohort_engine.quality.judge import card

    opinion = config.stages.quality.opinion
    network = {"weights": content(DISCS)} if opinion else {}
    return {"opinion": opinion, "fit.landmarks": config.stages.fit.landmarks, "card": card()["weights"], **network}


def quality_stages(config: Config) -> Iterable[Stage]:
    """One stage, where MTR is computed: only then are MT images among the files."""
    if not config.stages.quality.enabled or schema.MTR not in config.stages.metrics:
        return
    t2w, mt = schema.CONTRASTS[schema.T2W], schema.CONTRASTS[schema.MT]
    others = ((t2w.image, t2w.mask, t2w.landmarks), (t2w.mask, t2w.landmarks), (t2w.image, t2w.mask), (t2w.mask,), ())
    yield Stage(
        name=vocabulary.QUALITY_STAGE, version="1", run=run_quality, params=quality_params(config), roles=(mt.image, mt.mask),
        alternatives=tuple((*off, *more) for more in others for off in ((schema.MT_OFF,), ())), needs=(schema.fit_stage(mt.name), schema.MTR),
        writes=tuple(vocabulary.quality_specs().values()), memory=QUALITY_MEMORY,
    )  # fmt: skip


def quality_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how subjects were judged."""
    if not metrics or not science["stages"].get("quality", {}).get("enabled", False) or science["source"] != schema.BIDS:
        return ""
    return (
        "Each subject was judged by numbers that are no comparison with what was fitted: the share of the image that the template's tissues explain, "
        "the image's edges around the cord mask, the mask of the other image of the session, the heights of vertebrae, and the shifts between MT-on "
        "and MT-off; a scorecard fitted on simulated failures gave the probability that the values are usable."
    )


register(StageKind("quality", QualityConfig, quality_stages, quality_methods))
