"""The motion of one subject: as long as its series is, and drawn as it is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.figures.drawing import render
from cohort_engine.report.motion import draw_motion


@pytest.fixture
def cohort() -> xr.Dataset:
    """Two subjects: five volumes of three slices, and none."""
    shape = 2, 6, 4
    flag = np.full(shape, -1, np.int8)
    flag[0, :5, :3] = 0
    flag[0, 2, 1], flag[0, 4, 0] = schema.DROPPED, schema.MOVED
    known = (flag >= 0)[..., None]
    shift = np.where(known, np.arange(2 * 6 * 4 * 2).reshape(*shape, 2) / 20, np.nan)
    plain = np.where(known[..., 0], 0.5, np.nan)
    names = {name: f"motion_{spec.name}" for name, spec in schema.MOTION_SPECS.items()}
    data = dict.fromkeys(names, plain) | {schema.MOTION_SHIFT: shift, schema.MOTION_FLAG: flag, schema.MOTION_B: np.full((2, 6), 800.0)}
    variables = {names[n]: (schema.MOTION_SPECS[n].dims, v) for n, v in data.items()}
    coords = {"subject": [0, 1], "participant_id": ("subject", ["sub-1", "sub-2"]), "session_id": ("subject", ["", ""])}
    return xr.Dataset(variables, coords)


def test_a_series_is_as_long_as_it_is(cohort):
    found = cohort.cohort.motion("sub-1")
    assert dict(found.sizes) == {"volume": 5, "slice": 3, "plane": 2}
    assert found["flag"].to_numpy()[2].tolist() == [0, schema.DROPPED, 0]
    assert found["shift"].to_numpy()[1, 2].tolist() == [0.6, 0.65]
    assert not found.isnull().any().to_array().any()


@pytest.mark.parametrize("cut", [False, True])
def test_who_has_no_corrected_series_is_told_so(cohort, cut):
    ds = cohort.drop_vars(list(cohort.data_vars)) if cut else cohort
    with pytest.raises(StoreError, match="a diffusion series that was corrected here, found none"):
        ds.cohort.motion(1)


def test_what_is_drawn_is_what_was_found(cohort):
    figure = draw_motion(cohort, 0)
    b, right, front = figure.axes[:3]
    assert len(b.patches) == 5
    shown = right.images[0].get_array()
    np.testing.assert_allclose(shown, cohort.cohort.motion(0)["shift"].to_numpy()[..., 0].T)
    jumped, lost = (line.get_xydata().tolist() for line in front.lines)
    assert (jumped, lost) == ([[4, 0]], [[2, 1]])
    assert render(figure, "png")[1:4] == b"PNG"
