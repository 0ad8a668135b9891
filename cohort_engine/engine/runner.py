"""Runs the stages of every subject on a pool: one chain of tasks a subject, a sliding window of subjects, failures as data.

A scientific failure travels home as a `StageResult`; only errors that may pass (`CohortError.retryable`) are raised in a task, so that the
pool's retries mean what they say. A subject that loses its worker is tried once more, alone, since all tasks on a dying worker are
suspected, also the innocent ones.
"""

from __future__ import annotations

import hashlib
import re
import resource
import time
import traceback
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.engine.clusters import Pool, WorkerOffer
from cohort_engine.engine.events import Events
from cohort_engine.engine.plugins import TemplateRef, worker_template
from cohort_engine.errors import CohortError, LostWorkerError, MissingInputError, ResourceError, StorageError, StoreError
from cohort_engine.io.places import exists, local_path, read_bytes, storage_errors
from cohort_engine.io.volume import Volume
from cohort_engine.provenance import digest
from cohort_engine.single.process import task_folder
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.store.ledger import LedgerEntry, drawn_url, read_entry, remove_drawn, write_drawn, write_entry
from cohort_engine.store.writer import read_subject, write_subject


@dataclass(frozen=True)
class Subject:
    """One row to be run. Its `repr` shows the row alone: dask logs the arguments of tasks.

    Attributes
    ----------
    row : int
        Position in the store.
    files : mapping of role to location
        The files the study has for it.
    kinds : mapping of landmark role to `schema.DISC` or `schema.BODY`
    problems : mapping of role to CohortError
        Why the study has no file of a role: told in place of its absence.
    draw : frozenset of str
        Roles that stages are to draw for it, see `stages.automatic.to_draw`.
    """

    row: int
    files: Mapping[str, str] = field(repr=False)
    kinds: Mapping[str, str] = field(repr=False, default_factory=dict)
    problems: Mapping[str, CohortError] = field(repr=False, default_factory=dict)
    draw: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Job:
    """What a task needs beside its subject; the same for every subject.

    Attributes
    ----------
    url : str
        The store.
    stage : Stage
    params : mapping
    template : TemplateRef
    again : bool
        Run stages anew whose recorded failure would otherwise stand.
    """

    url: str = field(repr=False)
    stage: Stage = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)
    template: TemplateRef = field(repr=False)
    again: bool = False


@dataclass(frozen=True)
class StageResult:
    """How a stage of a subject ended in this run.

    Attributes
    ----------
    row : int
    stage : str
    entry : LedgerEntry or None
        None where the stage was blocked: a stage it needs did not succeed.
    cached : bool
        The entry was in the ledger already, with the same key.
    draws, drawn : str
        Role that the stage draws, and where the file lies; nowhere if it was not to be drawn.
    """

    row: int
    stage: str
    entry: LedgerEntry | None
    cached: bool = False
    draws: str = ""
    drawn: str = ""

    @property
    def done(self) -> bool:
        return self.entry is not None and self.entry.status in (schema.DONE, schema.NOT_NEEDED)


# --- on the worker ------------------------------------------------------------------------------------------------------
def run_stage(job: Job, subject: Subject, *upstream: StageResult) -> StageResult:
    """Run one stage of one subject, or find that it is done; write its arrays, then its ledger entry.

    Raises
    ------
    StorageError
        The store or an input could not be reached; nothing is recorded and doing the same again may help.
    """
    stage, row = job.stage, subject.row
    before = read_entry(job.url, row, stage.name)
    drawn = {u.draws: u.drawn for u in upstream if u.drawn}
    if not stage.lacking(subject.files):  # what people drew goes before what was drawn here, unless that completes it
        drawn = {role: place for role, place in drawn.items() if role in subject.files}
    subject = replace(subject, files={**subject.files, **drawn}, kinds={**subject.kinds, **dict.fromkeys(filter(_marks, drawn), schema.DISC)})
    if stage.draws and stage.draws not in subject.draw and not _completes(job, subject):
        return _not_needed(job, row, before)
    lacking = stage.lacking(subject.files)
    if any(not u.done and (not u.draws or u.draws in stage.wanting(subject.files)) for u in upstream):
        _record(job, row, None, before)
        return StageResult(row, stage.name, None, draws=stage.draws)
    place = drawn_url(job.url, row, stage.draws) if stage.draws else ""
    started = time.monotonic()
    key = ""
    try:
        for role in lacking:
            if role in subject.problems:
                raise subject.problems[role]
        files = stage.select(subject.files)
        kinds = {r: k for r, k in subject.kinds.items() if r in files}
        content = {r: content_hash(location, what=schema.ROLES[r]) for r, location in files.items()}
        key = stage.key(content, kinds, job.params, job.template.digest, [u.entry.key for u in upstream if u.entry is not None and not u.draws])
        if before is not None and before.key == key and _stands(before, job.again) and (before.status != schema.DONE or not place or exists(place)):
            return StageResult(row, stage.name, before, True, stage.draws, place)
        inputs = _inputs(job, row, files, kinds, drawn)
        with task_folder(row):
            made = dict(stage.run(inputs))
        if set(made) != {*stage.writes, *filter(None, [stage.draws])}:
            remedy = "Correct the stage's `writes`."
            raise StoreError(expected=f"arrays {sorted(stage.writes)}", found=f"{sorted(made)}", where=f"stage {stage.name}", remedy=remedy)
        if isinstance(volume := made.pop(stage.draws, None), Volume):
            write_drawn(job.url, row, stage.draws, volume)
        write_subject(job.url, row, {path: np.asarray(array) for path, array in made.items()}, template_digest=job.template.digest)
        entry = LedgerEntry(subject=row, stage=stage.name, status=schema.DONE, key=key)
    except CohortError as error:
        if error.retryable:
            raise
        entry = _failure(row, stage.name, key, error)
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise StorageError(expected="a disk that answers", found=found, where=f"stage {stage.name}", remedy="Check the temp folder.") from None
    except Exception as error:  # a bug in a stage is that subject's failure, not the cohort's
        entry = _failure(row, stage.name, key, error)
    entry = replace(entry, seconds=time.monotonic() - started, peak_memory=peak_memory())
    _record(job, row, entry, before)
    return StageResult(row, stage.name, entry, draws=stage.draws, drawn=place if entry.status == schema.DONE else "")


