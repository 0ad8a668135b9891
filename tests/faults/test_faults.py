"""What breaks while a cohort is built, one thing at a time: a worker, the scheduler, the build, the network, memory, a stage that hangs, a
second build. Afterwards every array is that of a build that nothing happened to, and what was done again is counted.

``pytest -s tests/faults`` prints the table; ``SUBJECTS=600`` is a larger cohort.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client
from toys import HAPPENED, arrays, journal, make_study, stages, study_config

from cohort_engine.config import Config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.engine.events import Events
from cohort_engine.errors import ResourceError, StoreError
from cohort_engine.store.verify import verify

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]  # a busy machine
ROOT = Path(__file__).resolve().parents[2]
TOYS = Path(__file__).parents[1] / "distributed"
SUBJECTS = int(os.environ.get("SUBJECTS", "12"))
SLEEP, UNLUCKY = min(0.15, 20 / SUBJECTS), 5
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TOYS}", "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}
"""Of schedulers and workers: a network that is gone is noticed after eleven seconds, the fewest that dask takes."""


# --- what is compared ---------------------------------------------------------------------------------------------------
def people(**unlucky: str) -> list[dict[str, object]]:
    """Subjects, one of whom has something happen to it."""
    return [{"value": i, "sleep": SLEEP} | (unlucky if i == UNLUCKY else {}) for i in range(SUBJECTS)]


def same_as_undisturbed(root: Path, who: list[dict[str, object]], store: str = "study.zarr") -> None:
    """Compare every array with those of a build in one process to which nothing happens, and look at every object of the store."""
    calm = root / "calm"
    calm.mkdir()
    (calm / HAPPENED).touch()
    make_study(calm, *who)
    build(study_config(calm), stages=stages(study_config(calm)))
    found, expected = arrays(root, store), arrays(calm)
    assert set(found) == set(expected)
    for path, array in expected.items():
        assert np.array_equal(found[path], array, equal_nan=array.dtype.kind == "f"), path
    assert verify(str(root / store)) == []


def done_again(root: Path) -> int:
    """Count stages of subjects that began again."""
    ran = journal(root)
    assert len(set(ran)) == 2 * SUBJECTS
    return len(ran) - len(set(ran))


TABLE: dict[str, tuple[int, int]] = {}


def note(fault: str, again: int, most: int) -> None:
    """Keep a row of the table: stages done again, of those that were under way when it happened, and may be."""
    TABLE[fault] = again, most
    assert again <= most, f"{fault}: {again} stages done again, {most} were under way"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n\n| what happens | stages done again | under way then | of all |\n|---|---|---|---|")
    for fault, (again, most) in TABLE.items():
        print(f"| {fault} | {again} | {most} | {2 * SUBJECTS} |")


class When(Events):
    """Do something once, when so many subjects have ended."""

    def __init__(self, subjects: int, do: Callable[[], Any]) -> None:
        self.left, self.do = subjects, do

    def on_subject_end(self, row: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.do()


def run(config: Config, events: Events | None = None, **more: Any) -> BuildReport:
    return build(config, stages=[replace(s, **more) for s in stages(config)], events=events)


# --- a cluster of processes ---------------------------------------------------------------------------------------------
class Cluster:
    """A scheduler and workers, each a process that a test can end; workers may live in a network of their own."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"tcp://{host}:{self.port}"

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def start_scheduler(self) -> None:
        where = ("--host", self.host, "--port", str(self.port), "--no-dashboard")
        self.scheduler = self._start(sys.executable, "-m", "dask", "scheduler", *where)

    def start_worker(self, *inside: str) -> None:
        options = ("--nthreads", "1", "--memory-limit", "3 GiB", "--no-dashboard", "--local-directory", str(self.folder / "scratch"))
        self._start(*inside, sys.executable, "-m", "dask", "worker", self.address, *options)

    def config(self, root: Path, **compute: object) -> Config:
        return study_config(root, cluster="address", address=self.address, patience=120, workers=2, **compute)

    def close(self) -> None:
        for process in reversed(self.processes):
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.start_scheduler()
    for _ in range(2):
        made.start_worker()
    yield made
    made.close()


