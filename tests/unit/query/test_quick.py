"""A question whose answer a table holds is quick, and what it costs does not grow faster than the cohort."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine.query.reader import CohortReader

from .conftest import Cohort

HEAVY = ["scipy", "pandas", "xarray", "dask", "distributed", "rich", "nibabel", "torch"]
QUESTION = "mtr tract='white matter' level=C2 by=group"
SIZES = (100, 1000, 4000)


def loaded(url: str, question: str) -> list[str]:
    """Heavy packages that a process has loaded after ``cohort-engine query``."""
    code = (
        "import sys; from typer.testing import CliRunner; from cohort_engine.cli import app;"
        f"result = CliRunner().invoke(app, ['query', {url!r}, {question!r}]); assert result.exit_code == 0, result.output;"
        f"print(*[m for m in {HEAVY} if m in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_a_question_that_a_table_answers_loads_arrays_alone(make_cohort: Callable[..., str]) -> None:
    """It took 1.7 s of processor time, nearly all of it for dask, xarray, pandas and scipy, to print two numbers."""
    url = make_cohort([[10] * 8, [20] * 8], group=["HC", "DCM"])
    assert loaded(url, QUESTION) == []
    assert loaded(url, "mtr tract='white matter' level=C2:C3") == ["scipy"]


def test_a_question_reads_what_it_needs(make_cohort: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No map, no companion that is not printed, no column that is not asked for."""
    from cohort_engine.query.answer import answer
    from cohort_engine.query.question import parse_query

    read: list[str] = []
    plain = CohortReader.read
    monkeypatch.setattr(CohortReader, "read", lambda self, path, rows=None: read.append(path) or plain(self, path, rows))
    reader = CohortReader(make_cohort([[10] * 8], group=["HC"], age=[50.0]))
    answer(reader, parse_query(QUESTION))
    assert {p for p in read if p.startswith(("maps/", "tables/template/mtr"))} == {"tables/template/mtr_wa"}
    assert set(reader._columns) == {"participant_id", "left", "group"}


@pytest.mark.timeout(900)
def test_cost_of_a_question(
    benchmark: Any, cost: Callable[..., Any], small_template: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pytest --benchmark-only -s``: processor time and memory of a whole process, for each size of cohort."""
    urls = {n: cohort_of(n, small_template, tmp_path_factory.mktemp("cohort")) for n in SIZES}
    commands = {
        "query": (QUESTION,), "query pooled": ("mtr tract='white matter' level=C2:C3 by=group",), "status": (), "subjects": (),
        "finalise": ("--allow-missing",),
    }  # fmt: skip

    def measure() -> dict[tuple[str, int], Any]:
        out = {(name, n): cost(name.split()[0], url, *more) for name, more in commands.items() for n, url in urls.items()}
        return out | {(OPEN, n): cost_of_opening(url) for n, url in urls.items()}

    found = benchmark.pedantic(measure, rounds=1)
    print(f"\n{'command':<15}{'subjects':>9}{'CPU s':>8}{'MiB':>7}")
    for (name, n), spent in found.items():
        print(f"{name:<15}{n:>9}{spent.seconds:>8.2f}{spent.memory:>7.0f}")
    for name in (*commands, OPEN):
        assert found[name, SIZES[-1]].seconds / SIZES[-1] < found[name, SIZES[0]].seconds / SIZES[0]
    assert found["query", SIZES[-1]].seconds < 0.9


OPEN = "open_cohort"


def cost_of_opening(url: str) -> Any:
    """Processor time (s) and peak memory (MiB) of a process that opens a cohort in Python."""
    code = f"import cohort_engine; from cohort_engine.single.process import peak_memory; cohort_engine.open_cohort({url!r});"
    code += "import time; print(time.process_time(), peak_memory())"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    return SimpleNamespace(seconds=min(float(s) for s, _ in runs), memory=min(float(m) for _, m in runs))


def cohort_of(n: int, template: Any, folder: Path) -> str:
    """Finished cohort of n people."""
    cohort = Cohort(str(folder / "study.zarr"), template)
    rng = np.random.default_rng(1)
    names = [f"sub-{i:05d}" for i in range(n)]
    cohort.init(pd.DataFrame({"participant_id": names, "group": ["HC", "DCM"] * (n // 2), "age": rng.integers(20, 80, n).astype(float)}))
    for row in range(n):
        cohort.write(row, (40 + rng.normal(0, 3, len(template.packing))).tolist(), native=40.0)
    cohort.close()
    return cohort.url
