"""Processes die: a worker, a worker again and again, the whole build. What was finished stays, and the end is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from toys import STAGES, arrays, journal, make_study, study_config

from cohort_engine.engine.build import build
from cohort_engine.engine.events import Events
from cohort_engine.store.records import read_entries

pytestmark = pytest.mark.distributed
HERE = Path(__file__).parent


def same_as_uninterrupted(root: Path, people: list[dict[str, object]]) -> None:
    """Compare every array with those of a build in one process that nothing happened to."""
    calm = root / "calm"
    calm.mkdir()
    build(study_config(make_study(calm, *people)), stages=STAGES)
    found, expected = arrays(root), arrays(calm)
    assert set(found) == set(expected)
    for path, array in expected.items():
        assert np.array_equal(found[path], array, equal_nan=array.dtype.kind == "f"), path


class KillWorker(Events):
    """Kill the worker that ran last, once, when two subjects are done."""

    def __init__(self, root: Path) -> None:
        self.root, self.done, self.killed = root, 0, 0

    def on_subject_end(self, row: int) -> None:
        self.done += 1
        if self.done == 2:
            self.killed = int((self.root / "journal").read_text().split()[-1])
            os.kill(self.killed, signal.SIGKILL)


def test_a_killed_worker_costs_time_and_nothing_else(tmp_path: Path) -> None:
    people: list[dict[str, object]] = [{"value": i, "sleep": 0.1} for i in range(8)]
    make_study(tmp_path, *people)
    events = KillWorker(tmp_path)
    config = study_config(tmp_path, cluster="local", workers=2, retries=2)
    report = build(config, events=events, stages=STAGES)
    assert events.killed
    assert report.exit_code == 0
    ran = journal(tmp_path)
    assert len(ran) - len(set(ran)) <= 1, "only the task that was running may run twice"
    same_as_uninterrupted(tmp_path, people)


def test_a_subject_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "kill"}, {}, {}, {}, {})
    report = build(study_config(tmp_path, cluster="local", workers=1, retries=0), stages=STAGES)
    assert [(e.subject, e.kind, e.retryable) for e in report.entries] == [(1, "LostWorkerError", True)]
    assert {k: n for k, n in report.counts["mtr"].items() if n} == {"done": 5, "blocked": 1}
    assert [(e.subject, e.status) for e in read_entries(str(tmp_path / "study.zarr")) if e.status != "done"] == [(1, "failed")]


def test_a_killed_build_continues_where_it_was(tmp_path: Path) -> None:
    people: list[dict[str, object]] = [{"value": i, "sleep": 0.3} for i in range(8)]
    make_study(tmp_path, *people)
    url = str(tmp_path / "study.zarr")
    driver = subprocess.Popen([sys.executable, str(HERE / "toys.py"), str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger = Path(f"{url}.ledger")
    deadline = time.monotonic() + 240  # a busy machine
    while len(list(ledger.glob("records/*-mtr.record"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers outlive the build"
    finished = {(e.stage.removesuffix("_mt"), f"sub-{e.subject:02d}") for e in read_entries(url)}
    assert 3 <= len([f for f in finished if f[0] == "mtr"]) < 8
    report = build(study_config(tmp_path), stages=STAGES)
    assert report.exit_code == 0
    ran = journal(tmp_path)
    assert all(ran.count(f) == 1 for f in finished)
    same_as_uninterrupted(tmp_path, people)
