"""A ready-made map becomes a metric by three lines of a study file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import CohortWarning, ConfigError, GeometryError, InputError, UnknownNameError
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
def run(tmp_path: Path, make_few_voxels):
    def make(data: np.ndarray, affine: np.ndarray | None = None, **settings: object) -> dict[str, np.ndarray]:
        mask = np.zeros((6, 6, 3), np.float32)
        mask[2:4, 2:4] = 1
        files = {"t1_image": str(tmp_path / "t1.nii.gz"), "mt_mask": str(tmp_path / "mask.nii.gz")}
        write_volume(files["t1_image"], Volume(data.astype(np.float32), np.eye(4) if affine is None else affine))
        write_volume(files["mt_mask"], Volume(mask, np.eye(4)))
        stage = next(s for s in stages_of(config(t1=T1 | settings)) if s.name == "t1")
        places = np.array([[2, 2, 1], [3, 2, 1], [50, 2, 1]], np.float32)
        return dict(stage.run(StageInput(files, {}, stage.params, make_few_voxels(3), lambda path: {"fit/mt": places}[path])))

    return make


def test_its_values_are_those_of_the_image(run) -> None:
    data = np.full((6, 6, 3), 1.5)
    data[3, 2, 1] = 9.0  # beyond its range: missing, not 9
    found = run(data)
    np.testing.assert_array_equal(found["maps/t1"], np.float32([1.5, np.nan, np.nan]))
    assert float(found["qc/t1_cord_median"]) == 1.5
    assert float(found["qc/t1_flagged_fraction"]) == pytest.approx(1 / 12)


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """T1 that rises along the scanner's x: 1 s at 0 mm, 0.1 s a mm."""
    return 1 + 0.1 * (np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3])[..., 0]


@pytest.mark.parametrize(
    ("shape", "spacing", "origin"),
    [((12, 12, 6), 0.5, (-0.25, -0.25, -0.25)), ((5, 5, 4), 2.0, (-1, -1, -1)), ((6, 6, 3), 1.0, (1.0, 0.0, 0.0)), ((4, 4, 3), 1.0, (1.0, 1.0, 0.0))],
    ids=["finer", "coarser", "moved by a voxel", "cropped"],
)
def test_a_map_on_a_grid_of_its_own_is_placed_by_the_scanner(run, shape: tuple[int, int, int], spacing: float, origin: tuple[float, ...]) -> None:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    with pytest.warns(CohortWarning, match=r"t1 map: it has a grid of its own .* shows 100 % of the cord mask of the MT-on image: placed"):
        found = run(ramp(shape, affine), affine)
    np.testing.assert_allclose(found["maps/t1"], [1.2, 1.3, np.nan], rtol=1e-5)
    assert float(found["qc/t1_cord_median"]) == pytest.approx(1.25, abs=0.06)


def test_a_map_that_shows_nothing_of_the_cord_is_refused(run) -> None:
    away = np.eye(4)
    away[0, 3] = 300
    with pytest.raises(GeometryError, match=r"t1 map: expected a map that shows the cord \(cord mask of the MT-on image\), found 0 % of it"):
        run(np.ones((6, 6, 3)), away)


def test_a_header_that_tools_rounded_is_no_other_grid(run) -> None:
    rounded = np.eye(4)
    rounded[0, 3] = 0.02
    assert run(np.full((6, 6, 3), 1.5), rounded)["maps/t1"][0] == np.float32(1.5)


def test_zero_is_a_value_unless_the_study_says_that_it_is_none(run) -> None:
    data = np.full((6, 6, 3), 1.5)
    data[2, 2, 1] = 0.0
    with pytest.warns(CohortWarning, match=r"t1 map: it is exactly 0 in 8 % of the cord; if that is no value, say so \(zero: missing\)"):
        assert run(data)["maps/t1"][0] == 0
    assert np.isnan(run(data, zero="missing")["maps/t1"][0])


def test_values_are_brought_to_the_unit_that_is_named(run) -> None:
    """A map in ms, in a metric whose unit and range are s; without `scale` nothing of it is in range."""
    assert run(np.full((6, 6, 3), 1500.0), scale=0.001)["maps/t1"][0] == pytest.approx(1.5)
    with pytest.raises(InputError, match=r"t1 map: expected values from 0 to 4 in the cord, found none \(1500 to 1500 in the image\).*scale"):
        run(np.full((6, 6, 3), 1500.0))


@pytest.mark.parametrize("words", ["T1map", "desc-dipy_FA", "*_T2starmap"])
def test_maps_of_derivatives_are_found_by_suffix_words_or_pattern(tmp_path: Path, words: str) -> None:
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    (tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz").touch()
    derived = tmp_path / "derivatives" / "any" / "sub-01" / "dwi"
    derived.mkdir(parents=True)
    names = {"T1map": "sub-01_T1map.nii.gz", "desc-dipy_FA": "sub-01_desc-dipy_FA.nii.gz", "*_T2starmap": "sub-01_acq-ax_T2starmap.nii.gz"}
    for name in names.values():
        (derived / name).touch()
    study = SOURCES["bids"].index(str(tmp_path), roles=map_roles(config(t1=T1 | {"file": words})))
    assert Path(study.files.at[0, "t1_image"]).name == names[words]


def test_names_that_are_taken_or_unknown() -> None:
    with pytest.raises(ConfigError, match=r"stages\.maps\.mtr.*which a stage computes"):
        stages_of(config(("mtr",), mtr=T1))
    assert "mtr_native" in {s.name for s in stages_of(config(mtr=T1))}, "ready-made in a study that does not compute it"
    with pytest.raises(UnknownNameError, match=r"contrast"):
        stages_of(config(t1={**T1, "contrast": "mtt"}))
