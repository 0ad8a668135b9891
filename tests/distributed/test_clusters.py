"""What every pool promises, with plain functions in place of stages."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters import CLUSTERS, ClusterKind, Pool, WorkerOffer, base, make_pool
from cohort_engine.engine.clusters.synchronous import SynchronousPool
from cohort_engine.engine.events import Events
from cohort_engine.errors import ConfigError, InputError, LostWorkerError, ResourceError, StorageError, TimeoutWorkerError, UnknownNameError
from cohort_engine.single.process import Workplace

WORKPLACE = Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1")))


def compute(**options: object) -> ComputeConfig:
    return ComputeConfig.model_validate({"workers": 2, "memory": "3 GiB", "retries": 1} | options)


@pytest.fixture(scope="module")
def local() -> Iterator[Pool]:
    pool = make_pool(compute(cluster="local"))
    pool.open(WORKPLACE, at_most=2)
    yield pool
    pool.close()


@pytest.fixture
def synchronous() -> Pool:
    pool = make_pool(compute(cluster="synchronous"))
    pool.open(WORKPLACE)
    return pool


@pytest.fixture(params=["synchronous", pytest.param("local", marks=pytest.mark.distributed)])
def pool(request: pytest.FixtureRequest) -> Pool:
    return request.getfixturevalue(request.param)


def outcomes(pool: Pool, **options: Any) -> dict[str, Any]:
    """What became of every call, by its name."""
    return {future.key.split("-")[0]: pool.outcome(future) for future in pool.completed(**options)}


def submit(pool: Pool, name: str, function: Any, *args: Any, retries: int = 0, timeout: float | None = None, **resources: float) -> Any:
    key = f"{name}-{time.monotonic_ns()}"
    return pool.submit(function, *args, key=key, resources=resources, retries=retries, timeout=timeout)


# Nested functions travel by value: workers do not know this file.
def adding() -> Any:
    return lambda *values: sum(values)


def raising(error: Exception) -> Any:
    def fail(*values: object) -> None:
        raise error

    return fail


def sleeping(folder: Path, name: str, seconds: float) -> Any:
    """Write down each start, so that a test sees what ran again."""

    def sleep(*values: object) -> str:
        import os
        import time

        with open(os.path.join(str(folder), "starts"), "a") as file:
            file.write(f"{name} {os.getpid()}\n")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
        return name

    return sleep


def dying() -> Any:
    def die() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    return die


def starts(folder: Path) -> list[tuple[str, int]]:
    return [(name, int(pid)) for name, pid in (line.split() for line in (folder / "starts").read_text().splitlines())]


def test_a_chain_hands_its_results_on(pool: Pool) -> None:
    first = submit(pool, "first", adding(), 1, 2)
    second = submit(pool, "second", adding(), first, 10)
    submit(pool, "third", adding(), second, first)
    assert outcomes(pool) == {"first": 3, "second": 13, "third": 16}


@pytest.mark.parametrize("kind", [ZeroDivisionError, ImportError, OSError, TimeoutError, MemoryError, KeyError])
def test_an_error_of_a_task_is_returned_as_it_is_and_is_no_lost_worker(pool: Pool, kind: type[Exception]) -> None:
    submit(pool, "bad", raising(kind("words")))
    found = outcomes(pool)["bad"]
    assert type(found) is kind
    assert found.__traceback__ is not None


def test_an_error_of_ours_comes_home_whole_and_passes_down_the_chain(pool: Pool) -> None:
    error = InputError(expected="a", found="b", where="MT mask", remedy="d")
    first = submit(pool, "first", raising(error))
    submit(pool, "second", adding(), first)
    found = outcomes(pool)
    assert [str(found[n]) for n in ("first", "second")] == [str(error)] * 2
    assert type(found["second"]) is InputError


def test_a_storage_error_is_tried_again_in_this_process(synchronous: Pool) -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StorageError(expected="a", found="b", where="c", remedy="d")
        return "done"

    submit(synchronous, "flaky", flaky, retries=2)
    assert outcomes(synchronous) == {"flaky": "done"}


@pytest.mark.distributed
def test_a_dead_worker_is_a_lost_worker(local: Pool) -> None:
    submit(local, "dead", dying())
    found = outcomes(local)["dead"]
    assert type(found) is LostWorkerError
    assert found.retryable
    submit(local, "after", adding(), 1)
    assert outcomes(local) == {"after": 1}


def test_a_task_that_runs_for_too_long_is_ended_and_innocents_are_not(pool: Pool, tmp_path: Path) -> None:
    slow = submit(pool, "slow", sleeping(tmp_path, "slow", 60), timeout=1.5)
    submit(pool, "next", adding(), slow)
    for i in range(4):
        submit(pool, f"fine{i}", sleeping(tmp_path, f"fine{i}", 0.3), timeout=20)
    started = time.monotonic()
    found = outcomes(pool)
    assert time.monotonic() - started < 30
    assert isinstance(found["slow"], TimeoutWorkerError)
    assert "1.5 s" in str(found["slow"])
    assert isinstance(found["next"], LostWorkerError)
    assert {n: v for n, v in found.items() if n.startswith("fine")} == {f"fine{i}": f"fine{i}" for i in range(4)}
    assert [n for n, _ in starts(tmp_path)].count("slow") == 1
    submit(pool, "after", adding(), 1)
    assert outcomes(pool) == {"after": 1}


@pytest.mark.distributed
def test_waiting_for_a_worker_is_no_running(local: Pool, tmp_path: Path) -> None:
    """Six tasks of a second on two workers: the last begins after two seconds, and its limit is 2.5."""
    for i in range(6):
        submit(local, f"task{i}", sleeping(tmp_path, f"task{i}", 1.0), timeout=2.5)
    assert outcomes(local) == {f"task{i}": f"task{i}" for i in range(6)}


@pytest.mark.distributed
def test_silence_tells_what_runs(local: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cohort_engine.engine.clusters import on_dask

    monkeypatch.setattr(on_dask, "SILENCE_SECONDS", 1.0)
    heard: list[dict[str, float]] = []
    submit(local, "slow", sleeping(tmp_path, "slow", 3.5))
    outcomes(local, on_silence=lambda running: heard.append(dict(running)))
    assert 1 <= len(heard) <= 3
    ((key, seconds),) = heard[-1].items()
    assert key.startswith("slow-")
    assert 0.5 < seconds < 4


@pytest.mark.distributed
def test_a_resource_that_no_worker_offers_is_refused_and_not_waited_for(local: Pool) -> None:
    with pytest.raises(ResourceError, match="'tpu': 1"):
        submit(local, "tpu", adding(), tpu=1)


@pytest.mark.distributed
def test_workers_keep_no_profile_of_what_they_do(local: Pool) -> None:
    """What the profiler of dask keeps made a worker grow by 50 KiB a subject, for twenty minutes."""
    found = local.client.run(lambda dask_worker: sorted(dask_worker.periodic_callbacks))
    assert found
    assert not [name for names in found.values() for name in names if "profile" in name]


def test_no_more_workers_than_subjects() -> None:
    pool = make_pool(compute(cluster="local", workers=3))
    try:
        assert len(pool.offers()) == 3
        pool.open(WORKPLACE, at_most=1)
        assert len(pool.offers()) == 1
    finally:
        pool.close()


def test_offers_join_nothing() -> None:
    started = time.monotonic()
    pool = make_pool(compute(cluster="address", address="tcp://127.0.0.1:9"))
    assert pool.offers() == (WorkerOffer(resources=None),) * 2
    assert time.monotonic() - started < 1


@pytest.mark.distributed
def test_a_scheduler_that_does_not_answer_is_waited_for_in_words_and_not_for_long() -> None:
    said: list[str] = []
    events = Events()
    events.on_wait = said.append  # type: ignore[method-assign]
    pool = make_pool(compute(cluster="address", address="tcp://127.0.0.1:9"))
    started = time.monotonic()
    with pytest.raises(ResourceError, match=r"compute.address: expected a scheduler with a worker, found no scheduler within 10 s"):
        pool.open(WORKPLACE, events=events)
    assert 5 < time.monotonic() - started < 15
    assert said == ["Waiting for the scheduler at tcp://127.0.0.1:9, 10 s at most"]
    pool.close()


def test_a_new_kind_of_cluster_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(CLUSTERS) == {"address", "kubernetes", "local", "slurm", "ssh", "synchronous"}
    monkeypatch.setattr(CLUSTERS, "_items", dict(CLUSTERS._items))
    CLUSTERS.add(ClusterKind("mine", partial(SynchronousPool)))
    assert isinstance(make_pool(ComputeConfig.model_construct(cluster="mine")), SynchronousPool)
    with pytest.raises(UnknownNameError, match="Did you mean 'local'"):
        make_pool(ComputeConfig.model_construct(cluster="locl"))


def test_a_process_that_is_being_started_by_a_script_without_main_guard_starts_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a pool of the user's own, whose processes run the script again."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    pool = make_pool(compute(cluster="local"))
    with pytest.raises(ConfigError, match='Put the call under `if __name__ == "__main__":`, or use cluster: synchronous'):
        pool.open(WORKPLACE)
    pool.close()


# --- stopping and scripts -----------------------------------------------------------------------------------------------
def test_a_signal_becomes_one_exception_and_handlers_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    told: list[str] = []
    events = Events()
    events.on_interrupt = told.append  # type: ignore[method-assign]
    with pytest.raises(base.Interrupted) as caught, base.interruptible(events):
        signal.raise_signal(signal.SIGTERM)
    assert (caught.value.code, caught.value.signal) == (143, signal.SIGTERM)
    assert told == capsys.readouterr().err.splitlines() == ["Stopped by SIGTERM: what is done stays done, and building again continues from there."]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_another_thread_signals_are_left_alone() -> None:
    from threading import Thread

    def look() -> None:
        with base.interruptible(Events()):
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


SCRIPT = """
import sys, time
from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters import interruptible, make_pool
from cohort_engine.engine.events import Events
from cohort_engine.single.process import Workplace
print("top", flush=True)
def work(seconds):
    time.sleep(seconds)
    return seconds
