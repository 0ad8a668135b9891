"""What a GPU is worth, against the CPU of the same machine in the same run, and that both give the same answers: networks, outlines, training,
and whole subjects from images alone.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_gpu.py`` where there is a GPU; elsewhere all of it is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine import open_cohort, schema
from cohort_engine.cord.segment import segment
from cohort_engine.mapping import TORCH, template_map
from cohort_engine.mapping.flow import deform
from cohort_engine.nn import infer
from cohort_engine.nn.speed import speed
from cohort_engine.nn.weights import load_cord, load_grey
from cohort_engine.phantom.study import simulate
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")
CPU, GPU = "cpu", "cuda"
pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that CUDA can use"), pytest.mark.timeout(600)]

PAIRS = (1, 4, 16, 64)
STEPS = 20
ENCODERS = ("vgg16", "resnet50", "unet")
SLICES = 160


@pytest.fixture(autouse=True, scope="module")
def machine() -> None:
    if torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}; {torch.get_num_threads()} threads of the CPU")


def seconds(work: Callable[[], Any], rounds: int = 3) -> float:
    """Least wall time of some rounds, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_networks(benchmark: Any) -> None:
    cpu, gpu = speed(CPU, seconds=1.0), benchmark.pedantic(speed, (GPU,), {"seconds": 1.0}, rounds=1)
    for one, other in zip(cpu, gpu, strict=True):
        print(f"\n{one.network:12s} {one.subjects:3d} subjects: {one.slices:7.0f} and {other.slices:7.0f} slices/s, {one.gigabytes:.2f} and"
              f" {other.gigabytes:.2f} GB/s, ratio {other.slices / one.slices:.1f}", end="")  # fmt: skip
    assert all(other.slices > 3 * one.slices for one, other in zip(cpu, gpu, strict=True))


def scan() -> tuple[np.ndarray, np.ndarray]:
    """T2w image of 64 x 320 x 320 voxels: cord, fluid, muscle and air."""
    shape, spacing = (64, 320, 320), (0.8, 0.8, 0.8)
    x, y, _ = (i * s - n * s / 2 for i, n, s in zip(np.indices(shape, dtype=np.float32), shape, spacing, strict=True))
    rng = np.random.default_rng(1)
    muscle = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 5)
    image = np.where(np.hypot(x / 70, (y + 10) / 60) < 1, 0.3 + 0.1 * muscle / muscle.std(), 0.0)
    for a, b, value in ((13, 9, 0.1), (10.5, 7.5, 1.0), (6, 3.75, 0.4)):
        image = np.where(np.hypot(x / a, y / b) < 1, value, image)
    return np.clip(image + rng.normal(0, 0.02, shape), 0, None).astype(np.float32), np.diag([*spacing, 1.0])


def test_a_segmented_cord(benchmark: Any) -> None:
    image, affine = scan()
    cpu = segment(image, affine, networks=load_cord(device=CPU))
    gpu = benchmark.pedantic(lambda: segment(image, affine, networks=load_cord(device=GPU)), rounds=3, warmup_rounds=1)
    slow = seconds(lambda: segment(image, affine, networks=load_cord(device=CPU)), rounds=1)
    a, b = cpu.soft >= 0.5, gpu.soft >= 0.5
    dice, area = 2 * (a & b).sum() / (a.sum() + b.sum()), gpu.soft.sum() / cpu.soft.sum()
    print(f"\nsegmented in {slow:.2f} s on the CPU, {benchmark.stats.stats.min:.2f} s with the GPU", end="")
    print(f"; Dice of both {dice:.4f}, areas {100 * area - 100:+.2f} %")
    assert dice >= 0.995
    assert abs(area - 1) <= 0.005


