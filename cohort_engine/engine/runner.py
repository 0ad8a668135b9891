"""Runs the stages of every subject on a pool: one chain of tasks a subject, a sliding window of subjects, failures as data.

A failure of a stage travels home as a `StageResult`, whatever it is; only errors that may pass (`CohortError.retryable`) are raised in a task, so
that the pool's retries mean what they say. A subject that loses its worker is tried once more, alone, since all tasks on a dying worker are
suspected, also the innocent ones.
"""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.engine.clusters import Interrupted, Pool, WorkerOffer
from cohort_engine.engine.events import Events
from cohort_engine.engine.inputs import SHELF, Reader
from cohort_engine.engine.plugins import TemplateRef, worker_template
from cohort_engine.errors import CohortError, LostWorkerError, MissingInputError, ResourceError, StorageError, StoreError, describe_error, told
from cohort_engine.io.places import exists
from cohort_engine.io.volume import Volume
from cohort_engine.single.process import peak_memory, task_folder
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.store.records import Entry, made_url, read_entry, remove_made, write_made
from cohort_engine.store.writer import read_subject, write_subject

UNFORESEEN = 'A stage met something unforeseen: please report it. "cohort-engine retry" runs it again.'

UNREACHED = 4
"""Subjects in a row, at least, whose storage fails before no more are begun: a full disk stays full, and what is computed for it is lost."""
FULL = "Storage failed for one subject after the other: no more are begun. Build again when it answers and has room: what is done stays done."


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
    make : frozenset of str
        Roles that stages are to make for it, see `stages.choose.to_make`.
    notes : mapping of role to tuple of str
        How the file of a role was chosen, in words that name nobody.
    """

    row: int
    files: Mapping[str, str] = field(repr=False)
    kinds: Mapping[str, str] = field(repr=False, default_factory=dict)
    problems: Mapping[str, CohortError] = field(repr=False, default_factory=dict)
    make: frozenset[str] = frozenset()
    notes: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)

    def with_made(self, stage: Stage, places: Mapping[str, str]) -> Subject:
        """Return the subject as a stage sees it, with the files that other stages made.

        What people made goes first, unless it was completed. Landmarks that a stage made are discs, whatever the study's are.
        """
        if not stage.lacking(self.files):
            places = {role: place for role, place in places.items() if role in self.files or role in stage.optional}
        kinds = {role: schema.DISC for role in places if role.endswith(f"_{schema.LANDMARKS}")}
        return replace(self, files={**self.files, **places}, kinds={**self.kinds, **kinds})


@dataclass(frozen=True)
class Job:
    """What a task needs beside its subject; the same for every subject.

    Attributes
    ----------
    url : str
        The store.
    stage : Stage
    template : TemplateRef
    build : str
        Token: files are read once a worker and build.
    again : bool
        Run stages anew whose recorded failure would otherwise stand.
    """

    url: str = field(repr=False)
    stage: Stage = field(repr=False)
    template: TemplateRef = field(repr=False)
    build: str = ""
    again: bool = False

    @cached_property
    def recipe(self) -> str:
        """Hash of the stage's recipe."""
        return self.stage.recipe(self.template.digest).hash

    @cached_property
    def packed(self) -> bytes:
        """The bytes of the job: made once, however many tasks it travels with."""
        from distributed.protocol.pickle import dumps  # a stage may be a script's own function

        packed: bytes = dumps({f.name: getattr(self, f.name) for f in fields(self)})
        return packed

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.packed,)


@lru_cache(maxsize=64)
def _unpacked(packed: bytes) -> Job:
    """Return the job of these bytes, the same one for all tasks of a process.

    They come in dask's own message, which is a pickle as well, and never from a disk.
    """
    return Job(**pickle.loads(packed))


@dataclass(frozen=True)
class StageResult:
    """How a stage of a subject ended in this run.

    Attributes
    ----------
    row : int
    stage : str
    entry : Entry or None
        None where the stage was blocked: a stage it needs did not succeed.
    cached : bool
        The entry was there already, with the same key.
    makes, place : str
        Role of the file that the stage makes, and where it lies; nowhere if it was not made.
    """

    row: int
    stage: str
    entry: Entry | None
    cached: bool = False
    makes: str = ""
    place: str = ""

    @property
    def done(self) -> bool:
        return self.entry is not None and self.entry.status in (schema.DONE, schema.NOT_NEEDED)


