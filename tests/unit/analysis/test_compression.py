"""Compression planted in tapered profiles: its slice, its level, its depth; healthy people have none."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.analysis.compression import find_compression
from cohort_engine.analysis.roc import auc
from cohort_engine.errors import InputError, UnknownNameError

Z = 240
LEVEL = np.repeat([8, 7, 6, 5, 4, 3, 2, 1], 30)  # z from below upwards
TAPER = 8 + np.sin(np.linspace(0, 3, Z))


def cohort(n: int, seed: int, noise: float = 0.02) -> np.ndarray:
    """Profiles of n people: a size of their own (10 %), smooth noise along z."""
    rng = np.random.default_rng(seed)
    wobble = np.stack([np.convolve(row, np.ones(11) / 11, mode="same") for row in rng.normal(0, noise * np.sqrt(11), (n, Z))])
    return TAPER * rng.normal(1, 0.1, (n, 1)) * (1 + wobble)


def test_planted_sites_are_found() -> None:
    people = cohort(4, 1)
    for row, (at, depth) in enumerate([(75, 0.7), (105, 0.6), (130, 0.8)]):
        people[row] *= 1 - (1 - depth) * np.exp(-(((np.arange(Z) - at) / 5.0) ** 2))
    out = find_compression(people, cohort(100, 0), LEVEL)
    assert out.site == ["C6", "C5", "C4", "none"]
    np.testing.assert_allclose(out.z[:3], [75, 105, 130], atol=3)
    np.testing.assert_allclose(out.smallest[:3], [0.7, 0.6, 0.8], atol=0.07)
    np.testing.assert_allclose(out.margin, out.limit - out.smallest)
    assert out.n_limit == 100
    assert (out.n == 100).all()


def test_the_formula_at_one_slice() -> None:
    """Miyanji's ratio of means, each divided by the healthy mean: 20 slices away, 40 slices long."""
    people, healthy = cohort(2, 3), cohort(30, 4)
    mean = healthy.mean(axis=0)
    z = 110
    above, below = slice(z + 21, z + 61), slice(z - 60, z - 20)
    a, b = (people[:, s].mean(axis=1) / mean[s].mean() for s in (above, below))
    out = find_compression(people, healthy, LEVEL)
    np.testing.assert_allclose(out.ratio[:, z], people[:, z] / mean[z] / ((a + b) / 2))
    np.testing.assert_allclose(out.healthy, people / mean)
    remote = (LEVEL == 2) | (LEVEL == 3)
    np.testing.assert_allclose(out.remote, people[:, remote].mean(axis=1) / mean[remote].mean())
    at_site = (people / mean)[[0, 1], out.z] / out.remote
    np.testing.assert_allclose(out.against_remote, np.where(out.level > 3, at_site, np.nan))


def test_as_it_is_the_slice_stands_over_the_mean_above_and_below() -> None:
    """6 mm between 8 and 10 mm: Miyanji's compression is 100 (1 - 6 / 9) percent, whoever is healthy."""
    person = np.repeat([8.0, 10.0], [110, Z - 110])
    person[110] = 6.0
    out = find_compression(person[None], cohort(30, 4), LEVEL)
    assert (out.z.item(), out.site) == (110, ["C5"])
    assert 100 * (1 - out.plain.item()) == pytest.approx(100 / 3)


def test_size_of_the_person_does_not_matter() -> None:
    people, healthy = cohort(3, 5), cohort(40, 6)
    out, larger = (find_compression(people * factor, healthy, LEVEL) for factor in (1, 1.3))
    np.testing.assert_allclose(larger.ratio, out.ratio)
    np.testing.assert_allclose(larger.remote, 1.3 * out.remote)


def test_one_healthy_person_in_twenty_is_called_compressed() -> None:
    out = find_compression(cohort(2000, 7), cohort(200, 8), LEVEL)
    assert np.mean(out.margin > 0) == pytest.approx(0.05, abs=0.03)


def test_limit_is_the_smallest_of_nineteen_each_against_the_others() -> None:
    healthy = cohort(19, 16)
    healthy[3] *= 1 - 0.2 * np.exp(-(((np.arange(Z) - 100) / 5.0) ** 2))
    own = find_compression(healthy[[3]], np.delete(healthy, 3, 0), LEVEL, specificity=0.9).smallest
    out = find_compression(cohort(1, 17), healthy, LEVEL)
    assert out.limit == pytest.approx(own.item(), rel=1e-12)


