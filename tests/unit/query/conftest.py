"""A cohort of a few voxels whose every number can be worked out by hand, laid out as a build does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.provenance import digest
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.sums import LevelSums, pooled_cells
from cohort_engine.schema import SUBJECT, VOXEL, VariableSpec
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import init_store, write_subject
from cohort_engine.template.base import Template

MTR = "mtr"
MAP = VariableSpec(
    "maps/mtr", "magnetization transfer ratio", "percent", (SUBJECT, VOXEL), valid_range=(-100.0, 100.0), chunks={SUBJECT: 1}, stage=MTR
)
MEDIAN = VariableSpec("qc/mtr_cord_median", "median", "percent", (SUBJECT,), stage=MTR)


class Cohort:
    """A store that is laid out, filled, closed, and laid out again with other settings."""

    def __init__(self, url: str, template: Template, metric: VariableSpec = MAP) -> None:
        self.url, self.template, self.metric, self.native = url, template, metric, schema.native_stage(metric.name)

    def init(
        self, subjects: pd.DataFrame, *, min_coverage: float = 0.75, low_signal: float = 0.05, left: Any = None, sums: bool = False
    ) -> None:  # fmt: skip
        """Lay out; with `sums` as a build does now, else as one did before sums of levels were kept."""
        self.min_coverage, self.sums = min_coverage, sums
        self.tables = list(schema.table_specs(self.metric, "wa").values())
        native = list(schema.table_specs(self.metric, "wa", "native").values())
        native += [*schema.table_specs(self.metric, "map", "native").values(), schema.sums_spec(self.metric)] if sums else []
        stages: dict[str, Any] = {}
        recipes: dict[str, Any] = {}
        for stage, specs in ((MTR, [self.metric, MEDIAN]), (self.native, native)):
            recipe = {"stage": stage, "version": "1", "params": {"low_signal": low_signal}, "template": "t"}
            stages[stage] = {"recipe": digest(recipe), "needs": [], "makes": "", "section": stage, "writes": [s.path for s in specs]}
            recipes[digest(recipe)] = recipe
        self.asked = {
            "science": {"stages": {"reduce": {"min_coverage": min_coverage, "estimators": ["wa"], "spaces": ["template"]}}},
            "hash": digest(stages),
            "stages": stages,
        }
        specs = [self.metric, MEDIAN, *self.tables, *native]
        init_store(self.url, template=self.template, subjects=subjects, specs=specs, asked=self.asked, recipes=recipes, left=left)

    def write(self, row: int, values: Sequence[float], *, key: str = "", native: float = np.nan, only_map: bool = False) -> None:
        shape = len(self.template.levels), len(self.template.atlas.regions)
        cells = {s.path: np.full(shape, native, np.float32) for s in schema.table_specs(self.metric, "wa", "native").values()}
        cells |= self.image(native) if self.sums else {}
        for stage, arrays in ((MTR, {self.metric.path: np.asarray(values, np.float32)}), (self.native, cells))[: 1 if only_map else 2]:
            entry = Entry(row, stage, schema.DONE, key or f"{stage}{row}", self.asked["stages"][stage]["recipe"])
            write_subject(self.url, row, arrays, entry, template_digest=self.template.digest)

    def image(self, value: float) -> dict[str, Any]:
        """Tables and sums of an image: three pure voxels of each label in each level, with `value` in C2 and 10 more in C3."""
        atlas = self.template.atlas
        weights = np.tile(np.eye(len(atlas.labels)), 6)
        level = np.repeat([2, 3], weights.shape[1] // 2)
        reach, clusters = np.ones((2, 2, len(weights))), tuple(atlas.clusters.values())
        sums = LevelSums.of(np.where(level == 2, value, value + 10.0), weights, level, reach, [2, 3], clusters)
        each = sums.at(np.arange(2)[:, None])
        cells = pooled_cells(each, [r.members for r in atlas.regions], clusters, estimator("map"), min_coverage=self.min_coverage)
        return {s.path: cells[k] for k, s in schema.table_specs(self.metric, "map", "native").items()} | {
            schema.sums_spec(self.metric).path: sums.pack()
        }

    def close(self) -> None:
        finalise(self.url, tabulate=partial(tabulate, self.url), allow_missing=True, allow_mixed=True)


@pytest.fixture
def lay_out(tmp_path: Path, tiny_template: Template) -> Callable[..., Cohort]:
    """Make a cohort of maps (a row a subject, eight voxels a row; None for a subject that was never built) and columns of the subject table."""

    def make(
        maps: Sequence[Sequence[float] | None], *, close: bool = True, metric: VariableSpec = MAP, min_coverage: float = 0.75, sums: bool = False,
        **columns: Any,
    ) -> Cohort:  # fmt: skip
        cohort = Cohort(str(tmp_path / f"cohort_{len(list(tmp_path.iterdir()))}.zarr"), tiny_template, metric)
        names = [f"sub-{i + 1:02d}" for i in range(len(maps))]
        cohort.init(pd.DataFrame({schema.PARTICIPANT: names} | columns), min_coverage=min_coverage, sums=sums)
        for row, values in enumerate(maps):
            if values is not None:
                cohort.write(row, values)
        if close:
            cohort.close()
        return cohort

    return make


@pytest.fixture
def make_cohort(lay_out: Callable[..., Cohort]) -> Callable[..., str]:
    """URL of such a store."""
    return lambda *arguments, **options: lay_out(*arguments, **options).url
