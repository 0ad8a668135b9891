import numpy as np
import pytest
from scipy import ndimage, sparse

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask
from cohort_engine.cord.levels import LevelAxis, transfer
from cohort_engine.errors import CordError, LevelError
from cohort_engine.mapping.fractions import native_fractions, scatter
from cohort_engine.mapping.inverse import invert
from cohort_engine.mapping.template_map import TemplateMap, fit_template_map, sample

ISO, THICK, FIVE = (1.0, 1.0, 1.0), (0.9, 0.9, 5.0), (0.84, 0.84, 16.5)


def seen(fitted):
    """Slices of the block that have positions."""
    return np.flatnonzero(np.isfinite(fitted.block[0, 0, :, 0]))


def cord_errors(fitted, scan, template):
    """Across and along the cord, mm, of every template cord voxel that has a position."""
    inside = np.zeros(template.cord.shape, bool)
    inside[:, :, seen(fitted)] = template.cord[:, :, seen(fitted)] >= 0.5
    truth = scan.bend.native(template.block_grid.world(np.argwhere(inside).astype(float)))
    error = fitted.block[inside] - truth
    tangent = scan.bend.line.direction(scan.bend.line.project(truth)[0])
    along = (error * tangent).sum(-1)
    return np.linalg.norm(error - along[:, None] * tangent, axis=-1), np.abs(along)


# --- truth ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("voxel", "tilt", "bend"),
    [
        (ISO, 15, {"stretch": 1.1, "waist": 0.4}),
        (THICK, 12, {"stretch": 0.95, "wide": 1.05, "waist": 0.25}),
        (FIVE, 7, {"wide": 0.9}),
        (ISO, 0, {"turn": 8.0, "wide": 0.9, "flat": 0.85}),
    ],
    ids=["compressed, oblique", "5 mm slices", "16.5 mm slices", "turned, smaller"],
)
def test_a_known_map_is_found(make_scan, template, voxel, tilt, bend):
    scan = make_scan(voxel, tilt=tilt, **bend)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    across, along = cord_errors(fitted, scan, template)
    assert np.median(across) < 0.3
    assert np.percentile(across, 95) < (0.8 if voxel == FIVE else 0.6)
    assert np.median(along) < 0.1
    assert along.max() < 0.6
    assert fitted.quality[schema.DICE] > 0.96
    assert fitted.quality[schema.JACOBIAN_MIN] > 0.3
    assert fitted.quality[schema.JACOBIAN_MAX] < 2.0


