"""NIfTI in and out: one 3-D volume with its world geometry, turned to RAS+ once, at reading.

A volume is read whole or refused. Every refusal says what was wrong in one sentence that names the role of the image.
"""

from __future__ import annotations

import gzip
import math
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cohort_engine.errors import InputError, MissingInputError, StorageError
from cohort_engine.template.packing import Grid

GZIP = b"\x1f\x8b"
KINDS = {"Nifti1Header": (b"n+1\0", 344, 348), "Nifti2Header": (b"n+2\0", 4, 540)}
"""Class -> magic number, its place, and length of the header, of a NIfTI with header and voxels in one file; not so a ``.hdr``."""
HEADER = 540
"""Length of the longer header."""
ANNEX_POINTER = b"/annex/objects/"
COMPRESSION = 1
"""gzip level of written files: float maps of the cord are mostly NaN, and higher levels gain little for many times the time."""
FLATTEST = 1e-3
"""Smallest volume of a voxel over that of the box with the same edges: below it the axes lie in a plane."""
LARGEST_ROUNDING = 1e-3
"""How far a stored label may be from a whole number."""
LARGEST_RATIO = 1032
"""Most that deflate can shrink: a header that announces more lacks voxels."""
PIECE = 1 << 16
"""Bytes that are unpacked at once: what they become stays in the processor's cache, and no more than `LARGEST_RATIO` times of it is held."""
PADDING = 1 << 16
"""Bytes behind the last voxel that are let pass: some tools fill up to whole blocks."""
STORED = {"bool": "uint8", "float16": "float32", "float64": "float32", "int64": "int32", "uint64": "uint32"}
"""Memory type -> on-disk type, for the types that NIfTI lacks or wastes room on."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image in the world.

    Attributes
    ----------
    data : (x, y, z) array
        x grows to the right, y to the front, z upwards (RAS+), as closely as the scan allows without resampling.
    affine : (4, 4) float64
        Voxel index (centre of the voxel) to world, RAS+ mm.

    Examples
    --------
    >>> Volume(np.zeros((2, 3, 4), np.float32), np.diag([1.0, 1.0, 5.0, 1.0])).grid.spacing.tolist()
    [1.0, 1.0, 5.0]
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """Shape and affine, without the data."""
        x, y, z = self.data.shape
        return Grid((x, y, z), self.affine)


def read_volume(location: str | Path, *, what: str, dtype: DTypeLike = np.float32) -> Volume:
    """Read a 3-D NIfTI-1 or NIfTI-2 file, compressed or not, and turn it to RAS+: `read_raw`, then `decode_volume`.

    Parameters
    ----------
    location : str or Path
        File, or URL (``s3://...``).
    what : str
        Words for the image in messages, one of ``schema.ROLES.values()``.
    dtype : dtype
        As in `decode_volume`.

    Returns
    -------
    Volume
        Data (x, y, z) in RAS+ order. Missing: a non-finite voxel of a float image is NaN; zero stays zero.

    Raises
    ------
    MissingInputError, InputError, StorageError
        As `read_raw` and `decode_volume`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "t2.nii.gz")
    >>> write_volume(path, Volume(np.ones((2, 3, 4), np.float32), np.eye(4)))
    >>> read_volume(path, what="T2w image").data.shape
    (2, 3, 4)
    """
    return decode_volume(read_raw(location, what=what), what=what, dtype=dtype)


def read_nonzero(location: str | Path, *, what: str) -> tuple[Grid, NDArray[np.intp], NDArray[np.float64]]:
    """Read the voxels of a 3-D NIfTI image that are not zero: `read_raw`, then `decode_nonzero`; errors of both."""
    return decode_nonzero(read_raw(location, what=what), what=what)


def read_vectors(location: str | Path, *, what: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a field of vectors: `read_raw`, then `decode_vectors`; errors of both."""
    return decode_vectors(read_raw(location, what=what), what=what)


