import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import Landmarks
from cohort_engine.io.volume import Volume
from cohort_engine.quality import vocabulary
from cohort_engine.quality.features import of_levels, of_map, of_mask, of_pair, of_subject, of_two_images, of_two_masks
from cohort_engine.template.parametric import parametric_cord

MT_MASK, T2W_MASK = schema.role(schema.MT, schema.MASK), schema.role(schema.T2W, schema.MASK)
SPACING = np.array([0.9, 0.9, 5.0])
AFFINE = np.diag([0.9, 0.9, 5.0, 1.0])
X, Y = np.meshgrid(*(np.arange(60) * 0.9,) * 2, indexing="ij")
MIDDLE = (22.0, 27.0)  # off the middle of the image (26.6) to the left, as necks are
SLICES = 8


def disc(x: float = 0.0, y: float = 0.0, radius: float = 5.0) -> np.ndarray:
    return np.hypot(X - MIDDLE[0] - x, Y - MIDDLE[1] - y) < radius


def cord() -> np.ndarray:
    return np.repeat(disc()[..., None], SLICES, axis=2).astype(float)


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """MT-on and MT-off of a cord in fluid in a neck with a vessel on one side."""
    on, off = np.full(X.shape, 60.0), np.full(X.shape, 100.0)
    for where, a, b in ((disc(radius=8), 155, 160), (disc(), 60, 120), (disc(14, 6, 3), 10, 15), (disc(-12, -9, 2), 120, 140)):
        on[where], off[where] = a, b
    rng = np.random.default_rng(seed)
    return tuple(np.repeat(i[..., None], SLICES, axis=2) + rng.normal(0, 2, (*X.shape, SLICES)) for i in (on, off))


def test_images_of_one_acquisition() -> None:
    on, off = pair()
    found = of_pair(on, off, cord(), SPACING).values
    assert found[vocabulary.PAIR_NEGATIVE] == 0
    assert found[vocabulary.PAIR_CORD] == pytest.approx(50, abs=2)
    assert found[vocabulary.PAIR_FLUID] > 40
    assert found[vocabulary.PAIR_LOOSE] < 0.4


def test_swapped_images_are_told_by_their_signals() -> None:
    on, off = pair()
    found = of_pair(off, on, cord(), SPACING).values
    assert found[vocabulary.PAIR_NEGATIVE] > 0.9
    assert found[vocabulary.PAIR_CORD] < 0


def test_slices_that_moved_are_named() -> None:
    on, off = pair()
    off[:, :, 3] = np.roll(off[:, :, 3], 3, axis=0)
    found = of_pair(on, off, cord(), SPACING)
    assert found.values[vocabulary.PAIR_LOOSE] > 0.6
    assert found.slices[vocabulary.PAIR_LOOSE].tolist() == [3]


def test_a_mask_against_that_of_the_other_image() -> None:
    moved = np.roll(cord(), 4, axis=1)
    same, apart = (of_two_masks(m, AFFINE, cord(), AFFINE) for m in (cord(), moved))
    assert same.values[vocabulary.OTHER_DISTANCE] == 0
    assert same.values[vocabulary.OTHER_DICE] == 1
    assert apart.values[vocabulary.OTHER_DISTANCE] == pytest.approx(3.6, abs=0.05)
    assert apart.slices[vocabulary.OTHER_DISTANCE].tolist() == list(range(SLICES))


def test_swapped_sides_are_told_by_the_other_mask_where_the_cord_lies_off_the_middle() -> None:
    straight, turned = of_two_masks(cord(), AFFINE, cord(), AFFINE), of_two_masks(cord()[::-1], AFFINE, cord(), AFFINE)
    assert straight.values[vocabulary.MIRROR_PLACE] < 0 < turned.values[vocabulary.MIRROR_PLACE]


def test_swapped_sides_are_told_by_the_neck_around() -> None:
    on, off = pair()
    mirrored = on.copy()
    middle = round(MIDDLE[0] / 0.9)
    half = min(middle, len(X) - 1 - middle)
    mirrored[middle - half : middle + half + 1] = mirrored[middle - half : middle + half + 1][::-1]
    straight, turned = (of_two_images(i, cord(), AFFINE, off, AFFINE).values[vocabulary.MIRROR_IMAGE] for i in (on, mirrored))
    assert straight < -0.1
    assert turned > 0.1


