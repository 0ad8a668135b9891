"""The template map of each contrast: where each template voxel lies in the image (stages ``fit_<contrast>``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import InputError
from cohort_engine.io.volume import Volume, on_voxels_of
from cohort_engine.mapping import ANTS, TORCH
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, quality_arrays, register

if TYPE_CHECKING:
    from cohort_engine.cord.grey import GreyMatter
    from cohort_engine.cord.levels import Landmarks

AUTO: Final = "auto"
LANDMARKS = "fit.landmarks"
"""Parameter of other stages that says what landmark numbers mean: ``stages.fit.landmarks``."""
GREY_MEMORY = 400.0
"""torch, the network, and the windows of a 1 mm T2w image, MiB."""
FIT_MEMORY = 400.0
"""antspyx, a 1 mm T2w mask of the whole neck, SyN on the straightened block: 260 MiB measured with PAM50."""


class FitConfig(Section):
    """The template map (stages ``fit_<contrast>``)."""

    contrasts: tuple[str, ...] = ()
    """Contrasts that get a template map of their own, beside those that the metrics need."""
    landmarks: Literal["auto", "disc", "body"] = "auto"
    """What the landmark numbers mean: disc n lies above vertebra n, body n is vertebra n; ``auto`` reads it from the file name."""
    deformable: bool = True
    """Match the outlines after the geometric steps."""
    engine: Literal["ants", "torch"] = "ants"
    """What does that: SyN of antspyx, or symmetric log-demons in torch, a third of the time, on a GPU where there is one."""
    refine: bool = True
    """Let the image refine the map where it shows grey matter (MT, T2*, FA, mean diffusion-weighted images; never T2w): white matter, grey matter and
    CSF are to explain it best."""
    grey: bool = False
    """Move the inside of the cord by its grey matter where the image shows it (T2*, MT); a network segments it."""
    seed: int = 1
    """Seed handed to ANTs through the worker's environment, before antspyx is imported."""


def contrasts_of(config: Config) -> tuple[str, ...]:
    """Return the contrasts that get a template map: those of the metrics, then those asked for by name.

    Raises
    ------
    UnknownNameError
        A contrast that nobody has registered.
    """
    needed = (schema.METRICS[m].contrast for m in config.stages.metrics)
    mapped = (m.contrast for m in config.stages.maps.values())
    names = tuple(dict.fromkeys((*needed, *mapped, *config.stages.fit.contrasts)))
    return tuple(schema.CONTRASTS.find(c, where="stages.fit.contrasts").name for c in names)


GREY_RULE = 2
"""Counts how grey matter is segmented, beside the network: with it maps that followed grey matter are made anew, others are not."""


def fit_quality(contrast: str) -> dict[str, schema.VariableSpec]:
    """Quality numbers of a template map."""
    return schema.qc_specs(contrast, schema.FIT_QC, schema.fit_stage(contrast))


def landmarks_of(inputs: StageInput, role: str, said: str) -> Landmarks:
    """Read landmarks, with what their numbers mean: the study file's word (`said`), else the file's; those that a stage made are discs."""
    from cohort_engine.cord.levels import landmarks_from_labels

    labels = inputs.labels(role)
    kind = inputs.kinds[role] if said == AUTO or role in inputs.made else said
    return landmarks_from_labels(labels.data, labels.affine, kind=kind, what=schema.words(role))


def run_fit(inputs: StageInput, *, contrast: schema.Contrast) -> dict[str, Array]:
    """Fit the template map of a contrast: ``fit/<contrast>`` (voxel, 3) RAS+ mm and its quality numbers.

    Vertebral levels come from the landmarks of the T2w image, through scanner coordinates, or from the contrast's own.
    """
    from cohort_engine.single.fit import fit_cord

    cord = cord_of(inputs, contrast)
    source = next(c for c in (schema.CONTRASTS[schema.T2W], contrast) if c.landmarks in inputs.files)
    landmarks = landmarks_of(inputs, source.landmarks, inputs.params["landmarks"])
    labelled = None if source.name == contrast.name else cord_of(inputs, source)
    grey = _grey_matter(inputs, contrast) if inputs.params["grey"] else None
    image = inputs.volume(contrast.image) if inputs.params["refine"] and contrast.grey and contrast.image in inputs.files else None
    if image is not None and not image.grid.same(cord.grid):
        image = None  # the mask was drawn on another grid: the map follows it alone
    fitted = fit_cord(
        cord, landmarks, inputs.template, labelled=labelled, grey=grey.soft if grey and grey.shown else None,
        image=image, deformable=inputs.params["deformable"], engine=inputs.params.get("engine", ANTS), likely=contrast.grey,
        seed=inputs.params["seed"], what=schema.words(contrast.mask), labelled_what=schema.words(source.mask),
    )  # fmt: skip
    quality = fitted.quality | ({schema.GREY_CONTRAST: grey.contrast} if grey else {})
    return {schema.fit_spec(contrast.name).path: fitted.packed(inputs.template)} | quality_arrays(fit_quality(contrast.name), quality)


