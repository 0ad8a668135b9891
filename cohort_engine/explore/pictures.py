"""Figures of a view. Each is made once and then given other numbers, which is what makes a change quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    FactorRange,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
)
from bokeh.palettes import RdBu11, Viridis256
from bokeh.plotting import figure

from cohort_engine import schema
from cohort_engine.explore.numbers import FloatArray, Groups, Picked, Profiles, Relation, Separation
from cohort_engine.pictures.paint import GROUP_COLOURS as COLOURS

MARKS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "plus", "x", "asterisk")
MARKED = "#000000"
MOST_POINTS = 3000
"""More people than these are drawn as a sample, with the boxes of all."""
ROW_HEIGHT = 15
"""Pixels of a row of the heat map."""
TOOLS = "pan,box_zoom,wheel_zoom,reset,save"
DIVERGING = tuple(RdBu11)
"""From blue (lower) over white to red (higher)."""
SEQUENTIAL = tuple(Viridis256)
"""From dark (low) to light (high)."""
FROM_NOTHING = "#eeeeee"


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """Colour of each group.

    Examples
    --------
    >>> colour_of(["HC", "DCM"])
    {'HC': '#0072B2', 'DCM': '#D55E00'}
    """
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def scattered(n: int, width: float = 0.3, seed: int = 0) -> FloatArray:
    """Places beside the middle for n points, the same at every call.

    Examples
    --------
    >>> bool((abs(scattered(5)) <= 0.3).all()), scattered(5).tolist() == scattered(5).tolist()
    (True, True)
    """
    return np.random.default_rng(seed).uniform(-width, width, n)


def _blank(title: str, width: int, height: int, **more: Any) -> Any:
    plot = figure(title=title, width=width, height=height, tools=TOOLS, sizing_mode="fixed", output_backend="canvas", **more)
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.title.text_font_size = "10.5pt"
    plot.grid.grid_line_color = FROM_NOTHING
    plot.outline_line_color = None
    return plot


class GroupPoints:
    """Everybody's value by group, with quartiles and median."""

    def __init__(self) -> None:
        self.points = ColumnDataSource({"x": [], "y": [], "colour": [], "mark": [], "row": []})
        self.boxes = ColumnDataSource({"x": [], "low": [], "middle": [], "high": [], "colour": [], "left": [], "right": []})
        self.marked = ColumnDataSource({"x": [], "y": []})
        self.figure = _blank("", 420, 330)
        self.figure.scatter("x", "y", source=self.points, color="colour", marker="mark", size=5, alpha=0.55)
        self.figure.quad(left="left", right="right", bottom="low", top="high", source=self.boxes, fill_alpha=0.0, line_color="colour", line_width=1.5)
        self.figure.segment("left", "middle", "right", "middle", source=self.boxes, color="colour", line_width=3)
        self.figure.scatter("x", "y", source=self.marked, color=MARKED, marker="star", size=16)
        self.figure.xgrid.grid_line_color = None
        self.figure.add_tools(HoverTool(tooltips=[("row", "@row"), ("value", "@y{0.00}")], renderers=[self.figure.renderers[0]]))

    def show(self, picked: Picked, rows: Any, label: str, person: tuple[str, float] | None) -> None:
        """Draw a cell: `rows` (n,) are shown beside the pointer, `person` is the group and value of who is marked."""
        found: Groups = picked.groups()
        colours = colour_of(found.names)
        seen = np.flatnonzero(~np.isnan(picked.values))
        if len(seen) > MOST_POINTS:
            seen = np.sort(np.random.default_rng(0).choice(seen, MOST_POINTS, replace=False))
        place = {name: float(i) for i, name in enumerate(found.names)}
        middles = np.array([place[str(g)] for g in picked.group[seen]])
        self.points.data = {
            "x": middles + scattered(len(seen)), "y": picked.values[seen], "colour": [colours[str(g)] for g in picked.group[seen]],
            "mark": [MARKS[int(m) % len(MARKS)] for m in middles], "row": np.asarray(rows)[seen],
        }  # fmt: skip
        some = [(i, name, v) for i, (name, v) in enumerate(zip(found.names, found.values, strict=True)) if len(v)]
        quartiles = np.array([np.percentile(v, (25, 50, 75)) for _, _, v in some]).reshape(-1, 3)
        self.boxes.data = {
            "x": [i for i, _, _ in some], "left": [i - 0.35 for i, _, _ in some], "right": [i + 0.35 for i, _, _ in some],
            "low": quartiles[:, 0], "middle": quartiles[:, 1], "high": quartiles[:, 2], "colour": [colours[name] for _, name, _ in some],
        }  # fmt: skip
        self.marked.data = {"x": [], "y": []} if person is None else {"x": [place.get(person[0], 0.0)], "y": [person[1]]}
        self.figure.xaxis.ticker = FixedTicker(ticks=list(range(len(found.names))))
        self.figure.xaxis.major_label_overrides = {
            i: f"{name} (n = {len(v)}{f', {m} missing' if m else ''})"
            for i, (name, v, m) in enumerate(zip(found.names, found.values, found.missing, strict=True))
        }
        self.figure.yaxis.axis_label = label
        self.figure.title.text = "Groups: median and quartiles" + (f" of all, {MOST_POINTS} of the people" if len(seen) == MOST_POINTS else "")


