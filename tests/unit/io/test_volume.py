"""Volumes come in whole and in RAS+, or are refused in one sentence."""

from __future__ import annotations

import gzip
import io
import os
import resource
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import obstore
import pytest

from cohort_engine.errors import InputError, MissingInputError, StorageError
from cohort_engine.io import places
from cohort_engine.io.gunzip import PIECE
from cohort_engine.io.volume import (
    Volume,
    decode_series,
    decode_volume,
    encode_volume,
    read_raw,
    read_vectors,
    read_volume,
    require_signal,
    write_volume,
)

WHAT = "MT-off image"
RAMP = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def nifti(tmp_path):
    """Write an image with nibabel, as a scanner's converter would; fields of the header can be damaged."""

    def make(data=RAMP, affine=None, name="image.nii.gz", kind=nib.Nifti1Image, **damage) -> Path:
        image = kind(data, np.eye(4) if affine is None else affine)
        raw = image.to_bytes()
        header = nib.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False) if damage else image.header
        for key, value in damage.items():
            header[key] = value
        if damage:
            raw = header.binaryblock + raw[348:]
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
        return tmp_path / name

    return make


def read(path, **options) -> Volume:
    return read_volume(path, what=WHAT, **options)


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_reads_both_versions_plain_and_compressed(nifti, name, kind):
    volume = read(nifti(name=name, kind=kind))
    np.testing.assert_array_equal(volume.data, RAMP)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous


def test_gzip_is_found_by_content_not_by_name(nifti):
    path = nifti()
    np.testing.assert_array_equal(read(path.rename(path.with_suffix(""))).data, RAMP)


