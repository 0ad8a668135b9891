"""Numbers that tell usable values from failed ones: plain functions of images, masks, landmarks and a template map.

None compares a result with what it was fitted to: a map is judged by the inside of the image, a mask by the image's edges, by its neighbours along
the cord and by the mask of another image of the session, levels by the heights of vertebrae and by an opinion that did not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask
from cohort_engine.cord.discs import label_discs
from cohort_engine.cord.levels import Landmarks
from cohort_engine.errors import CohortError
from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.likelihood import around, explained
from cohort_engine.mapping.native import dense_positions
from cohort_engine.mapping.template_map import TemplateMap, sample
from cohort_engine.qmri.motion import estimate_slicewise, slice_departures
from cohort_engine.quality import vocabulary
from cohort_engine.quality.border import border
from cohort_engine.template.base import Heights, Template
from cohort_engine.template.packing import FloatArray, Grid

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

LACKS = 1.2
"""A mask that ends this far (mm) inside the image's edge on one side lacks something there."""
POOR = 0.35
"""A slice of which the tissues explain less is named."""
JUMP = 1.5
"""The middle of a slice that lies this far (mm) from between its neighbours is named."""
APART = 2.0
"""A slice whose mask lies this far (mm) from that of the other image is named."""
LOOSE = 1.0
"""A slice whose own shift between two images is this far (mm) from what its neighbours suggest is named."""
BESIDE = 40.0
"""Landmarks within this distance (mm) of the discs that a network named are compared with them: farther, lengths of spines differ too much."""
HALF_WINDOW = 22.0
"""Half-width of the window around the cord in which two images are compared with their mirror images, mm."""


class Scan(Protocol):
    """An image in memory: what the package reads as a volume."""

    @property
    def data(self) -> NDArray[Any]:
        """Grey values or mask (x, y, z), slices along the last axis."""
        ...

    @property
    def affine(self) -> FloatArray:
        """(4, 4), RAS+ mm."""
        ...


@dataclass
class Findings:
    """Features and the slices that stand out.

    Attributes
    ----------
    values : dict of str to float
        By key of `vocabulary.quality_specs`; what could not be measured is not there.
    slices : dict of str to array of int
        Slices of the contrast's image that a feature names, counted from 0 at the bottom.
    failed : dict of str to str
        What could not be measured, and why.
    """

    values: dict[str, float] = field(default_factory=dict)
    slices: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def doubtful(self, slices: int) -> dict[int, tuple[str, ...]]:
        """Name the doubtful ones of so many slices of the MT images, with the features that say so (`vocabulary.DOUBTS`).

        A feature that names more than half of the slices is about the subject, and says nothing about a slice.

        Examples
        --------
        >>> found = Findings(slices={"mt_explained": np.array([2, 3]), "other_mask_distance": np.arange(9), "t2w_border_lacks": np.array([70])})
        >>> found.doubtful(10)
        {2: ('mt_explained',), 3: ('mt_explained',)}
        """
        named = {key: self.slices[key] for key in vocabulary.DOUBTS if key in self.slices and 2 * len(self.slices[key]) <= slices}
        every = sorted({int(k) for which in named.values() for k in which})
        return {k: tuple(key for key, which in named.items() if k in which) for k in every}

    def add(self, other: Findings) -> None:
        """Take over what another has found."""
        self.values |= other.values
        self.slices |= other.slices
        self.failed |= other.failed


