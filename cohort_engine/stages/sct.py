"""Stages of subjects that the Spinal Cord Toolbox worked on: warps, label folders and metric images are read; nothing is fitted.

They have the names of the stages they stand for and write the same arrays, so that a cohort looks the same whatever it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.errors import GeometryError, InputError, TemplateError
from cohort_engine.io.grids import require_grid
from cohort_engine.io.label_folder import read_atlas, read_cord, read_levels
from cohort_engine.io.sct_folder import FROM_TEMPLATE, LABEL_FOLDER, MTR_IMAGE, OFF_MOVED, OFF_WARP, TO_TEMPLATE, index_results, sct_roles
from cohort_engine.io.volume import Volume, require_signal
from cohort_engine.stages import quality
from cohort_engine.stages.base import SOURCES, Array, Source, Stage, StageInput, quality_arrays
from cohort_engine.stages.fit import contrasts_of
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages
from cohort_engine.stages.mtr import MTR

if TYPE_CHECKING:
    from cohort_engine.mapping.native import WarpedAtlas

for _contrast, _words in ((schema.MT, "MT image"), (schema.T2W, "T2w image")):
    schema.ROLES.add(schema.Role(schema.role(_contrast, FROM_TEMPLATE), f"warp from the template to the {_words}"))
    schema.ROLES.add(schema.Role(schema.role(_contrast, TO_TEMPLATE), f"warp from the {_words} to the template"))
    schema.ROLES.add(schema.Role(schema.role(_contrast, LABEL_FOLDER), f"label folder of the {_words}"))
schema.ROLES.add(schema.Role(MTR_IMAGE, "MTR image"))
schema.ROLES.add(schema.Role(OFF_WARP, "warp from the MT-off to the MT-on image"))
schema.ROLES.add(schema.Role(OFF_MOVED, "MT-off image on the grid of the MT-on image"))

LEAST = {LABEL_FOLDER: 0.85, schema.MASK: 0.5}
"""Least Dice of the template's cord, brought into the image by the warp, with that of the label folder (made by the same warp: 0.99 in a published
subject) and with the mask (0.97 there; a pathology may lower it)."""
WARP_MEMORY = 400.0
"""A field of a whole field of view, 256 x 256 x 22, and template points as neighbours of its voxels, MiB: a worker with PAM50 peaked at 364."""
FARTHEST_APART = 1.0
"""Largest median distance (mm) at which two opposite warps pass for one registration."""


def warp_quality(contrast: str) -> dict[str, schema.VariableSpec]:
    """Quality numbers of a template map that was read from a warp."""
    return schema.qc_specs(contrast, {**schema.FIT_QC, **schema.WARP_QC}, schema.fit_stage(contrast))


# --- the template map -------------------------------------------------------------------------------------------------
def run_warp(inputs: StageInput, *, contrast: str) -> dict[str, Array]:
    """Read the template map of a contrast off its warps: ``fit/<contrast>`` (voxel, 3) RAS+ mm and its quality numbers.

    The warp from the template is checked against the cord of the label folder and of the mask. The warp to the template gives the map where there
    is one, else the first is inverted.
    """
    from cohort_engine.mapping import warp
    from cohort_engine.mapping.ants import field_positions

    role, back = schema.role(contrast, FROM_TEMPLATE), schema.role(contrast, TO_TEMPLATE)
    template, what = inputs.template, schema.words(role)
    warped = inputs.vectors(role)
    field, affine = warped.data, warped.affine
    dice = {}
    slices = np.zeros(field.shape[2], bool)
    for kind, volume in cords(inputs, contrast).items():
        words = schema.words(schema.role(contrast, kind))
        require_grid(volume.grid, warped.grid, what=words, like=f"the {what}")
        cord: NDArray[np.bool_] = volume.data > 0.5
        dice[kind] = warp.check_convention(field, affine, cord, template, least=LEAST[kind], what=what, like=f"cord of the {words}")
        slices = np.asarray(cord.any(axis=(0, 1)))
    positions = field_positions(field, affine)
    if back in inputs.files:
        opposite = inputs.vectors(back)
        there = field_positions(opposite.data, opposite.affine)
        packed, residual = warp.packed_by_opposite(there, opposite.affine, positions, affine, template, slices)
        if not len(residual) or np.median(residual) > FARTHEST_APART:
            apart = f"{np.median(residual):.1f} mm between the two" if len(residual) else "nothing in common"
            raise InputError(
                expected=f"the opposite of the {what}", found=apart, where=schema.words(back),
                remedy="Take both warps from one registration, or leave this one out: the other is then inverted.",
            )  # fmt: skip
    else:
        packed, residual = warp.packed_by_inversion(positions, affine, template, slices, what=what)
    if not np.isfinite(packed).any():
        raise GeometryError(
            expected="a warp that brings template voxels into the cord's slices",
            found="none",
            where=what,
            remedy="Check that it is of this template.",
        )
    cord_voxels = template.cord[tuple((template.packing.ijk.astype(int) - np.asarray(template.corner)).T)] >= 0.5
    quality = {
        schema.DICE: dice.get(schema.MASK, np.nan), schema.LABEL_DICE: dice.get(LABEL_FOLDER, np.nan),
        schema.FIT_COVERAGE: float(np.isfinite(packed[cord_voxels, 0]).sum() / (template.cord >= 0.5).sum()),
        schema.INVERSE_RESIDUAL: float(np.percentile(residual, 95)), schema.GAPS: float(np.ptp(np.flatnonzero(slices)) + 1 - slices.sum()),
    }  # fmt: skip
    return {schema.fit_spec(contrast).path: packed} | quality_arrays(warp_quality(contrast), quality)


def cords(inputs: StageInput, contrast: str) -> dict[str, Volume]:
    """Cords (x, y, z), 0 to 1, in the image of a contrast, by what they come from; the best to go by last."""
    label, mask = (schema.role(contrast, k) for k in (LABEL_FOLDER, schema.MASK))
    found = {LABEL_FOLDER: read_cord(inputs.files[label])} if label in inputs.files else {}
    return found | ({schema.MASK: inputs.mask(mask)} if mask in inputs.files else {})


def cord_roles(contrast: str) -> tuple[tuple[str, ...], ...]:
    """Files that say where the cord is, best first: one of both will do."""
    label, mask = (schema.role(contrast, k) for k in (LABEL_FOLDER, schema.MASK))
    return (label, mask), (label,), (mask,)


def opposite_or_not(contrast: str) -> tuple[tuple[str, ...], ...]:
    """List the sets of files that go with the warp from the template, best first."""
    return tuple((*more, *cord) for more, cord in product(((schema.role(contrast, TO_TEMPLATE),), ()), cord_roles(contrast)))


# --- the metric -------------------------------------------------------------------------------------------------------
def mtr_image(inputs: StageInput) -> MetricImage:
    """Magnetization transfer ratio (percent), NaN where it cannot be known: the image there is, or else of MT-on and the moved MT-off image."""
    from cohort_engine.qmri.mt import SATURATION, check_not_swapped, cord_floor, mtr

    *_, (kind, cord) = cords(inputs, schema.MT).items()
    mask, words = cord.data > 0.5, schema.words(schema.role(schema.MT, kind))
    shift = np.nan
    if MTR_IMAGE in inputs.files:
        image = inputs.volume(MTR_IMAGE)
        require_signal(image, what=schema.words(MTR_IMAGE))
        require_grid(cord.grid, image.grid, what=words, like=f"the {schema.words(MTR_IMAGE)}")
        ratio = np.where(np.abs(image.data) < SATURATION, image.data, np.float32(np.nan))
    else:
        image = inputs.volume(schema.MT_ON)
        require_grid(cord.grid, image.grid, what=words, like=f"the {schema.words(schema.MT_ON)}")
        moved, shift = moved_off(inputs, image, mask)
        for role, data in ((schema.MT_ON, image.data), (schema.MT_OFF, moved)):
            require_signal(image.with_data(data), what=schema.words(role))
        ratio = mtr(moved, image.data, floor=cord_floor(moved, mask, inputs.params["low_signal"]))[0]
    check_not_swapped(ratio, mask)
    return MetricImage(image.with_data(ratio), metric_quality(ratio, mask, shift))


def moved_off(inputs: StageInput, on: Volume, mask: NDArray[np.bool_]) -> tuple[Array, float]:
    """MT-off image on the grid of the MT-on image: as it was stored, or through the stored warp, cubic; and its largest movement in the cord, mm."""
    from cohort_engine.mapping.ants import field_positions
    from cohort_engine.mapping.template_map import sample

    if OFF_MOVED in inputs.files:
        stored = inputs.volume(OFF_MOVED)
        require_grid(stored.grid, on.grid, what=schema.words(OFF_MOVED), like=f"the {schema.words(schema.MT_ON)}")
        return stored.data, float("nan")
    off = inputs.volume(schema.MT_OFF)
    warped = inputs.vectors(OFF_WARP)
    require_grid(warped.grid, on.grid, what=schema.words(OFF_WARP), like=f"the {schema.words(schema.MT_ON)}")
    field, positions = warped.data, field_positions(warped.data, warped.affine)
    return sample(off.data, off.affine, positions, order=3), float(
        np.linalg.norm(field[mask & np.isfinite(positions).all(axis=-1)], axis=-1).max(initial=0)
    )


# --- the atlas --------------------------------------------------------------------------------------------------------
def label_atlas(inputs: StageInput, contrast: str, image: MetricImage) -> WarpedAtlas:
    """Read the atlas of a label folder, its weights and levels as they are.

    Raises
    ------
    TemplateError
        Another atlas than the template's.
    GeometryError
        Another grid than the metric's.
    MissingInputError, InputError
        See `io.label_folder`.
    """
    from cohort_engine.mapping.native import WarpedAtlas, reach
    from cohort_engine.reduce.native import slice_levels

    role, template = schema.role(contrast, LABEL_FOLDER), inputs.template
    what = schema.words(role)
    stored, levels = read_atlas(inputs.files[role]), read_levels(inputs.files[role])
    assert levels is not None
    for grid in (stored.grid, levels.grid):
        require_grid(grid, image.volume.grid, what=what, like="the metric image")
    ours = template.atlas
    names = [n for n, other in zip(ours.labels, stored.naming.labels, strict=False) if n != other]
    if names or len(ours.labels) != len(stored.naming.labels) or dict(ours.unions) != dict(stored.naming.unions):
        apart = f"{len(names)} of them with another name" if names else "or other unions"
        raise TemplateError(
            expected=f"the atlas of {template.name} {template.version}, {len(ours.labels)} labels", found=f"{len(stored.naming.labels)}, {apart}",
            where=what, remedy="Warp the template of this study again, or give the template that the folder was made with.",
        )  # fmt: skip
    if not len(stored.voxel):
        raise InputError(expected="labels that reach the image", found="no voxel in any of them", where=what, remedy="Warp the template again.")
    inside = np.asarray(np.isfinite(inputs.load(schema.fit_spec(contrast).path)).all(axis=1))
    return WarpedAtlas(stored.voxel, stored.weights, slice_levels(levels.data, levels.affine)[stored.slices], reach(inside, template))


# --- quality ------------------------------------------------------------------------------------------------------------
def scans(inputs: StageInput) -> dict[str, Volume]:
    """Read what there is to judge the results by, by role: MT-on, or what the MTR image says of it, and the cord as the toolbox had it.

    ``100 - MTR`` is MT-on in percent of MT-off: tissues and fluid have the same order in it.
    """
    *_, (_, cord) = cords(inputs, schema.MT).items()
    mask, t2w = cord.data > 0.5, schema.CONTRASTS[schema.T2W]
    out = {role: inputs.volume(role) for role in (t2w.image, t2w.mask) if role in inputs.files}
    out[schema.role(schema.MT, schema.MASK)] = cord.with_data(mask.astype(np.float32))
    if schema.MT_ON in inputs.files:
        out[schema.MT_ON] = inputs.volume(schema.MT_ON)
        if {OFF_MOVED, OFF_WARP} & set(inputs.files):
            out[schema.MT_OFF] = out[schema.MT_ON].with_data(np.nan_to_num(moved_off(inputs, out[schema.MT_ON], mask)[0]))
    else:
        ratio = inputs.volume(MTR_IMAGE)
        out[schema.MT_ON] = ratio.with_data(100 - np.nan_to_num(ratio.data, nan=100.0))
    require_grid(cord.grid, out[schema.MT_ON].grid, what=schema.words(schema.role(schema.MT, schema.MASK)), like="the MT images")
    return out


def run_quality(inputs: StageInput) -> dict[str, Array]:
    """Judge the toolbox's results as those of this package; what native values depend on, where there is a label folder."""
    atlas = label_atlas if schema.role(schema.MT, LABEL_FOLDER) in inputs.files else None
    return quality.run_quality(inputs, read=scans, image=mtr_image, atlas=atlas)


