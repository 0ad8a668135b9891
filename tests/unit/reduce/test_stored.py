"""Sums that are kept beside a map: tables and answers come from them, and from the map where they are not there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.query.cells import table
from cohort_engine.query.reader import CohortReader
from cohort_engine.reduce.cohort import table_block, tabulate
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.verify import verify
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore

TEMPLATE = parametric_cord(spacing=2, top="C2", bottom="C5")
PEOPLE = 5


def make(url: Path, *, kept: tuple[bool, ...] = (True,) * PEOPLE, estimators: tuple[str, ...] = ("wa", "map"), weights: str = "none") -> str:
    """FA of five people with its errors, each with a hole at one end, and their tables."""
    stages = {"metrics": ["fa"], "reduce": {"spaces": ["template"], "estimators": list(estimators), "weights": weights}}
    config = parse_config({"data": {"bids": "b", "store": str(url)}, "template": {"name": "parametric"}, "stages": stages})
    people = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(len(kept))]})
    store = HandMadeStore.lay_out(config, TEMPLATE, people, names=("fa",))
    sizes = layout.sizes_of(TEMPLATE)
    empty = {
        f"tables/template/fa_{of}": np.full((sizes[schema.LEVEL], sizes[dim]), np.nan)
        for of, dim in ((schema.SUMS, schema.PART), (schema.ERRORS, schema.PAIR))
    }
    for row, sums in zip(store.rows, kept, strict=True):
        rng = np.random.default_rng(row)
        fa = rng.normal(0.7, 0.05, len(TEMPLATE.packing)).astype(np.float32)
        fa[: 40 + 10 * row] = np.nan
        se = np.where(np.isnan(fa), np.nan, rng.uniform(0.01, 0.04, len(fa))).astype(np.float32)
        store.write(row, {"maps/fa": fa, "maps/fa_se": se, "qc/fa_shared": np.float32(3)} | ({} if sums else empty))
    finalise(str(url), tabulate=lambda: tabulate(str(url)))
    return str(url)


def spoil_maps(url: str) -> None:
    """Change every voxel of the maps behind the store's back."""
    array = layout.array_at(layout.open_root(url, "r+"), "maps/fa")
    array[...] = 2 * np.asarray(array[...])


def tables(url: str) -> dict[str, np.ndarray]:
    root = layout.open_root(url)
    return {p: np.asarray(a[...]) for p, a in layout.arrays(root).items() if p.startswith("tables/template/fa_") and a.ndim == 3 and a.shape[2] < 60}


def test_tables_are_those_of_the_maps_whoever_has_sums(tmp_path: Path) -> None:
    some = tables(make(tmp_path / "some.zarr", kept=(True, False, True, False, False)))
    every, none = tables(make(tmp_path / "every.zarr")), tables(make(tmp_path / "none.zarr", kept=(False,) * PEOPLE))
    assert len(every) == len(schema.table_specs(schema.METRICS["fa"], "wa")) + len(schema.table_specs(schema.METRICS["fa"], "map"))
    for path, values in every.items():
        np.testing.assert_allclose(values, none[path], rtol=1e-6, err_msg=path)
        np.testing.assert_array_equal(some[path][[0, 2]], values[[0, 2]])
        np.testing.assert_array_equal(some[path][[1, 3, 4]], none[path][[1, 3, 4]])
    assert np.isfinite(every["tables/template/fa_map_noise"]).any()


def test_tables_and_pooled_answers_look_at_no_voxel(tmp_path: Path) -> None:
    url = make(tmp_path / "a.zarr")
    before = table_block(url, 0)
    ask = [(r, n, e) for r in ("white matter", "ventral horn") for n in ("C3", "C2:C4", "all") for e in ("wa", "ml", "map")]
    answers = [table(CohortReader(url), "fa", r, n, estimator=e, space="template", min_coverage=0.5).values for r, n, e in ask]
    spoil_maps(url)
    assert all(np.array_equal(a, before[path], equal_nan=True) for path, a in table_block(url, 0).items())
    for (r, n, e), expected in zip(ask, answers, strict=True):
        found = table(CohortReader(url), "fa", r, n, estimator=e, space="template", min_coverage=0.5).values
        assert all(np.array_equal(found[k], expected[k], equal_nan=True) for k in expected)


@pytest.mark.parametrize(("estimators", "weights"), [(("bin", "wa"), "none"), (("wa",), "precision")])
def test_what_sums_do_not_tell_comes_from_the_voxels(tmp_path: Path, estimators: tuple[str, ...], weights: str) -> None:
    url = make(tmp_path / "a.zarr", estimators=estimators, weights=weights)
    before = table_block(url, 0)
    spoil_maps(url)
    path = f"tables/template/fa_{estimators[0]}"
    np.testing.assert_allclose(table_block(url, 0)[path], 2 * before[path], rtol=0.1)


def test_verify_finds_sums_that_are_not_those_of_the_map(tmp_path: Path) -> None:
    url = make(tmp_path / "a.zarr")
    deep = partial(table_block, url, kept=False)
    assert verify(url, deep=deep) == []
    spoil_maps(url)
    assert {p.row for p in verify(url, deep=deep) if "is not what its map gives" in str(p)} == set(range(PEOPLE))
