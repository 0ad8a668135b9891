"""A cluster that somebody else started."""

from __future__ import annotations

import time
from typing import Any

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind, WorkerOffer
from cohort_engine.engine.clusters.encryption import security_of
from cohort_engine.engine.clusters.on_dask import DaskPool
from cohort_engine.engine.events import Events
from cohort_engine.errors import ConfigError, ResourceError

CONNECT_SECONDS = 10.0
"""How long to wait for the scheduler and its first worker."""


class AddressPool(DaskPool):
    """A scheduler that runs at ``compute.address``."""

    shared = True

    def __init__(self, compute: ComputeConfig) -> None:
        super().__init__(compute)
        if compute.address is None:
            raise ConfigError(
                expected="a scheduler address such as tcp://10.0.0.1:8786", found="none", where="compute.address",
                remedy="Give it, or use cluster: local.",
            )  # fmt: skip

    def offers(self) -> tuple[WorkerOffer, ...]:
        if self.client is not None:
            return super().offers()
        return (WorkerOffer(resources=None),) * self.compute.workers  # who is there is known when it is joined

    def _join(self, at_most: int | None, events: Events) -> Any:
        from distributed import Client

        del at_most
        patience = self.compute.patience or CONNECT_SECONDS
        events.on_wait(f"Waiting for the scheduler at {self.compute.address}, {patience:.0f} s at most")
        client, found = None, "no scheduler"
        deadline = time.monotonic() + patience
        try:
            client = Client(self.compute.address, timeout=patience, security=security_of(self.compute))
            found = "a scheduler without workers"
            client.wait_for_workers(1, timeout=max(0.1, deadline - time.monotonic()))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            if client is not None:
                client.close()
            raise ResourceError(
                expected="a scheduler with a worker", found=f"{found} within {patience:.0f} s", where="compute.address",
                remedy="Start the cluster, and check the address.",
            ) from error  # fmt: skip
        return client


CLUSTERS.add(ClusterKind("address", AddressPool))
