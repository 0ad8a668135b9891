"""Tables of a whole cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import AlignmentError, StoreError, UnknownNameError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import tabulate, tract_table
from cohort_engine.reduce.maps import weighted_average
from cohort_engine.reduce.operator import Operator
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.tables import MADE_FROM
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange
from cohort_engine.testing import HandMadeStore

NAN = np.nan
MakeCohort = Callable[..., str]
C3_10_C2_20 = [10] * 4 + [20] * 4


def table(url: str, name: str) -> np.ndarray:
    return np.asarray(layout.array_at(layout.open_root(url), f"tables/template/{name}")[:])


def test_every_cell_of_a_subject(make_cohort: MakeCohort) -> None:
    url = make_cohort([[4, 8, 0, 2, 40, 80, 0, 20]])  # voxels of C3, then of C2
    c3 = [(4 + 0.5 * 8) / 1.5, (0.5 * 0 + 2) / 1.5, 4, (4 + 4 + 0 + 2) / 3, (4 + 8 + 0 + 2) / 4]
    np.testing.assert_allclose(table(url, "mtr_wa"), [[np.multiply(c3, 10), c3]], rtol=1e-6)  # C2 comes first
    np.testing.assert_allclose(table(url, "mtr_wa_n"), [[[1.5, 1.5, 1, 3, 4]] * 2])
    np.testing.assert_allclose(table(url, "mtr_wa_coverage"), np.ones((1, 2, 5)))


def test_half_a_level_missing(make_cohort: MakeCohort) -> None:
    url = make_cohort([[10, 10, NAN, NAN, 20, 20, 20, 20]])
    np.testing.assert_allclose(table(url, "mtr_wa"), [[[20] * 5, [10, NAN, NAN, NAN, NAN]]])
    np.testing.assert_allclose(table(url, "mtr_wa_coverage")[0, 1], [1, 0, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(table(make_cohort([[10, 10, NAN, NAN, 20, 20, 20, 20]], min_coverage=0.5), "mtr_wa")[0, 1], [10, NAN, 10, 10, 10])


def test_subject_that_was_never_built_has_no_voxels(make_cohort: MakeCohort) -> None:
    url = make_cohort([C3_10_C2_20, None])
    assert np.isnan(table(url, "mtr_wa")[1]).all()
    assert (table(url, "mtr_wa_n")[1] == 0).all()
    assert (table(url, "mtr_wa_coverage")[1] == 0).all()


def test_many_blocks_equal_one_call_and_are_not_made_again(make_cohort: MakeCohort, tiny_template: Template) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(30, 5, (2 * schema.SUBJECT_BLOCK + 3, 8)).astype(np.float32)
    maps[rng.random(maps.shape) < 0.2] = NAN
    url = make_cohort(list(maps))
    levels = [LevelRange.parse(n) for n in tiny_template.levels]
    expected = weighted_average(
        Operator.build(tiny_template.atlas, tiny_template.packing.level, levels, tiny_template.atlas.regions), maps, min_coverage=0.75
    )
    for key, spec in schema.table_specs("mtr", "wa").items():
        assert table(url, spec.name).tobytes() == expected[key].tobytes()
    assert tabulate(url) == 0


def test_unknown_metric_or_estimator_stops_before_anything_runs(make_cohort: MakeCohort) -> None:
    url = make_cohort([C3_10_C2_20])
    with pytest.raises(UnknownNameError, match=r"'mtrr'\. Did you mean 'mtr'"):
        tabulate(url, metrics=("mtrr",))
    with pytest.raises(UnknownNameError, match=r"'wq'\. Did you mean 'wa'"):
        tabulate(url, estimators=("wq",))


@pytest.mark.distributed
def test_a_distributed_client_writes_the_same(make_cohort: MakeCohort) -> None:
    from distributed import Client

    maps = np.random.default_rng(2).normal(30, 5, (130, 8))
    threads, cluster = make_cohort(list(maps)), make_cohort(list(maps), close=False)
    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None, processes=False) as client:
        tabulate(cluster, client=client)
    for spec in schema.table_specs("mtr", "wa").values():
        assert table(cluster, spec.name).tobytes() == table(threads, spec.name).tobytes()


# --- Dataset in, Dataset out ------------------------------------------------------------------------------------------
def test_pool_and_sum_as_arithmetic(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([[4, 8, 0, 2, 40, 80, 0, 20]]))
    out = tract_table(ds, levels=["C2:C3", "all"], regions=["left lateral corticospinal tract + left ventral horn"], merge=False)
    # per level: weights 1, 1, 0.5 on the first three voxels
    expected = (4 + 8 + 40 + 80) / 5
    np.testing.assert_allclose(out.mtr_wa[0, :, 0], [expected, expected], rtol=1e-6)
    np.testing.assert_allclose(out.mtr_wa_n[0, :, 0], [5, 5])
    assert out.level.values.tolist() == ["C2:C3", "all"]


def test_it_is_lazy_and_merges(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([C3_10_C2_20] * 3))
    out = tract_table(ds, levels=["C2:C3"], regions=["white matter"])
    assert dask.is_dask_collection(out.mtr_wa.data)
    assert out.mtr_wa.shape == (3, 1, 1)
    assert out.mtr_wa.attrs["units"] == "percent"
    assert out.mtr.identical(ds.mtr)
    np.testing.assert_allclose(out.mtr_wa.values.ravel(), 15)


def test_it_works_on_arrays_in_memory_and_on_one_subject(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([C3_10_C2_20] * 3))
    assert tract_table(ds.load(), regions=["white matter"]).mtr_wa.values.tolist() == [[[20], [10]]] * 3
    assert tract_table(ds.isel(subject=1), regions=["white matter"], merge=False).mtr_wa.dims == ("level", "region")


def test_the_table_of_the_store_is_the_table_of_the_dataset(make_cohort: MakeCohort) -> None:
    maps = np.random.default_rng(3).normal(30, 5, (70, 8))
    maps[::9, 3:6] = NAN
    ds = open_cohort(make_cohort(list(maps)))
    again = tract_table(ds, merge=False, min_coverage=0.75)
    for spec in schema.table_specs("mtr", "wa").values():
        there = ds[spec.name].variable.compute()
        there.attrs = {k: v for k, v in there.attrs.items() if k != MADE_FROM}
        xr.testing.assert_identical(again[spec.name].variable.compute(), there)


def test_a_dataset_without_its_atlas_or_with_half_its_voxels_is_refused(make_cohort: MakeCohort) -> None:
    ds = open_cohort(make_cohort([C3_10_C2_20]))
    with pytest.raises(StoreError, match="no atlas_weight"):
        tract_table(ds.drop_vars("atlas_weight"))
    with pytest.raises(AlignmentError, match="8 voxels of the atlas, found 4"):
        tract_table(ds.isel(voxel=slice(4)))
    with pytest.raises(StoreError, match="maps of mtr"):
        tract_table(ds.drop_vars("mtr"))


# --- every estimator --------------------------------------------------------------------------------------------------
EVERY = tuple(schema.ESTIMATORS)


@pytest.fixture
def all_tables(tmp_path: Path, tiny_template: Template) -> xr.Dataset:
    """Cohort with the tables of all estimators: a subject without noise, one with a hole in C3, one never built."""
    reduce = {"estimators": EVERY, "min_coverage": 0.5, "spaces": ["template"]}
    config = parse_config({"data": {"bids": "b", "store": str(tmp_path / "every.zarr")}, "stages": {"reduce": reduce}})
    store = HandMadeStore.lay_out(config, tiny_template, pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-3"]}), names=["mtr"])
    pure = [40, 40 * 0.5 + 10 * 0.5, 30 * 0.5 + 10 * 0.5, 30]  # left 40, right 30, horn 10
    for row, values in enumerate(([*pure, *pure], [*pure[:3], NAN, *pure])):
        store.write(row, {"maps/mtr": np.asarray(values, np.float32)})
    finalise(store.url, tabulate=lambda: tabulate(store.url), allow_missing=True)
    for spec in layout.stored_specs(layout.open_root(store.url)).values():
        if spec.group == "tables/template" and spec.valid_range:
            found = table(store.url, spec.name)
            assert ((found >= spec.valid_range[0]) & (found <= spec.valid_range[1]) | np.isnan(found)).all()
    return open_cohort(store.url)


def test_each_estimator_has_its_companions(all_tables: xr.Dataset) -> None:
    for name, estimator in schema.ESTIMATORS.items():
        found = {str(n) for n in all_tables if str(n) == f"mtr_{name}" or str(n).startswith(f"mtr_{name}_")} - {f"mtr_{name}_current"}
        assert found == {f"mtr_{name}", *(f"mtr_{name}_{c}" for c in estimator.companions)}
    assert all_tables.mtr_map_se.attrs["units"] == "percent"


def test_estimators_of_a_pure_mixture(all_tables: xr.Dataset) -> None:
    first = all_tables.isel(subject=0).sel(level="C2")
    left, right, horn = 0, 1, 2
    np.testing.assert_allclose(first.mtr_ml[[left, right, horn]], [40, 30, 10], rtol=1e-6)  # taken apart
    np.testing.assert_allclose(first.mtr_wa[[left, horn]], [(40 + 12.5) / 1.5, (12.5 + 10) / 1], rtol=1e-6)
    np.testing.assert_allclose(first.mtr_bin[[left, horn]], [32.5, 22.5])
    np.testing.assert_allclose(first.mtr_max[[left, horn]], [40, 25])
    assert 25 < first.mtr_median[left] < 40
    assert 30 < first.mtr_map[left] < 40  # drawn towards its tissue
    np.testing.assert_allclose(first.mtr_ml_se[[left, right, horn]], 0, atol=1e-3)


def test_a_hole_is_solved_for_its_subject_alone(all_tables: xr.Dataset) -> None:
    assert all_tables.mtr_ml.sel(level="C3").values[0].tobytes() == all_tables.mtr_ml.sel(level="C2").values[0].tobytes()
    holed = all_tables.isel(subject=1).sel(level="C3")
    assert np.isnan(holed.mtr_ml[1])  # a third of the right tract is left: below the limit
    np.testing.assert_allclose(holed.mtr_ml[[0, 2]], [40, 10], rtol=1e-5)
    np.testing.assert_allclose(all_tables.mtr_map[1].sel(level="C2"), all_tables.mtr_map[0].sel(level="C2"), rtol=1e-6)
    assert np.isnan(all_tables.mtr_map[2]).all()
    assert (all_tables.mtr_map_coverage[2] == 0).all()


def test_pools_and_sums_from_the_maps(all_tables: xr.Dataset) -> None:
    for name in EVERY:
        table = all_tables.cohort.table("mtr", "white matter", "C2:C3", estimator=name)
        assert set(table.data_vars) == {"value", *schema.ESTIMATORS[name].companions}
        assert np.isfinite(table["value"][:2]).all()
        frame = all_tables.cohort.frame("mtr", estimator=name)
        assert frame["value"].iloc[0] == all_tables[f"mtr_{name}"].values[0, 0, 0]
