"""Magnetization transfer ratio (stage ``mtr``): 100 (MT-off - MT-on) / MT-off, after MT-off was brought onto MT-on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.io.volume import Volume, on_voxels_of, require_signal
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, register
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages

MTR = schema.METRICS.add(schema.Metric(schema.MTR, "MTR", "magnetization transfer ratio", "percent", (-100.0, 100.0), schema.MT))
MT_MASK = schema.role(schema.MT, schema.MASK)
SYN_MARGIN = 20.0
"""In-plane margin (mm) around the cord in which MT-off is deformed."""
SYN_ITERATIONS = (30,)
"""At full resolution alone: the shifts have done the coarse part, and few thick slices cannot be shrunk."""
SYN_FLOW = 2.0
"""Smoothing of SyN's update field, voxels."""
SYN_PAD = 3
"""Slices repeated at both ends: SyN holds the border of its volume still."""


class MtrConfig(Section):
    """Magnetization transfer ratio (stage ``mtr``)."""

    coregister: Literal["none", "slicewise", "deformable"] = "slicewise"
    """How MT-off is brought onto MT-on: not at all, by in-plane shifts that vary smoothly along z, or with SyN after that."""
    low_signal: float = Field(default=0.05, ge=0, lt=1)
    """A voxel is NaN where MT-off is at or below this fraction of the cord's median MT-off."""


def mtr_image(inputs: StageInput) -> MetricImage:
    """Magnetization transfer ratio (percent) on the grid of the MT-on image; its signal is MT-off there."""
    from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr

    remedy = "Resample it onto the MT-on image, or check that the files belong to one acquisition."
    on = inputs.volume(schema.MT_ON)
    off = on_voxels_of(on, inputs.volume(schema.MT_OFF), what=schema.words(schema.MT_OFF), like=f"the {schema.words(schema.MT_ON)}", remedy=remedy)
    cord = inputs.mask(MT_MASK, on=on, like=schema.MT_ON, remedy=remedy)
    for role, volume in ((schema.MT_ON, on), (schema.MT_OFF, off)):
        require_signal(volume, what=schema.words(role))
    mask = cord.data > 0.5
    moved, shift = coregister_off(on, off, cord, inputs.params["coregister"], seed=inputs.params["fit.seed"])
    ratio = mtr(moved, on.data, floor=cord_floor(moved, mask, inputs.params["low_signal"]))[0]
    check_not_swapped(ratio, mask)
    return MetricImage(on.with_data(ratio), metric_quality(ratio, mask, shift), moved)


def coregister_off(on: Volume, off: Volume, cord: Volume, how: str, *, seed: int = 1) -> tuple[Array, float]:
    """Bring the MT-off image onto the MT-on image.

    Parameters
    ----------
    on, off, cord : Volume
        On one grid.
    how : str
        ``none``; ``slicewise``, in-plane shifts; ``deformable``, SyN in-plane after those, near the cord. MT-off is interpolated once.
    seed : int
        Of ANTs.

    Returns
    -------
    off : (x, y, z) array
    shift : float
        Largest in-plane movement of a cord voxel, mm.
    """
    if how == "none":
        return off.data, 0.0
    from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise

    spacing = on.grid.spacing
    shifts = estimate_slicewise(on.data, off.data, cord.data > 0.5, spacing)
    moved = apply_shifts(off.data, shifts, spacing)
    if how == "slicewise":
        return moved, float(np.max(np.linalg.norm(shifts, axis=-1)))
    from cohort_engine.mapping.ants import CORRELATION, deform
    from cohort_engine.mapping.template_map import sample

    near = np.argwhere(cord.data > 0.5)
    margin = np.ceil(np.array([*(SYN_MARGIN / spacing[:2]), on.data.shape[2]])).astype(int)
    low, high = np.maximum(near.min(0) - margin, 0), np.minimum(near.max(0) + 1 + margin, on.data.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    both = np.isfinite(on.data[window]) & np.isfinite(moved[window])
    ends = ((0, 0), (0, 0), (SYN_PAD, SYN_PAD))
    fixed, moving = (np.pad(np.where(both, image[window], 0), ends, mode="edge") for image in (on.data, moved))
    found = deform(fixed, moving, spacing, seed=seed, iterations=SYN_ITERATIONS, flow_sigma=SYN_FLOW, metric=CORRELATION)
    movement = found[:, :, SYN_PAD:-SYN_PAD].astype(float)
    movement[..., :2] += shifts[None, None, low[2] : high[2]]
    places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    moved[window] = sample(off.data, off.affine, off.grid.world(places + movement / spacing), order=3)
    return moved, float(np.max(np.linalg.norm(movement[..., :2], axis=-1)[cord.data[window] > 0.5]))


def mtr_params(config: Config) -> dict[str, Any]:
    """All of ``stages.mtr``, and the seed of ANTs."""
    chosen: MtrConfig = config.stages.mtr
    return chosen.model_dump(mode="json") | {"fit.seed": config.stages.fit.seed}


def mtr_stages(config: Config) -> Iterable[Stage]:
    """Its map and its native tables, where it is among the metrics."""
    if MTR.name in config.stages.metrics:
        roles = (schema.MT_ON, schema.MT_OFF, MT_MASK)
        yield from metric_stages(config, MTR, mtr_image, version="2", roles=roles, params=mtr_params(config))


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