def test_a_batch_that_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch, benchmark: Any) -> None:
    """A hundredth of the memory of a large GPU: halves are tried until one fits, and the answer is that of the whole."""
    network = load_grey(device=GPU)
    windows = torch.rand(4000, 3, network.size, network.size, generator=torch.Generator().manual_seed(1))
    whole = network(windows)
    monkeypatch.setattr(infer, "ROOM", {})
    monkeypatch.setattr(infer, "PIXELS_GPU", infer.PIXELS_GPU * 64)
    torch.cuda.empty_cache()
    total, used = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 3e8) / total)
    try:
        parts = benchmark.pedantic(network, (windows,), rounds=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    room = infer.ROOM.get(GPU, 0)
    print(f"\nof {windows.numel() / 3:.0f} pixels {room} went at once; largest difference {float((parts - whole).abs().max()):.4f}")
    assert 0 < room < windows.numel() / 3
    torch.testing.assert_close(parts, whole, atol=0.02, rtol=0)


def test_a_view_of_fewer_values(benchmark: Any) -> None:
    """Slices that are their own neighbours are one slice, seen three times: such memory cannot be pinned."""
    cpu, gpu = load_cord(device=CPU).fine, load_cord(device=GPU).fine
    slices = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)).expand(4, 3, 64, 64)
    torch.testing.assert_close(benchmark.pedantic(gpu, (slices,), rounds=1), cpu(slices), atol=0.05, rtol=0)


def test_outlines(benchmark: Any) -> None:
    """Blocks of the size of a neck, 56 x 48 voxels in 60 slices."""
    i, j, k = np.indices((56, 48, 60))
    ramp = np.clip(0.5 + (12 + np.sin(k / 9) - np.hypot(i - 28, 1.3 * (j - 24))) / 8, 0, 1)
    other = np.clip(0.5 + (12 - np.hypot(1.2 * (i - 28), j - 24)) / 8, 0, 1)
    pair = [a[None].astype(np.float32) for a in (ramp, other)]
    kinds = {"iterations": template_map.ITERATIONS, "flow_sigma": template_map.FLOW_SIGMA**0.5}

    def run(pairs: int, device: str) -> np.ndarray:
        return deform(*(np.repeat(a, pairs, axis=0) for a in pair), device=device, **kinds)

    moves = [run(1, device) for device in (CPU, GPU)]
    print(f"\nlargest difference of both {np.abs(moves[0] - moves[1]).max():.5f} voxels, of {np.abs(moves[0]).max():.1f}", end="")
    slow = {pairs: seconds(lambda n=pairs: run(n, CPU), rounds=1) / pairs for pairs in PAIRS[:3]}
    fast = benchmark.pedantic(lambda: {pairs: seconds(lambda n=pairs: run(n, GPU)) / pairs for pairs in PAIRS}, rounds=1)
    for pairs in PAIRS:
        beside = f"{slow[pairs]:.3f} s, " if pairs in slow else ""
        print(f"\n{pairs:3d} pairs: {beside}{fast[pairs]:.4f} s a pair with the GPU", end="")
    assert np.abs(moves[0] - moves[1]).max() <= 0.01
    assert fast[16] < slow[16] / 5


