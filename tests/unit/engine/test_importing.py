"""Tables of three people, written by hand, become a store; and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort_engine.engine.importing import import_morphometry
from cohort_engine.errors import InputError, TemplateError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject
from cohort_engine.template.base import Template

HEADER = "Timestamp,Filename,Slice (I->S),VertLevel,MEAN(area),MEAN(angle_AP),MEAN(diameter_AP),MEAN(orientation)"
PARTICIPANTS = "participant_id\tsex\tage\tpathology\nsub-a\tM\t30\tHC\nsub-b\tF\tn/a\tHC\nsub-x\tF\t40\tHC\n"


@pytest.fixture
def make_study(tmp_path: Path, small_template: Template):
    """Factory: tables of `people` on every slice of the template with a level; the area of person n is 60 + 10 n, that of slice `gap` empty."""

    def make(people: Any = ("sub-a", "sub-b"), *, header: str = HEADER, line: str = "t,/p,{k},{level},{area},5.0,7.5,3.0", pack: str = "") -> Path:
        slices = np.flatnonzero(small_template.slice_level > 0)
        folder = tmp_path / "tables"
        folder.mkdir()
        (tmp_path / "participants.tsv").write_text(PARTICIPANTS)
        for n, name in enumerate(people):
            areas = [60 + 10 * n if k != slices[0] else "" for k in slices]
            lines = [line.format(k=k, level=small_template.slice_level[k], area=a) for k, a in zip(slices, areas, strict=True)]
            (folder / f"{name}_T2w_PAM50.csv").write_text("\n".join([header, *lines, ""]))
        if not pack:
            return folder
        with tarfile.open(tmp_path / f"tables.{pack}", f"w:{pack}") as archive:
            archive.add(folder, "deep/tables")
            outside = tarfile.TarInfo("../../sub-evil_T2w.csv")
            outside.type, outside.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(outside)
        return tmp_path / f"tables.{pack}"

    return make


@pytest.fixture
def run(tmp_path: Path, small_template: Template):
    """Import into the store beside."""

    def run(tables: Path) -> tuple[str, Any]:
        url = str(tmp_path / "store.zarr")
        return url, import_morphometry(tables, url, participants=tmp_path / "participants.tsv", template=small_template)

    return run


@pytest.mark.parametrize("pack", ["", "xz", "gz"])
def test_tables_become_profiles(make_study, run, small_template: Template, pack: str) -> None:
    url, report = run(make_study(pack=pack))
    assert (report.subjects, report.without_covariates, report.without_table) == (2, 0, 1)
    inside = np.flatnonzero(small_template.slice_level > 0)
    area = read_subject(url, 1, "profiles/area")
    assert area.dtype == np.float64
    assert np.isnan(area[inside[0]])
    assert (area[inside[1:]] == 70).all()
    assert np.isnan(np.delete(area, inside)).all()
    assert (read_subject(url, 0, "tables/shape/area") == 60).all()
    assert verify(url) == []


def test_our_signs_and_names(make_study, run, small_template: Template) -> None:
    url, _ = run(make_study())
    at = np.flatnonzero(small_template.slice_level > 0)[3]
    value = {
        m: read_subject(url, 0, f"profiles/{m}")[at] for m in ("angle_ap", "orientation", "orientation_size", "diameter_ap", "diameter_ap_ellipse")
    }
    expected = {"angle_ap": -5.0, "orientation": np.nan, "orientation_size": 3.0, "diameter_ap": np.nan, "diameter_ap_ellipse": 7.5}
    assert value == pytest.approx(expected, nan_ok=True)


def test_a_newer_table_has_both_diameters(make_study, run, small_template: Template) -> None:
    url, _ = run(make_study(header=HEADER + ",MEAN(diameter_AP_ellipse)", line="t,/p,{k},{level},{area},5.0,7.5,3.0,7.9"))
    at = np.flatnonzero(small_template.slice_level > 0)[3]
    assert [read_subject(url, 0, f"profiles/{m}")[at] for m in ("diameter_ap", "diameter_ap_ellipse")] == [7.5, 7.9]


def test_a_question_by_group(make_study, run) -> None:
    url, _ = run(make_study(("sub-a", "sub-b", "sub-nobody")))
    table = run_query(url, "area level=C2:C3 by=sex").set_index("sex")
    assert table["mean"].to_dict() == {"M": 60, "F": 70, "": 80}
    assert table["region"].unique().tolist() == ["spinal cord"]


def test_covariates_are_coordinates(make_study, run) -> None:
    url, _ = run(make_study())
    with open_cohort(url) as ds:
        assert ds["sex"].to_numpy().tolist() == ["M", "F"]
        assert ds["age"].to_numpy().tolist() == pytest.approx([30, np.nan], nan_ok=True)
        assert ds["group"].to_numpy().tolist() == ["HC", "HC"]


def test_doing_it_again_is_harmless(make_study, run) -> None:
    tables = make_study()
    run(tables)
    url, report = run(tables)
    assert report.subjects == 2
    assert verify(url) == []


def test_another_cohort_is_not_overwritten(make_study, run) -> None:
    tables = make_study()
    run(tables)
    (tables / "sub-b_T2w_PAM50.csv").rename(tables / "sub-c_T2w_PAM50.csv")
    with pytest.raises(InputError, match="expected a new place"):
        run(tables)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"line": "t,/p,{k},1,{area},5,7,3"}, TemplateError, "another level"),
        ({"line": "t,/p,5{k},{level},{area},5,7,3"}, TemplateError, "expected slices 0 to"),
        ({"line": "t,/p,7,{level},{area},5,7,3"}, InputError, "expected one row a slice"),
        ({"line": "t,/p,{k},{level},wide,5,7,3"}, InputError, r"other values in MEAN\(area\)"),
        ({"header": HEADER.replace("MEAN(area)", "area")}, InputError, r"expected columns MEAN\(area\)"),
        ({"people": ()}, InputError, r"expected files sub-....csv"),
        ({"people": ("sub-a", "sub-a_acq-2")}, InputError, "one table a participant"),
    ],
)
def test_what_is_refused(make_study, run, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as found:
        run(make_study(**change))
    assert "sub-a" not in str(found.value)
    assert not (tmp_path / "store.zarr").exists()


def test_one_bad_table_does_not_stop_the_others(make_study, run, small_template: Template) -> None:
    """A row with a field too few made an area of 50 of an angle; a value that is no number stopped everybody."""
    tables = make_study(("sub-a", "sub-b", "sub-c"))
    inside = np.flatnonzero(small_template.slice_level > 0)
    short = tables / "sub-a_T2w_PAM50.csv"
    lines = short.read_text().splitlines()
    lines[3] = lines[3].replace(",60,5.0", ",5.0")  # no area: everything after it one field to the left
    lines[4] = lines[4].replace(",60,", ",-,")
    lines[5] = lines[5].replace(",60,", ",>60,")
    lines[6] = lines[6].replace(f",{inside[5]},", ",x,")
    short.write_text("\r\n".join(lines))
    (tables / "sub-b_T2w_PAM50.csv").write_text("nothing")
    url, report = run(tables)
    assert report.failed == 1
    texts = [f"{participant}: {text}" for participant, _, text in report.told]
    assert texts[0] == "sub-a: morphometry table: line 4 has 7 fields in place of 8: its slice is missing"
    assert texts[1] == "sub-a: morphometry table: line 7: Slice (I->S) is 'x', not a number: missing"
    assert texts[2] == "sub-a: morphometry table: line 6: MEAN(area) is '>60', not a number: missing"
    assert "sub-b: morphometry table 2 of 3: expected columns Slice (I->S)" in texts[3]
    area = read_subject(url, 0, "profiles/area")
    assert np.isnan(area[inside[:7]]).tolist() == [True, False, True, True, True, True, False]
    assert np.nanmax(area) == np.nanmin(area) == 60
    assert np.isnan(read_subject(url, 1, "profiles/area")).all()
    assert np.nanmean(read_subject(url, 2, "profiles/area")) == 80


def test_what_is_wrong_with_covariates_is_told(make_study, run, tmp_path: Path) -> None:
    """An age of 25,5 was a word, and a category in every model; 89+ of one person was an error for all."""
    tables = make_study(("sub-a", "sub-b", "sub-c"))
    (tmp_path / "participants.tsv").write_text("sep=;\nparticipant_id;age;height\nSUB-a;25,5;170\nb;89+;-\nsub-c;26,5\n")
    url, report = run(tables)
    with open_cohort(url) as ds:
        assert ds["age"].to_numpy().tolist() == pytest.approx([25.5, np.nan, np.nan], nan_ok=True)
    assert report.told == (
        ("sub-c", "", "participants.tsv: line 5 has 2 fields in place of 3: its values are missing"),
        ("sub-b", "", "age is '89+', not a number: missing"), ("", "", "column age: decimal comma read as a point in 1 values"),
    )  # fmt: skip


def test_decimal_commas_between_semicolons(make_study, run, small_template: Template) -> None:
    tables = make_study(("sub-a",), header=HEADER.replace(",", ";"), line="t;/p;{k};{level};60,5;5,0;7,5;3,0")
    url, report = run(tables)
    assert np.nanmax(read_subject(url, 0, "profiles/area")) == 60.5
    assert report.told[0][2].startswith("morphometry table: MEAN(area): decimal comma read as a point in ")


def test_a_damaged_archive_is_refused(make_study, run) -> None:
    archive = make_study(pack="xz")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(InputError, match="morphometry table: expected a folder or a tar archive"):
        run(archive)


def test_a_member_of_absurd_size_is_refused(tmp_path: Path, run, make_study, monkeypatch) -> None:
    from cohort_engine.engine import importing

    monkeypatch.setattr(importing, "LARGEST", 100)
    with pytest.raises(InputError, match="tables of one subject"):
        run(make_study(pack="gz"))


def test_an_archive_that_is_none(tmp_path: Path, run, make_study) -> None:
    make_study()
    (tmp_path / "x.tar").write_bytes(io.BytesIO(b"text").read())
    with pytest.raises(InputError, match="a folder or a tar archive"):
        run(tmp_path / "x.tar")
