"""What a build would do, subject by subject: what is done holds as long as settings, files and results before it are those it was made with.

`store.state.judge` compares recipes and keys. Here the files of the study are added: which of them a stage would take now, and whether they are the
ones it took. Nothing is run, and only files are read whose size or stamp has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import DataConfig
from cohort_engine.engine.inputs import Looked, Record
from cohort_engine.engine.runner import StageResult, Subject, failure
from cohort_engine.errors import CohortError, StoreError
from cohort_engine.io.bids import Study, kind_column
from cohort_engine.io.names import names_nobody
from cohort_engine.stages.base import Stage
from cohort_engine.stages.choose import to_make
from cohort_engine.stages.declare import STAGES, Declaration
from cohort_engine.store import layout
from cohort_engine.store.people import rows_of
from cohort_engine.store.records import Entry, list_made, read_entries
from cohort_engine.store.state import Rows, States, judge
from cohort_engine.store.writer import IDENTITY, read_rows

EXCLUDED, NOT_INCLUDED, GONE = "excluded in the study file", "not among those included", "no longer in the study"
"""Why a subject of the store is not in the study."""
Identity = tuple[str, str]
Place = tuple[int, str]


# --- who ----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class People:
    """Subjects of a study and their rows in the store.

    Attributes
    ----------
    rows : tuple of int
        Row of each subject of the study, in its order; those of new subjects follow the last.
    total : int
        Rows there will be.
    left : mapping of identity to str
        Why subjects of the store are not in the study.
    renamed : mapping of identity to identity
        Subjects who were called otherwise.
    new : tuple of int
        Positions in the study of those without a row.
    left_rows : mapping of row to identity
    withdrawn : tuple of int
    names : tuple of identity
        Of the subjects of the study.
    distinct : frozenset of identity
        New subjects who are nobody else, whatever their files are.
    """

    rows: tuple[int, ...]
    total: int
    left: Mapping[Identity, str] = field(default_factory=dict)
    renamed: Mapping[Identity, Identity] = field(default_factory=dict)
    new: tuple[int, ...] = ()
    left_rows: Mapping[int, Identity] = field(default_factory=dict)
    withdrawn: tuple[int, ...] = ()
    names: tuple[Identity, ...] = ()
    distinct: frozenset[Identity] = frozenset()

    @classmethod
    def of(cls, study: Study, data: DataConfig, root: zarr.Group | None) -> People:
        """Join the study with a store, which may not be there yet."""
        known = {} if root is None else {name: row for row, name in enumerate(identities(root))}
        total = len(known) if root is None else layout.row_count(root)
        withdrawn = () if root is None else tuple(int(r) for r in np.flatnonzero(rows_of(root).withdrawn))
        known.pop(("", ""), None)
        was = {_name(new): _name(old) for new, old in data.renamed.items()}
        rows: list[int] = []
        renamed: dict[Identity, Identity] = {}
        new: list[int] = []
        names = tuple(identities_of(study))
        for at, (name, session) in enumerate(names):
            row = known.get((name, session))
            if row is None:
                before = next((b for b in _earlier(was, name, session) if b in known), None)
                if before is not None:
                    row, renamed[name, session] = known[before], before
            if row is None:
                row, total = total, total + 1
                new.append(at)
            rows.append(row)
        here = set(rows)
        left_rows = {row: who for who, row in known.items() if row not in here}
        left = {who: why_left(who[0], data) for who in left_rows.values()}
        return cls(tuple(rows), total, left, renamed, tuple(new), left_rows, withdrawn, names, frozenset(map(_name, data.distinct)))

    def counted(self) -> Rows:
        """Return who counts, as `judge` takes it."""
        left = np.full(self.total, "", dtype=object)
        for row, who in self.left_rows.items():
            left[row] = self.left[who]
        withdrawn = np.zeros(self.total, bool)
        withdrawn[list(self.withdrawn)] = True
        return Rows(left, withdrawn)


def identities(root: zarr.Group) -> list[Identity]:
    """Participant and session of each row; empty where they withdrew."""
    part = slice(0, layout.row_count(root))
    names, sessions = (read_rows(root, f"{schema.SUBJECTS}/{c}", part) for c in IDENTITY)
    return [(str(n), str(s)) for n, s in zip(names, sessions, strict=True)]


def identities_of(study: Study) -> list[Identity]:
    """Participant and session of each subject of a study."""
    return [(str(n), str(s)) for n, s in study.subjects[list(IDENTITY)].to_numpy()]


def why_left(participant: str, data: DataConfig) -> str:
    """Say why a participant of the store is not in the study.

    Examples
    --------
    >>> data = DataConfig(bids="b", store="s", exclude=("01",))
    >>> why_left("sub-01", data), why_left("sub-02", data)
    ('excluded in the study file', 'no longer in the study')
    """
    if participant in map(_participant, data.exclude):
        return EXCLUDED
    return NOT_INCLUDED if data.include and participant not in map(_participant, data.include) else GONE


def _participant(name: str) -> str:
    return f"sub-{name.strip().removeprefix('sub-')}"


def _name(name: str) -> Identity:
    """Participant and session of a name in the study file: ``sub-01``, ``sub-01_ses-2``."""
    participant, _, session = name.partition("_ses-")
    return _participant(participant), session and f"ses-{session}"


def _earlier(was: Mapping[Identity, Identity], name: str, session: str) -> list[Identity]:
    """Names that a subject may have had."""
    exact = was.get((name, session))
    person = was.get((name, ""))
    return [*([exact] if exact else []), *([(person[0], session)] if person and not person[1] else [])]


def join_subjects(study: Study, rows: Iterable[int], stages: Sequence[Stage]) -> list[Subject]:
    """Join rows of the store with files of the study, in the study's order, and what is to be made."""

    def present(columns: Mapping[str, str]) -> list[dict[str, str]]:
        table = study.files[list(columns.values())].to_numpy()
        return [{role: str(v) for role, v in zip(columns, line, strict=True) if v is not None} for line in table]

    files = present({role: role for role in study.roles})
    kinds = present({role: kind_column(role) for role in study.roles if kind_column(role) in study.files})
    problems: list[dict[str, CohortError]] = [{} for _ in files]
    for (row, role), error in study.problems.items():
        problems[row][role] = error
    notes: list[dict[str, tuple[str, ...]]] = [{} for _ in files]
    at = {who: i for i, who in enumerate(identities_of(study))}
    for name, session, role, text in study.notes.itertuples(index=False, name=None):
        if role and (name, session) in at and names_nobody(text):
            own = notes[at[name, session]]
            own[role] = (*own.get(role, ()), text)
    return [Subject(*parts[:-1], to_make(parts[1], stages), parts[-1]) for parts in zip(rows, files, kinds, problems, notes, strict=True)]


