"""Speed and memory of the tables at the size of PAM50. Run with ``pytest --benchmark-only tests/benchmarks/test_reduce.py -s``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest

from cohort_engine.config import parse_config
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import table_operator, tabulate
from cohort_engine.reduce.maps import weighted_average
from cohort_engine.schema import SUBJECT_BLOCK
from cohort_engine.store import layout
from cohort_engine.store.maintenance import gather
from cohort_engine.store.tables import MADE_FROM
from cohort_engine.template import load_template
from cohort_engine.template.base import Template
from cohort_engine.testing import HandMadeStore

THREADS = 2
SUBJECTS = 1000
PEAK = """
import re, sys, dask
from pathlib import Path
from cohort_engine.reduce.cohort import tabulate
with dask.config.set(num_workers=int(sys.argv[2])):
    tabulate(sys.argv[1])
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
"""Not getrusage: its maximum begins with that of the process that started this one."""


@pytest.fixture(scope="session")
def pam50(real_data: Path) -> Template:
    return load_template("PAM50", path=real_data / "PAM50")


@pytest.fixture(scope="session")
def store(pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Store of n subjects whose maps are complete: white matter at 45, the rest at 38 percent, and noise that no codec can shrink."""
    made: dict[int, str] = {}

    def make(n: int) -> str:
        if n not in made:
            made[n] = url = str(tmp_path_factory.mktemp("reduce") / f"{n}.zarr")
            config = parse_config({"data": {"bids": "b", "store": url}})
            subjects = pd.DataFrame({"participant_id": [f"sub-{i:04d}" for i in range(n)]})
            filled = HandMadeStore.lay_out(config, pam50, subjects, names=["mtr"])
            rng = np.random.default_rng(0)
            mean = np.where(pam50.atlas.weights[:30].sum(axis=0) > 0.5, 45, 38)
            noise = rng.normal(0, 4, (8, len(pam50.packing)))
            for i in range(n):
                filled.write(i, {"maps/mtr": (mean + np.roll(noise[i % 8], 997 * i)).astype(np.float32)})
            gather(url)
        return made[n]

    return make


def read_only(url: str, n: int) -> None:
    """Read what `tabulate` reads, in the same blocks and on as many threads."""

    def block(first: int) -> None:
        np.asarray(layout.array_at(layout.open_root(url), "maps/mtr")[first : min(first + SUBJECT_BLOCK, n)])

    dask.compute(*(dask.delayed(block)(first) for first in range(0, n, SUBJECT_BLOCK)), scheduler="threads", num_workers=THREADS)


def forget(url: str) -> None:
    """Let the tables say nothing of what they were made from, so that they are made again."""
    root = layout.open_root(url, "r+")
    for array in layout.arrays(root).values():
        if MADE_FROM in array.attrs:
            array.update_attributes({MADE_FROM: {}})


def seconds(run: Callable[[], Any]) -> float:
    """CPU of this process and its threads: what else runs on the machine counts less."""
    start = process_time()
    run()
    return process_time() - start


@pytest.mark.real
def test_reading_reducing_and_writing_against_reading(benchmark: Any, store: Callable[[int], str]) -> None:
    """With the estimators of a study that asks for none: ``map`` and ``wa``, from one visit of the voxels."""
    url = store(SUBJECTS)
    read = min(seconds(lambda: read_only(url, SUBJECTS)) for _ in range(3))
    taken: list[float] = []
    with dask.config.set(num_workers=THREADS):
        benchmark.pedantic(lambda: taken.append(seconds(lambda: tabulate(url))), setup=lambda: forget(url), rounds=3)
    total = min(taken)
    print(f"\n{SUBJECTS} subjects, 20 levels x 43 regions, CPU: read {read:.2f} s, with reducing and writing {total:.2f} s, ratio {total / read:.2f}")
    benchmark.extra_info |= {"read": read, "ratio": total / read}
    assert total < 1.3 * read


@pytest.mark.real
@pytest.mark.parametrize("holes", [0.0, 0.01], ids=["complete", "holes"])
def test_reducing_a_block(benchmark: Any, store: Callable[[int], str], pam50: Template, holes: float) -> None:
    operator = table_operator(store(200), pam50.digest)
    rng = np.random.default_rng(0)
    maps = rng.normal(40, 4, (SUBJECT_BLOCK, operator.n_voxels)).astype(np.float32)
    maps[rng.random(maps.shape) < holes] = np.nan
    benchmark.pedantic(weighted_average, args=(operator, maps), rounds=10, warmup_rounds=1)
    print(f"\n{1000 / SUBJECT_BLOCK * benchmark.stats.stats.min:.2f} s for 1,000 subjects on one thread")


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_cohort(benchmark: Any, store: Callable[[int], str]) -> None:
    def peak(n: int) -> int:
        forget(store(n))
        command = [sys.executable, "-c", PEAK, store(n), str(THREADS)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(200), benchmark.pedantic(peak, args=(SUBJECTS,), rounds=1)
    print(f"\npeak memory: {small} MiB for 200 subjects, {large} MiB for {SUBJECTS}")
    assert large < small + 65


@pytest.mark.real
def test_asking_for_one_pooled_tract(benchmark: Any, store: Callable[[int], str]) -> None:
    ds = open_cohort(store(SUBJECTS))

    def ask() -> None:
        with dask.config.set(num_workers=THREADS):
            ds.cohort.tract("mtr", "lateral corticospinal tract", "C2:C3").compute()

    benchmark.pedantic(ask, rounds=3, warmup_rounds=1)
    print(f"\none pooled tract of {SUBJECTS} subjects: {benchmark.stats.stats.min:.2f} s")
