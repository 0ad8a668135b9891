"""Outlines drawn in ImageJ or Fiji: a ``.roi`` file or a ROI manager's ``.zip`` of them, as masks.

Of a ``.roi`` file this reads areas: rectangle, oval, polygon, freehand and traced outline. Big-endian; header of 64 bytes: ``Iout``, version, type,
bounds (top, left, bottom, right), number of corners, options, position in the stack and where a second header stands, which holds channel, slice,
frame and name. Corners follow as 16-bit numbers from the bounds' corner; drawn at sub-pixels, as float32 of the image behind them.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, first_line, unknown_name, warn

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MAGIC: Final = b"Iout"
HEADER: Final = 64
ENDING: Final = ".roi"
LARGEST: Final = 1 << 20
"""Bytes of one outline: 87,000 corners at sub-pixels."""
MOST: Final = 10_000
"""Outlines of a zip."""
SUBPIXEL: Final = 128
"""Bit of the options: corners or bounds are kept as float32."""
SUBPIXEL_CORNERS, SUBPIXEL_BOUNDS = 222, 223
"""Versions from which that is so."""
LOWEST: Final = -5000
"""16-bit numbers below this are coordinates above 32,767."""
RECTANGLE, OVAL = 1, 2
OUTLINES: Final = (0, 7, 8)
"""Polygon, freehand and traced."""
KINDS: Final[Mapping[int, str]] = {
    3: "a line", 4: "a freehand line", 5: "a segmented line", 6: "no outline", 9: "an angle", 10: "points",
}  # fmt: skip
VIEWS: Final[Mapping[str, tuple[bool, bool]]] = {"radiological": (True, True), "neurological": (False, True), "stored": (False, False)}
"""How the image was seen when it was drawn on -> whether columns run to the left and rows to the back; ``stored``: as RAS+ arrays run."""

_SIDES: Final = {"l": schema.SIDES[0], "left": schema.SIDES[0], "r": schema.SIDES[1], "right": schema.SIDES[1]}
_PARTS: Final = {
    r"d|dc|dorsal|dorsalcolumns?|posterior|posteriorcolumns?": schema.PARTS[0],
    r"l|lc|lateral|lateralcolumns?": schema.PARTS[1],
    r"v|vc|ventral|ventralcolumns?|anterior|anteriorcolumns?": schema.PARTS[2],
    r"g|gm|grey|gray|greymatter|graymatter": schema.PARTS[3],
}


@dataclass(frozen=True, eq=False)
class Outline:
    """An area in the pixels of an image as ImageJ counts them: (0, 0) is the upper left corner of the upper left pixel.

    Attributes
    ----------
    name : str
    position : int or None
        Number of the slice in the stack, from 1; None where the outline belongs to none.
    bounds : (4,) left, top, right, bottom, pixels
    corners : (corner, 2) column and row, or None of a rectangle or oval
    oval : bool
    """

    name: str
    position: int | None
    bounds: FloatArray
    corners: FloatArray | None
    oval: bool = False

    def fill(self, shape: tuple[int, int]) -> BoolArray:
        """Pixels (column, row) whose middle lies inside.

        Examples
        --------
        >>> Outline("", None, np.array([1.0, 0.0, 3.0, 2.0]), None).fill((4, 3)).astype(int).tolist()
        [[0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
        """
        column, row = (np.arange(n, dtype=np.float64) + 0.5 for n in shape)
        left, top, right, bottom = self.bounds
        if self.corners is not None:
            return _inside(self.corners, column, row)
        if self.oval:
            middle, radius = (self.bounds[:2] + self.bounds[2:]) / 2, np.maximum((self.bounds[2:] - self.bounds[:2]) / 2, 1e-9)
            return np.asarray(((column[:, None] - middle[0]) / radius[0]) ** 2 + ((row - middle[1]) / radius[1]) ** 2 <= 1)
        return np.asarray(((column > left) & (column < right))[:, None] & (row > top) & (row < bottom))


def _inside(corners: FloatArray, column: FloatArray, row: FloatArray) -> BoolArray:
    """Even-odd rule: a pixel is inside where a ray to the left meets the outline an odd number of times."""
    crossings = np.zeros((len(column), len(row)), dtype=np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        meets = (row >= min(y0, y1)) & (row < max(y0, y1))
        at = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
        crossings += meets & (at < column[:, None])
    return np.asarray(crossings % 2 == 1)


def decode_outline(raw: bytes, *, name: str = "", where: str = "ImageJ outline") -> Outline:
    """Read a ``.roi`` file.

    Parameters
    ----------
    raw : bytes
    name : str
        Where the file itself has none.
    where : str
        Role of the file, for messages.

    Returns
    -------
    Outline

    Raises
    ------
    InputError
        Not such a file, cut short, or no simple area: a line, points, or several outlines in one.
    """
    if len(raw) < HEADER or raw[:4] != MAGIC:
        raise InputError(expected="an outline of ImageJ (.roi)", found=f"{len(raw)} bytes that are none", where=where,
                         remedy="Save the outlines in the ROI manager: More, Save.")  # fmt: skip
    version, kind = struct.unpack(">hB", raw[4:7])
    edges = np.frombuffer(raw, ">i2", 4, 8).astype(np.float64)
    edges = np.where(edges < LOWEST, edges + 65536, edges)
    bounds = edges[[1, 0, 3, 2]]
    (count,) = struct.unpack(">H", raw[16:18])
    size, options, position, second = (
        struct.unpack(code, raw[at : at + n])[0] for code, at, n in ((">i", 36, 4), (">h", 50, 2), (">i", 56, 4), (">i", 60, 4))
    )
    if size > 0 or kind not in (RECTANGLE, OVAL, *OUTLINES):
        raise InputError(
            expected="a rectangle, oval, polygon, freehand or traced outline", where=where, remedy="Split or redraw it in ImageJ as a single area.",
            found="several outlines in one" if size > 0 else KINDS.get(kind, f"a type {kind} that is not known"),
        )  # fmt: skip
    fine = bool(options & SUBPIXEL)
    corners = None
    try:
        if kind in OUTLINES:
            pairs = np.frombuffer(raw, ">i2", 2 * count, HEADER).astype(np.float64).reshape(2, count)
            corners = np.where(pairs < LOWEST, pairs + 65536, pairs).T + bounds[:2]
            if fine and version >= SUBPIXEL_CORNERS:
                corners = np.frombuffer(raw, ">f4", 2 * count, HEADER + 4 * count).astype(np.float64).reshape(2, count).T
        elif fine and version >= SUBPIXEL_BOUNDS:
            x, y, wide, high = np.frombuffer(raw, ">f4", 4, 18).astype(np.float64)
            bounds = np.array([x, y, x + wide, y + high])
        told, named = _second_header(raw, second)
    except (ValueError, struct.error) as error:
        raise InputError(expected="a whole outline", found=f"one that ends early or is damaged ({first_line(error)})", where=where,
                         remedy="Save the outlines again.") from error  # fmt: skip
    if corners is not None and (count < 3 or not np.isfinite(corners).all()):
        raise InputError(expected="three corners or more, all numbers", found=f"{count} corners", where=where, remedy="Redraw the outline.")
    return Outline(named or name, position if position > 0 else told, bounds, corners, kind == OVAL)


def _second_header(raw: bytes, at: int) -> tuple[int | None, str]:
    """Slice and name; the second header is absent from old files."""
    if at <= 0:
        return None, ""
    z, _, start, length = struct.unpack(">4i", raw[at + 8 : at + 24])
    if start <= 0 or length <= 0:
        return (z if z > 0 else None), ""
    if start + 2 * length > len(raw):
        raise ValueError("its name is cut")
    name = raw[start : start + 2 * length].decode("utf-16-be", errors="replace")
    return (z if z > 0 else None), name


def decode_outlines(raw: bytes, *, where: str = "ImageJ outlines") -> list[Outline]:
    """Read a ``.roi`` file, or a ``.zip`` of them as the ROI manager saves it; what it holds is found by content.

    Raises
    ------
    InputError
        As `decode_outline`; no zip, damaged, protected, or larger than outlines are.

    Warns
    -----
    CohortWarning
        Other files in the zip, which are passed over.
    """
    if raw.startswith(MAGIC):
        return [decode_outline(raw, where=where)]
    found = []
    try:
        with zipfile.ZipFile(BytesIO(raw)) as file:
            entries = [e for e in file.infolist() if not e.is_dir()]
            wanted = [e for e in entries if e.filename.lower().endswith(ENDING) and not e.filename.startswith("__MACOSX/")]
            if len(wanted) > MOST or any(e.file_size > LARGEST for e in wanted):
                raise InputError(
                    expected=f"at most {MOST} outlines of at most {LARGEST} bytes", found=f"{len(wanted)}, the largest of "
                    f"{max(e.file_size for e in wanted)} bytes", where=where, remedy="Save only the outlines in the zip.",
                )  # fmt: skip
            if others := len(entries) - len(wanted):
                warn(f"{others} files in the zip are no outlines and are passed over", where=where)
            for entry in wanted:
                with file.open(entry) as stream:
                    content = stream.read(LARGEST + 1)  # what the directory says need not be so
                if len(content) > LARGEST:
                    raise InputError(
                        expected=f"outlines of at most {LARGEST} bytes", found="more", where=where, remedy="The zip is damaged: save again."
                    )
                found.append(decode_outline(content, name=entry.filename.rsplit("/", 1)[-1][: -len(ENDING)], where=where))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, struct.error) as error:
        raise InputError(expected="a zip of ImageJ outlines", found=first_line(error), where=where,
                         remedy="Save the outlines in the ROI manager: More, Save.") from error  # fmt: skip
    if not found:
        raise InputError(expected="outlines (.roi) in the zip", found="none", where=where, remedy="Save the outlines in the ROI manager: More, Save.")
    return found


def region_of(name: str) -> int | None:
    """Position in `schema.ROIS` of a region as people write it; None where the name says none.

    Examples
    --------
    >>> [region_of(name) for name in ("L-DC", "ROI right grey matter", "R_LC_2", "left ventral", "0005-0123")]
    [0, 7, 5, 2, None]
    """
    words = re.findall(r"[a-z]+", name.lower().removeprefix("roi"))
    if len(words) == 1 and (run := re.fullmatch(r"([lr])(dc|lc|vc|gm)", words[0])):
        words = list(run.groups())
    if not words or (side := _SIDES.get(words[0])) is None:
        return None
    part = next((part for spelt, part in _PARTS.items() if re.fullmatch(spelt, "".join(words[1:]))), None)
    return None if part is None else schema.ROIS.index(f"{side} {part}")


def outline_masks(outlines: list[Outline], shape: tuple[int, int, int], *, view: str = "radiological", where: str = "ImageJ outlines") -> BoolArray:
    """Masks of the eight regions on an image; several outlines of one region and slice are joined.

    Parameters
    ----------
    outlines : list of Outline
        Named as `region_of` reads them, each with its slice unless there is only one.
    shape : (x, y, z)
        Of the image in RAS+ order; slice 1 is the lowest.
    view : {"radiological", "neurological", "stored"}
        How it was seen: with the patient's right on the left of the screen and the front up, as DICOM viewers show it; the same with right on the
        right; or with columns and rows as x and y of the RAS+ array.

    Returns
    -------
    (roi, x, y, z) bool

    Raises
    ------
    InputError
        A name that says no region, no slice or one that the image lacks, or an outline that leaves the image.
    UnknownNameError
        No such view.
    """
    if view not in VIEWS:
        raise unknown_name("view", view, list(VIEWS), where=where)
    out = np.zeros((len(schema.ROIS), *shape), dtype=bool)
    nx, ny, nz = shape
    for i, outline in enumerate(outlines, 1):
        roi = region_of(outline.name)
        if roi is None:
            raise InputError(
                expected=f"names of regions, such as L-DC or {schema.ROIS[-1]}", where=where, remedy="Rename the outlines in the ROI manager.",
                found=f"outline {i} of {len(outlines)}, whose name says none",
            )  # fmt: skip
        z = 1 if outline.position is None and nz == 1 else outline.position
        if z is None or z > nz:
            raise InputError(expected=f"a slice from 1 to {nz} for each outline", found=f"{z or 'none'} for {schema.ROIS[roi]}", where=where,
                             remedy="Draw on the stack itself, so that ImageJ keeps the slice.")  # fmt: skip
        points = outline.bounds.reshape(2, 2) if outline.corners is None else outline.corners
        if points.min() < 0 or (points.max(axis=0) > (nx, ny)).any():
            raise InputError(
                expected=f"outlines within {nx} x {ny} pixels", found=f"{schema.ROIS[roi]} from {points.min(axis=0).tolist()} to "
                f"{points.max(axis=0).tolist()}", where=where, remedy="Give the image that was drawn on, at its own size.",
            )  # fmt: skip
        mask = outline.fill((nx, ny))
        to_left, to_back = VIEWS[view]
        out[roi, :, :, z - 1] |= mask[:: -1 if to_left else 1, :: -1 if to_back else 1]
    return out
