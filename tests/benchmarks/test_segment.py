"""Speed and memory of segmentation on one thread: an MT scan of 22 slices, and a sagittal T2w scan of 0.8 mm."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.cord.segment import segment
from cohort_engine.nn.weights import load_cord

torch = pytest.importorskip("torch")

SCANS = {"MT": ((256, 256, 22), (0.9, 0.9, 5.0)), "T2w": ((64, 320, 320), (0.8, 0.8, 0.8))}
SECONDS = {"MT": 2.0, "T2w": 5.0}
PEAK = """
import re, sys
from pathlib import Path
import numpy as np, torch
from cohort_engine.cord.segment import segment
torch.set_num_threads(1)
image = np.load(sys.argv[1])
segment(image, np.diag([*map(float, sys.argv[2:]), 1.0]))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def scan(name):
    """Cord, canal, vertebra and muscle in a body, and air around it."""
    shape, spacing = SCANS[name]
    x, y, _ = (i * s - n * s / 2 for i, n, s in zip(np.indices(shape, dtype=np.float32), shape, spacing, strict=True))
    rng = np.random.default_rng(1)
    muscle = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), [4 / s for s in spacing])
    image = np.where(np.hypot(x / 70, (y + 10) / 60) < 1, 0.3 + 0.1 * muscle / muscle.std(), 0.0)
    image = np.where((np.abs(x) < 13) & (y > 9) & (y < 25), 0.3, image)
    for radius, value in ((1.25, 0.1), (1.0, 1.0)):
        image = np.where(np.hypot(x / 10.5, y / 7.5) < radius, value, image)
    image = np.where(np.hypot(x / 6, y / 3.75) < 1, 0.4, image) + rng.normal(0, 0.02, shape)
    image = image.clip(0)
    return image.astype(np.float32), np.diag([*spacing, 1.0])


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SCANS)
def test_speed(benchmark, name, half):
    image, affine = scan(name)
    networks = load_cord(device="cpu", half=half)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = benchmark.pedantic(segment, (image, affine), {"networks": networks}, rounds=3, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert len(found.slices) == image.shape[2]
    assert benchmark.stats.stats.min < SECONDS[name]


@pytest.mark.parametrize("name", SCANS)
def test_memory(benchmark, name, tmp_path):
    image, _ = scan(name)
    np.save(tmp_path / "scan.npy", image)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "scan.npy"), *map(str, SCANS[name][1])]
    out = benchmark.pedantic(subprocess.run, (command,), {"capture_output": True, "text": True, "check": True}, rounds=1)
    peak = int(re.findall(r"\d+", out.stdout)[-1]) / 2**20
    benchmark.extra_info["peak GiB"] = round(peak, 2)
    print(f"\n{name}: peak {peak:.2f} GiB")
    assert peak < 1.0
