"""The tables of an analysis, one function a section: what is analysed goes in, tidy tables come out.

A section that cannot be made raises a `CohortError`; the others are made all the same. What each table and column means is in `words`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis import agreement
from cohort_engine.analysis.arrays import tally
from cohort_engine.analysis.classify import cross_validate
from cohort_engine.analysis.cluster import cluster, profiles
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.covariates import Coding
from cohort_engine.analysis.groups import EFFECTS, LINEAR, Comparison, compare, false_discovery, inflation, widen
from cohort_engine.analysis.norms import centile_curves, deviation, fit_norm
from cohort_engine.analysis.roc import auc, best_threshold, compare_auc, curve, largest_auc
from cohort_engine.analysis.site_check import tell_site
from cohort_engine.config import AnalysisConfig
from cohort_engine.errors import ConfigError, InputError, StoreError, unknown_name
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.choice import Choice
from cohort_engine.query.question import Query
from cohort_engine.query.reader import PROFILE_VARIABLES
from cohort_engine.report.characteristics import characteristics, quality
from cohort_engine.report.material import (
    COMPRESSED,
    ESTIMATOR,
    FUNICULI,
    KEYS,
    METRIC,
    WHITE_MATTER,
    FloatArray,
    Material,
    harmonise_keeps,
    in_order,
    read_features,
)
from cohort_engine.report.people import IDENTITY, check_covariate, in_time, subject_table
from cohort_engine.template.levels import WHOLE_CORD

Tables = dict[str, pd.DataFrame]
Section = Callable[[Material, AnalysisConfig], Tables]

FEATURE = [*KEYS, "units"]
CURVES_AT_MOST = 12
"""Features whose whole ROC curve is kept: those of the pairs, and the best."""
CLASSIFIER = "all markers"
"""Name of the classifier beside those of single markers."""
BAND = (5.0, 50.0, 95.0)
"""Centiles of the healthy band along the cord."""


# --- people -----------------------------------------------------------------------------------------------------------
def people(m: Material, config: AnalysisConfig) -> Tables:
    """Who is analysed, who is left out, how the groups differ in what is known of them, and the quality numbers."""
    table = m.people.table.copy()
    return {"subjects": table, "excluded": m.people.excluded, "characteristics": characteristics(m, config), "quality": quality(m)}


# --- groups -----------------------------------------------------------------------------------------------------------
def family(m: Material, columns: tuple[str, ...]) -> NDArray[Any]:
    """Name the family of tests of each feature: the columns in which it agrees with others."""
    return np.array([" ".join(map(str, row)) for row in m.features[list(columns)].itertuples(index=False)] if columns else [""] * len(m.features))


def design(m: Material, names: tuple[str, ...]) -> FloatArray | None:
    """Code the columns as numbers (subject, column); None where there are none."""
    for name in names:
        m.people.column(name)  # a misspelt one is an error, one that does not vary is not
    given = m.people.covariates(names)
    return Coding.of(given).matrix(given, len(m.people.table)) if given else None


def groups(m: Material, config: AnalysisConfig) -> Tables:
    """Cases against controls in every feature.

    The shift of each site was estimated from the values that are tested: the linear model counts the sites, and the other methods take their errors
    for larger where the groups are spread unevenly over them.
    """
    tests = config.tests
    if tests.covariates and tests.method != LINEAR:
        raise ConfigError(
            expected=f"method: {LINEAR} with covariates", found=tests.method, where="analysis.tests", remedy=f"Set analysis.tests.method: {LINEAR}."
        )
    site = config.harmonise.site if m.models else None
    adjust = (*tests.covariates, *([site] if site and tests.method == LINEAR else []))
    found = compare(
        m.values, m.people.group, method=tests.method, covariates=design(m, adjust), confidence=config.confidence,
        max_missing=config.max_missing, resamples=tests.resamples, seed=config.seed,
    )  # fmt: skip
    found = _counting_sites(m, config, found)
    found = replace(found, p=np.where(found.n.min(axis=0) >= config.least, found.p, np.nan))
    families = family(m, tests.family)
    out = m.features[FEATURE].assign(method=tests.method, family=families)
    for code, name in ((0, "control"), (1, "case")):
        part = m.values[m.people.group == code]
        out[f"n_{name}"] = found.n[code]
        out[f"mean_{name}"], out[f"sd_{name}"] = _mean(part), _sd(part)
        out[f"error_{name}"] = np.sqrt(_mean(m.errors[m.people.group == code] ** 2)) if m.errors.size else np.nan
    for key in ("effect", "se", "low", "high", "statistic", "df", "p"):
        out[key] = getattr(found, key)
    out["q"] = false_discovery(found.p, families)
    out["low_all"], out["high_all"] = _all_at_once(m, config, adjust, found)
    out["size"], out["size_low"], out["size_high"] = found.size, found.size_low, found.size_high
    out["size_kind"] = EFFECTS[tests.method][1]
    return {"groups": out}


def _all_at_once(m: Material, config: AnalysisConfig, adjust: tuple[str, ...], found: Comparison) -> tuple[FloatArray, FloatArray]:
    """Intervals of which all hold at once (Bonferroni): what is largest of all was chosen among them."""
    tested = max(int(np.isfinite(found.p).sum()), 1)
    wide = compare(
        m.values, m.people.group, method=config.tests.method, covariates=design(m, adjust), confidence=1 - (1 - config.confidence) / tested,
        max_missing=config.max_missing,
    )  # fmt: skip
    wide = _counting_sites(m, config, wide)
    return wide.low, wide.high


def _counting_sites(m: Material, config: AnalysisConfig, found: Comparison) -> Comparison:
    """Take the errors for larger where the groups are spread unevenly over sites whose shift was removed, and the method cannot count that."""
    site = config.harmonise.site if m.models else None
    if site is None or config.tests.method == LINEAR:
        return found
    used = np.isfinite(m.values).any(axis=1)  # sites are those of the people who are left
    return widen(found, inflation(m.people.group[used], m.people.column(site)[used]))


def _mean(values: FloatArray) -> FloatArray:
    n = np.isfinite(values).sum(axis=0)
    out: FloatArray = np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)
    return out


def _sd(values: FloatArray) -> FloatArray:
    n = np.isfinite(values).sum(axis=0)
    out: FloatArray = np.where(n > 1, np.sqrt(np.nansum((values - _mean(values)) ** 2, axis=0) / np.maximum(n - 1, 1)), np.nan)
    return out


# --- ROC --------------------------------------------------------------------------------------------------------------
def directions(m: Material, config: AnalysisConfig) -> FloatArray:
    """1 where disease raises a feature, -1 where it lowers it."""
    known = [*dict.fromkeys((*m.features[METRIC], *schema.MEASURES))]
    for name in config.roc.higher:
        if name not in known:
            raise unknown_name("metric or measure", name, known, where="analysis.roc.higher")
    return np.where(m.features[METRIC].isin({*config.roc.higher, *m.rises}), 1.0, -1.0)


def pairs(m: Material, config: AnalysisConfig) -> list[tuple[int, int]]:
    """Features that are held against each other: by default, level by level, white matter of each metric and the area, and of each two metrics."""
    if config.roc.compare:
        return [(_one(m, a), _one(m, b)) for a, b in config.roc.compare]
    f = m.features
    area = {level: i for i, (metric, level) in enumerate(zip(f[METRIC], f[schema.LEVEL], strict=True)) if metric == schema.AREA}
    white = f.index[(f[schema.REGION] == WHITE_MATTER) & ~f[METRIC].isin(list(schema.MEASURES))]
    against_area = [(int(i), area[f.at[i, schema.LEVEL]]) for i in white if f.at[i, schema.LEVEL] in area]
    of = f[[METRIC, schema.LEVEL]].to_numpy(str)
    two = [(int(i), int(j)) for i, j in combinations(white, 2) if of[i, 1] == of[j, 1] and of[i, 0] != of[j, 0]]
    return [*against_area, *two]


def _one(m: Material, question: str) -> int:
    found = m.find(question)
    if len(found) > 1:
        raise ConfigError(
            expected="one feature", found=f"{len(found)} in {question!r}", where="analysis.roc.compare", remedy="Give one tract and one level."
        )
    return int(found[0])


def roc(m: Material, config: AnalysisConfig) -> Tables:
    """Areas under the curve and thresholds of every feature, the best of them, paired tests, and some whole curves."""
    sign, group = directions(m, config), m.people.group
    values = m.values * sign
    area = auc(values, group, confidence=config.confidence, max_missing=config.max_missing)
    best = best_threshold(
        values, group, resamples=config.roc.resamples, seed=config.seed, confidence=config.confidence, max_missing=config.max_missing
    )
    out = m.features[FEATURE].assign(direction=np.where(sign > 0, "higher", "lower"), n_control=area.n[0], n_case=area.n[1])
    out["selected"] = m.own_level
    out["auc"], out["auc_se"], out["auc_low"], out["auc_high"] = area.auc, area.se, area.low, area.high
    out["threshold"] = best.threshold * sign
    interval = best.threshold_interval * sign
    out["threshold_low"], out["threshold_high"] = np.where(sign > 0, interval, interval[::-1])
    out["sensitivity"], out["specificity"], out["youden"], out["optimism"] = best.sensitivity, best.specificity, best.youden, best.optimism
    chosen = pairs(m, config)
    tables = {"roc": out, "roc_best": _best(m, config, values), "roc_pairs": _pair_table(m, config, values, chosen)}
    ranked = [int(i) for i in np.argsort(-np.nan_to_num(area.auc, nan=-1.0), kind="stable") if not m.own_level[i]]
    drawn = list(dict.fromkeys([*(i for pair in chosen for i in pair), *ranked]))[: max(CURVES_AT_MOST, len({i for pair in chosen for i in pair}))]
    curves = [_curve(m, values[:, i], sign[i], i) for i in drawn if np.isfinite(area.auc[i])]
    for pair, two in enumerate(chosen):
        both = np.isnan(values[:, two]).any(axis=1)
        if (both != np.isnan(values[:, two]).all(axis=1)).any() and np.isfinite(tables["roc_pairs"]["difference"].iloc[pair]):
            curves += [_curve(m, np.where(both, np.nan, values[:, i]), sign[i], i, pair) for i in two]
    tables["roc_curves"] = pd.concat(curves, ignore_index=True)
    return tables


def _best(m: Material, config: AnalysisConfig, values: FloatArray) -> pd.DataFrame:
    """Judge the best marker as what it is, the best of many; a feature at the level where each own cord is narrowest was selected before."""
    n = tally(m.values, np.stack([m.people.group == g for g in (0, 1)]))
    among = np.flatnonzero(~m.own_level & (n.min(axis=0) >= config.least))
    if not len(among):
        return pd.DataFrame()
    best = largest_auc(
        values[:, among], m.people.group, permutations=config.roc.permutations, seed=config.seed, confidence=config.confidence,
        max_missing=config.max_missing,
    )  # fmt: skip
    if best.marker < 0:
        return pd.DataFrame()
    return pd.DataFrame([{
        "marker": m.label(int(among[best.marker])), "markers": best.markers, "auc": best.auc, "low": best.low, "high": best.high, "p": best.p,
        "n_control": best.n[0], "n_case": best.n[1],
    }])  # fmt: skip


def _pair_table(m: Material, config: AnalysisConfig, values: FloatArray, chosen: list[tuple[int, int]]) -> pd.DataFrame:
    first, second = ([p[k] for p in chosen] for k in (0, 1))
    found = compare_auc(values[:, first], values[:, second], m.people.group, confidence=config.confidence, max_missing=config.max_missing)
    p = np.where(found.n.min(axis=0) >= config.least, found.p, np.nan)
    both = np.isnan(values[:, first] + values[:, second])
    alone = [
        auc(np.where(both, np.nan, values[:, k]), m.people.group, confidence=config.confidence, max_missing=config.max_missing)
        for k in (first, second)
    ]
    out = pd.DataFrame({"first": [m.label(i) for i in first], "second": [m.label(i) for i in second]})
    for name, area in zip(("first", "second"), alone, strict=True):
        out[f"auc_{name}_low"], out[f"auc_{name}_high"] = area.low, area.high
    names = {"auc_first": found.first, "auc_second": found.second, "difference": found.difference, "se": found.se, "low": found.low}
    out = out.assign(**names, high=found.high, z=found.z, df=found.df, p=p, q=false_discovery(p))
    return out.assign(n_control=found.n[0], n_case=found.n[1])


def _curve(m: Material, values: FloatArray, sign: float, feature: int, pair: int = -1) -> pd.DataFrame:
    c = curve(values, m.people.group)
    return pd.DataFrame(
        {"marker": m.label(feature), "pair": pair, "threshold": sign * c.threshold, "sensitivity": c.sensitivity, "specificity": c.specificity}
    )


# --- compression ------------------------------------------------------------------------------------------------------
def compression(m: Material, config: AnalysisConfig) -> Tables:
    """Where each cord is compressed most, and how much against the levels away from it."""
    c = m.compression
    if c is None:
        raise StoreError(expected="a place of compression", found="none", where="analysis.compression", remedy=m.compression_problem)
    out = m.people.table[list(IDENTITY)].copy()
    out[schema.GROUP] = np.where(m.people.group == 1, m.people.case, m.people.control)
    out["site_of_compression"] = c.site
    out["narrowest_level"] = [schema.LEVEL_NAMES[n - 1] if n else "" for n in c.level]
    out["z_mm"] = np.where(c.z >= 0, m.z[c.z], np.nan)
    out["ratio"], out["mscc"], out["margin"] = c.smallest, 100 * (1 - c.smallest), c.margin
    out["remote"], out["against_remote"] = c.remote, c.against_remote
    found = auc(-c.smallest[:, None], m.people.group, confidence=config.confidence, max_missing=config.max_missing)
    counts = pd.DataFrame([
        {schema.GROUP: name, "level": level, "people": int(np.sum((m.people.group == code) & (np.array(c.site) == level)))}
        for code, name in ((0, m.people.control), (1, m.people.case)) for level in dict.fromkeys(sorted(c.site))
    ])  # fmt: skip
    summary = pd.DataFrame([{
        "measure": config.compression.measure, "limit": c.limit, "n_limit": c.n_limit, "auc": found.auc[0], "auc_low": found.low[0],
        "auc_high": found.high[0], "n_control": found.n[0, 0], "n_case": found.n[1, 0],
    }])  # fmt: skip
    return {"compression": out, "compression_levels": counts, "compression_summary": summary}


# --- markers ----------------------------------------------------------------------------------------------------------
def markers(m: Material, config: AnalysisConfig) -> NDArray[np.intp]:
    """Features of the classifier: those of the configuration, or funiculi, grey matter and area at the remote level."""
    if config.classifier.markers:
        return m.find_all(config.classifier.markers)
    f = m.features
    level = next((n for n in (config.compression.remote, config.compression.remote.split(":")[0]) if (f[schema.LEVEL] == n).any()), None)
    chosen = f.index[(f[schema.LEVEL] == level) & (f[schema.REGION].isin(FUNICULI) | (f[METRIC] == schema.AREA))]
    if not len(chosen):
        raise InputError(
            expected="markers at the remote level", found="none with values", where="analysis.classifier",
            remedy="Name markers in analysis.classifier.markers, or another level in analysis.compression.remote.",
        )  # fmt: skip
    return chosen.to_numpy().astype(np.intp)


def classifier(m: Material, config: AnalysisConfig) -> Tables:
    """Several markers at once, judged on people that the classifier was not learnt from."""
    chosen, settings, site = markers(m, config), config.classifier, config.harmonise.site
    together = None if settings.by is None else [str(v) for v in m.people.column(settings.by)]
    inside = None if site is None or settings.by == site else [str(v) for v in m.people.column(site)]
    keep = m.people.covariates([n for n in config.harmonise.keep if n not in (schema.GROUP, config.groups.column)]) if inside else None
    found = cross_validate(
        m.raw[:, chosen], m.people.group, folds=settings.folds, fold_by=together, site=inside, covariates=keep, max_missing=config.max_missing,
        confidence=config.confidence, seed=config.seed,
    )  # fmt: skip
    summary = pd.DataFrame([{
        "markers": len(chosen), "folds": found.fold_auc.shape[1], "kept_together": settings.by or "", "auc": found.auc, "auc_se": found.se,
        "auc_low": found.low, "auc_high": found.high, "n_control": found.n[0], "n_case": found.n[1], "note": "; ".join(found.warnings),
    }])  # fmt: skip
    names = pd.DataFrame({"marker": [m.label(int(i)) for i in chosen], "coefficient": found.mean_coefficient, "same_sign": found.sign_stability})
    who = m.people.table[list(IDENTITY)].assign(score=found.score, probability=found.probability, fold=found.fold[0])
    who[schema.GROUP] = np.where(m.people.group == 1, m.people.case, m.people.control)
    known = np.isfinite(found.score)
    c = curve(found.score[known], m.people.group[known])
    drawn = pd.DataFrame({"marker": CLASSIFIER, "threshold": c.threshold, "sensitivity": c.sensitivity, "specificity": c.specificity})
    return {"classifier": summary, "classifier_markers": names, "classifier_scores": who, "classifier_curve": drawn}


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(m: Material, config: AnalysisConfig) -> Tables:
    """Subgroups of people, what they were made of, and what else differs between them."""
    chosen = config.clusters
    rows = np.flatnonzero(m.people.group == 1) if chosen.who == "cases" else np.arange(len(m.people.group))
    names, columns, lost = _cluster_features(m, config, rows)
    made_of = np.stack(columns, axis=1)[rows]
    found = cluster(made_of, k=chosen.k, largest=chosen.largest, least=config.least, resamples=chosen.resamples, seed=config.seed)
    who = m.people.table.loc[rows, list(IDENTITY)].reset_index(drop=True)
    who = who.assign(cluster=found.labels, pc1=found.coordinates[:, 0], pc2=found.coordinates[:, -1] if found.coordinates.shape[1] > 1 else np.nan)
    choice = pd.DataFrame({"k": found.candidates, "silhouette": found.silhouette, "stability": found.stability})
    single = pd.DataFrame({"k": [1], "silhouette": [np.nan], "stability": [np.nan]})
    choice = pd.concat([single, choice], ignore_index=True) if len(choice) else single
    choice = choice.assign(chosen=choice["k"] == found.k, p_one_group=found.p_one_group)
    axes = pd.DataFrame([
        {"component": c + 1, "explained": found.explained[c], "feature": name, "weight": found.weights[c, i]}
        for c in range(len(found.explained)) for i, name in enumerate(names)
    ])  # fmt: skip
    others = [n for n in m.people.numeric() if n not in names]
    every = [*names, *others]
    table = np.column_stack([made_of, *(m.people.column(n)[rows] for n in others)])
    p = profiles(table, found.labels)
    parts = [
        {"cluster": c, "feature": name, "made_of": name in names, "mean": p.mean[c, i], "sd": p.sd[c, i], "n": p.n[c, i], "h": p.h[i], "p": p.p[i]}
        for c in range(len(p.mean)) for i, name in enumerate(every)
    ]  # fmt: skip
    profile = pd.DataFrame(parts)
    tested = np.array([n not in names for n in every])
    q = np.full(len(every), np.nan)
    q[tested] = false_discovery(p.p[tested])
    profile["q"] = np.tile(q, len(p.mean))
    notes = pd.DataFrame(
        {"note": [*found.warnings, *lost, *([f"{found.n_left_out} people lack a feature and are left out"] if found.n_left_out else [])]}
    )
    return {"clusters": who, "cluster_choice": choice, "cluster_axes": axes, "cluster_profiles": profile, "cluster_notes": notes}


def _cluster_features(m: Material, config: AnalysisConfig, rows: NDArray[np.intp]) -> tuple[list[str], list[FloatArray], list[str]]:
    """Names and columns (subject,) of what is clustered, and what is left out: what does not vary, and of the default what too many people lack."""
    asked = config.clusters.features
    names = [n for n in asked if n in m.people.table] or ([] if asked else scores(m, config, rows))
    features = m.find_all(q for q in asked if q not in m.people.table) if asked else markers(m, config)
    columns = {n: m.people.numbers(n) for n in names} | {m.label(int(i)): m.values[:, i] for i in features}
    varying = {n: v for n, v in columns.items() if len(np.unique(v[rows][np.isfinite(v[rows])])) > 1}
    if not varying:
        raise InputError(expected="features that vary", found="none", where="analysis.clusters", remedy="Name others in analysis.clusters.features.")
    lost = [f"{n} is the same in everybody and left out" for n in columns if n not in varying]
    known = {n: np.isfinite(v[rows]) for n, v in varying.items()}
    while not asked and len(known) > 1 and np.all(list(known.values()), axis=0).mean() < 1 - config.max_missing:
        rarest = min(known, key=lambda n: int(known[n].sum()))
        lost.append(f"{rarest} is known of {int(known.pop(rarest).sum())} of {len(rows)} people and left out, so that more people have all features")
    return list(known), [varying[n] for n in known], lost


# --- correlations -----------------------------------------------------------------------------------------------------
def scores(m: Material, config: AnalysisConfig, rows: NDArray[np.intp]) -> list[str]:
    """Clinical scores: columns that the configuration names, or all numbers but age that vary among these people."""
    if config.correlate.scores:
        for name in config.correlate.scores:
            m.people.numbers(name)
        return list(config.correlate.scores)
    leave = {schema.AGE, config.groups.column, *config.correlate.covariates}
    columns = {n: m.people.column(n)[rows] for n in m.people.numeric() if n not in leave}
    return [n for n, v in columns.items() if len(np.unique(v[np.isfinite(v)])) > 2]


def correlations(m: Material, config: AnalysisConfig) -> Tables:
    """Every feature with every clinical score."""
    chosen = config.correlate
    rows = np.flatnonzero(m.people.group == 1) if chosen.who == "cases" else np.arange(len(m.people.group))
    names = scores(m, config, rows)
    if not names:
        raise InputError(
            expected="clinical scores", found="no column of numbers that varies", where="subject table",
            remedy="Add scores to participants.tsv and build again.",
        )  # fmt: skip
    columns = np.stack([m.people.column(n) for n in names], axis=1)[rows]
    adjust = design(m, chosen.covariates)
    found = correlate(
        m.values[rows], columns, method=chosen.method, covariates=None if adjust is None else adjust[rows], confidence=config.confidence,
        max_missing=config.max_missing,
    )  # fmt: skip
    families = family(m, config.tests.family)
    p = np.where(found.df + 2 >= config.least, found.p, np.nan)
    q = false_discovery(p, families[:, None])
    tested = max(int(np.isfinite(p).sum()), 1)
    wide = correlate(
        m.values[rows], columns, method=chosen.method, covariates=None if adjust is None else adjust[rows],
        confidence=1 - (1 - config.confidence) / tested, max_missing=config.max_missing,
    )  # fmt: skip
    parts = []
    for j, name in enumerate(names):
        part = m.features[FEATURE].assign(score=name, method=chosen.method, n=found.n[:, j], r=found.r[:, j], low=found.low[:, j])
        part = part.assign(high=found.high[:, j], t=found.t[:, j], df=found.df[:, j], p=p[:, j])
        parts.append(part.assign(q=q[:, j], low_all=wide.low[:, j], high_all=wide.high[:, j]))
    return {"correlations": pd.concat(parts, ignore_index=True)}


# --- norms ------------------------------------------------------------------------------------------------------------
def norms(m: Material, config: AnalysisConfig) -> Tables:
    """How far each case is from healthy people, and the healthy band along the cord."""
    controls = m.people.group == 0
    wanted = config.norms.covariates
    if config.norms.reference:
        healthy, given, where = _reference(m, config)
    else:
        healthy, where = m.values[controls], "own controls"
        given = {n: v[controls] for n, v in m.people.covariates(wanted).items()}
    given = {n: v for n, v in given.items() if n in m.people.table and len(set(map(str, v))) > 1}
    norm = fit_norm(healthy, given)
    cases = m.values[~controls]
    found = deviation(norm, cases, {n: m.people.column(n)[~controls] for n in given}, level=config.confidence)
    who = m.people.table.loc[~controls, list(IDENTITY)].reset_index(drop=True)
    at = np.argwhere(np.isfinite(found.z))
    table = who.iloc[at[:, 0]].reset_index(drop=True)
    for key in FEATURE:
        table[key] = m.features[key].to_numpy()[at[:, 1]]
    cells = tuple(at.T)
    table["value"] = cases[cells]
    table["se"] = m.errors[~controls][cells] if m.errors.size else np.nan
    for key in ("expected", "lower", "upper", "z", "centile"):
        table[key] = getattr(found, key)[cells]
    outside = (cases < found.lower) | (cases > found.upper)
    known = np.isfinite(found.z)
    summary = m.features[FEATURE].assign(reference=where, n_reference=found.n, n_case=known.sum(axis=0), outside=(outside & known).sum(axis=0))
    summary["below"] = (known & (cases < found.lower)).sum(axis=0)
    summary["z_mean"] = _mean(found.z)
    out = {"norms": table, "norms_summary": summary}
    return out | {"profiles": _bands(m)} if m.profiles else out


def _reference(m: Material, config: AnalysisConfig) -> tuple[FloatArray, dict[str, NDArray[Any]], str]:
    """Read the same features of healthy people from another store."""
    ds = open_cohort(str(config.norms.reference))
    known = {*ds.cohort.metrics, *(n for n, variable in PROFILE_VARIABLES.items() if variable in ds)}
    questions = [
        Query(str(f[METRIC]), levels=(str(f[schema.LEVEL]),)) if f[METRIC] in schema.MEASURES else _question(f)
        for f in m.features.to_dict("records") if f[METRIC] in known and _has_level(ds.cohort.levels, str(f[schema.LEVEL]))
    ]  # fmt: skip
    features, values, _ = read_features(ds, questions, None)
    healthy = in_order(features, values, m.features)
    if not np.isfinite(healthy).any():
        raise StoreError(
            expected="features that both cohorts have", found="none", where="analysis.norms.reference",
            remedy="Compare with a cohort of the same metrics and levels.",
        )  # fmt: skip
    table = subject_table(ds)
    first = np.array(in_time(table), np.intp)
    first = first[~table[schema.PARTICIPANT].iloc[first].duplicated().to_numpy()]  # a person counts once
    given = {n: check_covariate(n, table[n].to_numpy()[first]) for n in config.norms.covariates if n in table}
    return healthy[first], given, f"{len(first)} people of another cohort"


def _question(feature: Mapping[Any, Any]) -> Query:
    """Ask for a feature in the very space and by the estimator that it is of."""
    kind = Choice.of_kind(str(feature[ESTIMATOR]))
    return Query(
        str(feature[METRIC]), (str(feature[schema.REGION]),), (str(feature[schema.LEVEL]),), estimator=kind.estimator, space=kind.space
    )  # fmt: skip


def _has_level(levels: list[str], name: str) -> bool:
    """Whether a template has a level or pooled range; nobody else is compressed where one person is."""
    return name == WHOLE_CORD or (name != COMPRESSED and set(name.split(":")) <= set(levels))


def _bands(m: Material) -> pd.DataFrame:
    """Centiles of the controls and mean of the cases along the cord, slice by slice."""
    parts = []
    for measure, profile in m.profiles.items():
        healthy, cases = (profile.values[m.people.group == g] for g in (0, 1))
        low, middle, high = centile_curves(healthy, BAND)
        parts.append(pd.DataFrame({
            "measure": measure, "units": profile.units, "z_mm": m.z, "level_number": m.z_level, "control_low": low, "control_median": middle,
            "control_high": high, "control_mean": _mean(healthy), "case_mean": _mean(cases), "case_sd": _sd(cases),
            "n_control": np.isfinite(healthy).sum(axis=0), "n_case": np.isfinite(cases).sum(axis=0),
        }))  # fmt: skip
    out = pd.concat(parts, ignore_index=True)
    return out[(out["n_control"] > 0) | (out["n_case"] > 0)].reset_index(drop=True)


# --- sites ------------------------------------------------------------------------------------------------------------
def sites(m: Material, config: AnalysisConfig) -> Tables:
    """Means of each scanner before and after harmonisation, what was removed, and whether a classifier still tells the scanner."""
    name = config.harmonise.site or schema.SITE
    if name not in m.people.table or len(m.people.covariates([name])) == 0:
        raise InputError(expected="several sites", found="one, or none named", where=f"column {name}", remedy="There is nothing to compare.")
    place = np.array([str(v) for v in m.people.column(name)])
    parts = []
    for where in sorted(set(place) - {""}):
        for code, group in ((0, m.people.control), (1, m.people.case)):
            rows = (place == where) & (m.people.group == code)
            part = m.features[FEATURE].assign(site=where, group=group, n=np.isfinite(m.raw[rows]).sum(axis=0), mean=_mean(m.raw[rows]))
            part["sd"], part["mean_harmonised"], part["sd_harmonised"] = _sd(m.raw[rows]), _mean(m.values[rows]), _sd(m.values[rows])
            parts.append(part.assign(cv=100 * part["sd"] / part["mean"].abs()))
    out: Tables = {"sites": pd.concat(parts, ignore_index=True)}
    effects = []
    for metric, model in m.models.items():
        block = m.features[m.features[METRIC] == metric].reset_index(drop=True)
        for i, where in enumerate(model.sites):
            shift = model.shift[i] * model.sd
            effects.append(block[FEATURE].assign(site=where, shift=shift, scale=model.scale[i], n=model.n[i]))
    if effects:
        out["harmonisation"] = pd.concat(effects, ignore_index=True)
    out["site_check"] = _site_check(m, config, place)
    return out


def _site_check(m: Material, config: AnalysisConfig, place: NDArray[Any]) -> pd.DataFrame:
    """Tell the site of held-out people from values as measured, and from those that were harmonised without them."""
    both = np.isfinite(m.raw).any(axis=1) & np.isfinite(m.values).any(axis=1)
    metric = m.features[METRIC].to_numpy(str)
    keep = harmonise_keeps(m.people, config) if m.models else None
    given: dict[str, Any] = {"covariates": keep, "blocks": [np.flatnonzero(metric == name) for name in m.models] or None}
    checks = []
    for when in ("before", "after") if m.models else ("before",):
        check = tell_site(
            m.raw,
            np.where(both, place, ""),
            harmonise=when == "after",
            strata=m.people.group,
            confidence=config.confidence,
            seed=config.seed,
            **given,
        )
        checks.append({"when": when} | {name: getattr(check, name) for name in ("accuracy", "chance", "low", "high", "p", "n", "left_out", "folds")})
    return pd.DataFrame(checks)


# --- agreement --------------------------------------------------------------------------------------------------------
def repeats(m: Material, config: AnalysisConfig) -> Tables:
    """Agreement of repeated sessions of the same people, feature by feature."""
    x = m.repeats
    if x is None:
        raise InputError(
            expected="people with several sessions", found="none", where="subject table", remedy="This section is for studies that scanned twice."
        )
    absolute = agreement.icc(x, kind=agreement.ABSOLUTE, confidence=config.confidence, max_missing=config.max_missing)
    consistent = agreement.icc(x, kind=agreement.CONSISTENCY, confidence=config.confidence, max_missing=config.max_missing)
    spread = agreement.repeatability(x, confidence=config.confidence, max_missing=config.max_missing)
    limits = agreement.bland_altman(x[:, 0], x[:, 1], confidence=config.confidence, max_missing=config.max_missing)
    out = m.features[FEATURE].assign(n=absolute.n, sessions=x.shape[1])
    for name, found in {"icc21": absolute, "icc31": consistent}.items():
        out[name], out[f"{name}_low"], out[f"{name}_high"] = found.icc, found.low, found.high
    out["sem"], out["mdc"], out["cv"] = spread.sem, spread.mdc, 100 * spread.cv
    out["bias"], out["limit_low"], out["limit_high"] = limits.bias, limits.lower, limits.upper
    return {"repeats": out}


SECTIONS: Mapping[str, Section] = {
    "people": people, "groups": groups, "roc": roc, "classifier": classifier, "compression": compression, "clusters": clusters,
    "correlations": correlations, "norms": norms, "sites": sites, "repeats": repeats,
}  # fmt: skip
"""Sections in the order of the report."""
