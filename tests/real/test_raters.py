"""Five people drew the dorsal columns and the corticospinal tracts, four of them twice: simulated ones must disagree as much. ``-s`` prints both.

The image that the people drew in is not known; by its grid it is a template at five levels. Simulated ones draw cores of the same sizes in PAM50.
The simulated spread of place, size and outline (`phantom.rater.HABIT`, `CHANCE`) was set in sight of these figures.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.io.volume import read_volume
from cohort_engine.phantom.rater import raters
from cohort_engine.phantom.roi_study import SCHOOL
from cohort_engine.rois.cores import depth
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real
DRAWN = ("dc", "csl", "csr")
"""Dorsal columns, left and right corticospinal tract."""
ATLAS = {"dc": "dorsal_column", "csl": "bin_tract_mask02", "csr": "bin_tract_mask17"}
NAMES = (("fasciculus gracilis", "fasciculus cuneatus"), ("left lateral corticospinal",), ("right lateral corticospinal",))
MIRRORED = np.array([0, 2, 1])
LEVELS = ("C2", "C4", "C6", "T4", "T8")
AREA = np.array([7.0, 3.7, 3.7])
"""Mean area that the people drew, mm2."""
CREWS = 12
SIZE = np.array([0.5, 0.5])


def dice(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dice (region,) of drawings (slice, region, x, y), slices pooled."""
    return np.asarray(2 * (a & b).sum((0, 2, 3)) / (a.sum((0, 2, 3)) + b.sum((0, 2, 3))))


def agreement(first: list[np.ndarray], second: list[np.ndarray]) -> pd.DataFrame:
    """Mean Dice of people, and of those who drew twice with themselves (the last ones of `first`)."""
    between = np.mean([dice(a, b) for a, b in combinations(first, 2)], axis=0)
    again = np.mean([dice(a, b) for a, b in zip(first[-len(second) :], second, strict=True)], axis=0)
    return pd.DataFrame({"two people": between, "one, twice": again}, DRAWN)


def real(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    def of(rater: int, suffix: str) -> np.ndarray:
        images = [read_volume(folder / f"rater{rater}" / f"manual_{name}{suffix}.nii.gz", what="drawn region").data > 0 for name in DRAWN]
        return np.moveaxis(np.stack(images), -1, 0)

    return [of(r, "") for r in range(1, 6)], [of(r, "_2") for r in range(2, 6)]


def simulated(template: Template, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    corner, at = np.asarray(template.corner), template.packing.ijk.astype(int) - np.asarray(template.corner)
    depths, rooms = [], []
    for level in LEVELS:
        k = int(np.median(np.flatnonzero(template.slice_level == schema.level_number(level))))
        here = at[:, 2] == k - corner[2]
        shares = np.zeros((len(NAMES), *template.cord.shape[:2]))
        for share, names in zip(shares, NAMES, strict=True):
            rows = [i for i, label in enumerate(template.atlas.labels) if any(n in label for n in names)]
            share[tuple(at[here, :2].T)] = template.atlas.weights[rows].sum(0)[here]
        depths.append(depth(np.pad(shares, ((0, 0), (6, 6), (6, 6))), SIZE))
        rooms.append(np.broadcast_to(np.pad(template.cord[:, :, k - corner[2]] >= 0.5, 6), depths[-1].shape))
    rng, people = np.random.default_rng(seed), raters(5, MIRRORED, seed=seed)
    once, twice = ([np.stack([r.draw(d, room, AREA, SIZE, rng) for d, room in zip(depths, rooms, strict=True)]) for r in people] for _ in range(2))
    return once, twice[1:]


def test_simulated_people_disagree_as_real_ones(real_data: Path, pam50: Template) -> None:
    found = agreement(*real(real_data / "rater_masks"))
    crews = [agreement(*simulated(pam50, seed)) for seed in range(CREWS)]
    made = sum(crews[1:], crews[0]) / CREWS
    spread = pd.DataFrame(np.std([c.to_numpy() for c in crews], axis=0), found.index, found.columns)
    print(f"\nDice of five people, of {CREWS} simulated crews of five, and its spread", *(t.round(2) for t in (found, made, spread)), sep="\n")
    apart = np.abs((found - made).to_numpy())
    assert (apart <= np.maximum(1.5 * spread.to_numpy(), 0.04)).all()
    assert apart.mean() < 0.04


def test_people_share_a_habit_against_the_atlas(real_data: Path) -> None:
    folder = real_data / "rater_masks"
    first, _ = real(folder)
    apart = {}
    for i, name in enumerate(DRAWN):
        atlas = np.moveaxis(read_volume(folder / "atlas" / f"{ATLAS[name]}.nii.gz", what="tract").data > 0, -1, 0)
        if first[0].shape[2:] == atlas.shape[1:]:  # one grid, two headers: arrays are compared, in the raters' order
            atlas = atlas[:, ::-1]
        middles = [[(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)) * 0.5 for a, b in zip(r[:, i], atlas, strict=True) if a.any()] for r in first]
        apart[name] = np.mean([np.mean(m, axis=0) for m in middles], axis=0)
    print("\nmm to the right, mm to the front of the atlas", pd.DataFrame(apart, ["right", "front"]).T.round(2), sep="\n")
    inward = np.array([apart["csl"][0], -apart["csr"][0]])
    assert (inward > 0.3).all()
    assert np.sqrt(np.mean(np.square(list(apart.values())))) == pytest.approx(SCHOOL, abs=0.1)
