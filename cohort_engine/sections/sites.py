"""Means of each scanner, what harmonisation removed, and whether a classifier still tells the scanner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.site_check import tell_site
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import people_figures
from cohort_engine.figures.people_figures import told_sites
from cohort_engine.sections.base import (
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    GROUP,
    OWN,
    SITE,
    Column,
    Section,
    Table,
    Tables,
    ends,
    mean_of,
    sd_of,
)
from cohort_engine.study.material import (
    METRIC,
    Material,
    harmonise_keeps,
)
from cohort_engine.study.result import Analysis


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Means of each scanner before and after harmonisation, what was removed, and whether a classifier still tells the scanner."""
    name = config.harmonise.site or schema.SITE
    if name not in m.people.table or len(m.people.covariates([name])) == 0:
        raise NotEnoughError(expected="several sites", found="one, or none named", where=f"column {name}", remedy="There is nothing to compare.")
    place = np.array([str(v) for v in m.people.column(name)])
    parts = []
    for where in sorted(set(place) - {""}):
        for code, group in m.people.groups:
            rows = (place == where) & (m.people.group == code)
            part = m.features[FEATURE].assign(site=where, group=group, n=np.isfinite(m.raw[rows]).sum(axis=0), mean=mean_of(m.raw[rows]))
            part["sd"], part["mean_harmonised"], part["sd_harmonised"] = sd_of(m.raw[rows]), mean_of(m.values[rows]), sd_of(m.values[rows])
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


def _sentence(found: Analysis) -> str:
    table = found.tables.get("site_check")
    if table is None or not len(table):
        return ""
    return f"{told_sites(table)}."


SECTION = SECTION_KINDS.add(Section(
    "sites", "Scanners and sites", compute=compute, sentence=_sentence,
    figures=(people_figures.sites,),
    tables={
        "sites": Table(
            "Means of the sites", "Every feature, site by site and group by group, before and after harmonisation.",
            {
                **FEATURE_WORDS, "site": SITE, "group": GROUP, "n": Column("people with a value", "people"), "mean": Column("mean as measured", OWN),
                "sd": Column("standard deviation as measured", OWN), "mean_harmonised": Column("mean after harmonisation; the same without", OWN),
                "sd_harmonised": Column("standard deviation after harmonisation; the same without", OWN),
                "cv": Column("coefficient of variation as measured", "percent"),
            },
            shown=(FEATURE_COLUMN, "units", "site", "group", "n", "mean", "sd", "mean_harmonised", "cv"),
        ),
        "harmonisation": Table(
            "What harmonisation removed", "Shift and scale of each site in each feature.",
            {
                **FEATURE_WORDS, "site": SITE, "shift": Column("what was subtracted, as estimated by ComBat", OWN),
                "scale": Column("what the spread was divided by"), "n": Column("people of the site", "people"),
            },
            shown=(FEATURE_COLUMN, "units", "site", "shift", "scale", "n"), order="|shift",
        ),
        "site_check": Table(
            "Can the site still be told?", "How well a classifier tells the site of people who were held out from it, and "
            "from the harmonisation.",
            {
                "when": Column("before or after harmonisation"), "accuracy": Column("balanced accuracy"),
                "chance": Column("mean accuracy when sites are dealt out by chance within the groups"),
                **ends("interval that holds the accuracy by chance"), "p": Column("how often chance reaches the accuracy"),
                "n": Column("people", "people"),
                "left_out": Column("people without a site, value or covariate, and those of sites of fewer than three", "people"),
                "folds": Column("parts of the cross-validation"),
            },
        ),
    },
))  # fmt: skip
