"""The DTI study's tables: masks of several methods against what was drawn, beside what was published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.agreement import icc
from cohort_engine.errors import StorageError, first_line
from cohort_engine.rois.evaluate import RESAMPLES, Scores, mean_sd, over_patients, score
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.study.format import NOTHING

FloatArray = NDArray[np.float64]

METHOD, REGION = "method", schema.REGION
NETWORK, RATER, ATLAS = "network", "another rater", "atlas, without a network"
SOURCE: Final = "doi 10.3390/diagnostics13050817, table 1"

PUBLISHED: Final = pd.DataFrame(
    {
        "dice": [0.69, 0.67, 0.57, 0.54, 0.68, 0.67, 0.59, 0.55], "dice_sd": [0.19, 0.24, 0.29, 0.28, 0.21, 0.22, 0.26, 0.31],
        "recall": [0.78, 0.74, 0.62, 0.59, 0.74, 0.74, 0.63, 0.56], "recall_sd": [0.23, 0.29, 0.33, 0.33, 0.25, 0.26, 0.29, 0.34],
        "precision": [0.64, 0.63, 0.55, 0.53, 0.65, 0.65, 0.58, 0.57], "precision_sd": [0.20, 0.23, 0.28, 0.28, 0.20, 0.22, 0.27, 0.32],
        "dice_without_outliers": [0.69, 0.68, 0.61, 0.57, 0.68, 0.69, 0.63, 0.61], "outliers": [0.00, 0.02, 0.07, 0.07, 0.01, 0.03, np.nan, np.nan],
        "error_percent": [7.0, 7.0, 11.0, 8.0, 7.0, 10.0, 11.0, 7.0], "scs_net_error_percent": [10.14, 5.32, 7.37, 5.70, 9.60, 4.60, 8.74, 6.27],
        "share": [0.00078, 0.00098, 0.00063, 0.00053, 0.00101, 0.00098, 0.00073, 0.00054],
    },
    index=pd.Index(schema.ROIS, name=REGION),
)  # fmt: skip
"""The published heat-map loss with a VGG16 encoder on FA; the errors of SCS-Net (doi 10.3390/bioengineering12070709); and the share of pixels of each
region in the released code. Outliers of the right ventral column and grey matter are given as up to 10 % together."""
PUBLISHED_PIXEL: Final = 0.625**2
"""mm2; of 128 x 128."""


@dataclass(frozen=True, eq=False)
class Method:
    """One way to find the regions, judged.

    Attributes
    ----------
    name : str
    masks : (slice, roi, x, y) bool
    scores : Scores
    facts : mapping
        What is known of it: configuration, seed, patients of the training.
    """

    name: str
    masks: NDArray[np.bool_]
    scores: Scores
    facts: Mapping[str, Any] = field(default_factory=dict)


def judged(slices: RoiSlices, networks: Mapping[str, tuple[NDArray[np.bool_], Mapping[str, Any]]], *, metric: str = schema.FA) -> list[Method]:
    """Judge the masks of networks, and beside them those that the slices bring: another rater's, and the atlas's."""
    given = {name: (masks, facts) for name, (masks, facts) in networks.items()}
    for name, masks in ((ATLAS, slices.atlas), (RATER, slices.again)):
        if masks is not None:
            given[name] = (masks, {})
    return [Method(name, masks, score(masks, slices, metric=metric), facts) for name, (masks, facts) in given.items()]


def region_table(methods: Sequence[Method], *, seed: int = 0, resamples: int = RESAMPLES) -> pd.DataFrame:
    """All figures of all methods: a row a method and region.

    They are those of `Scores.summary`, with intervals over patients of Dice and of the error (``dice_low``, ``dice_high``, ...), and ICC(2,1) of the
    regions' means (``icc``).
    """
    parts = []
    for m in methods:
        table = pd.DataFrame(m.scores.summary())
        interval = over_patients(m.scores.dice, m.scores.patient, seed=seed, resamples=resamples)
        error = over_patients(m.scores.error_percent, m.scores.patient, seed=seed, resamples=resamples)
        table = table.assign(dice_low=interval.low, dice_high=interval.high, error_percent_low=error.low, error_percent_high=error.high)
        table = table.assign(icc=np.diag(icc_matrix(m.scores)), slices=interval.n, patients=interval.patients)
        parts.append(pd.concat([pd.DataFrame({METHOD: m.name, REGION: schema.ROIS}), table], axis=1))
    return pd.concat(parts, ignore_index=True)


def method_table(regions: pd.DataFrame) -> pd.DataFrame:
    """Means over the eight regions, a row a method; the largest share of slices without output, and on the wrong side, of any region."""
    grouped = regions.groupby(METHOD, sort=False)
    means = grouped[["dice", "recall", "precision", "dice_without_outliers", "outliers", "error", "error_percent", "icc"]].mean()
    return means.assign(**{f"{name}_worst": grouped[name].max() for name in ("without_output", "wrong_side", "wrong_half")}).reset_index()


def differences(first: Method, second: Method, *, seed: int = 0, resamples: int = RESAMPLES) -> pd.DataFrame:
    """First less second, paired slice by slice: mean difference of Dice and of the error (percent) with intervals over patients."""
    out: dict[str, Any] = {"first": first.name, "second": second.name, REGION: schema.ROIS}
    for name in ("dice", "error_percent"):
        one, other = getattr(first.scores, name), getattr(second.scores, name)
        found = over_patients(one - other, first.scores.patient, seed=seed, resamples=resamples)
        out |= {f"{name}_difference": found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    return pd.DataFrame(out)


def icc_matrix(scores: Scores) -> FloatArray:
    """ICC(2,1) of each region's mean in the mask (row) with each region's mean where it was drawn (column), over slices: (roi, roi)."""
    n, rois = scores.mean.shape
    pairs = np.stack(np.broadcast_arrays(scores.mean[:, :, None], scores.drawn_mean[:, None, :]), axis=1)
    return icc(pairs.reshape(n, 2, rois * rois), max_missing=1.0).icc.reshape(rois, rois)


def size_table(slices: RoiSlices, scores: Scores) -> pd.DataFrame:
    """Class sizes: mean area of each region as drawn and as found (mm2), share of the pixels of a slice, and the published share."""
    there, pixel = scores.drawn_pixels > 0, float(np.prod(slices.spacing))
    drawn, found = (mean_sd(np.where(there, n, np.nan)) for n in (scores.drawn_pixels, scores.pixels))
    plane = slices.drawn.shape[2] * slices.drawn.shape[3]
    return pd.DataFrame(
        {
            REGION: schema.ROIS, "drawn_area": pixel * drawn[0], "drawn_area_sd": pixel * drawn[1], "area": pixel * found[0],
            "area_sd": pixel * found[1],
            "published_area": PUBLISHED["share"].to_numpy() * 128**2 * PUBLISHED_PIXEL, "share": drawn[0] / plane,
            "published_share": PUBLISHED["share"].to_numpy(), "slices": there.sum(axis=0),
        }
    )  # fmt: skip


def beside_published(regions: pd.DataFrame, method: str) -> pd.DataFrame:
    """Table 1 of the study: one method's figures, with the published ones in columns that begin with ``published_``."""
    own = regions[regions[METHOD] == method].set_index(REGION).loc[list(schema.ROIS)]
    names = ["dice", "recall", "precision"]
    columns = [f"{n}{ending}" for n in names for ending in ("", "_sd")] + ["dice_without_outliers", "outliers", "error_percent"]
    return own[columns].join(PUBLISHED[[*columns, "scs_net_error_percent"]].add_prefix("published_")).reset_index()


