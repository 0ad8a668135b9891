"""The cohort as its quality page shows it: who is flagged and why, how far stages are, and numbers by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.engine.status import subject_names
from cohort_engine.figures.drawing import scale
from cohort_engine.quality import vocabulary
from cohort_engine.quality.judge import NAMED
from cohort_engine.quality.limits import NUMBERS, Number, outliers
from cohort_engine.query.reader import CohortReader
from cohort_engine.report.page import without_paths
from cohort_engine.store import layout
from cohort_engine.store.maintenance import states_of
from cohort_engine.store.records import Entry
from cohort_engine.store.state import States

NO_SITE = "no site"
LONGEST = 300
"""Characters of a word of the subject table, or of a message, that a page shows."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Flag:
    """What stands against a subject.

    Attributes
    ----------
    kind : str
        A kind of failure of `vocabulary.FAULTS`, a quality number of `limits.NUMBERS`, or a stage.
    words : str
        A sentence.
    """

    kind: str
    words: str


@dataclass(frozen=True)
class Shown:
    """A quality number of everybody.

    Attributes
    ----------
    key : str
        As in ``qc/<key>``.
    number : Number
    units : str
        As a person writes them; empty where there are none.
    meaning : str
    values : (subject,) array
    """

    key: str
    number: Number
    units: str
    meaning: str
    values: FloatArray


