"""Regions drawn inside the cord (stage ``rois``): eight of the DTI study, and FA, MD, AD and RD in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import ConfigError, MissingInputError
from cohort_engine.io.places import read_bytes
from cohort_engine.io.volume import Volume, on_voxels_of
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.dwi import WITH_GRADIENTS, gradients_for
from cohort_engine.stages.metric import error_image
from cohort_engine.stages.tensor import METRICS, channel_image

ROI_MEMORY = 900.0
"""A series, its tensor, the template's parts in its voxels, and the network, MiB."""
OFF: Literal["off"] = "off"
CODES = {name: code for code, name in schema.ROI_SOURCES.items()}


class RoisConfig(Section):
    """Regions drawn inside the cord on diffusion images (stage ``rois``): left and right dorsal, lateral and ventral columns and grey matter.

    Masks that the study has (``label-ROI_dseg``, or ``label-LDC_mask`` and so on) always go first.
    """

    source: Literal["off", "manual", "network", "atlas"] = OFF
    """Who draws them where the study has no masks: a ``network``; the ``atlas``, as cores of its parts; or nobody but people (``manual``).
    ``off``: there are none."""
    weights: str | None = Field(default=None, exclude=True)
    """File of another network than the packaged one, as ``cohort-engine train rois`` leaves it; workers read it, too."""


def roi_quality() -> dict[str, schema.VariableSpec]:
    """Quality numbers of the regions."""
    return schema.qc_specs(schema.ROI_STAGE, schema.ROI_QC, schema.ROI_STAGE)


def roi_table_specs(metrics: Sequence[schema.Metric], estimators: Sequence[str]) -> Iterator[schema.VariableSpec]:
    """``tables/drawn/<metric>_*`` (subject, level, roi), and the sums of each level."""
    for metric, estimator in product(metrics, estimators):
        yield from schema.table_specs(metric, estimator, schema.DRAWN).values()
    for metric in metrics:
        yield from (schema.sums_spec(metric, schema.DRAWN), schema.error_sums_spec(metric, schema.DRAWN))


def run_rois(inputs: StageInput, *, weights: str | None = None) -> dict[str, Array]:
    """Take or draw the regions, and reduce each metric over them: ``rois/*``, ``tables/drawn/<metric>_*`` and quality numbers.

    Raises
    ------
    GeometryError, InputError
        Masks on another grid, other numbers than those of the regions, no region at all, a map of no value in the cord.
    MissingInputError
        No masks, and nobody is to draw them.
    """
    from cohort_engine.mapping.native import image_levels
    from cohort_engine.reduce.precision import PRECISION
    from cohort_engine.single.rois import boxed, roi_tables

    template, params = inputs.template, inputs.params
    images = {name: channel_image(inputs, metric=METRICS[name]) for name in params["metrics"]}
    frame = next(iter(images.values())).volume
    mask = inputs.mask(schema.DWI_MASK)
    cord = on_voxels_of(frame, mask, what=schema.words(schema.DWI_MASK), like=f"the {schema.words(schema.DWI)}").data > 0.5
    numbers, source = drawn(inputs, frame, cord, weights)
    box, place = boxed(numbers, cord, frame.affine)
    out: dict[str, Array] = {
        schema.ROI_SPECS[schema.ROI_NUMBER].path: box, schema.ROI_SPECS[schema.ROI_PLACE].path: place,
        schema.ROI_SPECS[schema.ROI_SOURCE].path: np.asarray(CODES[source], np.int8),
    }  # fmt: skip
    level, reach = image_levels(inputs.load(schema.fit_spec(schema.DWI).path), template, frame.affine, frame.grid.shape)
    levels = [schema.level_number(name) for name in template.levels]
    for name, image in images.items():
        metric = METRICS[name]
        tables, sums = roi_tables(
            image.known, None if image.se is None else error_image(image), numbers, level, reach, levels, estimators=params["reduce.estimators"],
            min_coverage=params["reduce.min_coverage"], weighted=params["reduce.weights"] == PRECISION,
        )  # fmt: skip
        for estimator, cells in tables.items():
            specs = schema.table_specs(metric, estimator, schema.DRAWN)
            out |= {spec.path: cells.get(key, np.full(cells[schema.VALUE].shape, np.nan, np.float32)) for key, spec in specs.items()}
        out |= {schema.sums_spec(metric, schema.DRAWN).path: sums.pack(), schema.error_sums_spec(metric, schema.DRAWN).path: sums.pack_errors()}
    known = np.isfinite(next(iter(images.values())).known)
    return out | quality_arrays(roi_quality(), roi_quality_of(numbers, cord, known, frame.grid.spacing))


