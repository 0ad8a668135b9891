"""The cord in an image of any contrast, resolution and field of view: where it runs, and its border.

1. A coarse network looks at whole slices a few millimetres apart, as they are and with their brightness evened out, where that does not show
   a cord in most of them also with bright and dark swapped, and gives a heat map of the cord's centre in each.
2. One optimal curve through all of them is the centreline, and all of them together say where along it a cord is (`cord.curve`).
3. A fine network looks at a window around the curve in every slice, as it is and mirrored, where fluid is darker than the cord as its mirrored
   negative, and gives the part of each pixel that is cord. Slices in which nothing is drawn although the curve is sure are looked at again
   (`cord.recover`). Slices that lie close together are looked at one as it is, the next mirrored, and smoothed along the curve.

An image without a cord gives an empty mask and a flag, never scattered voxels; slices that are not segmented are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline
from cohort_engine.cord.curve import Curve, optimal_curve, presence, refined_curve
from cohort_engine.cord.recover import HALF, SMALLEST, Sections, recover
from cohort_engine.cord.windows import Windows, look
from cohort_engine.errors import CordError, InputError
from cohort_engine.template.packing import FloatArray, apply_affine

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.nn.infer import Network
    from cohort_engine.nn.weights import CordNetworks

EVERY = 3.6
"""Distance of the slices that the coarse network sees, mm; thicker slices are all seen."""
LIKELY = 0.02
"""Probability of a cord from which on a slice is looked at closely."""
SURE = 0.6
"""Where the heat stays below this in half of the slices, bright and dark are swapped."""
SHORTEST = 20.0
"""Length of the shortest cord that counts, mm; in an image of less than twice that, half its height."""
BRIDGE = 20.0
"""Slices without cord over at most this length do not part a cord, mm."""
ALONG = 1.5
"""Standard deviation of the smoothing along the curve, mm: nothing between slices of 5 mm."""
WHOLE = 0.5
"""Part of the median area that a slice must have for its middle to be that of the cord."""
PROBES = 12
"""Slices that are asked whether fluid is bright."""
RIM, DARKER = (0.5, 1.5), 0.2
"""Where around the cord fluid is looked for, mm, and by how many standard deviations of the window it is darker if it is."""
MARGIN = 2
"""Voxels around the mask in which parts of voxels are kept."""
NARROWEST = 12.0
"""Width of the narrowest field of view, mm."""

ABSENT = "no cord"
BROKEN = "broken"
UNCERTAIN = "uncertain"
PARTIAL = "partial"
TAKEN = "taken"
FLAGS = {
    ABSENT: "no cord was found: the mask is empty",
    BROKEN: "slices without cord lie between slices with cord",
    UNCERTAIN: "the cord hardly shows in more than a fifth of its slices",
    TAKEN: "the outline is that of another image of the person",
    PARTIAL: "the cord ends inside the image, or is not seen to its end",
}
"""Flag -> what it means."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The cord of one image.

    Attributes
    ----------
    soft : (x, y, z) float32 array
        Part of each voxel that is cord, 0 to 1, on the image's grid.
    mask : (x, y, z) bool array
        `soft` of at least one half, one piece without holes a slice.
    curve : Curve
        Centre of the cord by slice; positions in mm along the image's axes, from the centre of its first voxel.
    affine : (4, 4) array
        Voxel to RAS+ mm.
    flags : tuple of str
        Keys of `FLAGS`; empty where all is well.
    """

    soft: NDArray[np.float32]
    mask: NDArray[np.bool_]
    curve: Curve
    affine: FloatArray
    flags: tuple[str, ...]
    presence: FloatArray
    """Probability by slice (z,) that the cord is on the curve, all slices considered (`cord.curve.presence`)."""
    taken: tuple[int, ...] = ()
    """Indices on axis 2 of slices whose outline is another image's (`cord.prior.completed`)."""

    @cached_property
    def slices(self) -> NDArray[np.int64]:
        """Indices on axis 2 of the slices that hold cord."""
        return np.flatnonzero(self.mask.any(axis=(0, 1)))

    @cached_property
    def missing(self) -> dict[str, NDArray[np.int64]]:
        """Flag -> indices on axis 2 of slices without cord: `BROKEN` between slices with cord, `PARTIAL` beyond them. Empty for an empty mask."""
        if not len(self.slices):
            return {}
        none = np.setdiff1d(np.arange(self.mask.shape[2]), self.slices)
        between = (none > self.slices[0]) & (none < self.slices[-1])
        return {BROKEN: none[between], PARTIAL: none[~between]}

    @property
    def named(self) -> dict[str, NDArray[np.int64]]:
        """Flag -> the slices that it is about."""
        return self.missing | {TAKEN: np.array(self.taken, np.int64)}

    def told(self) -> dict[str, str]:
        """Say what is odd, by flag; slices are named by their number (from 0 at the bottom)."""
        return {f: FLAGS[f] + (f" (slices {_named(self.named[f])})" if f in self.named else "") for f in self.flags}

    @cached_property
    def confidence(self) -> FloatArray:
        """How certain the cord's place is by slice (z,), 0 to 1."""
        return self.curve.confidence

    @cached_property
    def points(self) -> FloatArray:
        """Centre of the cord by slice (z, 3), RAS+ mm; NaN below and above the cord."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        out = apply_affine(self.affine, np.stack([self.curve.x, self.curve.y, self.curve.z], axis=1) / spacing)
        inside = np.zeros(len(out), bool)
        if len(self.slices):
            inside[self.slices[0] : self.slices[-1] + 1] = True
        out[~inside] = np.nan
        return out

    @property
    def centreline(self) -> Centreline:
        """The curve from the lowest to the highest slice with cord; `CordError` where there are fewer than two."""
        if len(self.slices) < 2:
            raise CordError(
                expected="a cord of at least two slices", found=f"{len(self.slices)}", where="segmented cord", remedy="Exclude the image."
            )
        return Centreline.through(self.points[self.slices[0] : self.slices[-1] + 1])


class _Located(NamedTuple):
    data: NDArray[np.float32]
    affine: FloatArray
    spacing: FloatArray
    curve: Curve
    slices: NDArray[np.int64]
    presence: FloatArray
    signal: NDArray[np.bool_]


def segment(data: NDArray[Any], affine: FloatArray, *, networks: CordNetworks | None = None, what: str = "image") -> Segmentation:
    """Segment the cord of one image.

    Parameters
    ----------
    data : (x, y, z) array
        Grey values, axes as close to RAS+ as the scan allows (`io.volume.read_volume` turns them). NaN and negative values are no signal.
    affine : (4, 4) array
        Voxel to RAS+ mm.
    networks : CordNetworks, optional
        From `nn.weights.load_cord`; by default those of the package, on the GPU where there is one.
    what : str
        Words of the image's role, for messages.

    Returns
    -------
    Segmentation

    Raises
    ------
    InputError
        Not 3-D, without contrast, or narrower than 12 mm.
    """
    from cohort_engine.nn.weights import load_cord

    nets = networks or load_cord()
    image = _locate(*_checked(data, affine, what), nets.coarse)
    soft = np.zeros(image.data.shape, np.float32)
    if len(image.slices):
        where = _windows(image, nets.fine)
        windows = where.cut(image.data)
        mirrored = nets.fine if fluid_is_bright(windows, nets.fine) else nets.fine.negative
        drawn = look(nets.fine, windows, mirrored, in_turn=bool(image.spacing[2] <= ALONG))[:, 0]
        sections = Sections.of(drawn, where)
        image = image._replace(presence=_presence(image, where.slices[sections.whole]))
        if image.presence.max() >= HALF:
            maps, places = recover(sections, image.data, image.curve, image.signal & (image.presence >= HALF), nets.fine)
            soft = places.paste(_smoothed(maps, places))
    return _finish(image, soft)


def _checked(data: NDArray[Any], affine: FloatArray, what: str) -> tuple[NDArray[np.float32], FloatArray]:
    if data.ndim != 3:
        raise InputError(expected="a 3-D image", found=f"shape {data.shape}", where=what, remedy="Give one volume: the whole stack of slices.")
    values = np.array(data, np.float32)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    if values.size == 0 or np.ptp(values) == 0:
        raise InputError(expected="an image with contrast", found="the same value everywhere", where=what, remedy="Export the image again.")
    if np.mean(values < 0) > 0.25:
        values -= values.min()
    np.maximum(values, 0.0, out=values)
    affine = np.asarray(affine, float)
    width = np.linalg.norm(affine[:3, :2], axis=0) * values.shape[:2]
    if width.min() < NARROWEST:
        raise InputError(
            expected=f"slices at least {NARROWEST:g} mm wide", found=f"{width[0]:.0f} x {width[1]:.0f} mm", where=what,
            remedy="Give the whole slices, with the canal around the cord.",
        )  # fmt: skip
    return values, affine


def _locate(data: NDArray[np.float32], affine: FloatArray, coarse: Network) -> _Located:
    """Find the curve of the cord, and the slices that may hold it."""
    import torch

    from cohort_engine.nn.image import evened
    from cohort_engine.nn.infer import neighbours, resampling

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    depth = data.shape[2]
    steps = max(2, int(np.ceil((depth - 1) * spacing[2] / EVERY)) + 1)
    seen = np.unique(np.rint(np.r_[np.linspace(0, depth - 1, steps), min(1, depth - 1), max(0, depth - 2)]).astype(np.int64))
    target = [
        (torch.arange(max(1, round(n * s / coarse.spacing))) + 0.5) * coarse.spacing - s / 2 for n, s in zip(data.shape, spacing[:2], strict=False)
    ]
    rx, ry = (resampling(n, s, t, coarse.spacing) for n, s, t in zip(data.shape, spacing[:2], target, strict=False))
    stack = torch.cat([ry @ neighbours(data, part, spacing[2]).mT @ rx.mT for part in np.array_split(seen, max(1, len(seen) // 8))])
    even = evened(stack, coarse.spacing)
    heat = torch.maximum(coarse.wide(stack), coarse.wide(even))[:, 1].numpy()
    height = np.arange(depth) * spacing[2]
    found = optimal_curve(heat, coarse.spacing, height[seen])
    if np.median(found.confidence) < SURE:
        heat = np.maximum(heat, torch.maximum(coarse.negative.wide(stack), coarse.negative.wide(even))[:, 1].numpy())
        found = optimal_curve(heat, coarse.spacing, height[seen])
    x, y, confidence = found.at(height)
    curve = Curve(height, x + float(target[0][0]), y + float(target[1][0]), confidence)
    signal = np.ptp(data, axis=(0, 1)) > 0
    image = _Located(data, affine, spacing, curve, np.empty(0, np.int64), np.empty(0), signal)
    there = _presence(image)
    return image._replace(slices=np.flatnonzero(_bridged(there >= LIKELY, spacing[2]) & signal), presence=there)


def _presence(image: _Located, whole: NDArray[np.int64] | None = None) -> FloatArray:
    """Probability of a cord on the curve by slice, from the heat, and from the slices in which a whole cross-section was drawn on it."""
    drawn = None if whole is None else np.isin(np.arange(len(image.signal)), whole)
    return presence(np.where(image.signal, image.curve.confidence, np.nan), np.diff(image.curve.z), drawn)


def _windows(image: _Located, fine: Network) -> Windows:
    """Windows around the curve."""
    x, y = image.curve.x[image.slices], image.curve.y[image.slices]
    return Windows.around(image.data, image.spacing, image.slices, x, y, fine)


def fluid_is_bright(windows: Tensor, network: Network) -> bool:
    """Whether what lies around the cord is not darker than the cord, in half of some windows (n, 3, y, x); True where no cord is drawn.

    The cord is where the mean of the network's answers to the windows and to their negative says so.
    """
    import torch
    from torch.nn.functional import max_pool2d

    from cohort_engine.nn.image import robust_scale

    some = windows[torch.linspace(0, len(windows) - 1, min(len(windows), PROBES)).round().long()]
    cord = (network(some) + network.negative(some) >= 2 * HALF).float()[:, :1]
    near, far = (max_pool2d(cord, 2 * round(mm / network.spacing) + 1, 1, round(mm / network.spacing)) for mm in RIM)
    steps = [
        float(image[rim > 0].median() - image[inside > 0].median())
        for image, inside, rim in zip(robust_scale(some)[:, 1], cord[:, 0], (far - near)[:, 0], strict=True)
        if inside.any() and rim.any()
    ]
    return not steps or float(np.median(steps)) >= -DARKER


def _smoothed(drawn: Tensor, where: Windows) -> Tensor:
    """Smooth maps (n, y, x) along the curve, each run of consecutive slices by itself."""
    import torch

    sigma = ALONG / where.spacing[2]
    runs = np.split(np.arange(len(where.slices)), np.flatnonzero(np.diff(where.slices) > 1) + 1)
    return torch.cat([torch.from_numpy(ndimage.gaussian_filter1d(drawn[run].numpy(), sigma, axis=0, mode="nearest")) for run in runs])


def _finish(image: _Located, soft: NDArray[np.float32]) -> Segmentation:
    """Keep the cord of what was drawn on the image's grid, and say what is odd."""
    mask = np.zeros(soft.shape, bool)
    near = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for found in ndimage.find_objects((soft > 0).view(np.int8)) for s in found[:2])
    mask[near] = _cord_of(soft[near], image)
    soft[near] *= ndimage.binary_dilation(mask[near], np.ones((2 * MARGIN + 1, 2 * MARGIN + 1, 1), bool))
    return Segmentation(soft, mask, _through(soft, mask, image), image.affine, _flags(mask, image), image.presence)


