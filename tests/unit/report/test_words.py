"""Every column of an analysis has its meaning, and nothing else has."""

from __future__ import annotations

from typing import Any

import pytest

from cohort_engine import sections
from cohort_engine.report.show import show, unnamed
from cohort_engine.sections.base import FEATURE_COLUMN
from cohort_engine.study.format import digits_of


def test_every_table_and_column_is_described_and_nothing_else(whole_study: Any) -> None:
    tables = whole_study[0].tables
    assert whole_study[0].problems == {}
    assert set(sections.tables()) == set(tables)
    for name, table in tables.items():
        words = sections.table(name)
        described = [c for c in table if c in words.columns]
        assert list(words.columns) == described, f"{name}: these columns are not there, or in another order"
        assert words.open or described == list(table), f"{name}: {set(table) - set(described)} has no meaning"
        assert {c for c in words.shown if c != FEATURE_COLUMN} <= set(table)
        assert not words.order or words.order.lstrip("-|") in table


def test_dictionary_says_unit_and_file(whole_study: Any) -> None:
    words = sections.describe({n: t.columns for n, t in whole_study[0].tables.items()})
    assert words["norms"]["columns"]["centile"] == {"meaning": "share of healthy people below, by Student's t or centile curves", "unit": "percent"}
    assert words["norms"]["file"] == "csv/norms.csv"
    assert words["subjects"]["columns"]["mjoa"]["meaning"] == "a column of participants.tsv"
    assert all(c["meaning"] for table in words.values() for c in table["columns"].values())


def test_rows_that_matter_come_first(whole_study: Any) -> None:
    tables = whole_study[0].tables
    shown = show("norms", tables["norms"], 3)
    largest = tables["norms"]["z"].abs().max()
    at = [name for name, _, _ in shown.head].index("z")
    assert shown.rows[0][at].lstrip("−") == f"{largest:.2f}"
    assert (len(shown.rows), shown.total) == (3, len(tables["norms"]))


def test_nobody_is_named_in_a_table_of_the_page(whole_study: Any) -> None:
    for name, table in whole_study[0].tables.items():
        if name != "excluded":
            assert not any("sub-0" in cell for row in show(name, table).rows for cell in row), name
            assert "sub-0" not in unnamed(table).to_csv(), name


@pytest.mark.parametrize(("values", "digits"), [([0.0, 0.0], 0), ([float("nan")], 0), ([0.00001, 0.00002], 4), ([123.4], 0), ([1.5], 2)])
def test_digits_follow_the_size(values: list[float], digits: int) -> None:
    assert digits_of(values) == digits
