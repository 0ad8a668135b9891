"""Several markers at once, judged on people that the classifier was not learnt from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.classify import cross_validate
from cohort_engine.analysis.roc import curve
from cohort_engine.config import SECTION_KINDS, AnalysisConfig
from cohort_engine.errors import NotEnoughError
from cohort_engine.figures import markers as drawn_markers
from cohort_engine.sections.base import (
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
from cohort_engine.study.format import equals, percent
from cohort_engine.study.material import (
    FUNICULI,
    METRIC,
    Material,
)
from cohort_engine.study.people import IDENTITY
from cohort_engine.study.result import Analysis, Study

CLASSIFIER = "all markers"
"""Name of the classifier beside those of single markers."""


def markers(m: Material, config: AnalysisConfig) -> NDArray[np.intp]:
    """Features of the classifier: those of the configuration, or funiculi, grey matter and area at the remote level."""
    if config.classifier.markers:
        return m.find_all(config.classifier.markers)
    f = m.features
    level = next((n for n in (config.compression.remote, config.compression.remote.split(":")[0]) if (f[schema.LEVEL] == n).any()), None)
    chosen = f.index[(f[schema.LEVEL] == level) & (f[schema.REGION].isin(FUNICULI) | (f[METRIC] == schema.AREA))]
    if not len(chosen):
        raise NotEnoughError(
            expected="markers at the remote level", found="none with values", where="analysis.classifier",
            remedy="Name markers in analysis.classifier.markers, or another level in analysis.compression.remote.",
        )  # fmt: skip
    return chosen.to_numpy().astype(np.intp)


def compute(m: Material, config: AnalysisConfig) -> Tables:
    """Several markers at once, judged on people that the classifier was not learnt from."""
    chosen, settings, site = markers(m, config), config.classifier, config.harmonise.site
    together = None if settings.by is None else [str(v) for v in m.people.column(settings.by)]
    inside = None if site is None or settings.by == site else [str(v) for v in m.people.column(site)]
    keep = m.people.covariates([n for n in config.harmonise.keep if n not in (schema.GROUP, config.groups.column)]) if inside else None
    found = cross_validate(
        m.raw[:, chosen], m.people.group, folds=settings.folds, fold_by=together, site=inside, covariates=keep, max_missing=config.max_missing,
        confidence=config.confidence, permutations=settings.permutations, seed=config.seed,
    )  # fmt: skip
    summary = pd.DataFrame([{
        "markers": len(chosen), "folds": found.fold_auc.shape[1], "kept_together": settings.by or "", "auc": found.auc, "auc_se": found.se,
        "auc_low": found.low, "auc_high": found.high, "p": found.p, "n_control": found.n[0], "n_case": found.n[1], "note": "; ".join(found.warnings),
    }])  # fmt: skip
    names = pd.DataFrame({"marker": [m.label(int(i)) for i in chosen], "coefficient": found.mean_coefficient, "same_sign": found.sign_stability})
    who = m.people.table[list(IDENTITY)].assign(score=found.score, probability=found.probability, fold=found.fold[0])
    who[schema.GROUP] = np.where(m.people.group == 1, m.people.case, m.people.control)
    known = np.isfinite(found.score)
    c = curve(found.score[known], m.people.group[known])
    drawn = pd.DataFrame({"marker": CLASSIFIER, "threshold": c.threshold, "sensitivity": c.sensitivity, "specificity": c.specificity})
    return {"classifier": summary, "classifier_markers": names, "classifier_scores": who, "classifier_curve": drawn}


def _sentence(found: Analysis) -> str:
    table = found.tables.get("classifier")
    if table is None or table["auc"].isna().all():
        return ""
    r = table.iloc[0]
    area = f"area under the ROC curve of {r['auc']:.2f} (n = {int(r['n_control'])} + {int(r['n_case'])}; "
    area += f"{percent(found.config.confidence)} confidence interval {r['auc_low']:.2f} to {r['auc_high']:.2f}; p {equals(r['p'])})"
    if not r["p"] <= found.config.alpha:
        return f"{int(r['markers'])} markers together do not tell held-out cases from controls beyond chance: an {area}."
    return f"{int(r['markers'])} markers together tell held-out cases from controls with an {area}."


def _methods(s: Study) -> str:
    row, site = s.found.tables["classifier"].iloc[0], s.config.harmonise.site
    by = s.config.classifier.by
    together = f", never splitting {by.replace('_', ' ')}" if by else ""
    inside = f" {site.replace('_', ' ')} effects removed with ComBat [@combat, @fortin]," if site and site != by else ""
    return (
        f"{int(row['markers'])} markers were combined by logistic regression with an L2 penalty, in {int(row['folds'])}-fold cross-validation"
        f"{together}. Within each training part alone, gaps were filled with the median,{inside} markers standardised, and the strength of the "
        "penalty chosen by inner folds. The area under the ROC curve is that of the scores of all held-out people [@airola], with DeLong's standard "
        f"error [@delong]; its {s.interval}, which takes the scores as given though they were learnt [@bates], was widened by what "
        f"{s.config.classifier.permutations} permutations of the groups, each with everything learnt anew, spread beyond that error; p is "
        f"the share of permutations that reached the area (seed {s.config.seed})."
    )


SECTION = SECTION_KINDS.add(Section(
    "classifier", "Several markers together", compute=compute, sentence=_sentence, heading="Classifier", methods=_methods, both=True, finding=True,
    figures=(drawn_markers.classifier,),
    tables={
        "classifier": Table(
            "The classifier", "How well several markers together tell cases from controls, on people it was not learnt from.",
            {
                "markers": Column("number of markers"), "folds": Column("parts of the cross-validation"),
                "kept_together": Column("column whose values are never split over parts; empty: people"),
                "auc": Column("area under the ROC curve of the scores of held-out people"),
                "auc_se": Column("standard error of the area, after DeLong"),
                "auc_low": AUC_LOW, "auc_high": AUC_HIGH,
                "p": Column("share of the deals of the groups by chance, each learnt anew, that reach the area"),
                "n_control": N_CONTROL, "n_case": N_CASE, "note": Column("what a reader must know"),
            },
        ),
        "classifier_markers": Table(
            "What the classifier looks at", "Weight of each marker, over all parts of the cross-validation.",
            {
                "marker": Column("feature"), "coefficient": Column("mean change of the logit with one standard deviation of the marker"),
                "same_sign": Column("share of the parts in which the coefficient has the mean's sign"),
            },
            order="|coefficient",
        ),
        "classifier_scores": Table(
            "Score of each person", "What the classifier said of each person when it had not been learnt from that person.",
            {
                **PERSON, "score": Column("high for a case; missing: left out"), "probability": Column("probability of being a case"),
                "fold": Column("part in which the person was held out, from 0; -1: left out"), "group": GROUP,
            },
        ),
        "classifier_curve": Table(
            "ROC curve of the classifier", "The whole curve of the scores of held-out people.",
            {
                "marker": Column("name of the classifier"), "threshold": Column("score; infinite at the start of the curve"),
                "sensitivity": Column("share of the cases called at this threshold"),
                "specificity": Column("share of the controls not called at this threshold"),
            },
        ),
    },
))  # fmt: skip
