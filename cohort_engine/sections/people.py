"""Who is analysed, who is left out, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.groups import compare
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.figures import people_figures
from cohort_engine.sections.base import (
    GROUP,
    PERSON,
    Column,
    Laid,
    Section,
    Table,
    Tables,
)
from cohort_engine.study.format import NOTHING, count, digits_of, number, p_value
from cohort_engine.study.material import (
    Material,
)
from cohort_engine.study.people import IDENTITY, People, chosen_columns, many_words, reasons, text_among_numbers
from cohort_engine.study.result import Analysis, Study


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Who is analysed, who is left out, how the groups differ in what is known of them, and the quality numbers."""
    table = m.people.table[[*IDENTITY, *chosen_columns(m.people, config)]].copy()
    return {"subjects": table, "excluded": m.people.excluded, "characteristics": characteristics(m, config), "quality": quality(m)}


MOST_CATEGORIES = 8
"""Words of a column that have a row each; of more the rarest are one."""


def characteristics(m: Material, config: AnalysisConfig) -> pd.DataFrame:
    """Describe what is known of the people, group by group, with a test of each column."""
    from scipy import stats

    rows: list[dict[str, Any]] = []
    for name in chosen_columns(m.people, config):
        column, group = m.people.column(name), m.people.group
        numeric = column.dtype.kind == "f"
        known = np.isfinite(column) if numeric else np.array([str(v) != "" for v in column])
        if not known.any() or set(column[known].tolist()) == {name for _, name in m.people.groups}:
            continue
        words = [""] if numeric else sorted({str(v) for v in column[known]})
        shown = words
        if not numeric and (many_words(column) or text_among_numbers(column)):
            continue  # names, dates, numbers with a decimal comma: a note says so
        p = np.nan
        if numeric:
            parts = [column[known & (group == g)] for g in (0, 1)]
            if min(map(len, parts)) > 1 and np.ptp(column[known]) > 0:
                p = float(compare(column[:, None], group, max_missing=0.999).p[0]) if min(map(len, parts)) >= config.least else np.nan
        elif len(words) > 1:
            counts = np.array([[np.sum(known & (group == g) & (column == w)) for w in words] for g in (0, 1)])
            if (counts.sum(axis=1) >= config.least).all():
                p = float(stats.fisher_exact(counts)[1] if counts.shape == (2, 2) else stats.chi2_contingency(counts, correction=False)[1])
        if len(words) > MOST_CATEGORIES:
            often = pd.Series(column[known]).astype(str).value_counts(sort=True)
            kept = sorted(often.index[: MOST_CATEGORIES - 1])
            rest = f"others ({len(words) - len(kept)})"
            shown, column = [*kept, rest], np.where(known & ~np.isin(column.astype(str), kept), rest, column)
        for word in shown:
            for code, group_name in m.people.groups:
                there = known & (group == code)
                row: dict[str, Any] = {"variable": name, "category": word, schema.GROUP: group_name, "n": int(there.sum())}
                if numeric:
                    values = column[there]
                    row |= dict(zip(("low", "median", "high"), np.percentile(values, [25, 50, 75]) if len(values) else [np.nan] * 3, strict=True))
                    row |= {"mean": values.mean() if len(values) else np.nan, "sd": values.std(ddof=1) if len(values) > 1 else np.nan}
                else:
                    row["count"] = int(np.sum(there & (column == word)))
                rows.append({**row, "p": p})
    return pd.DataFrame(rows, columns=["variable", "category", schema.GROUP, "n", "count", "mean", "sd", "low", "median", "high", "p"])


def quality(m: Material) -> pd.DataFrame:
    """Describe the quality numbers, group by group."""
    rows = []
    for name, column in m.quality.items():
        for code, group_name in m.people.groups:
            values = column.to_numpy()[m.people.group == code]
            values = values[np.isfinite(values)]
            if len(values):
                low, middle, high = np.percentile(values, [0, 50, 100])
                rows.append({"quantity": name, schema.GROUP: group_name, "n": len(values), "smallest": low, "median": middle, "largest": high})
    return pd.DataFrame(rows, columns=["quantity", schema.GROUP, "n", "smallest", "median", "largest"])


KINDS = {0.0: "controls", 1.0: "cases"}


@dataclass(frozen=True)
class Count:
    """A step of the way from everybody to those who are analysed."""

    text: str
    n: int


def flow(found: Analysis) -> list[Count]:
    """Count everybody, those left out for each reason, and the groups."""
    people = found.material.people
    steps = [Count("scans in the cohort", len(people.table) + len(people.excluded))]
    steps += [Count(f"left out: {reason}", int(n)) for reason, n in reasons(people).items()]
    steps.append(Count("people analysed", len(people.table)))
    return steps + [Count(f"{name} ({KINDS[g]})", int((people.group == g).sum())) for g, name in people.groups]


