"""The tensor fit against simulated truth: bias, standard errors and what is relied on, by tissue and signal-to-noise ratio.

Run with ``pytest -s --benchmark-only tests/benchmarks/test_tensor.py``; ``TENSOR=n`` takes n voxels each (8000 without).
"""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from cohort_engine.phantom.protocol import B800, gradients
from cohort_engine.qmri.tensor import fit

VOXELS = int(os.environ.get("TENSOR", "8000"))
TISSUES = {"white .81": (1.95, 0.35, 0.30), "white .71": (1.9, 0.5, 0.45), "grey .51": (1.4, 0.6, 0.55), "compressed .37": (1.9, 1.1, 0.95)}
RATIOS = (30, 20, 15, 10, 7, 5, 3)


def scans(values: tuple[float, ...], ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rician signals (n, t) of one tensor along z, S0 = 100; b-values and directions."""
    bvals, directions = gradients(B800)
    signal = 100 * np.exp(-bvals / 1000 * (directions**2 @ np.array(values)[[1, 2, 0]]))
    noise = np.random.default_rng(seed).normal(0, 100 / ratio, (2, VOXELS, len(bvals)))
    return np.hypot(signal + noise[0], noise[1]), bvals, directions


def row(tissue: str, ratio: float) -> dict[str, float | str]:
    values = np.array(TISSUES[tissue])
    signals, bvals, directions = scans(TISSUES[tissue], ratio, seed=int(ratio))
    found = fit(signals, bvals, directions).channels
    without = fit(np.sqrt(np.maximum(signals**2 - (100 / ratio) ** 2, (30 / ratio) ** 2)), bvals, directions).channels
    fa = np.sqrt(1.5 * ((values - values.mean()) ** 2).sum() / (values**2).sum())
    kept = found["reliable"] > 0
    return {
        "tissue": tissue, "SNR": ratio, "FA": found["fa"].mean() - fa, "MD %": 100 * (found["md"].mean() / values.mean() - 1),
        "FA, power less noise": without["fa"].mean() - fa, "MD %, power less noise": 100 * (without["md"].mean() / values.mean() - 1),
        **{f"{k} se/sd": float(np.sqrt(np.mean(found[f"{k}_se"] ** 2)) / found[k].std()) for k in ("fa", "md", "ad", "rd")},
        "relied on": kept.mean(), "FA of these": found["fa"][kept].mean() - found["fa"].mean() if kept.any() else np.nan,
    }  # fmt: skip


def test_bias_and_errors_of_the_tensor(benchmark):
    table = benchmark.pedantic(lambda: pd.DataFrame([row(t, r) for t in TISSUES for r in RATIOS]), rounds=1)
    print("\n" + table.to_string(index=False, float_format="{:.3f}".format))
    high = table[table["SNR"] >= 10]
    white = high[high["tissue"].str.startswith("white")]
    assert white["FA"].abs().max() < 0.006
    assert white["MD %"].abs().max() < 1.5
    assert high.filter(like="se/sd").stack().between(0.9, 1.1).all()
    relied = table[table["relied on"] > 0.2]
    assert relied["FA of these"].abs().max() < 0.01
