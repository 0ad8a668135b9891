"""What the engine knows of a place where work runs: `Pool`. A new kind of cluster is a module here, or a plug-in, that adds itself to `CLUSTERS`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from cohort_engine.config import CLUSTER_KINDS, ComputeConfig, Section
from cohort_engine.engine.events import Events
from cohort_engine.registry import Registry
from cohort_engine.single.process import Workplace

SILENCE_SECONDS = 30.0
"""After so long without an end of a task it is told what is being waited for."""
OnSilence = Callable[[Mapping[str, float]], None]
"""Called with the tasks that run, by key, and the seconds they have run."""


@dataclass(frozen=True)
class WorkerOffer:
    """What one worker has.

    Attributes
    ----------
    memory : int
        Bytes; 0 where there is no limit, or nobody knows yet.
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
        """List the workers; before `open` those it is expected to have. Starts and joins nothing."""
        ...

    def open(self, workplace: Workplace, *, at_most: int | None = None, events: Events | None = None) -> None:
        """Start or join the cluster and prepare its workers: no more of them than `at_most`, the subjects there are.

        Raises
        ------
        ResourceError
            The cluster does not answer, or has no worker.
        """
        ...

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int, timeout: float | None = None
    ) -> Any:  # fmt: skip
        """Queue a call and return its future; a future among `args` is replaced by its result, or passes its error on.

        A call that runs longer than `timeout` seconds, waiting not counted, is ended: its outcome is a `TimeoutWorkerError`, and those of
        the calls that were to follow it are `LostWorkerError`.

        Raises
        ------
        ResourceError
            No worker offers the resources: the call would wait for ever.
        """
        ...

    def completed(self, on_silence: OnSilence | None = None) -> Iterator[Any]:
        """Yield each submitted future when it has ended, also those submitted meanwhile, until none is left.

        `on_silence` is called, in this thread, for each `SILENCE_SECONDS` in which none ended.
        """
        ...

    def outcome(self, future: Any) -> Any:
        """Return the result of an ended future, or the exception that ended it, not raised; only a lost worker is a `LostWorkerError`."""
        ...

    def close(self) -> None:
        """Cancel what runs and leave or stop the cluster."""
        ...


@dataclass(frozen=True)
class ClusterKind:
    """A kind of cluster, as ``compute.cluster`` names it.

    Attributes
    ----------
    name : str
    make : function of ComputeConfig to Pool
        Starts nothing; raises `ConfigError` where the section lacks something.
    settings : type of Section, optional
        What it takes beside the keys of ``compute:``: a section there by the kind's name.
    words : str
        The sentence of that section.
    """

    name: str
    make: Callable[[ComputeConfig], Pool]
    settings: type[Section] | None = None
    words: str = ""


CLUSTERS: Registry[ClusterKind] = CLUSTER_KINDS
"""Every kind by its name."""


def make_pool(compute: ComputeConfig) -> Pool:
    """Make the pool a configuration asks for; nothing starts yet."""
    return CLUSTERS.find(compute.cluster, where="compute.cluster").make(compute)


# --- stopping -----------------------------------------------------------------------------------------------------------
class Interrupted(SystemExit):
    """Somebody asked the process to stop: with Ctrl-C (SIGINT), or as schedulers of batch systems do (SIGTERM).

    Uncaught it ends the process without a traceback, by the exit code that a shell expects.

    Examples
    --------
    >>> Interrupted(signal.SIGTERM).code
    143
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(128 + number)

    @property
    def sentence(self) -> str:
        """What to tell."""
        return f"Stopped by {self.signal.name}: what is done stays done, and building again continues from there."


@contextmanager
def interruptible(events: Events) -> Iterator[None]:
    """Turn SIGINT and SIGTERM inside into `Interrupted`, told in one sentence; a second signal ends the process at once.

    Handlers are put back afterwards. Python hears signals in its main thread only: in another one nothing happens.

    Examples
    --------
    >>> with interruptible(Events()):
    ...     os.getpid() > 0
    True
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(number: int, frame: Any) -> None:
        del frame
        if asked:
            os._exit(128 + number)
        asked.append(number)
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        if not asked:
            raise
        stopped = error if isinstance(error, Interrupted) else Interrupted(asked[0])
        events.on_interrupt(stopped.sentence)
        print(stopped.sentence, file=sys.stderr)
        raise stopped from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
