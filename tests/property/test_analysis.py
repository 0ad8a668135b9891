"""Whatever a table holds (holes, ties, constants, tiny groups), tests computed together are the tests computed alone, and nothing warns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cohort_engine.analysis.agreement import bland_altman, icc, repeatability
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.groups import METHODS, compare
from cohort_engine.analysis.roc import auc, best_threshold, compare_auc
from cohort_engine.errors import InputError

TESTS = 4
CELLS = st.sampled_from([np.nan, np.inf, -3.0, 0.0, 0.1, 0.1, 1.0, 40.0, 1e3])

Call = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
CALLS: dict[str, Call] = {
    **{f"{m}, {r} resamples": lambda x, g, c, m=m, r=r: compare(x, g, method=m, resamples=r, covariates=c if METHODS[m][2] else None)
       for m in METHODS for r in (0, 5)},
    "everything allowed": lambda x, g, c: compare(x, g, method="linear", covariates=c, max_missing=1.0),
    "auc": lambda x, g, c: auc(x, g),
    "plain auc": lambda x, g, c: auc(x, g, scale="plain", max_missing=1.0),
    "compare_auc": lambda x, g, c: compare_auc(x, c[:, :1] + g[:, None], g),
    "best_threshold": lambda x, g, c: best_threshold(x, g, resamples=5),
    "icc 2": lambda x, g, c: icc(np.stack([x, x[::-1]], axis=1), max_missing=1.0),
    "icc 3": lambda x, g, c: icc(np.stack([x, x[::-1]], axis=1), kind="ICC(3,1)"),
    "bland_altman": lambda x, g, c: bland_altman(x, x[::-1]),
    "repeatability": lambda x, g, c: repeatability(np.stack([x, x[::-1]], axis=1), max_missing=1.0),
    "pearson": lambda x, g, c: correlate(c, x, method="pearson"),
    "spearman": lambda x, g, c: correlate(c[:, :1], x, covariates=c[:, 1:], max_missing=1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_together_is_alone(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 14))
    x = data.draw(arrays(float, (n, TESTS), elements=CELLS))
    group = data.draw(arrays(float, n, elements=st.sampled_from([0.0, 1.0, 1.0, np.nan])))
    covariates = data.draw(arrays(float, (n, 2), elements=st.sampled_from([0.0, 1.0, 2.0, 55.0, np.nan])))
    try:
        together = CALLS[name](x, group, covariates)
    except InputError:
        with pytest.raises(InputError):
            CALLS[name](x[:, :1], group, covariates)
        return
    for test in range(TESTS):
        alone = CALLS[name](x[:, [test]], group, covariates)
        for f in fields(together):
            ours, theirs = getattr(together, f.name), getattr(alone, f.name)
            if isinstance(ours, np.ndarray):
                assert ours.shape[-1] == TESTS
                assert np.allclose(ours[..., test], theirs[..., 0], rtol=1e-6, atol=1e-9, equal_nan=True), f.name
                assert not np.isinf(ours).any() or f.name == "t"
    for bounded in ("p", "auc"):
        values = getattr(together, bounded, np.array(np.nan))
        assert not ((values < 0) | (values > 1)).any()
