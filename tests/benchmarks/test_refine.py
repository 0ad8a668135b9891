"""What the refinement by the image gives simulated cords whose inside does not follow the outline, and how strongly its prior is to hold it back.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_refine.py``; ``REFINE_SEED=n`` simulates other people.
Priors were chosen by seed 31. Masks of patients have gaps, are ragged and have lost fronts by grade (`compression.GRADES`); tissue ends outside.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.mapping import refine
from cohort_engine.mapping.native import native_atlas
from cohort_engine.mapping.template_map import TemplateMap, fit_template_map
from cohort_engine.phantom.compression import GRADES, Inside, Patient, draw_patient
from cohort_engine.phantom.subject import Subject, make_subject
from cohort_engine.reduce.native import level_tables
from cohort_engine.schema import level_number
from cohort_engine.template import load_template
from cohort_engine.template.base import Template

SEED = int(os.environ.get("REFINE_SEED", "41"))
LEAST_VOXELS = 15
OUTLINE, AS_IT_IS = "outline alone", "refined"
PRIORS = {AS_IT_IS: (1.0, 1.0), "outline held twice as strongly": (0.5, 1.0), "inside held half as strongly": (1.0, 2.0)}
"""Factors of the standard deviations of the modes of the outline, and of those of the inside."""


def people(template: Template) -> list[Subject]:
    """Two whose inside lies aside of where the outline says, one of either group, one of each grade of compression."""
    out = []
    for number in (0, 1):
        rng = np.random.default_rng([SEED, number, 9])
        (x, y), turn, scale = rng.normal(0, 0.15, 2), rng.normal(0, 2.5), 1 + rng.normal(0, 0.04, 2)
        inside = Inside((float(x), float(y)), float(turn), (float(scale[0]), float(scale[1])))
        out.append(make_subject(template, group="HC", number=number, seed=SEED, patient=Patient(inside=inside)))
    out += [make_subject(template, group=group, number=number, seed=SEED) for number, group in enumerate(("HC", "DCM"))]
    for number, grade in enumerate(GRADES):
        rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(4, number)))
        out.append(make_subject(template, number=number, seed=SEED, patient=draw_patient(grade, rng)))
    return out


def by_outline(subject: Subject, template: Template) -> TemplateMap:
    """Map by the mask, as far as its pixels can tell; levels of the T2w image."""
    t2w, mask, points = (subject.images[k] for k in ("t2w_mask", "mt_mask", "t2w_landmarks"))
    marks = landmarks_from_labels(points.data, points.affine, kind="disc", what="landmarks")
    levels = level_axis(centreline_from_mask(t2w.data, t2w.affine, what="T2w mask"), marks, template)
    line = centreline_from_mask(mask.data, mask.affine, what="MT mask")
    return fit_template_map(mask.data, mask.affine, transfer(levels, line), template, likely=True)


def grey_error(subject: Subject, fitted: TemplateMap, template: Template) -> float:
    """Mean distance of grey matter from its true place, across the cord, mm."""
    inside = template.gm[tuple((template.packing.ijk.astype(int) - np.asarray(template.corner)).T)] > 0.5
    away, anatomy = fitted.packed(template) - subject.truth.template_map, subject.truth.anatomy
    along = np.stack([np.interp(template.packing.xyz[:, 2], anatomy.z, anatomy.tangent[:, k]) for k in range(3)], axis=-1)
    away = away - (away * along).sum(axis=1, keepdims=True) * along
    return float(np.linalg.norm(away[inside & np.isfinite(away).all(axis=1)], axis=1).mean())


def tract_errors(subject: Subject, fitted: TemplateMap, template: Template) -> np.ndarray:
    """Errors of native `map`, weights as shares of the signal, in tracts of a level of at least `LEAST_VOXELS` voxels; MTR without noise."""
    truth, regions = subject.truth, template.atlas.regions
    atlas = native_atlas(fitted.packed(template), template, truth.mtr.affine, truth.mtr.data.shape)
    mixed = atlas.weights * np.asarray(truth.tissue.off)[:, None]
    found = level_tables(
        truth.mtr.data.reshape(-1)[atlas.voxel].astype(float), mixed * atlas.weights.sum(axis=0) / mixed.sum(axis=0), atlas.level, atlas.reach,
        [level_number(name) for name in template.levels], [r.members for r in regions], tuple(template.atlas.clusters.values()), estimator="map",
        min_coverage=0.75,
    )["value"]  # fmt: skip
    tract = np.array([r.name.startswith(("WM left", "WM right")) for r in regions])
    some = tract & (truth.native_voxels >= LEAST_VOXELS) & np.isfinite(found)
    return np.asarray((found - truth.raw)[some])


@pytest.mark.timeout(1800)
def test_inside_of_simulated_cords(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, given = load_template("parametric"), dict(refine.PRIOR)

    def measure() -> pd.DataFrame:
        rows = []
        for subject in people(template):
            outline, on, mask = by_outline(subject, template), subject.images["mt_on"], subject.images["mt_mask"]
            maps = {OUTLINE: outline}
            for name, (whole, inside) in PRIORS.items():
                scaled = {mode: sd * (whole if n < refine.INNER else inside) for n, (mode, sd) in enumerate(given.items())}
                monkeypatch.setattr(refine, "PRIOR", scaled)
                maps[name] = refine.refine_map(outline, template, on.data, on.affine, mask.data).fitted
            for name, fitted in maps.items():
                error = tract_errors(subject, fitted, template)
                rows.append((name, np.abs(error).mean(), error.mean(), grey_error(subject, fitted, template)))
        return pd.DataFrame(rows, columns=["map", "tracts", "bias", "grey matter mm"])

    found = benchmark.pedantic(measure, rounds=1, iterations=1).groupby("map", sort=False).mean()
    print(f"\nseed {SEED}, eight people", found.round(3).to_string(), sep="\n")
    assert found.loc[AS_IT_IS, "tracts"] < 0.75 < found.loc[OUTLINE, "tracts"]
    assert abs(found.loc[AS_IT_IS, "bias"]) < 0.3
    assert found.loc[AS_IT_IS, "grey matter mm"] < min(0.1, found.loc[OUTLINE, "grey matter mm"])
