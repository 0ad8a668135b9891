"""No cluster: every call runs in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind, OnSilence, WorkerOffer
from cohort_engine.engine.events import Events
from cohort_engine.errors import CohortError, LostWorkerError, TimeoutWorkerError
from cohort_engine.single.process import Workplace


@dataclass
class Ended:
    """A call that was made at once: its value, or the error it ended with."""

    key: str
    value: Any


class SynchronousPool:
    """Runs every call in this process when it is submitted: breakpoints and tracebacks work, and dask is not needed.

    A limit of time is kept in the main thread of Linux and macOS only, and not while a call is inside a library that does not come back to Python.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        del compute
        self.client = None
        self.waiting: list[Ended] = []

    def offers(self) -> tuple[WorkerOffer, ...]:
        return (WorkerOffer(resources=None),)

    def open(self, workplace: Workplace, *, at_most: int | None = None, events: Events | None = None) -> None:
        del at_most, events
        workplace.apply()

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float | None = None
    ) -> Ended:  # fmt: skip
        del resources
        values = [a.value if isinstance(a, Ended) else a for a in args]
        future = Ended(key, next((_passed_on(v) for v in values if isinstance(v, Exception)), None))
        for _ in range(retries + 1 if future.value is None else 0):
            try:
                with _at_most(timeout):
                    future.value = function(*values)
                break
            except _Overtime:
                future.value = overtime(timeout)
                break
            except Exception as error:
                future.value = error
                if not (isinstance(error, CohortError) and error.retryable):
                    break
        self.waiting.append(future)
        return future

    def completed(self, on_silence: OnSilence | None = None) -> Iterator[Ended]:
        del on_silence
        while self.waiting:
            yield self.waiting.pop(0)

    def outcome(self, future: Ended) -> Any:
        return future.value

    def close(self) -> None:
        self.waiting.clear()


def overtime(timeout: float | None) -> TimeoutWorkerError:
    """Say that a call ran for too long."""
    return TimeoutWorkerError(
        expected=f"an end within {timeout:g} s", found="still at work", where="compute.timeout",
        remedy="Give the stage longer there, or look at what is unusual about its images. Build again to try again.",
    )  # fmt: skip


def _passed_on(error: Exception) -> Exception:
    """Give what becomes of a call whose input was ended: it is lost with it."""
    if not isinstance(error, TimeoutWorkerError):
        return error
    return LostWorkerError(expected="an input", found="none, since the call that makes it was ended", where="compute", remedy=error.remedy)


class _Overtime(BaseException):
    """Not an `Exception`, so that no library takes it for a failure of its own."""


@contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


CLUSTERS.add(ClusterKind("synchronous", SynchronousPool))
