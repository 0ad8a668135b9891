"""One probability that a subject's values are usable, and what stands against them: a scorecard, one logistic for each kind of failure.

A feature becomes a badness: 0 up to what usable subjects show, 1 where it is bad, at most 2. The logit of a kind of failure is a weighted sum of the
badnesses that bear on it, with weights that are not negative, so that a worse number never makes a subject better. The values are usable when no
failure has happened: ``usable = prod(1 - p)``. Weights are fitted by `phantom.usable`; the card in ``data/usable.json`` says on what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from cohort_engine import schema
from cohort_engine.cord.centreline import runs
from cohort_engine.quality import vocabulary
from cohort_engine.quality.features import Findings

WORST = 2.0
"""Largest badness."""
CARD = "data/usable.json"
NAMED = 0.1
"""A kind of failure with this probability is among the reasons."""


class Sign(NamedTuple):
    """When a feature is bad: badness is 0 at `fine` and beyond on its good side, 1 at `bad`."""

    fine: float
    bad: float

    def badness(self, value: float) -> float:
        """Badness of a value; 0 where it is not known."""
        return float(np.clip((value - self.fine) / (self.bad - self.fine), 0.0, WORST)) if np.isfinite(value) else 0.0


SIGNS: Mapping[str, Mapping[str, Sign]] = {
    vocabulary.LEVELS_FAULT: {vocabulary.LEVEL_SPACING: Sign(0.3, 0.6), vocabulary.LEVEL_OPINION: Sign(0.3, 0.45)},
    vocabulary.MASK_FAULT: {
        f"{schema.MT}_{vocabulary.BORDER_SHIFT}": Sign(0.2, 0.5), f"{schema.MT}_{vocabulary.BORDER_LACKS}": Sign(0.7, 1.5),
        f"{schema.T2W}_{vocabulary.BORDER_SHIFT}": Sign(0.4, 1.2), f"{schema.T2W}_{vocabulary.BORDER_LACKS}": Sign(0.7, 1.5),
        vocabulary.OTHER_DICE: Sign(0.5, 0.2),
        f"{schema.MT}_{vocabulary.BORDER_SEEN}": Sign(0.78, 0.55), f"{schema.MT}_{vocabulary.AREA_STEP}": Sign(0.45, 0.8),
    },
    vocabulary.SIDES_FAULT: {vocabulary.MIRROR_PLACE: Sign(0.02, 0.15), vocabulary.MIRROR_IMAGE: Sign(0.02, 0.1)},
    vocabulary.MOTION_FAULT: {
        vocabulary.PAIR_SHIFT: Sign(2.0, 3.0), vocabulary.PAIR_LOOSE: Sign(0.6, 1.5), f"{schema.MT}_{vocabulary.CENTRE_JUMP}": Sign(1.6, 2.6),
        vocabulary.OTHER_DISTANCE: Sign(3.0, 6.0),
    },
    vocabulary.CONTRAST_FAULT: {
        f"{schema.MT}_{vocabulary.BORDER_OUTWARD}": Sign(0.8, 0.5), f"{schema.T2W}_{vocabulary.BORDER_OUTWARD}": Sign(0.8, 0.5),
        vocabulary.PAIR_NEGATIVE: Sign(0.05, 0.25), vocabulary.PAIR_CORD: Sign(24.0, 14.0), vocabulary.PAIR_FLUID: Sign(8.0, 0.0),
    },
    vocabulary.MAP_FAULT: {
        f"{schema.MT}_{vocabulary.EXPLAINED}": Sign(0.55, 0.3), f"{schema.MT}_{vocabulary.BEND_MIN}": Sign(0.55, 0.25),
        f"{schema.MT}_{vocabulary.BEND_MAX}": Sign(1.4, 1.8), f"{schema.MT}_{vocabulary.OUTLINE}": Sign(0.92, 0.8),
        f"{schema.MT}_{vocabulary.WHITE_BELOW_GREY}": Sign(0.8, 0.4),
    },
}  # fmt: skip
"""Kind of failure -> the features that bear on it, and when they are bad."""


class Verdict(NamedTuple):
    """Probability that the values are usable, and that of each kind of failure."""

    usable: float
    faults: Mapping[str, float]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Kinds of failure that are likely, likeliest first."""
        return tuple(sorted((k for k, p in self.faults.items() if p >= NAMED), key=lambda k: -self.faults[k]))


@cache
def card() -> dict[str, Any]:
    """Return the weights and where they come from.

    Examples
    --------
    >>> sorted(card()["weights"]) == sorted(SIGNS)
    True
    """
    loaded: dict[str, Any] = json.loads(resources.files(__package__).joinpath(CARD).read_text())
    return loaded


def badness(values: Mapping[str, float], kind: str) -> list[float]:
    """Badness of each feature that bears on a kind of failure; 0 where it is not known."""
    return [sign.badness(float(values.get(key, np.nan))) for key, sign in SIGNS[kind].items()]


def judge(values: Mapping[str, float], weights: Mapping[str, Mapping[str, float]] | None = None) -> Verdict:
    """Judge a subject by its features.

    Parameters
    ----------
    values : mapping of key to float
        As in `vocabulary.quality_specs`. Missing: a feature that is absent or NaN says nothing against the subject.
    weights : mapping of kind to {feature: weight}, optional
        With the bias as ``""``; by default those of the package.

    Returns
    -------
    Verdict

    Examples
    --------
    >>> good = {"mt_explained": 0.75, "mt_border_shift": 0.1, "pair_cord": 42.0}
    >>> judge(good).usable > 0.9, judge(good | {"mt_border_shift": 3.0}).reasons
    (True, ('mask',))
    """
    weights = card()["weights"] if weights is None else weights
    faults = {}
    for kind, signs in SIGNS.items():
        logit = weights[kind][""] + sum(w * b for w, b in zip((weights[kind][k] for k in signs), badness(values, kind), strict=True))
        faults[kind] = float(1 / (1 + np.exp(-logit)))
    return Verdict(float(np.prod([1 - p for p in faults.values()])), faults)


def told(found: Findings, verdict: Verdict) -> str:
    """Tell what stands against the values: each likely failure with the numbers that say so, worst first, and the slices they name.

    Examples
    --------
    >>> found = Findings({"mt_border_lacks": 2.1, "mt_explained": 0.7}, {"mt_border_lacks": np.array([9, 10, 11])})
    >>> print(told(found, judge(found.values)))
    the cord mask is shifted, or lacks a part (mt_border_lacks 2.1, slices 9-11)
    """
    out = []
    for kind in verdict.reasons:
        rated = sorted(zip(SIGNS[kind], badness(found.values, kind), strict=True), key=lambda pair: -pair[1])
        numbers = [f"{key} {found.values[key]:.2g}{_slices(found.slices.get(key, ()))}" for key, bad in rated if bad > 0]
        out.append(vocabulary.FAULTS[kind] + (f" ({'; '.join(numbers)})" if numbers else ""))
    out += [f"not judged: {part} ({why})" for part, why in found.failed.items()]
    return ". ".join(out)


def _slices(which: Any) -> str:
    """``, slices 9-11, 14``."""
    which = np.asarray(which, np.int64)
    return f", slices {runs(which)}" if len(which) else ""
