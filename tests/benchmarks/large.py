"""A study of any size whose stages are those of a real one, with their imaging replaced by writers of arrays as they make them: what is left is the
engine. ``python tests/benchmarks/large.py FOLDER SUBJECTS`` builds one and prints what it took. Workers import this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.build import build, plan
from cohort_engine.engine.events import Events
from cohort_engine.io.volume import Volume
from cohort_engine.quality import vocabulary
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.stages.choose import stages_of
from cohort_engine.store import layout
from cohort_engine.template.base import Template

IMAGES = ("_T2w", "_flip-1_mt-on_MTS", "_flip-1_mt-off_MTS")
MASK = (128, 128, 24)
"""Voxels of a mask that a stage makes."""
DOUBTED = 4
"""One subject in so many has a doubtful slice, in one level."""
EVERY = 100
"""Subjects between two looks at the memory."""


def make_images(root: Path, subjects: int) -> None:
    """Write a folder of people with three images each, of a few bytes, all different."""
    bids = root / "bids"
    for i in range(subjects):
        anat = bids / f"sub-{i:06d}" / "anat"
        anat.mkdir(parents=True)
        for name in IMAGES:
            (anat / f"sub-{i:06d}{name}.nii.gz").write_text(f"{i}{name}" * 20)
    people = (f"sub-{i:06d}\t{20 + i % 60}\t{'FM'[i % 2]}\t{('HC', 'DCM')[i % 2]}\t{i % 40}" for i in range(subjects))
    lines = ["participant_id\tage\tsex\tgroup\tsite", *people]
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")


def config_of(root: Path, **compute: Any) -> Config:
    return parse_config(
        {
            "data": {"bids": str(root / "bids"), "store": str(root / "study.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "local", "workers": 2, "memory": "4 GiB", "retries": 1} | compute,
        }
    )


def stages_for(config: Config, seconds: float = 0.0) -> list[Stage]:
    """Stages of a study from images alone; each takes so long, and writes."""
    return [replace(stage, run=partial(make, stage=replace(stage, run=dict), seconds=seconds), completes=None) for stage in stages_of(config)]


@cache
def patterns(template: Template) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A template map, and a map of noise: what a stage computes is theirs, moved, so that little time goes into it."""
    xyz = template.packing.xyz
    return np.asarray(xyz + np.sin(xyz[:, [2]] / 30), np.float32), np.random.default_rng(0).normal(40, 4, len(xyz)).astype(np.float32)


def make(inputs: StageInput, *, stage: Stage, seconds: float) -> dict[str, Any]:
    """Arrays as the stage makes them: smooth maps, maps with noise that no codec can shrink, numbers, tables; a mask; and doubtful slices of some."""
    time.sleep(seconds)
    template, rng = inputs.template, np.random.default_rng(int(inputs.key[:8], 16))
    sizes = layout.sizes_of(template) | schema.GROWN
    smooth, noise = patterns(template)
    doubted, level = rng.integers(DOUBTED) == 0, rng.integers(len(template.levels))
    out: dict[str, Any] = {}
    for spec in stage.writes:
        shape = tuple(sizes[d] for d in spec.dims[1:])
        if spec.path == f"{schema.QC}/{vocabulary.DOUBTFUL_SLICES}":
            out[spec.path] = np.float32(doubted)
        elif spec.name.endswith((vocabulary.DOUBT, vocabulary.DOUBTFUL)) and shape:
            out[spec.path] = np.full(shape, 0 if spec.name.endswith(vocabulary.DOUBT) else np.nan, spec.dtype)
            out[spec.path][level if doubted else slice(0)] = rng.normal(0, 4, shape[1:])
        elif spec.dims[1:] == (schema.VOXEL, schema.AXIS):
            out[spec.path] = smooth + np.float32(rng.normal())
        elif spec.dims[1:] == (schema.VOXEL,):
            out[spec.path] = np.roll(noise, rng.integers(len(noise)))
        else:
            out[spec.path] = "" if spec.dtype == "str" else np.asarray(rng.normal(40, 4, shape), spec.dtype)
    if stage.makes:
        mask = np.zeros(MASK, np.uint8)
        mask[55:70, 58:72] = 1
        out[stage.makes] = Volume(mask, np.diag([0.8, 0.8, 5.0, 1.0]))
    return out


class Watch(Events):
    """Takes the processor time and memory of this process, in which the scheduler is, and the memory of its workers, while subjects end."""

    def __init__(self) -> None:
        self.process, self.ended = psutil.Process(), 0
        self.samples: list[tuple[int, float, float, float]] = []
        self.begun = self.cpu = self.finalise = self.finalise_cpu = float("nan")

    def on_start(self, names: Any) -> None:
        self.begun, self.cpu_at = time.monotonic(), time.process_time()

    def on_subject_end(self, row: int) -> None:
        self.ended += 1
        self.cpu, self.at = time.process_time() - self.cpu_at, time.monotonic()
        if self.ended % EVERY == 0:
            workers = [w.memory_info().rss for w in self.process.children(recursive=True)]
            self.samples.append((self.ended, self.cpu, self.process.memory_info().rss / 2**20, max(workers, default=0) / 2**20))

    def slope(self) -> float:
        """Processor time a subject (ms) after the first look, when all is loaded and started."""
        (first, cpu, *_), (last, end, *_) = self.samples[0], self.samples[-1]
        return 1000 * (end - cpu) / max(1, last - first)

    def on_finish(self, report: Any) -> None:
        self.finalise, self.finalise_cpu = time.monotonic() - self.at, time.process_time() - self.cpu_at - self.cpu


READ = """
import json, sys, time
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.answer import answer
from cohort_engine.query.question import parse_query
from cohort_engine.query.reader import CohortReader
url, out = sys.argv[1], {}
def timed(name, call):
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    out[name + "_s"], out[name + "_cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    return value
timed("open_cohort", lambda: open_cohort(url))
ds = timed("open_cohort_again", lambda: open_cohort(url))
question = parse_query("mtr tract='WM left lateral corticospinal tract' level=C2 estimator=wa")
timed("query", lambda: answer(CohortReader(url), question, columns=["group"]))
print(json.dumps(out))
"""


def main(folder: str, subjects: str, *more: str) -> int:
    root, n = Path(folder), int(subjects)
    if not (root / "bids").is_dir():
        make_images(root, n)
    config = config_of(root)
    stages = stages_for(config)
    started, cpu = time.perf_counter(), time.process_time()
    prepared = plan(config, stages=stages)
    planned = {"plan_s": time.perf_counter() - started, "plan_cpu_s": time.process_time() - cpu}
    watch = Watch()
    report = build(config, stages=stages, events=watch)
    again = time.perf_counter()
    build(config, stages=stages)
    again = time.perf_counter() - again
    out: dict[str, Any] = {
        "subjects": n,
        "tasks": sum(prepared.tasks.values()),
        "exit": report.exit_code,
        **planned,
        "driver_ms": 1000 * watch.cpu / n,
        "wall_s": watch.at - watch.begun,
        "finalise_s": watch.finalise,
        "finalise_cpu_s": watch.finalise_cpu,
        "build_s": report.seconds,
        "again_s": again,
        "driver_ms_later": watch.slope(),
        "samples": watch.samples[:: max(1, len(watch.samples) // 20)],
    }
    out |= json.loads(subprocess.run([sys.executable, "-c", READ, config.data.store], stdout=subprocess.PIPE, check=True, text=True).stdout)
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    import large  # by its name, as workers know it

    sys.exit(large.main(*sys.argv[1:]))
