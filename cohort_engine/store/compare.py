"""Two stores side by side: which subjects, stages, settings and values differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import IncompleteError
from cohort_engine.store import layout
from cohort_engine.store.people import rows_of
from cohort_engine.store.records import list_ledger
from cohort_engine.store.state import differing
from cohort_engine.store.writer import read_rows

BLOCK_BYTES = 8 * 2**20
"""Data of one store held at once."""
_NAMES = 6
Person = tuple[str, str]


@dataclass(frozen=True)
class ArrayDifference:
    """How a variable differs over the subjects that both stores have.

    Attributes
    ----------
    path : str
    units : str
    differing : int
        Subjects with another value anywhere.
    largest : float
        Largest absolute difference.
    median : float
        Median over these subjects of each one's median absolute difference; NaN for text.
    holes : int
        Subjects of whom one store has values where the other has none.
    """

    path: str
    units: str
    differing: int
    largest: float
    median: float
    holes: int

    def __str__(self) -> str:
        size = "" if math.isnan(self.largest) else f", largest difference {self.largest:.4g} {self.units}, median {self.median:.4g}"
        holes = f", values on one side only in {self.holes}" if self.holes else ""
        return f"{self.path}: {self.differing} subjects{size}{holes}"


@dataclass(frozen=True)
class Comparison:
    """What differs between two stores; `str` prints it.

    Attributes
    ----------
    only_a, only_b : tuple of (participant, session)
        Subjects in the study of one store alone.
    subjects : int
        Subjects in both.
    settings : tuple of str
        ``"stages.mtr.low_signal of mtr: 0.05 in A, 0.1 in B"``.
    stages : tuple of str
        Stages that ended otherwise, with how many subjects.
    arrays : tuple of ArrayDifference
    notes : tuple of str
        What could not be compared, and why.
    """

    only_a: tuple[Person, ...]
    only_b: tuple[Person, ...]
    subjects: int
    settings: tuple[str, ...]
    stages: tuple[str, ...]
    arrays: tuple[ArrayDifference, ...]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.only_a or self.only_b or self.settings or self.stages or self.arrays or self.notes)

    def __str__(self) -> str:
        sections = {
            "only in A": [_names(self.only_a)] if self.only_a else [], "only in B": [_names(self.only_b)] if self.only_b else [],
            "settings": self.settings, "stages": self.stages, "values": [str(a) for a in self.arrays], "not compared": self.notes,
        }  # fmt: skip
        lines = [f"{self.subjects} subjects in both"]
        for title, listed in sections.items():
            lines += [title, *(f"  {line}" for line in listed)] if listed else []
        return "\n".join([*lines, "no difference"] if self.equal else lines)


def compare(a: str, b: str) -> Comparison:
    """Compare two stores, or freezes, subject by subject; subjects are matched by participant and session.

    Memory: a few times `BLOCK_BYTES`, whatever the size of the stores. Times and memory of stages are not compared.

    Raises
    ------
    IncompleteError
        Records of one are not gathered.
    StoreError, StorageError
        No store, or a damaged one.
    """
    roots = [_open(url) for url in (a, b)]
    people = [_people(root) for root in roots]
    both = [p for p in people[0] if p in people[1]]
    rows = [np.array([found[p] for p in both], dtype=np.int64) for found in people]
    order = np.argsort(rows[0])
    rows = [r[order] for r in rows]
    notes: list[str] = []
    arrays = tuple(_arrays(roots, rows, notes))
    return Comparison(
        tuple(p for p in people[0] if p not in people[1]), tuple(p for p in people[1] if p not in people[0]), len(both),
        tuple(_settings(roots)), tuple(_stages(roots, rows)), arrays, tuple(notes),
    )  # fmt: skip


def _open(url: str) -> zarr.Group:
    root = layout.open_root(url)
    waiting = [] if root.attrs.get(layout.COMPACTED) else list_ledger(url)[0]
    if waiting:
        raise IncompleteError(
            expected="gathered records", found=f"{len(waiting)} that are not", where="store", remedy='Run "cohort-engine finalise --allow-missing".'
        )
    return root


def _people(root: zarr.Group) -> dict[Person, int]:
    part = slice(0, layout.row_count(root))
    names, sessions = ([str(v) for v in read_rows(root, f"{schema.SUBJECTS}/{c}", part)] for c in (schema.PARTICIPANT, schema.SESSION))
    present = rows_of(root).present
    return {(n, s): i for i, (n, s) in enumerate(zip(names, sessions, strict=True)) if present[i]}


def _settings(roots: list[zarr.Group]) -> Iterator[str]:
    """Say which settings differ, by what the rows were made with."""
    used = [layout.record_of(root, layout.SCIENCE) for root in roots]
    sections = {n: s.get("section", "") for root in roots for n, s in layout.record_of(root, layout.ASKED)["stages"].items()}
    for stage in dict.fromkeys((*used[0], *used[1])):
        if stage not in used[0] or stage not in used[1]:
            yield f"{stage}: only in {'A' if stage in used[0] else 'B'}"
            continue
        if [u["recipe"] for u in used[0][stage]] == [u["recipe"] for u in used[1][stage]]:
            continue
        first = [u[stage][0] for u in used]
        recipes = [layout.record_of(root, layout.RECIPES).get(r["recipe"], r) for root, r in zip(roots, first, strict=True)]
        for name in differing(recipes[0], recipes[1], stage, sections.get(stage, "")) if first[0]["recipe"] != first[1]["recipe"] else ():
            values = [_value(r, name) for r in recipes]
            yield f"{name} of {stage}: {values[0]} in A, {values[1]} in B" if all(values) else f"{name}: another"
    for side, root in zip("AB", roots, strict=True):
        if mixed := root.attrs.get(layout.MIXED):
            yield f"{side} is mixed: {mixed}"
    names = (layout.TEMPLATE_NAME, layout.TEMPLATE_VERSION, layout.TEMPLATE_DIGEST)
    templates = [" ".join(str(root.attrs.get(k)) for k in names) for root in roots]
    if templates[0] != templates[1]:
        yield f"template: {templates[0]} in A, {templates[1]} in B"


def _value(recipe: dict[str, Any], name: str) -> str:
    if name.startswith("version of "):
        return str(recipe.get("version", ""))
    value: Any = recipe.get("params", {})
    for part in name.split(".")[2:]:
        value = value.get(part, "absent") if isinstance(value, dict) else ""
    return "" if isinstance(value, dict) else str(value)


def _stages(roots: list[zarr.Group], rows: list[NDArray[np.int64]]) -> Iterator[str]:
    names = [[str(n) for n in np.asarray(layout.array_at(root, layout.STAGE_NAMES.path)[...])] for root in roots]
    status = [read_rows(root, f"{schema.STAGES}/{schema.STATUS}", r) for root, r in zip(roots, rows, strict=True)]
    for stage in dict.fromkeys((*names[0], *names[1])):
        columns = [s[:, n.index(stage)] if stage in n else np.zeros(len(s), np.int8) for s, n in zip(status, names, strict=True)]
        pairs, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
        for (x, y), n in zip(pairs.T, counts, strict=True):
            if x != y:
                yield f"{stage}: {schema.STATUS_CODES[int(x)]} in A, {schema.STATUS_CODES[int(y)]} in B, {n} subjects"


def _arrays(roots: list[zarr.Group], rows: list[NDArray[np.int64]], notes: list[str]) -> Iterator[ArrayDifference]:
    apart = {layout.ROW.path, *(s.path for s in layout.NAMES), *(f"{schema.SUBJECTS}/{s.path}" for s in layout.NAMES), layout.LEFT.path}
    beside = schema.STAGES, schema.BY_REGION  # the one is compared by itself, the other holds the maps once more
    found = [{p: x for p, x in layout.subject_arrays(r).items() if p not in apart and p.partition("/")[0] not in beside} for r in roots]
    for path in dict.fromkeys((*found[0], *found[1])):
        if path not in found[0] or path not in found[1]:
            notes.append(f"{path}: only in {'A' if path in found[0] else 'B'}")
            continue
        pair = [f[path] for f in found]
        shapes = [[n for d, n in zip(layout.dims_of(a)[1:], a.shape[1:], strict=True) if d not in schema.GROWN] for a in pair]
        if shapes[0] != shapes[1] or pair[0].ndim != pair[1].ndim or layout.is_text(pair[0]) != layout.is_text(pair[1]):
            notes.append(f"{path}: {pair[0].dtype} {pair[0].shape[1:]} in A, {pair[1].dtype} {pair[1].shape[1:]} in B")
            continue
        difference = _difference(path, roots, rows, pair[0])
        if difference.differing:
            yield difference


def _difference(path: str, roots: list[zarr.Group], rows: list[NDArray[np.int64]], like: zarr.Array[Any]) -> ArrayDifference:
    step = max(1, min(4096, BLOCK_BYTES // max(1, math.prod(like.shape[1:]) * like.dtype.itemsize)))
    differing_rows, holes, largest, medians = 0, 0, math.nan, [np.empty(0)]
    for first in range(0, len(rows[0]), step):
        a, b = (read_rows(root, path, r[first : first + step]) for root, r in zip(roots, rows, strict=True))
        row = tuple(max(n) for n in zip(a.shape[1:], b.shape[1:], strict=True))
        a, b = (layout.filled_up(v, (len(v), *row), like.fill_value).reshape(len(v), -1) for v in (a, b))
        if layout.is_text(like):
            differing_rows += int((a != b).any(axis=1).sum())
            continue
        gap = (np.isnan(a) != np.isnan(b)).any(axis=1) if a.dtype.kind == "f" else np.zeros(len(a), bool)
        size = np.abs(a.astype(np.float64) - b.astype(np.float64))
        most = np.fmax.reduce(size, axis=1) if size.shape[1] else np.zeros(len(a))
        at = np.flatnonzero(gap | (most > 0))
        differing_rows, holes = differing_rows + len(at), holes + int(gap.sum())
        known = at[~np.isnan(most[at])]
        if known.size:
            largest = float(np.fmax(largest, most[known].max()))
            medians.append(np.nanmedian(size[known], axis=1))
    all_medians = np.concatenate(medians)
    median = float(np.median(all_medians)) if all_medians.size else math.nan
    return ArrayDifference(path, str(dict(like.attrs).get("units", "")), differing_rows, largest, median, holes)


def _names(people: tuple[Person, ...]) -> str:
    listed = ", ".join(" ".join(filter(None, p)) for p in people[:_NAMES])
    return f"{len(people)}: {listed}" + (" ..." if len(people) > _NAMES else "")
