"""The person who is marked: their map in the template, and what people who look say of it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import CohortError
from cohort_engine.explore.numbers import Explored, Picked
from cohort_engine.explore.viewer import Viewer, images
from cohort_engine.io.exclusions import ALL, PASS, RATINGS, Rating
from cohort_engine.store.ratings import ratings_of, take_ratings
from cohort_engine.store.records import now
from cohort_engine.template.levels import LevelRange


class Person:
    """Rating and picture of one person.

    Parameters
    ----------
    explored : Explored
    opened : callable
        Returns the opened Dataset, of which the images are cut.
    rated : callable
        Is called when a rating was saved.
    may_rate : bool
        Whether ratings may be saved; nothing else is ever written.
    """

    def __init__(self, explored: Explored, opened: Callable[[], xr.Dataset], rated: Callable[[], None], *, may_rate: bool = True) -> None:
        self.explored, self.opened, self.rated, self.may_rate = explored, opened, rated, may_rate
        self.at: int | None = None
        self.picked: Picked | None = None
        self._seen: tuple[Any, ...] = ()
        wide = {"width": 400}
        self.who, self.told = pn.pane.HTML("", **wide), pn.pane.HTML("", **wide)
        self.of = pn.widgets.Select(name="Of", options={}, **wide)
        self.rating = pn.widgets.RadioButtonGroup(name="Rating", options=list(RATINGS), value=PASS, **wide)
        self.comment = pn.widgets.TextInput(name="Comment", placeholder="why", max_length=500, **wide)
        self.rater = pn.widgets.TextInput(name="Rater", placeholder="your initials", max_length=80, **wide)
        self.save = pn.widgets.Button(name="Save the rating", button_type="primary", **wide)
        self.save.on_click(self._save)
        self.viewer = Viewer(width=420, height=440)
        rates = [self.of, self.rating, self.comment, self.rater, self.save] if may_rate else []
        self.card = pn.Row(pn.Column(self.who, *rates, self.told, width=420), self.viewer, visible=False)

    def show(self, picked: Picked, at: int | None) -> None:
        """Show the person at a position in the cohort; None: nobody."""
        self.at, self.picked = at, picked
        self.card.visible = at is not None
        if at is None:
            return
        name = self._name(at)
        self.who.object = f"<h3>Row {int(self.explored.cohort.rows[at])}: <bdi>{html.escape(' '.join(filter(None, name)))}</bdi></h3>"
        options = {f"{self.explored.metrics[picked.view.metric]} alone": picked.view.metric, "everything": ALL}
        if options != self.of.options:
            self.of.param.update(options=options, value=picked.view.metric)
        self._tell()
        self._draw(picked, at)

    def _name(self, at: int) -> tuple[str, str]:
        people = self.explored.people
        return str(people[schema.PARTICIPANT][at]), str(people[schema.SESSION][at]) if schema.SESSION in people else ""

    def _tell(self, problem: str = "") -> None:
        """List what was said of this person."""
        assert self.at is not None
        who = Rating(ALL, *self._name(self.at)).of[:2]
        lines = [f'<p class="trouble" role="alert"><b>{html.escape(problem)}</b></p>'] if problem else []
        try:
            held = [r for r in ratings_of(self.explored.url) if r.of[0] == who[0] and r.of[1] in ("", who[1])]
        except CohortError as error:
            held, lines = [], [*lines, f"<p>{html.escape(str(error))}</p>"]
        lines += [f"<li><bdi>{html.escape(' '.join(filter(None, (f'{r.metric}: {r.rating}', r.reason, r.rater, r.date))))}</bdi></li>" for r in held]
        self.told.object = f'<ul class="ratings">{"".join(lines)}</ul>'

    def _save(self, event: Any) -> None:
        """Save what is chosen, by the function that the quality pages save with."""
        if self.at is None or not self.may_rate:
            return
        participant, session = self._name(self.at)
        given = Rating(
            self.of.value, participant, session, self.rating.value, " ".join(self.comment.value.split()), self.rater.value.strip(), now()[:10]
        )
        try:
            take_ratings(self.explored.url, [given])
        except CohortError as error:
            self._tell(str(error))
            return
        self.comment.value = ""
        self.explored.reload()
        self.rated()

    def _draw(self, picked: Picked, at: int) -> None:
        view, one = picked.view, self.explored
        if view.metric not in one.cohort.metrics:
            self.viewer.visible = False
            return
        self.viewer.visible = True
        seen = (at, view.metric, view.tract, view.level)
        if seen == self._seen:
            return
        self._seen = seen
        ds = self.opened()
        try:
            found = images(ds, int(one.cohort.rows[at]), view.metric, view.tract, view.level)
        except CohortError:  # a region that is drawn has no place in the template
            self.viewer.visible = False
            return
        values = ds[view.metric].sel({schema.SUBJECT: int(one.cohort.rows[at])}).to_numpy()
        known = values[np.isfinite(values)]
        low, high = (float(v) for v in np.percentile(known, (2, 98))) if len(known) else (0.0, 1.0)
        place = _middle(ds, view.level)
        self.viewer.param.update(**found, place=place, low=low, high=high if high > low else low + 1.0)
        self.viewer.version += 1


def _middle(ds: xr.Dataset, level: str) -> list[float]:
    """Mm of the middle of the cord at a level or range."""
    here = np.isin(ds[schema.VOXEL_LEVEL].to_numpy(), LevelRange.parse(level, ds.cohort.levels).numbers)
    return [float(np.median(ds[n].to_numpy()[here])) for n in schema.VOXEL_WORLD]
