"""The Methods section of a study, written from its configuration, from what its store says of itself, and from what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cohort_engine import schema
from cohort_engine.analysis.groups import LINEAR, MANN_WHITNEY, WELCH
from cohort_engine.config import STAGE_KINDS
from cohort_engine.query.choice import Choice
from cohort_engine.report.material import ESTIMATOR, METRIC
from cohort_engine.report.references import Reference, number
from cohort_engine.stages.base import SOURCES
from cohort_engine.store import layout

if TYPE_CHECKING:
    from cohort_engine.report.analyse import Analysis

LIBRARIES = {"scikit-learn": "scikit-learn", "pandas": "pandas", "matplotlib": "Matplotlib"}
"""Packages of the statistics and figures -> their names."""
BUILT = {"numpy": "NumPy", "scipy": "SciPy", "xarray": "xarray", "zarr": "Zarr", "dask": "Dask", "nibabel": "NiBabel", "antspyx": "ANTsPy"}


@dataclass(frozen=True)
class Methods:
    """Text of the section: (heading, paragraph) in order, with numbered citations, and the works cited."""

    parts: tuple[tuple[str, str], ...]
    references: tuple[Reference, ...]

    def __str__(self) -> str:
        text = "\n\n".join(f"## {heading}\n\n{paragraph}" for heading, paragraph in self.parts)
        works = "\n".join(f"{i}. {work}" for i, work in enumerate(self.references, start=1))
        return f"# Methods\n\n{text}\n\n# References\n\n{works}\n"


def write_methods(found: Analysis, ds: xr.Dataset) -> Methods:
    """Say how a study was made and analysed.

    Parameters
    ----------
    found : Analysis
        Its `about` has the configuration and the scientific settings of the store; sections without a table are left out.
    ds : Dataset
        The cohort, from `open_cohort`: how many masks and landmarks a network made is counted in its stages.

    Returns
    -------
    out : Methods
        Only works that the text cites.
    """
    study = _Study(found, ds)
    written = [(heading, part(study)) for heading, part in PARTS.items()]
    kept = [(heading, text) for heading, text in written if text]
    texts, works = number(text for _, text in kept)
    return Methods(tuple(zip((heading for heading, _ in kept), texts, strict=True)), tuple(works))


class _Study:
    """What the sentences are made of."""

    def __init__(self, found: Analysis, ds: xr.Dataset) -> None:
        self.found, self.ds = found, ds
        self.config: dict[str, Any] = found.about["config"]
        self.science: dict[str, Any] = found.about["science"]
        self.stages: dict[str, Any] = self.science["stages"]
        self.source: str = self.science["source"]
        self.used = frozenset(map(str, found.material.features["metric"]))
        self.people = found.material.people
        self.interval = f"{100 * self.config['confidence']:g}% confidence interval"

    def has(self, table: str) -> bool:
        return table in self.found.tables

    def done(self, stage: str) -> int | None:
        """Analysed people for whom a stage ran; None where the store does not say."""
        status = f"{schema.STAGES}_{schema.STATUS}"
        if status not in self.ds or stage not in self.ds[schema.STAGE].to_numpy().tolist():
            return None
        codes = self.ds[status].sel({schema.STAGE: stage}).to_numpy()[self.people.at]
        return int(np.sum([schema.STATUS_CODES.get(int(c)) == schema.DONE for c in codes]))

    def varying(self, names: Iterable[str]) -> list[str]:
        """Return those of the columns that the people have and that vary."""
        return list(self.people.covariates(names))


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join words as a sentence does.

    Examples
    --------
    >>> listed(["age"]), listed(["age", "sex", "site"])
    ('age', 'age, sex and site')
    """
    words = [str(n).replace("_", " ") for n in names]
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _participants(s: _Study) -> str:
    n = [int((s.people.group == g).sum()) for g in (0, 1)]
    text = f"The analysis included {sum(n)} participants: {n[0]} controls ({s.people.control}) and {n[1]} cases ({s.people.case})."
    if len(s.people.excluded):
        counts = s.people.excluded["reason"].map(lambda r: "outside the limits of quality" if ", allowed " in r else r).value_counts(sort=False)
        reasons = "; ".join(f"{reason}, {count}" for reason, count in counts.items())
        text += f" {len(s.people.excluded)} further scans were not used ({reasons})."
    for name, (low, high) in s.config["quality"].items():
        bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
        text += f" Scans were used where {name} was {' and '.join(filter(None, bounds))}."
    if s.found.material.repeats is not None:
        text += " Of people with several sessions the first in time was analysed; the others served to assess agreement."
    return text


