import numpy as np
import pytest

from cohort_engine.mapping.fractions import tissue_fractions, tissue_maps
from cohort_engine.mapping.likelihood import CSF, FEWEST, GREY, REST, WHITE, around, explained, with_rest
from cohort_engine.mapping.template_map import fit_template_map


@pytest.fixture
def mixture():
    """Fractions (8, 8, 4, 3), and an image that they explain but for noise of known share."""
    rng = np.random.default_rng(3)
    fractions = rng.dirichlet(np.ones(4), (8, 8, 4))[..., :3]
    return fractions, with_rest(fractions) @ (50.0, 60.0, 90.0, 20.0)


def test_noise_takes_its_share_and_leaves_the_means(mixture):
    fractions, image = mixture
    noise = np.random.default_rng(1).normal(0, image.std() * 0.5, image.shape)
    found = explained(image + noise, fractions, np.ones(image.shape, bool))
    assert found.share == pytest.approx(0.8, abs=0.1)
    assert found.means.mean(axis=0) == pytest.approx([50, 60, 90, 20], abs=6)


def test_what_is_missing_takes_no_part(mixture):
    fractions, image = mixture
    image, fractions = image.copy(), fractions.copy()
    image[0, :, 0], fractions[0, :, 1] = np.nan, np.nan
    image[:, :, 2] = 7.0
    region = np.ones(image.shape, bool)
    region[:, :, 3] = False
    region[:3, :3, 3] = True  # 9 voxels
    found = explained(image, fractions, region)
    assert found.n.tolist() == [56, 56, 64, 9]
    assert found.n[3] < FEWEST
    assert found.share[:2] == pytest.approx(1.0)
    assert np.isnan(found.share[2:]).all()
    assert np.isnan(found.white_below_grey[2:]).all()
    assert found.mean == pytest.approx(1.0)


def test_a_tissue_that_is_not_there_has_no_value_and_the_others_have(mixture):
    fractions, image = mixture
    without = fractions.copy()
    without[:, :, 1, GREY] = 0.0
    found = explained(with_rest(without) @ (50.0, 60.0, 90.0, 20.0), without, np.ones(image.shape, bool))
    assert np.isnan(found.means[1, GREY])
    assert found.means[1, [WHITE, CSF, REST]] == pytest.approx([50, 90, 20])
    assert np.isnan(found.white_below_grey[1])
    assert found.white_below_grey[0] == 1


def test_the_means_say_which_is_darker_whatever_the_sign(mixture):
    fractions, image = mixture
    assert (explained(-image, fractions, np.ones(image.shape, bool)).white_below_grey == 0).all()


def test_nothing_to_explain(mixture):
    fractions, image = mixture
    found = explained(image, fractions, np.zeros(image.shape, bool))
    assert np.isnan(found.share).all()
    assert np.isnan(found.mean)


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (0.9, 0.9, 5.0)])
def test_tissues_of_the_template_in_the_image(make_scan, template, voxel):
    scan = make_scan(voxel, tilt=8)
    fitted = fit_template_map(scan.mask, scan.affine, scan.levels, template)
    fractions = tissue_fractions(fitted, template, scan.affine, scan.mask.shape)
    assert fractions.min() >= 0
    assert fractions.sum(axis=-1).max() <= 1 + 1e-5
    image = with_rest(fractions) @ (50.0, 60.0, 90.0, 20.0)
    region = around(scan.mask)
    assert explained(image, fractions, region).mean == pytest.approx(1.0)
    aside = explained(image, np.roll(fractions, 1, axis=0), region)
    assert aside.mean < 0.95


def test_the_rim_of_csf_is_that_of_the_atlas(template):
    white, grey, csf = tissue_maps(template)
    assert np.array_equal(white, template.wm)
    assert np.array_equal(grey, template.gm)
    assert csf.max() <= 1
    assert 0 < csf.sum() <= template.csf.sum() * 1.001