def quality_stages(config: Config) -> Iterable[Stage]:
    """One stage, as for images."""
    for own in quality.quality_stages(config):
        images = (*((MTR_IMAGE, *more) for more in (*MTR_FILES[1:], (schema.MT_ON,), ())), *MTR_FILES[1:])
        files = product(images, cord_roles(schema.MT), quality.OTHERS)
        yield replace(
            own, version=f"sct-{own.version}", run=run_quality, roles=(), alternatives=tuple((*mt, *cord, *more) for mt, cord, more in files),
        )  # fmt: skip


# --- registration -----------------------------------------------------------------------------------------------------
MTR_FILES = ((MTR_IMAGE,), (schema.MT_ON, OFF_MOVED), (schema.MT_ON, schema.MT_OFF, OFF_WARP))
"""Files that give MTR, best first."""


def warp_stages(config: Config) -> Iterable[Stage]:
    """Read the template map of each contrast; nothing in a study file changes how."""
    for name in contrasts_of(config):
        yield Stage(
            name=schema.fit_stage(name), version="sct-2", run=partial(run_warp, contrast=name), roles=(schema.role(name, FROM_TEMPLATE),),
            alternatives=opposite_or_not(name), writes=(schema.fit_spec(name), *warp_quality(name).values()), memory=WARP_MEMORY,
        )  # fmt: skip


def mtr_stages(config: Config) -> Iterable[Stage]:
    """Take MTR from what the toolbox left, and its native tables from the label folder."""
    if MTR.name in config.stages.metrics:
        yield from metric_stages(
            config, MTR, mtr_image, version="sct-2", roles=(), params={"low_signal": config.stages.mtr.low_signal},
            alternatives=tuple((*files, *cord) for files, cord in product(MTR_FILES, cord_roles(schema.MT))), atlas=label_atlas,
            atlas_roles=(schema.role(schema.MT, LABEL_FOLDER),),
        )  # fmt: skip


def nothing(config: Config) -> Iterable[Stage]:
    """Make no stage: what the toolbox left has masks and levels."""
    del config
    return ()


SOURCES.add(
    Source(
        schema.SCT, "takes what the Spinal Cord Toolbox left behind: warps, labels, metric images", index_results, sct_roles,
        stands_in={"fit": warp_stages, "mtr": mtr_stages, "segment": nothing, "levels": nothing, "quality": quality_stages},
        methods="Warps to the template, atlas labels and metric images were taken from results of the Spinal Cord Toolbox [@sct].",
    )
)  # fmt: skip