def _template(s: _Study) -> str:
    about = s.found.about["template"]
    name = about[layout.TEMPLATE_NAME]
    identity = f"(version {about[layout.TEMPLATE_VERSION]}, content hash {about[layout.TEMPLATE_DIGEST]}; atlas {about[layout.ATLAS_DIGEST]})"
    if name == "PAM50":
        return f"Data were analysed in the space of the PAM50 template {identity} [@pam50], with its atlas of white and grey matter [@levy]."
    return (
        f"Data were analysed in the space of the parametric cord of cohort_engine {identity}, whose diameters are those of healthy adults "
        "[@valosek], whose tracts are arranged after the white matter atlas [@levy], and whose levels have the heights of PAM50 [@pam50]."
    )


def _made(s: _Study, stage: str, what: str, how: str) -> str:
    count = s.done(stage)
    if not count:
        return ""
    total = len(s.people.at)
    return f" {what} of {count} of the {total} participants {how}{'; the others were part of the study' if count < total else ''}."


def _images(s: _Study) -> str:
    if s.stages["shape"]["source"] == schema.PROFILE_TABLES:
        return "Profiles along the template were taken from tables of the Spinal Cord Toolbox that were normalised to PAM50 [@sct]."
    text = SOURCES[s.source].methods or STAGE_KINDS[schema.FIT].methods(s.science, s.used)
    masks = (
        "were segmented by two convolutional networks trained on synthetic images alone [@billot], which find the centreline as one optimal curve "
        "[@gros] and then the border of the cord"
    )
    for contrast in schema.CONTRASTS.values():
        text += _made(s, schema.segment_stage(contrast.name), f"Cord masks ({contrast.name.upper()})", masks)
    discs = "were found by a network trained on synthetic images, and named as a hidden Markov chain [@rabiner]"
    return str(text + _made(s, schema.levels_stage(schema.T2W), "Vertebral landmarks", discs))


def _metrics(s: _Study) -> str:
    text = [kind.methods(s.science, s.used) for kind in STAGE_KINDS.values() if kind.methods and kind.name != schema.FIT]
    used = {m: [Choice.of_kind(str(k)) for k in dict.fromkeys(rows)] for m, rows in s.found.material.features.groupby(METRIC, sort=False)[ESTIMATOR]}
    used = {m: [c for c in kinds if c.estimator in schema.ESTIMATORS] for m, kinds in used.items()}
    for name in dict.fromkeys(c.estimator for kinds in used.values() for c in kinds):
        kind = schema.ESTIMATORS[name]
        cite = ", ".join(f"@{key}" for key in kind.references)
        text.append(f"{kind.describe().rstrip('.')} [{cite}].")
    text += [_values(s, str(metric), kinds) for metric, kinds in used.items() if kinds]
    known = [schema.label_of(str(m)) for m, kinds in used.items() if kinds and s.ds[str(m)].attrs.get(schema.ERROR)]
    if known and s.stages["reduce"].get("weights") == "precision":
        text.append(
            f"Voxels of {listed(known)} were weighted by 1 over the sum of their squared standard error and of the variance between voxels beyond it "
            "[@dersimonian]."
        )
    if any(used.values()):
        text.append(f"A value was missing where less than {100 * s.stages['reduce']['min_coverage']:g}% of the region's weight lay inside the data.")
    return " ".join(filter(None, text))


def _values(s: _Study, metric: str, kinds: list[Choice]) -> str:
    """Say which values of a metric were analysed, how levels were pooled, and why they are not the least biased, where they are not."""
    text = f"Values of {schema.label_of(metric)} were {listed(k.words for k in kinds)}, vertebral level by vertebral level"
    summed = [k for k in kinds if k.space == schema.SPACE_NATIVE and schema.ESTIMATORS[k.estimator].summed and k.estimator != schema.WA]
    if summed:
        text += (
            "; several levels together were the mean of their values weighted by the region's volume in each, with the standard error of that mean, "
            "which counts the noise of the voxels, the likeness of neighbouring ones, and what the model leaves out"
        )
    chosen = s.found.material.choices.get((metric, "", ""))
    return f"{text}{f' ({chosen.why})' if chosen is not None and chosen.why else ''}."


def _harmonisation(s: _Study) -> str:
    chosen = s.config["harmonise"]
    if chosen["site"] is None or not s.found.material.models:
        return ""
    kept = [n for n in chosen["keep"] if n == schema.GROUP or s.varying([n])]
    keep = f", keeping the effects of {listed(kept)}" if kept else ""
    text = f"Effects of {chosen['site'].replace('_', ' ')} were removed from each metric with ComBat [@combat, @fortin]{keep}."
    if s.has("site_check"):
        text += f" What was left was checked with a linear discriminant that told {chosen['site']} from all features, in cross-validation with the "
        text += "harmonisation learnt in each training part alone, and held against permutations within the groups."
    return text


