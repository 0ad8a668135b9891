"""The one-line question of the command line, as an object and as text."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from cohort_engine.errors import ConfigError, UnknownNameError, unknown_name

WHERE = "query"
TRACT, LEVEL, BY, ESTIMATOR, SPACE, COVERAGE = KEYS = ("tract", "level", "by", "estimator", "space", "coverage")
"""Keys that are not columns of the subject table."""


@dataclass(frozen=True)
class Query:
    """A question to a cohort.

    Attributes
    ----------
    metric : str
        A metric, or a measure of the cord.
    tracts : tuple of str
        Empty for every label and union.
    levels : tuple of str
        Levels and pooled ranges; empty for each level.
    by : tuple of str
        Columns to summarise by; empty for one row per subject.
    estimator, space : str
        Empty for the least biased value of the cohort (`query.choice.choose`).
    min_coverage : float, optional
        None for the limit the store's tables were made with.
    only : tuple of (column, text)
        Who is asked about: ``("site", "A,B")``, ``("age", "40:60")``. A column named twice takes either.
    """

    metric: str
    tracts: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    estimator: str = ""
    min_coverage: float | None = None
    only: tuple[tuple[str, str], ...] = ()
    space: str = ""

    def text(self) -> str:
        """Write the question on one line, so that `parse_query` reads the same again, whatever its names hold.

        Examples
        --------
        >>> print(Query("mtr", ("Clarke's column",), ("C2:C3",)).text())
        mtr tract='Clarke'"'"'s column' level=C2:C3
        """
        words = [(TRACT, t) for t in self.tracts]
        words += [(key, ",".join(names)) for key, names in ((LEVEL, self.levels), (BY, self.by)) if names]
        words += [(key, name) for key, name in ((ESTIMATOR, self.estimator), (SPACE, self.space)) if name]
        words += [(COVERAGE, f"{self.min_coverage!r}")] if self.min_coverage is not None else []
        return " ".join([shlex.quote(self.metric), *(f"{key}={shlex.quote(value)}" for key, value in (*words, *self.only))])


def parse_query(text: str) -> Query:
    """Read a question: a metric, or a measure of the cord (``area``), then ``key=value`` words.

    ========================  ======================================================================
    ``tract='...'``           a tract, both sides of a pair, a union, or a sum ``'a + b'``; repeat it for several
    ``level=C2:C3``           one pooled range; ``C2,C3`` are two levels; ``all`` pools the whole cord
    ``by=group``              summarise by columns of the subject table (``by=group,site``)
    ``estimator=wa``          SCT's name; without, the least biased value that the cohort has
    ``space=template``        values of the maps in the template, or (``native``) of each image in its own space
    ``coverage=0.5``          smallest share of a cell inside the data
    ``site=A,B``              only these people, by any column of the subject table: words, or numbers and ranges (``age=40:60``, ``age=60:``)
    ========================  ======================================================================

    Names of metrics, tracts, levels, estimators and columns are those of the cohort, which is not at hand here: `run_query` checks them.

    Raises
    ------
    ConfigError
        A word without ``=``; a coverage that is no share; quotes that do not pair.

    Examples
    --------
    >>> q = parse_query("mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group site=A,B")
    >>> q.tracts, q.levels, q.by, q.only
    (('WM left lateral corticospinal tract',), ('C2:C3',), ('group',), (('site', 'A,B'),))
    >>> parse_query(q.text()) == q
    True
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _malformed("quotes in pairs", text) from error
    if not words or "=" in words[0]:
        raise _malformed("a metric first", text)
    given: dict[str, list[str]] = {key: [] for key in KEYS}
    only: list[tuple[str, str]] = []
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise _malformed("key=value words after the metric", word)
        if key in given:
            given[key].append(value.strip())
        else:
            only.append((key, value.strip()))
    levels, by = (tuple(v.strip() for value in given[key] for v in value.split(",")) for key in (LEVEL, BY))
    return Query(
        metric=words[0], tracts=tuple(given[TRACT]), levels=levels, by=by, estimator=(given[ESTIMATOR] or [""])[-1], space=(given[SPACE] or [""])[-1],
        min_coverage=_share(given[COVERAGE][-1]) if given[COVERAGE] else None, only=tuple(only),
    )  # fmt: skip


def as_query(question: Query | str) -> Query:
    """Read a question that may be text."""
    return parse_query(question) if isinstance(question, str) else question


def _share(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise ConfigError(expected="a number from 0 to 1", found=repr(text), where=f"{WHERE}: {COVERAGE}", remedy="Write coverage=0.75.")
    return value


def number(text: str) -> float:
    """Read a number; NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _malformed(expected: str, found: str) -> ConfigError:
    remedy = "For instance: mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group site=A"
    return ConfigError(expected=expected, found=repr(found), where=WHERE, remedy=remedy)


def unknown_column(name: str, known: list[str], key: str) -> UnknownNameError:
    """Build the error for a column that the subject table does not have; without a `key` it could also be a misspelt one."""
    kind = "column of the subject table" if key else "key, or column of the subject table"
    return unknown_name(kind, name, known, where=f"{WHERE}: {key}" if key else WHERE)
