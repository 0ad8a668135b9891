"""Magnetization transfer ratio (stage ``mtr``): 100 (MT-off - MT-on) / MT-off, after MT-off was brought onto MT-on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.io.volume import decode_mask
from cohort_engine.single.mtr import LOW_SIGNAL, MT_MASK, Coregister, ratio
from cohort_engine.stages.base import Stage, StageInput, StageKind, register
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages

MTR = schema.METRICS.add(schema.Metric(schema.MTR, "MTR", "magnetization transfer ratio", "percent", (-100.0, 100.0), schema.MT))


class MtrConfig(Section):
    """Magnetization transfer ratio (stage ``mtr``)."""

    coregister: Coregister = "slicewise"
    """How MT-off is brought onto MT-on: not at all, by in-plane shifts that vary smoothly along z, or with SyN after that. SyN takes twenty times as
    long, has no truth here to be judged by, and was not better in every scan (docs/how-to/mtr-and-warp.md): for images between which tissue changed
    its form."""
    low_signal: float = Field(default=LOW_SIGNAL, ge=0, lt=1)
    """A voxel is NaN where MT-off is at or below this fraction of the cord's median MT-off."""


def mtr_image(inputs: StageInput) -> MetricImage:
    """Magnetization transfer ratio (percent) on the grid of the MT-on image; its signal is MT-off there."""
    on, off, cord = inputs.volume(schema.MT_ON), inputs.volume(schema.MT_OFF), decode_mask(inputs.raw(MT_MASK), what=schema.words(MT_MASK))
    how, low, seed = (inputs.params[key] for key in ("coregister", "low_signal", "fit.seed"))
    found = ratio(on, off, cord, coregister=how, low_signal=low, seed=seed)
    return MetricImage(on.with_data(found.values), metric_quality(found.values, found.cord, found.shift), found.off)


def mtr_params(config: Config) -> dict[str, Any]:
    """All of ``stages.mtr``, and the seed of ANTs."""
    chosen: MtrConfig = config.stages.mtr
    return chosen.model_dump(mode="json") | {"fit.seed": config.stages.fit.seed}


def mtr_stages(config: Config) -> Iterable[Stage]:
    """Its map and its native tables, where it is among the metrics."""
    if MTR.name in config.stages.metrics:
        roles = (schema.MT_ON, schema.MT_OFF, MT_MASK)
        yield from metric_stages(config, MTR, mtr_image, version="3", roles=roles, params=mtr_params(config))


COREGISTER = {
    "none": "without registration of the two images",
    "slicewise": "after MT-off had been shifted onto MT-on in each slice by the correlation of their gradients, smooth along the cord",
    "deformable": "after MT-off had been shifted onto MT-on slice by slice and then matched with SyN [@syn]",
}


def mtr_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how it was computed."""
    if MTR.name not in metrics:
        return ""
    mtr = science["stages"]["mtr"]
    how = f" {COREGISTER[mtr['coregister']]}" if science["source"] == schema.BIDS else ""
    return (
        f"The magnetization transfer ratio was computed as 100 (MT-off - MT-on) / MT-off [@henkelman]{how}, and left out where MT-off was at or "
        f"below {100 * mtr['low_signal']:g}% of the cord's median."
    )


register(StageKind("mtr", MtrConfig, mtr_stages, mtr_methods))
