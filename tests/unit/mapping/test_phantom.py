"""The template map of a simulated subject, whose true map is known."""

import nibabel as nib
import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.errors import CordError, LevelError
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.mapping.ants import displacement_field
from cohort_engine.mapping.fractions import native_fractions
from cohort_engine.mapping.inverse import invert
from cohort_engine.mapping.straighten import block_depth
from cohort_engine.mapping.template_map import fit_template_map, sample
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import make_subject

SPACING = 0.5


@pytest.fixture(scope="module")
def neck():
    return parametric_cord(spacing=SPACING, top="C4", bottom="C6")


@pytest.fixture(scope="module")
def subject(neck):
    return make_subject(neck, group="HC")


def levels_of(subject, neck):
    t2w, discs = subject.images["t2w_mask"], subject.images["t2w_landmarks"]
    marks = landmarks_from_labels(discs.data, discs.affine, kind="disc", what="landmarks")
    return level_axis(centreline_from_mask(t2w.data, t2w.affine, what="T2w mask"), marks, neck)


def fit(mask, levels, neck, **options):
    """Fit with the levels carried to the mask."""
    return fit_template_map(mask.data, mask.affine, transfer(levels, centreline_from_mask(mask.data, mask.affine, what="mask")), neck, **options)


@pytest.fixture(scope="module")
def levels(subject, neck):
    return levels_of(subject, neck)


@pytest.fixture(scope="module")
def slab(subject, neck, levels):
    """Mask of the MT slab, 0.9 x 0.9 x 5 mm, and its map."""
    mask = subject.images["mt_mask"]
    return mask, fit(mask, levels, neck)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# --- truth ------------------------------------------------------------------------------------------------------------
def test_positions_are_the_true_ones(subject, slab, neck):
    """0.23 mm measured, most of it along the cord: discs are marked in voxels of 1 mm."""
    error = np.linalg.norm(slab[1].packed(neck) - subject.truth.template_map, axis=1)
    assert np.nanmedian(error) < 0.3
    assert np.nanpercentile(error, 95) < 0.55


def test_the_edge_is_neither_drawn_in_nor_out(subject, slab, neck):
    """Depth in the template at the true place of a position, less the depth it was meant to have; -0.03 mm measured."""
    depth = block_depth(neck.cord, neck.block_grid.spacing[:2])
    edge = (np.abs(depth) < 0.5) & np.isfinite(slab[1].block[..., 0])
    true = sample(depth, neck.block_grid.affine, subject.truth.anatomy.template(slab[1].block[edge].astype(float)))
    assert abs(np.nanmean(true - depth[edge])) <= 0.1


def test_quality_of_a_good_fit(slab):
    quality = slab[1].quality
    assert 0.9 < quality[schema.DICE_GEOMETRY] < quality[schema.DICE] <= 1
    assert quality[schema.DICE] > 0.97
    assert quality[schema.RESIDUAL] < 1.5
    assert 0.3 < quality[schema.JACOBIAN_MIN] < 1 < quality[schema.JACOBIAN_MAX] < 2
    assert 0.95 < quality[schema.FIT_COVERAGE] <= 1


def test_compression_is_followed(neck):
    patient = make_subject(neck, group="DCM", number=1, severity=0.8)
    fitted = fit(patient.images["mt_mask"], levels_of(patient, neck), neck)
    error = np.linalg.norm(fitted.packed(neck) - patient.truth.template_map, axis=1)
    assert np.nanmedian(error) < 0.5
    assert fitted.quality[schema.DICE] > 0.95
    assert fitted.quality[schema.JACOBIAN_MIN] > 0


