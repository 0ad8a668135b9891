"""Workers as jobs of SLURM. The scheduler runs in the process that builds: on a login node, or in a small job of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Section
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind
from cohort_engine.engine.clusters.elsewhere import QUIET, ElsewherePool, scheduler_options
from cohort_engine.engine.clusters.encryption import SCHEME, security_of
from cohort_engine.engine.clusters.on_dask import CPU
from cohort_engine.errors import ConfigError, ResourceError, first_line, optional

LOOK_SECONDS = 2.0
"""How often it is looked how many jobs there should be."""
IDLE_LOOKS = 30
"""A worker without work is let go after so many looks."""
JOB = "cohort-engine"
"""What a job is called."""
ALIVE = "PENDING,CONFIGURING,RUNNING,SUSPENDED"
"""States of a job that may still bring a worker, or has one."""
SHORTEST_LIFE = 10.0
"""Seconds."""


class SlurmConfig(Section):
    """Jobs of SLURM."""

    partition: str | None = None
    """Partition of the workers; by default the one of the site."""
    account: str | None = None
    """Who pays."""
    hours: float = Field(default=8.0, gt=0)
    """Wall time of a job. Workers leave before it ends, and others take over."""
    handover: float = Field(default=900.0, ge=0)
    """Seconds before the wall time at which workers begin to leave, one after the other over the first half of it: in the other half they finish the
    stage they are at."""
    directives: tuple[str, ...] = ()
    """Further options of ``sbatch`` (``--qos=long``)."""
    gpu_partition: str | None = None
    """Partition of the workers with a GPU; by default that of the others."""
    gpu_directives: tuple[str, ...] = ("--gres=gpu:1",)
    """Options of ``sbatch`` for workers with a GPU."""
    prologue: tuple[str, ...] = ()
    """Lines of shell that a job runs first (``module load cuda``)."""
    python: str | None = None
    """Python of the jobs; by default the one that builds, which the nodes must see at the same path."""
    interface: str | None = None
    """Network interface of scheduler and workers (``ib0``), where the first one is the wrong one."""
    scratch: str | None = None
    """Folder of the nodes for what does not fit into memory; by default their temporary folder."""
    logs: str | None = None
    """Folder for what jobs print; by default that is thrown away."""


class SlurmPool(ElsewherePool):
    """As many jobs as there is work for, between ``at_least`` and ``workers``; a job that is cancelled or ends is replaced."""

    check = "`squeue --me` and, with compute.slurm.logs, at what the jobs printed"

    def _start(self, workers: int) -> None:
        with optional("dask-jobqueue", "slurm", where="compute.cluster: slurm"):
            from dask_jobqueue import SLURMCluster
        _need("sbatch")
        compute, slurm = self.compute, self.compute.slurm
        plain = self._jobs(compute.memory, slurm.partition, slurm.directives, {CPU: 1} if compute.gpus else {})
        encrypted = {"protocol": SCHEME, "security": security_of(compute)} if compute.tls else {}
        cluster = SLURMCluster(scheduler_options=scheduler_options(compute, slurm.interface), silence_logs=QUIET, **encrypted, **plain)
        self.clusters.append(cluster)
        groups = [Group("cpu", cluster.new_spec, min(compute.at_least, workers), workers, partial(self.work, None))]
        if compute.gpus:
            directives = (*slurm.directives, *slurm.gpu_directives)
            jobs = self._jobs(compute.gpu_memory, slurm.gpu_partition or slurm.partition, directives, {schema.GPU: 1})
            spec = {"cls": cluster.job_cls, "options": {**cluster.new_spec["options"], **jobs}}
            groups.append(Group("gpu", spec, 0, compute.gpus, partial(self.work, schema.GPU)))
        for group in groups:
            _try(group.spec["cls"](cluster.scheduler_address, name=group.name, **group.spec["options"]).job_script())
        cluster.loop.add_callback(Keeper(cluster, groups, self._busy).run)

    def _jobs(self, memory: str, partition: str | None, directives: tuple[str, ...], resources: dict[str, int]) -> dict[str, Any]:
        """Give what dask-jobqueue wants to know of the jobs of one pool."""
        from cohort_engine.engine.handover import life

        slurm = self.compute.slurm
        seconds = slurm.hours * 3600
        if seconds - slurm.handover < SHORTEST_LIFE:
            raise ConfigError(
                expected=f"a wall time longer than the handover of {slurm.handover:.0f} s", found=f"{seconds:.0f} s", where="compute.slurm.hours",
                remedy="Give jobs longer, or less for the handover.",
            )  # fmt: skip
        offered = ["--resources", ",".join(f"{k}={v}" for k, v in resources.items())] if resources else []
        thrown = () if slurm.logs else ("--output=/dev/null", "--error=/dev/null")
        return {
            "cores": 1, "processes": 1, "job_cpu": self.compute.cores, "memory": memory, "queue": partition, "account": slurm.account,
            "walltime": walltime(seconds), "job_extra_directives": [*thrown, *directives], "job_script_prologue": list(slurm.prologue),
            "python": slurm.python, "interface": slurm.interface, "local_directory": slurm.scratch, "log_directory": slurm.logs,
            "job_name": JOB, "worker_extra_args": [*life(seconds, slurm.handover), *offered],
        }  # fmt: skip

    def _state(self) -> str:
        asked = ["squeue", "--me", "--noheader", f"--name={JOB}", "--format=%T (%r)", f"--states={ALIVE}"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.replace(" (None)", "").splitlines()
        return ", ".join(f"{n} x {state}" for state, n in sorted(Counter(told).items()))

    def _busy(self) -> set[str]:
        """Addresses of workers that are at work."""
        return {r.worker for r in list(self.running.values())}


def walltime(seconds: float) -> str:
    """Write a time as SLURM reads it.

    Examples
    --------
    >>> walltime(8 * 3600), walltime(90.5 * 60)
    ('08:00:00', '01:30:30')
    """
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"


def _need(command: str) -> None:
    if shutil.which(command) is None:
        raise ResourceError(
            expected=f"the command {command}", found="none on this machine", where="compute.cluster: slurm",
            remedy="Build on a login node of the cluster, or use another cluster.",
        )  # fmt: skip


def _try(script: str) -> None:
    """Ask SLURM whether it would take a job: else the build would wait for workers that never come."""
    asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise ResourceError(
            expected="a job that SLURM accepts", found=first_line(RuntimeError(asked.stderr.strip())), where="compute.slurm",
            remedy="Correct partition, account, memory or directives.",
        )  # fmt: skip


@dataclass
class Group:
    """Jobs that are alike.

    Attributes
    ----------
    name : str
    spec : dict
        How dask starts one.
    least, most : int
        How many there may be.
    work : function to int
        Says how many would be at work.
    idle : int
        Looks in a row that found more jobs than work.
    """

    name: str
    spec: dict[str, Any]
    least: int
    most: int
    work: Callable[[], int]
    idle: int = 0


class Keeper:
    """Keeps as many jobs as there is work for, for dask's own way knows one kind of job, and never misses one that was cancelled in the queue."""

    def __init__(self, cluster: Any, groups: Sequence[Group], busy: Callable[[], set[str]]) -> None:
        self.cluster, self.groups, self.busy = cluster, groups, busy
        self.names = count()

    async def run(self) -> None:
        """Look again and again while the cluster runs, in its event loop."""
        while self.open:
            with suppress(RuntimeError, OSError):  # SLURM's controller is busy or restarts: the next look tries again
                await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def open(self) -> bool:
        """Whether the cluster runs: once it is being closed, a job that is asked for would be left behind."""
        return bool(self.cluster.status.name == "running")

    async def look(self) -> None:
        """Submit jobs that are lacking, and end those without work. The cluster may be closed wherever this waits."""
        cluster = self.cluster
        there = {w["name"]: address for address, w in cluster.scheduler_info["workers"].items()}
        await self._forget(there)
        for group in self.groups:
            if not self.open:
                return
            mine = [n for n in cluster.worker_spec if n.startswith(f"{group.name}-")]
            more = max(group.least, min(group.most, group.work())) - len(mine)
            group.idle = group.idle + 1 if more < 0 else 0
            if more > 0:
                cluster.worker_spec.update({f"{group.name}-{next(self.names)}": group.spec for _ in range(more)})
            elif group.idle > IDLE_LOOKS:
                busy = self.busy()
                ending = sorted((n for n in mine if there.get(n) not in busy), key=there.__contains__)[:-more]  # those in the queue first
                await cluster.scheduler_comm.retire_workers(names=ending, remove=True, close_workers=True)
                for name in ending:
                    cluster.worker_spec.pop(name, None)
        await cluster._correct_state()

    async def _forget(self, there: Mapping[str, str]) -> None:
        """Forget jobs that have ended, also before their worker came: others take their place, with names of their own."""
        cluster = self.cluster
        awaited = {n: job.job_id for n, job in cluster.workers.items() if n not in there}
        if awaited:
            queued = (await cluster.job_cls._call(["squeue", "--me", "--noheader", "--format=%A", f"--states={ALIVE}"])).split()
            for name in (n for n, job in awaited.items() if job not in queued):
                cluster.workers.pop(name, None)
                cluster.worker_spec.pop(name, None)


CLUSTERS.add(ClusterKind("slurm", SlurmPool, SlurmConfig))
