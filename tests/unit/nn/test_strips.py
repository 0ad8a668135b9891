"""Synthetic strips: a batch is a function of its seed, and its labels say where the discs are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import TemplateError
from cohort_engine.nn.strips import COLUMNS, FIRST, HEAD, HIGHEST, IGNORED, LAST, STATES, Spine, StripGenerator, StripOdds, numbered_heights, spine_of
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")

ROWS = 96
WHOLE = StripOdds(fused=0.0, cropped=0.0, narrow=0.0)


@pytest.fixture(scope="module")
def spine() -> Spine:
    return spine_of(parametric_cord(spacing=2.0))


def test_heights_go_on_beyond_the_template() -> None:
    heights = numbered_heights(parametric_cord(spacing=2.0))  # discs 1 to 10, the last two 23 mm apart
    assert heights[0] - heights[1] == HEAD
    assert np.diff(heights)[9:].tolist() == [-23.0] * (STATES - 9)


def test_a_template_without_the_upper_neck_is_refused() -> None:
    with pytest.raises(TemplateError, match="discs 1 to 4"):
        numbered_heights(replace(parametric_cord(spacing=2.0), landmarks={"disc": {5: 0.0, 6: -17.0}}))


def test_a_seed_gives_the_same_batch_and_another_seed_another(spine: Spine) -> None:
    generator = StripGenerator(spine, ROWS)
    first, again, other = (generator.batch(3, seed=s) for s in (7, 7, 8))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.label, again.label)
    assert not torch.equal(first.image, other.image)


def test_batches_are_finite_and_scaled(spine: Spine) -> None:
    generator = StripGenerator(spine, ROWS)
    batches = [generator.batch(8, seed=s) for s in range(6)]
    image, label = (torch.cat([b[k] for b in batches]) for k in (0, 1))
    assert torch.isfinite(image).all()
    assert torch.isfinite(label).all()
    assert 0.7 < image[:, 0].std() < 1.5
    assert label[:, 0].min() >= 0
    assert label[:, 0].max() <= 1
    assert label[:, 1].min() == IGNORED
    assert label[:, 1].max() <= LAST
    assert set(image[:, 2].unique().tolist()) == {0.0, 1.0}
    assert (image[:, 1][image[:, 2] == 0] == 0).all()  # no area without a mask


def test_heat_is_where_the_coordinate_is_a_disc_and_nowhere_else(spine: Spine) -> None:
    label = StripGenerator(spine, ROWS, WHOLE).batch(16, seed=3).label
    heat, along = label[:, 0].amax(-1), label[:, 1, :, 0]
    off = (along - along.round()).abs()
    real = (along.round() >= HIGHEST) & (along < LAST)
    assert float(heat[real & (off < 0.05)].min()) > 0.6
    assert float(heat[(along.round() < HIGHEST) & (along < HIGHEST - 0.5)].max()) < 0.1  # none above C2/C3
    assert float(heat[(off - 0.5).abs() < 0.1].max()) < 0.1  # none in the middle of a vertebra


def test_numbers_grow_downwards(spine: Spine) -> None:
    along = StripGenerator(spine, ROWS, WHOLE).batch(16, seed=4).label[:, 1, :, 0]
    assert (along.diff(dim=1) <= 0).all()


def test_what_is_out_of_view_is_neither_shown_nor_learnt(spine: Spine) -> None:
    batch = StripGenerator(spine, ROWS, replace(WHOLE, cropped=1.0)).batch(16, seed=5)
    cord = round(-FIRST / 2)
    out = batch.label[:, 1, :, cord] == IGNORED
    assert 0.1 < out.float().mean() < 0.7
    assert (batch.label[:, 0, :, cord][out] == 0).all()
    assert (batch.image[:, 2, :, cord][out] == 0).all()
    dark = batch.image[:, 0].amin((1, 2))[:, None].expand(-1, ROWS)
    assert torch.allclose(batch.image[:, 0, :, cord][out], dark[out], atol=1e-2)


def test_the_area_channel_follows_the_template() -> None:
    template = parametric_cord(spacing=2.0)
    batch = StripGenerator(spine_of(template), 160, replace(WHOLE, compressed=0.0, blind=0.0, neck=1.0)).batch(64, seed=6)
    shape, inside, along = batch.image[:, 1, :, 0], batch.image[:, 2, :, 0] > 0, batch.label[:, 1, :, 0]
    neck, chest = (shape[inside & (along > a) & (along < b)].mean() for a, b in ((4, 6), (8.5, 10)))
    assert float(neck - chest) > 0.3


def test_columns_are_even() -> None:
    assert COLUMNS % 32 == 0  # five poolings
