"""What every table of an analysis is, and what each of its columns means, with its unit: the data dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cohort_engine import schema

OWN = "as units"
"""Unit of a column whose rows have units of their own, in the column ``units``."""
STUDY = "a column of participants.tsv"
"""Meaning of a column that the study brought along."""


@dataclass(frozen=True)
class Column:
    """Meaning of a column, and its unit: ``""`` where there is none, `OWN` where each row has its own."""

    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """What a table is.

    Attributes
    ----------
    section : str
        Section of the report, a key of `SECTION_TITLES`.
    title, sentence : str
    columns : mapping of name to Column
        In the order of the table.
    open : bool
        Whether the table has columns of the study as well.
    shown : tuple of str
        Columns that are shown on the page; empty: all but those that name a person. `FEATURE_COLUMN` stands for the columns that name a feature.
    order : str
        Column by which the rows on the page are sorted, the smallest first; ``-name``: the largest first; ``|name``: the largest size first.
    """

    section: str
    title: str
    sentence: str
    columns: Mapping[str, Column]
    open: bool = False
    shown: tuple[str, ...] = ()
    order: str = ""


SECTION_TITLES: Mapping[str, str] = {
    "people": "People", "groups": "Differences between the groups", "roc": "Telling cases from controls", "classifier": "Several markers together",
    "compression": "Compression of the cord", "clusters": "Subgroups", "correlations": "Correlation with clinical scores",
    "norms": "Distance from healthy people", "sites": "Scanners and sites", "repeats": "Agreement of repeated scans",
}  # fmt: skip
"""Section -> its heading, in the order of the report."""

FEATURE_COLUMN = "feature"

_PERSON = {
    schema.SUBJECT: Column("row of the person in the store"),
    schema.PARTICIPANT: Column("name of the person in participants.tsv"),
    schema.SESSION: Column("session that is analysed; empty where the study has none"),
}
_FEATURE = {
    "metric": Column("metric or measure of shape"),
    schema.REGION: Column("tract, or union of tracts; spinal cord for a measure of shape"),
    schema.LEVEL: Column("vertebral level or levels; compressed: each person's own level of compression"),
    "estimator": Column(
        "how voxels became one number: wa weighted average, bin, median, ml, map, max of the map in template space; with native before it of each "
        "image in its own space; empty for a measure of shape"
    ),
    "units": Column("unit of the feature"),
}
_N_CONTROL = Column("controls that were used", "people")
_N_CASE = Column("cases that were used", "people")
_P = Column("two-sided p value")
_Q = Column("p value adjusted for the false discovery rate within its family")
_GROUP = Column("word of the study for the group")
_SITE = Column("site or scanner")
_AUC = Column("area under the ROC curve")
_AUC_LOW = Column("lower end of the confidence interval of the area, on the logit")
_AUC_HIGH = Column("upper end of the confidence interval of the area, on the logit")


def _error(who: str) -> Column:
    return Column(f"root mean square of the standard errors of the measured values of the {who}: the part of the deviation that is measurement", OWN)


def _ends(what: str, unit: str = "", name: str = "", end: str = "") -> dict[str, Column]:
    """Columns of an interval."""
    return {f"{name}{side}{end}": Column(f"{word} end of the {what}", unit) for side, word in (("low", "lower"), ("high", "upper"))}


TABLES: Mapping[str, Table] = {
    "subjects": Table(
        "people", "Who is analysed", "A row a person, with the columns of the study.", _PERSON, open=True,
    ),
    "excluded": Table(
        "people", "Who is left out", "A row a scan that the statistics do not use, with the reason.",
        {**_PERSON, "reason": Column("why")}, shown=(schema.PARTICIPANT, schema.SESSION, "reason"),
    ),
    "characteristics": Table(
        "people", "Characteristics of the groups", "What is known of the people, group by group.",
        {
            "variable": Column("column of participants.tsv"), "category": Column("word of a column of words; empty for numbers"), "group": _GROUP,
            "n": Column("people of whom it is known", "people"), "count": Column("people with this word", "people"),
            "mean": Column("mean", "of the column"), "sd": Column("standard deviation (n - 1)", "of the column"),
            "low": Column("25th percentile", "of the column"), "median": Column("median", "of the column"),
            "high": Column("75th percentile", "of the column"),
            "p": Column("two-sided p value: Welch's t test of numbers, Fisher's exact test of two by two words, else the chi-squared test"),
        },
    ),
    "quality": Table(
        "people", "Quality numbers", "The quality numbers of the store, group by group; their units are in the reference of the store.",
        {
            "quantity": Column("quality number of the store"), "group": _GROUP, "n": Column("people who have it", "people"),
            "smallest": Column("smallest value"), "median": Column("median"), "largest": Column("largest value"),
        },
    ),
    "groups": Table(
        "groups", "Cases against controls", "Every feature compared between the groups.",
        {
            **_FEATURE, "method": Column("test: welch, mann_whitney, or linear with covariates"),
            "family": Column("family of tests within which q is adjusted"),
            "n_control": _N_CONTROL, "mean_control": Column("mean of the controls", OWN),
            "sd_control": Column("standard deviation of the controls", OWN), "error_control": _error("controls"),
            "n_case": _N_CASE, "mean_case": Column("mean of the cases", OWN), "sd_case": Column("standard deviation of the cases", OWN),
            "error_case": _error("cases"),
            "effect": Column("cases minus controls; with mann_whitney the probability that a case is above a control, without unit", OWN),
            "se": Column("standard error of the effect", OWN), **_ends("confidence interval of the effect", OWN),
            "statistic": Column("t, or U of the cases with mann_whitney"), "df": Column("degrees of freedom of t; missing with mann_whitney"),
            "p": _P, "q": _Q, **_ends("interval of the effect such that those of all features hold at once", OWN, end="_all"),
            "size": Column("effect size: Hedges' g, rank-biserial or partial correlation, see size_kind"),
            **_ends("confidence interval of the effect size", name="size_"), "size_kind": Column("which effect size"),
        },
        shown=(FEATURE_COLUMN, "units", "mean_control", "sd_control", "mean_case", "sd_case", "effect", "low", "high", "size", "p", "q"), order="p",
    ),
    "roc": Table(
        "roc", "Each feature as a marker", "Area under the ROC curve, and the threshold with the largest Youden index, of every feature.",
        {
            **_FEATURE, "direction": Column("whether cases are called above (higher) or below (lower) the threshold"),
            "n_control": _N_CONTROL, "n_case": _N_CASE,
            "selected": Column("whether the level of the feature was chosen by looking at each person: then it is not ranked with the others"),
            "auc": _AUC, "auc_se": Column("standard error of the area, after DeLong"), "auc_low": _AUC_LOW, "auc_high": _AUC_HIGH,
            "threshold": Column("threshold with the largest Youden index; missing where none is better than chance", OWN),
            **_ends("bootstrap interval of the threshold", OWN, name="threshold_"),
            "sensitivity": Column("share of the cases beyond the threshold"), "specificity": Column("share of the controls on its other side"),
            "youden": Column("sensitivity plus specificity minus 1"),
            "optimism": Column("what the Youden index gains from being chosen on the same people: youden minus optimism is to be expected of others"),
        },
        shown=(FEATURE_COLUMN, "units", "direction", "auc", "auc_low", "auc_high", "threshold", "sensitivity", "specificity", "optimism"),
        order="-auc",
    ),
    "roc_best": Table(
        "roc", "The best marker", "The largest of all areas, judged as the largest: features at each person's own level of compression are not among "
        "them, since their place was selected.",
        {
            "marker": Column("feature with the largest area"), "markers": Column("features among which it was chosen"), "auc": _AUC,
            **_ends("interval of its area that counts the choice"),
            "p": Column("how often the largest area is as clear when the groups are dealt out by chance"),
            "n_control": _N_CONTROL, "n_case": _N_CASE,
        },
    ),
    "roc_pairs": Table(
        "roc", "Features against each other", "Paired comparison of areas under the ROC curve, in the people who have both features.",
        {
            "first": Column("a feature"), "second": Column("the feature it is compared with"),
            **_ends("confidence interval of the first area, on the logit", name="auc_first_"),
            **_ends("confidence interval of the second area, on the logit", name="auc_second_"), "auc_first": Column("area of the first"),
            "auc_second": Column("area of the second"), "difference": Column("first area minus second"),
            "se": Column("standard error of the difference, after DeLong"), **_ends("confidence interval of the difference"),
            "z": Column("difference over its standard error"), "df": Column("degrees of freedom of Student's t that z is held against"), "p": _P,
            "q": Column("p value adjusted for the false discovery rate over the pairs"),
            "n_control": _N_CONTROL, "n_case": _N_CASE,
        },
        shown=("first", "second", "auc_first", "auc_second", "difference", "low", "high", "p", "q"), order="p",
    ),
    "roc_curves": Table(
        "roc", "ROC curves", "Whole curves of the features that are compared in pairs, and of the best.",
        {
            "marker": Column("feature"),
            "pair": Column("row of roc_pairs, from 0, in whose people the curve is drawn; -1: in all who have the feature"),
            "threshold": Column("threshold; infinite at the start of a curve", "of the feature"),
            "sensitivity": Column("share of the cases called at this threshold"),
            "specificity": Column("share of the controls not called at this threshold"),
        },
    ),
    "classifier": Table(
        "classifier", "The classifier", "How well several markers together tell cases from controls, on people it was not learnt from.",
        {
            "markers": Column("number of markers"), "folds": Column("parts of the cross-validation"),
            "kept_together": Column("column whose values are never split over parts; empty: people"),
            "auc": Column("area under the ROC curve of the scores of held-out people"), "auc_se": Column("standard error of the area, after DeLong"),
            "auc_low": _AUC_LOW, "auc_high": _AUC_HIGH, "n_control": _N_CONTROL, "n_case": _N_CASE, "note": Column("what a reader must know"),
        },
    ),
    "classifier_markers": Table(
        "classifier", "What the classifier looks at", "Weight of each marker, over all parts of the cross-validation.",
        {
            "marker": Column("feature"), "coefficient": Column("mean change of the logit with one standard deviation of the marker"),
            "same_sign": Column("share of the parts in which the coefficient has the mean's sign"),
        },
        order="|coefficient",
    ),
    "classifier_scores": Table(
        "classifier", "Score of each person", "What the classifier said of each person when it had not been learnt from that person.",
        {
            **_PERSON, "score": Column("high for a case; missing: left out"), "probability": Column("probability of being a case"),
            "fold": Column("part in which the person was held out, from 0; -1: left out"), "group": _GROUP,
        },
    ),
    "classifier_curve": Table(
        "classifier", "ROC curve of the classifier", "The whole curve of the scores of held-out people.",
        {
            "marker": Column("name of the classifier"), "threshold": Column("score; infinite at the start of the curve"),
            "sensitivity": Column("share of the cases called at this threshold"),
            "specificity": Column("share of the controls not called at this threshold"),
        },
    ),
    "compression": Table(
        "compression", "Compression of each person", "Where the cord is narrowest against its neighbourhood and healthy people, and how much.",
        {
            **_PERSON, "group": _GROUP,
            "site_of_compression": Column("level of the compression; none where the ratio is above the limit, unknown without a profile"),
            "narrowest_level": Column("level of the smallest ratio, whether it counts as compressed or not"),
            "z_mm": Column("height of that slice in the template", "mm"),
            "ratio": Column("smallest ratio of a slice to the slices above and below, after division by the healthy mean; 1 is healthy"),
            "mscc": Column("maximal spinal cord compression, 100 (1 - ratio)", "percent"),
            "margin": Column("limit minus ratio: above 0 the cord counts as compressed"),
            "remote": Column("mean of the profile at the remote levels over that of healthy people"),
            "against_remote": Column("slice over the healthy mean, over remote; missing where the slice lies in the remote levels"),
        },
        order="ratio",
    ),
    "compression_levels": Table(
        "compression", "Levels of compression", "How many people of each group are compressed at each level.",
        {"group": _GROUP, "level": Column("level of the compression, none or unknown"), "people": Column("number of people", "people")},
    ),
    "compression_summary": Table(
        "compression", "Limit of compression", "The limit that was taken from the controls, and how well the ratio tells cases from controls.",
        {
            "measure": Column("profile that was searched"), "limit": Column("ratio below which a cord counts as compressed"),
            "n_limit": Column("controls that the limit was taken from", "people"), "auc": _AUC, "auc_low": _AUC_LOW, "auc_high": _AUC_HIGH,
            "n_control": _N_CONTROL, "n_case": _N_CASE,
        },
    ),
    "clusters": Table(
        "clusters", "Cluster of each person", "Who is in which cluster, and where on the first principal components.",
        {
            **_PERSON, "cluster": Column("number of the cluster, from 0; -1: left out, a feature is missing"),
            "pc1": Column("first principal component of the standardised features"),
            "pc2": Column("second principal component; missing with one feature"),
        },
    ),
    "cluster_choice": Table(
        "clusters", "Choice of the number of clusters", "What speaks for each number of clusters.",
        {
            "k": Column("number of clusters; 1: one group, unless shown otherwise"), "silhouette": Column("mean silhouette width, -1 to 1"),
            "stability": Column("mean adjusted Rand index of the clusters of bootstrap samples with those of everybody; 1 is the same"),
            "chosen": Column("whether this number was taken"),
            "p_one_group": Column("how often people of one single group reach the largest silhouette"),
        },
    ),
    "cluster_axes": Table(
        "clusters", "Principal components", "What the axes of the picture are made of.",
        {
            "component": Column("number of the component, from 1"), "explained": Column("part of the variance of the standardised features"),
            "feature": Column("feature or clinical score"), "weight": Column("its weight in the component"),
        },
    ),
    "cluster_profiles": Table(
        "clusters", "What the clusters are like", "Mean of each cluster in what it was made of, and in everything else that is known.",
        {
            "cluster": Column("number of the cluster, from 0"), "feature": Column("feature or column of participants.tsv"),
            "made_of": Column("whether the clusters were made of it: then a small p describes and does not test"),
            "mean": Column("mean of the cluster", "of the feature"), "sd": Column("standard deviation (n - 1)", "of the feature"),
            "n": Column("people with a value", "people"), "h": Column("Kruskal-Wallis statistic over the clusters"), "p": _P,
            "q": Column("p value adjusted for the false discovery rate over what the clusters were not made of"),
        },
    ),
    "cluster_notes": Table("clusters", "Notes on the clusters", "What a reader of the clusters must know.", {"note": Column("note")}),
    "correlations": Table(
        "correlations", "Features against scores", "Every feature correlated with every clinical score.",
        {
            **_FEATURE, "score": Column("clinical score, a column of participants.tsv"), "method": Column("spearman or pearson"),
            "n": Column("people with both values and all covariates", "people"), "r": Column("correlation, -1 to 1"),
            **_ends("confidence interval of the correlation"), "t": Column("t statistic"), "df": Column("degrees of freedom"), "p": _P,
            "q": Column("p value adjusted for the false discovery rate over all scores, within the family of features"),
            **_ends("interval of the correlation such that those of all hold at once", end="_all"),
        },
        shown=(FEATURE_COLUMN, "score", "n", "r", "low", "high", "p", "q"), order="p",
    ),
    "norms": Table(
        "norms", "Each case against healthy people", "Every feature of every case, with what healthy people of the same covariates have.",
        {
            **_PERSON, **_FEATURE, "value": Column("value of the person", OWN),
            "se": Column("standard error of the value as measured; missing where its estimator has none", OWN),
            "expected": Column("mean of healthy people of these covariates", OWN),
            "lower": Column("lower end of the prediction interval for one healthy person", OWN),
            "upper": Column("upper end of the prediction interval for one healthy person", OWN),
            "z": Column("value minus expected over the standard deviation of healthy people"),
            "centile": Column("share of healthy people below, by Student's t", "percent"),
        },
        shown=(schema.SUBJECT, FEATURE_COLUMN, "units", "value", "expected", "lower", "upper", "z", "centile"), order="|z",
    ),
    "norms_summary": Table(
        "norms", "Cases outside the healthy range", "How many cases lie outside the prediction interval of healthy people, feature by feature.",
        {
            **_FEATURE, "reference": Column("who the healthy people are"), "n_reference": Column("healthy people", "people"), "n_case": _N_CASE,
            "outside": Column("cases outside the prediction interval", "people"), "below": Column("cases below it", "people"),
            "z_mean": Column("mean of z over the cases"),
        },
        shown=(FEATURE_COLUMN, "reference", "n_reference", "n_case", "outside", "below", "z_mean"), order="-outside",
    ),
    "profiles": Table(
        "norms", "Along the cord", "Healthy band and cases, slice by slice of the template.",
        {
            "measure": Column("measure of shape"), "units": Column("its unit"), "z_mm": Column("height in the template", "mm"),
            "level_number": Column("vertebral level, 1 = C1, 8 = T1, 0 = none"),
            "control_low": Column("5th centile of the controls", OWN), "control_median": Column("median of the controls", OWN),
            "control_high": Column("95th centile of the controls", OWN), "control_mean": Column("mean of the controls", OWN),
            "case_mean": Column("mean of the cases", OWN), "case_sd": Column("standard deviation of the cases", OWN),
            "n_control": Column("controls with this slice", "people"), "n_case": Column("cases with this slice", "people"),
        },
    ),
    "sites": Table(
        "sites", "Means of the sites", "Every feature, site by site and group by group, before and after harmonisation.",
        {
            **_FEATURE, "site": _SITE, "group": _GROUP, "n": Column("people with a value", "people"), "mean": Column("mean as measured", OWN),
            "sd": Column("standard deviation as measured", OWN), "mean_harmonised": Column("mean after harmonisation; the same without", OWN),
            "sd_harmonised": Column("standard deviation after harmonisation; the same without", OWN),
            "cv": Column("coefficient of variation as measured", "percent"),
        },
        shown=(FEATURE_COLUMN, "units", "site", "group", "n", "mean", "sd", "mean_harmonised", "cv"),
    ),
    "harmonisation": Table(
        "sites", "What harmonisation removed", "Shift and scale of each site in each feature.",
        {
            **_FEATURE, "site": _SITE, "shift": Column("what was subtracted, as estimated by ComBat", OWN),
            "scale": Column("what the spread was divided by"), "n": Column("people of the site", "people"),
        },
        shown=(FEATURE_COLUMN, "units", "site", "shift", "scale", "n"), order="|shift",
    ),
    "site_check": Table(
        "sites", "Can the site still be told?", "How well a classifier tells the site of people who were held out from it, and "
        "from the harmonisation.",
        {
            "when": Column("before or after harmonisation"), "accuracy": Column("balanced accuracy"),
            "chance": Column("mean accuracy when sites are dealt out by chance within the groups"),
            **_ends("interval that holds the accuracy by chance"), "p": Column("how often chance reaches the accuracy"),
            "n": Column("people", "people"),
            "left_out": Column("people without a site, value or covariate, and those of sites of fewer than three", "people"),
            "folds": Column("parts of the cross-validation"),
        },
    ),
    "repeats": Table(
        "repeats", "Agreement of sessions", "Every feature in the people who were scanned several times, as measured.",
        {
            **_FEATURE, "n": Column("people with all sessions", "people"), "sessions": Column("sessions of each person"),
            "icc21": Column("ICC(2,1), absolute agreement"), **_ends("confidence interval of ICC(2,1)", name="icc21_"),
            "icc31": Column("ICC(3,1), consistency"), **_ends("confidence interval of ICC(3,1)", name="icc31_"),
            "sem": Column("standard error of measurement", OWN), "mdc": Column("minimal detectable change", OWN),
            "cv": Column("coefficient of variation within people", "percent"), "bias": Column("first session minus second, on average", OWN),
            **_ends("limits of agreement of the first two sessions", OWN, name="limit_"),
        },
        shown=(FEATURE_COLUMN, "units", "n", "icc21", "icc21_low", "icc21_high", "sem", "mdc", "cv", "bias"), order="-icc21",
    ),
}  # fmt: skip
"""Table -> what it is."""


def words_of(name: str) -> Table:
    """Look a table up; one that is not described is shown under its own name."""
    return TABLES.get(name) or Table("", name.replace("_", " ").capitalize(), "", {}, open=True)


def describe(tables: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Lay out the data dictionary of these tables (name -> columns), as JSON holds it.

    Examples
    --------
    >>> describe({"cluster_notes": ["note"]})["cluster_notes"]["columns"]
    {'note': {'meaning': 'note', 'unit': ''}}
    >>> describe({"subjects": ["subject", "mjoa"]})["subjects"]["columns"]["mjoa"]["meaning"]
    'a column of participants.tsv'
    """
    out = {}
    for name, columns in tables.items():
        table = words_of(name)
        known = {str(c): table.columns.get(str(c)) or Column(STUDY if name in TABLES else "") for c in columns}
        meanings = {c: {"meaning": w.meaning, "unit": w.unit} for c, w in known.items()}
        out[name] = {"file": f"csv/{name}.csv", "title": table.title, "meaning": table.sentence, "columns": meanings}
    return out
