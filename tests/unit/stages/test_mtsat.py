"""The stages of MTsat and T1 on blocks of a few voxels: what they sample, what they refuse, which files and sidecars they take."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import CohortWarning, GeometryError, InputError, MissingInputError
from cohort_engine.io.bids import index_study
from cohort_engine.io.places import together
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.qmri.mtsat import Protocol, Triplet, saturation
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.stages.choose import stages_of

SHAPE = (24, 24, 4)
SIDECARS = {"mt_on_json": (0.035, 9), "mt_off_json": (0.035, 9), "mt_t1w_json": (0.015, 15)}
SIGNALS = {"mt_on": 160.0, "mt_off": 250.0, "mt_t1w": 170.0}
TRUE = saturation(Triplet(*(np.array([v]) for v in SIGNALS.values())), Triplet(*(Protocol(*p) for p in SIDECARS.values())))


def stages(**mtsat: object) -> dict[str, Stage]:
    asked = {"data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["mtsat", "t1"], "mtsat": mtsat}}
    return {s.name: s for s in stages_of(parse_config(asked))}


@pytest.fixture
def make(tmp_path: Path, make_few_voxels):
    """Factory of inputs: a cord of 6 x 6 voxels in the middle of each image, one template voxel in it."""

    def inputs(*, affine: Any = None, texts: dict[str, Any] | None = None, b1: Volume | None = None, **signals: float) -> StageInput:
        texture = np.random.default_rng(0).uniform(0.8, 1.0, SHAPE)
        mask = np.zeros(SHAPE, np.float32)
        mask[9:15, 9:15] = 1
        files = {}
        for role, data in {**{r: v * texture for r, v in (SIGNALS | signals).items()}, "mt_mask": mask}.items():
            files[role] = str(tmp_path / f"{role}.nii.gz")
            moved = affine if role == "mt_t1w" and affine is not None else np.eye(4)
            write_volume(files[role], Volume(np.asarray(data, np.float32), np.asarray(moved, float)))
        for role, (tr, flip) in SIDECARS.items():
            said = {"RepetitionTime": tr, "FlipAngle": flip} | (texts or {}).get(role, {})
            files[role] = str(tmp_path / f"{role}.json")
            Path(files[role]).write_text(json.dumps({k: v for k, v in said.items() if v is not ...}))
        if b1 is not None:
            files["mt_b1"] = str(tmp_path / "b1.nii.gz")
            write_volume(files["mt_b1"], b1)
        places = np.array([[12.0, 12.0, 1.0]], np.float32)
        params = stages()["mtsat"].params | {"coregister": "none"}
        return StageInput(files, {}, params, make_few_voxels(1), lambda path: {"fit/mt": places}[path])

    return inputs


def run(name: str, inputs: StageInput) -> dict[str, Any]:
    return dict(stages()[name].run(inputs))


def test_both_metrics_are_those_of_the_formula(make) -> None:
    inputs = make()
    one = run("mtsat", inputs)
    assert one["maps/mtsat"] == pytest.approx(TRUE.mtsat, rel=1e-5)
    found = run("t1", inputs)
    assert one["maps/mtsat_se"] > 0  # the texture of the images is their noise here
    assert found["maps/t1_se"] > 0
    assert found["maps/t1"] == pytest.approx(TRUE.t1, rel=1e-5)
    assert float(found["qc/t1_cord_median"]) == pytest.approx(TRUE.t1[0], rel=1e-5)
    specs = {spec.path: spec for stage in stages().values() for spec in stage.writes}
    assert (specs["maps/mtsat"].units, specs["maps/t1"].units) == ("percent", "s")
    assert (specs["maps/mtsat"].more["rises"], specs["maps/t1"].more["rises"]) == (False, True)


def test_a_transmit_field_on_a_grid_of_its_own_is_sampled_where_the_voxels_lie(make) -> None:
    """In percent, 3 mm voxels, rising along x: 90 % at x = 12."""
    ramp = np.broadcast_to((54 + 9 * np.arange(12.0))[:, None, None], (12, 12, 5))
    b1 = Volume(ramp.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    plain, corrected = (float(run("mtsat", make(b1=b)).get("maps/mtsat")[0]) for b in (None, b1))  # type: ignore[index]
    assert corrected == pytest.approx(plain * 0.6 / (1 - 0.4 * 0.9), rel=1e-5)


@pytest.mark.parametrize(
    ("b1", "message"),
    [
        (Volume(np.full((30, 30, 8), 3000.0, np.float32), np.eye(4)), "transmit field: expected actual over nominal flip angle, .* median of 3000"),
        (Volume(np.zeros((30, 30, 8), np.float32), np.eye(4)), "transmit field: expected values in the cord, found some in 0 of 144"),
    ],
)
def test_a_transmit_field_that_is_none_is_refused(make, b1: Volume, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("mtsat", make(b1=b1))


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ({"mt_on_json": {"RepetitionTime": ...}}, MissingInputError, "sidecar of the MT-on image: expected the repetition time .* found none"),
        ({"mt_t1w_json": {"FlipAngle": None}}, MissingInputError, "T1w image of the MT protocol: expected the flip angle .* found none"),
        ({"mt_off_json": {"FlipAngle": "9 deg"}}, InputError, "sidecar of the MT-off image: expected a number .* found '9 deg'"),
        ({"mt_off_json": {"FlipAngle": 0}}, InputError, "MT-off image: expected a flip angle above 0"),
        ({"mt_off_json": {"RepetitionTime": 0.015, "FlipAngle": 15}}, InputError, "T1w image of the MT protocol: expected more T1 weighting"),
    ],
)
def test_excitations_that_are_absent_or_impossible(make, texts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run("mtsat", make(texts=texts))


def test_milliseconds_are_told_from_seconds_and_said(make) -> None:
    with pytest.warns(CohortWarning, match="sidecar of the MT-on image: a repetition time of 35 s is none .* taken as 35 ms"):
        found = run("mtsat", make(texts={"mt_on_json": {"RepetitionTime": 35}}))
    assert found["maps/mtsat"] == pytest.approx(TRUE.mtsat, rel=1e-5)


def test_the_time_between_excitations_goes_before_that_of_a_train(make) -> None:
    said = {"mt_on_json": {"RepetitionTime": 2.3, "RepetitionTimeExcitation": 0.035}}
    assert run("mtsat", make(texts=said))["maps/mtsat"] == pytest.approx(TRUE.mtsat, rel=1e-5)


def test_swapped_images_are_refused(make) -> None:
    with pytest.raises(InputError, match=r"expected a T1 of .* MT-off and T1w are swapped"):
        run("t1", make(mt_off=170.0, mt_t1w=250.0))
    with pytest.raises(InputError, match="MT-on and MT-off are swapped"):
        run("t1", make(mt_on=250.0, mt_off=160.0))


def test_images_of_different_grids_are_refused(make) -> None:
    shifted = np.eye(4)
    shifted[1, 3] = 4
    with pytest.raises(GeometryError, match="T1w image of the MT protocol: expected the grid of the MT-on image"):
        run("mtsat", make(affine=shifted))


# --- files --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("on", "off", "t1w"),
    [
        ("acq-MTon_MTS", "acq-MToff_MTS", "acq-T1w_MTS"),
        ("flip-1_mt-on_MTS", "flip-1_mt-off_MTS", "flip-2_mt-off_MTS"),
    ],
)
def test_the_triplet_is_told_by_its_names_and_sidecars_are_inherited(tmp_path: Path, on: str, off: str, t1w: str) -> None:
    anat = tmp_path / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    for name in (on, off, t1w):
        (anat / f"sub-01_{name}.nii.gz").touch()
    (tmp_path / "sub-01" / "sub-01_TB1map.nii.gz").parent.joinpath("fmap").mkdir()
    (tmp_path / "sub-01" / "fmap" / "sub-01_TB1map.nii.gz").touch()
    near, far = anat / f"sub-01_{on}.json", tmp_path / f"{on}.json"
    near.write_text('{"RepetitionTime": 0.04}')
    far.write_text('{"RepetitionTime": 0.035, "FlipAngle": 9}')
    files = index_study(str(tmp_path)).files.loc[0]
    names = {role: Path(files[role]).name for role in (*SIGNALS, "mt_b1")}
    expected = {r: f"sub-01_{n}.nii.gz" for r, n in zip(SIGNALS, (on, off, t1w), strict=True)}
    assert names == {**expected, "mt_b1": "sub-01_TB1map.nii.gz"}
    assert files["mt_on_json"] == together([str(near), str(far)])
    inputs = StageInput({"mt_on_json": files["mt_on_json"]}, {}, {}, SimpleNamespace(), dict)  # type: ignore[arg-type]
    assert inputs.json("mt_on_json") == {"RepetitionTime": 0.04, "FlipAngle": 9}
    assert files["mt_off_json"] is None


def test_a_subject_without_the_third_image_is_told_so() -> None:
    files = dict.fromkeys((schema.MT_ON, schema.MT_OFF, "mt_on_json", "mt_off_json", "mt_mask"), "f")
    with pytest.raises(MissingInputError, match="no T1w image of the MT protocol, no sidecar of the T1w image of the MT protocol"):
        stages()["mtsat"].select(files)
    assert "mt_b1" in stages()["mtsat"].select(dict.fromkeys(stages()["mtsat"].reads, "f"))
    assert "mt_b1" not in stages(b1=False)["mtsat"].reads
