"""Synthetic axial slices of the cord, drawn from label maps with random contrast, shape and acquisition.

A network that has only seen these works on images of any contrast, because no contrast is common to all of them. A sample is three
neighbouring slices (below, here, above) around one level of the template:

    shape        z, tilt, turn, scale, smooth warps; cord and canal each their own; compression; canals without a cord
    tissue       one grey value a tissue, random; texture, lesions, roots, vessels, flow; background of random regions, ellipses, bone, air
    acquisition  slice thickness and gap, voxel size, point spread, partial volume, motion, bias field, noise, ghosts, gamma, field of view

Everything is vectorised over the batch and runs on CPU or GPU. A batch is a function of its seed.

References
----------
Billot B et al. SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining.
Medical Image Analysis 2023;86:102789. doi:10.1016/j.media.2023.102789
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cohort_engine.nn import butterfly
from cohort_engine.nn.draw import Draw
from cohort_engine.nn.image import robust_scale
from cohort_engine.nn.press import dented, echo_planar, gone, magnetisation

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.nn.anatomy import Anatomy

CUT = 6.0
"""A heat map is drawn where the cord fills more than this area in the slice, mm2."""


@dataclass(frozen=True)
class Frame:
    """What a network sees.

    Attributes
    ----------
    size : int
        Pixels a side.
    spacing : float
        Pixel size, mm.
    jitter : float
        The cord's centre lies within this distance of the middle, in x and y, mm.
    """

    size: int
    spacing: float
    jitter: float


@dataclass(frozen=True)
class Odds:
    """How often something happens in a sample, and the one constant of the label.

    Attributes
    ----------
    inset : float
        The label's border lies this far inside the tissue's border, mm, always: drawn masks stop before the blurred edge does.
    thick, sagittal : float
        Batches of thick axial slices, of thick sagittal ones; the others are nearly isotropic.
    absent, cauda, brain : float
        Samples without canal, with a canal of roots but no cord, with a brain.
    compressed, lesion, roots, diffusion : float
    bone, disc, ring, air, dura : float
        Samples that show them.
    cropped, ghost, edge : float
        Narrow field of view; ghost; first or last slice of the volume.
    quiet : float
        Samples in which cord and fluid hardly differ, beside all that is bright around them: proton density under a surface coil.
    tilt : float
        Standard deviation of the tilt of thin slices against the cord, degrees.
    pressed : float
        Samples in which a disc or ligament takes the place of the fluid on one side of the cord, on two or all round it, often no brighter or
        darker than the cord.
    dented, turned : float
        Samples in which the cord is pressed in from some side; standard deviation of its turn about its own axis, degrees.
    mt, epi : float
        Samples with the grey values of a scan with or without magnetisation transfer; with little but the canal around the cord.
    stripe : float
        Samples in which the edge of the cord repeats inside it, as it does where a scan stops short of the high spatial frequencies.
    butterfly : float
        Samples in which the template's grey matter is warped in itself and has clear contrast, instead of what the cord's warps and chance give it.
    horns : float
        Samples in which grey matter is drawn anew, see `butterfly`: with horns that reach the edge.
    """

    inset: float = 0.25
    thick: float = 0.45
    sagittal: float = 0.13
    absent: float = 0.05
    cauda: float = 0.06
    brain: float = 0.03
    compressed: float = 0.18
    lesion: float = 0.2
    roots: float = 0.3
    diffusion: float = 0.12
    bone: float = 0.85
    disc: float = 0.85
    ring: float = 0.75
    dura: float = 0.2
    air: float = 0.35
    cropped: float = 0.35
    ghost: float = 0.1
    edge: float = 0.15
    quiet: float = 0.0
    tilt: float = 18.0
    pressed: float = 0.0
    dented: float = 0.0
    turned: float = 7.0
    mt: float = 0.0
    epi: float = 0.0
    stripe: float = 0.0
    butterfly: float = 0.0
    horns: float = 0.0


class Batch(NamedTuple):
    """Samples: `image` (n, 3, y, x) scaled as inference scales, `label` (n, 2, y, x) the fractions of cord and of grey matter, 0 to 1, in the
    middle slice.
    """

    image: Tensor
    label: Tensor


class Generator:
    """Draws batches from an anatomy.

    Parameters
    ----------
    anatomy : Anatomy
    frame : Frame
    odds : Odds
    device : str
        ``"cpu"``, ``"cuda"`` ...

    Examples
    --------
    >>> from cohort_engine.nn.anatomy import anatomy_of
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> g = Generator(anatomy_of(parametric_cord(spacing=1.0, top="C3", bottom="C4")), Frame(32, 1.0, 4.0))
    >>> batch = g.batch(4, seed=1)
    >>> tuple(batch.image.shape), tuple(batch.label.shape), bool((g.batch(4, seed=1).image == batch.image).all())
    ((4, 3, 32, 32), (4, 2, 32, 32), True)
    """

    def __init__(self, anatomy: Anatomy, frame: Frame, odds: Odds | None = None, *, device: str = "cpu") -> None:
        import torch

        self.torch, self.anatomy, self.frame, self.odds = torch, anatomy, frame, odds or Odds()
        self.device = torch.device(device)
        self.section = torch.from_numpy(anatomy.section).to(self.device)
        self.axes = torch.from_numpy(butterfly.half_axes(anatomy)).to(self.device)
        self.bone = None if anatomy.bone is None else torch.from_numpy(anatomy.bone).to(self.device)[None]

    def batch(self, n: int, seed: int) -> Batch:
        """Draw `n` samples, which share the kind of acquisition: (image, label)."""
        with self.torch.no_grad():
            return self._batch(Draw(seed, n, self.device))

    def _batch(self, r: Draw) -> Batch:
        torch, frame, odds = self.torch, self.frame, self.odds
        size, h = frame.size, frame.spacing
        scan = self._acquisition(r)
        parts = scan.parts
        axis = (torch.arange(size, device=self.device) - (size - 1) / 2) * h
        centre = r.uniform(-1, 1, 2, 1, 1, 1, 1) * frame.jitter
        x, y = (axis - centre[:, 0]).expand(r.n, 1, 1, size, size), (axis[:, None] - centre[:, 1]).expand(r.n, 1, 1, size, size)
        sub = ((torch.arange(parts, device=self.device) + 0.5) / parts - 0.5).view(1, 1, parts, 1, 1)
        up = torch.tensor([-1.0, 0.0, 1.0], device=self.device).view(1, 3, 1, 1, 1) * scan.gap + sub * scan.thickness  # mm, (n, 3, parts, 1, 1)

        # shape: from the patch (mm) to the template (mm)
        shift = r.normal(2, 3, 1, 1, 1) * r.uniform(0, 0.8, 1, 1, 1, 1, 1) * scan.moving[:, None]
        shift[:, :, 1] = 0
        px, py = x + shift[:, 0], y + shift[:, 1]
        turn, scale = r.normal() * math.radians(odds.turned), r.uniform(0.82, 1.25)
        mirror, cos, sin = r.sign(), turn.cos(), turn.sin()
        wide, deep, tall = (r.uniform(0.92, 1.09) * scale for _ in range(3))
        lean = (r.normal() * math.radians(scan.tilt)).clamp(-0.8, 0.8)  # against the slice's normal, forwards
        deep = deep / lean.cos()
        curve = r.uniform(-1, 1, 2, 1, 1, 1, 1) * 0.004
        lean_x = (r.normal() * math.radians(5)).tan() * up + curve[:, 0] * up**2
        lean_y = lean.tan() * up + curve[:, 1] * up**2
        warp = r.uniform(0, 1) ** 2 * 2.2
        cells = max(3.0, size * h / 14)
        qx = mirror * (cos * px - sin * py) / wide + warp * r.field(size, cells, drift=0.15)
        qy = (sin * px + cos * py) / deep + warp * r.field(size, cells, drift=0.15)
        level = self._level(r)  # (n, 1, 1, 1, 1), slice of the template
        slices = (level + up / tall / self.anatomy.spacing).round().long().clamp(0, len(self.section) - 1)

        tight = r.yes(odds.compressed)
        thin = r.uniform(0.8, 1.22) * (1 - tight * r.uniform(0.1, 0.55))
        broad = r.uniform(0.8, 1.22) * (1 + tight * r.uniform(-0.05, 0.2))
        ripple = r.uniform(0, 1) ** 2 * 0.5
        cells = max(4.0, size * h / 5)
        cx = (qx + lean_x - r.normal() * 0.6 + ripple * r.field(size, cells, drift=0.15)) / broad
        cy = (qy + lean_y - r.normal() * 1.1 + ripple * r.field(size, cells, drift=0.15)) / thin
        cy = cy + tight * r.uniform(-0.06, 0.06) * cx**2
        if odds.dented:
            cx, cy = dented(r, odds.dented, cx, cy, up)
        mean = (broad * thin).sqrt() * scale
        cord_d, grey = self._look(cx, cy, slices, (0, 2))
        if odds.butterfly:
            own, grey = self._butterfly(r, cx, cy, slices, grey)
        if odds.horns:
            drawn = butterfly.looked_at(butterfly.draw(r, self.axes[slices[:, :, slices.shape[2] // 2, 0, 0]]), cx, cy)
            horns = r.yes(odds.horns)
            grey = torch.where(horns > 0, _fraction(drawn.grey * mean, h), grey)
        label = self._label(cord_d[:, 1], odds.inset)
        cord = _fraction(cord_d * mean, h)
        label = torch.cat([label, (grey[:, 1] * cord[:, 1]).mean(1, keepdim=True) * (label > 0)], 1)
        in_brain, has_canal, has_cord = self._presence(r)
        cord, label = cord * has_cord, label * has_cord[:, 0]
        room = r.uniform(0.85, 1.4) * (1 - 0.15 * tight)
        kx, ky = (qx + lean_x) / (room * r.uniform(0.95, 1.35)), (qy + lean_y) / (room * r.uniform(0.85, 1.1))
        (canal_d,) = self._look(kx, ky, slices, (1,))
        canal_d = canal_d * room * scale
        canal = _fraction(canal_d, h) * has_canal
        ring = _fraction(canal_d + r.uniform(0.3, 4.0), h) * has_canal

        # tissue
        image = self._background(r, x + centre[:, 0], y + centre[:, 1], in_brain)
        if self.bone is not None:
            image = self._spine(r, image, qx + lean_x, qy + lean_y, slices, room, lean, in_brain)
        if odds.epi:
            image = echo_planar(r, odds.epi, image)
        image = _over(image, ring * r.yes(odds.ring), r.uniform(0, 1))
        image = _over(image, (_fraction(canal_d + 0.4, h) - _fraction(canal_d - 0.4, h)) * has_canal * r.yes(odds.dura), r.uniform(0, 0.4))
        white, fluid, step = self._cord_and_fluid(r)
        if odds.mt:
            mt, fluid, step, darker = magnetisation(r, odds.mt, white, fluid, step)
        flow = r.field(size, 5, drift=1.0) * r.uniform(0, 1) ** 3 * 0.35 * step
        strands = (r.field(size, size * h / 1.3, drift=0.3) > 1.0).float() * r.uniform(-0.6, 0.6) * step
        rooted = torch.maximum(r.yes(odds.roots), has_canal * (1 - has_cord))
        behind = torch.where(has_cord > 0, torch.ones_like(ky), (0.5 - ky / 4).clamp(0, 1))
        image = _over(image, canal, fluid + flow + strands * rooted * behind)
        if odds.pressed:
            wall = gone(r, odds.pressed, cx, cy, 0.4 * r.field(size, cells, drift=0.15)) * canal * has_cord
            image = _over(image, wall, torch.where(r.yes(0.7) > 0, (white + 0.12 * r.normal()).clamp(min=0), r.uniform(0, 1)))
        texture = r.field(size, size * h / 3) * r.uniform(0, 1) ** 2 * 0.06
        grey_step = torch.where(r.uniform(0, 1) < 0.75, r.normal() * 0.12, r.uniform(-0.5, 0.5))
        spots = torch.sigmoid((r.field(size, max(4.0, size * h / 4)) - 1.3) * 6) * r.yes(odds.lesion) * r.uniform(-0.5, 0.6)
        if odds.mt:
            grey_step = torch.where(mt > 0, darker, grey_step)
        if odds.butterfly:
            grey_step = torch.where(own > 0, r.uniform(0.25, 0.9) * step, grey_step)
        if odds.horns:
            clear = step * r.uniform(math.log(0.12), math.log(1.0)).exp() * torch.where(r.yes(0.9) > 0, 1.0, -1.0)
            grey_step = torch.where(horns > 0, clear * (1 + r.uniform(-0.35, 0.35) * (cy / 4).clamp(-1, 1)), grey_step)
        inside = white + grey_step * grey + texture + spots
        if odds.horns:
            inside = _over(inside, _fraction(drawn.fissure * mean, h) * horns * r.yes(0.5), white + r.uniform(-0.3, 1) * step)
        if odds.stripe:
            inside = inside + step * self._stripes(r, cord_d * mean, cy, scan)
        nulled = r.yes(odds.diffusion)  # diffusion weighting leaves little but the cord
        image = image * (1 - nulled * (1 - r.uniform(0.02, 0.4)))
        image = _over(image, cord, torch.where(nulled > 0, inside.clamp(min=0.35), inside))
        radius, oval = r.uniform(26, 75), r.uniform(0.7, 1.4)
        body = radius - (qx**2 * oval + (qy - r.uniform(-5, 40)) ** 2 / oval).sqrt()
        outside = (1 - _fraction(body, 2 * h)) * r.yes(odds.air) * (1 - canal) * (1 - cord)
        image = _over(image, outside, r.uniform(0, 0.06)).clamp(0, 2).mean(2)  # partial volume through the slice
        return Batch(robust_scale(self._scanned(r, image, scan, centre)), label)

    # --- shape ------------------------------------------------------------------------------------------------------------
    def _acquisition(self, r: Draw) -> _Scan:
        """Kind of the batch's acquisition, and its numbers a sample."""
        kind, odds = r.scalar(0, 1), self.odds
        if kind < odds.thick:
            side, gap = r.uniform(0.35, 1.3), self.torch.where(r.uniform(0, 1) < 0.75, r.uniform(1.5, 8), r.uniform(8, 18))
            thickness = self.torch.where(gap < 8, gap * r.uniform(0.6, 1), r.uniform(3, 8))
            return _Scan(side, side * r.uniform(0.85, 1.2), gap, thickness, r.yes(0.5), 4, 11.0)
        if kind < odds.thick + odds.sagittal:
            gap = r.uniform(0.5, 1.2)
            return _Scan(r.uniform(1.8, 4), r.uniform(0.4, 1.1), gap, gap, 0 * gap, 1, odds.tilt)
        side, gap = r.uniform(0.6, 1.3), r.uniform(0.6, 1.3)
        return _Scan(side, side * r.uniform(0.9, 1.1), gap, gap, 0 * gap, 1, odds.tilt)

    def _level(self, r: Draw) -> Tensor:
        """Slice of the template in the middle, more often in its upper half; cord in view."""
        present = (self.section[:, 0].amax((1, 2)) > 0).nonzero()
        low, high = float(present[0]), float(present[-1])
        return low + (high - low) * r.uniform(0, 1) ** 0.6

    def _look(self, x: Tensor, y: Tensor, slices: Tensor, channels: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Channels of `section` at positions in the template (mm from its centre, (n, 3, parts, y, x)); flat beyond the border."""
        torch, a = self.torch, self.anatomy
        n, k, parts = slices.shape[:3]
        size = x.shape[-1]
        height, width = self.section.shape[2:]
        x, y = (torch.broadcast_to(q, (n, k, parts, size, size)) for q in (x, y))
        grid = torch.stack([((x / a.spacing + a.centre[0]) * 2 + 1) / width - 1, ((y / a.spacing + a.centre[1]) * 2 + 1) / height - 1], -1)
        source = self.section[slices.reshape(-1)][:, channels]
        out = torch.nn.functional.grid_sample(source, grid.reshape(-1, size, size, 2), padding_mode="border", align_corners=False)
        return tuple(out[:, c].view(n, k, parts, size, size) for c in range(len(channels)))

    def _butterfly(self, r: Draw, x: Tensor, y: Tensor, slices: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Grey matter, in some samples wider or slimmer than the template's and warped in itself; and in which."""
        own = r.yes(self.odds.butterfly)
        size, cells = self.frame.size, max(4.0, self.frame.size * self.frame.spacing / 3)
        gx, gy = (q * r.uniform(0.85, 1.18) + r.uniform(0, 0.45) * r.field(size, cells, drift=0.15) for q in (x, y))
        (other,) = self._look(gx, gy, slices, (2,))
        return own, self.torch.where(own > 0, other, grey)

    def _stripes(self, r: Draw, distance: Tensor, y: Tensor, scan: _Scan) -> Tensor:
        """Waves of two voxels' length inside the cord, along its edge or straight across it; part of the step between cord and fluid."""
        length = 2 * scan.side_y.clamp(min=self.frame.spacing) * r.uniform(0.7, 1.3)
        along = self.torch.where(r.yes(0.5) > 0, distance, y)
        wave = (2 * math.pi * along / length + r.uniform(0, 2 * math.pi)).cos()
        return r.yes(self.odds.stripe) * r.uniform(0.05, 0.4) * wave

    def _label(self, distance: Tensor, inset: float) -> Tensor:
        """Fraction (n, 1, y, x) of the middle slice inside the border, moved inwards; `distance` (n, parts, y, x) in warped millimetres."""
        torch, h = self.torch, self.frame.spacing
        dy, dx = torch.gradient(distance, spacing=h, dim=(-2, -1))
        slope = (dx**2 + dy**2).sqrt().clamp(0.3, 3.0)
        return _fraction(distance / slope - inset, h).mean(1, keepdim=True)

    def _presence(self, r: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Whether this is in a brain, whether there is a canal, and a cord in it, (n, 1, 1, 1, 1) each."""
        u, odds = r.uniform(0, 1), self.odds
        empty = odds.absent + odds.brain
        return (u < odds.brain).float(), (u >= empty).float(), (u >= empty + odds.cauda).float()

    # --- tissue -----------------------------------------------------------------------------------------------------------
    def _cord_and_fluid(self, r: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Grey value of white matter and of CSF, and their signed difference."""
        white, step = r.uniform(0.12, 1), r.uniform(0.1, 0.9) * r.sign()
        fluid = white + step
        bad = (fluid < 0) | (fluid > 1.6)
        fluid = self.torch.where(bad, white - step * 0.8, fluid).clamp(0, 1.6)
        if self.odds.quiet:
            less = 1 - r.yes(self.odds.quiet) * r.uniform(0.55, 0.9)
            white = white * less.sqrt()
            fluid, step = white + (fluid - white / less.sqrt()) * less, step * less
        return white, fluid.clamp(min=0), step

    def _background(self, r: Draw, x: Tensor, y: Tensor, in_brain: Tensor) -> Tensor:
        """Random regions and ellipses, (n, 3, 1, y, x); where it is to be, a brain in its skull."""
        torch, frame = self.torch, self.frame
        size, h = frame.size, frame.spacing
        drift = r.scalar(0.05, 0.6)
        levels = 4
        index = torch.zeros((), device=self.device)
        fields = []
        for cell in (r.scalar(6, 40), r.scalar(4, 20)):
            f = r.field(size, size * h / cell, drift=drift) + 0.5 * r.field(size, 2 * size * h / cell, drift=drift)
            f = torch.where(r.yes(0.5) > 0, (f + f.flip(-1)) * 0.7, f)
            fields.append(f)
            index = index * levels + ((f + 2) * levels / 4).floor().clamp(0, levels - 1)
        palette = r.uniform(0, 1, levels**2) * (1 - 0.65 * r.yes(0.3).view(-1, 1))
        image = palette.gather(1, index.long().reshape(r.n, -1)).view(index.shape)
        image = image + r.field(size, size * h / 2) * r.uniform(0, 1) ** 2 * 0.15
        for k in range(6):
            on, cx, cy = r.yes(0.5), r.uniform(-0.5, 0.5) * size * h, r.uniform(-0.5, 0.5) * size * h
            radius, oval = r.uniform(0, 1) ** 2 * 9 + 1.2, r.uniform(0.6, 1.6)
            d = radius - ((x - cx) ** 2 * oval + (y - cy) ** 2 / oval).sqrt()
            image = _over(image, _fraction(d, h) * on, r.uniform(0, 1.1))
            if k < 2:
                image = _over(image, _fraction(d - 0.4 * radius, h) * on * r.yes(0.6), r.uniform(0, 1))
        if self.odds.brain:
            image = torch.where(in_brain > 0, self._brain(r, fields[1], x, y), image)
        return image

    def _brain(self, r: Draw, folds: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Fluid in the folds, white matter within, ventricles, a dark skull and scalp around."""
        cx, cy, radius = r.normal() * 15, r.normal() * 15, r.uniform(35, 80)
        d = radius - ((x - cx) ** 2 + (y - cy) ** 2 / 1.4).sqrt()
        fluid, h = r.uniform(0, 1.2), self.frame.spacing
        image = _over(r.uniform(0, 1) + 0 * folds, _fraction(folds.abs() - 0.5, 0.3), r.uniform(0, 1))
        image = _over(image, _fraction(0.15 - folds.abs(), 0.3), fluid)
        ventricle = 6 - (((x - cx).abs() - 6) ** 2 * 2 + (y - cy) ** 2 / 4).sqrt()
        image = _over(image, _fraction(ventricle, h), fluid)
        image = _over(image, 1 - _fraction(d, h), r.uniform(0, 0.1))
        return _over(image, 1 - _fraction(d + 7, h), r.uniform(0, 0.9))

    def _spine(self, r: Draw, image: Tensor, x: Tensor, y: Tensor, slices: Tensor, room: Tensor, lean: Tensor, in_brain: Tensor) -> Tensor:
        """Bone and discs over the background, from the middle of each slice."""
        torch, a, bone = self.torch, self.anatomy, self.bone
        assert bone is not None
        middle = slices.shape[2] // 2
        x, y, z = (q[:, :, middle : middle + 1] for q in (x, y, slices))
        tilt = (r.normal() * math.radians(8) - lean).clamp(-0.9, 0.9).tan()
        bx, by = x / room, y / room
        bz = z * (a.spacing / a.bone_spacing) + tilt * by / a.bone_spacing
        depth, height, width = bone.shape[2:]
        position = (
            ((bx / a.bone_spacing + a.bone_centre[0]) * 2 + 1) / width - 1,
            ((by / a.bone_spacing + a.bone_centre[1]) * 2 + 1) / height - 1,
            (bz * 2 + 1) / depth - 1,
        )
        n, k, _, size, _ = bx.shape
        grid = torch.stack(position, -1).view(1, n * k, size, size, 3)
        out = torch.nn.functional.grid_sample(bone, grid, align_corners=False)[0].view(2, n, k, 1, size, size)
        out = ((out - 0.5) * 2 + 0.5).clamp(0, 1)
        marrow = r.uniform(0, 1) + r.field(size, size * self.frame.spacing / 3) * r.uniform(0, 1) ** 2 * 0.12
        out = out * (1 - in_brain)
        image = _over(image, out[0] * r.yes(self.odds.bone), marrow)
        return _over(image, out[1] * r.yes(self.odds.disc), r.uniform(0, 1))

    # --- acquisition ------------------------------------------------------------------------------------------------------
    def _scanned(self, r: Draw, image: Tensor, scan: _Scan, centre: Tensor) -> Tensor:
        """Scan slices (n, 3, y, x): point spread, noise, artefacts, field of view."""
        torch, size, odds = self.torch, self.frame.size, self.odds

        def one(v: Tensor) -> Tensor:
            return v.view(r.n, 1, 1, 1)

        image = image * (r.field(size, 4, drift=0.1)[:, :, 0] * (0.5 * one(r.uniform(0, 1)) + 0.8 * one(r.uniform(0, 1)) ** 4)).exp()
        strength, at = one(r.yes(odds.ghost) * r.uniform(0.05, 0.2)), int(r.scalar(size / 4, 3 * size / 4))
        image = image + strength * torch.roll(image, at, 2 if r.scalar(0, 1) < 0.5 else 3)
        down_y, up_y = self._resampling(r, scan.side_y)
        down_x, up_x = self._resampling(r, scan.side_x)
        image = down_y @ image @ down_x.mT
        sigma = one(r.uniform(0, 1) ** 2 * 0.11)
        noise = torch.randn((2, *image.shape), generator=r.generator, device=self.device)
        rough = image + noise[0] * sigma
        rician = (rough**2 + (noise[1] * sigma) ** 2).sqrt()
        image = torch.where(one(r.yes(0.5)) > 0, rician, rough)
        image = (up_y @ image @ up_x.mT).clamp(min=0)
        top = image.amax((1, 2, 3), keepdim=True) + 1e-6
        power = torch.where(one(r.yes(0.6)) > 0, (one(r.normal()) * 0.3).exp(), torch.ones_like(top))
        image = (image / top) ** power
        image = image * self._field_of_view(r, centre)
        u = r.uniform(0, 1).view(-1)
        order = torch.tensor([[0, 1, 2], [1, 1, 2], [0, 1, 1], [1, 1, 1]], device=self.device)
        pick = order[(u < odds.edge).long() * (1 + (u * 3 / max(odds.edge, 1e-6)).long().clamp(0, 2))]
        return image.gather(1, pick[:, :, None, None].expand_as(image))

    def _resampling(self, r: Draw, side: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices (n, 1, voxel, pixel) onto the scanner's voxels and (n, 1, pixel, voxel) back; a voxel is never finer than a pixel."""
        torch, size, h = self.torch, self.frame.size, self.frame.spacing
        step = side.view(-1, 1, 1, 1).clamp(min=h)
        pixel = (torch.arange(size, device=self.device) - (size - 1) / 2) * h
        voxel = ((torch.arange(size, device=self.device) - (size - 1) / 2)[:, None] + r.uniform(-0.5, 0.5, 1, 1, 1)) * step
        t = (pixel - voxel) / step  # (n, 1, voxel, pixel), in voxels
        wide = r.uniform(0.35, 0.62, 1, 1, 1)
        blurred = (-0.5 * (t / (wide.clamp(min=0.3 * h) * (side.view(-1, 1, 1, 1) / step).clamp(min=0.5))) ** 2).exp()
        ringing = torch.sinc(t) * torch.sinc(t / 4) * (t.abs() < 4)
        down = torch.where(r.yes(0.3)[:, 0] > 0, ringing, blurred)
        inside = (voxel.abs() <= (size / 2) * h + step).float()
        down = inside * down / down.sum(-1, keepdim=True).abs().clamp(min=1e-3)
        t = t.mT.abs()
        linear = (1 - t).clamp(min=0)
        cubic = torch.where(t < 1, 1 - 2.5 * t**2 + 1.5 * t**3, torch.where(t < 2, 2 - 4 * t + 2.5 * t**2 - 0.5 * t**3, torch.zeros_like(t)))
        up = torch.where(r.yes(0.5)[:, 0] > 0, cubic, linear)
        return down, up / up.sum(-1, keepdim=True).abs().clamp(min=1e-3)

    def _field_of_view(self, r: Draw, centre: Tensor) -> Tensor:
        """1 inside a window around the cord, 0 outside, (n, 1, y, x)."""
        torch, size, h = self.torch, self.frame.size, self.frame.spacing
        at = torch.arange(size, device=self.device)
        keep = torch.ones((r.n, 1, size, size), device=self.device)
        on = r.yes(self.odds.cropped).view(-1, 1, 1, 1)
        for axis in (0, 1):
            cord = (size - 1) / 2 + centre[:, axis, 0] / h
            smallest = min(size - 2.0, 26 / h)
            half = (smallest + (size - smallest) * r.uniform(0, 1, 1, 1, 1)) / 2
            middle = cord + r.uniform(-3, 3, 1, 1, 1) / h
            window = ((at - middle).abs() <= half).float()
            keep = keep * (window if axis == 0 else window.mT)
        seen: Tensor = 1 - on * (1 - keep)
        return seen


class _Scan(NamedTuple):
    """Voxel sides in the plane, distance between slices, slice thickness (mm, (n, 1, 1, 1, 1)); shifts between slices; parts of a slice;
    spread of the tilt, degrees.
    """

    side_x: Tensor
    side_y: Tensor
    gap: Tensor
    thickness: Tensor
    moving: Tensor
    parts: int
    tilt: float


def heat_map(label: Tensor, spacing: float, *, sigma: float = 2.5) -> Tensor:
    """Gaussian (n, 1, y, x) of standard deviation `sigma` mm around the centre of each label; zero where there is hardly a cord.

    Examples
    --------
    >>> import torch
    >>> label = torch.zeros(1, 1, 9, 9)
    >>> label[:, :, 3:6, 2:5] = 1
    >>> heat_map(label, 1.0).flatten().argmax().item() == 4 * 9 + 3
    True
    """
    import torch

    size = label.shape[-1]
    axis = torch.arange(size, device=label.device, dtype=label.dtype)
    mass = label.sum((1, 2, 3), keepdim=True)
    cy = (label.sum(3, keepdim=True) * axis[:, None]).sum((2, 3), keepdim=True) / mass.clamp(min=1e-3)
    cx = (label.sum(2, keepdim=True) * axis).sum((2, 3), keepdim=True) / mass.clamp(min=1e-3)
    square = ((axis[:, None] - cy) ** 2 + (axis - cx) ** 2) * spacing**2
    return (-square / (2 * sigma**2)).exp() * (mass * spacing**2 > CUT)


def _fraction(distance: Tensor, width: float) -> Tensor:
    """Part of a pixel inside a border at a signed distance (mm)."""
    return (distance / width + 0.5).clamp(0, 1)


def _over(image: Tensor, fraction: Tensor, value: Tensor) -> Tensor:
    """Lay `value` over the image where `fraction` says so."""
    return image + fraction * (value - image)
