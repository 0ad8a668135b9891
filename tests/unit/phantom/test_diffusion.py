"""Simulated diffusion series hold what their truth says: in numbers that a fit without any of the package's own corrections gives."""

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.mapping.native import native_atlas
from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.epi import DWI_PERFECT, DwiImperfection, draw_field, positions, scanned
from cohort_engine.phantom.protocol import B800, DTI_STUDY, gradients, site_dwi
from cohort_engine.phantom.subject import draw_body
from cohort_engine.phantom.tensors import diffusivities, draw_diffusion
from cohort_engine.phantom.tissue import regional_truth
from cohort_engine.qmri.tensor import fit_tensor
from cohort_engine.reduce.native import reduce_group, signal_weights
from cohort_engine.single.dti import around
from cohort_engine.template.levels import LevelRange
from cohort_engine.template.parametric import parametric_cord

FEW = replace(B800, directions=12, b0_at=(0, 7), slices=4)


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C3", bottom="C5")


@pytest.fixture(scope="module")
def perfect(cord):
    return make_dwi(cord, group="HC", seed=3, protocol=FEW, imperfection=DWI_PERFECT)


def fitted(signals, bvals, directions):
    """FA and MD (n,) of signals (n, t) by least squares of the logarithm."""
    x, y, z = directions.T
    design = np.column_stack([np.ones(len(bvals)), *(-bvals / 1000 * d for d in (x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z))])
    d = np.linalg.lstsq(design, np.log(np.maximum(signals, 1)).T, rcond=None)[0][1:].T
    value = np.linalg.eigvalsh(d[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3))
    md = value.mean(1)
    return np.sqrt(1.5 * ((value - md[:, None]) ** 2).sum(1) / (value**2).sum(1)), md


def core(scan, margin=2):
    """Voxels of the mask with `margin` voxels of it around them in the plane."""
    inside = scan.truth.mask.data > 0
    for _ in range(margin):
        inside = inside & np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    return inside


def test_the_series_shows_the_true_tensors(perfect, cord):
    inside = core(perfect)
    fa, md = fitted(perfect.series.data[inside].astype(float), perfect.bvals, perfect.directions)
    place = np.argwhere(inside)
    truth = perfect.truth.diffusion
    white = [i for i, name in enumerate(cord.atlas.labels) if name.startswith("WM")]
    grey = [i for i, name in enumerate(cord.atlas.labels) if name.startswith("GM")]
    lowest, highest = truth.fa[grey].min(), truth.fa[white].max()
    assert len(place) > 80
    assert lowest - 0.02 < fa.min() < np.median(truth.fa[grey]) + 0.1
    assert highest - 0.05 < fa.max() < highest + 0.01
    np.testing.assert_allclose(np.median(md), np.median(truth.md[white]), rtol=0.02)


def test_texts_give_the_directions_back(cord):
    for axes in ("LAS", "RAS", "LPS"):
        scan = make_dwi(cord, group="HC", protocol=replace(FEW, slices=1, directions=6, b0_at=(2,), axes=axes), imperfection=DWI_PERFECT)
        affine = scan.series.stored.affine
        rows = np.loadtxt(scan.bvec.splitlines())
        if np.linalg.det(affine[:3, :3]) > 0:
            rows[0] *= -1
        np.testing.assert_allclose(rows.T @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T, scan.directions, atol=1e-6)
        assert np.array_equal(np.fromstring(scan.bval, sep=" "), [800, 800, 0, 800, 800, 800, 800])
        stored = scan.series.stored.restored(scan.series.data)
        assert np.array_equal(scan.series.stored.turned(stored), scan.series.data)


def test_signal_falls_with_the_gradient_along_the_cord(perfect):
    signal = perfect.series.data[core(perfect)].mean(0).astype(float)
    weighted = perfect.bvals > 0
    along = np.abs(perfect.directions[weighted] @ perfect.truth.mask.affine[:3, 2]) / 5
    assert np.corrcoef(along**2, np.log(signal[weighted]))[0, 1] < -0.95


def test_motion_is_where_the_truth_says(cord):
    worse = DwiImperfection(snr=np.inf, drift=0.6, jitter=0.2, jumps=2, jump=5.0, interleaved=0.8, dropped=3, bias=0.0)
    scan = make_dwi(cord, group="HC", seed=3, protocol=FEW, imperfection=worse)
    x, y = (np.arange(n) * 0.9 for n in scan.series.data.shape[:2])
    b0 = np.flatnonzero(scan.bvals == 0)
    bright = np.where(scan.series.data > 1000, scan.series.data, 0).astype(float)[..., b0]
    total = bright.sum((0, 1))
    middle = np.stack([np.einsum("i,ijzt->tz", x, bright) / total.T, np.einsum("j,ijzt->tz", y, bright) / total.T], axis=-1)
    moved = middle[1] - middle[0]
    np.testing.assert_allclose(moved, scan.truth.shifts[b0[1]] - scan.truth.shifts[b0[0]], atol=0.12)
    assert scan.truth.jumped.sum(1)[scan.truth.jumped.any(1)].tolist() == [2, 2]  # of four slices, those of one kind
    assert scan.truth.dropped.sum() == 3
    assert not scan.truth.dropped[scan.bvals == 0].any()
    inside = core(scan, 0).any(2)
    level = scan.series.data[inside].mean(0).T
    kept = level / np.median(level[scan.bvals > 0], axis=0)
    assert kept[scan.truth.dropped].max() < 0.5 < kept[~scan.truth.dropped].min()