@dataclass(frozen=True, eq=False)
class Group:
    """Everybody of a store.

    Attributes
    ----------
    rows : (subject,) array
        Rows of the store, of people who are in the study.
    names : list of str
        Participant, and session where there is one.
    people, sessions, sites, groups : list of str
        As the subject table has them.
    flags : list of tuple of Flag
        By subject.
    stages : States
        Of every row of the store.
    numbers : dict of key to Shown
    closed : str
        When the store was closed; empty: it is open.
    entries : list of Entry
        How stages ended.
    doubtful : sequence of str
        What is said of the doubtful slices of each.
    metrics : sequence of str
        What may be rated by itself.
    template : str
        Name of the template.
    """

    rows: NDArray[np.intp]
    names: list[str]
    people: list[str]
    sessions: list[str]
    sites: list[str]
    groups: list[str]
    flags: list[tuple[Flag, ...]]
    stages: States
    numbers: dict[str, Shown]
    entries: list[Entry] = field(default_factory=list, repr=False)
    doubtful: Sequence[str] = ()
    closed: str = ""
    mixed: str = ""
    metrics: Sequence[str] = ()
    template: str = ""
    _outlying: dict[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    _entries: dict[int, list[Entry]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def all_sites(self) -> list[str]:
        """Sites, in the order of the alphabet."""
        return sorted(set(self.sites))

    def of_site(self, site: str) -> NDArray[np.intp]:
        """Positions of the people of a site."""
        return np.flatnonzero(np.array([s == site for s in self.sites], bool))

    def outlying(self, key: str) -> NDArray[np.bool_]:
        """Who (subject,) is an outlier of the own site in a number."""
        if key not in self._outlying:
            out = np.zeros(len(self), bool)
            for site in self.all_sites:
                at = self.of_site(site)
                out[at] = outliers(self.numbers[key].values[at])
            self._outlying[key] = out
        return self._outlying[key]

    def entries_of(self, row: int) -> list[Entry]:
        """How the stages of a row ended."""
        if not self._entries:
            for entry in self.entries:
                self._entries.setdefault(entry.subject, []).append(entry)
        return self._entries.get(row, [])

    def counts(self) -> list[tuple[str, dict[str, dict[str, int]]]]:
        """For each stage: of each site how many subjects are in each state."""
        out = []
        codes = self.stages.codes[self.rows] if len(self.rows) else self.stages.codes[:0]
        for column, stage in enumerate(self.stages.stages):
            of_site = {}
            for site in self.all_sites:
                found = np.bincount(codes[self.of_site(site), column], minlength=len(schema.STATES))
                of_site[site] = {state: int(n) for state, n in zip(schema.STATES, found, strict=True) if n}
            out.append((stage, of_site))
        return out


def look(url: str) -> Group:
    """Read a store for its quality page.

    Raises
    ------
    StoreError, StorageError
        No store, or a damaged one.
    """
    reader = CohortReader(url)
    rows = reader.rows
    entries = reader.entries
    states = states_of(url, entries)
    names = subject_names(url)

    def column(name: str) -> list[str]:
        if name not in reader.names(schema.SUBJECTS):
            return [""] * len(rows)
        return [_word(v) for v in reader.whole_column(name)[rows]]

    numbers = _numbers(reader)
    said = _texts(reader, vocabulary.REASONS)
    bad = {(e.subject, e.stage): e for e in entries if e.status in (schema.FAILED, schema.MISSING)}
    flags: list[tuple[Flag, ...]] = []
    by_row: dict[int, list[Flag]] = {}
    for (row, stage), entry in sorted(bad.items()):
        if stage in states.stages and states.of(row, stage) in (schema.FAILED, schema.MISSING):
            by_row.setdefault(row, []).append(
                Flag(stage, f"stage {stage} did not finish: {cut(without_paths(f'{entry.message} {entry.remedy}'.strip()))}")
            )
    for i, row in enumerate(rows):
        flags.append((*by_row.get(int(row), ()), *_against({k: float(s.values[i]) for k, s in numbers.items()}, said[i])))
    return Group(
        rows, [cut(names[int(r)]) for r in rows], column(schema.PARTICIPANT), column(schema.SESSION), [s or NO_SITE for s in column(schema.SITE)],
        column(schema.GROUP), flags, states, numbers, entries, _texts(reader, vocabulary.DOUBTFUL),
        str(reader.attributes.get(layout.FINALISED, "")), str(reader.attributes.get(layout.MIXED, "")),
        [*reader.metrics, *([schema.SHAPE] if reader.names(schema.PROFILES) else [])], str(reader.attributes.get(layout.TEMPLATE_NAME, "")),
    )  # fmt: skip


def _against(values: Mapping[str, float], reasons: str) -> tuple[Flag, ...]:
    """Say what numbers have against a subject: the likely failures where it may not be usable, and limits that are always kept."""
    out: list[Flag] = []
    if values.get(vocabulary.USABLE, 1.0) < vocabulary.LEAST_USABLE:
        p = {kind: values.get(vocabulary.fault(kind), 0.0) for kind in vocabulary.FAULTS}
        likely = sorted((k for k in p if p[k] >= NAMED), key=lambda k: -p[k]) or [max(p, key=lambda k: p[k])]
        parts = reasons.split(". ")
        for kind in likely:
            words = next((p for p in parts if p.startswith(vocabulary.FAULTS[kind])), vocabulary.FAULTS[kind])
            out.append(Flag(kind, cut(in_words(words))))
    for key, number in NUMBERS.items():
        if number.says and key in values and number.beyond(values[key]):
            out.append(Flag(key, f"{number.says} ({number.name}: {values[key]:.2g}, {number.limit})"))
    return tuple(out)


def in_words(text: str) -> str:
    """Write the names of quality numbers as a person reads them.

    Examples
    --------
    >>> in_words("the subject moved (pair_shift 3.1; pair_loose 1.2, slices 3-5)")
    'the subject moved (largest shift between MT-on and MT-off 3.1; shift of single slices between MT-on and MT-off 1.2, slices 3-5)'
    """
    for key in sorted(NUMBERS, key=len, reverse=True):
        name = NUMBERS[key].name
        text = text.replace(f"{key} ", f"{name if name[:2].isupper() else name[:1].lower() + name[1:]} ")
    return text


def _numbers(reader: CohortReader) -> dict[str, Shown]:
    """Quality numbers of the store, those with a name first."""
    specs = layout.stored_specs(reader.root)
    one_each = {p for p, s in specs.items() if s.dtype != "str" and s.dims == (schema.SUBJECT,)}
    there = [n for n in reader.names(schema.QC) if f"{schema.QC}/{n}" in one_each]
    order = [*(k for k in NUMBERS if k in there), *(k for k in there if k not in NUMBERS)]
    out = {}
    for key in order:
        spec = specs[f"{schema.QC}/{key}"]
        values = np.asarray(reader.read(spec.path), float)
        out[key] = Shown(key, NUMBERS.get(key, Number(_plain(key))), scale(spec.units), spec.long_name, values)
    return out


def _plain(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]


def _texts(reader: CohortReader, key: str) -> Sequence[str]:
    if key not in reader.names(schema.QC):
        return [""] * reader.subjects
    return [str(v) for v in reader.read(f"{schema.QC}/{key}")]


def _word(value: object) -> str:
    return "" if value != value else cut(f"{value:g}" if isinstance(value, float) else str(value))


def cut(text: str) -> str:
    r"""Shorten what is very long; control characters and those that turn the direction of what follows become spaces.

    Examples
    --------
    >>> cut("a\u202eb"), len(cut("x" * 10_000))
    ('a b', 300)
    """
    plain = "".join(" " if (c in TURNING or (ord(c) < 32 or 127 <= ord(c) < 160)) else c for c in text[: 2 * LONGEST])
    return plain if len(plain) <= LONGEST and len(text) <= 2 * LONGEST else f"{plain[: LONGEST - 1]}…"


TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters without width that turn the direction of the text."""
