"""What the page of a subject shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohort_engine import schema
from cohort_engine.qc.group import Flag, Group, cut, in_words
from cohort_engine.qc.group_page import FAULT_WORDS, policy
from cohort_engine.qc.panels import PANELS, Picture, picture_file
from cohort_engine.quality import vocabulary
from cohort_engine.report.page import without_paths

STATE_WORDS = {schema.MISSING: "lacks a file", schema.TO_DO: "to do", schema.NOT_NEEDED: "not needed"}


@dataclass(frozen=True)
class ShownPicture:
    """A picture on the page."""

    file: str
    title: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownPanel:
    """A panel on the page: pictures, or why there are none."""

    title: str
    caption: str
    pictures: tuple[ShownPicture, ...]
    why: str


class SubjectPage:
    """Everything that the template of a subject shows; `at` is the position in the group."""

    policy = policy()

    def __init__(self, group: Group, at: int, pictures: Sequence[Picture], problems: Mapping[str, str]) -> None:
        self.group, self.at, self._pictures, self._problems = group, at, pictures, problems
        self.row = int(group.rows[at])
        self.name = group.names[at]

    @property
    def about(self) -> list[tuple[str, str]]:
        g, at = self.group, self.at
        usable = g.numbers.get(vocabulary.USABLE)
        value = float("nan") if usable is None else float(usable.values[at])
        told = [("site", g.sites[at]), ("group", g.groups[at]), ("probably usable", f"{value:.2f}" if math.isfinite(value) else "")]
        return [(title, word) for title, word in told if word]

    @property
    def flags(self) -> list[Flag]:
        names = {n.key: n.number.name for n in self.group.numbers.values()}
        return [Flag(FAULT_WORDS.get(f.kind, names.get(f.kind, f.kind)), f.words) for f in self.group.flags[self.at]]

    @property
    def doubtful(self) -> str:
        return in_words(str(self.group.doubtful[self.at])) if len(self.group.doubtful) else ""

    @property
    def panels(self) -> list[ShownPanel]:
        """Panels that have pictures, or a reason why they have none."""
        out = []
        for panel in PANELS.values():
            own = tuple(ShownPicture(picture_file(self.row, p), p.title, p.width, p.height) for p in self._pictures if p.panel == panel.key)
            if own or panel.key in self._problems:
                out.append(ShownPanel(panel.title, panel.caption, own, self._problems.get(panel.key, "")))
        return out

    @property
    def numbers(self) -> list[tuple[str, ...]]:
        """Every quality number that the subject has: name, value, unit, limit, and the site's."""
        site = self.group.of_site(self.group.sites[self.at])
        out: list[tuple[str, ...]] = []
        for n in self.group.numbers.values():
            value = float(n.values[self.at])
            if not math.isfinite(value):
                continue
            own = n.values[site]
            of_site = f"{np.nanmedian(own):.3g} ({np.nanmin(own):.3g} to {np.nanmax(own):.3g})"
            bad = " ⚠" if n.number.beyond(value) else ""
            out.append((n.number.name, f"{value:.3g}{bad}", n.units, n.number.limit, of_site))
        return out

    @property
    def stages(self) -> list[tuple[str, ...]]:
        """How each stage stands, and what it said."""
        entries = {e.stage: e for e in self.group.entries_of(self.row)}
        out: list[tuple[str, ...]] = []
        for stage in self.group.stages.stages:
            entry = entries.get(stage)
            state = self.group.stages.of(self.row, stage)
            said = "" if entry is None else cut(without_paths(" ".join(filter(None, (entry.message, entry.remedy, *entry.notes.splitlines())))))
            seconds = "" if entry is None or not math.isfinite(entry.seconds) else f"{entry.seconds:.1f}"
            out.append((stage, STATE_WORDS.get(state, state), seconds, said))
        return out
