"""What an analysis claims of people who do not differ: ``pytest --benchmark-only -s tests/benchmarks/test_null.py``.

Each study is analysed section by section as ``analyse`` does, and asked what its page would print as a finding. ``STUDIES`` and ``SIZES`` in the
environment choose how many studies and which groups (``10+10,15+30,60+60``), ``LEARNT`` in how many of them what is learnt anew for each permutation
is computed as well: subgroups, classifier and sites. Everybody comes twice. ``-k uncertainty`` is of values with standard errors alone.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cohort_engine.analysis import harmonise
from cohort_engine.analysis.compression import find_compression
from cohort_engine.sections import change, classifier, clusters, compression, correlations, groups, norms, repeats, roc, sites
from cohort_engine.study.material import Material, Sessions

STUDIES = int(os.environ.get("STUDIES", "200"))
LEARNT = int(os.environ.get("LEARNT", str(STUDIES)))
SIZES = [tuple(map(int, s.split("+"))) for s in os.environ.get("SIZES", "10+10,15+30,60+60").split(",")]
REGIONS = ("white matter", "gray matter", "dorsal columns", "lateral funiculi", "ventral funiculi")
LEVELS = ("C2", "C3", "C4", "C5", "C2:C3")
FEATURES = [
    *(("mtr", r, n) for r in REGIONS for n in LEVELS),
    *(("area", "spinal cord", n) for n in LEVELS),
    ("diameter_ap", "spinal cord", "compressed"),
]
Z_LEVEL = np.repeat([7, 6, 5, 4, 3, 2], 20)
ERROR = 0.6
"""Standard deviation of a session; all values have the variance 1.64, so that two agree with an ICC of 0.78."""
Held = dict[str, float]


def study(make: Callable[..., Material], sizes: tuple[int, int], sites: bool, seed: int) -> Material:
    """People who do not differ: regions go together, a score in whole numbers, one value in thirty missing, profiles of the cord; three scanners."""
    rng = np.random.default_rng([seed, *sizes, sites])
    group = np.repeat([0.0, 1.0], sizes)
    n = len(group)
    site = np.array(["a", "b", "c"])[np.arange(n) % 3]
    own = np.sqrt(1 - ERROR**2) * rng.standard_normal((n, len(FEATURES))) + 0.8 * rng.standard_normal((n, 1))
    values, again = (own + ERROR * rng.standard_normal(own.shape) for _ in range(2))
    wobble = rng.standard_normal((n, len(Z_LEVEL) + 10))
    profile = 8 * rng.normal(1, 0.1, (n, 1)) * (1 + 0.02 * np.stack([np.convolve(row, np.ones(11) / 3.3, mode="valid") for row in wobble]))
    found = find_compression(profile, profile[group == 0], Z_LEVEL, own=group == 0, specificity=0.8, spacing=1.0)
    values[:, -1] = profile[np.arange(n), found.z.clip(0)]
    values[rng.random(values.shape) < 1 / 30] = np.nan
    raw = values + (np.array([0.0, 2.0, -1.0])[np.arange(n) % 3][:, None] if sites else 0.0)
    columns = {"age": rng.uniform(30, 70, n), "mjoa": np.rint(14 + 2 * rng.standard_normal(n)), "grip": rng.normal(40, 5, n)}
    m = make(raw.copy(), group, FEATURES, **columns, **({"site": site} if sites else {}))
    again[:, -1] = np.nan  # the place of the compression may move
    both = np.stack([np.where(np.isnan(again), np.nan, values), again], axis=1).reshape(2 * n, -1)
    times = np.stack([np.zeros(n), rng.uniform(0.5, 3, n)], axis=1).ravel()
    visits = Sessions(both, np.arange(2 * n), np.repeat(m.people.table["participant_id"], 2).to_numpy(), np.repeat(group, 2), times, "year")
    m = replace(m, compression=found, z=np.arange(float(len(Z_LEVEL))), z_level=Z_LEVEL, sessions=visits)
    if not sites:
        return m
    for metric in ("mtr", "area", "diameter_ap"):
        block = np.flatnonzero(m.features["metric"] == metric)
        done = harmonise.learn(raw[:, block], site, {"group": group})
        m.values[:, block], m.models[metric] = done.values, done.model
    return replace(m, raw=raw)


def claims(m: Material, config: Any) -> Iterator[tuple[str, bool, Held]]:
    """Section, whether it prints a finding, and what else is to be held against the truth."""
    alpha = config.alpha
    t = groups.compute(m, config)["groups"]
    first = t.loc[t["size"].abs().idxmax()]
    known = t[t["level"] != "compressed"]
    inside = ((known["low"] <= 0) & (known["high"] >= 0)).mean()
    yield "differences between the groups", bool((t["q"] <= alpha).any()), {
        "intervals hold": float(inside), "interval of the largest holds": float(first["low_all"] <= 0 <= first["high_all"]),
    }  # fmt: skip
    made = roc.compute(m, config)
    best, areas = made["roc_best"].iloc[0], made["roc"]
    plain = areas[~areas["selected"]]
    yield "best marker", best["p"] <= alpha, {
        "intervals hold": float(((plain["auc_low"] <= 0.5) & (plain["auc_high"] >= 0.5)).mean()), "area of one": float(plain["auc"].mean()),
        "interval of the largest holds": float(best["low"] <= 0.5 <= best["high"]),
    }  # fmt: skip
    selected = areas[areas["selected"]].iloc[0]
    yield "feature at the compression", not selected["auc_low"] <= 0.5 <= selected["auc_high"], {"area of one": float(selected["auc"])}
    pairs = made["roc_pairs"]
    yield "pairs of markers", bool((pairs["q"] <= alpha).any()), {"intervals hold": float(((pairs["low"] <= 0) & (pairs["high"] >= 0)).mean())}
    c = correlations.compute(m, config)["correlations"]
    strongest = c.loc[c["r"].abs().idxmax()]
    yield "correlations with scores", bool((c["q"] <= alpha).any()), {
        "intervals hold": float(((c["low"] <= 0) & (c["high"] >= 0)).mean()),
        "interval of the largest holds": float(strongest["low_all"] <= 0 <= strongest["high_all"]),
    }  # fmt: skip
    s = compression.compute(m, config)["compression_summary"].iloc[0]
    yield "compression", not s["auc_low"] <= 0.5 <= s["auc_high"], {"area of one": float(s["auc"])}
    n = norms.compute(m, config)["norms_summary"]
    yield "norms", False, {"cases outside": float(n["outside"].sum() / n["n_case"].sum())}
    agree = repeats.compute(m, config)["repeats"].query("level != 'compressed'")
    truth = 1 - ERROR**2 / 1.64
    yield "agreement of repeated scans", False, {
        "intervals hold": float(((agree["icc21_low"] <= truth) & (agree["icc21_high"] >= truth)).mean()), "ICC of one": float(agree["icc21"].mean()),
    }  # fmt: skip
    moved = change.compute(m, config)
    slopes, persons = moved["change"], moved["change_people"]
    yield (
        "change over time of a group",
        bool((slopes["q"] <= alpha).any()),
        {"intervals hold": float(((slopes["low"] <= 0) & (slopes["high"] >= 0)).mean())},
    )
    yield "change over time of a person", bool((persons["q"] <= alpha).any()), {"people beyond the limit": float(persons["beyond"].mean())}


def learnt_claims(m: Material, config: Any) -> Iterator[tuple[str, bool, Held]]:
    """The same of what is learnt."""
    alpha = config.alpha
    k = clusters.compute(m, config)["cluster_choice"].query("chosen")["k"].iloc[0]
    yield "subgroups", k > 1, {}
    r = classifier.compute(m, config)["classifier"].iloc[0]
    yield "classifier", r["p"] <= alpha, {"area of one": float(r["auc"]), "intervals hold": float(r["auc_low"] <= 0.5 <= r["auc_high"])}
    if m.models:
        check = sites.compute(m, config)["site_check"].set_index("when").loc["after"]
        yield "site told after harmonisation", check["p"] <= alpha, {"by chance": float(check["low"] <= check["accuracy"] <= check["high"])}


@pytest.mark.parametrize("sites", [False, True], ids=["one site", "three sites"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "+".join(map(str, s)))
def test_people_who_do_not_differ(benchmark: Any, make_material: Any, make_config: Any, sizes: tuple[int, int], sites: bool) -> None:
    """Findings in at most 5 % of the studies, and their Monte Carlo error."""
    sections = {"roc": {"resamples": 0, "permutations": 199}, "clusters": {"resamples": 19, "largest": 3}, "classifier": {"permutations": 39}}
    config = make_config(analysis={**sections, "norms": {"covariates": []}, **({"harmonise": {"site": "site"}} if sites else {})}).analysis
    count: dict[str, list[bool]] = defaultdict(list)
    held: dict[tuple[str, str], list[float]] = defaultdict(list)

    def run() -> None:
        for seed in range(STUDIES):
            m = study(make_material, sizes, sites, seed)
            for section, claimed, more in (*claims(m, config), *(learnt_claims(m, config) if seed < LEARNT else ())):
                count[section].append(bool(claimed))
                for name, value in more.items():
                    held[section, name].append(value)

    benchmark.pedantic(run, rounds=1)
    print(f"\n{sizes[0]} + {sizes[1]} people, {'three sites, harmonised' if sites else 'one site'}, {STUDIES} studies")
    for section, found in count.items():
        more = ", ".join(f"{name} {np.mean(v):.3f} (± {np.std(v) / np.sqrt(len(v)):.3f})" for (s, name), v in held.items() if s == section)
        print(f"| {section} | {100 * np.mean(found):.1f} % of {len(found)} | {more} |")
    assert {s: np.mean(f) for s, f in count.items() if np.mean(f) > 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / len(f))} == {}


SHARES = (0.2, 0.5, 0.8)
"""Part of the variance of a group that is error of measurement."""
SPREAD = 0.5
"""Standard deviation of the logarithm of the standard errors."""
EFFECT = 0.5
"""Planted, standard deviations of a group."""


@pytest.mark.parametrize("method", ["welch", "linear"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "+".join(map(str, s)))
def test_weights_by_uncertainty(benchmark: Any, make_material: Any, make_config: Any, sizes: tuple[int, int], method: str) -> None:
    """Weights find no more where nothing is, also where the errors are those of somebody else, and more where something is."""
    adjust = {"covariates": ["age"]} if method == "linear" else {}
    weighed, even = (make_config(analysis={"tests": {"method": method, "weigh": w, **adjust}}).analysis for w in (True, False))
    tests, group = 50 * STUDIES, np.repeat([0.0, 1.0], sizes)
    names = [("mtr", f"tract {i}", "C3") for i in range(tests)]
    rows = []

    def table(effect: float, share: float, right: bool) -> Any:
        rng = np.random.default_rng([*sizes, int(10 * share), right])
        square = share * np.exp(2 * SPREAD * rng.standard_normal((len(group), tests)) - 2 * SPREAD**2)
        own = square if right else rng.permuted(square, axis=0)
        values = effect * group[:, None] + np.sqrt(1 - share + own) * rng.standard_normal(own.shape)
        m = replace(make_material(values, group, names, age=rng.normal(50, 10, len(group))), errors=np.sqrt(square))
        return [groups.compute(m, c)["groups"] for c in (weighed, even)]

    def run() -> None:
        for share in SHARES:
            null, wrong, planted = table(0.0, share, True), table(0.0, share, False), table(EFFECT, share, True)
            found = [100 * np.mean(t["p"] <= 0.05) for t in (*null, wrong[0], *planted)]
            holds = 100 * np.mean((planted[0]["low"] <= EFFECT) & (planted[0]["high"] >= EFFECT))
            rows.append((share, *found, holds, 100 * np.median(1 - null[0]["se"] / null[0]["se_even"])))

    benchmark.pedantic(run, rounds=1)
    print(f"\n{sizes[0]} + {sizes[1]} people, {method}, {tests} tests: error's share of the variance, p <= 0.05 without effect weighed, even,")
    print(f"with errors of somebody else; power for {EFFECT} SD weighed, even; intervals that hold; how much narrower, %")
    for row in rows:
        print("| " + " | ".join(f"{v:.1f}" for v in row) + " |")
    error = 2.5 * np.sqrt(5 * 95 / tests)
    assert all(max(row[1], row[3]) <= 6 + error and row[6] >= 94 - error for row in rows)
    assert all(row[4] >= row[5] - 0.5 for row in rows if min(sizes) >= 10)
