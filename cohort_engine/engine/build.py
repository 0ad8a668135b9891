"""Build a cohort: index, plan, lay out, run, tabulate, close. Doing it again continues; the ledger knows what is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cohort_engine import schema
from cohort_engine.config import Config, DataConfig
from cohort_engine.engine.clusters import Pool, make_pool
from cohort_engine.engine.events import Events
from cohort_engine.engine.plan import Plan
from cohort_engine.engine.plugins import TemplateRef
from cohort_engine.engine.runner import Job, Run, StageResult, Subject
from cohort_engine.errors import CohortError, StorageError, StoreError, TemplateError
from cohort_engine.io.bids import Study, index_study, kind_column
from cohort_engine.io.sct_folder import index_results
from cohort_engine.single.process import Workplace
from cohort_engine.stages.automatic import to_draw
from cohort_engine.stages.base import Stage, stages_of
from cohort_engine.store import layout
from cohort_engine.store.ledger import LedgerEntry, read_ledger
from cohort_engine.store.writer import IDENTITY, check_template, init_store
from cohort_engine.template import load_template
from cohort_engine.template.base import Template

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
    entries : tuple of LedgerEntry
        Stages that failed or lacked an input, by row.
    names : mapping of row to str
        For the screen.
    trouble : str
        Why the store could not be closed; empty when it was.
    seconds : float
    """

    url: str
    counts: Mapping[str, Mapping[str, int]]
    entries: tuple[LedgerEntry, ...]
    names: Mapping[int, str] = field(repr=False)
    trouble: str = ""
    seconds: float = float("nan")

    @property
    def exit_code(self) -> int:
        """0 all well, 1 something did not finish."""
        return int(bool(self.entries or self.trouble))

    @property
    def failures(self) -> pd.DataFrame:
        """Stages that did not finish, with the names of the subjects: for the screen, not for files."""
        return _failures(self.entries, self.names)

    def table(self) -> Any:
        """Return the counts as a `rich` table."""
        from rich import box
        from rich.table import Table

        table = Table("stage", *OUTCOMES, box=box.SIMPLE_HEAD, title=f"Built in {self.seconds:.0f} s", title_justify="left")
        for stage, counts in self.counts.items():
            table.add_row(stage, *(str(counts[o]) for o in OUTCOMES))
        if self.trouble:
            table.caption = f"The store is not closed. {self.trouble}"
        return table


INDEX: Mapping[str, Callable[..., Study]] = {schema.BIDS: index_study, schema.SCT: index_results}


def index(data: DataConfig) -> Study:
    """List the subjects of a study and their files; errors as of `io.bids.index_study`."""
    return INDEX[data.source](data.bids, derivatives=data.derivatives, include=data.include, exclude=data.exclude)


def plan(config: Config, *, stages: Sequence[Stage] | None = None) -> Plan:
    """Count what a build would do, without doing any of it. ``plan(config).validate()`` refuses what cannot work."""
    pool = make_pool(config.compute)
    try:
        return _Build(config, stages).plan(pool)
    finally:
        pool.close()


def build(config: Config, *, events: Events | None = None, stages: Sequence[Stage] | None = None) -> BuildReport:
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

    Returns
    -------
    BuildReport
        Also when subjects failed: a failure is data.

    Raises
    ------
    CohortError
        Nothing could be run: the plan has problems, or the store cannot be made.
    """
    return _Build(config, stages).run(events or Events())


def retry(config: Config, *, events: Events | None = None, stages: Sequence[Stage] | None = None) -> BuildReport:
    """Run again only the subjects of which a stage failed, whatever the reason was."""
    layout.open_root(config.data.store)
    failed = {e.subject for e in read_ledger(config.data.store) if e.status == schema.FAILED}
    return _Build(config, stages).run(events or Events(), only=failed)


def status(store: str | Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Say how far a cohort is.

    Returns
    -------
    counts : DataFrame
        A row a stage: how many subjects are done, failed, lack an input, or have not run.
    failures : DataFrame
        A row a stage and subject that did not finish, with the subject's name: for the screen, not for files.
    """
    import pandas as pd

    url = store.data.store if isinstance(store, Config) else store
    total = layout.row_count(layout.open_root(url))
    entries = read_ledger(url)
    lines = []
    for stage in dict.fromkeys(e.stage for e in entries):
        counts = dict.fromkeys(schema.STATUS_CODES.values(), 0)
        for e in entries:
            if e.stage == stage:
                counts[e.status] += 1
        counts[schema.NOT_RUN] = total - sum(n for s, n in counts.items() if s != schema.NOT_RUN)
        lines.append({schema.STAGE: stage} | counts)
    columns = [schema.STAGE, *schema.STATUS_CODES.values()]
    return pd.DataFrame(lines, columns=columns), _failures(_unfinished(entries), subject_names(url))


def subject_names(url: str) -> dict[int, str]:
    """Look up what people call each row: participant, and session where there is one. For the screen only."""
    root = layout.open_root(url)
    columns = (layout.array_at(root, f"{schema.SUBJECTS}/{c}")[:] for c in IDENTITY)
    return {row: " ".join(filter(None, map(str, parts))) or f"row {row}" for row, parts in enumerate(zip(*columns, strict=True))}


