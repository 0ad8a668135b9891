"""Figures that stand in for the real ones: quick, and with captions that try the page."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, eq=False)
class Drawn:
    name: str
    section: str
    title: str
    caption: str
    tables: tuple[str, ...]
    figure: Any


@pytest.fixture(scope="module")
def plain_figures() -> Iterator[list[Drawn]]:
    """Two drawings of one section that share a table, and one of another; all from the same ids within."""
    from matplotlib.figure import Figure

    def draw(name: str, section: str, *tables: str) -> Drawn:
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1], [0, 1])
        return Drawn(name, section, f"Title of {name}", f"Caption of {name}: 5 < 6 & <b>bold</b>.", tables, figure)

    drawn = [draw("effects", "groups", "groups"), draw("strength", "groups", "groups"), draw("curves", "roc", "roc_curves", "roc", "no such table")]
    module = types.ModuleType("cohort_engine.report.figures")
    module.Drawn, module.draw_all = Drawn, lambda found, ds: drawn  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        yield drawn