def slice_table(methods: Sequence[Method], slices: RoiSlices) -> pd.DataFrame:
    """Every slice, region and method: a row each, for one's own statistics."""
    n, rois = slices.drawn.shape[:2]
    names = ("dice", "recall", "precision", "drawn_pixels", "pixels", "drawn_mean", "mean", "other_region", "other_half")
    frames = []
    for m in methods:
        s = m.scores
        columns = {
            "patient": np.repeat(slices.patient, rois), "position": np.repeat(slices.position, rois), REGION: np.tile(schema.ROIS, n),
            **{name: getattr(s, name).ravel() for name in names},
        }  # fmt: skip
        frames.append(pd.DataFrame({METHOD: m.name, **columns}))
    return pd.concat(frames, ignore_index=True)


def read_results(path: str | Path) -> pd.DataFrame:
    """Read the results of a sweep (`rois.sweep`), a row a training and region.

    Returns
    -------
    DataFrame
        A column of text a choice, then ``seed``, `REGION`, the figures on the test slices, and ``held_out_dice``: Dice on slices that the training's
        own split held out. Choices that are the same in all rows are left out.

    Raises
    ------
    StorageError
        No such file, or a line that is no result.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        frames = []
        for line in lines:
            labels = {k: v for k, v in line.items() if isinstance(v, str) and k != "row"}
            held_out = (line.get("held_out") or {}).get("dice", [np.nan] * len(schema.ROIS))
            frames.append(pd.DataFrame({**labels, "seed": line["seed"], REGION: schema.ROIS, **line["test"], "held_out_dice": held_out}))
        table = pd.concat(frames, ignore_index=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            expected="results of a sweep, one line of JSON a training", found=first_line(error), where=Path(path).name,
            remedy="Give the file results.jsonl that a sweep wrote.",
        ) from error  # fmt: skip
    return table.drop(columns=[c for c in choices_of(table) if table[c].nunique() == 1])


def over_regions(results: pd.DataFrame) -> pd.DataFrame:
    """Means over the eight regions of `read_results`, a row a training; the shares of the worst region."""
    keys = [*choices_of(results), "seed"]
    grouped = results.groupby(keys, sort=False)
    means = grouped[[c for c in ("dice", "recall", "precision", "outliers", "error_percent", "held_out_dice") if c in results]].mean()
    worst = grouped[[c for c in ("without_output", "wrong_side") if c in results]].max()
    return means.join(worst).reset_index()


def choices_of(results: pd.DataFrame) -> list[str]:
    """Columns of text: what was chosen for each training."""
    return [str(c) for c in results if c != REGION and all(isinstance(v, str) for v in results[c])]


def settings_of(results: pd.DataFrame) -> pd.Series[str]:
    """Name the choices of each row."""
    names = choices_of(results)
    if not names:
        return pd.Series("as configured", index=results.index)
    joined = [", ".join(v for v in row if v != NOTHING) for row in results[names].itertuples(index=False, name=None)]
    return pd.Series(joined, index=results.index)


def shown_slices(scores: Scores, each: int = 2) -> dict[str, list[int]]:
    """Slices to look at, by mean Dice over their regions: the best, those in the middle, and the worst."""
    known = np.isfinite(scores.dice)
    mean = np.where(known.any(axis=1), np.where(known, scores.dice, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)
    order = [int(i) for i in np.argsort(mean, kind="stable") if np.isfinite(mean[i])]
    each = min(each, len(order) // 3) or 1
    middle = max(0, (len(order) - each) // 2)
    return {"best": order[::-1][:each], "median": order[middle : middle + each], "worst": order[:each]}
