"""An estimator is one object: what each says of itself, and a new one that goes everywhere from one class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import UnknownNameError
from cohort_engine.io.label_folder import NativeAtlas
from cohort_engine.io.volume import Volume
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import metric_of, metrics_of, quantity_of, tabulate, tract_table
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.estimators.base import CellEstimator
from cohort_engine.reduce.maps import Maps
from cohort_engine.reduce.native import level_tables, reduce_group
from cohort_engine.reduce.operator import Operator
from cohort_engine.single.extract import extract
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.template.atlas import Atlas, Naming
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange
from cohort_engine.testing import HandMadeStore

NAN = np.nan
BUILT_IN = {
    "wa": ("std", "n", "coverage"), "bin": ("std", "n", "coverage"), "median": ("std", "n", "coverage"), "max": ("n", "coverage"),
    "ml": ("std", "se", "n", "coverage"), "map": ("std", "se", "n", "coverage"),
}  # fmt: skip


def test_what_each_says_of_itself() -> None:
    assert {e.name: e.companions for e in schema.ESTIMATORS.values()} == BUILT_IN
    assert {name for name in schema.ESTIMATORS if not schema.ESTIMATORS[name].bounded} == {"ml", "map"}
    for name in schema.ESTIMATORS:
        assert estimator(name).describe().endswith(".")
        assert "sct" in estimator(name).references


@pytest.mark.parametrize("name", BUILT_IN)
def test_specs_are_what_the_estimator_says(name: str) -> None:
    specs = schema.table_specs("mtr", name)
    assert tuple(specs) == ("value", *BUILT_IN[name])
    assert specs["value"].valid_range == (None if name in ("ml", "map") else (-100, 100))


def test_a_standard_error_says_which_voxels_it_counts() -> None:
    texts = {space: schema.table_specs("mtr", "map", space)["se"].long_name for space in schema.SPACES}
    assert texts["template"].endswith("standard error, template voxels counted as independent")
    assert texts["native"].endswith("standard error: noise, what neighbouring voxels share, and how far the atlas may lie off")


def test_tables_of_a_metric_that_nobody_has_registered() -> None:
    fa = schema.VariableSpec("maps/fa", "fractional anisotropy", "1", ("subject", "voxel"), valid_range=(0.0, 1.0))
    specs = schema.table_specs(fa, "wa")
    assert [s.path for s in specs.values()] == [f"tables/template/fa_wa{c}" for c in ("", "_std", "_n", "_coverage")]
    assert (specs["value"].long_name, specs["value"].valid_range) == ("fractional anisotropy, wa", (0, 1))
    assert schema.table_specs(replace(fa, units="mm", valid_range=None), "wa")["std"].units == "mm"
    with pytest.raises(UnknownNameError, match="'ihmtr'"):
        schema.table_specs("ihmtr", "wa")


# --- a metric is what the store holds ---------------------------------------------------------------------------------
def test_metrics_are_those_of_the_store(tmp_path: Path, tiny_template: Template) -> None:
    root = layout.open_root(store(tmp_path, tiny_template, "wa"))
    mtr = schema.METRICS["mtr"]
    found = metric_of(root, "mtr")
    assert (metrics_of(root), found.stage) == (("mtr",), "mtr")
    by_attributes = quantity_of("mtr", dict(layout.array_at(root, "maps/mtr").attrs))
    for told in (found, by_attributes):
        assert (told.path, told.long_name, told.units, told.valid_range) == (mtr.map.path, mtr.long_name, mtr.units, mtr.valid_range)
    with pytest.raises(UnknownNameError, match=r"'mtrr'\. Did you mean 'mtr'"):
        metric_of(root, "mtrr")


def test_an_open_range_is_kept_open() -> None:
    assert quantity_of("t1", {"units": "s", "valid_min": 0.0}).valid_range == (0, np.inf)
    assert quantity_of("t1", {}).valid_range is None


def store(folder: Path, template: Template, name: str) -> str:
    """A store of one subject with a map, its tables made by this estimator."""
    reduce = {"estimators": [name], "min_coverage": 0, "spaces": ["template"]}
    config = parse_config({"data": {"bids": "b", "store": str(folder / "cohort.zarr")}, "stages": {"reduce": reduce}})
    made = HandMadeStore.lay_out(config, template, pd.DataFrame({"participant_id": ["sub-1"]}), names=["mtr"])
    made.write(0, {"maps/mtr": np.array([40, 20, 20, 30, 40, 20, 20, 30], np.float32)})
    finalise(made.url, tabulate=lambda: tabulate(made.url), allow_missing=True)
    return made.url


# --- one that is new --------------------------------------------------------------------------------------------------
class Trimmed(CellEstimator):
    name = "trimmed"
    companions = ("std", "coverage")
    references = ()

    def describe(self) -> str:
        return "Trimmed mean: the lowest and the highest voxel are left out."

    def of_cell(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        inner = np.sort(np.where(np.isnan(values), np.inf, values), axis=1)
        kept = np.isfinite(inner).sum(axis=1)
        return np.array([row[:n].mean() if n < 3 else row[1 : n - 1].mean() for row, n in zip(inner, kept, strict=True)])


@pytest.fixture
def trimmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(schema.ESTIMATORS)
    monkeypatch.setattr(schema.ESTIMATORS, "_items", dict(before))
    schema.ESTIMATORS.add(Trimmed())
    yield
    monkeypatch.undo()
    assert dict(schema.ESTIMATORS) == before


VALUES = np.array([10.0, 99.0, 20.0, 30.0, NAN])


@pytest.mark.usefixtures("trimmed")
def test_a_new_one_reduces_maps() -> None:
    atlas = Atlas(("tract",), {}, {}, sparse.csr_array(np.full((1, 5), 0.5, np.float32)))
    operator = Operator.build(atlas, np.full(5, 2), [LevelRange.parse("C2")], atlas.regions)
    cells = estimator("trimmed").of_maps(operator, Maps(np.stack([VALUES, VALUES * NAN])), min_coverage=0.5)
    assert set(cells) == {"value", "std", "coverage"}
    np.testing.assert_allclose(cells["value"].ravel(), [25, NAN])
    np.testing.assert_allclose(cells["coverage"].ravel(), [0.8, 0])


@pytest.mark.usefixtures("trimmed")
def test_a_new_one_reduces_an_image() -> None:
    weights = np.full((1, 5), 0.5)
    cells = reduce_group(VALUES, weights, [(0,)], [(0,)], estimator="trimmed")
    assert (cells.value.item(), cells.coverage.item()) == (25, 0.8)
    assert cells.spread.item() == pytest.approx(np.sqrt(np.mean((VALUES[:4] - 25) ** 2)))
    reach = np.full((2, 1, 1), 2.5)
    table = level_tables(VALUES, weights, np.full(5, 2), reach, [2], [(0,)], [(0,)], estimator="trimmed", min_coverage=0.5)
    assert set(table) == {"value", "std", "coverage"}
    assert table["value"].tolist() == [[25]]
    image = Volume(VALUES[None, None], np.eye(4))
    atlas = NativeAtlas(Naming(("tract",), {}, {"white matter": (0,)}), image.grid, np.arange(5), weights)
    columns = extract(image, atlas, estimator="trimmed", per="all")
    assert columns.columns["TRIMMED()"] == [25]


@pytest.mark.usefixtures("trimmed")
def test_a_new_one_has_tables(tmp_path: Path, tiny_template: Template) -> None:
    specs = schema.table_specs("mtr", "trimmed")
    assert [s.path for s in specs.values()] == [f"tables/template/mtr_trimmed{c}" for c in ("", "_std", "_coverage")]
    url = store(tmp_path, tiny_template, "trimmed")
    root = layout.open_root(url)
    left, _, _, white, cord = np.asarray(layout.array_at(root, "tables/template/mtr_trimmed")[:])[0, 0]
    assert (left, white, cord) == (30, 25, 25)  # of 40 and 20; of 40, 20, 20, 30 without the least and the largest
    table = tract_table(open_cohort(url), estimator="trimmed", regions=["white matter"], levels=["C2"])
    assert table["mtr_trimmed"].values.tolist() == [[[25]]]
