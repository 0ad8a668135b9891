"""The tract operator as arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.errors import AlignmentError, UnknownNameError
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.maps import weighted_average
from cohort_engine.reduce.operator import Operator
from cohort_engine.schema import ESTIMATORS
from cohort_engine.template.atlas import Atlas, Region
from cohort_engine.template.levels import LevelRange

NAN = np.nan
Make = Callable[..., Operator]


@pytest.fixture
def make_operator() -> Make:
    """Operator from a (label, voxel) table of weights and a level per voxel; every label is a region unless regions are given."""

    def make(weights: list[list[float]], level: list[int], levels: list[str], regions: list[tuple[int, ...]] | None = None) -> Operator:
        w = sparse.csr_array(np.asarray(weights, np.float32))
        atlas = Atlas(tuple(f"label {i}" for i in range(len(weights))), {}, {}, w)
        chosen = atlas.regions if regions is None else tuple(Region(str(m), m) for m in regions)
        return Operator.build(atlas, np.asarray(level, np.int8), [LevelRange.parse(name) for name in levels], chosen)

    return make


def values(*rows: list[float]) -> np.ndarray:
    return np.asarray(rows, np.float32)


def test_weights_count(make_operator: Make) -> None:
    out = weighted_average(make_operator([[1, 0.5]], [2, 2], ["C2"]), values([40, 10]))
    assert out["value"].item() == pytest.approx((40 + 5) / 1.5)
    assert out["n"].item() == 1.5
    assert out["std"].item() == pytest.approx(np.sqrt((1 * 10**2 + 0.5 * 20**2) / 1.5))  # the mean is 30
    assert out["coverage"].item() == 1
    assert all(a.dtype == np.float32 and a.shape == (1, 1, 1) for a in out.values())


def test_half_missing_level_is_not_zero(make_operator: Make) -> None:
    op = make_operator([[1, 1, 1, 1]], [2, 2, 2, 2], ["C2"])
    out = weighted_average(op, values([40, 40, NAN, NAN]), min_coverage=0.5)
    assert (out["value"].item(), out["coverage"].item(), out["n"].item(), out["std"].item()) == (40, 0.5, 2, 0)


def test_coverage_limit_hides_value_and_std_but_not_n(make_operator: Make) -> None:
    op = make_operator([[1, 1, 1, 1]], [2, 2, 2, 2], ["C2"])
    out = weighted_average(op, values([40, 40, NAN, NAN]), min_coverage=0.51)
    assert np.isnan(out["value"].item())
    assert np.isnan(out["std"].item())
    assert (out["coverage"].item(), out["n"].item()) == (0.5, 2)


def test_coverage_at_the_limit_is_kept_in_spite_of_rounding(make_operator: Make) -> None:
    out = weighted_average(make_operator([[0.1] * 10], [2] * 10, ["C2"]), values([1.0] * 7 + [NAN] * 3), min_coverage=0.7)
    assert out["value"].item() == 1


@pytest.mark.parametrize("row", [[NAN, NAN, 5, 5], [NAN, NAN, NAN, NAN]])
def test_absent_level_is_nan_with_no_voxels_even_without_a_limit(make_operator: Make, row: list[float]) -> None:
    out = weighted_average(make_operator([[1, 1, 1, 1]], [2, 2, 3, 3], ["C2"]), values(row), min_coverage=0)
    assert np.isnan(out["value"].item())
    assert np.isnan(out["std"].item())
    assert (out["coverage"].item(), out["n"].item()) == (0, 0)


def test_region_without_weight_in_a_level_is_nan(make_operator: Make) -> None:
    out = weighted_average(make_operator([[1, 0]], [2, 3], ["C2", "C3"]), values([7, 9]), min_coverage=0)
    np.testing.assert_array_equal(out["value"].ravel(), [7, NAN])
    assert out["coverage"].ravel().tolist() == [1, 0]


def test_zero_is_a_value(make_operator: Make) -> None:
    out = weighted_average(make_operator([[1, 1]], [2, 2], ["C2"]), values([0, 4], [0, 0]))
    assert out["value"].ravel().tolist() == [2, 0]
    assert out["coverage"].ravel().tolist() == [1, 1]


def test_a_hole_in_one_subject_leaves_the_others_alone(make_operator: Make) -> None:
    op = make_operator([[1, 1, 0], [0, 1, 1]], [2, 2, 2], ["C2"])
    out = weighted_average(op, values([1, 2, 3], [NAN, 2, 3]), min_coverage=0)
    np.testing.assert_allclose(out["value"][:, 0], [[1.5, 2.5], [2, 2.5]])
    np.testing.assert_array_equal(out["coverage"][:, 0], [[1, 1], [0.5, 1]])


def test_union_is_the_combination_of_its_labels(make_operator: Make) -> None:
    op = make_operator([[1, 0.25, 0], [0, 0.5, 1]], [2, 2, 2], ["C2"], regions=[(0,), (1,), (0, 1)])
    out = weighted_average(op, values([10, 20, 60]))
    value, n = out["value"][0, 0], out["n"][0, 0]
    assert value[2] == pytest.approx((value[0] * n[0] + value[1] * n[1]) / (n[0] + n[1]))
    assert n[2] == 2.75
    mean = (10 + 0.75 * 20 + 60) / 2.75
    assert out["std"][0, 0, 2] == pytest.approx(np.sqrt(((10 - mean) ** 2 + 0.75 * (20 - mean) ** 2 + (60 - mean) ** 2) / 2.75))


def test_pooled_range_weighs_levels_by_their_voxels(make_operator: Make) -> None:
    op = make_operator([[1, 1, 1, 1, 1]], [2, 2, 2, 3, 4], ["C2:C3", "C2", "C3", "C2:C4"])
    out = weighted_average(op, values([10, 10, 10, 50, 100]))
    np.testing.assert_allclose(out["value"].ravel(), [20, 10, 50, 36])
    assert out["std"].ravel()[0] == pytest.approx(np.sqrt((3 * 10**2 + 30**2) / 4))
    assert out["n"].ravel().tolist() == [4, 3, 1, 5]


def test_pooled_coverage_is_of_the_pool(make_operator: Make) -> None:
    op = make_operator([[1, 1, 1, 1]], [2, 2, 2, 3], ["C2:C3"])
    assert weighted_average(op, values([1, 1, 1, NAN]))["coverage"].item() == 0.75


def test_levels_need_not_be_in_order_nor_contiguous(make_operator: Make) -> None:
    op = make_operator([[1, 1, 1, 1]], [3, 2, 3, 0], ["C2", "C3"])
    assert weighted_average(op, values([1, 5, 3, 100]))["value"].ravel().tolist() == [5, 2]


def test_constant_map_has_no_spread(make_operator: Make) -> None:
    rng = np.random.default_rng(0)
    op = make_operator([rng.random(5000).tolist()], [2] * 5000, ["C2"])
    out = weighted_average(op, np.full((1, 5000), 1234.567, np.float32))
    assert out["value"].item() == np.float32(1234.567)
    assert out["std"].item() < 1e-7 * 1234.567


def test_small_spread_on_a_large_mean(make_operator: Make) -> None:
    op = make_operator([[1] * 4000], [2] * 4000, ["C2"])
    row = 1000 + np.tile(values([-0.125, 0.125])[0], 2000)
    assert weighted_average(op, row[None])["std"].item() == pytest.approx(0.125, rel=1e-4)


def test_nothing_in_nothing_out(make_operator: Make) -> None:
    out = weighted_average(make_operator([[1]], [2], ["C2"]), np.empty((0, 1), np.float32))
    assert out["value"].shape == (0, 1, 1)


def test_other_voxel_axis_is_refused(make_operator: Make) -> None:
    with pytest.raises(AlignmentError, match=r"expected maps of shape \(subject, 2\), found shape \(1, 3\)"):
        weighted_average(make_operator([[1, 1]], [2, 2], ["C2"]), values([1, 2, 3]))
    with pytest.raises(AlignmentError, match="a level for each of the 2 voxels"):
        make_operator([[1, 1]], [2], ["C2"])


@pytest.mark.parametrize(
    ("text", "numbers"), [("C2", (2,)), ("c2:c3", (2, 3)), ("C7 : T2", (7, 8, 9)), ("all", (2, 3, 4)), ("C3:C3", (3,))]
)  # fmt: skip
def test_level_ranges(text: str, numbers: tuple[int, ...]) -> None:
    known = ("C2", "C3", "C4") if text == "all" else ("C1", "C2", "C3", "C7", "T1", "T2")
    assert LevelRange.parse(text, known).numbers == numbers


@pytest.mark.parametrize(
    ("text", "message"), [("C9", "Did you mean 'C"), ("C3:C2", "from the upper to the lower"), ("C2:C3:C4", "from the upper"), ("T1", "C2")]
)
def test_levels_nobody_has(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        LevelRange.parse(text, ("C2", "C3", "C4"))


def test_estimators_are_found_by_their_sct_name() -> None:
    assert estimator("wa") is ESTIMATORS["wa"]
    with pytest.raises(UnknownNameError, match=r"a known estimator, found 'wat'\. Did you mean 'wa'"):
        estimator("wat")