BUILD = """
import json, sys
from pathlib import Path
from toys import stages, study_config
from cohort_engine.engine.build import build
if __name__ == "__main__":
    config = study_config(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    print(json.dumps(build(config, stages=stages(config)).exit_code))
"""


def start_build(root: Path, **compute: object) -> subprocess.Popen[str]:
    """Build in a process of its own."""
    command = [sys.executable, "-c", BUILD, str(root), json.dumps(compute)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(root: Path, ended: int) -> None:
    """Wait until so many stages have left their record."""
    deadline = time.monotonic() + 120
    while len(list((root / "study.zarr.ledger").glob("records/*.record"))) < ended:
        assert time.monotonic() < deadline, "the build does not get on"
        time.sleep(0.02)


# --- workers ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["fit", "mtr"])
def test_a_worker_is_killed_in_a_stage(tmp_path: Path, stage: str) -> None:
    who = people(**{stage: "kill once"})
    make_study(tmp_path, *who)
    assert run(study_config(tmp_path, cluster="local", workers=2)).exit_code == 0
    note(f"a worker is killed in stage {stage}", done_again(tmp_path), 1)
    same_as_undisturbed(tmp_path, who)


def test_a_worker_runs_out_of_memory(tmp_path: Path) -> None:
    who = people(fit="hog once")
    make_study(tmp_path, *who)
    assert run(study_config(tmp_path, cluster="local", workers=2, memory="1 GiB"), memory=10.0).exit_code == 0
    note("a worker runs out of memory", done_again(tmp_path), 1)
    same_as_undisturbed(tmp_path, who)


def test_a_stage_hangs(tmp_path: Path) -> None:
    """It is ended at its limit of time and tried once more, alone; whoever waits behind it on the same worker goes elsewhere."""
    who = people(mtr="hang once")
    make_study(tmp_path, *who)
    config = study_config(tmp_path, cluster="local", workers=2)
    report = build(config, stages=[replace(s, timeout=15.0) if s.name == "mtr" else s for s in stages(config)])
    assert report.exit_code == 0
    assert journal(tmp_path).count(("mtr", f"sub-{UNLUCKY:02d}")) == 2
    note("a stage hangs, and is ended", done_again(tmp_path), 2)
    same_as_undisturbed(tmp_path, who)


# --- storage ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 MiB, or 4 a subject."""
    place = tmp_path / "disk"
    place.mkdir()
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")):
        pytest.skip("only root mounts a disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(256, 4 * SUBJECTS)}m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> None:
    with suppress(OSError), place.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


def test_the_disk_is_full(tmp_path: Path, small_disk: Path) -> None:
    """Nobody is begun any more after a few in a row; with room again the build goes on where it was."""
    make_study(tmp_path, *people())
    ballast = small_disk / "ballast"
    config = study_config(tmp_path, cluster="local", workers=2, window=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"store": str(small_disk / "study.zarr")})})
    report = run(config, When(3, lambda: fill(ballast)))
    assert report.exit_code == 1
    assert {e.kind for e in report.entries} <= {"StorageError"}
    begun = len({name for _, name in journal(tmp_path)})
    assert begun < SUBJECTS
    ballast.unlink()
    assert run(config).exit_code == 0
    note("the disk is full", done_again(tmp_path), 2 * begun)
    same_as_undisturbed(tmp_path, people(), "disk/study.zarr")


# --- scheduler and build ------------------------------------------------------------------------------------------------
def test_the_scheduler_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    make_study(tmp_path, *people())
    assert cluster.scheduler is not None
    with pytest.raises(ResourceError, match="expected a running scheduler"):
        run(cluster.config(tmp_path), When(3, cluster.scheduler.kill))
    cluster.close()
    again = Cluster(tmp_path)
    again.start_scheduler()
    again.start_worker()
    try:
        assert run(again.config(tmp_path)).exit_code == 0
    finally:
        again.close()
    note("the scheduler is killed", done_again(tmp_path), 2)
    same_as_undisturbed(tmp_path, people())