class _Build:
    """The template, stages and study of a configuration, and what is done with them."""

    def __init__(self, config: Config, stages: Sequence[Stage] | None) -> None:
        self.config = config
        self.stages = stages_of(config) if stages is None else tuple(stages)
        self.template = _template(config)
        self.study = index(config.data)

    def plan(self, pool: Pool) -> Plan:
        url, problems = self.config.data.store, list[CohortError]()
        finished: dict[str, int] = {}
        with suppress(StoreError):  # no store yet; one that cannot be used is refused when it is laid out
            root = layout.open_root(url)
            finished = {s.name: 0 for s in self.stages}
            for entry in read_ledger(url):
                if entry.stage in finished:
                    finished[entry.stage] += entry.status == schema.DONE
            try:
                check_template(root, self.template.digest)
            except TemplateError as error:
                problems.append(error)
        subjects = _subjects(self.study, range(len(self.study)), self.stages)
        columns = len({*IDENTITY, *self.study.subjects.columns})
        return Plan.of(self.config, subjects, self.stages, self.template, pool.offers(), columns=columns, finished=finished, problems=problems)

    def run(self, events: Events, only: set[int] | None = None) -> BuildReport:
        config, url, started = self.config, self.config.data.store, time.monotonic()
        pool = make_pool(config.compute)
        try:
            prepared = self.plan(pool)
            events.on_plan(prepared)
            prepared.validate()
            rows = init_store(url, template=self.template, config=config, subjects=self.study.subjects, units=self.study.units)
            names = subject_names(url)
            events.on_start(names)
            subjects = [s for s in _subjects(self.study, map(int, rows), self.stages) if only is None or s.row in only]
            pool.open(Workplace(seed=config.stages.fit.seed))
            reference = TemplateRef(config.template.name, config.template.path, self.template.digest)
            jobs = [Job(url, stage, dict(stage.params(config)), reference, again=only is not None) for stage in self.stages]
            window = config.compute.window * max(1, prepared.workers)
            results = Run(pool, jobs, window, config.compute.retries, events)(subjects)
            trouble = self._close(pool)
        finally:
            pool.close()
            events.close()
        entries = tuple(sorted(_unfinished(r.entry for r in results if r.entry is not None), key=lambda e: (e.subject, e.stage)))
        report = BuildReport(url, _counts(self.stages, results), entries, names, trouble, time.monotonic() - started)
        events.on_finish(report)
        return report

    def _close(self, pool: Pool) -> str:
        """Tabulate and finalise; storage that fails now is told in the report, which must not be lost."""
        from cohort_engine.reduce.cohort import tabulate
        from cohort_engine.store.maintenance import finalise

        url, stages = self.config.data.store, self.config.stages
        reduce = stages.reduce
        try:
            tabulate(url, metrics=stages.metrics, estimators=reduce.estimators, min_coverage=reduce.min_coverage, client=pool.client)
            finalise(url, [s.name for s in self.stages], allow_missing=True)
        except StorageError as error:
            return str(error)
        return ""


def _template(config: Config) -> Template:
    template = load_template(config.template.name, path=config.template.path)
    if config.template.digest is not None:
        template.check_digest(config.template.digest, where="template.digest")
    return template


def _subjects(study: Study, rows: Iterable[int], stages: Sequence[Stage]) -> list[Subject]:
    """Join rows of the store with files of the study, in the study's order, and what is to be drawn."""

    def present(columns: Mapping[str, str]) -> list[dict[str, str]]:
        table = study.files[list(columns.values())].to_numpy()
        return [{role: str(v) for role, v in zip(columns, line, strict=True) if v is not None} for line in table]

    files = present({role: role for role in study.roles})
    kinds = present({role: kind_column(role) for role in study.roles if kind_column(role) in study.files})
    problems: list[dict[str, CohortError]] = [{} for _ in files]
    for (row, role), error in study.problems.items():
        problems[row][role] = error
    return [Subject(*parts, to_draw(parts[1], stages)) for parts in zip(rows, files, kinds, problems, strict=True)]


def _unfinished(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    return [e for e in entries if e.status in (schema.FAILED, schema.MISSING)]


def _counts(stages: Sequence[Stage], results: Iterable[StageResult]) -> dict[str, dict[str, int]]:
    counts = {s.name: dict.fromkeys(OUTCOMES, 0) for s in stages}
    for r in results:
        counts[r.stage][BLOCKED if r.entry is None else CACHED if r.cached and r.done else r.entry.status] += 1
    return counts


def _failures(entries: Iterable[LedgerEntry], names: Mapping[int, str]) -> pd.DataFrame:
    import pandas as pd

    columns = ["row", "name", schema.STAGE, "kind", "message", "remedy"]
    return pd.DataFrame([(e.subject, names.get(e.subject, ""), e.stage, e.kind, e.message, e.remedy) for e in entries], columns=columns)
