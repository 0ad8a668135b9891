"""Speed of the store at the size of PAM50: 254,766 voxels. Run with ``pytest --benchmark-only tests/benchmarks/test_write.py``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cohort_engine import schema
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import Entry, read_entries, write_record
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject
from cohort_engine.template.packing import Packing
from cohort_engine.testing import HandMadeStore

VOXELS = 254_766


@pytest.fixture(scope="session")
def wide_template(small_template):
    """Return the small template with a packed axis as long as that of PAM50."""
    k, j, i = np.unravel_index(np.arange(VOXELS), (911, 20, 14))
    level = np.where(k < 400, 2, 3).astype(np.int8)
    packing = Packing(small_template.grid, np.stack([i, j, k], axis=1).astype(np.int16), level)
    weights = sparse.csr_array(small_template.atlas.weights.copy())
    weights.resize((len(small_template.atlas.labels), VOXELS))
    return dataclasses.replace(small_template, packing=packing, atlas=dataclasses.replace(small_template.atlas, weights=weights))


@pytest.fixture
def wide_store(tmp_path, wide_template, make_config):
    def make(count):
        subjects = pd.DataFrame({"participant_id": [f"s{n}" for n in range(count)]})
        config = make_config(data={"bids": "bids", "store": str(tmp_path / "store.zarr")})
        return HandMadeStore.lay_out(config, wide_template, subjects, names=("fit_mt", "mtr"))

    return make


def subject(seed=0):
    """Return a smooth template map (voxel, 3) and a noisy MTR, half of the axis outside the image."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 60, VOXELS)
    fit = np.stack([np.sin(t) * 5, np.cos(t) * 4, t * 8], axis=1) + rng.normal(0, 0.01, (VOXELS, 3)).cumsum(axis=0) * 0.01
    mtr = 40 + 10 * np.sin(7 * t) + rng.normal(0, 0.01, VOXELS).cumsum() * 0.1
    fit[: VOXELS // 2], mtr[: VOXELS // 2] = np.nan, np.nan
    return {"fit/mt": fit.astype(np.float32), "maps/mtr": mtr.astype(np.float32), "qc/mt_dice": np.float32(0.9)}


def fill(store, count):
    for row in range(count):
        store.write(row, subject(row))
    return store.url


def test_init_of_10000_subjects(benchmark, wide_store):
    url = benchmark.pedantic(lambda: wide_store(10_000), rounds=1).url
    assert layout.store_attributes(url)["subjects"] == 10_000


def test_write_subject(benchmark, wide_store):
    store, arrays = wide_store(1), subject()
    benchmark(lambda: store.write(0, arrays))
    np.testing.assert_array_equal(read_subject(store.url, 0, "fit/mt"), arrays["fit/mt"])


def test_read_map(benchmark, wide_store):
    url = fill(wide_store(1), 1)
    assert benchmark(lambda: read_subject(url, 0, "maps/mtr")).shape == (VOXELS,)


def test_write_record(benchmark, tmp_path):
    benchmark(lambda: write_record(str(tmp_path / "s.zarr"), Entry(17, "fit_mt", schema.DONE, "k")))


def test_read_2000_records(benchmark, tmp_path):
    url = str(tmp_path / "s.zarr")
    for row in range(1000):
        for stage in ("fit_mt", "mtr"):
            write_record(url, Entry(row, stage, schema.DONE, "k"))
    assert len(benchmark.pedantic(lambda: read_entries(url), rounds=3)) == 2000


def test_verify_of_100_subjects(benchmark, wide_store):
    url = fill(wide_store(100), 100)
    assert benchmark.pedantic(lambda: verify(url), rounds=1) == []


def test_compact_of_100_subjects(benchmark, wide_store, tmp_path, cost):
    url, out = fill(wide_store(100), 100), str(tmp_path / "freeze.zarr")
    finalise(url, allow_missing=True)
    seconds, memory = benchmark.pedantic(lambda: cost("compact", url, out, rounds=1), rounds=1)
    print(f"\ncompact of 100 subjects: {seconds:.1f} s of processor, {memory:.0f} MiB at most")
    np.testing.assert_array_equal(read_subject(out, 77, "fit/mt"), subject(77)["fit/mt"])
    assert memory < 600