def of_mask(image: NDArray[Any], mask: NDArray[Any], affine: FloatArray) -> Findings:
    """Judge a mask (x, y, z) by its image and by its neighbours along the cord."""
    grid = _grid(mask, affine)
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    found = border(image, mask, grid.spacing)
    slices = found.slices
    if not len(slices):
        return Findings()
    shift, lacks = found.shift()[slices], found.missing()[slices]
    out = Findings()
    if np.isfinite(shift).any():
        out.values[vocabulary.BORDER_SHIFT] = float(np.hypot(*np.nanmedian(shift, axis=0)))
    if np.isfinite(lacks).any():
        deep = np.sort(np.nan_to_num(lacks - max(float(np.nanmedian(lacks)), 0.0), nan=0.0))[-max(2, round(0.1 * len(lacks))) :]
        out.values[vocabulary.BORDER_LACKS] = float(deep.mean())
        out.slices[vocabulary.BORDER_LACKS] = slices[np.nan_to_num(lacks) > LACKS]
    out.values[vocabulary.BORDER_SEEN] = float(np.isfinite(found.offset[slices]).mean())
    out.values[vocabulary.BORDER_OUTWARD] = found.outward
    jump = _jumps(solid, grid.spacing)
    if np.isfinite(jump).any():
        out.values[vocabulary.CENTRE_JUMP] = float(np.nanmax(jump))
        out.slices[vocabulary.CENTRE_JUMP] = _jumping(np.nan_to_num(jump))
    area = solid.sum(axis=(0, 1)).astype(float)
    inner = [k for k in slices[1:-1] if area[k - 1] > 0 and area[k + 1] > 0]
    if inner:
        out.values[vocabulary.AREA_STEP] = float(max(abs(np.log(area[k] / np.sqrt(area[k - 1] * area[k + 1]))) for k in inner))
    return out


def _jumps(solid: NDArray[np.bool_], spacing: FloatArray) -> FloatArray:
    """Distance (z,) of each slice's middle from halfway between its neighbours', mm; NaN at the ends and beside gaps."""
    middle = np.full((solid.shape[2], 2), np.nan)
    for k in np.flatnonzero(solid.any(axis=(0, 1))):
        middle[k] = np.argwhere(solid[:, :, k]).mean(axis=0) * spacing[:2]
    out = np.full(len(middle), np.nan)
    out[1:-1] = np.hypot(*(middle[1:-1] - (middle[:-2] + middle[2:]) / 2).T)
    return out


def _jumping(jump: FloatArray) -> NDArray[np.int64]:
    """Slices that jump, by the jumps (z,) of all: a slice that lies beside the others moves the middle of its neighbours by half as much.

    Examples
    --------
    >>> _jumping(np.array([0, 0, 2, 4, 2, 0.0])).tolist(), _jumping(np.array([0, 2, 2, 0, 2, 2.0])).tolist()
    ([3], [1, 2, 4, 5])
    """
    padded = np.pad(jump, 1)
    return np.flatnonzero((jump > JUMP) & (jump > 0.6 * np.maximum(padded[:-2], padded[2:])))


def of_map(image: NDArray[Any], mask: NDArray[Any], affine: FloatArray, positions: FloatArray, template: Template) -> Findings:
    """Judge a template map, positions (voxel, 3) in RAS+ mm, by the inside of its image and by how it bends."""
    out = Findings()
    fitted = TemplateMap(dense_positions(positions, template), {})
    fractions = tissue_fractions(fitted, template, affine, _shape(mask))
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    cord = fractions[..., 0] + fractions[..., 1] >= 0.5
    both = solid.any(axis=(0, 1)) & cord.any(axis=(0, 1))
    if both.any():
        a, b = (v[:, :, both].sum(axis=(0, 1)) for v in (solid & cord, solid))
        agree = np.sort(2 * a / (b + cord[:, :, both].sum(axis=(0, 1))))
        out.values[vocabulary.OUTLINE] = float(agree[: max(2, round(0.1 * len(agree)))].mean())
    told = explained(image, fractions, around(cord))
    share = np.where(both, told.share, np.nan)
    if np.isfinite(share).any():
        out.values[vocabulary.EXPLAINED] = float(np.nanmedian(share))
        out.slices[vocabulary.EXPLAINED] = np.flatnonzero(np.nan_to_num(share, nan=1.0) < POOR)
        order = np.where(both, told.white_below_grey, np.nan)
        if np.isfinite(order).any():
            out.values[vocabulary.WHITE_BELOW_GREY] = float(np.nanmean(order))
    low, high = _bends(fitted, template)
    out.values |= {vocabulary.BEND_MIN: low, vocabulary.BEND_MAX: high}
    return out


