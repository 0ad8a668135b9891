"""Synthetic mid-sagittal strips along the straightened cord, drawn from the heights of the discs with random anatomy, contrast and scan.

A strip has rows a millimetre apart along the cord, bottom first, and `COLUMNS` columns `STEP` mm apart from behind the cord (the spinous
processes) to the front (the bodies). Only where the discs lie, and how the cord's area changes along it, come from the template. All else is
drawn from what is common to spines: bodies and discs, the dens, the arches of C1, spinous processes, skull base, cisterns and hindbrain.
Everything is a function of two coordinates: the vertebral coordinate v, which is n at disc n and grows downwards, and the distance y from the cord.
A batch is a function of its seed.

References
----------
Billot B et al. SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining.
Medical Image Analysis 2023;86:102789. doi:10.1016/j.media.2023.102789
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cohort_engine import schema
from cohort_engine.errors import TemplateError
from cohort_engine.nn.draw import Draw
from cohort_engine.nn.image import robust_scale
from cohort_engine.nn.synth import Batch
from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.template.base import Heights, Template

COLUMNS, STEP, FIRST = 32, 2.0, -27.0
"""Columns of a strip, their distance (mm), and the place of the first: mm in front of the cord."""
LAST = 21
"""Lowest disc that has a name: the one above vertebra 21 (T12-L1 is 20)."""
HIGHEST = 3
"""Highest disc that exists: C2/C3. Numbers 1 and 2 are places (top of C1, joint of C1 and C2)."""
STATES = LAST + 1
"""Numbers that a row can be near to: 0 (in the head), 1, 2 ... `LAST`."""
HEAD = 23.0
"""Number 0 is this far (mm of the template) above number 1."""
SHAPE_GAIN = 3.0
"""Second channel of a strip: this times the logarithm of the cord's area over its median; 0 where the area is not known."""
IGNORED = -1.0
"""Coordinate of a row that is not learnt from."""


@dataclass(frozen=True, eq=False)
class Spine:
    """What a template says about strips.

    Attributes
    ----------
    disc : (STATES + 1,) array
        Height (mm, upwards) of numbers 0 to `LAST` + 1; beyond the template's own the outer distances go on.
    area : (STATES + 1, PARTS) array
        Logarithm of the cord's area at v = number + part / PARTS; NaN where the template has no cord.
    """

    disc: FloatArray
    area: FloatArray


PARTS = 8


def numbered_heights(template: Heights) -> FloatArray:
    """Heights (STATES + 1,) of numbers 0 to `LAST` + 1, mm upwards; below the template's own discs the last distance goes on.

    Raises
    ------
    TemplateError
        It lacks one of the discs 1 to 4.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> numbered_heights(parametric_cord(spacing=2.0))[:5].tolist()
    [23.0, 0.0, -23.0, -38.0, -56.0]
    """
    known = template.landmarks.get(schema.DISC, {})
    if not {1, 2, 3, 4} <= known.keys():
        raise TemplateError(
            expected="discs 1 to 4", found=", ".join(map(str, sorted(known))) or "none", where=template.name,
            remedy="Take PAM50 or the parametric cord.",
        )  # fmt: skip
    heights = [known[1] + HEAD, *(known[n] for n in sorted(known) if n <= LAST)]
    while len(heights) <= STATES:
        heights.append(2 * heights[-1] - heights[-2])
    return np.array(heights)


def spine_of(template: Template) -> Spine:
    """Take heights and areas from a template; errors as of `numbered_heights`.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> spine = spine_of(parametric_cord(spacing=2.0))
    >>> spine.disc.shape, bool((np.diff(spine.disc) < 0).all()), bool(np.isfinite(spine.area[4]).all())
    ((23,), True, True)
    """
    disc = numbered_heights(template)
    h = template.grid.spacing
    area = template.cord.sum(axis=(0, 1)) * float(h[0] * h[1])
    at = np.arange(STATES * PARTS + PARTS) / PARTS
    z = np.interp(at, np.arange(len(disc)), disc)
    block = template.z[template.corner[2] :][: len(area)]
    with np.errstate(divide="ignore"):
        log = np.log(np.where(area > 4.0, area, np.nan))
    return Spine(disc, np.interp(z, block, log, left=np.nan, right=np.nan).reshape(-1, PARTS))


