"""What every metric does once it has an image: sample it at the template map, and reduce it in the image's own space.

A metric's file makes the image and calls `metric_stages`; nothing else of it is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.io.volume import Volume
from cohort_engine.stages.base import Array, Stage, StageInput, quality_arrays

if TYPE_CHECKING:
    from cohort_engine.mapping.native import WarpedAtlas
    from cohort_engine.reduce.sums import LevelSums
    from cohort_engine.reduce.tensors import Mixture
    from cohort_engine.template.base import Template

SAMPLE_MEMORY = 250.0
"""Two images and their moved copy, MiB."""
NATIVE_MEMORY = 600.0
"""Shares of the template's voxels in the image's, and the reduction's operator, MiB."""
MAP_VERSION, NATIVE_VERSION = "1", "7"


@dataclass(frozen=True, eq=False)
class MetricImage:
    """A metric on the grid of an image.

    Attributes
    ----------
    volume : Volume
        NaN where the metric cannot be known.
    quality : mapping of str to float
        Of `schema.Metric.quality`.
    signal : (x, y, z) array, optional
        Of a ratio, what it is divided by: a voxel mixes signals, not ratios.
    se : (x, y, z) array, optional
        Standard error of each voxel, in the unit of the metric; used of a metric with `schema.Metric.error`. A voxel without one (NaN, or below 0) is
        not known well enough to be used: its value is taken for NaN as well.
    shifts : (t, z, 2) array, optional
        Of an image that was put together of displaced ones, see `mapping.displaced`, mm.
    widths : pair of float
        Of what was measured along the first two axes, in voxels of an image that the scanner interpolated.
    mixture : callable of weights (label, voxel) and voxels (voxel,) to `Mixture`, optional
        How labels mix in a voxel, where that is neither by volume nor by `signal` alone.
    """

    volume: Volume
    quality: Mapping[str, float] = field(default_factory=dict)
    signal: Array | None = None
    se: Array | None = None
    shifts: Array | None = None
    widths: tuple[float, float] = (1.0, 1.0)
    mixture: Callable[[Array, Array], Mixture] | None = None

    @property
    def known(self) -> Array:
        """Values (x, y, z), NaN where there is no standard error though others have one."""
        if self.se is None:
            return self.volume.data
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.se) & (self.se >= 0), self.volume.data, np.float32(np.nan))


ImageOf = Callable[[StageInput], MetricImage]
AtlasOf = Callable[[StageInput, str, MetricImage], "WarpedAtlas"]


def metric_stages(
    config: Config, metric: schema.Metric, image: ImageOf, *, version: str, roles: tuple[str, ...], params: Mapping[str, Any] | None = None,
    alternatives: tuple[tuple[str, ...], ...] = ((),), optional: tuple[str, ...] = (), atlas: AtlasOf | None = None,
    atlas_roles: tuple[str, ...] = (), memory: float = SAMPLE_MEMORY, section: str = "", timeout: float | None = None,
) -> Iterator[Stage]:  # fmt: skip
    """Yield the stages of a metric: its map and, where the study file asks for native space, its native tables.

    Parameters
    ----------
    config : Config
    metric : Metric
    image : callable of `StageInput` to `MetricImage`
        Makes the metric in the image's own space.
    version : str
        Of `image`.
    roles, alternatives, optional, params, memory, section, timeout
        As in `Stage`.
    atlas : callable of (`StageInput`, contrast, `MetricImage`) to `WarpedAtlas`, optional
        The atlas in that space; by default through the template map.
    atlas_roles : tuple of str
        Files that `atlas` needs.
    """
    reduce = config.stages.reduce
    own = Stage(
        name=metric.name, version=f"{version}.{MAP_VERSION}", run=partial(run_metric, metric=metric, image=image), params=dict(params or {}),
        roles=roles, alternatives=alternatives, optional=optional, needs=(schema.fit_stage(metric.contrast),), memory=memory,
        section=section or metric.name,
        writes=(
            metric.map, *((metric.error_map,) if metric.error else ()), schema.sums_spec(metric, schema.SPACE_TEMPLATE),
            *((schema.error_sums_spec(metric, schema.SPACE_TEMPLATE),) if metric.error else ()), *_quality(metric).values(),
        ),
    )  # fmt: skip
    own = own if timeout is None else replace(own, timeout=timeout)
    yield own
    if schema.SPACE_NATIVE not in reduce.spaces:
        return
    tables = (spec for e in reduce.estimators for spec in schema.table_specs(metric, e, schema.SPACE_NATIVE).values())
    unused = {"spaces"} if metric.error else {"spaces", "weights"}
    asked = {f"reduce.{k}": v for k, v in reduce.model_dump(mode="json", exclude=unused).items()}
    yield replace(
        own, name=schema.native_stage(metric.name), version=f"{version}.{NATIVE_VERSION}",
        run=partial(run_native, metric=metric, image=image, atlas=atlas or fitted_atlas), params={**own.params, **asked},
        roles=(*roles, *atlas_roles), needs=(*own.needs, own.name), memory=NATIVE_MEMORY,
        writes=(*tables, schema.sums_spec(metric), *((schema.error_sums_spec(metric),) if metric.error else ()), *_space_quality(metric).values()),
    )  # fmt: skip


