"""The outermost tissue of a template map reaches beyond the border, by the same distance in every image."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.rim import INSIDE, OUTSIDE, RIM, outgrown, with_rim
from cohort_engine.mapping.template_map import TemplateMap, template_depth
from cohort_engine.template import load_template
from cohort_engine.template.base import Template

SPACING = np.array([0.5, 0.5])
RADIUS = 4.0


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template("parametric")


def disc() -> tuple[np.ndarray, np.ndarray]:
    """Places (x, y, z, 3) of one slice, and the depth in a disc of 4 mm."""
    x, y = np.meshgrid(*[(np.arange(41) - 20) * 0.5] * 2, indexing="ij")
    return np.stack([x, y, 0 * x], axis=-1)[:, :, None], (RADIUS - np.hypot(x, y))[:, :, None]


def test_the_border_moves_by_the_rim_in_millimetres_of_the_image() -> None:
    """A cord pressed to six tenths and turned in the scanner: along either axis the tissue ends a quarter of a millimetre farther out."""
    at, depth = disc()
    carried = at @ np.array([[1.2, 0.0, 0.0], [0.0, 0.36, -0.48], [0.0, 0.0, 0.0]])
    moved = np.linalg.norm(outgrown(carried, depth, SPACING) - carried, axis=-1)[..., 0]
    middle, border = 20, 28
    assert [moved[border, middle], moved[middle, border]] == pytest.approx([RIM, RIM], abs=1e-4)
    assert (moved[(depth[..., 0] >= INSIDE) | (depth[..., 0] <= -OUTSIDE)] < 1e-6).all()
    assert moved.max() <= RIM + 1e-5


def test_nothing_folds_and_missing_slices_stay_missing() -> None:
    at, depth = disc()
    both = np.concatenate([at, np.full_like(at, np.nan)], axis=2)
    found = outgrown(both, np.concatenate([depth, depth], axis=2), SPACING)
    assert np.isnan(found[:, :, 1]).all()
    step = np.diff(found[:, 20, 0, 0])
    assert (step > 0.3).all()
    assert (step < 0.7).all()


def test_tissue_grows_by_a_strip_along_its_outline(template: Template) -> None:
    """An area of A with an outline of U mm becomes A + U rim + pi rim^2: the atlas and the maps of tissue alike."""
    block = template.block_grid.world(np.moveaxis(np.indices(template.cord.shape), 0, -1).astype(float)).astype(np.float32)
    block[:, :, 60:] = np.nan
    fitted, size = TemplateMap(block, {}), np.asarray(template.cord.shape) // (2, 2, 10)
    affine = template.block_grid.affine @ np.diag([2.0, 2.0, 10.0, 1.0])
    affine[:3, 3] = template.block_grid.world((np.array([2, 2, 10]) - 1) / 2)
    x, y, z = (int(n) for n in size)
    plain, grown = (
        tissue_fractions(m, template, affine, (x, y, z))[:, :, 2, :2].sum() * np.prod(2 * template.block_grid.spacing[:2])
        for m in (fitted, with_rim(fitted, template))
    )
    depth = template_depth(template, 20, 30)
    strip = ((depth <= 0) & (depth > -1)).sum(axis=(0, 1)).mean() * np.prod(template.block_grid.spacing[:2])
    outline = strip - np.pi
    assert grown - plain == pytest.approx(outline * RIM + np.pi * RIM**2, rel=0.1)
    assert with_rim(fitted, template, 0.0) is fitted
