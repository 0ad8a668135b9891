"""Workers on other machines, without the other machines: settings, what is asked for, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cohort_engine.config import CLUSTER_FOLDER, ComputeConfig, compute_model, load_config, read_yaml
from cohort_engine.engine.clusters import WorkerOffer, make_pool
from cohort_engine.engine.clusters.slurm import Group, Keeper
from cohort_engine.engine.events import Events, RichProgress
from cohort_engine.errors import ConfigError, MissingPackageError, ResourceError, UnknownNameError
from cohort_engine.single.process import Workplace

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "clusters"
GIB = 2**30


def compute(**options: object) -> ComputeConfig:
    return compute_model().model_validate(options)


def study(folder: Path, text: str) -> ComputeConfig:
    (folder / "study.yaml").write_text(f"data: {{bids: b, store: s}}\ncompute: {text}\n")
    return load_config(folder / "study.yaml").compute


# --- cluster files ------------------------------------------------------------------------------------------------------
def test_a_study_takes_a_cluster_file_by_its_path_and_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("cluster: slurm\nworkers: 20\nmemory: 8 GiB\nslurm: {hours: 4, partition: long}\n")
    found = study(tmp_path, "{cluster: ours.yaml, workers: 3, slurm: {hours: 2}}")
    assert (found.cluster, found.workers, found.memory, found.slurm.hours, found.slurm.partition) == ("slurm", 3, "8 GiB", 2, "long")


def test_a_name_is_looked_up_in_the_folder_of_the_site_and_is_a_kind_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLUSTER_FOLDER, raising=False)
    assert study(tmp_path, "{cluster: slurm}").slurm.partition is None
    (tmp_path / "site").mkdir()
    monkeypatch.setenv(CLUSTER_FOLDER, str(tmp_path / "site"))
    assert study(tmp_path, "{cluster: slurm}").slurm.partition is None
    (tmp_path / "site" / "slurm.yaml").write_text("cluster: slurm\nslurm: {partition: long}\n")
    (tmp_path / "site" / "big.yaml").write_text("cluster: slurm\nworkers: 50\n")
    assert study(tmp_path, "{cluster: slurm}").slurm.partition == "long"
    assert study(tmp_path, "{cluster: big}").workers == 50


def test_what_is_wrong_in_a_cluster_file_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("cluster: slurm\nslurm: {partion: long}\n")
    with pytest.raises(UnknownNameError, match=r"ours.yaml: slurm: expected a known key, found 'partion'. Did you mean 'partition'"):
        study(tmp_path, "{cluster: ours.yaml}")
    with pytest.raises(ConfigError, match=r"absent.yaml: expected a readable file"):
        study(tmp_path, "{cluster: absent.yaml}")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_cluster_files_of_the_repository_are_good(path: Path) -> None:
    pool = make_pool(compute(**read_yaml(path)))
    assert len(pool.offers()) >= 2
    pool.close()


# --- what is asked for --------------------------------------------------------------------------------------------------
def test_workers_with_and_without_a_gpu_stand_side_by_side() -> None:
    given = compute(cluster="slurm", workers=2, memory="3 GiB", gpus=1, gpu_memory="7 GiB")
    assert make_pool(given).offers() == (WorkerOffer(3 * GIB, {"cpu": 1.0}),) * 2 + (WorkerOffer(7 * GIB, {"gpu": 1.0}),)
    assert make_pool(compute(cluster="slurm", workers=1)).offers() == (WorkerOffer(4 * GIB, {}),)


def job_lines(**slurm: Any) -> list[str]:
    pytest.importorskip("dask_jobqueue")
    from dask_jobqueue.slurm import SLURMJob

    pool: Any = make_pool(compute(cluster="slurm", cores=2, slurm=slurm))
    return SLURMJob("tcp://10.0.0.1:1", name="cpu-0", **pool._jobs("3 GiB", "long", ("--qos=night",), {"cpu": 1})).job_script().splitlines()


def test_a_job_asks_for_what_the_settings_say_and_its_worker_leaves_before_the_end() -> None:
    """An hour, of which ten minutes are the handover: workers begin to leave between minute 50 and minute 55."""
    lines = job_lines(hours=1, handover=600, account="lab", prologue=["module load x"])
    for line in ("-p long", "-A lab", "--cpus-per-task=2", "--mem=3G", "-t 01:00:00", "--qos=night", "--output=/dev/null"):
        assert f"#SBATCH {line}" in lines
    assert lines[-2] == "module load x"
    assert "--nthreads 1 --memory-limit 3.00GiB" in lines[-1]
    assert "--lifetime 3150s --lifetime-stagger 150s --resources cpu=1" in lines[-1]


def test_a_wall_time_that_the_handover_fills_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute.slurm.hours: expected a wall time longer than the handover of 900 s, found 720 s"):
        job_lines(hours=0.2)


class Cluster:
    """What a keeper sees of dask's cluster: jobs that are asked for are submitted at once, and `queue` is SLURM's."""

    def __init__(self) -> None:
        self.worker_spec: dict[str, Any] = {}
        self.workers: dict[str, Any] = {}
        self.scheduler_info: dict[str, Any] = {"workers": {}}
        self.queue: list[str] = []
        self.submitted = 0
        self.status = SimpleNamespace(name="running")
        self.job_cls = self.scheduler_comm = self

    async def _call(self, command: list[str]) -> str:
        return "\n".join(self.queue)

    async def retire_workers(self, names: list[str], **how: bool) -> None:
        for name in names:
            self.scheduler_info["workers"].pop(f"tcp://{name}", None)

    async def _correct_state(self) -> None:
        for name in set(self.workers) - set(self.worker_spec):
            self.queue.remove(self.workers.pop(name).job_id)
        for name in set(self.worker_spec) - set(self.workers):
            self.submitted += 1
            self.queue.append(str(self.submitted))
            self.workers[name] = SimpleNamespace(job_id=str(self.submitted))

    def arrive(self, name: str) -> None:
        self.scheduler_info["workers"][f"tcp://{name}"] = {"name": name}


def test_as_many_jobs_as_there_is_work_for_and_one_that_is_cancelled_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_engine.engine.clusters.slurm.IDLE_LOOKS", 2)
    cluster, work, busy = Cluster(), {"cpu": 0, "gpu": 0}, set[str]()
    groups = [Group("cpu", {}, 1, 3, lambda: work["cpu"]), Group("gpu", {}, 0, 1, lambda: work["gpu"])]
    keeper = Keeper(cluster, groups, lambda: busy)

    def look(times: int = 1) -> list[str]:
        for _ in range(times):
            asyncio.run(keeper.look())
        return sorted(cluster.workers)

    assert look() == ["cpu-0"]  # at least one
    work.update(cpu=9, gpu=2)
    assert look(2) == ["cpu-0", "cpu-1", "cpu-2", "gpu-3"]  # three, one at most
    cluster.arrive("cpu-0")
    cluster.arrive("cpu-1")
    cluster.queue.remove(cluster.workers["cpu-2"].job_id)  # cancelled in the queue
    assert look(2) == ["cpu-0", "cpu-1", "cpu-4", "gpu-3"]
    cluster.queue.remove(cluster.workers["cpu-1"].job_id)  # cancelled at work
    del cluster.scheduler_info["workers"]["tcp://cpu-1"]
    assert look() == ["cpu-0", "cpu-4", "cpu-5", "gpu-3"]
    work.update(cpu=1, gpu=0)
    busy.add("tcp://cpu-0")
    assert look(2) == ["cpu-0", "cpu-4", "cpu-5", "gpu-3"]  # work may come
    assert look(2) == ["cpu-0"]
    assert cluster.queue == [cluster.workers["cpu-0"].job_id]


def test_no_job_is_asked_for_while_a_cluster_is_being_closed() -> None:
    """It was submitted after all others had been cancelled, and stayed in the queue after the build."""

    class Closing(Cluster):
        async def _call(self, command: list[str]) -> str:
            self.worker_spec.clear()  # as dask closes: while the keeper waits for SLURM's answer
            self.status.name = "closing"
            await self._correct_state()
            return ""

    cluster = Closing()
    keeper = Keeper(cluster, [Group("cpu", {}, 1, 3, lambda: 2)], set)
    asyncio.run(keeper.look())
    assert len(cluster.queue) == 2
    asyncio.run(keeper.look())
    assert (cluster.queue, cluster.worker_spec) == ([], {})


def test_a_worker_whose_life_ends_finishes_its_task_and_nothing_runs_twice(tmp_path: Path) -> None:
    """Dask's own worker would leave in the middle of a task."""
    from distributed import Client, Scheduler, Worker

    from cohort_engine.engine.handover import HandoverWorker

    def task(place: str, i: int) -> int:
        import os
        import time

        with open(os.path.join(place, "starts"), "a") as file:
            file.write(f"{i}\n")
        time.sleep(0.5)
        return i

    async def run() -> list[int]:
        async with (
            Scheduler(port=0, dashboard_address=":0", dashboard=False, host="127.0.0.1") as scheduler,
            HandoverWorker(scheduler.address, nthreads=1, lifetime="1.2s") as leaving,
            Worker(scheduler.address, nthreads=1),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            futures = [client.submit(task, str(tmp_path), i, key=f"task-{i}", pure=False) for i in range(8)]
            values = await client.gather(futures)
            await leaving.finished()
            assert len(scheduler.workers) == 1
            return list(values)

    assert asyncio.run(run()) == list(range(8))
    assert sorted((tmp_path / "starts").read_text().split()) == [str(i) for i in range(8)]


def test_the_last_worker_waits_for_somebody_to_take_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, Scheduler, Worker, wait

    from cohort_engine.engine import handover

    monkeypatch.setattr(handover, "AGAIN_SECONDS", 0.05)

    async def run() -> tuple[int, set[str], str]:
        async with (
            Scheduler(port=0, dashboard_address=":0", dashboard=False, host="127.0.0.1") as scheduler,
            handover.HandoverWorker(scheduler.address, nthreads=1) as leaving,
            Client(scheduler.address, asynchronous=True) as client,
        ):
            future = client.submit(abs, -3, pure=False)
            await wait(future)
            going = asyncio.create_task(leaving.close_gracefully())
            await asyncio.sleep(0.5)
            assert not going.done()
            async with Worker(scheduler.address, nthreads=1) as next_one:
                await going
                return await future, set(scheduler.workers), next_one.address

    value, left, next_one = asyncio.run(run())
    assert (value, left) == (3, {next_one})


# --- what cannot be -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [("dask_jobqueue", "slurm", {}), ("dask_kubernetes", "kubernetes", {}), ("asyncssh", "ssh", {"ssh": {"hosts": ["a"]}})],
)
def test_an_absent_package_is_answered_with_its_extra(package: str, extra: str, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf'compute.cluster: {extra}: .* pip install "cohort-engine\[{extra}\]"'):
        make_pool(compute(cluster=extra, **options)).open(Workplace(seed=1))


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(ResourceError, match=r"expected the command sbatch, found none on this machine. Build on a login node"):
        make_pool(compute(cluster="slurm")).open(Workplace(seed=1))


def test_ssh_without_machines_is_refused_when_it_is_read() -> None:
    with pytest.raises(ConfigError, match=r"compute.ssh.hosts: expected at least one machine, found none"):
        make_pool(compute(cluster="ssh"))


def test_the_address_of_the_dashboard_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Events().on_dashboard("http://127.0.0.1:8787/status")
    RichProgress().on_dashboard("http://127.0.0.1:8787/status")
    assert capsys.readouterr().err == "The cluster at work: http://127.0.0.1:8787/status\n"
