"""The how-to, followed: a registration in the toolbox's layout becomes a cohort that answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import cohort_engine
from cohort_engine.cli import app

CONFIG = Path(__file__).parents[2] / "configs/studies/sct.yaml"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def processed(one_subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sct") / "processed"
    mt, t2 = folder / "sub-HC001/mt", folder / "sub-HC001/t2"
    t2.mkdir(parents=True)
    on, off, mask, t2w, discs = (
        next(one_subject.rglob(f"*{name}.nii.gz")) for name in ("on_MTS", "off_MTS", "on_MTS_label-SC_seg", "T2w_label-SC_seg", "discs_dlabel")
    )
    run("register", on, "--mask", mask, "--levels", discs, "--template", "parametric", "--no-deformable", "-o", mt)
    for source, target in (
        (on, mt / "mt1"),
        (off, mt / "mt0_reg"),
        (mask, mt / "mt1_seg"),
        (t2w, t2 / "t2_seg"),
        (discs, t2 / "t2_seg_labeled_discs"),
    ):
        shutil.copy(source, f"{target}.nii.gz")
    shutil.copy(one_subject / "participants.tsv", folder)
    return folder


def test_the_index_lists_what_was_found(processed: Path) -> None:
    out = run("index", "--source", "sct", processed)
    assert "1 subjects, 1 complete" in out
    assert "label folder of the MT image" in out


def test_the_study_file_of_the_how_to(processed: Path) -> None:
    study = yaml.safe_load(CONFIG.read_text())
    study["data"] |= {"bids": processed.name, "store": "study.zarr"}
    study |= {"template": {"name": "parametric"}, "compute": {"cluster": "synchronous"}}
    path = processed.parent / "sct.yaml"
    path.write_text(yaml.safe_dump(study))
    assert "fit_mt" in run("plan", path)
    run("build", "--quiet", path)
    assert "0 problems" in run("verify", processed.parent / "study.zarr")
    store = processed.parent / "study.zarr"
    for question in ("mtr tract='white matter' level=C3:C5", "area level=C3"):
        assert "nan" not in run("query", store, question)
    native = cohort_engine.open_cohort(str(store), space="native")
    assert native.cohort.frame("mtr", ["white matter"], ["C3", "C4"], estimator="map")["value"].notna().all()