# --- what ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Outlook:
    """How a study stands, and what a build would do.

    Attributes
    ----------
    subjects : tuple of Subject
        Of the study, in its order.
    states : States
        Of all rows, those of new subjects too.
    entries : mapping of (row, stage) to Entry
        What was recorded.
    runs : mapping of (row, stage) to str
        Stages that would run, and why: to do, stale, or failed and to be tried again.
    unsettled : frozenset of int
        Rows of which something would run or be recorded.
    blocked : frozenset of (row, stage)
        Behind a stage that failed or lacks its input.
    problems : tuple of CohortError
        What is to be answered first.
    """

    subjects: tuple[Subject, ...]
    states: States
    entries: Mapping[Place, Entry]
    runs: Mapping[Place, str]
    unsettled: frozenset[int]
    blocked: frozenset[Place]
    problems: tuple[CohortError, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Count by stage what would run: to do, stale, failed (again)."""
        out = {name: dict.fromkeys((schema.TO_DO, schema.STALE, schema.FAILED), 0) for name in self.states.stages}
        for (_, stage), why in self.runs.items():
            out[stage][why] += 1
        return out

    def settled(self, stages: Sequence[Stage], row: int) -> list[StageResult]:
        """Results of a subject of which nothing would run: those that were recorded."""
        found = []
        for stage in stages:
            entry = self.entries.get((row, stage.name))
            if entry is None or entry.status == schema.NOT_RUN or (row, stage.name) in self.blocked:
                found.append(StageResult(row, stage.name, None, makes=stage.makes))
            else:
                found.append(StageResult(row, stage.name, entry, True, stage.makes))
        return found


def survey(
    url: str, root: zarr.Group | None, people: People, subjects: Sequence[Subject], stages: Sequence[Stage], declared: Declaration, *,
    again: bool = False, looked: Looked | None = None,
) -> Outlook:  # fmt: skip
    """Hold a store against a study.

    Parameters
    ----------
    url : str
    root : zarr.Group, optional
        The store, where there is one.
    people : People
    subjects : sequence of Subject
    stages : sequence of Stage
        Upstream first.
    declared : Declaration
        What the study asks for now.
    again : bool
        Failures are tried again whatever the reason.
    looked : Looked, optional
        Files that were looked at already.
    """
    looked = looked or Looked()
    entries = {} if root is None else {(e.subject, e.stage): e for e in read_entries(url)}
    recipes = {**({} if root is None else layout.record_of(root, layout.RECIPES)), **declared.recipes}
    looked.look(_recorded_files(subjects, entries, stages))
    makers = {s.name for s in stages if s.makes}
    there = list_made(url) if any(name in makers and e.status == schema.DONE for (_, name), e in entries.items()) else set()
    views: dict[Place, _View] = {}
    changed: set[Place] = set()
    for subject in subjects:
        for view in _foresee(subject, stages, entries, declared, looked, there):
            views[subject.row, view.stage.name] = view
            if view.differs(entries.get((subject.row, view.stage.name)), looked):
                changed.add((subject.row, view.stage.name))
    states = judge(entries.values(), declared.asked, recipes, people.counted(), changed)
    names = list(states.stages)
    codes = states.codes.copy()
    for (row, stage), view in views.items():
        if (state := view.state(entries.get((row, stage)))) is not None:
            codes[row, names.index(stage)] = schema.STATES.index(state)
    runs, unsettled, blocked = _runs(subjects, stages, codes, views, entries, again)
    for row, stage in blocked:
        if (entry := entries.get((row, stage))) is None or entry.status == schema.NOT_RUN:
            codes[row, names.index(stage)] = schema.STATES.index(schema.TO_DO)
    states = replace(states, codes=codes)
    problems = () if root is None else tuple(_namesakes(people, subjects, entries, looked))
    return Outlook(tuple(subjects), states, entries, runs, unsettled, blocked, problems)


def _recorded_files(subjects: Sequence[Subject], entries: Mapping[Place, Entry], stages: Sequence[Stage]) -> set[str]:
    """Files of the study that entries tell of."""
    out: set[str] = set()
    for subject in subjects:
        for stage in stages:
            if (entry := entries.get((subject.row, stage.name))) is not None:
                out.update(subject.files[role] for role in entry.inputs if role in subject.files and role not in entry.made)
    return out


@dataclass(frozen=True)
class _View:
    """What a stage of a subject would find.

    Attributes
    ----------
    stage : Stage
    recipe : str
    needed : bool, optional
        Of a stage that makes a file: whether it is to; None where only a look into a file tells.
    files : mapping of role to location
        That it would take; "" of those that stages make.
    kinds : mapping of role to kind
    made : mapping of role to stage
    lacking : tuple of str
    wanting : tuple of str
    problem : CohortError, optional
        Why a file is lacking.
    gone : bool
        A file that it made is no longer there.
    """

    stage: Stage
    recipe: str
    needed: bool | None
    files: Mapping[str, str]
    kinds: Mapping[str, str]
    made: Mapping[str, str]
    lacking: tuple[str, ...] = ()
    wanting: tuple[str, ...] = ()
    problem: CohortError | None = None
    gone: bool = False

    def same_files(self, entry: Entry, looked: Looked, roles: Collection[str]) -> bool:
        """Tell whether an entry tells of these roles, and their files are still the same."""
        if set(entry.inputs) != set(roles):
            return False
        given = [role for role in roles if role not in self.made]
        if dict(entry.made) != {role: self.made[role] for role in roles if role in self.made}:
            return False
        return all(
            looked.same(self.files[role], entry.inputs[role]) and (*entry.inputs[role], "", "", "", "")[3] == self.kinds.get(role, "")
            for role in given
        )

    def stands_as_problem(self, entry: Entry) -> bool:
        """Tell whether an entry says what would be said again: a file could not be chosen."""
        return self.problem is not None and entry.status == schema.FAILED and entry.message == failure(self.problem)["message"]

    def differs(self, entry: Entry | None, looked: Looked) -> bool:
        """Tell whether what was done or failed took other files than would be taken now."""
        if entry is None or entry.status not in (schema.DONE, schema.FAILED):
            return False
        if self.gone and entry.status == schema.DONE:
            return True
        if self.needed is not True:
            return True
        if self.lacking:
            return not self.stands_as_problem(entry)
        return bool(entry.key) and not self.same_files(entry, looked, self.stage.wanting(self.files))

    def state(self, entry: Entry | None) -> str | None:
        """State of a stage that was neither done nor failed, as the files are now; None where it is as was judged."""
        if entry is not None and entry.status in (schema.DONE, schema.FAILED):
            return None
        if self.needed is None:
            return schema.TO_DO
        if not self.needed:
            return schema.NOT_NEEDED
        return schema.MISSING if self.lacking and self.problem is None else schema.TO_DO

    def unrecorded(self, entry: Entry | None, state: str) -> bool:
        """Tell whether the ledger does not say yet how the stage stands."""
        expected = {schema.MISSING: schema.MISSING, schema.NOT_NEEDED: schema.NOT_NEEDED}.get(state)
        return expected is not None and (entry is None or entry.status != expected)


def _foresee(
    subject: Subject, stages: Sequence[Stage], entries: Mapping[Place, Entry], declared: Declaration, looked: Looked, there: set[tuple[int, str]]
) -> list[_View]:  # fmt: skip
    """Go through the stages of a subject as a build would, without running any."""
    out: list[_View] = []
    makers: dict[str, _View] = {}
    for stage in stages:
        entry = entries.get((subject.row, stage.name))
        recipe = declared.asked[STAGES][stage.name]["recipe"]
        ahead = {m.stage.makes: m for m in makers.values() if m.stage.name in stage.needs}
        on = {role for role, m in ahead.items() if m.needed or (m.needed is None and entry is not None and role in entry.made)}
        seen = subject.with_made(stage, dict.fromkeys(on, ""))
        made = {role: ahead[role].stage.name for role in on if seen.files.get(role) == ""}
        lacking, wanting = tuple(stage.lacking(seen.files)), stage.wanting(seen.files)
        files = {r: seen.files[r] for r in wanting if r in seen.files}
        problem = next((subject.problems[r] for r in lacking if r in subject.problems), None)
        view = _View(stage, recipe, True, seen.files, seen.kinds, {r: s for r, s in made.items() if r in files}, lacking, wanting, problem)
        if stage.makes:
            gone = entry is not None and entry.status == schema.DONE and (subject.row, stage.makes) not in there
            view = replace(view, needed=_is_needed(view, subject, entry, looked), gone=gone)
            makers[stage.name] = view
        out.append(view)
    return out


def _is_needed(view: _View, subject: Subject, entry: Entry | None, looked: Looked) -> bool | None:
    """Tell whether a stage is to make its file, as far as that can be known without looking into one."""
    stage = view.stage
    if stage.makes in subject.make:
        return True
    if stage.completes is None or stage.makes not in view.files or view.lacking:
        return False
    if entry is None or entry.recipe != view.recipe:
        return None
    if entry.status == schema.NOT_NEEDED:
        return False if entry.inputs and view.same_files(entry, looked, tuple(entry.inputs)) else None
    if entry.status in (schema.DONE, schema.FAILED) and entry.key and view.same_files(entry, looked, view.wanting):
        return True
    return None


def _runs(
    subjects: Sequence[Subject], stages: Sequence[Stage], codes: NDArray[np.int8], views: Mapping[Place, _View], entries: Mapping[Place, Entry],
    again: bool,
) -> tuple[dict[Place, str], frozenset[int], frozenset[Place]]:  # fmt: skip
    """Tell what would run, whose rows are not settled, and what is blocked."""
    runs: dict[Place, str] = {}
    unsettled: set[int] = set()
    blocked: set[Place] = set()
    makers = {s.name: s.makes for s in stages if s.makes}
    for subject in subjects:
        row, ready = subject.row, set[str]()
        for at, stage in enumerate(stages):
            place = row, stage.name
            view, entry, state = views[place], entries.get(place), schema.STATES[int(codes[row, at])]
            if view.needed is not False and any(n not in ready and (n not in makers or makers[n] in view.wanting) for n in stage.needs):
                blocked.add(place)
                if entry is not None and entry.status != schema.NOT_RUN:
                    unsettled.add(row)
                continue
            if state in (schema.TO_DO, schema.STALE):
                runs[place] = state
            elif state == schema.FAILED and entry is not None:
                passing = entry.retryable or (not entry.key and not view.stands_as_problem(entry))
                if again or passing:
                    runs[place] = state
            if place in runs or view.unrecorded(entry, state):
                unsettled.add(row)
            if place in runs or state in (schema.DONE, schema.NOT_NEEDED):
                ready.add(stage.name)
    return runs, frozenset(unsettled), frozenset(blocked)


# --- namesakes ----------------------------------------------------------------------------------------------------------
def _namesakes(people: People, subjects: Sequence[Subject], entries: Mapping[Place, Entry], looked: Looked) -> list[StoreError]:
    """Ask about new subjects whose images are those of somebody who is no longer in the study: sizes are compared first, then content."""
    files: dict[int, dict[str, Record]] = {row: {} for row in people.left_rows}
    for (row, _), entry in entries.items():
        if row in files:
            files[row].update({role: record for role, record in entry.inputs.items() if role not in entry.made})
    by_size: dict[tuple[str, int], list[int]] = {}
    for row, known in files.items():
        for role in _images(known)[:1]:
            by_size.setdefault((role, int(known[role][1])), []).append(row)
    first = sorted({role for role, _ in by_size})
    pairs = []
    for at in people.new:
        who, own = people.names[at], subjects[at].files
        if who in people.distinct or (who[0], "") in people.distinct:
            continue
        rows = [row for role in first if role in own for row in by_size.get((role, looked.size(own[role])), ())]
        for row in rows:
            common = [role for role in _images(files[row]) if role in own]
            if all(looked.size(own[r]) == files[row][r][1] for r in common) and all(looked.sha256(own[r]) == files[row][r][0] for r in common):
                pairs.append((_words(who), _words(people.left_rows[row])))
                break
    if not pairs:
        return []
    new, old = pairs[0]
    return [
        StoreError(
            expected="the images of new people in new subjects",
            found="; ".join(f"those of {old} (in the store, no longer in the study) in {new}" for new, old in pairs), where="data",
            remedy=f"If it is the same person under another name, write under data in the study file: renamed: {{{new}: {old}}}. "
            f"If it is somebody else, write distinct: [{new}].",
        )
    ]  # fmt: skip


def _images(known: Mapping[str, Any]) -> list[str]:
    """Roles of images among files; all roles where there is none."""
    return [r for r in sorted(known) if r in schema.ROLES and schema.ROLES[r].suffixes] or sorted(known)


def _words(who: Identity) -> str:
    return "_".join(filter(None, who))
