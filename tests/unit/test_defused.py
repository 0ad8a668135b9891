"""What people write into tables and names does nothing where it comes out again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pandas as pd
import pytest

from cohort_engine.errors import InputError, StoreError, scrub
from cohort_engine.io.cells import defused_table
from cohort_engine.io.places import ledger_url, object_store
from cohort_engine.report.page import _csv
from cohort_engine.single.columns import Columns
from cohort_engine.store import records
from cohort_engine.template.atlas import label_files

BAD = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]


def test_formulas_in_cells_and_headers_become_text_and_numbers_stay(tmp_path: Path) -> None:
    for text in (Columns({"=who": [*BAD], "n": [-1.5] * 6}).csv(), defused_table(pd.DataFrame({"=who": BAD, "n": -1.5})).to_csv(index=False)):
        found = pd.read_csv(pd.io.common.StringIO(text), keep_default_na=False)
        assert found.columns.tolist() == ["'=who", "n"]
        assert found["'=who"].str.startswith("'").all()
        assert (found["n"] == -1.5).all()
    Columns({"who": BAD}).write(tmp_path / "t.tsv")
    assert not any(line.startswith(tuple("=+-@")) for line in (tmp_path / "t.tsv").read_text().splitlines())


def test_tables_of_a_report_are_defused() -> None:
    assert _csv(pd.DataFrame({"group": ["=1+1"], "mean": [-0.5]})) == "group,mean\n'=1+1,-0.5\n"


def test_a_label_of_another_folder_is_refused() -> None:
    for file in ("../../etc/passwd", "/etc/passwd", "a\\b.nii", ".."):
        with pytest.raises(InputError, match="a file in this folder"):
            label_files(f"# Keyword=IndivLabels\n0, WM left, {file}")


def test_credentials_of_the_environment_are_taken_out_of_foreign_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh12345678")
    assert "abcdefgh12345678" not in scrub("signature of abcdefgh12345678 differs")


def test_a_block_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_BLOCK", 1000)
    url = str(tmp_path / "s.zarr")
    data = records._seal(b"{}", zlib.compress(json.dumps(["x" * 5000]).encode()))
    object_store(ledger_url(url)).put("entries/000000.block", data)
    with pytest.raises(StoreError, match="a damaged object"):
        records.read_block(url, 0)
