"""Simulated people for pages: what a large cohort looks like, without a store."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.qc.group import Flag, Group, Shown
from cohort_engine.quality import vocabulary
from cohort_engine.quality.limits import NUMBERS
from cohort_engine.store.state import Rows, States


def simulate_group(count: int) -> Group:
    """People of forty sites, of whom one in ten has two flags, with every number that has a name."""
    rng = np.random.default_rng(1)
    rows = np.arange(count)
    stages = ("segment_t2w", "segment_mt", "levels_t2w", "fit_mt", "mtr", "mtr_native", "quality")
    codes = np.full((count, len(stages)), schema.STATES.index(schema.DONE), np.int8)
    told = (
        Flag(vocabulary.MASK_FAULT, f"{vocabulary.FAULTS[vocabulary.MASK_FAULT]} (depth that the MT mask lacks 2.4, slices 9-12)"),
        Flag(vocabulary.MOTION_FAULT, f"{vocabulary.FAULTS[vocabulary.MOTION_FAULT]} (largest shift between MT-on and MT-off 3.4)"),
    )
    numbers = {k: Shown(k, n, "mm", "a number", rng.normal(1, 0.1, count)) for k, n in NUMBERS.items()}
    names = [f"sub-site{i % 40:02d}n{i:05d}" for i in rows]
    return Group(
        rows, names, names, [""] * count, [f"site{i % 40:02d}" for i in rows], ["HC" if i % 2 else "DCM" for i in rows],
        [told if i % 10 == 0 else () for i in rows], States(stages, codes, Rows.of(count), {}), numbers, metrics=["mtr", "fa", "shape"],
    )  # fmt: skip
