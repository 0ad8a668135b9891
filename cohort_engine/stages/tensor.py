"""The diffusion tensor of the cord (stage ``tensor_dwi``), and the metrics that are read off it: FA, MD, AD and RD."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.io.volume import Volume, on_voxels_of
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.dwi import SERIES_MEMORY, WITH_GRADIENTS, displaced, gradients_for
from cohort_engine.stages.metric import MetricImage, filled_atlas, metric_quality, metric_stages

TENSOR_STAGE = f"tensor_{schema.DWI}"
LARGEST = (0.0, math.inf)
METRICS: Mapping[str, schema.Metric] = {
    m.name: schema.METRICS.add(m)
    for m in (
        schema.Metric(schema.FA, "FA", "fractional anisotropy", "1", (0.0, 1.0), schema.DWI, error=True),
        schema.Metric(schema.MD, "MD", "mean diffusivity", schema.DIFFUSIVITY, LARGEST, schema.DWI, rises=True, error=True),
        schema.Metric(schema.AD, "AD", "axial diffusivity", schema.DIFFUSIVITY, LARGEST, schema.DWI, error=True),
        schema.Metric(schema.RD, "RD", "radial diffusivity", schema.DIFFUSIVITY, LARGEST, schema.DWI, rises=True, error=True),
    )
}
"""Each is a channel of the tensor image, of its own name."""


class TensorConfig(Section):
    """The diffusion tensor (stage ``tensor_dwi``), and FA, MD, AD and RD from it."""

    method: Literal["wls", "irls"] = "wls"
    """``wls``: weighted least squares; ``irls``: in addition without signals that lie far off a robust fit."""
    margin: float = Field(default=2.0, ge=0)
    """Tensors are fitted this far around the cord too, mm: who interpolates at its border needs neighbours."""
    mask_unreliable: bool = True
    """Voxels whose tensor cannot be relied on are missing: a residual far above the others, signal at the noise floor, too few volumes, or
    eigenvalues that no tissue has."""


def tensor_quality() -> dict[str, schema.VariableSpec]:
    """Quality numbers of the fit."""
    return schema.qc_specs(TENSOR_STAGE, schema.TENSOR_QC, TENSOR_STAGE)


def run_tensor(inputs: StageInput) -> dict[str, Array | Volume]:
    """Fit a tensor to each voxel of the cord and its margin: an image of `qmri.tensor.CHANNELS`, and quality numbers."""
    from cohort_engine.single.dti import tensor_image

    series = inputs.series(schema.DWI_MOCO)
    cord = inputs.mask(schema.DWI_MASK)
    image, quality = tensor_image(
        series, gradients_for(inputs, series), cord, method=inputs.params["method"], margin_mm=inputs.params["margin"], reliable=False
    )
    return {schema.DWI_TENSOR: image} | quality_arrays(tensor_quality(), quality)


def channel_image(inputs: StageInput, *, metric: schema.Metric) -> MetricImage:
    """Read a metric off the tensor image (x, y, z), with its standard error; NaN where there is no tensor, or none to rely on.

    A diffusivity is a slope of the logarithm of the signal: where tissues share a voxel, the mean of theirs weighted by what each shows half way from
    no weighting to full, but for a little. Little is left of fluid then: half a voxel of it takes two fifths of its MD. FA is no such slope, and
    nearer to the mean by volume. What either has beyond its mean is told by the tensors of the tissues (`reduce.tensors`).
    """
    from cohort_engine.qmri.acquired import voxel_widths
    from cohort_engine.qmri.mixed import weighting
    from cohort_engine.qmri.tensor import CHANNELS
    from cohort_engine.reduce.tensors import Mixture, tensor_mixture

    tensor = inputs.series(schema.DWI_TENSOR)
    values, se, reliable = (tensor.data[..., CHANNELS.index(name)] for name in (metric.name, f"{metric.name}_se", "reliable"))
    frame = tensor.with_data(values)
    cord = on_voxels_of(frame, inputs.mask(schema.DWI_MASK), what=schema.words(schema.DWI_MASK), like=f"the {schema.words(schema.DWI)}").data > 0.5
    if inputs.params["mask_unreliable"]:
        values, se = (np.where(reliable > 0, v, np.float32(np.nan)) for v in (values, se))
    fitted = {name: np.where(reliable > 0, tensor.data[..., CHANNELS.index(name)], np.nan) for name in (schema.AD, schema.RD, "s0")}

    mean = on_voxels_of(frame, inputs.volume(schema.DWI_MEAN), what=schema.words(schema.DWI_MEAN), like=f"the {schema.words(schema.DWI)}")

    def mixture(weights: Array, voxel: Array) -> Mixture:
        b = weighting(*(a[cord].astype(np.float64) for a in (fitted["s0"], mean.data, fitted[schema.AD], fitted[schema.RD])))
        channels = {name: image.reshape(-1)[voxel].astype(np.float64) for name, image in fitted.items()}
        clusters = tuple(inputs.template.atlas.clusters.values())
        return tensor_mixture(metric.name, weights, channels, voxel % frame.data.shape[2], clusters, b)

    told = np.isfinite(se).any()  # as many volumes as unknowns tell no error
    quality = metric_quality(values, cord)
    widths = voxel_widths(mean.data)
    return MetricImage(frame.with_data(values), quality, se=se if told else None, shifts=displaced(inputs), widths=widths, mixture=mixture)


def tensor_stages(config: Config) -> Iterable[Stage]:
    """Fit, and map and native tables of each of its metrics that is asked for."""
    chosen: TensorConfig = config.stages.tensor
    yield Stage(
        name=TENSOR_STAGE, version="3", run=run_tensor, params=chosen.model_dump(mode="json", exclude={"mask_unreliable"}),
        roles=(schema.DWI_MOCO, schema.DWI_MASK), alternatives=WITH_GRADIENTS, makes=schema.DWI_TENSOR,
        writes=tuple(tensor_quality().values()), memory=SERIES_MEMORY,
    )  # fmt: skip
    for metric in METRICS.values():
        if metric.name in config.stages.metrics:
            yield from metric_stages(
                config, metric, partial(channel_image, metric=metric), version="5", roles=(schema.DWI_TENSOR, schema.DWI_MASK, schema.DWI_MEAN),
                optional=(schema.DWI_MOCO,), atlas=filled_atlas, params={"mask_unreliable": chosen.mask_unreliable}, section="tensor",
            )  # fmt: skip


def tensor_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how the tensor was fitted."""
    made = [m.label for m in METRICS.values() if m.name in metrics]
    if not made or science["source"] != schema.BIDS:
        return ""
    tensor = science["stages"]["tensor"]
    names = " and ".join(filter(None, (", ".join(made[:-1]), made[-1])))
    robust = ", and again without signals that lay far off a robust fit [@collier]" if tensor["method"] == "irls" else ""
    text = (
        f"The diffusion tensor [@basser] was fitted by weighted least squares [@chung]{robust}, which gave {names} and their standard errors voxel "
        "by voxel, as DIPY does [@dipy]. Slices of volumes that had lost two fifths of their signal or more, which no tensor of that slice explains, "
        "were left out."
    )
    if tensor["mask_unreliable"]:
        text += " Voxels were left out where the residual lay far above the others, the signal at the noise floor, or eigenvalues beyond any tissue."
    reduce, moved = science["stages"]["reduce"], bool(science["stages"]["dwi"]["moco"])
    if schema.SPACE_NATIVE in reduce["spaces"] and reduce["native"] != schema.INTERPOLATE:
        text += " In native space, the atlas was blurred as motion correction had blurred the series, by the displacements of each slice" * moved
        text += ("; " if moved else " In native space, ") + "voxels at the atlas' border that its labels do not fill were left out"
        slopes = [m.label for m in METRICS.values() if m.name in metrics and m.name != schema.FA]
        by = f", {', '.join(slopes)} weighed the tissues of a voxel by their signal half way to full diffusion weighting" if slopes else ""
        by += ", and what a tensor of mixed signals has beyond the mean of its tissues was taken off"
        text += f"{by if reduce['native'] == schema.SIGNAL else ''}."
    return text + " Directions were checked against the course of the cord in all 24 flips and permutations."


