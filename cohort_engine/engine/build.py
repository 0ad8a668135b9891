"""Build a cohort: look, lay out, run, gather, tabulate, close. Doing it again continues; the ledger knows what is done."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zarr

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.clusters import Pool, interruptible, make_pool
from cohort_engine.engine.events import Both, Events, LogEvents, Steps
from cohort_engine.engine.plan import Plan
from cohort_engine.engine.plugins import TemplateRef
from cohort_engine.engine.runner import Job, Run, StageResult, check_resources
from cohort_engine.engine.state import Outlook, People
from cohort_engine.engine.status import close, failures, notes, subject_names, unfinished
from cohort_engine.engine.status import finalise as finalise
from cohort_engine.engine.status import status as status
from cohort_engine.engine.study import Undertaking, open_store
from cohort_engine.engine.study import index as index
from cohort_engine.engine.study import inputs_of as inputs_of
from cohort_engine.errors import IncompleteError, StorageError
from cohort_engine.progress import working
from cohort_engine.runlog import RunLog, configure
from cohort_engine.single.process import Workplace
from cohort_engine.stages.base import Stage
from cohort_engine.store import layout
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import gather
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import holds, init_store

if TYPE_CHECKING:
    import pandas as pd

CACHED, BLOCKED = "cached", "blocked"
OUTCOMES = (schema.DONE, CACHED, schema.FAILED, schema.MISSING, schema.NOT_NEEDED, BLOCKED)
"""How a stage of a subject can end in a run: done now, done before, failed, without input, or without the stage before it."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes
    ----------
    url : str
        The store.
    counts : mapping of stage to {outcome: int}
        Outcomes are `OUTCOMES`.
    entries : tuple of Entry
        Stages that failed or lacked an input, by row.
    names : mapping of row to str
        For the screen.
    trouble : str
        Why the store could not be closed; empty when it was.
    seconds : float
    told : tuple of Entry
        Stages whose inputs left something open.
    chosen : tuple of str
        What was chosen and left out of the study, with the names of people: for the screen.
    """

    url: str
    counts: Mapping[str, Mapping[str, int]]
    entries: tuple[Entry, ...]
    names: Mapping[int, str] = field(repr=False)
    trouble: str = ""
    seconds: float = float("nan")
    told: tuple[Entry, ...] = ()
    chosen: tuple[str, ...] = field(default=(), repr=False)

    @property
    def exit_code(self) -> int:
        """0 all well, 1 something did not finish."""
        return int(bool(self.entries or self.trouble))

    @property
    def failures(self) -> pd.DataFrame:
        """Stages that did not finish, with the names of the subjects: for the screen, not for files."""
        return failures(self.entries, self.names)

    @property
    def notes(self) -> pd.DataFrame:
        """What inputs left open and how it was settled, with the names of the subjects: for the screen, not for files."""
        return notes(self.told, self.names)

    def table(self) -> Any:
        """Return the counts as a `rich` table."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table("stage", *OUTCOMES, box=box.SIMPLE_HEAD, title=f"Built in {self.seconds:.0f} s", title_justify="left")
        for stage, counts in self.counts.items():
            table.add_row(escape(stage), *(str(counts[o]) for o in OUTCOMES))
        if self.trouble:
            table.caption = escape(f"The store is not closed. {self.trouble}")
        return table


def plan(config: Config, *, stages: Sequence[Stage] | None = None) -> Plan:
    """Count what a build would do, without doing any of it: no cluster is started. ``plan(config).validate()`` refuses what cannot work."""
    study = Undertaking(config, stages)
    root, problems = open_store(study.url)
    people, outlook = study.look(root)
    pool = make_pool(config.compute)
    try:
        return study.plan(pool, people, outlook, root, problems)
    finally:
        pool.close()


