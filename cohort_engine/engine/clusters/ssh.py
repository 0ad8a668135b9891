"""Workers on machines that are reached by ssh. The scheduler runs in the process that builds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Section
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind
from cohort_engine.engine.clusters.elsewhere import QUIET, ElsewherePool, scheduler_options
from cohort_engine.engine.clusters.encryption import security_of
from cohort_engine.engine.clusters.on_dask import CPU
from cohort_engine.errors import ConfigError, ResourceError, first_line, optional

DEATH_SECONDS = 120
"""A worker that finds no scheduler for so long ends itself."""


class SshConfig(Section):
    """Machines that are reached by ssh, as ``~/.ssh/config`` and its keys say; there are no passwords here."""

    hosts: tuple[str, ...] = ()
    """Machines; workers are dealt out to them in turn."""
    gpu_hosts: tuple[str, ...] = ()
    """Machines for the workers with a GPU; by default the same."""
    user: str | None = None
    """Name there, where ``~/.ssh/config`` does not tell."""
    port: int | None = Field(default=None, ge=1)
    """Port of the ssh servers, where ``~/.ssh/config`` does not tell."""
    keys: tuple[str, ...] = ()
    """Files of private keys, in place of the usual ones."""
    known_hosts: str | None = None
    """File with the keys of the machines, in place of ``~/.ssh/known_hosts``."""
    python: str | None = None
    """Python there; by default the path of the one that builds."""
    interface: str | None = None
    """Network interface of the scheduler (``eth0``), where the first one is the wrong one."""


class SshPool(ElsewherePool):
    """A process on a machine for each worker; one that dies is started again there."""

    patience = 120.0
    check = "whether the machines reach this one, and have this package at the same path (compute.ssh.python)"

    def __init__(self, compute: Any) -> None:
        super().__init__(compute)
        if not compute.ssh.hosts:
            raise ConfigError(
                expected="at least one machine", found="none", where="compute.ssh.hosts", remedy="Name the machines that workers run on."
            )

    def _start(self, workers: int) -> None:
        with optional("asyncssh", "ssh", where="compute.cluster: ssh"):
            import asyncssh
        from distributed import Scheduler, SpecCluster

        compute, ssh = self.compute, self.compute.ssh
        plain = {CPU: 1} if compute.gpus else {}
        specs = {
            **self._workers("cpu", workers, ssh.hosts, compute.memory, plain),
            **self._workers("gpu", compute.gpus, ssh.gpu_hosts or ssh.hosts, compute.gpu_memory, {schema.GPU: 1}),
        }
        scheduler = {"cls": Scheduler, "options": scheduler_options(compute, ssh.interface)}
        try:
            self.clusters.append(SpecCluster(specs, scheduler, name="cohort", silence_logs=QUIET, security=security_of(compute)))
        except (OSError, asyncssh.Error) as error:
            raise ResourceError(
                expected="machines that let us in", found=first_line(error), where="compute.ssh",
                remedy="Try `ssh` to each of them by hand: it must ask for nothing.",
            ) from error  # fmt: skip
        except Exception as error:  # dask says no more than that
            if "failed to start" not in str(error):
                raise
            raise ResourceError(
                expected="a worker on each machine", found=first_line(error), where="compute.ssh", remedy=f"Look {self.check}."
            ) from error

    def _workers(self, name: str, number: int, hosts: Sequence[str], memory: str, resources: dict[str, int]) -> dict[str, Any]:
        """Say how each worker is started."""
        from distributed.deploy.ssh import Worker

        ssh = self.compute.ssh
        given = {"username": ssh.user, "port": ssh.port, "client_keys": list(ssh.keys), "known_hosts": ssh.known_hosts}
        options = {k: v for k, v in given.items() if v}
        started = {"nthreads": 1, "memory_limit": memory, "death_timeout": DEATH_SECONDS, **({"resources": resources} if resources else {})}
        return {
            f"{name}-{i}": {
                "cls": Worker,
                "options": {
                    "address": host, "connect_options": options, "kwargs": {**started, "name": f"{name}-{i}"}, "remote_python": ssh.python,
                },
            }
            for i, host in enumerate(islice(cycle(hosts), number))
        }  # fmt: skip


CLUSTERS.add(ClusterKind("ssh", SshPool, SshConfig))