def _bends(fitted: TemplateMap, template: Template) -> tuple[float, float]:
    """Area that a map gives a template voxel, over the median of its slice, inside the cord: 1st and 99th percentile."""
    block, first = fitted.slab()
    dx, dy, dz = (np.gradient(block, axis=a) if block.shape[a] > 1 else np.zeros_like(block) for a in range(3))
    along = dz.mean(axis=(0, 1), keepdims=True)
    along = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    area = (np.cross(dx, dy) * along).sum(axis=-1)
    inside = template.cord[:, :, first : first + block.shape[2]] >= 0.5
    ratio = np.full(area.shape, np.nan)
    for k in np.flatnonzero(inside.any(axis=(0, 1))):
        ratio[:, :, k] = area[:, :, k] / np.median(area[:, :, k][inside[:, :, k]])
    known = ratio[inside & np.isfinite(ratio)]
    return (float(np.percentile(known, 1)), float(np.percentile(known, 99))) if len(known) else (float("nan"), float("nan"))


def of_two_masks(mask: NDArray[Any], affine: FloatArray, other: NDArray[Any], other_affine: FloatArray) -> Findings:
    """Compare a mask with that of another image of the session, brought over by scanner coordinates; and with it where its sides are swapped.

    The mirrored mask is mirrored about the middle of its image, as an image is whose first axis was turned without its header.
    """
    grid = _grid(mask, affine)
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    brought = bring(other, other_affine, grid)
    as_is, mirrored = _together(solid, brought, grid.spacing), _together(solid[::-1], brought, grid.spacing)
    out = Findings()
    both = np.isfinite(as_is[1])
    if both.any():
        out.values |= {vocabulary.OTHER_DISTANCE: float(np.median(as_is[1][both])), vocabulary.OTHER_DICE: float(np.median(as_is[0][both]))}
        out.slices[vocabulary.OTHER_DISTANCE] = np.flatnonzero(np.nan_to_num(as_is[1]) > APART)
    either = np.isfinite(as_is[0]) & np.isfinite(mirrored[0])
    if either.any():
        out.values[vocabulary.MIRROR_PLACE] = float(np.mean(mirrored[0][either] - as_is[0][either]))
    return out


def bring(data: NDArray[Any], affine: FloatArray, grid: Grid) -> NDArray[np.float32]:
    """Mean (x, y, z) of an image over three heights of each slice of another grid; 0 outside."""
    x, y, z = grid.shape
    place = np.stack(np.meshgrid(np.arange(x), np.arange(y), np.arange(z), indexing="ij"), axis=-1).astype(float)
    out = np.zeros(grid.shape, np.float32)
    for offset in (-1 / 3, 0.0, 1 / 3):
        out += np.nan_to_num(sample(np.asarray(data, np.float32), affine, grid.world(np.add(place, [0, 0, offset])))) / 3
    return out


