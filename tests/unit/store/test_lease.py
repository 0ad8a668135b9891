"""One writer: who holds the lease, who is told, and who takes over from the dead."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

from cohort_engine.errors import StoreError
from cohort_engine.io.places import ledger_url, object_store
from cohort_engine.store import lease as module
from cohort_engine.store.lease import holder_of, lease


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "s.zarr") if request.param == "local" else f"memory:///{tmp_path.name}/s.zarr"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 0.02)
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    monkeypatch.setattr(module, "WATCH_S", 0.2)


def elsewhere(url, doing):
    """Try to take the lease in another thread, as another process would, and say what happened."""

    def attempt():
        try:
            with lease(url, doing) as held:
                return held.holder.doing
        except StoreError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()


def leave(url, **changes):
    """Put the lease of a holder that is not there any more."""
    mine = module.Holder("t0", "far", "elsewhere", 4711, "1", "build", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    holder = dataclasses.replace(mine, **changes)
    obstore.put(object_store(ledger_url(url)), module.LEASE, json.dumps(dataclasses.asdict(holder)).encode())
    return holder


def names(url):
    return sorted(o["path"] for o in obstore.list(object_store(ledger_url(url))).collect())


def test_a_second_writer_is_told_who_holds_it_what_for_since_when_and_what_to_do(url):
    with lease(url, "build") as held:
        error = elsewhere(url, "finalise")
        assert isinstance(error, StoreError)
        assert f'process {os.getpid()} on {held.holder.host} does "build" since {held.holder.since}' in str(error)
        assert "Wait until it has ended, or stop it there" in str(error)
        assert holder_of(url) == held.holder
    assert elsewhere(url, "finalise") == "finalise"
    assert holder_of(url) is None
    assert names(url) == []


def test_inside_a_lease_the_same_thread_goes_on_with_it(url):
    with lease(url, "build") as outer:
        with lease(url, "gather") as inner:
            assert inner is outer
        assert holder_of(url) is not None
    assert holder_of(url) is None


def test_an_error_gives_it_back(url):
    with pytest.raises(ZeroDivisionError), lease(url, "build"):
        raise ZeroDivisionError
    assert elsewhere(url, "again") == "again"


def test_of_many_who_ask_at_once_one_gets_it(url):
    inside, most, lock = [0], [0], threading.Lock()

    def attempt(_):
        try:
            with lease(url, "build"):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                with lock:
                    inside[0] -= 1
                return 1
        except StoreError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        got = sum(pool.map(attempt, range(40)))
    assert most == [1]
    assert got >= 1


@pytest.mark.parametrize("local", [True, False])
def test_of_many_who_take_over_from_the_dead_one_gets_it(url, quick, local):
    for attempt in range(6):
        leave(url, token=f"dead{attempt}", **({"place": module._place(), "process": 2**22 + 1} if local else {}))
        barrier, inside, most, lock = threading.Barrier(6), [0], [0], threading.Lock()

        def take(_, barrier=barrier, inside=inside, most=most, lock=lock):
            barrier.wait()
            try:
                with lease(url, "build"):
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    time.sleep(0.005)
                    with lock:
                        inside[0] -= 1
                    return 1
            except StoreError:
                return 0

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(take, range(6))) >= 1
        assert most == [1]
        assert names(url) == []


def test_a_holder_of_another_machine_that_renews_is_alive_whatever_its_clock_says(url, quick):
    old = leave(url)
    stop = threading.Event()

    def renew():
        while not stop.wait(0.05):
            leave(url, renewed=f"2026-01-01T00:00:{time.monotonic() % 50 + 10:09.6f}+00:00")

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(StoreError, match=f"process {old.process} on far"), lease(url, "build"):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_holder_that_was_taken_over_is_told(url, quick):
    with lease(url, "build") as sleeper:
        taker = dataclasses.replace(sleeper.holder, token="t1")
        obstore.put(object_store(ledger_url(url)), module._successor(sleeper.holder), json.dumps(dataclasses.asdict(taker)).encode())
        sleeper.check()
        deadline = time.monotonic() + 5
        while not sleeper._lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(StoreError, match="another process took the lease over"):
            sleeper.check()
    assert holder_of(url) == taker  # the sleeper's end takes nothing from the new holder


def test_it_is_renewed(url, quick):
    with lease(url, "build") as held:
        deadline = time.monotonic() + 5
        while holder_of(url).renewed == held.holder.renewed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder_of(url).renewed > held.holder.renewed


HOLD = """
import sys, time
from cohort_engine.store.lease import lease
with lease(sys.argv[1], "build"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_kill_9_then_again_continues_at_once(tmp_path):
    url = str(tmp_path / "s.zarr")
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f'process {process.pid} on .* does "build"'), lease(url, "build"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    started = time.monotonic()
    with lease(url, "build"):
        assert time.monotonic() - started < 1
    assert names(url) == []


def test_a_process_number_that_is_used_again_is_not_the_holder(url):
    leave(url, place=module._place(), process=os.getpid(), started="0")
    assert holder_of(url) is None
    assert elsewhere(url, "build") == "build"
