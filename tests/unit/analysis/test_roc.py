"""ROC, DeLong, precision and recall: against scikit-learn, against counting all pairs, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cohort_engine.analysis.roc import auc, best_threshold, compare_auc, curve, largest_auc, precision_recall, score_interval
from cohort_engine.errors import InputError

rng = np.random.default_rng(11)
N, MARKERS = 50, 5
GROUP = np.repeat([0.0, 1.0, np.nan], [28, 19, 3])
VALUES = rng.standard_normal((N, MARKERS)) + 0.6 * rng.standard_normal((N, 1)) + np.outer(np.nan_to_num(GROUP), [0, 0.3, 0.6, 0.9, 1.2])
VALUES[:, 2] = (2 * VALUES[:, 2]).round()  # ties
VALUES[rng.random((N, MARKERS)) < 0.08] = np.nan


def pairwise(x: np.ndarray, group: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Area and placements of one marker by comparing every pair."""
    wins = (np.sign(x[group == 1][:, None] - x[group == 0]) + 1) / 2
    return float(wins.mean()), wins.mean(axis=1), wins.mean(axis=0)


def known(*columns: np.ndarray) -> np.ndarray:
    return ~np.isnan(np.column_stack([*columns, GROUP])).any(axis=1)


@pytest.mark.parametrize("marker", range(MARKERS))
def test_area_is_scikit_learns_and_its_error_delongs(marker: int) -> None:
    rows = known(VALUES[:, marker])
    x, group = VALUES[rows, marker], GROUP[rows]
    found, plain = auc(VALUES, GROUP), auc(VALUES, GROUP, scale="plain")
    area, v1, v0 = pairwise(x, group)
    se = np.sqrt(v1.var(ddof=1) / len(v1) + v0.var(ddof=1) / len(v0))
    assert found.auc[marker] == pytest.approx(roc_auc_score(group, x), abs=1e-14)
    assert found.se[marker] == pytest.approx(se, rel=1e-10)
    assert (plain.low[marker], plain.high[marker]) == pytest.approx((area - 1.959963984540054 * se, area + 1.959963984540054 * se), rel=1e-10)
    step = 1.959963984540054 * se / (area * (1 - area))
    odds = area / (1 - area) * np.exp([-step, step])
    assert (found.low[marker], found.high[marker]) == pytest.approx(tuple(odds / (1 + odds)), rel=1e-10)
    assert found.n[:, marker].tolist() == [int((group == g).sum()) for g in (0, 1)]


@pytest.mark.parametrize("other", range(1, MARKERS))
def test_paired_difference_is_delongs(other: int) -> None:
    found = compare_auc(VALUES[:, :1], VALUES, GROUP)
    rows = known(VALUES[:, 0], VALUES[:, other])
    (a, a1, a0), (b, b1, b0) = (pairwise(VALUES[rows, m], GROUP[rows]) for m in (0, other))
    s1, s0 = np.cov(a1, b1), np.cov(a0, b0)
    s = s1 / len(a1) + s0 / len(a0)
    z = (a - b) / np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    assert found.first[other] == pytest.approx(a, abs=1e-14)
    assert found.second[other] == pytest.approx(b, abs=1e-14)
    assert found.z[other] == pytest.approx(z, rel=1e-10)
    parts = [np.var(one - two, ddof=1) / len(one) for one, two in ((a1, b1), (a0, b0))]
    df = sum(parts) ** 2 / sum(part**2 / (k - 1) for part, k in zip(parts, (len(a1), len(a0)), strict=True))
    assert found.df[other] == pytest.approx(df, rel=1e-9)
    assert found.p[other] == pytest.approx(2 * stats.t.sf(abs(z), df), rel=1e-9)
    assert found.high[other] - found.low[other] == pytest.approx(2 * stats.t.ppf(0.975, df) * (a - b) / z, rel=1e-9)
    assert found.n[:, other].tolist() == [len(a0), len(a1)]


def test_a_marker_does_not_differ_from_itself() -> None:
    found = compare_auc(VALUES, VALUES, GROUP)
    assert found.difference.tolist() == [0.0] * MARKERS
    assert np.isnan([found.z, found.p, found.low, found.high]).all()


@pytest.mark.parametrize("marker", range(MARKERS))
def test_curves_are_scikit_learns(marker: int) -> None:
    rows = known(VALUES[:, marker])
    x, group = VALUES[rows, marker], GROUP[rows]
    found = curve(VALUES[:, marker], GROUP)
    alarms, hits, threshold = roc_curve(group, x, drop_intermediate=False)
    assert found.threshold.tolist() == threshold.tolist()
    assert found.sensitivity == pytest.approx(hits, abs=1e-14)
    assert found.specificity == pytest.approx(1 - alarms, abs=1e-14)
    assert np.trapezoid(found.sensitivity, 1 - found.specificity) == pytest.approx(auc(VALUES, GROUP).auc[marker], abs=1e-14)
    pr = precision_recall(VALUES[:, marker], GROUP)
    precision, recall, threshold = precision_recall_curve(group, x)
    assert pr.average == pytest.approx(average_precision_score(group, x), abs=1e-14)
    assert pr.precision == pytest.approx(precision[-2::-1], abs=1e-14)
    assert pr.recall == pytest.approx(recall[-2::-1], abs=1e-14)
    assert pr.threshold.tolist() == threshold[::-1].tolist()