def _together(solid: NDArray[np.bool_], brought: NDArray[np.float32], spacing: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Dice and distance of the middles (mm) of two masks, slice by slice; the Dice is 0 where they lie apart, NaN where one is empty."""
    there = brought >= 0.5
    dice, apart = np.full(solid.shape[2], np.nan), np.full(solid.shape[2], np.nan)
    for k in np.flatnonzero(solid.any(axis=(0, 1)) & there.any(axis=(0, 1))):
        a, b = solid[:, :, k], there[:, :, k]
        dice[k] = 2 * (a & b).sum() / (a.sum() + b.sum())
        apart[k] = np.hypot(*((np.argwhere(a).mean(axis=0) - np.argwhere(b).mean(axis=0)) * spacing[:2]))
    return dice, apart


def of_two_images(image: NDArray[Any], mask: NDArray[Any], affine: FloatArray, other: NDArray[Any], other_affine: FloatArray) -> Findings:
    """Compare an image with another of the session as it is and mirrored about the cord: the neck is not the same on both sides.

    The feature is the median over slices of how much better the gradients agree mirrored than as they are (correlation, -2 to 2).
    """
    grid = _grid(mask, affine)
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    brought = bring(other, other_affine, grid)
    reach = np.ceil(HALF_WINDOW / grid.spacing[:2]).astype(int)
    gain = []
    for k in np.flatnonzero(solid.any(axis=(0, 1))):
        middle = np.rint(np.argwhere(solid[:, :, k]).mean(axis=0)).astype(int)
        low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, solid.shape[:2])
        half = min(middle[0] - low[0], high[0] - 1 - middle[0])
        window = (slice(middle[0] - half, middle[0] + half + 1), slice(low[1], high[1]), k)
        a, b = (_gradients(np.nan_to_num(v[window].astype(float)), grid.spacing[:2]) for v in (np.asarray(image), brought))
        ring = ~ndimage.binary_dilation(solid[window], iterations=round(5 / float(grid.spacing[0])))  # cord and fluid look alike from both sides
        if half * grid.spacing[0] < 10 or ring.sum() < 50 or not b.any():
            continue
        gain.append(max(_likeness(a[::-1], b, ring)) - max(_likeness(a, b, ring)))
    return Findings({vocabulary.MIRROR_IMAGE: float(np.median(gain))} if gain else {})


def _gradients(plane: FloatArray, spacing: FloatArray) -> FloatArray:
    """Size of the gradient (x, y), smoothed by 1 mm."""
    smooth = [ndimage.gaussian_filter(plane, 1.0 / spacing, order=o) for o in ((1, 0), (0, 1))]
    return np.asarray(np.hypot(*smooth))


def _likeness(a: FloatArray, b: FloatArray, where: NDArray[np.bool_]) -> list[float]:
    """Correlation inside `where`, for shifts by a voxel to each side: masks are not exact to a voxel."""
    out = []
    for shift in np.ndindex(3, 3):
        moved = np.roll(a, np.subtract(shift, 1), (0, 1))
        x, y = moved[where], b[where]
        spread = x.std() * y.std()
        out.append(float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0)
    return out


def of_pair(on: NDArray[Any], off: NDArray[Any], mask: NDArray[Any], spacing: FloatArray) -> Findings:
    """Judge the MT-on and MT-off images (x, y, z) against each other: motion from slice to slice, and the order of their signals."""
    solid = np.nan_to_num(np.asarray(mask, float)) >= 0.5
    out = Findings()
    smooth = estimate_slicewise(on, off, solid, spacing)
    slices = np.flatnonzero(solid.any(axis=(0, 1)))
    loose = np.nan_to_num(slice_departures(on, off, solid, spacing, smooth)[slices])
    out.values |= {
        vocabulary.PAIR_SHIFT: float(np.hypot(*smooth[slices].T).max()),
        vocabulary.PAIR_LOOSE: float(np.sort(loose)[-max(2, round(0.1 * len(loose))) :].mean()),
    }  # fmt: skip
    out.slices[vocabulary.PAIR_LOOSE] = slices[loose > LOOSE]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 100 * (1 - np.asarray(on, float) / np.asarray(off, float))
    ratio[~np.isfinite(ratio) | (np.abs(ratio) > 100)] = np.nan
    distance = np.stack([ndimage.distance_transform_edt(~solid[:, :, k], sampling=spacing[:2]) for k in range(solid.shape[2])], axis=-1)
    fluid = (distance > 1.0) & (distance < 2.5) & solid.any(axis=(0, 1))
    cord = float(np.nanmedian(ratio[solid]))
    out.values |= {
        vocabulary.PAIR_NEGATIVE: float(np.mean((np.asarray(on, float) > np.asarray(off, float))[solid])), vocabulary.PAIR_CORD: cord,
        vocabulary.PAIR_FLUID: cord - float(np.nanmedian(ratio[fluid])),
    }  # fmt: skip
    return out


def of_levels(landmarks: Landmarks, centreline: Centreline, template: Heights, named: Opinion | None = None) -> Findings:
    """Judge levels by the heights of vertebrae and by an opinion that did not know them.

    Parameters
    ----------
    landmarks : Landmarks
    centreline : Centreline
        Of the same image.
    template : Heights
    named : optional
        See `opinion`.
    """
    out = Findings()
    known = template.landmarks.get(landmarks.kind, {})
    arc = centreline.project(landmarks.xyz)[0]
    usable = [i for i, n in enumerate(landmarks.numbers) if int(n) in known and not (landmarks.kind == schema.DISC and n == 1)]
    order = sorted(usable, key=lambda i: known[int(landmarks.numbers[i])])
    z, s = np.array([known[int(landmarks.numbers[i])] for i in order]), arc[order]
    if len(z) >= 3:
        stretch = np.diff(s) / np.diff(z)
        good = stretch > 0
        if good.sum() >= 2:
            out.values[vocabulary.LEVEL_SPACING] = float(np.max(np.abs(np.log(np.where(good, stretch, 1e-3) / np.median(stretch[good])))))
    if named is not None and len(z) >= 2:
        discs = template.landmarks.get(schema.DISC, {})
        numbers, places = named
        pairs = [(float(discs[int(n)]), float(p)) for n, p in zip(numbers, places, strict=True) if int(n) in discs and n > 1]
        if len(pairs) >= 2:
            said, at = np.array(pairs).T
            vertebra = float(np.median(np.abs(np.diff(np.sort([*known.values()])))))
            apart = np.abs(_extended(s, at, said) - z) / vertebra
            seen = (s >= at.min() - BESIDE) & (s <= at.max() + BESIDE)
            out.values[vocabulary.LEVEL_OPINION] = float((apart[seen] if seen.any() else apart).max())
    return out


def _extended(at: FloatArray, s: FloatArray, z: FloatArray) -> FloatArray:
    """Linear interpolation of z over s, going on straight beyond the ends."""
    order = np.argsort(s)
    s, z = s[order], z[order]
    out = np.interp(at, s, z)
    slope = (z[-1] - z[0]) / max(s[-1] - s[0], 1e-6)
    return np.asarray(out + slope * (np.minimum(at - s[0], 0) + np.maximum(at - s[-1], 0)))


Opinion = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Discs that somebody named without knowing the landmarks, and their place along the centreline of the mask, mm."""
Known = dict[tuple[Any, ...], tuple[tuple[Any, ...], Findings]]
"""What was found of objects, by their identities; beside it they themselves, for the identity of one that is gone is given to the next."""


def opinion(data: NDArray[Any], affine: FloatArray, mask: NDArray[Any], template: Template, network: Network) -> Opinion | None:
    """Discs that the network names in an image (x, y, z) with a cord mask, without any landmark; None where it is not certain."""
    found = label_discs(data, affine, mask, template, network=network)
    if found.flags:
        return None
    named = found.landmarks(what="discs")
    return named.numbers, np.asarray(centreline_from_mask(mask, affine, what="cord mask").project(named.xyz)[0])


def _shape(data: NDArray[Any]) -> tuple[int, int, int]:
    x, y, z = data.shape
    return x, y, z


def _grid(data: NDArray[Any], affine: FloatArray) -> Grid:
    return Grid(_shape(data), np.asarray(affine, float))


def of_subject(
    images: Mapping[str, Scan], positions: FloatArray, template: Template, landmarks: Landmarks | None = None,
    named: Opinion | None = None, *, known: Known | None = None,
) -> Findings:  # fmt: skip
    """All features of a subject that its images allow.

    Parameters
    ----------
    images : {role: Scan}
        MT-on and its mask; and MT-off, T2w and its mask where there are.
    positions : (voxel, 3) array
        Template map of MT, RAS+ mm.
    template : Template
    landmarks : Landmarks, optional
        On the T2w image.
    named : optional
        See `opinion`.
    known : dict, optional
        What was found of the very same objects before, to be used again; it grows.

    Returns
    -------
    Findings
        Keys as in `vocabulary.quality_specs`.
    """
    on, mask = images[schema.MT_ON], images[schema.role(schema.MT, schema.MASK)]
    t2w, other = images.get(schema.T2W), images.get(schema.role(schema.T2W, schema.MASK))
    off = images.get(schema.MT_OFF)
    parts: list[tuple[Callable[..., Findings], tuple[Any, ...]]] = [(_mt_mask, (on, mask)), (_mt_map, (on, mask, positions, template))]
    if off is not None:
        parts.append((_pair, (on, off, mask)))
    if t2w is not None and other is not None:
        parts += [(_t2w_mask, (t2w, other, landmarks)), (_two_images, (on, mask, t2w))]
    if other is not None:
        parts.append((_two_masks, (mask, other)))
        if landmarks is not None:
            parts.append((_levels, (landmarks, other, template, named)))
    out, memory = Findings(), {} if known is None else known
    for part, given in parts:
        key = (part.__name__, *map(id, given))
        if key not in memory:
            try:
                found = part(*given)
            except CohortError as error:
                found = Findings(failed={part.__name__.strip("_").replace("_", " "): f"{error.expected} expected, {error.found} found"})
            memory[key] = given, found
        out.add(memory[key][1])
    return out


def _mt_mask(on: Scan, mask: Scan) -> Findings:
    found = _named(of_mask(on.data, mask.data, mask.affine), schema.MT)
    there = np.flatnonzero((np.nan_to_num(np.asarray(mask.data, float)) >= 0.5).any(axis=(0, 1)))
    if len(there):
        found.slices[vocabulary.GAP] = np.setdiff1d(np.arange(there[0], there[-1]), there)
    return found


def _t2w_mask(t2w: Scan, mask: Scan, landmarks: Landmarks | None) -> Findings:
    return _named(of_mask(t2w.data, _between(mask, landmarks), mask.affine), schema.T2W)


def _between(mask: Scan, landmarks: Landmarks | None) -> NDArray[Any]:
    """Slices of a mask that levels are made of: those from the lowest to the highest landmark; all of them where there are not two.

    Above, in the brainstem, and at the ends of the field of view masks are ragged, and nothing depends on it.
    """
    if landmarks is None or len(landmarks.numbers) < 2:
        return mask.data
    height = _grid(mask.data, mask.affine).voxel(np.asarray(landmarks.xyz, float))[:, 2]
    out = np.zeros_like(mask.data)
    part = slice(max(0, int(np.floor(height.min()))), max(0, int(np.ceil(height.max())) + 1))
    out[:, :, part] = mask.data[:, :, part]
    return out if out.any() else mask.data


def _mt_map(on: Scan, mask: Scan, positions: FloatArray, template: Template) -> Findings:
    return _named(of_map(on.data, mask.data, mask.affine, positions, template), schema.MT)


def _pair(on: Scan, off: Scan, mask: Scan) -> Findings:
    return of_pair(on.data, off.data, mask.data, _grid(mask.data, mask.affine).spacing)


def _two_images(on: Scan, mask: Scan, t2w: Scan) -> Findings:
    return of_two_images(on.data, mask.data, mask.affine, t2w.data, t2w.affine)


def _two_masks(mask: Scan, other: Scan) -> Findings:
    return of_two_masks(mask.data, mask.affine, other.data, other.affine)


def _levels(landmarks: Landmarks, mask: Scan, template: Template, named: Opinion | None) -> Findings:
    line = centreline_from_mask(mask.data, mask.affine, what=schema.words(schema.role(schema.T2W, schema.MASK)))
    return of_levels(landmarks, line, template, named)


def _named(found: Findings, contrast: str) -> Findings:
    return Findings({f"{contrast}_{k}": v for k, v in found.values.items()}, {f"{contrast}_{k}": v for k, v in found.slices.items()})
