"""b-values and directions of a diffusion series: from two texts to directions in the scanner.

The texts are those of FSL, which dcm2niix and every scanner's converter write: a row of b-values, and three rows of components, one column a volume.
Columns in place of rows are taken too, with blanks, tabs, commas or semicolons between numbers, and what follows a ``#`` is not read.

Components are along the axes of the image *as its file stores it*. By FSL's rule the first is turned round where those axes are right-handed
(determinant of the affine above zero). An image turned to RAS+ at reading remembers how it was stored (`Volume.stored`), so directions come out in
the scanner's frame whatever the order, direction and obliquity of the stored axes.

What cannot be understood is refused, and what would have to be guessed is not corrected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.io.volume import Volume, read_raw

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

B0_MAX = 50.0
"""A volume of at most this b (s/mm2) is not diffusion-weighted: scanners write 0, or 5, or what the imaging gradients add."""
LEAST_B, LARGEST_B = 50.0, 1e5
"""The highest b of a series lies between these (s/mm2); outside, it is in another unit."""
SHELL_WIDTH = 100.0
"""b-values (s/mm2) of one shell are nearer to one another than this."""
UNIT_WITHIN = 0.05
"""A direction whose length is this near to 1 is a unit vector that was rounded."""
SERIES = schema.words(schema.DWI)
_COMMENT = re.compile(r"#.*")
_BETWEEN = re.compile(r"[\s;]+")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_NUMBER = re.compile(r"[\s;,]+")
REMEDY = "Give the files that the converter wrote beside this series."


@dataclass(frozen=True, eq=False)
class Gradients:
    """Diffusion weighting of each volume of a series.

    Attributes
    ----------
    bvals : (t,) float64 array
        s/mm2.
    directions : (t, 3) float64 array
        Unit vectors in the scanner's frame, RAS+; zeros of a volume without diffusion weighting.

    Examples
    --------
    >>> Gradients(np.array([0.0, 795.0, 800.0, 2000.0]), np.zeros((4, 3))).shells
    ((797.5, 2), (2000.0, 1))
    """

    bvals: FloatArray
    directions: FloatArray

    @cached_property
    def b0(self) -> BoolArray:
        """Whether each volume (t,) is without diffusion weighting."""
        return self.bvals <= B0_MAX

    @cached_property
    def shells(self) -> tuple[tuple[float, int], ...]:
        """Mean b (s/mm2) and number of volumes of each shell, from low to high, without b0."""
        b = np.sort(self.bvals[~self.b0])
        parts = np.split(b, np.flatnonzero(np.diff(b) >= SHELL_WIDTH) + 1) if len(b) else []
        return tuple((round(float(part.mean()), 1), len(part)) for part in parts)

    def take(self, volumes: NDArray[np.bool_] | NDArray[np.intp]) -> Gradients:
        """Return those of some volumes, in their order."""
        return Gradients(self.bvals[volumes], self.directions[volumes])


def read_gradients(bval: str | Path, bvec: str | Path, series: Volume, *, what: str = SERIES) -> Gradients:
    """Read the two files of a series, at paths or URLs; parameters and errors as of `gradients_of`, and `StorageError`."""
    names = {f"b-values of the {what}": bval, f"directions of the {what}": bvec}
    first, second = (decode_text(read_raw(place, what=name), what=name) for name, place in names.items())
    return gradients_of(first, second, series, what=what)


def decode_text(raw: bytes, *, what: str) -> str:
    r"""Decode a text file, with or without a byte order mark.

    Raises
    ------
    InputError
        Not a text.

    Examples
    --------
    >>> decode_text("0 1000".encode("utf-16"), what="bval"), decode_text(b"\xef\xbb\xbf0 1000", what="bval")
    ('0 1000', '0 1000')
    """
    marked = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(expected="a text of numbers", found="a file that is no text", where=what, remedy=REMEDY) from error
    if "\0" in text:
        raise InputError(expected="a text of numbers", found="a file that is no text", where=what, remedy=REMEDY)
    return text


def gradients_of(bval: str, bvec: str, series: Volume, *, what: str = SERIES) -> Gradients:
    r"""Read b-values and directions of a series.

    Parameters
    ----------
    bval : str
        Text of t b-values in s/mm2, a row or a column.
    bvec : str
        Text of 3 rows of t components, or t rows of 3, along the axes of the stored image by FSL's rule.
    series : Volume
        The images they belong to: t volumes, and how their file stores them.
    what : str
        Words for the images in messages.

    Returns
    -------
    Gradients
        Directions are unit vectors in the scanner's frame; one that is up to 5 % too long or short was rounded, and is brought to length 1. The
        direction of a volume of b <= `B0_MAX` is zero, whatever the file has there.

    Raises
    ------
    InputError
        A text that is empty, holds what is no number, has commas for decimal points, is ragged or of another layout; files that have changed places;
        counts that differ from the number of volumes; b-values that are negative, all equal, without b0, or in another unit; a weighted volume
        without a direction, or with one that is no unit vector.

    References
    ----------
    FSL's rule: fsl.fmrib.ox.ac.uk, FDT user guide, "what conventions do the bvecs use?".

    Examples
    --------
    >>> from cohort_engine.io.volume import Volume
    >>> series = Volume(np.zeros((2, 2, 2, 3)), np.eye(4))  # right-handed: x of the file points to the left of its axis
    >>> found = gradients_of("0 800 800", "0 1 0\n0 0 1\n0 0 0", series)
    >>> found.directions.tolist()
    [[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    >>> gradients_of("0 800", "0 1 0\n0 0 1\n0 0 0", series)
    Traceback (most recent call last):
    cohort_engine.errors.InputError: b-values of the diffusion series: expected 3 b-values, one a volume, found 2. Give the files ...
    """
    first, second = f"b-values of the {what}", f"directions of the {what}"
    values, vectors = _table(bval, first), _table(bvec, second)
    volumes = series.data.shape[3] if series.data.ndim > 3 else 1
    if 1 not in values.shape and 3 in values.shape and 1 in vectors.shape:
        raise InputError(expected="one row of b-values", found="three of components", where=first, remedy="bval and bvec have changed places.")
    bvals = _bvals(values, volumes, first)
    stored = _directions(_components(vectors, volumes, second), bvals, second)
    affine = series.affine if series.stored is None else series.stored.affine
    return Gradients(bvals, stored @ scanner_axes(affine).T)


def scanner_axes(affine: FloatArray) -> FloatArray:
    """Matrix that brings components of FSL's texts, along the axes of the stored image, to the scanner's RAS+.

    Parameters
    ----------
    affine : (4, 4) array
        Index in the file to world, RAS+ mm.

    Returns
    -------
    (3, 3) array
        Orthogonal, its determinant -1: the axes of the stored image (of a sheared one the nearest that are at right angles), the first turned round
        where they are right-handed.

    Examples
    --------
    >>> scanner_axes(np.diag([-0.9, 0.9, 5.0, 1.0])).tolist()  # LAS, as most scans are stored
    [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    edges = np.asarray(affine, np.float64)[:3, :3]
    u, _, v = np.linalg.svd(edges / np.linalg.norm(edges, axis=0))
    axes: FloatArray = u @ v + 0.0
    if np.linalg.det(axes) > 0:
        axes[:, 0] *= -1
    return axes


def _table(text: str, where: str) -> FloatArray:
    """Numbers of a text by line (rows, columns)."""
    lines = [line for line in (_COMMENT.sub("", line).strip() for line in text.lstrip("\ufeff").splitlines()) if line.strip(" \t;,")]
    if not lines:
        raise InputError(expected="numbers", found="an empty text", where=where, remedy=REMEDY)
    words = [[w for w in _BETWEEN.split(line) if w] for line in lines]
    decimal = [[bool(_DECIMAL_COMMA.fullmatch(w)) for w in row] for row in words]
    if any(len(row) > 1 and any(row) for row in decimal) or (len(decimal) > 1 and all(row == [True] for row in decimal)):
        example = next(w for row in words for w in row if _DECIMAL_COMMA.fullmatch(w))
        raise InputError(
            expected="numbers with a decimal point", found=f"'{example}'", where=where,
            remedy="Write points for decimal commas: a comma stands between numbers.",
        )  # fmt: skip
    rows: list[list[float]] = []
    for line in lines:
        rows.append([])
        for word in filter(None, _NUMBER.split(line)):
            try:
                rows[-1].append(float(word))
            except ValueError as error:
                raise InputError(expected="numbers alone", found=repr(word[:20]), where=where, remedy=REMEDY) from error
    if len({len(row) for row in rows}) > 1:
        counts = sorted({len(row) for row in rows})
        raise InputError(
            expected="rows of one length", found=f"rows of {', '.join(map(str, counts[:3]))} numbers", where=where,
            remedy="A number is missing, or the text was wrapped: " + REMEDY[0].lower() + REMEDY[1:],
        )  # fmt: skip
    return np.array(rows, np.float64)


def _bvals(table: FloatArray, volumes: int, where: str) -> FloatArray:
    if 1 not in table.shape:
        raise InputError(
            expected="one row or column of b-values", found=f"{table.shape[0]} rows of {table.shape[1]} numbers", where=where, remedy=REMEDY
        )
    bvals: FloatArray = table.ravel()
    if len(bvals) != volumes:
        raise InputError(expected=f"{volumes} b-values, one a volume", found=f"{len(bvals)}", where=where, remedy=REMEDY)
    if not (np.isfinite(bvals).all() and (bvals >= 0).all()):
        raise InputError(expected="b-values from 0", found=f"{bvals[~(bvals >= 0) | ~np.isfinite(bvals)][0]:g}", where=where, remedy=REMEDY)
    highest = bvals.max()
    if highest > LARGEST_B or 0 < highest < LEAST_B:
        raise InputError(
            expected=f"b-values in s/mm2, the highest from {LEAST_B:g} to {LARGEST_B:g}", found=f"{highest:g}", where=where,
            remedy="Write them in s/mm2: 1 ms/um2 is 1000, 1e6 s/m2 is 1.",
        )  # fmt: skip
    if np.ptp(bvals) == 0:
        raise InputError(
            expected="volumes with and without diffusion weighting", found=f"b = {highest:g} throughout", where=where,
            remedy="Join the series with its b0 volumes, or check which series this is.",
        )  # fmt: skip
    if bvals.min() > B0_MAX:
        raise InputError(
            expected=f"a volume of b <= {B0_MAX:g} s/mm2", found=f"a lowest b of {bvals.min():g}", where=where,
            remedy="Join the series with its b0 volumes.",
        )  # fmt: skip
    return bvals


def _components(table: FloatArray, volumes: int, where: str) -> FloatArray:
    """Components (t, 3) of a table in either layout; three volumes are read as FSL has them, unless their lengths speak against it."""
    if table.shape == (3, 3) and volumes == 3:
        return table if _misfit(table) < _misfit(table.T) else table.T
    for found in (table.T, table):
        if found.shape == (volumes, 3):
            return found
    rows, columns = table.shape
    if 1 in table.shape:
        found_words, remedy = f"{max(rows, columns)} numbers in a single row or column", "bval and bvec have changed places, or it is no bvec file."
    elif 3 in table.shape:
        found_words, remedy = f"{max(rows, columns)}", REMEDY
    else:
        found_words, remedy = (
            f"{rows} rows of {columns} numbers",
            "Give directions alone, three components each, and the b-values in a file of their own.",
        )
    raise InputError(expected=f"{volumes} directions, one a volume", found=found_words, where=where, remedy=remedy)


def _misfit(vectors: FloatArray) -> float:
    """How far lengths are from 0 or 1, whichever is nearer."""
    length = np.linalg.norm(vectors, axis=1)
    return float(np.nansum(np.minimum(np.abs(length), np.abs(length - 1))))


def _directions(vectors: FloatArray, bvals: FloatArray, where: str) -> FloatArray:
    """Make unit vectors (t, 3), zero where b is that of a b0."""
    weighted = bvals > B0_MAX
    length = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(length[weighted]).all():
        raise InputError(expected="numbers", found="NaN or infinity in a weighted volume", where=where, remedy=REMEDY)
    none = np.flatnonzero(weighted & (length < UNIT_WITHIN))
    if len(none):
        raise InputError(
            expected="a direction of each weighted volume", found=f"zeros in volume {none[0]} (from 0) of b = {bvals[none[0]]:g}", where=where,
            remedy="A volume that the scanner averaged over directions (trace) must be taken out of images, bval and bvec.",
        )  # fmt: skip
    off = np.flatnonzero(weighted & (np.abs(length - 1) > UNIT_WITHIN))
    if len(off):
        of = length[weighted]
        scaled = of.max() <= 1 + UNIT_WITHIN and np.ptp(bvals[weighted]) < SHELL_WIDTH
        raise InputError(
            expected="directions of length 1", found=f"{len(off)} of other lengths, {of.min():.3g} to {of.max():.3g}", where=where,
            remedy=(
                "Several shells seem to be told by lengths alone: write |v|^2 b as the b-value of each volume, and bring each vector to length 1."
                if scaled
                else REMEDY
            ),
        )  # fmt: skip
    out = np.zeros_like(vectors)
    out[weighted] = vectors[weighted] / length[weighted, None]
    return out
