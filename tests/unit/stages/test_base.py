from __future__ import annotations

from dataclasses import replace

import pytest

from cohort_engine.config import parse_config
from cohort_engine.errors import ConfigError, MissingInputError, UnknownNameError
from cohort_engine.stages.base import STAGES, Stage, register, stages_of

FIT_MT, FIT_T2W, MTR = STAGES["fit_mt"], STAGES["fit_t2w"], STAGES["mtr"]


def config(**stages: object):
    return parse_config({"data": {"bids": "b", "store": "s"}, "stages": stages})


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


def key(stage: Stage = MTR, **change: object) -> str:
    parts = {"content": {"mt_on": "a"}, "kinds": {}, "params": {"x": 1}, "template": "t", "upstream": ["u"]} | change
    return stage.key(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"content": {"mt_on": "b"}},
        {"content": {"mt_off": "a"}},
        {"kinds": {"t2w_landmarks": "disc"}},
        {"params": {"x": 2}},
        {"template": "other"},
        {"upstream": ["v"]},
        {"stage": replace(MTR, version="2")},
        {"stage": FIT_MT},
    ],
)
def test_whatever_can_change_a_result_changes_the_key(change: dict[str, object]) -> None:
    assert key(**change) != key() == key()  # type: ignore[arg-type]


def test_another_contrast_leaves_the_first_ones_key_alone() -> None:
    assert FIT_MT.params(config(fit={"contrasts": ["mt"]})) == FIT_MT.params(config(fit={"contrasts": ["mt", "t2w"]}))


def test_stages_come_upstream_first() -> None:
    both = config(fit={"contrasts": ["t2w", "mt"]}, metrics=["mtr"])
    order = [s.name for s in stages_of(both)]
    assert sorted(order) == ["fit_mt", "fit_t2w", "levels_t2w", "mtr", "mtr_native", "segment_mt", "segment_t2w"]
    assert order.index("fit_mt") < order.index("mtr")


def test_a_metric_needs_its_contrast() -> None:
    with pytest.raises(ConfigError, match=r"Add mt to stages\.fit\.contrasts"):
        stages_of(config(fit={"contrasts": ["t2w"]}))


def test_a_metric_without_a_stage_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="'mtr'"):
        stages_of(config(), {"fit_mt": FIT_MT})


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'mtr' twice"):
        register(MTR)
    assert STAGES["mtr"] is MTR


def test_a_stage_writes_only_what_the_store_lays_out() -> None:
    from cohort_engine.schema import store_specs

    laid_out = store_specs(contrasts=("mt", "t2w"), metrics=("mtr",), estimators=("wa",))
    assert {path for s in (FIT_MT, FIT_T2W, MTR) for path in s.writes} <= set(laid_out)
