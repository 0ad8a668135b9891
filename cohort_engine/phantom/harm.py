"""What a planted failure does to a subject's results: by that, and not by its size, its values are usable or not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.levels import Landmarks
from cohort_engine.errors import CohortError
from cohort_engine.io.volume import Volume
from cohort_engine.mapping.native import native_atlas
from cohort_engine.phantom.failures import Case
from cohort_engine.phantom.subject import MT_MASK, T2W_MASK, Truth
from cohort_engine.reduce.native import level_tables, signal_weights
from cohort_engine.single.mtr import ratio
from cohort_engine.template.base import Template

MTR_ERROR, LEVEL_ERROR, AREA_ERROR = "error_mtr", "error_level", "error_area"
BOUNDS: Mapping[str, float] = {MTR_ERROR: 3.0, LEVEL_ERROR: 0.5, AREA_ERROR: 0.3}
"""Error of a result beyond which values are not usable: of native MTR of large tracts (mean absolute, percentage points; good scans reach 2), of
the worst landmark along the cord (vertebrae), and of a mask's area between the outermost landmarks (mean over the worst tenth of the slices,
logarithm)."""
LEAST_VOXELS = 15.0
"""Native voxels of a large tract in its level."""
LEAST_COVERAGE = 0.75
"""Share of it in the image."""


def harm(case: Case, good: Case, template: Template, truth: Truth) -> dict[str, float]:
    """Measure the errors of a subject's results, by the keys of `BOUNDS`; infinite where there would be none.

    Parameters
    ----------
    case : Case
        As it is judged.
    good : Case
        The same subject with good masks.
    template : Template
    truth : Truth
    """
    areas = [_area(case.images[role], good.images[role], good.landmarks) for role in (MT_MASK, T2W_MASK)]
    return {MTR_ERROR: _mtr(case, template, truth), LEVEL_ERROR: _levels(case, template, truth), AREA_ERROR: max(areas)}


def failed(errors: Mapping[str, float]) -> bool:
    """Tell whether any error is beyond its bound.

    Examples
    --------
    >>> failed({MTR_ERROR: 1.1, LEVEL_ERROR: 0.1, AREA_ERROR: 0.02}), failed({MTR_ERROR: np.inf, LEVEL_ERROR: 0.1, AREA_ERROR: 0.02})
    (False, True)
    """
    return any(errors[key] > bound for key, bound in BOUNDS.items())


def _mtr(case: Case, template: Template, truth: Truth) -> float:
    """Mean absolute error of native ``map`` over large tracts, percentage points."""
    on, off, mask = (case.images[r] for r in (schema.MT_ON, schema.MT_OFF, MT_MASK))
    try:
        found = ratio(on, off, mask)
        atlas = native_atlas(case.positions, template, on.affine, on.grid.shape)
    except CohortError:
        return float("inf")
    values, signal = (v.reshape(-1)[atlas.voxel].astype(float) for v in (found.values, found.off))
    clusters = tuple(template.atlas.clusters.values())
    weights = signal_weights(atlas.weights, signal, atlas.voxel % on.grid.shape[2], clusters)
    members = [r.members for r in template.atlas.regions]
    numbers = [schema.level_number(name) for name in template.levels]
    cells = level_tables(values, weights, atlas.level, atlas.reach, numbers, members, clusters, estimator=schema.MAP, min_coverage=LEAST_COVERAGE)
    tract = np.array([name.startswith(("WM left ", "WM right ")) for name in truth.regions])
    large = (truth.native_voxels >= LEAST_VOXELS) & (truth.coverage >= LEAST_COVERAGE) & tract
    apart = np.abs(cells[schema.VALUE] - truth.raw)[large]
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else float("inf")


def _levels(case: Case, template: Template, truth: Truth) -> float:
    """Largest distance of a landmark along the cord from where it belongs, vertebrae."""
    known = template.landmarks[case.landmarks.kind]
    there = np.array([int(n) in known for n in case.landmarks.numbers])
    if there.sum() < 2:
        return float("inf")
    z = np.array([known[int(n)] for n in case.landmarks.numbers[there]])
    apart = truth.anatomy.template(np.asarray(case.landmarks.xyz, float)[there])[:, 2] - z
    return float(np.abs(apart).max() / np.median(np.abs(np.diff(np.sort(z)))))


def _area(mask: Volume, good: Volume, landmarks: Landmarks) -> float:
    """Error of a mask's area by the good one, mean over the worst tenth of the slices, logarithm; infinite where no slice has both.

    The simulated cord ends within the first and the last slice of its mask: they count for nothing.
    """
    a, b = ((np.asarray(m.data, float) > 0.5).sum(axis=(0, 1)) for m in (mask, good))
    height = good.grid.voxel(np.asarray(landmarks.xyz, float))[:, 2]
    whole = ndimage.binary_erosion(b > 0)
    both = (a > 0) & whole & (np.abs(np.arange(len(a)) - (height.max() + height.min()) / 2) <= np.ptp(height) / 2)
    if not both.any():
        return float("inf")
    off = np.sort(np.abs(np.log(a[both] / b[both])))
    return float(off[-max(2, round(0.1 * len(off))) :].mean())