@dataclass(frozen=True)
class StripOdds:
    """How often something happens in a strip.

    Attributes
    ----------
    neck : float
        Strips whose middle is at C1 to T2; the others are anywhere.
    fused, thin : float
        Discs that are bridged by bone, that are narrow and without contrast.
    compressed, blind : float
        Strips with a compressed cord, and those whose mask says nothing about the area.
    cropped, narrow : float
        Strips cut along the cord, and in front or behind.
    thick, dropout, strange : float
        Thick axial slices; a patch without signal; grey values of no known kind of contrast.
    noise : float
        Largest standard deviation of the noise, as part of a bright tissue.
    """

    neck: float = 0.75
    fused: float = 0.012
    thin: float = 0.08
    compressed: float = 0.2
    blind: float = 0.2
    cropped: float = 0.55
    narrow: float = 0.2
    thick: float = 0.25
    dropout: float = 0.08
    strange: float = 0.22
    noise: float = 0.16


# Grey values of tissues, low and high, by kind of contrast: T2, T1, T2*, anything.
_TISSUES = ("fluid", "cord", "marrow", "annulus", "nucleus", "cortex", "fat", "muscle", "air", "brain")
_CONTRASTS = (
    ((0.75, 1.2), (0.28, 0.55), (0.15, 0.55), (0.05, 0.3), (0.12, 0.9), (0.0, 0.12), (0.4, 1.0), (0.08, 0.3), (0.0, 0.06), (0.3, 0.6)),
    ((0.08, 0.3), (0.35, 0.65), (0.4, 0.8), (0.25, 0.45), (0.28, 0.5), (0.0, 0.15), (0.7, 1.2), (0.3, 0.5), (0.0, 0.06), (0.35, 0.65)),
    ((0.6, 1.1), (0.35, 0.7), (0.03, 0.3), (0.2, 0.6), (0.3, 0.8), (0.0, 0.12), (0.2, 0.7), (0.3, 0.6), (0.0, 0.06), (0.35, 0.7)),
    ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 0.35), (0.0, 1.0), (0.0, 1.0), (0.0, 0.3), (0.0, 1.0)),
)
_LIKELY = (0.45 / 0.78, 0.65 / 0.78, 1.0)
"""Upper ends of the shares of T2, T1 and T2* among the known kinds of contrast."""
# By vertebra 0 ... 23, mm: depth of the body, thickness of the disc above, length, thickness and downward slope of the spinous process.
_BODY = (15.0, 15.0, 15.0, 15.0, 15.0, 15.5, 16.0, 16.5, *(17 + 0.9 * k for k in range(12)), 29.0, 30.0, 30.0, 30.0)
_DISC = (5.0, 5.0, 5.0, 4.5, 4.8, 5.0, 5.2, 5.2, 4.5, 4.0, 3.8, *(3.8 + 0.25 * k for k in range(9)), 7.0, 8.0, 8.0, 8.0)
_LENGTH = (0.0, 0.0, 17.0, 12.0, 12.0, 13.0, 18.0, 25.0, 27.0, 28.0, 28.0, *(28.0 for _ in range(13)))
_HEIGHT = (6.0, 6.0, 11.0, 5.5, 5.5, 5.5, 6.5, 8.5, 8.5, 7.5, 7.0, *(7.0 for _ in range(8)), 13.0, 16.0, 18.0, 18.0, 18.0)
_SLOPE = (0.0, 0.0, 0.2, 0.35, 0.4, 0.4, 0.4, 0.35, 0.4, 0.55, 0.75, 0.9, 1.0, 1.1, 1.1, 1.0, 0.9, 0.8, 0.6, 0.3, 0.1, 0.1, 0.1, 0.1)