def test_beyond_the_mask_there_is_nothing(subject, neck, levels):
    """The upper half of the mask: the map ends within a slice of where the mask does, and covers about half of the template."""
    whole = subject.images["mt_mask"]
    slices = np.flatnonzero(whole.data.any(axis=(0, 1)))
    half = whole.data.copy()
    half[:, :, : slices[len(slices) // 2]] = 0
    fitted = fit(Volume(half, whole.affine), levels, neck, deformable=False)
    seen = np.isfinite(fitted.block).all(axis=(0, 1, 3))
    assert np.array_equal(np.isnan(fitted.block).all(axis=(0, 1, 3)), ~seen)  # whole slices
    inside = fitted.block[:, :, seen][neck.cord[:, :, seen] >= 0.5]
    assert whole.grid.voxel(inside)[:, 2].min() > slices[len(slices) // 2] - 1.5
    assert fitted.quality[schema.FIT_COVERAGE] < 0.75


# --- input ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", ["PSR", "LPI", "IAL"])
def test_how_the_mask_is_stored_does_not_matter(subject, neck, levels, slab, tmp_path, axes):
    mask, fitted = slab
    image = nib.Nifti1Image(mask.data, mask.affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.orientations.axcodes2ornt(axes))
    image.as_reoriented(turn).to_filename(tmp_path / "mask.nii.gz")
    again = fit(read_volume(tmp_path / "mask.nii.gz", what="MT mask"), levels, neck)
    assert np.nanmax(np.abs(again.block - fitted.block)) < 0.01
    assert np.array_equal(np.isnan(again.block), np.isnan(fitted.block))


def test_a_cord_beyond_the_template(subject, levels):
    thoracic = parametric_cord(spacing=1.0, top="T2", bottom="T4")
    mask = subject.images["mt_mask"]
    axis = transfer(levels, centreline_from_mask(mask.data, mask.affine, what="mask"))
    with pytest.raises(LevelError, match="a cord within the template") as error:
        fit_template_map(mask.data, mask.affine, axis, thoracic, what="cord mask of the MT-on image")
    assert error.value.where == "cord mask of the MT-on image"


def test_an_empty_mask_cannot_be_fitted(subject, neck, levels):
    mask = subject.images["mt_mask"]
    axis = transfer(levels, centreline_from_mask(mask.data, mask.affine, what="mask"))
    with pytest.raises(CordError, match="an empty mask"):
        fit_template_map(np.zeros_like(mask.data), mask.affine, axis, neck)


# --- there and back ---------------------------------------------------------------------------------------------------
def test_invert_undoes_the_map(slab, neck):
    """Native cord voxel -> template -> native: less than 0.1 mm."""
    mask, fitted = slab
    back = invert(fitted, neck, mask.affine, mask.data.shape)
    inside = (mask.data > 0) & np.isfinite(back).all(axis=-1)
    assert inside.sum() > 0.7 * mask.data.sum()  # the slab is a slice and a half longer than the template
    again = np.stack([sample(fitted.block[..., k], neck.block_grid.affine, back[inside]) for k in range(3)], axis=-1)
    miss = np.linalg.norm(again - mask.grid.world(np.argwhere(inside).astype(float)), axis=-1)
    z = neck.block_grid.voxel(back[inside])[:, 2]
    assert miss[(z >= 0) & (z <= neck.cord.shape[2] - 1)].max() < 0.1


def test_fractions_carry_the_cord_s_volume(slab, neck):
    mask, fitted = slab
    fractions = native_fractions(fitted, neck, mask.affine, mask.data.shape)
    sums = np.asarray(fractions.sum(axis=1)).reshape(mask.data.shape)
    assert sums[sums > 0] == pytest.approx(1, abs=1e-5)
    full = np.flatnonzero(mask.data.any(axis=(0, 1)))[3:-3]  # slices that the template fills
    cord = (fractions @ neck.cord.ravel()).reshape(mask.data.shape)
    assert cord[:, :, full].sum() == pytest.approx(mask.data[:, :, full].sum(), rel=0.04)


def test_ants_reads_our_warps(slab, neck, tmp_path):
    """Both directions: ANTs with the written field against `sample` with our positions."""
    import ants

    mask, fitted = slab
    block, native = neck.block_grid.affine, mask.affine
    back = invert(fitted, neck, native, mask.data.shape)
    files = {
        "mask": Volume(mask.data.astype(np.float32), native), "cord": Volume(neck.cord, block),
        "to_template": Volume(displacement_field(fitted.block, block), block), "to_image": Volume(displacement_field(back, native), native),
    }  # fmt: skip
    for name, volume in files.items():
        write_volume(tmp_path / f"{name}.nii.gz", volume, intent="vector" if volume.data.ndim == 5 else None)

    def theirs(fixed, moving, warp):
        images = (ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in (fixed, moving))
        return ants.apply_transforms(*images, [str(tmp_path / f"{warp}.nii.gz")], interpolator="linear").numpy() >= 0.5

    assert dice(theirs("cord", "mask", "to_template"), sample(mask.data, native, fitted.block) >= 0.5) > 0.98
    assert dice(theirs("mask", "cord", "to_image"), sample(neck.cord, block, back) >= 0.5) > 0.98
