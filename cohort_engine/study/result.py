"""What an analysis found, and what its Methods are written of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.config import AnalysisConfig
from cohort_engine.study.format import listed
from cohort_engine.study.material import Material


@dataclass(frozen=True, eq=False)
class Analysis:
    """What an analysis found.

    Attributes
    ----------
    material : Material
    tables : mapping of name to DataFrame
        Tidy; `sections` says what each column means.
    problems : mapping of section to str
        Sections that were not made, and why.
    config : AnalysisConfig
    failed : tuple of str
        Those of them that failed; the study has not enough for the others.
    about : mapping
        Configuration, versions and hashes, as JSON holds them.
    out : Path or None
        Where files were written.
    """

    material: Material
    tables: dict[str, pd.DataFrame]
    problems: dict[str, str]
    config: AnalysisConfig
    about: dict[str, Any]
    out: Path | None = None
    failed: tuple[str, ...] = ()

    @property
    def findings(self) -> pd.DataFrame:
        """Features in which the groups differ, by the false discovery rate of the configuration, the largest effect size first."""
        table = self.tables.get("groups")
        if table is None:
            return pd.DataFrame()
        found = table[table["q"] <= self.config.alpha]
        order: pd.DataFrame = found.loc[found["size"].abs().sort_values(ascending=False, kind="stable").index]
        return order.reset_index(drop=True)


class Study:
    """What the sentences are made of."""

    def __init__(self, found: Analysis, ds: xr.Dataset) -> None:
        self.found, self.ds = found, ds
        self.config = found.config
        self.science: dict[str, Any] = found.about["science"]
        self.stages: dict[str, Any] = self.science["stages"]
        self.source: str = self.science["source"]
        self.used = frozenset(map(str, found.material.features["metric"]))
        self.people = found.material.people
        self.interval = f"{100 * self.config.confidence:g}% confidence interval"

    def has(self, table: str) -> bool:
        return table in self.found.tables

    def done(self, stage: str) -> int | None:
        """Analysed people for whom a stage ran; None where the store does not say."""
        status = f"{schema.STAGES}_{schema.STATUS}"
        if status not in self.ds or stage not in self.ds[schema.STAGE].to_numpy().tolist():
            return None
        codes = self.ds[status].sel({schema.STAGE: stage}).to_numpy()[self.people.at]
        return int(np.sum([schema.STATUS_CODES.get(int(c)) == schema.DONE for c in codes]))

    def varying(self, names: Iterable[str]) -> list[str]:
        """Return those of the columns that the people have and that vary."""
        return list(self.people.covariates(names))

    @property
    def family(self) -> str:
        """Which tests share a false discovery rate."""
        family = self.config.tests.family
        return f"the tests of each {listed(family)}" if family else "all tests"
