"""Grey matter in shapes of its own: two ventral horns, two dorsal horns that reach for the edge of the cord, and the commissure between them.

The grey matter of a template is a mean over people: its dorsal horns are blunt and end 1.5 mm before the edge, and no thin horn survives the mean.
Here a shape is a signed distance, the smooth union of tapered strokes with random joints and widths: slender and broad horns, horns of the upper
cervical cord and of its enlargement, and those of patients (lopsided, turned). Where a joint lies goes by the half axes of the cord at its level;
widths are in millimetres of the template, so that compression flattens the shape with the cord.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cohort_engine.nn.anatomy import Anatomy
    from cohort_engine.nn.draw import Draw

SIDE, STEP = 72, 0.25
"""Pixels a side of a drawn shape, and their size, mm of the template."""
BLEND = 0.12
"""Strokes melt into each other over this length, mm."""
USUAL = 5.3
"""Mean half axis of a cord whose horns have the widths below, mm; those of a smaller cord are as much slimmer."""
LOPSIDED = 0.2
"""Share of shapes that are as lopsided and turned as a patient's."""


class Shapes(NamedTuple):
    """Signed distances (n, slice, part, y, x), mm of the template, positive inside.

    Attributes
    ----------
    grey : Tensor
        To the border of grey matter.
    fissure : Tensor
        To the border of the ventral median fissure, which holds fluid and vessels.
    """

    grey: Tensor
    fissure: Tensor


def half_axes(anatomy: Anatomy) -> NDArray[np.float32]:
    """Centre (x, y, mm from the template's) and half axes (x, y, mm) of the cord in each slice, (z, 4); slices without one are as the nearest with.

    Examples
    --------
    >>> from cohort_engine.nn.anatomy import anatomy_of
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> x, y, wide, deep = half_axes(anatomy_of(parametric_cord(spacing=0.5, top="C5", bottom="C5"))).mean(axis=0)
    >>> bool(abs(x) < 0.3 and abs(y) < 0.3 and 5.5 < wide < 7.5 and 3.5 < deep < 5 and wide > deep)
    True
    """
    inside = anatomy.section[:, 0] > 0
    out = np.zeros((len(inside), 4), np.float32)
    present = np.flatnonzero(inside.any(axis=(1, 2)))
    for z in present:
        for a, along in enumerate((inside[z].any(axis=0), inside[z].any(axis=1))):
            first, last = np.flatnonzero(along)[[0, -1]]
            out[z, a], out[z, 2 + a] = ((first + last) / 2 - anatomy.centre[a]) * anatomy.spacing, (last - first + 1) / 2 * anatomy.spacing
    nearest: NDArray[np.float32] = out[present[np.abs(np.arange(len(inside))[:, None] - present).argmin(axis=1)]]
    return nearest


