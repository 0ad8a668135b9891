import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from cohort_engine.errors import CordError, GeometryError
from cohort_engine.qmri.motion import _slice_cost, _tried, apply_shifts, estimate_slicewise


@pytest.fixture
def make_pair():
    """Two images of one neck-like object with different contrast; the second is displaced by `shifts` (z, 2) mm."""

    def make(shifts, *, spacing=(0.9, 0.9, 5.0), size=60, noise=0.01, seed=0):
        shifts, rng = np.asarray(shifts, float), np.random.default_rng(seed)
        texture = gaussian_filter(rng.normal(size=(400, 400)), 8)
        texture /= texture.std()

        def render(z, dx, dy, signal):
            x, y = np.meshgrid(*((np.arange(size) - size / 2 + 0.5) * s for s in spacing[:2]), indexing="ij")
            x, y = x - dx, y - dy
            cord = 1 / (1 + np.exp((np.hypot(x / 6.5, y / 4.5) - 1) * 8))
            canal = 1 / (1 + np.exp((np.hypot(x / 11, y / 8) - 1) * 10))
            i = np.clip(((x + 40) * 5).astype(int), 0, 399), np.clip(((y + 40) * 5).astype(int), 0, 399)
            return cord * signal[0] + (canal - cord) * signal[1] + (1 - canal) * (signal[2] + 0.15 * texture[i])

        fixed = np.stack([render(z, 0, 0, (0.45, 0.95, 0.5)) for z in range(len(shifts))], -1)
        moving = np.stack([render(z, *s, (0.85, 1.0, 0.7)) for z, s in enumerate(shifts)], -1)
        x, y = np.meshgrid(*((np.arange(size) - size / 2 + 0.5) * s for s in spacing[:2]), indexing="ij")
        mask = np.repeat((np.hypot(x / 6.5, y / 4.5) < 1)[..., None], len(shifts), -1)
        return fixed + rng.normal(0, noise, fixed.shape), moving + rng.normal(0, noise, moving.shape), mask, spacing

    return make


def test_no_shift_is_found_where_there_is_none(make_pair):
    assert np.abs(estimate_slicewise(*make_pair(np.zeros((8, 2))))).max() < 0.1


@pytest.mark.parametrize("constant", [(0.0, 1.2), (-2.1, 0.4), (0.45, -0.45)])
def test_a_constant_shift(make_pair, constant):
    shifts = np.tile(constant, (8, 1))
    assert np.abs(estimate_slicewise(*make_pair(shifts)) - shifts).max() < 0.1


@pytest.mark.parametrize(("slices", "thickness"), [(22, 5.0), (5, 16.5)])
def test_a_shift_that_drifts_along_z(make_pair, slices, thickness):
    z = np.arange(slices) * thickness
    shifts = np.stack([0.8 * np.sin(z / 40), 0.5 + 0.6 * np.cos(z / 35)], 1)
    found = estimate_slicewise(*make_pair(shifts, spacing=(0.9, 0.9, thickness)))
    assert np.median(np.abs(found - shifts)) < 0.1


def test_a_blank_slice_leans_on_its_neighbours(make_pair):
    shifts = np.tile([0.9, -0.6], (9, 1))
    fixed, moving, mask, spacing = make_pair(shifts)
    moving[..., 4] = np.nan
    fixed[..., 7] = 0
    assert np.abs(estimate_slicewise(fixed, moving, mask, spacing) - shifts).max() < 0.1


def test_a_noisy_slice_does_not_run_away(make_pair):
    shifts = np.tile([0.5, 0.5], (9, 1))
    fixed, moving, mask, spacing = make_pair(shifts)
    moving[..., 4] = np.random.default_rng(1).normal(size=moving.shape[:2])
    assert np.abs(estimate_slicewise(fixed, moving, mask, spacing) - shifts).max() < 0.15


def test_slices_without_cord_follow_the_others(make_pair):
    shifts = np.tile([0.9, -0.6], (9, 1))
    fixed, moving, mask, spacing = make_pair(shifts)
    mask[..., :3] = False
    assert np.abs(estimate_slicewise(fixed, moving, mask, spacing) - shifts).max() < 0.1


