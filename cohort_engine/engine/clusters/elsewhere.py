"""What clusters have in common whose workers this build starts on other machines: those with a GPU beside those without, on one scheduler."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from contextlib import suppress
from typing import Any

from cohort_engine import schema
from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.base import SILENCE_SECONDS, WorkerOffer
from cohort_engine.engine.clusters.encryption import SCHEME, security_of, settings_of
from cohort_engine.engine.clusters.on_dask import CPU, DaskPool, settings
from cohort_engine.engine.events import Events
from cohort_engine.errors import ResourceError

QUEUE_SECONDS = 86400.0
"""How long the first worker may be queued."""


class ElsewherePool(DaskPool):
    """Workers on other machines, closed with the build. Subclasses start them (`_start`) and give what they started to `clusters`.

    Attributes
    ----------
    clusters : list
        Of dask: the one with the scheduler first.
    """

    patience = QUEUE_SECONDS
    check = "the log of the batch system"
    """Where the user finds out why no worker comes."""

    def __init__(self, compute: ComputeConfig) -> None:
        super().__init__(compute)
        self.clusters: list[Any] = []

    def offers(self) -> tuple[WorkerOffer, ...]:
        """List the workers there may be: batch systems start them when they like."""
        from dask.utils import parse_bytes

        compute = self.compute
        plain = {CPU: 1.0} if compute.gpus else {}
        gpus = (WorkerOffer(parse_bytes(compute.gpu_memory), {schema.GPU: 1.0}),) * compute.gpus
        return (*(WorkerOffer(parse_bytes(compute.memory), plain),) * compute.workers, *gpus)

    @abstractmethod
    def _start(self, workers: int) -> None:
        """Ask for workers, `workers` without a GPU at most, and return at once."""

    def _join(self, at_most: int | None, events: Events) -> Any:
        import dask
        from distributed import Client

        security = security_of(self.compute)
        try:
            with dask.config.set({**settings(self.compute), **settings_of(security)}):
                self._start(max(1, min(self.compute.workers, at_most or self.compute.workers)))
            client = Client(self.clusters[0], security=security)
            self._wait(client, events)
        except BaseException:
            self.close()
            raise
        return client

    def _wait(self, client: Any, events: Events) -> None:
        patience = self.compute.patience or self.patience
        deadline = time.monotonic() + patience
        events.on_wait(f"Waiting for the first worker of {self.compute.cluster}, {patience:.0f} s at most")
        known = ""
        while (left := deadline - time.monotonic()) > 0:
            with suppress(TimeoutError):
                client.wait_for_workers(1, timeout=min(left, SILENCE_SECONDS))
                return
            if (state := self._state()) != known:
                known = state
                events.on_wait(f"Still waiting for the first worker: {state}")
        client.close()
        raise ResourceError(
            expected="a worker", found=f"none within {patience:.0f} s{known and f' ({known})'}", where=f"compute.cluster: {self.compute.cluster}",
            remedy=f"Look at {self.check}, or wait longer (compute.patience).",
        )  # fmt: skip

    def _state(self) -> str:
        """Say what those that were asked for are at, in words; nothing where nobody knows."""
        return ""

    def _dashboard(self) -> str:
        """Address of the page as the scheduler in this process serves it: it may listen elsewhere than the scheduler does."""
        from socket import gethostname

        port = getattr(getattr(self.clusters[0], "scheduler", None), "services", {}).get("dashboard")
        host = self.compute.dashboard.rpartition(":")[0]
        return f"http://{host or gethostname()}:{port.port}/status" if port is not None else ""

    def close(self) -> None:
        super().close()
        clusters, self.clusters = self.clusters, []
        for cluster in reversed(clusters):  # the scheduler last
            with suppress(Exception):  # a cluster that is gone already
                cluster.close()


QUIET = logging.CRITICAL
"""Dask's own words about lost workers are kept off the screen: the report has them, with a remedy."""


def scheduler_options(compute: ComputeConfig, interface: str | None) -> dict[str, Any]:
    """Give what the scheduler in this process is started with."""
    from importlib.util import find_spec

    page = {"dashboard": True, "dashboard_address": compute.dashboard} if find_spec("bokeh") else {"dashboard": False}
    encrypted = {"protocol": SCHEME, "security": security_of(compute)} if compute.tls else {}
    return {"port": 0, **page, **encrypted, **({"interface": interface} if interface else {})}
