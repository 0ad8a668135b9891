"""The demonstration: simulate a study with MT and diffusion scans, build its cohort from the images alone, hold every number against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.config import load_config
from cohort_engine.engine.build import BuildReport
from cohort_engine.engine.events import Events
from cohort_engine.figures.cross_section import draw_groups
from cohort_engine.figures.drawing import render
from cohort_engine.phantom.dwi_files import DwiPlan
from cohort_engine.phantom.study import Simulation, simulate
from cohort_engine.query.accessor import SPACE, open_cohort
from cohort_engine.query.choice import Choice
from cohort_engine.query.frame import tidy
from cohort_engine.report.analyse import ENDING, analyse
from cohort_engine.report.page import REPORT
from cohort_engine.report.reproduction import build_simulated
from cohort_engine.study.result import Analysis
from cohort_engine.template import load_template

if TYPE_CHECKING:
    import xarray as xr

MIN_VOXELS = 30.0
"""Cells of at least this many native voxels enter the summary of errors; smaller ones are mostly their neighbours."""
TRUTH = "raw"
"""Column of the truth, free of partial volume."""
DECIMALS: Mapping[str, int] = {schema.MTR: 1, schema.FA: 3}
"""Metric -> decimals of its values in tables."""
TRUTH_OF: Mapping[str, str] = {schema.MTR: "raw", schema.FA: "fa"}
"""Metric -> column of the simulation's truth."""
TEMPLATE_WA = "template_wa"
VALUES: Mapping[str, str] = {schema.VALUE: "the least biased", TEMPLATE_WA: Choice(schema.SPACE_TEMPLATE, schema.WA).words}
"""Columns of values that are held against the truth -> what they are."""
CELL = [schema.PARTICIPANT, schema.LEVEL, schema.REGION]
FIGURE_LEVEL = "C5"
SETTINGS: Mapping[str, Any] = {
    "stages": {"shape": {"source": schema.T2W}},
    "analysis": {"harmonise": {"site": schema.SITE}, "classifier": {"folds": 3}, "compression": {"specificity": 0.75}},
}
"""What the study file of a few people says beyond its places."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made.

    Attributes
    ----------
    store : str
    report : BuildReport
    cells : mapping of str to DataFrame
        Of each metric, a row a subject, level and region: value, std, se, n, coverage, the weighted average of the maps in the template
        (``template_wa``), the truth ``raw``, and ``value_error``, ``template_wa_error``.
    cells_table : Path
        Where `cells` were written.
    figures : mapping of str to Path
        The picture of each metric.
    analysis : Analysis
    asked : tuple of str
        Subjects whose discs could not be named with certainty: each got one landmark, and was built again.
    page : Path
        The report.
    """

    store: str
    report: BuildReport
    cells: Mapping[str, pd.DataFrame]
    cells_table: Path
    figures: Mapping[str, Path]
    analysis: Analysis
    asked: tuple[str, ...]
    page: Path

    def errors(self, metric: str) -> pd.DataFrame:
        """Summarise errors over `MIN_VOXELS`: a row per group of cells and kind of value."""
        return error_summary(self.cells[metric])

    def by_group(self, metric: str) -> dict[str, pd.DataFrame]:
        """Lay out one table a group: a row a region, a column a level, ``mean (mean error)`` against the truth."""
        error, digits = error_of(schema.VALUE), DECIMALS[metric]
        means = self.cells[metric].groupby([schema.GROUP, schema.REGION, schema.LEVEL], sort=False)[[schema.VALUE, error]].mean().dropna()
        text = means.apply(lambda row: f"{row[schema.VALUE]:.{digits}f} ({row[error]:+.{digits}f})", axis=1)
        wide = text.unstack(schema.LEVEL, fill_value="").reindex(columns=list(dict.fromkeys(means.index.get_level_values(schema.LEVEL))))
        order = list(dict.fromkeys(means.index.get_level_values(schema.REGION)))
        return {str(g): wide.loc[g].reindex(order).reset_index() for g in dict.fromkeys(means.index.get_level_values(0))}


