"""The figures of an analysis: tables go in, figures with captions come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import xarray as xr

from cohort_engine import schema
from cohort_engine.query.choice import Choice
from cohort_engine.report import by_region, cross_section, drawing, markers, people_figures
from cohort_engine.report.drawing import Drawn, render
from cohort_engine.report.material import ESTIMATOR, METRIC

if TYPE_CHECKING:
    from cohort_engine.report.analyse import Analysis

FIGURES: tuple[Callable[[Analysis, xr.Dataset], list[Drawn]], ...] = (
    people_figures.flow, cross_section.effects_on_cord, by_region.effect_sizes, markers.roc_curves, markers.roc_areas, markers.classifier,
    people_figures.compression, markers.clusters, markers.cluster_profiles, by_region.correlations, people_figures.profiles,
    by_region.norm_deviations, people_figures.sites, by_region.repeat_agreement, people_figures.repeat_differences,
)  # fmt: skip
"""In the order of the report; each returns nothing where its tables are absent or empty."""


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
        drawn = [drawing.settled(figure) for draw in FIGURES for figure in draw(found, ds)]
    return [replace(d, caption=f"{d.caption} {values_of(found, d.tables)}".rstrip()) for d in drawn]


def values_of(found: Analysis, tables: tuple[str, ...]) -> str:
    """Say in a sentence which values of each metric a figure shows, by the tables it was drawn from; empty where it shows none."""
    parts = [found.tables[t] for t in tables if t in found.tables and {METRIC, ESTIMATOR} <= set(found.tables[t])]
    kinds = dict.fromkeys(k for part in parts for k in part[[METRIC, ESTIMATOR]].itertuples(index=False, name=None) if k[1])
    said = [f"{schema.label_of(metric)} is {Choice.of_kind(kind).words}" for metric, kind in kinds]
    return f"{'; '.join(said)}." if said else ""


__all__ = ["FIGURES", "Drawn", "draw_all", "render"]
