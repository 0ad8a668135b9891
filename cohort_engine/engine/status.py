"""How far a cohort is, and closing it: by what the study file asks for now, or by what the store was asked last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.state import identities
from cohort_engine.engine.study import Undertaking
from cohort_engine.errors import IncompleteError
from cohort_engine.quality import vocabulary
from cohort_engine.stages.base import Stage
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.declare import STAGES, declare
from cohort_engine.store import layout
from cohort_engine.store.lease import Holder, holder_of, lease
from cohort_engine.store.maintenance import finalise as close_store
from cohort_engine.store.maintenance import states_of
from cohort_engine.store.people import rows_of
from cohort_engine.store.records import Entry, read_entries
from cohort_engine.store.state import States, judge
from cohort_engine.store.writer import read_subject

if TYPE_CHECKING:
    import pandas as pd

COUNTED = (schema.DONE, schema.STALE, schema.FAILED, schema.MISSING, schema.NOT_NEEDED, schema.TO_DO)
"""States in the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class Status:
    """How far a cohort is.

    Attributes
    ----------
    url : str
    states : States
        Of every row and stage that is asked for.
    names : mapping of row to str
        What people call it: for the screen.
    entries : tuple of Entry
        Stages that failed or lacked an input and still stand so.
    mixed : str
        A sentence, where subjects were made with different settings.
    finalised : str
        When the store was closed; empty: it is open.
    writer : Holder, optional
        Process that writes now.
    told : tuple of Entry
        Stages whose inputs left something open.
    doubtful : mapping of name to str
        Whose values may not be usable, with the probability and the reasons: for the screen.
    """

    url: str
    states: States
    names: Mapping[int, str] = field(repr=False)
    entries: tuple[Entry, ...] = ()
    mixed: str = ""
    finalised: str = ""
    writer: Holder | None = None
    told: tuple[Entry, ...] = ()
    doubtful: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> pd.DataFrame:
        """A row for each stage: how many subjects are done, stale, failed, lack an input, do not need it, or are to do."""
        import pandas as pd

        found = self.states.counts()
        lines = [{schema.STAGE: stage} | {state: found[stage].get(state, 0) for state in COUNTED} for stage in self.states.stages]
        return pd.DataFrame(lines, columns=[schema.STAGE, *COUNTED])

    @property
    def failures(self) -> pd.DataFrame:
        """Stages that did not finish, with the names of the subjects: for the screen, not for files."""
        return failures(self.entries, self.names)

    @property
    def notes(self) -> pd.DataFrame:
        """What inputs left open and how it was settled, with the names of the subjects: for the screen, not for files."""
        return notes(self.told, self.names)

    @property
    def reasons(self) -> list[str]:
        """Why stages are stale."""
        return self.states.reasons()

    @property
    def left(self) -> dict[str, str]:
        """Who is no longer in the study, by name, and why: for the screen."""
        return {self.names[row]: str(why) for row, why in enumerate(self.states.rows.left) if why and row in self.names}

    @property
    def withdrawn(self) -> list[int]:
        """Rows of people who withdrew."""
        return [int(r) for r in np.flatnonzero(self.states.rows.withdrawn)]

    @property
    def exit_code(self) -> int:
        """0 all is done, 1 something is open: to do, stale, failed, or without its input."""
        return int(self.states.open)


def status(store: str | Config, *, stages: Sequence[Stage] | None = None) -> Status:
    """Say how far a cohort is.

    Parameters
    ----------
    store : str or Config
        Of a store, judged by what it was asked last. Of a study file, by what that asks for now, its files included.
    stages : sequence of Stage, optional
        In place of those that the study file asks for.

    Raises
    ------
    StoreError, StorageError
        No store, or a damaged one.
    CohortError
        The study cannot be indexed.
    """
    url = store.data.store if isinstance(store, Config) else store
    root = layout.open_root(url)
    names = subject_names(url)
    if isinstance(store, Config):
        study = Undertaking(store, stages)
        people, outlook = study.look(root, template=study.digest(root))
        states, entries = outlook.states, list(outlook.entries.values())
        names = names | {row: " ".join(filter(None, who)) for row, who in zip(people.rows, people.names, strict=True)}
    else:
        entries = read_entries(url)
        states = states_of(url, entries)
    present = states.rows.present
    standing = [
        e for e in unfinished(entries)
        if e.stage in states.stages and present[e.subject] and states.of(e.subject, e.stage) in (schema.FAILED, schema.MISSING)
    ]  # fmt: skip
    attributes = dict(root.attrs)
    return Status(
        url, states, names, tuple(sorted(standing, key=lambda e: (e.subject, e.stage))), str(attributes.get(layout.MIXED, "")),
        str(attributes.get(layout.FINALISED, "")), None if attributes.get(layout.COMPACTED) or attributes.get(layout.TAG) else holder_of(url),
        tuple(e for e in entries if e.notes and e.stage in states.stages and present[e.subject]),
        _doubtful(url, root, states, names),
    )  # fmt: skip


def _doubtful(url: str, root: Any, states: States, names: Mapping[int, str]) -> dict[str, str]:
    """Whose values may not be usable, by name, and why."""
    usable, reasons = f"{schema.QC}/{vocabulary.USABLE}", f"{schema.QC}/{vocabulary.REASONS}"
    if usable not in layout.stored_specs(root) or vocabulary.QUALITY_STAGE not in states.stages:
        return {}
    out = {}
    for row in np.flatnonzero(states.rows.present):
        if (
            states.of(int(row), vocabulary.QUALITY_STAGE) == schema.DONE
            and (p := float(read_subject(url, int(row), usable))) < vocabulary.LEAST_USABLE
        ):
            out[names.get(int(row), str(row))] = f"{p:.2f}: {read_subject(url, int(row), reasons)}"
    return out


