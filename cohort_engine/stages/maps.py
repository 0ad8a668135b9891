"""Ready-made maps: a scalar image of the study or of a derivative becomes a metric by a few lines of the study file, whoever computed it.

::

    stages:
      maps:
        t1: {file: T1map, contrast: mt, units: s, rises: true}
        fa_dipy: {file: desc-dipy_FA, contrast: t2w, units: "1", zero: missing}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import ConfigError, GeometryError, InputError, warn
from cohort_engine.io.volume import Volume, on_voxels_of, require_signal
from cohort_engine.mapping.template_map import sample
from cohort_engine.stages.base import Stage, StageInput, StageKind, register
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages
from cohort_engine.template.packing import Grid

IMAGE = "image"
EMPTY = 0.02
"""Share of the cord that may be exactly 0 before a reader is told."""


class MapConfig(Section):
    """One ready-made map."""

    file: str
    """How its file is named: the words that end the name (``desc-dipy_FA``, ``T1map``) or a pattern (``"*acq-ax*_T2starmap"``), in the study or in
    any derivative."""
    contrast: str
    """Contrast whose template map places it, through scanner coordinates: that of the image it was made from, or of one during which the person lay
    still. The map may have a grid of its own; its native values are those of its own voxels."""
    units: str
    """Unit, ``"1"`` where there is none."""
    scale: float = 1.0
    """What its values are multiplied by to have that unit: 1000 makes um2/ms of mm2/s."""
    zero: Literal["value", "missing"] = "value"
    """Whether 0 is a value, or what stands where there is none: many tools write 0 outside of a mask."""
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


def map_image(inputs: StageInput, *, name: str, contrast: schema.Contrast, chosen: MapConfig) -> MetricImage:
    """Read a map (x, y, z); NaN outside its valid range. On another grid than the contrast's cord mask it keeps its own, and that is said."""
    role, (low, high) = map_role(name), limits(chosen)
    mask, image = inputs.mask(contrast.mask), inputs.volume(role.name)
    require_signal(image, what=role.words)
    if near_grid(image, mask):
        image = on_voxels_of(mask, image, what=role.words, like=f"the {schema.words(contrast.mask)}")
        cord = mask.data > 0.5
    else:
        cord = cord_in(image, mask, what=role.words, like=schema.words(contrast.mask))
    data = image.data if chosen.zero == "value" else np.where(image.data == 0, np.float32(np.nan), image.data)
    empty = float(np.mean(data[cord] == 0))
    if empty > EMPTY:
        warn(f"it is exactly 0 in {100 * empty:.0f} % of the cord; if that is no value, say so (zero: missing)", where=role.words)
    values = data * np.float32(chosen.scale)
    values = np.where((values >= low) & (values <= high), values, np.float32(np.nan))
    if not np.isfinite(values[cord]).any():
        raise InputError(
            expected=f"values from {low:g} to {high:g} in the cord", where=role.words,
            found=f"none ({np.nanmin(image.data):g} to {np.nanmax(image.data):g} in the image)",
            remedy=f"Check stages.maps.{name}: valid_range, scale, file.",
        )  # fmt: skip
    return MetricImage(image.with_data(values), metric_quality(values, cord))


def near_grid(image: Volume, other: Volume) -> bool:
    """Whether two images are voxel by voxel the same, as their files have them or as they are turned here."""
    if image.grid.same(other.grid):
        return True
    if image.stored is None or other.stored is None:
        return False
    first, second = (Grid(v.stored.shape, v.stored.affine) for v in (image, other) if v.stored is not None)
    return first.same(second)


def cord_in(image: Volume, mask: Volume, *, what: str, like: str) -> NDArray[np.bool_]:
    """Find the cord (x, y, z) on the voxels of an image of the same scanner space, by its mask in another image; and say how the two lie.

    Raises
    ------
    GeometryError
        The image shows nothing of the cord.
    """
    places = image.grid.world(np.moveaxis(np.indices(image.data.shape, float), 0, -1))
    cord = np.nan_to_num(sample(mask.data.astype(np.float32), mask.affine, places)) > 0.5
    at = image.grid.voxel(mask.grid.world(np.argwhere(mask.data > 0.5).astype(float)))
    seen = float(np.mean(((at > -0.5) & (at < np.asarray(image.data.shape) - 0.5)).all(axis=1))) if len(at) else 0.0
    voxels, size = "x".join(map(str, image.data.shape)), "x".join(f"{s:.3g}" for s in image.grid.spacing)
    if not cord.any():
        raise GeometryError(
            expected=f"a map that shows the cord ({like})", found=f"{100 * seen:.0f} % of it in {voxels} voxels of {size} mm", where=what,
            remedy="Both must be of one scanner space (one session, or registered): check their headers, or name the map's own contrast.",
        )  # fmt: skip
    warn(
        f"it has a grid of its own ({voxels} voxels of {size} mm) and shows {100 * seen:.0f} % of the {like}: placed through scanner coordinates",
        where=what,
    )
    return np.asarray(cord, bool)


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
            config, metric_of(name, chosen), partial(map_image, name=name, contrast=contrast, chosen=chosen), version="3",
            roles=(map_role(name).name, contrast.mask), params={k: getattr(chosen, k) for k in ("valid_range", "scale", "zero")},
            section=f"maps.{name}",
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
