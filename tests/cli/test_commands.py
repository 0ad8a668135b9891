"""Commands on a store: printed as it is, whole in a pipe, by store or study file, with the exit code that says what is open."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

import cohort_engine
from cohort_engine import schema
from cohort_engine.cli import app, main
from cohort_engine.cli.say import lines, say, show
from cohort_engine.errors import CohortError, ConfigError, StorageError, UnknownNameError
from cohort_engine.store.layout import ASKED, array_at, open_root, record_of
from cohort_engine.store.people import subjects as listing
from cohort_engine.store.records import Entry, write_record

C3 = "mtr tract='white matter' level=C3"
REGION = "WM left lateral corticospinal tract"


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], **options)


def rows(text: str) -> list[list[str]]:
    """Cells of an aligned table."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def finished(make_finished_study: Callable[..., str]) -> str:
    """Six people; not to be changed."""
    return make_finished_study(people=6)


@pytest.fixture
def store(finished: str, tmp_path: Path) -> str:
    """A copy of it in a folder whose name looks like markup."""
    folder = tmp_path / "[old] x :smile: [bold]"
    for ending in ("", ".ledger"):
        shutil.copytree(f"{finished}{ending}", f"{folder / 'st.zarr'}{ending}")
    return str(folder / "st.zarr")


@pytest.fixture
def study(store: str, tmp_path: Path) -> Path:
    """Study file that says where the store is."""
    file = tmp_path / "study.yaml"
    off = {"enabled": False}
    stages = {"reduce": {"spaces": ["template"], "estimators": ["wa"]}, "segment": off, "levels": off, "shape": {"source": "t2w"}}
    file.write_text(yaml.safe_dump({"data": {"bids": "b", "store": store}, "template": {"name": "parametric"}, "stages": stages}))
    return file


# --- nothing of the user's is markup ----------------------------------------------------------------------------------
def test_a_path_is_printed_as_it_is(store: str) -> None:
    """``[old] x/st.zarr`` was printed as `` x/st.zarr``: what stands in brackets was taken for a colour."""
    for arguments in (["finalise", store], ["compact", store, f"{store}.freeze"]):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert arguments[-1] in result.output


@pytest.mark.parametrize("terminal", [False, True])
def test_no_word_of_a_table_is_markup(terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    odd = "[red]a[/] [/b] :smile: \\[x]"
    show({odd: [odd, "b"]}, f"title {odd}")
    say(f" {odd}", head=odd)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert out.count(odd) == 5


def test_an_error_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cohort-engine", "status", str(tmp_path / "[old] x")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert f"{tmp_path}/[old] x" in capsys.readouterr().err


# --- query ------------------------------------------------------------------------------------------------------------
def test_an_answer_with_many_covariates_is_whole_in_a_pipe(make_finished_study: Callable[..., str]) -> None:
    """With the 17 columns of a published participants.tsv every column was two characters and an ellipsis."""

    def wide(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{f"a_long_name_of_a_column_{i}": "a long value of a column" for i in range(17)})

    url = make_finished_study(people=4, change=wide)
    result = run("query", url, f"mtr tract='{REGION}' level=C3:C4")
    head, *lines = rows(result.stdout)
    assert head == ["participant_id", "level", "region", "value", "std", "n", "coverage"]
    assert [line[:3] for line in lines] == [[f"sub-{i:03d}", "C3:C4", REGION] for i in range(4)]
    assert "…" not in result.stdout
    assert rows(run("query", url, C3, "--columns", "age,sex").stdout)[0][1:3] == ["age", "sex"]
    assert len(rows(run("query", url, C3, "--columns", "all").stdout)[0]) == 7 + 5 + 17
    with pytest.raises(UnknownNameError, match="Did you mean 'age'"):
        run("query", url, C3, "--columns", "agee", catch_exceptions=False)


@pytest.mark.parametrize("words", [(), ("--csv", "-")])
def test_an_answer_without_a_value_is_no_success(finished: str, words: tuple[str, ...]) -> None:
    """Nobody's solidity was measured: the table is printed, with a sentence and exit code 1."""
    result = run("query", finished, "solidity level=C3", *words)
    assert result.exit_code == 1
    assert "sub-000" in result.stdout
    assert "not one value in 6 rows" in result.stderr


def test_an_answer_as_csv(finished: str, tmp_path: Path) -> None:
    printed = list(csv.DictReader(io.StringIO(run("query", finished, C3, "--csv", "-").stdout)))
    assert [row["participant_id"] for row in printed] == [f"sub-{i:03d}" for i in range(6)]
    assert run("query", finished, C3, "--csv", tmp_path / "out.csv").exit_code == 0
    assert list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines())) == printed
    shown = [line[3] for line in rows(run("query", finished, C3).stdout)[1:]]
    assert shown == [f"{float(row['value']):.2f}" for row in printed]


