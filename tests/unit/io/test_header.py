"""What a header says, and what is believed where it contradicts itself: right, or one sentence."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.errors import CohortError, CohortWarning, InputError
from cohort_engine.io.volume import Volume, decode_mask, decode_volume

WHAT = "MT mask"
SHAPE = (4, 5, 60)
DATA = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1]])


def image(data: Any = DATA, *, sform: Any = AFFINE, qform: Any = AFFINE, codes: tuple[int, int] = (1, 1), units: str = "mm", **fields: Any) -> bytes:
    """Make a file whose sform and qform are given (codes in this order), and fields of the header as they come."""
    made = nib.Nifti1Image(data, None)
    made.set_qform(qform, 1)
    made.set_sform(sform, 1)
    made.header.set_xyzt_units(units, "sec")
    raw = made.to_bytes()
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
    header["sform_code"], header["qform_code"] = codes
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + raw[348:]


def moved(x: float = 0, y: float = 0, z: float = 0, *, scale: float = 1, turn: float = 0) -> np.ndarray:
    """Move, scale and turn (degrees, about x) the matrix."""
    out = AFFINE.copy()
    out[:3, :3] *= scale
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    out[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ out[:3, :3]
    out[:3, 3] += x, y, z
    return out


def told(raw: bytes) -> tuple[Volume, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = decode_volume(raw, what=WHAT)
    assert all(w.category is CohortWarning for w in caught)
    return volume, [str(w.message) for w in caught]


def stored_affine(raw: bytes) -> np.ndarray:
    stored = told(raw)[0].stored
    assert stored is not None
    return stored.affine


def refused(raw: bytes, expected: str, found: str, remedy: str = "") -> None:
    with pytest.raises(InputError) as caught:
        decode_volume(raw, what=WHAT)
    error = caught.value
    assert error.where == WHAT
    assert expected in error.expected, error
    assert found in error.found, error
    assert remedy in error.remedy, error
    assert len(str(error).splitlines()) == 1


# --- units --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("units", "factor"), [("micron", 1000), ("meter", 0.001), ("mm", 1), ("unknown", 1)])
def test_lengths_are_in_the_unit_of_the_header(units, factor):
    """Areas of a mask in micrometres were a million times too large."""
    scaled = np.diag([factor, factor, factor, 1.0]) @ AFFINE
    volume, notes = told(image(sform=scaled, qform=scaled, units=units))
    np.testing.assert_allclose(volume.grid.spacing, [0.5, 0.5, 2], rtol=1e-6)
    np.testing.assert_allclose(volume.stored.affine, AFFINE, atol=1e-4)
    assert notes == []


@pytest.mark.parametrize(
    ("factor", "units", "said", "fitting"), [(1000, "mm", "mm", "micrometre"), (1e-3, "unknown", "no unit", "m"), (1, "micron", "micrometre", "mm")]
)
def test_voxels_of_no_scan_are_refused_with_the_unit_that_would_fit(factor, units, said, fitting):
    scaled = np.diag([factor, factor, factor, 1.0]) @ AFFINE
    refused(image(sform=scaled, qform=scaled, units=units), "edges of 0.005 to 200 mm", f"mm ({said} in its header)", f"a scan in {fitting}")


def test_no_unit_and_bits_that_mean_nothing_are_mm():
    np.testing.assert_allclose(stored_affine(image(xyzt_units=7)), AFFINE)


# --- sform and qform ----------------------------------------------------------------------------------------------------
CONTRADICTIONS = {
    "scaled": (moved(scale=1.25), "with voxels of 0.625 x 0.625 x 2.5 and 0.5 x 0.5 x 2 mm"),
    "levels away": (moved(z=17), "up to 17.0 mm apart"),
    "turned": (moved(turn=8), "up to 16"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize(("codes", "right"), [((4, 1), "qform"), ((2, 1), "qform"), ((1, 2), "sform"), ((2, 3), "sform"), ((5, 2), "qform")])
def test_of_two_that_contradict_each_other_the_scanner_s_is_taken_with_a_word(name, codes, right):
    """A sform of a standard space, 1.25 times the scanner's qform, made areas 1.56 times as large, without a word."""
    other, how = CONTRADICTIONS[name]
    forms = {"sform": other, "qform": other} | {right: AFFINE}
    volume, notes = told(image(**forms, codes=codes))
    np.testing.assert_allclose(volume.stored.affine, AFFINE, atol=1e-4)
    assert len(notes) == 1
    assert notes[0].startswith(f"{WHAT}: its sform (code {codes[0]}) and qform (code {codes[1]}) lie up to ")
    assert f"the {right} is taken" in notes[0]
    if right == "qform":
        assert how in notes[0]


