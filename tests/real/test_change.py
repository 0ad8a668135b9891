"""Repeatability and ageing of the cord from healthy people who were scanned again after years (DLBS)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cohort_engine.analysis.change import changed, fit_change

pytestmark = pytest.mark.real

MEASURES = ["area", "diameter_AP", "diameter_RL", "eccentricity", "solidity"]


@pytest.mark.parametrize("level", ["C2", "C3"])
def test_people_of_311_who_came_again(real_data, level) -> None:
    frame = pd.read_csv(real_data / "morphometrics" / "DLBS_per_level_train.tsv.gz", sep="\t", na_values="n/a")
    frame = frame[(frame["n_slices"] == frame["n_slices_level"]) & (frame["level"] == level)]
    values, who, age = frame[[f"MEAN({m})" for m in MEASURES]].to_numpy(), frame["participant_id"].to_numpy(), frame["age"].to_numpy()
    found = fit_change(values, who, age)
    far = changed(found, values, who, age)
    known = np.isfinite(far.change)
    table = pd.DataFrame(
        {
            "n": found.n, "sessions": found.sessions, "years": found.follow_up, "a year": found.slope, "low": found.low, "high": found.high,
            "p": found.p, "SD between people": found.between, "SEM": found.sem, "MDC": far.mdc,
            "beyond %": 100 * (far.beyond & known).sum(axis=0) / known.sum(axis=0), "SD of change": np.nanstd(far.change, axis=0, ddof=1),
        },
        index=MEASURES,
    )  # fmt: skip
    print(f"\n{level}\n{table.round(4).to_string()}")
    area = table.loc["area"]
    assert area["n"] == {"C2": 218, "C3": 173}[level]
    assert -0.3 < area["low"] < area["high"] < 0  # mm2 a year
    assert 1.0 < area["SEM"] < 2.0
    assert (table["beyond %"] < 8).all()

    half = np.random.default_rng(0).permutation(np.unique(who))
    half = half[: len(half) // 2]
    ours = np.isin(who, half)
    new = changed(fit_change(values[ours], who[ours], age[ours]), values[~ours], who[~ours], age[~ours])
    share = new.beyond.sum() / np.isfinite(new.change).sum()
    print(f"of people who were not learnt from, {100 * share:.1f} % changed more than the limit of 5 %")
    assert 0.02 < share < 0.09
