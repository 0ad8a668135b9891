"""What the header of a NIfTI file says of its voxels: type, place in the file, place in the world; and what is believed where it contradicts itself.

Rules, in this order:

* Lengths are in the unit of ``xyzt_units``; mm where it names none. Voxels whose edges are not those of a scan are refused.
* Of sform and qform those count whose code is positive and whose matrix is sound. Where both do and lie on one grid, the sform is taken: it holds
  a shear, and more digits. Where they do not, the scanner's (code 1) goes before coordinates of another scan (2), and these before a standard space
  (3 to 5), with a warning; two of one rank say nothing that could be known, and are refused.
* Voxels begin at ``vox_offset``; behind header and extensions where that lies inside of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import InputError, first_line, told, warn
from cohort_engine.io.gunzip import unpack_head
from cohort_engine.template.packing import FloatArray, Grid

KINDS = {"Nifti1Header": (b"n+1\0", 344, 348), "Nifti2Header": (b"n+2\0", 4, 540)}
"""Class -> magic number, its place, and length of the header, of a NIfTI with header and voxels in one file; not so a ``.hdr``."""
HALVES = (b"ni1\0", b"ni2\0")
"""Magic numbers of a ``.hdr``, whose voxels are in an ``.img``."""
LONGEST = 540
"""Length of the longer header."""
FLAG = 4
"""Bytes behind the header, of which the first says whether extensions follow."""
EXTENSIONS = 1 << 20
"""Most bytes of extensions that are looked through for voxels whose place the header does not give."""
GLANCE = 1 << 16
"""Bytes of a file that hold its header, compressed or not."""
ANNEX_POINTER = b"/annex/objects/"
FLATTEST = 1e-3
"""Smallest volume of a voxel over that of the box with the same edges: below it the axes lie in a plane."""
UNITS = {1: ("m", 1e3), 2: ("mm", 1.0), 3: ("micrometre", 1e-3)}
"""``xyzt_units & 7`` -> name, and mm in it."""
NO_UNIT = ("no unit", 1.0)
SHORTEST, LARGEST = 0.005, 200.0
"""Edges of a voxel of any scan, mm."""
LARGEST_MISFIT = 0.01
"""How far (relative) the edges of ``pixdim`` may be from those of the sform, where there is no qform, before a reader is told."""
RANKS = {1: 0, 2: 1}
"""Code of sform and qform -> which is believed first: the scanner, coordinates of another scan; all other are standard spaces."""
PLACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
    "xyzt_units",
)  # fmt: skip
"""Fields that say where voxels lie, beside ``pixdim``."""
DAMAGED = "The header is damaged: convert the image again from DICOM."


@dataclass(frozen=True, eq=False)
class Stored:
    """How an image lies in its file: what is made of it is written likewise, so that every tool sees both on the same voxels.

    Attributes
    ----------
    shape : (3,) tuple of int
        In the order of the file.
    affine : (4, 4) float64
        Index in the file (centre of the voxel) to world, RAS+ mm: what was believed of `fields`.
    fields : mapping of str to value
        ``pixdim`` (4,) and the fields of `PLACE`, as the file has them.

    Examples
    --------
    >>> left = Stored((2, 1, 1), np.diag([-1.0, 1.0, 1.0, 1.0]), {})
    >>> left.turned(np.array([[[10]], [[20]]])).ravel().tolist(), left.grid.affine[0].tolist()
    ([20, 10], [1.0, 0.0, 0.0, -1.0])
    >>> left.restored(left.turned(np.array([[[10]], [[20]]]))).ravel().tolist()
    [10, 20]
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    fields: Mapping[str, Any]

    @property
    def orientation(self) -> NDArray[np.float64]:
        """Axis of RAS+ order and direction (3, 2) of each axis of the file, as nibabel has it."""
        import nibabel as nib

        orientation: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        return orientation

    @property
    def grid(self) -> Grid:
        """Shape and affine in RAS+ order."""
        import nibabel as nib

        orientation = self.orientation
        x, y, z = (self.shape[a] for a in np.argsort(orientation[:, 0]))
        return Grid((x, y, z), self.affine @ nib.orientations.inv_ornt_aff(orientation, self.shape))

    def turned(self, data: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (i, j, k, ...) of the file to RAS+ order (x, y, z, ...)."""
        import nibabel as nib

        out: NDArray[Any] = nib.orientations.apply_orientation(data, self.orientation)
        return out

    def restored(self, data: NDArray[Any]) -> NDArray[Any]:
        """Turn an array in RAS+ order (x, y, z, ...) to the order of the file (i, j, k, ...)."""
        import nibabel as nib

        ras = np.column_stack([np.arange(3), np.ones(3)])
        out: NDArray[Any] = nib.orientations.apply_orientation(data, nib.orientations.ornt_transform(ras, self.orientation))
        return out


@dataclass(frozen=True, eq=False)
class Header:
    """What a header says.

    Attributes
    ----------
    behind : tuple of int
        Axes behind the third.
    dtype : dtype
        Of the voxels in the file.
    scale : (slope, intercept), optional
        None where values are as stored.
    offset : int
        ``vox_offset``: not yet where voxels begin, see `start`.
    length : int
    stored : Stored
    """

    behind: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    offset: int
    length: int
    order: Literal["little", "big"]
    stored: Stored

    @property
    def size(self) -> int:
        """Bytes of all voxels."""
        return math.prod((*self.stored.shape, *self.behind)) * self.dtype.itemsize

    @property
    def reach(self) -> int:
        """Bytes of a file in which the voxels lie, wherever they begin."""
        end = self.length + FLAG
        return max(self.offset, end) + self.size + (EXTENSIONS if self.offset < end else 0)

    def start(self, whole: memoryview, *, what: str) -> int:
        """Find the byte at which voxels begin, in all bytes of the file.

        Raises
        ------
        InputError
            They would begin in the header, and where they do cannot be known.
        """
        end, rest = self.length + FLAG, len(whole) - self.size
        if len(whole) <= self.length or not whole[self.length] or rest == self.offset >= end:
            return max(self.offset, end)
        at = end
        while end <= at < rest and at + 8 <= len(whole):  # a chain of extensions, each with its length
            length = int.from_bytes(whole[at : at + 4], self.order)
            if length < 16 or length % 16:
                break
            at += length
        if at == rest:
            return rest
        if self.offset >= end:
            return self.offset
        raise InputError(
            expected="voxels behind the header and its extensions", found=f"voxels from byte {self.offset} on, inside of them", where=what,
            remedy="The header is damaged: export the image again.",
        )  # fmt: skip


def read_header(head: bytes, check: Callable[[tuple[int, ...], str], tuple[int, ...]], *, what: str) -> Header:
    """Read and judge a header.

    Parameters
    ----------
    head : bytes
        The first `LONGEST` bytes of a file, or all.
    check : callable of (shape, what) to tuple of int
        Refuses a shape, or returns the axes behind the third.
    what : str
        Words for the image in messages.

    Raises
    ------
    InputError
        Not NIfTI, damaged, no real numbers, without a usable place in the world, or `check` says so.

    Warns
    -----
    CohortWarning
        sform and qform, or ``pixdim``, contradict each other.
    """
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    kind = _kind(head, what)
    length = KINDS[kind][2]
    try:
        header = getattr(nib.nifti1 if length < LONGEST else nib.nifti2, kind)(head[:length], check=False)
        said = tuple(map(int, header.get_data_shape()))
        offset = int(header["vox_offset"])
        scale = header.get_slope_inter()
    except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
        raise InputError(
            expected="a readable NIfTI header", found=first_line(error), where=what, remedy="The header is damaged: export the image again."
        ) from error
    shape = (*said[:3], *(max(n, 1) for n in said[3:]))  # some tools write 0 for axes that are not there
    behind = check(shape, what)
    i, j, k = shape[:3]
    dtype = _dtype(header, what)
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # 0 means 1
    fields = {"pixdim": np.array(header["pixdim"][:4]), **{name: np.array(header[name]) for name in PLACE}}
    stored = Stored((i, j, k), _affine(header, (i, j, k), what), fields)
    slope, intercept = scale
    unscaled = slope is None or (slope, intercept) == (1.0, 0.0)
    order: Literal["little", "big"] = "little" if header.endianness == "<" else "big"
    return Header(behind, dtype, None if unscaled else (slope, intercept), offset, length, order, stored)


def _kind(head: bytes, what: str) -> str:
    kind = next((k for k, (magic, at, _) in KINDS.items() if head[at : at + len(magic)] == magic), None)
    if kind is not None:
        return kind
    found, remedy = "something else", "Convert it, for instance with dcm2niix."
    if any(head[at : at + 4] in HALVES for _, at, _ in KINDS.values()):
        found, remedy = "the header of a pair .hdr and .img", "Join the two into one file, for instance with fslchfiletype NIFTI_GZ."
    elif head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        found, remedy = "the header of an Analyze file", "It does not tell left from right: convert the image again from DICOM."
    raise InputError(expected="a NIfTI file (.nii or .nii.gz)", found=found, where=what, remedy=remedy)


def _dtype(header: Any, what: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
        name = "colour" if dtype.fields else str(dtype)
    except KeyError:
        dtype, name = np.dtype("V"), f"code {int(header['datatype'])}"
    if dtype.kind not in "iuf":
        raise InputError(expected="real numbers", found=f"voxels of type {name}", where=what, remedy="Give a magnitude image.")
    return dtype


def _affine(header: Any, shape: tuple[int, int, int], what: str) -> NDArray[np.float64]:
    """Index in the file to world, RAS+ mm: see the rules above."""
    name, factor = UNITS.get(int(header["xyzt_units"]) & 7, NO_UNIT)
    scale = np.diag([factor, factor, factor, 1.0])
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    given = {form: scale @ _matrix(header, form) for form, code in codes.items() if code > 0}
    if not given:
        raise InputError(
            expected="an orientation (sform or qform)", found="both codes 0", where=what,
            remedy="Left and right cannot be told apart: convert the image again from DICOM, or copy the header of a scan of the same series.",
        )  # fmt: skip
    faults = {form: _fault(matrix) for form, matrix in given.items()}
    sound = {form: matrix for form, matrix in given.items() if not faults[form]}
    if not sound:
        raise InputError(**next(filter(None, faults.values())), where=what, remedy=DAMAGED)
    for form in given.keys() - sound.keys():
        other = next(iter(sound))
        warn(f"its {form} cannot be used ({(faults[form] or {})['found']}): its {other} is taken", where=what)
    chosen = _believed(header, codes, sound, shape, scale, what) if len(sound) == 2 else next(iter(sound))
    affine = sound[chosen]
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((edges >= SHORTEST) & (edges <= LARGEST)).all():
        fitting = [u for u, f in UNITS.values() if ((edges / factor * f >= SHORTEST) & (edges / factor * f <= LARGEST)).all()]
        raise InputError(
            expected=f"voxels with edges of {SHORTEST:g} to {LARGEST:g} mm", where=what,
            found=f"{' x '.join(f'{e:g}' for e in edges)} mm ({name} in its header)",
            remedy=f"Its numbers would be those of a scan in {' or '.join(fitting)}: correct xyzt_units." if fitting else DAMAGED,
        )  # fmt: skip
    if given.keys() == {"sform"}:
        said = np.abs(np.asarray(header["pixdim"][1:4], np.float64)) * factor
        if np.isfinite(said).all() and said.all() and np.abs(edges / said - 1).max() > LARGEST_MISFIT:
            warn(f"its sform has voxels of {_size(edges)} mm, its pixdim of {_size(said)} mm: the sform is taken", where=what)
    return affine


def _matrix(header: Any, form: str) -> NDArray[np.float64]:
    """Sform or qform in the unit of the header; NaN where the quaternion is none."""
    from nibabel.spatialimages import HeaderDataError

    own = header.copy()
    own["pixdim"][1:4] = np.abs(own["pixdim"][1:4])
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(own.get_sform() if form == "sform" else own.get_qform(), np.float64)
    except (HeaderDataError, ValueError):
        found = np.full((4, 4), np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def _fault(affine: NDArray[np.float64]) -> dict[str, str] | None:
    """Say what makes a matrix no place in the world; None of a sound one."""
    if not np.isfinite(affine).all():
        return {"expected": "a finite affine", "found": "NaN or infinity in it"}
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not edges.all() or abs(np.linalg.det(affine[:3, :3] / edges)) < FLATTEST:
        return {"expected": "an affine with three independent axes", "found": "a singular matrix"}
    return None


def _believed(
    header: Any, codes: Mapping[str, int], sound: Mapping[str, NDArray[np.float64]], shape: tuple[int, int, int], scale: FloatArray, what: str
) -> str:
    """Which of sform and qform is taken where both are sound."""
    held = header.copy()
    held.set_qform(np.linalg.inv(scale) @ sound["sform"], code=1)  # what of it a quaternion can hold: no shear, and fewer digits near half a turn
    as_quaternion = scale @ _matrix(held, "qform")
    here, there = Grid(shape, sound["qform"]), Grid(shape, as_quaternion)
    if here.same(there):
        return "sform"
    ranks = {form: RANKS.get(code, 2) for form, code in codes.items()}
    distance = min(here.apart(there), here.apart(Grid(shape, sound["sform"])))
    sizes = {form: np.linalg.norm(matrix[:3, :3], axis=0) for form, matrix in sound.items()}
    scaled = np.abs(sizes["sform"] / sizes["qform"] - 1).max() > LARGEST_MISFIT
    how = f"up to {distance:.1f} mm apart"
    how += f", with voxels of {_size(sizes['sform'])} and {_size(sizes['qform'])} mm" if scaled else ""
    if ranks["sform"] == ranks["qform"]:
        raise InputError(
            expected="sform and qform that agree", found=f"two of code {codes['sform']} and {codes['qform']}, {how}", where=what,
            remedy="Nothing tells which is right: convert the image again from DICOM, or make them one (sct_image -set-sform-to-qform).",
        )  # fmt: skip
    chosen = min(ranks, key=ranks.__getitem__)
    owner = "the scanner's" if codes[chosen] == 1 else "that of a scan"
    warn(f"its sform (code {codes['sform']}) and qform (code {codes['qform']}) lie {how}: the {chosen} is taken, {owner}", where=what)
    return chosen


def _size(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{e:.3g}" for e in edges)


def check_slices(shape: tuple[int, ...], what: str) -> None:
    """Refuse an image without voxels, or of fewer than three axes."""
    if not shape or min(shape) < 1:
        raise InputError(expected="voxels", found=f"shape {shape}", where=what, remedy="The file is empty: export the image again.")
    if len(shape) < 3:
        raise InputError(expected="a 3-D image", found=f"shape {shape}", where=what, remedy="Give the whole stack of slices.")


def check_any(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Take any number of volumes or components."""
    check_slices(shape, what)
    return shape[3:]


def judge_header(path: str | Path, *, what: str) -> list[str]:
    """Say what is to be known of an image by its header alone: what was settled, or why it cannot be used.

    Parameters
    ----------
    path : path
        On this machine. Of a file that is not there, is empty or was not fetched, nothing is said.
    what : str
        Words for the image, as in `read_volume`.

    Returns
    -------
    list of str
        Sentences without those words.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(GLANCE)
    except OSError:
        return []
    if not raw or ANNEX_POINTER in raw[:200]:
        return []
    with told() as notes:
        try:
            read_header(unpack_head(raw, LONGEST, what=what), check_any, what=what)
        except InputError as error:
            return [str(error).removeprefix(f"{what}: ")]
    return [note.removeprefix(f"{what}: ") for note in notes]