@pytest.mark.parametrize("codes", [(1, 1), (2, 2), (3, 4)])
def test_two_of_one_rank_say_nothing_that_could_be_known(codes):
    refused(image(qform=moved(z=17), codes=codes), "sform and qform that agree", f"two of code {codes[0]} and {codes[1]}, up to 17.0 mm", "sct_image")


@pytest.mark.parametrize("qform", [moved(x=0.2), moved(turn=0.05)], ids=["shifted", "turned"])
@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (4, 1)])
def test_a_difference_that_moves_no_voxel_is_none(qform, codes):
    volume, notes = told(image(qform=qform, codes=codes))
    np.testing.assert_allclose(volume.stored.affine, AFFINE)
    assert notes == []


def test_a_shear_that_no_quaternion_holds_is_no_contradiction():
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.6
    held = nib.Nifti1Header()
    held.set_qform(sheared, 1)
    volume, notes = told(image(sform=sheared, qform=held.get_qform()))
    np.testing.assert_allclose(volume.stored.affine, sheared, atol=1e-6)
    assert notes == []


def test_a_quaternion_near_half_a_turn_has_few_digits():
    """As in a published image of 0.69 x 0.69 x 7.5 mm: sform and qform from one matrix, 0.3 mm apart at the corners."""
    matrix = np.array([[-0.6875, 0, 0.00767, 97.4], [0.00004, 0.6865, 0.40477, -78.6], [0.0007, -0.0371, 7.48906, -59.6], [0, 0, 0, 1]])
    volume, notes = told(image(np.zeros((320, 256, 19), np.uint8), sform=matrix, qform=matrix))
    np.testing.assert_allclose(volume.stored.affine, matrix, atol=1e-4)
    assert notes == []


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0.5, 0, 0]], ids=["zero", "NaN", "parallel"])
def test_a_form_that_is_no_place_in_the_world_leaves_the_other(row):
    volume, notes = told(image(srow_x=row))
    np.testing.assert_allclose(volume.stored.affine, AFFINE, atol=1e-5)
    assert len(notes) == 1
    assert "its qform is taken" in notes[0]
    refused(image(srow_x=row, codes=(1, 0)), "affine", "")


def test_all_zero_sform_of_positive_code():
    zero = dict.fromkeys(("srow_x", "srow_y", "srow_z"), 0)
    volume, notes = told(image(**zero))
    np.testing.assert_allclose(volume.stored.affine, AFFINE, atol=1e-5)
    assert notes == [f"{WHAT}: its sform cannot be used (a singular matrix): its qform is taken"]


@pytest.mark.parametrize("pixdim", [0, np.nan, np.inf])
def test_a_qform_without_voxel_sizes_leaves_the_sform(pixdim):
    raw = image(pixdim=[1, pixdim, 0.5, 2, 1, 1, 1, 1])
    volume, notes = told(raw)
    np.testing.assert_allclose(volume.stored.affine, AFFINE)
    assert "its sform is taken" in notes[0]
    refused(image(pixdim=[1, pixdim, 0.5, 2, 1, 1, 1, 1], codes=(0, 1)), "affine", "")