def test_a_jump_of_the_mask_is_named() -> None:
    mask = cord()
    mask[:, :, 4] = np.roll(mask[:, :, 4], 4, axis=0)
    found = of_mask(pair()[0], mask, AFFINE)
    assert found.values[f"{vocabulary.CENTRE_JUMP}"] == pytest.approx(3.6, abs=0.1)
    assert 4 in found.slices[vocabulary.CENTRE_JUMP]


@pytest.fixture(scope="module")
def spine():
    template = parametric_cord(spacing=2.0)
    mask = np.zeros((21, 21, 160))
    mask[7:14, 8:13] = 1
    line = centreline_from_mask(mask, np.eye(4), what="cord mask")
    numbers = np.arange(3, 9)
    z = np.array([template.landmark_z("disc", int(n)) for n in numbers])
    xyz = np.stack([np.full(6, 10.0), np.full(6, 10.0), z - z.min() + 30], axis=1)
    return template, line, numbers, xyz


def test_levels_are_held_against_the_heights_of_vertebrae(spine) -> None:
    template, line, numbers, xyz = spine
    good = of_levels(Landmarks("disc", numbers, xyz), line, template).values[vocabulary.LEVEL_SPACING]
    skipped = of_levels(Landmarks("disc", np.where(numbers > 5, numbers + 1, numbers), xyz), line, template).values[vocabulary.LEVEL_SPACING]
    assert good < 0.05
    assert skipped > 0.4


def test_levels_are_held_against_an_opinion_that_did_not_know_them(spine) -> None:
    template, line, numbers, xyz = spine
    named = numbers, line.project(xyz)[0]
    same, wrong = (of_levels(Landmarks("disc", numbers + by, xyz), line, template, named).values[vocabulary.LEVEL_OPINION] for by in (0, 1))
    assert same < 0.05
    assert wrong == pytest.approx(1, abs=0.2)


def test_the_landmark_that_is_farthest_off_counts_in_vertebrae(spine) -> None:
    template, line, numbers, xyz = spine
    named = numbers, line.project(xyz)[0]
    one = xyz.copy()
    one[2, 2] += 0.5 * (xyz[1, 2] - xyz[2, 2])
    assert of_levels(Landmarks("disc", numbers, one), line, template, named).values[vocabulary.LEVEL_OPINION] == pytest.approx(0.5, abs=0.1)


def test_what_a_mask_lacks_above_the_highest_landmark_is_not_asked(spine) -> None:
    template, on, cut = spine[0], pair()[0], cord()
    cut[disc(y=4, radius=4), SLICES - 1] = 0
    images = {schema.MT_ON: Volume(on, AFFINE), MT_MASK: Volume(cord(), AFFINE), schema.T2W: Volume(on, AFFINE), T2W_MASK: Volume(cut, AFFINE)}
    lacks, known = [], {}
    for highest in (SLICES - 3, SLICES - 1):
        xyz = np.array([[*MIDDLE, 5.0], [*MIDDLE, 5.0 * highest]])
        found = of_subject(images, np.asarray(template.packing.xyz, float), template, Landmarks("disc", np.array([6, 3]), xyz), known=known)
        lacks.append(found.values[f"{schema.T2W}_{vocabulary.BORDER_LACKS}"])
    assert lacks[0] < 0.3 < 1 < lacks[1]


def test_a_map_that_is_off_in_few_slices_is_seen(spine) -> None:
    template = spine[0]
    where = np.flatnonzero((template.cord >= 0.5).any(axis=(0, 1)))
    affine = np.array(template.grid.affine)
    affine[:3, 3] = affine[:3] @ [*template.corner[:2], template.corner[2] + where[0], 1]
    mask = (template.cord[:, :, where[0] : where[0] + 30] >= 0.5).astype(float)
    positions = np.array(template.packing.xyz, float)
    few = np.abs(positions[:, 2] - affine[2, 3] - 30) < 4
    moved = positions + few[:, None] * np.array([3.0, 0, 0])
    good, off = (of_map(mask, mask, affine, p, template).values[vocabulary.OUTLINE] for p in (positions, moved))
    assert off < good - 0.2
    assert good > 0.85