REFERENCES = {
    "basser": (
        "Basser PJ, Mattiello J, Le Bihan D. Estimation of the effective self-diffusion tensor from the NMR spin echo. Journal of Magnetic Resonance "
        "B 1994;103:247-254.", "10.1006/jmrb.1994.1037",
    ),
    "chung": (
        "Chung S, Lu Y, Henry RG. Comparison of bootstrap approaches for estimation of uncertainties of DTI parameters. NeuroImage 2006;33:531-541.",
        "10.1016/j.neuroimage.2006.07.001",
    ),
    "collier": (
        "Collier Q, Veraart J, Jeurissen B, den Dekker AJ, Sijbers J. Iterative reweighted linear least squares for accurate, fast, and robust "
        "estimation of diffusion magnetic resonance parameters. Magnetic Resonance in Medicine 2015;73:2174-2184.", "10.1002/mrm.25351",
    ),
    "dipy": (
        "Garyfallidis E, Brett M, Amirbekian B, et al. Dipy, a library for the analysis of diffusion MRI data. Frontiers in Neuroinformatics "
        "2014;8:8.",
        "10.3389/fninf.2014.00008",
    ),
}  # fmt: skip
register(StageKind("tensor", TensorConfig, tensor_stages, tensor_methods, REFERENCES))
