"""Figures of people and scanners: who is analysed, the cord from top to bottom, its compression, sites, repeated sessions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.analysis.compression import NONE, UNKNOWN
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import CASE_COLOUR, CONTROL_COLOUR, FAINT, INK, Drawn, level_order, quantity, scale
from cohort_engine.study.format import equals
from cohort_engine.study.material import ESTIMATOR, METRIC, WHITE_MATTER
from cohort_engine.study.people import reasons

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cohort_engine.study.result import Analysis

MOST_REASONS = 6
MEDIANS = {0.0: ("control_median", CONTROL_COLOUR, "-"), 1.0: ("case_median", CASE_COLOUR, "--")}
"""Column, colour and line of each group's median along the cord."""


# --- who is analysed --------------------------------------------------------------------------------------------------
def flow(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """From the people of the store to those analysed."""
    from matplotlib.patches import FancyBboxPatch

    subjects = drawing.table(found, "subjects")
    if subjects is None:
        return []
    people = found.material.people
    gone, counts = people.excluded, reasons(people)
    said = [f"{textwrap.fill(str(r), 52, subsequent_indent='   ')}: {n}" for r, n in counts.head(MOST_REASONS).items()]
    if len(counts) > MOST_REASONS:
        said.append(f"other reasons ({len(counts) - MOST_REASONS}): {int(counts.iloc[MOST_REASONS:].sum())}")
    n = len(subjects) + len(gone)
    lines = sum(r.count("\n") + 1 for r in said) + 1
    middle = max(10.0, 4.0 * lines + 6)
    height = 12 + middle + 12 + 8 + 14
    figure = drawing.page(height + 4, 140)
    axis = figure.subplots()
    axis.set(xlim=(0, 140), ylim=(0, height), aspect="equal")
    axis.set_axis_off()

    def box(x: float, y: float, w: float, h: float, text: str, colour: str = INK, align: str = "center") -> None:
        axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=1.5", facecolor="white", edgecolor=colour, linewidth=1.0))
        axis.text(x + w / 2 if align == "center" else x + 3, y + h / 2, text, ha=align, va="center", fontsize=8, linespacing=1.3)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0})

    top = height - 11
    box(2, top, 56, 10, f"sessions in the store: {n}")
    low = 14 + 8
    box(2, low, 56, 10, f"people analysed: {len(subjects)}")
    arrow((30, top), (30, low + 10))
    at = (top + low + 10) / 2
    box(66, at - middle / 2, 72, middle, "\n".join([f"left out: {len(gone)}", *said]), FAINT, "left")
    arrow((30, at), (66, at))
    for code, name in reversed(people.groups):
        x, colour = (32, CONTROL_COLOUR) if code == 0 else (2, CASE_COLOUR)
        box(x, 1, 26, 12, f"{name}\nn = {int((people.group == code).sum())}", colour)
        arrow((x + 13, low), (x + 13, 13))
    told = f"; {len(gone)} are left out for the reasons given" if len(gone) else "; nobody is left out"
    caption = f"Of {n} sessions in the store {len(subjects)} people are analysed, {drawing.sample(found)}{told}. A person counts once."
    return [Drawn("flow", "people", "Who is analysed", caption, ("subjects", "excluded"), figure)]


