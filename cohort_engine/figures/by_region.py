"""Figures whose rows are regions: effect sizes, correlations, distance from the norm, agreement of repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import CORD_SHAPE, INK, Block, Drawn, Panel, heat_map, level_order, quantity, region_blocks
from cohort_engine.study.material import COMPRESSED, ESTIMATOR, METRIC

if TYPE_CHECKING:
    from cohort_engine.study.result import Analysis

MOST_SCORES = 12
"""Scores that fit beside each other."""
Z_LIMIT = 4.0
"""End of the colours of z."""


def _shape(rows: pd.DataFrame, kind: tuple[str, str], number: int) -> pd.DataFrame:
    """Rows of a metric; with those of the first one the measures of the whole cord, the measure standing as its region."""
    part = drawing.of_kind(rows, kind)
    if number:
        return part
    measures = rows[rows[METRIC].isin(list(schema.MEASURES))]
    return pd.concat([part, measures.assign(**{schema.REGION: measures[METRIC]})], ignore_index=True)


def _blocks(rows: pd.DataFrame) -> list[Block]:
    measures = tuple(str(m) for m in dict.fromkeys(rows[METRIC]) if m in schema.MEASURES)
    blocks = region_blocks(rows.loc[~rows[METRIC].isin(measures), schema.REGION])
    words = tuple(quantity(m, "") for m in measures)
    return [*blocks, Block(CORD_SHAPE, measures, words)] if measures else blocks


def _wide(rows: pd.DataFrame, column: str, value: str, order: list[str]) -> pd.DataFrame:
    wide: pd.DataFrame = rows.pivot(index=schema.REGION, columns=column, values=value)
    return wide.reindex(columns=order)


def _borders(levels: list[str]) -> tuple[int, ...]:
    """Columns before which single levels end, or pools do."""
    kinds = [n == COMPRESSED or n not in schema.LEVEL_NAMES for n in levels]
    return tuple(i for i in range(1, len(levels)) if kinds[i] != kinds[i - 1] or (levels[i] == COMPRESSED))


# --- effect sizes -----------------------------------------------------------------------------------------------------
def effect_sizes(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Effect size of every region at every level, with a dot where q is small."""
    from matplotlib.colors import CenteredNorm

    groups = drawing.table(found, "groups")
    if groups is None:
        return []
    people, alpha, out = found.material.people, found.config.alpha, []
    for number, kind in enumerate(drawing.map_kinds(groups) or [("", "")]):
        rows = _shape(groups, kind, number)
        levels = level_order(rows[schema.LEVEL])
        values = _wide(rows, schema.LEVEL, "size", levels)
        if not np.isfinite(values.to_numpy(float)).any():
            continue
        marks = _wide(rows, schema.LEVEL, "q", levels) <= alpha
        limit, extend = drawing.limit_of(values, 0.2)
        what = str(rows["size_kind"].iloc[0])
        figure = heat_map(
            _blocks(rows), [Panel("", values, marks, _borders(levels))], norm=CenteredNorm(0, limit), extend=extend,
            label=f"{what}, {people.case} against {people.control}",
        )  # fmt: skip
        strongest = rows.iloc[int(np.nanargmax(rows["size"].abs()))]
        name = quantity(*kind) if kind[0] else CORD_SHAPE
        holes = int((~np.isfinite(values.to_numpy(float))).sum())
        pooled = [n for n in levels if ":" in n or n == "all"]
        top = f"{drawing.signed(strongest['size'])} (q {drawing.small(strongest['q'])})"
        caption = drawing.sentences(
            f"{what[:1].upper()}{what[1:]} of {people.case} against {people.control} by region and level, vertebral levels from the top down"
            f"{f', then levels pooled ({drawing.listed(pooled)})' if pooled else ''}"
            f"{', then each person at the level where the own cord is compressed most' if COMPRESSED in levels else ''}.",
            f"Blue is lower in {people.case}, red is higher; a dot stands where q ≤ {alpha:g} ({int(marks.to_numpy().sum())} of "
            f"{values.size - holes} cells){f'; {holes} grey cells have too few values' if holes else ''}. L and R are the sides of the cord.",
            f"{drawing.sample(found)}; {drawing.TEST_WORDS[str(rows['method'].iloc[0])]}, {drawing.discovery(found)}.",
            f"The largest of {values.size - holes} sizes is {top}, {drawing.feature_labels(_named(groups, strongest))[0]}.",
        )
        title = f"Effect sizes of {name} by region and level"
        out.append(Drawn(f"effect_sizes{drawing.suffix(number, kind)}", "groups", title, caption, ("groups",), figure))
    return out