def test_pixdim_of_a_negative_sign_or_without_handedness():
    """pixdim[0] is 1 where it is 0; lengths have no sign."""
    base = stored_affine(image(codes=(0, 1)))
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(image()))
    for pixdim in (-0.5, 0.5):
        found = stored_affine(image(codes=(0, 1), pixdim=[header["pixdim"][0], pixdim, 0.5, 2, 1, 1, 1, 1]))
        np.testing.assert_allclose(found, base)
    right = AFFINE * [[-1], [1], [1], [1]]
    np.testing.assert_allclose(stored_affine(image(qform=right, codes=(0, 1), pixdim=[0, 0.5, 0.5, 2, 1, 1, 1, 1])), right, atol=1e-6)


def test_voxel_sizes_that_contradict_a_lone_sform_are_told():
    volume, notes = told(image(sform=moved(scale=1.25), codes=(1, 0)))
    np.testing.assert_allclose(volume.grid.spacing, [0.625, 0.625, 2.5])
    assert notes == [f"{WHAT}: its sform has voxels of 0.625 x 0.625 x 2.5 mm, its pixdim of 0.5 x 0.5 x 2 mm: the sform is taken"]


# --- where voxels begin -------------------------------------------------------------------------------------------------
def with_extensions(raw: bytes, sizes: tuple[int, ...], offset: float, length: int = 348) -> bytes:
    """Put extensions behind the header."""
    between = b"\1\0\0\0" + b"".join(struct.pack("<ii", n, 6) + b"x" * (n - 8) for n in sizes)
    at, layout = (108, "<f") if length == 348 else (168, "<q")
    head = bytearray(raw[:length])
    head[at : at + struct.calcsize(layout)] = struct.pack(layout, offset if layout == "<f" else int(offset))
    return bytes(head) + between + raw[length + 4 :]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("offset", [0, 16, 348, 351, 352])
