"""`cohort-engine analyse`: a folder with everything, and one clear message for each kind of bad input."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

import cohort_engine
from cohort_engine.cli import app
from cohort_engine.config import SECTION_KINDS
from cohort_engine.errors import CohortError
from cohort_engine.store.analysis_tables import read_tables

FIGURES = "cohort_engine.report.figures"
QUICK = {"roc": {"resamples": 20}, "clusters": {"resamples": 5, "largest": 3}, "classifier": {"folds": 2}}


@pytest.fixture(scope="module", autouse=True)
def no_drawing() -> Iterator[None]:
    """Draw nothing: what is drawn has tests of its own."""
    module = types.ModuleType(FIGURES)
    module.draw_all = lambda found, ds: []  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        yield


ONE = ["mtr tract='white matter' level=C3", "area level=C3"]


def write_study(url: str, folder: Path, **analysis: Any) -> Path:
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({"data": {"bids": "bids", "store": url}, "template": {"name": "parametric"}, "analysis": {**QUICK, **analysis}}))
    return study


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["analyse", *map(str, arguments)])


def words(result: Result) -> str:
    """What is printed, on one line."""
    return " ".join(result.output.split())


def test_one_command_makes_everything(make_finished_study: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (Path(cohort_engine.__file__).parent / "report" / "figures.py").exists():
        monkeypatch.delitem(sys.modules, FIGURES)
    url = make_finished_study(people=20, twice=4)
    result = run(write_study(url, tmp_path, harmonise={"site": "site"}), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = words(result)
    assert "20 people were analysed: 10 controls (HC) and 10 cases (DCM); 4 scans were left out." in said
    assert re.search(r"Of \d+ features tested, \d+ differ between the groups at a false discovery rate of 5%", said)
    assert "Largest differences, cases against controls" in said
    assert "Hedges' g" in said
    assert said.endswith("report.html")
    out = tmp_path / "out"
    tables, about = read_tables(url)
    assert {p.stem for p in (out / "csv").iterdir()} == {p.stem for p in (out / "parquet").iterdir()} == set(tables)
    assert list(json.loads(about["problems"])) == ["change"], "two people came twice"
    text = (out / "report.html").read_text(encoding="utf-8")
    drawn = {p.stem for p in (out / "figures").iterdir()}
    assert all(f'id="figure-{name}"' in text for name in drawn)
    assert not re.search(r"""(?:src|href)=["']https?://(?!doi\.org/)""", text)
    assert str(tmp_path) not in text
    assert {p.name for p in out.iterdir()} == {"csv", "parquet", "figures", "report.html", "methods.md", "tables.json"}


def test_the_folder_lies_beside_the_store_and_quiet_says_only_findings(make_finished_study: Callable[..., str], tmp_path: Path) -> None:
    url = make_finished_study(people=9)
    result = run(write_study(url, tmp_path), "--quiet")
    assert result.exit_code == 0, result.output
    assert "Reading the cohort" not in result.output
    assert Path(url).with_name("study_analysis").joinpath("report.html").is_file()
    assert "Agreement of repeated scans, not in this study" in words(result)
    assert "people come from 3 sites and nothing is harmonised: set analysis.harmonise.site" in words(result)


