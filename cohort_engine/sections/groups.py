"""Cases against controls in every feature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.groups import EFFECTS, LINEAR, MANN_WHITNEY, WEIGHED, WELCH, Comparison, compare, false_discovery, inflation, widen
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import ConfigError
from cohort_engine.figures import by_region, cross_section, individual
from cohort_engine.quality.vocabulary import USABLE
from cohort_engine.sections.base import (
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    N_CASE,
    N_CONTROL,
    OWN,
    Column,
    Laid,
    P,
    Q,
    Section,
    Table,
    Tables,
    design,
    ends,
    family,
    mean_of,
    sd_of,
)
from cohort_engine.study.format import count, digits_of, equals, features, listed, number, p_value, percent
from cohort_engine.study.material import (
    COMPRESSED,
    FloatArray,
    Material,
)
from cohort_engine.study.result import Analysis, Study


def compute(m: Material, config: AnalysisConfig) -> Tables:
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
    errors, trust = counts = _uncertainty(m, config)
    found = compare(
        m.values, m.people.group, method=tests.method, covariates=design(m, adjust), confidence=config.confidence,
        max_missing=config.max_missing, resamples=tests.resamples, seed=config.seed, errors=errors, trust=trust,
    )  # fmt: skip
    found = _counting_sites(m, config, found)
    found = replace(found, p=np.where(found.n.min(axis=0) >= config.least, found.p, np.nan))
    families = family(m, tests.family)
    out = m.features[FEATURE].assign(method=tests.method, family=families)
    for code, name in ((0, "control"), (1, "case")):
        part = m.values[m.people.group == code]
        out[f"n_{name}"] = found.n[code]
        out[f"mean_{name}"], out[f"sd_{name}"] = mean_of(part), sd_of(part)
        out[f"error_{name}"] = np.sqrt(mean_of(m.errors[m.people.group == code] ** 2)) if m.errors.size else np.nan
    for key in ("effect", "se", "se_even", "low", "high", "statistic", "df", "p"):
        out[key] = getattr(found, key)
    out["q"] = false_discovery(found.p, families)
    out["low_all"], out["high_all"] = _all_at_once(m, config, adjust, found, counts)
    out["size"], out["size_low"], out["size_high"] = found.size, found.size_low, found.size_high
    out["size_kind"] = EFFECTS[tests.method][1]
    return {"groups": out}


def _uncertainty(m: Material, config: AnalysisConfig) -> tuple[FloatArray | None, FloatArray | None]:
    """How uncertain each value is, and how surely each person's are usable; nothing where it is not known, or the method cannot use it."""
    if not config.tests.weigh or config.tests.method not in WEIGHED:
        return None, None
    errors = m.errors if np.isfinite(m.errors).any() else None
    return errors, m.quality[USABLE].to_numpy().astype(float) if USABLE in m.quality else None


