"""Fit and test the probability that values are usable, on simulated people who are clean or in whom a failure was planted, gross or by a part.

Whether a scan's values are usable is decided by truth: by the errors of its results (`harm.BOUNDS`), whatever was planted; but for failures without
degrees (swapped sides, another contrast), which are never usable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from cohort_engine import schema
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.cord.segment import segment
from cohort_engine.io.volume import Volume
from cohort_engine.nn.weights import load_discs
from cohort_engine.phantom.compression import GRADES, MaskFaults, draw_patient
from cohort_engine.phantom.failures import FAILURES, Case, scanned_again
from cohort_engine.phantom.harm import BOUNDS, failed, harm
from cohort_engine.phantom.subject import MT_MASK, T2W_LANDMARKS, T2W_MASK, Truth, make_subject
from cohort_engine.quality import vocabulary
from cohort_engine.quality.features import Known, Opinion, of_subject, opinion
from cohort_engine.quality.judge import SIGNS, badness, judge
from cohort_engine.single.fit import fit_cord
from cohort_engine.template.base import Template

CLEAN = "clean"
AGAIN = 2
"""Scans of each person that are clean, with good masks; one more is with the masks that the networks make."""
GROSS = 0.4
"""Share of the planted failures that are as bad as it gets; the others are a part of that."""
LEAST_SIZE = 0.05
"""Least part."""
PRIOR = 0.1
"""Share of subjects in whom something failed: what the probability refers to."""
RIDGE = 0.02
"""Weight of the squared weights in the fit."""
OFF_CENTRE = 5.0
"""Standard deviation of how far the cord lies beside the middle of the MT images, mm."""


def good_case(template: Template, number: int, seed: int) -> tuple[Case, Opinion | None, Truth]:
    """Simulate a person of one of the grades, with good masks and the map fitted to them; the discs that a network names in T2w; and the truth."""
    rng = np.random.default_rng([seed, number])
    grade = [*GRADES][number % len(GRADES)]
    patient = replace(draw_patient(grade, rng), masks=MaskFaults())
    subject = make_subject(template, number=number, seed=seed, site=0, patient=patient)
    images = dict(subject.images)
    side = round(float(rng.normal(0, OFF_CENTRE)) * 2 / float(images[schema.MT_ON].grid.spacing[0]))
    for role in (schema.MT_ON, schema.MT_OFF, MT_MASK):
        images[role] = _cropped(images[role], side)
    labels = images[T2W_LANDMARKS]
    landmarks = landmarks_from_labels(labels.data, labels.affine, kind=schema.DISC, what="discs")
    case = Case({r: images[r] for r in (schema.MT_ON, schema.MT_OFF, schema.T2W, MT_MASK, T2W_MASK)}, landmarks, np.zeros((0, 3)))
    t2w, mask = case.images[schema.T2W], case.images[T2W_MASK]
    named = opinion(t2w.data, t2w.affine, mask.data, template, load_discs())
    return replace(case, positions=fitted(case, template)), named, subject.truth


def _cropped(image: Volume, side: int) -> Volume:
    """Take some columns off the right (negative: off the left)."""
    first, last = max(side, 0), image.data.shape[0] + min(side, 0)
    affine = np.array(image.affine, float)
    affine[:3, 3] += affine[:3, 0] * first
    return Volume(np.ascontiguousarray(image.data[first:last]), affine)


def fitted(case: Case, template: Template) -> NDArray[np.float32]:
    """Fit the template map of the MT mask, refined by the image, as a build does."""
    return fit_cord(
        case.images[MT_MASK], case.landmarks, template, labelled=case.images[T2W_MASK], image=case.images[schema.MT_ON], likely=True
    ).packed(template)  # fmt: skip


def segmented(case: Case, template: Template) -> Case:
    """Give a subject the masks that the networks make of its images, and the map that follows."""
    made = {}
    for role, mask in ((schema.T2W, T2W_MASK), (schema.MT_ON, MT_MASK)):
        image = case.images[role]
        made[mask] = (segment(image.data, image.affine).mask > 0.5).astype(np.uint8)
    out = case.having(**made)
    return replace(out, positions=fitted(out, template))


def cases(template: Template, people: int, seed: int, say: Callable[[str], None], clean: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what was planted, how much of it, what it does to the results, and what is found: clean scans, and every failure once in a scan.

    Nothing is planted into `clean` further people.
    """
    for number in range(people + clean):
        base, named, truth = good_case(template, number, seed)
        rng = np.random.default_rng([seed, number, 1])
        known: Known = {}

        def row(
            name: str, size: float, case: Case, *, who: int = number, good: Case = base, opinion: Opinion | None = named, true: Truth = truth,
            known: Known = known,
        ) -> dict[str, Any]:  # fmt: skip
            found = of_subject(case.images, case.positions, template, case.landmarks, opinion, known=known)
            return {"person": who, "planted": name, "size": size, **harm(case, good, template, true), **found.values}

        scan = base
        for again in range(AGAIN):
            scan = scanned_again(base, rng) if again else base
            yield row(CLEAN, 0.0, scan)
        yield row(CLEAN, 0.0, segmented(scan, template))
        for name, failure in FAILURES.items() if number < people else ():
            size = 1.0 if rng.random() < GROSS or not failure.graded else float(rng.uniform(LEAST_SIZE, 1.0))
            case = failure.plant(scan if rng.random() < 0.5 else base, rng, size)
            if case.refit:
                case = replace(case, positions=fitted(case, template))
            yield row(name, size, case)
        say(f"person {number + 1} of {people + clean}")


