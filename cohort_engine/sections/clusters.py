"""Subgroups of people."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine.analysis.cluster import SURE, cluster, profiles
from cohort_engine.analysis.groups import false_discovery
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import markers as drawn_markers
from cohort_engine.sections.base import (
    PERSON,
    Column,
    P,
    Section,
    Table,
    Tables,
)
from cohort_engine.sections.classifier import markers
from cohort_engine.sections.correlations import scores
from cohort_engine.study.format import equals
from cohort_engine.study.material import (
    FloatArray,
    Material,
)
from cohort_engine.study.people import IDENTITY, chosen_columns
from cohort_engine.study.result import Analysis, Study


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Subgroups of people, what they were made of, and what else differs between them."""
    chosen = config.clusters
    rows = m.people.chosen(chosen.who)
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
    others = [n for n in m.people.numeric() if n not in names and n in chosen_columns(m.people, config)]
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
        raise NotEnoughError(
            expected="features that vary", found="none", where="analysis.clusters", remedy="Name others in analysis.clusters.features."
        )
    lost = [f"{n} is the same in everybody and left out" for n in columns if n not in varying]
    known = {n: np.isfinite(v[rows]) for n, v in varying.items()}
    while not asked and len(known) > 1 and np.all(list(known.values()), axis=0).mean() < 1 - config.max_missing:
        rarest = min(known, key=lambda n: int(known[n].sum()))
        lost.append(f"{rarest} is known of {int(known.pop(rarest).sum())} of {len(rows)} people and left out, so that more people have all features")
    return list(known), [varying[n] for n in known], lost


def _sentence(found: Analysis) -> str:
    table = found.tables.get("cluster_choice")
    if table is None or not table["chosen"].any():
        return ""
    row = table[table["chosen"]].iloc[0]
    who = "Cases" if found.config.clusters.who == "cases" else "People"
    labels = found.tables["clusters"]["cluster"]
    n, p = int((labels >= 0).sum()), row["p_one_group"]
    if row["k"] == 1:
        return f"{who} (n = {n}) are not shown to be more than one group{f' (p of one group {equals(p)})' if np.isfinite(p) else ''}."
    one = f"; but one group would give such clusters as well (p {equals(p)})" if p > SURE else f", p of one group {equals(p)}"
    return f"{who} (n = {n}) fall into {int(row['k'])} subgroups (silhouette {row['silhouette']:.2f}, stability {row['stability']:.2f}{one})."


def _methods(s: Study) -> str:
    c = s.config.clusters
    who = "Cases" if c.who == "cases" else "All participants"
    choice = s.found.tables["cluster_choice"]
    k = int(choice.loc[choice["chosen"], "k"].iloc[0])
    if c.k is None:
        how = f"People were taken for one group unless shown otherwise; 2 to {c.largest} clusters were judged by their mean silhouette [@rousseeuw] "
        how += f"among numbers that were stable, and {'no such number was' if k == 1 else f'{k} were'} accepted"
    else:
        how = f"{k} clusters were asked for; their mean silhouette [@rousseeuw] and stability were assessed"
    return (
        f"{who} were grouped by k-means on standardised features. {how}: stability was the mean adjusted Rand index [@hubert] of the clusters "
        f"of {c.resamples} bootstrap samples with those of everybody [@hennig]. Whether the people could be one group was tested against "
        f"{c.resamples} samples of one normal distribution with their covariance [@liu]. Clusters were compared in what they were not made of "
        f"with the Kruskal-Wallis test, the false discovery rate controlled over these [@fdr] (seed {s.config.seed})."
    )


SECTION = SECTION_KINDS.add(Section(
    "clusters", "Subgroups", compute=compute, sentence=_sentence, heading="Subgroups", methods=_methods,
    figures=(drawn_markers.clusters, drawn_markers.cluster_profiles),
    tables={
        "clusters": Table(
            "Cluster of each person", "Who is in which cluster, and where on the first principal components.",
            {
                **PERSON, "cluster": Column("number of the cluster, from 0; -1: left out, a feature is missing"),
                "pc1": Column("first principal component of the standardised features"),
                "pc2": Column("second principal component; missing with one feature"),
            },
        ),
        "cluster_choice": Table(
            "Choice of the number of clusters", "What speaks for each number of clusters.",
            {
                "k": Column("number of clusters; 1: one group, unless shown otherwise"), "silhouette": Column("mean silhouette width, -1 to 1"),
                "stability": Column("mean adjusted Rand index of the clusters of bootstrap samples with those of everybody; 1 is the same"),
                "chosen": Column("whether this number was taken"),
                "p_one_group": Column("how often people of one single group reach the largest silhouette"),
            },
        ),
        "cluster_axes": Table(
            "Principal components", "What the axes of the picture are made of.",
            {
                "component": Column("number of the component, from 1"), "explained": Column("part of the variance of the standardised features"),
                "feature": Column("feature or clinical score"), "weight": Column("its weight in the component"),
            },
        ),
        "cluster_profiles": Table(
            "What the clusters are like", "Mean of each cluster in what it was made of, and in everything else that is known.",
            {
                "cluster": Column("number of the cluster, from 0"), "feature": Column("feature or column of participants.tsv"),
                "made_of": Column("whether the clusters were made of it: then a small p describes and does not test"),
                "mean": Column("mean of the cluster", "of the feature"), "sd": Column("standard deviation (n - 1)", "of the feature"),
                "n": Column("people with a value", "people"), "h": Column("Kruskal-Wallis statistic over the clusters"), "p": P,
                "q": Column("p value adjusted for the false discovery rate over what the clusters were not made of"),
            },
        ),
        "cluster_notes": Table(
            "Notes on the clusters", "What a reader of the clusters must know.", {"note": Column("note")}),
    },
))  # fmt: skip
