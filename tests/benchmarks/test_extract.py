"""Speed of the estimators for a cohort. Run with ``pytest --benchmark-only tests/benchmarks/test_extract.py -s``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.maps import Maps
from cohort_engine.reduce.operator import Operator
from cohort_engine.schema import SUBJECT_BLOCK
from cohort_engine.template import load_template
from cohort_engine.template.levels import LevelRange

pytestmark = pytest.mark.real

SUBJECTS, THREADS = 1000, 2
LEVELS = ("C2", "C3", "C4", "C5", "C6", "C7", "T1")


@pytest.fixture(scope="module")
def operator(real_data: Path) -> Operator:
    template = load_template("PAM50", path=real_data / "PAM50")
    return Operator.build(template.atlas, template.packing.level, [LevelRange.parse(n) for n in LEVELS], template.atlas.regions)


@pytest.mark.parametrize("holes", [0.0, 0.01], ids=["complete", "holes"])
@pytest.mark.parametrize("name", ["wa", "bin", "ml", "map"])
def test_a_thousand_subjects(benchmark: Any, operator: Operator, name: str, holes: float) -> None:
    """43 regions x 7 levels. Holes: one voxel in a hundred is missing, so that every level of every subject is solved on its own."""
    rng = np.random.default_rng(0)
    maps = rng.normal(40, 4, (SUBJECT_BLOCK, operator.n_voxels)).astype(np.float32)
    maps[rng.random(maps.shape) < holes] = np.nan
    sizes = [min(SUBJECT_BLOCK, SUBJECTS - first) for first in range(0, SUBJECTS, SUBJECT_BLOCK)]

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda n: estimator(name).of_maps(operator, Maps(maps[:n]), min_coverage=0.75), sizes))

    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    print(f"\n{name}: {benchmark.stats.stats.min:.2f} s for {SUBJECTS} subjects on {THREADS} threads")
    if name == "map":
        assert benchmark.stats.stats.min < 5
