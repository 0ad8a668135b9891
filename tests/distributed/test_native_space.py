"""Native tables of a simulated study: both spaces are in the store, and both come near the truth."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cohort_engine
from cohort_engine.config import parse_config
from cohort_engine.engine.build import build
from cohort_engine.errors import StoreError, UnknownNameError
from cohort_engine.phantom.study import simulate
from cohort_engine.query.frame import run_query
from cohort_engine.single.mtr import ratio
from cohort_engine.stages import mtr as stage
from cohort_engine.store.verify import verify
from cohort_engine.template import load_template

OPENED: list[str] = []
"""Files that this process opened while `listening`."""
listening = False


def listen(event: str, arguments: tuple[object, ...]) -> None:
    if listening and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(listen)  # one that is added stays


@contextmanager
def opened() -> Iterator[list[str]]:
    global listening
    OPENED.clear()
    listening = True
    try:
        yield OPENED
    finally:
        listening = False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("native")
    simulate(root / "bids", template=load_template("parametric"), patients=1, controls=1, seed=3)
    config = parse_config(
        {
            "data": {"bids": str(root / "bids"), "store": str(root / "study.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "synchronous"},
            "stages": {"reduce": {"estimators": ["wa", "ml", "map"]}},
        }
    )
    seen: list[int] = []
    with opened() as files, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "ratio", lambda *a, **k: seen.append(1) or ratio(*a, **k))
        report = build(config)
    assert report.exit_code == 0, report.failures.to_string()
    own = [f for f in files if f.startswith(str(root / "bids")) and "/sub-" in f]
    assert len([f for f in own if f.endswith(".nii.gz")]) == 2 * 6, "every file is read once, whatever stages want it"
    assert len([f for f in own if f.endswith(".json")]) == len(own) - 2 * 6 <= 2 * 2, "and the index looks into sidecars alone"
    assert len(seen) == 2, "the native stage takes the image that the metric's stage has made"
    assert list(report.counts) == ["segment_t2w", "segment_mt", "levels_t2w", "fit_mt", "mtr", "mtr_native", "quality"]
    again = build(config)
    assert [c["cached"] + c["not_needed"] for c in again.counts.values()] == [2] * 7
    return root


def test_the_store_holds_both_spaces(study: Path) -> None:
    store = str(study / "study.zarr")
    assert verify(store) == []
    there, native = (xr.open_zarr(store, group=f"tables/{space}", zarr_format=3, consolidated=False) for space in ("template", "native"))
    assert there.mtr_map.dims == native.mtr_map.dims
    assert there.region.equals(native.region)
    assert native.mtr_map_n.attrs["units"] == "voxel"
    assert float(native.mtr_map_n.sum()) < 0.2 * float(there.mtr_map_n.sum())
    apart = cohort_engine.open_cohort(store)["mtr_space_difference"].to_numpy()
    median = np.nanmedian(np.abs(there.mtr_wa - native.mtr_wa), axis=(1, 2))
    assert apart == pytest.approx(median, rel=1e-4)
    assert (apart < 2).all()


def test_native_values_come_near_the_raw_truth(study: Path) -> None:
    truth = pd.read_csv(study / "bids/derivatives/truth/truth.tsv", sep="\t")
    found = cohort_engine.open_cohort(str(study / "study.zarr"), space="native").cohort.frame("mtr", estimator="map")
    cells = found.merge(truth, on=["participant_id", "level", "region"]).dropna(subset=["value"])
    cells = cells[(cells.native_voxels >= 15) & cells.region.str.match("WM (left|right) ")]
    error = cells.value - cells.raw
    assert len(error) > 20
    assert error.abs().mean() < 3
    assert abs(error.mean()) < 2
    assert np.isfinite(cells.se).all()


def test_the_default_is_the_least_biased_value_with_its_error_for_any_levels_and_regions(study: Path) -> None:
    """Pooled levels were refused in native space, and the default was the weighted average in template space, several points low."""
    store = str(study / "study.zarr")
    truth = pd.read_csv(study / "bids/derivatives/truth/truth.tsv", sep="\t").set_index(["participant_id", "level", "region"])
    for question in (
        "mtr tract='white matter' level=C3:C4",
        "mtr tract='white matter + gray matter' level=C4",
        "mtr tract='dorsal columns' level=C4",
    ):
        frame = run_query(store, question)
        assert (frame.attrs["space"], frame.attrs["estimator"], frame.attrs["notes"]) == ("native", "map", [])
        assert np.isfinite(frame[["value", "se"]]).all(axis=None)
    levels = [truth.xs(("white matter", n), level=("region", "level"))[["raw", "native_voxels"]] for n in ("C3", "C4")]
    expected = sum(t["raw"] * t["native_voxels"] for t in levels) / sum(t["native_voxels"] for t in levels)
    for space, low, high in (("", 0.0, 1.5), ("template", 2.0, 8.0)):
        frame = run_query(store, "mtr tract='white matter' level=C3:C4", space=space).set_index("participant_id")
        error = (frame["value"] - expected[frame.index]).abs()
        assert ((error >= low) & (error < high)).all()
    one = cohort_engine.open_cohort(store, space="native").cohort.table("mtr", "white matter", "C4", estimator="map")["value"].to_numpy()
    assert np.isfinite(one).all()
    with pytest.raises(StoreError, match="median needs the voxels of the image"):
        run_query(store, "mtr level=C3:C4 estimator=median space=native")
    with pytest.raises(UnknownNameError, match="native"):
        cohort_engine.open_cohort(str(study / "study.zarr"), space="nativ")
