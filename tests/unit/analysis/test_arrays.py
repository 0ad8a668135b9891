"""Ranks against scipy, the basis of covariates, and resampling weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from cohort_engine.analysis.arrays import basis, percentiles, ranks, resampling


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([np.nan, -1.5, 0.0, 2.0, 3.0]), min_size=3, max_size=3), max_size=8))
def test_ranks_are_scipys(rows: list[list[float]]) -> None:
    values = np.array(rows).reshape(-1, 3)
    rank, ties = ranks(values)
    for column in range(3):
        known = ~np.isnan(values[:, column])
        assert rank[known, column].tolist() == rankdata(values[known, column]).tolist()
        assert ties[known, column].tolist() == [(values[:, column] == v).sum() for v in values[known, column]]
        assert np.isnan(rank[~known, column]).all()


def test_basis_spans_the_covariates_once() -> None:
    rng = np.random.default_rng(0)
    site = rng.integers(0, 3, 30)
    given_ = np.column_stack([rng.normal(2020, 1, 30), *(site == s for s in range(3)), np.full(30, 7.0)]).astype(float)
    given_[4, 0] = np.nan
    columns, complete = basis(given_, 30, where="covariates")
    assert columns.shape == (30, 4)
    assert np.allclose(columns.T @ columns, np.eye(4), atol=1e-14)
    assert complete.tolist() == [i != 4 for i in range(30)]
    assert not columns[4].any()
    assert np.allclose(columns[complete] @ (columns[complete].T @ given_[complete]), given_[complete])


def test_resamples_stay_in_their_stratum() -> None:
    strata = np.array([[True] * 3 + [False] * 4, [False] * 3 + [True] * 2 + [False] * 2])
    weights = resampling(strata, 500, seed=1)
    assert weights[:, :3].sum(axis=1).tolist() == [3.0] * 500
    assert weights[:, 3:5].sum(axis=1).tolist() == [2.0] * 500
    assert not weights[:, 5:].any()
    assert abs(weights[:, 0].mean() - 1) < 0.1


def test_percentiles_need_half_of_the_resamples() -> None:
    draws = np.tile(np.arange(10.0)[:, None], 2)
    draws[:4, 0], draws[:6, 1] = np.nan, np.nan
    low, high = percentiles(draws, 0.8)
    assert (low[0], high[0]) == (4.5, 8.5)
    assert np.isnan([low[1], high[1]]).all()