def _quality(metric: schema.Metric) -> dict[str, schema.VariableSpec]:
    return schema.qc_specs(metric.name, metric.quality, metric.name)


def _space_quality(metric: schema.Metric) -> dict[str, schema.VariableSpec]:
    quantities = {key: (text, units or metric.units) for key, (text, units) in schema.SPACE_QC.items()}
    return schema.qc_specs(metric.name, quantities, schema.native_stage(metric.name))


def metric_quality(values: Array, mask: Array, shift: float = np.nan) -> dict[str, float]:
    """Quality numbers of a metric (x, y, z) over its cord."""
    known = values[mask][np.isfinite(values[mask])]
    return {
        schema.SHIFT: shift, schema.FLAGGED: float(np.mean(~np.isfinite(values[mask]))), schema.NEGATIVE: float(np.mean(values[mask] < 0)),
        schema.CORD_MEDIAN: float(np.median(known)) if len(known) else np.nan,
    }  # fmt: skip


# --- the image, made once -----------------------------------------------------------------------------------------------
_LAST: dict[str, MetricImage] = {}
"""The image that this process made last, by the key of the metric's stage: the native stage of the same subject mostly follows at once."""


def run_metric(inputs: StageInput, *, metric: schema.Metric, image: ImageOf) -> dict[str, Array]:
    """Sample a metric at the template map of its contrast: ``maps/<metric>`` (voxel,), its sums of each level, and its quality numbers."""
    from cohort_engine.mapping.template_map import sample

    found = image(inputs)
    _LAST.clear()
    if inputs.key:
        _LAST[inputs.key] = found
    affine, places = found.volume.affine, inputs.load(schema.fit_spec(metric.contrast).path)
    values = sample(found.known, affine, places).astype(np.float32)
    out, quality = {metric.map.path: values}, dict(found.quality)
    if metric.error:
        out[metric.error_map.path] = sample(error_image(found), affine, places).astype(np.float32)
        quality[schema.SHARED] = shared(affine, inputs.template)
    return out | kept_sums(metric, inputs.template, out) | quality_arrays(_quality(metric), quality)


def kept_sums(metric: schema.Metric, template: Template, maps: Mapping[str, Array]) -> dict[str, Array]:
    """Sum a map level by level: what is kept beside it, by path: (level, part), and (level, pair) of a metric whose voxels have standard errors."""
    from cohort_engine.reduce.maps import Kept, Maps
    from cohort_engine.reduce.operator import template_operator
    from cohort_engine.reduce.precision import Errors

    errors = Errors(maps[metric.error_map.path][None], np.full(1, np.nan)) if metric.error else None
    kept = Kept.of(template_operator(template), Maps(maps[metric.map.path][None], errors))
    out = {schema.sums_spec(metric, schema.SPACE_TEMPLATE).path: kept.pack()[0]}
    return out if kept.errors is None else out | {schema.error_sums_spec(metric, schema.SPACE_TEMPLATE).path: kept.errors[0]}


