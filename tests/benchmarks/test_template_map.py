"""Speed of the template map on a simulated MT slab (parametric cord C2 to C7, 0.5 mm), of sampling at its packed voxels, and of a real one.

Run with ``pytest -s --benchmark-only tests/benchmarks/test_template_map.py``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import read_volume
from cohort_engine.mapping.template_map import fit_template_map, sample
from cohort_engine.single.fit import fit_cord
from cohort_engine.template import load_template
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


def taken(work: Callable[[], Any]) -> float:
    """Processor time of this process, s."""
    start = time.process_time()
    work()
    return time.process_time() - start


def unit() -> None:
    """A fixed piece of work of the kinds that a fit is made of: interpolation, products of small matrices, passes over arrays."""
    rng = np.random.default_rng(1)
    block, at = rng.random((64, 64, 128)), rng.random((3, 500_000)) * 60
    for _ in range(3):
        ndimage.map_coordinates(block, at, order=1)
        np.linalg.solve(rng.random((3000, 15, 15)) + 15 * np.eye(15), rng.random((3000, 15, 1)))
        ndimage.gaussian_filter(block, 1.0)


@pytest.mark.real
def test_a_real_fit_with_and_without_the_image(benchmark: Any, real_data: Path) -> None:
    """MT of HC003U onto PAM50, levels of its T2w image, one thread. A busy machine takes longer for the fixed piece of work, too."""
    anat, who = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat", "sub-HC003U_ses-spinalcord"
    template = load_template("PAM50", path=real_data / "PAM50")
    on, cord = (read_volume(anat / f"MTS/{who}_acq-MTon_MTS{part}.nii.gz", what="MT-on") for part in ("", "_seg"))
    t2w, points = (read_volume(anat / f"T2w/{who}_T2w_seg{part}.nii.gz", what="T2w") for part in ("", "_labeled_discs"))
    discs = landmarks_from_labels(points.data, points.affine, kind="disc", what="discs")
    fit_cord(cord, discs, template, labelled=t2w, image=on)  # what is kept of a template is made once a process

    def once() -> tuple[float, ...]:
        return taken(unit), *(taken(lambda i=image: fit_cord(cord, discs, template, labelled=t2w, image=i)) for image in (None, on))

    work, mask, both = np.array(benchmark.pedantic(lambda: [once() for _ in range(5)], rounds=1)).min(axis=0)
    print(
        f"\nCPU: by the mask alone {mask:.2f} s, with the image {both:.2f} s; a fixed piece of work {work:.2f} s,",
        f"so {mask / work:.1f} and {both / work:.1f} of it",
    )
    assert both <= 4.0
