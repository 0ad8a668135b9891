from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import ConfigError, InputError, MissingInputError, UnknownNameError
from cohort_engine.schema import VariableSpec
from cohort_engine.stages.base import Stage, StageInput, StageKind, quality_arrays, register
from cohort_engine.stages.choose import ordered, stages_of, to_make
from cohort_engine.stages.declare import declare, metrics_of


def config(**stages: object):
    return parse_config({"data": {"bids": "b", "store": "s"}, "stages": stages})


def chosen(**stages: object) -> dict[str, Stage]:
    return {s.name: s for s in stages_of(config(**stages))}


FIT_MT, MTR = chosen()["fit_mt"], chosen()["mtr"]


def test_t2w_landmarks_go_before_those_of_the_mt_image() -> None:
    files = {r: r for r in ("t2w_mask", "t2w_landmarks", "mt_mask", "mt_landmarks", "t2w")}
    assert set(FIT_MT.select(files)) == {"t2w_mask", "t2w_landmarks", "mt_mask"}


def test_mt_landmarks_serve_where_the_t2w_image_is_incomplete() -> None:
    assert set(FIT_MT.select({r: r for r in ("t2w_mask", "mt_mask", "mt_landmarks")})) == {"mt_mask", "mt_landmarks"}


def test_missing_files_are_named_by_role() -> None:
    with pytest.raises(MissingInputError, match="no MT-on image, no MT-off image, no cord mask of the MT-on image"):
        MTR.select({})
    with pytest.raises(MissingInputError, match="no vertebral landmarks of the T2w image") as found:
        FIT_MT.select({"mt_mask": "/data/sub-01", "t2w_mask": "/data/sub-01"})
    assert "sub-01" not in str(found.value)


# --- keys and recipes ---------------------------------------------------------------------------------------------------
def key(stage: Stage = MTR, **change: object) -> str:
    parts = {"content": {"mt_on": "a"}, "kinds": {}, "template": "t", "upstream": ["u"]} | change
    return stage.key(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"content": {"mt_on": "b"}},
        {"content": {"mt_off": "a"}},
        {"kinds": {"t2w_landmarks": "disc"}},
        {"template": "other"},
        {"upstream": ["v"]},
        {"stage": replace(MTR, params={"x": 2})},
        {"stage": replace(MTR, version=f"{MTR.version}+")},
        {"stage": FIT_MT},
    ],
)
def test_whatever_can_change_a_result_changes_the_key(change: dict[str, object]) -> None:
    assert key(**change) != key() == key()  # type: ignore[arg-type]


def test_another_contrast_leaves_the_first_ones_key_alone() -> None:
    assert chosen(fit={"contrasts": ["mt", "t2w"]})["fit_mt"].params == FIT_MT.params


@pytest.mark.parametrize(
    ("stages", "changed"),
    [
        ({"mtr": {"low_signal": 0.1}}, {"mtr", "mtr_native", "quality"}),
        ({"fit": {"seed": 2}}, {"fit_mt", "mtr", "mtr_native", "quality"}),
        ({"fit": {"deformable": False}}, {"fit_mt"}),
        ({"fit": {"landmarks": "disc"}}, {"fit_mt", "levels_t2w", "quality"}),
        ({"quality": {"opinion": False}}, {"quality"}),
        ({"reduce": {"min_coverage": 0.6}}, {"mtr_native"}),
        ({"shape": {"source": "t2w"}}, set()),
    ],
)
def test_a_setting_changes_the_recipes_of_the_stages_that_hear_of_it(stages: dict[str, object], changed: set[str]) -> None:
    before, after = chosen(), chosen(**stages)
    assert {n for n in before if after[n].recipe("t").hash != before[n].recipe("t").hash} == changed


def test_where_a_stage_runs_changes_no_recipe_and_no_hash() -> None:
    there = parse_config({"data": {"bids": "b", "store": "s"}, "compute": {"gpu": True, "timeout": {"mtr": 5}}})
    stages = {s.name: s for s in stages_of(there)}
    assert {n for n, s in stages.items() if s.resources == {"gpu": 1.0}} == {"segment_mt", "segment_t2w", "levels_t2w"}
    assert stages["mtr"].timeout == 5
    assert all(stages[n].recipe("t").hash == s.recipe("t").hash for n, s in chosen().items())
    assert there.science_hash == config().science_hash


# --- which stages, in which order ---------------------------------------------------------------------------------------
def test_stages_come_upstream_first() -> None:
    order = list(chosen(fit={"contrasts": ["t2w", "mt"]}))
    assert sorted(order) == ["fit_mt", "fit_t2w", "levels_t2w", "mtr", "mtr_native", "quality", "segment_mt", "segment_t2w"]
    assert order.index("fit_mt") < order.index("mtr") < order.index("mtr_native")


def test_a_metric_brings_its_contrast() -> None:
    """It used to be an error: the contrast had to be named as well."""
    assert "fit_mt" in chosen(fit={"contrasts": ["t2w"]})
    assert set(chosen(metrics=[], fit={"contrasts": ["t2w"]})) == {"segment_t2w", "levels_t2w", "fit_t2w"}