@pytest.mark.parametrize("marker", range(MARKERS))
def test_best_threshold_is_the_best_of_the_curve(marker: int) -> None:
    found, c = best_threshold(VALUES, GROUP, resamples=0), curve(VALUES[:, marker], GROUP)
    youden = c.sensitivity + c.specificity - 1
    best = int(np.argmax(youden.round(12)))
    assert found.youden[marker] == pytest.approx(youden[best], abs=1e-14)
    assert found.sensitivity[marker] == pytest.approx(c.sensitivity[best], abs=1e-14)
    assert found.specificity[marker] == pytest.approx(c.specificity[best], abs=1e-14)
    assert found.threshold[marker] == (c.threshold[best] + c.threshold[best + 1]) / 2
    assert np.isnan(found.threshold_interval).all()


def test_resampled_thresholds_are_those_of_the_repeated_rows() -> None:
    from cohort_engine.analysis.arrays import resampling, two_groups
    from cohort_engine.analysis.roc import _youden

    groups = two_groups(GROUP, N, where="groups")
    weights = resampling(groups, 20, seed=4)
    for marker in range(MARKERS):
        draws = _youden(VALUES[:, marker], groups, weights.T)
        for draw, counts in enumerate(weights.astype(int)):
            rows = np.repeat(np.arange(N), counts)
            plain = best_threshold(VALUES[rows], GROUP[rows], resamples=0, max_missing=1.0)
            expected = [plain.threshold[marker], plain.youden[marker], plain.sensitivity[marker], plain.specificity[marker]]
            assert draws[:4, draw] == pytest.approx(expected, abs=1e-12)


def test_threshold_of_two_normals_is_halfway() -> None:
    """Group 1 is one standard deviation and a half higher: the best cut lies at 0.75, the index there is 2 Phi(0.75) - 1 = 0.547."""
    x = np.random.default_rng(2).standard_normal((4000, 1)) + 1.5 * np.repeat([[0.0], [1.0]], 2000, axis=0)
    found = best_threshold(x, np.repeat([0, 1], 2000), resamples=200)
    again = best_threshold(x, np.repeat([0, 1], 2000), resamples=200)
    assert found.threshold[0] == pytest.approx(0.75, abs=0.2)
    assert found.threshold_interval[0, 0] < 0.75 < found.threshold_interval[1, 0]
    assert found.youden[0] == pytest.approx(0.547, abs=0.03)
    assert found.threshold_interval.tolist() == again.threshold_interval.tolist()


def test_optimism_is_what_new_subjects_take_away() -> None:
    """200 studies of 20 and 20: the index on the study itself, and on everybody (two normals one apart) at the study's threshold."""
    x, group = studies(200, 20, 20, stats.norm.cdf(np.sqrt(0.5)), seed=3)
    found = best_threshold(x, group, resamples=60)
    everybody = stats.norm.cdf(found.threshold) - stats.norm.cdf(found.threshold - 1)
    assert (found.youden - everybody).mean() > 0.1
    assert (found.youden - found.optimism - everybody).mean() == pytest.approx(0, abs=0.03)