def stands(entry: Entry, again: bool) -> bool:
    """Tell whether a recorded ending with the same key still holds: a success always, a failure unless another try may help."""
    return entry.status == schema.DONE or (entry.status == schema.FAILED and not entry.retryable and not again)


# --- on the worker ------------------------------------------------------------------------------------------------------
def run_stage(job: Job, subject: Subject, *upstream: StageResult) -> StageResult:
    """Run one stage of one subject, or find that it is done; write its arrays, and then its entry.

    Whatever goes wrong is that subject's failure, and is recorded.

    Raises
    ------
    StorageError
        The store or an input could not be reached; nothing is recorded and doing the same again may help.
    """
    task = _Task(job, subject, upstream)
    try:
        return task.run()
    except CohortError as error:
        if error.retryable:
            raise
        return task.failed(error)
    except OSError as error:
        raise StorageError(
            expected="a disk that answers", found=error.strerror or describe_error(error)[1], where=f"stage {job.stage.name}",
            remedy="Check the temp folder.",
        ) from error  # fmt: skip
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:  # a bug in a stage is that subject's failure, not the cohort's
        return task.failed(error)


@dataclass
class _Task:
    """A stage of a subject under way: what is known of it so far enters its entry, however it ends."""

    job: Job
    subject: Subject
    upstream: Sequence[StageResult]
    started: float = field(default_factory=time.monotonic)
    before: Entry | None = None
    key: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    reader: Reader | None = None
    notes: list[str] = field(default_factory=list)

    def run(self) -> StageResult:
        job, stage, row = self.job, self.job.stage, self.subject.row
        self.before = before = read_entry(job.url, row, stage.name)
        places = {u.makes: u.place for u in self.upstream if u.place}
        subject = self.subject.with_made(stage, places)
        self.reader = reader = Reader(job.build, row, subject.files, subject.kinds)
        if stage.makes and stage.makes not in subject.make and not self._completes(subject):
            return self._not_needed()
        due = {*stage.wanting(subject.files), *(r for r in stage.optional if r in subject.make)}
        if any(not u.done and (not u.makes or u.makes in due) for u in self.upstream):
            return self._blocked()
        for role in stage.lacking(subject.files):
            if role in subject.problems:
                raise subject.problems[role]
        files = stage.select(subject.files)
        reader.records = {}
        kinds = {r: k for r, k in subject.kinds.items() if r in files}
        self.made = {u.makes: u.stage for u in self.upstream if u.place and files.get(u.makes) == u.place}
        results = [u for u in self.upstream if u.entry is not None and not u.makes]
        taken = [u for u in self.upstream if u.entry is not None and (not u.makes or u.stage in self.made.values())]
        self.keys = {u.stage: u.entry.key for u in taken if u.entry is not None}
        content = {role: reader.content(role).sha256 for role in files}
        self.key = stage.key(content, kinds, job.template.digest, [self.keys[u.stage] for u in results])
        place = made_url(job.url, row, stage.makes) if stage.makes else ""
        if self._is_known(before, place):
            return StageResult(row, stage.name, before, True, stage.makes, place if before is not None and before.status == schema.DONE else "")
        inputs = StageInput(
            files, kinds, stage.params, worker_template(job.template), partial(read_subject, job.url, row), frozenset(self.made), reader.bytes_of,
            self.key, dict(self.keys),
        )  # fmt: skip
        with task_folder(row), told() as self.notes:
            produced = dict(stage.run(inputs))
        return self._write(produced, place)

    def _completes(self, subject: Subject) -> bool:
        """Tell whether what the subject has of a role is too little, and the stage has what it takes to complete it."""
        stage, reader = self.job.stage, self.reader
        if stage.completes is None or reader is None or stage.makes not in subject.files or stage.lacking(subject.files):
            return False
        inputs = StageInput(
            subject.files, subject.kinds, stage.params, worker_template(self.job.template), partial(read_subject, self.job.url, subject.row),
            content=reader.bytes_of,
        )  # fmt: skip
        with task_folder(subject.row):
            return stage.completes(inputs)

    def _is_known(self, before: Entry | None, place: str) -> bool:
        """Tell whether the stage ended before with the very same, and this holds."""
        if before is None or before.key != self.key or dict(before.upstream) != self.keys or not stands(before, self.job.again):
            return False
        return before.status != schema.DONE or not place or exists(place)

    def _write(self, produced: dict[str, Any], place: str) -> StageResult:
        job, stage, row = self.job, self.job.stage, self.subject.row
        expected = {s.path for s in stage.writes} | ({stage.makes} if stage.makes else set())
        if set(produced) != expected:
            raise StoreError(
                expected=f"{', '.join(sorted(expected)) or 'nothing'}", found=f"{', '.join(sorted(map(str, produced))) or 'nothing'}",
                where=f"what stage {stage.name} returned", remedy="Correct what the stage writes, or what it says it writes.",
            )  # fmt: skip
        volume = produced.pop(stage.makes, None)
        if stage.makes:
            if not isinstance(volume, Volume):
                raise StoreError(
                    expected="a volume", found=type(volume).__name__, where=f"{schema.words(stage.makes)} of stage {stage.name}",
                    remedy="Correct the stage.",
                )  # fmt: skip
            if self.before is not None and self.before.status == schema.DONE:
                self._record(self.entry(schema.NOT_RUN))
            write_made(job.url, row, stage.makes, volume)
            SHELF.forget(job.build, row, place)
        entry = self.entry(schema.DONE)
        self._record(entry, produced)
        return StageResult(row, stage.name, entry, makes=stage.makes, place=place)

    def _not_needed(self) -> StageResult:
        """Nothing is to be made for this subject: what was made before, when a file was lacking, goes."""
        stage, before = self.job.stage, self.before
        entry = self.entry(schema.NOT_NEEDED)
        known = before is not None and (before.status, before.recipe, _plain(before.inputs)) == (entry.status, entry.recipe, _plain(entry.inputs))
        if not known:
            self._record(entry)
            remove_made(self.job.url, self.subject.row, stage.makes)
        return StageResult(self.subject.row, stage.name, entry, known, makes=stage.makes)

    def _blocked(self) -> StageResult:
        if self.before is not None and self.before.status != schema.NOT_RUN:
            self.reader = None
            self._record(self.entry(schema.NOT_RUN))
            self._unmake()
        return StageResult(self.subject.row, self.job.stage.name, None, makes=self.job.stage.makes)

    def failed(self, error: BaseException) -> StageResult:
        """Record a failure. What an earlier input gave is erased with it: it must not pass for this one's."""
        entry = replace(self.entry(schema.FAILED), **failure(error))
        self._record(entry)
        self._unmake()
        return StageResult(self.subject.row, self.job.stage.name, entry, makes=self.job.stage.makes)

    def entry(self, status: str) -> Entry:
        """Entry of this task, as far as it is."""
        done = status in (schema.DONE, schema.FAILED, schema.MISSING)
        inputs = self.reader.records if self.reader is not None else {}
        roles = dict.fromkeys((*inputs, *self.job.stage.wanting(self.subject.files)))  # of those that are absent, too: why they are
        notes = [*(f"{schema.words(r)}: {text}" for r in roles for text in self.subject.notes.get(r, ())), *self.notes]
        return Entry(
            subject=self.subject.row, stage=self.job.stage.name, status=status, key=self.key if done else "", recipe=self.job.recipe,
            upstream=self.keys if done else {}, made=self.made if done else {}, inputs=inputs,
            seconds=time.monotonic() - self.started if done else float("nan"), peak_memory=peak_memory() if done else float("nan"),
            notes="\n".join(notes) if done else "",
        )  # fmt: skip

    def _record(self, entry: Entry, arrays: Mapping[str, Any] | None = None) -> None:
        values = {path: np.asarray(array) for path, array in (arrays or {}).items()}
        write_subject(self.job.url, self.subject.row, values, entry, template_digest=self.job.template.digest, before=self.before)

    def _unmake(self) -> None:
        if self.job.stage.makes:
            remove_made(self.job.url, self.subject.row, self.job.stage.makes)


