"""Tables come back as they were written, by whatever program; what does not fit is refused by its line."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_engine.errors import InputError
from cohort_engine.io.table import read_column, read_table

WORDS = st.text(st.sampled_from('ab1 .,;"-+\n\u00e9'), max_size=6).map(str.strip).filter(lambda w: "\n" not in w or not set(w) & set(';,"'))
"""What people write. A field of several lines that also holds separators cannot be told from rows with a stray quote: those are kept apart."""


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6), separator=st.sampled_from("\t;,"), ending=st.sampled_from(["\n", "\r\n"]),
    everything=st.booleans(),
)  # fmt: skip
def test_what_a_csv_writer_writes_is_read_back(rows, separator, ending, everything) -> None:
    rows = [(f"sub-{i}", *(w.replace("\n", ending) for w in row[1:])) for i, row in enumerate(rows)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=ending, quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL)
    writer.writerows([("name", "first", "second"), *rows])
    table = read_table(text.getvalue().encode("utf-8-sig"), where="table")
    assert not table.misfits
    assert [row.fields for row in table.rows] == [tuple(w.replace("\r\n", "\n") for w in row) for row in rows]


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(st.integers(1, 5), min_size=1, max_size=12), width=st.integers(2, 4))
def test_every_row_is_read_or_refused_and_none_is_shifted(lines, width) -> None:
    header = ",".join(f"c{i}" for i in range(width))
    body = [",".join(f"{line}.{i}" for i in range(n)) for line, n in enumerate(lines, 2)]
    text = "\n".join([header, *body]).encode()
    if width not in lines:
        with pytest.raises(InputError, match=rf"expected rows of {width} fields.*found {lines[0]} in line 2, and none that fits"):
            read_table(text, where="table")
        return
    table = read_table(text, where="table")
    assert [r.line for r in table.rows] == [i for i, n in enumerate(lines, 2) if n == width]
    assert [(r.line, len(r.fields)) for r in table.misfits] == [(i, n) for i, n in enumerate(lines, 2) if n != width]
    for i in range(width):
        assert table.column(f"c{i}") == [f"{r.line}.{i}" for r in table.rows]


@pytest.mark.parametrize(
    ("values", "expected", "unread"),
    [
        (["1", "2", "-"], [1, 2, np.nan], {}),
        (["-", "-", "3"], [np.nan, np.nan, 3], {}),
        (["25,5", "26", ""], [25.5, 26, np.nan], {}),
        (["0,5", "1,234"], [0.5, 1.234], {}),
        (["1,234", "2,500", "900"], [np.nan, np.nan, 900], None),
        (["1.5", "2,5", "3.5"], [1.5, np.nan, 3.5], {1: "2,5"}),
        (["<5", "6", "7"], [np.nan, 6, 7], {0: "<5"}),
        (["\u22123", "4e-1", "+.5"], [-3, 0.4, 0.5], {}),
        (["045Y", "061Y"], [45, 61], {}),
        (["3T", "3", "1.5"], [np.nan, 3, 1.5], {0: "3T"}),
        (["inf", "1", "2"], [np.nan, 1, 2], {0: "inf"}),
    ],
)
def test_columns_of_numbers(values, expected, unread) -> None:
    column = read_column(values, numeric=None if unread is not None else True, units={"y": "year", "t": "T"})
    np.testing.assert_array_equal(column.values.astype(float), expected)
    if unread is not None:
        assert dict(column.unread) == unread


@pytest.mark.parametrize("values", [["left", "right"], ["20-30", "30-40"], ["2021-03-04", "2022-01-01"], ["a", "1"], ["170 cm", "68 in"]])
def test_columns_of_words(values) -> None:
    column = read_column(values, units={"cm": "cm"})
    assert column.values.tolist() == values
    assert not column.unread
