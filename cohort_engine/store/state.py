"""What is done, what is stale and why: entries against what the study asks for now. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.store.records import Entry

FILES = "files of the study"
"""Cause where the caller says that inputs have changed."""
_LISTED = 3


@dataclass(frozen=True, eq=False)
class Rows:
    """Who the rows of a store are, as far as it counts.

    Attributes
    ----------
    left : (subject,) array of str
        Why a subject is no longer in the study; empty: it is.
    withdrawn : (subject,) array of bool
    """

    left: NDArray[Any]
    withdrawn: NDArray[np.bool_]

    @classmethod
    def of(cls, count: int) -> Rows:
        """Return `count` rows that are all in the study."""
        return cls(np.full(count, "", dtype=object), np.zeros(count, dtype=bool))

    def __len__(self) -> int:
        return len(self.withdrawn)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Rows (subject,) that count: neither left nor withdrawn."""
        stays: NDArray[np.bool_] = ~self.withdrawn & np.asarray(self.left == "", dtype=bool)
        return stays


@dataclass(frozen=True, eq=False)
class States:
    """How each stage of each subject stands.

    Attributes
    ----------
    stages : tuple of str
        Those the study asks for, upstream first.
    codes : (subject, stage) int8
        Index into `schema.STATES`.
    rows : Rows
    causes : mapping of (row, stage) to tuple of str
        Why a stage is stale: ``"stages.mtr.low_signal"``, ``"version of mtr"``, ``"template"``, `FILES`.
    """

    stages: tuple[str, ...]
    codes: NDArray[np.int8]
    rows: Rows
    causes: Mapping[tuple[int, str], tuple[str, ...]]

    def of(self, row: int, stage: str) -> str:
        """State of a stage of a subject: a value of `schema.STATES`."""
        return schema.STATES[int(self.codes[row, self.stages.index(stage)])]

    def counts(self) -> dict[str, dict[str, int]]:
        """Subjects in the study by stage and state; states that nobody has are left out."""
        codes = self.codes[self.rows.present]
        out: dict[str, dict[str, int]] = {}
        for at, stage in enumerate(self.stages):
            n = np.bincount(codes[:, at], minlength=len(schema.STATES))
            out[stage] = {state: int(n[i]) for i, state in enumerate(schema.STATES) if n[i]}
        return out

    def rows_in(self, stage: str, *states: str) -> list[int]:
        """Rows of subjects in the study whose stage is in one of the states."""
        codes = [schema.STATES.index(s) for s in states]
        return [int(r) for r in np.flatnonzero(self.rows.present & np.isin(self.codes[:, self.stages.index(stage)], codes))]

    @property
    def open(self) -> bool:
        """Whether anything is left to be done for a subject in the study."""
        codes = [i for i, s in enumerate(schema.STATES) if s in schema.OPEN]
        return bool(np.isin(self.codes[self.rows.present], codes).any())

    def reasons(self) -> list[str]:
        """Say why stages are stale, in words: ``"stages.mtr.low_signal changed: mtr, mtr_native of 45 subjects"``."""
        present = self.rows.present
        found: dict[str, tuple[set[str], set[int]]] = {}
        for (row, stage), causes in self.causes.items():
            if present[row]:
                for cause in causes:
                    stages, rows = found.setdefault(cause, (set(), set()))
                    stages.add(stage)
                    rows.add(row)
        return [
            f"{cause} changed: {', '.join(s for s in self.stages if s in stages)} of {len(rows)} subject{'s' if len(rows) > 1 else ''}"
            for cause, (stages, rows) in found.items()
        ]


def judge(
    entries: Iterable[Entry], asked: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]], rows: Rows,
    changed: Collection[tuple[int, str]] = (),
) -> States:  # fmt: skip
    """Hold what was recorded against what the study asks for now.

    A stage of a subject is *stale* where it was made (or failed) with another recipe than the one that is asked for; where a stage whose result it
    took is stale, or was made again since, or is no longer done; where a file it took was made by such a stage; and where `changed` says so.
    One that was not needed, or lacked an input, took nothing and cannot be stale.

    Parameters
    ----------
    entries : iterable of Entry
        Those of stages that are not asked for are passed over.
    asked : mapping
        As of `store.writer.init_store`.
    recipes : mapping of hash to recipe
        All that are known, for the reasons.
    rows : Rows
    changed : collection of (row, stage)
        Stages whose input files are not those that were read.

    Examples
    --------
    >>> recipes = {"a": {"version": "1", "params": {"low_signal": 0.1}}, "b": {"version": "1", "params": {"low_signal": 0.2}}}
    >>> asked = {"stages": {"mtr": {"recipe": "b", "needs": [], "makes": "", "section": "mtr", "writes": []}}}
    >>> states = judge([Entry(0, "mtr", schema.DONE, "k", "a")], asked, recipes, Rows.of(2))
    >>> states.of(0, "mtr"), states.of(1, "mtr"), states.reasons()
    ('stale', 'to_do', ['stages.mtr.low_signal changed: mtr of 1 subject'])
    """
    stages: Mapping[str, Any] = asked["stages"]
    names = tuple(stages)
    by_stage: dict[str, dict[int, Entry]] = {n: {} for n in names}
    for e in entries:
        if e.stage in by_stage and e.subject < len(rows):
            by_stage[e.stage][e.subject] = e
    codes = np.zeros((len(rows), len(names)), np.int8)
    causes: dict[tuple[int, str], tuple[str, ...]] = {}
    differences: dict[tuple[str, str], tuple[str, ...]] = {}
    to_code = {s: schema.STATES.index(s) for s in schema.STATES} | {schema.NOT_RUN: schema.STATES.index(schema.TO_DO)}
    changed = frozenset(changed)
    for at, name in enumerate(names):
        wanted, section = stages[name]["recipe"], stages[name].get("section", "")
        for row, e in by_stage[name].items():
            codes[row, at] = to_code[e.status]
            if e.status not in (schema.DONE, schema.FAILED):
                continue
            why: tuple[str, ...] = ()
            if e.recipe != wanted:
                pair = name, e.recipe
                if pair not in differences:
                    differences[pair] = differing(recipes.get(e.recipe), recipes.get(wanted), name, section)
                why = differences[pair]
            if changed and (row, name) in changed:
                why = (*why, FILES)
            for upstream, key in e.upstream.items():
                if upstream in by_stage:
                    why += _from_upstream(upstream, by_stage[upstream].get(row), key, causes.get((row, upstream)))
            for maker in e.made.values():
                if maker in by_stage and maker not in e.upstream:
                    why += _from_upstream(maker, by_stage[maker].get(row), None, causes.get((row, maker)))
            if why:
                causes[row, name] = tuple(dict.fromkeys(why))
                codes[row, at] = to_code[schema.STALE]
    return States(names, codes, rows, causes)