def test_big_endian_file(tmp_path):
    image = nib.Nifti1Image(RAMP.astype(">f4"), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.to_filename(tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    np.testing.assert_array_equal(read(tmp_path / "big.nii").data, RAMP)


def test_left_first_becomes_right_last(nifti):
    """LAS on disk: the first voxel lies on the right; in RAS+ it is the last."""
    volume = read(nifti(affine=np.diag([-1.0, 1.0, 1.0, 1.0])))
    assert volume.data[-1, 0, 0] == RAMP[0, 0, 0]
    np.testing.assert_array_equal(volume.grid.world(np.array([1.0, 0.0, 0.0])), [0, 0, 0])


def test_scale_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.array([[[1, 2]]], np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "scaled.nii")
    assert read(tmp_path / "scaled.nii").data.tolist() == [[[10.5, 11.0]]]


def test_sform_wins_where_the_qform_says_the_same_or_nothing(nifti):
    shifted = np.eye(4)
    shifted[0, 3] = 7
    assert read(nifti(affine=shifted, qform_code=1, qoffset_x=7.2)).affine[0, 3] == 7
    assert read(nifti(affine=shifted, qform_code=0, qoffset_x=3)).affine[0, 3] == 7
    assert read(nifti(affine=shifted, sform_code=0, qform_code=1, qoffset_x=3)).affine[0, 3] == 3


def test_trailing_axes_of_length_one_are_dropped(nifti):
    assert read(nifti(RAMP[..., None, None])).data.shape == (2, 3, 4)


def test_infinity_and_nan_become_nan_and_zero_stays_zero(nifti):
    data = read(nifti(np.array([[[0, np.nan, np.inf, -np.inf, 1e300]]]))).data
    assert data[0, 0, 0] == 0
    assert np.isnan(data[0, 0, 1:]).all()


def test_labels_are_whole_numbers(nifti):
    path = nifti(np.array([[[0, 2.0, 8.9999]]], np.float32))
    assert read(path, dtype=np.uint8).data.tolist() == [[[0, 2, 9]]]
    with pytest.raises(InputError, match=r"MT-off image: expected whole numbers, found 2\.5\..*nearest neighbour"):
        read(nifti(np.array([[[0, 2.5]]])), dtype=np.uint8)
    with pytest.raises(InputError, match=r"numbers that fit uint8, found 0 to 300"):
        read(nifti(np.array([[[0, 300]]], np.int16)), dtype=np.uint8)
    with pytest.raises(InputError, match="expected whole numbers, found nan"):
        read(nifti(np.array([[[0, np.nan]]])), dtype=np.int16)


# --- refusals ---------------------------------------------------------------------------------------------------------
def refused(path, expected, found, kind=InputError):
    with pytest.raises(kind) as caught:
        read(path)
    error = caught.value
    assert error.where == WHAT
    assert expected in error.expected, error
    assert found in error.found, error
    assert str(Path(path).parent) not in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_stream_that_unpacks_to_more_than_its_header_announces_costs_no_memory(nifti):
    """256 MiB of zeros in 1 MB behind a header of 24 voxels."""
    whole = nifti(name="image.nii").read_bytes()
    zeros = zlib.compressobj(1, wbits=31)
    bomb = zeros.compress(whole) + b"".join(zeros.compress(bytes(1 << 22)) for _ in range(64)) + zeros.flush()
    tracemalloc.start()
    with pytest.raises(InputError, match="MT-off image: expected 448 bytes, as the header announces, found more"):
        decode_volume(bomb, what=WHAT)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_bomb_of_many_members_is_refused(nifti):
    whole = nifti(name="image.nii").read_bytes()
    bomb = gzip.compress(whole) + gzip.compress(bytes(1 << 16)) * 100
    with pytest.raises(InputError, match="found more"):
        decode_volume(bomb, what=WHAT)


@pytest.mark.parametrize("size", [1, 100, 347, 400, 1000])
def test_gzip_of_several_members_is_one_file(nifti, size):
    """As bgzip and parallel compressors write; zeros may lie between members and at the end."""
    data = np.arange(200, dtype=np.float32).reshape(2, 10, 10)
    whole = nifti(data, name="image.nii").read_bytes()
    members = [gzip.compress(whole[i : i + size]) + b"\0" * (i % 3) for i in range(0, len(whole), size)]
    np.testing.assert_array_equal(decode_volume(b"".join(members), what=WHAT).data, data)
    with pytest.raises(InputError, match="one that ends early"):
        decode_volume(b"".join(members)[:-6], what=WHAT)
    with pytest.raises(InputError, match="a sound compressed file"):
        decode_volume(b"".join(members) + b"garbage", what=WHAT)


def test_a_file_of_many_pieces_is_whole(nifti):
    data = np.random.default_rng(0).normal(size=(64, 64, 40)).astype(np.float32)  # its gzip is longer than a piece
    path = nifti(data)
    assert path.stat().st_size > 2 * PIECE
    np.testing.assert_array_equal(read(path).data, data)


def test_padding_behind_the_last_voxel_is_let_pass(nifti):
    path = nifti(name="image.nii")
    np.testing.assert_array_equal(decode_volume(gzip.compress(path.read_bytes() + bytes(512)), what=WHAT).data, RAMP)


@pytest.mark.parametrize("shape", [(32767, 32767, 32767), (100, 100, 100)])
def test_a_header_that_announces_more_than_deflate_could_hold_lacks_voxels(nifti, shape):
    path = nifti(dim=[3, *shape, 1, 1, 1, 1])
    refused(path, f"{'x'.join(map(str, shape))} voxels", "fewer")


def test_a_negative_axis_is_no_image(nifti):
    refused(nifti(dim=[3, 2, -3, 4, 1, 1, 1, 1]), "", "")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_begin_behind_a_header_that_says_they_begin_at_zero(nifti, kind):
    path = nifti(name="image.nii", kind=kind)
    raw = bytearray(path.read_bytes())
    at = 108 if kind is nib.Nifti1Image else 168
    raw[at : at + 4] = bytes(4)
    np.testing.assert_array_equal(decode_volume(bytes(raw), what=WHAT).data, RAMP)


def test_the_bytes_that_are_hashed_are_those_that_are_decoded(nifti):
    path = nifti()
    raw = read_raw(path, what=WHAT)
    assert raw == path.read_bytes()
    np.testing.assert_array_equal(decode_volume(raw, what=WHAT).data, RAMP)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_gz_never_gives_a_zero_tail(nifti, keep):
    path = nifti(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path, "a whole compressed file", "one that ends early")


def test_gz_cut_inside_the_checksum(nifti):
    path = nifti()
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "a whole compressed file", "one that ends early")


def test_gz_with_a_flipped_bit(nifti):
    path = nifti(np.random.default_rng(0).normal(size=(16, 16, 16)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    refused(path, "a sound compressed file", "")


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_voxels_missing_inside_a_sound_container(nifti, name):
    path = nifti(name="image.nii")
    raw = path.read_bytes()[:-8]
    path = path.with_name(name)
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    refused(path, "2x3x4 voxels", "fewer")


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x00" * 400, gzip.compress(b"<html>")], ids=["empty", "text", "zeros", "gz"])
def test_not_nifti(tmp_path, content):
    (tmp_path / "image.nii.gz").write_bytes(content)
    refused(tmp_path / "image.nii.gz", "a NIfTI file", "something else")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("length", [3, 200, 347, 350, 400])
def test_header_cut_short(nifti, kind, length):
    path = nifti(name="image.nii", kind=kind)
    path.write_bytes(path.read_bytes()[:length])
    refused(path, "", "")


def test_header_and_voxels_in_two_files(tmp_path):
    nib.Nifti1Pair(RAMP, np.eye(4)).to_filename(tmp_path / "image.img")
    refused(tmp_path / "image.hdr", "a NIfTI file", "the header of a pair .hdr and .img")
    refused(tmp_path / "image.img", "a NIfTI file", "something else")


@pytest.mark.parametrize(("shape", "found"), [((2, 3, 4, 2), "(2, 3, 4, 2)"), ((2, 3), "(2, 3)"), ((2, 3, 4, 1, 3), "(2, 3, 4, 1, 3)")])
def test_not_three_dimensional(nifti, shape, found):
    refused(nifti(np.zeros(shape, np.float32)), "a 3-D image", found)


def test_no_voxels(nifti):
    refused(nifti(np.zeros((2, 0, 4), np.float32)), "voxels", "(2, 0, 4)")


def test_complex_and_colour(nifti):
    refused(nifti(RAMP.astype(np.complex64)), "real numbers", "complex64")
    refused(nifti(np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "real numbers", "")


def test_nan_affine(nifti):
    refused(nifti(srow_x=[np.nan, 0, 0, 0]), "a finite affine", "NaN")


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [0, 1, 0, 0]], ids=["zero", "parallel"])
def test_singular_affine(nifti, row):
    refused(nifti(srow_x=row), "three independent axes", "a singular matrix")


def test_impossible_quaternion(nifti):
    refused(nifti(sform_code=0, qform_code=1, quatern_b=1, quatern_c=1, quatern_d=1), "", "")


def test_no_orientation(nifti):
    refused(nifti(sform_code=0, qform_code=0), "an orientation", "both codes 0")


def test_missing_and_unreadable(tmp_path):
    refused(tmp_path / "absent.nii.gz", "a file", "none", MissingInputError)
    refused(tmp_path, "a readable file", "directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(nifti):
    path = nifti()
    path.chmod(0)
    refused(path, "a readable file", "Permission")


def test_content_still_in_the_annex(tmp_path):
    pointer, link = tmp_path / "pointer.nii.gz", tmp_path / "link.nii.gz"
    pointer.write_text("/annex/objects/SHA256E-s8880618--c078.nii.gz\n")
    link.symlink_to(".git/annex/objects/x")
    for path in (pointer, link):
        refused(path, "an image", "git-annex", MissingInputError)


def test_all_zero_image_has_no_signal():
    for empty in (np.zeros((2, 2, 2)), np.full((2, 2, 2), np.nan)):
        with pytest.raises(InputError, match="MT-off image: expected signal, found only zeros or NaN"):
            require_signal(Volume(empty, np.eye(4)), what=WHAT)
    require_signal(Volume(np.array([[[np.nan, 0, -1.0]]]), np.eye(4)), what=WHAT)


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("bool", "uint8"),
        ("float64", "float32"),
        ("float16", "float32"),
        ("int64", "int32"),
        ("int16", "int16"),
        ("float32", "float32"),
        ("uint8", "uint8"),
    ],
)
def test_on_disk_types(tmp_path, given, stored):
    path = tmp_path / "out.nii.gz"
    write_volume(path, Volume(np.ones((2, 2, 2), given), np.eye(4)))
    assert nib.load(path).get_data_dtype() == stored
    assert nib.load(path).header.get_xyzt_units()[0] == "mm"


def test_same_content_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, Volume(RAMP, np.eye(4)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_sheared_affine_lives_in_the_sform(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.4
    write_volume(tmp_path / "out.nii.gz", Volume(RAMP, sheared))
    image = nib.load(tmp_path / "out.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(read(tmp_path / "out.nii.gz").affine, sheared, atol=1e-6)


def test_intent_and_label_type(tmp_path):
    write_volume(tmp_path / "out.nii.gz", Volume(RAMP, np.eye(4)), dtype=np.uint8, intent="label")
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.header.get_intent()[0] == "label"
    assert image.get_data_dtype() == np.uint8


def test_nan_cannot_be_stored_as_integer(tmp_path):
    with pytest.raises(InputError, match="expected whole numbers, found nan"):
        write_volume(tmp_path / "out.nii.gz", Volume(np.full((2, 2, 2), np.nan), np.eye(4)), dtype=np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_file(tmp_path):
    """Files may not grow beyond 4 kB: the write fails as on a full disk."""
    path = tmp_path / "out.nii"
    write_volume(path, Volume(RAMP, np.eye(4)))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError) as caught:
            write_volume(path, Volume(np.zeros((64, 64, 64), np.float32), np.eye(4)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.retryable
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii"]


def test_no_such_folder(tmp_path):
    with pytest.raises(StorageError, match="image to write"):
        write_volume(tmp_path / "absent" / "out.nii", Volume(RAMP, np.eye(4)))


def test_urls(tmp_path, monkeypatch):
    write_volume((tmp_path / "a b.nii.gz").as_uri(), Volume(RAMP, np.eye(4)))
    np.testing.assert_array_equal(read((tmp_path / "a b.nii.gz").as_uri()).data, RAMP)
    bucket = obstore.store.MemoryStore()
    monkeypatch.setattr(places, "object_store", lambda url: {"s3://bucket": bucket}[url])
    write_volume("s3://bucket/maps/out.nii.gz", Volume(RAMP, np.eye(4)))
    np.testing.assert_array_equal(read("s3://bucket/maps/out.nii.gz").data, RAMP)
    refused("s3://bucket/maps/absent.nii.gz", "a file", "")


SERIES = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_series_is_turned_volume_by_volume(nifti, signs):
    affine = np.diag([*signs, 1.0])
    affine[:3, 3] = [0 if s > 0 else n - 1 for s, n in zip(signs, SERIES.shape, strict=False)]
    series = decode_series(nifti(SERIES[tuple(slice(None, None, s) for s in signs)], affine).read_bytes(), what="diffusion images")
    data, found = series.data, series.affine
    mean = nib.Nifti1Image.from_bytes(encode_volume(series.with_data(data.mean(axis=-1))))  # lies on the voxels of the series
    np.testing.assert_array_equal(mean.affine, affine)
    np.testing.assert_allclose(np.asarray(mean.dataobj), SERIES.mean(axis=-1)[tuple(slice(None, None, s) for s in signs)])
    np.testing.assert_array_equal(data, SERIES)
    np.testing.assert_array_equal(found, np.eye(4))


def test_what_a_series_is_not(nifti):
    assert decode_series(nifti(SERIES[..., 0]).read_bytes(), what="images").data.shape == (2, 3, 4, 1)
    with pytest.raises(InputError, match="one further axis"):
        decode_series(nifti(SERIES.reshape(2, 3, 2, 2, 5)).read_bytes(), what="images")
    with pytest.raises(InputError, match="whole stack"):
        decode_series(nifti(SERIES[:, :, 0, 0]).read_bytes(), what="images")


VECTORS = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 1, 3)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_axes_of_a_field_are_turned_and_its_components_are_not(nifti, signs):
    flipped = VECTORS[tuple(slice(None, None, s) for s in signs)]
    affine = np.diag([*signs, 1.0])
    affine[:3, 3] = [0 if s > 0 else n - 1 for s, n in zip(signs, VECTORS.shape, strict=False)]
    field = read_vectors(nifti(flipped, affine), what=WHAT)
    vectors, found = field.data, field.affine
    np.testing.assert_array_equal(vectors, VECTORS[:, :, :, 0])
    np.testing.assert_allclose(found, np.eye(4))


def test_a_field_keeps_its_largest_floats(nifti):
    data = VECTORS.copy()
    data[0, 0, 0] = np.finfo(np.float32).max
    assert read_vectors(nifti(data), what=WHAT).data.max() == np.finfo(np.float32).max


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 3), (2, 3, 4, 1, 2), (2, 3, 4, 2, 3)])
def test_an_image_is_no_field(nifti, shape):
    with pytest.raises(InputError, match=r"displacements of shape \(x, y, z, 1, 3\)"):
        read_vectors(nifti(np.zeros(shape, np.float32)), what=WHAT)


def test_a_field_cut_short(nifti):
    path = nifti(VECTORS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cut short"):
        read_vectors(path, what=WHAT)