def test_names_that_nobody_knows_are_answered_with_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="'mt'"):
        chosen(fit={"contrasts": ["mtt"]})
    with pytest.raises(UnknownNameError, match="'mtr'"):
        parse_config({"data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["mtrr"]}})
    with pytest.raises(UnknownNameError, match=r"data\.source.*'bids'"):
        stages_of(parse_config({"data": {"bids": "b", "store": "s", "source": "bid"}}))
    with pytest.raises(UnknownNameError, match=r"compute\.timeout.*'mtr'"):
        stages_of(parse_config({"data": {"bids": "b", "store": "s"}, "compute": {"timeout": {"mtrr": 5}}}))


def test_a_stage_that_needs_what_nobody_makes_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected stage fit_mt, which mtr needs"):
        ordered({"mtr": replace(MTR, needs=("fit_mt",))})


def test_makers_that_nobody_reads_are_left_out() -> None:
    make = Stage("segment_mt", "1", dict, ("mt_on",), (), makes="mt_mask")
    read = Stage("read", "1", dict, ("mt_mask",), ())
    assert [s.name for s in ordered({"segment_mt": make, "read": read})] == ["segment_mt", "read"]
    assert ordered({"segment_mt": make, "read": replace(read, roles=("t2w",))}) == (replace(read, roles=("t2w",)),)


def test_a_single_landmark_needs_a_mask_to_be_made_as_well() -> None:
    stages = stages_of(config())
    assert to_make({"t2w": "i", "mt_on": "j", "mt_off": "k"}, stages) == {"mt_mask", "t2w_mask", "t2w_landmarks"}
    assert to_make({"t2w": "i", "mt_on": "j", "mt_off": "k", "mt_mask": "m"}, stages) == {"t2w_mask", "t2w_landmarks"}


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'mtr' twice"):
        register(StageKind("mtr", dict, lambda config: ()))


# --- what they write ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["bids", "sct"])
def test_every_array_names_the_stage_that_writes_it(source: str) -> None:
    asked = parse_config({"data": {"bids": "b", "store": "s", "source": source}, "stages": {"shape": {"source": "t2w"}}})
    stages = stages_of(asked)
    assert all(spec.stage == s.name for s in stages for spec in s.writes)
    paths = [spec.path for s in stages for spec in s.writes]
    assert len(paths) == len(set(paths))


def test_a_store_is_told_everything_that_is_written_and_asked() -> None:
    asked = config()
    stages = stages_of(asked)
    told = declare(asked, stages, "template")
    assert {s.path for s in told.specs} == {
        *(spec.path for s in stages for spec in s.writes), *(f"tables/template/mtr_wa{end}" for end in ("", "_std", "_n", "_coverage")),
        *(f"tables/template/mtr_map{end}" for end in ("", "_std", "_se", "_n", "_coverage")),
    }  # fmt: skip
    assert told.asked["hash"] == asked.science_hash
    assert list(told.asked["stages"]) == [s.name for s in stages]
    assert told.recipes[told.asked["stages"]["mtr"]["recipe"]]["params"] == {"coregister": "slicewise", "low_signal": 0.05, "fit.seed": 1}
    assert [m.name for m in metrics_of(stages)] == ["mtr"]


def test_quality_numbers_that_are_not_given_are_nan() -> None:
    specs = {"a": VariableSpec("qc/a", "", "1", ("subject",)), "b": VariableSpec("qc/b", "", "1", ("subject",))}
    found = quality_arrays(specs, {"a": 2.0})
    assert found["qc/a"] == 2
    assert np.isnan(found["qc/b"])


# --- what they read -----------------------------------------------------------------------------------------------------
def inputs(tmp_path: Path, content: bytes) -> StageInput:
    path = tmp_path / "sidecar.json"
    path.write_bytes(content)
    return StageInput({"mt_on": str(path)}, {}, {}, None, lambda path: np.zeros(1))  # type: ignore[arg-type]


def test_a_role_may_be_any_file(tmp_path: Path) -> None:
    assert inputs(tmp_path, b'{"FlipAngle": 9}').json("mt_on") == {"FlipAngle": 9}
    assert inputs(tmp_path, b"0 1000\n").text("mt_on") == "0 1000\n"
    for content, expected in ((b"\xff\xfe", "text in UTF-8"), (b"{", "JSON"), (b"[1]", "a JSON mapping")):
        with pytest.raises(InputError, match=f"MT-on image: expected {expected}"):
            inputs(tmp_path, content).json("mt_on")


def test_the_bytes_of_the_key_are_the_bytes_that_are_read(tmp_path: Path) -> None:
    given = replace(inputs(tmp_path, b"{}"), content=lambda role: b'{"from": "memory"}')
    assert given.json("mt_on") == {"from": "memory"}


def test_roles_are_the_vocabulary_of_messages() -> None:
    assert schema.words("mt_off") == "MT-off image"
    assert schema.words("t2w_landmarks") == "vertebral landmarks of the T2w image"