def _from_upstream(stage: str, entry: Entry | None, key: str | None, causes: tuple[str, ...] | None) -> tuple[str, ...]:
    """Why a stage is stale because of one upstream: its causes, or that it is another now."""
    if causes is not None:
        return causes
    if entry is not None and entry.status == schema.DONE:
        same = key is None or entry.key == key
    else:  # a stage that makes a file and was not needed gave nothing, and took nothing from anybody
        same = entry is not None and entry.status == schema.NOT_NEEDED and key == entry.key
    return () if same else (f"result of {stage}",)


def differing(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, stage: str, section: str) -> tuple[str, ...]:
    """Name what differs between two recipes of a stage, as it is called in the study file.

    Examples
    --------
    >>> old = {"version": "1", "params": {"seed": 1, "grey": {"use": False}}, "template": "t"}
    >>> differing(old, {"version": "2", "params": {"seed": 1, "grey": {"use": True}}, "template": "t"}, "fit_mt", "fit")
    ('version of fit_mt', 'stages.fit.grey.use')
    >>> differing({"params": {"fit.seed": 1}}, {"params": {"fit.seed": 2}}, "mtr", "mtr")
    ('stages.fit.seed',)
    >>> differing(None, old, "fit_mt", "fit")
    ('settings of fit_mt',)
    """
    if old is None or new is None:
        return (f"settings of {stage}",)
    out = [f"version of {stage}"] if old.get("version") != new.get("version") else []
    out += ["template"] if old.get("template") != new.get("template") else []
    a, b = (dict(_flat(r.get("params", {}))) for r in (old, new))
    elsewhere = {k for r in (old, new) for k in r.get("params", {}) if "." in k}  # a setting of another section, by its own place
    prefix = f"stages.{section}." if section else f"{stage}: "
    changed = (name for name in dict.fromkeys((*a, *b)) if a.get(name, _flat) != b.get(name, _flat))
    out += [f"stages.{name}" if name in elsewhere else f"{prefix}{name}" for name in changed]
    return tuple(out) or (f"settings of {stage}",)


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


# --- what the rows were made with -------------------------------------------------------------------------------------
def science_of(entries: Iterable[Entry], recipes: Mapping[str, Mapping[str, Any]], rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Say what the rows of the study were made with: ``{stage: [{"recipe", "version", "params", "rows"}, ...]}``, most rows first."""
    present = rows.present
    counts: dict[str, Counter[str]] = {}
    for e in entries:
        if e.status == schema.DONE and e.subject < len(rows) and present[e.subject]:
            counts.setdefault(e.stage, Counter())[e.recipe] += 1
    return {
        stage: [
            {"recipe": h, "version": recipes.get(h, {}).get("version", ""), "params": recipes.get(h, {}).get("params", {}), "rows": n}
            for h, n in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        ]
        for stage, found in counts.items()
    }


def mixture(entries: Sequence[Entry], asked: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]], rows: Rows) -> str:
    """Say in a sentence where rows of the study were not made alike; empty where all were.

    Rows of one stage with two recipes; and rows that took a result which was made again since.
    """
    parts = []
    for stage, used in science_of(entries, recipes, rows).items():
        if len(used) > 1:
            section = asked["stages"].get(stage, {}).get("section", "")
            first = recipes.get(used[0]["recipe"])
            names = dict.fromkeys(n for other in used[1:] for n in differing(recipes.get(other["recipe"]), first, stage, section))
            counts = " and ".join(str(u["rows"]) for u in used)
            parts.append(f"{stage} has {counts} subjects made with different {_some(list(names))}")
    present = rows.present
    keys = {(e.subject, e.stage): e.key for e in entries if e.status == schema.DONE}
    old: Counter[tuple[str, str]] = Counter()
    for e in entries:
        if e.status == schema.DONE and e.subject < len(rows) and present[e.subject]:
            old.update((e.stage, up) for up, key in e.upstream.items() if keys.get((e.subject, up), key) != key)
    parts += [f"{stage} of {n} subject{'s' if n > 1 else ''} was made from an earlier {up}" for (stage, up), n in old.items()]
    return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (" ..." if len(names) > _LISTED else "")