def read_raw(location: str | Path, *, what: str) -> bytes:
    """Read a file of an image as it lies there, still compressed: what is hashed is then what is decoded.

    Parameters
    ----------
    location : str or Path
        File, or URL (``s3://...``).
    what : str
        Words for the image in messages.

    Returns
    -------
    bytes
        For `decode_volume`, `decode_nonzero` or `decode_vectors`.

    Raises
    ------
    MissingInputError
        No such file, or a git-annex link whose content was not fetched.
    InputError
        A folder, or a file that this user may not read.
    StorageError
        The disk or bucket failed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "t2.nii.gz")
    >>> write_volume(path, Volume(np.ones((2, 3, 4), np.float32), np.eye(4)))
    >>> raw = read_raw(path, what="T2w image")
    >>> raw[:2] == GZIP, decode_volume(raw, what="T2w image").data.sum()
    (True, np.float32(24.0))
    """
    raw = _read(location, what)
    if ANNEX_POINTER in raw[:200] and len(raw) < 32768:
        raise _not_fetched(what)
    return raw


def decode_volume(raw: bytes, *, what: str, dtype: DTypeLike = np.float32) -> Volume:
    """Decode the bytes of a 3-D NIfTI-1 or NIfTI-2 file, compressed or not, and turn it to RAS+.

    The affine is the sform where its code is positive, else the qform; ``scl_slope`` and ``scl_inter`` are applied. Voxels begin where
    ``vox_offset`` says, and behind the header where it says less. The header is read and judged first; then no more is unpacked than it announces.

    Parameters
    ----------
    raw : bytes
        Of `read_raw`.
    what : str
        Words for the image in messages, one of ``schema.ROLES.values()``.
    dtype : dtype
        A float type, or an integer type for labels: then each voxel must be a whole number.

    Returns
    -------
    Volume
        Data (x, y, z) in RAS+ order. Missing: a non-finite voxel of a float image is NaN; zero stays zero.

    Raises
    ------
    InputError
        Truncated, corrupt, not NIfTI, not 3-D (axes of length 1 at the end are dropped), empty, not real numbers, without a usable
        orientation, longer than its header announces, or labels that are not whole numbers.
    """
    data, affine = _stored(raw, what, _check_shape)
    orientation, affine = _orientation(affine, data.shape)
    return Volume(np.ascontiguousarray(_cast(_turned(data, orientation), np.dtype(dtype), what)), affine)


def decode_nonzero(raw: bytes, *, what: str) -> tuple[Grid, NDArray[np.intp], NDArray[np.float64]]:
    """Decode the voxels of a 3-D NIfTI image that are not zero, in a third of the time of `decode_volume`: for images that are mostly zero.

    Parameters
    ----------
    raw, what : as in `decode_volume`

    Returns
    -------
    grid : Grid
        Shape and affine in RAS+ order.
    index : (n,) int array
        Position of each voxel in the flattened (x, y, z) array, z fastest; not sorted.
    values : (n,) float64 array
        Missing: a non-finite voxel is NaN.

    Raises
    ------
    InputError
        As `decode_volume`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "label.nii.gz")
    >>> data = np.zeros((2, 3, 4), np.float32)
    >>> data[1, 0, 2] = 0.5
    >>> write_volume(path, Volume(data, np.eye(4)))
    >>> grid, index, values = decode_nonzero(path.read_bytes(), what="label")
    >>> grid.shape, index.tolist(), values.tolist()
    ((2, 3, 4), [14], [0.5])
    """
    data, affine = _stored(raw, what, _check_shape)
    orientation, affine = _orientation(affine, data.shape)
    flat = data.reshape(-1, order="F")
    found = np.flatnonzero(flat != 0)  # a comparison and a search of bytes: four times as fast as a search of floats
    stored = np.unravel_index(found, data.shape, order="F")
    axes = np.argsort(orientation[:, 0])
    shape = tuple(int(data.shape[a]) for a in axes)
    ijk = [stored[a] if orientation[a, 1] > 0 else data.shape[a] - 1 - stored[a] for a in axes]
    values = flat[found].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return Grid((shape[0], shape[1], shape[2]), affine), np.ravel_multi_index(ijk, shape), values


