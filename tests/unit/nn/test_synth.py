"""Synthetic slices: a batch is a function of its seed, and its label lies a constant distance inside the cord."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.nn.anatomy import Anatomy, anatomy_of
from cohort_engine.nn.image import local_scale, robust_scale
from cohort_engine.nn.synth import Frame, Generator, Odds, heat_map
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")

FRAME = Frame(size=32, spacing=1.0, jitter=4.0)
ALWAYS_CORD = Odds(absent=0.0, cauda=0.0, brain=0.0, compressed=0.0)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(parametric_cord(spacing=1.0, top="C3", bottom="C4"))


def test_a_seed_gives_the_same_batch_and_another_seed_another(anatomy: Anatomy) -> None:
    generator = Generator(anatomy, FRAME)
    first, again, other = (generator.batch(6, seed=s) for s in (7, 7, 8))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.label, again.label)
    assert not torch.equal(first.image, other.image)


def test_batches_are_finite_scaled_and_of_every_kind(anatomy: Anatomy) -> None:
    generator = Generator(anatomy, FRAME)
    batches = [generator.batch(16, seed=s) for s in range(12)]
    image, label = (torch.cat([b[k] for b in batches]) for k in (0, 1))
    assert torch.isfinite(image).all()
    assert 0.7 < image.std() < 1.5
    assert label.min() >= 0
    assert label.max() <= 1
    empty = (label[:, 0].sum((1, 2)) == 0).float().mean()
    assert 0.03 < empty < 0.4  # no canal, no cord in it, or a brain


def test_the_label_lies_a_constant_distance_inside_the_cord(anatomy: Anatomy) -> None:
    areas = []
    for inset in (0.0, 0.25, 0.5):
        generator = Generator(anatomy, FRAME, replace(ALWAYS_CORD, inset=inset))
        areas.append(torch.cat([generator.batch(16, seed=s).label[:, 0].sum((1, 2)) for s in range(4)]))
    whole, less, least = (a[areas[2] > 20] for a in areas)
    rim = whole.sqrt() - less.sqrt()  # of a circle: sqrt(pi) times the inset
    assert float(rim.mean()) == pytest.approx(np.sqrt(np.pi) * 0.25, rel=0.15)
    assert float((whole.sqrt() - least.sqrt()).mean()) == pytest.approx(np.sqrt(np.pi) * 0.5, rel=0.15)
    assert float(rim.std() / rim.mean()) < 0.1


def test_cords_have_the_size_of_the_template(anatomy: Anatomy) -> None:
    generator = Generator(anatomy, FRAME, replace(ALWAYS_CORD, inset=0.0))
    area = torch.cat([generator.batch(32, seed=s).label[:, 0].sum((1, 2)) for s in range(8)])
    assert 55 < float(area.median()) < 110  # 73 mm2, times a scale of 0.67 to 1.56 squared


@pytest.mark.parametrize("butterfly", [0.0, 1.0])
def test_grey_matter_lies_inside_the_cord(anatomy: Anatomy, butterfly: float) -> None:
    batches = [Generator(anatomy, FRAME, Odds(inset=0.0, compressed=0.0, butterfly=butterfly)).batch(16, seed=s) for s in range(4)]
    cord, grey = (torch.cat([b.label[:, k] for b in batches]) for k in (0, 1))
    there = cord.sum((1, 2)) > 20
    assert not grey[cord == 0].any()
    share = (grey.sum((1, 2)) / cord.sum((1, 2)))[there]
    section = anatomy.section[len(anatomy.section) // 2]
    assert float(share.median()) == pytest.approx(section[2].sum() / (section[0] > 0).sum(), rel=0.25)


def test_what_does_not_happen_draws_nothing(anatomy: Anatomy) -> None:
    """Stripes, and what presses on the cord, change the image and nothing of the label; a butterfly changes grey matter alone."""
    plain, striped, pressed, other = (
        Generator(anatomy, FRAME, replace(ALWAYS_CORD, **odds)).batch(4, seed=5)
        for odds in ({}, {"stripe": 1.0}, {"pressed": 1.0}, {"butterfly": 1.0})
    )
    for changed in (striped, pressed):
        assert torch.equal(plain.label, changed.label)
        assert not torch.equal(plain.image, changed.image)
    assert torch.equal(plain.label[:, 0], other.label[:, 0])
    assert not torch.equal(plain.label[:, 1], other.label[:, 1])


@pytest.mark.parametrize("odds", [{"mt": 1.0}, {"epi": 1.0}, {"dented": 1.0}], ids=str)
def test_what_patients_show_changes_the_image(anatomy: Anatomy, odds: dict[str, float]) -> None:
    """A contrast changes the image alone, a dent takes some of the cord away and adds none."""
    plain, changed = (Generator(anatomy, FRAME, replace(ALWAYS_CORD, **o)).batch(16, seed=7) for o in ({}, odds))
    assert not torch.equal(plain.image, changed.image)
    if "dented" in odds:
        area = [b.label[:, 0].sum((1, 2)) for b in (plain, changed)]
        there = area[0] > 20
        assert float((area[1] / area[0])[there].median()) < 0.97
        assert bool((area[1][there] <= area[0][there] + 0.5).all())
    elif "epi" in odds:
        assert torch.equal(plain.label, changed.label)


def test_without_vertebrae_and_with_them(anatomy: Anatomy) -> None:
    z, _, y, x = anatomy.section.shape
    bone = np.zeros((2, z, y, x), np.float32)
    bone[0, :, y // 2 + 6 :] = 1
    spine = replace(anatomy, bone=bone, bone_spacing=anatomy.spacing, bone_centre=anatomy.centre)
    plain, bony = (Generator(a, FRAME, replace(ALWAYS_CORD, bone=1.0)).batch(8, seed=3) for a in (anatomy, spine))
    assert not torch.equal(plain.image, bony.image)


@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_scaling_does_not_know_the_unit_of_the_grey_values(factor: float) -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    image[:, :, :4] = 0
    torch.testing.assert_close(robust_scale(image), robust_scale(image * factor), atol=1e-3, rtol=1e-3)


def test_what_is_bright_in_little_else_keeps_its_contrast_in_a_wide_image() -> None:
    """A canal that is brighter than all else is a small part of 450 mm, and none of it is cut."""
    y, x = torch.meshgrid(torch.arange(300.0) - 150, torch.arange(300.0) - 150, indexing="ij")
    noise = torch.rand(300, 300, generator=torch.Generator().manual_seed(1))
    radius = torch.hypot(x, y) * 1.5
    image = torch.where(radius < 30, 0.25, 0.1) + 0.03 * noise
    image = torch.where(radius < 11, 1.0, image)
    image = torch.where(radius < 4, 0.7, image)[None, None]
    wide = local_scale(image, 1.5, 96.0)[0, 0]
    narrow = robust_scale(image[..., 118:182, 118:182])[0, 0]
    step = [float(i[(r > 5) & (r < 10)].mean() - i[r < 3].mean()) for i, r in ((wide, radius), (narrow, radius[118:182, 118:182]))]
    assert step[0] == pytest.approx(step[1], rel=0.15)
    assert step[1] > 0.8


def test_a_sample_without_signal_becomes_zero() -> None:
    assert not robust_scale(torch.zeros(1, 3, 16, 16)).any()


def test_one_bright_pixel_changes_little() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    bright = image.clone()
    bright[0, 0, 0, 0] = 1e6
    assert float((robust_scale(image) - robust_scale(bright)).abs()[0, 1].max()) < 0.05


def test_heat_peaks_at_the_centre_and_is_empty_without_a_cord() -> None:
    label = torch.zeros(2, 1, 16, 16)
    label[0, 0, 4:8, 8:12] = 1
    heat = heat_map(label, 1.0)
    assert float(heat[0].max()) == pytest.approx(np.exp(-0.5 / (2 * 2.5**2)), rel=1e-3)  # the centre is between four pixels
    assert not heat[1].any()
