"""Slices in which the border network drew nothing, or much too little, although the cord runs through: looked at again, in other ways.

The window is laid on the curve through the middle of what was drawn above and below, and the network sees it with its brightness evened out, with
bright and dark swapped, without its neighbours, and smaller or larger. What agrees best with the nearest slices that were drawn whole is taken, if it
agrees at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.curve import Curve, refined_curve
from cohort_engine.cord.windows import Windows, look

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.nn.infer import Network
    from cohort_engine.template.packing import FloatArray

LOST, LOCAL = 0.4, 20.0
"""A slice is lost where less than this part of the median area within so many mm above and below is drawn."""
SMALLEST = 15.0
"""Area of the smallest cross-section that counts, mm2 (the cone's tip is thinner)."""
AGREES = 0.65
"""Least overlap with the nearest whole slices (soft Dice) of what is drawn at a second look."""
STRAY, SLOPE = 2.0, 0.6
"""From one slice to the next the middle moves by no more than this, mm, and this part of their distance."""
SIZES = (0.8, 1.25)
"""How many times as large a pixel is at a second look."""
HALF = 0.5


@dataclass(frozen=True, eq=False)
class Sections:
    """Cross-sections of the cord that were drawn in windows along its curve.

    Attributes
    ----------
    drawn : (n, y, x) tensor
        Part of each pixel that is cord.
    where : Windows
    whole : (n,) bool array
        Slices of which enough is drawn, and on the line of the others.
    """

    drawn: Tensor
    where: Windows
    whole: NDArray[np.bool_]

    @classmethod
    def of(cls, drawn: Tensor, where: Windows) -> Sections:
        area, height = (drawn >= HALF).sum((1, 2)).numpy() * where.pixel**2, where.slices * float(where.spacing[2])
        whole = large_enough(area, height)
        centres = np.stack([where.x + _middle(drawn, 2, where.pixel), where.y + _middle(drawn, 1, where.pixel)], axis=1)
        whole[whole] = in_line(centres[whole], height[whole])
        return cls(drawn, where, whole)


def recover(sections: Sections, data: NDArray[Any], curve: Curve, wanted: NDArray[np.bool_], network: Network) -> tuple[Tensor, Windows]:
    """Look again at slices that are lost, and drop what was drawn off the line.

    Parameters
    ----------
    sections : Sections
    data : (x, y, z) array
    curve : Curve
        Of the cord, by slice.
    wanted : (z,) bool array
        Slices that the cord runs through, with signal: those of them that have no window are looked at, too.
    network : Network

    Returns
    -------
    drawn : (n, y, x) tensor
    where : Windows
        With what was found, in windows that are added or moved onto the curve through the whole slices. As they were where fewer than two slices
        are whole.
    """
    import torch

    drawn, where, whole = sections.drawn, sections.where, sections.whole
    spacing, known = float(where.spacing[2]), where.slices[whole]
    if len(known) < 2:
        return drawn, where
    lost = np.setdiff1d(np.flatnonzero(wanted), known)
    lost = lost[np.abs(lost[:, None] - known).min(axis=1) * spacing <= LOCAL]
    middle = [_middle(drawn[whole], axis, where.pixel) for axis in (2, 1)]
    line = refined_curve(curve, known, where.x[whole] + middle[0], where.y[whole] + middle[1])
    place = replace(where, slices=lost, x=line.x[lost], y=line.y[lost])
    best, score = torch.zeros(len(lost), *drawn.shape[1:]), torch.zeros(len(lost))
    if len(lost):
        like = _expected(drawn[whole].numpy(), known, np.stack(middle), lost, where.pixel)
        for seen in _looks(place, data, network):
            agreement = 2 * torch.minimum(seen, like).sum((1, 2)) / (seen + like).sum((1, 2)).clamp(min=1e-6)
            better = agreement > score
            best, score = torch.where(better[:, None, None], seen, best), torch.maximum(agreement, score)
    taken = (score >= AGREES).numpy()
    kept = ~np.isin(where.slices, lost[taken]) & ~_astray(sections)
    slices = np.r_[where.slices[kept], lost[taken]]
    order = np.argsort(slices)
    centres = (np.r_[old[kept], new[taken]][order] for old, new in ((where.x, place.x), (where.y, place.y)))
    maps = torch.cat([drawn[torch.from_numpy(kept)], best[torch.from_numpy(taken)]])[torch.from_numpy(order)]
    return maps, replace(where, slices=slices[order], **dict(zip("xy", centres, strict=True)))


def _astray(sections: Sections) -> NDArray[np.bool_]:
    """Slices in which much is drawn, but off the line."""
    area, height = (sections.drawn >= HALF).sum((1, 2)).numpy() * sections.where.pixel**2, sections.where.slices * float(sections.where.spacing[2])
    return large_enough(area, height) & ~sections.whole


def large_enough(area: FloatArray, height: FloatArray) -> NDArray[np.bool_]:
    """Slices of which enough is drawn, by their own size (mm2) and that of the slices around.

    Examples
    --------
    >>> large_enough(np.array([70.0, 72, 5, 40, 71, 20]), np.arange(6) * 5.0).tolist()
    [True, True, False, True, True, False]
    """
    out = np.asarray(area >= SMALLEST)
    near = np.abs(height[:, None] - height) <= LOCAL
    local = np.array([np.median(area[n & out]) if (n & out).any() else np.inf for n in near])
    whole: NDArray[np.bool_] = out & (area >= LOST * local)
    return whole


def in_line(centres: FloatArray, height: FloatArray) -> NDArray[np.bool_]:
    """Cross-sections (n, 2) that can be of one cord with the longest stretch that goes on without a jump, mm; heights (n,) increase.

    Examples
    --------
    >>> in_line(np.array([[0.0, 0], [0, 1], [0, 2], [0, 3], [0, 19], [0, 5]]), np.arange(6) * 5.0).tolist()
    [True, True, True, True, False, True]
    """
    n = len(height)
    out = np.zeros(n, bool)
    if not n:
        return out
    smooth = np.hypot(*np.diff(centres, axis=0).T) <= STRAY + SLOPE * np.diff(height)
    parts = np.split(np.arange(n), np.flatnonzero(~smooth) + 1)
    main = max(parts, key=lambda p: height[p[-1]] - height[p[0]] + len(p) * 1e-3)
    out[main] = True
    for beyond in (range(main[-1] + 1, n), range(main[0] - 1, -1, -1)):
        last = main[-1] if beyond.step > 0 else main[0]
        for k in beyond:
            if np.hypot(*(centres[k] - centres[last])) <= STRAY + SLOPE * abs(height[k] - height[last]):
                out[k], last = True, k
    return out


def _middle(drawn: Tensor, axis: int, pixel: float) -> FloatArray:
    """Centre of each map along an axis, mm from the window's middle."""
    import torch

    profile = (drawn * (drawn >= HALF)).sum(3 - axis)
    at = (torch.arange(drawn.shape[axis]) - (drawn.shape[axis] - 1) / 2) * pixel
    out: FloatArray = ((profile * at).sum(1) / profile.sum(1).clamp(min=1e-6)).double().numpy()
    return out


def _expected(drawn: NDArray[np.float32], known: NDArray[np.int64], middle: FloatArray, lost: NDArray[np.int64], pixel: float) -> Tensor:
    """Mean of the nearest whole slice below and above (one beyond the ends), each laid on the window's middle, the nearer one counts more."""
    import torch

    out = np.zeros((len(lost), *drawn.shape[1:]), np.float32)
    after = np.searchsorted(known, lost)
    for k, z in enumerate(lost):
        near = [i for i in (after[k] - 1, after[k]) if 0 <= i < len(known)]
        weight = np.array([1 / abs(z - known[i]) for i in near])
        for i, w in zip(near, weight / weight.sum(), strict=True):
            out[k] += w * ndimage.shift(drawn[i], -middle[::-1, i] / pixel, order=1)
    return torch.from_numpy(out)


def _looks(place: Windows, data: NDArray[Any], network: Network) -> list[Tensor]:
    """Draw these windows, seen in different ways."""
    from torch.nn.functional import interpolate

    from cohort_engine.nn.image import evened

    windows = place.cut(data)
    alone = windows[:, 1:2].expand_as(windows)
    out = [look(network, w)[:, 0] for w in (windows, evened(windows, place.pixel), alone)]
    out.append(look(network.negative, windows)[:, 0])
    for size in SIZES:
        seen = look(network, replace(place, pixel=place.pixel * size).cut(data))
        side = round(place.size * size / 2) * 2
        resized = interpolate(seen, size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        cut, pad = max(0, (side - place.size) // 2), max(0, (place.size - side) // 2)
        full = resized.new_zeros(len(resized), place.size, place.size)
        full[:, pad : place.size - pad, pad : place.size - pad] = resized[:, cut : side - cut, cut : side - cut]
        out.append(full)
    return out