def run_demo(
    out: str | Path, *, patients: int = 7, controls: int = 5, seed: int = 1, workers: int = 2, labels: bool = False, dwi: bool = True,
    events: Events | None = None,
) -> Demo:  # fmt: skip
    """Simulate a DCM study in ``out/study``, build ``out/study.zarr``, compare it with the truth, and analyse it in ``out/study_analysis``.

    Parameters
    ----------
    out : path
        Folder to make.
    patients, controls, seed
        Of the simulation, on the parametric template.
    workers : int
        Worker processes.
    labels : bool
        Give the build cord masks and disc labels; otherwise it draws its own.
    dwi : bool
        With diffusion: FA beside MTR.
    events : Events, optional
        Who watches the build.

    Raises
    ------
    InputError
        ``out/study`` is there already.
    """
    folder = Path(out)
    template = load_template("parametric")
    metrics = list(DECIMALS) if dwi else [schema.MTR]
    study = simulate(
        folder / "study", template=template, patients=patients, controls=controls, seed=seed, labels=labels, dwi=DwiPlan() if dwi else None,
        workers=workers, settings={**SETTINGS, "stages": {**SETTINGS["stages"], "metrics": metrics}},
    )  # fmt: skip
    config = load_config(study.study_file)
    report, asking = build_simulated(config, study.bids, workers=workers, events=events)
    cohort = open_cohort(report.url)
    cells = {metric: compare(cohort, study, metric) for metric in metrics}
    table = folder / "errors.csv"
    pd.concat([part.assign(metric=metric) for metric, part in cells.items()]).to_csv(table, index=False, float_format="%.4f")
    figures = {metric: folder / ("tracts.png" if metric == schema.MTR else f"tracts_{metric}.png") for metric in metrics}
    for metric, figure in figures.items():
        figure.write_bytes(render(draw_groups(cohort, metric, FIGURE_LEVEL), "png"))
    analysis = analyse(config)
    return Demo(report.url, report, cells, table, figures, analysis, asking, folder / f"study{ENDING}" / REPORT)


def compare(cohort: xr.Dataset, study: Simulation, metric: str = schema.MTR) -> pd.DataFrame:
    """Put measured and true values of every cell of a metric side by side; see `Demo.cells`."""
    table = cohort.cohort.table(metric)
    keep = [*CELL, schema.GROUP, schema.VALUE, schema.STD, schema.SE, schema.N, schema.COVERAGE]
    average = cohort.cohort.frame(metric, estimator=schema.WA, space=schema.SPACE_TEMPLATE)
    cells: pd.DataFrame = tidy(table).reindex(columns=keep)
    cells = cells.merge(average[[*CELL, schema.VALUE]].rename(columns={schema.VALUE: TEMPLATE_WA}), on=CELL, validate="one_to_one")
    truth = study.truth[[*CELL, "native_voxels"]].assign(**{TRUTH: study.truth[TRUTH_OF[metric]]})
    cells = cells.merge(truth, on=CELL, how="left", validate="one_to_one")
    for name in VALUES:
        cells[error_of(name)] = cells[name] - cells[TRUTH]
    cells.attrs[schema.VALUE] = Choice(str(table.attrs[SPACE]), str(table.attrs["estimator"])).words
    return cells


def error_of(value: str) -> str:
    """Name of the column of errors of a column of values."""
    return f"{value}_error"


def error_summary(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error and bias (in the unit of the metric) against the truth of what has at least `MIN_VOXELS` native voxels.

    Single tracts with their levels pooled (few tracts have so many voxels in one level), then every level and region. ``within 1.96 se`` is the share
    of values whose 95% interval holds the truth, of what has a standard error.

    Examples
    --------
    >>> cell = {"participant_id": "sub-1", "region": "white matter", "n": 8.0, "raw": 39.0, "template_wa": 35.0, "template_wa_error": -4.0}
    >>> cells = pd.DataFrame([{**cell, "value": v, "se": 1.0, "native_voxels": k} for v, k in [(40.0, 40), (36.5, 40), (49.0, 9)]])
    >>> row = error_summary(cells.assign(value_error=cells["value"] - cells["raw"])).iloc[2]
    >>> row["cells"], *(float(row[k]) for k in ("mean absolute error", "bias", "largest", "within 1.96 se"))
    ('level x region', 1.75, -0.75, 2.5, 0.5)
    """
    errors = [error_of(name) for name in VALUES]
    tracts = cells[cells[schema.REGION].str.match("WM (left|right) ")].dropna(subset=errors)
    weighted = tracts.assign(**{e: tracts[e] * tracts[schema.N] for e in errors})
    pooled = weighted.groupby([schema.PARTICIPANT, schema.REGION])[[*errors, schema.N, "native_voxels"]].sum()
    pooled = pooled.assign(**{e: pooled[e] / pooled[schema.N] for e in errors})
    rows = []
    for name, part in (("tract, levels pooled", pooled), ("level x region", cells)):
        large = part[part["native_voxels"] >= MIN_VOXELS]
        for value, words in VALUES.items():
            error = large[error_of(value)].dropna().to_numpy()
            numbers = (np.abs(error).mean(), error.mean(), np.abs(error).max()) if len(error) else (np.nan,) * 3
            known = large.dropna(subset=[schema.SE]) if value == schema.VALUE and schema.SE in large else large.iloc[:0]
            inside = (known[error_of(value)].abs() <= 1.96 * known[schema.SE]).mean() if len(known) else np.nan
            rows.append([name, cells.attrs.get(value, words), len(error), *numbers, inside])
    return pd.DataFrame(rows, columns=["cells", "values", "count", "mean absolute error", "bias", "largest", "within 1.96 se"])
