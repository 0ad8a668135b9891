"""What a build will cost, counted before it starts, with every problem that can be foreseen."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.clusters import WorkerOffer
from cohort_engine.engine.runner import Subject, check_resources
from cohort_engine.errors import CohortError, ResourceError
from cohort_engine.io.places import local_path
from cohort_engine.stages.base import Stage
from cohort_engine.store import layout
from cohort_engine.template.base import Template

WORKER_MEMORY = 220.0
"""A worker process with this package, dask and zarr loaded, before it works, MiB: 170 measured, and dask's own growth."""
TEMPLATE_COPIES = 1.5
"""Memory of loading a template, in multiples of the arrays it keeps: 95 MiB for the 66 of PAM50."""
TEXT_BYTES = 16
"""A key in the store."""


@dataclass(frozen=True)
class Plan:
    """Counts of a build, and what stands in its way.

    Attributes
    ----------
    subjects : int
    workers : int
    tasks : mapping of stage to int
        One a subject; a finished one returns at once.
    finished : mapping of stage to int
        Tasks that the ledger says are done; they run again only where their inputs or parameters changed.
    bytes_in, bytes_out : int
        Size of the local input files; size of all arrays before compression.
    objects : int
        Files (or bucket objects) the store and its ledger come to, at most: a chunk without data is not stored.
    memory : float
        Estimated peak of a worker, MiB.
    missing : mapping of role to int
        Subjects that lack a file of this role which a stage needs.
    problems : tuple of CohortError
        All of them: `validate` refuses if there is one.
    """

    subjects: int
    workers: int
    tasks: Mapping[str, int]
    finished: Mapping[str, int]
    bytes_in: int
    bytes_out: int
    objects: int
    memory: float
    missing: Mapping[str, int]
    problems: tuple[CohortError, ...] = ()

    @classmethod
    def of(
        cls, config: Config, subjects: Sequence[Subject], stages: Sequence[Stage], template: Template, offers: Sequence[WorkerOffer], *,
        columns: int = 2, finished: Mapping[str, int] | None = None, problems: Sequence[CohortError] = (),
    ) -> Plan:  # fmt: skip
        """Count; nothing is written, and no image is opened.

        Parameters
        ----------
        config : Config
        subjects : sequence of Subject
        stages : sequence of Stage
        template : Template
        offers : sequence of WorkerOffer
        columns : int
            Columns of the subject table.
        finished : mapping of stage to int, optional
        problems : sequence of CohortError
            Found elsewhere, to be listed with those found here.
        """
        finished = finished or {}
        used, missing = _inputs(subjects, stages)
        bytes_out, objects = _layout(config, template, len(subjects), len(stages), columns)
        memory = WORKER_MEMORY + TEMPLATE_COPIES * _template_bytes(template) / 2**20 + max((s.memory for s in stages), default=0.0)
        share = 1 - sum(finished.values()) / max(1, len(subjects) * len(stages))
        found = [*problems, *check_resources(stages, offers), *_memory_problem(memory, offers), *_disk_problem(config.data.store, bytes_out * share)]
        return cls(
            subjects=len(subjects), workers=len(offers), tasks={s.name: _tasks(s, subjects) for s in stages}, finished=finished,
            bytes_in=_file_bytes(used), bytes_out=bytes_out, objects=objects, memory=memory, missing=missing, problems=tuple(found),
        )  # fmt: skip

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
            *((f"tasks {stage}", f"{n}, {self.finished.get(stage, 0)} done before" if self.finished else str(n)) for stage, n in self.tasks.items()),
            ("input", _size(self.bytes_in)),
            ("output", f"{_size(self.bytes_out)} at most, {self.objects} objects"),
            ("workers", f"{self.workers}, about {self.memory / 1024:.1f} GiB each"),
            *((f"lacking {schema.ROLES[role]}", str(n)) for role, n in self.missing.items()),
            *(("problem", str(p)) for p in self.problems),
        ]

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
    """Return the files the stages will read, and how many subjects lack each role."""
    used: set[str] = set()
    missing: dict[str, int] = {}
    for subject in subjects:
        lacking: set[str] = set()
        for stage in stages:
            if stage.draws and stage.draws not in subject.draw:
                continue
            files = subject.files if not stage.lacking(subject.files) else {**dict.fromkeys(subject.draw, ""), **subject.files}
            lacking.update(stage.lacking(files))
            used.update(filter(None, (files[r] for r in stage.wanting(files) if r in files)))
        for role in lacking:
            missing[role] = missing.get(role, 0) + 1
    return used, {role: missing[role] for role in schema.ROLES if role in missing}


def _tasks(stage: Stage, subjects: Sequence[Subject]) -> int:
    return sum(stage.draws in s.draw for s in subjects) if stage.draws else len(subjects)


def _file_bytes(locations: set[str]) -> int:
    """Add up local files, and those of folders; what is not there is left to the stage that needs it."""
    paths = [p for p in map(local_path, locations) if p is not None]
    return sum(f.stat().st_size for p in paths for f in (p.rglob("*") if p.is_dir() else (p,)) if f.is_file())


def _layout(config: Config, template: Template, subjects: int, stages: int, columns: int) -> tuple[int, int]:
    """Return bytes of the arrays that grow with the cohort, and objects of the whole store and its ledger."""
    sizes = {
        schema.SUBJECT: subjects, schema.VOXEL: len(template.packing), schema.AXIS: 3, schema.LEVEL: len(template.levels),
        schema.REGION: len(template.atlas.regions), schema.STAGE: stages, schema.Z: len(template.z),
    }  # fmt: skip
    specs = layout.specs_of(config.science())
    names = [pair for space in config.stages.reduce.spaces for pair in layout.table_names(template, space)]
    fixed = {spec.path: values.shape for spec, values in (*layout.fixed_arrays(template), *names)} | {layout.STAGE_NAMES.path: (stages,)}
    groups = {schema.SUBJECTS, schema.STAGES, schema.TABLES, *(path.rpartition("/")[0] for path in (*specs, *fixed))}
    size, objects = 0, 1 + len(groups) + 2 * len(fixed) + columns * (1 + math.ceil(subjects / layout.COLUMN_BLOCK)) + subjects * stages
    for spec in specs.values():
        if spec.path not in fixed:
            shape = tuple(sizes[d] for d in spec.dims)
            objects += 1 + math.prod(math.ceil(n / c) for n, c in zip(shape, layout.chunks_of(spec, shape), strict=True))
            size += math.prod(shape) * (TEXT_BYTES if spec.dtype == "str" else np.dtype(spec.dtype).itemsize)
    return size, objects


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
