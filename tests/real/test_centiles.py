"""Centiles of healthy people whom the curves have never seen: held out by person, and by data set with its own controls to place it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine.analysis.centiles import fit_centiles, place_site, position

pytestmark = pytest.mark.real

CENTILES = np.array([3.0, 10, 50, 90, 97])
MEASURES = ["area", "diameter_AP", "diameter_RL"]
LEVELS = {"DLBS": (2, 3), "spine-generic": (2, 3, 4, 5, 6, 7), "UCLA": (2,)}
"""Levels of a data set that are used: scans of the head end in C3 to C5, and areas fade towards their edge (UCLA C3: SD 14 mm2 of whole levels)."""


@pytest.fixture(scope="module")
def people(real_data: Path) -> pd.DataFrame:
    """A row a session of a healthy person, a column a measure of a level that is wholly seen."""
    folder = real_data / "morphometrics"
    rows = [pd.read_csv(folder / "DLBS_per_level_train.tsv.gz", sep="\t", na_values="n/a").assign(site="DLBS")]
    for site, name in (("spine-generic", "spine-generic_multi-subject"), ("UCLA", "UCLA_LA5c")):
        with tarfile.open(folder / f"spinal_cord_{name}.tar.xz") as tar:
            slices = pd.concat(
                pd.read_csv(io.BytesIO(tar.extractfile(m).read())).assign(participant_id=m.name.split("/")[-1].split("_")[0])
                for m in tar if m.name.endswith(".csv")
            )  # fmt: skip
        by = slices.groupby(["participant_id", "VertLevel"])
        table = by[[f"MEAN({m})" for m in MEASURES]].mean().assign(n_slices=by["MEAN(area)"].count(), n_slices_level=by.size()).reset_index()
        who = pd.read_csv(folder / f"{name}_participants.tsv", sep="\t", na_values="n/a")
        rows.append(table.merge(who[["participant_id", "sex", "age", "pathology"]], on="participant_id").assign(site=site, session_id="1"))
    every = pd.concat(rows, ignore_index=True)
    every = every[(every["n_slices"] == every["n_slices_level"]) & every["pathology"].isin(["CN", "HC"])]
    every = every[[level in LEVELS[site] for site, level in zip(every["site"], every["VertLevel"], strict=True)]].dropna(subset=["age", "sex"])
    wide = every.pivot(index=["site", "participant_id", "session_id", "age", "sex"], columns="VertLevel", values=[f"MEAN({m})" for m in MEASURES])
    wide.columns = [f"{m[5:-1]} C{level}" for m, level in wide.columns]
    return wide.reset_index()


def parts(table: pd.DataFrame):
    names = [c for c in table if " C" in c]
    family = [n.split()[0] for n in names]
    person = (table["site"] + table["participant_id"]).to_numpy()
    covariates = {k: table[k].to_numpy() for k in ("age", "sex")}
    return table[names].to_numpy(), covariates, table["site"].to_numpy(), person, family, names


def below(centile: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Percent of people below each centile, the sessions of a person counting once."""
    known = np.isfinite(centile)
    _, at, count = np.unique(person[known], return_inverse=True, return_counts=True)
    return 100 * np.average(centile[known][:, None] < CENTILES, axis=0, weights=1 / count[at])


def test_people_held_out(people) -> None:
    """Thirds by person, five times over; at the neck, where every data set has its people."""
    values, covariates, site, person, family, names = parts(people)
    assert len(np.unique(person)) == 631
    everyone = np.unique(person)
    found = np.full((5, *values.shape), np.nan)
    for repeat in range(5):
        part = np.random.default_rng(repeat).permutation(len(everyone))[np.searchsorted(everyone, person)] % 3
        for k in range(3):
            ours, theirs = part != k, part == k
            curves = fit_centiles(values[ours], {n: v[ours] for n, v in covariates.items()}, site=site[ours], person=person[ours], family=family)
            there = {n: v[theirs] for n, v in covariates.items()}
            found[repeat, theirs] = position(curves, values[theirs], there, site=site[theirs]).centile
    for where in ("all", "DLBS"):
        rows = np.ones(len(site), bool) if where == "all" else site == where
        table = {n: np.mean([below(found[r, rows, i], person[rows]) for r in range(5)], axis=0) for i, n in enumerate(names) if n[-1] in "23"}
        n = [len(np.unique(person[rows & np.isfinite(values[:, i])])) for i, n in enumerate(names) if n in table]
        middle = {n: np.std([below(found[r, rows, i], person[rows])[2] for r in range(5)]) for i, n in enumerate(names) if n in table}
        shown = pd.DataFrame(table, index=CENTILES).T.assign(n=n, error_at_50=50 / np.sqrt(n), split_to_split=middle)
        print(f"\n{where}\n", shown.round(1).to_string())
        off = np.abs(np.array(list(table.values())) - CENTILES)
        error = np.sqrt(CENTILES * (100 - CENTILES) / np.array(n)[:, None])
        assert (off < np.maximum(2.0, 2 * error)).all()
        assert off.mean() < 1.3


@pytest.mark.parametrize("left_out", sorted(LEVELS))
@pytest.mark.parametrize("controls", [10, 20, 30])
def test_a_data_set_held_out(people, left_out, controls) -> None:
    """Its location and spread come of some of its people alone, the rest is judged: 40 times over."""
    values, covariates, site, person, family, names = parts(people)
    ours = site != left_out
    curves = fit_centiles(values[ours], {n: v[ours] for n, v in covariates.items()}, site=site[ours], person=person[ours], family=family)
    at = names.index("area C2")
    theirs = np.flatnonzero((site == left_out) & (covariates["age"] >= curves.low[at]) & (covariates["age"] <= curves.high[at]))
    everyone = np.unique(person[theirs])
    shares = []
    for seed in range(40):
        chosen = np.isin(person[theirs], np.random.default_rng(seed).choice(everyone, controls, replace=False))
        first = theirs[chosen][~pd.Series(person[theirs[chosen]]).duplicated().to_numpy()]
        here = place_site(curves, values[first], {n: v[first] for n, v in covariates.items()})
        rest = theirs[~chosen]
        shares.append(below(position(here, values[rest], {n: v[rest] for n, v in covariates.items()}).centile[:, at], person[rest]))
    mean, sd = np.mean(shares, axis=0), np.std(shares, axis=0)
    print(f"\n{left_out} ({len(everyone)} people), area C2, placed by {controls}: {mean.round(1)}, from placing to placing {sd.round(1)}")
    error = np.sqrt(CENTILES * (100 - CENTILES) / len(everyone))
    assert (np.abs(mean - CENTILES) < 1 + 2 * error).all()


def test_old_age_at_a_level_that_only_young_people_have(people) -> None:
    """C3 of people above 55, with no C3 of anybody above 55 learnt: the effect of age is that of C2."""
    values, covariates, site, person, family, names = parts(people)
    old = covariates["age"] > 55
    c3 = np.array([n.endswith("C3") for n in names])
    seen = values.copy()
    seen[np.ix_(old, c3)] = np.nan
    curves = fit_centiles(seen, covariates, site=site, person=person, family=family)
    rows = old & (site == "DLBS")
    found = position(curves, values[rows], {n: v[rows] for n, v in covariates.items()}, site=site[rows])
    shares = below(found.centile[:, names.index("area C3")], person[rows])
    print(f"\narea C3 above 55, learnt of younger people: {shares.round(1)}")
    assert (np.abs(shares - CENTILES) < [3, 5, 8, 5, 3]).all()
