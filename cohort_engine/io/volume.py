"""NIfTI in and out: one 3-D volume with its world geometry, turned to RAS+ once, at reading.

A volume is read whole or refused. Every refusal says what was wrong in one sentence that names the role of the image. It remembers how its file
has it (`Stored`), and whatever is made of it (`Volume.with_data`) is written likewise: on the image's own voxels, in their order.
"""

from __future__ import annotations

import gzip
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cohort_engine.errors import GeometryError, InputError, MissingInputError, StorageError
from cohort_engine.io.grids import REMEDY, require_grid
from cohort_engine.io.gunzip import unpack, unpack_head
from cohort_engine.io.header import ANNEX_POINTER, FLAG, LONGEST, PLACE, Stored, check_any, check_slices, read_header
from cohort_engine.template.packing import Grid

COMPRESSION = 1
"""gzip level of written files: float maps of the cord are mostly NaN, and higher levels gain little for many times the time."""
LARGEST_ROUNDING = 1e-3
"""How far a stored label may be from a whole number."""
STORED = {"bool": "uint8", "float16": "float32", "float64": "float32", "int64": "int32", "uint64": "uint32"}
"""Memory type -> on-disk type, for the types that NIfTI lacks or wastes room on."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in the world.

    Attributes
    ----------
    data : (x, y, z) array; (x, y, z, ...) of a series or a field of vectors
        x grows to the right, y to the front, z upwards (RAS+), as closely as the scan allows without resampling.
    affine : (4, 4) float64
        Voxel index (centre of the voxel) to world, RAS+ mm.
    stored : Stored, optional
        How the file has it that it was read from; None of an image that comes from no file.

    Raises
    ------
    GeometryError
        `data` on another grid than `stored`.

    Examples
    --------
    >>> Volume(np.zeros((2, 3, 4), np.float32), np.diag([1.0, 1.0, 5.0, 1.0])).grid.spacing.tolist()
    [1.0, 1.0, 5.0]
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    stored: Stored | None = None

    def __post_init__(self) -> None:
        if self.stored is not None and self.data.shape[:3] != self.stored.grid.shape:
            raise GeometryError(
                expected=f"shape {self.stored.grid.shape}", found=f"{self.data.shape}", where="data of an image",
                remedy="What is made of an image lies on its voxels.",
            )  # fmt: skip

    @property
    def grid(self) -> Grid:
        """Shape and affine, without the data."""
        x, y, z = self.data.shape[:3]
        return Grid((x, y, z), self.affine)

    def with_data(self, data: NDArray[Any]) -> Volume:
        """Return another image on the voxels of this one: `write_volume` stores it as this one is stored.

        Parameters
        ----------
        data : (x, y, z, ...) array
            In RAS+ order, as `data`.

        Examples
        --------
        >>> import nibabel as nib
        >>> image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([-1.0, 1.0, 5.0, 1.0]))
        >>> mask = decode_volume(image.to_bytes(), what="T2w image").with_data(np.ones((2, 3, 4), bool))
        >>> nib.Nifti1Image.from_bytes(encode_volume(mask)).affine.diagonal().tolist()
        [-1.0, 1.0, 5.0, 1.0]
        """
        return Volume(data, self.affine, self.stored)


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


def read_mask(location: str | Path, *, what: str, dtype: DTypeLike = np.float32) -> Volume:
    """Read a mask or labels: `read_raw`, then `decode_mask`; errors of both."""
    return decode_mask(read_raw(location, what=what), what=what, dtype=dtype)


def read_nonzero(location: str | Path, *, what: str) -> tuple[Grid, NDArray[np.intp], NDArray[np.float64]]:
    """Read the voxels of a 3-D NIfTI image that are not zero: `read_raw`, then `decode_nonzero`; errors of both."""
    return decode_nonzero(read_raw(location, what=what), what=what)


def read_vectors(location: str | Path, *, what: str) -> Volume:
    """Read a field of vectors: `read_raw`, then `decode_vectors`; errors of both."""
    return decode_vectors(read_raw(location, what=what), what=what)


def read_raw(location: str | Path, *, what: str) -> bytes:
    """Read a file of an image as it lies there, still compressed: what is hashed is then what is decoded.

    Parameters
    ----------
    location : str or Path
        File, or URL (``s3://...``); several that are read as one (`places.together`).
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
    >>> len(raw) < 200, decode_volume(raw, what="T2w image").data.sum()
    (True, np.float32(24.0))
    """
    raw = b"\n".join(_read(one, what) for one in str(location).split("\n"))
    if ANNEX_POINTER in raw[:200] and len(raw) < 32768:
        raise _not_fetched(what)
    return raw


def decode_volume(raw: bytes, *, what: str, dtype: DTypeLike = np.float32) -> Volume:
    """Decode the bytes of a 3-D NIfTI-1 or NIfTI-2 file, compressed or not, and turn it to RAS+.

    Where the voxels lie, in the world and in the file, is decided in `io.header`; ``scl_slope`` and ``scl_inter`` are applied. The header is read and
    judged first; then no more is unpacked than it announces.

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
    data, stored = _decode(raw, what, _check_shape)
    return _volume(data, stored, np.dtype(dtype), what)


def decode_voxels(raw: bytes, *, what: str) -> Volume:
    """Decode the header of an image: its voxels without their values, which are 0 and take no room; errors of a header as of `decode_volume`.

    Examples
    --------
    >>> import nibabel as nib
    >>> decode_voxels(nib.Nifti1Image(np.ones((2, 3, 4, 5), np.float32), np.eye(4)).to_bytes()[:348], what="series").grid.shape
    (2, 3, 4)
    """
    stored = read_header(unpack_head(raw, LONGEST, what=what), check_any, what=what).stored
    grid = stored.grid
    return Volume(np.broadcast_to(np.float32(0), grid.shape), np.asarray(grid.affine, np.float64), stored)


def decode_mask(raw: bytes, *, what: str, dtype: DTypeLike = np.float32) -> Volume:
    """Decode a mask or labels: as `decode_volume`, but a voxel that is not a number lies outside, and is 0.

    Examples
    --------
    >>> import nibabel as nib
    >>> decode_mask(nib.Nifti1Image(np.array([[[1.0, np.nan]]], np.float32), np.eye(4)).to_bytes(), what="cord mask").data.tolist()
    [[[1.0, 0.0]]]
    """
    data, stored = _decode(raw, what, _check_shape)
    if data.dtype.kind == "f":
        data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    return _volume(data, stored, np.dtype(dtype), what)


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
    data, stored = _decode(raw, what, _check_shape)
    flat = data.reshape(-1, order="F")
    found = np.flatnonzero(flat != 0)  # a comparison and a search of bytes: four times as fast as a search of floats
    places, orientation, grid = np.unravel_index(found, data.shape, order="F"), stored.orientation, stored.grid
    ijk = [places[a] if orientation[a, 1] > 0 else data.shape[a] - 1 - places[a] for a in np.argsort(orientation[:, 0])]
    values = flat[found].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return grid, np.ravel_multi_index(ijk, grid.shape), values


def decode_vectors(raw: bytes, *, what: str) -> Volume:
    """Decode a field of vectors: NIfTI of shape (x, y, z, 1, 3), as ITK and ANTs write displacements.

    Parameters
    ----------
    raw, what : as in `decode_volume`

    Returns
    -------
    Volume
        Data (x, y, z, 3) float32: axes turned to RAS+; the components are as stored, in whatever frame they were written. Missing: as stored, often
        a huge number.

    Raises
    ------
    InputError
        As `decode_volume`; another shape.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "warp.nii.gz")
    >>> write_volume(path, Volume(np.zeros((2, 3, 4, 1, 3), np.float32), np.eye(4)), intent="vector")
    >>> decode_vectors(path.read_bytes(), what="warp").data.shape
    (2, 3, 4, 3)
    """
    data, stored = _decode(raw, what, _check_vectors)
    return Volume(np.ascontiguousarray(stored.turned(data), np.float32), np.asarray(stored.grid.affine, np.float64), stored)


def decode_series(raw: bytes, *, what: str) -> Volume:
    """Decode a series of volumes: NIfTI of shape (x, y, z, t), of which one volume may lack the last axis.

    Parameters
    ----------
    raw, what : as in `decode_volume`

    Returns
    -------
    Volume
        Data (x, y, z, t) float32 in RAS+ order, in the order of the file along t. Missing: a non-finite voxel is NaN; zero stays zero. What is made
        of it (`Volume.with_data`) is written on the voxels of one of its volumes.

    Raises
    ------
    InputError
        As `decode_volume`; more axes.

    Examples
    --------
    >>> import nibabel as nib
    >>> decode_series(nib.Nifti1Image(np.ones((2, 3, 4, 5), np.float32), np.eye(4)).to_bytes(), what="diffusion images").data.shape
    (2, 3, 4, 5)
    """
    data, stored = _decode(raw, what, _check_series)
    return _volume(data, stored, np.dtype(np.float32), what)


def _decode(raw: bytes, what: str, check: Callable[[tuple[int, ...], str], tuple[int, ...]]) -> tuple[NDArray[Any], Stored]:
    """Voxels as they lie in the file (slopes applied, perhaps read-only), or an error. `check` returns the axes behind the third."""
    from nibabel.volumeutils import apply_read_scaling

    header = read_header(unpack_head(raw, LONGEST, what=what), check, what=what)
    whole = unpack(raw, header.reach, what=what)
    start, shape = header.start(whole, what=what), (*header.stored.shape, *header.behind)
    if len(whole) < start + header.size:
        raise InputError(expected=f"{'x'.join(map(str, shape))} voxels", found="fewer", where=what, remedy="The file is cut short: copy it again.")
    data = np.frombuffer(whole, header.dtype, math.prod(shape), start).reshape(shape, order="F")  # no copy
    if header.scale is not None:
        data = apply_read_scaling(data, *map(np.asanyarray, header.scale))
    return data, header.stored


def _volume(data: NDArray[Any], stored: Stored, dtype: np.dtype[Any], what: str) -> Volume:
    return Volume(np.ascontiguousarray(_cast(stored.turned(data), dtype, what)), np.asarray(stored.grid.affine, np.float64), stored)


def encode_volume(volume: Volume, *, dtype: DTypeLike | None = None, intent: str | None = None) -> bytes:
    """Make the bytes of a NIfTI-1 file of a volume.

    A volume that was read, or made of one that was read (`Volume.with_data`), has the axes of that file in their order, and the fields of its header
    that say where voxels lie, as they are; any other is in RAS+ order, mm, with sform and qform of the scanner.

    Parameters
    ----------
    volume, dtype, intent : as in `write_volume`

    Raises
    ------
    InputError
        NaN in an image that is to be stored as integers.
    """
    import nibabel as nib

    data = _cast(volume.data, np.dtype(dtype or STORED.get(volume.data.dtype.name, volume.data.dtype)), "image to write")
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    if volume.stored is None:
        header.set_data_shape(data.shape)
        header.set_xyzt_units("mm")
        header.set_sform(volume.affine, code="scanner")
        header.set_qform(volume.affine, code="scanner")
        if not np.allclose(header.get_qform(), volume.affine, atol=1e-4):
            header["qform_code"] = 0  # a quaternion cannot hold a shear: leave only the sform
    else:
        data = volume.stored.restored(data)
        header.set_data_shape(data.shape)
        header["pixdim"][:4] = volume.stored.fields["pixdim"]
        for name in PLACE:
            header[name] = volume.stored.fields[name]
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = len(header.binaryblock) + FLAG, 1, 0
    if intent is not None:
        header.set_intent(intent)
    return bytes(header.binaryblock) + bytes(FLAG) + data.tobytes(order="F")


def write_volume(location: str | Path, volume: Volume, *, dtype: DTypeLike | None = None, intent: str | None = None) -> None:
    """Write a volume as NIfTI-1 (``.nii`` or ``.nii.gz``), whole or not at all; the same content gives the same bytes: see `encode_volume`.

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
    from cohort_engine.io import objects
    from cohort_engine.io.places import file_of, local_path, storage_errors

    path = local_path(str(location))
    raw = encode_volume(volume, dtype=dtype, intent=intent)
    if str(location).endswith(".gz"):
        raw = gzip.compress(raw, COMPRESSION, mtime=0)
    with storage_errors("image to write"):
        if path is None:
            store, name = file_of(str(location))
            objects.put(store, name, raw)
            return
        aside = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            aside.write_bytes(raw)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def on_voxels_of(image: Volume, other: Volume, *, what: str, like: str, remedy: str = REMEDY) -> Volume:
    """Take an image that must lie on the grid of another voxel by voxel: headers of one grid may differ by what tools round.

    Parameters
    ----------
    image, other : Volume
    what, like : str
        Words of `other` and of `image`, for messages.
    remedy : str
        What to do where they are not on one grid.

    Returns
    -------
    Volume
        Data of `other` with the affine of `image`.

    Raises
    ------
    GeometryError
        See `io.grids.require_grid`.
    """
    data, its, mine = other.data, other.grid, image.grid
    if image.stored is not None and other.stored is not None:
        here, there = image.stored, other.stored
        if Grid(here.shape, here.affine).same(Grid(there.shape, there.affine)):  # near 45 degrees, rounding decides which axis is which
            its, mine = Grid(there.shape, there.affine), Grid(here.shape, here.affine)
            data = here.turned(there.restored(data))
    require_grid(its, mine, what=what, like=like, remedy=remedy)
    return image.with_data(np.ascontiguousarray(data))


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


def _check_series(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    check_slices(shape, what)
    if any(n > 1 for n in shape[4:]):
        raise InputError(
            expected="volumes along one further axis", found=f"shape {shape}", where=what, remedy="Give the series as the scanner exported it."
        )
    return (shape[3] if len(shape) > 3 else 1,)


def _check_shape(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    check_slices(shape, what)
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
