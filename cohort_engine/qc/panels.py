"""Pictures of one subject, each registered with its title, its caption and what it needs. A panel that fails says why, and nothing else suffers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, optional
from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.native import dense_positions, image_levels
from cohort_engine.mapping.template_map import TemplateMap
from cohort_engine.pictures import cuts, paint
from cohort_engine.pictures.cuts import Window
from cohort_engine.pictures.paint import Colour, Rgb
from cohort_engine.qc.scene import Scene
from cohort_engine.single.mtr import bring_onto, on_one_grid

if TYPE_CHECKING:
    from PIL.Image import Image

MASK: Colour = (255, 176, 0)
CORD: Colour = (100, 143, 255)
GREY: Colour = (220, 38, 127)
LEVEL: Colour = (255, 230, 120)
DISC: Colour = (254, 97, 0)
LOST: Colour = (254, 97, 0)
"""Colours of outlines: apart for the colour-blind, on black and on white."""
MOST = 24
"""Slices of a mosaic."""
ACROSS = 6
FLUID = "CSF"
"""Cluster of the atlas that is no tissue."""
BETWEEN: Colour = (24, 26, 30)
QUALITY = 72
"""Of WebP."""
AXIAL, SAGITTAL, TINY = Window(), Window(30.0, 0.5), Window(9.0, 0.125)


@dataclass(frozen=True)
class Panel:
    """A kind of picture.

    Attributes
    ----------
    key : str
    title, caption : str
    draw : callable of `Scene` to an iterable of (name, title, picture)
        Nothing where it does not apply to the subject: no such contrast or metric.
    """

    key: str
    title: str
    caption: str
    draw: Callable[[Scene], Iterator[tuple[str, str, Rgb]]]


@dataclass(frozen=True)
class Picture:
    """A picture that was written: its name in the folder of pictures is ``<row>-<panel>_<name>.webp``."""

    panel: str
    name: str
    title: str
    width: int
    height: int


def picture_file(row: int, picture: Picture) -> str:
    """Name of a picture's file.

    Examples
    --------
    >>> picture_file(17, Picture("mask", "mt", "MT-on image", 1, 1))
    '000017-mask_mt.webp'
    """
    return f"{row:06d}-{picture.panel}_{picture.name}.webp"


# --- letters ----------------------------------------------------------------------------------------------------------
def _image(picture: Rgb) -> Image:
    with optional("PIL", "figures", where="pictures"):
        from PIL import Image
    return Image.fromarray(np.ascontiguousarray(picture))


def written(picture: Rgb, words: Sequence[tuple[float, float, str, Colour]], size: int = 12) -> Rgb:
    """Write words (column, row, text, colour) on a picture, with a dark rim so that they can be read on everything."""
    from PIL import ImageDraw, ImageFont

    image = _image(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for x, y, text, colour in words:
        draw.text((x, y), text, fill=colour, font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def encoded(picture: Rgb) -> bytes:
    """Picture as WebP."""
    out = io.BytesIO()
    _image(picture).save(out, "WEBP", quality=QUALITY, method=4, use_sharp_yuv=True)
    return out.getvalue()


def _tiles(pictures: Sequence[Rgb], names: Sequence[str], sides: bool = True) -> Rgb:
    """Mosaic of tiles with their names, and R at the side of the first."""
    height = pictures[0].shape[0]
    words = [written(p, [(3, 1, n, (255, 255, 255)), *([(2, height / 2 - 7, "R", LEVEL)] if sides and i == 0 else [])])
             for i, (p, n) in enumerate(zip(pictures, names, strict=True))]  # fmt: skip
    return paint.mosaic(words, ACROSS, colour=BETWEEN)


# --- what several need ------------------------------------------------------------------------------------------------
def _contrasts(scene: Scene) -> list[schema.Contrast]:
    """Contrasts of which image and mask are at hand; those that are mapped although their image is not are answered by an error."""
    found = [c for c in schema.CONTRASTS.values() if scene.has(c.image, c.mask)]
    if not found and scene.mapped:
        scene.image(schema.CONTRASTS[scene.mapped[0]].image)  # says what is lacking
    return found


def _held(mask: NDArray[Any]) -> NDArray[np.int64]:
    slices = np.flatnonzero((np.nan_to_num(mask) >= 0.5).any(axis=(0, 1)))
    if not len(slices):
        raise InputError(expected="a cord mask", found="an empty one", where="picture", remedy="Segment the image again.")
    return slices


def _named(slices: NDArray[np.int64], levels: NDArray[np.int64] | None) -> list[str]:
    """``9 C5``: slice, counted from 0 at the bottom, and level."""
    return [f"{k} {schema.LEVEL_NAMES[levels[k] - 1]}" if levels is not None and levels[k] else f"{k}" for k in slices]


def _levels(scene: Scene, contrast: schema.Contrast) -> NDArray[np.int64] | None:
    """Level of each slice of a contrast's image, by its own template map or any other, through scanner coordinates."""
    for name in dict.fromkeys((contrast.name, *scene.mapped)):
        positions = scene.positions(name)
        if positions is not None:
            image = scene.image(contrast.image)
            return image_levels(positions, scene.template, image.affine, image.data.shape)[0]
    return None