def test_the_displacement_leads_back_to_the_undistorted_image(cord):
    wide = replace(FEW, plane=(64.8, 64.8), directions=6, b0_at=(0,))
    still = make_dwi(cord, group="HC", seed=3, protocol=wide, imperfection=DWI_PERFECT)
    spoilt = replace(DWI_PERFECT, distortion=8.0)
    scan = make_dwi(cord, group="HC", seed=3, protocol=wide, imperfection=spoilt, reverse=True)
    d, y = scan.truth.displacement, positions(72, 0.9)
    assert 7.5 < np.abs(d).max() <= 8.0
    for image, sign in ((scan.series.data[..., 0], 1.0), (scan.reverse.data, -1.0)):
        back = np.empty(d.shape)
        for i, k in np.ndindex(d.shape[0], d.shape[2]):
            slope = 1 + sign * np.gradient(d[i, :, k], 0.9)
            back[i, :, k] = np.interp(y + sign * d[i, :, k], y, image[i, :, k].astype(float)) * slope
        inside = core(scan, 0)
        error = np.abs(back - still.series.data[..., 0])[inside]
        assert np.median(error) < 25  # of 1900
        np.testing.assert_allclose(back[inside].mean(), still.series.data[..., 0][inside].mean(), rtol=0.01)
    assert np.abs(scan.series.data[..., 0].astype(float) - still.series.data[..., 0])[core(scan, 0)].max() > 500


def test_a_moved_slice_keeps_its_signal():
    rng = np.random.default_rng(0)
    plane = np.zeros((60, 90), np.float32)
    plane[20:40, 30:50] = rng.uniform(1, 2, (20, 20))
    edges = np.arange(91) / 3
    moved = (2 * np.sin(edges / 6) * np.linspace(0.5, 1, 60)[:, None]).astype(float)
    image = scanned(plane, moved, 1.3, (1.0, 1.0), (16, 26), split=3, margin=(2, 2))
    np.testing.assert_allclose(image.sum(), plane.sum() / 9, rtol=1e-5)


def test_distortion_does_not_fold():
    for seed in range(20):
        field = draw_field(15, 5.0, np.random.default_rng(seed), 11.0)
        y = positions(72, 0.9, split=3, margin=15)
        found = field.at(np.array([0.0]), y)
        assert np.gradient(found, y, axis=1).min() > -0.6
        assert np.abs(field.along).max() == pytest.approx(11.0)
        assert np.abs(np.diff(field.along)).max() < 7


def test_diffusion_has_the_anatomy_of_the_other_scans(cord):
    body = draw_body(cord, group="DCM", number=0, seed=3, site=0, severity=None, patient=None)  # as make_subject does
    scan = make_dwi(cord, seed=3, protocol=FEW, imperfection=DWI_PERFECT)
    np.testing.assert_allclose(scan.truth.template_map, body.anatomy.world(cord.packing.xyz), atol=1e-4)
    same = make_dwi(cord, seed=3, protocol=FEW, imperfection=DwiImperfection(snr=10, jumps=0))
    np.testing.assert_array_equal(same.truth.diffusion.fa, scan.truth.diffusion.fa)
    np.testing.assert_array_equal(same.series.affine, scan.series.affine)


def test_snr_is_that_of_white_matter(cord):
    noisy = DwiImperfection(snr=20, drift=0, jitter=0, jumps=0, dropped=0, bias=0)
    first, second = (
        make_dwi(cord, group="HC", seed=3, protocol=replace(FEW, directions=6, b0_at=(0, 1)), imperfection=replace(noisy, snr=snr)).series.data
        for snr in (20, np.inf)
    )
    inside = core(make_dwi(cord, group="HC", seed=3, protocol=replace(FEW, directions=6, b0_at=(0, 1)), imperfection=DWI_PERFECT))
    noise = (first.astype(float) - second)[inside][:, :2]
    assert noise.std() == pytest.approx(1800 / 20, rel=0.15)


