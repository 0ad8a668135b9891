"""An answer is that of the maps and settings of now: tables count where they were made from them, and people who are out are out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine.errors import StorageError
from cohort_engine.io.places import local_path
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.query.reader import CohortReader
from cohort_engine.schema import SUBJECT, VOXEL, VariableSpec
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.tables import MADE_FROM, made_from, stored_digests

NAN = np.nan
C2 = "mtr tract='white matter' level=C2"
WA = f"{C2} estimator=wa space=template"
TABLE = "tables/template/mtr_wa"


def values(url: str, text: str = C2, **options: Any) -> list[float]:
    """Answer of the store and of the opened cohort, which must be one."""
    quick = run_query(url, text, **options)
    opened = run_query(open_cohort(url, **options), text)
    pd.testing.assert_frame_equal(quick, opened, check_dtype=False)
    return [float(v) for v in quick.value]


def forge(url: str, table: str, value: float) -> None:
    """Put a number into a table that no map gives."""
    layout.array_at(layout.open_root(url, "r+"), table)[:] = value


def test_a_table_counts_while_it_is_that_of_the_maps(lay_out: Callable[..., Any]) -> None:
    url = lay_out([[10] * 8, [20] * 8]).url
    forge(url, TABLE, 77)
    assert values(url) == [77, 77]
    assert values(url, "mtr tract='white matter' level=C2:C3") == [10, 20]


def test_a_table_of_other_maps_is_not_read(lay_out: Callable[..., Any]) -> None:
    """The map of a subject was made again, the store closed without tables: the answer was the old table's."""
    cohort = lay_out([[10] * 8, [20] * 8])
    forge(cohort.url, TABLE, 77)
    layout.open_root(cohort.url, "r+").attrs["finalised"] = ""
    cohort.write(1, [30] * 8, key="again")
    assert values(cohort.url) == [10, 30]
    finalise(cohort.url, allow_missing=True)
    assert values(cohort.url) == [10, 30]
    cohort.close()
    assert values(cohort.url) == [10, 30]
    assert len(set(stored_digests(layout.open_root(cohort.url), TABLE))) == 1


def test_a_table_of_another_limit_is_not_read(lay_out: Callable[..., Any]) -> None:
    """The limit of the study was lowered, the tables were those of the higher one: cells were missing that should not."""
    cohort = lay_out([[10, 10, NAN, NAN] * 2])
    assert np.isnan(values(cohort.url)).all()
    cohort.init(pd.DataFrame({"participant_id": ["sub-01"]}), min_coverage=0.25)
    layout.open_root(cohort.url, "r+").attrs["finalised"] = "now"
    assert values(cohort.url) == [10]
    assert values(cohort.url, f"{C2} coverage=0.6") != [10]


def test_only_the_blocks_that_differ_are_made_again(lay_out: Callable[..., Any]) -> None:
    cohort = lay_out([[float(i % 50)] * 8 for i in range(70)])
    forge(cohort.url, TABLE, 77)
    array = layout.array_at(layout.open_root(cohort.url, "r+"), TABLE)
    made = made_from(array)
    array.update_attributes({MADE_FROM: {**made, "blocks": [made["blocks"][0], "other"]}})
    assert values(cohort.url) == [77] * 64 + [float(i % 50) for i in range(64, 70)]


def test_tables_of_an_open_store_are_not_read(lay_out: Callable[..., Any]) -> None:
    cohort = lay_out([[10] * 8])
    forge(cohort.url, TABLE, 77)
    layout.open_root(cohort.url, "r+").attrs["finalised"] = ""
    assert values(cohort.url) == [10]


