"""A build on a cluster somebody else started: two workers, one of them labelled gpu."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import FIT, MTR, STAGES, arrays, make_study, study_config

from cohort_engine.engine.build import build, plan
from cohort_engine.errors import ResourceError

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers, with a temp folder that nobody else uses."""
    from distributed import Nanny, Scheduler, SpecCluster

    def worker(**options: object) -> dict[str, object]:
        return {"cls": Nanny, "options": {"nthreads": 1, "memory_limit": "3 GiB"} | options}

    spec = {"cpu": worker(), "gpu": worker(resources={"gpu": 1})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("workers")))
        running = SpecCluster(spec, scheduler={"cls": Scheduler, "options": {"dashboard": False}}, silence_logs=50)
    with running:
        yield running


@pytest.fixture
def address(cluster: Any) -> dict[str, object]:
    return {"cluster": "address", "address": cluster.scheduler_address, "workers": 2}


def processes(root: Path, stage: str) -> list[int]:
    lines = (line.split() for line in (root / "journal").read_text().splitlines())
    return [int(pid) for name, _, pid in lines if name == stage]


def on_workers(cluster: Any, function: Any) -> dict[str, Any]:
    """Call a function on every worker, by the worker's name."""
    from distributed import Client

    with Client(cluster) as client:
        names = {address: w["name"] for address, w in client.scheduler_info()["workers"].items()}
        return {names[address]: found for address, found in client.run(function).items()}


def test_a_stage_runs_only_where_its_resource_is(tmp_path: Path, cluster: Any, address: dict[str, object]) -> None:
    make_study(tmp_path, *[{}] * 12)
    stages = (replace(FIT, resources={"gpu": 1}), MTR)
    report = build(study_config(tmp_path, **address), stages=stages)
    assert report.exit_code == 0
    gpu = on_workers(cluster, os.getpid)["gpu"]
    assert set(processes(tmp_path, "fit")) == {gpu}
    assert len(processes(tmp_path, "fit")) == 12


def test_a_resource_nobody_has_is_refused_and_not_waited_for(tmp_path: Path, address: dict[str, object]) -> None:
    make_study(tmp_path, {})
    config = study_config(tmp_path, **address)
    stages = (replace(FIT, resources={"tpu": 1}), MTR)
    assert plan(config, stages=stages).workers == 1  # no more than subjects
    with pytest.raises(ResourceError, match="'tpu': 1"):
        build(config, stages=stages)


def test_bad_subjects_stop_nobody_and_two_workers_agree_with_one_process(tmp_path: Path, address: dict[str, object]) -> None:
    people = [{"value": i} for i in range(8)]
    people[2], people[5] = {"fit": "bad"}, {"mtr": "bug"}
    roots = []
    for name, compute in (("two", address), ("one", {"cluster": "synchronous"})):
        (tmp_path / name).mkdir()
        roots.append(make_study(tmp_path / name, *people))
        report = build(study_config(roots[-1], **compute), stages=STAGES)
        assert report.counts["fit_mt"]["done"] == 7
        assert report.counts["mtr"] == {"done": 6, "cached": 0, "failed": 1, "missing_input": 0, "not_needed": 0, "blocked": 1}
    two, one = map(arrays, roots)
    assert set(two) == set(one)
    assert all(np.array_equal(two[k], one[k], equal_nan=one[k].dtype.kind == "f") for k in one)


def test_workers_know_the_seed_before_antspyx_does_and_keep_no_temp_files(tmp_path: Path, cluster: Any, address: dict[str, object]) -> None:
    def look(dask_worker: Any) -> tuple[object, ...]:
        import sys
        import tempfile

        names = ("ANTS_RANDOM_SEED", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS")
        left = [str(p) for top in (dask_worker.local_directory, tempfile.gettempdir()) for p in Path(top).glob("cohort-0*")]
        return (*(os.environ.get(n) for n in names), "ants" in sys.modules, left)

    make_study(tmp_path, {}, {"fit": "bad"}, {"mtr": "bug"}, {})
    build(study_config(tmp_path, seed=5, **address), stages=STAGES)
    assert set(map(str, on_workers(cluster, look).values())) == {str(("5", "1", "1", False, []))}


def test_keys_of_tasks_hold_row_numbers_and_no_names(tmp_path: Path, cluster: Any, address: dict[str, object]) -> None:
    make_study(tmp_path, {}, {})
    build(study_config(tmp_path, **address), stages=STAGES)
    keys = {str(transition[0]) for transition in cluster.scheduler.transition_log}
    assert [k for k in keys if k.startswith("mtr-000001-")]
    assert not [k for k in keys if "sub-" in k or str(tmp_path) in k]
