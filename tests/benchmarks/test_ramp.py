"""Why SyN sees a ramp of 4 mm: error of tract MTR on simulated 0.9 x 0.9 x 5 mm masks, for several widths, and for the geometry alone;
and for what matches the outlines, SyN or log-demons in torch.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_ramp.py``.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.mapping import ANTS, TORCH, template_map
from cohort_engine.report.demo import MIN_VOXELS
from cohort_engine.template import load_template
from cohort_engine.testing import make_subject

SUBJECTS = 6
WIDTHS = (None, 1.0, 2.0, 3.0, 4.0)
"""Ramp in mm; None is the geometry without SyN."""


def subjects(template: Any) -> list[tuple[Any, ...]]:
    """Mask, level axis, true positions and perfect MTR of each subject."""
    out = []
    for number in range(SUBJECTS):
        subject = make_subject(template, group="HC" if number % 2 else "DCM", number=number, seed=1, site=number % 2)
        mask, t2w, labels = (subject.images[r] for r in (schema.role(schema.MT, schema.MASK), "t2w_mask", "t2w_landmarks"))
        marks = landmarks_from_labels(labels.data, labels.affine, kind=schema.DISC, what="discs")
        axis = level_axis(centreline_from_mask(t2w.data, t2w.affine, what="mask"), marks, template)
        out.append((mask, transfer(axis, centreline_from_mask(mask.data, mask.affine, what="mask")), subject.truth.template_map, subject.truth.mtr))
    return out


def tract_errors(template: Any, cases: list[tuple[Any, ...]], **how: Any) -> tuple[np.ndarray, float]:
    """Errors of tracts of at least `MIN_VOXELS` native voxels, all levels together, percentage points; and the median distance, mm."""
    weights = template.atlas.weights[:30].toarray()
    errors, distances = [], []
    for mask, axis, true, mtr in cases:
        found = template_map.fit_template_map(mask.data, mask.affine, axis, template, likely=True, **how).packed(template)
        ours, theirs = (template_map.sample(mtr.data, mtr.affine, p) for p in (found, true))
        both = np.isfinite(ours) & np.isfinite(theirs)
        sizes = weights[:, both].sum(axis=1)
        native = sizes * np.prod(template.grid.spacing) / np.prod(mask.grid.spacing)
        errors.append(((weights[:, both] @ (ours - theirs)[both]) / sizes)[native >= MIN_VOXELS])
        distances.append(np.linalg.norm(found - true, axis=1)[both])
    return np.concatenate(errors), float(np.median(np.concatenate(distances)))


@pytest.mark.timeout(900)
def test_width_of_the_ramp(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = load_template("parametric")
    cases = subjects(template)

    def sweep() -> dict[float | None, float]:
        bias = {}
        for width in WIDTHS:
            if width is not None:
                monkeypatch.setattr(template_map, "RAMP", width)
            error, distance = tract_errors(template, cases, deformable=width is not None)
            bias[width] = error.mean()
            print(f"ramp {width}: tract MTR mean |error| {np.abs(error).mean():.3f}, bias {error.mean():+.3f}, position {distance:.3f} mm (median)")
        return bias

    bias = benchmark.pedantic(sweep, rounds=1, iterations=1)
    assert abs(bias[4.0]) <= 0.3 < abs(bias[1.0])


@pytest.mark.timeout(900)
def test_engines(benchmark: Any) -> None:
    template = load_template("parametric")
    cases = subjects(template)

    def both() -> dict[str, tuple[float, float, float]]:
        out = {}
        for engine in (ANTS, TORCH):
            start = time.process_time()
            error, distance = tract_errors(template, cases, engine=engine)
            out[engine] = float(np.abs(error).mean()), float(error.mean()), distance
            print(f"\n{engine}: tract MTR mean |error| {out[engine][0]:.3f}, bias {error.mean():+.3f}, position {distance:.3f} mm (median),",
                  f"{(time.process_time() - start) / len(cases):.2f} s CPU a subject, all of it")  # fmt: skip
        return out

    found = benchmark.pedantic(both, rounds=1, iterations=1)
    assert found[TORCH][0] <= found[ANTS][0] + 0.05
    assert found[TORCH][2] <= found[ANTS][2] + 0.02