def table_one(found: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the characteristics: mean (SD) or n (%) of each group, and p.

    Returns
    -------
    head : tuple of str
    rows : list of tuple of str
    """
    people = found.material.people
    n, names = [int((people.group == g).sum()) for g, _ in people.groups], [name for _, name in people.groups]
    head = ("", *(f"{name} (n = {k})" for name, k in zip(names, n, strict=True)), "p")
    table = found.tables["characteristics"]
    rows: list[tuple[str, ...]] = []
    for name, part in table.groupby("variable", sort=False):
        title = str(name).replace("_", " ")
        p = p_value(float(part["p"].iloc[0]))
        words = [w for w in part["category"].drop_duplicates() if w != ""]
        by = {(r["category"], r[schema.GROUP]): r for r in part.to_dict("records")}
        if not words:
            digits = min(digits_of(part["sd"]), digits_of(part["mean"]), 2) or 1
            cells = [_mean(by[("", g)], digits, total) for g, total in zip(names, n, strict=True)]
            rows.append((f"{title}, mean (SD)", *cells, p))
            continue
        if len(words) == 2 and not any(len(w) > 12 for w in words):
            words, title = words[:1], f"{title}, {words[0]}"
            rows.append((f"{title}, n (%)", *(_share(by[(words[0], g)]) for g in names), p))
            continue
        rows.append((f"{title}, n (%)", *("" for _ in names), p))
        rows += [(f"\u2003{w}", *(_share(by[(w, g)]) for g in names), "") for w in words]
    return head, rows


def quality_table(found: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the quality numbers, a row each: median and range of each group; head and rows."""
    people = found.material.people
    groups = tuple(name for _, name in people.groups)
    rows = []
    for name, part in found.tables["quality"].groupby("quantity", sort=False):
        by = {r[schema.GROUP]: r for r in part.to_dict("records")}
        digits = min(digits_of(part["largest"]), 3)
        cells = [_range(by[g], digits) if g in by else NOTHING for g in groups]
        rows.append((str(name).replace("_", " "), *cells))
    return ("median (range)", *groups), rows


def _characteristics(found: Analysis) -> Laid:
    return Laid("Characteristics", *table_one(found))


def _quality(found: Analysis) -> Laid:
    return Laid("Quality numbers", *quality_table(found))


def _range(row: Mapping[Any, Any], digits: int) -> str:
    middle, low, high = (number(row[k], digits) for k in ("median", "smallest", "largest"))
    return f"{middle} ({low} to {high})"


def _mean(row: Mapping[Any, Any], digits: int, total: int) -> str:
    known = int(row["n"])
    if not known:
        return NOTHING
    return f"{number(row['mean'], digits)} ({number(row['sd'], digits)})" + (f" [n = {known}]" if known < total else "")


def _share(row: Mapping[Any, Any]) -> str:
    known = int(row["n"])
    return f"{int(row['count'])} ({100 * row['count'] / known:.0f}%)" if known else NOTHING


def _counts(people: People) -> str:
    """Count the groups, in words."""
    said = " and ".join(f"{int((people.group == g).sum())} {KINDS[g]} ({name})" for g, name in people.groups)
    return said if len(people.groups) > 1 else f"{said}, one group"


def _sentence(found: Analysis) -> str:
    people = found.material.people
    out = len(people.excluded)
    text = f"{len(people.group)} people were analysed: {_counts(people)}"
    return f"{text}; {count(out, 'scan was', 'scans were')} left out." if out else f"{text}."


def _methods(s: Study) -> str:
    text = f"The analysis included {len(s.people.group)} participants: {_counts(s.people)}."
    if len(s.people.excluded):
        counts = s.people.excluded["reason"].map(lambda r: "outside the limits of quality" if ", allowed " in r else r).value_counts(sort=False)
        reasons = "; ".join(f"{reason}, {count}" for reason, count in counts.items())
        text += f" {len(s.people.excluded)} further scans were not used ({reasons})."
    for name, (low, high) in s.config.quality.items():
        bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
        text += f" Scans were used where {name} was {' and '.join(filter(None, bounds))}."
    if s.found.material.repeats is not None:
        text += " Of people with several sessions the first in time was analysed; the others served to assess agreement."
    return text


SECTION = SECTION_KINDS.add(Section(
    "people", "People", compute=compute, sentence=_sentence, heading="Participants", methods=_methods,
    figures=(people_figures.flow,), laid=(_characteristics, _quality),
    tables={
        "subjects": Table(
            "Who is analysed", "A row a person, with the columns of the study.", PERSON, open=True,
        ),
        "excluded": Table(
            "Who is left out", "A row a scan that the statistics do not use, with the reason.",
            {**PERSON, "reason": Column("why")}, shown=(schema.PARTICIPANT, schema.SESSION, "reason"),
        ),
        "characteristics": Table(
            "Characteristics of the groups", "What is known of the people, group by group.",
            {
                "variable": Column("column of participants.tsv"), "category": Column("word of a column of words; empty for numbers"), "group": GROUP,
                "n": Column("people of whom it is known", "people"), "count": Column("people with this word", "people"),
                "mean": Column("mean", "of the column"), "sd": Column("standard deviation (n - 1)", "of the column"),
                "low": Column("25th percentile", "of the column"), "median": Column("median", "of the column"),
                "high": Column("75th percentile", "of the column"),
                "p": Column("two-sided p value: Welch's t test of numbers, Fisher's exact test of two by two words, else the chi-squared test"),
            },
        ),
        "quality": Table(
            "Quality numbers", "The quality numbers of the store, group by group; their units are in the reference of the store.",
            {
                "quantity": Column("quality number of the store"), "group": GROUP, "n": Column("people who have it", "people"),
                "smallest": Column("smallest value"), "median": Column("median"), "largest": Column("largest value"),
            },
        ),
    },
))  # fmt: skip
