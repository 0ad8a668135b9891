"""How people changed between their sessions: groups, and single people against what is noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from cohort_engine import schema
from cohort_engine.analysis.change import changed, compare_change, fit_change
from cohort_engine.analysis.groups import false_discovery
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import Drawn
from cohort_engine.sections.base import FEATURE, FEATURE_COLUMN, FEATURE_WORDS, GROUP, OWN, PERSON, Column, P, Section, Table, Tables, ends
from cohort_engine.study.format import equals, number, percent
from cohort_engine.study.material import KEYS, Material, label
from cohort_engine.study.people import YEAR
from cohort_engine.study.result import Analysis, Study

ALL, DIFFERENCE = "everybody", "difference"


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Slopes of groups over time, and who changed more than the reference does: the controls, or everybody where too few of these came again."""
    s = m.sessions
    if s is None:
        raise NotEnoughError(
            expected="people with several sessions", found="none", where="subject table", remedy="This section is for studies that scanned twice."
        )
    names = dict(m.people.groups)
    members = {name: s.group == code for code, name in names.items() if len(set(s.person[s.group == code].tolist())) >= config.least}
    if not members:  # too few of each, but perhaps not of all
        members = {ALL: np.ones(len(s.person), bool)}
    fits = {name: fit_change(s.values[r], s.person[r], s.time[r], confidence=config.confidence) for name, r in members.items()}
    if max(int(fit.n.max()) for fit in fits.values()) < config.least:
        raise NotEnoughError(
            expected=f"{config.least} people with several sessions", found="fewer", where="subject table",
            remedy="Scan more of them again, or lower analysis.least.",
        )  # fmt: skip
    parts = []
    for name, fit in fits.items():
        p = np.where(fit.n >= config.least, fit.p, np.nan)
        part = m.features[FEATURE].assign(group=name, n=fit.n, sessions=fit.sessions, follow_up=fit.follow_up, slope=fit.slope, se=fit.se)
        parts.append(part.assign(low=fit.low, high=fit.high, df=fit.df, p=p, q=np.nan, between=fit.between, sem=fit.sem))
    if len(fits) == 2:
        both = compare_change(*fits.values(), confidence=config.confidence)
        n = np.min([fit.n for fit in fits.values()], axis=0)
        p = np.where(n >= config.least, both.p, np.nan)
        part = m.features[FEATURE].assign(group=DIFFERENCE, n=n, slope=both.effect, se=both.se, low=both.low, high=both.high, df=both.df)
        parts.append(part.assign(p=p))
    slopes = pd.concat(parts, ignore_index=True).assign(per=s.unit)
    slopes["q"] = false_discovery(slopes["p"])
    slopes = slopes[slopes["slope"].notna()].reset_index(drop=True)

    reference = names[0.0] if names.get(0.0) in fits else ALL
    against = fits[reference] if reference in fits else fit_change(s.values, s.person, s.time, confidence=config.confidence)
    far = changed(against, s.values, s.person, s.time, confidence=config.confidence)
    p = np.where(against.n >= config.least, far.p, np.nan)
    q = false_discovery(p)  # of everybody: with a family a person one in twenty people would be a finding
    begins = pd.Series(s.person).astype(str).drop_duplicates()
    first = pd.Series(begins.index, begins).loc[list(far.people)].to_numpy()
    group = s.group[first]
    at = np.argwhere(np.isfinite(p))
    cells = tuple(at.T)
    people = pd.DataFrame({schema.SUBJECT: s.subject[first[at[:, 0]]], schema.PARTICIPANT: far.people[at[:, 0]]})
    people[schema.GROUP] = np.array([names.get(g, "") for g in group], dtype=object)[at[:, 0]]
    for key in FEATURE:
        people[key] = m.features[key].to_numpy()[at[:, 1]]
    for key in ("years", "change", "expected", "limit"):
        people[key] = getattr(far, key)[cells]
    people["p"], people["q"], people["beyond"] = p[cells], q[cells], far.beyond[cells]
    people = people.rename(columns={"years": "time"})
    known = np.isfinite(p)
    limits = m.features[FEATURE].assign(reference=reference, n_reference=against.n, follow_up=against.follow_up, mdc=far.mdc)
    for code, name in ((0.0, "control"), (1.0, "case")):  # a group that is not there has nobody
        own = group == code
        limits[f"n_{name}"] = known[own].sum(axis=0)
        limits[f"beyond_{name}"] = (far.beyond & known)[own].sum(axis=0)
    limits["by_chance"] = (1 - config.confidence) * known.sum(axis=0)
    return {"change": slopes, "change_limits": limits, "change_people": people}


def _sentence(found: Analysis) -> str:
    table, people = found.tables.get("change"), found.tables.get("change_people")
    if table is None or people is None or not len(table):
        return ""
    alpha = found.config.alpha
    out = []
    for name in table["group"].unique():
        rows = table[(table["group"] == name) & (table["q"] <= alpha)]
        if not len(rows):
            continue
        row = rows.sort_values("p", kind="stable").to_dict("records")[0]
        what = label(*(str(row[k]) for k in KEYS))
        by = f"{number(row['slope'])} {row['units']} a {row['per']} ({number(row['low'])} to {number(row['high'])}"
        who = "between the groups" if name == DIFFERENCE else f"in {name}"
        out.append(f"{what} changed {who} by {by}; {int(row['n'])} people, q {equals(row['q'])})")
    beyond = people[people["q"] <= alpha][schema.SUBJECT].nunique()
    total = people[schema.SUBJECT].nunique()
    text = "; ".join(out) if out else f"No feature changed with time in any group (q ≤ {alpha:g})"
    return f"{text}. {beyond} of {total} people changed in some feature more than noise and the change of the others explain (q ≤ {alpha:g})."


