"""Where work runs. The engine knows only `Pool`; a kind of cluster is an entry of `CLUSTERS`, and dask loads when one starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.plugins import worker_plugin
from cohort_engine.errors import CohortError, ConfigError, LostWorkerError, ResourceError
from cohort_engine.single.process import Workplace

CONNECT_SECONDS = 60.0
"""How long to wait for a scheduler, and for its first worker."""


@dataclass(frozen=True)
class WorkerOffer:
    """What one worker has.

    Attributes
    ----------
    memory : int
        Bytes; 0 where there is no limit.
    resources : mapping of str to float, or None
        Abstract resources (``gpu``), beside processor time; None takes any task.
    """

    memory: int = 0
    resources: Mapping[str, float] | None = field(default_factory=dict)

    def has(self, resources: Mapping[str, float]) -> bool:
        """Tell whether a task with these needs can ever run here."""
        return self.resources is None or all(self.resources.get(name, 0) >= amount for name, amount in resources.items())


class Pool(Protocol):
    """A place to run tasks: `open`, `submit` at any time, and take what `completed` hands out.

    Attributes
    ----------
    client : distributed.Client or None
        For work that brings its own graph.
    """

    client: Any

    def offers(self) -> tuple[WorkerOffer, ...]:
        """List the workers; before `open`, those a fresh cluster would have."""
        ...

    def open(self, workplace: Workplace) -> None:
        """Start or join the cluster and prepare its workers."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float = 0.0) -> Any:
        """Queue a call and return its future; a future among `args` is replaced by its result, or passes its error on."""
        ...

    def completed(self) -> Iterator[Any]:
        """Yield each submitted future when it has ended, also those submitted meanwhile, until none is left."""
        ...

    def outcome(self, future: Any) -> Any:
        """Return the result of an ended future, or its exception (not raised); a lost worker is a `LostWorkerError`."""
        ...

    def close(self) -> None:
        """Cancel what runs and leave or stop the cluster."""
        ...


class DaskPool:
    """A dask cluster: one started here, or one that is running (``address``)."""

    def __init__(self, compute: ComputeConfig) -> None:
        self.compute = compute
        self.cluster: Any = None
        self.client: Any = None
        self.ended: Any = None

    def offers(self) -> tuple[WorkerOffer, ...]:
        if self.compute.address is None and self.client is None:
            from dask.utils import parse_bytes

            return (WorkerOffer(parse_bytes(self.compute.memory)),) * self.compute.workers
        workers = self._connect().scheduler_info(n_workers=-1)["workers"].values()
        return tuple(WorkerOffer(w["memory_limit"], dict(w["resources"])) for w in workers)

    def open(self, workplace: Workplace) -> None:
        from distributed import as_completed

        client = self._connect()
        client.register_plugin(worker_plugin(workplace, own=self.cluster is not None))
        self.ended = as_completed(loop=client.loop)

    def submit(self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float = 0.0) -> Any:
        future = self.client.submit(function, *args, key=key, resources=dict(resources) or None, retries=retries, pure=False)
        self.ended.add(future)
        return future

    def completed(self) -> Iterator[Any]:
        yield from self.ended

    def outcome(self, future: Any) -> Any:
        if future.status == "finished":
            return future.result()
        error = future.exception() if future.status == "error" else None
        if isinstance(error, CohortError):
            return error
        if self.client.status != "running":
            raise ResourceError(
                expected="a running scheduler", found=self.client.status, where="compute",
                remedy="Start the cluster again and build again: what is done stays done.",
            )  # fmt: skip
        return LostWorkerError(
            expected="a worker that survives the task", found=type(error).__name__ if error else future.status, where="compute",
            remedy="The process died: most often its memory was too small (compute.memory). Build again to try again.",
        )  # fmt: skip

    def close(self) -> None:
        client, cluster = self.client, self.cluster
        self.client = self.cluster = self.ended = None
        if client is not None:
            client.close()
        if cluster is not None:
            cluster.close()

    def _connect(self) -> Any:
        if self.client is not None:
            return self.client
        from distributed import Client

        if self.compute.address is None:
            self.cluster = self._start()
        try:
            self.client = Client(self.cluster or self.compute.address, timeout=CONNECT_SECONDS)
            self.client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except OSError as error:  # TimeoutError is one
            self.close()
            raise ResourceError(
                expected="a scheduler with a worker", found=f"none within {CONNECT_SECONDS:.0f} s", where="compute.address",
                remedy="Start the cluster, and check the address.",
            ) from error  # fmt: skip
        return self.client

    def _start(self) -> Any:
        import dask
        from distributed import LocalCluster

        # Every task on a dying worker is suspected, also the innocent ones queued there: the runner tries suspects again alone.
        # Dask's own words about lost workers and raised errors are kept off the screen: the report has them, with a remedy.
        with dask.config.set({"distributed.scheduler.allowed-failures": self.compute.retries}):
            return LocalCluster(
                n_workers=self.compute.workers, threads_per_worker=1, processes=True, memory_limit=self.compute.memory,
                dashboard_address="127.0.0.1:0" if find_spec("bokeh") else None, silence_logs=logging.CRITICAL,
            )  # fmt: skip


@dataclass
class Ended:
    """A call that was made at once: its value, or the error it ended with."""

    key: str
    value: Any


class SynchronousPool:
    """Runs every call in this process when it is submitted: breakpoints and tracebacks work, and dask is not needed."""

    def __init__(self, compute: ComputeConfig) -> None:
        del compute
        self.client = None
        self.waiting: list[Ended] = []

    def offers(self) -> tuple[WorkerOffer, ...]:
        return (WorkerOffer(resources=None),)

    def open(self, workplace: Workplace) -> None:
        workplace.apply()

    def submit(self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float = 0.0) -> Ended:
        del resources
        values = [a.value if isinstance(a, Ended) else a for a in args]
        future = Ended(key, next((v for v in values if isinstance(v, Exception)), None))
        for _ in range(retries + 1 if future.value is None else 0):
            try:
                future.value = function(*values)
                break
            except CohortError as error:
                future.value = error
        self.waiting.append(future)
        return future

    def completed(self) -> Iterator[Ended]:
        while self.waiting:
            yield self.waiting.pop(0)

    def outcome(self, future: Ended) -> Any:
        return future.value

    def close(self) -> None:
        self.waiting.clear()


def _address(compute: ComputeConfig) -> Pool:
    if compute.address is None:
        raise ConfigError(
            expected="a scheduler address such as tcp://10.0.0.1:8786", found="none", where="compute.address",
            remedy="Give it, or use cluster: local.",
        )  # fmt: skip
    return DaskPool(compute)


CLUSTERS: dict[str, Callable[[ComputeConfig], Pool]] = {
    "local": lambda compute: DaskPool(compute.model_copy(update={"address": None})),
    "address": _address,
    "synchronous": SynchronousPool,
}
"""Factory by ``compute.cluster``."""


def make_pool(compute: ComputeConfig) -> Pool:
    """Make the pool a configuration asks for; nothing starts yet."""
    return CLUSTERS[compute.cluster](compute)
