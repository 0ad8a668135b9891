"""Tables for people: tidy frames, group summaries, and the one-line question of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import CELL

WHERE = "query"


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
    sizes = [cells.sizes[d] for d in axes]
    place = np.indices(sizes).reshape(3, -1)
    first = [n for n in (schema.PARTICIPANT, schema.SESSION) if n in cells.coords]
    others = [str(n) for n, c in cells.coords.items() if c.dims == (schema.SUBJECT,) and n not in (*first, schema.SUBJECT)]
    columns = {n: cells[n].to_numpy()[place[0]] for n in (*first, *others)}
    columns |= {d: cells[d].to_numpy()[i] for d, i in zip(axes[1:], place[1:], strict=True)}
    columns |= {n: cells[n].to_numpy().ravel() for n in present}
    return pd.DataFrame(columns)


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
    keys = list(dict.fromkeys([*columns, schema.LEVEL, schema.REGION]))
    cells = frame.astype({schema.VALUE: np.float64}).groupby(keys, sort=False, dropna=False)[schema.VALUE]
    return cells.agg(mean="mean", sd="std", n="count").reset_index()


# --- the one-line question --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Query:
    """A question to a cohort.

    Attributes
    ----------
    metric : str
    tracts : tuple of str
        Empty for every label and union.
    levels : tuple of str
        Levels and pooled ranges; empty for each level.
    by : tuple of str
        Columns to summarise by; empty for one row per subject.
    estimator : str
    min_coverage : float, optional
        None for the limit the store's tables were made with.
    """

    metric: str
    tracts: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    estimator: str = schema.WA
    min_coverage: float | None = None


KEYS = ("tract", "level", "by", "estimator", "coverage")


def parse_query(text: str) -> Query:
    """Read a question: a metric, or a measure of the cord (``area``), then ``key=value`` words.

    ========================  ======================================================================
    ``tract='...'``           a tract, both sides of a pair, a union, or a sum ``'a + b'``; repeat it for several
    ``level=C2:C3``           one pooled range; ``C2,C3`` are two levels; ``all`` pools the whole cord
    ``by=group``              summarise by columns of the subject table (``by=group,site``)
    ``estimator=wa``          SCT's name
    ``coverage=0.5``          smallest share of a cell inside the data
    ========================  ======================================================================

    Raises
    ------
    UnknownNameError, ConfigError
        A metric or key that does not exist, with the near names; a word without ``=``; a coverage that is no share.

    Examples
    --------
    >>> parse_query("mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group")
    Query(metric='mtr', tracts=('WM left lateral corticospinal tract',), levels=('C2:C3',), by=('group',), estimator='wa', min_coverage=None)
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _malformed("quotes in pairs", text) from error
    if not words or "=" in words[0]:
        raise _malformed("a metric first", text)
    given: dict[str, list[str]] = {key: [] for key in KEYS}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise _malformed("key=value words after the metric", word)
        if key not in given:
            raise unknown_name("key", key, list(KEYS), where=WHERE)
        given[key].append(value.strip())
    many = {key: tuple(v.strip() for value in given[key] for v in value.split(",")) for key in ("level", "by")}
    return Query(
        metric=_quantity(words[0]), tracts=tuple(given["tract"]), levels=many["level"], by=many["by"],
        estimator=(given["estimator"] or [schema.WA])[-1], min_coverage=_share(given["coverage"][-1]) if given["coverage"] else None,
    )  # fmt: skip


def _quantity(name: str) -> str:
    """Check the name of a metric, or of a measure that has a profile."""
    known = [*schema.METRICS, *(m for m in schema.MEASURES if m not in schema.SUMMED)]
    if name not in known:
        raise unknown_name("metric", name, known, where=WHERE)
    return name


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise ConfigError(expected="a number from 0 to 1", found=repr(text), where=f"{WHERE}: coverage", remedy="Write coverage=0.75.")
    return value


def _malformed(expected: str, found: str) -> ConfigError:
    remedy = "For instance: mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group"
    return ConfigError(expected=expected, found=repr(found), where=WHERE, remedy=remedy)


def run_query(cohort: str | xr.Dataset, query: Query | str) -> pd.DataFrame:
    """Answer a question.

    Parameters
    ----------
    cohort : str or Dataset
        A store, or what `open_cohort` returned.
    query : Query or str

    Returns
    -------
    DataFrame
        `summarise` where the question has ``by``, otherwise `tidy`.
    """
    ds = open_cohort(cohort) if isinstance(cohort, str) else cohort
    q = parse_query(query) if isinstance(query, str) else query
    for name in q.by:
        _known_column(ds, name)
    frame: pd.DataFrame = ds.cohort.frame(q.metric, q.tracts or None, q.levels or None, estimator=q.estimator, min_coverage=q.min_coverage)
    return summarise(frame, q.by) if q.by else frame


def _known_column(ds: xr.Dataset, name: str) -> None:
    """Refuse a wrong column before anything is computed."""
    known = [str(n) for n, c in ds.coords.items() if c.dims == (schema.SUBJECT,) and n != schema.SUBJECT]
    if name not in (*known, schema.LEVEL, schema.REGION):
        raise unknown_name("column of the subject table", name, known, where=f"{WHERE}: by")