def test_the_dti_study_is_interpolated_and_its_noise_goes_together(cord):
    scan = make_dwi(cord, group="HC", seed=3, protocol=replace(DTI_STUDY, slices=2))
    np.testing.assert_allclose(scan.series.grid.spacing, [0.625, 0.625, 9.2])
    assert scan.series.data.shape == (128, 128, 2, 16)
    air = scan.series.data[:12, :12, 0].astype(float)
    together = np.corrcoef(air[:, :-1].ravel(), air[:, 1:].ravel())[0, 1]
    assert together > 0.3  # rows are 0.625 mm of 1.25 mm
    still = make_dwi(cord, group="HC", seed=3, protocol=replace(DTI_STUDY, slices=2), imperfection=DWI_PERFECT)
    inside = still.truth.mask.data > 0
    fluid = still.series.data[..., 0].astype(float)
    away = [np.abs(np.argwhere(part).mean(0)[:2] - np.argwhere(inside).mean(0)[:2]).max() for part in [fluid > 0.6 * fluid.max()]]
    assert max(away) < 1.0  # the mask lies in the middle of the canal


def test_published_effects_are_planted(cord):
    whole = parametric_cord(spacing=2.0, top="C1", bottom="C7")
    loss, ages, fa = [], [], []
    levels = tuple(LevelRange.parse(name) for name in ("C2:C3", "C5:C6"))
    regions = [r for r in whole.atlas.regions if r.name in ("white matter", "dorsal columns", "lateral funiculi")]
    for group in ("DCM", "HC"):
        for number in range(60):
            body = draw_body(whole, group=group, number=number, seed=1, site=0, severity=None, patient=None)
            rng = np.random.default_rng([7, number, group == "DCM"])
            tissue = draw_diffusion(whole, body.anatomy, rng, age=body.age)
            fa.append(regional_truth(whole, tissue.fa, levels, tuple(regions)))
            ages.append(body.age)
            loss.append((tissue.loss.mean(), body.tissue.loss.mean()))
    fa, ages, loss = np.array(fa), np.array(ages), np.array(loss)
    ill, well = fa[:60], fa[60:]
    effect = (ill.mean(0) - well.mean(0)) / np.sqrt((ill.var(0, ddof=1) + well.var(0, ddof=1)) / 2)
    change = 100 * (ill.mean(0) / well.mean(0) - 1)
    assert -1.3 < effect[0].mean() < -0.5  # C2-C3: published -0.83
    assert -2.6 < effect[1].mean() < -1.1  # compression: published -1.52, with the noise of the measurement
    names = [r.name for r in regions]
    assert -11 < change[0][names.index("dorsal columns")] < -5  # -7.9
    assert -9 < change[0][names.index("lateral funiculi")] < -3.5  # -6.2
    assert -0.8 < np.corrcoef(ages[60:], well[:, 0].mean(1))[0, 1] < -0.2
    assert 0.6 < np.corrcoef(loss[:60].T)[0, 1] < 0.98  # FA suffers with MTR, not in step


def test_sites_differ():
    first, second = (site_dwi(site, 0) for site in (0, 1))
    assert first.axes != second.axes
    assert abs(first.fa_offset - second.fa_offset) > 1e-4


def test_diffusivities_are_positive():
    axial, radial = diffusivities(np.linspace(0, 0.95, 20), np.full(20, 0.9))
    assert (radial > 0).all()
    assert (axial >= radial).all()


def test_directions_cover_the_sphere():
    bvals, directions = gradients(B800)
    unit = directions[bvals > 0]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    apart = np.abs(unit @ unit.T) - np.eye(30)
    assert np.degrees(np.arccos(apart.max(1))).min() > 13


def test_tracts_have_their_diffusivity_where_labels_fill_the_voxels(perfect, cord):
    """Voxels at the border of the atlas hold fluid that no label stands for: the mixture would take it from the tracts."""
    inside = around(perfect.truth.mask.data > 0, perfect.series.grid.spacing, 2.0)
    found = np.full((*inside.shape, 3), np.nan)
    channels = fit_tensor(perfect.series.data[inside], perfect.bvals, perfect.directions)
    found[inside] = np.stack([channels["fa"], channels["md"], channels["s0"]], axis=-1)
    clusters, regions = tuple(cord.atlas.clusters.values()), [r.members for r in cord.atlas.regions]
    names, error = [r.name for r in cord.atlas.regions], {}
    atlas = native_atlas(perfect.truth.template_map, cord, perfect.series.affine, inside.shape)
    for name, some in (("all", atlas), ("filled", atlas.filled())):
        fa, md, s0 = found.reshape(-1, 3)[some.voxel].T
        weights = signal_weights(some.weights, s0 * np.exp(-0.4 * md), some.voxel % inside.shape[2], clusters)
        for metric, value, w in (("fa", fa, some.weights), ("md", md, weights)):
            cells = reduce_group(value, w, regions, clusters, estimator="map")
            large = [i for i, n in enumerate(names) if n.startswith("WM") and cells.n[i] > 15]
            truth = np.nanmean(getattr(perfect.truth, metric)[:, large], axis=0)
            error[name, metric] = np.abs(cells.value[large] / truth - 1).mean()
    assert len(large) > 6
    assert error["filled", "md"] < 0.03 < 0.1 < error["all", "md"]
    assert error["filled", "fa"] < 0.03
