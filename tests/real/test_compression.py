"""Scores of compressed slices on a published table of 12,057 slices, 112 of them compressed, against 203 healthy people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.analysis.compression import find_compression
from cohort_engine.analysis.norms import deviation, fit_norm
from cohort_engine.analysis.roc import auc
from cohort_engine.query.accessor import open_cohort

pytestmark = pytest.mark.real

MEASURES = {"diameter_AP": schema.DIAMETER_AP_ELLIPSE, "area": schema.AREA}


@pytest.fixture(scope="module")
def healthy(healthy_cohort):
    """Profiles (203, z) of spine-generic, by measure."""
    with open_cohort(healthy_cohort) as ds:
        return {theirs: ds[f"profile_{ours}"].to_numpy() for theirs, ours in MEASURES.items()}


@pytest.fixture(scope="module")
def slices(real_data):
    """The table; slice numbers start again with each subject."""
    frame = pd.read_csv(real_data / "cohort" / "detect_compression_slices.csv")
    return frame.assign(row=(frame["slice"].diff() < 0).cumsum())


def test_the_table(slices, pam50) -> None:
    assert (len(slices), slices["is_compressed"].sum(), slices["row"].nunique()) == (12057, 112, 42)
    assert slices.loc[slices["is_compressed"] == 1, "row"].nunique() == 13
    assert (np.asarray(pam50.slice_level)[slices["slice"]] == slices["VertLevel"]).all()
    step = slices.groupby("row")["slice"].diff().dropna()
    assert (step == 1).all()
    flat = slices[slices["diameter_AP"] < slices["diameter_RL"]]
    ellipse = np.sqrt(1 - (flat["diameter_AP"] / flat["diameter_RL"]) ** 2)
    assert np.median(np.abs(ellipse - flat["eccentricity"])) < 2e-3  # so AP is the axis of the ellipse


def test_scores_of_slices_and_of_people(slices, healthy, pam50) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    level = np.asarray(pam50.slice_level)
    truth, at = slices["is_compressed"].to_numpy(), (slices["row"].to_numpy(), slices["slice"].to_numpy())
    patients = slices.groupby("row")["is_compressed"].max().to_numpy() == 1
    scores = {
        "area": slices["area"],
        "AP diameter": slices["diameter_AP"],
        "AP / RL": slices["diameter_AP"] / slices["diameter_RL"],
        "solidity": slices["solidity"],
    }
    long = (slices.groupby("row").size() >= 300).to_numpy()  # down to T3 and further: 22, none of them with a labelled slice
    assert (long.sum(), (long & patients).sum()) == (22, 0)
    assert slices.groupby("row")["VertLevel"].max()[long].min() == schema.level_number("T3")
    people, lines, of_people = {}, [], {}
    inside = (level >= 2) & (level <= 7)
    for name, reference in healthy.items():
        profile = np.full((42, len(level)), np.nan)
        profile[at] = slices[name]
        out = people[name] = find_compression(profile, reference, level)
        scores[f"{name} over healthy mean"] = out.healthy[at]
        scores[f"{name}, z against healthy"] = deviation(fit_norm(reference), profile).z[at]
        scores[f"{name}, normalised ratio"] = out.ratio[at]
        called = out.margin > 0
        of_people[f"{name}, MSCC normalised"], of_people[f"{name}, MSCC of that slice as it is"] = -out.smallest, -out.plain
        of_people[f"{name} over healthy mean, smallest"] = -np.nanmin(np.where(inside, out.healthy, np.nan), axis=1)
        apart = [np.abs(slices.loc[(slices["row"] == i) & (truth == 1), "slice"] - out.z[i]).min() / 2 for i in np.flatnonzero(patients)]
        lines.append(
            f"{name}: limit {out.limit:.3f} (n {out.n_limit}); {called[patients].sum()} of 13 with a labelled slice called compressed, "
            f"{called[long].sum()} of 22 long scans, {called[~long & ~patients].sum()} of 7 other scans without one; "
            f"site within 5 mm of a labelled slice in {sum(a <= 5 for a in apart)} of 13"
        )
    ratio = np.full((42, len(level)), np.nan)
    ratio[at] = scores["AP / RL"]
    of_people["AP / RL, smallest"] = -np.nanmin(np.where(inside, ratio, np.nan), axis=1)
    ends = []
    for name, score in of_people.items():
        found = auc(score[:, None], patients.astype(float))
        lines.append(f"13 of 42 people by {name}: AUC {found.auc[0]:.3f} ({found.low[0]:.2f} to {found.high[0]:.2f})")
        ends.append((float(found.low[0]), float(found.high[0])))
    assert max(low for low, _ in ends) < min(high for _, high in ends)  # thirteen people cannot say which of them does better
    cervical = slices["VertLevel"].between(2, 7).to_numpy()
    figures = {}
    for name, score in scores.items():
        for where, inside in (("all", np.ones(len(truth), bool)), ("C2-C7", cervical)):
            known = np.isfinite(score) & inside
            found = roc_auc_score(truth[known], -score[known]), average_precision_score(truth[known], -score[known])
            figures[name, where] = *found, known.sum(), truth[known].sum()
    print(pd.DataFrame(figures, index=["ROC AUC", "average precision", "n", "compressed"]).T.round(3).to_string(), *lines, sep="\n")

    # recomputed once with scikit-learn from the bare columns
    assert figures["AP / RL", "all"][0] == pytest.approx(0.9347, abs=1e-4)
    assert figures["area", "all"][0] == pytest.approx(0.6540, abs=1e-4)
    for name in MEASURES:
        assert figures[f"{name} over healthy mean", "all"][0] > 0.85
        assert figures[f"{name}, normalised ratio", "all"][0] > 0.8
        assert np.isfinite(people[name].smallest).all()
        assert (people[name].margin > 0)[patients].sum() >= 9
        assert roc_auc_score(patients, -people[name].smallest) > 0.7
    assert (people["diameter_AP"].margin > 0)[long].sum() <= 3  # one in twenty is what the limit allows
    assert figures["area over healthy mean", "all"][0] > figures["area", "all"][0] + 0.15  # what normalising is for
