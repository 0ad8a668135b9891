"""Masks as people and tools give them: with empty slices, in two bodies, with islands, specks and holes, cut by the border of the image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cohort_engine.cord.centreline import centreline_from_mask, cord_slices, slice_arc
from cohort_engine.qmri.morphometry import measure_slices
from cohort_engine.schema import AREA

WHAT = "cord mask"
AFFINE = np.diag([0.8, 0.8, 0.8, 1.0])
Mask = NDArray[np.float32]


def cord(n: int = 120, *, lean: float = 0.2) -> Mask:
    """A cord of 12 x 8 mm that bends and leans, in slices of 0.8 mm."""
    x, y, z = np.indices((60, 90, n), dtype=float) * 0.8
    middle = 30 + lean * z + 3 * np.sin(z / 30)
    return (((x - 24) / 6) ** 2 + ((y - middle) / 4) ** 2 < 1).astype(np.float32)


def cut(*slices: int) -> Callable[[Mask], list[int]]:
    def change(mask: Mask) -> list[int]:
        mask[:, :, list(slices)] = 0
        return list(slices)

    return change


def speck(mask: Mask) -> list[int]:
    """Three voxels on the line of the cord, in the middle of a gap and beyond the end."""
    mask[:, :, 60:67] = mask[:, :, 110:] = 0
    mask[30:33, 60, 63] = mask[30:33, 70, 117] = 1
    return [*range(60, 67), *range(110, 120)]


def island_aside(mask: Mask) -> list[int]:
    """Something as large as the cord, far from it, in slices that have no cord."""
    mask[:, :, 100:] = 0
    mask[2:16, 2:12, 105:112] = 1
    return [*range(100, 120)]


def island_beside(mask: Mask) -> list[int]:
    """Something larger than the cord in the same slices, at the image's border."""
    mask[0:20, 0:20, 50:58] = 1
    return []


def joined_to_the_border(mask: Mask) -> list[int]:
    """Another body fills the outermost slice, and touches nothing."""
    mask[:, :, 0:2] = 0
    mask[40:, 70:, 0] = 1
    return [0, 1]


CASES: dict[str, Callable[[Mask], list[int]]] = {
    "three slices": cut(58, 59, 60), "several gaps": cut(20, 21, 40, 70, 71, 72, 73), "a gap beside the end": cut(116, 117),
    "two bodies": cut(*range(50, 80)), "specks": speck, "an island aside": island_aside, "an island beside": island_beside,
    "a body at the border": joined_to_the_border,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_slices_that_are_there_are_measured_as_without_the_fault(case: str) -> None:
    whole, mask = cord(), cord()
    lost = CASES[case](mask)
    line, there = (centreline_from_mask(m, AFFINE, what=WHAT) for m in (whole, mask))
    kept, slices = cord_slices(mask, affine=AFFINE, what=WHAT)
    rest = np.setdiff1d(np.arange(whole.shape[2]), lost)
    assert slices.tolist() == rest.tolist()
    assert (kept[:, :, rest] == whole[:, :, rest]).all()
    expected, _ = measure_slices(whole, AFFINE, line)
    found, pieces = measure_slices(mask, AFFINE, there, cord=kept)
    for name, values in found.items():
        assert np.isnan(values[lost]).all(), name
    np.testing.assert_allclose(found[AREA][rest], expected[AREA][rest], rtol=0.004)
    assert (pieces[50:58] == (2 if case == "an island beside" else pieces[50:58])).all()


@pytest.mark.parametrize("gap", [3, 12, 30])
def test_the_curve_runs_through_a_gap_and_says_how_well(gap: int) -> None:
    rng = np.random.default_rng(gap)
    mask = cord()
    mask *= rng.random(mask.shape) < 0.9  # ragged
    whole = centreline_from_mask(mask, AFFINE, what=WHAT)
    mask[:, :, 60 - gap // 2 : 60 - gap // 2 + gap] = 0
    line = centreline_from_mask(mask, AFFINE, what=WHAT)
    at = slice_arc(line, AFFINE, np.arange(120))
    error = line.standard_error(at)
    middle = 60 - gap // 2 + gap // 2
    assert error[middle] == error[30:90].max()
    assert error[middle] > error[30]
    off = whole.project(line.position(at[[middle]]))[1][0]
    assert off < max(4 * error[middle], 0.05 * gap)
    assert abs(line.length - whole.length) < 0.01 * gap


def test_the_error_grows_with_the_gap() -> None:
    errors = []
    for gap in (0, 5, 15, 30):
        mask = cord()
        mask[:, :, 60 - gap // 2 : 60 - gap // 2 + gap] = 0
        line = centreline_from_mask(mask, AFFINE, what=WHAT)
        errors.append(float(line.standard_error(line.length / 2)))
    assert errors == sorted(errors)
    assert errors[-1] > 2 * errors[0]


def test_holes_leave_the_slice_a_slice() -> None:
    mask = cord()
    mask[30, 30:60, 40:50] = 0
    assert cord_slices(mask, affine=AFFINE, what=WHAT)[1].tolist() == list(range(120))


def test_a_cord_cut_by_the_border_of_the_image() -> None:
    mask = cord()[:, 40:]
    _, slices = cord_slices(mask, affine=AFFINE, what=WHAT)
    assert slices.tolist() == list(range(120))
    assert np.isfinite(centreline_from_mask(mask, AFFINE, what=WHAT).points).all()


def test_every_second_slice_of_a_thick_stack() -> None:
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    mask = cord(20, lean=0.0)
    mask[:, :, ::2] = 0
    line = centreline_from_mask(mask, affine, what=WHAT)
    assert line.length == pytest.approx(19 * 5, abs=1.0)
    assert np.isfinite(line.standard_error(line.arc)).all()
