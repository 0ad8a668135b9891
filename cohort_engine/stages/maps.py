"""Ready-made maps: a scalar image of the study becomes a metric by a few lines of the study file, whoever computed it.

::

    stages:
      maps:
        t1: {file: desc-t1_map, contrast: mt, units: s}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import ConfigError
from cohort_engine.io.volume import on_voxels_of, require_signal
from cohort_engine.stages.base import Stage, StageInput, StageKind, register
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages

IMAGE = "image"


class MapConfig(Section):
    """One ready-made map."""

    file: str
    """How its file is named: the words after the participant and session, ``desc-t1_map`` for ``sub-01_desc-t1_map.nii.gz``; in the study or in
    any derivative."""
    contrast: str
    """Contrast whose template map places it: the map lies on the grid of that contrast's cord mask."""
    units: str
    """Unit, ``"1"`` where there is none."""
    label: str = ""
    """How it is written in tables and figures; by default its name in capitals."""
    long_name: str = ""
    """What it is; by default its name."""
    valid_range: tuple[float | None, float | None] = (None, None)
    """Smallest and largest value it can have; what lies outside is missing."""
    rises: bool = False
    """Whether disease raises it."""


def map_role(name: str, file: str = "") -> schema.Role:
    """Role of the file of a map that is called `name`."""
    return schema.Role(schema.role(name, IMAGE), f"{name} map", file=file)


def limits(chosen: MapConfig) -> tuple[float, float]:
    """Return the valid range with its open ends."""
    low, high = chosen.valid_range
    return -math.inf if low is None else low, math.inf if high is None else high


def metric_of(name: str, chosen: MapConfig) -> schema.Metric:
    """Return the metric that a map becomes."""
    long_name = chosen.long_name or name.replace("_", " ")
    return schema.Metric(name, chosen.label or name.upper(), long_name, chosen.units, limits(chosen), chosen.contrast, chosen.rises)


def map_image(inputs: StageInput, *, name: str, contrast: schema.Contrast, valid: tuple[float, float]) -> MetricImage:
    """Read a map (x, y, z); NaN outside its valid range. It must lie on the grid of the contrast's cord mask."""
    role = map_role(name)
    cord, remedy = inputs.mask(contrast.mask), "Resample it onto the image of its contrast, or name the contrast that it belongs to."
    image = on_voxels_of(cord, inputs.volume(role.name), what=role.words, like=f"the {schema.words(contrast.mask)}", remedy=remedy)
    require_signal(image, what=role.words)
    values = np.where((image.data >= valid[0]) & (image.data <= valid[1]), image.data, np.float32(np.nan))
    return MetricImage(image.with_data(values), metric_quality(values, cord.data > 0.5))


def map_stages(config: Config) -> Iterable[Stage]:
    """Stages of every map.

    Raises
    ------
    ConfigError
        A map has the name of a metric that a stage of this study computes.
    """
    for name, chosen in config.stages.maps.items():
        if name in config.stages.metrics:
            raise ConfigError(
                expected="a name of its own for a ready-made map", found=f"{name!r}, which a stage computes", where=f"stages.maps.{name}",
                remedy="Call it otherwise, or take it out of stages.metrics.",
            )  # fmt: skip
        contrast = schema.CONTRASTS.find(chosen.contrast, where=f"stages.maps.{name}.contrast")
        yield from metric_stages(
            config, metric_of(name, chosen), partial(map_image, name=name, contrast=contrast, valid=limits(chosen)), version="2",
            roles=(map_role(name).name, contrast.mask), params={"valid_range": list(chosen.valid_range)}, section=f"maps.{name}",
        )  # fmt: skip


def map_roles(config: Config) -> tuple[schema.Role, ...]:
    """Return the role of each map, with the name of its file."""
    return tuple(map_role(name, chosen.file) for name, chosen in config.stages.maps.items())


def map_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say which maps were ready-made."""
    made = [f"{m['label'] or name.upper()} ({m['units']})" for name, m in science["stages"]["maps"].items() if name in metrics]
    return f"Maps of {', '.join(made)} were part of the study." if made else ""


register(
    StageKind("maps", dict[str, MapConfig], map_stages, map_methods, words="Ready-made maps, by the name of the metric that each of them becomes.")
)
