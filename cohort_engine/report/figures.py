"""The figures of an analysis: tables go in, figures with captions come out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import xarray as xr

from cohort_engine import schema, sections
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import Drawn, render
from cohort_engine.query.choice import Choice
from cohort_engine.study.material import ESTIMATOR, METRIC

if TYPE_CHECKING:
    from cohort_engine.study.result import Analysis


def draw_all(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Draw every figure that the tables of an analysis allow.

    Parameters
    ----------
    found : Analysis
    ds : Dataset
        The cohort, from `open_cohort`, for the outlines of its atlas.

    Returns
    -------
    list of Drawn
        In the order of the report. `render` turns a figure into a file.
    """
    with drawing.style():
        drawn = [drawing.settled(figure) for section in sections.every() for draw in section.figures for figure in draw(found, ds)]
    return [replace(d, caption=f"{d.caption} {values_of(found, d.tables)}".rstrip()) for d in drawn]


def values_of(found: Analysis, tables: tuple[str, ...]) -> str:
    """Say in a sentence which values of each metric a figure shows, by the tables it was drawn from; empty where it shows none."""
    parts = [found.tables[t] for t in tables if t in found.tables and {METRIC, ESTIMATOR} <= set(found.tables[t])]
    kinds = dict.fromkeys(k for part in parts for k in part[[METRIC, ESTIMATOR]].itertuples(index=False, name=None) if k[1])
    said = [f"{schema.label_of(metric)} is {Choice.of_kind(kind).words}" for metric, kind in kinds]
    return f"{'; '.join(said)}." if said else ""


__all__ = ["Drawn", "draw_all", "render"]
