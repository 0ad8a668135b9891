"""Left and right of the packaged network's regions: with and without the midline and a limit to the share on the wrong side, and FA in them.

Run with ``ROI_TRAIN=train.npz ROI_SLICES=test.npz pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_roi_sides.py``
(minutes), where train.npz is what the network was trained on, and test.npz, if there is one, other patients. Every choice is made on what each member
says of the patients it has not seen.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.rois.config import folds, split
from cohort_engine.rois.evaluate import mean_sd, over_patients, score
from cohort_engine.rois.midline import sided
from cohort_engine.rois.slices import RoiSlices, joined
from cohort_engine.rois.thresholds import above, against, best_sides, best_thresholds
from cohort_engine.rois.train import RoiNet, load_rois

SIZE = 30
"""Pixels a side that are kept around the middle of each cord."""
LIMITS = None, 0.01, 0.0075, 0.006


def around_cord(slices: RoiSlices, heat: np.ndarray) -> tuple[RoiSlices, np.ndarray]:
    count = np.maximum(1, slices.cord.sum((1, 2)))
    corners = [
        np.clip(np.rint((slices.cord.sum(3 - axis) * np.arange(n)).sum(1) / count - SIZE / 2).astype(int), 0, n - SIZE)
        for axis, n in zip((1, 2), slices.cord.shape[1:], strict=True)
    ]

    def part(array: np.ndarray) -> np.ndarray:
        return np.stack([a[..., x : x + SIZE, y : y + SIZE] for a, x, y in zip(array, *corners, strict=True)])

    assert slices.prior is not None
    images = {schema.FA: part(slices.images[schema.FA])}
    kept = RoiSlices(images, part(slices.drawn), part(slices.cord), slices.patient, slices.position, slices.spacing, prior=part(slices.prior))
    assert kept.drawn.sum() == slices.drawn.sum()
    return kept, part(heat)


def left_out(net: RoiNet, slices: RoiSlices) -> tuple[RoiSlices, np.ndarray]:
    """Slices, and the heat of the member that has not seen them."""
    config, members = net.config, net.modules
    train, valid, _ = split(slices, by=config.split, fractions=config.fractions, seed=config.seed)
    whole = joined([slices.at(train), slices.at(valid)])
    assert net.seen(whole).all()
    found = []
    for member, unseen in zip(members, folds(whole, config.members, by=config.split, seed=config.seed), strict=True):
        net.modules = [member]
        found.append(around_cord(whole.at(unseen), net.predict(whole.at(unseen))))
    net.modules = members
    return joined([part for part, _ in found]), np.concatenate([heat for _, heat in found])


def figures(masks: np.ndarray, slices: RoiSlices) -> pd.DataFrame:
    found = score(masks, slices)
    wrong = over_patients(100 * found.other_region / found.pixels.mean(axis=0), slices.patient)
    columns = {"Dice": mean_sd(found.dice)[0], "FA error %": mean_sd(found.error_percent)[0], "wrong side %": wrong.mean, "interval to": wrong.high}
    return pd.DataFrame(columns, schema.ROIS).T


def fa_by_heat(heat: np.ndarray, slices: RoiSlices, least: float = 0.1) -> np.ndarray:
    """Error (roi,) of mean FA, percent, where each pixel counts by its heat."""
    fa, known = slices.images[schema.FA], np.isfinite(slices.images[schema.FA])[:, None]
    mean = [np.where(known, w, 0).astype(float) for w in (slices.drawn, np.where(heat > least, heat, 0))]
    drawn, found = (np.einsum("nrxy,nxy->nr", w, np.nan_to_num(fa)) / np.maximum(w.sum((2, 3)), 1e-9) for w in mean)
    return mean_sd(np.where(drawn > 0, 100 * abs(found - drawn) / np.where(drawn > 0, drawn, 1), np.nan))[0]


@pytest.mark.skipif("ROI_TRAIN" not in os.environ, reason="ROI_TRAIN names no slices")
def test_sides(benchmark: Any) -> None:
    net = load_rois()
    net.config = net.config.model_copy(update={"midline": False})
    data = {"left out": left_out(net, RoiSlices.load(os.environ["ROI_TRAIN"]))}
    if other := os.environ.get("ROI_SLICES"):
        test = RoiSlices.load(other)
        data["test"] = around_cord(test, net.predict(test))

    def run() -> dict[tuple[str, bool, float | None], pd.DataFrame]:
        out = {}
        for midline in (False, True):
            heat = {name: sided(maps, slices) if midline else maps for name, (slices, maps) in data.items()}
            drawn = data["left out"][0].drawn
            for limit in LIMITS:
                if limit is None:
                    thresholds, weights = best_thresholds(heat["left out"], drawn, by=net.config.threshold), np.zeros(len(schema.ROIS))
                else:
                    thresholds, weights = best_sides(heat["left out"], drawn, limit, by=net.config.threshold)
                for name, (slices, _) in data.items():
                    left = against(heat[name], weights)
                    out[name, midline, limit] = figures(above(left, thresholds) & (left == left.max(1, keepdims=True)), slices)
        return out

    found = benchmark.pedantic(run, rounds=1)
    for (name, midline, limit), table in found.items():
        print(f"\n{name}, {'with' if midline else 'without'} midline, limit {limit}: mean Dice {table.loc['Dice'].mean():.4f}")
        print(table.round(3).to_string())
    for name, (slices, heat) in data.items():
        print(f"\n{name}, FA error % where pixels count by their heat: {fa_by_heat(heat, slices).round(2)}")
    plain, with_midline = (found["left out", midline, None].loc["Dice"].mean() for midline in (False, True))
    assert with_midline > plain
    assert (found["left out", True, LIMITS[-1]].loc["wrong side %"] < 1).all()