def decode_vectors(raw: bytes, *, what: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Decode a field of vectors: NIfTI of shape (x, y, z, 1, 3), as ITK and ANTs write displacements.

    Parameters
    ----------
    raw, what : as in `decode_volume`

    Returns
    -------
    vectors : (x, y, z, 3) float32 array
        Axes turned to RAS+; the components are as stored, in whatever frame they were written. Missing: as stored, often a huge number.
    affine : (4, 4) float64
        Voxel index to world, RAS+ mm.

    Raises
    ------
    InputError
        As `decode_volume`; another shape.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "warp.nii.gz")
    >>> write_volume(path, Volume(np.zeros((2, 3, 4, 1, 3), np.float32), np.eye(4)), intent="vector")
    >>> decode_vectors(path.read_bytes(), what="warp")[0].shape
    (2, 3, 4, 3)
    """
    data, affine = _stored(raw, what, _check_vectors)
    orientation, affine = _orientation(affine, data.shape)
    return np.ascontiguousarray(_turned(data, orientation), np.float32), affine


def decode_series(raw: bytes, *, what: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Decode a series of volumes: NIfTI of shape (x, y, z, t), of which one volume may lack the last axis.

    Parameters
    ----------
    raw, what : as in `decode_volume`

    Returns
    -------
    data : (x, y, z, t) float32 array
        Axes turned to RAS+, in the order of the file along t. Missing: a non-finite voxel is NaN; zero stays zero.
    affine : (4, 4) float64
        Voxel index to world, RAS+ mm.

    Raises
    ------
    InputError
        As `decode_volume`; more axes.

    Examples
    --------
    >>> import nibabel as nib
    >>> decode_series(nib.Nifti1Image(np.ones((2, 3, 4, 5), np.float32), np.eye(4)).to_bytes(), what="diffusion images")[0].shape
    (2, 3, 4, 5)
    """
    data, affine = _stored(raw, what, _check_series)
    orientation, affine = _orientation(affine, data.shape)
    return np.ascontiguousarray(_cast(_turned(data, orientation), np.dtype(np.float32), what)), affine