def _through(soft: NDArray[np.float32], mask: NDArray[np.bool_], image: _Located) -> Curve:
    """Draw the curve through the middle of the cord where it is drawn whole."""
    area = mask.sum(axis=(0, 1))
    slices = np.flatnonzero(area >= WHOLE * np.median(area[area > 0])) if area.any() else np.empty(0, np.int64)
    total = soft[:, :, slices].sum(axis=(0, 1))
    x, y = (
        (soft[:, :, slices].sum(axis=1 - axis) * (np.arange(n) * s)[:, None]).sum(axis=0) / total
        for axis, (n, s) in enumerate(zip(soft.shape[:2], image.spacing[:2], strict=True))
    )
    return refined_curve(image.curve, slices, x, y)


def _cord_of(soft: NDArray[np.float32], image: _Located) -> NDArray[np.bool_]:
    """Binary cord: the largest piece of each slice, filled; of the runs of slices, those that are long and that the heat map shows."""
    mask, (dx, dy, dz) = soft >= HALF, image.spacing
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        pieces, count = ndimage.label(mask[:, :, z])
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax() if count > 1 else mask[:, :, z]
        filled = ndimage.binary_fill_holes(largest)
        mask[:, :, z] = filled & (filled.sum() * dx * dy >= SMALLEST)
    mask[:, :, ~_without_islands(np.asarray(mask.any(axis=(0, 1))), image.presence >= HALF)] = False
    runs, count = ndimage.label(_bridged(np.asarray(mask.any(axis=(0, 1))), dz))
    for run in (np.flatnonzero(runs == n) for n in range(1, count + 1)):
        if len(run) * dz < min(SHORTEST, 0.5 * mask.shape[2] * dz):
            mask[:, :, run] = False
    return mask


