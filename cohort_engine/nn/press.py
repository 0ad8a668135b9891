"""What presses on a cord, for the generator of `synth`: dents from any side, fluid that is gone, and the contrasts of the scans patients get.

All are functions of the random numbers of a batch; nothing is drawn where the odds are zero. Shapes are (n, slice, part of the slice, y, x).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.nn.draw import Draw

SOFT = 0.8
"""Width over which a dent fades towards the far side of the cord, mm."""


def dented(r: Draw, odds: float, x: Tensor, y: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Push the cord in from one side or two, over some millimetres across and along it.

    Parameters
    ----------
    r : Draw
    odds : float
        Samples with a dent.
    x, y : tensors
        Position from the cord's centre, mm.
    up : tensor
        Height over the middle slice, mm.

    Returns
    -------
    Positions in the cord as it was before.

    Examples
    --------
    Nothing moves without a dent, and what moves lies further out in the cord as it was.

    >>> import torch
    >>> from cohort_engine.nn.draw import Draw
    >>> x, y = (q.expand(8, 1, 1, 9, 9) for q in (torch.linspace(-4, 4, 9), torch.linspace(-4, 4, 9)[:, None]))
    >>> draw = lambda: Draw(1, 8, torch.device("cpu"))
    >>> same, dent = (dented(draw(), odds, x, y, torch.zeros(1, 1, 1, 1, 1)) for odds in (0.0, 1.0))
    >>> bool(torch.allclose(same[0], x, atol=1e-5)), bool((torch.hypot(*dent) >= torch.hypot(x, y) - 1e-4).all()), bool((dent[1] != y).any())
    (True, True, True)
    """
    torch, on = r.torch, r.yes(odds)
    for share in (1.0, 0.35):
        angle = torch.where(r.yes(0.5) > 0, math.pi / 2 + r.normal() * 0.5, r.uniform(-math.pi, math.pi))  # half of them from the front
        cos, sin = angle.cos(), angle.sin()
        towards, across = cos * x + sin * y, cos * y - sin * x
        depth = on * r.yes(share) * r.uniform(0.1, 0.55) * (-0.5 * ((up - 4 * r.normal()) / r.uniform(2, 12)) ** 2).exp()
        lost = depth * (-0.5 * ((across - 1.5 * r.normal()) / r.uniform(2, 9)) ** 2).exp() * torch.sigmoid(towards / SOFT)
        towards = towards / (1 - lost)
        x, y = cos * towards - sin * across, sin * towards + cos * across
    return x, y


def gone(r: Draw, odds: float, x: Tensor, y: Tensor, ripple: Tensor) -> Tensor:
    """Where something else takes the place of the fluid, 0 or 1: in front of the cord, behind it, on any side, on two, or all round it.

    Parameters
    ----------
    r, odds, x, y
        As of `dented`.
    ripple : tensor
        Unevenness of its border, mm.
    """
    torch, on, kind = r.torch, r.yes(odds), r.uniform(0, 1)
    angle = torch.where(kind < 0.5, torch.full_like(kind, math.pi / 2), r.uniform(-math.pi, math.pi))
    towards = angle.cos() * x + angle.sin() * y + ripple
    near, far = r.uniform(0.5, 3.5), r.uniform(0.5, 3.5)
    out = (towards > near) | ((kind > 0.35) & (kind < 0.75) & (-towards > far)) | (kind > 0.88)
    gone_there: Tensor = out.float() * on
    return gone_there


def magnetisation(r: Draw, odds: float, white: Tensor, fluid: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey values as with and without magnetisation transfer: white matter below grey; without it the cord is hardly darker than the fluid.

    Returns
    -------
    on, fluid, step, grey
        In which samples, 0 or 1; grey value of CSF, its difference to white matter, and, in those samples, that of grey matter to white.
    """
    torch, on, off = r.torch, r.yes(odds), r.yes(0.4)
    apart = torch.where(off > 0, r.uniform(0.03, 0.3), r.uniform(0.15, 0.9)) * (1 - 2 * r.yes(0.3)) * white
    grey = torch.where(off > 0, r.uniform(0.0, 0.15), r.uniform(0.08, 0.35)) * white
    fluid = torch.where(on > 0, (white + apart).clamp(min=0), fluid)
    return on, fluid, torch.where(on > 0, fluid - white, step), grey


def echo_planar(r: Draw, odds: float, image: Tensor) -> Tensor:
    """Leave little of what lies around the canal (fat is suppressed, the field of view reduced), and less on one side."""
    on, size = r.yes(odds), image.shape[-1]
    uneven = (0.5 * r.field(size, 3)).exp()
    return image * (1 - on * (1 - r.uniform(0.02, 0.35) * uneven.clamp(max=2)))
