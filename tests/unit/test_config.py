"""The study file: near names for typos, relative paths, and what enters the hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from cohort_engine.config import load_config, parse_config
from cohort_engine.errors import ConfigError, UnknownNameError

DATA = {"bids": "study", "store": "study.zarr"}


def test_a_misspelt_required_key_is_a_typo_and_not_a_gap() -> None:
    with pytest.raises(UnknownNameError, match=r"data: expected a known key, found 'stor'. Did you mean 'store'"):
        parse_config({"data": {"bids": "study", "stor": "study.zarr"}})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="expected a value for 'store', found nothing"):
        parse_config({"data": {"bids": "study"}})


def test_a_wrong_value_names_its_place() -> None:
    with pytest.raises(ConfigError, match=r"stages\.reduce: min_coverage: .*less than or equal to 1, found 2"):
        parse_config({"data": DATA, "stages": {"reduce": {"min_coverage": 2}}})


def test_an_unknown_metric_offers_the_near_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mtr'"):
        parse_config({"data": DATA, "stages": {"metrics": ["mtrr"]}})


def test_relative_paths_are_beside_the_file_and_urls_stay(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("data:\n  bids: study\n  store: s3://bucket/study.zarr\n")
    config = load_config(tmp_path / "study.yaml")
    assert config.data.bids == str(tmp_path / "study")
    assert config.data.store == "s3://bucket/study.zarr"


@pytest.mark.parametrize(
    ("said", "meant"), [("pam50-shape", "pam50-shape"), ("healthy.zarr", "{base}/healthy.zarr"), ("s3://b/h.zarr", "s3://b/h.zarr")]
)
def test_packaged_norms_have_a_name_and_no_place(said: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(f"data: {{bids: study, store: s}}\nanalysis: {{norms: {{reference: '{said}'}}}}\n")
    assert load_config(tmp_path / "study.yaml").analysis.norms.reference == meant.format(base=tmp_path)


@pytest.mark.parametrize("text", ["data: [", "- a\n- b\n", ""])
def test_what_is_no_study_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        load_config(tmp_path / "study.yaml")


def test_only_science_enters_the_hash() -> None:
    plain = parse_config({"data": DATA})
    elsewhere = parse_config({"data": {"bids": "other", "store": "other.zarr"}, "compute": {"workers": 9}})
    other = parse_config({"data": DATA, "stages": {"mtr": {"low_signal": 0.1}}})
    assert plain.science_hash == elsewhere.science_hash != other.science_hash
    assert "study" not in str(plain.science())


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[2] / "configs" / "studies").glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert load_config(path).data.store.endswith(".zarr")
