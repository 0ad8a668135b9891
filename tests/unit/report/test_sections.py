"""A section of the report is one object: what adds itself is computed, described, written of and drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

from cohort_engine import sections
from cohort_engine.config import SECTION_KINDS, AnalysisConfig, parse_config, study_model
from cohort_engine.config import Section as Settings
from cohort_engine.errors import UnknownNameError
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import Drawn
from cohort_engine.report.methods import write_methods
from cohort_engine.report.page import write_report
from cohort_engine.report.summary import summarise
from cohort_engine.sections.base import Column, Section, Table, Tables, settings_of
from cohort_engine.study.material import Material
from cohort_engine.study.result import Analysis, Study


class EldestSettings(Settings):
    """Who is old."""

    above: float = 60.0
    """Age, years."""


def compute(m: Material, config: AnalysisConfig) -> Tables:
    above = settings_of(config, "eldest", EldestSettings).above
    return {"eldest": pd.DataFrame([{"above": above, "n": int((m.people.numbers("age") > above).sum())}])}


def sentence(found: Analysis) -> str:
    row = found.tables["eldest"].iloc[0]
    return f"{row['n']:.0f} people are older than {row['above']:g} years."


def methods(s: Study) -> str:
    return f"People above {s.found.tables['eldest']['above'].iloc[0]:g} years were counted [@fdr]."


def draw(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    figure = drawing.page(20, 40)
    figure.subplots().bar([0], found.tables["eldest"]["n"])
    return [Drawn("eldest", "eldest", "The eldest", "How many there are.", ("eldest",), figure)]


WORDS = Table("The eldest", "How many are old.", {"above": Column("age", "years"), "n": Column("how many", "people")})


@pytest.fixture
def eldest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Section]:
    list(SECTION_KINDS)  # those of the package are there
    section = Section("eldest", "The eldest", compute, {"eldest": WORDS}, sentence, "Age", methods, (draw,), settings=EldestSettings)
    monkeypatch.setitem(SECTION_KINDS._items, section.name, section)
    study_model.cache_clear()
    yield section
    study_model.cache_clear()


def test_a_section_of_one_object_is_settings_tables_words_and_figure(eldest: Section, whole_study: Any, tmp_path: Path) -> None:
    assert sections.every()[-1] is eldest
    config = parse_config({"data": {"bids": "b", "store": "s"}, "analysis": {"eldest": {"above": 50}}}).analysis
    whole, ds = whole_study
    found = dataclasses.replace(whole, tables={**whole.tables, **eldest.compute(whole.material, config)}, config=config)
    old = int((whole.material.people.numbers("age") > 50).sum())
    assert found.tables["eldest"]["n"].tolist() == [old]
    assert summarise(found)["eldest"] == f"{old} people are older than 50 years."
    assert dict(write_methods(found, ds).parts)["Age"].startswith("People above 50 years were counted [")
    assert sections.describe({"eldest": ["above"]})["eldest"]["columns"] == {"above": {"meaning": "age", "unit": "years"}}
    only = dataclasses.replace(found, tables={k: found.tables[k] for k in ("subjects", "excluded", "characteristics", "quality", "eldest")})
    page = write_report(only, ds, tmp_path).read_text()
    assert '<section id="eldest"' in page
    assert '<figure id="figure-eldest">' in page
    assert (tmp_path / "figures" / "eldest.svg").exists()


def test_a_section_that_nobody_knows_has_no_settings() -> None:
    with pytest.raises(UnknownNameError, match="eldest"):
        parse_config({"data": {"bids": "b", "store": "s"}, "analysis": {"eldest": {"above": 50}}})


def test_settings_that_the_study_file_leaves_out_are_the_defaults(eldest: Section, whole_study: Any) -> None:
    whole, _ = whole_study
    assert eldest.compute(whole.material, AnalysisConfig())["eldest"]["above"].tolist() == [60.0]


def test_the_sections_of_the_package_are_in_the_order_of_the_report() -> None:
    assert tuple(section.name for section in sections.every()) == sections.ORDER