def simulate_features(template: Template, people: int, seed: int, *, clean: int = 0, say: Callable[[str], None] = print) -> pd.DataFrame:
    """Simulate features: a row a scan with ``person``, ``planted``, ``size``, and the keys of `harm.BOUNDS` and `vocabulary.quality_specs`.

    Failures are planted into `people`, and nothing into `clean` more.
    """
    return pd.DataFrame(list(cases(template, people, seed, say, clean)))


def spoilt(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Whose values are not usable (scan,), by truth."""
    always = {name for name, failure in FAILURES.items() if not failure.graded}
    return np.array([failed(row) for row in _rows(table[[*BOUNDS]])]) | table["planted"].isin(always).to_numpy()


def _rows(table: pd.DataFrame) -> list[dict[str, float]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def fit_weights(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Fit the weights of each kind of failure by maximum likelihood with a ridge: scans that it spoilt against clean ones and those it left usable.

    Clean scans count so much that failures of any kind are planted in `PRIOR` of all, and the kinds alike. A failure of another kind says nothing: a
    shifted mask leads the map astray as well.
    """
    out: dict[str, dict[str, float]] = {}
    kind_of = {name: failure.kind for name, failure in FAILURES.items()}
    kinds, bad_by_truth = table["planted"].map(kind_of), pd.Series(spoilt(table), table.index)
    for kind, signs in SIGNS.items():
        some = table[(kinds == kind) | (table["planted"] == CLEAN)]
        bad = np.array([badness(row, kind) for row in _rows(some)])
        planted = (some["planted"] != CLEAN).to_numpy()
        wrong = bad_by_truth[some.index].to_numpy() & planted
        share = PRIOR / len(SIGNS)
        weight = np.where(planted, share / max(planted.sum(), 1), (1 - PRIOR) / max((~planted).sum(), 1)) * len(some)

        def loss(w: NDArray[np.float64], bad: Any = bad, wrong: Any = wrong, weight: Any = weight) -> float:
            logit = w[0] + bad @ w[1:]
            return float((weight * np.logaddexp(0, np.where(wrong, -logit, logit))).sum() / weight.sum() + RIDGE / 10 * (w[1:] ** 2).mean() / 10)

        start = np.r_[-4.0, np.full(len(signs), 2.0)]
        found = minimize(loss, start, method="L-BFGS-B", bounds=[(-7.0, -3.0), *[(0.0, 12.0)] * len(signs)]).x
        out[kind] = {"": round(float(found[0]), 3), **{k: round(float(w), 3) for k, w in zip(signs, found[1:], strict=True)}}
    return out


def judged(table: pd.DataFrame, weights: Mapping[str, Mapping[str, float]] | None = None) -> pd.DataFrame:
    """Add to each scan its probability (``usable``), its ``reasons``, if the right one is among them (``right``), and if it is ``spoilt``."""
    verdicts = [judge(row, weights) for row in _rows(table)]
    kind_of = {name: failure.kind for name, failure in FAILURES.items()}
    return table.assign(
        usable=[v.usable for v in verdicts], reasons=[", ".join(v.reasons) for v in verdicts],
        right=[kind_of.get(name, "") in v.reasons for name, v in zip(table["planted"], verdicts, strict=True)], spoilt=spoilt(table),
    )  # fmt: skip


def summary(judged_table: pd.DataFrame) -> pd.DataFrame:
    """Summarise by what was planted: scans that it spoilt, and those that are usable all the same.

    Of each: how many, the median probability, and the share that is flagged (below `vocabulary.LEAST_USABLE`); of the spoilt ones also the share that
    is flagged for the right reason.
    """
    table = judged_table.assign(flagged=judged_table["usable"] < vocabulary.LEAST_USABLE)
    rows = []
    for name, each in table.groupby("planted", sort=False):
        bad, good = each[each["spoilt"]], each[~each["spoilt"]]
        rightly = (bad["flagged"] & bad["right"]).mean()
        rows.append(
            [name, len(bad), bad["usable"].median(), bad["flagged"].mean(), rightly, len(good), good["usable"].median(), good["flagged"].mean()]
        )
    columns = ["planted", "spoilt", "said", "flagged", "rightly", "usable", "said of usable", "flagged of usable"]
    return pd.DataFrame(rows, columns=columns).set_index("planted")


def reliability(judged_table: pd.DataFrame, edges: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)) -> pd.DataFrame:
    """Hold the probability against how often values are usable, by bins of it, with planted failures weighted to be `PRIOR` of all.

    Columns: scans in the bin, how many of them are clean, the mean probability, and the share of them (both weighted) that is usable.
    """
    clean = (judged_table["planted"] == CLEAN).to_numpy()
    weight = np.where(clean, (1 - PRIOR) / max(clean.sum(), 1), PRIOR / max((~clean).sum(), 1))
    usable, truth = judged_table["usable"].to_numpy(), ~judged_table["spoilt"].to_numpy()
    rows = []
    for low, high in pairwise(edges):
        here = (usable >= low) & ((usable < high) | (high == edges[-1]))
        if here.any():
            said, true = (np.average(v[here], weights=weight[here]) for v in (usable, truth))
            rows.append([f"{low:g}-{high:g}", int(here.sum()), int((here & clean).sum()), said, true, int((truth & here).sum())])
    return pd.DataFrame(rows, columns=["probability", "scans", "clean", "said", "usable", "usable scans"])


def train_usable(out: str | Path, template: Template, *, people: int = 12, seed: int = 1, say: Callable[[str], None] = print) -> Path:
    """Simulate, fit, and write the card that `quality.judge` reads: weights, and what they were fitted on.

    Parameters
    ----------
    out : path
        Folder; ``features.csv`` and ``usable.json`` are written there.
    template : Template
    people, seed : int
        Simulated people of each grade of `compression.GRADES` in turn. Seeds of a test must be others.
    say : callable
        Told how far it is.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = simulate_features(template, people, seed, say=say)
    table.to_csv(folder / "features.csv", index=False)
    card = {
        "weights": fit_weights(table), "prior": PRIOR, "people": people, "seed": seed, "scans": len(table), "spoilt": int(spoilt(table).sum()),
        "bounds": dict(BOUNDS), "template": template.name,
        "failures": {name: failure.kind for name, failure in FAILURES.items()}, "made by": "cohort-engine train quality",
    }  # fmt: skip
    path = folder / "usable.json"
    path.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return path
