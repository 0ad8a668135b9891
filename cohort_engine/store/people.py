"""Who is in a store: rows by name, who left and why, and the list of all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import zarr

from cohort_engine import schema
from cohort_engine.errors import unknown_name
from cohort_engine.store import layout
from cohort_engine.store.records import read_entries
from cohort_engine.store.state import Rows, judge
from cohort_engine.store.writer import read_rows

IN_STUDY, WITHDRAWN = "in the study", "withdrawn"


def rows_of(root: zarr.Group) -> Rows:
    """Read who counts: who left (with the reason), and who withdrew.

    Raises
    ------
    StorageError
        The names are damaged or lost.
    """
    part = slice(0, layout.row_count(root))
    names, left = (read_rows(root, path, part) for path in (layout.PARTICIPANTS, layout.LEFT.path))
    return Rows(layout.text(left), np.asarray(layout.text(names) == "", dtype=bool))


def subjects(url: str) -> pd.DataFrame:
    """List the rows of a store: for the screen, not for files.

    Returns
    -------
    DataFrame
        row, participant_id, session_id, group and site (where the study has them), ``state`` (in the study; left: why; withdrawn), and how many of
        the stages that the study asks for are ``done`` (or not needed) and ``open``.

    Raises
    ------
    StoreError, StorageError
        No store, or a damaged one.
    """
    root = layout.open_root(url)
    rows = rows_of(root)
    states = judge(read_entries(url), layout.record_of(root, layout.ASKED), layout.record_of(root, layout.RECIPES), rows)
    names = [schema.PARTICIPANT, schema.SESSION, schema.GROUP, schema.SITE]
    columns = {n: layout.text(_column(root, n, len(rows))) for n in names if n in layout.group_at(root, schema.SUBJECTS)}
    table = pd.DataFrame({"row": np.arange(len(rows)), **columns})
    table["state"] = [WITHDRAWN if gone else f"left: {why}" if why else IN_STUDY for gone, why in zip(rows.withdrawn, rows.left, strict=True)]
    waits = np.isin(states.codes, [i for i, s in enumerate(schema.STATES) if s in schema.OPEN])
    table[schema.DONE], table["open"] = (~waits).sum(axis=1), waits.sum(axis=1)
    return table


def _column(root: zarr.Group, name: str, count: int) -> list[str]:
    values = read_rows(root, f"{schema.SUBJECTS}/{name}", slice(0, count))
    return ["" if v != v else f"{v:g}" if isinstance(v, float) else str(v) for v in values.tolist()]


def find_rows(url: str, participant: str, session: str | None = None) -> list[int]:
    """Look rows up by participant (and session), as people write them: with or without ``sub-`` and ``ses-``.

    Raises
    ------
    UnknownNameError
        Nobody of that name, or no such session, with the near ones.
    """
    root = layout.open_root(url)
    part = slice(0, layout.row_count(root))
    names, sessions = ([str(v) for v in read_rows(root, f"{schema.SUBJECTS}/{c}", part)] for c in (schema.PARTICIPANT, schema.SESSION))
    hits = [i for i, name in enumerate(names) if name and name.removeprefix("sub-") == participant.strip().removeprefix("sub-")]
    if not hits:
        raise unknown_name("participant", participant, sorted(set(filter(None, names))), where="store")
    if session is None:
        return hits
    found = [i for i in hits if sessions[i].removeprefix("ses-") == session.strip().removeprefix("ses-")]
    if not found:
        raise unknown_name("session", session, sorted({sessions[i] for i in hits}), where="store")
    return found
