from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest
import zarr

from cohort_engine.engine.plugins import TemplateRef, worker_plugin, worker_template
from cohort_engine.errors import ResourceError, TemplateError
from cohort_engine.single.process import REQUESTS, Workplace, task_folder


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Workplace(1).environment:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delitem(sys.modules, "ants", raising=False)
    return monkeypatch


def test_a_worker_gets_seed_threads_and_a_cap_on_requests(clean_environment: pytest.MonkeyPatch) -> None:
    with zarr.config.set({"async.concurrency": 10}):
        Workplace(seed=7, threads=2).apply()
        assert zarr.config.get("async.concurrency") == REQUESTS
    assert os.environ["ANTS_RANDOM_SEED"] == "7"
    assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "2"


def test_a_seed_that_comes_too_late_is_refused(clean_environment: pytest.MonkeyPatch) -> None:
    Workplace(seed=7).apply()
    clean_environment.setitem(sys.modules, "ants", ModuleType("ants"))
    Workplace(seed=7).apply()
    with pytest.raises(ResourceError, match="seed 8, found seed 7"):
        Workplace(seed=8).apply()


@pytest.mark.parametrize("profiled", [False, True])
def test_dasks_profiler_goes_on_only_where_others_look_at_the_workers_too(clean_environment: pytest.MonkeyPatch, profiled: bool) -> None:
    calls = {name: Mock() for name in ("heartbeat", "profile", "profile-cycle")}
    worker = SimpleNamespace(periodic_callbacks=dict(calls))
    worker_plugin(Workplace(seed=1), profiled=profiled).setup(worker)
    assert set(worker.periodic_callbacks) == (set(calls) if profiled else {"heartbeat"})
    assert [call.stop.called for call in calls.values()] == [False, not profiled, not profiled]


def test_the_temp_folder_goes_when_the_task_fails() -> None:
    before = tempfile.gettempdir()
    seen: list[Path] = []

    def task() -> None:
        with task_folder(3) as folder:
            Path(tempfile.mkdtemp(), "left").touch()
            assert os.environ["TMPDIR"] == str(folder)
            assert folder.name.startswith("cohort-000003-")
            seen.append(folder)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        task()
    assert not seen[0].exists()
    assert tempfile.gettempdir() == before


def test_a_template_is_loaded_once_and_checked() -> None:
    from cohort_engine.template import load_template

    ref = TemplateRef("parametric", None, load_template("parametric").digest)
    assert worker_template(ref) is worker_template(ref)
    with pytest.raises(TemplateError, match="template of a worker"):
        worker_template(TemplateRef("parametric", None, "0" * 16))
