"""Failures planted into the files of a simulated study: each is flagged on the page of the cohort for the right reason, and few others are.

Run with ``pytest --benchmark-only -s tests/benchmarks/test_quality_pages.py``; ``COHORT_CLEAN`` is the number of people without a failure.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cohort_engine import schema
from cohort_engine.config import load_config
from cohort_engine.engine.build import build
from cohort_engine.phantom.plant import PLANTS, plant
from cohort_engine.phantom.study import simulate
from cohort_engine.qc.group import look
from cohort_engine.qc.pages import write_pages
from cohort_engine.quality import vocabulary
from cohort_engine.template import load_template

CLEAN = int(os.environ.get("COHORT_CLEAN", "50"))
REASONS = {
    "bad mask": {vocabulary.MASK_FAULT}, "wrong level": {vocabulary.LEVELS_FAULT}, "swapped MT": {schema.MTR}, "motion": {vocabulary.MOTION_FAULT},
    "lost slice": {f"{schema.MTR}_{schema.FLAGGED}"},
}  # fmt: skip
"""Kinds of flag that are right for what was planted."""
SEEN = 0.02
"""Share of people without a failure who may be flagged."""


@pytest.mark.timeout(7200)
def test_planted_failures_are_flagged_for_the_right_reason(benchmark: Any, tmp_path: Path) -> None:
    people = len(PLANTS) + CLEAN
    study = simulate(tmp_path / "study", template=load_template("parametric"), patients=people // 2, controls=people - people // 2, seed=2026)
    names = list(study.participants[schema.PARTICIPANT])
    planted = dict(zip(names[:: max(1, people // len(PLANTS))], PLANTS, strict=False))
    plant(study.bids, planted, seed=7)
    config = load_config(study.study_file)
    build(config)
    made = benchmark.pedantic(write_pages, (config.data.store,), {"config": config}, rounds=1)
    group = look(config.data.store)
    flags = dict(zip(group.names, group.flags, strict=True))
    for name, kind in planted.items():
        print(f"{kind}: " + "; ".join(f"[{f.kind}] {f.words}" for f in flags[name]))
    others = [n for n in names if n not in planted and flags[n]]
    print(f"others flagged: {len(others)} of {CLEAN}; pictures of {made.drawn} subjects")
    for name in others:
        print("  " + "; ".join(f"[{f.kind}] {f.words}" for f in flags[name]))
    for name, kind in planted.items():
        assert REASONS[kind] & {f.kind for f in flags[name]}, kind
    assert len(others) <= SEEN * CLEAN
