"""How far each case is from healthy people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.arrays import BoolArray
from cohort_engine.analysis.norms import Deviation, centile_curves, deviation, fit_norm
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError, StoreError
from cohort_engine.figures import by_region, people_figures
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.choice import Choice
from cohort_engine.query.question import Query
from cohort_engine.query.reader import PROFILE_VARIABLES
from cohort_engine.sections.base import (
    FEATURE,
    FEATURE_COLUMN,
    FEATURE_WORDS,
    N_CASE,
    OWN,
    PERSON,
    Column,
    Section,
    Table,
    Tables,
    mean_of,
    sd_of,
)
from cohort_engine.study.format import listed, percent
from cohort_engine.study.material import (
    COMPRESSED,
    ESTIMATOR,
    METRIC,
    FloatArray,
    Material,
    in_order,
    read_features,
)
from cohort_engine.study.norms import Norms, against, is_norms, read_norms
from cohort_engine.study.people import IDENTITY, check_covariate, in_time, subject_table
from cohort_engine.study.result import Analysis, Study
from cohort_engine.template.levels import WHOLE_CORD

BAND = (5.0, 50.0, 95.0)
"""Centiles of the healthy band along the cord."""
OWN_CONTROLS, CURVES = "own controls", "centile curves"
"""What the healthy people of a feature are."""
PARTS = 20
"""Parts in which healthy people are held out and judged by the others, where there is nobody else to judge."""
DEVIATION = ("expected", "lower", "upper", "z", "centile")
"""What `Deviation` has of each person."""


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """How far each case is from healthy people, and the healthy band along the cord."""
    controls = m.people.group == 0
    if not controls.any() and not config.norms.reference:
        raise NotEnoughError(
            expected="healthy people", found="none", where="analysis.norms", remedy="Name others in analysis.norms.reference: a cohort, or norms."
        )
    judged = np.full(len(controls), True) if controls.all() else ~controls
    wanted = config.norms.covariates
    curves = read_norms(config.norms.reference) if config.norms.reference and is_norms(config.norms.reference) else None
    if config.norms.reference and curves is None:
        healthy, given, where = _reference(m, config)
    else:
        healthy, where = m.values[controls], OWN_CONTROLS
        given = {n: v[controls] for n, v in m.people.covariates(wanted).items()}
    given = {n: v for n, v in given.items() if n in m.people.table and len(set(map(str, v))) > 1}
    cases = m.values[judged]
    if where == OWN_CONTROLS and controls.all():
        found = _among_themselves(healthy, given, config)
    else:
        found = deviation(fit_norm(healthy, given), cases, {n: m.people.column(n)[judged] for n in given}, level=config.confidence)
    source, n_reference = np.full(len(m.features), where, dtype=object), found.n.copy()
    if curves is not None:
        _by_curves(m, config, curves, found, source, n_reference, judged)
    who = m.people.table.loc[judged, list(IDENTITY)].reset_index(drop=True)
    at = np.argwhere(np.isfinite(found.z))
    table = who.iloc[at[:, 0]].reset_index(drop=True)
    for key in FEATURE:
        table[key] = m.features[key].to_numpy()[at[:, 1]]
    cells = tuple(at.T)
    table["value"] = cases[cells]
    table["se"] = m.errors[judged][cells] if m.errors.size else np.nan
    for key in DEVIATION:
        table[key] = getattr(found, key)[cells]
    outside = (cases < found.lower) | (cases > found.upper)
    known = np.isfinite(found.z)
    summary = m.features[FEATURE].assign(reference=source, n_reference=n_reference, n_case=known.sum(axis=0), outside=(outside & known).sum(axis=0))
    summary["below"] = (known & (cases < found.lower)).sum(axis=0)
    summary["z_mean"] = mean_of(found.z)
    out = {"norms": table, "norms_summary": summary}
    return out | {"profiles": _bands(m)} if m.profiles else out


def _among_themselves(values: FloatArray, given: dict[str, NDArray[Any]], config: AnalysisConfig) -> Deviation:
    """Healthy people alone: each part of them against all others."""
    part = np.random.default_rng(config.seed).permutation(len(values)) % min(PARTS, len(values))
    out: dict[str, FloatArray] = {key: np.full(values.shape, np.nan) for key in DEVIATION}
    for k in range(int(part.max()) + 1):
        mine = part == k
        norm = fit_norm(values[~mine], {n: v[~mine] for n, v in given.items()})
        found = deviation(norm, values[mine], {n: v[mine] for n, v in given.items()}, level=config.confidence)
        for key in DEVIATION:
            out[key][mine] = getattr(found, key)
    return Deviation(n=np.isfinite(values).sum(axis=0).astype(float), **out)


def _by_curves(
    m: Material, config: AnalysisConfig, norms: Norms, found: Deviation, source: NDArray[Any], n_reference: FloatArray, judged: BoolArray
) -> None:
    """Put what norms say in the place of the own controls, for the features that they have."""
    measured = [(str(f[METRIC]), str(f[schema.LEVEL])) for f in m.features.to_dict("records")]
    at = [i for i, feature in enumerate(measured) if norms.find(*feature) is not None]
    if not at:
        raise StoreError(
            expected="features that the norms have", found="none", where="analysis.norms.reference",
            remedy=f"They are {', '.join(dict.fromkeys(name for name, _ in norms.features))} at single levels.",
        )  # fmt: skip
    controls = m.people.group == 0
    far = against(norms, [measured[i] for i in at], m.values[:, at], m.people.table, controls, config.confidence)
    for key in DEVIATION:
        getattr(found, key)[:, at] = getattr(far, key)[judged]
    people = sum(norms.made_of.values())
    for i in at:
        source[i] = f"{CURVES} of {people} people, placed by {int(np.isfinite(m.values[controls, i]).sum())} controls"
        n_reference[i] = norms.curves.n[norms.find(*measured[i])]


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


def _centiles(profiles: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """Centiles (level, z) of profiles (subject, z); NaN where there are no people."""
    return centile_curves(profiles, levels) if len(profiles) else np.full((len(levels), profiles.shape[1]), np.nan)


def _bands(m: Material) -> pd.DataFrame:
    """Centiles of the controls and mean of the cases along the cord, slice by slice."""
    parts = []
    for measure, profile in m.profiles.items():
        healthy, cases = (profile.values[m.people.group == g] for g in (0, 1))
        low, middle, high = _centiles(healthy, BAND)
        (half,) = _centiles(cases, (50.0,))
        parts.append(pd.DataFrame({
            "measure": measure, "units": profile.units, "z_mm": m.z, schema.LEVEL_NUMBER: m.z_level, "control_low": low, "control_median": middle,
            "control_high": high, "control_mean": mean_of(healthy), "case_median": half,
            "case_mean": mean_of(cases), "case_sd": sd_of(cases),
            "n_control": np.isfinite(healthy).sum(axis=0), "n_case": np.isfinite(cases).sum(axis=0),
        }))  # fmt: skip
    out = pd.concat(parts, ignore_index=True)
    return out[(out["n_control"] > 0) | (out["n_case"] > 0)].reset_index(drop=True)


def _sentence(found: Analysis) -> str:
    table = found.tables.get("norms_summary")
    if table is None or not table["n_case"].sum():
        return ""
    level = found.config.confidence
    whose = "cases'" if found.material.people.case else "held-out people's"
    text = f"{percent(table['outside'].sum() / table['n_case'].sum())} of the {whose} values lie outside the {percent(level)} range of healthy people"
    return f"{text}, where {percent(1 - level)} of healthy people's do."


def _methods(s: Study) -> str:
    covariates = s.varying(s.config.norms.covariates)
    sources = s.found.tables["norms_summary"]["reference"]
    curves = sources[sources.str.startswith(CURVES)]
    reference = sources.drop(curves.index).iloc[0] if len(curves) < len(sources) else OWN_CONTROLS
    people = "the controls" if reference == OWN_CONTROLS else f"healthy people ({reference})"
    given = f", regressed on {listed(covariates)}," if covariates else ""
    who = "Each case" if s.people.case else f"Each twentieth of the people, held out in turn (seed {s.config.seed}),"
    text = (
        f"{who} was compared with {people}{given} by Student's t for one more healthy person [@crawford], with {100 * s.config.confidence:g}% "
        "prediction intervals."
    )
    if len(curves):
        text += (
            f" For {len(curves)} measures of shape the norm were {curves.iloc[0]}: location, scale and shape by age and sex [@rigby], with a "
            "sinh-arcsinh distribution [@jones]; the controls gave the location of the site and part of its spread."
        )
    if s.has("profiles"):
        text += " Bands along the cord were the 5th, 50th and 95th centiles of the controls, slice by slice (type 6 [@hyndman])."
    return text


SECTION = SECTION_KINDS.add(Section(
    "norms", "Distance from healthy people", compute=compute, sentence=_sentence, heading="Healthy reference", methods=_methods,
    figures=(people_figures.profiles, by_region.norm_deviations),
    tables={
        "norms": Table(
            "Each case against healthy people", "Every feature of every case, with what healthy people of the same covariates have.",
            {
                **PERSON, **FEATURE_WORDS, "value": Column("value of the person", OWN),
                "se": Column("standard error of the value as measured; missing where its estimator has none", OWN),
                "expected": Column("mean of healthy people of these covariates; with centile curves their median", OWN),
                "lower": Column("lower end of the prediction interval for one healthy person", OWN),
                "upper": Column("upper end of the prediction interval for one healthy person", OWN),
                "z": Column("value minus expected over the standard deviation of healthy people; of centile curves the normal deviate"),
                "centile": Column("share of healthy people below, by Student's t or centile curves", "percent"),
            },
            shown=(schema.SUBJECT, FEATURE_COLUMN, "units", "value", "expected", "lower", "upper", "z", "centile"), order="|z",
        ),
        "norms_summary": Table(
            "Cases outside the healthy range", "How many cases lie outside the prediction interval of healthy people, feature by feature.",
            {
                **FEATURE_WORDS, "reference": Column("who the healthy people are"), "n_reference": Column("healthy people", "people"),
                "n_case": N_CASE,
                "outside": Column("cases outside the prediction interval", "people"), "below": Column("cases below it", "people"),
                "z_mean": Column("mean of z over the cases"),
            },
            shown=(FEATURE_COLUMN, "reference", "n_reference", "n_case", "outside", "below", "z_mean"), order="-outside",
        ),
        "profiles": Table(
            "Along the cord", "Healthy band and cases, slice by slice of the template.",
            {
                "measure": Column("measure of shape"), "units": Column("its unit"), "z_mm": Column("height in the template", "mm"),
                schema.LEVEL_NUMBER: Column("vertebral level, 1 = C1, 8 = T1, 0 = none"),
                "control_low": Column("5th centile of the controls", OWN), "control_median": Column("median of the controls", OWN),
                "control_high": Column("95th centile of the controls", OWN), "control_mean": Column("mean of the controls", OWN),
                "case_median": Column("median of the cases", OWN),
                "case_mean": Column("mean of the cases", OWN), "case_sd": Column("standard deviation of the cases", OWN),
                "n_control": Column("controls with this slice", "people"), "n_case": Column("cases with this slice", "people"),
            },
        ),
    },
))  # fmt: skip