def error_image(image: MetricImage) -> Array:
    """Return the standard error (x, y, z) of each voxel, NaN where there is no value."""
    if image.se is None:
        return np.full(image.volume.data.shape, np.nan, np.float32)
    return np.where(np.isnan(image.known), np.float32(np.nan), image.se)


def shared(affine: Array, template: Template) -> float:
    """How many voxels of a template share one voxel of an image, at least 1."""
    image, own = (abs(float(np.linalg.det(np.asarray(a, float)[:3, :3]))) for a in (affine, template.packing.grid.affine))
    return max(1.0, image / own)


_PLACED: dict[str, tuple[tuple[Any, ...], WarpedAtlas]] = {}
"""The atlas that this process brought into an image last, by contrast, and where: metrics of one image mostly follow one another."""


# --- native space -------------------------------------------------------------------------------------------------------
def fitted_atlas(inputs: StageInput, contrast: str, image: MetricImage) -> WarpedAtlas:
    """Bring the atlas into an image through the template map of its contrast.

    With `schema.SIGNAL`, its integral over each voxel becomes shares of the signal (`reduce.native.signal_weights`) if the metric is a ratio, and
    what else the metric says of how tissues mix is heeded.
    """
    from cohort_engine.mapping.native import native_atlas
    from cohort_engine.reduce.native import signal_weights

    shape, how = image.volume.data.shape, inputs.params["reduce.native"]
    way = schema.INTEGRAL if how == schema.SIGNAL else how
    fit = inputs.load(schema.fit_spec(contrast).path)
    place = inputs.template, shape, way, image.widths, *(None if a is None else a.tobytes() for a in (fit, image.volume.affine, image.shifts))
    last, atlas = _PLACED.get(contrast, ((), None))
    if atlas is None or last != place:
        _PLACED.clear()
        atlas = native_atlas(fit, inputs.template, image.volume.affine, shape, how=way, shifts=image.shifts, widths=image.widths)
        _PLACED[contrast] = place, atlas
    if how == schema.SIGNAL and image.mixture is not None:
        weights, excess = image.mixture(atlas.weights, atlas.voxel)
        return replace(atlas, weights=weights, excess=excess)
    if image.signal is None or how != schema.SIGNAL:
        return atlas
    signal = image.signal.reshape(-1)[atlas.voxel].astype(np.float64)
    clusters = tuple(inputs.template.atlas.clusters.values())
    return replace(atlas, weights=signal_weights(atlas.weights, signal, atlas.voxel % shape[2], clusters))


def filled_atlas(inputs: StageInput, contrast: str, image: MetricImage) -> WarpedAtlas:
    """Bring the atlas into an image as `fitted_atlas` does, without voxels that its labels do not fill.

    The rest of these is fluid beyond the atlas. A mixture makes the labels in it answer for all of it: an MD of 3 in a third of a voxel becomes an MD
    of 9 of fluid, and of as much less in the tracts beside it; with a T1 of 4 s simulated tracts came out 0.22 s too short. What is scarcely above 0
    in fluid, MTR, suffers little.
    """
    atlas = fitted_atlas(inputs, contrast, image)
    return atlas if inputs.params["reduce.native"] == schema.INTERPOLATE else atlas.filled()  # SCT keeps them


def voxels_of(inputs: StageInput, metric: schema.Metric, image: MetricImage, warped: WarpedAtlas) -> tuple[Array, dict[str, Any]]:
    """Values (voxel,) of an image where the atlas lies, and what `LevelSums.of` is to know of their errors."""
    from cohort_engine.reduce.precision import PRECISION, precision

    values = image.known.reshape(-1)[warped.voxel].astype(np.float64)
    values = values if warped.excess is None else values - warped.excess
    if not metric.error:
        return values, {}
    se = error_image(image).reshape(-1)[warped.voxel].astype(np.float64)
    if inputs.params.get("reduce.weights") != PRECISION:
        return values, {"se": se}
    tissues = np.stack([warped.weights[list(c)].sum(axis=0) for c in inputs.template.atlas.clusters.values()])
    return values, {"se": se, "precision": precision(values, se, tissues)}