def cord_of(inputs: StageInput, contrast: schema.Contrast) -> Volume:
    """Mask of a contrast, on the voxels of its image where both are on one grid (headers differ by what tools round), else where it says."""
    cord = inputs.mask(contrast.mask)
    if contrast.image not in inputs.files:
        return cord
    try:
        image = inputs.voxels(contrast.image)
    except InputError:  # the stages that need its values will say what is wrong with it
        return cord
    if not image.grid.same(cord.grid):
        return cord
    return on_voxels_of(image, cord, what=schema.words(contrast.mask), like=f"the {schema.words(contrast.image)}")


def _grey_matter(inputs: StageInput, contrast: schema.Contrast) -> GreyMatter:
    """Segment the grey matter of the contrast's image, on the grid of its mask."""
    from cohort_engine.cord.grey import grey_matter

    image = inputs.volume(contrast.image)
    remedy = "Segment this very image, or switch stages.fit.grey off."
    cord = inputs.mask(contrast.mask, on=image, like=contrast.image, remedy=remedy)
    return grey_matter(image.data, image.affine, cord.data)


def fit_params(config: Config) -> dict[str, Any]:
    """All of ``stages.fit`` but the list of contrasts: that another contrast is fitted too changes nothing here. And the network, if used.

    What came to the settings later stands there only where it is not what was done before.
    """
    from cohort_engine.nn.weights import GREY, content

    chosen: FitConfig = config.stages.fit
    silent = {"contrasts"} | ({"engine"} if chosen.engine == ANTS else set())
    return chosen.model_dump(mode="json", exclude=silent) | ({"weights": content(GREY), "rule": GREY_RULE} if chosen.grey else {})


def levels_of(contrast: schema.Contrast) -> tuple[tuple[str, ...], ...]:
    """Files that give an image its vertebral levels, best first."""
    t2w = schema.CONTRASTS[schema.T2W]
    return ((contrast.landmarks,),) if contrast.name == schema.T2W else ((t2w.mask, t2w.landmarks), (contrast.landmarks,))


def fit_stages(config: Config) -> Iterable[Stage]:
    """One stage a contrast."""
    params, grey = fit_params(config), config.stages.fit.grey
    torch = grey or config.stages.fit.engine == TORCH
    for name in contrasts_of(config):
        c = schema.CONTRASTS[name]
        yield Stage(
            name=schema.fit_stage(name), version="7", run=partial(run_fit, contrast=c), params=params,
            roles=(c.mask, c.image) if grey else (c.mask,),
            alternatives=levels_of(c), optional=(c.image,),
            writes=(schema.fit_spec(name), *fit_quality(name).values()), memory=FIT_MEMORY + (GREY_MEMORY if torch else 0.0),
        )  # fmt: skip


def fit_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how the template was brought to the images."""
    del metrics
    fit = science["stages"]["fit"]
    text = (
        "The template was brought to each image with its cord mask and vertebral landmarks: the centreline gave position and direction, the "
        "landmarks the place along the cord, and the second moments of the two cords shift, scale and rotation of each slice"
    )
    outline = {
        ANTS: f"symmetric diffeomorphic registration (SyN) of the straightened cords [@syn], seed {fit['seed']}",
        TORCH: "symmetric log-domain demons on the straightened cords [@demons]",
    }[fit.get("engine", ANTS)]
    refined = (
        " Where an image showed grey matter its map was then refined: shift, turn, scale and low-order bends of each slice, and of the inside "
        "against the outline, were those of greatest posterior probability under a mixture of white matter, grey matter, CSF and the rest, with a "
        "Gaussian prior that ties them along the cord."
    )
    return text + (f"; the outline was then matched by {outline}" if fit["deformable"] else "") + "." + (refined if fit.get("refine") else "")


register(StageKind(schema.FIT, FitConfig, fit_stages, fit_methods))