def test_who_is_asked_about(finished: str) -> None:
    assert len(rows(run("query", finished, f"{C3} group=DCM site=A,B").stdout)) == 1 + 2
    (_, line) = rows(run("query", finished, f"{C3} by=group group=HC").stdout)
    assert line[0] == "HC"


def test_what_a_reader_must_know_is_said_beside_the_answer(store: str) -> None:
    """An answer of a mixed store looked like any other."""
    open_root(store, "r+").attrs["mixed"] = "mtr has 3 and 3 subjects made with different [low] signal"
    result = run("query", store, C3)
    mixed, values = result.stderr.splitlines()
    assert mixed == "note mtr has 3 and 3 subjects made with different [low] signal"
    assert values.startswith("note values are wa in template space, which is more biased than map in native space")
    assert run("query", store, f"{C3} space=template").stderr.splitlines()[0] == "note mtr is wa in template space"
    assert "note" not in result.stdout
    assert "mixed" not in result.stdout


# --- a store or a study file ------------------------------------------------------------------------------------------
def test_a_study_file_stands_for_its_store(store: str, study: Path) -> None:
    """``query study.yaml`` said that no Zarr group was there."""
    for verb in (["query", C3], ["subjects"], ["verify"]):
        by_store, by_study = (run(verb[0], place, *verb[1:]) for place in (store, study))
        assert by_study.exit_code == by_store.exit_code
        assert by_study.stdout == by_store.stdout


def test_a_store_is_no_study(store: str) -> None:
    for verb in ("plan", "build", "retry"):
        with pytest.raises(ConfigError, match=r"a study file, which ends in \.yaml"):
            run(verb, store, catch_exceptions=False)


def test_the_index_of_a_study_file(make_study: Callable[..., Path]) -> None:
    """It took a folder only; of its notes it printed the names of the columns, one below the other."""
    folder = make_study("a", "b")
    (folder / "sub-b" / "anat" / "sub-b_T2w.nii.gz").unlink(missing_ok=True)
    result = run("index", folder.with_suffix(".yaml"))
    assert result.exit_code == 0, result.output
    assert "2 subjects" in result.stdout
    assert not re.search(r"^(participant_id|session_id|role|note)$", result.stdout, flags=re.MULTILINE)
    assert run("index", folder).exit_code == 0


