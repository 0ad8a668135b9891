"""What an analysis found, in a paragraph; who was left out; and the table of characteristics as papers lay it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.analysis.cluster import SURE
from cohort_engine.analysis.compression import NONE, UNKNOWN
from cohort_engine.analysis.groups import MANN_WHITNEY
from cohort_engine.report.material import COMPRESSED
from cohort_engine.report.show import NOTHING, digits_of, equals, features, number, p_value

if TYPE_CHECKING:
    from cohort_engine.report.analyse import Analysis

SAME = 1e-6
"""Spread over the mean up to which a feature counts as the same in everybody: rounding."""


@dataclass(frozen=True)
class Count:
    """A step of the way from everybody to those who are analysed."""

    text: str
    n: int


def flow(found: Analysis) -> list[Count]:
    """Count everybody, those left out for each reason, and the groups."""
    people = found.material.people
    reasons = people.excluded["reason"].map(lambda r: r if ", allowed " not in r else f"{r.split(' is ')[0]} outside its limits")
    steps = [Count("scans in the cohort", len(people.table) + len(people.excluded))]
    steps += [Count(f"left out: {reason}", int(n)) for reason, n in reasons.value_counts().items()]
    steps.append(Count("people analysed", len(people.table)))
    return steps + [
        Count(f"{name} ({kind})", int((people.group == g).sum())) for g, name, kind in ((0, people.control, "controls"), (1, people.case, "cases"))
    ]


def table_one(found: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the characteristics: mean (SD) or n (%) of each group, and p.

    Returns
    -------
    head : tuple of str
    rows : list of tuple of str
    """
    people = found.material.people
    n = [int((people.group == g).sum()) for g in (0, 1)]
    head = ("", f"{people.control} (n = {n[0]})", f"{people.case} (n = {n[1]})", "p")
    table = found.tables["characteristics"]
    rows: list[tuple[str, ...]] = []
    for name, part in table.groupby("variable", sort=False):
        title = str(name).replace("_", " ")
        p = p_value(float(part["p"].iloc[0]))
        words = [w for w in part["category"].drop_duplicates() if w != ""]
        by = {(r["category"], r[schema.GROUP]): r for r in part.to_dict("records")}
        if not words:
            digits = min(digits_of(part["sd"]), digits_of(part["mean"]), 2) or 1
            cells = [_mean(by[("", g)], digits, total) for g, total in zip((people.control, people.case), n, strict=True)]
            rows.append((f"{title}, mean (SD)", *cells, p))
            continue
        if len(words) == 2 and not any(len(w) > 12 for w in words):
            words, title = words[:1], f"{title}, {words[0]}"
            rows.append((f"{title}, n (%)", *(_share(by[(words[0], g)]) for g in (people.control, people.case)), p))
            continue
        rows.append((f"{title}, n (%)", "", "", p))
        rows += [(f"\u2003{w}", *(_share(by[(w, g)]) for g in (people.control, people.case)), "") for w in words]
    return head, rows