class StripGenerator:
    """Draws batches of strips.

    Parameters
    ----------
    spine : Spine
    rows : int
        Length of a strip, mm.
    odds : StripOdds
    device : str

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> g = StripGenerator(spine_of(parametric_cord(spacing=2.0)), 64)
    >>> batch = g.batch(2, seed=1)
    >>> tuple(batch.image.shape), tuple(batch.label.shape), bool((g.batch(2, seed=1).image == batch.image).all())
    ((2, 3, 64, 32), (2, 2, 64, 32), True)
    """

    def __init__(self, spine: Spine, rows: int, odds: StripOdds | None = None, *, device: str = "cpu") -> None:
        import torch

        self.torch, self.rows, self.odds = torch, rows, odds or StripOdds()
        self.device = torch.device(device)
        self.height = torch.tensor(spine.disc, dtype=torch.float32, device=self.device)
        self.area = torch.tensor(spine.area, dtype=torch.float32, device=self.device).flatten()

    def batch(self, n: int, seed: int) -> Batch:
        """Draw `n` strips.

        Returns
        -------
        Batch
            `image` (n, 3, row, column): the strip as `robust_scale` gives it, the cord's area (see `SHAPE_GAIN`), and 1 where there is a mask.
            `label` (n, 2, row, column): heat map of the discs' back halves, and the row's vertebral coordinate, `IGNORED` outside the field of view.
        """
        with self.torch.no_grad():
            return self._batch(Draw(seed, n, self.device))

    def _batch(self, r: Draw) -> Batch:
        torch, rows = self.torch, self.rows
        row = torch.arange(rows, device=self.device, dtype=torch.float32).view(1, rows, 1)
        y = (torch.arange(2 * COLUMNS, device=self.device) * (STEP / 2) + FIRST - STEP / 4).view(1, 1, -1)
        mask_low, mask_high = self._mask(r)
        y = y - self._bend(r, row - mask_high) - self._bend(r, mask_low - row) - self._wave(r, rows / 25) * r.uniform(0, 0.8, 1, 1)
        knots = self._discs(r)  # (n, STATES + 1) rows of numbers 0 ... LAST + 1
        scene = self._scene(r, row, y, knots)
        image = self._drawn(r, scene)
        image = self._scanned(r, image)
        image = image.view(r.n, rows, COLUMNS, 2).mean(-1)
        seen = self._field_of_view(r, row)
        image = image.clamp(min=1e-4) * seen
        shape, inside = self._shape(r, scene.along, mask_low, mask_high, row, seen[:, :, round(-FIRST / STEP)][..., None])
        both = torch.stack([shape, inside], 1).expand(r.n, 2, rows, COLUMNS)
        heat = scene.heat.view(r.n, rows, COLUMNS, 2).mean(-1)
        along = torch.where(seen[:, :, round(-FIRST / STEP)][..., None] > 0, scene.along.clamp(0, LAST), IGNORED)
        label = torch.stack([heat * seen, along.expand(r.n, rows, COLUMNS)], 1)
        return Batch(torch.cat([robust_scale(image[:, None]), both], 1), label)

    # --- anatomy ----------------------------------------------------------------------------------------------------------
    def _discs(self, r: Draw) -> Tensor:
        torch = self.torch
        gap = -self.height.diff()[None]
        number = torch.arange(gap.shape[1], device=self.device)
        chest = torch.sigmoid((number - 7.5) * 1.5)
        scale = 1 + 0.1 * r.normal(1).clamp(-2.2, 2.2)
        own = 0.06 * r.normal(1) * chest + 0.03 * r.normal(1) * (number - 6) / 6 * (1 - chest) + 0.06 * r.normal(gap.shape[1])
        gap = gap * scale * own.clamp(-0.25, 0.25).exp()
        below = torch.cat([torch.zeros_like(gap[:, :1]), -gap.cumsum(1)], 1)
        in_neck = r.uniform(0, 1, 1) < self.odds.neck
        middle = torch.where(in_neck, r.uniform(0.5, 9.5, 1), r.uniform(2, LAST - 1.0, 1))
        k = middle.floor().long()
        at = below.gather(1, k) + (middle - k) * (below.gather(1, k + 1) - below.gather(1, k))
        out: Tensor = below - at + (self.rows - 1) / 2
        return out

    def _mask(self, r: Draw) -> tuple[Tensor, Tensor]:
        """Rows (n, 1, 1) of the ends of the cord mask; often beyond the strip."""
        low = self.torch.where(r.uniform(0, 1, 1, 1) < 0.5, -20.0, r.uniform(-10, 0.35 * self.rows, 1, 1))
        high = self.torch.where(r.uniform(0, 1, 1, 1) < 0.5, self.rows + 20.0, r.uniform(0.65 * self.rows, self.rows + 10.0, 1, 1))
        return low, high

    def _bend(self, r: Draw, beyond: Tensor) -> Tensor:
        """How far (mm) the spine leaves a centreline that goes straight on beyond the mask."""
        d = beyond.clamp(min=0)
        return (r.normal(1, 1) * 0.12 * d + r.normal(1, 1) * 0.002 * d**2).clamp(-18, 18)

    def _scene(self, r: Draw, row: Tensor, y: Tensor, knots: Tensor) -> _Scene:
        torch = self.torch
        base = self._coordinate(knots, row.expand(r.n, -1, 1))  # (n, row, 1)
        front = 6.8 + 1.1 * r.normal(1, 1) + 0.6 * self._wave(r, 4) + 0.6 * torch.sigmoid((base - 18) * 1.5)
        front = front.clamp(4.5, 11)
        back = (6.8 + 1.1 * r.normal(1, 1) + 0.6 * self._wave(r, 4) + (2.5 - base).clamp(0, 2) * r.uniform(0.5, 2, 1, 1)).clamp(4.5, 14)
        anchor = front + 4
        lean = 0.12 * r.normal(1, 1) + 0.1 * self._wave(r, 6)
        warp = self._field(r, 12, 5) * r.uniform(0, 0.6, 1, 1)
        up = row - lean * (y - anchor) + warp
        v = self._coordinate(knots, up)
        slope = self._by_number(self._varied(r, _SLOPE, 0.25), base.clamp(0, 22))
        vs = self._coordinate(knots, row + slope * (-y - back).clamp(min=0) + warp)
        nearest = v.round()
        gap = (knots[:, :-1] - knots[:, 1:]).clamp(min=1)
        local = gap.gather(1, v.floor().clamp(0, STATES - 1).long().flatten(1)).view_as(v)
        off = (v - nearest) * local  # mm below the nearest number's place
        number = nearest.clamp(0, LAST)
        real = (number >= HIGHEST) & (v < LAST + 0.4)
        fused = torch.rand((r.n, STATES + 2), generator=r.generator, device=self.device) < self.odds.fused
        thin = torch.rand((r.n, STATES + 2), generator=r.generator, device=self.device) < self.odds.thin
        visible = real & ~self._gather(fused.float(), number).bool()
        worn = self._gather(thin.float(), number)
        heat = visible * (-(off**2) / (2 * 2.0**2) - ((y - front - 5) ** 2) / (2 * 4.0**2)).exp()
        return _Scene(row, y, up, v, vs, base, front, back, knots, off, number, visible.float(), worn, heat)

    def _drawn(self, r: Draw, s: _Scene) -> Tensor:
        torch = self.torch
        tone = self._tones(r)
        y, v, base = s.y, s.v, s.base

        def soft(distance: Tensor, width: float = 0.8) -> Tensor:
            out: Tensor = torch.sigmoid(distance * (2 / width))
            return out

        def over(image: Tensor, part: Tensor, value: Tensor) -> Tensor:
            return image + part * (value - image)

        # muscle and fat, throat, chest
        patches = soft(self._field(r, self.rows / r.scalar(6, 30), r.scalar(4, 10)) - r.uniform(0, 1.4, 1, 1), 0.4)
        image = over(tone["muscle"].expand(r.n, self.rows, 2 * COLUMNS), patches, tone["fat"])
        image = image + self._field(r, self.rows / 3, 16) * r.uniform(0, 0.1, 1, 1)
        depth = self._by_number(self._varied(r, _BODY, 0.08) * (1 + 0.07 * r.normal(1)), v.clamp(0, 22))
        ahead = y - s.front - depth  # mm in front of the bodies
        throat = soft(ahead - r.uniform(2, 6, 1, 1) - torch.sigmoid((base - 5) * 2) * r.uniform(4, 14, 1, 1))
        image = over(image, throat * soft(base - r.uniform(-1, 1, 1, 1), 0.3) * self._yes(r, 0.7), tone["air"])
        image = over(image, soft(ahead - r.uniform(3, 8, 1, 1)) * soft(base - r.uniform(8, 10, 1, 1), 0.3), self._wave(r, 6).abs() * 0.5)

        # spinous processes and what is between them
        behind = -y - s.back
        k = s.vs.floor().clamp(0, 22)
        length, height = (self._gather(self._varied(r, t, 0.18), k) for t in (_LENGTH, _HEIGHT))
        gap = (s.knots[:, :-1] - s.knots[:, 1:]).gather(1, k.clamp(0, STATES - 1).long().flatten(1)).view_as(v)
        at = ((s.vs - k) - r.uniform(0.45, 0.75, 1, 1)).abs() * gap
        bone = tone["marrow"] + self._field(r, self.rows / 6, 12) * r.uniform(0, 0.1, 1, 1)
        process = torch.minimum(torch.minimum(behind - 1.5, length - behind), height / 2 - at)
        process = torch.where((k >= 2) & (k <= LAST), process, -9.0)
        shown = soft(self._wave(r, 5) + r.uniform(-0.6, 3, 1, 1), 0.5)  # a turned neck leaves them beside the strip
        image = over(image, soft(behind) * soft(length + 3 - behind) * (base > 2), tone["fat"] * r.uniform(0.3, 1, 1, 1))
        image = over(image, soft(process + 1.2) * shown, tone["cortex"])
        image = over(image, soft(process) * shown, bone)

        # bodies, dens, discs
        above = (s.up - s.knots[:, HIGHEST].view(-1, 1, 1)) / ((s.knots[:, 1] - s.knots[:, HIGHEST]) / 38.5).view(
            -1, 1, 1
        )  # mm above C2/C3, typical C2
        middle = (s.off.abs() / 9).clamp(0, 1)
        body = torch.minimum(y - s.front - 1 - 0.8 * middle, s.front + depth - 1.2 * middle - y)
        tip = r.uniform(32, 38, 1, 1)
        dens = 5.5 * r.uniform(0.85, 1.2, 1, 1) - (y - s.front - 8).abs()
        dens = torch.minimum(dens, 5.5 - ((y - s.front - 8) ** 2 + (above - tip + 5.5).clamp(min=0) ** 2).sqrt())
        waist = r.uniform(13, 18, 1, 1)
        column = torch.where(above > waist, dens, torch.minimum(body, s.off.abs() + 50 * (v < 2.5)))
        image = over(image, soft(column + 1.3), tone["cortex"])
        grain = tone["marrow"] + self._field(r, self.rows / 4, 16) * r.uniform(0, 0.08, 1, 1) + 0.1 * r.normal(1, 1) * self._wave(r, self.rows / 18)
        image = over(image, soft(column), grain)
        seam = soft(1.2 - (above - waist).abs()) * soft(body) * self._yes(r, 0.45)  # the disc that C2 once had
        image = over(image, seam * r.uniform(0.2, 1, 1, 1), tone["annulus"])
        half = 0.5 * self._gather(self._varied(r, _DISC, 0.15), s.number) * (1 - 0.45 * s.worn) * r.uniform(0.85, 1.25, 1, 1)
        bulge = torch.minimum(y - s.front + r.uniform(-1, 1.5, 1, 1) * (1 + s.worn), s.front + depth - y)
        disc = torch.minimum(half - s.off.abs(), bulge)
        ends = torch.minimum(half + r.uniform(0.3, 1.5, 1, 1) - s.off.abs(), bulge)
        image = over(image, soft(ends) * s.visible, tone["cortex"])
        image = over(image, soft(disc) * s.visible, tone["annulus"])
        core = torch.minimum(half - 0.7 - s.off.abs(), (depth / 2 - r.uniform(2, 5, 1, 1)) - (y - s.front - depth / 2).abs())
        own = r.uniform(0.5, 1, STATES + 2)
        image = over(image, soft(core) * s.visible * self._gather(own, s.number) * (1 - 0.8 * s.worn), tone["nucleus"])
        vein = soft(1.0 - ((v - v.floor()) - 0.5).abs() * 18) * soft(6 - (y - s.front)) * soft(body) * (v > 3)
        image = over(image, vein * r.uniform(0, 1, 1, 1) * self._yes(r, 0.6), tone["fluid"])

        # arches of C1
        for place, (h, w) in ((s.front + 8 + 5.5 + r.uniform(2.5, 4.5, 1, 1), (5.5, 3.0)), (-s.back - r.uniform(2.5, 6, 1, 1), (4.5, 3.0))):
            arch = 1 - (((above - r.uniform(25, 32, 1, 1)) / h) ** 2 + ((y - place) / w) ** 2).sqrt()
            image = over(image, soft(arch * 3 + 1) * (there := self._yes(r, 0.85)), tone["cortex"])
            image = over(image, soft(arch * 3) * there, bone)

        # canal, skull base, hindbrain
        high = above - 38.5  # mm above the top of C1
        flare = (high + 12).clamp(0, 24)
        clivus = s.front + 1 + (high - r.uniform(-2, 6, 1, 1)).clamp(min=0) * r.uniform(0.35, 0.95, 1, 1)
        occiput = s.back + flare * r.uniform(0.1, 0.45, 1, 1) + (high - r.uniform(-3, 6, 1, 1)).clamp(min=0) * r.uniform(0.8, 2.2, 1, 1)
        in_head = soft(high - r.uniform(-3, 7, 1, 1), 2.0)
        slab = torch.minimum(y - clivus, clivus + r.uniform(7, 13, 1, 1) - y)
        image = over(image, soft(torch.minimum(slab + 1.5, high + 3)), tone["cortex"])
        image = over(image, soft(torch.minimum(slab, high + 1)), bone)
        slab = torch.minimum(-y - occiput, occiput + r.uniform(4, 9, 1, 1) + y)
        image = over(image, soft(torch.minimum(slab, high + 2)), tone["cortex"])
        image = over(image, soft(torch.minimum(slab - 1.5, high + 1)), bone)
        front, back = s.front + in_head * (clivus - s.front), s.back + (high > -12) * (occiput - s.back)
        edge = torch.minimum(front - y, y + back)
        image = over(image, soft(edge + 1.2) * self._yes(r, 0.6), tone["cortex"])
        flow = self._field(r, self.rows / 15, 6) * r.uniform(0, 1, 1, 1) ** 2 * 0.2
        fat = tone["fat"] * soft(-y - s.back + r.uniform(0.5, 2.5, 1, 1)) * self._yes(r, 0.4)
        image = over(image, soft(edge), over(tone["fluid"] + flow, (fat > 0.05).float() * soft(base - 3, 0.3), fat))
        folds = self._field(r, self.rows / 3, 14)
        cerebellum = torch.minimum(torch.minimum(-y - r.uniform(7, 12, 1, 1), y + occiput - r.uniform(1, 4, 1, 1)), high - r.uniform(0, 12, 1, 1))
        image = over(image, soft(cerebellum), over(tone["brain"], soft(folds - r.uniform(0.4, 1.5, 1, 1), 0.3), tone["fluid"]))
        stem = (high + 10).clamp(0, 40) / 40
        junction = r.uniform(18, 30, 1, 1)
        pons = soft(high - junction, 4.0) * r.uniform(5, 11, 1, 1)
        radius = self._radius(r, base)
        cord = torch.minimum(radius + 4 * stem + pons - y, y + radius + 2.5 * stem)
        cord = torch.minimum(cord, torch.minimum(front - y, y + back) - r.uniform(0.2, 1, 1, 1))
        lesion = soft(self._field(r, self.rows / 8, 10) - 2.0, 0.5) * self._yes(r, 0.15) * r.normal(1, 1) * 0.3
        texture = self._field(r, self.rows / 4, 10) * r.uniform(0, 0.05, 1, 1)
        inner = over(tone["cord"], in_head, 0.5 * (tone["cord"] + tone["brain"]))
        return over(image, soft(cord), inner + texture + lesion).clamp(0, 2)

    def _radius(self, r: Draw, base: Tensor) -> Tensor:
        """Half the cord's depth, mm; none below the cone."""
        log = self._area_at(base).nan_to_num(nan=4.2)
        radius = 3.7 * ((log - 4.2) / 2).exp() * r.uniform(0.85, 1.15, 1, 1)
        return radius - 12 * self.torch.sigmoid((base - r.uniform(19.5, 21.5, 1, 1)) * 6)

    def _shape(self, r: Draw, along: Tensor, low: Tensor, high: Tensor, row: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Area channel and mask channel, (n, row, 1) each."""
        torch = self.torch
        log = self._area_at(along).nan_to_num(nan=4.2)
        log = log + (1 - along).clamp(0, 2) * r.uniform(0.2, 0.5, 1, 1)
        swelling = r.uniform(0.55, 1.4, 1, 1)
        inside = ((row >= low) & (row <= high) & (along < 20.8) & (along > r.uniform(-1, 1, 1, 1))).float() * seen
        dip = (-0.5 * ((along - r.uniform(3.5, 8, 1, 1)) / r.uniform(0.15, 0.5, 1, 1)) ** 2).exp() * r.uniform(0, 0.5, 1, 1)
        log = log * swelling + 0.07 * self._wave(r, self.rows / 45) + 0.05 * self._wave(r, self.rows / 15) + 0.03 * self._wave(r, self.rows / 4)
        log = log - dip * self._yes(r, self.odds.compressed)
        median = torch.where(inside > 0, log, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num()
        blind = self._yes(r, self.odds.blind)
        return ((log - median) * SHAPE_GAIN * inside * (1 - blind)).clamp(-2, 2), inside

    def _area_at(self, v: Tensor) -> Tensor:
        """Template's log area at vertebral coordinates."""
        t = (v * PARTS).clamp(0, len(self.area) - 1.001)
        k = t.long()
        out: Tensor = self.area[k] + (t - k) * (self.area[k + 1] - self.area[k])
        return out

    def _tones(self, r: Draw) -> dict[str, Tensor]:
        torch = self.torch
        table = torch.tensor(_CONTRASTS, device=self.device)
        kind = torch.bucketize(r.uniform(0, 1, 1)[:, 0], torch.tensor(_LIKELY, device=self.device) * (1 - self.odds.strange))
        low, high = table[kind].unbind(-1)
        value = low + (high - low) * r.uniform(0, 1, len(_TISSUES))
        return {name: value[:, k].view(-1, 1, 1) for k, name in enumerate(_TISSUES)}

    # --- scan -------------------------------------------------------------------------------------------------------------
    def _scanned(self, r: Draw, image: Tensor) -> Tensor:
        torch, pool = self.torch, self.torch.nn.functional
        image = image * (self._field(r, 3, 3) * r.uniform(0, 0.5, 1, 1)).exp()
        fall = torch.sigmoid(
            (torch.arange(self.rows, device=self.device).view(1, -1, 1) - r.uniform(-30, 0.5 * self.rows, 1, 1)) / r.uniform(8, 30, 1, 1)
        )
        image = image * torch.where(self._yes(r, 0.35) > 0, 0.08 + 0.92 * torch.where(self._yes(r, 0.75) > 0, fall, fall.flip(1)), 1.0)
        hole = self._field(r, 4, 4)
        image = image * (1 - torch.sigmoid((hole - 1.5) * 8) * self._yes(r, self.odds.dropout))
        step = r.scalar(1.5, 5.5) if r.scalar(0, 1) < self.odds.thick else r.scalar(0.8, 1.4)
        plane = r.scalar(0.6, 1.6)
        image = self._blurred(image, 0.45 * step, 0.45 * plane)
        coarse = pool.interpolate(image[:, None], (max(8, round(self.rows / step)), max(8, round(2 * COLUMNS / plane))), mode="bilinear")
        sigma = (r.uniform(0, 1, 1, 1) ** 2 * self.odds.noise)[:, None]
        noise = torch.randn((2, *coarse.shape), generator=r.generator, device=self.device) * sigma
        coarse = ((coarse + noise[0]) ** 2 + noise[1] ** 2).sqrt()
        image = pool.interpolate(coarse, image.shape[1:], mode="bilinear")[:, 0]
        ghost = torch.roll(image, int(r.scalar(8, 40)), 1)
        image = image + ghost * self._yes(r, 0.1) * r.uniform(0.03, 0.15, 1, 1)
        top = image.amax((1, 2), keepdim=True) + 1e-6
        power = torch.where(self._yes(r, 0.6) > 0, (0.3 * r.normal(1, 1)).exp(), 1.0)
        out: Tensor = (image / top) ** power
        return out

    def _blurred(self, image: Tensor, along: float, across: float) -> Tensor:
        torch = self.torch
        out = image[:, None]
        for sigma, axis in ((along, 2), (across, 3)):
            reach = max(1, round(3 * sigma))
            t = torch.arange(-reach, reach + 1, device=self.device)
            kernel = (-0.5 * (t / max(sigma, 0.2)) ** 2).exp()
            shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
            pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
            out = torch.nn.functional.conv2d(torch.nn.functional.pad(out, pad, mode="replicate"), (kernel / kernel.sum()).view(shape))
        return out[:, 0]

    def _field_of_view(self, r: Draw, row: Tensor) -> Tensor:
        """1 inside (n, row, column)."""
        torch, rows = self.torch, self.rows
        y = (torch.arange(COLUMNS, device=self.device) * STEP + FIRST).view(1, 1, -1)
        length = r.uniform(0.3, 1, 1, 1) * rows
        low = r.uniform(0, 1, 1, 1) * (rows - length)
        tilted = row + 0.25 * r.normal(1, 1) * y
        keep = ((tilted >= low) & (tilted <= low + length)) | (self._yes(r, self.odds.cropped) == 0)
        near = ((y >= -r.uniform(12, 28, 1, 1)) & (y <= r.uniform(15, 36, 1, 1))) | (self._yes(r, self.odds.narrow) == 0)
        seen: Tensor = (keep & near).float()
        return seen

    # --- small things -----------------------------------------------------------------------------------------------------
    def _yes(self, r: Draw, odds: float) -> Tensor:
        return (r.uniform(0, 1, 1, 1) < odds).float()

    def _wave(self, r: Draw, cells: float) -> Tensor:
        """Smooth random curve (n, row, 1) of unit variance at its knots."""
        knots = r.normal(1, max(2, round(cells)))
        return self.torch.nn.functional.interpolate(knots, size=self.rows, mode="linear", align_corners=True)[:, 0, :, None]

    def _field(self, r: Draw, cells_z: float, cells_y: float) -> Tensor:
        """Smooth random field (n, row, 2 * column)."""
        knots = r.normal(1, max(2, min(self.rows, round(cells_z))), max(2, round(cells_y)))
        return self.torch.nn.functional.interpolate(knots, size=(self.rows, 2 * COLUMNS), mode="bilinear", align_corners=True)[:, 0]

    def _coordinate(self, knots: Tensor, up: Tensor) -> Tensor:
        """Vertebral coordinate at rows (n, ...): linear between the places (n, number) of the numbers, and beyond them."""
        flat = up.flatten(1)
        rising = -knots
        k = (self.torch.searchsorted(rising.contiguous(), -flat.contiguous(), right=True) - 1).clamp(0, knots.shape[1] - 2)
        a, b = knots.gather(1, k), knots.gather(1, k + 1)
        return (k + (a - flat) / (a - b)).view_as(up)

    def _varied(self, r: Draw, table: Sequence[float], spread: float) -> Tensor:
        """Table by vertebra (n, number), each value varied."""
        mean = self.torch.tensor(table, device=self.device)[None]
        return mean * (spread * r.normal(mean.shape[1])).exp()

    def _by_number(self, table: Tensor, v: Tensor) -> Tensor:
        """Look a table (n, number) up at coordinates between the numbers."""
        k = v.floor()
        a, b = self._gather(table, k), self._gather(table, k + 1)
        return a + (v - k) * (b - a)

    def _gather(self, table: Tensor, number: Tensor) -> Tensor:
        return table.gather(1, number.long().clamp(0, table.shape[1] - 1).flatten(1)).view_as(number)


class _Scene(NamedTuple):
    """Coordinates of a strip, (n, row, y) unless said otherwise.

    `up` is the row that a pixel's disc plane has at the back of the discs, `along` (n, row, 1) the vertebral coordinate there; `v` that of the
    bodies, `vs` of the spinous processes; `off` the distance below the place of the nearest `number`.
    """

    row: Tensor
    y: Tensor
    up: Tensor
    v: Tensor
    vs: Tensor
    along: Tensor
    front: Tensor
    back: Tensor
    knots: Tensor
    off: Tensor
    number: Tensor
    visible: Tensor
    worn: Tensor
    heat: Tensor

    @property
    def base(self) -> Tensor:
        return self.along