def test_healthy_people_of_the_study_are_each_against_the_others() -> None:
    healthy, other = cohort(12, 20), cohort(3, 21)
    own = np.repeat([False, True, False], [1, 12, 2])
    people = np.concatenate([other[:1], healthy, other[1:]])
    out = find_compression(people, healthy, LEVEL, own=own, specificity=0.9)
    alone = [find_compression(healthy[[i]], np.delete(healthy, i, 0), LEVEL, specificity=0.9) for i in range(12)]
    fresh = find_compression(other, healthy, LEVEL, specificity=0.9)
    for name in ("ratio", "healthy", "smallest", "remote", "against_remote"):
        np.testing.assert_allclose(getattr(out, name)[own], np.concatenate([getattr(a, name) for a in alone]), rtol=1e-12)
        np.testing.assert_allclose(getattr(out, name)[~own], getattr(fresh, name), rtol=1e-12)
    with pytest.raises(InputError, match="expected 12 subjects of the reference, found 11 of 15"):
        find_compression(people, healthy, LEVEL, own=np.arange(15) < 11, specificity=0.9)


def test_studies_without_a_difference_do_not_find_compression() -> None:
    """200 studies of 10 healthy people and 10 others like them: with their own profile in the mean the area was 0.58."""
    group = np.repeat([0, 1], 10)
    areas = []
    for seed in range(200):
        people = cohort(20, 1000 + seed)
        out = find_compression(people, people[:10], LEVEL, own=group == 0, specificity=0.9)
        areas.append(auc(-out.smallest[:, None], group).auc[0])
    assert np.mean(areas) == pytest.approx(0.5, abs=2.5 * np.std(areas) / np.sqrt(200))


def test_half_of_a_side_and_of_the_control_levels_must_be_known() -> None:
    people = np.tile(TAPER, (3, 1))
    z = 150
    people[:, : z - 20] = np.nan  # below: nothing
    people[0, z + 21 : z + 42], people[1, z + 21 : z + 41] = np.nan, np.nan  # above: 19 and 20 of 40
    people[2, 150:181] = np.nan  # 29 of the 60 slices of C2 and C3
    out = find_compression(people, cohort(30, 18), LEVEL)
    assert np.isnan(out.ratio[:, z]).tolist() == [True, False, True]
    assert np.isnan(out.remote).tolist() == [False, False, True]


def test_at_the_end_of_the_field_of_view_one_side_stands_alone() -> None:
    people, healthy = np.tile(TAPER, (2, 1)), cohort(30, 9, noise=0.0)
    people[0, :100] = np.nan
    out = find_compression(people, healthy, LEVEL)
    np.testing.assert_allclose(out.ratio[0, 100:], 1)
    assert np.isnan(out.ratio[0, :100]).all()
    assert np.isfinite(out.ratio[1]).all()


def test_a_hole_is_not_a_compression_and_nothing_known_is_unknown() -> None:
    people = cohort(3, 10)
    people[0, 100:110] = np.nan
    people[1] = np.nan
    people[2, LEVEL < 2] = np.nan
    out = find_compression(people, cohort(50, 11), LEVEL)
    assert out.site == ["none", "unknown", "none"]
    assert (out.z[1], out.level[1]) == (-1, 0)
    assert np.isnan([out.smallest[1], out.margin[1], out.remote[1], out.against_remote[1]]).all()


def test_compression_in_the_control_levels_has_no_remote() -> None:
    people = cohort(1, 12)
    people[0, 165] *= 0.6
    out = find_compression(people, cohort(50, 13), LEVEL)
    assert out.site == ["C3"]
    assert np.isnan(out.against_remote).all()


def test_slices_of_too_few_healthy_people_are_nan() -> None:
    healthy = cohort(50, 14)
    healthy[4:, 50:60] = np.nan
    out = find_compression(cohort(2, 15), healthy, LEVEL)
    assert (out.n[50:60] == 4).all()
    assert np.isnan(out.ratio[:, 50:60]).all()


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"profile": -np.ones((2, Z))}, InputError, "profile: expected values above 0, or NaN, found 480 at or below 0"),
        ({"reference": np.ones((30, 7))}, InputError, "expected 240 slices, found 7 in the reference"),
        ({"level": LEVEL[:9]}, InputError, "9 levels"),
        ({"level": np.zeros(Z, int)}, InputError, "expected slices of C2 to C7, found none"),
        ({"search": ("C2", "C9")}, UnknownNameError, "known level, found 'C9'"),
        ({"reference": cohort(18, 0)}, InputError, r"specificity of 0.95 \(19 for 0.95\), found 18"),
        ({"specificity": 1.0}, InputError, "specificity of 1.0"),
        ({"extent": 0.1}, InputError, "extent of a slice or more"),
        ({"profile": np.ones(Z)}, InputError, "expected a table"),
    ],
)
def test_bad_input(change, kind, match) -> None:
    given = {"profile": cohort(2, 1), "reference": cohort(30, 0), "level": LEVEL, **change}
    with pytest.raises(kind, match=match):
        find_compression(**given)
