"""What the generator draws from: cord, canal, grey matter and vertebrae of a template, as stacks of axial slices.

Borders are kept as signed distances (mm, positive inside), so that a border can be moved, scaled and made soft exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.errors import TemplateError

if TYPE_CHECKING:
    from cohort_engine.template.base import Template

FAR = 8.0
"""Distances are cut at this, mm."""
SMOOTH = 0.4
"""Standard deviation of the smoothing that takes the staircase out of a binary border, mm."""
DISC_SPAN = 12.0
"""A gap between vertebral bodies up to this height is a disc, mm."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Axial slices of a straight cord, centred on it.

    Attributes
    ----------
    section : (z, 3, y, x) float32 array
        Signed distance to the border of the cord and of the canal (mm, positive inside), and the fraction of grey matter.
    spacing : float
        Voxel size of `section`, mm, isotropic.
    centre : (2,) tuple of float
        Index (x, y) of the cord's centre.
    bone : (2, z, y, x) float32 array or None
        Fraction of vertebral bone and of disc, for a template that has them.
    bone_spacing : float
        Voxel size of `bone`, mm. Its first slice is that of `section`.
    bone_centre : (2,) tuple of float
        Index (x, y) of the cord's centre in `bone`.
    """

    section: NDArray[np.float32]
    spacing: float
    centre: tuple[float, float]
    bone: NDArray[np.float32] | None = None
    bone_spacing: float = 1.0
    bone_centre: tuple[float, float] = (0.0, 0.0)


def anatomy_of(template: Template, spine: NDArray[Any] | None = None) -> Anatomy:
    """Prepare a template for the generator.

    Parameters
    ----------
    template : Template
        Isotropic.
    spine : (x, y, z) array, optional
        Mask of the vertebrae on the template's full grid.

    Returns
    -------
    Anatomy

    Raises
    ------
    TemplateError
        The voxels are not isotropic, or the spine is on another grid.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> a = anatomy_of(parametric_cord(spacing=1.0, top="C3", bottom="C3"))
    >>> z, y, x = a.section.shape[0] // 2, round(a.centre[1]), round(a.centre[0])
    >>> a.section.shape[1], bool(3 < a.section[z, 0, y, x] < 5), bool(a.section[z, 1, y, x] > a.section[z, 0, y, x])
    (3, True, True)
    """
    h = template.grid.spacing
    if np.ptp(h) > 1e-3:
        raise TemplateError(expected="isotropic voxels", found=str(h.tolist()), where=template.name, remedy="Take PAM50 or the parametric cord.")
    spacing = float(h[0])
    cord = template.cord >= 0.5
    canal = (cord | (template.csf >= 0.5)).transpose(2, 1, 0)
    filled = np.stack([ndimage.binary_fill_holes(s) for s in canal])
    sdf = [_distance(m, spacing) for m in (cord.transpose(2, 1, 0), filled)]
    section = np.stack([*sdf, template.gm.transpose(2, 1, 0)], axis=1).astype(np.float32)
    x, y, _ = (float(i.mean()) for i in np.nonzero(cord))
    if spine is None:
        return Anatomy(section, spacing, (x, y))
    if spine.shape != template.grid.shape:
        raise TemplateError(expected=f"a spine of shape {template.grid.shape}", found=str(spine.shape), where=template.name, remedy="Give its own.")
    ci, cj, ck = template.corner
    step = max(1, round(1.0 / spacing))
    z = slice(ck, ck + template.cord.shape[2])
    bone = (np.asarray(spine)[::step, ::step, z] > 0)[:, :, ::step]
    centre = ((x + ci) / step, (y + cj) / step)
    ahead = np.zeros(bone.shape, bool)
    half = round(17 / spacing / step)
    ahead[max(0, round(centre[0]) - half) : round(centre[0]) + half, round(centre[1]) + round(5 / spacing / step) :] = True
    body = bone & ahead
    span = round(DISC_SPAN / spacing / step)
    disc = ndimage.binary_closing(np.pad(body, ((0, 0), (0, 0), (span, span))), np.ones((1, 1, span), bool))[:, :, span:-span] & ~bone
    soft = np.stack([ndimage.gaussian_filter(m.astype(np.float32), 0.6).transpose(2, 1, 0) for m in (bone, disc)])
    return Anatomy(section, spacing, (x, y), soft, spacing * step, centre)


def _distance(mask: NDArray[np.bool_], spacing: float) -> NDArray[np.float32]:
    """Signed in-plane distance (z, y, x) to the border of a mask, mm, positive inside; empty slices are far outside."""
    out = np.full(mask.shape, -FAR, np.float32)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        m = np.pad(mask[z], 1)
        inner, outer = (ndimage.distance_transform_edt(s) for s in (m, ~m))
        out[z] = np.clip((np.where(m, inner - 0.5, 0.5 - outer) * spacing)[1:-1, 1:-1], -FAR, FAR)
    present = np.flatnonzero(mask.any(axis=(1, 2)))
    if len(present):
        run = slice(int(present[0]), int(present[-1]) + 1)
        out[run] = ndimage.gaussian_filter(out[run], (SMOOTH / spacing,) * 3, mode="nearest")
    return out
