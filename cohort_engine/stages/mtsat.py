"""MT saturation and T1 (stages ``mtsat`` and ``t1``) of an MT-on, an MT-off and a T1w image, after both were brought onto MT-on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.io.volume import decode_mask
from cohort_engine.provenance import digest
from cohort_engine.qmri.mtsat import LONGEST_T1, SATURATION, Triplet
from cohort_engine.single.mtr import LOW_SIGNAL, MT_MASK, Coregister
from cohort_engine.single.mtsat import ROLES, Saturated, protocol_of, saturate
from cohort_engine.stages.base import Stage, StageInput, StageKind, register
from cohort_engine.stages.metric import MetricImage, filled_atlas, metric_quality, metric_stages

MTSAT = schema.METRICS.add(
    schema.Metric(schema.MTSAT, "MTsat", "magnetization transfer saturation", "percent", (-SATURATION, SATURATION), schema.MT, error=True)
)
T1 = schema.METRICS.add(schema.Metric(schema.T1, "T1", "longitudinal relaxation time", "s", (0.0, LONGEST_T1), schema.MT, rises=True, error=True))
SIDECARS = Triplet(*(schema.role(role, schema.SIDECAR) for role in ROLES))


class MtsatConfig(Section):
    """MT saturation and T1 (stages ``mtsat`` and ``t1``)."""

    coregister: Coregister = "slicewise"
    """How MT-off and T1w are brought onto MT-on, as in `mtr`."""
    low_signal: float = Field(default=LOW_SIGNAL, ge=0, lt=1)
    """A voxel is NaN where MT-off is at or below this fraction of the cord's median MT-off."""
    b1: bool = True
    """Whether a map of the transmit field (``TB1map``) is used where a subject has one."""


_LAST: dict[str, Saturated] = {}
"""What this process made last, by the content it was made from: both metrics of a subject follow each other."""


def saturated(inputs: StageInput) -> Saturated:
    """MTsat and T1 of a subject."""
    sidecars = Triplet(*(protocol_of(inputs.json(role), what=schema.words(role)) for role in SIDECARS))
    how, low, seed = (inputs.params[key] for key in ("coregister", "low_signal", "fit.seed"))
    used = [role for role in (*ROLES, *SIDECARS, MT_MASK, schema.MT_B1) if role in inputs.files]
    key = digest({role: digest(inputs.raw(role).hex()) for role in used}, dict(inputs.params))
    if key not in _LAST:
        _LAST.clear()
        images = Triplet(*(inputs.volume(role) for role in ROLES))
        cord = decode_mask(inputs.raw(MT_MASK), what=schema.words(MT_MASK))
        b1 = inputs.volume(schema.MT_B1) if schema.MT_B1 in inputs.files else None
        _LAST[key] = saturate(images, cord, sidecars, b1=b1, coregister=how, low_signal=low, seed=seed)
    return _LAST[key]


def saturated_image(inputs: StageInput, *, metric: str) -> MetricImage:
    """MTsat (percent) or T1 (s) on the grid of the MT-on image.

    Signals mix in a voxel, not these numbers: T1 is divided by `Saturated.weight`, exactly; MTsat is, for the most part, divided by MT-on.
    """
    found, on = saturated(inputs), inputs.volume(schema.MT_ON)
    values, signal, se = {schema.MTSAT: (found.mtsat, on.data, found.error.mtsat), schema.T1: (found.t1, found.weight, found.error.t1)}[metric]
    quality = metric_quality(values, found.cord, max(found.shifts))
    return MetricImage(on.with_data(values), quality, np.where(np.isnan(values), np.nan, signal), se if np.isfinite(se).any() else None)


def mtsat_stages(config: Config) -> Iterable[Stage]:
    """Map and native tables of each of the two that is among the metrics."""
    chosen: MtsatConfig = config.stages.mtsat
    params = chosen.model_dump(mode="json") | {"fit.seed": config.stages.fit.seed}
    for metric in (MTSAT, T1):
        if metric.name in config.stages.metrics:
            yield from metric_stages(
                config, metric, partial(saturated_image, metric=metric.name), version="4", roles=(*ROLES, *SIDECARS, MT_MASK), params=params,
                alternatives=((schema.MT_B1,), ()) if chosen.b1 else ((),), atlas=filled_atlas, section="mtsat",
            )  # fmt: skip


def mtsat_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how they were computed."""
    made = [metric.label for metric in (MTSAT, T1) if metric.name in metrics]
    if not made or science["source"] != schema.BIDS:
        return ""
    b1 = " Where a map of the transmit field was available, both were corrected by it [@weiskopf]." if science["stages"]["mtsat"]["b1"] else ""
    return (
        f"{' and '.join(made)} {'were' if len(made) > 1 else 'was'} computed from the MT-on, MT-off and T1w images by the rational approximation of "
        f"the spoiled gradient-echo signal for small flip angles [@helms].{b1} Their standard errors follow from the noise of the images around the "
        "cord [@immerkaer]."
    )


REFERENCES = {
    "helms": (
        "Helms G, Dathe H, Kallenberg K, Dechent P. High-resolution maps of magnetization transfer with inherent correction for RF inhomogeneity and "
        "T1 relaxation obtained from 3D FLASH MRI. Magnetic Resonance in Medicine 2008;60:1396-1407.", "10.1002/mrm.21732",
    ),
    "immerkaer": (
        "Immerkaer J. Fast noise variance estimation. Computer Vision and Image Understanding 1996;64:300-302.", "10.1006/cviu.1996.0060",
    ),
    "weiskopf": (
        "Weiskopf N, Suckling J, Williams G, et al. Quantitative multi-parameter mapping of R1, PD*, MT, and R2* at 3T: a multi-center validation. "
        "Frontiers in Neuroscience 2013;7:95.", "10.3389/fnins.2013.00095",
    ),
}  # fmt: skip
register(StageKind("mtsat", MtsatConfig, mtsat_stages, mtsat_methods, REFERENCES))
