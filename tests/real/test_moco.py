"""Motion of two real series (sct_019: 5 b0, 30 of b = 800; errsm_23: 5 b0, 29 of b = 750): what the volumes spread before and after correction.

``pytest -s tests/real/test_moco.py`` prints what the documentation says.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.segment import segment
from cohort_engine.io.gradients import Gradients, read_gradients
from cohort_engine.io.volume import Volume, decode_series, read_raw
from cohort_engine.single.dti import fit_series
from cohort_engine.single.moco import Corrected, MocoSettings, correct, found_cord

pytestmark = pytest.mark.real
pytest.importorskip("torch")
NAMES = ("sct_019", "errsm_23")


class Person(NamedTuple):
    series: Volume
    gradients: Gradients
    cord: Volume
    corrected: Corrected
    seconds: float


@pytest.fixture(scope="module")
def people(real_data) -> dict[str, Person]:
    out = {}
    for name in NAMES:
        folder = real_data / name / "dmri"
        series = decode_series(read_raw(folder / "dmri.nii.gz", what="series"), what="series")
        gradients = read_gradients(folder / "bvals.txt", folder / "bvecs.txt", series)
        cord = found_cord(series, gradients)
        begin = time.process_time()
        corrected = correct(series, gradients, cord=cord)
        out[name] = Person(series, gradients, cord, corrected, time.process_time() - begin)
    return out


def spread(person: Person, data: np.ndarray, cord: np.ndarray) -> dict[str, float]:
    """Standard deviation over the b0 volumes, and residual of the tensor over S0: median over the cord, percent. The same slices are left out."""
    lost = (person.corrected.motion.flags & schema.LOST) > 0
    data = np.where(lost.T, np.nan, data)
    plain = data[cord][:, person.gradients.b0]
    fitted = fit_series(person.series.with_data(data.astype(np.float32)), person.gradients, person.series.with_data(cord))
    residual, s0 = (fitted.fit.channels[name][fitted.cord] for name in ("residual", "s0"))
    return {
        "b0": 100 * float(np.nanmedian(np.nanstd(plain, axis=1) / np.nanmean(plain, axis=1))),
        "tensor residual": 100 * float(np.nanmedian(residual / s0)), "FA": float(np.nanmedian(fitted.fit.channels["fa"][fitted.cord])),
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_volumes_spread_less_after_correction(people, name):
    person = people[name]
    mask = segment(np.nan_to_num(person.corrected.mean.data), person.series.affine, what="mean").mask
    before, after = (spread(person, data, mask) for data in (person.series.data, person.corrected.series.data))
    shown = "; ".join(f"{k} {before[k]:.2f} -> {after[k]:.2f}" for k in before)
    moved = np.linalg.norm(person.corrected.motion.shifts, axis=-1)
    print(
        f"\n{name}: {shown}; shift {np.median(moved):.2f} mm in the median, {moved.max():.2f} at most; "
        f"{int((person.corrected.motion.flags > 0).sum())} of {moved.size} slices flagged; {person.seconds:.2f} s CPU"
    )
    assert after["b0"] < before["b0"]
    assert after["tensor residual"] < before["tensor residual"]


def test_slices_that_lost_their_signal_are_found(people):
    """In errsm_23 slices 1 and 6 fall to a third of their signal in several volumes; in sct_019 one slice to a half."""
    for name, known in (("sct_019", {(6, 10)}), ("errsm_23", {(10, 1), (21, 1), (21, 6), (27, 6), (28, 1), (28, 6), (31, 6), (32, 1)})):
        person = people[name]
        cord, lost = person.cord.data > 0.5, (person.corrected.motion.flags & schema.DROPPED) > 0
        assert known <= set(map(tuple, np.argwhere(lost).tolist()))
        level = np.array([[person.series.data[..., z, t][cord[..., z]].mean() for z in range(cord.shape[2])] for t in range(len(lost))])
        for t, z in np.argwhere(lost):
            others = np.delete(level[t], np.flatnonzero(lost[t]))
            assert level[t, z] < 0.75 * np.median(others), (name, t, z)


def test_planted_motion_is_found_on_real_images(people):
    """sct_019 moved once more, odd and even slices apart and with a jump of 5 mm: found is what was planted, and its own motion."""
    from cohort_engine.qmri.series import resample_series

    person = people["sct_019"]
    volumes, slices = person.corrected.motion.flags.shape
    rng = np.random.default_rng(0)
    planted = 0.6 * rng.normal(size=(volumes, 1, 2)) * np.ones((1, slices, 1))
    planted[:, 1::2] += 0.8 * rng.normal(size=(volumes, 1, 2))
    planted[12] += [5.0, 0.0]
    moved = np.nan_to_num(resample_series(person.series.data, person.series.grid.spacing, shifts=-planted))
    found = correct(person.series.with_data(moved), person.gradients, cord=person.cord).motion
    away = found.shifts - planted - person.corrected.motion.shifts
    error = np.linalg.norm(away - np.median(away, axis=0), axis=-1)
    print(f"\nplanted motion: mean error {error.mean():.2f} mm, 95 % below {np.percentile(error, 95):.2f} mm")
    assert found.interleaved
    assert error.mean() < 0.15
    assert ((found.flags[12] & schema.MOVED) > 0).all()


def test_nothing_is_imagined_of_people_who_lay_still(people):
    """Odd and even slices are not apart, and nothing lies beyond the range: not even where a direction along the cord leaves hardly a contrast."""
    for person in people.values():
        motion = person.corrected.motion
        assert not motion.interleaved
        assert not (motion.flags & (schema.LIMIT | schema.MOVED)).any()
        assert np.linalg.norm(motion.shifts, axis=-1).max() < 1.0


def test_eddy_currents_may_be_asked_for(people):
    person = people["sct_019"]
    found = correct(person.series, person.gradients, cord=person.cord, settings=MocoSettings(eddy=True))
    mask = person.cord.data > 0.5
    before, after = (spread(person, r.series.data, mask)["tensor residual"] for r in (person.corrected, found))
    print(f"\nsct_019 with stretch and shear: tensor residual {before:.2f} -> {after:.2f}; {100 * np.abs(found.motion.scale).max():.1f} % at most")
    assert after < 1.05 * before