def _plain(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {role: list(record) for role, record in inputs.items()}


def failure(error: BaseException) -> dict[str, Any]:
    """Say of an error what an entry says of it."""
    kind, message, trace = describe_error(error)
    return {
        "status": schema.MISSING if isinstance(error, MissingInputError) else schema.FAILED, "kind": kind, "message": message, "trace": trace,
        "remedy": error.remedy if isinstance(error, CohortError) else UNFORESEEN,
        "retryable": error.retryable if isinstance(error, CohortError) else isinstance(error, MemoryError),
    }  # fmt: skip


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
    told : dict of row to set of stage
        What was told of subjects that have not ended; what came home is told (`Events.on_stage_end`) and not kept.
    """

    pool: Pool
    jobs: Sequence[Job]
    window: int
    retries: int
    events: Events
    told: dict[int, set[str]] = field(default_factory=dict)

    def __call__(self, subjects: Iterable[Subject]) -> None:
        """Run all subjects; those that lost their worker once more, one by one."""
        suspects = self._pass(subjects, self.window, last=False)
        self._pass(suspects, 1, last=True)

    def _pass(self, subjects: Iterable[Subject], window: int, *, last: bool) -> list[Subject]:
        token = uuid.uuid4().hex[:8]  # a running scheduler may still know the keys of another run
        queue = iter(subjects)
        flying: dict[str, tuple[Subject, Job]] = {}
        left: dict[int, int] = {}
        errors: dict[int, dict[str, CohortError]] = {}
        suspects: list[Subject] = []
        unreached, most = 0, max(window, UNREACHED)

        def launch(subject: Subject) -> None:
            futures: dict[str, Any] = {}
            errors[subject.row], left[subject.row] = {}, len(self.jobs)
            for job in self.jobs:
                stage, key = job.stage, f"{job.stage.name}-{subject.row:06d}-{token}"
                flying[key] = subject, job
                needs = (futures[n] for n in stage.needs)
                futures[stage.name] = self.pool.submit(
                    run_stage, job, subject, *needs, key=key, resources=stage.resources, retries=self.retries, timeout=stage.timeout
                )

        def silence(running: Mapping[str, float]) -> None:
            known = [(flying[key], seconds) for key, seconds in running.items() if key in flying]
            self.events.on_waiting([(subject.row, job.stage.name, seconds) for (subject, job), seconds in known])

        for subject in islice(queue, window):
            launch(subject)
        for future in self.pool.completed(silence):
            subject, job = flying.pop(future.key)
            outcome = self.pool.outcome(future)
            if isinstance(outcome, StageResult):
                self._report(outcome)
            else:
                errors[subject.row][job.stage.name] = outcome
            left[subject.row] -= 1
            if left[subject.row]:
                continue
            failed = errors.pop(subject.row)
            unreached = unreached + 1 if any(isinstance(e, StorageError) for e in failed.values()) else 0
            if not last and any(isinstance(e, LostWorkerError) for e in failed.values()):
                suspects.append(subject)
            else:
                self._settle(subject, failed)
            if unreached < most:
                for following in islice(queue, 1):
                    launch(following)
            elif unreached == most:
                self.events.on_wait(FULL)
        return suspects

    def _settle(self, subject: Subject, failed: Mapping[str, BaseException]) -> None:
        """Record the stages that could not record themselves: the first of a chain failed, the others are blocked."""
        for job in self.jobs:
            stage, row = job.stage, subject.row
            if stage.name not in failed:
                continue
            blocked = any(n in failed for n in stage.needs)
            ended = Entry(row, stage.name, schema.NOT_RUN, "", job.recipe)
            entry = None if blocked else replace(ended, **failure(failed[stage.name]))
            with suppress(CohortError):  # the storage that failed the stage may refuse this too: the report has it
                before = read_entry(job.url, row, stage.name)
                if entry is not None or (before is not None and before.status != schema.NOT_RUN):
                    write_subject(job.url, row, {}, entry or ended, template_digest=job.template.digest, before=before)
                    if stage.makes:
                        remove_made(job.url, row, stage.makes)
            self._report(StageResult(row, stage.name, entry, makes=stage.makes))
        self.told.pop(subject.row, None)
        self.events.on_subject_end(subject.row)

    def _report(self, result: StageResult) -> None:
        told = self.told.setdefault(result.row, set())
        if result.stage not in told:  # a suspect's finished stages come home twice
            told.add(result.stage)
            self.events.on_stage_end(result)
