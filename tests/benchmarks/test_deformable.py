"""What matches the outlines, SyN of antspyx or log-demons in torch: outlines, Jacobians and seconds of hand-drawn cords, and what many pairs at once
take. Errors of tracts where the truth is known: ``test_ramp.py``.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_deformable.py``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis
from cohort_engine.io.volume import read_volume
from cohort_engine.mapping import ANTS, TORCH, template_map
from cohort_engine.mapping.flow import deform
from cohort_engine.template import load_template

ENGINES = (ANTS, TORCH)
PAIRS = (1, 4, 16)


@pytest.mark.real
@pytest.mark.timeout(900)
def test_hand_drawn_cords(benchmark: Any, real_data: Path) -> None:
    template = load_template("PAM50", path=real_data / "PAM50")

    def all_of_them() -> dict[str, np.ndarray]:
        rows: dict[str, list[tuple[float, ...]]] = {engine: [] for engine in ENGINES}
        for who in ("11", "18", "23"):
            folder = real_data / f"errsm_{who}/t2"
            cord = read_volume(folder / "t2_manual_segmentation.nii.gz", what="mask")
            points = read_volume(folder / "t2_landmarks_C2_T2_center.nii.gz", what="landmarks")
            marks = landmarks_from_labels(points.data, points.affine, kind=schema.BODY, what="landmarks")
            levels = level_axis(centreline_from_mask(cord.data, cord.affine, what="mask"), marks, template)
            template_map.fit_template_map(cord.data, cord.affine, levels, template, deformable=False)  # what is kept of a template
            for engine in ENGINES:
                start = time.process_time()
                fit = template_map.MapFit.of(cord.data, cord.affine, levels, template, engine=engine)
                seconds = time.process_time() - start
                for likely in (True, False):
                    quality = fit.map(likely=likely).quality
                    rows[engine].append((quality[schema.DICE], quality[schema.JACOBIAN_MIN], quality[schema.JACOBIAN_MAX], seconds))
        return {engine: np.array(r) for engine, r in rows.items()}

    found = benchmark.pedantic(all_of_them, rounds=1, iterations=1)
    for engine, rows in found.items():
        soft, whole = rows[::2].mean(axis=0), rows[1::2].mean(axis=0)
        print(f"\n{engine}: outlines before the border is followed, Dice {soft[0]:.4f}, Jacobian {soft[1]:.2f} to {soft[2]:.2f};",
              f"followed, {whole[0]:.4f}, {whole[1]:.2f} to {whole[2]:.2f}; {whole[3]:.2f} s CPU")  # fmt: skip
    assert found[TORCH][:, 0].min() >= found[ANTS][:, 0].min() - 0.002
    assert found[TORCH][:, 3].sum() < found[ANTS][:, 3].sum()


@pytest.mark.parametrize("pairs", PAIRS)
def test_many_pairs_at_once(benchmark: Any, pairs: int) -> None:
    """Blocks of the size of a neck, 56 x 48 voxels in 60 slices."""
    i, j, k = np.indices((56, 48, 60))
    ramp = np.clip(0.5 + (12 + np.sin(k / 9) - np.hypot(i - 28, 1.3 * (j - 24))) / 8, 0, 1)
    other = np.clip(0.5 + (12 - np.hypot(1.2 * (i - 28), j - 24)) / 8, 0, 1)
    fixed, moving = (np.repeat(a[None].astype(np.float32), pairs, axis=0) for a in (ramp, other))

    def once() -> float:
        start = time.process_time()
        found = deform(fixed, moving, iterations=template_map.ITERATIONS, flow_sigma=template_map.FLOW_SIGMA**0.5)
        assert found.shape == (pairs, 56, 48, 60, 2)
        return (time.process_time() - start) / pairs

    print(f"\n{pairs} pairs: {min(benchmark.pedantic(lambda: [once() for _ in range(3)], rounds=1)):.2f} s CPU a pair")