def roi_quality_of(numbers: Array, cord: Array, known: Array, spacing: Array) -> dict[str, float]:
    """Quality numbers of regions (x, y, z), see `schema.ROI_QC`.

    Examples
    --------
    >>> numbers = np.zeros((2, 4, 2), int)
    >>> numbers[:, :, 0] = np.arange(1, 9).reshape(2, 4)
    >>> roi_quality_of(numbers, np.ones((2, 4, 2), bool), numbers < 5, np.array([0.5, 2.0, 5.0]))
    {'area': 8.0, 'absent': 0.5, 'unreliable': 0.5}
    """
    slices = cord.any(axis=(0, 1))
    present = np.stack([(numbers == i).any(axis=(0, 1)) for i in range(1, len(schema.ROIS) + 1)])
    drawn, inside = int(present.any(axis=0).sum()), numbers > 0
    return {
        schema.ROI_AREA: float(inside.sum() * spacing[0] * spacing[1] / drawn) if drawn else np.nan,
        schema.ROI_ABSENT: float(1 - present[:, slices].mean()) if slices.any() else np.nan,
        schema.ROI_UNRELIABLE: float(np.mean(~known[inside])) if drawn else np.nan,
    }


# --- who draws ------------------------------------------------------------------------------------------------------------
def drawn(inputs: StageInput, frame: Volume, cord: NDArray[np.bool_], weights: str | None) -> tuple[NDArray[np.uint8], str]:
    """Return the number (x, y, z) of the region of each voxel, and who drew them: what people drew goes first."""
    from cohort_engine.single.rois import atlas_numbers, drawn_by_network, numbers_of, slices_of

    masks = by_hand(inputs, frame)
    if masks is not None:
        return numbers_of(masks), schema.MANUAL_ROIS
    source = str(inputs.params["source"])
    if source == schema.MANUAL_ROIS:
        raise MissingInputError(
            expected="masks of the regions", found="none", where=schema.words(schema.DWI_ROIS),
            remedy="Add them to the study, or let the network or the atlas draw them (stages.rois.source).",
        )  # fmt: skip
    shares = parts_in(inputs, frame)
    if source == schema.ATLAS_ROIS:
        return atlas_numbers(shares, frame.grid.spacing), source
    slices, where = slices_of(images_in(inputs), cord, frame.grid.spacing, shares)
    numbers = np.zeros(cord.shape, np.uint8)
    numbers[:, :, where] = drawn_by_network(slices, weights=weights)
    return numbers, source


def by_hand(inputs: StageInput, frame: Volume) -> NDArray[np.bool_] | None:
    """Masks (roi, x, y, z) that people drew: an image of numbers, or else masks of single regions; None where there are neither."""
    from cohort_engine.io.roi_masks import labelled

    def on_frame(role: str) -> Array:
        return inputs.mask(role, on=frame, like=schema.DWI, remedy="Draw on this image, or resample the masks to it.").data

    if schema.DWI_ROIS in inputs.files:
        return labelled(on_frame(schema.DWI_ROIS))
    there = [on_frame(role) > 0.5 if role in inputs.files else np.zeros(frame.data.shape, bool) for role in schema.DWI_ROI_MASKS]
    return np.stack(there) if not inputs.files.keys().isdisjoint(schema.DWI_ROI_MASKS) else None


def parts_in(inputs: StageInput, frame: Volume) -> NDArray[np.float32]:
    """Share (roi, x, y, z) of each voxel that belongs to each part of the cord, through the template map."""
    from cohort_engine.mapping.native import native_shares
    from cohort_engine.rois.cores import parts_of

    positions = inputs.load(schema.fit_spec(schema.DWI).path)
    return native_shares(positions, inputs.template, parts_of(inputs.template), frame.affine, frame.grid.shape)