def draw(r: Draw, axes: Tensor) -> Tensor:
    """Draw shapes.

    Parameters
    ----------
    r : Draw
        Random numbers, one shape a sample.
    axes : (n, slice, 4) tensor
        Of `half_axes`, at the levels of the samples' slices.

    Returns
    -------
    (n, slice, 2, y, x) tensor
        Signed distance, mm, to the border of grey matter and of the ventral fissure, on a square of `SIDE` pixels of `STEP` mm around the template's
        centre.
    """
    torch = r.torch
    at = (torch.arange(SIDE, device=axes.device) - (SIDE - 1) / 2) * STEP
    x0, y0, wide, deep = (axes[:, :, k, None, None] for k in range(4))
    lame = r.yes(LOPSIDED)[:, 0]
    turn = r.normal(1, 1, 1) * math.radians(3) * (1 + 3 * lame)
    x, y = at - x0 + r.normal(1, 1, 1) * 0.2 * (1 + lame), at[:, None] - y0 + r.normal(1, 1, 1) * 0.25 * (1 + lame)
    bend = r.uniform(0, 1, 1, 1, 1) ** 2 * 0.45
    x, y = (
        q + bend * r.field(SIDE, SIDE * STEP / 2.5, drift=0.15)[:, :, 0] for q in (turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y)
    )
    right = x > 0
    lopsided = 0.06 + 0.25 * lame * r.uniform(0, 1, 1, 1, 1)

    def each(low: float, high: float) -> Tensor:
        """Draw a number for either side, about the same on both."""
        middle, gap = r.uniform(low, high, 1, 1, 1), r.normal(1, 1, 1) * lopsided * (high - low)
        out: Tensor = torch.where(right, middle + gap, middle - gap)
        return out

    def stroke(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], thick: Tensor, thin: Tensor) -> Tensor:
        """Distance to a stroke whose half width goes from `thick` at its start to `thin`."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        px, py = x.abs() - start[0], y - start[1]
        t = ((px * dx + py * dy) / (dx**2 + dy**2 + 1e-3)).clamp(0, 1)
        out: Tensor = thick + t * (thin - thick) - ((px - t * dx) ** 2 + (py - t * dy) ** 2 + 1e-6).sqrt()
        return out

    stout = r.uniform(0.75, 1.3, 1, 1, 1) * (wide * deep).sqrt() / USUAL
    hub = (each(0.15, 0.32) * wide, each(0.0, 0.25) * deep)
    front = (hub[0] + each(-0.06, 0.2) * wide, each(0.3, 0.62) * deep)
    flank = (hub[0] + each(0.0, 0.26) * wide, each(0.08, 0.4) * deep)
    angle, gap = each(math.radians(26), math.radians(55)), each(0, 1) ** 2 * 1.5 - 0.2
    tip = (wide * angle.sin(), -deep * angle.cos())
    near = 1 - gap / (tip[0] ** 2 + tip[1] ** 2).sqrt()
    tip = (tip[0] * near, tip[1] * near)
    part, bow = each(0.3, 0.7), r.normal(1, 1, 1) * 0.25
    neck = (hub[0] + part * (tip[0] - hub[0]) + bow, hub[1] + part * (tip[1] - hub[1]) + bow)
    bridge = (torch.zeros_like(x), hub[1].mean((-2, -1), keepdim=True) + r.uniform(-0.12, 0.08, 1, 1, 1) * deep)
    body, waist = each(0.38, 0.8) * stout, each(0.24, 0.52) * stout
    strokes = (
        stroke(hub, front, body, each(0.32, 0.85) * stout),
        stroke(hub, flank, body, each(0.15, 0.75) * stout),
        stroke(hub, neck, body, waist),
        stroke(neck, tip, waist, each(0.2, 0.5) * stout),
        stroke(bridge, hub, r.uniform(0.15, 0.45, 1, 1, 1) * stout, 0.7 * body),
    )
    grey = torch.logsumexp(torch.stack(strokes) / BLEND, 0) * BLEND
    middle = torch.zeros_like(x)
    top, bottom = (middle, middle + 1.1 * deep), (middle, middle + r.uniform(0.3, 0.75, 1, 1, 1) * deep)
    fissure = stroke(top, bottom, r.uniform(0.1, 0.45, 1, 1, 1), r.uniform(0.05, 0.25, 1, 1, 1))
    drawn: Tensor = torch.stack([grey, fissure], 2)
    return drawn


def looked_at(drawn: Tensor, x: Tensor, y: Tensor) -> Shapes:
    """Shapes at positions in the template (mm from its centre, (n, slice, part, y, x)); far outside beyond what was drawn."""
    import torch
    from torch.nn.functional import grid_sample

    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]
    n, k, parts, height, width = x.shape
    grid = torch.stack([q.reshape(n * k, parts * height, width) * 2 / (SIDE * STEP) for q in (x, y)], -1)
    out = grid_sample(drawn.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return Shapes(*(out[:, c].view(n, k, parts, height, width) for c in (0, 1)))
