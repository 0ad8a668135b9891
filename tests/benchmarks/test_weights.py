"""Voxels weighted by their standard errors or not, masked or not: error and bias of tract values, and whether `noise` is the scatter of scans.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_weights.py``. Images of 5 mm slices are made of the parametric
cord; tracts differ by 0.04 in FA, people are drawn anew with every noise. The error of a voxel is that of a tensor fit: smaller where FA is higher
(`relation`), larger in a tenth of the voxels (`broken`), which a judgement of reliability finds or does not find.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cohort_engine.mapping.native import native_atlas
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.maps import Maps
from cohort_engine.reduce.native import level_tables
from cohort_engine.reduce.operator import Operator
from cohort_engine.reduce.precision import errors_of, precision
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.schema import level_number
from cohort_engine.template.levels import LevelRange
from cohort_engine.template.parametric import parametric_cord

DRAWS = 40
ESTIMATORS = ("wa", "ml", "map")
SPACING = (0.9, 0.9, 5.0)
SHARE_BROKEN = 0.1


def scene() -> dict[str, Any]:
    """The atlas in an image whose template map is the identity, at an angle that no voxel likes."""
    template = parametric_cord(spacing=0.5, top="C2", bottom="C5")
    xyz = template.packing.xyz
    low, high = xyz.min(0) - 2, xyz.max(0) + 2
    shape = tuple(np.ceil((high - low) / SPACING).astype(int))
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = low + 0.31
    warped = native_atlas(xyz.astype(np.float32), template, affine, shape)
    clusters = tuple(template.atlas.clusters.values())
    parts = np.stack([warped.weights[list(c)].sum(axis=0) for c in clusters])
    return {"template": template, "warped": warped, "clusters": clusters, "parts": parts, "shape": shape, "affine": affine}


def draw(s: dict[str, Any], rng: np.random.Generator, *, level: float, relation: float, broken: float) -> dict[str, Any]:
    """One person: true tract values, and an image of them with its standard errors; `broken` voxels have that many times the error."""
    template, warped = s["template"], s["warped"]
    truth = np.zeros(len(template.atlas.labels))
    for value, members in zip((0.70, 0.50, 0.10), s["clusters"], strict=True):
        truth[list(members)] = value + rng.normal(0, 0.04 if value > 0.2 else 0, len(members))
    filled = warped.weights.sum(axis=0)
    clean = truth @ warped.weights + 0.10 * (1 - filled)
    se = level * np.exp(-relation * (clean - 0.6)) * rng.uniform(0.8, 1.25, len(clean))
    bad = rng.random(len(clean)) < SHARE_BROKEN
    se = np.where(bad, se * broken, se)
    return {"truth": truth, "values": clean + rng.normal(0, 1, len(clean)) * se, "se": se, "bad": bad}


def native_cells(s: dict[str, Any], values: np.ndarray, se: np.ndarray, weighted: bool) -> dict[str, dict[str, np.ndarray]]:
    """Tables of every estimator, as the native stage of a metric makes them."""
    template, warped = s["template"], s["warped"]
    q = precision(values, se, s["parts"]) if weighted else None
    rest = warped.weights, warped.level, warped.reach, [level_number(n) for n in template.levels]
    places = np.stack(np.unravel_index(warped.voxel, s["shape"]), axis=-1)
    more: dict[str, Any] = {"places": places, "se": np.where(np.isnan(values), np.nan, se), "precision": q}
    sums = LevelSums.of(values, *rest, s["clusters"], **more)
    regions = [r.members for r in template.atlas.regions]
    return {e: level_tables(values, *rest, regions, s["clusters"], estimator=e, min_coverage=0.5, sums=sums, **more) for e in ESTIMATORS}


WAYS = ("all", "masked", "precision", "masked, precision")
SCENES = {
    "SNR 20, a tenth five times worse": {"level": 0.05, "relation": 2.0, "broken": 5.0},
    "SNR 20, all alike": {"level": 0.05, "relation": 2.0, "broken": 1.0},
    "SNR 10, a tenth ten times worse": {"level": 0.10, "relation": 2.0, "broken": 10.0},
}


@pytest.mark.parametrize("name", SCENES)
def test_what_weights_and_masks_are_worth(benchmark: Any, name: str) -> None:
    """Root mean square error and bias of tracts of at least 15 voxels, in one level; power follows as their square."""
    rng, s = np.random.default_rng(7), scene()
    tracts = [i for i, r in enumerate(s["template"].atlas.regions) if len(r.members) == 1 and r.name.startswith("WM")]
    white = next(i for i, r in enumerate(s["template"].atlas.regions) if r.name == "white matter")
    errors: dict[tuple[str, str], list[np.ndarray]] = {}
    whole: dict[tuple[str, str], list[np.ndarray]] = {}

    def run() -> None:
        for _ in range(DRAWS):
            one = draw(s, rng, **SCENES[name])
            members = s["template"].atlas.regions
            truth = np.array([one["truth"][list(r.members)].mean() for r in members])
            for way in WAYS:
                values = np.where(one["bad"] & ("masked" in way), np.nan, one["values"]) if SCENES[name]["broken"] > 1 else one["values"]
                for kind, cells in native_cells(s, values, one["se"], "precision" in way).items():
                    error = np.where(cells["n"] >= 10, cells["value"] - truth, np.nan)
                    errors.setdefault((way, kind), []).append(error[:, tracts].ravel())
                    whole.setdefault((way, kind), []).append(error[:, [white]].ravel())

    benchmark.pedantic(run, rounds=1)
    print(f"\n{name}: FA of tracts (n >= 10 soft voxels) and of white matter, {DRAWS} people; RMS error and bias x 1000")
    for way in WAYS:
        said = []
        for kind in ESTIMATORS:
            e, w = (np.concatenate(d[way, kind]) for d in (errors, whole))
            rms, bias = np.sqrt(np.nanmean(e**2)), np.nanmean(e)
            said.append(
                f"{kind} {1e3 * rms:5.1f} ({1e3 * bias:+5.1f}); white matter {1e3 * np.sqrt(np.nanmean(w**2)):4.1f} ({1e3 * np.nanmean(w):+5.1f})"
            )
        print(f"  {way:18s}", " | ".join(said))


@pytest.mark.parametrize("space", ["native", "template"])
def test_noise_is_the_scatter_of_repeated_scans(benchmark: Any, space: str) -> None:
    """One person scanned again and again: the scatter of each cell over its `noise`."""
    rng, s = np.random.default_rng(8), scene()
    template, warped = s["template"], s["warped"]
    one = draw(s, rng, level=0.05, relation=2.0, broken=3.0)
    clean = one["truth"] @ warped.weights + 0.10 * (1 - warped.weights.sum(axis=0))
    operator = Operator.build(template.atlas, template.packing.level, [LevelRange.parse(n) for n in template.levels], template.atlas.regions)
    out: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def run() -> None:
        from cohort_engine.mapping.template_map import sample

        for _ in range(DRAWS):
            values = clean + rng.normal(0, 1, len(clean)) * one["se"]
            if space == "template":
                image, error = np.full((2, *s["shape"]), np.nan, np.float32)
                image.reshape(-1)[warped.voxel], error.reshape(-1)[warped.voxel] = values, one["se"]
                maps, se = (sample(a, s["affine"], template.packing.xyz)[None] for a in (image, error))
                errors = errors_of(maps, se, np.array([np.prod(SPACING) / 0.5**3]), template.atlas)
                tables = {k: estimator(k).of_maps(operator, Maps(maps, errors), min_coverage=0.5) for k in ESTIMATORS}
                tables = {k: {key: v[0] for key, v in cells.items()} for k, cells in tables.items()}
            else:
                tables = native_cells(s, values, one["se"], False)
            for kind, cells in tables.items():
                out.setdefault(kind, []).append((cells["value"], cells["noise"]))

    benchmark.pedantic(run, rounds=1)
    regions = template.atlas.regions
    tracts = [i for i, r in enumerate(regions) if len(r.members) == 1 and r.name.startswith("WM")]
    unions = [i for i, r in enumerate(regions) if len(r.members) > 4]
    print(f"\n{space}: scatter over {DRAWS} scans / noise, median over cells")
    for kind, found in out.items():
        value, noise = (np.stack(a) for a in zip(*found, strict=True))
        with np.errstate(invalid="ignore"):
            ratio = np.nanstd(value, axis=0, ddof=1) / np.nanmean(noise, axis=0)
        print(f"  {kind}: tracts {np.nanmedian(ratio[:, tracts]):.2f}, unions {np.nanmedian(ratio[:, unions]):.2f}")
        if space == "native":
            assert 0.9 < np.nanmedian(ratio[:, tracts]) < 1.1