@pytest.mark.parametrize("batch", [32, 128])
def test_training(batch: int, benchmark: Any) -> None:
    """Samples drawn and learnt from, of the size of the border network."""
    from cohort_engine.nn.anatomy import anatomy_of
    from cohort_engine.nn.train import CordTraining, Training

    anatomy = anatomy_of(parametric_cord())
    net = {"spacing": 0.5, "jitter": 4.5, "steps": 1000}

    def pace(device: str, steps: int) -> float:
        run = Training(CordTraining(nets={"fine": net}, batch=batch, device=device), "fine", anatomy)
        run.advance()  # draws what lies before the first step
        start = time.perf_counter()
        losses = [run.advance() for _ in range(steps)]
        assert np.isfinite(losses).all()
        return batch * steps / (time.perf_counter() - start)

    slow, fast = pace(CPU, STEPS // 4), benchmark.pedantic(pace, (GPU, 10 * STEPS), rounds=1)
    print(f"\nbatches of {batch}: {slow:.0f} and {fast:.0f} samples/s, ratio {fast / slow:.1f}")
    assert fast > slow


@pytest.mark.parametrize("encoder", ENCODERS)
def test_regions_of_the_dti_study(encoder: str, benchmark: Any) -> None:
    """Epochs of the heat-map loss at full width, on slices drawn for the purpose; a network learnt on the GPU is the same on the CPU."""
    from cohort_engine.rois.train import RoiNet, RoiRun
    from tests.unit.rois.test_train import drawn_slices, settings

    some = drawn_slices(SLICES // 2, plane=128)

    def learn(device: str, epochs: int) -> tuple[float, RoiRun]:
        net = {"encoder": encoder, "width": 1.0, "channels": [16, 32, 64, 96]}
        run = RoiRun(settings(net=net, input={"size": 128}, loss={"kind": "hdl"}, batch=16, epochs=epochs + 1, device=device), some, some)
        run.advance()
        start = time.perf_counter()
        for _ in range(epochs):
            run.advance()
        return epochs * SLICES / (time.perf_counter() - start), run

    fast, run = benchmark.pedantic(learn, (GPU, 5), rounds=1)
    facts = {"config": run.config.model_dump(mode="json"), "thresholds": [0.5] * 8, "area": [4.0] * 8}
    heat = [RoiNet(run.mean.state_dict(), facts, device=device).predict(drawn_slices(4, plane=128, seed=1)) for device in (CPU, GPU)]
    print(f"\n{encoder}: {fast:.0f} slices/s; largest difference of the heat {np.abs(heat[0] - heat[1]).max():.5f}")
    assert np.abs(heat[0] - heat[1]).max() <= 0.01


def timed_build(study: Path, store: Path) -> dict[str, float]:
    """Build a study and give the wall time of each stage, s a subject, the first one left out: it loads what all need."""
    from stopwatch import timed_stages

    from cohort_engine.config import parse_config
    from cohort_engine.engine.build import build

    config = parse_config({
        "data": {"bids": str(study), "store": str(store)}, "template": {"name": "parametric"}, "compute": {"cluster": "synchronous"},
        "stages": {"fit": {"engine": TORCH}},
    })  # fmt: skip
    stages, taken = timed_stages(config, time.perf_counter)
    report = build(config, stages=stages)
    assert report.exit_code == 0, report.failures.to_string()
    return {name: sum(seconds[1:]) / (len(seconds) - 1) for name, seconds in taken.items()}


def test_subjects_from_images_alone(tmp_path: Path, benchmark: Any) -> None:
    """Whole builds, one process each: with the GPU, and with the GPU hidden; cord, discs, outlines and tract values are to agree."""
    study = tmp_path / "study"
    simulate(study, template=parametric_cord(), patients=3, controls=3, labels=False, workers=2)

    def build(name: str, **hidden: str) -> dict[str, float]:
        command = [sys.executable, __file__, str(study), str(tmp_path / name)]
        done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    slow, fast = build(CPU, CUDA_VISIBLE_DEVICES=""), benchmark.pedantic(build, (GPU,), rounds=1)
    for stage in slow:
        print(f"\n{stage:14s} {slow[stage]:6.2f} {fast[stage]:6.2f} s a subject", end="")
    print(f"\n{'all':14s} {sum(slow.values()):6.2f} {sum(fast.values()):6.2f} s a subject")
    values = [open_cohort(tmp_path / name).cohort.frame(schema.MTR)[schema.VALUE] for name in (CPU, GPU)]
    off = (values[0] - values[1]).abs().dropna()
    print(f"{len(off)} tract values by level differ by {off.mean():.3f} points on average, {off.max():.3f} at most")
    assert off.mean() <= 0.1


if __name__ == "__main__":
    print(json.dumps(timed_build(Path(sys.argv[1]), Path(sys.argv[2]))))
