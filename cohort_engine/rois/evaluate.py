"""How well masks meet what was drawn: overlap, means of the map inside, sides exchanged, and how sure all that is over patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import GeometryError, InputError
from cohort_engine.rois.slices import RoiSlices

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, eq=False)
class Scores:
    """Masks against drawn regions.

    Attributes
    ----------
    dice, recall, precision : (slice, roi) float64
        0 where the mask does not meet the drawn region, be it empty or elsewhere; NaN where the region was not drawn.
    without_output, outlier : (slice, roi) bool
        The region was drawn and the mask is empty; or does not meet it. Outliers hold all slices without output.
    drawn_pixels, pixels : (slice, roi) int
    drawn_mean, mean : (slice, roi) float64
        Mean of the map over the drawn region and over the mask; NaN without pixels.
    other_region, other_half : (slice, roi) int
        Pixels of the mask inside a region drawn on the other side; or nearer to a region drawn on the other side than to any of its own side.
    patient : (slice,) int
    spacing : (2,) float64, mm
    """

    dice: FloatArray
    recall: FloatArray
    precision: FloatArray
    without_output: BoolArray
    outlier: BoolArray
    drawn_pixels: IntArray
    pixels: IntArray
    drawn_mean: FloatArray
    mean: FloatArray
    other_region: IntArray
    other_half: IntArray
    patient: IntArray
    spacing: FloatArray

    @property
    def error(self) -> FloatArray:
        """Absolute difference of the two means of the map (slice, roi), in its unit; NaN without output."""
        return np.asarray(np.abs(self.mean - self.drawn_mean), dtype=np.float64)

    @property
    def error_percent(self) -> FloatArray:
        """`error` in percent of the mean over the drawn region."""
        return np.asarray(100 * self.error / np.where(self.drawn_mean > 0, self.drawn_mean, np.nan), dtype=np.float64)

    @property
    def dice_without_outliers(self) -> FloatArray:
        """Dice (slice, roi), NaN where the mask does not meet the drawn region."""
        return np.where(self.outlier, np.nan, self.dice)

    @property
    def outlier_share(self) -> FloatArray:
        """Share of the slices with a drawn region in which the mask does not meet it (roi,)."""
        return _share(self.outlier, self.drawn_pixels > 0)

    @property
    def without_output_share(self) -> FloatArray:
        """Share of the slices with a drawn region in which the mask is empty (roi,)."""
        return _share(self.without_output, self.drawn_pixels > 0)

    @property
    def wrong_side(self) -> FloatArray:
        """Share of all pixels of the masks that lie inside a region drawn on the other side (roi,); NaN without pixels."""
        return _share(self.other_region, self.pixels)

    @property
    def wrong_half(self) -> FloatArray:
        """Share of all pixels of the masks that lie nearer to a region drawn on the other side than to any of their own (roi,)."""
        return _share(self.other_half, self.pixels)

    def summary(self) -> dict[str, list[float]]:
        """Give all figures region by region (each of eight numbers): what a line of a sweep's results holds.

        Returns
        -------
        dict
            Mean and ``_sd`` over slices of ``dice``, ``recall``, ``precision``, ``dice_without_outliers``, ``error`` and ``error_percent``; the
            shares ``outliers``, ``without_output``, ``wrong_side`` and ``wrong_half``; and ``drawn_area``, ``area``: mean of the slices with a drawn
            region, mm2.
        """
        out: dict[str, FloatArray] = {}
        for name in ("dice", "recall", "precision", "dice_without_outliers", "error", "error_percent"):
            out[name], out[f"{name}_sd"] = mean_sd(getattr(self, name))
        there, pixel = self.drawn_pixels > 0, float(np.prod(self.spacing))
        out |= {"outliers": self.outlier_share, "without_output": self.without_output_share}
        out |= {"wrong_side": self.wrong_side, "wrong_half": self.wrong_half}
        out |= {name: pixel * mean_sd(np.where(there, n, np.nan))[0] for name, n in (("drawn_area", self.drawn_pixels), ("area", self.pixels))}
        return {name: [float(v) for v in values] for name, values in out.items()}


def mean_sd(values: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over slices of (slice, roi), without NaN; NaN where there are none, or fewer than two.

    Examples
    --------
    >>> [part.round(3).tolist() for part in mean_sd(np.array([[0.5, np.nan], [0.7, 1.0]]))]
    [[0.6, 1.0], [0.141, nan]]
    """
    known = np.isfinite(values)
    n = known.sum(axis=0)
    mean = np.where(n > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
    square = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(np.where(n > 1, square / np.maximum(n - 1, 1), np.nan))


def score(masks: BoolArray, slices: RoiSlices, *, metric: str = schema.FA) -> Scores:
    """Compare masks with the regions that were drawn.

    Parameters
    ----------
    masks : (slice, roi, x, y) bool
        In the order of `schema.ROIS`.
    slices : RoiSlices
    metric : str
        Image whose means over the regions are compared; pixels without a value are left out of them.

    Returns
    -------
    Scores

    Raises
    ------
    GeometryError
        Masks of another number of slices, regions or pixels.
    InputError
        The slices lack the image.

    Notes
    -----
    With P pixels of the mask, G drawn and B in both: Dice 2 B / (P + G), recall B / G, precision B / P. The DTI study's outliers are slices with
    B = 0: its Dice with them is its Dice without them times the share of the others.

    Examples
    --------
    >>> drawn = np.zeros((1, 8, 4, 4), bool)
    >>> drawn[0, 0, 0, :2], drawn[0, 4, 3, :2] = True, True
    >>> fa = np.full((1, 4, 4), 0.5, np.float32)
    >>> slices = RoiSlices({schema.FA: fa}, drawn, drawn.any(axis=1), np.array([0]), np.array([0]), np.ones(2))
    >>> masks = np.zeros_like(drawn)
    >>> masks[0, 0, 0, 1:4] = True
    >>> found = score(masks, slices)
    >>> [float(part[0, 0].round(2)) for part in (found.dice, found.recall, found.precision)], found.without_output[0, [0, 4]].tolist()
    ([0.4, 0.5, 0.33], [False, True])
    """
    drawn = slices.drawn
    if masks.shape != drawn.shape:
        raise GeometryError(
            expected=f"masks of shape {drawn.shape}, as the drawn regions have", found=f"{masks.shape}", where="masks",
            remedy="Predict on the slices that are to be judged.",
        )  # fmt: skip
    if metric not in slices.images:
        raise InputError(
            expected=f"an image {metric!r} in the slices", found=", ".join(slices.images) or "none", where="evaluation of regions",
            remedy="Give slices with that map, or name another.",
        )  # fmt: skip
    masks = np.asarray(masks, dtype=bool)
    pixels, drawn_pixels, both = (part.sum(axis=(2, 3)) for part in (masks, drawn, masks & drawn))
    there = drawn_pixels > 0
    floored = np.where(there, np.maximum(pixels, 1), 1)
    dice, recall, precision = (
        np.where(there, ratio, np.nan)
        for ratio in (2 * both / np.where(there, pixels + drawn_pixels, 1), both / np.where(there, drawn_pixels, 1), both / floored)
    )
    side = of_side(drawn)
    halves = np.repeat(_nearer(side)[:, ::-1], len(schema.PARTS), axis=1)
    image = slices.images[metric]
    return Scores(
        dice, recall, precision, there & (pixels == 0), there & (both == 0), drawn_pixels, pixels, _means(image, drawn), _means(image, masks),
        on_other_side(masks, drawn), (masks & halves).sum(axis=(2, 3)), slices.patient, slices.spacing,
    )  # fmt: skip


def of_side(regions: NDArray[Any]) -> NDArray[Any]:
    """Regions (slice, roi, x, y) of each side together (slice, side, x, y): any of masks, the sum of numbers."""
    parts = regions.reshape(len(regions), len(schema.SIDES), len(schema.PARTS), *regions.shape[2:])
    return np.asarray(parts.any(axis=2) if regions.dtype == bool else parts.sum(axis=2))


def other_side(regions: NDArray[Any]) -> NDArray[Any]:
    """For each region (slice, roi, x, y) those of the other side together, as of `of_side`."""
    return np.repeat(of_side(regions)[:, ::-1], len(schema.PARTS), axis=1)


def on_other_side(masks: BoolArray, drawn: BoolArray) -> IntArray:
    """Count pixels of masks (slice, roi) that lie in a region drawn on the other side."""
    return np.asarray((masks & other_side(drawn) & ~drawn).sum(axis=(2, 3)), dtype=np.int64)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> FloatArray:
    total = whole.sum(axis=0)
    return np.where(total > 0, part.sum(axis=0) / np.maximum(total, 1), np.nan)


def _means(image: NDArray[np.float32], masks: BoolArray) -> FloatArray:
    known = np.isfinite(image)
    n = np.einsum("nxy,nrxy->nr", known.astype(np.float64), masks.astype(np.float64), optimize=True)
    total = np.einsum("nxy,nrxy->nr", np.where(known, image, 0.0).astype(np.float64), masks.astype(np.float64), optimize=True)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _nearer(side: BoolArray) -> BoolArray:
    """Pixels nearer to what was drawn on a side than to what was drawn on the other, (slice, side, x, y); nothing where a side was not drawn."""
    from scipy.ndimage import distance_transform_edt

    nearer = np.zeros_like(side)
    for i in np.flatnonzero(np.all(side.any(axis=(2, 3)), axis=1)):
        left, right = (distance_transform_edt(~part) for part in side[i])
        nearer[i] = left < right, right < left
    return nearer


@dataclass(frozen=True, eq=False)
class Interval:
    """Means with their intervals over patients, each of the values' shape without its first axis; `n` values were there, of `patients` patients."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    n: IntArray
    patients: IntArray


def over_patients(
    values: NDArray[Any], patient: NDArray[Any], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """Mean over slices, with the interval that other patients would have given.

    Parameters
    ----------
    values : (slice, ...)
        NaN is left out. For two methods give their difference: it is paired slice by slice.
    patient : (slice,)
        Slices of one patient are drawn together, since they resemble one another.
    seed, resamples, confidence
        Of the bootstrap: percentiles of the mean over patients drawn with replacement.

    Returns
    -------
    Interval
        NaN where there is no value; the interval also with a single patient.

    Raises
    ------
    InputError
        Not one patient a slice.

    Examples
    --------
    >>> found = over_patients(np.array([0.4, 0.6, 0.8, np.nan]), np.array([1, 1, 2, 2]))
    >>> found.mean.round(2).tolist(), found.low.round(2).tolist(), found.high.round(2).tolist(), found.patients.tolist()
    (0.6, 0.5, 0.8, 2)
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(patient):
        raise InputError(expected=f"{len(values)} numbers of patients, one a slice", found=f"{len(patient)}", where="patients",
                         remedy="Give the slices' own.")  # fmt: skip
    who, code = np.unique(patient, return_inverse=True)
    flat = values.reshape(len(values), -1)
    member = (code == np.arange(len(who))[:, None]).astype(np.float64)
    known = np.isfinite(flat)
    sums, counts = member @ np.where(known, flat, 0.0), member @ known
    n, patients = counts.sum(axis=0), (counts > 0).sum(axis=0)
    draws = np.random.default_rng(seed).multinomial(len(who), np.full(len(who), 1 / len(who)), size=resamples).astype(np.float64)
    low, high = np.full((2, flat.shape[1]), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=0) / n
        means = (draws @ sums) / (draws @ counts)
    some = patients > 1
    if some.any():
        low[some], high[some] = np.nanquantile(means[:, some], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    shape = values.shape[1:]
    mean, low, high = (part.reshape(shape) for part in (mean, low, high))
    return Interval(mean, low, high, n.astype(np.int64).reshape(shape), patients.reshape(shape))