TESTS = {
    WELCH: "Cases and controls were compared with Welch's t test [@welch]; the effect was the difference of means (cases minus controls), "
    "the effect size Hedges' g [@hedges].",
    MANN_WHITNEY: "Cases and controls were compared with the Mann-Whitney U test [@mann]; the effect was the probability that a case is above a "
    "control, with DeLong's standard error [@delong], the effect size the rank-biserial correlation.",
    LINEAR: "Cases and controls were compared with a linear model; the effect was the coefficient of the group, the effect size its partial "
    "correlation.",
}  # fmt: skip


def _family(s: _Study) -> str:
    family = s.config["tests"]["family"]
    return f"the tests of each {listed(family)}" if family else "all tests"


def _groups(s: _Study) -> str:
    if not s.has("groups"):
        return ""
    tests = s.config["tests"]
    text = TESTS[tests["method"]]
    if covariates := s.varying(tests["covariates"]):
        text = text.replace("a linear model;", f"a linear model adjusted for {listed(covariates)};")
    how = f"percentiles of {tests['resamples']} bootstrap resamples within the groups (seed {s.config['seed']})" if tests["resamples"] else "analytic"
    text += f" The {s.interval}s of effects were {how}."
    text += " Where the largest effect is named, its interval is one of a set that holds for all features at once (Bonferroni)."
    text += f" The false discovery rate was controlled over {_family(s)} [@fdr] at {100 * s.config['alpha']:g}%."
    few = f"fewer than {s.config['least']} people of it had one"
    return f"{text} A test was not made where more than {100 * s.config['max_missing']:g}% of a group lacked the value, or {few}."


def _roc(s: _Study) -> str:
    if not s.has("roc"):
        return ""
    chosen = s.config["roc"]
    higher = f"{listed(chosen['higher'])} taken to rise with disease and all others to fall" if chosen["higher"] else "all taken to fall with disease"
    text = f"Each feature was assessed as a marker ({higher}) by the area under its ROC curve, with DeLong's standard error [@delong, @sun] and a "
    text += f"{s.interval} on the logit. Thresholds maximised the Youden index [@youden]"
    if chosen["resamples"]:
        text += "; their intervals, and how much too good the index was for having been chosen on the same people [@efron], came from "
        text += f"{chosen['resamples']} bootstrap resamples (seed {s.config['seed']})"
    if s.has("roc_best") and len(s.found.tables["roc_best"]):
        text += f". The largest area was judged among all by {chosen['permutations']} permutations of the groups [@nichols], its interval by their "
        text += "quantile [@newcombe]; features at each person's own level of compression were not ranked, since their place was selected"
    if s.has("roc_pairs") and len(s.found.tables["roc_pairs"]):
        text += ". Areas of pairs of features were compared with DeLong's paired test (Student's t with Satterthwaite's degrees of "
        text += "freedom), the false discovery rate controlled over the pairs [@fdr]"
    return f"{text}."


def _classifier(s: _Study) -> str:
    if not s.has("classifier"):
        return ""
    row, site = s.found.tables["classifier"].iloc[0], s.config["harmonise"]["site"]
    by = s.config["classifier"]["by"]
    together = f", never splitting {by.replace('_', ' ')}" if by else ""
    inside = f" {site.replace('_', ' ')} effects removed with ComBat [@combat, @fortin]," if site and site != by else ""
    return (
        f"{int(row['markers'])} markers were combined by logistic regression with an L2 penalty, in {int(row['folds'])}-fold cross-validation"
        f"{together}. Within each training part alone, gaps were filled with the median,{inside} markers standardised, and the strength of the "
        "penalty chosen by inner folds. The area under the ROC curve is that of the scores of all held-out people [@airola], with DeLong's standard "
        f"error [@delong]; its {s.interval} takes the scores as given, which cross-validated ones are not quite [@bates] (seed {s.config['seed']})."
    )


def _compression(s: _Study) -> str:
    if not s.has("compression"):
        return ""
    c = s.config["compression"]
    measure = "front-to-back diameter" if c["measure"] == schema.DIAMETER_AP else "cross-sectional area"
    limit = int(s.found.tables["compression_summary"]["n_limit"].iloc[0])
    return (
        f"Maximal spinal cord compression was found on the {measure} along the template [@miyanji, @valosek]: each profile was divided by the mean "
        f"of the controls, and each slice from {c['search'][0]} to {c['search'][1]} compared with {c['extent']:g} mm of cord above and below, "
        f"{c['gap']:g} mm away. The smallest ratio marked the place; a cord counted as compressed below the ratio that only "
        f"{100 * (1 - c['specificity']):.3g}% of {limit} controls fell below (quantile of type 6 [@hyndman]). {c['remote']} was the level away from "
        "the compression."
    )


