"""The page of the explorer: what can be chosen at the left, what it shows at the right. One page is made for each browser window."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import ColumnDataSource, DataTable, NumberFormatter, StringFormatter, TableColumn

from cohort_engine.errors import CohortError
from cohort_engine.explore.cord import Cord, filled, paths
from cohort_engine.explore.numbers import Explored, Picked
from cohort_engine.explore.person import Person
from cohort_engine.explore.pictures import DIVERGING, SEQUENTIAL, AgainstScore, AlongTheCord, GroupPoints, Heat, Roc, colour_of
from cohort_engine.explore.view import View
from cohort_engine.figures.cross_section import TISSUES
from cohort_engine.figures.drawing import scale, with_unit
from cohort_engine.single.columns import Columns

NOBODY, NOTHING = "(nobody)", "(none)"
WHOLE_CORD = "all"
"""Level that pools the whole cord."""
MOST_ROWS = 500
"""Rows of the table on the page; the file has all."""
STYLE = """
body { font-family: system-ui, sans-serif; margin: 0.6rem; background: #ffffff; }
@media print { .choices { display: none; } }
"""


class Page:
    """The explorer of one browser window.

    Parameters
    ----------
    explored : Explored
        Shared by all windows.
    opened : callable
        Returns the opened Dataset, which the drawing of the cord is made from.
    search : str
        The address behind ``?``.
    may_rate : bool
        Whether ratings may be saved.
    """

    def __init__(self, explored: Explored, opened: Callable[[], xr.Dataset], search: str = "", *, may_rate: bool = True) -> None:
        self.explored, self.opened = explored, opened
        view, self.trouble = explored.start(), ""
        try:
            view = explored.checked(View.of_address(search, view))
        except CohortError as error:
            self.trouble = str(error)
        self.picked = explored.pick(view)
        self._quiet = False
        self._drawings: dict[str, dict[str, Any]] = {}
        self._widgets()
        self.points, self.along, self.score, self.roc = GroupPoints(), AlongTheCord(explored.levels), AgainstScore(), Roc()
        self.heat = Heat(explored.levels, self._look)
        self.cord = Cord(width=310, height=280)
        self.cord.param.watch(self._cord_chosen, "chosen")
        self.person = Person(explored, opened, self._rated, may_rate=may_rate)
        self.source = ColumnDataSource({})
        self.source.selected.on_change("indices", self._row_chosen)
        self.table = DataTable(source=self.source, columns=[], width=860, height=260, index_position=None, reorderable=False)
        self.counts, self.notes, self.code = pn.pane.HTML(""), pn.pane.HTML("", width=860), pn.pane.HTML("", width=860)
        self.show(view)

    @property
    def view(self) -> View:
        """What is shown."""
        return self.picked.view

    # --- choices ---
    def _widgets(self) -> None:
        one, wide = self.explored, {"width": 260}
        self.metric = pn.widgets.Select(name="Metric", options={w: m for m, w in one.metrics.items()}, **wide)
        self.tract = pn.widgets.Select(name="Region", options=[], **wide)
        self.level = pn.widgets.Select(name="Level", options=[*one.levels, WHOLE_CORD], **wide)
        self.split = pn.widgets.Select(name="Colour by", options={NOTHING: "", **{n: n for n in one.words}}, **wide)
        self.reference = pn.widgets.Select(name="Compared with", options={NOBODY: ""}, **wide)
        self.against = pn.widgets.Select(name="Score", options={NOTHING: "", **{n: n for n in one.numbers}}, **wide)
        self.row = pn.widgets.TextInput(name="Mark the person of row", placeholder="a row of the store", **wide)
        self.among = {n: pn.widgets.CheckBoxGroup(name=n, options=list(words), inline=True, **wide) for n, words in one.words.items()}
        self.between = {n: pn.widgets.RangeSlider(name=n, start=low, end=high, value=(low, high), **wide) for n, (low, high) in one.numbers.items()}
        for widget in (self.metric, self.tract, self.level, self.split, self.reference, self.against, self.row, *self.among.values()):
            widget.param.watch(self._changed, "value")
        for slider in self.between.values():
            slider.param.watch(self._changed, "value_throttled")

    def _changed(self, event: Any) -> None:
        if self._quiet:
            return
        only = [(name, text) for name, text in self.view.query.only if name not in self.among and name not in self.between]  # of the address alone
        only += [(name, word) for name, widget in self.among.items() for word in widget.value]
        for name, slider in self.between.items():
            low, high = (f"{end:g}" if end != whole else "" for end, whole in zip(slider.value, (slider.start, slider.end), strict=True))
            if low or high:
                only.append((name, f"{low}:{high}"))
        row = str(self.row.value).strip()
        view = self.view.at(metric=self.metric.value, tract=self.tract.value, level=self.level.value).showing(tuple(only))
        reference = self.reference.value if self.split.value == self.view.split else ""
        self.show(View(view.query, self.split.value, reference, self.against.value, int(row) if row.isdecimal() else None))

    def _look(self, tract: str, level: str) -> None:
        self.show(self.view.at(tract=tract, level=level))

    def _cord_chosen(self, event: Any) -> None:
        if not self._quiet and event.new and event.new != self.view.tract:
            self._show_in_turn(self.view.at(tract=event.new))

    def _row_chosen(self, attribute: str, old: list[int], new: list[int]) -> None:
        """Mark the person whose line of the table was clicked."""
        if new and new[0] < len(self.picked.at):
            self.show(replace(self.view, row=int(self.explored.cohort.rows[self.picked.at[new[0]]])))

    def _rated(self) -> None:
        """Show the values without whom the rating leaves out."""
        self._show_in_turn(self.view)

    def _show_in_turn(self, view: View) -> None:
        """Show a view when the session may be changed: Panel tells of a click without waiting for that where a text field was left just before."""
        session = pn.state.curdoc
        if session is None or session.session_context is None:
            self.show(view)
        else:
            session.add_next_tick_callback(partial(self.show, view))

    # --- what is shown ---
    def show(self, view: View) -> None:
        """Show another view; one that the cohort cannot answer leaves the page as it is, and is told."""
        try:
            picked = self.explored.pick(self.explored.checked(view))
        except CohortError as error:
            self.trouble = str(error)
            self._say()
            return
        self.picked = picked
        self._settle(self.view)
        self._draw(picked)
        if pn.state.location is not None:
            pn.state.location.search = f"?{self.view.address()}"
        self._say()
        self.trouble = ""

    def _settle(self, view: View) -> None:
        """Let the choices say what is shown."""
        self._quiet = True
        try:
            self.metric.value = view.metric
            regions = list(self.explored.regions(view.metric))
            self.tract.options = regions if view.tract in regions else [*regions, view.tract]
            self.tract.value = view.tract
            if view.level not in self.level.options:
                self.level.options = [*self.level.options, view.level]
            self.level.value, self.split.value = view.level, view.split
            self.reference.options = {NOBODY: "", **{w: w for w in self.explored.words.get(view.split, ())}}
            self.reference.value, self.against.value = view.reference, view.score
            self.row.value = "" if view.row is None else str(view.row)
            for name, widget in self.among.items():
                given = [t for n, t in view.query.only if n == name]
                widget.value = [w for w in widget.options if w in given or any(w in t.split(",") for t in given)]
            for name, slider in self.between.items():
                given = [t for n, t in view.query.only if n == name]
                low, _, high = given[-1].partition(":") if given else ("", "", "")
                ends = (float(low) if low else slider.start, float(high) if high else slider.end)
                slider.value = (max(slider.start, ends[0]), min(slider.end, ends[1]))
            self.cord.chosen = view.tract
        finally:
            self._quiet = False

    def _draw(self, picked: Picked) -> None:
        view, one = picked.view, self.explored
        label = with_unit(one.metrics[view.metric], scale(one.units(view.metric)))
        person = one.person(view)
        rows = one.cohort.rows[picked.at]
        value = group = score = None
        if person is not None:
            value = float(one.cell(view.metric, view.tract, view.level)[person[0]])
            group = str(one.people[view.split][person[0]]) if view.split else ""
            score = float(one.people[view.score][person[0]]) if view.score else None
        self.points.show(picked, rows, label, None if value is None or group is None else (group, value))
        self.along.show(picked.profiles(None if person is None else person[1]), label, view.reference)
        self.heat.show(picked, label)
        self.score.show(picked, one.relation(picked), rows, label, None if value is None or score is None else (score, value))
        self.roc.show(picked, one.separation(picked), rises=one.rises(view.metric))
        self._colour(picked)
        self.person.show(picked, None if person is None else person[0])
        table = one.rows(picked)
        self.source.data = {n: v[:MOST_ROWS] for n, v in table.items()}
        self.table.columns = [  # new ones: other values of as many people are no reason for Bokeh to draw its table again
            TableColumn(field=n, title=n, formatter=NumberFormatter(format="0.[000]") if v.dtype.kind == "f" else StringFormatter())
            for n, v in table.items()
        ]

    def _colour(self, picked: Picked) -> None:
        """Colour the cord at the view's level as the heat map is."""
        view, labels = picked.view, [r for r in picked.regions if r.startswith(TISSUES)]
        level = view.level if view.level in picked.levels else picked.levels[len(picked.levels) // 2]
        if not labels:
            self.cord.drawing = {}
            return
        if level not in self._drawings:
            self._drawings[level] = paths(self.opened(), level, labels)
        values, compared = picked.heat()
        here = {name: float(values[picked.levels.index(level), picked.regions.index(name)]) for name in labels}
        mapper = self.heat.mapper
        palette = DIVERGING if compared else SEQUENTIAL
        self.cord.drawing = self._drawings[level]
        self.cord.colours = filled(here, palette, float(mapper.low), float(mapper.high))
        self.cord.words = {name: "no value" if np.isnan(v) else f"{v:.2f}{' SD' if compared else ''}" for name, v in here.items()}

    def _say(self) -> None:
        picked, one = self.picked, self.explored
        groups, colours = picked.groups(), colour_of(picked.names)
        parts = [
            f'<span style="color:{colours[name]}">■</span> {html.escape(name)}: {len(values)} with a value{f", {missing} without" if missing else ""}'
            for name, values, missing in zip(groups.names, groups.values, groups.missing, strict=True)
        ]
        total = f"<b>{len(picked.at)} of {one.cohort.subjects} sessions</b>"
        self.counts.object = f'<div class="counts">{"<br>".join([total, *parts])}</div>'
        told = [f'<p class="trouble" role="alert"><b>{html.escape(self.trouble)}</b></p>'] if self.trouble else []
        self.notes.object = "".join([*told, *(f"<p>{html.escape(line)}</p>" for line in one.said(self.view))])
        self.code.object = (
            f"<b>The same on the command line</b><pre>{html.escape(self.view.command(one.url))}</pre>"
            f"<b>and in Python</b><pre>{html.escape(self.view.python(one.url))}</pre>"
        )

    def saved(self) -> StringIO:
        """Write the table of everybody shown as CSV."""
        table: Mapping[str, Any] = self.explored.rows(self.picked)
        return StringIO(Columns({n: v.tolist() for n, v in table.items()}).csv())

    def layout(self) -> Any:
        """Lay the page out."""
        download = pn.widgets.FileDownload(callback=self.saved, filename="cohort.csv", label="Table as CSV", button_type="default", width=260)
        words = [part for n, widget in self.among.items() for part in (pn.pane.HTML(html.escape(f"{n} (none ticked: everybody)")), widget)]
        people = pn.Column(*words, *self.between.values())
        choices = pn.Column(
            pn.pane.HTML("<h2>Cohort explorer</h2>"), self.counts, self.metric, self.tract, self.level, self.cord, self.split, self.reference,
            self.against, self.row, pn.pane.HTML("<h3>Who is shown</h3>"), people, download, width=320, css_classes=["choices"],
        )  # fmt: skip
        shown = pn.Column(
            self.notes,
            pn.Row(pn.pane.Bokeh(self.points.figure), pn.pane.Bokeh(self.along.figure)),
            pn.pane.Bokeh(self.heat.figure),
            pn.Row(pn.pane.Bokeh(self.score.figure), pn.pane.Bokeh(self.roc.figure)),
            self.person.card,
            pn.pane.HTML(f"<b>The people shown</b> (at most {MOST_ROWS} here, all in the file; a click on a line marks the person)"),
            pn.pane.Bokeh(self.table),
            self.code,
        )
        return pn.Row(choices, shown)
