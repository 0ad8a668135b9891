"""The DTI study from nothing, in its smallest size: ``pytest --benchmark-only -s tests/benchmarks/test_dti_csm.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cohort_engine.report.dti_csm import reproduce
from cohort_engine.template.parametric import parametric_cord


@pytest.mark.timeout(1800)
def test_small_reproduction(benchmark: Any, tmp_path: Path) -> None:
    """Seven simulated patients and four trainings; it says what a reproduction takes, nothing of the methods."""
    pytest.importorskip("torch")
    cord = parametric_cord(spacing=1.0)
    found = benchmark.pedantic(reproduce, (tmp_path, cord), {"device": "cpu", "say": print}, rounds=1)
    assert len(found.slices) >= 20
    sweep = pd.read_csv(tmp_path / "csv/sweep.csv")
    assert len(sweep) == 4
    assert sweep["dice"].between(0, 1).all()
    regions = pd.read_csv(tmp_path / "csv/regions.csv").set_index("method")
    assert regions.loc["another rater", "dice"].between(0.3, 0.8).all()  # people agree so far
