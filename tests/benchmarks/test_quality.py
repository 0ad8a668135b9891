"""The probability that values are usable, on people it was not fitted on: planted failures, clean scans, reliability; and real healthy people.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_quality.py``; ``QUALITY_PEOPLE=n`` takes n people. The packaged
scorecard was fitted on seed 1 (`cohort-engine train quality`).
"""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pytest

from cohort_engine.phantom.usable import CLEAN, judged, reliability, simulate_features, summary
from cohort_engine.template.parametric import parametric_cord

SEED = 1001
PEOPLE = int(os.environ.get("QUALITY_PEOPLE", "4"))


@pytest.mark.timeout(3600)
def test_planted_failures_are_flagged_for_the_right_reason(benchmark: Any) -> None:
    if done := os.environ.get("QUALITY_FEATURES"):  # features that an earlier run has left
        table = pd.read_csv(done)
        benchmark.pedantic(lambda: judged(table), rounds=1, iterations=1)
    else:
        table = benchmark.pedantic(lambda: simulate_features(parametric_cord(spacing=1.0), PEOPLE, SEED), rounds=1, iterations=1)
    found = judged(table)
    each = summary(found)
    print(each.round(3).to_string(), reliability(found).round(3).to_string(index=False), sep="\n\n")
    failed = found[found["planted"] != CLEAN]
    rightly = float(((failed["usable"] < 0.5) & failed["right"]).mean())
    false = float(each.loc[CLEAN, "flagged"])
    print(f"\nflagged for the right reason {rightly:.3f} of {len(failed)}; clean ones flagged {false:.3f} of {int(each.loc[CLEAN, 'scans'])}")
    assert rightly >= 0.9
    assert false <= 0.02
