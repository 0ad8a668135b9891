"""The page of the cohort: who is flagged and why, whatever the subject table holds."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.qc import panels
from cohort_engine.qc.group import look
from cohort_engine.qc.pages import Pages, remove_pages, write_pages
from cohort_engine.qc.scene import Scene
from cohort_engine.quality import vocabulary
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import read_entries, write_record
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore, parse_config

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x")', "x" * 5000, "\u202eevil\u2066", "\"'><img src=x onerror=alert(1)>", "&lt;b&gt;", "sub-anna",
]  # fmt: skip
TEMPLATE = parametric_cord(spacing=1.0, top="C4", bottom="C5")
SIZES = layout.sizes_of(TEMPLATE)


def make(tmp_path: Path, subjects: pd.DataFrame, quality: list[dict[str, float | str]]) -> str:
    """A closed store of people with quality numbers and one flat map each."""
    url = str(tmp_path / "study.zarr")
    config = parse_config({"data": {"bids": "simulated", "store": url}, "template": {"name": TEMPLATE.name}})
    store = HandMadeStore.lay_out(config, TEMPLATE, subjects, names=(schema.MTR, vocabulary.QUALITY_STAGE))
    specs = vocabulary.quality_specs()
    for row, numbers in zip(store.rows, quality, strict=True):
        arrays = {spec.path: np.asarray(numbers.get(key, "" if spec.dtype == "str" else np.nan), object if spec.dtype == "str" else spec.dtype)
                  for key, spec in specs.items()}  # fmt: skip
        arrays |= {s.path: np.asarray(numbers.get(s.name, np.nan), np.float32) for stage in store.stages for s in stage.writes
                   if stage.name == schema.MTR and s.group == schema.QC}  # fmt: skip
        arrays[f"{schema.MAPS}/{schema.MTR}"] = np.full(len(TEMPLATE.packing), 40.0, np.float32)
        doubtful = next(s for stage in store.stages for s in stage.writes if s.path == vocabulary.doubtful_path(schema.MTR))
        arrays[doubtful.path] = np.full([SIZES[d] for d in doubtful.dims[1:]], np.nan, doubtful.dtype)
        store.write(row, arrays)
    finalise(url, allow_missing=True)
    return url


def people(names: list[str], sites: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame({schema.PARTICIPANT: names, schema.SESSION: "", schema.SITE: sites or ["A"] * len(names)})


def bad(kind: str, reason: str) -> dict[str, float | str]:
    return {vocabulary.USABLE: 0.1, vocabulary.fault(kind): 0.9, vocabulary.REASONS: f"{vocabulary.FAULTS[kind]} ({reason})"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nine people of each of two sites, of whom four have something, and seven with hostile names."""
    usual: dict[str, float | str] = {vocabulary.USABLE: 0.98}
    quality = [{**usual, "mt_explained": 0.7 + 0.01 * i} for i in range(9)] + [{**usual, "mt_explained": 0.30 + 0.01 * i} for i in range(9)]
    quality[1] = bad("motion", "pair_loose 2.1, slices 3-5")
    quality[2][f"{schema.MTR}_{schema.FLAGGED}"] = 0.2
    quality[4]["mt_explained"] = 0.30  # usual at the other site
    names = [f"sub-{i}" for i in range(18)]
    url = make(tmp_path_factory.mktemp("cohort"), people(names + HOSTILE, ["A"] * 9 + ["B"] * 9 + HOSTILE), quality + [usual for _ in HOSTILE])
    failed = next(e for e in read_entries(url) if (e.subject, e.stage) == (3, schema.MTR))
    write_record(url, replace(failed, status=schema.FAILED, kind="InputError", message="the images are swapped"))
    return url


@pytest.fixture(scope="module")
def pages(cohort: str) -> Pages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cohort_engine.qc.pages.template_of", lambda root, config: TEMPLATE)
        patch.setitem(panels.PANELS, "levels", panels.Panel("levels", "Levels", "", broken))
        return write_pages(cohort)


def broken(scene: Scene) -> Iterator[tuple[str, str, panels.Rgb]]:
    raise ZeroDivisionError(f"row {scene.row} at /data/anna/x")


def test_a_subject_is_flagged_for_what_stands_against_it(cohort: str) -> None:
    group = look(cohort)
    assert {i: [f.kind for f in flags] for i, flags in enumerate(group.flags) if flags} == {1: ["motion"], 2: ["mtr_flagged_fraction"], 3: ["mtr"]}
    assert "shift of single slices between MT-on and MT-off 2.1, slices 3-5" in group.flags[1][0].words
    assert "swapped" in group.flags[3][0].words


def test_outliers_are_those_of_their_own_site(cohort: str) -> None:
    assert np.flatnonzero(look(cohort).outlying("mt_explained")).tolist() == [4]


class _Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs), attrs


def test_hostile_words_are_text_and_nothing_else(pages: Pages) -> None:
    page = pages.index.read_text(encoding="utf-8")
    for text in (page, *(p.read_text(encoding="utf-8") for p in (pages.index.parent / "subjects").iterdir())):
        tags = _Tags(text).tags
        assert (tags.count("script"), tags.count("img")) == ((2, 0) if text is page else (0, 1))
        assert "\u202e" not in text
        assert "x" * 400 not in text
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["name"][18] == HOSTILE[0]


def test_no_file_has_a_name_of_a_person(pages: Pages) -> None:
    assert not list(pages.index.parent.rglob("*anna*"))
    assert len(list((pages.index.parent / "images").iterdir())) == 25


def test_a_broken_panel_costs_nothing_but_itself(pages: Pages) -> None:
    page = (pages.index.parent / "subjects" / "000000.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in page
    assert "/data/anna" not in page
    assert "000000-map_mtr.webp" in page


def test_a_panel_without_images_says_so(pages: Pages) -> None:
    assert "Give the study file" in pages.index.read_text(encoding="utf-8")


def test_what_has_not_changed_is_not_drawn_again(cohort: str, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_engine.qc.pages.template_of", lambda root, config: TEMPLATE)
    (pages.index.parent / "images" / "000001-map_mtr.webp").unlink()
    assert write_pages(cohort).drawn == 1
    assert write_pages(cohort).drawn == 0


def test_what_is_shown_of_a_person_can_be_removed(cohort: str, pages: Pages) -> None:
    assert remove_pages(cohort, [5]) == 3
    assert not list(pages.index.parent.rglob("*000005*"))
    assert not pages.index.is_file()
