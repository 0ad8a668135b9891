"""Sites of spine-generic: what of the cord's size tells them apart before and after."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.analysis.harmonise import apply, learn
from cohort_engine.analysis.site_check import tell_site
from cohort_engine.query.accessor import open_cohort

pytestmark = pytest.mark.real

MEASURES = ("area", "diameter_ap_ellipse", "diameter_rl")


def explained(values: np.ndarray, site: np.ndarray) -> float:
    """Part of the variance that lies between sites."""
    between = sum((site == s).sum() * (values[site == s].mean() - values.mean()) ** 2 for s in np.unique(site))
    return float(between / ((values - values.mean()) ** 2).sum())


def test_sites_of_healthy_people(healthy_cohort) -> None:
    with open_cohort(healthy_cohort) as ds:
        values = np.concatenate([ds[m].sel(level=[f"C{i}" for i in range(2, 8)]).to_numpy() for m in MEASURES], axis=1)
        people = {"age": ds["age"].to_numpy().astype(float), "sex": ds["sex"].to_numpy()}
        site = ds["institution"].to_numpy().astype(str)
    assert values.shape == (203, 18)
    names, sizes = np.unique(site, return_counts=True)
    keep = np.isin(site, names[sizes >= 3])
    values, site, people = values[keep], site[keep], {k: v[keep] for k, v in people.items()}

    out = learn(values, site, people)
    before, after = (tell_site(values, site, folds=3, harmonise=h, covariates=people) for h in (False, True))
    share = [explained(v[:, 0], site) for v in (values, out.values)]
    by_chance = (len(np.unique(site)) - 1) / (len(site) - 1)
    men, age = out.model.effects[1, 0], out.model.effects[0, 0]
    print(
        f"{len(site)} people, {len(np.unique(site))} sites",
        f"told {before.accuracy:.3f} before, {after.accuracy:.3f} after (by chance {after.low:.3f} to {after.high:.3f})",
        f"area at C2: {share[0]:.3f} of the variance between sites before, {share[1]:.3f} after (by chance {by_chance:.3f})",
        f"SD {values[:, 0].std():.2f} to {out.values[:, 0].std():.2f} mm2; men {men:+.2f} mm2, age {10 * age:+.2f} mm2 a decade",
        sep="\n",
    )
    assert out.model.warnings == ()
    assert before.accuracy > before.chance  # p 0.10: 193 people at 38 sites tell too little to pass the band of permuted sites
    assert before.accuracy > after.accuracy
    assert share[0] > by_chance > share[1]
    assert men > 2  # men have the larger cord
    kept = learn(out.values, site, people).model.effects
    np.testing.assert_allclose(kept[:, 0], out.model.effects[:, 0], atol=0.5)
    np.testing.assert_allclose(apply(out.model, values, site, people), out.values)
