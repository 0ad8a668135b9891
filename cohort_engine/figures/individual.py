"""Figures whose points are people: values behind the differences of groups, and behind the correlations with scores."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import CASE_COLOUR, CONTROL_COLOUR, INK, Drawn, between, scale, signed, small
from cohort_engine.study.material import COMPRESSED, METRIC
from cohort_engine.study.people import chosen_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cohort_engine.study.result import Analysis

MOST_FEATURES, MOST_SCORES = 4, 3
DENSE_PEOPLE = 500
"""People from which on points are drawn as pixels."""


def leading(rows: pd.DataFrame, strength: pd.Series[Any], most: int) -> list[int]:
    """Pick rows to draw, those of fixed levels before those at each person's own: the strongest of each metric, then the next strongest.

    Examples
    --------
    >>> rows = pd.DataFrame({"metric": ["mtr", "mtr", "fa"], "level": ["C3", "C4", "C3"]})
    >>> leading(rows, pd.Series([0.9, 0.8, 0.1]), 2)
    [0, 2]
    """
    order = strength[strength.notna()].sort_values(ascending=False, kind="stable").index
    ranked = rows.loc[order]
    fixed = ranked[ranked[schema.LEVEL] != COMPRESSED].index.tolist() or order.tolist()
    first = rows.loc[fixed].drop_duplicates(METRIC).index.tolist()
    chosen = list(dict.fromkeys([*first, *fixed]))[:most]
    return sorted(chosen, key=fixed.index)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = drawing.page(height, min(drawing.WIDTH, 50.0 * max(count, 2)))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _titled(axis: Axes, name: str, said: str) -> None:
    axis.set_title("\n".join(textwrap.fill(line, 27) for line in (name, *said.splitlines())))


def group_values(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Draw the values of everybody, group by group, in the features that differ most."""
    rows, m = drawing.table(found, "groups"), found.material
    if rows is None or len(rows) != m.values.shape[1]:
        return []
    chosen = leading(rows, rows["size"].abs().where(rows["p"].notna()), MOST_FEATURES)
    if not chosen:
        return []
    people = m.people
    figure, panels = _panels(len(chosen), 72)
    for axis, i in zip(panels, chosen, strict=True):
        row, unit = rows.loc[[i]].iloc[0], str(rows.at[i, "units"])
        ticks = []
        for code, (name, colour) in enumerate(((people.control, CONTROL_COLOUR), (people.case, CASE_COLOUR))):
            values = m.values[people.group == code, i]
            values = values[np.isfinite(values)]
            ticks.append(f"{name}\nn = {len(values)}")
            dense = len(values) > DENSE_PEOPLE
            axis.scatter(code + 0.32 * drawing.spread(values), values, s=9, color=colour, alpha=0.7, linewidths=0, rasterized=dense, zorder=2)
            axis.errorbar(
                [code], [values.mean()], yerr=[values.std(ddof=1) if len(values) > 1 else 0.0], fmt="_", ms=16, color=INK, elinewidth=1.0, capsize=3,
                zorder=3,
            )  # fmt: skip
        axis.set_xticks([0, 1], ticks)
        axis.set(xlim=(-0.6, 1.6))
        axis.set_ylabel(drawing.with_unit(drawing.quantity(str(row[METRIC]), str(row["estimator"])), scale(unit)))
        _titled(axis, drawing.feature_labels(rows.loc[[i]])[0], f"{row['size_kind']} {signed(row['size'])}, q {small(row['q'])}")
    harmonised = ", after harmonisation" if m.models else ""
    caption = drawing.sentences(
        f"Each point is a person; the line is the mean of the group, its arms are one SD{harmonised}.",
        f"Of {len(rows)} features these {len(chosen)} were chosen because they differ most: the strongest of each metric, then the next strongest; "
        "others differ less."
        if len(chosen) < len(rows)
        else "",
        f"{drawing.sample(found)}; {drawing.discovery(found)}.",
    )
    return [Drawn("group_values", "groups", "Values of everybody", caption, ("groups",), figure)]


def score_scatter(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Draw the strongest correlations, a point for each person."""
    rows, m = drawing.table(found, "correlations"), found.material
    features = m.values.shape[1]
    if rows is None or not features or len(rows) % features:
        return []
    shown = rows[rows["score"].isin(chosen_columns(m.people, found.config))]
    chosen = leading(shown, shown["r"].abs().where(shown["p"].notna()), MOST_SCORES)
    if not chosen:
        return []
    rows_used = m.people.chosen(found.config.correlate.who)
    cases, use = len(rows_used) < len(m.people.group), np.isin(np.arange(len(m.people.group)), rows_used)
    figure, panels = _panels(len(chosen), 64)
    letter = "ρ" if str(rows["method"].iloc[0]) == "spearman" else "r"
    for axis, i in zip(panels, chosen, strict=True):
        row, unit = rows.loc[[i]].iloc[0], str(rows.at[i, "units"])
        x, y = m.people.numbers(str(row["score"])), m.values[:, i % features]
        for code, colour in ((0, CONTROL_COLOUR), (1, CASE_COLOUR)):
            at = use & (m.people.group == code)
            axis.scatter(x[at], y[at], s=12, color=colour, alpha=0.75, linewidths=0, rasterized=int(at.sum()) > DENSE_PEOPLE)
        axis.set_xlabel(str(row["score"]).replace("_", " "))
        axis.set_ylabel(drawing.with_unit(drawing.quantity(str(row[METRIC]), str(row["estimator"])), scale(unit)))
        said = f"{letter} {signed(row['r'])}{between(row['low'], row['high'])}\nn = {int(row['n'])}, q {small(row['q'])}"
        _titled(axis, drawing.feature_labels(rows.loc[[i]])[0], said)
    adjust = found.config.correlate.covariates
    caption = drawing.sentences(
        f"Each point is one of the {m.people.case if cases else 'people'}; {letter} with its {drawing.ci(found)}.",
        f"Of {len(rows)} correlations these {len(chosen)} were chosen because they are the strongest{' of each metric' if len(chosen) > 1 else ''}: "
        "such a choice flatters them, and the interval is that of one correlation alone."
        if len(rows) > len(chosen)
        else "",
        f"Points are as they are, {letter} and q adjusted for {drawing.listed(adjust)}." if adjust else "",
        f"{drawing.discovery(found)[:1].upper()}{drawing.discovery(found)[1:]}.",
    )
    return [Drawn("score_scatter", "correlations", "The strongest correlations", caption, ("correlations",), figure)]
