"""Tables for people: tidy frames, group summaries, and answers to one-line questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import unknown_name
from cohort_engine.query import accessor  # noqa: F401  # registers ``ds.cohort``
from cohort_engine.query.answer import IDENTITY, answer, group_means, tidy_columns
from cohort_engine.query.cells import CELL, Cells
from cohort_engine.query.question import WHERE, Query, as_query
from cohort_engine.query.reader import CohortReader


def tidy(table: xr.Dataset) -> pd.DataFrame:
    """Lay a table of cells out as one row per subject, level and region.

    Parameters
    ----------
    table : Dataset
        From ``ds.cohort.table``: value, std, n, coverage (subject, level, region) with the subject columns as coordinates.

    Returns
    -------
    DataFrame
        participant_id, session_id and the covariates, then level, region, value, std, n, coverage. NaN stays NaN.
    """
    axes = (schema.SUBJECT, schema.LEVEL, schema.REGION)
    present = [n for n in CELL if n in table]
    cells = table[present].transpose(*axes).compute()
    first = [n for n in IDENTITY if n in cells.coords]
    others = [str(n) for n, c in cells.coords.items() if c.dims == axes[:1] and n not in (*first, schema.SUBJECT)]
    levels, regions = (tuple(map(str, cells[d].to_numpy())) for d in axes[1:])
    columns = {n: cells[n].to_numpy() for n in (*first, *others)}
    return pd.DataFrame(tidy_columns(Cells(levels, regions, {n: cells[n].to_numpy() for n in present}, {}), columns))


def summarise(frame: pd.DataFrame, by: str | Sequence[str] = schema.GROUP) -> pd.DataFrame:
    """Mean, standard deviation and number of subjects of each group, level and region.

    Parameters
    ----------
    frame : DataFrame
        From `tidy`.
    by : str or sequence of str
        Columns that make a group.

    Returns
    -------
    DataFrame
        The columns `by`, then level, region, mean, sd (n - 1 in the denominator; NaN for one subject) and n, the number of subjects with a value.
        Rows keep the order of `frame`.

    Examples
    --------
    >>> cells = {"level": "C2", "region": "white matter", "std": 1.0, "n": 9.0, "coverage": 1.0}
    >>> frame = pd.DataFrame([{"group": g, **cells, "value": v} for g, v in [("HC", 40.0), ("HC", 42.0), ("DCM", 35.0), ("DCM", float("nan"))]])
    >>> print(summarise(frame).to_string(index=False))
    group level       region  mean       sd  n
       HC    C2 white matter  41.0 1.414214  2
      DCM    C2 white matter  35.0      NaN  1
    """
    columns = [by] if isinstance(by, str) else list(by)
    for name in columns:
        if name not in frame:
            raise unknown_name("column", name, [str(c) for c in frame.columns], where=f"{WHERE}: by")
    return pd.DataFrame(group_means({str(n): frame[n].to_numpy() for n in frame}, columns))


def run_query(cohort: str | xr.Dataset, query: Query | str, *, columns: Sequence[str] | None = None, space: str = "") -> pd.DataFrame:
    """Answer a question.

    Parameters
    ----------
    cohort : str or Dataset
        A store, or what `open_cohort` returned.
    query : Query or str
    columns : sequence of str, optional
        Columns of the subject table beside the identity; by default all.
    space : str
        Of which space alone the tables of a store are read.

    Returns
    -------
    DataFrame
        `summarise` where the question has ``by``, otherwise `tidy`. Its ``attrs`` are metric, units, estimator, space and limit, and
        ``notes``: what a reader must know, such as that the rows were made with two settings.
    """
    source: Any = CohortReader(cohort, space=space) if isinstance(cohort, str) else cohort.cohort.source
    found = answer(source, as_query(query), columns)
    frame = pd.DataFrame(found.columns)
    frame.attrs.update({**found.about, "notes": list(found.notes)})
    return frame
