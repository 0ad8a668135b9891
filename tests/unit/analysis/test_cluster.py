"""Planted groups are found, numbered stably and described; one group is called doubtful."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cohort_engine.analysis.cluster import _ordered, adjusted_rand, cluster, profiles
from cohort_engine.errors import InputError

SIZES = (30, 20, 25)


def planted(seed: int = 0, apart: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Three groups in four features; the second feature is in other units."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], SIZES)
    centres = apart * np.array([[0, 0, 0, 0], [1, 0, 1, 0], [0.5, 1, 0, 0]])
    return (centres[truth] + rng.normal(size=(75, 4))) * [1, 1000, 1, 1], truth


def test_planted_groups() -> None:
    values, truth = planted()
    out = cluster(values, largest=4, resamples=19)
    assert out.p_one_group == pytest.approx(0.05)
    assert (out.k, out.n, out.n_left_out, out.warnings) == (3, 75, 0, ())
    assert adjusted_rand(out.labels, truth)[0] > 0.95
    assert out.candidates[out.silhouette.argmax()] == 3
    assert out.stability[1] > 0.95
    means = [values[out.labels == c, 0].mean() for c in range(3)]
    assert means == sorted(means)


def test_numbers_follow_the_first_feature_whatever_the_order_seed_and_unit() -> None:
    values, _ = planted()
    out = cluster(values, k=3, resamples=2)
    shuffle = np.random.default_rng(1).permutation(75)
    np.testing.assert_array_equal(cluster(values[shuffle], k=3, resamples=2, seed=9).labels, out.labels[shuffle])
    np.testing.assert_array_equal(cluster(values * 7 + 3, k=3, resamples=2).labels, out.labels)


def test_numbering_by_the_mean() -> None:
    assert _ordered(np.array([0, 1, 2, 0], np.int32), np.array([2.0, 3.0, 1.0, 2.0])).tolist() == [1, 2, 0, 1]


def test_the_same_seed_is_the_same_answer() -> None:
    values, _ = planted(apart=1.5)
    first, second = (cluster(values, resamples=5, seed=4) for _ in range(2))
    for name in ("labels", "silhouette", "stability", "coordinates"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_halves_of_one_long_group_are_stable_and_yet_doubtful() -> None:
    """Six features that go together: k-means cuts the group in two at its middle, again and again."""
    rng = np.random.default_rng(2)
    out = cluster(rng.normal(size=(80, 6)) + 2 * rng.normal(size=(80, 1)), largest=3, resamples=19)
    assert out.stability[0] > 0.6
    assert out.p_one_group > 0.05
    assert out.warnings == (f"one group of people would give such clusters as well (p {out.p_one_group:.2f})",)
    assert (out.k, set(out.labels)) == (1, {0})


def test_one_round_group_is_one() -> None:
    out = cluster(np.random.default_rng(2).normal(size=(80, 6)), largest=4, resamples=19)
    best = out.silhouette.argmax()
    assert (out.k, set(out.labels)) == (1, {0})
    assert f"{best + 2} clusters are not stable under resampling ({out.stability[best]:.2f} < 0.6)" in out.warnings


def test_five_people_are_too_few_for_subgroups() -> None:
    """Of five people three subgroups were announced that might be one, p = 0.92."""
    out = cluster(np.random.default_rng(0).normal(size=(5, 2)), least=5, resamples=19)
    assert (out.k, out.labels.tolist(), len(out.candidates)) == (1, [0] * 5, 0)
    assert out.warnings == ("5 people are too few to look for subgroups of 5 or more: they are taken for one",)
    assert cluster(np.random.default_rng(0).normal(size=(5, 2)), k=2, resamples=2).k == 2  # asked for


def test_people_of_one_group_are_seldom_split() -> None:
    """40 studies of 30 people and three features, of which two go together."""
    split = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        split.append(cluster(rng.normal(size=(30, 3)) + [1, 1, 0] * rng.normal(size=(30, 1)), largest=3, least=5, resamples=19, seed=seed).k > 1)
    assert np.mean(split) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 40)


def test_a_missing_feature_leaves_the_person_out() -> None:
    values, _ = planted()
    holed = values.copy()
    holed[[3, 40], [1, 2]] = np.nan
    out = cluster(holed, k=3, resamples=2)
    alone = cluster(np.delete(values, [3, 40], 0), k=3, resamples=2)
    assert (out.n, out.n_left_out) == (73, 2)
    assert out.labels[[3, 40]].tolist() == [-1, -1]
    assert np.isnan(out.coordinates[[3, 40]]).all()
    np.testing.assert_array_equal(np.delete(out.labels, [3, 40]), alone.labels)
    np.testing.assert_allclose(np.delete(out.coordinates, [3, 40], 0), alone.coordinates)


def test_coordinates_are_principal_components() -> None:
    values, _ = planted()
    out = cluster(values, k=3, resamples=1)
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    eigen = np.linalg.eigvalsh(z.T @ z)[::-1]
    np.testing.assert_allclose(out.explained, eigen[:2] / eigen.sum())
    np.testing.assert_allclose(out.coordinates, z @ out.weights.T, atol=1e-9)
    np.testing.assert_allclose((out.coordinates**2).sum(axis=0), eigen[:2])
    np.testing.assert_allclose(cluster(-values, k=3, resamples=1).coordinates, -out.coordinates, atol=1e-9)
    assert (out.weights.max(axis=1) == np.abs(out.weights).max(axis=1)).all()


def test_profiles_are_means_and_kruskal_wallis() -> None:
    values, truth = planted()
    values[::9, 3] = np.nan
    out = profiles(values, truth)
    parts = [values[(truth == c) & np.isfinite(values[:, 3]), 3] for c in range(3)]
    np.testing.assert_allclose(out.mean[:, 3], [p.mean() for p in parts])
    np.testing.assert_allclose(out.sd[:, 3], [p.std(ddof=1) for p in parts])
    assert out.n[:, 3].tolist() == [len(p) for p in parts]
    assert (out.h[3], out.p[3]) == pytest.approx(stats.kruskal(*parts))
    rank = out.p.argsort()
    stepped = np.minimum.accumulate((out.p[rank] * 4 / np.arange(1, 5))[::-1])[::-1]  # Benjamini & Hochberg, by hand
    np.testing.assert_allclose(out.q[rank], np.minimum(stepped, 1))
    assert out.q[0] < 1e-6
    assert out.p[3] > 0.01


def test_profiles_of_what_is_not_there() -> None:
    out = profiles([[1.0, np.nan, 5.0], [2.0, np.nan, 5.0], [4.0, 3.0, 5.0], [np.nan, np.nan, 1.0]], [0, 0, 1, -1])
    assert out.n.tolist() == [[2, 0, 2], [1, 1, 1]]
    np.testing.assert_array_equal(np.isnan(out.mean), [[False, True, False], [False, False, False]])
    np.testing.assert_array_equal(np.isnan(out.sd), [[False, True, False], [True, True, True]])
    np.testing.assert_array_equal(np.isnan(out.p), [False, True, True])
    np.testing.assert_array_equal(out.q[:1], out.p[:1])


def test_adjusted_rand_leaves_out_the_unknown() -> None:
    assert adjusted_rand([0, 0, 1, 1, -1, 1], np.array(["a", "a", "b", "b", "b", None], object)) == (1.0, 4)
    value, n = adjusted_rand([0, -1], ["a", "b"])
    assert np.isnan(value)
    assert n == 1


def test_more_candidates_than_people() -> None:
    out = cluster([[0.0], [0.1], [5.0], [5.1]], resamples=3)
    assert out.candidates.tolist() == [2, 3]
    assert (out.k, out.labels.tolist()) == (1, [0] * 4)  # three samples of one group cannot show that there are two


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda v: cluster(v, k=1), "two clusters or more, found 1"),
        (lambda v: cluster(v, largest=1), "two clusters or more"),
        (lambda v: cluster(np.c_[v, np.ones(75)]), "features that vary, found feature 4 constant"),
        (lambda v: cluster(np.where(v > -np.inf, np.nan, v)), "more than 2 people, found 0 different people without a missing feature, of 75"),
        (lambda v: cluster(v[:5], k=5), "more than 5 people, found 5"),
        (lambda v: cluster(v[:, 0]), r"expected a table \(subject, feature\)"),
        (lambda v: profiles(v, [0, 1]), "75 labels, one a subject, found 2 labels"),
        (lambda v: profiles(v, np.full(75, -1)), "0 of them clusters"),
        (lambda v: profiles(v, np.full(75, 0.5)), "whole numbers"),
        (lambda v: adjusted_rand([0, 1], ["a"]), "2 known groups, found 1"),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(InputError, match=match):
        call(planted()[0])
