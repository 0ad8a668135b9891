"""MTsat and T1 of simulated triplets: how often 95 % intervals of tracts hold the truth.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_mtsat.py``; ``MTSAT=n`` takes n triplets (six without),
``MTSAT_SEED`` another seed. Each label has its own MTsat and T1; the atlas lies off as a map may, SNR is 40 in MT-off.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.mapping.native import native_atlas
from cohort_engine.phantom.subject import make_subject
from cohort_engine.phantom.tissue import FLUID, GREY, WHITE, clusters
from cohort_engine.qmri.mtsat import Protocol, Triplet, relaxation_signal, saturation, saturation_error
from cohort_engine.reduce.native import atlas_moves, level_tables, signal_weights
from cohort_engine.template import load_template

COUNT, SEED = int(os.environ.get("MTSAT", "6")), int(os.environ.get("MTSAT_SEED", "5"))
PROTOCOL = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))
TISSUES = {WHITE: (4000.0, 1.0, 3.5), GREY: (4400.0, 1.15, 2.9), FLUID: (6000.0, 4.0, 0.3)}
"""Amplitude, T1 (s) and MTsat (percent)."""
OWN = {"t1": 0.03, "mtsat": 0.2}
"""Standard deviation of tracts about their tissue."""
SNR, OFF, LEAST = 40.0, 0.06, 15


def signal(amplitude: NDArray[Any], t1: NDArray[Any], mtsat: NDArray[Any] | float, protocol: Protocol) -> NDArray[Any]:
    """Signal of a spoiled gradient echo for small angles: that of which MTsat and T1 are the exact inverse."""
    saved = protocol.tr / t1
    return np.asarray(amplitude * protocol.angle * saved / (protocol.angle**2 / 2 + mtsat / 100 + saved))


@pytest.mark.timeout(3600)
def test_intervals_of_tracts_hold_the_truth(benchmark: Any) -> None:
    template = load_template("parametric")
    kinds = clusters(template)
    scan = make_subject(template, number=0, seed=SEED)
    image, positions = scan.images[schema.MT_ON], scan.truth.template_map
    atlas = native_atlas(positions, template, image.affine, image.grid.shape).filled()  # as the stages of the metrics do
    places = np.stack(np.unravel_index(atlas.voxel, image.grid.shape), axis=-1)
    moves = atlas_moves(atlas.weights, template.atlas.clusters, places, image.affine)
    tissues, numbers = tuple(template.atlas.clusters.values()), [schema.level_number(name) for name in template.levels]
    tracts = [k for k, kind in enumerate(kinds) if kind == WHITE]

    def one(number: int) -> list[tuple[str, float, float, float, float]]:
        rng = np.random.default_rng([SEED, number])
        amplitude, t1, mtsat = np.array([TISSUES[kind] for kind in kinds]).T
        t1[tracts] += rng.normal(0, OWN["t1"], len(tracts))
        mtsat[tracts] += rng.normal(0, OWN["mtsat"], len(tracts))
        there = native_atlas(positions + np.append(rng.normal(0, OFF, 2), 0), template, image.affine, image.grid.shape)
        clean = np.zeros((3, image.data.size))
        for row, protocol, taken in zip(clean, PROTOCOL, (mtsat, 0.0, 0.0), strict=True):
            of_label = signal(amplitude, t1, taken, protocol)
            row[there.voxel] = of_label @ there.weights + (1 - there.weights.sum(axis=0)) * of_label[kinds.index(FLUID)]
        sigma = float(signal(*(np.array(v) for v in TISSUES[WHITE][:2]), 0.0, PROTOCOL.off)) / SNR
        noise = rng.normal(0, sigma, (2, *clean.shape))
        signals = Triplet(*np.hypot(clean + noise[0], noise[1])[:, atlas.voxel])
        found, errors = saturation(signals, PROTOCOL), saturation_error(signals, Triplet(sigma, sigma, sigma), PROTOCOL)
        out = []
        for name, truth, mixed in (("mtsat", mtsat, signals.on), ("t1", t1, relaxation_signal(signals.off, signals.t1w, PROTOCOL))):
            values, se = (np.asarray(getattr(a, name), float) for a in (found, errors))
            weights = signal_weights(atlas.weights, np.where(np.isnan(values), np.nan, mixed), places[:, 2], tissues)
            cells = level_tables(
                values, weights, atlas.level, atlas.reach, numbers, [(k,) for k in tracts], tissues, estimator=schema.MAP, min_coverage=0.5,
                places=places, se=se, moves=moves,
            )  # fmt: skip
            for i, k in enumerate(tracts):
                for level in np.flatnonzero(cells[schema.N][:, i] >= LEAST):
                    out.append((name, truth[k], *(float(cells[key][level, i]) for key in (schema.VALUE, schema.SE, schema.NOISE))))
        return out

    rows = benchmark.pedantic(lambda: [row for number in range(COUNT) for row in one(number)], rounds=1, iterations=1)
    cells = pd.DataFrame(rows, columns=["metric", "truth", "value", "se", "noise"]).assign(error=lambda c: c.value - c.truth)
    cells["held"] = cells.error.abs() <= 1.96 * cells.se
    found = cells.groupby("metric").agg(
        cells=("held", "size"), held=("held", "mean"), mae=("error", lambda e: e.abs().mean()), bias=("error", "mean"), se=("se", "median"),
        noise=("noise", "median"),
    )  # fmt: skip
    print(f"\n{COUNT} triplets, SNR {SNR:g}; percent, s", found.round(4).to_string(), sep="\n")
    assert (found["held"] >= 0.9).all()
    assert abs(found.loc["mtsat", "bias"]) <= 0.05
    assert abs(found.loc["t1", "bias"]) <= 0.02
