"""Two workers against one: a simulated cohort from images alone, built by a local cluster of one process and of two, in the same run.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_workers.py`` where nothing else wants the processors.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.config import parse_config
from cohort_engine.engine.build import build
from cohort_engine.phantom.study import simulate
from cohort_engine.template.parametric import parametric_cord

PEOPLE = 16


@pytest.mark.timeout(1800)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_two_workers_against_one(tmp_path: Path, benchmark: Any) -> None:
    """Wall time of whole builds, from the start of the workers to the closed store."""
    study = simulate(tmp_path / "study", template=parametric_cord(), patients=PEOPLE // 2, controls=PEOPLE // 2, labels=False, workers=2)

    def seconds(workers: int) -> float:
        config = parse_config({
            "data": {"bids": str(study.bids), "store": str(tmp_path / f"{workers}.zarr")}, "template": {"name": "parametric"},
            "compute": {"cluster": "local", "workers": workers},
        })  # fmt: skip
        start = time.perf_counter()
        assert build(config).exit_code == 0
        return time.perf_counter() - start

    one, two = seconds(1), benchmark.pedantic(seconds, (2,), rounds=1)
    print(f"\n{PEOPLE} subjects: {one:.1f} s with one worker, {two:.1f} s with two, {one / two:.2f} times")
    assert one / two >= 1.8
