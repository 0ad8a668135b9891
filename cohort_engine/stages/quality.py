"""Quality that can fail (stage ``quality``): numbers that are no comparison with what was fitted, and the probability that the values are usable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import CohortError
from cohort_engine.io.volume import Volume
from cohort_engine.quality import vocabulary
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.fit import landmarks_of
from cohort_engine.stages.metric import AtlasOf, ImageOf, fitted_atlas, sums_of_slices
from cohort_engine.stages.mtr import MTR, mtr_image, mtr_params

if TYPE_CHECKING:
    from cohort_engine.quality.features import Opinion

QUALITY_MEMORY = 1000.0
"""Both MT images, a T2w image brought onto their grid, and the network of the discs, MiB."""


_T2W = schema.CONTRASTS[schema.T2W]
OTHERS = ((_T2W.image, _T2W.mask, _T2W.landmarks), (_T2W.mask, _T2W.landmarks), (_T2W.image, _T2W.mask), (_T2W.mask,), ())
"""Files of T2w that help to judge, best first."""


class QualityConfig(Section):
    """Whether a subject's values are usable (stage ``quality``): numbers of images, masks, levels and map, and one probability with its reasons."""

    enabled: bool = True
    """Judge every subject. Nobody is left out of an analysis for it unless ``analysis.quality`` says so."""
    opinion: bool = True
    """Let the network name the discs of T2w images whose landmarks the study gives, without knowing them, and compare."""


def scans(inputs: StageInput) -> dict[str, Volume]:
    """Read the images and masks of the subject, by role."""
    t2w, mt = schema.CONTRASTS[schema.T2W], schema.CONTRASTS[schema.MT]
    return {role: inputs.volume(role) for role in (mt.image, schema.MT_OFF, mt.mask, t2w.image, t2w.mask) if role in inputs.files}


def run_quality(
    inputs: StageInput,
    *,
    read: Callable[[StageInput], Mapping[str, Volume]] = scans,
    image: ImageOf = mtr_image,
    atlas: AtlasOf | None = fitted_atlas,
) -> dict[str, Array]:
    """Judge a subject: the numbers of `vocabulary.quality_specs`, and what its doubtful slices add to the sums of their levels.

    `read` gives its images and masks, `image` and `atlas` what its native MTR is of.
    """
    from cohort_engine.quality.features import of_subject
    from cohort_engine.quality.judge import judge, told

    t2w, mt = schema.CONTRASTS[schema.T2W], schema.CONTRASTS[schema.MT]
    images = read(inputs)
    landmarks = landmarks_of(inputs, t2w.landmarks, inputs.params["fit.landmarks"]) if t2w.landmarks in inputs.files else None
    opinion = None
    if inputs.params["opinion"] and landmarks is not None and t2w.landmarks not in inputs.made and t2w.image in images:
        opinion = _opinion(inputs, t2w)
    found = of_subject(images, inputs.load(schema.fit_spec(mt.name).path), inputs.template, landmarks, opinion)
    verdict = judge(found.values)
    doubtful = found.doubtful(images[mt.mask].data.shape[2])
    values = found.values | {vocabulary.fault(kind): p for kind, p in verdict.faults.items()}
    values |= {vocabulary.USABLE: verdict.usable, vocabulary.DOUBTFUL_SLICES: len(doubtful)}
    specs = vocabulary.quality_specs()
    reasons, words = (specs.pop(key) for key in (vocabulary.REASONS, vocabulary.DOUBTFUL))
    out: dict[str, Array] = {reasons.path: np.array(told(found, verdict), dtype=object), words.path: np.array("", dtype=object)}
    if inputs.params["native"]:
        change, said, tables = _dependence(inputs, doubtful, image, atlas)
        values[vocabulary.LARGEST_DOUBT] = change
        out |= {words.path: np.array(said, dtype=object)} | tables
    return out | quality_arrays(specs, values)