def _without_islands(present: NDArray[np.bool_], sure: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop runs of slices shorter than the gap between them and the rest, seen from the longest run, unless the curve is sure of most of them.

    Examples
    --------
    >>> present, sure = np.array([1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1], bool), np.arange(12) > 10
    >>> _without_islands(present, sure).astype(int).tolist()
    [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    """
    runs, count = ndimage.label(present)
    ends = [(int(r[0].start), int(r[0].stop)) for r in ndimage.find_objects(runs)]
    out = np.zeros_like(present)
    if not count:
        return out
    longest = int(np.argmax([b - a for a, b in ends]))
    out[slice(*ends[longest])] = True
    for order in (range(longest + 1, count), range(longest - 1, -1, -1)):
        low, high = ends[longest]
        for first, stop in (ends[k] for k in order):
            if stop - first >= max(first - high, low - stop) or sure[first:stop].mean() > HALF:
                out[first:stop] = True
                low, high = min(low, first), max(high, stop)
    return out


def _bridged(present: NDArray[np.bool_], spacing: float) -> NDArray[np.bool_]:
    """Close gaps of up to `BRIDGE` between slices."""
    span = round(BRIDGE / spacing)
    out: NDArray[np.bool_] = ndimage.binary_closing(np.pad(present, span), np.ones(span + 1, bool))[span : len(present) + span]
    return out


def _flags(mask: NDArray[np.bool_], image: _Located) -> tuple[str, ...]:
    present: NDArray[np.bool_] = np.asarray(mask.any(axis=(0, 1)))
    slices = np.flatnonzero(present)
    if not len(slices):
        return (ABSENT,)
    inside = slice(int(slices[0]), int(slices[-1]) + 1)
    odd = {
        BROKEN: not present[inside].all(),
        UNCERTAIN: bool(np.mean(image.curve.confidence[inside] < HALF) > 0.2),
        PARTIAL: not (present[:2].any() and present[-2:].any()) or bool((image.presence >= HALF)[~_within(inside, present)].any()),
    }
    return tuple(flag for flag, is_so in odd.items() if is_so)


def _within(inside: slice, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out = np.zeros_like(present)
    out[inside] = True
    return out


def _named(slices: NDArray[np.int64]) -> str:
    """Write numbers in runs.

    Examples
    --------
    >>> _named(np.array([2, 5, 6, 7]))
    '2, 5-7'
    """
    runs = np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs if len(r))


def quality(found: Segmentation) -> dict[str, float]:
    """Numbers of `schema.SEGMENT_QC` by key: what a reader of many masks looks at first; NaN where the mask is empty."""
    slices = found.slices
    if not len(slices):
        return dict.fromkeys(schema.SEGMENT_QC, float("nan"))
    inside = np.arange(slices[0], slices[-1] + 1)
    area = found.mask.sum(axis=(0, 1))[slices].astype(float)
    steps = np.linalg.norm(np.diff(found.points[inside], axis=0), axis=1)
    change = np.abs(np.diff(area)) / (area[1:] + area[:-1]) * 2
    return {
        schema.CORD_LENGTH: float(steps.sum()), schema.CONFIDENCE: float(found.confidence[inside].mean()),
        schema.LEAST_CONFIDENCE: float(found.confidence[inside].min()), schema.AREA_JUMP: float(change.max(initial=0)),
        schema.TAKEN: float(len(found.taken)), schema.GAPS: float(len(inside) - len(slices)),
        schema.ENDS: float((slices[0] > 1) + (slices[-1] < found.mask.shape[2] - 2)),
    }  # fmt: skip