# --- the cord from top to bottom --------------------------------------------------------------------------------------
def profiles(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Measures along the cord: the healthy band, the cases' mean, and where cords are compressed."""
    rows = drawing.table(found, "profiles")
    if rows is None:
        return []
    people = found.material.people
    sites = drawing.table(found, "compression_levels")
    measures = list(dict.fromkeys(rows["measure"]))
    wide = [1.0] * len(measures) + ([0.6] if sites is not None else [])
    figure = drawing.page(120, min(drawing.WIDTH, 30 + 55 * sum(wide)))
    panels = figure.subplots(1, len(wide), sharey=True, squeeze=False, width_ratios=wide)[0]
    middle = rows[rows[schema.LEVEL_NUMBER] > 0].groupby(schema.LEVEL_NUMBER)["z_mm"].agg(["min", "max", "mean"])
    for axis, name in zip(panels, measures, strict=False):
        part = rows[rows["measure"] == name].sort_values("z_mm")
        z = part["z_mm"]
        if part["control_low"].notna().any():
            words = f"{people.control}, 5 to 95%"
            axis.fill_betweenx(z, part["control_low"], part["control_high"], color=CONTROL_COLOUR, alpha=0.2, linewidth=0, label=words)
        for code, group in people.groups:
            key, colour, line = MEDIANS[code]
            axis.plot(part[key], z, color=colour, linestyle=line, label=f"{group}, median")
        axis.set_xlabel(drawing.with_unit(quantity(name, ""), scale(str(part["units"].iloc[0]))))
    for axis in panels:
        _level_axis(axis, middle, float(rows["z_mm"].min()), float(rows["z_mm"].max()))
    panels[0].set_ylabel("vertebral level (height in the template)")
    where = ""
    if sites is not None:
        _site_bars(panels[-1], sites, middle, found)
        nobody = sites[sites["level"].isin([NONE, UNKNOWN])].groupby("level")["people"].sum()
        rest = [f"{int(nobody.get(k, 0))} are {'not compressed' if k == NONE else 'unknown'}" for k in (NONE, UNKNOWN)]
        where = f"Right: people by the level of their narrowest place, if it is called compressed; {', '.join(rest)}."
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    banded = bool(rows["control_low"].notna().any())
    n, least = (rows[["n_control", "n_case"]].agg(f).to_numpy() for f in ("max", "min"))
    reach = [f"{drawing.count_range(least[int(code)], n[int(code)])} {name}" for code, name in people.groups]
    said = [f"median{' and 5 to 95% band' if banded and code == 0 else ''} of {name}" for code, name in people.groups]
    caption = drawing.sentences(
        f"Cord from top to bottom, slice by slice of the template: {', '.join(said)}.",
        "" if banded or not people.control else f"For a 5 to 95% band there are too few {people.control}.",
        f"A slice has {drawing.listed(reach)}, as far as images reach.",
        where,
    )
    tables = ("profiles", *(("compression_levels",) if sites is not None else ()))
    return [Drawn("profiles", "norms", "The cord from top to bottom", caption, tables, figure)]


def _level_axis(axis: Axes, middle: pd.DataFrame, low: float, high: float) -> None:
    """Level names at their middle, thin lines between levels."""
    names = [schema.LEVEL_NAMES[int(n) - 1] for n in middle.index]
    axis.set_yticks(middle["mean"], names)
    axis.tick_params(axis="y", length=0)
    down = middle.sort_values("mean", ascending=False)
    for upper, lower in zip(down["min"].to_numpy()[:-1], down["max"].to_numpy()[1:], strict=True):
        axis.axhline((upper + lower) / 2, color="0.9", linewidth=0.6, zorder=0)
    axis.set_ylim(low, high)


def _site_bars(axis: Axes, sites: pd.DataFrame, middle: pd.DataFrame, found: Analysis) -> None:
    from matplotlib.ticker import MaxNLocator

    people = found.material.people
    counts = sites.pivot(index="level", columns=schema.GROUP, values="people").fillna(0)
    numbers = {schema.LEVEL_NAMES[int(n) - 1]: n for n in middle.index}
    known = [n for n in counts.index if n in numbers]
    at = middle.loc[[numbers[n] for n in known]]
    height = 0.36 * (at["max"] - at["min"]).to_numpy()
    for code, group in people.groups:
        colour, side = ((CONTROL_COLOUR, -1), (CASE_COLOUR, 1))[int(code)]
        values = counts[group].reindex(known) if group in counts else pd.Series(0.0, known)
        axis.barh(at["mean"].to_numpy() + side * height / 2, values.to_numpy(float), height=height, color=colour)
    axis.set_xlabel("compressed there (people)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def compression(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Compression ratio by group with its limit, and people by level of compression."""
    rows, counts, summary = (drawing.table(found, n) for n in ("compression", "compression_levels", "compression_summary"))
    if rows is None or counts is None or summary is None:
        return []
    people, s = found.material.people, summary.iloc[0]
    figure = drawing.page(78)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    groups = [(name, (CONTROL_COLOUR, CASE_COLOUR)[int(code)]) for code, name in people.groups]
    dense = len(rows) > 500
    ticks = []
    for at, (name, colour) in enumerate(groups):
        ratio = rows.loc[rows[schema.GROUP] == name, "ratio"].dropna().to_numpy(float)
        ticks.append(f"{name}\nn = {len(ratio)}")
        if not len(ratio):
            continue
        left.scatter(at + 0.3 * drawing.spread(ratio), ratio, s=10, color=colour, alpha=0.7, linewidths=0, rasterized=dense, zorder=2)
        left.boxplot(
            [ratio], positions=[at], widths=0.75, showfliers=False, medianprops={"color": "black", "lw": 1.2}, boxprops={"lw": 0.8, "color": INK},
            whiskerprops={"lw": 0.8, "color": INK}, capprops={"lw": 0.8, "color": INK}, manage_ticks=False, zorder=3,
        )  # fmt: skip
    left.axhline(s["limit"], color=INK, linestyle="--", linewidth=0.9)
    left.annotate(
        "limit", (1.0, s["limit"]), (2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=drawing.SMALL
    )
    left.set_xticks(range(len(ticks)), ticks)
    left.set(xlim=(-0.6, len(ticks) - 0.4), ylabel="smallest ratio (1 is healthy)")
    _level_bars(right, counts, groups)
    measure = quantity(str(s["measure"]), "")
    specificity = found.config.compression.specificity
    called = {n: int((rows.loc[rows[schema.GROUP] == n, "margin"] > 0).sum()) for n, _ in groups}
    caption = drawing.sentences(
        f"Left: smallest ratio of the {measure} to the slices above and below, after division by the mean of {people.control}; boxes are quartiles, "
        "whiskers reach at most 1.5 box lengths.",
        f"Below the limit of {s['limit']:.3f} (broken line; {specificity:.0%} of {int(s['n_limit'])} {people.control} lie above) a cord is called "
        f"compressed: {' and '.join(f'{k} {name}' for name, k in reversed(called.items()))}.",
        f"Area under the ROC curve {s['auc']:.2f}{drawing.between(s['auc_low'], s['auc_high'])}." if len(groups) > 1 else "",
        "Right: people by the level of their compression.",
    )
    return [
        Drawn("compression", "compression", "Compression of the cord", caption, ("compression", "compression_levels", "compression_summary"), figure)
    ]


def _level_bars(axis: Axes, counts: pd.DataFrame, groups: list[tuple[str, str]]) -> None:
    from matplotlib.ticker import MaxNLocator

    names = [n for n in level_order(counts["level"]) if n not in (NONE, UNKNOWN)] + [n for n in (NONE, UNKNOWN) if n in set(counts["level"])]
    for side, (group, colour) in zip((-0.2, 0.2) if len(groups) > 1 else (0.0,), groups, strict=True):
        values = counts[counts[schema.GROUP] == group].set_index("level")["people"].reindex(names).fillna(0)
        bars = axis.bar(np.arange(len(names)) + side, values, width=0.38, color=colour, label=group)
        axis.bar_label(bars, [f"{int(v)}" if v else "" for v in values], fontsize=drawing.SMALL, padding=1)
    axis.set_xticks(np.arange(len(names)), names, rotation=90 if len(names) > 12 else 0)
    axis.set(xlabel="level of the compression", ylabel="people")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.legend(loc="upper left")
    axis.margins(y=0.12)


# --- scanners ---------------------------------------------------------------------------------------------------------
def sites(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Means of each scanner before and after harmonisation, in the leading union."""
    rows = drawing.table(found, "sites")
    if rows is None:
        return []
    people = found.material.people
    feature = leading_feature(found, rows)
    part = rows.loc[np.logical_and.reduce([rows[k] == v for k, v in feature.items()])]
    done = bool(found.config.harmonise.site)
    places = list(dict.fromkeys(part["site"]))
    longest = max(map(len, places))
    turned = longest * len(places) > 24
    figure = drawing.page(80 + (1.3 * longest if turned else 0), min(drawing.WIDTH, 60 + (2 if done else 1) * max(38, 9 * len(places))))
    panels = figure.subplots(1, 2 if done else 1, sharey=True, squeeze=False)[0]
    for axis, (title, mean, sd) in zip(panels, (("before", "mean", "sd"), ("after harmonisation", "mean_harmonised", "sd_harmonised")), strict=False):
        for code, name in people.groups:
            side, colour, mark = ((-0.13, CONTROL_COLOUR, "o"), (0.13, CASE_COLOUR, "s"))[int(code)]
            here = part[part[schema.GROUP] == name].set_index("site").reindex(places)
            axis.errorbar(
                np.arange(len(places)) + side, here[mean], yerr=here[sd].fillna(0), fmt=mark, ms=4, color=colour, elinewidth=0.9, label=name
            )
            overall = np.average(here[mean].dropna(), weights=here["n"][here[mean].notna()]) if here[mean].notna().any() else np.nan
            axis.axhline(overall, color=colour, linewidth=0.7, linestyle=":", zorder=0)
        axis.set_xticks(np.arange(len(places)), places, rotation=90 if turned else 0)
        axis.set(xlim=(-0.6, len(places) - 0.4), xlabel="site")
        if done:
            axis.set_title(title)
    unit = str(part["units"].iloc[0])
    what = drawing.feature_labels(part)[0]
    panels[0].set_ylabel(drawing.with_unit(what, scale(unit)))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    caption = f"Mean and SD of {what} at each site, by group; dotted lines are the means over sites. {_n_of_sites(part)} {_telling(found)}"
    return [Drawn("sites", "sites", "Sites before and after harmonisation" if done else "Sites", caption.rstrip(), _tables(found), figure)]


def _tables(found: Analysis) -> tuple[str, ...]:
    return tuple(n for n in ("sites", "site_check") if drawing.table(found, n) is not None)


def _n_of_sites(part: pd.DataFrame) -> str:
    counts = part.groupby("site", sort=False)["n"].sum()
    return (
        f"{counts.size} sites with {drawing.count_range(counts.min(), counts.max())} people each."
        if counts.size > 1
        else f"{int(counts.sum())} people."
    )


def _telling(found: Analysis) -> str:
    """Say how well a classifier tells the site."""
    check = drawing.table(found, "site_check")
    if check is None:
        return ""
    row = check.iloc[0]
    without = f", {int(row['left_out'])} left out" if row.get("left_out", 0) else ""
    return f"{told_sites(check)}; {int(row['folds'])}-fold cross-validation of all features{without}."


def told_sites(table: pd.DataFrame) -> str:
    """Say how well the site of held-out people is told, and what chance reaches."""
    rows = table.to_dict("records")
    when = [f" {r['when']} harmonisation" if len(rows) > 1 else "" for r in rows]
    chance = [f"by chance {r['low']:.0%} to {r['high']:.0%}, p {equals(r['p'])}" for r in rows]
    parts = [f"{r['accuracy']:.0%}{w} ({c})" for r, w, c in zip(rows, when, chance, strict=True)]
    return f"A classifier tells the site of {int(rows[0]['n'])} held-out people with a balanced accuracy of {' and '.join(parts)}"


def leading_feature(found: Analysis, rows: pd.DataFrame) -> dict[str, Any]:
    """Pick the feature that stands for all: white matter (or else the first region) of the first metric, at the remote level (or else the first)."""
    kinds = drawing.map_kinds(rows)
    kind = kinds[0] if kinds else (str(rows[METRIC].iloc[0]), str(rows[ESTIMATOR].iloc[0]))
    part = drawing.of_kind(rows, kind)
    regions = list(dict.fromkeys(part[schema.REGION]))
    region = WHITE_MATTER if WHITE_MATTER in regions else regions[0]
    part = part[part[schema.REGION] == region]
    level = drawing.remote_level(found, part[schema.LEVEL]) or level_order(part[schema.LEVEL])[0]
    return {METRIC: kind[0], ESTIMATOR: kind[1], schema.REGION: region, schema.LEVEL: level}


# --- repeated sessions ------------------------------------------------------------------------------------------------
def repeat_differences(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Bland and Altman's plot of the first two sessions, for the leading union and the area."""
    rows, x = drawing.table(found, "repeats"), found.material.repeats
    if rows is None or x is None:
        return []
    leading = leading_feature(found, rows)
    area = rows[(rows[METRIC] == schema.AREA) & (rows[schema.LEVEL] == leading[schema.LEVEL])]
    chosen = [int(rows.index[np.logical_and.reduce([rows[k] == v for k, v in leading.items()])][0]), *(int(i) for i in area.index)]
    chosen = [i for i in dict.fromkeys(chosen) if np.isfinite(rows["bias"].loc[i])][:2]
    if not chosen:
        return []
    figure = drawing.page(70, 90 * len(chosen) if len(chosen) > 1 else 110)
    said = []
    for axis, i in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        first, second = x[:, 0, i], x[:, 1, i]
        row, name, unit = rows.loc[[i]].iloc[0], drawing.feature_labels(rows.loc[[i]])[0], str(rows.at[i, "units"])
        axis.scatter((first + second) / 2, first - second, s=12, color=INK, alpha=0.7, linewidths=0, rasterized=len(first) > 500)
        for key, dash in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
            axis.axhline(row[key], color=INK, linewidth=0.9, linestyle=dash)
            text = drawing.signed(row[key], "+.2g")
            axis.annotate(
                text, (1.0, row[key]), (2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=drawing.SMALL
            )
        axis.axhline(0, color=FAINT, linewidth=0.6, linestyle=":")
        axis.set_title(name)
        axis.set_xlabel(drawing.with_unit("mean of two sessions", scale(unit)))
        axis.set_ylabel(drawing.with_unit("first − second", scale(unit, difference=True)))
        low, high = drawing.signed(row["limit_low"], "+.2g"), drawing.measured(row["limit_high"], unit, difference=True, digits="+.2g")
        said.append(f"{name}: bias {drawing.signed(row['bias'], '+.2g')}, limits of agreement {low} to {high} (n = {int(row['n'])})")
    caption = drawing.sentences(
        "Difference of the first two sessions against their mean, after Bland and Altman; lines are bias and 95% limits of agreement.",
        f"{'; '.join(said)}.",
    )
    return [Drawn("repeat_differences", "repeats", "Differences between sessions", caption, ("repeats",), figure)]
