"""Speed of the template map on a simulated MT slab (parametric cord C2 to C7, 0.5 mm) and of sampling at its packed voxels."""

import pytest

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.mapping.template_map import fit_template_map, sample
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import make_subject


@pytest.fixture(scope="module")
def slab():
    """Template, MT-on image, its mask and levels."""
    template = parametric_cord(spacing=0.5, top="C2", bottom="C7")
    scans = make_subject(template, group="HC").images
    t2w, discs, mask = scans["t2w_mask"], scans["t2w_landmarks"], scans["mt_mask"]
    marks = landmarks_from_labels(discs.data, discs.affine, kind="disc", what="landmarks")
    levels = level_axis(centreline_from_mask(t2w.data, t2w.affine, what="T2w mask"), marks, template)
    return template, scans["mt_on"], mask, transfer(levels, centreline_from_mask(mask.data, mask.affine, what="MT mask"))


@pytest.mark.parametrize("deformable", [False, True], ids=["geometry", "SyN"])
def test_fit(benchmark, slab, deformable):
    template, _, mask, levels = slab
    fitted = benchmark.pedantic(fit_template_map, (mask.data, mask.affine, levels, template), {"deformable": deformable}, rounds=3)
    assert fitted.quality["dice"] > 0.95


@pytest.mark.parametrize("order", [1, 3])
def test_sample_at_packed_voxels(benchmark, slab, order):
    template, image, mask, levels = slab
    xyz = fit_template_map(mask.data, mask.affine, levels, template, deformable=False).packed(template)
    values = benchmark(sample, image.data, image.affine, xyz, order=order)
    assert values.shape == (len(template.packing),)
