"""Half of the healthy people against the other half: as many outside the interval as it says."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.analysis.norms import centile_curves, deviation, fit_norm, rank_centile
from cohort_engine.query.accessor import open_cohort

pytestmark = pytest.mark.real


def test_healthy_people_against_healthy_people(healthy_cohort, pam50) -> None:
    level = np.asarray(pam50.slice_level)
    with open_cohort(healthy_cohort) as ds:
        area = ds[f"profile_{schema.AREA}"].to_numpy()[:, (level >= 2) & (level <= 7)]
        age, sex = ds["age"].to_numpy().astype(float), ds["sex"].to_numpy()
    half = np.random.default_rng(0).permutation(len(area)) < len(area) // 2
    people = {"mean": (None, None), "age and sex": tuple({"age": age[h], "sex": sex[h]} for h in (half, ~half))}
    for name, (here, there) in people.items():
        out = deviation(fit_norm(area[half], here), area[~half], there)
        known = np.isfinite(out.z)
        inside = ((area[~half] >= out.lower) & (area[~half] <= out.upper))[known].mean()
        width = np.nanmean(out.upper - out.lower)
        print(f"{name}: {inside:.3f} inside the 95 % interval, width {width:.1f} mm2, n {out.n.min():.0f} to {out.n.max():.0f}")
        assert inside == pytest.approx(0.95, abs=0.04)
    rank, _ = rank_centile(area[half], area[~half])
    low, high = centile_curves(area[half], [2.5, 97.5])
    outside = np.nanmean(rank < 2.5), np.nanmean(rank > 97.5)
    print(f"rank: {outside[0]:.3f} below the 2.5th centile, {outside[1]:.3f} above the 97.5th; mean width {np.nanmean(high - low):.1f} mm2")
    assert sum(outside) == pytest.approx(0.05, abs=0.04)
