"""Two stores side by side."""

from __future__ import annotations

import pandas as pd
import pytest

from cohort_engine.errors import IncompleteError
from cohort_engine.store import compare as module
from cohort_engine.store.compare import compare
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise

from .conftest import FIT, MTR, SPECS, Cohort
from .test_maintenance import tabulate


@pytest.fixture
def make(tmp_path, small_template):
    def call(name, subjects=4, *, value=0.0, fail=(), specs=SPECS, order=None, **settings):
        """A closed store in which row r has an MTR of its number in the name, plus `value`."""
        cohort = Cohort(str(tmp_path / f"{name}.zarr"), small_template)
        names = order or list(range(subjects))
        cohort.init(pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in names], "session_id": "01", "age": 50.0}), specs=specs, **settings)
        for row, i in enumerate(names):
            cohort.fit(row)
            cohort.fail(row, MTR) if i in fail else cohort.mtr(row, i + value)
        finalise(cohort.url, tabulate=lambda: tabulate(cohort), allow_missing=True)
        return cohort

    return call


def test_a_store_and_its_freeze_are_equal(make, tmp_path):
    a = make("a")
    compact(a.url, str(tmp_path / "f.zarr"))
    found = compare(a.url, str(tmp_path / "f.zarr"))
    assert found.equal
    assert str(found) == "4 subjects in both\nno difference"


def test_the_order_of_rows_does_not_matter(make):
    assert compare(make("a").url, make("b", order=[3, 1, 0, 2]).url).equal


@pytest.mark.parametrize("block", [1, 2**25])
def test_settings_and_values_that_differ_are_named_with_their_size(make, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    found = compare(make("a").url, make("b", value=0.5, low_signal=0.1).url)
    assert found.settings == ("stages.mtr.low_signal of mtr: 0.05 in A, 0.1 in B",)
    sizes = {a.path: (a.differing, a.largest, a.median, a.holes) for a in found.arrays}
    assert sizes == dict.fromkeys(("maps/mtr", "qc/mtr_cord_median", "profiles/area", "tables/native/mtr_wa"), (4, 0.5, 0.5, 0))
    assert "maps/mtr: 4 subjects, largest difference 0.5 percent, median 0.5" in str(found)
    assert not found.equal


def test_subjects_of_one_store_alone_and_stages_that_ended_otherwise(make):
    found = compare(make("a", 4).url, make("b", order=[1, 2, 3, 7], fail=[2]).url)
    assert found.only_a == (("sub-00", "01"),)
    assert found.only_b == (("sub-07", "01"),)
    assert found.subjects == 3
    assert found.stages == ("mtr: done in A, failed in B, 1 subjects",)
    assert {(a.path, a.differing, a.holes) for a in found.arrays if a.path == "maps/mtr"} == {("maps/mtr", 1, 1)}
    assert "only in A\n  1: sub-00 01" in str(found)


def test_who_left_one_study_is_in_the_other_alone(make):
    a, b = make("a", 2), make("b", 2)
    b.init(pd.DataFrame({"participant_id": ["sub-00"], "session_id": "01"}))
    assert compare(a.url, b.url).only_a == (("sub-01", "01"),)


def test_a_new_version_of_a_stage_and_a_mixture_are_said(make):
    a, b = make("a"), make("b")
    b.init(pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(4)], "session_id": "01", "age": 50.0}), seed=2)
    b.fit(0)
    finalise(b.url, allow_mixed=True)
    found = compare(a.url, b.url)
    assert any(s.startswith("B is mixed: fit_mt has 3 and 1 subjects") for s in found.settings)


def test_what_only_one_store_holds_is_noted(make):
    less = tuple(s for s in SPECS if s.path != "qc/mt_dice")

    class Without(Cohort):
        def fit(self, row, value=1.0, **more):
            self.write(row, {"fit/mt": [[value] * 3] * len(self.template.packing)}, FIT, **more)

    a = make("a", 2)
    b = Without(a.url.replace("a.zarr", "b.zarr"), a.template)
    b.asked["stages"][FIT]["writes"].remove("qc/mt_dice")
    b.init(pd.DataFrame({"participant_id": ["sub-00", "sub-01"], "session_id": "01", "age": 50.0}), specs=less)
    b.run(0, 1)
    finalise(b.url, tabulate=lambda: tabulate(b))
    found = compare(a.url, b.url)
    assert found.notes == ("qc/mt_dice: only in A",)
    assert not found.arrays


def test_records_that_are_not_gathered_are_not_passed_over(make):
    a, b = make("a"), make("b")
    b.mtr(0, 7.0)
    with pytest.raises(IncompleteError, match="expected gathered records, found 1 that are not"):
        compare(a.url, b.url)