def studies(markers: int, n0: int, n1: int, area: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    group = np.repeat([0, 1], [n0, n1])
    x = np.random.default_rng(seed).standard_normal((n0 + n1, markers))
    return x + np.sqrt(2) * stats.norm.ppf(area) * group[:, None], group


@pytest.mark.parametrize("scale", ["logit", "plain"])
def test_intervals_cover_the_area(scale: str) -> None:
    """Two normals with an area of 0.74, 60 and 60 subjects, 2,000 studies: 95 % within 1.5 points (the error of the count is 0.5)."""
    found = auc(*studies(2000, 60, 60, 0.74, seed=7), scale=scale)  # type: ignore[arg-type]
    assert 0.93 <= np.mean((found.low < 0.74) & (found.high > 0.74)) <= 0.97


def test_paired_test_keeps_its_level() -> None:
    """Two markers of equal area that share half their variance: one study in twenty differs."""
    group = np.repeat([0, 1], 60)
    shared, first, second = np.random.default_rng(8).standard_normal((3, 120, 2000))
    found = compare_auc(shared + first + group[:, None], shared + second + group[:, None], group)
    assert 0.035 <= np.mean(found.p < 0.05) <= 0.065


def test_paired_test_keeps_its_level_far_out_in_small_groups() -> None:
    """Ten people each, two unrelated markers without effect: of seven such pairs the smallest p is to be below 0.007 in one study of twenty."""
    group = np.repeat([0, 1], 10)
    first, second = np.random.default_rng(9).standard_normal((2, 20, 10000))
    assert 0.004 <= np.mean(compare_auc(first, second, group).p < 0.007) <= 0.0105


def test_unusable_markers_are_nan_with_n() -> None:
    group = np.repeat([0, 1], 10)
    good = np.random.default_rng(0).standard_normal(20)
    x = np.column_stack([good, good, good, np.full(20, 0.1), np.arange(20.0), np.full(20, np.nan)])
    x[4:10, 1] = np.nan
    x[11:, 2] = np.nan
    found = auc(x, group)
    assert found.n.tolist() == [[10, 4, 10, 10, 10, 0], [10, 10, 1, 10, 10, 0]]
    assert found.auc[[3, 4]].tolist() == [0.5, 1.0]
    assert np.isnan(found.auc[[1, 2, 5]]).all()
    assert np.isnan(found.low[[1, 2, 3, 5]]).all()
    assert np.isfinite(found.low[[0, 4]]).all()
    one = auc(x, group, max_missing=0.9)
    assert np.isfinite([one.auc[2], one.auc[1], one.low[1]]).all()
    assert np.isnan(one.se[2])
    pairs = compare_auc(x[:, :1], x, group)
    assert np.isnan(pairs.p[[0, 1, 2, 5]]).all()
    assert np.isfinite(pairs.p[[3, 4]]).all()
    cut = best_threshold(x, group, resamples=10)
    assert np.isnan(cut.threshold[[1, 2, 3, 5]]).all()
    assert cut.threshold[4] == 9.5
    assert cut.n.tolist() == found.n.tolist()


def test_one_error_where_nothing_can_be_computed() -> None:
    with pytest.raises(InputError, match="both groups, found 2 in group 0, 0 in group 1"):
        auc(np.zeros((2, 1)), [0, 0])
    with pytest.raises(InputError, match="not missing: expected subjects in both groups, found 1 in group 0, 0 in group 1"):
        curve([1.0, np.nan], [0, 1])
    with pytest.raises(InputError, match="a table"):
        auc(np.zeros(3), [0, 1, 1])


@pytest.mark.parametrize("sizes", [(5, 5), (10, 12)])
def test_groups_that_do_not_overlap_have_an_interval(sizes: tuple[int, int]) -> None:
    group = np.repeat([0, 1], sizes)
    found = auc(np.arange(float(sum(sizes)))[:, None] * [1, -1], group)
    assert found.auc.tolist() == [1, 0]
    low, one = found.low[0], found.high[0]
    assert one == 1
    assert [found.low[1], found.high[1]] == pytest.approx([0, 1 - low])
    inner = sum(sizes) / 2 - 1
    spread = low * (1 - low) * (1 + inner * (1 - low) / (2 - low) + inner * low / (1 + low)) / np.prod(sizes)
    assert (1 - low) / np.sqrt(spread) == pytest.approx(1.959963984540054, rel=1e-6)


def test_interval_of_sizes_leaves_out_chance_where_the_rank_test_does() -> None:
    n0, n1 = 11, 9
    u = np.arange(n0 * n1 + 1.0)
    z = np.abs(u - n0 * n1 / 2) / np.sqrt(n0 * n1 * (n0 + n1 + 1) / 12)
    low, high = score_interval(u / n0 / n1, np.tile([[n0], [n1]], len(u)), 2.5)
    assert ((low > 0.5) | (high < 0.5)).tolist() == (z > 2.5).tolist()


def test_the_best_of_many_markers_is_judged_as_such() -> None:
    """100 studies of 10 and 10 people and 60 markers that go together, none of which differs: the best looks good alone, and is called so in 5 %."""
    group, rng = np.repeat([0, 1], 10), np.random.default_rng(5)
    found, alone = [], []
    for seed in range(100):
        x = rng.standard_normal((20, 60)) + rng.standard_normal((20, 1))
        x[rng.random(x.shape) < 0.05] = np.nan
        found.append(largest_auc(x, group, permutations=199, seed=seed))
        assert found[-1].auc == auc(x, group).auc.max()
        alone.append(auc(x, group).low[found[-1].marker] > 0.5)
    assert np.mean(alone) > 0.15
    assert np.mean([f.p <= 0.05 for f in found]) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 100)
    assert np.mean([f.low <= 0.5 <= f.high for f in found]) >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / 100)


def test_a_marker_that_differs_is_the_best() -> None:
    group, rng = np.repeat([0, 1], 30), np.random.default_rng(6)
    x = rng.standard_normal((60, 50))
    x[:, 7] += 2 * group
    found = largest_auc(x, group)
    assert (found.marker, found.p, found.markers, found.n.tolist()) == (7, 0.001, 50, [30, 30])
    assert found.low < auc(x, group).low[7] < found.auc
    assert largest_auc(np.full((4, 2), np.nan), [0, 0, 1, 1]).marker == -1
