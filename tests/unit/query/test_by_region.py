"""Maps of a freeze by region: the same numbers from the voxels of the tracts that are asked for alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cohort_engine.query.answer import answer
from cohort_engine.query.question import parse_query
from cohort_engine.query.reader import CohortReader
from cohort_engine.store import by_region, layout
from cohort_engine.store.freeze import compact
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw


@pytest.fixture
def pair(make_cohort: Callable[..., str], tmp_path: Any) -> tuple[str, str]:
    """A store of five, one of them never built and one with holes, and its freeze."""
    maps = [*(40 + 3 * np.random.default_rng(0).normal(size=(3, 8))), None, [30, np.nan, 31, 32, np.nan, 33, 34, 35]]
    url, out = make_cohort(maps), str(tmp_path / "freeze.zarr")
    compact(url, out)
    return url, out


def test_every_map_stands_twice_and_a_difference_is_found(pair: tuple[str, str]) -> None:
    _, out = pair
    root = layout.open_root(out, "r+")
    order = np.asarray(layout.array_at(root, by_region.POSITION.path)[...])
    first, second = (np.asarray(layout.array_at(root, path)[...]) for path in ("maps/mtr", "by_region/mtr"))
    np.testing.assert_array_equal(second, first[:, order])
    assert verify(out) == []
    layout.array_at(root, "by_region/mtr")[1, 3] = 44
    assert [str(p) for p in verify(out)] == ["by_region/mtr: is not what the map is"]


@pytest.mark.parametrize("estimator", ["wa", "bin", "median", "max"])
def test_a_question_reads_the_voxels_of_its_tract_alone(pair: tuple[str, str], estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, out = pair
    reader = CohortReader(out)
    question = parse_query(f"mtr tract='{reader.naming.labels[0]}' level=C2 estimator={estimator} coverage=0.1")
    expected = answer(CohortReader(url), question)
    asked: list[int] = []
    read = by_region.read_voxels
    monkeypatch.setattr(
        by_region, "read_voxels", lambda array, position, rows, voxels: asked.append(len(voxels)) or read(array, position, rows, voxels)
    )
    monkeypatch.setattr(CohortReader, "read", lambda self, path, *a: pytest.fail(path) if path.startswith("maps/") else READ(self, path, *a))
    found = answer(reader, question)
    np.testing.assert_allclose(found.columns["value"], expected.columns["value"], rtol=1e-6)
    assert asked
    assert asked[0] < 8


READ = CohortReader.read


def test_an_estimator_that_looks_at_all_labels_reads_whole_maps(pair: tuple[str, str]) -> None:
    url, out = pair
    question = parse_query(f"mtr tract='{CohortReader(out).naming.labels[0]}' level=C2 estimator=map coverage=0.1")
    values = [answer(CohortReader(place), question).columns["value"] for place in (url, out)]
    np.testing.assert_array_equal(*values)


def test_who_withdraws_is_erased_there_too(pair: tuple[str, str]) -> None:
    _, out = pair
    withdraw(out, 1)
    held = np.asarray(layout.array_at(layout.open_root(out), "by_region/mtr")[...])
    assert np.isnan(held).all(axis=1).tolist() == [False, True, False, True, False]
    assert verify(out) == []
