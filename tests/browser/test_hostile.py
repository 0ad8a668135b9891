"""What people write into participants.tsv is text on every page and in every table: it runs nothing, asks for nothing, and is no formula."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cohort_engine.config import parse_config
from cohort_engine.qc.pages import write_pages
from cohort_engine.qc.patient_page import write_patient
from cohort_engine.report.analyse import analyse
from cohort_engine.template.parametric import parametric_cord

pytestmark = pytest.mark.timeout(600)
WORDS = (
    "<img src=x onerror='window.harmed=1'>", "<script>window.harmed=1</script>", "\"'><svg onload='window.harmed=1'>", '=HYPERLINK("http://x.example")',
    "@SUM(A1)", "x" * 5000, "\u202eevil\u2066",
)  # fmt: skip
COLUMNS = ("<b onclick=window.harmed=1>remark", "=1+1", "remark")


def hostile(table: pd.DataFrame) -> pd.DataFrame:
    """Such words as sites, in columns of text, and as names of columns; one as the name of a person."""
    words = [WORDS[i % len(WORDS)] for i in range(len(table))]
    out = table.assign(site=[WORDS[i % 3] for i in range(len(table))], **dict.fromkeys(COLUMNS, words))
    out.loc[5, "participant_id"] = f"sub-{WORDS[0]}"
    return out


@pytest.fixture(scope="module")
def store(make_finished_study: Callable[..., str]) -> str:
    return make_finished_study(24, change=hostile)


@pytest.fixture(scope="module")
def written(store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages on disk: report, quality of the cohort, of one person, and the page of one person."""
    folder = tmp_path_factory.mktemp("hostile")
    quick = {"roc": {"resamples": 20}, "clusters": {"resamples": 5, "largest": 3}, "classifier": {"folds": 2}, "harmonise": {"site": "site"}}
    features = ["mtr tract='white matter' level=C2:C5", "area level=C2"]
    config = parse_config({"data": {"bids": "bids", "store": store}, "analysis": {"features": features, **quick, "out": str(folder / "analysis")}})
    analyse(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cohort_engine.qc.pages.template_of", lambda root, config: parametric_cord(spacing=2, top="C2", bottom="C7"))
        pages = write_pages(store)
    page = folder / "person.html"
    write_patient(store, "sub-003", out=page)
    return {
        "report": folder / "analysis" / "report.html", "quality": pages.index, "quality of one": pages.index.parent / "subjects" / "000005.html",
        "person": page,
    }  # fmt: skip


def unharmed(page: Any) -> None:
    page.wait_for_timeout(500)
    assert page.evaluate("window.harmed") is None
    assert "\u202e" not in page.content()


@pytest.mark.parametrize("name", ["report", "quality", "quality of one", "person"])
def test_a_page_on_disk(name: str, written: dict[str, Path], watched: Any) -> None:
    watched.page.goto(written[name].resolve().as_uri())
    unharmed(watched.page)


def test_the_explorer(address: str, watched: Any) -> None:
    watched.page.goto(address + "?q=mtr+tract%3D%27white+matter%27+level%3DC3&split=site&row=5")
    watched.page.wait_for_selector("path.part")
    unharmed(watched.page)
    with watched.page.expect_download() as waiting:
        watched.page.get_by_text("Table as CSV").click()
    safe(Path(waiting.value.path()).read_text())


def safe(text: str) -> None:
    """No cell begins as a formula does."""
    rows = list(csv.reader(text.splitlines()))
    assert len(rows) > 1
    for cell in (c for row in rows for c in row):
        assert not cell.startswith(("=", "@", "+", "-", "\t")) or is_number(cell), cell


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_tables(written: dict[str, Path], store: str) -> None:
    for table in sorted((written["report"].parent / "csv").glob("*.csv")):
        if table.stat().st_size and table.read_text().count("\n") > 1:
            safe(table.read_text())
    for words in (["query", store, "mtr tract='white matter' level=C3", "--csv", "-"], ["query", store, "mtr level=C3 by=site", "--csv", "-"]):
        safe(subprocess.run([sys.executable, "-m", "cohort_engine.cli", *words], capture_output=True, text=True, check=True).stdout)