def test_the_index_says_what_it_took_and_left_out(tmp_path: Path) -> None:
    """Of the notes it printed the names of their columns; what a build makes it counted as missing."""
    for name in ("sub-01/anat/sub-01_run-1_T2w", "sub-01/anat/sub-01_run-2_T2w", "sub-HC_02/anat/sub-HC_02_T2w", "sub-03/anat/sub-03_mt-on_MTS"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t89+\nsub-03\t40\n")
    out = run("index", tmp_path).stdout
    assert "2 subjects, 0 complete" in out
    assert rows(out)[1] == ["file", "present", "made", "missing"]
    for image, present, missing in (("T2w", "1", "1"), ("MT-on", "1", "1"), ("MT-off", "0", "2")):
        assert [f"{image} image", present, "0", missing] in rows(out)
    assert ["sub-01", "MT-on image, MT-off image", "age"] in rows(out)
    assert ["sub-03", "T2w image, MT-off image"] in rows(out)
    assert out.splitlines()[-3:] == [
        "note sub-01: T2w image: took run-1_T2w.nii.gz of 2; left out: run-2_T2w.nii.gz",
        "note sub-01: age is '89+', not a number: missing",
        "note sub-HC_02: folder sub-HC_02 (1 images) is not read: a name is sub- with letters and digits; rename it and its files (sub-HC02)",
    ]


def test_a_build_with_the_t1w_image_in_place_of_the_t2w_says_what_it_took(make_study: Callable[..., Path]) -> None:
    """The image could not be named, and how files were chosen was said by nothing but the index of Python."""
    folder = make_study("a")
    for file in [f for f in folder.rglob("*T2w*") if f.is_file()]:
        file.rename(file.with_name(file.name.replace("T2w", "T1w")))
    mask = next(folder.rglob("*on_MTS_label-SC_seg.nii.gz"))
    shutil.copy(mask, mask.with_name(mask.name.replace("_label-SC_seg", "_label-SC_desc-manual_seg")))
    study = folder.with_suffix(".yaml")
    study.write_text(study.read_text().replace("data:\n", "data:\n  files: {t2w: '*_T1w'}\n") + "stages: {shape: {source: t2w}}\n")
    index = run("index", study).stdout
    assert "1 subjects, 1 complete" in index
    assert ["T2w image", "1", "0", "0"] in rows(index)
    left = "took flip-1_mt-on_MTS_label-SC_desc-manual_seg.nii.gz of 2; left out: flip-1_mt-on_MTS_label-SC_seg.nii.gz"
    assert f"note sub-a: cord mask of the MT-on image: {left}" in run("plan", study).stdout
    built = run("build", "--quiet", study)
    assert built.exit_code == 0, built.output
    assert built.stdout.count(left) == 1
    store = folder.parent / "study.zarr"
    assert f"cord mask of the MT-on image: {left}" in run("status", store).stdout
    with cohort_engine.open_cohort(str(store)) as ds:
        assert np.isfinite(ds["profile_area"]).any()
        assert np.isfinite(ds["mtr_wa"]).any()
    assert not [f for f in Path(f"{store}.ledger").rglob("*") if f.is_file() and b"sub-a" in f.read_bytes()]


# --- what is open -----------------------------------------------------------------------------------------------------
def test_the_status_of_a_finished_store(store: str) -> None:
    result = run("status", store)
    head, *lines = rows(result.stdout)
    assert head == ["stage", "done", "stale", "failed", "missing_input", "not_needed", "to_do"]
    assert [line for line in lines if line[0] == "mtr"] == [["mtr", "6", "0", "0", "0", "0", "0"]]
    assert "closed 2" in result.stdout
    assert result.exit_code == 0


def test_a_stage_that_failed_or_is_stale_is_open(store: str) -> None:
    """A stage that was made with other settings than the store was asked for last was "done", and the exit code 0."""
    asked = record_of(open_root(store), ASKED)["stages"]["mtr"]["recipe"]
    write_record(store, Entry(2, "mtr", schema.FAILED, "k", asked, kind="InputError", message="[odd] image", remedy="Look at it."))
    write_record(store, Entry(4, "mtr", schema.DONE, "k", "another recipe"))
    result = run("status", store)
    assert ["mtr", "4", "1", "1", "0", "0", "0"] in rows(result.stdout)
    assert ["2", "sub-002", "mtr", "InputError", "[odd] image", "Look at it."] in rows(result.stdout)
    assert "settings of mtr changed: mtr of 1 subject" in result.stdout
    assert result.exit_code == 1


def test_who_is_in_the_store(store: str) -> None:
    head, *lines = rows(run("subjects", store).stdout)
    assert head == ["row", "participant_id", "session_id", "group", "site", "state", "done", "open"]
    assert [line[:2] for line in lines] == [[str(i), f"sub-{i:03d}"] for i in range(6)]
    assert {line[-1] for line in lines} == {"0"}


# --- withdrawal -------------------------------------------------------------------------------------------------------
def test_a_participant_is_withdrawn_by_name_after_a_question(store: str) -> None:
    """A row number was asked for, and erased without a word."""
    asked = run("withdraw", store, "003", input="n\n")
    assert asked.exit_code == 1
    assert "sub-003" in asked.stdout
    assert "mtr" in asked.stdout
    assert listing(store).participant_id[3] == "sub-003"
    done = run("withdraw", store, "sub-003", input="y\n")
    assert done.exit_code == 0, done.output
    heading, *remaining = done.stdout[done.stdout.index("Still to be done by hand") :].splitlines()
    assert heading == "Still to be done by hand"
    assert all(line.startswith("- ") for line in remaining)
    assert any("backups" in line for line in remaining)
    assert "sub-003" not in set(listing(store).participant_id)
    assert "sub-003" not in run("query", store, C3).stdout
    assert "withdrawn" in run("status", store).stdout


def test_a_participant_is_withdrawn_without_a_question(store: str) -> None:
    result = run("withdraw", store, "sub-001", "--yes")
    assert result.exit_code == 0, result.output
    assert "sub-001" not in set(listing(store).participant_id)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        run("withdraw", store, "sub-01", "--yes", catch_exceptions=False)


def test_two_stores_side_by_side(store: str, finished: str) -> None:
    same = run("compare", finished, store)
    assert (same.exit_code, same.stdout.splitlines()) == (0, ["6 subjects in both", "no difference"])
    run("withdraw", store, "sub-002", "--yes")
    other = run("compare", finished, store)
    assert other.exit_code == 1
    assert "sub-002" in other.stdout


# --- damage -----------------------------------------------------------------------------------------------------------
def spoil(store: str, path: str) -> None:
    for chunk in (Path(store) / path / "c").rglob("*"):
        if chunk.is_file():
            data = bytearray(chunk.read_bytes())
            data[len(data) // 2] ^= 0xFF
            chunk.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("maps/mtr", ["query", "mtr level=C3:C4 estimator=bin"]),
        ("tables/template/mtr_sums", ["query", "mtr level=C3:C4"]),
        ("tables/template/mtr_wa", ["query", C3]),
        ("subjects/participant_id", ["query", C3]),
        ("subjects/participant_id", ["status"]),
        ("subjects/group", ["subjects"]),
        ("profiles/area", ["analyse"]),
    ],
)
def test_a_damaged_chunk_ends_a_command_with_its_name(store: str, path: str, arguments: list[str]) -> None:
    """It was a traceback of 40 lines that ended in "Stored and computed checksum do not match"."""
    spoil(store, path)
    result = run(arguments[0], store, *arguments[1:])
    assert isinstance(result.exception, StorageError), result.output
    assert result.exception.where == path
    assert isinstance(result.exception, CohortError)  # which main turns into exit code 2