@pytest.mark.parametrize("where", ["local", "elsewhere"])
def test_the_build_is_killed(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    """With workers of its own, which go with it; and on a cluster, whose workers finish what they are at."""
    make_study(tmp_path, *people())
    options: dict[str, object] = {"cluster": "local", "workers": 2}
    if where == "elsewhere":
        address = request.getfixturevalue("cluster").address
        options = {"cluster": "address", "address": address, "patience": 120, "workers": 2}
    driver = start_build(tmp_path, **options)
    wait_for(tmp_path, 5)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert run(study_config(tmp_path, **options)).exit_code == 0
    note(f"the build is killed, workers {'its own' if where == 'local' else 'of a cluster'}", done_again(tmp_path), 2)
    same_as_undisturbed(tmp_path, people())


def test_two_builds_of_one_store(tmp_path: Path) -> None:
    """The second one is told who builds, and touches nothing."""
    make_study(tmp_path, *people())
    first = start_build(tmp_path, cluster="local", workers=2)
    wait_for(tmp_path, 2)
    with pytest.raises(StoreError, match=f"expected to be the only writer, found that process {first.pid} "):
        run(study_config(tmp_path, cluster="local", workers=1))
    out, error = first.communicate(timeout=300)
    assert out.strip() == "0", error
    note("two builds of one store", done_again(tmp_path), 0)
    same_as_undisturbed(tmp_path, people())


# --- network ------------------------------------------------------------------------------------------------------------
def network(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[Cluster, str]]:
    """A cluster one of whose two workers is in a network of its own, behind a link that can be cut."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("networks can be made by root with the command ip only")
    name = f"ce{uuid.uuid4().hex[:8]}"
    link, there = f"{name}a", f"{name}b"
    with ExitStack() as stack:
        try:
            network("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no networks here: {error.stderr.decode().strip()}")
        stack.callback(network, "netns", "del", name)
        network("link", "add", link, "type", "veth", "peer", "name", there, "netns", name)
        stack.callback(network, "link", "del", link)  # at once: with its network it would go some time later
        network("addr", "add", "10.213.77.1/30", "dev", link)
        network("link", "set", link, "up")
        network("-n", name, "addr", "add", "10.213.77.2/30", "dev", there)
        network("-n", name, "link", "set", there, "up")
        network("-n", name, "link", "set", "lo", "up")
        made = Cluster(tmp_path, "10.213.77.1")
        stack.callback(made.close)
        made.start_scheduler()
        made.start_worker()
        made.start_worker("ip", "netns", "exec", name)
        yield made, link


@pytest.mark.parametrize("seconds", [1.0, 30.0], ids=["for a moment", "until it counts as lost"])
def test_the_network_of_a_worker_is_cut_and_comes_back(tmp_path: Path, far: tuple[Cluster, str], seconds: float) -> None:
    """Both workers see the disk: the one that is cut off may still write what another one does again."""
    cluster, link = far
    who = [p | {"sleep": 1.5} for p in people()] if seconds > 5 else people()
    make_study(tmp_path, *who)

    def cut() -> None:
        network("link", "set", link, "down")
        time.sleep(seconds)
        network("link", "set", link, "up")

    with Client(cluster.address, timeout=120) as client:
        client.wait_for_workers(2, timeout=120)
    cutting = threading.Thread(target=cut)
    assert run(cluster.config(tmp_path), When(3, cutting.start)).exit_code == 0
    cutting.join()
    note(f"the network of a worker is cut for {seconds:.0f} s", done_again(tmp_path), 0 if seconds < 11 else 2)
    same_as_undisturbed(tmp_path, who)
