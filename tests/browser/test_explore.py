"""The explorer as a person meets it: every number on the page is that of the store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cohort_engine.config import parse_config
from cohort_engine.query.frame import run_query
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.report.analyse import analyse
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.ratings import ratings_of
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store

CELL = "mtr tract='white matter' level=C4"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty people at three scanners."""
    url = str(tmp_path_factory.mktemp("explore") / "study.zarr")
    simulate_store(url, 40, parametric_cord(spacing=1.0, top="C2", bottom="C6"), seed=3, shape=True, scores=True)
    tabulate(url)
    finalise(url)
    return url


def opened(watched: Any, address: str, search: str = "") -> Any:
    watched.page.goto(address + search)
    watched.page.wait_for_selector("path.part")
    return watched.page


def counts(page: Any, text: str) -> str:
    """What the page says of the people shown, once it says this."""
    page.wait_for_function("text => document.body.innerText.includes(text) || deep(document.body).includes(text)", arg=text)
    return text


DEEP = """
window.deep = (node) => {
  let text = node.shadowRoot ? deep(node.shadowRoot) : "";
  for (const child of node.childNodes) text += child.nodeType === 3 ? child.textContent : deep(child);
  return text;
};
"""


@pytest.fixture
def page(watched: Any, address: str) -> Any:
    watched.page.add_init_script(DEEP)
    return opened(watched, address)


def test_a_filter_changes_counts_to_those_of_the_store(page: Any, store: str, pictures: Path) -> None:
    counts(page, "40 of 40 sessions")
    page.locator("span", has_text="site2").first.click()
    frame = run_query(store, f"{CELL} site=site2")
    counts(page, f"{len(frame)} of 40 sessions")
    for group, values in frame.groupby("group")["value"]:
        counts(page, f"{group}: {values.notna().sum()} with a value")
    assert "site%3Dsite2" in page.url
    page.screenshot(path=pictures / "filtered.png", full_page=True)


def test_a_click_on_the_cord_and_the_keyboard_select_a_region(page: Any, store: str) -> None:
    page.locator("path.part[data-name='WM left lateral corticospinal tract']").click()
    page.wait_for_url("**left+lateral+corticospinal+tract**")
    counts(page, "tract='WM left lateral corticospinal tract'")
    counts(page, f"{run_query(store, CELL.replace('white matter', 'WM left lateral corticospinal tract'))['value'][3]:.3f}")  # the table, too
    page.locator("path.part[data-name='WM right rubrospinal tract']").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**right+rubrospinal+tract**")
    assert page.locator("path.part[aria-selected=true]").get_attribute("data-name") == "WM right rubrospinal tract"


def test_an_address_restores_what_was_on_the_screen(watched: Any, address: str, store: str) -> None:
    watched.page.add_init_script(DEEP)
    page = opened(watched, address, "?q=mtr+tract%3D%27dorsal+columns%27+level%3DC3+age%3D40%3A60&split=site&score=mjoa")
    shown = run_query(store, "mtr tract='dorsal columns' level=C3 age=40:60")
    counts(page, f"{len(shown)} of 40 sessions")
    for site, values in shown.groupby("site")["value"]:
        counts(page, f"{site}: {values.notna().sum()} with a value")
    counts(page, "tract='dorsal columns' level=C3 age=40:60")


def test_an_address_that_asks_for_nothing_there_is_told(watched: Any, address: str) -> None:
    watched.page.add_init_script(DEEP)
    page = opened(watched, address, "?q=mtr+tract%3D%27no+such+tract%27+level%3DC3")
    counts(page, "no such tract")
    counts(page, "40 of 40 sessions")