def _stored(raw: bytes, what: str, check: Callable[[tuple[int, ...], str], tuple[int, ...]]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels as they lie in the file (slopes applied, perhaps read-only) and their affine, or an error. `check` returns the axes behind the third."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.volumeutils import apply_read_scaling
    from nibabel.wrapstruct import WrapStructError

    head = _unpack_head(raw, what)
    kind = next((k for k, (magic, at, _) in KINDS.items() if head[at : at + len(magic)] == magic), None)
    if kind is None:
        raise InputError(
            expected="a NIfTI file (.nii or .nii.gz)", found="something else", where=what, remedy="Convert it, for instance with dcm2niix."
        )
    length = KINDS[kind][2]
    try:
        header = getattr(nib.nifti1 if length < HEADER else nib.nifti2, kind)(head[:length])
        codes = int(header["sform_code"]), int(header["qform_code"])
        shape, affine, stored = header.get_data_shape(), np.asarray(header.get_best_affine(), np.float64), header.get_data_dtype()
        offset = header.get_data_offset() or length + 4  # four bytes behind the header say whether extensions follow
        slope, inter = header.get_slope_inter()
    except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
        raise InputError(
            expected="a readable NIfTI header", found=_first_line(error), where=what, remedy="The header is damaged: export the image again."
        ) from error
    behind = check(shape, what)
    if stored.kind not in "iuf":
        raise InputError(expected="real numbers", found=f"voxels of type {stored}", where=what, remedy="Give a magnitude image.")
    _check_affine(affine, codes, what)
    count = math.prod(map(int, shape))
    whole = _unpack(raw, offset + count * stored.itemsize, what) if raw.startswith(GZIP) else raw
    if len(whole) < offset + count * stored.itemsize:
        raise InputError(expected=f"{'x'.join(map(str, shape))} voxels", found="fewer", where=what, remedy="The file is cut short: copy it again.")
    data = np.frombuffer(whole, stored, count, offset).reshape(shape, order="F")  # no copy
    if (slope, inter) not in ((None, None), (1.0, 0.0)):
        data = apply_read_scaling(data, np.asanyarray(slope), np.asanyarray(inter))
    return data.reshape((*shape[:3], *behind), order="F"), affine


def _orientation(affine: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How to turn stored axes to RAS+, and the affine after turning."""
    import nibabel as nib

    orientation = nib.orientations.io_orientation(affine)
    return orientation, affine @ nib.orientations.inv_ornt_aff(orientation, shape[:3])


def _turned(data: NDArray[Any], orientation: NDArray[np.float64]) -> NDArray[Any]:
    import nibabel as nib

    turned: NDArray[Any] = nib.orientations.apply_orientation(data, orientation)
    return turned


def write_volume(location: str | Path, volume: Volume, *, dtype: DTypeLike | None = None, intent: str | None = None) -> None:
    """Write a volume as NIfTI-1 (``.nii`` or ``.nii.gz``), whole or not at all; the same content gives the same bytes.

    Parameters
    ----------
    location : str or Path
        File to make or replace, in a folder that exists, or URL.
    volume : Volume
    dtype : dtype, optional
        On-disk type; by default bool becomes uint8, float64 float32 and int64 int32.
    intent : str, optional
        NIfTI intent, for instance ``"label"``.

    Raises
    ------
    InputError
        NaN in an image that is to be stored as integers.
    StorageError
        The disk is full, read-only or gone.
    """
    import nibabel as nib
    import obstore

    from cohort_engine.io.places import local_path, object_store, storage_errors

    path = local_path(str(location))
    stored = np.dtype(dtype or STORED.get(volume.data.dtype.name, volume.data.dtype))
    image = nib.Nifti1Image(_cast(volume.data, stored, "image to write"), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-4):
        image.set_qform(volume.affine, code="unknown")  # a quaternion cannot hold a shear: leave only the sform
    if intent is not None:
        image.header.set_intent(intent)
    raw = image.to_bytes()
    if str(location).endswith(".gz"):
        raw = gzip.compress(raw, COMPRESSION, mtime=0)
    with storage_errors("image to write"):
        if path is None:
            folder, _, name = str(location).rpartition("/")
            obstore.put(object_store(folder), name, raw)
            return
        aside = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            aside.write_bytes(raw)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def require_signal(volume: Volume, *, what: str) -> None:
    """Refuse an image in which no voxel is finite and different from zero.

    Examples
    --------
    >>> require_signal(Volume(np.zeros((2, 2, 2)), np.eye(4)), what="MT-on image")
    Traceback (most recent call last):
    ...
    cohort_engine.errors.InputError: MT-on image: expected signal, found only zeros or NaN. The export or a mask emptied it: export the image again.
    """
    if not np.any(np.isfinite(volume.data) & (volume.data != 0)):
        raise InputError(expected="signal", found="only zeros or NaN", where=what, remedy="The export or a mask emptied it: export the image again.")


def _read(location: str | Path, what: str) -> bytes:
    if "://" in str(location):
        from cohort_engine.io.places import read_bytes

        return read_bytes(str(location), what=what)
    path = Path(location)
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise (
            _not_fetched(what)
            if path.is_symlink()
            else MissingInputError(expected="a file", found="none", where=what, remedy="Check that the dataset is complete and was not moved.")
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(
            expected="a readable file", found=error.strerror or "an error", where=what, remedy="Check the permissions of the dataset."
        ) from error
    except OSError as error:
        raise StorageError(
            expected="a working disk", found=error.strerror or "an error", where=what, remedy="Check the disk or the mount."
        ) from error
    return raw


def _not_fetched(what: str) -> MissingInputError:
    return MissingInputError(
        expected="an image", found="a git-annex link without its content", where=what, remedy="Fetch it with 'datalad get' or 'git annex get'."
    )


@contextmanager
def _gzip_errors(what: str) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise InputError(
            expected="a whole compressed file", found="one that ends early", where=what, remedy="The file is cut short: copy it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            expected="a sound compressed file", found=_first_line(error), where=what, remedy="The file is damaged: copy it again."
        ) from error


def _unpack_head(raw: bytes, what: str) -> bytes:
    """As much as a header needs; gzip is found by its magic number and not by the name."""
    if not raw.startswith(GZIP):
        return raw[:HEADER]
    with _gzip_errors(what), gzip.GzipFile(fileobj=BytesIO(raw)) as file:
        return file.read(HEADER)


def _unpack(raw: bytes, size: int, what: str) -> memoryview:
    """Undo gzip, which may be of several members, into one buffer; the checksums must agree, and no more is unpacked than `size` and `PADDING`."""
    if size > LARGEST_RATIO * len(raw):
        return memoryview(b"")  # fewer voxels than announced, whatever they are
    whole, filled, source = memoryview(bytearray(size + PADDING)), 0, memoryview(raw)
    stream = None  # between members
    with _gzip_errors(what):
        for start in range(0, len(raw), PIECE):
            left: bytes | memoryview = source[start : start + PIECE]
            while left:
                if stream is None:
                    left = bytes(left).lstrip(b"\0")  # zeros may fill up to the next member
                    if not left:
                        break
                    stream = zlib.decompressobj(wbits=31)
                part = stream.decompress(left, len(whole) - filled + 1)
                if filled + len(part) > len(whole):
                    raise InputError(
                        expected=f"{size} bytes, as the header announces", found="more", where=what,
                        remedy="The header is damaged, or the file is not what it seems: export the image again.",
                    )  # fmt: skip
                whole[filled : filled + len(part)] = part
                filled += len(part)
                left = stream.unused_data
                if stream.eof:
                    stream = None
        if stream is not None:
            raise EOFError
    return whole[:filled].toreadonly()


def _check_slices(shape: tuple[int, ...], what: str) -> None:
    if not shape or min(shape) < 1:
        raise InputError(expected="voxels", found=f"shape {shape}", where=what, remedy="The file is empty: export the image again.")
    if len(shape) < 3:
        raise InputError(expected="a 3-D image", found=f"shape {shape}", where=what, remedy="Give the whole stack of slices.")


def _check_series(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    _check_slices(shape, what)
    if any(n > 1 for n in shape[4:]):
        raise InputError(
            expected="volumes along one further axis", found=f"shape {shape}", where=what, remedy="Give the series as the scanner exported it."
        )
    return (shape[3] if len(shape) > 3 else 1,)


def _check_shape(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    _check_slices(shape, what)
    if any(n > 1 for n in shape[3:]):
        raise InputError(
            expected="a 3-D image", found=f"shape {shape}", where=what, remedy="Give one volume, for instance with fslroi or sct_image -split t."
        )
    return ()


def _check_vectors(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    if len(shape) != 5 or shape[3:] != (1, 3) or min(shape) < 1:
        raise InputError(
            expected="displacements of shape (x, y, z, 1, 3), as ITK and ANTs write them", found=f"shape {shape}", where=what,
            remedy="Give the warp itself, not an image that it made; a field of another tool must be converted.",
        )  # fmt: skip
    return (3,)


def _check_affine(affine: NDArray[np.float64], codes: tuple[int, int], what: str) -> None:
    remedy = "The header is damaged: convert the image again from DICOM."
    if not np.isfinite(affine).all():
        raise InputError(expected="a finite affine", found="NaN or infinity in it", where=what, remedy=remedy)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not edges.all() or abs(np.linalg.det(affine[:3, :3] / edges)) < FLATTEST:
        raise InputError(expected="an affine with three independent axes", found="a singular one", where=what, remedy=remedy)
    if not any(code > 0 for code in codes):
        raise InputError(
            expected="an orientation (sform or qform)", found="both codes 0", where=what,
            remedy="Left and right cannot be told apart: convert the image again from DICOM, or copy the header of a scan of the same series.",
        )  # fmt: skip


def _cast(data: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """Floats: anything non-finite becomes NaN. Integers: every voxel must already be one, within the range of the type."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            out = data.astype(dtype)
        out[~np.isfinite(out)] = np.nan
        return out
    if data.dtype.kind == "f":
        whole = np.rint(data)
        bad = ~(np.abs(data - whole) <= LARGEST_ROUNDING)
        if bad.any():
            raise InputError(
                expected="whole numbers", found=f"{data[bad][0]:g}", where=what, remedy="Labels must be resampled with nearest neighbour."
            )
        data = whole
    if data.size and dtype.kind in "iu" and (data.min() < np.iinfo(dtype).min or data.max() > np.iinfo(dtype).max):
        raise InputError(
            expected=f"numbers that fit {dtype}", found=f"{data.min():g} to {data.max():g}", where=what, remedy="Check that it is a label image."
        )
    return data.astype(dtype)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