def _inputs(job: Job, row: int, files: Mapping[str, str], kinds: Mapping[str, str], drawn: Mapping[str, str]) -> StageInput:
    return StageInput(
        files, kinds, job.params, worker_template(job.template), partial(read_subject, job.url, row), frozenset(files).intersection(drawn)
    )


def _completes(job: Job, subject: Subject) -> bool:
    """Tell whether what the subject has of a role is too little, and the stage has what it takes to complete it."""
    stage = job.stage
    if stage.completes is None or stage.draws not in subject.files or stage.lacking(subject.files):
        return False
    with task_folder(subject.row):
        return stage.completes(_inputs(job, subject.row, subject.files, subject.kinds, {}))


def _marks(role: str) -> bool:
    """Tell landmarks from masks: those that are drawn here are discs."""
    return role.endswith(f"_{schema.LANDMARKS}")


def _not_needed(job: Job, row: int, before: LedgerEntry | None) -> StageResult:
    """Nothing is to be drawn for this subject: what was drawn before, when a file was lacking, goes."""
    entry = LedgerEntry(subject=row, stage=job.stage.name, status=schema.NOT_NEEDED, key="")
    if before is None or before.status != schema.NOT_NEEDED:
        _record(job, row, entry, before)
        remove_drawn(job.url, row, job.stage.draws)
    return StageResult(row, job.stage.name, entry, draws=job.stage.draws)


def _stands(entry: LedgerEntry, again: bool) -> bool:
    """Tell whether a recorded ending with the same key still holds: a success always, a failure unless another try may help."""
    return entry.status == schema.DONE or (entry.status == schema.FAILED and not entry.retryable and not again)


def _record(job: Job, row: int, entry: LedgerEntry | None, before: LedgerEntry | None) -> None:
    """Write how a stage ended (None: blocked). What an earlier input gave is erased first: it must not pass for this one's."""
    if entry is None:
        if before is None:
            return
        entry = LedgerEntry(subject=row, stage=job.stage.name, status=schema.NOT_RUN, key="")
    if entry.status != schema.DONE and before is not None and before.status == schema.DONE:
        blank = {path: np.full_like(read_subject(job.url, row, path), np.nan) for path in job.stage.writes}
        write_subject(job.url, row, blank, template_digest=job.template.digest)
    write_entry(job.url, entry)


def content_hash(location: str, *, what: str) -> str:
    """Return the sha256 of a file's content, in hex; of a folder's, names and content of all files below it.

    Raises
    ------
    MissingInputError
        It is gone since the study was indexed.
    StorageError
        It cannot be read.
    """
    path = local_path(location)
    if path is None:
        return hashlib.sha256(read_bytes(location, what=what)).hexdigest()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return digest([(p.relative_to(path).as_posix(), content_hash(str(p), what=what)) for p in files])
    try:
        with storage_errors(what), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise MissingInputError(
                expected="the file the study lists", found="none", where=what, remedy="Fetch it (git-annex, network drive), or index the study again."
            ) from None
        raise


def peak_memory() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_PLACE = re.compile(r"\S*[/\\]\S*|\b(?:sub|ses)-\w+")