def build(config: Config, *, events: Events | None = None, stages: Sequence[Stage] | None = None, log: RunLog | None = None) -> BuildReport:
    """Build the cohort, or continue a build that was interrupted.

    Each stage of each subject runs unless the ledger has it with the same content key: same input files, parameters, code version and
    template. A stage that failed for a scientific reason runs again only when its key changed, or by `retry`; one that failed for want of
    storage, memory or a worker runs again.

    Parameters
    ----------
    config : Config
    events : Events, optional
        Who watches.
    stages : sequence of Stage, optional
        In place of the registered ones, upstream first.
    log : RunLog, optional
        By default one beside the ledger; a build that has nothing to do leaves none.

    Returns
    -------
    BuildReport
        Also when subjects failed: a failure is data.

    Raises
    ------
    CohortError
        Nothing could be run: the plan has problems, another process writes to the store, or it cannot be made.
    Interrupted
        SIGINT or SIGTERM: what is done stays done.
    """
    with working("build"):
        return _Build(config, stages, events or Steps(), log or configure(config.data.store)).run()


def retry(config: Config, *, events: Events | None = None, stages: Sequence[Stage] | None = None, log: RunLog | None = None) -> BuildReport:
    """Run again the subjects of whom a stage failed, whatever the reason was: what failed, and all of theirs that is stale or to do, with the
    settings of now. Where those have changed, the others are stale: the report says so, and `build` makes them again.

    Raises
    ------
    StoreError
        There is no store yet.
    CohortError
        As of `build`.
    """
    layout.open_root(config.data.store)
    with working("retry"):
        return _Build(config, stages, events or Steps(), log or configure(config.data.store), again=True).run()


GATHER_AFTER = 512
"""Subjects that have ended before their records are gathered, while a build goes on: what a killed one leaves to be read singly stays few."""


class Gathering(Events):
    """Gathers the records of subjects that have ended; where storage fails, that is left to the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ended: set[int] = set()
        self.left: set[tuple[int, str]] = set()

    def on_stage_end(self, result: StageResult) -> None:
        if not result.cached:
            self.left.add((result.row, result.stage))

    def on_subject_end(self, row: int) -> None:
        self.ended.add(row)
        if len(self.ended) >= GATHER_AFTER:
            with suppress(StorageError):
                self.gather()

    def gather(self) -> None:
        """Gather what the subjects that have ended have left: a listing of a bucket may not show it yet."""
        written = {(row, stage) for row, stage in self.left if row in self.ended}
        gather(self.url, written)
        self.left -= written
        self.ended.clear()


class Tally(Events):
    """Counts how stages ended, and keeps the entries of which there is something to say: a cohort of any size is a few numbers."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.counts = {s.name: dict.fromkeys(OUTCOMES, 0) for s in stages}
        self.entries: list[Entry] = []

    def on_stage_end(self, result: StageResult) -> None:
        entry = result.entry
        outcome = BLOCKED if entry is None else CACHED if result.cached and entry.status == schema.DONE else entry.status
        self.counts[result.stage][outcome] += 1
        if entry is not None and (entry.notes or unfinished([entry])):
            self.entries.append(entry)