def _clusters(s: _Study) -> str:
    if not s.has("clusters"):
        return ""
    c = s.config["clusters"]
    who = "Cases" if c["who"] == "cases" else "All participants"
    choice = s.found.tables["cluster_choice"]
    k = int(choice.loc[choice["chosen"], "k"].iloc[0])
    if c["k"] is None:
        how = (
            f"People were taken for one group unless shown otherwise; 2 to {c['largest']} clusters were judged by their mean silhouette [@rousseeuw] "
        )
        how += f"among numbers that were stable, and {'none was' if k == 1 else f'{k} were'} taken"
    else:
        how = f"{k} clusters were asked for; their mean silhouette [@rousseeuw] and stability were assessed"
    return (
        f"{who} were grouped by k-means on standardised features. {how}: stability was the mean adjusted Rand index [@hubert] of the clusters "
        f"of {c['resamples']} bootstrap samples with those of everybody [@hennig]. Whether the people could be one group was tested against "
        f"{c['resamples']} samples of one normal distribution with their covariance [@liu]. Clusters were compared in what they were not made of "
        f"with the Kruskal-Wallis test, the false discovery rate controlled over these [@fdr] (seed {s.config['seed']})."
    )


def _correlations(s: _Study) -> str:
    if not s.has("correlations"):
        return ""
    c = s.config["correlate"]
    table = s.found.tables["correlations"]
    kind = {"spearman": "Spearman's rank", "pearson": "Pearson's"}[c["method"]]
    who = "cases" if c["who"] == "cases" else "all participants"
    covariates = s.varying(c["covariates"])
    partial = f" with {listed(covariates)} taken out of both sides" if covariates else ""
    wide = ", widened for ranks [@bonett]" if c["method"] == "spearman" else ""
    return (
        f"Features of {who} were correlated with {listed(dict.fromkeys(table['score']))} by {kind} correlation{partial}, with {s.interval}s on "
        f"Fisher's z{wide}; the false discovery rate was controlled over {_family(s)} with all scores [@fdr]."
    )


def _norms(s: _Study) -> str:
    if not s.has("norms"):
        return ""
    covariates = s.varying(s.config["norms"]["covariates"])
    reference = s.found.tables["norms_summary"]["reference"].iloc[0]
    people = "the controls" if reference == "own controls" else f"healthy people ({reference})"
    given = f", regressed on {listed(covariates)}," if covariates else ""
    text = (
        f"Each case was compared with {people}{given} by Student's t for one more healthy person [@crawford], with {100 * s.config['confidence']:g}% "
        "prediction intervals."
    )
    if s.has("profiles"):
        text += " Bands along the cord were the 5th, 50th and 95th centiles of the controls, slice by slice (type 6 [@hyndman])."
    return text


def _repeats(s: _Study) -> str:
    if not s.has("repeats"):
        return ""
    table = s.found.tables["repeats"]
    return (
        f"Agreement of {int(table['sessions'].max())} sessions of the same people (up to {int(table['n'].max())}), as measured, was given by "
        f"ICC(2,1) and ICC(3,1) [@shrout] with {s.interval}s [@mcgraw], the standard error of measurement and minimal detectable change [@weir], the "
        "coefficient of variation within people [@altman], and the limits of agreement of the first two sessions [@bland]."
    )


def software() -> dict[str, str]:
    """Versions of the packages of the statistics and figures, by name."""
    out = {}
    for package, name in LIBRARIES.items():
        try:
            out[name] = version(package)
        except PackageNotFoundError:
            continue
    return out


def _software(s: _Study) -> str:
    made: Mapping[str, str] = s.found.about["versions"]
    libraries = {**{BUILT[k]: v for k, v in made.items() if k in BUILT and v != "absent"}, **software()}
    names = listed(f"{name} {number}" for name, number in libraries.items())
    return f"Everything was computed with cohort_engine {made['cohort_engine']} on Python {made['python']}, with {names}."


PARTS: Mapping[str, Callable[[_Study], str]] = {
    "Participants": _participants, "Template": _template, "Registration": _images, "Metrics": _metrics, "Harmonisation": _harmonisation,
    "Group comparison": _groups, "ROC analysis": _roc, "Classifier": _classifier, "Compression": _compression, "Subgroups": _clusters,
    "Correlations": _correlations, "Healthy reference": _norms, "Agreement": _repeats, "Software": _software,
}  # fmt: skip
"""Heading -> what writes its paragraph; an empty one is left out."""