class AlongTheCord:
    """Means of groups by level, with the range of the reference."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.figure = _blank("", 420, 330, y_range=FactorRange(*reversed(levels)))
        self.band = ColumnDataSource({"level": [], "low": [], "high": []})
        self.figure.harea(x1="low", x2="high", y="level", source=self.band, fill_color="#999999", fill_alpha=0.25)
        self.groups = [ColumnDataSource({"level": [], "mean": [], "n": []}) for _ in COLOURS]
        self.lines = []
        for source, colour, mark in zip(self.groups, COLOURS, MARKS, strict=True):
            self.figure.line("mean", "level", source=source, color=colour, line_width=2)
            self.lines.append(self.figure.scatter("mean", "level", source=source, color=colour, marker=mark, size=8, fill_alpha=0.6))
        self.person = ColumnDataSource({"level": [], "value": []})
        self.figure.line("value", "level", source=self.person, color=MARKED, line_width=2, line_dash="dashed")
        self.figure.scatter("value", "level", source=self.person, color=MARKED, marker="star", size=12)
        self.figure.add_tools(HoverTool(tooltips=[("level", "@level"), ("mean", "@mean{0.00}"), ("n", "@n")], renderers=self.lines))

    def show(self, found: Profiles, label: str, reference: str) -> None:
        """Draw a region along the cord."""
        levels = np.array(found.levels, object)
        known = ~np.isnan(found.low)
        self.band.data = {"level": levels[known], "low": found.low[known], "high": found.high[known]}
        for i, source in enumerate(self.groups):
            if i < len(found.names):
                some = ~np.isnan(found.mean[i])
                source.data = {"level": levels[some], "mean": found.mean[i][some], "n": found.n[i][some]}
            else:
                source.data = {"level": [], "mean": [], "n": []}
        there = ~np.isnan(found.person)
        self.person.data = {"level": levels[there], "value": found.person[there]}
        self.figure.xaxis.axis_label = label
        self.figure.title.text = "Along the cord" + (f"; grey: mean ± 1.96 SD of {reference}" if known.any() else "")


class Heat:
    """Every region at every level; a tap looks there."""

    def __init__(self, levels: Sequence[str], chosen: Callable[[str, str], None]) -> None:
        self.mapper = LinearColorMapper(palette=list(DIVERGING), low=-1, high=1, nan_color="#d9d9d9")
        self.source = ColumnDataSource({"level": [], "tract": [], "value": []})
        self.here = ColumnDataSource({"level": [], "tract": []})
        self.figure = _blank("", 860, 200, x_range=FactorRange(*levels), y_range=FactorRange())
        cells = self.figure.rect("level", "tract", 1, 1, source=self.source, fill_color={"field": "value", "transform": self.mapper}, line_color=None)
        self.figure.rect("level", "tract", 1, 1, source=self.here, fill_alpha=0, line_color=MARKED, line_width=2)
        self.figure.yaxis.major_label_text_font_size = "8pt"
        self.figure.add_layout(ColorBar(color_mapper=self.mapper, ticker=BasicTicker(), width=10), "right")
        self.figure.add_tools(HoverTool(tooltips=[(schema.REGION, "@tract"), ("level", "@level"), ("value", "@value{0.00}")], renderers=[cells]))
        self.chosen = chosen
        self.figure.on_event(Tap, self._tapped)

    def show(self, picked: Picked, label: str) -> None:
        """Draw the whole metric."""
        values, compared = picked.heat()
        finite = values[np.isfinite(values)]
        if compared:
            end = max(0.5, float(np.max(np.abs(finite), initial=0.0)))
            self.mapper.update(palette=list(DIVERGING), low=-end, high=end)
        else:
            low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
            self.mapper.update(palette=list(SEQUENTIAL), low=low, high=high if high > low else low + 1)
        regions = list(reversed(picked.regions))
        if list(self.figure.y_range.factors) != regions:
            self.figure.y_range.factors = regions
            self.figure.height = 70 + ROW_HEIGHT * max(3, len(regions))
        level, tract = np.indices(values.shape).reshape(2, -1)
        self.source.data = {
            "level": np.array(picked.levels, object)[level], "tract": np.array(picked.regions, object)[tract], "value": values.ravel().astype(float),
        }  # fmt: skip
        self.here.data = {"level": [picked.view.level], "tract": [picked.view.tract]}
        reference = picked.view.reference
        words = f"others minus {reference}, in SD of {reference}" if compared else f"mean, {label}"
        self.figure.title.text = f"Everywhere: {words} (click to look)"

    def _tapped(self, event: Any) -> None:
        """Look at the cell under the pointer; an axis of words counts from 0."""
        levels, regions = list(self.figure.x_range.factors), list(self.figure.y_range.factors)
        if isinstance(event.x, float | int) and isinstance(event.y, float | int):
            x, y = int(event.x), int(event.y)
            if 0 <= x < len(levels) and 0 <= y < len(regions):
                self.chosen(regions[y], levels[x])


class AgainstScore:
    """The cell against a score."""

    def __init__(self) -> None:
        self.points = ColumnDataSource({"x": [], "y": [], "colour": [], "mark": [], "row": []})
        self.marked = ColumnDataSource({"x": [], "y": []})
        self.figure = _blank("", 420, 330)
        dots = self.figure.scatter("x", "y", source=self.points, color="colour", marker="mark", size=5, alpha=0.55)
        self.figure.scatter("x", "y", source=self.marked, color=MARKED, marker="star", size=16)
        self.figure.add_tools(HoverTool(tooltips=[("row", "@row"), ("score", "@x"), ("value", "@y{0.00}")], renderers=[dots]))

    def show(self, picked: Picked, found: Relation | None, rows: Any, label: str, person: tuple[float, float] | None) -> None:
        """Draw the people who have both."""
        score = picked.view.score
        if found is None:
            self.points.data = {"x": [], "y": [], "colour": [], "mark": [], "row": []}
            self.figure.title.text = f"Against {score}: fewer than three people have both" if score else "Against a score: none is chosen"
            return
        both = np.flatnonzero(~np.isnan(found.score) & ~np.isnan(picked.values))
        if len(both) > MOST_POINTS:
            both = np.sort(np.random.default_rng(0).choice(both, MOST_POINTS, replace=False))
        colours, names = colour_of(picked.names), list(picked.names)
        groups = [str(g) for g in picked.group[both]]
        self.points.data = {
            "x": found.score[both], "y": picked.values[both], "colour": [colours[g] for g in groups],
            "mark": [MARKS[names.index(g) % len(MARKS)] for g in groups], "row": np.asarray(rows)[both],
        }  # fmt: skip
        self.marked.data = {"x": [], "y": []} if person is None else {"x": [person[0]], "y": [person[1]]}
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = score, label
        p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
        interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
        self.figure.title.text = f"Spearman's ρ {found.r:.2f}{interval}, {p}, n = {found.n}"


class Roc:
    """How well the cell tells the others from the reference."""

    def __init__(self) -> None:
        self.source = ColumnDataSource({"x": [], "y": []})
        self.figure = _blank("", 420, 330, x_range=Range1d(-0.02, 1.02), y_range=Range1d(-0.02, 1.02))
        self.figure.line("x", "y", source=self.source, color=COLOURS[0], line_width=2)
        self.figure.add_layout(Span(location=0, dimension="width", line_color="#cccccc"))
        self.figure.line([0, 1], [0, 1], color="#999999", line_dash="dotted")
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = "1 − specificity", "sensitivity"

    def show(self, picked: Picked, found: Separation | None, *, rises: bool) -> None:
        """Draw the curve, or say why there is none."""
        if found is None:
            self.source.data = {"x": [], "y": []}
            self.figure.title.text = "ROC: choose a reference group, and show others beside it"
            return
        self.source.data = {"x": found.false_alarms, "y": found.hits}
        interval = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
        way = "higher" if rises else "lower"
        self.figure.title.text = f"ROC ({way} is ill): area {found.area:.2f}{interval}, n = {found.n[0]} + {found.n[1]}"
