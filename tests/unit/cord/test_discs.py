"""Names by the chain of vertebrae: what a toy network sees goes in, so that every probability can be followed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline
from cohort_engine.cord.discs import (
    CERTAIN,
    LOOSE,
    NAMED,
    THICK,
    UNSURE,
    Labelling,
    Point,
    Seen,
    Strip,
    _points,
    disc_name,
    label_discs,
    labelled,
    name_discs,
    straight_strip,
)
from cohort_engine.cord.levels import Landmarks
from cohort_engine.errors import CordError, GeometryError, InputError, LevelError
from cohort_engine.nn.strips import COLUMNS, FIRST, LAST, STATES, STEP
from cohort_engine.template.parametric import parametric_cord

GAP = 18
GAPS = np.full(LAST, float(GAP))
ROWS = 120


def seen(first: int, *, rows: int = ROWS, top: int = 110, knows: float | None = None, missing: int | None = None, step: int = GAP) -> Seen:
    """Discs every `step` rows down from `top`, the highest is number `first`; `knows` is the probability of the right number, or it is even."""
    heat, number = np.full(rows, 0.01), np.full((rows, STATES), 1 / STATES)
    for k, row in enumerate(range(top, -1, -step)):
        if first + k != missing:
            heat[row] = 0.97
        if knows is not None:
            number[row] = (1 - knows) / (STATES - 1)
            number[row, first + k] = knows
    return Seen(heat, number)


def strip(rows: int = ROWS) -> Strip:
    line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, rows - 1.0]]))
    return Strip(np.ones((rows, COLUMNS), np.float32), np.zeros(rows, np.float32), np.ones(rows, bool), np.arange(rows, dtype=float), line)


def test_discs_with_known_numbers_are_named_where_they_are() -> None:
    named = name_discs(seen(4, knows=0.9), GAPS)
    assert named.row[4:11].round().tolist() == [110, 92, 74, 56, 38, 20, 2]
    assert named.confidence[4:10].min() > 0.96
    assert named.confidence[[2, 12]].max() < 0.05


def test_probabilities_sum_to_one_chain() -> None:
    named = name_discs(seen(4), GAPS)
    present = named.posterior.sum(axis=1)
    assert present.max() <= 1 + 1e-9
    assert present.sum() == pytest.approx(ROWS / GAP, abs=1.0)  # that many discs fit into the image


def test_even_discs_without_numbers_stay_without_names() -> None:
    found = labelled(seen(6), strip(), GAPS)
    assert found.flags == (UNSURE,)
    assert len(found.numbers) == 0
    with pytest.raises(LevelError, match="--init-disc 3 --init-z"):
        found.landmarks()


def test_two_likely_namings_are_both_weak() -> None:
    both = seen(4, knows=0.9)
    both.number[:] = 0.5 * (both.number + np.roll(both.number, 1, axis=1))
    named = name_discs(both, GAPS)
    assert named.confidence[4:10].max() < 0.75


def test_a_bridged_disc_does_not_shift_the_names_below_it() -> None:
    named = name_discs(seen(3, knows=0.9, missing=6), GAPS)
    assert named.row[[5, 7]].round().tolist() == [74, 38]
    assert named.confidence[[5, 7]].min() > CERTAIN
    assert abs(named.row[6] - 56) < 3


def test_uneven_distances_name_by_themselves() -> None:
    """A spine whose distances grow from 12 to 31 mm can be in one place only."""
    gaps = np.linspace(12, 31, LAST)
    rows = np.rint(170 - np.r_[0, np.cumsum(gaps[8:15])]).astype(int)
    heat = np.full(180, 0.01)
    heat[rows] = 0.97
    named = name_discs(Seen(heat, np.full((180, STATES), 1 / STATES)), gaps)
    assert named.confidence[8:16].argmax() > 0
    assert [int(named.posterior[:, r].argmax()) for r in rows] == pytest.approx(list(range(8, 16)), abs=1)


@pytest.mark.parametrize("stretch", [0.85, 1.15])
def test_long_and_short_spines(stretch: float) -> None:
    named = name_discs(seen(4, knows=0.9, step=round(GAP * stretch)), GAPS)
    assert named.confidence[4:8].min() > 0.88


@pytest.mark.parametrize("point", [Point(5.0, 92.0), Point(5.0, 94.0), Point(5.5, 83.0)], ids=["disc", "disc 2 mm off", "body"])
def test_one_landmark_names_all(point: Point) -> None:
    found = labelled(seen(4), strip(), GAPS, points=[point])
    assert found.flags == ()
    assert {4, 5, 6, 7, 8} <= set(found.numbers.tolist())
    assert found.arc[found.numbers == 6] == pytest.approx([74], abs=1)
    assert found.landmarks().kind == schema.DISC


def test_a_landmark_overrules_the_network() -> None:
    found = labelled(seen(4, knows=0.9), strip(), GAPS, points=[Point(6.0, 92.0)])
    assert found.arc[found.numbers == 6] == pytest.approx([92], abs=1)


def test_a_landmark_between_discs_is_told() -> None:
    found = labelled(seen(4, knows=0.9), strip(), GAPS, points=[Point(4.0, 101.0)])
    assert found.flags in {(LOOSE,), (UNSURE,)}


def test_noise_has_no_names() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        number = rng.dirichlet(np.full(STATES, 2.0), ROWS)
        assert labelled(Seen(rng.uniform(0, 0.4, ROWS), number), strip(), GAPS).flags == (UNSURE,)


def test_given_landmarks_must_lie_in_the_image() -> None:
    line = strip()
    assert _points(Landmarks(schema.BODY, np.array([3]), np.array([[0.0, 8.0, 50.0]])), line) == [Point(3.5, 50.0)]
    for numbers, xyz, message in (([25], [0, 8, 50], "disc 25"), ([3], [0, 8, 500], "elsewhere"), ([3], [0, 80, 50], "elsewhere")):
        with pytest.raises(LevelError, match=message):
            _points(Landmarks(schema.DISC, np.array(numbers), np.array([xyz], float)), line)


def test_names() -> None:
    assert [disc_name(n) for n in (1, 2, 3, 8, 21)] == ["top of C1", "C1/C2", "C2/C3", "C7/T1", "L1/L2"]
    empty = Labelling(np.zeros(0, int), np.zeros(0), np.zeros(0), strip().centreline, {4: 0.6, 5: 0.3}, (UNSURE,))
    with pytest.raises(LevelError, match=r"likeliest: C3/C4 0\.600, C4/C5 0\.300"):
        empty.landmarks()


def test_what_is_refused_never_reads_as_reached() -> None:
    faint = seen(4, knows=0.9)
    faint.disc[:] = np.where(faint.disc > 0.5, 0.75, faint.disc)
    found = labelled(faint, strip(), GAPS)
    assert found.flags == (UNSURE,)
    with pytest.raises(LevelError) as error:
        found.landmarks()
    assert f"probability of name and place {CERTAIN:g}, of one of the names {NAMED:g}" in error.value.expected
    likely = re.findall(r"(\d\.\d{3})( but [a-z ]+ \(?0\.\d+)?", error.value.found)
    assert len(likely) == 3
    assert all(float(p) < CERTAIN or why for p, why in likely)  # a probability above the limit says what else is lacking


class Nothing:
    """A network that must not be asked."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(name)