def images_in(inputs: StageInput) -> dict[str, Array]:
    """All images (x, y, z) that a network may ask for: the mean without diffusion weighting, and the maps of the tensor."""
    from cohort_engine.qmri.tensor import CHANNELS
    from cohort_engine.single.moco import mean_of

    series, tensor = inputs.series(schema.DWI_MOCO), inputs.series(schema.DWI_TENSOR)
    maps = {name: tensor.data[..., CHANNELS.index(name)] for name in METRICS}
    return {schema.B0_IMAGE: mean_of(series.data, gradients_for(inputs, series).b0), **maps}


# --- the stage ------------------------------------------------------------------------------------------------------------
def content_of(weights: str | None) -> str:
    """Content hash of the network: part of the key of all that it draws.

    Raises
    ------
    MissingInputError, StorageError, ConfigError
        No such file; no network in the package.
    """
    if weights is not None:
        return hashlib.sha256(read_bytes(weights, what="weights of the network of the regions")).hexdigest()
    from cohort_engine.nn.weights import content

    try:
        return content(schema.ROI_STAGE)
    except FileNotFoundError as error:
        raise ConfigError(
            expected="weights of a network", found="none in this installation", where="stages.rois",
            remedy="Name those that you trained (weights: ...), or let the atlas draw the regions (source: atlas).",
        ) from error  # fmt: skip


def rois_stages(config: Config) -> Iterable[Stage]:
    """One stage, where the regions and a metric of diffusion are asked for."""
    chosen: RoisConfig = config.stages.rois
    metrics = [m for m in METRICS.values() if m.name in config.stages.metrics]
    if chosen.source == OFF or not metrics:
        return
    reduce, network = config.stages.reduce, chosen.source == schema.NETWORK_ROIS
    params = {
        "source": chosen.source, "metrics": [m.name for m in metrics], "mask_unreliable": config.stages.tensor.mask_unreliable,
        **{f"reduce.{k}": v for k, v in reduce.model_dump(mode="json", include={"estimators", "min_coverage", "weights"}).items()},
    }  # fmt: skip
    if network:
        params["weights"] = content_of(chosen.weights)
    tables = roi_table_specs(metrics, reduce.estimators)
    yield Stage(
        name=schema.ROI_STAGE, version="1", run=partial(run_rois, weights=chosen.weights), params=params,
        roles=(schema.DWI_TENSOR, schema.DWI_MASK, schema.DWI_MEAN, *((schema.DWI_MOCO,) if network else ())),
        alternatives=WITH_GRADIENTS if network else ((),), optional=(schema.DWI_ROIS, *schema.DWI_ROI_MASKS),
        needs=(schema.fit_stage(schema.DWI),), writes=(*schema.ROI_SPECS.values(), *tables, *roi_quality().values()), memory=ROI_MEMORY, gpu=network,
    )  # fmt: skip


def rois_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say who drew the regions."""
    made = [m.label for m in METRICS.values() if m.name in metrics]
    source = science["stages"]["rois"]["source"]
    if source == OFF or not made or science["source"] != schema.BIDS:
        return ""
    who = {
        schema.MANUAL_ROIS: "drawn by hand",
        schema.ATLAS_ROIS: "the cores of these parts in the template, brought into the image",
        schema.NETWORK_ROIS: "drawn by a network",
    }[source]
    first = "" if source == schema.MANUAL_ROIS else ", unless they had been drawn by hand"
    names = " and ".join(filter(None, (", ".join(made[:-1]), made[-1])))
    return (
        f"{names} {'was' if len(made) == 1 else 'were'} averaged as well over eight regions inside the cord, left and right dorsal, lateral and "
        f"ventral column and grey matter [@dtistudy], which were {who}{first}."
    )


REFERENCES = {
    "dtistudy": (
        "Fei N, Li G, Wang X, et al. Deep learning-based auto-segmentation of spinal cord internal structure of diffusion tensor imaging in cervical "
        "spondylotic myelopathy. Diagnostics 2023;13:817.", "10.3390/diagnostics13050817",
    ),
}  # fmt: skip
register(StageKind("rois", RoisConfig, rois_stages, rois_methods, REFERENCES))