pool = make_pool(ComputeConfig(cluster="local", workers=2, memory="3 GiB", retries=1))
with interruptible(Events()):
    try:
        pool.open(Workplace(seed=1))
        for i in range(4):
            pool.submit(work, float(sys.argv[1]), key=f"work-{i}", resources={}, retries=0)
        print("begun", flush=True)
        for future in pool.completed():
            print(pool.outcome(future), flush=True)
    finally:
        pool.close()
"""
"""A script without main guard, whose task is a function of its own."""


@pytest.mark.distributed
def test_a_script_without_main_guard_builds(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py"), "0.25"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.splitlines(), ended.stderr) == (0, ["top", "begun", *["0.25"] * 4], "")


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform == "win32", reason="signals to a group of processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["starting", "running"])
def test_stopping_says_one_sentence_and_leaves_no_process(tmp_path: Path, number: signal.Signals, when: str) -> None:
    """To the whole group of processes, as a terminal and a batch system send it."""
    psutil = pytest.importorskip("psutil")
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert script.stdout is not None
    while script.stdout.readline() != ("top\n" if when == "starting" else "begun\n"):
        pass
    time.sleep(1.0)
    children = psutil.Process(script.pid).children(recursive=True)
    os.killpg(script.pid, number)
    started = time.monotonic()
    _, error = script.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert script.returncode == 128 + number
    assert error.splitlines() == [f"Stopped by {number.name}: what is done stays done, and building again continues from there."]
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
