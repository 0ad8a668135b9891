"""Quality numbers as a person reads them: a short name, a unit, a limit, and what stands against a subject whose number lies beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cohort_engine import schema
from cohort_engine.quality import vocabulary
from cohort_engine.quality.judge import SIGNS, Sign

MT, T2W = schema.MT, schema.T2W
SHOWN = 5.0
"""A value so many scaled median absolute deviations from the median of its site is an outlier, and is named."""
FEWEST = 8
"""Values of a site that are needed to call one of them an outlier."""
LEAST_SPREAD = 0.02
"""Least scaled deviation, as a share of the size of the median: nobody is an outlier of a site whose values are all but equal."""


class Number(NamedTuple):
    """A quality number that pages show.

    Attributes
    ----------
    name : str
        What a person reads.
    low, high : float
        Limits; beyond them it is bad. Open ends are infinite.
    says : str
        What then stands against the subject; empty where the number counts in the probability alone.
    """

    name: str
    low: float = -np.inf
    high: float = np.inf
    says: str = ""

    def beyond(self, value: float) -> bool:
        """Whether a value lies outside the limits; one that is missing does not.

        Examples
        --------
        >>> Number("Dice", low=0.8).beyond(0.7), Number("Dice", low=0.8).beyond(float("nan"))
        (True, False)
        """
        return bool(value < self.low or value > self.high)

    @property
    def limit(self) -> str:
        """Limits in words.

        Examples
        --------
        >>> Number("Dice", low=0.8).limit, Number("shift", high=3).limit, Number("median").limit
        ('at least 0.8', 'at most 3', '')
        """
        if np.isfinite(self.low) and np.isfinite(self.high):
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if np.isfinite(self.low) else f"at most {self.high:g}" if np.isfinite(self.high) else ""


def _signs() -> dict[str, Sign]:
    return {key: sign for signs in SIGNS.values() for key, sign in signs.items()}


def _number(name: str, key: str) -> Number:
    """Take the limit of a number that counts in the probability from the scorecard: where it is bad."""
    sign = _signs()[key]
    return Number(name, low=sign.bad) if sign.bad < sign.fine else Number(name, high=sign.bad)


_COUNTED: Mapping[str, str] = {
    f"{MT}_{vocabulary.BORDER_SHIFT}": "MT mask beside the cord's edge",
    f"{MT}_{vocabulary.BORDER_LACKS}": "Depth that the MT mask lacks",
    f"{MT}_{vocabulary.BORDER_SEEN}": "Border of the MT mask with an edge in the image",
    f"{MT}_{vocabulary.AREA_STEP}": "Step of the MT mask's area between slices",
    f"{MT}_{vocabulary.CENTRE_JUMP}": "Jump of the MT mask between slices",
    f"{MT}_{vocabulary.BORDER_OUTWARD}": "Fluid brighter than cord in MT",
    f"{T2W}_{vocabulary.BORDER_SHIFT}": "T2w mask beside the cord's edge",
    f"{T2W}_{vocabulary.BORDER_LACKS}": "Depth that the T2w mask lacks",
    f"{T2W}_{vocabulary.BORDER_OUTWARD}": "Fluid brighter than cord in T2w",
    vocabulary.OTHER_DICE: "Agreement of MT and T2w masks (Dice)",
    vocabulary.OTHER_DISTANCE: "Distance of MT and T2w masks",
    vocabulary.LEVEL_SPACING: "Unevenness of the vertebrae's heights",
    vocabulary.LEVEL_OPINION: "Distance of the discs from those of a network, in vertebrae",
    f"{MT}_{vocabulary.OUTLINE}": "Agreement of template and MT mask (Dice)",
    f"{MT}_{vocabulary.EXPLAINED}": "MT image explained by the tissues",
    f"{MT}_{vocabulary.WHITE_BELOW_GREY}": "Slices with white matter darker than grey",
    f"{MT}_{vocabulary.BEND_MIN}": "Smallest stretch of the map",
    f"{MT}_{vocabulary.BEND_MAX}": "Largest stretch of the map",
    vocabulary.PAIR_SHIFT: "Largest shift between MT-on and MT-off",
    vocabulary.PAIR_LOOSE: "Shift of single slices between MT-on and MT-off",
    vocabulary.PAIR_NEGATIVE: "Cord brighter in MT-on than in MT-off",
    vocabulary.PAIR_CORD: "MTR of the cord before registration",
    vocabulary.PAIR_FLUID: "MTR of the cord above that of its surroundings",
    vocabulary.MIRROR_PLACE: "Better agreement of masks when mirrored",
    vocabulary.MIRROR_IMAGE: "Better agreement of images when mirrored",
}
NUMBERS: Mapping[str, Number] = {
    vocabulary.USABLE: Number("Probability that the values are usable", low=vocabulary.LEAST_USABLE),
    **{key: _number(name, key) for key, name in _COUNTED.items()},
    f"{schema.MTR}_{schema.FLAGGED}": Number("Cord voxels without signal (MTR)", high=0.05, says="slices or voxels of the cord have no signal"),
    f"{MT}_{schema.GAPS}": Number("Slices without mask inside the cord (MT)", high=0.5, says="the mask leaves slices out"),
    f"{MT}_{schema.RESIDUAL}": Number("Distance of landmarks from their place (MT)", high=15.0),
    f"{schema.MTR}_{schema.CORD_MEDIAN}": Number("Median MTR of the cord"),
    vocabulary.DOUBTFUL_SLICES: Number("Doubtful slices"),
}  # fmt: skip
"""Quality numbers that have a name, in the order of pages; others are listed with what the store calls them."""


def outliers(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Values (subject,) far from the median of all, by the median absolute deviation; none where fewer than `FEWEST` are known.

    Examples
    --------
    >>> outliers(np.array([10.0, 11, 9, 10, 12, 8, 10, 11, 30, np.nan])).tolist()
    [False, False, False, False, False, False, False, False, True, False]
    """
    known = np.isfinite(values)
    if known.sum() < FEWEST:
        return np.zeros(len(values), bool)
    middle = np.median(values[known])
    spread = max(1.4826 * float(np.median(np.abs(values[known] - middle))), LEAST_SPREAD * abs(float(middle)))
    return np.asarray(np.abs(np.where(known, values, middle) - middle) > SHOWN * spread, bool) if spread > 0 else np.zeros(len(values), bool)
