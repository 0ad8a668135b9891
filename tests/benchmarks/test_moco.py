"""Motion at low signal, and in the protocol of the DTI study (one b0, 15 directions): error against the truth, flags, time.

Run with ``pytest -s --benchmark-only tests/benchmarks/test_moco.py``; MOCO=n for n subjects of each case. `test_diffusion.py` has the usual signal,
distortion, and time by part.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.io.gradients import gradients_of
from cohort_engine.phantom.diffusion import DwiScan, make_dwi
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800, DTI_STUDY, DwiProtocol
from cohort_engine.single.moco import correct
from cohort_engine.template import load_template

pytest.importorskip("torch")
COUNT = int(os.environ.get("MOCO", "2"))
SEED = 21
RESTLESS = DwiImperfection(interleaved=0.7, jumps=3, jump=8.0, dropped=5)
FIFTEEN = replace(B800, slices=15)
CASES: dict[str, tuple[DwiProtocol, DwiImperfection]] = {
    "SNR 20": (FIFTEEN, RESTLESS), "SNR 10": (FIFTEEN, replace(RESTLESS, snr=10.0)), "SNR 5": (FIFTEEN, replace(RESTLESS, snr=5.0)),
    "DTI study": (DTI_STUDY, DwiImperfection(interleaved=0.5, jumps=1, jump=6.0)),
}  # fmt: skip


def row(scan: DwiScan) -> dict[str, float]:
    """Error beside a displacement of each slice in all volumes, mm; share of what was flagged rightly and wrongly; s of CPU, the cord to be found."""
    gradients, truth = gradients_of(scan.bval, scan.bvec, scan.series), scan.truth
    begin = time.process_time()
    flags, shifts = (found := correct(scan.series, gradients).motion).flags, found.shifts
    seconds = time.process_time() - begin
    away = shifts - truth.shifts
    error = np.linalg.norm(away - np.median(away, axis=0), axis=-1)[~truth.dropped]
    lost = (flags & schema.LOST) > 0
    return {
        "error mm": error.mean(), "95 %": np.percentile(error, 95), "dropped found": lost[truth.dropped].mean(),
        "jumps found": ((flags > 0) & truth.jumped).sum() / truth.jumped.sum(), "falsely left out": (lost & ~truth.dropped).mean(), "s": seconds,
    }  # fmt: skip


def test_low_signal_and_few_volumes(benchmark: Any) -> None:
    template = load_template("parametric")

    def run() -> pd.DataFrame:
        rows = []
        for name, (protocol, spoilt) in CASES.items():
            for number in range(COUNT):
                rows.append({"case": name, **row(make_dwi(template, number=number, seed=SEED, protocol=protocol, imperfection=spoilt))})
        return pd.DataFrame(rows).groupby("case", sort=False).mean()

    found = benchmark.pedantic(run, rounds=1, iterations=1)
    print(f"\n{COUNT} subjects each, odd and even slices apart, jumps", found.round(3).to_string(), sep="\n")
    usual = found.drop("SNR 5")  # there directions along the cord lie at the noise floor: what is lost is printed
    assert (usual["error mm"] <= 0.15).all()
    assert (usual[["jumps found", "dropped found"]] == 1).all(axis=None)
    assert (usual["falsely left out"] <= 0.01).all()