def test_applying_the_planted_shift_restores_the_image(make_pair):
    shifts = np.tile([1.3, -0.7], (3, 1))
    _, still, mask, spacing = make_pair(np.zeros((3, 2)), noise=0)
    _, moved, _, _ = make_pair(shifts, noise=0)
    back = apply_shifts(moved, shifts, spacing)
    assert np.abs(back - still)[mask].max() < 0.02
    assert np.abs(moved - still)[mask].max() > 0.05


def test_a_shift_does_not_blur():
    """Stripes of three voxels, as broad as a horn of grey matter: half a voxel aside and back; a cubic spline takes a tenth of them."""
    x = np.arange(60)
    stripes = np.cos(2 * np.pi * x / 3)[:, None, None] * np.ones((1, 20, 1))
    there, inside = np.array([[0.5, 0.0]]), np.s_[18:-18, 9:-9]
    left = {
        o: apply_shifts(apply_shifts(stripes, there, (1.0, 1.0, 5.0), o), -there, (1.0, 1.0, 5.0), o)[inside] / stripes[inside] for o in (3, None)
    }
    assert left[None].min() > 0.98
    assert left[3].max() < 0.9


def test_outside_is_nan_and_nan_does_not_ring():
    image = np.ones((8, 8, 1))
    image[2, 2, 0] = np.nan
    out = apply_shifts(image, np.array([[0.5, 0.0]]), (1.0, 1.0, 5.0))
    assert np.isnan(out[-1]).all()
    assert np.isnan(out[1:3, 2, 0]).all()
    assert np.isnan(out).sum() == 8 + 2
    np.testing.assert_allclose(out[np.isfinite(out)], 1, atol=1e-6)


def test_an_empty_mask(make_pair):
    fixed, moving, mask, spacing = make_pair(np.zeros((3, 2)))
    with pytest.raises(CordError, match="contrast around"):
        estimate_slicewise(fixed, moving, mask & False, spacing)


def test_two_grids(make_pair):
    fixed, moving, mask, spacing = make_pair(np.zeros((3, 2)))
    with pytest.raises(GeometryError, match="one grid"):
        estimate_slicewise(fixed, moving[:-1], mask, spacing)
    with pytest.raises(GeometryError, match="one in-plane shift a slice"):
        apply_shifts(moving, np.zeros((2, 2)), spacing)


def test_every_tried_place_is_the_spline_of_the_plane():
    """The two matrices against one interpolation at every tried place, and beyond the ends."""
    rng = np.random.default_rng(0)
    image, places = spline_filter(rng.normal(size=(9, 14))), [np.linspace(-2, 7, 25), np.linspace(3, 16, 31)]
    (x, part_x), (y, part_y) = (_tried(p[:, None], n) for p, n in zip(places, image.shape, strict=True))
    expected = map_coordinates(image, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest", prefilter=False)
    assert x @ image[part_x, part_y] @ y.T == pytest.approx(expected, abs=1e-13)


def test_the_cost_of_a_slice_is_that_of_the_definition(make_pair):
    fixed, moving, cord, spacing = make_pair([[0.4, -0.3]])
    tries, window, smooth = np.arange(-4, 5) * 0.25, 20.0, 0.7
    found = _slice_cost(fixed[..., 0], moving[..., 0], cord[..., 0], np.array(spacing), window, smooth, tries)

    at = (np.indices(cord.shape[:2]) - np.argwhere(cord[..., 0]).mean(0)[:, None, None]) * 0.9
    weight = np.clip(4 * (1 - np.hypot(*at) / (window / 2)), 0, 1)
    n = weight.sum() * 0.81 / (4 * np.pi * smooth**2 + 0.81)
    gradients = [[gaussian_filter(im[..., 0], smooth / 0.9, order=o, mode="nearest") for o in ((1, 0), (0, 1))] for im in (fixed, moving)]
    for i, j in np.ndindex(found.shape):
        to = np.indices(cord.shape[:2]) + np.array([tries[i], tries[j]])[:, None, None] / 0.9
        shifted = [map_coordinates(g, to, order=3, mode="mirror") for g in gradients[1]]
        product, energy, power = (
            sum((weight * a * b).sum() for a, b in zip(*pair, strict=True))
            for pair in ((gradients[0], shifted), (gradients[0], gradients[0]), (shifted, shifted))
        )
        assert found[i, j] == pytest.approx(n * np.log1p(-(product**2) / (energy * power)), rel=1e-9)