@pytest.mark.parametrize(("thickness", "tilt"), [(5.0, 0.0), (4.5, 0.1), (7.0, 0.5)])
def test_thick_slices_along_the_cord_show_no_discs(thickness: float, tilt: float) -> None:
    image, mask, _ = leaning(tilt)
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    found = label_discs(image, affine, mask, parametric_cord(spacing=2.0), network=Nothing())  # type: ignore[arg-type]
    assert found.flags == (THICK,)
    with pytest.raises(LevelError, match=r"voxels of up to 4 mm along the cord, found \d\.\d mm.*two landmarks"):
        found.landmarks()


# --- strips -----------------------------------------------------------------------------------------------------------
def leaning(slope: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Cord that leans forwards as it rises, 1 mm voxels; a bright plane across it at arc 40 mm, from 8 mm in front on."""
    x, y, z = np.indices((41, 101, 90), dtype=float)
    centre = 50 + slope * (z - 45)
    mask = np.hypot(x - 20, y - centre) < 5
    along = np.array([0, slope, 1]) / np.hypot(1, slope)
    height = (y - 50) * along[1] + (z - 45) * along[2]
    plane = (np.abs(height) < 1) & (y - centre > 8)
    return (100 + 900 * plane).astype(np.float32), mask.astype(np.float32), np.eye(4)


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.4])
def test_a_plane_across_the_cord_is_a_row_of_the_strip(slope: float) -> None:
    image, mask, affine = leaning(slope)
    found = straight_strip(image, affine, mask)
    ahead = FIRST + STEP * np.arange(COLUMNS)
    bright = found.image[:, (ahead > 12) & (ahead < 25)]
    middle, _ = found.centreline.project(np.array([[20.0, 50.0, 45.0]]))
    rows = found.arc[bright.argmax(axis=0)]
    assert rows == pytest.approx(middle[0], abs=1.01)
    assert found.image[:, ahead < 4].max() < 150


def test_the_area_is_that_across_the_cord() -> None:
    for slope in (0.0, 0.4):
        image, mask, affine = leaning(slope)
        assert np.abs(straight_strip(image, affine, mask).shape).max() < 0.25


def test_a_strip_ends_with_the_image() -> None:
    image, mask, affine = leaning(0.0)
    mask[:, :, :30] = mask[:, :, 60:] = 0
    found = straight_strip(image, affine, mask)
    assert (found.arc[0], found.arc[-1]) == pytest.approx((-29.5, 59.5), abs=1.0)
    assert found.inside.sum() == pytest.approx(30, abs=1)
    assert (found.shape[~found.inside] == 0).all()


def test_what_cannot_be_a_strip() -> None:
    image, mask, affine = leaning(0.0)
    with pytest.raises(GeometryError, match="Segment this very image"):
        straight_strip(image[1:], affine, mask)
    with pytest.raises(InputError, match="no signal along the mask"):
        straight_strip(np.zeros_like(image), affine, mask)
    with pytest.raises(CordError, match="empty mask"):
        straight_strip(image, affine, np.zeros_like(mask))
    assert np.isfinite(straight_strip(np.where(image > 500, np.nan, image), affine, mask).image).all()


def test_a_disc_that_hardly_shows_is_no_landmark() -> None:
    """Its neighbours say where it should be, and its name is certain; but nothing shows its place."""
    faint = seen(4, knows=0.9)
    faint.disc[38] = 0.7
    named = name_discs(faint, GAPS)
    assert named.confidence[8] > 0.88
    assert named.name[8] > 0.985
    assert 8 not in named.certain()
    assert {5, 6, 7, 9} <= set(named.certain().tolist())
    given = name_discs(faint, GAPS, points=[Point(8.0, 38.0)])
    assert 8 in given.certain()


def test_a_blurred_place_does_not_blur_the_name() -> None:
    """Two discs whose places are less sure than their names still count; two namings of sure places do not."""
    both = seen(4, knows=0.9)
    both.number[:] = 0.5 * (both.number + np.roll(both.number, 1, axis=1))
    assert name_discs(both, GAPS).name[4:10].max() < 0.8
    assert len(name_discs(both, GAPS).certain()) == 0
    assert name_discs(seen(4, knows=0.9), GAPS).name[4:10].min() > 0.985
