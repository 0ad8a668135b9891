"""The probability that values are usable, on people it was not fitted on: failures planted gross and by degrees, clean scans, reliability.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_quality.py``; ``QUALITY_PEOPLE=n`` takes n people,
``QUALITY_CLEAN=n`` n more in whom nothing is planted, ``QUALITY_SEED`` others, ``QUALITY_OUT=file`` keeps their features, and
``QUALITY_FEATURES=file,file`` judges those of earlier runs together. The packaged scorecard names the seed that it was fitted on
(`cohort-engine train quality`). Planted failures that leave values usable are no failures: they count in the reliability alone.
"""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pytest

from cohort_engine.phantom.usable import CLEAN, judged, reliability, simulate_features, summary
from cohort_engine.quality.judge import card
from cohort_engine.quality.vocabulary import LEAST_USABLE
from cohort_engine.template.parametric import parametric_cord

SEED = int(os.environ.get("QUALITY_SEED", "3003"))
PEOPLE = int(os.environ.get("QUALITY_PEOPLE", "4"))
CLEAN_PEOPLE = int(os.environ.get("QUALITY_CLEAN", "0"))


@pytest.mark.timeout(7200)
def test_planted_failures_are_flagged_for_the_right_reason(benchmark: Any) -> None:
    assert card()["seed"] != SEED
    if done := os.environ.get("QUALITY_FEATURES"):
        table = pd.concat([pd.read_csv(name) for name in done.split(",")], ignore_index=True)
        benchmark.pedantic(lambda: judged(table), rounds=1, iterations=1)
    else:
        table = benchmark.pedantic(lambda: simulate_features(parametric_cord(spacing=1.0), PEOPLE, SEED, clean=CLEAN_PEOPLE), rounds=1, iterations=1)
    if out := os.environ.get("QUALITY_OUT"):
        table.to_csv(out, index=False)
    found = judged(table)
    print(summary(found).round(3).to_string(), reliability(found).round(3).to_string(index=False), sep="\n\n")
    found = found.assign(flagged=found["usable"] < LEAST_USABLE)
    planted, clean = found[found["planted"] != CLEAN], found[found["planted"] == CLEAN]
    spoilt = planted[planted["spoilt"]]
    gross = spoilt[spoilt["size"] == 1]
    rightly, grossly = (float((t["flagged"] & t["right"]).mean()) for t in (spoilt, gross))
    false = float(clean.loc[~clean["spoilt"], "flagged"].mean())
    print(
        f"\nflagged for the right reason {rightly:.3f} of {len(spoilt)} failures that spoil values, {grossly:.3f} of {len(gross)} gross ones; "
        f"clean scans flagged {false:.3f} of {len(clean)}; planted ones that leave values usable flagged "
        f"{float(planted.loc[~planted['spoilt'], 'flagged'].mean()):.3f} of {int((~planted['spoilt']).sum())}"
    )
    assert grossly >= 0.9
    assert false <= 0.02
