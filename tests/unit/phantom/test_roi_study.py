"""Simulated patients of the DTI study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.phantom import roi_study
from cohort_engine.phantom.roi_study import MARGIN
from cohort_engine.rois.cores import DRAWN_AREA
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def template() -> Template:
    return parametric_cord(spacing=1.0)


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """One stack a patient."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_study, "STACKS", 1)
        yield


@pytest.fixture(scope="module")
def slices(template: Template, few: None) -> RoiSlices:
    return roi_study.make_roi_slices(template, patients=2, seed=3)


def test_slices_are_those_of_the_protocol(slices: RoiSlices) -> None:
    assert slices.spacing == pytest.approx([0.625, 0.625])
    assert slices.drawn.shape[1:] == (8, 128, 128)
    assert 7 <= len(slices) <= 8
    assert set(slices.patient) == {0, 1}
    assert all((np.diff(slices.position[slices.patient == p]) > 0).all() for p in (0, 1))


def test_tensors_reach_so_far(slices: RoiSlices) -> None:
    fa = slices.images[schema.FA]
    assert 300 < np.isfinite(fa).sum((1, 2)).mean() * 0.625**2 < np.pi * (MARGIN + 8) ** 2
    assert np.nanmedian(fa[slices.cord]) == pytest.approx(0.6, abs=0.12)
    assert np.nanmedian(slices.images[schema.MD][slices.cord]) == pytest.approx(1.0, abs=0.2)


def test_drawn_regions_have_their_size_place_and_fa(slices: RoiSlices) -> None:
    area = slices.drawn.sum((2, 3)) * 0.625**2
    assert area.mean(0) == pytest.approx(DRAWN_AREA, rel=0.5)
    assert slices.cord[np.nonzero(slices.drawn)[0], *np.nonzero(slices.drawn)[2:]].mean() > 0.9
    x, y = (np.array([np.argwhere(m).mean(0)[axis] for m in slices.drawn[0]]) for axis in (0, 1))
    other = list(schema.OTHER_SIDE)
    assert (x[:4] < x[other[:4]]).all()
    dorsal, ventral = (schema.ROIS.index(f"left {part} column") for part in ("dorsal", "ventral"))
    assert y[dorsal] < y[ventral]
    fa = [np.nanmean(slices.images[schema.FA][slices.drawn[:, i]]) for i in range(8)]
    white, grey = ([fa[i] for i, n in enumerate(schema.ROIS) if n.endswith(ends)] for ends in (("dorsal column", "lateral column"), "matter"))
    assert np.mean(grey) < np.mean(white)


def test_another_rater_draws_otherwise(slices: RoiSlices) -> None:
    assert slices.again is not None
    both = (slices.drawn & slices.again).sum((2, 3)) * 2 / (slices.drawn.sum((2, 3)) + slices.again.sum((2, 3)))
    assert 0.3 < both.mean() < 0.75


def test_what_registration_brings_is_near_the_truth(slices: RoiSlices) -> None:
    assert slices.prior is not None
    assert slices.atlas is not None
    inside = slices.prior.sum(1)
    assert inside[slices.cord].mean() == pytest.approx(1.0, abs=0.1)
    assert inside.sum() == pytest.approx(slices.cord.sum(), rel=0.1)
    agreed = (slices.drawn & slices.atlas).sum((2, 3)) * 2 / (slices.drawn.sum((2, 3)) + slices.atlas.sum((2, 3)))
    assert 0.3 < agreed.mean() < 0.8


def test_nobody_takes_a_side_for_the_other(slices: RoiSlices) -> None:
    assert slices.again is not None
    wrong = (slices.drawn & slices.again[:, list(schema.OTHER_SIDE)]).sum((0, 2, 3)) / slices.drawn.sum((0, 2, 3))
    assert wrong.max() < 0.02


def test_the_command_makes_the_same_patient_whoever_else_is_simulated(
    template: Template, slices: RoiSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("cohort_engine.template.load_template", lambda name, path: template)
    told = CliRunner().invoke(app, ["simulate-rois", str(tmp_path / "one.npz"), "--patients", "1", "--first", "1", "--seed", "3"])
    assert told.exit_code == 0, told.output
    alone, same = RoiSlices.load(tmp_path / "one.npz"), slices.at(slices.patient == 1)
    assert f"{len(alone)} slices of 1 patients" in " ".join(told.output.split())
    assert (alone.drawn == same.drawn).all()
    assert np.array_equal(alone.images[schema.B0_IMAGE], same.images[schema.B0_IMAGE], equal_nan=True)