def group_of_one(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(group=["HC", *["DCM"] * (len(table) - 1)])


def unknown_words(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(group=np.where(table["group"] == "HC", "one", "two"))


def site_in_two_cases(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(site=["siteA", "sitea"] * (len(table) // 2))


def nobody_has_a_group(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(group="")


BAD: dict[Callable[[pd.DataFrame], pd.DataFrame], tuple[str, str]] = {
    nobody_has_a_group: ("people with a group, found nobody with a group", "Name another column"),
    group_of_one: ("at least 2 people in each group, found 1 in 'HC'", "add people"),
    unknown_words: ("a word for controls and one for cases, found 'one', 'two'", "analysis.groups.control"),
    site_in_two_cases: ("one spelling of each value, found 'siteA' and 'sitea'", "write them alike in participants.tsv"),
}


@pytest.mark.parametrize("change", BAD, ids=lambda f: f.__name__)
def test_a_cohort_that_cannot_be_compared(
    change: Callable[[pd.DataFrame], pd.DataFrame], make_finished_study: Callable[..., str], tmp_path: Path
) -> None:
    result = run(write_study(make_finished_study(people=6, change=change), tmp_path), "--out", tmp_path / "out")
    assert isinstance(result.exception, CohortError)
    for part in BAD[change]:
        assert part in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_scores_that_are_half_missing_or_text(make_finished_study: Callable[..., str], tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        half = table["mjoa"].where(np.arange(len(table)) % 4 == 1)
        return table.assign(mjoa=half, nurick=["good" if i == 1 else str(i % 5) for i in range(len(table))])

    url = make_finished_study(people=16, change=change)
    result = run(write_study(url, tmp_path, features=ONE, correlate={"scores": ["mjoa"]}), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert set(read_tables(url)[0]["correlations"]["n"]) == {4}
    result = run(write_study(url, tmp_path, features=ONE, correlate={"scores": ["nurick"]}), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "Correlation with clinical scores, failed column nurick: expected numbers, found text" in words(result)


def test_a_metric_that_does_not_vary(make_finished_study: Callable[..., str], tmp_path: Path) -> None:
    url = make_finished_study(people=10, flat=True)
    result = run(write_study(url, tmp_path, features=["mtr level=C3"]), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Of 0 features tested, 0 differ" in words(result)
    assert "43 further features do not vary and cannot be tested: check the maps" in words(result)


def test_people_who_come_twice_count_once(make_finished_study: Callable[..., str], tmp_path: Path) -> None:
    url = make_finished_study(people=8, twice=8)
    result = run(write_study(url, tmp_path, features=ONE), "--out", tmp_path / "out")
    assert "8 people were analysed: 4 controls (HC) and 4 cases (DCM); 8 scans were left out." in words(result)
    assert "another session of the same person" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_study_without_a_store(tmp_path: Path) -> None:
    result = run(write_study(str(tmp_path / "nothing.zarr"), tmp_path))
    assert isinstance(result.exception, CohortError)


TYPOS: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"tests": {"family": ["metrik"]}}, "found 'metrik'. Did you mean 'metric'"),
    "score": ({"correlate": {"scores": ["mjoaa"]}}, "found 'mjoaa'. Did you mean 'mjoa'"),
    "covariate": ({"norms": {"covariates": ["agee"]}}, "found 'agee'. Did you mean 'age'"),
    "keep": ({"harmonise": {"site": "site", "keep": ["group", "sexx"]}}, "found 'sexx'. Did you mean 'sex'"),
    "higher": ({"roc": {"higher": ["mtrr"]}}, "found 'mtrr'. Did you mean 'mtr'"),
    "search": ({"compression": {"search": ["C2", "C33"]}}, "found 'C33'"),
}


@pytest.fixture(scope="module")
def finished(make_finished_study: Callable[..., str]) -> str:
    return make_finished_study(people=12)


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_in_the_study_file_stops(typo: str, finished: str, tmp_path: Path) -> None:
    analysis, said = TYPOS[typo]
    result = run(write_study(finished, tmp_path, features=ONE, **analysis), "--out", tmp_path / "out")
    assert isinstance(result.exception, CohortError), result.output
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_section_that_failed_is_named_and_the_exit_status_says_so(finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(SECTION_KINDS)

    def broken(*_: Any) -> Any:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setitem(SECTION_KINDS._items, "norms", replace(SECTION_KINDS["norms"], compute=broken))
    result = run(write_study(finished, tmp_path, features=ONE), "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert re.search(r"Distance from healthy people, failed LinAlgError: in \S+ \(\w+\): Singular matrix", words(result)), words(result)
    assert "differ between the groups" in words(result)
    assert "Singular matrix" in (tmp_path / "out" / "report.html").read_text()