def test_the_inside_turns_with_the_outline(make_scan, template):
    scan = make_scan(ISO, turn=10.0)
    plain = fit_template_map(scan.mask, scan.affine, scan.levels, template, deformable=False)
    mid = plain.block[:, :, seen(plain)[len(seen(plain)) // 2]]
    centre = np.array(mid.shape[:2]) // 2
    right = (mid[centre[0] + 4, centre[1]] - mid[centre[0] - 4, centre[1]]).astype(float)
    assert np.degrees(np.arctan2(right[1], right[0])) == pytest.approx(10, abs=3)


@pytest.mark.parametrize(
    ("voxel", "bend"),
    [(ISO, {"wide": 0.75, "flat": 1.1}), (THICK, {}), (THICK, {"waist": 0.35}), (FIVE, {})],
    ids=["round", "5 mm slices", "compressed", "16.5 mm slices"],
)
def test_the_edge_is_not_drawn_in_or_out(make_scan, template, voxel, bend):
    """Radius of equal area of the template's cord carried into the image, against the true one."""
    scan = make_scan(voxel, tilt=6, **bend)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    inner = seen(fitted)[8:-8]
    truth = scan.bend.native(template.block_grid.world(np.moveaxis(np.indices(template.cord.shape), 0, -1)[:, :, inner].astype(float)))

    def radius(positions):
        across = np.gradient(positions.astype(float), axis=(0, 1))
        area = np.linalg.norm(np.cross(across[0], across[1]), axis=-1)
        return np.sqrt((area * template.cord[:, :, inner]).sum(axis=(0, 1)) / np.pi)

    bias = radius(fitted.block[:, :, inner]) - radius(truth)
    assert abs(bias.mean()) < 0.1
    assert np.abs(bias).max() < 0.45


# --- what the map covers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("voxel", [ISO, THICK], ids=["1 mm", "5 mm slices"])
def test_grey_matter_moves_the_inside_and_leaves_the_outline(make_scan, template, voxel):
    """Grey matter that lies 0.8 mm to the right of where the outline says it should be."""
    scan = make_scan(voxel)
    voxels = np.argwhere(ndimage.binary_dilation(scan.mask > 0, iterations=2))
    home = scan.bend.template(voxels @ scan.affine[:3, :3].T + scan.affine[:3, 3]) - (0.8, 0.0, 0.0)
    grey = np.zeros(scan.mask.shape, np.float32)
    grey[tuple(voxels.T)] = np.nan_to_num(sample(template.gm, template.block_grid.affine, home))
    plain, inner = (fit_template_map(scan.mask, scan.affine, scan.levels, template, grey=g) for g in (None, grey))
    inside = np.zeros(template.gm.shape, bool)
    inside[:, :, seen(plain)[10:-10]] = template.gm[:, :, seen(plain)[10:-10]] > 0.5
    truth = scan.bend.native(template.block_grid.world(np.argwhere(inside).astype(float)) + np.array([0.8, 0.0, 0.0]))
    off = [float(np.median(np.linalg.norm(fitted.block[inside] - truth, axis=-1))) for fitted in (plain, inner)]
    assert off[0] == pytest.approx(0.8, abs=0.15)
    assert off[1] < 0.6 * off[0]
    assert inner.quality[schema.DICE] > plain.quality[schema.DICE] - 0.02


@pytest.mark.parametrize("voxel", [ISO, THICK], ids=["1 mm", "5 mm"])
def test_positions_end_half_a_slice_beyond_the_mask(make_scan, template, voxel):
    scan = make_scan(voxel, length=30.0)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template, deformable=False)
    arc, _ = scan.bend.line.project(fitted.block[34, 29, seen(fitted)].astype(float))
    assert np.ptp(arc) == pytest.approx(scan.levels.centreline.length, abs=2 * 0.5)
    covered = template.cord[:, :, seen(fitted)].sum() / template.cord.sum()
    assert covered - 0.02 < fitted.quality[schema.FIT_COVERAGE] <= covered  # corners of the end slices lie outside the image


def test_slices_without_mask_have_no_positions(make_scan, template):
    scan = make_scan(ISO)
    cut = scan.mask.copy()
    cut[:, :, :20] = 0
    whole, part = (fit_template_map(m, scan.affine, scan.levels, template, deformable=False) for m in (scan.mask, cut))
    assert len(seen(part)) == len(seen(whole))  # the levels' centreline decides: it belongs to the mask it was made from


def test_packed_positions_are_those_of_the_block(make_scan, template):
    scan = make_scan(ISO)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template, deformable=False)
    packed = fitted.packed(template)
    assert packed.shape == (len(template.packing), 3)
    assert packed.dtype == np.float32
    i, j, k = template.packing.ijk[len(packed) // 2]
    assert np.array_equal(packed[len(packed) // 2], fitted.block[i, j, k])


OF_THE_IMAGE = {
    schema.GREY_CONTRAST, schema.EXPLAINED, schema.EXPLAINED_BEFORE, schema.WHITE_BELOW_GREY, schema.REFINED_AREA_MIN, schema.REFINED_SHIFT,
}  # fmt: skip


def test_geometry_alone_has_no_jacobian(make_scan, template):
    scan = make_scan(ISO)
    quality = fit_template_map(scan.mask, scan.affine, scan.levels, template, deformable=False).quality
    assert set(quality) == set(schema.FIT_QC) - OF_THE_IMAGE
    assert quality[schema.DICE] == quality[schema.DICE_GEOMETRY]
    assert np.isnan(quality[schema.JACOBIAN_MIN])
    assert quality[schema.RESIDUAL] == pytest.approx(0, abs=0.3)


def test_equal_input_gives_equal_bits(make_scan, template):
    scan = make_scan(THICK, waist=0.2)
    a, b = (fit_template_map(scan.mask, scan.affine, scan.levels, template) for _ in range(2))
    assert a.block.tobytes() == b.block.tobytes()
    assert repr(a.quality) == repr(b.quality)


def test_a_cord_that_the_template_does_not_show(make_scan, template):
    scan = make_scan(ISO)
    lower = LevelAxis(scan.levels.centreline, scan.levels.knot_arc, scan.levels.knot_z - 500, np.nan)
    with pytest.raises(LevelError, match="a cord within the template"):
        fit_template_map(scan.mask, scan.affine, lower, template, what="cord mask")


def test_an_empty_mask(make_scan, template):
    scan = make_scan(ISO)
    with pytest.raises(CordError, match="empty"):
        fit_template_map(scan.mask * 0, scan.affine, scan.levels, template)


# --- sampling ---------------------------------------------------------------------------------------------------------
def test_linear_images_are_sampled_exactly():
    affine = np.array([[0.9, 0, 0, -5], [0, 0.8, -0.3, 3], [0, 0.3, 2.0, 7], [0, 0, 0, 1]])
    ijk = np.moveaxis(np.indices((6, 7, 8)), 0, -1)
    xyz = ijk @ affine[:3, :3].T + affine[:3, 3]
    image = xyz @ [1.0, -2, 3] + 4
    inner = (np.array([2.5, 3.25, 4.125]) @ affine[:3, :3].T + affine[:3, 3])[None]
    for order in (1, 3):
        assert sample(image, affine, inner, order=order) == pytest.approx(
            inner @ [1.0, -2, 3] + 4, rel=1e-3
        )  # the cubic spline knows an edge two voxels away


def test_cubic_follows_a_wave_that_linear_cuts():
    wave = np.sin(np.arange(40) / 2)[:, None, None] * np.ones((1, 3, 3))
    at = np.array([[x, 1, 1] for x in np.arange(5, 30, 0.37)])
    errors = [np.abs(sample(wave, np.eye(4), at, order=o) - np.sin(at[:, 0] / 2)).max() for o in (1, 3)]
    assert errors[0] > 0.02
    assert errors[1] < 0.002


def test_a_voxel_reaches_half_a_voxel():
    image = np.arange(4.0)[:, None, None]
    at = np.array([[-0.5, 0, 0], [3.5, 0, 0], [-0.51, 0, 0], [3.51, 0, 0], [1, 0.6, 0], [np.nan, 0, 0]])
    assert sample(image, np.eye(4), at).tolist()[:2] == [0, 3]
    assert np.isnan(sample(image, np.eye(4), at)[2:]).all()


@pytest.mark.parametrize("order", [1, 3])
def test_holes_carry_no_weight(order):
    image = np.full((8, 3, 3), 7.0)
    image[4:] = np.nan
    at = np.array([[3.0, 1, 1], [3.49, 1, 1], [3.51, 1, 1], [5.0, 1, 1]])
    assert sample(image, np.eye(4), at, order=order)[:2] == pytest.approx(7)
    assert np.isnan(sample(image, np.eye(4), at, order=order)[2:]).all()


def test_zero_is_a_value():
    image = np.zeros((4, 3, 3))
    image[2] = 10
    assert sample(image, np.eye(4), np.array([[1.5, 1, 1]])).tolist() == [5]


def test_an_empty_image_of_nothing():
    assert np.isnan(sample(np.full((2, 2, 2), np.nan), np.eye(4), np.array([[0.5, 0.5, 0.5]]), order=3)).all()


# --- back to the image ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("voxel", [ISO, THICK], ids=["1 mm", "5 mm"])
def test_inverse_of_the_map(make_scan, template, voxel):
    scan = make_scan(voxel, tilt=8, waist=0.3)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    back = invert(fitted, template, scan.affine, scan.mask.shape)
    inside = scan.mask > 0
    assert np.isfinite(back[inside]).all(axis=-1).mean() > 0.98
    there = np.isfinite(back).all(axis=-1)
    again = np.stack([sample(np.nan_to_num(fitted.block[..., k], nan=1e4), template.block_grid.affine, back[there]) for k in range(3)], axis=-1)
    home = np.argwhere(there) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    inner = (back[there][:, 2] > template.block_grid.affine[2, 3] + 0.5 * seen(fitted)[1]) & (
        back[there][:, 2] < template.block_grid.affine[2, 3] + 0.5 * seen(fitted)[-2]
    )
    assert np.linalg.norm(again - home, axis=-1)[inner].max() < 0.1


def test_fractions_of_whole_voxels(make_scan, template):
    scan = make_scan(THICK)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    fractions = native_fractions(fitted, template, scan.affine, scan.mask.shape)
    assert fractions.shape == (scan.mask.size, template.cord.size)
    sums = np.asarray(fractions.sum(axis=1)).ravel()
    assert sums[sums > 0] == pytest.approx(1, abs=1e-5)
    cord = (fractions @ template.cord.ravel()).reshape(scan.mask.shape)
    assert cord.sum() == pytest.approx(scan.mask.sum(), rel=0.03)
    assert 2 * np.minimum(cord, scan.mask).sum() / (cord.sum() + scan.mask.sum()) > 0.9  # soft Dice


def test_scatter_brings_packed_weights(make_scan, template):
    scan = make_scan(THICK)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template, deformable=False)
    fractions = native_fractions(fitted, template, scan.affine, scan.mask.shape)
    weights = scatter(fractions, template, template.atlas.weights)
    assert weights.shape == (len(template.atlas.labels), scan.mask.size)
    dense = np.zeros(template.cord.shape)
    dense[tuple((template.packing.ijk - np.array(template.corner)).T)] = template.atlas.weights[[0]].toarray()[0]
    assert weights[[0]].toarray()[0] == pytest.approx(fractions @ dense.ravel(), abs=1e-6)


def test_partial_volumes_recover_what_points_miss(make_scan, template):
    """A thick voxel averages the tissue inside it: 50 in the cord, 0 around it. Weights integrated over voxels give 50 back, point weights do not."""
    scan = make_scan(THICK, waist=0.2, length=40.0)
    fine = 3  # parts of a voxel along each axis
    parts = (np.moveaxis(np.indices(tuple(fine * n for n in scan.mask.shape)), 0, -1).reshape(-1, 3) + 0.5) / fine - 0.5
    at = scan.bend.template(parts @ scan.affine[:3, :3].T + scan.affine[:3, 3])
    index = ((at - template.block_grid.affine[:3, 3]) / template.block_grid.spacing).T
    tissue = (ndimage.map_coordinates(template.cord, index, order=1, mode="nearest") >= 0.5).astype(float)
    x, y, z = scan.mask.shape
    image = 50 * tissue.reshape(x, fine, y, fine, z, fine).mean(axis=(1, 3, 5))

    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    fractions = native_fractions(fitted, template, scan.affine, scan.mask.shape)
    volumes = (fractions @ template.cord.ravel()).reshape(scan.mask.shape)
    reached = np.diff(fractions.indptr).reshape(scan.mask.shape) > 0
    points = np.nan_to_num(
        sample(template.cord, template.block_grid.affine, np.nan_to_num(invert(fitted, template, scan.affine, scan.mask.shape), nan=1e4))
    )
    reached[:, :, [0, -1]] = False

    def regression(w):
        return (w * image)[reached].sum() / (w**2)[reached].sum()

    assert regression(volumes) == pytest.approx(50, abs=0.75)
    assert regression(points) < 49


# --- by hand ----------------------------------------------------------------------------------------------------------
def test_fractions_by_hand(tiny_template):
    """Template voxels of 0.5 mm in native voxels of 1 mm: along x two by two, the block begins at x = -1 mm."""
    grid = tiny_template.block_grid
    identity = TemplateMap(grid.world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)).astype(np.float32), {})
    affine = np.diag([1.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-0.75, -1.5, 40.25]  # one voxel in y and z holds the whole block
    fractions = native_fractions(identity, tiny_template, affine, (3, 1, 1))
    weights = scatter(fractions, tiny_template, sparse.csr_array(tiny_template.atlas.weights))
    # left tract: 1 in voxel x = 1, 0.5 in x = 2, linear between; an eighth of each reaches over the border. One row in y of three
    assert weights.toarray()[0] == pytest.approx([(7 / 8 + 0.5 / 8) / 6, (1 / 8 + 0.5 * 7 / 8) / 6, 0])


def test_levels_of_a_straight_line_are_positions(template):
    """A straight round cord on the template's own axis: the map is the identity along z."""
    line = Centreline.through(np.array([[0.0, 0, -100], [0, 0, -40]]))
    mask = np.zeros((41, 41, 60), np.float32)
    x = np.arange(41) - 20
    mask[(x[:, None] ** 2 + x**2) < 36] = 1
    affine = np.eye(4)
    affine[:3, 3] = [-20, -20, -99.5]
    axis = LevelAxis(line, np.array([0.0, 60.0]), np.array([-100.0, -40.0]), np.nan)
    fitted = fit_template_map(mask, affine, axis, template, deformable=False)
    z = template.block_grid.world(np.array([[0.0, 0, k] for k in seen(fitted)]))[:, 2]
    assert fitted.block[34, 29, seen(fitted), 2] == pytest.approx(z, abs=1e-4)


# --- masks with gaps --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("voxel", "gone", "apart"), [(ISO, [28, 29, 30], 0.1), (THICK, [6], 0.25)], ids=["3 of 60 slices", "1 of 12 slices"])
def test_a_gap_has_no_place_and_leaves_the_rest_alone(make_scan, template, voxel, gone, apart):
    scan = make_scan(voxel, tilt=8)
    mask = scan.mask.copy()
    mask[:, :, gone] = 0
    line = centreline_from_mask(mask, scan.affine, what="cord mask")
    whole, gap = (
        fit_template_map(m, scan.affine, levels, template, deformable=False)
        for m, levels in ((scan.mask, scan.levels), (mask, transfer(scan.levels, line)))
    )
    lost = np.setdiff1d(seen(whole), seen(gap))
    assert abs(len(lost) * template.grid.spacing[2] - len(gone) * voxel[2]) <= 1
    assert (gap.quality[schema.GAPS], whole.quality[schema.GAPS]) == (len(gone), 0)
    assert gap.quality[schema.CENTRELINE_ERROR] > scan.levels.centreline.standard_error(scan.levels.centreline.length / 2)
    assert np.isnan(whole.quality[schema.CENTRELINE_ERROR])
    both = template.cord >= 0.5
    both[:, :, np.isnan(gap.block[0, 0, :, 0])] = False
    assert np.linalg.norm(gap.block[both] - whole.block[both], axis=-1).max() < 1.0
    assert np.sqrt(((gap.block[both] - whole.block[both]) ** 2).sum(-1).mean()) < apart
    # the atlas in the image: in the empty slices only what slants into them, elsewhere the same
    weights = [scatter(native_fractions(f, template, scan.affine, mask.shape), template, template.atlas.weights) for f in (whole, gap)]
    slices = [np.asarray(w.sum(axis=0)).reshape(mask.shape).sum(axis=(0, 1)) for w in weights]
    inner = np.setdiff1d(np.arange(mask.shape[2]), gone)
    assert (slices[1][gone] < 0.5 * slices[0][gone]).all()
    far = np.abs(inner[:, None] - gone).min(axis=1) * voxel[2] > max(3, 1.5 * voxel[2])
    np.testing.assert_allclose(slices[1][inner[far]], slices[0][inner[far]], rtol=0.02, atol=1)
    assert np.isnan(invert(gap, template, scan.affine, mask.shape)[scan.mask > 0].reshape(-1, 3)).any()
