"""The page is one file that asks for nothing, shows everything, and names nobody without need."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from cohort_engine.report import page as module
from cohort_engine.report.page import Page, render, without_paths, write_report
from cohort_engine.report.summary import summarise
from cohort_engine.sections.groups import largest, top_findings
from cohort_engine.sections.people import flow, quality_table, table_one


class Reader(HTMLParser):
    """Tags with their attributes, headings, and text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        return [a.get(attribute) or "" for t, a in self.tags if t == tag]


@pytest.fixture(scope="module")
def report(whole_study: Any, plain_figures: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Reader, Path]:
    path = write_report(*whole_study, tmp_path_factory.mktemp("report") / "out")
    return path.read_text(encoding="utf-8"), Reader(path.read_text(encoding="utf-8")), path.parent


def test_template_is_part_of_the_package() -> None:
    assert files("cohort_engine.report").joinpath(module.TEMPLATE).is_file()


def test_page_asks_for_nothing(report: Any) -> None:
    text, read, _ = report
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in read.tags}
    assert "@import" not in text
    assert "url(" not in text
    for tag, attributes in read.tags:
        for name in ("src", "srcset", "poster", "data", "action"):
            if (value := attributes.get(name)) is not None:
                assert tag == "img"
                assert value.startswith("data:image/")
    links = read.all("a", "href")
    outside = [h for h in links if re.match(r"[a-z]+:", h) and not h.startswith("data:")]
    assert outside
    assert all(h.startswith("https://doi.org/10.") for h in outside)
    assert not re.search(r"""[<>"' ]""", "".join(outside))


def test_every_figure_is_there_twice_and_on_the_page(report: Any, plain_figures: Any) -> None:
    _, read, folder = report
    assert read.all("img", "alt") == [d.caption for d in plain_figures]
    for d, image in zip(plain_figures, read.all("img", "src"), strict=True):
        vector = (folder / "figures" / f"{d.name}.svg").read_bytes()
        assert base64.b64decode(image.removeprefix("data:image/svg+xml;base64,")) == vector
        assert (folder / "figures" / f"{d.name}.png").read_bytes().startswith(b"\x89PNG")