def finalise(store: str | Config, *, allow_missing: bool = False, allow_mixed: bool = False, client: Any = None) -> None:
    """Close a store: gather what tasks recorded, fill the tables, and refuse what is open, stale or mixed unless told.

    Parameters
    ----------
    store : str or Config
        As in `status`.
    allow_missing, allow_mixed : bool
        As in `store.maintenance.finalise`.
    client : distributed.Client, optional
        Where tables are made; by default in threads.

    Raises
    ------
    IncompleteError
        Something is open; the message says what, and of how many subjects.
    StoreError, StorageError
        As of `store.maintenance.finalise`.
    """
    url = store.data.store if isinstance(store, Config) else store
    with lease(url, "finalise"):
        if isinstance(store, Config):
            _refuse(status(store), allow_missing=allow_missing, allow_mixed=allow_mixed)
        close(url, allow_missing=allow_missing, allow_mixed=allow_mixed, client=client)


def close(url: str, *, allow_missing: bool, allow_mixed: bool, client: Any = None) -> None:
    """Gather, tabulate and close a store by what it was asked last; errors as of `finalise`."""
    close_store(url, tabulate=partial(fill_tables, url, client), allow_missing=allow_missing, allow_mixed=allow_mixed)


def fill_tables(url: str, client: Any = None) -> None:
    """Make the tables of template space that are not those of the maps."""
    from cohort_engine.reduce.cohort import metrics_of, tabulate

    asked = layout.record_of(layout.open_root(url), layout.ASKED)
    written = {path for s in asked[STAGES].values() for path in s["writes"]}
    metrics = [name for name in metrics_of(layout.open_root(url)) if f"{schema.MAPS}/{name}" in written]
    if metrics:
        tabulate(url, metrics=metrics, client=client)


def _refuse(found: Status, *, allow_missing: bool, allow_mixed: bool) -> None:
    """Refuse to close what is not what the study file asks for now."""
    lines = [] if allow_mixed else found.reasons
    if lines:
        raise IncompleteError(
            expected="every subject made with the settings and files of the study", found="; ".join(lines), where="store",
            remedy='Run "cohort-engine build", which makes what is stale again, or close as it is with --allow-mixed.',
        )  # fmt: skip
    waiting = [s for s in COUNTED if s in schema.OPEN and s != schema.STALE]
    lines = [] if allow_missing else [
        f"{stage}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if state in waiting)
        for stage, counts in found.states.counts().items() if any(state in waiting for state in counts)
    ]  # fmt: skip
    if lines:
        raise IncompleteError(
            expected="every stage done for every subject", found="; ".join(lines), where="store",
            remedy='Run "cohort-engine retry", or close as it is with --allow-missing.',
        )  # fmt: skip


def subject_names(url: str) -> dict[int, str]:
    """Look up what people call each row: participant, and session where there is one. For the screen only."""
    return {row: " ".join(filter(None, who)) or f"row {row}" for row, who in enumerate(identities(layout.open_root(url)))}


def unfinished(entries: Iterable[Entry]) -> list[Entry]:
    """Entries of stages that failed or lacked an input."""
    return [e for e in entries if e.status in (schema.FAILED, schema.MISSING)]


def failures(entries: Iterable[Entry], names: Mapping[int, str]) -> pd.DataFrame:
    """Lay unfinished stages out as a table, with names: for the screen, not for files."""
    import pandas as pd

    columns = ["row", "name", schema.STAGE, "kind", "message", "remedy"]
    return pd.DataFrame([(e.subject, names.get(e.subject, ""), e.stage, e.kind, e.message, e.remedy) for e in entries], columns=columns)


def notes(entries: Iterable[Entry], names: Mapping[int, str]) -> pd.DataFrame:
    """Lay out what inputs left open and how it was settled, each sentence of a subject once, with names: for the screen, not for files."""
    import pandas as pd

    found = {(e.subject, line): e.stage for e in sorted(entries, key=lambda e: e.subject, reverse=True) for line in e.notes.splitlines()}
    columns = ["row", "name", schema.STAGE, "note"]
    return pd.DataFrame([(row, names.get(row, ""), stage, line) for (row, line), stage in reversed(found.items())], columns=columns)


def stale(config: Config) -> list[str]:
    """Say which rows of a store were made with other settings than the study file has now; stages that the store was never asked for are left out.

    Raises
    ------
    StoreError, StorageError, ConfigError
        No store, or a study file that does not fit together.
    """
    if config.stages.shape.source == schema.PROFILE_TABLES:
        return []  # no stage made it
    root = layout.open_root(config.data.store)
    known = layout.record_of(root, layout.ASKED)["stages"]
    stages = [replace(s, needs=tuple(n for n in s.needs if n in known)) for s in stages_of(config) if s.name in known]
    told = declare(config, stages, str(root.attrs[layout.TEMPLATE_DIGEST]))
    recipes = {**layout.record_of(root, layout.RECIPES), **told.recipes}
    return list(judge(read_entries(config.data.store), told.asked, recipes, rows_of(root)).reasons())
