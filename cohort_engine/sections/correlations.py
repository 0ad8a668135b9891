"""Every feature against every clinical score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.groups import false_discovery
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import by_region, individual
from cohort_engine.sections.base import (
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    Column,
    Laid,
    P,
    Section,
    Table,
    Tables,
    design,
    ends,
    family,
)
from cohort_engine.study.format import count, equals, features, listed, number, p_value, percent
from cohort_engine.study.material import (
    COMPRESSED,
    Material,
)
from cohort_engine.study.result import Analysis, Study


def scores(m: Material, config: AnalysisConfig, rows: NDArray[np.intp]) -> list[str]:
    """Clinical scores: columns that the configuration names, or all numbers but age that vary among these people."""
    if config.correlate.scores:
        for name in config.correlate.scores:
            m.people.numbers(name)
        return list(config.correlate.scores)
    leave = {schema.AGE, config.groups.column, *config.correlate.covariates}
    columns = {n: m.people.column(n)[rows] for n in m.people.numeric() if n not in leave}
    return [n for n, v in columns.items() if len(np.unique(v[np.isfinite(v)])) > 2]


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Every feature with every clinical score."""
    chosen = config.correlate
    rows = m.people.chosen(chosen.who)
    names = scores(m, config, rows)
    if not names:
        raise NotEnoughError(
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


MOST_LAID = 10
"""Rows of the table in sight."""


def strongest(found: Analysis) -> Laid | None:
    """Lay out the strongest correlations with n, interval and q."""
    table = found.tables["correlations"]
    every = table[table["p"].notna()].sort_values("p", kind="stable")
    fixed = every[every[schema.LEVEL] != COMPRESSED]  # a place that was selected is no strongest of all
    known = fixed if len(fixed) else every
    if not len(known):
        return None
    best, where = known.head(MOST_LAID), "" if len(known) == len(every) else " at fixed levels"
    head = ("", "score", "n", f"r [{percent(found.config.confidence)}]", "p", "q")
    rows: list[tuple[str, ...]] = [
        (name, str(r["score"]).replace("_", " "), f"{int(r['n'])}", f"{number(r['r'])} [{number(r['low'])}, {number(r['high'])}]", p_value(r["p"]),
         p_value(r["q"]))
        for name, (_, r) in zip(features(best), best.iterrows(), strict=True)
    ]  # fmt: skip
    return Laid(f"The {len(best)} smallest p values of {len(known)} correlations{where}", head, rows)


def _sentence(found: Analysis) -> str:
    table = found.tables.get("correlations")
    if table is None or table["p"].isna().all():
        return ""
    alpha = found.config.alpha
    sure = table[table["q"] <= alpha]
    tested = count(int(table["p"].notna().sum()), "correlation", "correlations")
    text = f"Of {tested} with clinical scores, {len(sure) or 'none'} {'hold' if len(sure) > 1 else 'holds'} at a false discovery rate of "
    text += percent(alpha)
    fixed = sure[sure[schema.LEVEL] != COMPRESSED]
    pick = fixed if len(fixed) else sure
    if not len(pick):
        return f"{text}."
    row = pick.loc[[pick["r"].abs().idxmax()]]
    r = row.iloc[0]
    ends = f"{percent(found.config.confidence)} confidence interval among all {number(r['low_all'])} to {number(r['high_all'])}"
    strongest = f"{features(row)[0]} with {r['score'].replace('_', ' ')}, r {number(r['r'])} (n = {int(r['n'])}; {ends}; q {equals(r['q'])})"
    return f"{text}; the strongest: {strongest}."


def _methods(s: Study) -> str:
    c = s.config.correlate
    table = s.found.tables["correlations"]
    kind = {"spearman": "Spearman's rank", "pearson": "Pearson's"}[c.method]
    who = "cases" if c.who == "cases" else "all participants"
    covariates = s.varying(c.covariates)
    partial = f" with {listed(covariates)} taken out of both sides" if covariates else ""
    wide = ", widened for ranks [@bonett]" if c.method == "spearman" else ""
    return (
        f"Features of {who} were correlated with {listed(dict.fromkeys(table['score']))} by {kind} correlation{partial}, with {s.interval}s on "
        f"Fisher's z{wide}; the false discovery rate was controlled over {s.family} with all scores [@fdr]."
    )


SECTION = SECTION_KINDS.add(Section(
    "correlations", "Correlation with clinical scores", compute=compute, sentence=_sentence, heading="Correlations", methods=_methods, finding=True,
    laid=(strongest,), figures=(individual.score_scatter, by_region.correlations),
    tables={
        "correlations": Table(
            "Features against scores", "Every feature correlated with every clinical score.",
            {
                **FEATURE_WORDS, "score": Column("clinical score, a column of participants.tsv"), "method": Column("spearman or pearson"),
                "n": Column("people with both values and all covariates", "people"), "r": Column("correlation, -1 to 1"),
                **ends("confidence interval of the correlation"), "t": Column("t statistic"), "df": Column("degrees of freedom"), "p": P,
                "q": Column("p value adjusted for the false discovery rate over all scores, within the family of features"),
                **ends("interval of the correlation such that those of all hold at once", end="_all"),
            },
            shown=(FEATURE_COLUMN, "score", "n", "r", "low", "high", "p", "q"), order="p",
        ),
    },
))  # fmt: skip
