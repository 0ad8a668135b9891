"""Who watches a build: an observer with a few moments. Names of people are looked up here, when something is shown, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cohort_engine import schema
from cohort_engine.errors import StorageError
from cohort_engine.progress import clear, hush, step
from cohort_engine.runlog import RunLog

if TYPE_CHECKING:
    from cohort_engine.engine.build import BuildReport
    from cohort_engine.engine.plan import Plan
    from cohort_engine.engine.runner import StageResult


class Events:
    """Observer of a build that shows nothing; override what you want to see."""

    def on_plan(self, plan: Plan) -> None:
        """Know the cost; nothing is written yet."""

    def on_start(self, names: Mapping[int, str]) -> None:
        """Begin: the store is laid out, and `names` is what people call each row, for the screen."""

    def on_stage_end(self, result: StageResult) -> None:
        """Take the end of a stage of a subject, however it ended."""

    def on_subject_end(self, row: int) -> None:
        """Take the end of all stages of a subject."""

    def on_wait(self, text: str) -> None:
        """Know that nothing happens until something outside answers."""

    def on_dashboard(self, address: str) -> None:
        """Know where to see the cluster at work."""

    def on_waiting(self, running: Sequence[tuple[int, str, float]]) -> None:
        """Know who is being waited for, when nothing has ended for a while: row, stage, and seconds it has run."""

    def on_interrupt(self, text: str) -> None:
        """Know that somebody stopped the build. The sentence is on the screen already."""

    def on_finish(self, report: BuildReport) -> None:
        """Take the result. Not called when the build raises."""

    def close(self) -> None:
        """Give the screen back, whatever happened."""


class Both(Events):
    """Several observers, told one after the other.

    Examples
    --------
    >>> Both(Events(), Events()).on_wait("nothing to see")
    """

    def __init__(self, *events: Events) -> None:
        self.events = events

    def on_plan(self, plan: Plan) -> None:
        for e in self.events:
            e.on_plan(plan)

    def on_start(self, names: Mapping[int, str]) -> None:
        for e in self.events:
            e.on_start(names)

    def on_stage_end(self, result: StageResult) -> None:
        for e in self.events:
            e.on_stage_end(result)

    def on_subject_end(self, row: int) -> None:
        for e in self.events:
            e.on_subject_end(row)

    def on_wait(self, text: str) -> None:
        for e in self.events:
            e.on_wait(text)

    def on_dashboard(self, address: str) -> None:
        for e in self.events:
            e.on_dashboard(address)

    def on_waiting(self, running: Sequence[tuple[int, str, float]]) -> None:
        for e in self.events:
            e.on_waiting(running)

    def on_interrupt(self, text: str) -> None:
        for e in self.events:
            e.on_interrupt(text)

    def on_finish(self, report: BuildReport) -> None:
        for e in self.events:
            e.on_finish(report)

    def close(self) -> None:
        for e in self.events:
            e.close()


class LogEvents(Events):
    """Writes what happens to a log. Rows stand for people: `names` are not looked at."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def _write(self, level: str, event: str, **fields: Any) -> None:
        with suppress(StorageError):  # a log that cannot be written must not stop what it tells of
            self.log.write(level, event, **fields)

    def _close(self) -> None:
        with suppress(StorageError):
            self.log.close()

    def on_plan(self, plan: Plan) -> None:
        self._write("info", "plan", subjects=plan.subjects, workers=plan.workers, tasks=dict(plan.tasks))

    def on_start(self, names: Mapping[int, str]) -> None:
        self._write("info", "start", rows=len(names))

    def on_stage_end(self, result: StageResult) -> None:
        entry = result.entry
        if entry is None:
            self._write("warning", "stage", row=result.row, stage=result.stage, status="blocked")
            return
        level = "warning" if not result.done else "debug" if result.cached or entry.status == schema.NOT_NEEDED else "info"
        cost: dict[str, Any] = {} if result.cached else {"seconds": _finite(entry.seconds), "peak_memory": _finite(entry.peak_memory)}
        self._write(
            level, "stage", row=result.row, stage=result.stage, status=entry.status, cached=result.cached or None, kind=entry.kind,
            message=entry.message, remedy=entry.remedy, trace=getattr(entry, "trace", ""), notes=entry.notes, **cost,
        )  # fmt: skip

    def on_subject_end(self, row: int) -> None:
        self._write("debug", schema.SUBJECT, row=row)

    def on_wait(self, text: str) -> None:
        self._write("info", "wait", text=text)

    def on_waiting(self, running: Sequence[tuple[int, str, float]]) -> None:
        for row, stage, seconds in running:
            self._write("warning", "waiting", row=row, stage=stage, seconds=_finite(seconds))

    def on_interrupt(self, text: str) -> None:
        self._write("warning", "interrupt", text=text)
        self._close()

    def on_finish(self, report: BuildReport) -> None:
        level = "warning" if report.exit_code else "info"
        counts = {stage: {k: n for k, n in c.items() if n} for stage, c in report.counts.items()}
        self._write(level, "finish", seconds=_finite(report.seconds), counts=counts, trouble=report.trouble)
        self._close()

    def close(self) -> None:
        self._close()


def _finite(value: float) -> float | None:
    """Round for a log; JSON has no NaN."""
    return round(value, 2) if math.isfinite(value) else None


class Steps(Events):
    """How many stages have ended, in the line of `progress.working`: what a notebook shows of a build."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def on_plan(self, plan: Plan) -> None:
        self.total = sum(plan.tasks.values())

    def on_stage_end(self, result: StageResult) -> None:
        self.done += 1
        step(f"{self.done} of {self.total} stages")

    def on_wait(self, text: str) -> None:
        step(text)


class RichProgress(Events):
    """A bar for each stage, and a line for each failure as it happens."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
            console=console or Console(stderr=True, highlight=False),
        )  # fmt: skip
        self.bars: dict[str, Any] = {}
        self.names: Mapping[int, str] = {}
        self.troubles: dict[str, int] = {}

    def on_plan(self, plan: Plan) -> None:
        clear()
        self.progress.console.print(plan.table())
        self.bars = {stage: self.progress.add_task(stage, total=count, note="") for stage, count in plan.tasks.items()}

    def on_start(self, names: Mapping[int, str]) -> None:
        self.names = names
        hush()
        self.progress.start()

    def on_stage_end(self, result: StageResult) -> None:
        from rich.markup import escape

        if result.entry is not None and result.entry.status == schema.NOT_NEEDED:
            return
        if not result.done:
            self.troubles[result.stage] = self.troubles.get(result.stage, 0) + 1
        if result.entry is not None and not result.done:
            text = escape(f"{result.stage}: {result.entry.message} {result.entry.remedy}")
            self.progress.console.print(f"[red]{escape(self.names[result.row])}[/] {text}")
        trouble = self.troubles.get(result.stage)
        self.progress.update(self.bars[result.stage], advance=1, note=f"[red]{trouble} not done[/]" if trouble else "")

    def on_wait(self, text: str) -> None:
        from rich.markup import escape

        self.progress.console.print(escape(text))

    def on_dashboard(self, address: str) -> None:
        self.on_wait(f"The cluster at work: {address}")

    def on_waiting(self, running: Sequence[tuple[int, str, float]]) -> None:
        for row, stage, seconds in running:
            self.on_wait(f"waiting for {self.names.get(row, f'row {row}')}: {stage}, {seconds:.0f} s so far")

    def close(self) -> None:
        self.progress.stop()
