"""What a build will do and cost, counted before it starts, with every problem that can be foreseen."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.clusters import WorkerOffer
from cohort_engine.engine.inputs import file_bytes
from cohort_engine.engine.runner import Subject, check_resources
from cohort_engine.errors import CohortError, ResourceError
from cohort_engine.io.places import local_path
from cohort_engine.schema import VariableSpec
from cohort_engine.stages.base import Stage
from cohort_engine.store import layout
from cohort_engine.store.records import ENTRY_BLOCK
from cohort_engine.template.base import Template

WORKER_MEMORY = 220.0
"""A worker process with this package, dask and zarr loaded, before it works, MiB: 170 measured, and dask's own growth."""
TEMPLATE_COPIES = 1.5
"""Memory of loading a template, in multiples of the arrays it keeps: 95 MiB for the 66 of PAM50."""
TEXT_BYTES = 16
"""A key in the store."""
STATE_WORDS = {schema.TO_DO: "to do", schema.STALE: "stale", schema.FAILED: "failed, tried again"}


@dataclass(frozen=True)
class Plan:
    """Counts of a build, and what stands in its way.

    Attributes
    ----------
    subjects : int
    workers : int
    tasks : mapping of stage to int
        Subjects that the stage is for.
    runs : mapping of stage to {state: int}
        Of these, those that will run: to do, stale, or failed and tried again. The others stand as they are.
    reasons : tuple of str
        Why stages are stale: ``"stages.mtr.low_signal changed: mtr, mtr_native of 45 subjects"``.
    left : mapping of str to int
        Subjects of the store who are not in the study, by reason.
    bytes_in, bytes_out : int
        Size of the local input files; size of all arrays before compression.
    objects : int
        Files (or bucket objects) of the store and its ledger once it is closed, at most.
    memory : float
        Estimated peak of a worker, MiB.
    missing : mapping of role to int
        Subjects that lack a file of this role which a stage needs.
    problems : tuple of CohortError
        All of them: `validate` refuses if there is one.
    notes : tuple of str
        What was chosen and left out of the study, with the names of people: for the screen.
    """

    subjects: int
    workers: int
    tasks: Mapping[str, int]
    runs: Mapping[str, Mapping[str, int]]
    bytes_in: int
    bytes_out: int
    objects: int
    memory: float
    missing: Mapping[str, int]
    reasons: tuple[str, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[CohortError, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls, config: Config, subjects: Sequence[Subject], stages: Sequence[Stage], template: Template, offers: Sequence[WorkerOffer], *,
        specs: Sequence[VariableSpec], columns: int = 2, runs: Mapping[str, Mapping[str, int]] | None = None, reasons: Sequence[str] = (),
        left: Mapping[str, int] | None = None, problems: Sequence[CohortError] = (), notes: Sequence[str] = (),
    ) -> Plan:  # fmt: skip
        """Count; nothing is written, and no image is opened.

        Parameters
        ----------
        config : Config
        subjects : sequence of Subject
        stages : sequence of Stage
        template : Template
        offers : sequence of WorkerOffer
        specs : sequence of VariableSpec
            What will be laid out, see `stages.declare`.
        columns : int
            Columns of the subject table.
        runs : mapping of stage to {state: int}, optional
            By default everything is to do.
        reasons : sequence of str
        left : mapping of str to int, optional
        problems : sequence of CohortError
            Found elsewhere, to be listed with those found here.
        notes : sequence of str
        """
        tasks = {s.name: _tasks(s, subjects) for s in stages}
        runs = {name: {schema.TO_DO: n} for name, n in tasks.items()} if runs is None else runs
        used, missing = _inputs(subjects, stages)
        bytes_out, objects = _layout(template, len(subjects), stages, specs, columns)
        objects += sum(s.makes in subject.make for s in stages if s.makes for subject in subjects)
        memory = WORKER_MEMORY + TEMPLATE_COPIES * _template_bytes(template) / 2**20 + max((s.memory for s in stages), default=0.0)
        share = sum(n for counts in runs.values() for n in counts.values()) / max(1, sum(tasks.values()))
        found = [*problems, *check_resources(stages, offers), *_memory_problem(memory, offers), *_disk_problem(config.data.store, bytes_out * share)]
        return cls(
            subjects=len(subjects), workers=min(len(offers), max(1, len(subjects))), tasks=tasks, runs=runs, bytes_in=file_bytes(used),
            bytes_out=bytes_out, objects=objects, memory=memory, missing=missing, reasons=tuple(reasons), left=dict(left or {}),
            problems=tuple(found), notes=tuple(notes),
        )  # fmt: skip

    @classmethod
    def idle(cls, subjects: Sequence[Subject], stages: Sequence[Stage], left: Mapping[str, int]) -> Plan:
        """Plan of a build that has nothing to do: no worker, nothing to write."""
        tasks = {s.name: _tasks(s, subjects) for s in stages}
        runs = {name: dict.fromkeys(STATE_WORDS, 0) for name in tasks}
        return cls(len(subjects), 0, tasks, runs, 0, 0, 0, 0.0, _inputs(subjects, stages)[1], left=dict(left))

    def validate(self) -> None:
        """Refuse a build that cannot work, with all of its problems.

        Raises
        ------
        CohortError
            The problem, where there is one; a `ResourceError` that lists them, where there are more.
        """
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            listed = " ".join(f"({i}) {p}" for i, p in enumerate(self.problems, 1))
            raise ResourceError(expected="nothing in the way of a build", found=f"{len(self.problems)} problems", where="plan", remedy=listed)

    def rows(self) -> list[tuple[str, str]]:
        """Return the table as text."""
        return [
            ("subjects", str(self.subjects)),
            *((f"left: {why}", str(n)) for why, n in self.left.items()),
            *((f"stage {stage}", self._words(stage)) for stage in self.tasks),
            *(("why", reason) for reason in self.reasons),
            *self._cost(),
            *((f"lacking {schema.words(role)}", str(n)) for role, n in self.missing.items()),
            *(("problem", str(p)) for p in self.problems),
        ]

    def _cost(self) -> list[tuple[str, str]]:
        if not self.workers:
            return []
        return [
            ("input", _size(self.bytes_in)),
            ("output", f"{_size(self.bytes_out)} at most, {self.objects} objects"),
            ("workers", f"{self.workers}, about {self.memory / 1024:.1f} GiB each"),
        ]

    def _words(self, stage: str) -> str:
        counts = {state: n for state, n in self.runs.get(stage, {}).items() if n}
        why = ", ".join(f"{n} {STATE_WORDS[state]}" for state, n in counts.items())
        return f"{sum(counts.values())} of {self.tasks[stage]} to run" + (f": {why}" if why else "")

    def table(self) -> Any:
        """Return the plan as a `rich` table, for the screen."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(title="Plan", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
        for name, value in self.rows():
            table.add_row(escape(name), escape(value))
        return table

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _inputs(subjects: Sequence[Subject], stages: Sequence[Stage]) -> tuple[set[str], dict[str, int]]:
    """Return the files the stages will read, and how many subjects lack each role; what follows from which files there are is looked up once."""
    used: set[str] = set()
    missing: dict[str, int] = {}
    known: dict[tuple[frozenset[str], frozenset[str]], tuple[frozenset[str], frozenset[str]]] = {}
    for subject in subjects:
        alike = frozenset(subject.files), subject.make
        if alike not in known:
            read = frozenset(r for files, stage in _given(subject, stages) for r in stage.wanting(files) if files.get(r))
            known[alike] = read, lacking(subject, stages)
        read, lost = known[alike]
        used.update(subject.files[r] for r in read)
        for role in lost:
            missing[role] = missing.get(role, 0) + 1
    return used, {role: missing[role] for role in (*schema.ROLES, *sorted(missing)) if role in missing}


def _given(subject: Subject, stages: Sequence[Stage]) -> Iterator[tuple[Mapping[str, str], Stage]]:
    """Files that each stage of a subject would have, with those that are made for it."""
    for stage in stages:
        if not stage.makes or stage.makes in subject.make:
            made = subject.make if stage.lacking(subject.files) else subject.make.intersection(stage.optional)
            yield {**dict.fromkeys(made, ""), **subject.files}, stage


def lacking(subject: Subject, stages: Sequence[Stage]) -> frozenset[str]:
    """Roles of files that must be added so that every stage of a subject has its own: the fewest; of what can be made, what its making lacks."""
    makers = {s.makes: s for s in stages if s.makes}

    def add(role: str, seen: frozenset[str]) -> frozenset[str]:
        if role in subject.files:
            return frozenset()
        return fewest(makers[role], seen | {role}) if role in makers and role not in seen else frozenset({role})

    def fewest(stage: Stage, seen: frozenset[str]) -> frozenset[str]:
        return min((frozenset().union(*(add(r, seen) for r in roles)) for roles in stage.sets), key=len)

    return frozenset(role for stage in stages if not stage.makes for role in fewest(stage, frozenset()))


def _tasks(stage: Stage, subjects: Sequence[Subject]) -> int:
    return sum(stage.makes in s.make for s in subjects) if stage.makes else len(subjects)


def _layout(template: Template, subjects: int, stages: Sequence[Stage], specs: Sequence[VariableSpec], columns: int) -> tuple[int, int]:
    """Return bytes of the arrays that grow with the cohort, and objects of the whole closed store and its ledger."""
    sizes = {**layout.sizes_of(template), **schema.GROWN, schema.SUBJECT: subjects, schema.STAGE: len(stages)}
    fixed = {spec.path: (spec, values.shape) for spec, values in layout.fixed_arrays(template, specs)}
    fixed |= {layout.STAGE_NAMES.path: (layout.STAGE_NAMES, (len(stages),))}
    grown = {s.path: s for s in (*specs, *schema.FIXED, layout.ROW, layout.LEFT, *layout.NAMES) if s.path not in fixed}
    text = schema.subject_spec(schema.PARTICIPANT, "str")
    shapes = [*fixed.values(), *((s, tuple(sizes[d] for d in s.dims)) for s in grown.values()), *[(text, (subjects,))] * columns]
    groups = {"", schema.SUBJECTS, *(part for s, _ in shapes for part in _above(s.path))}
    objects = len(groups) + sum(1 + math.prod(-(-n // c) for n, c in zip(shape, layout.chunks_of(s, shape), strict=True)) for s, shape in shapes)
    size = sum(math.prod(sizes[d] for d in s.dims) * (TEXT_BYTES if s.dtype == "str" else np.dtype(s.dtype).itemsize) for s in grown.values())
    return size, objects + math.ceil(subjects / ENTRY_BLOCK)


def _above(path: str) -> list[str]:
    """List the groups that a variable lies in."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _template_bytes(template: Template) -> int:
    weights = template.atlas.weights
    return sum(a.nbytes for a in (template.cord, template.wm, template.gm, template.csf, template.packing.ijk, weights.data, weights.indices))


def _memory_problem(memory: float, offers: Sequence[WorkerOffer]) -> list[CohortError]:
    limits = [o.memory for o in offers if o.memory]
    if not limits or min(limits) / 2**20 >= memory:
        return []
    return [
        ResourceError(
            expected=f"about {memory / 1024:.1f} GiB for a worker", found=_size(min(limits)), where="compute.memory",
            remedy="Raise the limit, and use fewer workers.",
        )
    ]  # fmt: skip


def _disk_problem(store: str, needed: float) -> list[CohortError]:
    path = local_path(store)
    if path is None:
        return []
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there if there.is_dir() else there.parent).free
    if free >= needed:
        return []
    remedy = "Free space, or choose another disk."
    return [ResourceError(expected=f"{_size(needed)} of free disk", found=_size(free), where="data.store", remedy=remedy)]


def _size(n: float) -> str:
    """Bytes for people.

    Examples
    --------
    >>> _size(1536), _size(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