def test_large_drawing_is_shown_as_pixels(whole_study: Any, plain_figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIGURE_BYTES", 10)
    read = Reader(write_report(*whole_study, tmp_path).read_text(encoding="utf-8"))
    assert all(src.startswith("data:image/png;base64,") for src in read.all("img", "src"))
    assert all(260 < int(w) <= 390 for w in read.all("img", "width"))  # 3 inches, larger on a screen, less the empty rim


def test_quality_is_a_row_a_number(whole_study: Any) -> None:
    found = whole_study[0]
    head, rows = quality_table(found)
    dice = found.material.quality["mt_dice"].to_numpy()[found.material.people.group == 0]
    assert head == ("median (range)", "HC", "DCM")
    assert rows == [("mt dice", f"{np.median(dice):.3f} ({dice.min():.3f} to {dice.max():.3f})", rows[0][2])]


def test_links_and_ids_fit(report: Any) -> None:
    _, read, _ = report
    ids = [a["id"] for _, a in read.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {h[1:] for h in read.all("a", "href") if h.startswith("#")} <= set(ids)


def test_headings_are_in_order(report: Any) -> None:
    _, read, _ = report
    levels = [int(t[1]) for t, _ in read.tags if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_each_table_is_once_under_its_figure_with_all_its_data(report: Any, whole_study: Any) -> None:
    text, read, _ = report
    tables = whole_study[0].tables
    shown = [i.removeprefix("data-") for i in read.all("details", "id")]
    assert sorted(shown) == sorted(set(tables) - {"excluded"})
    assert text.index('id="figure-effects"') < text.index('id="data-groups"') < text.index('id="figure-strength"')
    assert '<a href="#data-groups">' in text[text.index('id="figure-strength"') :]
    links = {a["download"]: a["href"] for t, a in read.tags if t == "a" and "download" in a}
    assert "roc_pairs.csv" in links
    name, href = "roc_pairs", links["roc_pairs.csv"]
    rows = unquote(str(href).removeprefix("data:text/csv;charset=utf-8,")).splitlines()
    assert rows[0].split(",") == list(tables[name])
    assert len(rows) == 1 + len(tables[name])


def test_large_tables_are_links_to_files(report: Any, whole_study: Any) -> None:
    text, read, _ = report
    assert "csv/norms.csv" in read.all("a", "href")
    assert sum(len(h) for h in read.all("a", "href")) < module.ALL_BYTES + 10_000
    assert len(text) < 2_000_000


def test_size_stays_small_for_a_thousand_people(whole_study: Any) -> None:
    """300 features of 1,000 people: the page carries what there is room for."""
    found, ds = whole_study
    many = {n: t.loc[np.resize(np.arange(len(t)), 150_000)] if n == "norms" else t for n, t in found.tables.items()}
    text = render(Page(replace(found, tables=many), ds, [], {}))
    assert len(text) < 2_500_000
    assert "10 rows of 150000" in text


def test_names_of_people_stand_only_in_the_list_of_those_left_out(report: Any, whole_study: Any) -> None:
    text, _, _ = report
    excluded = set(whole_study[0].material.people.excluded["participant_id"])
    assert set(re.findall(r"sub-\d+", unquote(text))) == excluded
    before, _, rest = text.partition("<caption>Left out</caption>")
    after = rest.partition("</table>")[2]
    assert not re.search(r"sub-\d+", unquote(before + after))


def test_what_a_study_brings_along_is_text(whole_study: Any) -> None:
    found, ds = whole_study
    evil = "<img src=x onerror=alert(1)>"
    excluded = found.material.people.excluded.assign(reason=evil)
    material = replace(found.material, people=replace(found.material.people, excluded=excluded), notes=(evil,))
    tables = {**found.tables, "excluded": excluded, "compression": found.tables["compression"].assign(group=evil)}
    text = render(Page(replace(found, material=material, tables=tables, problems={"roc": evil}), ds, [], {}))
    assert evil not in text
    assert Reader(text).all("img", "src") == []
    assert Reader(text).words.count(evil) >= 1


def test_problems_and_notes_are_stated_without_places(whole_study: Any, plain_figures: Any, tmp_path: Path) -> None:
    found, ds = whole_study
    found = replace(found, problems={"repeats": "expected people with several sessions, found none at /home/anna/study.zarr."})
    text = write_report(found, ds, tmp_path).read_text(encoding="utf-8")
    assert "<b>Agreement of repeated scans.</b> expected people with several sessions, found none at [place]." in text
    assert "one group of people would give such clusters as well" in text or "not stable under resampling" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [("at /data/x.zarr.", "at [place]."), ("s3://b/c", "[place]"), ("C:\\a\\b.zarr", "[place]"), ("age/sex and mm/s", "age/sex and mm/s")],
)
def test_places_are_taken_out(text: str, said: str) -> None:
    assert without_paths(text) == said


def test_summary_is_read_from_the_tables(whole_study: Any) -> None:
    found = whole_study[0]
    said = summarise(found)
    best = found.findings[found.findings["level"] != "compressed"].iloc[0]  # whose place nobody selected
    assert f"{len(found.findings)} differ between the groups at a false discovery rate of 5%" in said["groups"]
    assert f"Hedges' g −{abs(best['size']):.2f}" in said["groups"]
    assert said["people"].startswith(f"{len(found.material.people.table)} people were analysed")
    table = found.tables["compression"]
    compressed = int((~table.loc[table["group"] == "DCM", "site_of_compression"].isin(["none", "unknown"])).sum())
    assert f"{compressed} of {int((table['group'] == 'DCM').sum())} DCM" in said["compression"]
    leading = found.tables["roc_best"].iloc[0]
    assert f"{leading['marker']}: area under the ROC curve {leading['auc']:.2f}" in said["roc"]
    assert f"counts the choice {leading['low']:.2f} to {leading['high']:.2f}; p" in said["roc"]
    assert len(top_findings(found, 4)) == 4
    quiet = replace(found, tables={**found.tables, "groups": found.tables["groups"].assign(q=1.0)})
    assert "0 differ between the groups" in summarise(quiet)["groups"]
    assert top_findings(quiet).empty
    assert set(summarise(replace(found, tables={"subjects": found.tables["subjects"]}))) == {"people"}


def test_the_page_begins_with_the_study_and_five_findings(report: Any, whole_study: Any) -> None:
    text, _, _ = report
    assert "<h1>study: DCM against HC</h1>" in text
    assert "Template: the parametric cord" in text
    findings = Page(*whole_study, [], {}).findings
    assert [name for name, _, _ in findings] == ["groups", "roc", "classifier", "compression", "correlations"]
    assert all("(n = " in said and "95% confidence interval" in said for _, _, said in findings)
    assert all(escape(said, quote=False).replace("'", "&#39;") in text for _, _, said in findings)


def test_the_main_table_is_in_sight_with_n_and_q(whole_study: Any) -> None:
    found = whole_study[0]
    laid = largest(found)
    assert laid is not None
    best = found.findings[found.findings["level"] != "compressed"].iloc[0]
    assert (laid.head[2], laid.head[-1]) == ("n", "q")
    assert laid.rows[0][2] == f"{int(best['n_control'])} + {int(best['n_case'])}"
    assert laid.rows[0][-1] == "<0.001"
    assert len(laid.rows) == 10
    assert not any("compression" in row[0] for row in laid.rows)
    quiet = replace(found, tables={**found.tables, "groups": found.tables["groups"].assign(q=1.0)})
    assert str(largest(quiet).title).startswith("The smallest p values, of")  # type: ignore[union-attr]


def test_people_add_up(whole_study: Any) -> None:
    steps = {c.text: c.n for c in flow(whole_study[0])}
    left_out = sum(n for text, n in steps.items() if text.startswith("left out"))
    assert steps["scans in the cohort"] == left_out + steps["people analysed"] == 56
    assert steps["HC (controls)"] + steps["DCM (cases)"] == steps["people analysed"]


def test_table_one_is_laid_out_as_papers_do(whole_study: Any) -> None:
    found = whole_study[0]
    head, rows = table_one(found)
    cells = {row[0]: row[1:] for row in rows}
    people = found.material.people.table
    old = people.loc[people["group"] == "HC", "age"]
    women = people.loc[people["group"] == "DCM", "sex"] == "F"
    assert head[1] == f"HC (n = {len(old)})"
    assert cells["age, mean (SD)"][0] == f"{old.mean():.1f} ({old.std():.1f})"
    assert cells["sex, F, n (%)"][1] == f"{women.sum()} ({100 * women.mean():.0f}%)"
    assert cells["mjoa, mean (SD)"][0] == "–"
    assert [c[0] for c in rows if c[0].startswith("\u2003")] == ["\u2003A", "\u2003B", "\u2003C"]


def test_files_beside_the_page(report: Any, whole_study: Any) -> None:
    _, _, folder = report
    words = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    assert set(words) == set(whole_study[0].tables)
    assert (folder / "methods.md").read_text(encoding="utf-8").startswith("# Methods\n\n## Participants")


def test_a_table_nobody_described_is_shown_all_the_same(whole_study: Any) -> None:
    found, ds = whole_study
    more = {**found.tables, "new_thing": pd.DataFrame({"a": [1.5], "b": ["x"]})}
    text = render(Page(replace(found, tables=more), ds, [], {}))
    assert "Data: New thing (1 row)" in text
