"""A folder that the Spinal Cord Toolbox worked in, as published, becomes a cohort: its values, its morphometry, its warp turned round."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.io.label_folder import read_atlas
from cohort_engine.query.accessor import open_cohort
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def anat(real_data: Path) -> Path:
    return real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat"


@pytest.fixture(scope="module")
def report(real_data: Path, pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """Built from the published folder as it is; what it lacks is a participants table."""
    folder = tmp_path_factory.mktemp("sct")
    (folder / "study").mkdir()
    (folder / "study/sub-HC003U").symlink_to(real_data / "dcm_ou/sub-HC003U")
    (folder / "study/participants.tsv").write_text("participant_id\tgroup\nsub-HC003U\tHC\n")
    config = {
        "data": {"source": "sct", "bids": str(folder / "study"), "store": str(folder / "study.zarr")},
        "template": {"name": "PAM50", "path": str(real_data / "PAM50")},
        "compute": {"cluster": "synchronous"},
        "stages": {"reduce": {"spaces": ["template", "native"], "estimators": ["wa", "map"]}, "shape": {"source": "t2w"}},
    }
    return build(parse_config(config))


def test_the_folder_is_built_as_it_is(report: BuildReport) -> None:
    assert report.failures.empty, report.failures.to_string()
    assert verify(report.url) == []
    quality = open_cohort(report.url).isel(subject=0)
    figures = {n: round(float(quality[f"mt_{n}"]), 4) for n in ("dice", "label_dice", "inverse_residual", "cord_coverage")}
    print(figures, f"flagged {float(quality['mtr_flagged_fraction']):.5f}")
    assert figures["dice"] > 0.97
    assert figures["label_dice"] > 0.99
    assert figures["inverse_residual"] < 1e-4
    assert float(quality["mtr_shift_max"]) < 0.5


def test_native_cells_are_the_published_values(report: BuildReport, anat: Path) -> None:
    """Every published MAP() of a region of the atlas in one whole level, as the store has it."""
    native = xr.open_zarr(report.url, group="tables/native", zarr_format=3, consolidated=False).isel(subject=0).load()
    names = {n.lower(): n for n in native.region.to_numpy()}
    labels = read_atlas(anat / "MTS/label").naming.labels
    pairs, slices = [], {}
    for path in sorted((anat / "MTS").glob("mtr_in_*.csv")):
        for row in csv.DictReader(path.read_text().splitlines()):
            label = labels[int(row["Label"])] if row["Label"].isdigit() else row["Label"]
            if not row["MAP()"] or not row["VertLevel"].isdigit() or label.lower() not in names:
                continue
            cell = native.sel(level=schema.LEVEL_NAMES[int(row["VertLevel"]) - 1], region=names[label.lower()])
            pairs.append((float(cell.mtr_map), float(row["MAP()"]), float(cell.mtr_map_n), float(row["Size [vox]"]), float(cell.mtr_map_coverage)))
            slices.setdefault(row["VertLevel"], set()).add(row["Slice (I->S)"])
    ours, theirs, n, size, coverage = np.array(pairs).T
    error = np.abs(ours - theirs)
    print(f"{len(pairs)} cells: mean |difference| {error.mean():.4f}, largest {error.max():.4f}; sizes within {np.abs(n / size - 1).max():.1e}")
    assert len(pairs) >= 40
    assert all(len(s) == 1 for s in slices.values())
    assert error.max() <= 0.02
    assert n == pytest.approx(size, rel=1e-4)
    assert coverage.min() > 0.99


def test_maps_are_sampled_where_the_cord_is(report: BuildReport, pam50: Template) -> None:
    values, positions = (read_subject(report.url, 0, path) for path in ("maps/mtr", "fit/mt"))
    seen = np.isfinite(positions[:, 0])
    assert np.isfinite(values[seen]).mean() > 0.99
    assert np.isnan(values[~seen]).all()
    levels = pam50.packing.level
    assert all(seen[levels == n].all() for n in range(2, 8))
    assert not seen[levels > 9].any()
    cells = open_cohort(report.url).cohort.frame("mtr", ["white matter", "CSF contour"], ["C3", "C4", "C5"])
    mean = cells.groupby("region")["value"].mean()
    assert 35 < mean["white matter"] < 50
    assert mean["CSF contour"] < mean["white matter"] - 5


def test_morphometry_is_the_published_one(report: BuildReport, anat: Path) -> None:
    theirs = pd.read_csv(anat / "T2w/t2w_shape_perlevel.csv").set_index("VertLevel")["MEAN(area)"]
    ours = open_cohort(report.url).isel(subject=0)["area"].to_series()
    error = [abs(ours[schema.LEVEL_NAMES[int(n) - 1]] - area) for n, area in theirs.items()]
    print(f"{len(error)} levels: largest difference {max(error):.2f} mm2")
    assert max(error) <= 1.0
