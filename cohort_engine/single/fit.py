"""The template map of one image from its cord mask and vertebral landmarks: what the command `register` and the stages ``fit_*`` call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import Landmarks, level_axis, transfer
from cohort_engine.io.volume import Volume
from cohort_engine.mapping import ANTS
from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.likelihood import around, explained
from cohort_engine.mapping.rim import with_rim
from cohort_engine.mapping.template_map import MapFit, TemplateMap
from cohort_engine.template.base import Template


def fit_cord(
    cord: Volume, landmarks: Landmarks, template: Template, *, labelled: Volume | None = None, grey: NDArray[Any] | None = None,
    image: Volume | None = None, deformable: bool = True, likely: bool = False, engine: str = ANTS, seed: int = 1, what: str = "cord mask",
    labelled_what: str = "cord mask",
) -> TemplateMap:  # fmt: skip
    """Fit the template map of an image.

    Parameters
    ----------
    cord : Volume
        Mask (x, y, z), 0 to 1.
    landmarks : Landmarks
        From `cord.levels.landmarks_from_labels`.
    template : Template
    labelled : Volume, optional
        Cord mask of the image that the landmarks were placed on, where that is another one: its levels travel through scanner coordinates.
    image : Volume, optional
        On the grid of the mask: refines the map where it shows grey matter (`by_image`).
    likely : bool
        Follow the mask as far as its pixels can tell, even if the image does not refine the map: in images of thick slices, whose values are wanted,
        not their outline. Without it a map that nothing refines follows the mask to its border.
    grey, deformable, engine, seed
        See `mapping.template_map.fit_template_map`; the deformable step runs once, however far the border is followed.
    what, labelled_what : str
        Words of the two masks, for messages.

    Raises
    ------
    CordError, LevelError
        The mask or the landmarks cannot carry a map.
    """
    own = centreline_from_mask(cord.data, cord.affine, what=what)
    if labelled is None:
        levels = level_axis(own, landmarks, template)
    else:
        levels = transfer(level_axis(centreline_from_mask(labelled.data, labelled.affine, what=labelled_what), landmarks, template), own)
    fit = MapFit.of(cord.data, cord.affine, levels, template, grey=grey, deformable=deformable, engine=engine, seed=seed, what=what)
    if image is None:
        return fit.map(likely=likely)
    refined = by_image(fit.map(likely=True), image, cord, template)
    if likely or np.isfinite(refined.quality.get(schema.REFINED_SHIFT, np.nan)):
        return refined
    whole = fit.map(likely=False)
    told = explained(image.data, tissue_fractions(with_rim(whole, template), template, image.affine, image.data.shape), around(cord.data))
    quality = {schema.EXPLAINED: told.mean, schema.EXPLAINED_BEFORE: told.mean, schema.WHITE_BELOW_GREY: told.white_darker}
    return TemplateMap(whole.block, refined.quality | whole.quality | quality)


def by_image(fitted: TemplateMap, image: Volume, cord: Volume, template: Template) -> TemplateMap:
    """Refine a template map by its image where that shows grey matter; else only the quality tells of the image.

    Parameters
    ----------
    fitted : TemplateMap
    image, cord : Volume
        (x, y, z) on one grid.
    template : Template

    Returns
    -------
    TemplateMap
        Its quality tells what the tissues explain of the image. Grey matter is shown where its contrast (`cord.grey.grey_contrast`), by the tissues
        of the refined map, reaches `cord.grey.SHOWN`.
    """
    from cohort_engine.cord.grey import SHOWN, grey_contrast
    from cohort_engine.mapping.refine import refine_map

    found = refine_map(fitted, template, image.data, image.affine, cord.data)
    if found is None:
        return fitted
    tissues = np.nan_to_num(found.tissues)
    contrast = grey_contrast(image.data, tissues[..., :2].sum(axis=-1), tissues[..., 1])
    shown = abs(contrast) >= SHOWN
    judged = found.after if shown else found.before
    quality = fitted.quality | {
        schema.GREY_CONTRAST: contrast, schema.EXPLAINED: judged.mean, schema.EXPLAINED_BEFORE: found.before.mean,
        schema.WHITE_BELOW_GREY: judged.white_darker, schema.REFINED_AREA_MIN: found.area[0] if shown else np.nan,
        schema.REFINED_SHIFT: found.shift if shown else np.nan,
    }  # fmt: skip
    return TemplateMap(found.fitted.block if shown else fitted.block, quality)
