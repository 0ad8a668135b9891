"""What several processes, crashes and a full disk do to a store: nothing that is not seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import StorageError, StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.schema import VariableSpec
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import Entry, read_entries
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import init_store, read_subject, write_subject

SPECS = (
    VariableSpec("fit/mt", "where each template voxel lies", "mm", ("subject", "voxel", "axis"), chunks={"subject": 1}, stage="mtr"),
    VariableSpec("maps/mtr", "MTR", "percent", ("subject", "voxel"), chunks={"subject": 1}, stage="mtr"),
    VariableSpec("profiles/area", "area", "mm2", ("subject", "z"), "float64", stage="mtr"),
)
RECIPES = {"r": {"stage": "mtr", "version": "1", "params": {}, "template": ""}}
ASKED = {"hash": "", "science": {}, "stages": {"mtr": {"recipe": "r", "needs": [], "makes": "", "section": "mtr", "writes": ["maps/mtr"]}}}

PRELUDE = """
import sys, numpy as np
from cohort_engine import schema
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import write_subject
url, digest, voxels, slices = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def write(row, value):
    noise = np.random.default_rng(row).normal(0, 0.01, voxels)  # so that a chunk is not a few bytes
    arrays = {"maps/mtr": value + noise, "fit/mt": np.stack([value + noise] * 3, axis=1), "profiles/area": np.full(slices, float(value))}
    write_subject(url, row, arrays, Entry(row, "mtr", schema.DONE, f"k{value}", "r"), template_digest=digest)
"""


@pytest.fixture
def make_store(tmp_path, small_template):
    def make(count, url=""):
        url = url or str(tmp_path / "store.zarr")
        subjects = pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(count)]})
        init_store(url, template=small_template, subjects=subjects, specs=SPECS, asked=ASKED, recipes=RECIPES)
        return url

    return make


@pytest.fixture
def start(small_template):
    """Start a process that can write to a store."""
    running: list[subprocess.Popen[str]] = []

    def call(url, body):
        arguments = [url, small_template.digest, str(len(small_template.packing)), str(len(small_template.z))]
        process = subprocess.Popen([sys.executable, "-c", PRELUDE + body, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_write_different_rows_at_once_and_lose_nothing(make_store, start):
    url = make_store(40)
    workers = [start(url, f"print('ready', flush=True)\nfor row in range({first}, 40, 2): write(row, row)") for first in (0, 1)]
    for worker in workers:
        assert worker.wait(timeout=120) == 0, worker.stderr.read()
    means = [read_subject(url, row, "maps/mtr").mean() for row in range(40)]
    np.testing.assert_allclose(means, np.arange(40), atol=0.01)
    assert len(read_entries(url)) == 40
    finalise(url)
    assert verify(url) == []


def test_two_processes_write_the_same_row_and_one_of_them_wins_whole(make_store, start):
    url = make_store(1)
    workers = [start(url, f"for _ in range(60): write(0, {value})") for value in (10, 20)]
    for worker in workers:
        assert worker.wait(timeout=120) == 0, worker.stderr.read()
    for path in ("maps/mtr", "fit/mt", "profiles/area"):
        values = read_subject(url, 0, path)
        assert np.ptp(values) < 1
    assert verify(url) == []


def test_kill_9_in_the_middle_of_writing_leaves_whole_chunks(make_store, start):
    url = make_store(2)
    for delay in (0.0, 0.003, 0.007, 0.011, 0.017, 0.023):
        worker = start(url, "write(0, 10)\nprint('ready', flush=True)\nwhile True:\n    write(0, 20)\n    write(0, 10)")
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
        time.sleep(delay)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        (entry,) = read_entries(url)
        values = {path: read_subject(url, 0, path) for path in ("maps/mtr", "fit/mt", "profiles/area")}
        if entry.status == schema.DONE:  # then all is of the write that it tells of
            assert all(np.ptp(v) < 1 and f"k{round(float(v.mean()))}" == entry.key for v in values.values())
        else:
            assert entry.status == schema.NOT_RUN
            assert np.isnan(values["profiles/area"]).all()
        said = [p.message for p in verify(url)]
        assert said in ([], ["holds data although stage mtr is not_run"] * len(said)) if entry.status == schema.NOT_RUN else said == []


def test_a_put_shows_nothing_before_it_is_whole(make_store, start):
    url = make_store(1)
    worker = start(url, "write(0, 10)\nprint('ready', flush=True)\nfor i in range(100): write(0, 10 + i % 2)")
    assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    chunk = local_path(url) / "maps" / "mtr" / "c" / "0" / "0"
    inodes = set()
    while worker.poll() is None:
        inodes.add(chunk.stat().st_ino)  # FileNotFoundError if the name were ever free
        assert np.ptp(read_subject(url, 0, "maps/mtr")) < 1
    assert len(inodes) > 1  # each put is a new file, renamed over the old one


LIMITED = """
import resource, signal
from cohort_engine.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a disk with room for 1000 bytes a file
try:
    write(0, 20)
except StorageError as error:
    print(error.where, "|", error.found, "|", error.retryable)
"""


def test_a_disk_without_room_keeps_the_old_chunk_and_says_so(make_store, start, small_template):
    url = make_store(1)
    arrays = {"maps/mtr": np.full(len(small_template.packing), 10.0)}
    write_subject(url, 0, arrays, Entry(0, "mtr", schema.DONE, "k10", "r"), template_digest=small_template.digest)
    out, error = start(url, LIMITED).communicate(timeout=120)
    assert out == "fit/mt | File too large | True\n", error
    assert (read_subject(url, 0, "maps/mtr") == 10).all()
    assert [e.status for e in read_entries(url)] == [schema.NOT_RUN]


@pytest.mark.skipif(os.name != "posix" or not Path("/proc").is_dir(), reason="needs a folder that refuses writes to everybody, /proc")
def test_a_place_that_refuses_writes_is_a_storage_error(make_store):
    with pytest.raises((StorageError, StoreError)):
        make_store(1, url="/proc/store.zarr")


def test_a_gatherer_that_is_killed_anywhere_loses_nothing(make_store, start):
    url = make_store(30)
    worker = start(url, "for row in range(30): write(row, row)")
    assert worker.wait(timeout=120) == 0, worker.stderr.read()
    before = str(read_entries(url))
    body = "from cohort_engine.store.maintenance import gather\nprint('ready', flush=True)\ngather(url)"
    for delay in (0.01, 0.03, 0.06, 0.1):
        worker = start(url, body)
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
        time.sleep(delay)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        assert str(read_entries(url)) == before
        assert [read_subject(url, row, "profiles/area")[0] for row in range(30)] == list(range(30))
    finalise(url)
    assert verify(url) == []
    assert [f.name for f in local_path(ledger_url(url)).rglob("*") if f.is_file()] == ["000000.block"]