class _Build:
    """A build, or a retry (`again`)."""

    def __init__(self, config: Config, stages: Sequence[Stage] | None, events: Events, log: RunLog, *, again: bool = False) -> None:
        self.study = Undertaking(config, stages)
        self.tally = Tally(self.study.stages)
        self.config, self.again, self.shown, self.log = config, again, Both(events, self.tally), LogEvents(log)
        self.events: Events = Both(self.shown, self.log)
        self.looked: tuple[str, People, Outlook] | None = None
        self.url = self.study.url
        self.gathering = Gathering(self.url)

    def run(self) -> BuildReport:
        started = time.monotonic()
        pool = make_pool(self.config.compute)
        with interruptible(self.events):
            try:
                with ExitStack() as held:
                    names, trouble = self._build(pool, held)
            finally:
                pool.close()
                self.events.close()
        ended = sorted(self.tally.entries, key=lambda e: (e.subject, e.stage))
        report = BuildReport(
            self.url, self.tally.counts, tuple(unfinished(ended)), names, trouble, time.monotonic() - started,
            tuple(e for e in ended if e.notes), tuple(self.study.study.told()),
        )  # fmt: skip
        self.events.on_finish(report)
        return report

    def _build(self, pool: Pool, held: ExitStack) -> tuple[dict[int, str], str]:
        """Take the lease, and look at the store under it: before where there is a store, else when it is clear that there will be one."""
        study, url = self.study, self.url
        root, problems = open_store(url)
        writer = held.enter_context(lease(url, "build")) if root is not None and not layout.frozen(root) else None
        if root is not None and not problems and (idle := self._idle(pool, root)) is not None:
            return idle
        if self.looked is not None and self.looked[0] == study.template.digest:
            _, people, outlook = self.looked
        else:
            people, outlook = study.look(root, again=self.again)
        prepared = study.plan(pool, people, outlook, root, problems)
        self.shown.on_plan(prepared)
        prepared.validate()
        if writer is None:
            writer = held.enter_context(lease(url, "build"))
            root, problems = open_store(url)
            if root is not None:  # somebody was faster, and has ended
                people, outlook = study.look(root, again=self.again)
                study.plan(pool, people, outlook, root, problems).validate()
        declared = study.declared(study.template.digest)
        table, units = study.study.subjects, study.study.units
        self.log.on_plan(prepared)
        init_store(
            url, template=study.template, subjects=table, units=units, specs=declared.specs, asked=declared.asked, recipes=declared.recipes,
            left=people.left, renamed=people.renamed,
        )  # fmt: skip
        names = subject_names(url)
        self.events.on_start(names)
        self._stages(pool, outlook)
        writer.check()
        return names, self._close(pool)

    def _idle(self, pool: Pool, root: zarr.Group) -> tuple[dict[int, str], str] | None:
        """Answer for a closed store that is all that the study asks for: nothing is written, and no template is loaded. None for any other."""
        study = self.study
        if not root.attrs.get(layout.FINALISED):
            return None
        digest = study.digest(root)
        people, outlook = study.look(root, again=self.again, template=digest)
        self.looked = digest, people, outlook
        declared, found = study.declared(digest), study.study
        if outlook.unsettled or outlook.problems or not holds(
            root, subjects=found.subjects, rows=people.rows, specs=declared.specs, asked=declared.asked, units=found.units, left=people.left
        ):  # fmt: skip
            return None
        self.events = self.shown
        prepared = Plan.idle(outlook.subjects, study.stages, Counter(people.left.values()))
        self.events.on_plan(prepared)
        names = subject_names(self.url)
        self.events.on_start(names)
        self._stages(pool, outlook)
        return names, ""

    def _stages(self, pool: Pool, outlook: Outlook) -> None:
        """Run what is to run; of all other subjects the results stand that were recorded."""
        stages, config = self.study.stages, self.config
        chosen = self.study.failed(outlook) if self.again else outlook.subjects
        waiting = [s for s in chosen if s.row in outlook.unsettled]
        for subject in chosen:
            if subject.row not in outlook.unsettled:
                for result in outlook.settled(stages, subject.row):
                    self.events.on_stage_end(result)
        if not waiting:
            return
        pool.open(Workplace(seed=config.stages.fit.seed), at_most=len(waiting), events=self.events)
        for problem in check_resources(stages, pool.offers()):  # a cluster that was joined says only now what it has
            raise problem
        template = self.study.template
        reference, token = TemplateRef(config.template.name, config.template.path, template.digest), uuid.uuid4().hex
        jobs = [Job(self.url, stage, reference, token, again=self.again) for stage in stages]
        window = config.compute.window * max(1, len(pool.offers()))
        watching = Both(self.events, self.gathering)
        Run(pool, jobs, window, config.compute.retries, watching)(waiting)

    def _close(self, pool: Pool) -> str:
        """Gather, tabulate and close; what stands in the way now is told in the report, which must not be lost."""
        try:
            self.gathering.gather()
            close(self.url, allow_missing=True, allow_mixed=False, client=pool.client)
        except (StorageError, IncompleteError) as error:
            return str(error)
        return ""
