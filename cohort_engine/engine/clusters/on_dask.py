"""What every cluster of dask has in common: futures, lost workers, limits of time. Dask loads when a pool opens."""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.base import SILENCE_SECONDS, OnSilence, WorkerOffer
from cohort_engine.engine.clusters.synchronous import overtime
from cohort_engine.engine.events import Events
from cohort_engine.engine.plugins import BEGUN, TOPIC, worker_plugin
from cohort_engine.errors import LostWorkerError, ResourceError
from cohort_engine.single.process import Workplace

LOOK_SECONDS = 0.5
"""How often limits of time are looked at."""
COLLECT_SECONDS = 0.2
"""How often it is looked which calls have ended: their results are fetched in one request, and what follows is sent in one."""
CPU = "cpu"
"""Resource of workers without a GPU, where there are others."""
RESTART_SECONDS = 30.0
"""How long a worker may take to be started again."""


@dataclass
class Running:
    """A call that a worker has begun.

    Attributes
    ----------
    worker : str
        Address.
    since : float
        Monotonic time.
    """

    worker: str
    since: float


@dataclass(eq=False)
class Asked:
    """A call that was submitted.

    Attributes
    ----------
    key : str
    function : callable
    args : tuple
        A call among them stands for its result.
    resources : mapping of str to float
        What its worker must offer.
    retries : int
    timeout : float, optional
        Seconds.
    future : distributed.Future, optional
        None until it is sent.
    """

    key: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    resources: Mapping[str, float]
    retries: int
    timeout: float | None
    future: Any = None

    @property
    def ready(self) -> bool:
        """Nothing but a worker is lacking."""
        return all(a.ended for a in self.args if isinstance(a, Asked))

    @property
    def ended(self) -> bool:
        """It was sent, and has ended, however."""
        return self.future is not None and self.future.status != "pending"


class ByKey(dict[str, Any]):
    """What the scheduler is told of each call of a graph, by its key."""

    def __call__(self, key: str) -> Any:
        return self[key]


