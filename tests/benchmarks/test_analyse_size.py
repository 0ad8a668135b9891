"""What `analyse` costs with everything on: ``pytest --benchmark-only -s --timeout 0 tests/benchmarks/test_analyse_size.py``.

``PEOPLE`` in the environment says how many people (``1000,4000``). The whole command: harmonisation, a linear model with 1,000 resamples, ROC curves,
classifier, clusters, correlations, norms, sites, repeats of a tenth of the people, all tables, figures and the page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PEOPLE = [int(n) for n in os.environ.get("PEOPLE", "1000,4000").split(",")]
SECONDS, MEMORY = {1000: 90, 4000: 360}, 2048
"""CPU seconds and MiB that are allowed."""
STUDY = """
data: {{bids: b, store: {store}}}
template: {{name: parametric}}
stages:
  reduce: {{spaces: [template], estimators: [wa]}}
  segment: {{enabled: false}}
  levels: {{enabled: false}}
  shape: {{source: t2w}}
analysis:
  harmonise: {{site: site}}
  tests: {{method: linear, covariates: [age, sex], resamples: 1000}}
"""


@pytest.mark.parametrize("people", PEOPLE)
def test_everything_on(
    benchmark: Any, make_finished_study: Callable[..., str], cost: Callable[..., Any], tmp_path: Path, people: int
) -> None:  # fmt: skip
    (tmp_path / "study.yaml").write_text(STUDY.format(store=make_finished_study(people, people // 10)))
    out = tmp_path / "out"
    used = benchmark.pedantic(lambda: cost("analyse", tmp_path / "study.yaml", "--out", out, "--quiet", rounds=1), rounds=1)
    features = (out / "csv" / "groups.csv").read_text().count("\n") - 1
    tables = json.loads((out / "tables.json").read_text())
    print(f"\n{people} people x {features} features, {len(tables)} tables: {used.seconds:.0f} s CPU, {used.memory:.0f} MiB")
    assert {"groups", "roc_best", "classifier", "clusters", "correlations", "norms", "site_check", "repeats", "change"} <= set(tables)
    assert features > 340
    assert used.memory <= MEMORY
    assert used.seconds <= SECONDS.get(people, 90 * people / 1000)
