"""Figures of an opened cohort show the numbers of its tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot

from cohort_engine.errors import UnknownNameError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    url = str(tmp_path_factory.mktemp("plot") / "study.zarr")
    simulate_store(url, 10, parametric_cord(spacing=1.0, top="C3", bottom="C5"), shape=True)
    return open_cohort(url)


@pytest.fixture(autouse=True)
def _screen() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def lines(axes: Any) -> dict[str, Any]:
    return {str(line.get_label()).split(" (")[0]: line for line in axes.lines}


def test_a_profile_is_the_mean_of_each_group_by_level(cohort: xr.Dataset) -> None:
    axes = cohort.cohort.plot.profile("mtr", "white matter")
    frame = cohort.cohort.frame("mtr", "white matter")
    means = frame.groupby(["group", "level"])["value"].mean()
    drawn = lines(axes)
    for group in ("HC", "DCM"):
        assert np.allclose(drawn[group].get_ydata(), means[group][["C3", "C4", "C5"]], rtol=1e-5)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["C3", "C4", "C5"]
    assert axes.get_ylabel() == "MTR (%)"
    healthy = frame[(frame["group"] == "HC") & (frame["level"] == "C3")]["value"]
    ends = axes.collections[0].get_paths()[0].vertices
    low = ends[ends[:, 0] == 3][:, 1].min()
    assert low == pytest.approx(healthy.mean() - 1.96 * healthy.std(), rel=1e-5)


def test_a_measure_is_drawn_slice_by_slice_with_the_head_at_the_left(cohort: xr.Dataset) -> None:
    axes = cohort.cohort.plot.profile("area")
    healthy = cohort.profile_area.to_numpy()[cohort.group.to_numpy() == "HC"]
    known = ~np.isnan(healthy).all(axis=0)
    assert np.allclose(lines(axes)["HC"].get_ydata()[known], np.nanmean(healthy[:, known], axis=0))
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.get_ylabel() == "area (mm²)"


def test_groups_are_told_with_their_number(cohort: xr.Dataset) -> None:
    axes = cohort.cohort.plot.groups("mtr", "white matter", "C4", by="site")
    counts = cohort.cohort.frame("mtr", "white matter", "C4").groupby("site")["value"].count()
    assert [t.get_text() for t in axes.get_xticklabels()] == [f"{name}\nn = {n}" for name, n in counts.items()]
    assert "C4" in axes.get_title()


def test_a_heat_map_is_the_difference_in_standard_deviations(cohort: xr.Dataset) -> None:
    axes = cohort.cohort.plot.heat("mtr", ["white matter", "dorsal columns"])
    values = cohort.cohort.table("mtr", ["white matter", "dorsal columns"])["value"].to_numpy().astype(float)
    ill = cohort.group.to_numpy() == "DCM"
    expected = (values[ill].mean(axis=0) - values[~ill].mean(axis=0)) / values[~ill].std(axis=0, ddof=1)
    assert np.allclose(axes.images[0].get_array(), expected.T)
    alone = cohort.cohort.plot.heat("mtr", "white matter", reference="")
    assert np.allclose(alone.images[0].get_array(), np.nanmean(values[:, :, :1], axis=0).T)


def test_levels_have_numbers_beside_their_names(cohort: xr.Dataset) -> None:
    assert cohort.level_number.to_numpy().tolist() == [3, 4, 5]
    table = cohort.cohort.table("mtr", "white matter", ["C3", "C3:C5", "all"])
    assert table.level_number.to_numpy().tolist()[:2] == [3, 4]
    assert np.isnan(table.level_number.to_numpy()[2])
    assert cohort.cohort.tract("mtr", "white matter").swap_dims(level="level_number").sel(level_number=4).level.item() == "C4"


def test_what_is_not_there_is_named(cohort: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="sites"):
        cohort.cohort.plot.groups("mtr", by="sites")
    with pytest.raises(UnknownNameError, match="controls"):
        cohort.cohort.plot.heat("mtr", reference="controls")