# --- panels -----------------------------------------------------------------------------------------------------------
def draw_masks(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """Cord mask over the slices of each contrast."""
    for c in _contrasts(scene):
        image, mask = scene.image(c.image), scene.mask(c.mask, c.image)
        held = _held(mask.data)
        around = np.arange(max(0, held[0] - 1), min(image.data.shape[2], held[-1] + 2))
        slices, middles, spacing = cuts.spread(around, MOST), cuts.cord_middles(mask.data), image.grid.spacing
        tiles = cuts.axial(image.data, spacing, middles, slices)
        insides = cuts.axial(mask.data, spacing, middles, slices)
        span = [paint.grey_range(t) for t in tiles]
        pictures = [paint.outline(paint.greys(t, *s), m, MASK) for t, m, s in zip(tiles, insides, span, strict=True)]
        yield c.name, schema.words(c.image), _tiles(pictures, _named(slices, _levels(scene, c)))


def draw_levels(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """Sagittal cut along the cord with its mask, the discs and the levels of the template map."""
    for c in _contrasts(scene):
        image, mask = scene.image(c.image), scene.mask(c.mask, c.image)
        spacing, depth = image.grid.spacing, image.data.shape[2]
        _held(mask.data)
        middles = cuts.cord_middles(mask.data)
        cut = cuts.sagittal(image.data, spacing, middles, SAGITTAL, thick=1.0)
        inside = cuts.sagittal(np.nan_to_num(mask.data), spacing, middles, SAGITTAL)
        picture = paint.outline(paint.greys(cut, *paint.grey_range(cut, 2, 99.5)), inside, MASK)
        words: list[tuple[float, float, str, Colour]] = []
        levels = _levels(scene, c)
        if levels is not None:
            for a in np.flatnonzero(np.diff(levels, prepend=0)):
                row = int(cuts.row_of(a - 0.5, depth, spacing, SAGITTAL).clip(0, len(picture) - 1))
                picture[row, ::2] = LEVEL
                here = np.flatnonzero(levels == levels[a])
                if levels[a]:
                    at = float(cuts.row_of(here.mean(), depth, spacing, SAGITTAL))
                    words.append((picture.shape[1] - 24, at - 7, schema.LEVEL_NAMES[levels[a] - 1], LEVEL))
        if scene.has(c.landmarks):
            labels = scene.mask(c.landmarks, c.image).data
            for number in np.unique(labels[labels > 0]).astype(int):
                row = int(cuts.row_of(np.argwhere(labels == number)[:, 2].mean(), depth, spacing, SAGITTAL).clip(0, len(picture) - 1))
                picture[max(0, row - 1) : row + 1, :18] = DISC
                words.append((20, row - 7, str(number), DISC))
        yield c.name, schema.words(c.image), written(picture, words)


def draw_pair(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """MT-on, MT-off as it was, and MT-off brought onto MT-on, each with the mask of MT-on."""
    c = schema.CONTRASTS[schema.MT]
    if not scene.has(c.image, schema.MT_OFF, c.mask):
        return
    on, mask = scene.image(c.image), scene.mask(c.mask, c.image)
    off, cord = on_one_grid(on, {schema.MT_OFF: scene.image(schema.MT_OFF), c.mask: mask})
    moved, _ = bring_onto(on, off, cord, "slicewise")
    slices = cuts.spread(_held(cord.data), 8)
    middles, spacing = cuts.cord_middles(cord.data), on.grid.spacing
    inside = cuts.axial(cord.data, spacing, middles, slices)
    rows = []
    for name, data in (("MT-on", on.data), ("before", off.data), ("after", moved)):
        tiles = cuts.axial(data, spacing, middles, slices)
        drawn = [paint.outline(paint.greys(t, *paint.grey_range(t)), m, MASK) for t, m in zip(tiles, inside, strict=True)]
        labels = [f"{name} {k}" if i == 0 else f"{k}" for i, k in enumerate(slices)]
        rows += [written(t, [(3, 1, label, (255, 255, 255))]) for t, label in zip(drawn, labels, strict=True)]
    yield c.name, "MT-on and MT-off", paint.mosaic(rows, len(slices), colour=BETWEEN)


def draw_registration(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """Cord and grey matter of the template on each image that has a template map."""
    for c in (schema.CONTRASTS[name] for name in scene.mapped):
        image, positions = scene.image(c.image), scene.positions(c.name)
        assert positions is not None
        fitted = TemplateMap(dense_positions(positions, scene.template), {})
        fractions = tissue_fractions(fitted, scene.template, image.affine, image.data.shape)
        cord = fractions[..., 0] + fractions[..., 1]
        slices, middles, spacing = cuts.spread(_held(cord), MOST), cuts.cord_middles(cord), image.grid.spacing
        tiles = cuts.axial(image.data, spacing, middles, slices, TINY)
        outer, grey = (cuts.axial(f, spacing, middles, slices, TINY) for f in (cord, fractions[..., 1]))
        pictures = [
            paint.outline(paint.outline(paint.greys(t, *paint.grey_range(t)), g, GREY), o, CORD) for t, o, g in zip(tiles, outer, grey, strict=True)
        ]
        yield c.name, schema.words(c.image), _tiles(pictures, _named(slices, _levels(scene, c)))


def draw_maps(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """Each metric in the template, in the middle of each level, with the borders of the atlas."""
    for path in (path for path, spec in scene.specs.items() if schema.is_metric(spec)):
        values = scene.array(path)
        if values is None:
            continue
        template, packing = scene.template, scene.template.packing
        label = np.asarray(template.atlas.weights.argmax(axis=0)).ravel() + 1
        tissue = ~np.isin(label - 1, template.atlas.clusters.get(FLUID, ()))
        low, high = paint.grey_range(values[tissue], 2, 98)
        pictures, names = [], []
        for level in template.levels:
            part = packing.level_slice(schema.level_number(level))
            k = packing.ijk[part, 2]
            here = np.flatnonzero(k == np.median(np.unique(k)).astype(int)) + part.start
            i, j = (packing.ijk[here, a].astype(int) for a in (0, 1))
            if not np.isfinite(values[here]).any():
                continue
            shape = (np.ptp(packing.ijk[:, 0]) + 3, np.ptp(packing.ijk[:, 1]) + 3)
            at = (i - packing.ijk[:, 0].min() + 1, j - packing.ijk[:, 1].min() + 1)
            plane, names_of = np.full(shape, np.nan), np.zeros(shape, int)
            plane[at], names_of[at] = values[here], label[here]
            grow = max(1, round(132 / max(shape)))
            plane, names_of = (_grown(np.flip(p, (0, 1)).T, grow) for p in (plane, names_of))
            drawn = paint.colours(plane, low, high, empty=BETWEEN)
            drawn[paint.borders(names_of)] = (20, 20, 20)
            pictures.append(drawn)
            names.append(level)
        if pictures:
            spec = scene.specs[path]
            units = "%" if spec.units == "percent" else spec.units if spec.units != "1" else ""
            title = f"{spec.long_name}, {low:.3g} (dark) to {high:.3g} {units}".strip()
            yield path.partition("/")[2], title, _tiles(pictures, names)


def _grown(plane: NDArray[Any], by: int) -> NDArray[Any]:
    """Make each pixel (row, column) a square of so many."""
    return np.repeat(np.repeat(plane, by, axis=0), by, axis=1)


def draw_motion(scene: Scene) -> Iterator[tuple[str, str, Rgb]]:
    """Displacement that was corrected in each slice of each volume of a diffusion series, and which slices were lost."""
    specs = schema.MOTION_SPECS
    shift, flags = (scene.array(specs[key].path) for key in (schema.MOTION_SHIFT, schema.MOTION_FLAG))
    if shift is None or flags is None:
        return
    there = flags >= 0
    volumes, slices = there.any(axis=1), there.any(axis=0)
    if not volumes.any():
        return
    size = np.hypot(shift[..., 0], shift[..., 1])[volumes][:, slices].T[::-1]
    own = flags[volumes][:, slices].T[::-1].astype(int)
    high = max(1.0, float(np.nanmax(size))) if np.isfinite(size).any() else 1.0
    picture = paint.colours(size, 0.0, high, empty=paint.HOLE)
    picture[(own >= 0) & ((own & schema.LOST) > 0)] = LOST
    grow = max(2, min(10, 900 // max(size.shape)))
    yield schema.DWI, f"displacement of each slice (row) in each volume (column), 0 (dark) to {high:.2g} mm", _grown(picture, grow)


PANELS: Mapping[str, Panel] = {
    p.key: p
    for p in (
        Panel("mask", "Cord mask", "Outline: the mask. Numbers: slice, from 0 at the bottom, and level. R: the right of the body.", draw_masks),
        Panel(
            "levels", "Levels",
            "Cut along the cord. Left: discs that were given or found. Right: levels where the template map has them. Outline: the mask.",
            draw_levels,
        ),
        Panel(
            "pair", "Registration of the MT images",
            "MT-on, MT-off as it was scanned, and MT-off after it was brought onto MT-on; the outline is the mask of MT-on.", draw_pair,
        ),
        Panel(
            "template", "Registration to the template", "Blue: cord of the template. Red: its grey matter. Numbers: slice and level.",
            draw_registration,
        ),
        Panel("motion", "Motion", "Diffusion: displacement that was corrected; orange: slices that were lost.", draw_motion),
        Panel("map", "Maps in the template", "The middle of each level, with the borders of the atlas; dark where there is no value.", draw_maps),
    )
}  # fmt: skip
"""Panels in the order in which a page shows them."""
