"""What the engine itself costs: continuing a build of 200 subjects in which everything is done. Stages are toys, so science takes no time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
from toys import STAGES, make_study, study_config

from cohort_engine.engine.build import build

SUBJECTS = 200


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_study(tmp_path_factory.mktemp("study"), *[{"value": i} for i in range(SUBJECTS)])
    build(study_config(root), stages=STAGES)
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as running:
        yield running


def test_continue_in_this_process(benchmark: Any, finished: Path) -> None:
    report = benchmark(build, study_config(finished), stages=STAGES)
    assert report.counts["mtr"]["cached"] == SUBJECTS


def test_continue_on_a_cluster(benchmark: Any, finished: Path, cluster: Any) -> None:
    config = study_config(finished, cluster="address", address=cluster.scheduler_address)
    report = benchmark(build, config, stages=STAGES)
    assert report.counts["mtr"]["cached"] == SUBJECTS