def _dependence(
    inputs: StageInput, doubtful: Mapping[int, Sequence[str]], image: ImageOf, atlas: AtlasOf | None
) -> tuple[float, str, dict[str, Array]]:
    """Largest change without the doubtful slices, what is said of them, and `native_specs`: their sums (level, sum), NaN in levels without, and what
    each value changes without them.

    Where there is no native MTR to depend on them, its own stage has said why.
    """
    from cohort_engine.reduce.dependence import changes, dependence, told

    naming, levels = inputs.template.atlas, inputs.template.levels
    labels = len(naming.labels)
    sums, *doubts = native_specs(inputs.params["reduce.estimators"])
    unchanged = np.full((len(levels), len(naming.regions)), np.nan if doubtful else 0.0, np.float32)
    nothing = {sums.path: np.full((len(levels), 7 * labels + 2 + labels * (labels + 1)), np.nan), **{spec.path: unchanged for spec in doubts}}
    if not doubtful or atlas is None:
        return float("nan") if doubtful else 0.0, "", nothing
    try:
        whole, some, level = sums_of_slices(inputs, MTR, image, atlas, [*doubtful])
    except CohortError as error:
        if error.retryable:
            raise
        return float("nan"), "", nothing
    found = dependence(whole, some, naming)
    slices = {int(row): [k for k in doubtful if level[k] == schema.level_number(levels[row])] for row in found.level}
    nothing[sums.path][found.level] = some.pack()[found.level]
    changed = {
        spec.path: changes(whole, some, naming, name).astype(np.float32)
        for spec, name in zip(doubts, summed(inputs.params["reduce.estimators"]), strict=True)
    }
    return found.largest, told(found, doubtful, slices, naming, levels), nothing | changed


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
    native = schema.SPACE_NATIVE in config.stages.reduce.spaces
    reduce = config.stages.reduce
    values = {"reduce.native": reduce.native, "reduce.estimators": list(reduce.estimators), **mtr_params(config)} if native else {}
    return {"opinion": opinion, "fit.landmarks": config.stages.fit.landmarks, "card": card()["weights"], "native": native, **values, **network}


def written(config: Config) -> tuple[schema.VariableSpec, ...]:
    """All that it fills: what the values owe to doubtful slices too, where there are native values."""
    reduce = config.stages.reduce
    return (*vocabulary.quality_specs().values(), *(native_specs(reduce.estimators) if schema.SPACE_NATIVE in reduce.spaces else ()))


def native_specs(estimators: Sequence[str]) -> tuple[schema.VariableSpec, ...]:
    """List the sums of the doubtful slices, and what they change of the values of those `estimators` that need no more."""
    return (vocabulary.doubtful_spec(MTR), *(vocabulary.doubt_spec(MTR, name) for name in summed(estimators)))


def summed(estimators: Sequence[str]) -> list[str]:
    """Those that need no more than sums."""
    return [name for name in estimators if schema.ESTIMATORS.find(name, where="estimator").summed]


def quality_stages(config: Config) -> Iterable[Stage]:
    """One stage, where MTR is computed: only then are MT images among the files."""
    if not config.stages.quality.enabled or schema.MTR not in config.stages.metrics:
        return
    mt = schema.CONTRASTS[schema.MT]
    yield Stage(
        name=vocabulary.QUALITY_STAGE, version="5", run=run_quality, params=quality_params(config), roles=(mt.image, mt.mask),
        alternatives=tuple((*off, *more) for more in OTHERS for off in ((schema.MT_OFF,), ())), needs=(schema.fit_stage(mt.name), schema.MTR),
        writes=written(config), memory=QUALITY_MEMORY,
    )  # fmt: skip


def quality_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how subjects were judged."""
    if not metrics or not science["stages"].get("quality", {}).get("enabled", False):
        return ""
    return (
        "The quality of each subject was judged by numbers that do not depend on what was fitted: the share of the image that the template's tissues "
        "explain, the image's edges around the cord mask, the mask of the other image of the session, the heights of vertebrae, and the shifts "
        "between MT-on and MT-off; a scorecard fitted on simulated failures gave the probability that the values are usable."
    )


register(StageKind("quality", QualityConfig, quality_stages, quality_methods))
