"""What a section of the report is: how its tables are computed, what they are, and what is said and drawn of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import config as study_file
from cohort_engine import schema
from cohort_engine.analysis.covariates import Coding
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures.drawing import Drawn
from cohort_engine.study.material import KEYS, FloatArray, Material
from cohort_engine.study.result import Analysis, Study

if TYPE_CHECKING:
    from cohort_engine.config import AnalysisConfig

Tables = dict[str, pd.DataFrame]
Settings = TypeVar("Settings", bound=study_file.Section)

OWN = "as units"
"""Unit of a column whose rows have units of their own, in the column ``units``."""
STUDY = "a column of participants.tsv"
"""Meaning of a column that the study brought along."""
FEATURE_COLUMN = "feature"
FEATURE = [*KEYS, "units"]
"""Columns that name a feature, with its unit."""


@dataclass(frozen=True)
class Column:
    """Meaning of a column, and its unit: ``""`` where there is none, `OWN` where each row has its own."""

    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """What a table is.

    Attributes
    ----------
    title, sentence : str
    columns : mapping of name to Column
        In the order of the table.
    open : bool
        Whether the table has columns of the study as well.
    shown : tuple of str
        Columns that are shown on the page; empty: all but those that name a person. `FEATURE_COLUMN` stands for the columns that name a feature.
    order : str
        Column by which the rows on the page are sorted, the smallest first; ``-name``: the largest first; ``|name``: the largest size first.
    """

    title: str
    sentence: str
    columns: Mapping[str, Column]
    open: bool = False
    shown: tuple[str, ...] = ()
    order: str = ""


@dataclass(frozen=True)
class Laid:
    """A table in sight, as papers print it: title, heads, and rows of text whose first cell names the row."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _silent(found: Any) -> str:
    return ""


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the report; one that adds itself to `config.SECTION_KINDS` is computed, described, written of and drawn.

    Attributes
    ----------
    name : str
        Its anchor on the page, and the key of its own settings in the study file.
    title : str
        Its heading.
    compute : callable
        What is analysed, and the settings, to its tables by name. A `NotEnoughError` says that the study has too little for the section, a
        `ConfigError` or `UnknownNameError` that the study file is wrong; whatever else it raises is a failure. The others are made all the same.
    tables : mapping of name to Table
        What it may compute, the main table first: without it nothing is said of the section.
    sentence : callable
        What was found, in a sentence or two; empty for nothing.
    heading, methods
        How it was done: heading in the Methods, and what writes the paragraph.
    figures : tuple of callable
        Each draws from the tables, and returns nothing where they are absent or empty.
    laid : tuple of callable
        Tables that are in sight on the page; nothing where there is nothing to lay out.
    both : bool
        Whether it compares two groups, and a study of one cannot have it.
    finding : bool
        Whether its sentence is one of the findings at the top of the page.
    settings : subclass of config.Section, optional
        Its own settings below ``analysis:``, by its name.
    """

    name: str
    title: str
    compute: Callable[[Material, AnalysisConfig], Tables]
    tables: Mapping[str, Table]
    sentence: Callable[[Analysis], str] = _silent
    heading: str = ""
    methods: Callable[[Study], str] = _silent
    figures: tuple[Callable[[Analysis, xr.Dataset], list[Drawn]], ...] = ()
    laid: tuple[Callable[[Analysis], Laid | None], ...] = ()
    both: bool = False
    finding: bool = False
    settings: type[study_file.Section] | None = None

    def tables_of(self, m: Material, config: AnalysisConfig) -> Tables:
        """Compute its tables, see `compute`."""
        if self.both and len(m.people.groups) < 2:
            raise NotEnoughError(
                expected="two groups", found=f"one, {m.people.groups[0][1]!r}", where=f"column {config.groups.column}",
                remedy="Add controls or patients, or name another column in analysis.groups.column.",
            )  # fmt: skip
        return self.compute(m, config)

    @property
    def words(self) -> str:
        """What its settings are about."""
        return f"{self.title}."

    def done(self, found: Analysis) -> bool:
        """Whether its main table is there."""
        return next(iter(self.tables)) in found.tables


def settings_of(config: AnalysisConfig, name: str, kind: type[Settings]) -> Settings:
    """Return the section's own settings, or their defaults where the study file has none."""
    given = getattr(config, name, None)
    return given if isinstance(given, kind) else kind()


# --- columns that several tables have ---------------------------------------------------------------------------------
PERSON = {
    schema.SUBJECT: Column("row of the person in the store"),
    schema.PARTICIPANT: Column("name of the person in participants.tsv"),
    schema.SESSION: Column("session that is analysed; empty where the study has none"),
}
FEATURE_WORDS = {
    "metric": Column("metric or measure of shape"),
    schema.REGION: Column("tract, or union of tracts; spinal cord for a measure of shape"),
    schema.LEVEL: Column("vertebral level or levels; compressed: each person's own level of compression"),
    "estimator": Column(
        "how voxels became one number: wa weighted average, bin, median, ml, map, max of the map in template space; with native before it of each "
        "image in its own space; empty for a measure of shape"
    ),
    "units": Column("unit of the feature"),
}
N_CONTROL = Column("controls that were used", "people")
N_CASE = Column("cases that were used", "people")
P = Column("two-sided p value")
Q = Column("p value adjusted for the false discovery rate within its family")
GROUP = Column("word of the study for the group")
SITE = Column("site or scanner")
AUC = Column("area under the ROC curve")
AUC_LOW = Column("lower end of the confidence interval of the area, on the logit")
AUC_HIGH = Column("upper end of the confidence interval of the area, on the logit")


def ends(what: str, unit: str = "", name: str = "", end: str = "") -> dict[str, Column]:
    """Columns of an interval."""
    return {f"{name}{side}{end}": Column(f"{word} end of the {what}", unit) for side, word in (("low", "lower"), ("high", "upper"))}


# --- steps that several sections take ----------------------------------------------------------------------------------
def family(m: Material, columns: tuple[str, ...]) -> NDArray[Any]:
    """Name the family of tests of each feature: the columns in which it agrees with others."""
    return np.array([" ".join(map(str, row)) for row in m.features[list(columns)].itertuples(index=False)] if columns else [""] * len(m.features))


def design(m: Material, names: tuple[str, ...]) -> FloatArray | None:
    """Code the columns as numbers (subject, column); None where there are none."""
    for name in names:
        m.people.column(name)  # a misspelt one is an error, one that does not vary is not
    given = m.people.covariates(names)
    return Coding.of(given).matrix(given, len(m.people.table)) if given else None


def mean_of(values: FloatArray) -> FloatArray:
    """Average each column (feature,) of values (subject, feature); NaN where nobody has one."""
    n = np.isfinite(values).sum(axis=0)
    out: FloatArray = np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)
    return out


def sd_of(values: FloatArray) -> FloatArray:
    """Compute the standard deviation (n - 1) of each column (feature,) of values (subject, feature); NaN where fewer than two have one."""
    n = np.isfinite(values).sum(axis=0)
    out: FloatArray = np.where(n > 1, np.sqrt(np.nansum((values - mean_of(values)) ** 2, axis=0) / np.maximum(n - 1, 1)), np.nan)
    return out