def scrub(text: str) -> str:
    """Take out of a foreign message whatever may name a person: paths, and BIDS entities.

    Examples
    --------
    >>> scrub("cannot open /data/sub-01_T2w.nii.gz for sub-01")
    'cannot open ... for ...'
    """
    return _PLACE.sub("...", text)


def _failure(row: int, stage: str, key: str, error: Exception) -> LedgerEntry:
    entry = LedgerEntry(subject=row, stage=stage, status=schema.FAILED, key=key, kind=type(error).__name__, retryable=isinstance(error, MemoryError))
    if isinstance(error, CohortError):
        status = schema.MISSING if isinstance(error, MissingInputError) else schema.FAILED
        message = f"{error.where}: expected {error.expected}, found {error.found}."
        return replace(entry, status=status, message=message, remedy=error.remedy, retryable=error.retryable)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    found = scrub(str(error)) or "no message"
    return replace(
        entry, message=f"in {Path(frame.filename).name}:{frame.lineno} ({frame.name}): {found}",
        remedy='A stage met something unforeseen: please report it. "cohort-engine retry" runs it again.',
    )  # fmt: skip


# --- on the client ------------------------------------------------------------------------------------------------------
def check_resources(stages: Iterable[Stage], offers: Sequence[WorkerOffer]) -> list[ResourceError]:
    """List the stages that no worker can run: dask would let them wait for ever, in silence."""
    return [
        ResourceError(
            expected=f"a worker that offers {dict(s.resources)} for stage {s.name}", found=f"none among {len(offers)}", where="compute",
            remedy="Start a worker with it (dask worker --resources), or choose a stage that does without.",
        )
        for s in stages if not any(o.has(s.resources) for o in offers)
    ]  # fmt: skip


@dataclass
class Run:
    """One pass over subjects.

    Attributes
    ----------
    pool : Pool
        Open.
    jobs : sequence of Job
        One a stage, upstream first.
    window : int
        Subjects in flight.
    retries : int
    events : Events
    results : dict of (row, stage) to StageResult
        What came home.
    """

    pool: Pool
    jobs: Sequence[Job]
    window: int
    retries: int
    events: Events
    results: dict[tuple[int, str], StageResult] = field(default_factory=dict)

    def __call__(self, subjects: Iterable[Subject]) -> list[StageResult]:
        """Run all subjects; those that lost their worker once more, one by one."""
        suspects = self._pass(subjects, self.window, last=False)
        self._pass(suspects, 1, last=True)
        return list(self.results.values())

    def _pass(self, subjects: Iterable[Subject], window: int, *, last: bool) -> list[Subject]:
        token = uuid.uuid4().hex[:8]  # a running scheduler may still know the keys of another run
        queue = iter(subjects)
        flying: dict[str, tuple[Subject, Job]] = {}
        errors: dict[int, dict[str, CohortError]] = {}
        suspects: list[Subject] = []

        def launch(subject: Subject) -> None:
            futures: dict[str, Any] = {}
            errors[subject.row] = {}
            for job in self.jobs:
                stage, key = job.stage, f"{job.stage.name}-{subject.row:06d}-{token}"
                flying[key] = subject, job
                needs = (futures[n] for n in stage.needs)
                futures[stage.name] = self.pool.submit(run_stage, job, subject, *needs, key=key, resources=stage.resources, retries=self.retries)

        for subject in islice(queue, window):
            launch(subject)
        for future in self.pool.completed():
            subject, job = flying.pop(future.key)
            outcome = self.pool.outcome(future)
            if isinstance(outcome, CohortError):
                errors[subject.row][job.stage.name] = outcome
            else:
                self._report(outcome)
            if any(s is subject for s, _ in flying.values()):
                continue
            failed = errors.pop(subject.row)
            if not last and any(isinstance(e, LostWorkerError) for e in failed.values()):
                suspects.append(subject)
            else:
                self._settle(subject, failed)
            for following in islice(queue, 1):
                launch(following)
        return suspects

    def _settle(self, subject: Subject, failed: Mapping[str, CohortError]) -> None:
        """Record the stages that could not record themselves: the first of a chain failed, the others are blocked."""
        for job in self.jobs:
            stage, row = job.stage.name, subject.row
            if stage in failed:
                blocked = any(n in failed for n in job.stage.needs)
                entry = None if blocked else _failure(row, stage, "", failed[stage])
                with suppress(StorageError):  # the storage that failed the stage may refuse this too: the report has it
                    _record(job, row, entry, read_entry(job.url, row, stage))
                self._report(StageResult(row, stage, entry))
        self.events.on_subject_end(subject.row)

    def _report(self, result: StageResult) -> None:
        if (result.row, result.stage) not in self.results:  # a suspect's finished stages come home twice
            self.results[result.row, result.stage] = result
            self.events.on_stage_end(result)
