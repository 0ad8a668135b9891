"""A ready-made map becomes a metric by three lines of a study file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import ConfigError, GeometryError, UnknownNameError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.stages.base import SOURCES, StageInput
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.declare import metrics_of
from cohort_engine.stages.maps import map_roles

T1 = {"file": "desc-t1_map", "contrast": "mt", "units": "s", "valid_range": [0, 4]}


def config(metrics: tuple[str, ...] = (), **maps: object):
    return parse_config({"data": {"bids": "b", "store": "s"}, "stages": {"metrics": metrics, "maps": maps}})


def test_it_has_the_stages_of_any_metric() -> None:
    stages = stages_of(config(t1=T1))
    assert [s.name for s in stages if not s.makes] == ["fit_mt", "t1", "t1_native"]
    assert metrics_of(stages) == (schema.Metric("t1", "T1", "t1", "s", (0.0, 4.0), "mt"),)
    units = {spec.path: spec.units for s in stages for spec in s.writes}
    assert (units["maps/t1"], units["qc/t1_cord_median"], units["tables/native/t1_wa"]) == ("s", "s", "s")


def test_it_says_nothing_to_the_recipes_of_others() -> None:
    before, after = ({s.name: s.recipe("t").hash for s in stages_of(c)} for c in (config(t1=T1), config(t1=T1, t2=T1)))
    assert all(after[name] == recipe for name, recipe in before.items())


def test_its_file_is_found_by_name(tmp_path: Path) -> None:
    anat = tmp_path / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    derived = tmp_path / "derivatives" / "qmri" / "sub-01" / "anat"
    derived.mkdir(parents=True)
    for name in ("sub-01_mt-on_MTS.nii.gz", "sub-01_mt-off_MTS.nii.gz", "sub-01_mt-on_MTS.json"):
        (anat / name).touch()
    for name in ("sub-01_desc-t1_map.nii.gz", "sub-01_acq-slow_desc-t1_map.nii.gz", "sub-01_desc-other_map.nii.gz"):
        (derived / name).touch()
    asked = config(t1=T1)
    study = SOURCES["bids"].index(str(tmp_path), roles=map_roles(asked))
    assert Path(study.files.at[0, "t1_image"]).name == "sub-01_desc-t1_map.nii.gz"
    assert "left out: acq-slow_desc-t1_map.nii.gz" in study.notes["note"].iloc[0]
    assert study.missing(["t1_image"]).empty


@pytest.fixture
def run(tmp_path: Path):
    def make(data: np.ndarray, affine: np.ndarray | None = None) -> dict[str, np.ndarray]:
        mask = np.zeros((6, 6, 3), np.float32)
        mask[2:4, 2:4] = 1
        files = {"t1_image": str(tmp_path / "t1.nii.gz"), "mt_mask": str(tmp_path / "mask.nii.gz")}
        write_volume(files["t1_image"], Volume(data.astype(np.float32), np.eye(4) if affine is None else affine))
        write_volume(files["mt_mask"], Volume(mask, np.eye(4)))
        stage = next(s for s in stages_of(config(t1=T1)) if s.name == "t1")
        places = np.array([[2, 2, 1], [3, 2, 1], [50, 2, 1]], np.float32)
        return dict(stage.run(StageInput(files, {}, stage.params, None, lambda path: {"fit/mt": places}[path])))  # type: ignore[arg-type]

    return make


def test_its_values_are_those_of_the_image(run) -> None:
    data = np.full((6, 6, 3), 1.5)
    data[3, 2, 1] = 9.0  # beyond its range: missing, not 9
    found = run(data)
    np.testing.assert_array_equal(found["maps/t1"], np.float32([1.5, np.nan, np.nan]))
    assert float(found["qc/t1_cord_median"]) == 1.5
    assert float(found["qc/t1_flagged_fraction"]) == pytest.approx(1 / 12)


def test_another_grid_is_refused(run) -> None:
    moved = np.eye(4)
    moved[0, 3] = 3
    with pytest.raises(GeometryError, match="t1 map: expected the grid of the cord mask of the MT-on image"):
        run(np.ones((6, 6, 3)), moved)


def test_names_that_are_taken_or_unknown() -> None:
    with pytest.raises(ConfigError, match=r"stages\.maps\.mtr.*which a stage computes"):
        stages_of(config(("mtr",), mtr=T1))
    assert "mtr_native" in {s.name for s in stages_of(config(mtr=T1))}, "ready-made in a study that does not compute it"
    with pytest.raises(UnknownNameError, match=r"contrast"):
        stages_of(config(t1={**T1, "contrast": "mtt"}))
