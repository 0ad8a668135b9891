"""The template map of one image from its cord mask and vertebral landmarks: what the command `register` and the stages ``fit_*`` call."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import Landmarks, level_axis, transfer
from cohort_engine.io.volume import Volume
from cohort_engine.mapping.template_map import TemplateMap, fit_template_map
from cohort_engine.template.base import Template


def fit_cord(
    cord: Volume, landmarks: Landmarks, template: Template, *, labelled: Volume | None = None, grey: NDArray[Any] | None = None,
    deformable: bool = True, seed: int = 1, what: str = "cord mask", labelled_what: str = "cord mask",
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
    grey, deformable, seed
        See `mapping.template_map.fit_template_map`.
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
    return fit_template_map(cord.data, cord.affine, levels, template, grey=grey, deformable=deformable, seed=seed, what=what)