def _all_at_once(
    m: Material, config: AnalysisConfig, adjust: tuple[str, ...], found: Comparison, counts: tuple[FloatArray | None, FloatArray | None]
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Intervals of which all hold at once (Bonferroni): what is largest of all was chosen among them."""
    tested = max(int(np.isfinite(found.p).sum()), 1)
    wide = compare(
        m.values, m.people.group, method=config.tests.method, covariates=design(m, adjust), confidence=1 - (1 - config.confidence) / tested,
        max_missing=config.max_missing, errors=counts[0], trust=counts[1],
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


SAME = 1e-6
"""Spread over the mean up to which a feature counts as the same in everybody: rounding."""


def finding(row: pd.Series[Any], level: float) -> str:
    """Say by how much a feature differs that was chosen among all: effect with the interval that counts the choice, effect size, q."""
    if row["method"] == MANN_WHITNEY:
        size = f"a case is above a control with a probability of {row['effect']:.2f}"
        ends = f"{row['low_all']:.2f} to {row['high_all']:.2f}"
    else:
        unit = {"percent": " percentage points", "1": ""}.get(row["units"], f" {row['units']}")
        digits = digits_of([row["effect"], row["low_all"], row["high_all"]])
        size = f"{'lower' if row['effect'] < 0 else 'higher'} in cases, {number(row['effect'], digits)}{unit}"
        ends = f"{number(row['low_all'], digits)} to {number(row['high_all'], digits)}"
    counted = f"{percent(level)} confidence interval among all features {ends}"
    return f"{size} (n = {int(row['n_control'])} + {int(row['n_case'])}; {counted}; {row['size_kind']} {number(row['size'])}; q {equals(row['q'])})"


def top_findings(found: Analysis, most: int = 10) -> pd.DataFrame:
    """Lay out the largest differences as text: feature, effect with interval, effect size, q."""
    best = found.findings.head(most)
    if not len(best):
        return pd.DataFrame()
    level = percent(found.config.confidence)
    rows = []
    for name, (_, r) in zip(features(best), best.iterrows(), strict=True):
        digits = digits_of([r["effect"], r["low"], r["high"]])
        effect = f"{number(r['effect'], digits)} [{number(r['low'], digits)}, {number(r['high'], digits)}]"
        rows.append({"feature": name, f"effect [{level}]": effect, "unit": "probability" if r["method"] == MANN_WHITNEY else r["units"],
                     r["size_kind"]: number(r["size"]), "q": p_value(r["q"])})  # fmt: skip
    return pd.DataFrame(rows)


MOST_LAID = 10
"""Rows of the table in sight."""


def largest(found: Analysis) -> Laid | None:
    """Lay out the largest differences, or where none is one the smallest p values, with n of each group."""
    table, people = found.tables["groups"], found.material.people
    every = found.findings if len(found.findings) else table[table["p"].notna()].sort_values("p", kind="stable")
    shown = every[every[schema.LEVEL] != COMPRESSED]  # a place that was selected is no largest of all
    shown = shown if len(shown) else every
    if not len(shown):
        return None
    best, tested, alpha = shown.head(MOST_LAID), int(table["p"].notna().sum()), found.config.alpha
    fixed = "" if len(shown) == len(every) else " at fixed levels"
    which = f"The {len(best)} largest of {len(shown)} differences{fixed} with q ≤ {alpha:g}" if len(found.findings) else "The smallest p values"
    rank, level = bool((best["method"] == MANN_WHITNEY).all()), percent(found.config.confidence)
    head: tuple[str, ...] = ("", "unit", "n", f"{people.control}, mean (SD)", f"{people.case}, mean (SD)")
    kind = "probability" if rank else "weighted difference" if len(_weighed(table)) else "difference"
    head += (f"{kind} [{level}]", str(best["size_kind"].iloc[0]), "q")
    rows = []
    for name, (_, r) in zip(features(best), best.iterrows(), strict=True):
        digits = digits_of([r["effect"], r["low"], r["high"]])
        effect = f"{number(r['effect'], digits)} [{number(r['low'], digits)}, {number(r['high'], digits)}]"
        places = digits_of([r["mean_control"], r["mean_case"]])
        means = [f"{number(r[f'mean_{g}'], places)} ({number(r[f'sd_{g}'], places)})" for g in ("control", "case")]
        rows.append((name, str(r["units"]), f"{int(r['n_control'])} + {int(r['n_case'])}", *means, effect, number(r["size"]), p_value(r["q"])))
    return Laid(f"{which}, of {tested} features tested", head, rows)


def _sentence(found: Analysis) -> str:
    table = found.tables.get("groups")
    if table is None:
        return ""
    config, best = found.config, found.findings
    tested = int(table["p"].notna().sum())
    text = f"Of {count(tested, 'feature', 'features')} tested, {len(best)} {'differs' if len(best) == 1 else 'differ'} between the groups at a false "
    text += f"discovery rate of {percent(config.alpha)}."
    untested = table[table["p"].isna()]
    spread = untested[["sd_control", "sd_case"]].max(axis=1) <= SAME * untested[["mean_control", "mean_case"]].abs().max(axis=1)
    if flat := int(spread.sum()):
        text += f" {count(flat, 'further feature does', 'further features do')} not vary and cannot be tested: check the maps."
    if gaps := len(untested) - flat:
        text += f" {count(gaps, 'further feature cannot', 'further features cannot')} be tested: too many values are missing, or fewer than "
        text += f"{config.least} people of a group have one."
    if len(best):
        fixed = best[best[schema.LEVEL] != COMPRESSED]
        first = (fixed if len(fixed) else best).head(1)
        text += f" The largest difference: {features(first)[0]}, {finding(first.iloc[0], config.confidence)}."
    return text + _gain(table)


def _weighed(table: pd.DataFrame) -> FloatArray:
    """By how much, in percent, weights make the intervals narrower of those features (feature,) where they change anything; negative: wider."""
    known = table[table["p"].notna()]
    part: FloatArray = 100 * (1 - known["se"] / known["se_even"]).to_numpy(float)
    return part[np.abs(part) > SAME]


def _gain(table: pd.DataFrame) -> str:
    gain = _weighed(table)
    if not len(gain):
        return ""
    middle, low, high = (f"{abs(v):.1f}% {'narrower' if v >= 0 else 'wider'}" for v in np.percentile(gain, [50, 5, 95]))
    which = count(len(gain), "feature", "features")
    return f" Values count by their uncertainty, which makes the intervals of {which} {middle} (median; 5th to 95th centile {low} to {high})."


TESTS = {
    WELCH: "Cases and controls were compared with Welch's t test [@welch]; the effect was the difference of means (cases minus controls), "
    "the effect size Hedges' g [@hedges].",
    MANN_WHITNEY: "Cases and controls were compared with the Mann-Whitney U test [@mann]; the effect was the probability that a case is above a "
    "control, with DeLong's standard error [@delong], the effect size the rank-biserial correlation.",
    LINEAR: "Cases and controls were compared with a linear model; the effect was the coefficient of the group, the effect size its partial "
    "correlation.",
}  # fmt: skip


def _methods(s: Study) -> str:
    tests = s.config.tests
    text = TESTS[tests.method]
    site = [s.config.harmonise.site] if s.config.harmonise.site and s.found.material.models else []
    if covariates := [*s.varying(tests.covariates), *site]:
        text = text.replace("a linear model;", f"a linear model adjusted for {listed(dict.fromkeys(covariates))};")
    if site and tests.method != LINEAR:
        text += " Standard errors count that the effects of site were estimated from the same values."
    if len(_weighed(s.found.tables["groups"])):
        text += (
            " Values were weighted by the inverse of their variance, which is that between people, estimated by restricted maximum likelihood "
            "[@viechtbauer], plus their squared standard error, and by the probability that the values of the person are usable; standard errors of "
            "effects were robust (HC3) [@mackinnon]."
        )
    how = f"percentiles of {tests.resamples} bootstrap resamples within the groups (seed {s.config.seed})" if tests.resamples else "analytic"
    text += f" The {s.interval}s of effects were {how}."
    text += " Where the largest effect is named, its interval is one of a set that holds for all features at once (Bonferroni)."
    text += f" The false discovery rate was controlled over {s.family} [@fdr] at {100 * s.config.alpha:g}%."
    few = f"fewer than {s.config.least} people of it had one"
    return f"{text} A test was not made where more than {100 * s.config.max_missing:g}% of a group lacked the value, or {few}."


def _error(who: str) -> Column:
    return Column(f"root mean square of the standard errors of the measured values of the {who}: the part of the deviation that is measurement", OWN)


SECTION = SECTION_KINDS.add(Section(
    "groups", "Differences between the groups", compute=compute, sentence=_sentence, heading="Group comparison", methods=_methods, both=True,
    finding=True, laid=(largest,), figures=(individual.group_values, cross_section.effects_on_cord, by_region.effect_sizes),
    tables={
        "groups": Table(
            "Cases against controls", "Every feature compared between the groups.",
            {
                **FEATURE_WORDS, "method": Column("test: welch, mann_whitney, or linear with covariates"),
                "family": Column("family of tests within which q is adjusted"),
                "n_control": N_CONTROL, "mean_control": Column("mean of the controls", OWN),
                "sd_control": Column("standard deviation of the controls", OWN), "error_control": _error("controls"),
                "n_case": N_CASE, "mean_case": Column("mean of the cases", OWN), "sd_case": Column("standard deviation of the cases", OWN),
                "error_case": _error("cases"),
                "effect": Column("cases minus controls; with mann_whitney the probability that a case is above a control, without unit", OWN),
                "se": Column("standard error of the effect", OWN),
                "se_even": Column("the same if all values counted alike; se is smaller where weights make the comparison more precise", OWN),
                **ends("confidence interval of the effect", OWN),
                "statistic": Column("t, or U of the cases with mann_whitney"), "df": Column("degrees of freedom of t; missing with mann_whitney"),
                "p": P, "q": Q, **ends("interval of the effect such that those of all features hold at once", OWN, end="_all"),
                "size": Column("effect size: Hedges' g, rank-biserial or partial correlation, see size_kind"),
                **ends("confidence interval of the effect size", name="size_"), "size_kind": Column("which effect size"),
            },
            shown=(FEATURE_COLUMN, "units", "mean_control", "sd_control", "mean_case", "sd_case", "effect", "low", "high", "size", "p", "q"),
            order="p",
        ),
    },
))  # fmt: skip