def sums_of_slices(
    inputs: StageInput, metric: schema.Metric, image: ImageOf, atlas: AtlasOf, slices: Sequence[int]
) -> tuple[LevelSums, LevelSums, NDArray[np.int64]]:  # fmt: skip
    """Sum a metric's image level by level, and of it some slices; and give the level (z,) of each slice, 0 where it has none.

    The first is what `run_native` stores, but for what neighbouring voxels share; the second is to be taken away from it by `LevelSums.without`.
    """
    from cohort_engine.reduce.sums import LevelSums

    template, found = inputs.template, image(inputs)
    warped = atlas(inputs, metric.contrast, found)
    (values, more), of_voxel = voxels_of(inputs, metric, found, warped), warped.voxel % found.volume.data.shape[2]
    rest = warped.reach, [schema.level_number(name) for name in template.levels], tuple(template.atlas.clusters.values())
    whole, some = (
        LevelSums.of(values, warped.weights, level, *rest, **more) for level in (warped.level, np.where(np.isin(of_voxel, slices), warped.level, 0))
    )
    level = np.zeros(found.volume.data.shape[2], np.int64)
    level[of_voxel] = warped.level
    return whole, some, level


def run_native(inputs: StageInput, *, metric: schema.Metric, image: ImageOf, atlas: AtlasOf) -> dict[str, Array]:
    """Reduce a metric in the image itself, over the atlas as it lies there: ``tables/native/<metric>_*`` (level, region), and the sums of each level.

    The quality number is the median difference from template space, where the map that the metric's stage has sampled is reduced likewise.
    """
    from cohort_engine.reduce.maps import Maps
    from cohort_engine.reduce.native import atlas_moves, level_tables
    from cohort_engine.reduce.operator import template_operator
    from cohort_engine.reduce.sums import LevelSums

    template, estimators, least = inputs.template, inputs.params["reduce.estimators"], inputs.params["reduce.min_coverage"]
    found = _LAST.pop(inputs.upstream.get(metric.name, ""), None) or image(inputs)
    warped = atlas(inputs, metric.contrast, found)
    values, more = voxels_of(inputs, metric, found, warped)
    places = np.stack(np.unravel_index(warped.voxel, found.volume.data.shape), axis=-1)
    out: dict[str, Array] = {}
    levels = [schema.level_number(name) for name in template.levels]
    image_atlas = warped.weights, warped.level, warped.reach, levels
    clusters = tuple(template.atlas.clusters.values())
    more |= {"moves": atlas_moves(warped.weights, template.atlas.clusters, places, found.volume.affine)}
    sums = LevelSums.of(values, *image_atlas, clusters, places=places, **more)
    out[schema.sums_spec(metric).path] = sums.pack()
    if metric.error:
        out[schema.error_sums_spec(metric).path] = sums.pack_errors()
    for name in estimators:
        cells = level_tables(
            values, *image_atlas, [r.members for r in template.atlas.regions], clusters, estimator=name, min_coverage=least, places=places, sums=sums,
            **more,
        )  # fmt: skip
        out |= {spec.path: cells[key] for key, spec in schema.table_specs(metric, name, schema.SPACE_NATIVE).items()}
    packed = inputs.load(metric.map.path)
    first = schema.ESTIMATORS[estimators[0]]
    there = first.of_maps(template_operator(template), Maps(packed[None]), min_coverage=least)[schema.VALUE][0]
    apart = np.abs(there - out[schema.table_specs(metric, first.name, schema.SPACE_NATIVE)[schema.VALUE].path])
    apart = apart[np.isfinite(apart)]
    difference = float(np.median(apart)) if len(apart) else np.nan
    return out | quality_arrays(_space_quality(metric), {schema.SPACE_DIFFERENCE: difference})