def test_voxels_begin_behind_the_header(pack, offset):
    """A file that says they begin at byte 0 had its header read as 176 voxels: everything lay 13.5 mm to the side."""
    raw = bytearray(image())
    raw[108:112] = struct.pack("<f", offset)
    np.testing.assert_array_equal(decode_volume(pack(bytes(raw)), what=WHAT).data, decode_volume(image(), what=WHAT).data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("sizes", [(16,), (32, 128), (4096,)])
@pytest.mark.parametrize("said", ["right", "zero", "inside"])
def test_voxels_begin_behind_the_extensions(pack, sizes, said):
    offset = {"right": 352 + sum(sizes), "zero": 0, "inside": 352}[said]
    np.testing.assert_array_equal(
        decode_volume(pack(with_extensions(image(), sizes, offset)), what=WHAT).data, decode_volume(image(), what=WHAT).data
    )


@pytest.mark.parametrize("offset", [0, 540, 544])
def test_nifti_2_likewise(offset):
    made = nib.Nifti2Image(DATA, AFFINE).to_bytes()
    np.testing.assert_array_equal(decode_volume(with_extensions(made, (48,), offset, 540), what=WHAT).data, decode_volume(made, what=WHAT).data)


def test_a_flag_without_extensions_is_no_extension():
    raw = bytearray(image())
    raw[348] = 1
    np.testing.assert_array_equal(decode_volume(bytes(raw), what=WHAT).data, decode_volume(image(), what=WHAT).data)


def test_a_place_that_cannot_be_known():
    raw = with_extensions(image(), (32,), 0)
    refused(raw[:352] + struct.pack("<i", 7) + raw[356:], "behind the header and its extensions", "from byte 0 on")


@pytest.mark.parametrize("offset", [np.nan, np.inf, 1e30, 5000])
def test_voxels_behind_the_end_of_the_file(offset):
    raw = bytearray(image())
    raw[108:112] = struct.pack("<f", offset)
    refused(bytes(raw), "", "")


# --- values and axes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slope", [0, np.nan, np.inf, 1])
def test_a_slope_that_is_none_scales_nothing(slope):
    np.testing.assert_array_equal(
        decode_volume(image(scl_slope=slope, scl_inter=0), what=WHAT).stored.restored(decode_volume(image(), what=WHAT).data), DATA
    )
    np.testing.assert_array_equal(told(image(scl_slope=slope, scl_inter=0))[0].data, told(image())[0].data)


def test_an_intercept_that_is_none_is_refused():
    refused(image(scl_slope=2, scl_inter=np.nan), "a readable NIfTI header", "intercept")


@pytest.mark.parametrize(
    "dim", [[3, *SHAPE, 7, 1, 1, 1], [4, *SHAPE, 1, 1, 1, 1], [4, *SHAPE, 0, 1, 1, 1], [7, *SHAPE, 1, 1, 1, 1], [5, *SHAPE, 1, 0, 0, 0]]
)
def test_axes_of_one_volume(dim):
    volume = told(image(dim=dim))[0]
    np.testing.assert_array_equal(volume.data, told(image())[0].data)
    assert volume.stored.shape == SHAPE


def test_several_volumes_are_refused():
    refused(image(dim=[4, 4, 5, 30, 2, 1, 1, 1]), "a 3-D image", "(4, 5, 30, 2)", "Give one volume")


@pytest.mark.parametrize(
    ("dtype", "name"), [("complex64", "complex64"), ("complex128", "complex128"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colour")]
)
def test_what_is_no_real_number(dtype, name):
    made = nib.Nifti1Image(np.zeros(SHAPE, dtype), AFFINE)
    refused(made.to_bytes(), "real numbers", name, "magnitude")


@pytest.mark.parametrize("code", [0, 1, 255, 9999])
def test_a_type_that_is_none(code):
    refused(image(datatype=code), "real numbers", "")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int8", "uint16", "float64"])
def test_every_type_of_real_number(dtype):
    made = nib.Nifti1Image((DATA % 100).astype(dtype), AFFINE, dtype=dtype)
    assert made.header.get_data_dtype() == dtype
    np.testing.assert_array_equal(decode_volume(made.to_bytes(), what=WHAT).data, decode_volume(image(DATA % 100), what=WHAT).data)


# --- other files --------------------------------------------------------------------------------------------------------
def test_half_a_pair_and_analyze_are_named():
    header = nib.Nifti1Pair(DATA, AFFINE).header.binaryblock
    refused(header, "a NIfTI file", "the header of a pair .hdr and .img", "Join the two")
    old = bytearray(header)
    old[344:348] = bytes(4)
    refused(bytes(old), "a NIfTI file", "the header of an Analyze file", "left from right")


@pytest.mark.parametrize("inside", [1, 0.5])
@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
def test_a_mask_with_something_else_than_numbers_outside_is_the_mask(inside, outside):
    data = np.where(DATA > 100, np.float32(inside), np.float32(outside))
    found = decode_mask(image(data), what=WHAT).data
    np.testing.assert_array_equal(found, np.where(told(image())[0].data > 100, np.float32(inside), 0))


def test_labels_with_nan_outside_are_labels():
    data = np.where(DATA > 100, 3.0, np.nan).astype(np.float32)
    assert np.unique(decode_mask(image(data), what=WHAT, dtype=np.int16).data).tolist() == [0, 3]


def test_a_header_of_noise_is_an_image_or_one_sentence():
    """Bytes of the header are replaced at random: whatever comes is a volume, or an error in four parts."""
    rng, read = np.random.default_rng(0), 0
    for _ in range(500):
        raw = bytearray(image())
        for at in rng.integers(0, 348, rng.integers(1, 12)):
            raw[at] = rng.integers(256)
        try:
            volume = told(bytes(raw))[0]
        except CohortError as error:
            assert error.where == WHAT  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017
        else:
            assert np.isfinite(volume.affine).all()
            assert volume.data.ndim == 3
            read += 1
    assert 50 < read < 450
