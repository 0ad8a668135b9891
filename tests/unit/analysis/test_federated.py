"""Sums of sites against the same people in one table."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.analysis.federated import add, linear, sums, welch
from cohort_engine.analysis.groups import LINEAR, WELCH, compare
from cohort_engine.errors import InputError


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    n = 240
    values = 45 + 3 * rng.standard_normal((n, 12))
    values[rng.random(values.shape) < 0.05] = np.nan
    site, group = rng.integers(0, 4, n), rng.integers(0, 2, n).astype(float)
    covariates = np.column_stack([rng.normal(55, 12, n), rng.integers(0, 2, n)])
    covariates[3, 0] = np.nan
    return values + 2 * site[:, None] + group[:, None], site, group, covariates


def of_sites(values, site, group, covariates):
    return add([sums(values[site == s], group[site == s], covariates[site == s]) for s in range(4)])


@pytest.mark.parametrize("key", ["effect", "se", "low", "high", "df", "p"])
def test_equal_to_one_table(people, key) -> None:
    values, site, group, covariates = people
    both = of_sites(*people)
    pooled = compare(values, group, method=WELCH)
    np.testing.assert_allclose(getattr(welch(both), key), getattr(pooled, key), rtol=1e-8, atol=1e-12)
    columns = np.column_stack([covariates, *(site == s for s in (1, 2, 3))])
    pooled = compare(values, group, method=LINEAR, covariates=columns)
    np.testing.assert_allclose(getattr(linear(both), key), getattr(pooled, key), rtol=1e-8, atol=1e-12)


def test_sums_of_few_people_are_not_shared(people) -> None:
    values, _, group, covariates = people
    values = values.copy()
    values[np.flatnonzero(group == 1)[4:], 0] = np.nan
    found = sums(values, group, covariates)
    assert found.count[:, 0].tolist() == [0, 0]
    assert (found.total[:, 0] == 0).all()
    assert (found.cross[0] == 0).all()
    assert np.isnan(linear(found).p[0])
    assert np.isfinite(linear(found).p[1:]).all()


def test_sites_of_one_group_and_other_tests(people) -> None:
    values, _, group, covariates = people
    with pytest.raises(InputError, match="both groups"):
        sums(values, np.zeros(len(values)))
    with pytest.raises(InputError, match="same tests and covariates"):
        add([sums(values, group), sums(values, group, covariates)])
    decided = sums(values, group, group[:, None])
    assert np.isnan(linear(decided).p).all()