def test_a_damaged_chunk_is_among_the_problems(store: str) -> None:
    spoil(store, "maps/mtr")
    result = run("verify", store)
    assert result.exit_code == 1
    assert "maps/mtr" in result.stdout
    assert "0 problems" not in result.stdout


def test_a_deep_look_compares_tables_with_maps(store: str) -> None:
    """A table that was written over was verified as long as its numbers lay in their range."""
    assert "0 problems" in run("verify", store, "--deep").stdout
    array_at(open_root(store, "r+"), "tables/template/mtr_wa")[0] = 41
    assert run("verify", store).exit_code == 0
    deep = run("verify", store, "--deep")
    assert deep.exit_code == 1
    assert "tables/template/mtr_wa" in deep.stdout


# --- words ------------------------------------------------------------------------------------------------------------
def test_short_options() -> None:
    assert run("-V").stdout.strip() == cohort_engine.__version__
    assert run("-h").stdout == run("--help").stdout
    assert "Usage" in run("query", "-h").stdout
    assert "--install-completion" in run("--help").stdout


def test_help_lists_words_of_fixed_choices() -> None:
    """``extract --help`` had a list of estimators typed by hand; of spaces, sources and clusters there was none."""
    from cohort_engine.engine.clusters import CLUSTERS
    from cohort_engine.schema import ESTIMATORS, SPACES

    for verb, words in (("extract", ESTIMATORS), ("query", SPACES), ("index", ["bids", "sct"]), ("build", CLUSTERS)):
        text = " ".join(re.sub(r"[│\s]+", " ", run(verb, "--help").stdout).split())
        assert f"one of {', '.join(words)}" in text.replace("One of", "one of"), verb


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from typer.testing import CliRunner; from cohort_engine.cli import app; CliRunner().invoke(app, ['--help']);"
    code += "print([m for m in ('numpy', 'zarr', 'scipy', 'pandas', 'cohort_engine.config') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_log_of_a_build(make_study: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing of a build was kept but its results: who asked why a subject failed last week had the ledger's last word alone."""
    study = make_study("a", stages="stages:\n  fit: {deformable: false}\n").with_suffix(".yaml")
    text = study.read_text()
    study.write_text(text.replace("store: study.zarr", f"store: {study.name}/study.zarr"))
    with pytest.raises(CohortError):
        run("build", study, "--quiet", catch_exceptions=False)
    study.write_text(text)
    for path in study.with_suffix("").rglob("*_MTS.nii.gz"):
        path.write_bytes(b"no image")
    result = run("-v", "--log", tmp_path / "run.log", "build", study, "--quiet")
    assert result.exit_code == 1, result.output
    written = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert [line["event"] for line in written[:2]] == ["plan", "start"]
    failed = next(line for line in written if line.get("status") == "failed")
    assert (failed["row"], failed["level"], failed["kind"]) == (0, "warning", "InputError")
    assert written[-1]["event"] == "finish"
    assert "sub-" not in (tmp_path / "run.log").read_text()
    assert "warning stage: row 0, stage fit_mt, status failed" in result.stderr
    assert run("build", study, "--quiet").exit_code == 1  # nothing to do: no log
    assert run("retry", study, "--quiet").exit_code == 1
    (log,) = study.with_name("study.zarr.ledger").glob("log/*.log")
    assert '"finish"' in log.read_text()


def test_columns_of_text_are_aligned() -> None:
    assert lines({"who": ["a", "bcd"], "n": ["10", "9.5"]}, {"n"}) == ["who    n", "a     10", "bcd  9.5"]
    assert lines({}, set()) == []
    assert np.all([line == line.rstrip() for line in lines({"a": ["x", ""], "b": ["", "y"]})])