def test_a_native_table_of_other_settings_is_missing_and_says_so(lay_out: Callable[..., Any]) -> None:
    """Native tables cannot be made from the store: rows of the old settings were given as if they were of the new ones."""
    cohort = lay_out([[10] * 8, [20] * 8, [30] * 8], close=False)
    for row, value in enumerate((1.0, 2.0, 3.0)):
        cohort.write(row, [10] * 8, native=value)
    cohort.close()
    assert values(cohort.url, space="native") == [1, 2, 3]
    cohort.init(pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-03"]}), low_signal=0.1)
    cohort.write(1, [10] * 8, native=5.0)
    cohort.close()
    frame = run_query(cohort.url, C2, space="native")
    np.testing.assert_array_equal(frame.value, [NAN, 5, NAN])
    assert any("2 subjects have no value here" in note and "rows 0, 2" in note for note in frame.attrs["notes"])


def test_an_answer_of_a_mixed_store_says_so(lay_out: Callable[..., Any]) -> None:
    """Half of the rows were made with other settings; the answer did not say a word."""
    cohort = lay_out([[10] * 8, [20] * 8])
    assert run_query(cohort.url, WA).attrs["notes"] == []
    cohort.init(pd.DataFrame({"participant_id": ["sub-01", "sub-02"]}), low_signal=0.1)
    cohort.write(1, [30] * 8)
    cohort.close()
    (note,) = run_query(cohort.url, WA).attrs["notes"]
    assert "mtr has 1 and 1 subjects made with different stages.mtr.low_signal" in note
    assert "low_signal" in open_cohort(cohort.url).attrs["mixed"]
    assert "low_signal" in open_cohort(cohort.url).cohort.table("mtr").attrs["mixed"]


def test_who_left_is_out_of_every_answer_and_can_come_back(lay_out: Callable[..., Any]) -> None:
    """People whom the study excluded after the build were counted on."""
    cohort = lay_out([[10] * 8, [20] * 8, [30] * 8], group=["HC", "HC", "DCM"])
    some = pd.DataFrame({"participant_id": ["sub-01", "sub-03"], "group": ["HC", "DCM"]})
    cohort.init(some, left={("sub-02", ""): "excluded"})
    assert values(cohort.url) == [10, 30]
    cohort.close()
    assert values(cohort.url) == [10, 30]
    assert run_query(cohort.url, f"{C2} by=group").n.tolist() == [1, 1]
    assert open_cohort(cohort.url).subject.values.tolist() == [0, 2]
    assert CohortReader(cohort.url, everybody=True).subjects == 3
    cohort.init(pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-03"], "group": ["HC", "HC", "DCM"]}))
    assert values(cohort.url) == [10, 20, 30]


def test_metrics_are_those_of_the_store(lay_out: Callable[..., Any]) -> None:
    """A metric of another package was an unknown name where it was asked for, although the store held it."""
    t1 = VariableSpec("maps/t1", "longitudinal relaxation time", "s", (SUBJECT, VOXEL), valid_range=(0.0, 5.0), chunks={SUBJECT: 1}, stage="mtr")
    url = lay_out([[1.5] * 8], metric=t1).url
    assert values(url, "t1 tract='white matter' level=C2") == [1.5]
    assert values(url, "t1 tract='white matter' level=all") == [1.5]
    cohort = open_cohort(url).cohort
    assert cohort.metrics == ["t1"]
    assert cohort.tract("t1", "white matter", "C2").attrs["units"] == "s"


@pytest.mark.parametrize("path", ["maps/mtr", TABLE, "subjects/participant_id", "voxels/voxel_level", "stages/key"])
def test_a_damaged_chunk_is_named(lay_out: Callable[..., Any], path: str) -> None:
    """It came up as "ValueError: Stored and computed checksum do not match", with 30 lines of a library's insides."""
    url = lay_out([[10] * 8, [20] * 8]).url
    folder = local_path(url)
    assert folder is not None
    for chunk in (folder / path / "c").rglob("*"):
        if chunk.is_file():
            data = bytearray(chunk.read_bytes())
            data[len(data) // 2] ^= 0xFF
            chunk.write_bytes(bytes(data))
    question = "mtr level=C2:C3" if path == "maps/mtr" else "mtr level=C2"
    for ask in (lambda: run_query(url, question), lambda: run_query(open_cohort(url), question)):
        with pytest.raises(StorageError, match="expected chunks that decode") as caught:
            ask()
        assert caught.value.where == path


def test_an_answer_of_a_store_that_is_asked_for_more_says_so(lay_out: Callable[..., Any]) -> None:
    """Settings changed and the build killed before the first subject: all rows were alike, and none as asked."""
    cohort = lay_out([[10] * 8, [20] * 8])
    cohort.init(pd.DataFrame({"participant_id": ["sub-01", "sub-02"]}), low_signal=0.1)
    (note,) = run_query(cohort.url, WA).attrs["notes"]
    assert "stages.mtr.low_signal changed: mtr of 2 subjects" in note
