"""Agreement of repeated sessions of the same people."""

from __future__ import annotations

import numpy as np

from cohort_engine.analysis import agreement
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import by_region, people_figures
from cohort_engine.sections.base import (
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    OWN,
    Column,
    Section,
    Table,
    Tables,
    ends,
)
from cohort_engine.study.format import number
from cohort_engine.study.material import (
    Material,
)
from cohort_engine.study.result import Analysis, Study


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Agreement of repeated sessions of the same people, feature by feature."""
    x = m.repeats
    if x is None:
        raise NotEnoughError(
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


def _sentence(found: Analysis) -> str:
    table = found.tables.get("repeats")
    if table is None or table["icc21"].isna().all():
        return ""
    low, middle, high = np.nanpercentile(table["icc21"], [25, 50, 75])
    n = int(table["n"].max())
    return f"Repeated scans of {n} people agree with a median ICC(2,1) of {middle:.2f} over the features (quartiles {number(low)} to {number(high)})."


def _methods(s: Study) -> str:
    table = s.found.tables["repeats"]
    return (
        f"Agreement of {int(table['sessions'].max())} sessions of the same people (up to {int(table['n'].max())}), as measured, was given by "
        f"ICC(2,1) and ICC(3,1) [@shrout] with {s.interval}s [@mcgraw], the standard error of measurement and minimal detectable change [@weir], the "
        "coefficient of variation within people [@altman], and the limits of agreement of the first two sessions [@bland]."
    )


SECTION = SECTION_KINDS.add(Section(
    "repeats", "Agreement of repeated scans", compute=compute, sentence=_sentence, heading="Agreement", methods=_methods,
    figures=(by_region.repeat_agreement, people_figures.repeat_differences),
    tables={
        "repeats": Table(
            "Agreement of sessions", "Every feature in the people who were scanned several times, as measured.",
            {
                **FEATURE_WORDS, "n": Column("people with all sessions", "people"), "sessions": Column("sessions of each person"),
                "icc21": Column("ICC(2,1), absolute agreement"), **ends("confidence interval of ICC(2,1)", name="icc21_"),
                "icc31": Column("ICC(3,1), consistency"), **ends("confidence interval of ICC(3,1)", name="icc31_"),
                "sem": Column("standard error of measurement", OWN), "mdc": Column("minimal detectable change", OWN),
                "cv": Column("coefficient of variation within people", "percent"), "bias": Column("first session minus second, on average", OWN),
                **ends("limits of agreement of the first two sessions", OWN, name="limit_"),
            },
            shown=(FEATURE_COLUMN, "units", "n", "icc21", "icc21_low", "icc21_high", "sem", "mdc", "cv", "bias"), order="-icc21",
        ),
    },
))  # fmt: skip
