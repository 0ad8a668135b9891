"""A scan means the same in whatever order and direction its voxels are stored."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cohort_engine.io.volume import Volume, on_voxels_of, read_volume, write_volume

SHAPE = (3, 4, 5)
ORIENTATIONS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]

rotations = st.builds(lambda a, b, c: Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix(), *[st.floats(-180, 180)] * 3)
spacings = st.tuples(*[st.floats(0.2, 17.0)] * 3)
origins = st.tuples(*[st.floats(-300, 300)] * 3)


def affine_of(rotation, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def content(volume: Volume) -> dict[float, np.ndarray]:
    """World position of each value; values are unique."""
    ijk = np.argwhere(np.ones(volume.data.shape, bool))
    return dict(zip(volume.data[tuple(ijk.T)].tolist(), volume.grid.world(ijk.astype(float)), strict=True))


def check_same_world(read: Volume, data, affine):
    expected = content(Volume(data, affine))
    found = content(read)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[v] for v in expected], list(expected.values()), atol=1e-3)


def check_ras(volume: Volume):
    assert "".join(nib.aff2axcodes(volume.affine)) == "RAS"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("orientation") / "scan.nii"


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_all_48_orientations_of_one_scan_read_alike(path, order, signs):
    """The same head, stored in each of the 48 ways, is the same array after reading."""
    data = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    affine = affine_of(np.eye(3), (0.9, 0.9, 5.0), (-10.0, 20.0, -30.0))
    change = np.column_stack([order, signs])
    turned = nib.orientations.apply_orientation(data, change)
    nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(change, SHAPE)).to_filename(path)
    read = read_volume(path, what="T2w image")
    np.testing.assert_array_equal(read.data, data)
    np.testing.assert_allclose(read.affine, affine, atol=1e-6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotation=rotations, spacing=spacings, origin=origins, mirror=st.booleans())
def test_oblique_scans_keep_their_world(path, rotation, spacing, origin, mirror):
    data = np.random.default_rng(0).permutation(np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
    affine = affine_of(rotation, spacing, origin)
    if mirror:
        affine[:3, 0] *= -1
    nib.Nifti1Image(data, affine).to_filename(path)
    read = read_volume(path, what="T2w image")
    check_ras(read)
    check_same_world(read, data, affine)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotation=rotations, spacing=spacings, origin=origins)
def test_written_and_read_again(path, rotation, spacing, origin):
    data = np.random.default_rng(1).permutation(np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
    affine = affine_of(rotation, spacing, origin)
    write_volume(path, Volume(data, affine))
    check_same_world(read_volume(path, what="map"), data, affine)


# --- what is written for an image lies on its own voxels ----------------------------------------------------------------
GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def check_own_voxels(path, image, dtype=np.float32):
    """A mask of the image, written and opened by another tool: shape, affine, codes, and voxel by voxel what was marked."""
    image.to_filename(path)
    there = nib.load(path)
    read = read_volume(path, what="T2w image")
    out = path.with_name("mask.nii.gz")
    write_volume(out, read.with_data((read.data > 30).astype(dtype)))
    mask = nib.load(out)
    assert mask.shape == there.shape[:3]
    for name in GEOMETRY:
        np.testing.assert_array_equal(mask.header[name], there.header[name].astype(mask.header[name].dtype))  # a NIfTI-2 has more digits
    np.testing.assert_array_equal(mask.header["pixdim"][1:4], there.header["pixdim"][1:4].astype(np.float32))
    np.testing.assert_allclose(mask.affine, there.affine, rtol=1e-6, atol=1e-4)
    assert mask.header.get_xyzt_units()[0] == there.header.get_xyzt_units()[0]
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(there.dataobj).reshape(mask.shape) > 30)
    back = read_volume(out, what="cord mask")
    np.testing.assert_array_equal(back.data, read.data > 30)
    np.testing.assert_allclose(back.affine, read.affine, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0), (2, 4)])
def test_a_mask_of_each_of_the_48_orientations_is_on_the_image_s_own_voxels(path, order, signs, codes):
    data = np.random.default_rng(2).permutation(np.prod(SHAPE)).astype(np.int16).reshape(SHAPE)
    affine = affine_of(np.eye(3), (0.9, 0.8, 5.0), (-10.0, 20.0, -30.0))
    change = np.column_stack([order, signs])
    turned = nib.orientations.apply_orientation(data, change)
    image = nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(change, SHAPE))
    image.set_qform(image.affine, codes[0])
    image.set_sform(image.affine, codes[1])
    check_own_voxels(path, image)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rotation=rotations, spacing=spacings, origin=origins, mirror=st.booleans(), shear=st.floats(-0.5, 0.5), axes=st.integers(3, 5),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
)  # fmt: skip
def test_a_mask_of_an_oblique_or_sheared_scan_is_on_its_own_voxels(path, rotation, spacing, origin, mirror, shear, axes, kind):
    data = np.random.default_rng(3).permutation(np.prod(SHAPE)).astype(np.float32).reshape(SHAPE + (1,) * (axes - 3))
    sheared = np.eye(3)
    sheared[0, 1] = shear
    affine = affine_of(rotation @ sheared, spacing, origin).astype(np.float32).astype(float)
    if mirror:
        affine[:3, 0] *= -1
    check_own_voxels(path, kind(data, affine), bool)


@pytest.mark.parametrize("rounding", [1e-5, -1e-5])
def test_a_rounded_header_at_45_degrees_does_not_swap_the_axes_of_a_mask(path, rounding):
    """Between two axes rounding decides which of them is which: mask and image are one grid in their files, and stay one."""
    data = np.random.default_rng(4).permutation(np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
    volumes = []
    for degrees in (45 - rounding * 10, 45 + rounding * 10):
        nib.Nifti1Image(data, affine_of(Rotation.from_euler("x", degrees, degrees=True).as_matrix(), (1, 1, 1), (0, 0, 0))).to_filename(path)
        volumes.append(read_volume(path, what="image"))
    image, mask = volumes
    assert image.data.shape != mask.data.shape  # what would have been refused
    np.testing.assert_array_equal(on_voxels_of(image, mask, what="cord mask", like="the image").data, image.data)
