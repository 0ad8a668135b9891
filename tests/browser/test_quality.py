"""The quality pages in a browser: figures and counts, ratings by keyboard, what is saved, and that nothing else is asked for."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cohort_engine import schema
from cohort_engine.io.exclusions import exclusions_url, parse_exclusions
from cohort_engine.qc.group_page import IndexPage
from cohort_engine.qc.pages import Pages, write_pages
from cohort_engine.qc.serve import PageServer
from cohort_engine.qc.simulated import simulate_group
from cohort_engine.query.frame import run_query
from cohort_engine.store.ratings import ratings_of
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store

TEMPLATE = parametric_cord(spacing=1.0, top="C3", bottom="C4")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("browser") / "study.zarr")
    simulate_store(url, 24, TEMPLATE, shape=True)
    return url


@pytest.fixture(scope="module")
def pages(cohort: str) -> Pages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cohort_engine.qc.pages.template_of", lambda root, config: TEMPLATE)
        return write_pages(cohort)


@pytest.fixture
def page(watched: Any) -> Any:
    return watched.page


def test_a_filter_shows_whom_pandas_gives(page: Any, cohort: str, pages: Pages, pictures: Path) -> None:
    page.goto(pages.index.resolve().as_uri())
    table = run_query(cohort, "mtr tract='white matter' level=C3")
    page.select_option("#which", "all")
    page.select_option("#site", label="site2")
    at_site = table[table[schema.SITE] == "site2"]
    assert page.inner_text("#count") == f"{len(at_site)} of 24 subjects"
    page.fill("#find", "0001")
    found = int(at_site[schema.PARTICIPANT].str.contains("0001").sum())
    assert page.inner_text("#count") == f"{found} of 24 subjects"
    page.screenshot(path=pictures / "quality_cohort.png", full_page=True)


def test_ratings_by_keyboard_are_downloaded_as_they_are_read(page: Any, pages: Pages, tmp_path: Path, pictures: Path) -> None:
    page.goto(pages.index.resolve().as_uri())
    page.fill("#rater", "AB")
    page.locator("#people button").first.click()
    first = page.locator("#who bdi").first.inner_text()
    page.keyboard.press("m")
    page.keyboard.press("c")
    page.keyboard.type("moved: <b>much</b>")
    page.keyboard.press("Enter")
    page.keyboard.press("f")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    with page.expect_download() as waited:
        page.click("#download")
    place = tmp_path / waited.value.suggested_filename
    waited.value.save_as(place)
    bad, good = sorted(parse_exclusions(place.read_text(encoding="utf-8")), key=lambda r: r.rating)
    assert (bad.subject, bad.metric, bad.rating, bad.reason, bad.rater) == (first, schema.MTR, "fail", "moved: <b>much</b>", "AB")
    assert (good.metric, good.rating) == (schema.MTR, "pass")
    page.screenshot(path=pictures / "quality_review.png", full_page=True)


def test_the_server_saves_what_a_query_then_leaves_out(page: Any, cohort: str, pages: Pages) -> None:
    with PageServer(cohort, pages.index.parent) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page.goto(server.address)
        page.wait_for_load_state("networkidle")
        page.fill("#rater", "CD")
        page.locator("#people button").nth(1).click()
        who = page.locator("#who bdi").first.inner_text()
        page.keyboard.press("a")
        page.locator("#told", has_text="saved").wait_for()
        assert [(r.subject, r.metric, r.rating, r.rater) for r in ratings_of(cohort)] == [(who, "all", "artifact", "CD")]
        page.reload()
        page.wait_for_load_state("networkidle")
        assert page.locator("#ratings tbody tr").count() == 1
        server.shutdown()
        thread.join()
    values = run_query(cohort, "mtr tract='white matter' level=C3").set_index(schema.PARTICIPANT)["value"]
    assert values.index[values.isna()].tolist() == [who]
    Path(exclusions_url(cohort)).unlink()


def test_a_subject_can_be_opened_from_the_table_and_its_pictures_load(page: Any, pages: Pages, pictures: Path) -> None:
    page.goto(pages.index.resolve().as_uri())
    page.locator("#people a").first.click()
    page.wait_for_load_state("load")
    loaded = page.eval_on_selector_all("img", "all => all.map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth) })")
    assert len(loaded) == 1
    page.screenshot(path=pictures / "quality_subject.png", full_page=True)


def test_everything_is_reached_by_keyboard(page: Any, pages: Pages) -> None:
    page.goto(pages.index.resolve().as_uri())
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"find", "site", "which", "kind", "A", "BUTTON"} <= reached


def test_ten_thousand_names_are_filtered_at_once(page: Any, tmp_path: Path) -> None:
    place = tmp_path / "index.html"
    place.write_text(IndexPage("study.zarr", simulate_group(10_000), {}).render(), encoding="utf-8")
    page.goto(place.resolve().as_uri())
    page.select_option("#which", "all")
    typed = "document.getElementById('find').value = 'site07'; choose()"
    took = page.evaluate(f"() => {{ const start = performance.now(); {typed}; return performance.now() - start }}")
    print(f"filter of 10,000 people: {took:.0f} ms")
    assert page.inner_text("#count") == "250 of 10000 subjects"
    assert took < 500
