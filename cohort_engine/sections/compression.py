"""Where each cord is compressed most, and how much."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.compression import NONE, UNKNOWN
from cohort_engine.analysis.roc import auc
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import people_figures
from cohort_engine.sections.base import (
    AUC,
    AUC_HIGH,
    AUC_LOW,
    GROUP,
    N_CASE,
    N_CONTROL,
    PERSON,
    Column,
    Section,
    Table,
    Tables,
)
from cohort_engine.study.format import percent
from cohort_engine.study.material import (
    Material,
)
from cohort_engine.study.people import IDENTITY
from cohort_engine.study.result import Analysis, Study


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Where each cord is compressed most, and how much against the levels away from it."""
    c = m.compression
    if c is None:
        raise NotEnoughError(expected="a place of compression", found="none", where="analysis.compression", remedy=m.compression_problem)
    out = m.people.table[list(IDENTITY)].copy()
    out[schema.GROUP] = np.where(m.people.group == 1, m.people.case, m.people.control)
    out["site_of_compression"] = c.site
    out["narrowest_level"] = [schema.LEVEL_NAMES[n - 1] if n else "" for n in c.level]
    out["z_mm"] = np.where(c.z >= 0, m.z[c.z], np.nan)
    out["ratio"], out["mscc"], out["mscc_plain"], out["margin"] = c.smallest, 100 * (1 - c.smallest), 100 * (1 - c.plain), c.margin
    out["remote"], out["against_remote"] = c.remote, c.against_remote
    counts = pd.DataFrame([
        {schema.GROUP: name, "level": level, "people": int(np.sum((m.people.group == code) & (np.array(c.site) == level)))}
        for code, name in m.people.groups for level in dict.fromkeys(sorted(c.site))
    ])  # fmt: skip
    known = np.isfinite(c.smallest)
    summary = pd.DataFrame([{
        "measure": config.compression.measure, "limit": c.limit, "n_limit": c.n_limit, "auc": np.nan, "auc_low": np.nan, "auc_high": np.nan,
        **{f"n_{word}": int((known & (m.people.group == code)).sum()) for code, word in ((0, "control"), (1, "case"))},
    }])  # fmt: skip
    if len(m.people.groups) > 1:
        found = auc(-c.smallest[:, None], m.people.group, confidence=config.confidence, max_missing=config.max_missing)
        summary[["auc", "auc_low", "auc_high"]] = found.auc[0], found.low[0], found.high[0]
    return {"compression": out, "compression_levels": counts, "compression_summary": summary}


def _sentence(found: Analysis) -> str:
    table = found.tables.get("compression")
    if table is None:
        return ""
    people = found.material.people
    parts = []
    for _, name in reversed(people.groups):
        site = table.loc[table[schema.GROUP] == name, "site_of_compression"]
        known = int((site != UNKNOWN).sum())
        parts.append(f"{int((~site.isin([NONE, UNKNOWN])).sum())} of {known} {name}")
    where = table.loc[~table["site_of_compression"].isin([NONE, UNKNOWN]) & (table[schema.GROUP] == people.case), "site_of_compression"]
    most = f", in cases most often at {where.mode().iloc[0]} ({int((where == where.mode().iloc[0]).sum())})" if len(where) else ""
    text = f"The cord is compressed in {' and '.join(parts)}{most}."
    s = found.tables["compression_summary"].iloc[0]
    if np.isnan(s["auc"]):
        return text
    level = percent(found.config.confidence)
    text += f" The smallest ratio tells cases from controls with an area under the ROC curve of {s['auc']:.2f} (n = {int(s['n_control'])} + "
    return f"{text}{int(s['n_case'])}; {level} confidence interval {s['auc_low']:.2f} to {s['auc_high']:.2f})."


def _methods(s: Study) -> str:
    c = s.config.compression
    measure = "front-to-back diameter" if c.measure == schema.DIAMETER_AP else "cross-sectional area"
    limit = int(s.found.tables["compression_summary"]["n_limit"].iloc[0])
    return (
        f"Maximal spinal cord compression was found on the {measure} along the template [@miyanji, @valosek]: each profile was divided by the mean "
        f"of the controls, and each slice from {c.search[0]} to {c.search[1]} compared with {c.extent:g} mm of cord above and below, "
        f"{c.gap:g} mm away. The smallest ratio marked the place; a cord counted as compressed below the ratio that only "
        f"{100 * (1 - c.specificity):.3g}% of {limit} controls fell below (quantile of type 6 [@hyndman]). {c.remote} was the level away from "
        "the compression."
    )


SECTION = SECTION_KINDS.add(Section(
    "compression", "Compression of the cord", compute=compute, sentence=_sentence, heading="Compression", methods=_methods, finding=True,
    figures=(people_figures.compression,),
    tables={
        "compression": Table(
            "Compression of each person", "Where the cord is narrowest against its neighbourhood and healthy people, and how much.",
            {
                **PERSON, "group": GROUP,
                "site_of_compression": Column("level of the compression; none where the ratio is above the limit, unknown without a profile"),
                "narrowest_level": Column("level of the smallest ratio, whether it counts as compressed or not"),
                "z_mm": Column("height of that slice in the template", "mm"),
                "ratio": Column("smallest ratio of a slice to the slices above and below, after division by the healthy mean; 1 is healthy"),
                "mscc": Column("maximal spinal cord compression, 100 (1 - ratio)", "percent"),
                "mscc_plain": Column("the same of that slice without division by the healthy mean", "percent"),
                "margin": Column("limit minus ratio: above 0 the cord counts as compressed"),
                "remote": Column("mean of the profile at the remote levels over that of healthy people"),
                "against_remote": Column("slice over the healthy mean, over remote; missing where the slice lies in the remote levels"),
            },
            order="ratio",
        ),
        "compression_levels": Table(
            "Levels of compression", "How many people of each group are compressed at each level.",
            {"group": GROUP, "level": Column("level of the compression, none or unknown"), "people": Column("number of people", "people")},
        ),
        "compression_summary": Table(
            "Limit of compression", "The limit that was taken from the controls, and how well the ratio tells cases from controls.",
            {
                "measure": Column("profile that was searched"), "limit": Column("ratio below which a cord counts as compressed"),
                "n_limit": Column("controls that the limit was taken from", "people"), "auc": AUC, "auc_low": AUC_LOW, "auc_high": AUC_HIGH,
                "n_control": N_CONTROL, "n_case": N_CASE,
            },
        ),
    },
))  # fmt: skip
