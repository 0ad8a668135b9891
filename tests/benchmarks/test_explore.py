"""The explorer at 10,000 simulated subjects: seconds until it is ready, and until a filter is drawn again.

``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_explore.py`` (two minutes, most of them to simulate the subjects).
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from cohort_engine.reduce.cohort import tabulate
from cohort_engine.store.maintenance import finalise
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store

PEOPLE = 10_000
READY, REDRAWN = 3.0, 0.5
"""Seconds that are allowed."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store whose maps are coarse, and whose tables are as large as those of any."""
    url = str(tmp_path_factory.mktemp("explore") / "study.zarr")
    simulate_store(url, PEOPLE, parametric_cord(spacing=2.0), seed=1, scores=True)
    tabulate(url)
    finalise(url)
    return url


def test_ready(store: str, benchmark: Any) -> None:
    """From the command to the address of a page whose first numbers are loaded."""

    def run() -> float:
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "cohort_engine.cli", "explore", store, "--no-browser"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            seconds = time.perf_counter() - started
            process.terminate()
        return seconds

    run()
    seconds = benchmark.pedantic(run, rounds=1)
    print(f"\nready after {seconds:.1f} s")
    assert seconds <= READY


def test_filter(store: str, benchmark: Any) -> None:
    """All figures, counts and the table for other people."""
    pytest.importorskip("panel")
    from cohort_engine.explore.numbers import Explored
    from cohort_engine.explore.page import Page
    from cohort_engine.query.accessor import open_cohort

    explored, opened = Explored(store), open_cohort(store)
    page = Page(explored, lambda: opened)
    sites = explored.words["site"]
    page.show(page.view.showing((("site", sites[0]),)))
    turn = iter(range(1000))

    def run() -> float:
        started = time.perf_counter()
        page.show(page.view.showing((("site", sites[next(turn) % 2 + 1]),)))
        return time.perf_counter() - started

    seconds = benchmark.pedantic(run, rounds=5)
    print(f"\nfilter drawn in {benchmark.stats.stats.median:.2f} s of {PEOPLE}")
    assert benchmark.stats.stats.median <= REDRAWN, seconds
    page.show(replace(page.view, reference=""))
