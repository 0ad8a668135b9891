"""Each feature as a marker: areas under the ROC curve, thresholds, the best of them, and pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.arrays import tally
from cohort_engine.analysis.groups import false_discovery
from cohort_engine.analysis.roc import auc, best_threshold, compare_auc, curve, largest_auc
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.figures import markers as drawn_markers
from cohort_engine.figures.markers import best_marker
from cohort_engine.sections.base import (
    AUC,
    AUC_HIGH,
    AUC_LOW,
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    N_CASE,
    N_CONTROL,
    OWN,
    Column,
    P,
    Section,
    Table,
    Tables,
    ends,
)
from cohort_engine.study.format import count, equals, listed, number
from cohort_engine.study.material import (
    METRIC,
    WHITE_MATTER,
    FloatArray,
    Material,
)
from cohort_engine.study.result import Analysis, Study

CURVES_AT_MOST = 12
"""Features whose whole ROC curve is kept: those of the pairs, and the best."""


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


def compute(m: Material, config: AnalysisConfig) -> Tables:
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


def _sentence(found: Analysis) -> str:
    table = found.tables.get("roc")
    if table is None or table["auc"].isna().all():
        return ""
    text = best_marker(found)
    pairs = found.tables.get("roc_pairs")
    if pairs is not None and pairs["q"].notna().any():
        sure = pairs[pairs["q"] <= found.config.alpha].sort_values("p")
        tested = int(pairs["q"].notna().sum())
        text += f" Of {count(tested, 'pair of features', 'pairs of features')} compared, {len(sure) or 'none'} "
        text += "differs in area." if len(sure) < 2 else "differ in area."
        if len(sure):
            p = sure.iloc[0]
            text += f" The clearest: {p['first']} {p['auc_first']:.2f} against {p['second']} {p['auc_second']:.2f} (n = {int(p['n_control'])} + "
            text += f"{int(p['n_case'])}; difference {number(p['difference'])}, q {equals(p['q'])})."
    return text.strip()


def _methods(s: Study) -> str:
    chosen = s.config.roc
    higher = f"{listed(chosen.higher)} taken to rise with disease and all others to fall" if chosen.higher else "all taken to fall with disease"
    text = f"Each feature was assessed as a marker ({higher}) by the area under its ROC curve, with DeLong's standard error [@delong, @sun] and a "
    text += f"{s.interval} on the logit. Thresholds maximised the Youden index [@youden]"
    if chosen.resamples:
        text += "; their intervals, and how much too good the index was for having been chosen on the same people [@efron], came from "
        text += f"{chosen.resamples} bootstrap resamples (seed {s.config.seed})"
    if s.has("roc_best") and len(s.found.tables["roc_best"]):
        text += f". The largest area was judged among all by {chosen.permutations} permutations of the groups [@nichols], its interval by their "
        text += "quantile [@newcombe]; features at each person's own level of compression were not ranked, since their place was selected"
    if s.has("roc_pairs") and len(s.found.tables["roc_pairs"]):
        text += ". Areas of pairs of features were compared with DeLong's paired test (Student's t with Satterthwaite's degrees of "
        text += "freedom), the false discovery rate controlled over the pairs [@fdr]"
    return f"{text}."


SECTION = SECTION_KINDS.add(Section(
    "roc", "Telling cases from controls", compute=compute, sentence=_sentence, heading="ROC analysis", methods=_methods, both=True, finding=True,
    figures=(drawn_markers.roc_curves, drawn_markers.roc_areas),
    tables={
        "roc": Table(
            "Each feature as a marker", "Area under the ROC curve, and the threshold with the largest Youden index, of every feature.",
            {
                **FEATURE_WORDS, "direction": Column("whether cases are called above (higher) or below (lower) the threshold"),
                "n_control": N_CONTROL, "n_case": N_CASE,
                "selected": Column("whether the level of the feature was chosen by looking at each person: then it is not ranked with the others"),
                "auc": AUC, "auc_se": Column("standard error of the area, after DeLong"), "auc_low": AUC_LOW, "auc_high": AUC_HIGH,
                "threshold": Column("threshold with the largest Youden index; missing where none is better than chance", OWN),
                **ends("bootstrap interval of the threshold", OWN, name="threshold_"),
                "sensitivity": Column("share of the cases beyond the threshold"), "specificity": Column("share of the controls on its other side"),
                "youden": Column("sensitivity plus specificity minus 1"),
                "optimism": Column(
                    "what the Youden index gains from being chosen on the same people: youden minus optimism is to be expected of others"
                ),
            },
            shown=(FEATURE_COLUMN, "units", "direction", "auc", "auc_low", "auc_high", "threshold", "sensitivity", "specificity", "optimism"),
            order="-auc",
        ),
        "roc_best": Table(
            "The best marker", "The largest of all areas, judged as the largest: features at each person's own level of compression are not among "
            "them, since their place was selected.",
            {
                "marker": Column("feature with the largest area"), "markers": Column("features among which it was chosen"), "auc": AUC,
                **ends("interval of its area that counts the choice"),
                "p": Column("how often the largest area is as clear when the groups are dealt out by chance"),
                "n_control": N_CONTROL, "n_case": N_CASE,
            },
        ),
        "roc_pairs": Table(
            "Features against each other", "Paired comparison of areas under the ROC curve, in the people who have both features.",
            {
                "first": Column("a feature"), "second": Column("the feature it is compared with"),
                **ends("confidence interval of the first area, on the logit", name="auc_first_"),
                **ends("confidence interval of the second area, on the logit", name="auc_second_"), "auc_first": Column("area of the first"),
                "auc_second": Column("area of the second"), "difference": Column("first area minus second"),
                "se": Column("standard error of the difference, after DeLong"), **ends("confidence interval of the difference"),
                "z": Column("difference over its standard error"), "df": Column("degrees of freedom of Student's t that z is held against"), "p": P,
                "q": Column("p value adjusted for the false discovery rate over the pairs"),
                "n_control": N_CONTROL, "n_case": N_CASE,
            },
            shown=("first", "second", "auc_first", "auc_second", "difference", "low", "high", "p", "q"), order="p",
        ),
        "roc_curves": Table(
            "ROC curves", "Whole curves of the features that are compared in pairs, and of the best.",
            {
                "marker": Column("feature"),
                "pair": Column("row of roc_pairs, from 0, in whose people the curve is drawn; -1: in all who have the feature"),
                "threshold": Column("threshold; infinite at the start of a curve", "of the feature"),
                "sensitivity": Column("share of the cases called at this threshold"),
                "specificity": Column("share of the controls not called at this threshold"),
            },
        ),
    },
))  # fmt: skip
