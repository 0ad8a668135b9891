"""Workers started here, for this build: a process each, closed with it."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind, WorkerOffer
from cohort_engine.engine.clusters.encryption import SCHEME, security_of
from cohort_engine.engine.clusters.on_dask import DaskPool, settings
from cohort_engine.engine.events import Events
from cohort_engine.errors import ConfigError, ResourceError

START_SECONDS = 60.0
"""How long the first worker may take to start."""


class LocalPool(DaskPool):
    """A cluster of this machine. Scripts need no main guard: a worker does not run the script that builds."""

    own = True

    def __init__(self, compute: ComputeConfig) -> None:
        super().__init__(compute)
        self.cluster: Any = None

    def offers(self) -> tuple[WorkerOffer, ...]:
        if self.client is not None:
            return super().offers()
        from dask.utils import parse_bytes

        return (WorkerOffer(parse_bytes(self.compute.memory)),) * self.compute.workers

    def _join(self, at_most: int | None, events: Events) -> Any:
        import dask
        from distributed import Client, LocalCluster

        del events
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ConfigError(
                expected="a build that is started once", found="a process that is itself being started, and runs the script again",
                where="compute.cluster", remedy='Put the call under `if __name__ == "__main__":`, or use cluster: synchronous.',
            )  # fmt: skip
        # Dask's own words about lost workers and raised errors are kept off the screen: the report has them, with a remedy.
        security = security_of(self.compute)
        encrypted = {"security": security, "protocol": SCHEME} if security else {}
        with dask.config.set(settings(self.compute)):
            self.cluster = LocalCluster(
                n_workers=max(1, min(self.compute.workers, at_most or self.compute.workers)), threads_per_worker=1, worker_class=_nanny(),
                memory_limit=self.compute.memory, dashboard_address=self.compute.dashboard if find_spec("bokeh") else None,
                silence_logs=logging.CRITICAL, **encrypted,
            )  # fmt: skip
        try:
            client = Client(self.cluster, timeout=START_SECONDS, security=security)
            client.wait_for_workers(1, timeout=START_SECONDS)
        except OSError as error:  # TimeoutError is one
            self.close()
            raise ResourceError(
                expected="a worker process", found=f"none within {START_SECONDS:.0f} s", where="compute",
                remedy="Use fewer workers, or cluster: synchronous.",
            ) from error  # fmt: skip
        return client

    def close(self) -> None:
        super().close()
        cluster, self.cluster = self.cluster, None
        if cluster is not None:
            cluster.close()


@cache
def _nanny() -> type:
    from distributed import Nanny

    class QuietNanny(Nanny):  # type: ignore[misc]
        """Starts a worker that knows nothing of the script, and leaves Ctrl-C to it."""

        async def instantiate(self) -> Any:
            if hasattr(signal, "pthread_sigmask"):
                from multiprocessing import resource_tracker

                resource_tracker.ensure_running()  # first: when it starts, it lets the signal through again
                # of dask's thread, which new processes inherit
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            with without_main():
                return await super().instantiate()

    return QuietNanny


_hidden: list[tuple[Any, Any]] = []
_hiding = threading.Lock()


@contextmanager
def without_main() -> Iterator[None]:
    """Hide where ``__main__`` came from: a process that multiprocessing starts meanwhile does not run the script again.

    Functions of the script reach a worker all the same: dask sends those by value.

    Examples
    --------
    >>> before = getattr(sys.modules["__main__"], "__file__", None)
    >>> with without_main():
    ...     getattr(sys.modules["__main__"], "__file__", None) is None
    True
    >>> getattr(sys.modules["__main__"], "__file__", None) == before
    True
    """
    main = sys.modules["__main__"]
    with _hiding:
        _hidden.append((getattr(main, "__spec__", None), getattr(main, "__file__", None)))
        main.__spec__ = main.__file__ = None
    try:
        yield
    finally:
        with _hiding:
            spec, file = _hidden[0]  # of whoever hid it first
            _hidden.pop()
            if not _hidden:
                main.__spec__, main.__file__ = spec, file


CLUSTERS.add(ClusterKind("local", LocalPool))