def quality_table(found: Analysis) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lay out the quality numbers, a row each: median and range of each group; head and rows."""
    people = found.material.people
    groups = (people.control, people.case)
    rows = []
    for name, part in found.tables["quality"].groupby("quantity", sort=False):
        by = {r[schema.GROUP]: r for r in part.to_dict("records")}
        digits = min(digits_of(part["largest"]), 3)
        cells = [_range(by[g], digits) if g in by else NOTHING for g in groups]
        rows.append((str(name).replace("_", " "), *cells))
    return ("median (range)", *groups), rows


def _range(row: Mapping[Any, Any], digits: int) -> str:
    middle, low, high = (number(row[k], digits) for k in ("median", "smallest", "largest"))
    return f"{middle} ({low} to {high})"


def _mean(row: Mapping[Any, Any], digits: int, total: int) -> str:
    known = int(row["n"])
    if not known:
        return NOTHING
    return f"{number(row['mean'], digits)} ({number(row['sd'], digits)})" + (f" [n = {known}]" if known < total else "")


def _share(row: Mapping[Any, Any]) -> str:
    known = int(row["n"])
    return f"{int(row['count'])} ({100 * row['count'] / known:.0f}%)" if known else NOTHING


def summarise(found: Analysis) -> dict[str, str]:
    """Say what was found, a sentence or two a section; all numbers are read from the tables. Sections without any are left out."""
    said = {key: sentence(found) for key, sentence in SENTENCES.items()}
    return {key: text for key, text in said.items() if text}


def percent(value: float) -> str:
    """Write a share.

    Examples
    --------
    >>> percent(0.05), percent(0.999)
    ('5%', '99.9%')
    """
    return f"{100 * value:.3g}%"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _people(found: Analysis) -> str:
    people = found.material.people
    n = [int((people.group == g).sum()) for g in (0, 1)]
    out = len(people.excluded)
    text = f"{sum(n)} people were analysed: {n[0]} controls ({people.control}) and {n[1]} cases ({people.case})"
    return f"{text}; {_count(out, 'scan was', 'scans were')} left out." if out else f"{text}."


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
    level = percent(found.about["config"]["confidence"])
    rows = []
    for name, (_, r) in zip(features(best), best.iterrows(), strict=True):
        digits = digits_of([r["effect"], r["low"], r["high"]])
        effect = f"{number(r['effect'], digits)} [{number(r['low'], digits)}, {number(r['high'], digits)}]"
        rows.append({"feature": name, f"effect [{level}]": effect, "unit": "probability" if r["method"] == MANN_WHITNEY else r["units"],
                     r["size_kind"]: number(r["size"]), "q": p_value(r["q"])})  # fmt: skip
    return pd.DataFrame(rows)


def _groups(found: Analysis) -> str:
    table = found.tables.get("groups")
    if table is None:
        return ""
    config, best = found.about["config"], found.findings
    tested = int(table["p"].notna().sum())
    text = (
        f"Of {_count(tested, 'feature', 'features')} tested, {len(best)} {'differs' if len(best) == 1 else 'differ'} between the groups at a false "
    )
    text += f"discovery rate of {percent(config['alpha'])}."
    untested = table[table["p"].isna()]
    spread = untested[["sd_control", "sd_case"]].max(axis=1) <= SAME * untested[["mean_control", "mean_case"]].abs().max(axis=1)
    if flat := int(spread.sum()):
        text += f" {_count(flat, 'further feature does', 'further features do')} not vary and cannot be tested: check the maps."
    if gaps := len(untested) - flat:
        text += f" {_count(gaps, 'further feature cannot', 'further features cannot')} be tested: too many values are missing, or fewer than "
        text += f"{config['least']} people of a group have one."
    if len(best):
        fixed = best[best[schema.LEVEL] != COMPRESSED]
        first = (fixed if len(fixed) else best).head(1)
        text += f" The largest difference: {features(first)[0]}, {finding(first.iloc[0], config['confidence'])}."
    return text


def _roc(found: Analysis) -> str:
    table = found.tables.get("roc")
    if table is None or table["auc"].isna().all():
        return ""
    text = best_marker(found)
    pairs = found.tables.get("roc_pairs")
    if pairs is not None and pairs["q"].notna().any():
        sure = pairs[pairs["q"] <= found.about["config"]["alpha"]].sort_values("p")
        tested = int(pairs["q"].notna().sum())
        text += f" Of {_count(tested, 'pair of features', 'pairs of features')} compared, {len(sure) or 'none'} "
        text += "differs in area." if len(sure) < 2 else "differ in area."
        if len(sure):
            p = sure.iloc[0]
            text += f" The clearest: {p['first']} {p['auc_first']:.2f} against {p['second']} {p['auc_second']:.2f} (n = {int(p['n_control'])} + "
            text += f"{int(p['n_case'])}; difference {number(p['difference'])}, q {equals(p['q'])})."
    return text.strip()


def best_marker(found: Analysis) -> str:
    """Say which of the single markers is the best, with the interval and the p that count that it was chosen."""
    table = found.tables.get("roc_best")
    if table is None or not len(table):
        return ""
    r, config = table.iloc[0], found.about["config"]
    many = int(r["markers"])
    among = "" if many == 1 else f" of {many} markers"
    counted = f"{percent(config['confidence'])} confidence interval{' that counts the choice' if many > 1 else ''} {r['low']:.2f} to {r['high']:.2f}"
    numbers = f"area under the ROC curve {r['auc']:.2f} (n = {int(r['n_control'])} + {int(r['n_case'])}; {counted}; p {equals(r['p'])})"
    if r["p"] > config["alpha"]:
        return f"No single marker tells the groups apart beyond chance: the best{among}, {r['marker']}, reaches an {numbers}."
    return f"The best single marker{among} is {r['marker']}: {numbers}."


def _classifier(found: Analysis) -> str:
    table = found.tables.get("classifier")
    if table is None or table["auc"].isna().all():
        return ""
    r = table.iloc[0]
    area = f"area under the ROC curve of {r['auc']:.2f} (n = {int(r['n_control'])} + {int(r['n_case'])}; "
    area += f"{percent(found.about['config']['confidence'])} confidence interval {r['auc_low']:.2f} to {r['auc_high']:.2f})"
    if not r["auc_low"] > 0.5:
        return f"{int(r['markers'])} markers together do not tell held-out cases from controls beyond chance: an {area}."
    return f"{int(r['markers'])} markers together tell held-out cases from controls with an {area}."


def _compression(found: Analysis) -> str:
    table = found.tables.get("compression")
    if table is None:
        return ""
    people = found.material.people
    parts = []
    for name in (people.case, people.control):
        site = table.loc[table[schema.GROUP] == name, "site_of_compression"]
        known = int((site != UNKNOWN).sum())
        parts.append(f"{int((~site.isin([NONE, UNKNOWN])).sum())} of {known} {name}")
    where = table.loc[~table["site_of_compression"].isin([NONE, UNKNOWN]) & (table[schema.GROUP] == people.case), "site_of_compression"]
    most = f", in cases most often at {where.mode().iloc[0]} ({int((where == where.mode().iloc[0]).sum())})" if len(where) else ""
    return f"The cord is compressed in {' and '.join(parts)}{most}."


def _clusters(found: Analysis) -> str:
    table = found.tables.get("cluster_choice")
    if table is None or not table["chosen"].any():
        return ""
    row = table[table["chosen"]].iloc[0]
    who = "Cases" if found.about["config"]["clusters"]["who"] == "cases" else "People"
    labels = found.tables["clusters"]["cluster"]
    n, p = int((labels >= 0).sum()), row["p_one_group"]
    if row["k"] == 1:
        return f"{who} (n = {n}) are not shown to be more than one group{f' (p of one group {equals(p)})' if np.isfinite(p) else ''}."
    one = f"; but one group would give such clusters as well (p {equals(p)})" if p > SURE else f", p of one group {equals(p)}"
    return f"{who} (n = {n}) fall into {int(row['k'])} subgroups (silhouette {row['silhouette']:.2f}, stability {row['stability']:.2f}{one})."


def _correlations(found: Analysis) -> str:
    table = found.tables.get("correlations")
    if table is None or table["p"].isna().all():
        return ""
    alpha = found.about["config"]["alpha"]
    sure = table[table["q"] <= alpha]
    tested = _count(int(table["p"].notna().sum()), "correlation", "correlations")
    text = f"Of {tested} with clinical scores, {len(sure) or 'none'} {'hold' if len(sure) > 1 else 'holds'} at a false discovery rate of "
    text += percent(alpha)
    fixed = sure[sure[schema.LEVEL] != COMPRESSED]
    pick = fixed if len(fixed) else sure
    if not len(pick):
        return f"{text}."
    row = pick.loc[[pick["r"].abs().idxmax()]]
    r = row.iloc[0]
    ends = f"{percent(found.about['config']['confidence'])} confidence interval among all {number(r['low_all'])} to {number(r['high_all'])}"
    strongest = f"{features(row)[0]} with {r['score'].replace('_', ' ')}, r {number(r['r'])} (n = {int(r['n'])}; {ends}; q {equals(r['q'])})"
    return f"{text}; the strongest: {strongest}."


def _norms(found: Analysis) -> str:
    table = found.tables.get("norms_summary")
    if table is None or not table["n_case"].sum():
        return ""
    level = found.about["config"]["confidence"]
    text = f"{percent(table['outside'].sum() / table['n_case'].sum())} of the cases' values lie outside the {percent(level)} range of healthy people"
    return f"{text}, where {percent(1 - level)} of healthy people's do."


def _sites(found: Analysis) -> str:
    table = found.tables.get("site_check")
    if table is None or not len(table):
        return ""
    return f"{told_sites(table)}."


def told_sites(table: pd.DataFrame) -> str:
    """Say how well the site of held-out people is told, and what chance reaches."""
    rows = table.to_dict("records")
    when = [f" {r['when']} harmonisation" if len(rows) > 1 else "" for r in rows]
    chance = [f"by chance {r['low']:.0%} to {r['high']:.0%}, p {equals(r['p'])}" for r in rows]
    parts = [f"{r['accuracy']:.0%}{w} ({c})" for r, w, c in zip(rows, when, chance, strict=True)]
    return f"A classifier tells the site of {int(rows[0]['n'])} held-out people with a balanced accuracy of {' and '.join(parts)}"


def _repeats(found: Analysis) -> str:
    table = found.tables.get("repeats")
    if table is None or table["icc21"].isna().all():
        return ""
    low, middle, high = np.nanpercentile(table["icc21"], [25, 50, 75])
    n = int(table["n"].max())
    return f"Repeated scans of {n} people agree with a median ICC(2,1) of {middle:.2f} over the features (quartiles {number(low)} to {number(high)})."


SENTENCES: Mapping[str, Callable[[Analysis], str]] = {
    "people": _people, "groups": _groups, "roc": _roc, "classifier": _classifier, "compression": _compression, "clusters": _clusters,
    "correlations": _correlations, "norms": _norms, "sites": _sites, "repeats": _repeats,
}  # fmt: skip
"""Section -> what says what it found."""
