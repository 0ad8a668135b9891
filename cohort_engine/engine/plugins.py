"""What travels to the workers of a cluster: their workplace, and the template by name, loaded once."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import cache
from typing import Any

from cohort_engine.single.process import Workplace
from cohort_engine.template.base import Template

TOPIC, BEGUN, ENDED = "cohort-engine", "begun", "ended"
"""Where workers tell what they do, and what they say."""


PROFILERS = ("profile", "profile-cycle")
"""What dask's statistical profiler does over and over. It keeps what it saw for twenty minutes, which made workers grow by 50 KiB a subject."""


def worker_plugin(workplace: Workplace, *, own: bool = False, profiled: bool = False) -> Any:
    """Return a dask worker plugin that applies `workplace` in every worker, restarted ones too, and tells when a task begins, and
    when one ends otherwise than well.

    `own` workers were started by this build: Ctrl-C in its terminal reaches them as well, and is left to the build, which closes them. Workers go on
    being `profiled` where others look at them too.
    """
    from distributed.diagnostics.plugin import WorkerPlugin

    class Prepare(WorkerPlugin):  # type: ignore[misc]
        name = "cohort-engine"
        idempotent = False

        def setup(self, worker: Any) -> None:
            self.worker = worker
            workplace.apply()
            for name in () if profiled else PROFILERS:
                if name in worker.periodic_callbacks:
                    worker.periodic_callbacks.pop(name).stop()
            if own:
                signal.signal(signal.SIGINT, signal.SIG_IGN)

        def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
            del more
            # that it has ended well, the client hears anyhow
            what = BEGUN if finish == "executing" else ENDED if start == "executing" and finish != "memory" else None
            if what is not None:
                self.worker.log_event(TOPIC, {"what": what, "key": str(key), "worker": self.worker.address})

    return Prepare()


@dataclass(frozen=True)
class TemplateRef:
    """A template by name: what travels to workers in its place.

    Attributes
    ----------
    name : str
    path : str, optional
    digest : str
        Content hash the loaded template must have.
    """

    name: str
    path: str | None
    digest: str


@cache
def worker_template(ref: TemplateRef) -> Template:
    """Load a template, once per process, and check that it is the one meant."""
    from cohort_engine.template import load_template

    template = load_template(ref.name, path=ref.path)
    template.check_digest(ref.digest, where="template of a worker")
    return template