def _methods(s: Study) -> str:
    limits = s.found.tables["change_limits"]
    unit = s.found.tables["change"]["per"].iloc[0] if len(s.found.tables["change"]) else YEAR
    return (
        f"Change was measured within people: the slope of each over time ({unit}s), pooled in a linear mixed model with a free intercept and a "
        "random slope of each person [@laird], with a robust error, and compared between groups with Satterthwaite's degrees of freedom. A person "
        f"changed more than noise where first to last session lay further from the change of the reference ({limits['reference'].iloc[0]}, up to "
        f"{int(limits['n_reference'].max())} people) than in {percent(s.config.confidence)} of further people like these; the minimal detectable "
        "change is that limit at the median time [@jacobson, @weir]. The slopes of all groups were one family for the false discovery rate, and "
        "so were the changes of all people."
    )


def _trajectories(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Every person's line over time, for the two features that change most surely."""
    table, s = drawing.table(found, "change"), found.material.sessions
    if table is None or s is None or not len(table):
        return []
    m = found.material
    chosen = list(dict.fromkeys(table.sort_values("p", kind="stable").dropna(subset=["p"])[list(KEYS)].itertuples(index=False, name=None)))[:2]
    if not chosen:
        return []
    figure = drawing.page(80, 90 * len(chosen) if len(chosen) > 1 else 110)
    said = []
    for axis, key in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        i = int(np.flatnonzero(np.logical_and.reduce([m.features[k] == v for k, v in zip(list(KEYS), key, strict=True)]))[0])
        start = pd.Series(s.time).groupby(s.person).transform("min").to_numpy()
        for code, colour in ((0.0, drawing.CONTROL_COLOUR), (1.0, drawing.CASE_COLOUR)):
            for person in dict.fromkeys(s.person[s.group == code].tolist()):
                rows = (s.person == person) & np.isfinite(s.values[:, i])
                axis.plot((s.time - start)[rows], s.values[rows, i], color=colour, alpha=0.4, linewidth=0.7, marker="o", markersize=2)
        unit = str(m.features.at[i, "units"])
        axis.set_title(label(*key))
        axis.set_xlabel(f"time since first session ({s.unit}s)")
        axis.set_ylabel(drawing.with_unit("value", drawing.scale(unit)))
        rows_of = table[np.logical_and.reduce([table[k] == v for k, v in zip(list(KEYS), key, strict=True)])]
        said += [
            f"{label(*key)}, {r.group}: {number(r.slope)} a {r.per}, {number(r.low)} to {number(r.high)} (n = {int(r.n)})"
            for r in rows_of.itertuples()
        ]
    caption = drawing.sentences("Every person's sessions, joined, in the features whose change is surest.", f"{'; '.join(said)}.")
    return [Drawn("trajectories", "change", "Change over time", caption, ("change", "change_people"), figure)]


SECTION = SECTION_KINDS.add(Section(
    "change", "Change over time", compute=compute, sentence=_sentence, heading="Change over time", methods=_methods, figures=(_trajectories,),
    tables={
        "change": Table(
            "Change of each group", "Slope over time of every feature within the people of each group, and the difference of the groups.",
            {
                **FEATURE_WORDS, "group": Column("group, or difference: cases minus controls"),
                "n": Column("people with two times or more; of a difference, of the smaller group", "people"),
                "sessions": Column("their sessions"), "follow_up": Column("median time from first to last session", "of the column per"),
                "slope": Column("mean change of a person in one unit of time", OWN), "se": Column("standard error of the slope", OWN),
                **ends("confidence interval of the slope", OWN), "df": Column("degrees of freedom"), "p": P,
                "q": Column("p value adjusted for the false discovery rate over the slopes of all groups and their difference"),
                "between": Column("standard deviation of people's own slopes", OWN),
                "sem": Column("standard deviation of a session about the person's line; missing with too few third sessions", OWN),
                "per": Column("unit of time"),
            },
            shown=(FEATURE_COLUMN, "units", "group", "n", "slope", "low", "high", "q", "per"), order="p",
        ),
        "change_limits": Table(
            "Minimal detectable change", "How far first and last session of a person must differ to be more than noise, and how many do.",
            {
                **FEATURE_WORDS, "reference": Column("whose change is the yardstick"), "n_reference": Column("its people", "people"),
                "follow_up": Column("median time from first to last session of the reference"),
                "mdc": Column("minimal detectable change in that time", OWN), "n_control": Column("controls with two times or more", "people"),
                "beyond_control": Column("controls who changed more", "people"), "n_case": Column("cases with two times or more", "people"),
                "beyond_case": Column("cases who changed more", "people"), "by_chance": Column("people expected to seem so by chance", "people"),
            },
            shown=(FEATURE_COLUMN, "units", "reference", "n_reference", "mdc", "n_control", "beyond_control", "n_case", "beyond_case", "by_chance"),
            order="-beyond_case",
        ),
        "change_people": Table(
            "Change of each person", "First to last session of every person and feature, against what the reference changes in that time.",
            {
                **{k: PERSON[k] for k in (schema.SUBJECT, schema.PARTICIPANT)}, "group": GROUP, **FEATURE_WORDS,
                "time": Column("time from first to last session"), "change": Column("last minus first value", OWN),
                "expected": Column("change of the reference in that time", OWN),
                "limit": Column("distance from the expected change that is still noise", OWN), "p": P,
                "q": Column("p value adjusted for the false discovery rate over all people and features"),
                "beyond": Column("whether the change is further from the expected one than the limit"),
            },
            shown=(schema.SUBJECT, "group", FEATURE_COLUMN, "units", "time", "change", "expected", "limit", "q"), order="p",
        ),
    },
))  # fmt: skip
