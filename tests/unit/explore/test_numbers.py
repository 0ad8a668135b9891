"""Numbers of a view are those that `query` gives, and what is compared is what the words say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.explore.numbers import Explored
from cohort_engine.explore.view import View
from cohort_engine.query.frame import run_query
from cohort_engine.query.question import parse_query
from cohort_engine.query.spread import mean_of, spread_of
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """Twelve people, six of them patients."""
    url = str(tmp_path_factory.mktemp("explore") / "study.zarr")
    simulate_store(url, 12, parametric_cord(spacing=2.0, top="C4", bottom="C5"), seed=1, shape=True, scores=True)
    return Explored(url)


def seen(explored: Explored, text: str, **more: str | int | None) -> View:
    return explored.checked(replace(explored.start(), query=parse_query(text), **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["mtr tract='white matter' level=C4", "mtr tract='dorsal columns' level=C4:C5", "area level=C5", "mtr level=C4 sex=F"]
)
def test_values_are_those_of_a_query(explored: Explored, text: str) -> None:
    view = seen(explored, text)
    picked = explored.pick(view)
    expected = run_query(explored.url, view.query)
    assert np.allclose(picked.values, expected["value"], equal_nan=True)
    assert len(picked.at) == len(expected)


def test_it_starts_with_the_controls_as_reference(explored: Explored) -> None:
    view = explored.start()
    assert (view.split, view.reference, view.tract) == ("group", "HC", "white matter")
    assert explored.pick(view).names == ("HC", "DCM")


def test_the_heat_map_is_the_difference_in_standard_deviations(explored: Explored) -> None:
    picked = explored.pick(explored.start())
    heat, compared = picked.heat()
    patients, controls = picked.table[picked.group == "DCM"], picked.table[picked.group == "HC"]
    assert compared
    assert heat[0, 0] == pytest.approx((patients[:, 0, 0].mean() - controls[:, 0, 0].mean()) / controls[:, 0, 0].std(ddof=1), rel=1e-5)
    alone, compared = explored.pick(replace(picked.view, reference="")).heat()
    assert not compared
    assert alone[0, 0] == pytest.approx(picked.table[:, 0, 0].mean(), rel=1e-5)


def test_lower_is_ill_for_mtr(explored: Explored) -> None:
    picked = explored.pick(explored.start())
    found = explored.separation(picked)
    patients, controls = (picked.values[picked.group == g] for g in ("DCM", "HC"))
    assert found is not None
    assert found.area == pytest.approx(np.mean(patients[:, None] < controls[None, :]))
    assert found.n == (6, 6)
    assert explored.separation(explored.pick(replace(picked.view, reference=""))) is None


def test_a_person_is_marked_by_row(explored: Explored) -> None:
    found = explored.person(replace(explored.start(), row=int(explored.cohort.rows[3])))
    assert found is not None
    assert found[0] == 3
    assert np.allclose(found[1], run_query(explored.url, "mtr tract='white matter'")["value"].to_numpy().reshape(12, 2)[3])
    assert explored.person(replace(explored.start(), row=99)) is None


@pytest.mark.parametrize("text", ["fa level=C4", "mtr tract=nowhere level=C4", "mtr level=C9", "mtr level=C4 colour=red", "mtr level=C4 sex=X"])
def test_names_that_are_not_there(explored: Explored, text: str) -> None:
    with pytest.raises((UnknownNameError, InputError)):
        seen(explored, text)


def test_a_reference_that_is_no_value_of_the_column(explored: Explored) -> None:
    with pytest.raises(UnknownNameError):
        seen(explored, "mtr level=C4", split="sex", reference="HC")


def test_nan_is_not_zero() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [4.0, 2.0], [7.0, 2.0]])
    assert mean_of(values).tolist() == [4.0, 2.0]
    assert spread_of(values)[0] == 3.0
    assert np.isnan(spread_of(values)[1])