def test_the_file_is_what_the_store_holds(page: Any, store: str) -> None:
    with page.expect_download() as waiting:
        page.get_by_text("Table as CSV").click()
    table = pd.read_csv(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    expected = run_query(store, CELL)
    assert table["participant_id"].tolist() == expected["participant_id"].tolist()
    assert np.allclose(table["value"], expected["value"], rtol=1e-6)


PERSON = "?q=mtr+tract%3D%27dorsal+columns%27+level%3DC4&split=group&reference=HC&row=3"


@pytest.mark.timeout(600)
def test_the_map_of_the_person_is_shown_in_the_template(watched: Any, address: str, pictures: Path) -> None:
    watched.page.set_default_timeout(150_000)
    watched.page.add_init_script(DEEP)
    page = opened(watched, address, PERSON)
    page.get_by_role("button", name="Show the map in the template").press("Enter")
    viewer = page.locator("div.viewer[data-drawn], div.viewer[data-error]")
    viewer.wait_for(timeout=200_000)
    assert viewer.get_attribute("data-error") is None
    page.get_by_role("button", name="Save the rating").wait_for()
    page.wait_for_timeout(1000)
    drawn = Image.open(io.BytesIO(viewer.locator("canvas").screenshot())).convert("RGB")
    drawn.save(pictures / "person_map.png")
    colours = np.asarray(drawn, int).reshape(-1, 3)
    grey = np.ptp(colours, axis=1) < 10
    assert len(np.unique(colours[grey & (colours[:, 0] > 40)], axis=0)) > 20
    assert np.sum(colours[:, 0] - colours[:, 1:].max(axis=1) > 60) > 20  # the region, in red
    page.screenshot(path=pictures / "person.png", full_page=True)


@pytest.mark.timeout(600)
def test_a_rating_is_saved_and_honoured(watched: Any, address: str, store: str, pictures: Path, tmp_path: Path) -> None:
    watched.page.set_default_timeout(150_000)
    watched.page.add_init_script(DEEP)
    page = opened(watched, address, PERSON)
    before = run_query(store, "mtr tract='dorsal columns' level=C4")["value"][3]
    counts(page, f"{before:.3f}")
    page.get_by_role("radio", name="artifact").or_(page.get_by_role("button", name="artifact")).first.press("Enter")
    page.get_by_label("Comment").fill("moved: <b>much</b>")
    page.get_by_label("Rater").fill("AB")
    page.get_by_label("Rater").press("Tab")
    page.get_by_role("button", name="Save the rating").press("Enter")
    counts(page, "mtr: artifact moved: <b>much</b> AB")
    counts(page, "rated artifact: moved: <b>much</b>")
    page.wait_for_function("value => !deep(document.body).includes(value)", arg=f"{before:.3f}")  # the table, too
    page.screenshot(path=pictures / "rated.png", full_page=True)
    [rating] = ratings_of(store)
    assert (rating.metric, rating.rating, rating.reason, rating.rater) == ("mtr", "artifact", "moved: <b>much</b>", "AB")
    frame = run_query(store, "mtr tract='dorsal columns' level=C4").set_index("participant_id")["value"]
    assert frame.index[frame.isna()].tolist() == [rating.subject]
    ill = run_query(store, "mtr tract='dorsal columns' level=C4").groupby("group")["value"].count()
    for group, n in ill.items():
        counts(page, f"{group}: {n} with a value")
    section = {"features": ["mtr tract='dorsal columns' level=C4"], "roc": {"resamples": 20}}
    config = parse_config({"data": {"bids": "bids", "store": store}, "analysis": {**section, "out": str(tmp_path / "analysis")}})
    left_out = analyse(config).tables["excluded"].set_index("participant_id")["reason"]
    assert left_out.to_dict() == {rating.subject: "rated artifact: moved: <b>much</b>"}
    assert pd.read_csv(tmp_path / "analysis" / "csv" / "excluded.csv")["participant_id"].tolist() == [rating.subject]
    report = (tmp_path / "analysis" / "report.html").read_text()
    assert "moved: &lt;b&gt;much&lt;/b&gt;" in report
    assert "moved: <b>" not in report