def _named(table: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame:
    """Return the row as the table has it, whose region may be another word."""
    keep = (table[METRIC] == row[METRIC]) & (table[schema.LEVEL] == row[schema.LEVEL]) & (table[ESTIMATOR] == row[ESTIMATOR])
    if row[METRIC] not in schema.MEASURES:
        keep &= table[schema.REGION] == row[schema.REGION]
    found: pd.DataFrame = table[keep].head(1)
    return found


# --- correlations -----------------------------------------------------------------------------------------------------
def correlations(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Regions by clinical scores, at the level with the strongest correlation and at the remote one."""
    from matplotlib.colors import CenteredNorm

    rows = drawing.table(found, "correlations")
    if rows is None:
        return []
    alpha, out = found.config.alpha, []
    for number, kind in enumerate(drawing.map_kinds(rows) or [("", "")]):
        part = _shape(rows, kind, number)
        if not np.isfinite(part["r"]).any():
            continue
        scores = list(dict.fromkeys(part["score"]))
        every = len(scores)
        if every > MOST_SCORES:
            rank = part.groupby("score")["r"].agg(lambda r: r.abs().max()).sort_values(ascending=False, kind="stable")
            scores = [s for s in scores if s in list(rank.index[:MOST_SCORES])]
            part = part[part["score"].isin(scores)]
        top = part.iloc[int(np.nanargmax(part["r"].abs()))]
        remote = drawing.remote_level(found, part[schema.LEVEL])
        levels = list(dict.fromkeys(n for n in (str(top[schema.LEVEL]), remote) if n))
        panels = []
        for level in levels:
            here = part[part[schema.LEVEL] == level]
            values = _wide(here, "score", "r", scores)
            panels.append(Panel("at the compression" if level == COMPRESSED else level, values, _wide(here, "score", "q", scores) <= alpha))
        drawn = part[part[schema.LEVEL].isin(levels)]
        limit, extend = drawing.limit_of(drawn["r"], 0.3)
        method = str(part["method"].iloc[0]).capitalize()
        letter = "ρ" if method == "Spearman" else "r"
        adjust = found.config.correlate.covariates
        figure = heat_map(_blocks(drawn), panels, norm=CenteredNorm(0, min(limit, 1)), extend=extend, label=f"{method} correlation {letter}")
        who = found.material.people.case if found.config.correlate.who == "cases" else "all people"
        n = int(sum(p.marks.to_numpy().sum() for p in panels if p.marks is not None))
        holes = int((~np.isfinite(drawn["r"])).sum())
        q = "" if np.isnan(top["q"]) else f", q {drawing.small(top['q'])}"
        what = quantity(*kind) if kind[0] else "measures of the cord"
        adjusted = f", adjusted for {drawing.listed(adjust)}" if adjust else ""
        places = f"at the level of the strongest one and at {panels[-1].title}" if len(levels) > 1 else f"at {panels[-1].title}"
        strongest = f"{letter} = {drawing.signed(top['r'])}, n = {int(top['n'])}{q}"
        caption = drawing.sentences(
            f"{method} correlation of {what} with clinical scores in {who}{adjusted}, {places}.",
            "Red: more of one with more of the other; blue: less.",
            f"The {len(scores)} of {every} scores with the strongest correlations are drawn." if len(scores) < every else "",
            f"A dot stands where q ≤ {alpha:g} ({n} of {len(drawn) - holes} cells); {drawing.discovery(found)}.",
            f"{holes} grey cells have too few values." if holes else "",
            drawing.not_drawn(part[schema.LEVEL], levels),
            f"The strongest is {drawing.feature_labels(_named(rows, top))[0]} with {top['score']}: {strongest}.",
        )
        name = f"correlations{drawing.suffix(number, kind)}"
        out.append(Drawn(name, "correlations", "Correlation with clinical scores", caption, ("correlations",), figure))
    return out


# --- norms ------------------------------------------------------------------------------------------------------------
def norm_deviations(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Every case against the norm, region by region, at the level where most cases are outside."""
    from matplotlib.colors import CenteredNorm

    rows, summary = drawing.table(found, "norms", "norms_summary"), drawing.table(found, "norms_summary", "norms")
    if rows is None or summary is None:
        return []
    out = []
    judged = found.material.people.case or found.material.people.control
    for number, kind in enumerate(drawing.map_kinds(rows) or [("", "")]):
        part, counts = _shape(rows, kind, number), _shape(summary, kind, number)
        share = counts.groupby(schema.LEVEL)[["outside", "n_case"]].sum()
        share = share[share["n_case"] > 0]
        level = level_order(share.index[share["outside"] / share["n_case"] == (share["outside"] / share["n_case"]).max()])[0]
        levels = list(part[schema.LEVEL])
        part, counts = part[part[schema.LEVEL] == level], counts[counts[schema.LEVEL] == level].set_index(schema.REGION)
        z = part.pivot(index=schema.REGION, columns=schema.SUBJECT, values="z")
        z = z[z.mean().sort_values(kind="stable").index]
        blocks = _blocks(part)
        z.columns = pd.Index([""] * z.shape[1])
        outside = 100 * counts["outside"] / counts["n_case"].where(counts["n_case"] > 0)
        figure = heat_map(
            blocks, [Panel("", z)], norm=CenteredNorm(0, Z_LIMIT), extend="both" if (z.abs() > Z_LIMIT).any(axis=None) else "neither",
            label="z (SD of the reference)", column=4.0, bottom=f"{z.shape[1]} {judged}, sorted by mean z",
        )  # fmt: skip
        where = "at the compression" if level == COMPRESSED else level
        worst = str(outside.idxmax())
        confidence = found.config.confidence
        adjust = list(found.material.people.covariates(found.config.norms.covariates))
        same = f" of the same {drawing.listed(adjust)}" if adjust else ""
        reference = f"{counts['reference'].iloc[0]}, n = {int(counts['n_reference'].max())}"
        caption = drawing.sentences(
            f"Each column is one of {z.shape[1]} {judged}, each row a region, at {where}: there most values are outside the healthy range.",
            f"Colours are the distance from the value expected of healthy people{same}, in SD of the reference ({reference}).",
            f"People are sorted by their mean{'; grey is missing' if z.isna().any(axis=None) else ''}.",
            drawing.not_drawn(levels, [level]),
            f"Most are outside the {confidence:.0%} range in {worst}, {outside.max():.0f}%; {1 - confidence:.0%} are expected of healthy people.",
        )
        name = f"norm_deviations{drawing.suffix(number, kind)}"
        title = f"Distance of {judged} from the norm, {where}"
        out.append(Drawn(name, "norms", title, caption, ("norms", "norms_summary"), figure))
    return out


# --- repeats ----------------------------------------------------------------------------------------------------------
def repeat_agreement(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Agreement of repeated sessions by region: intraclass correlation with its interval, and variation within a person."""
    rows = drawing.table(found, "repeats")
    if rows is None:
        return []
    out = []
    for number, kind in enumerate(drawing.map_kinds(rows) or [("", "")]):
        part = _shape(rows, kind, number)
        part = part[np.isfinite(part["icc21"])]
        if part.empty:
            continue
        many = part[schema.LEVEL].value_counts()
        level = drawing.remote_level(found, part[schema.LEVEL]) or level_order(many.index[many == many.max()])[0]
        part = part[part[schema.LEVEL] == level].set_index(schema.REGION)
        blocks = _blocks(part.reset_index())
        count = sum(len(b.names) for b in blocks)
        figure = drawing.page(max(45, drawing.ROW * count + 6 * len(blocks) + 14))
        grid = figure.subplots(len(blocks), 2, squeeze=False, sharex="col", gridspec_kw={"height_ratios": [len(b.names) for b in blocks]})
        for i, block in enumerate(blocks):
            here = part.loc[list(block.names)]
            y = np.arange(len(here))
            low, high = here["icc21"] - here["icc21_low"], here["icc21_high"] - here["icc21"]
            grid[i, 0].errorbar(here["icc21"], y, xerr=np.stack([low, high]), fmt="o", ms=3, color=INK, elinewidth=0.8)
            grid[i, 1].plot(here["cv"], y, "o", ms=3, color=INK)
            for axis in grid[i]:
                axis.set(ylim=(len(here) - 0.5, -0.5), yticks=[])
                axis.grid(axis="x", color="0.9", linewidth=0.6)
            grid[i, 0].axvline(0, color=drawing.FAINT, linewidth=0.6)
            grid[i, 0].set_yticks(y, block.words)
            grid[i, 0].tick_params(axis="y", length=0)
            grid[i, 0].set_title(block.title, loc="left", fontsize=drawing.SMALL, weight="bold", pad=2)
        grid[-1, 0].set_xlabel("ICC(2,1), absolute agreement")
        grid[-1, 0].set_xlim(max(-1.0, min(-0.05, float(np.nanmin(part["icc21_low"])) - 0.05)), 1.02)
        grid[-1, 1].set_xlabel("coefficient of variation within a person (%)")
        grid[-1, 1].set_xlim(left=0)
        n, sessions = int(part["n"].max()), int(part["sessions"].iloc[0])
        caption = drawing.sentences(
            f"Agreement of {sessions} sessions of the same {n} people at {level}: intraclass correlation for absolute agreement with its "
            f"{drawing.ci(found)}, and the coefficient of variation within a person.",
            "1 is perfect agreement; an ICC is also low where people hardly differ.",
            f"Median ICC {drawing.signed(part['icc21'].median())}, median variation {part['cv'].median():.1f}%.",
        )
        name = f"repeat_agreement{drawing.suffix(number, kind)}"
        out.append(Drawn(name, "repeats", "Agreement of repeated sessions", caption, ("repeats",), figure))
    return out
