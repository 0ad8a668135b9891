"""A diffusion series made ready: motion and distortion put right (stage ``moco_dwi``), and the mean of its weighted volumes (``mean_dwi``).

What the study has of these goes first. Displacements and flags of every volume and slice go to the store, as ragged arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import warn
from cohort_engine.io.volume import Volume
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register

if TYPE_CHECKING:
    from cohort_engine.io.gradients import Gradients
    from cohort_engine.single.moco import Corrected

MOCO_STAGE, MEAN_STAGE = f"{schema.MOCO}_{schema.DWI}", f"{schema.MEAN}_{schema.DWI}"
MOCO_MEMORY = 900.0
"""A series of 96 x 96 x 9 x 34 voxels, its parts that are compared, and the network that finds the cord, MiB."""
SERIES_MEMORY = 300.0
GIVEN = (schema.DWI, schema.DWI_BVAL, schema.DWI_BVEC)
WITH_GRADIENTS = ((schema.DWI_MOCO_BVAL, schema.DWI_MOCO_BVEC), GIVEN)
"""Where the gradients of a corrected series are found: beside it, else with the series as it was scanned."""
TOLD = 12
"""Slices that a note names, at most."""


class DwiConfig(Section):
    """Diffusion series (stages ``moco_dwi`` and ``mean_dwi``): a corrected series of the study (``desc-moco_dwi``) always goes first."""

    moco: bool = True
    """Put motion right: every slice of every volume to one target, in its plane. Off, the series is taken as it is."""
    interleaved: Literal["auto"] | bool = "auto"
    """Odd and even slices may have moved apart, as where they were scanned one after the other; ``auto``: the series says."""
    eddy: bool = False
    """Let each slice of the diffusion-weighted volumes stretch and shear along phase encoding, as eddy currents make it."""
    distortion: Literal["auto", "off"] = "auto"
    """Put distortion right where there is an image of opposite phase encoding (``fmap/*_epi``, or a series with another ``dir-``)."""
    denoise: bool = False
    """Denoise the series first (MP-PCA). In the cord's few voxels and volumes there is little to gain, and its edges may suffer."""


def moco_quality() -> dict[str, schema.VariableSpec]:
    """Quality numbers of a series that was corrected here."""
    return schema.qc_specs(MOCO_STAGE, schema.MOCO_QC, MOCO_STAGE)


# --- gradients ----------------------------------------------------------------------------------------------------------
def raw_gradients(inputs: StageInput, series: Volume) -> Gradients:
    """Gradients of the series as it was scanned."""
    from cohort_engine.io.gradients import gradients_of

    return gradients_of(inputs.text(schema.DWI_BVAL), inputs.text(schema.DWI_BVEC), series, what=schema.words(schema.DWI))


def gradients_for(inputs: StageInput, series: Volume) -> Gradients:
    """Gradients of a corrected series: those beside it, else those of the series as it was scanned, along the axes of its file."""
    from cohort_engine.io.gradients import gradients_of

    if schema.DWI_MOCO_BVEC in inputs.files:
        texts = inputs.text(schema.DWI_MOCO_BVAL), inputs.text(schema.DWI_MOCO_BVEC)
        return gradients_of(*texts, series, what=schema.words(schema.DWI_MOCO))
    scan = inputs.voxels(schema.DWI)
    return raw_gradients(inputs, scan.with_data(np.broadcast_to(np.float32(0), (*scan.data.shape, series.data.shape[3]))))


# --- correction ---------------------------------------------------------------------------------------------------------
def run_moco(inputs: StageInput) -> dict[str, Array | Volume]:
    """Put motion and distortion of a series right: the series, ``motion/dwi_*`` (volume, slice, ...) and quality numbers.

    Errors of the series and its gradients as of `io.gradients.gradients_of` and `single.moco.correct`.
    """
    from cohort_engine.io.sidecars import phase_axis
    from cohort_engine.single.moco import MocoSettings, correct, found_cord

    series, params = inputs.series(schema.DWI), inputs.params
    gradients = raw_gradients(inputs, series)
    cord = None
    if params["denoise"]:
        cord = found_cord(series, gradients)
        series = denoised(series, cord)
    if not params["moco"]:
        return {schema.DWI_MOCO: series} | motion_arrays(gradients, series) | quality_arrays(moco_quality(), {})
    said = inputs.json(schema.DWI_JSON) if schema.DWI_JSON in inputs.files else {}
    settings = MocoSettings(
        interleaved=None if params["interleaved"] == "auto" else params["interleaved"], eddy=params["eddy"], phase_axis=phase_axis(said, series)
    )
    found = correct(series, gradients, cord=cord, reverse=reverse_of(inputs), settings=settings)
    tell(found)
    quality = dict(found.quality)
    if found.displacement is not None:
        quality["largest_displacement"] = float(np.nanmax(np.abs(found.displacement[found.cord.data > 0.5])))
    return {schema.DWI_MOCO: found.series} | motion_arrays(gradients, series, found) | quality_arrays(moco_quality(), quality)


def denoised(series: Volume, cord: Volume) -> Volume:
    """Take noise out of a series near the cord; where structure went with it, that is told."""
    from cohort_engine.qmri.denoise import denoise

    found = denoise(series.data, cord.data > 0.5, series.grid.spacing)
    if found.structured:
        warn("denoising took structure away with the noise at the cord's edge", where=schema.words(schema.DWI))
    return series.with_data(found.series)


def reverse_of(inputs: StageInput) -> Volume | None:
    """Volumes without diffusion weighting that were scanned the other way round; all where nothing is said of their weighting."""
    if schema.DWI_REVERSE not in inputs.files:
        return None
    from cohort_engine.io.gradients import B0_MAX

    series = inputs.series(schema.DWI_REVERSE)
    if schema.DWI_REVERSE_BVAL not in inputs.files:
        return series
    b = np.array(inputs.text(schema.DWI_REVERSE_BVAL).replace(",", " ").split(), np.float64)
    use = b <= B0_MAX
    if len(b) != series.data.shape[3] or not use.any():
        warn("its b-values do not fit it: it is not used", where=schema.words(schema.DWI_REVERSE))
        return None
    return series.with_data(series.data[..., use])


def motion_arrays(gradients: Gradients, series: Volume, found: Corrected | None = None) -> dict[str, Array]:
    """Lay ``motion/dwi_*`` out, (volume, slice, ...); displacements are NaN where motion was not looked for."""
    slices, volumes = series.data.shape[2:]
    values: dict[str, Any] = {name: np.full((volumes, slices), np.nan, np.float32) for name in schema.MOTION_SPECS}
    values[schema.MOTION_SHIFT] = np.full((volumes, slices, 2), np.nan, np.float32)
    values[schema.MOTION_FLAG] = np.zeros((volumes, slices), np.int8)
    values[schema.MOTION_B] = gradients.bvals.astype(np.float32)
    if found is not None:
        motion = found.motion
        values |= {
            schema.MOTION_SHIFT: motion.shifts.astype(np.float32), schema.MOTION_STRETCH: motion.scale[..., 0].astype(np.float32),
            schema.MOTION_SHEAR: motion.scale[..., 1].astype(np.float32), schema.MOTION_FLAG: motion.flags.astype(np.int8),
            schema.MOTION_AGREEMENT: motion.agreement.astype(np.float32),
        }  # fmt: skip
    return {schema.MOTION_SPECS[name].path: value for name, value in values.items()}


def displaced(inputs: StageInput) -> Array | None:
    """How far each slice of each volume of the series lay aside (t, z, 2), mm, NaN where it was lost; None where it was not corrected here."""
    if schema.DWI_MOCO not in inputs.made:
        return None
    shifts, flags = (inputs.load(schema.MOTION_SPECS[name].path) for name in (schema.MOTION_SHIFT, schema.MOTION_FLAG))
    found = np.where((flags & schema.LOST)[..., None] > 0, np.nan, shifts)
    return found if np.isfinite(found).any() else None


def tell(found: Corrected) -> None:
    """Say which slices of which volumes were lost, for the record of the subject."""
    beyond = "beyond the range that is searched"
    for bit, one, many in ((schema.DROPPED, "lost its signal", "lost their signal"), (schema.LIMIT, f"lies {beyond}", f"lie {beyond}")):
        places = np.argwhere(found.motion.flags & bit)
        if len(places):
            named = ", ".join(f"{v}/{s}" for v, s in places[:TOLD]) + (" ..." if len(places) > TOLD else "")
            text = f"slice {one} and is" if len(places) == 1 else f"slices {many} and are"
            warn(f"{len(places)} {text} left out (volume/slice from 0: {named})", where=schema.words(schema.DWI))


def run_mean(inputs: StageInput) -> dict[str, Array | Volume]:
    """Mean of the diffusion-weighted volumes of a corrected series, of all where none is weighted."""
    from cohort_engine.single.moco import mean_of

    series = inputs.series(schema.DWI_MOCO)
    b0 = gradients_for(inputs, series).b0
    return {schema.DWI_MEAN: series.with_data(mean_of(series.data, ~b0 if not b0.all() else b0))}


def dwi_params(config: Config) -> dict[str, Any]:
    """All of ``stages.dwi``, and the network that finds the cord in the series."""
    from cohort_engine.nn.weights import CORD, content

    chosen: DwiConfig = config.stages.dwi
    return chosen.model_dump(mode="json") | ({"weights": content(CORD)} if chosen.moco or chosen.denoise else {})


def dwi_stages(config: Config) -> Iterable[Stage]:
    """Both: those that nobody reads are left out of a study."""
    chosen: DwiConfig = config.stages.dwi
    reverse = (schema.DWI_REVERSE, schema.DWI_REVERSE_BVAL) if chosen.moco and chosen.distortion == "auto" else ()
    yield Stage(
        name=MOCO_STAGE, version="6", run=run_moco, params=dwi_params(config), roles=GIVEN,
        optional=(*((schema.DWI_JSON,) if chosen.moco else ()), *reverse), makes=schema.DWI_MOCO,
        writes=(*schema.MOTION_SPECS.values(), *moco_quality().values()), memory=MOCO_MEMORY, gpu=chosen.moco or chosen.denoise,
    )  # fmt: skip
    yield Stage(
        name=MEAN_STAGE, version="1", run=run_mean, roles=(schema.DWI_MOCO,), alternatives=WITH_GRADIENTS, makes=schema.DWI_MEAN, writes=(),
        memory=SERIES_MEMORY,
    )  # fmt: skip


def dwi_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how the series was corrected."""
    if not {m for m in metrics if m in schema.METRICS and schema.METRICS[m].contrast == schema.DWI} or science["source"] != schema.BIDS:
        return ""
    dwi = science["stages"]["dwi"]
    text = "Diffusion series were denoised with MP-PCA [@veraart]. " if dwi["denoise"] else ""
    if not dwi["moco"]:
        return f"{text}Motion between the volumes of diffusion series was not corrected."
    text += (
        "Diffusion series that the study had not corrected were corrected for motion slice by slice, in the plane, which suits the cord better "
        "than moving whole volumes [@mohammadi]: each slice of each volume, with and without diffusion weighting, was brought to one target by what "
        "lies in a soft region around the cord, smoothly along the cord and in time; slices that had lost their signal were left out"
    )
    if dwi["interleaved"] is not False:
        text += "; odd and even slices were let move apart" + (" where the series showed it" if dwi["interleaved"] == "auto" else "")
    if dwi["eddy"]:
        text += "; slices of diffusion-weighted volumes were let stretch and shear along phase encoding, as eddy currents make them"
    if dwi["distortion"] == "auto":
        text += (
            ". Where an image of opposite phase encoding was available, distortion was estimated from the pair and corrected with the signal it "
            "had spread"
        )
    return f"{text}. Each series was interpolated once, and what that leaves of the noise floor was taken off [@gudbjartsson]."


REFERENCES = {
    "gudbjartsson": (
        "Gudbjartsson H, Patz S. The Rician distribution of noisy MRI data. Magnetic Resonance in Medicine 1995;34:910-914.",
        "10.1002/mrm.1910340618",
    ),
    "mohammadi": (
        "Mohammadi S, Freund P, Feiweier T, Curt A, Weiskopf N. The impact of post-processing on spinal cord diffusion tensor imaging. NeuroImage "
        "2013;70:377-385.", "10.1016/j.neuroimage.2012.12.058",
    ),
    "veraart": (
        "Veraart J, Novikov DS, Christiaens D, et al. Denoising of diffusion MRI using random matrix theory. NeuroImage 2016;142:394-406.",
        "10.1016/j.neuroimage.2016.08.016",
    ),
}  # fmt: skip
register(StageKind("dwi", DwiConfig, dwi_stages, dwi_methods, REFERENCES))