class DaskPool(ABC):
    """A dask cluster. Subclasses say how it is reached (`_join`) and who offers what beforehand (`offers`).

    Workers tell when they begin a call and when they have ended it (`engine.plugins`); one that runs for too long is cancelled, and its
    worker restarted: what waits there goes elsewhere.
    """

    own = False
    """The workers were started by this process, on this machine."""
    shared = False
    """Others use the workers too: they are left as they are."""

    def __init__(self, compute: ComputeConfig) -> None:
        self.compute = compute
        self.client: Any = None
        self.asked: dict[str, Asked] = {}
        self.unsent: list[Asked] = []
        self.values: dict[str, Any] = {}
        self.plain: dict[str, float] = {}
        """What a call that needs nothing special asks for: where workers with a GPU stand beside others, one of the others."""
        self.running: dict[str, Running] = {}
        self.overdue: dict[str, float] = {}
        self.offered: set[frozenset[tuple[str, float]]] = {frozenset()}

    @abstractmethod
    def _join(self, at_most: int | None, events: Events) -> Any:
        """Return a client whose cluster has a worker."""

    def offers(self) -> tuple[WorkerOffer, ...]:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return tuple(WorkerOffer(w["memory_limit"], dict(w["resources"])) for w in workers)

    def open(self, workplace: Workplace, *, at_most: int | None = None, events: Events | None = None) -> None:
        events = events or Events()
        if self.client is None:
            self.client = self._join(at_most, events)
            if page := self._dashboard():
                events.on_dashboard(page)
        self.plain = {CPU: 1.0} if any(CPU in (o.resources or {}) for o in self.offers()) else {}
        self.client.subscribe_topic(TOPIC, self._hear)
        self.client.register_plugin(worker_plugin(workplace, own=self.own, profiled=self.shared))

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float | None = None
    ) -> Any:  # fmt: skip
        self._refuse(resources)
        call = self.asked[key] = Asked(key, function, args, dict(resources or self.plain), retries, timeout)
        self.unsent.append(call)
        return call

    def completed(self, on_silence: OnSilence | None = None) -> Iterator[Any]:
        heard = looked = time.monotonic()
        while self.asked:
            self._send()
            ended = self._take()
            if time.monotonic() - looked >= LOOK_SECONDS:  # however many end: another may hang
                looked = time.monotonic()
                self._look()
            if not ended:
                if on_silence is not None and time.monotonic() - heard >= SILENCE_SECONDS:
                    heard = time.monotonic()
                    on_silence({key: heard - r.since for key, r in sorted(self.running.items())})
                continue
            heard = time.monotonic()
            for call in ended:
                del self.asked[call.key]
                self._end(call.key)
            self._fetch(ended)
            yield from ended

    def outcome(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        if (timeout := self.overdue.pop(future.key, None)) is not None:
            return overtime(timeout)
        if future.key in self.values:
            return self.values.pop(future.key)
        future = future.future
        found = "its result gone"
        if future.status == "finished":
            with self._reaching(), suppress(CancelledError, CommClosedError, KilledWorker):
                return future.result()
        elif future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker | CancelledError | CommClosedError):
                return error.with_traceback(future.traceback())
            found = type(error).__name__
        if self.client.status != "running":
            raise no_scheduler(self.client.status)
        return LostWorkerError(
            expected="a worker that survives the task", found=found if future.status in ("finished", "error") else future.status, where="compute",
            remedy="The process died: most often its memory was too small (compute.memory). Build again to try again.",
        )  # fmt: skip

    def close(self) -> None:
        client, self.client = self.client, None
        self.asked.clear()
        self.unsent.clear()
        if client is not None:
            client.close()

    def work(self, resource: str | None) -> int:
        """Count the calls that could run now, or do, on workers with a resource (None: on those without)."""
        asked = list(self.asked.values())
        return sum(a.ready for a in asked if (resource in a.resources if resource else a.resources == self.plain))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say that the scheduler is gone, however dask says it: a connection that times out, or a client that gave up."""
        from distributed.client import ClosedClientError

        try:
            yield
        except (OSError, ClosedClientError) as error:
            raise no_scheduler(str(error)) from error

    def _dashboard(self) -> str:
        """Address of the page that shows the cluster at work; empty where there is none."""
        try:
            services = self.client.scheduler_info(n_workers=0)["services"]
            return str(self.client.dashboard_link) if "dashboard" in services else ""
        except (KeyError, ValueError, OSError):
            return ""

    def _refuse(self, resources: Mapping[str, float]) -> None:
        wish = frozenset(resources.items())
        if wish in self.offered:
            return
        with self._reaching():
            offers = self.offers()
        if not any(o.has(resources) for o in offers):
            raise ResourceError(
                expected=f"a worker that offers {dict(resources)}", found=f"none among {len(offers)}", where="compute",
                remedy="Start a worker with it (dask worker --resources), or choose a stage that does without.",
            )  # fmt: skip
        self.offered.add(wish)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Note what a worker says: in the client's thread."""
        key, worker = event[1]["key"], event[1]["worker"]
        if event[1]["what"] == BEGUN:
            self.running[key] = Running(worker, time.monotonic())
            return
        self._end(key)

    def _end(self, key: str) -> None:
        """Note that a call runs no longer; a worker of several threads runs one at a time: the others that it has begin now."""
        if (ended := self.running.pop(key, None)) is not None:
            for other in list(self.running.values()):
                if other.worker == ended.worker:
                    other.since = time.monotonic()

    def _send(self) -> None:
        """Send what was submitted as one graph: a scheduler takes a chain of calls as fast as a single one."""
        from dask._expr import LLGExpr
        from dask.task_spec import Task, TaskRef

        calls, self.unsent = self.unsent, []
        if not calls:
            return
        graph = {c.key: Task(c.key, c.function, *(TaskRef(a.key) if isinstance(a, Asked) else a for a in c.args)) for c in calls}
        # a graph is hashed by its content unless it has a name
        with self._reaching():
            futures = self.client.get(
                LLGExpr(graph, _determ_token=uuid.uuid4().hex), [c.key for c in calls], sync=False, fifo_timeout="0s",
                resources=ByKey((c.key, dict(c.resources)) for c in calls), retries=ByKey((c.key, c.retries) for c in calls),
            )  # fmt: skip
        for call, future in zip(calls, futures, strict=True):
            call.future = future

    def _take(self) -> list[Asked]:
        """Return calls that have ended after a while: to be woken by each would cost the driver more than to look at all."""
        time.sleep(COLLECT_SECONDS)
        return [call for call in self.asked.values() if call.ended]

    def _fetch(self, calls: Sequence[Asked]) -> None:
        """Fetch the results of calls at once; what cannot be fetched is left to `outcome`."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        done = {c.key: c.future for c in calls if c.future.status == "finished" and c.key not in self.overdue}
        with self._reaching(), suppress(CancelledError, CommClosedError, KilledWorker):
            found = self.client.gather(done, errors="skip")
            self.values |= {key: value for key, value in found.items() if done[key].status == "finished"}

    def _look(self) -> None:
        """End what runs for too long."""
        now = time.monotonic()
        for key, run in list(self.running.items()):
            asked = self.asked.get(key)
            if asked is not None and asked.timeout is not None and now - run.since > asked.timeout and key not in self.overdue:
                self.overdue[key] = asked.timeout
                del self.running[key]
                with self._reaching():
                    self.client.cancel([asked.future], force=True)
                threading.Thread(target=self._restart, args=(self.client, run.worker), daemon=True).start()

    def _restart(self, client: Any, worker: str) -> None:
        """Kill a worker's process and start it again; one that nobody watches over ends itself."""
        with suppress(Exception):  # the cluster may be closing
            if client.scheduler_info(n_workers=-1)["workers"].get(worker, {}).get("nanny"):
                client.restart_workers([worker], timeout=RESTART_SECONDS, raise_for_error=False)
            else:
                client.run(_leave, workers=[worker], nanny=False)


def no_scheduler(found: str) -> ResourceError:
    """Say that the scheduler is gone."""
    return ResourceError(
        expected="a running scheduler", found=found, where="compute", remedy="Start the cluster again and build again: what is done stays done."
    )


def settings(compute: ComputeConfig) -> dict[str, Any]:
    """Give what a scheduler in this process is to do otherwise than dask has it.

    Every task on a dying worker is suspected, also the innocent ones queued there: the runner tries suspects again alone. And each part looks every
    20 ms whether it is held up, which is most of what an idle driver does (26 of 41 ms a second measured with two workers).
    """
    return {"distributed.scheduler.allowed-failures": compute.retries, "distributed.admin.tick.interval": "1s"}


def _leave() -> None:
    import os

    os._exit(1)
