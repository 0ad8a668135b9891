"""What whole-store operations cost at 100, 1,000 and 4,000 subjects of eight stages: processor seconds and peak memory, each in a process of its own.

Run with ``pytest --benchmark-only -s tests/benchmarks/test_cohort_size.py``. None may grow faster than the number of subjects.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.io.places import ledger_url, object_store
from cohort_engine.provenance import digest
from cohort_engine.schema import SUBJECT, VariableSpec
from cohort_engine.store import layout
from cohort_engine.store.records import Entry, write_record
from cohort_engine.store.writer import init_store

SIZES = (100, 1_000, 4_000)
NEW = 10
"""Subjects whose records are gathered at last, alone."""
NEEDS = {
    "segment_mt": (), "segment_t2w": (), "levels_t2w": ("segment_t2w",), "fit_mt": ("segment_mt", "levels_t2w"), "mtr": ("fit_mt",),
    "mtr_native": ("fit_mt", "mtr"), "fit_t2w": ("segment_t2w", "levels_t2w"), "shape": ("segment_t2w", "levels_t2w"),
}  # fmt: skip
MAPS = ("fit/mt", "fit/t2w", "maps/mtr")


def specs() -> list[VariableSpec]:
    """Quality numbers for every stage, native tables, profiles with their tables, three large arrays, and a template table."""

    def every() -> Any:
        for stage in NEEDS:
            yield from (VariableSpec(f"qc/{stage}_{i}", "number", "1", (SUBJECT,), stage=stage) for i in range(5))
        for name in ("mtr_wa", "mtr_wa_std", "mtr_wa_n", "mtr_wa_coverage"):
            yield VariableSpec(f"tables/native/{name}", "cell", "1", (SUBJECT, "level", "region"), stage="mtr_native")
            yield VariableSpec(f"tables/template/{name}", "cell", "1", (SUBJECT, "level", "region"), chunks={SUBJECT: 64})
        for i in range(13):
            yield VariableSpec(f"profiles/p{i}", "profile", "mm", (SUBJECT, "z"), "float64", stage="shape")
            yield VariableSpec(f"tables/shape/p{i}", "by level", "mm", (SUBJECT, "level"), "float64", stage="shape")
        for path, stage in zip(MAPS, ("fit_mt", "fit_t2w", "mtr"), strict=True):
            axes = ("voxel", "axis") if path.startswith("fit") else ("voxel",)
            yield VariableSpec(path, "map", "1", (SUBJECT, *axes), chunks={SUBJECT: 1}, stage=stage)

    return list(every())


def entry(row: int, stage: str) -> Entry:
    files = {f"role{i}": [digest(row, i) * 4, 10**6, 1.7e9] for i in range(3)}
    return Entry(
        row, stage, schema.DONE, digest(row, stage), f"r-{stage}", {n: digest(row, n) for n in NEEDS[stage]},
        {"mt_mask": "segment_mt"} if stage == "fit_mt" else {}, files, 3.0, 500.0, finished="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def record(url: str, template: Any, row: int) -> None:
    """Write the records of all stages of a subject as tasks do, without their checks."""
    sizes = layout.sizes_of(template)
    rng = np.random.default_rng(row)
    for stage in NEEDS:
        own = [s for s in specs() if s.stage == stage and s.gathered]
        arrays = {s.path: rng.normal(size=tuple(sizes[d] for d in s.dims[1:])).astype(s.dtype) for s in own}
        write_record(url, entry(row, stage), arrays)


def make(url: str, template: Any, n: int) -> None:
    """Lay out a store, and write chunks and records of its subjects."""
    stages = {
        s: {"recipe": f"r-{s}", "needs": list(needs), "makes": "", "section": s, "writes": [v.path for v in specs() if v.stage == s]}
        for s, needs in NEEDS.items()
    }  # fmt: skip
    recipes = {f"r-{s}": {"stage": s, "version": "1", "params": {"seed": 1}, "template": template.digest} for s in stages}
    subjects = pd.DataFrame({"participant_id": [f"sub-{i:05d}" for i in range(n)], "group": "HC", "site": "a", "age": 50.0})
    init_store(url, template=template, subjects=subjects, specs=specs(), asked={"science": {}, "hash": "h", "stages": stages}, recipes=recipes)
    root = layout.open_root(url, "r+")
    rng = np.random.default_rng(0)
    for path in MAPS:
        array = layout.array_at(root, path)
        block = rng.normal(size=(min(n, 64), *array.shape[1:])).astype(np.float32)
        for first in range(0, n, 64):
            layout.whole(array)[first : first + 64] = block[: n - first]
    for row in range(n - NEW):
        record(url, template, row)


class Cost(NamedTuple):
    """Processor seconds (user and system) of the operation, and peak memory of its process (MiB)."""

    seconds: float
    memory: float


MEASURE = """
import resource, sys, time
url = sys.argv[1]
{prepare}
started = time.process_time()
{body}
print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(url: str, prepare: str, body: str) -> Cost:
    """Run a piece of a program on a store in a process of its own."""
    code = MEASURE.format(prepare=textwrap.dedent(prepare), body=textwrap.dedent(body))
    out = subprocess.run([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True, check=True).stdout
    return Cost(*map(float, out.split()))


IMPORTS = """
from cohort_engine.store import layout
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise, gather, states_of
from cohort_engine.store.people import rows_of, subjects
from cohort_engine.store.compare import compare
from cohort_engine.store.records import read_entries
from cohort_engine.store.state import judge
from cohort_engine.store.verify import verify
"""
JUDGE = """
root = layout.open_root(url)
asked, recipes, rows, entries = layout.record_of(root, "asked"), layout.record_of(root, "recipes"), rows_of(root), read_entries(url)
"""
AT_FIRST = {"gather all": ("", "gather(url)")}
AT_LAST = {
    f"gather {NEW} more": ("", f"assert gather(url) == {NEW} * 8"),
    "read_entries": ("", "assert len(read_entries(url)) % 8 == 0"),
    "judge": (JUDGE, "assert not judge(entries, asked, recipes, rows).open"),
    "status": ("", "states_of(url).counts()"),
    "subjects": ("", "subjects(url)"),
    "finalise": ("", "finalise(url)"),
    "verify": ("", "assert verify(url) == []"),
    "compact": ("", "compact(url, url + '.freeze')"),
    "compare": ("", "assert compare(url, url + '.freeze').equal"),
}
"""Name -> what prepares it and what is measured, in the order in which they are run."""
ROOM, NOISE = 0.3, 1.15
"""Seconds, and a factor, by which an operation may cost more than its share: what else the machine does."""
MEMORY_A_SUBJECT = 0.03
"""MiB."""


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory, small_template: Any) -> dict[str, dict[int, Cost]]:
    out: dict[str, dict[int, Cost]] = {}
    for n in SIZES:
        url = str(tmp_path_factory.mktemp("size") / "study.zarr")
        make(url, small_template, n)
        before = {name: measure(url, IMPORTS + prepare, body) for name, (prepare, body) in AT_FIRST.items()}
        for row in range(n - NEW, n):
            record(url, small_template, row)
        objects = sum(1 for batch in _list(url) for _ in batch)
        for name, (prepare, body) in AT_LAST.items():
            before[name] = measure(url, IMPORTS + prepare, body)
        frozen = sum(1 for f in Path(url + ".freeze").rglob("*") if f.is_file())
        print(f"{n} subjects: {objects} objects in the store and its ledger, {frozen} in a freeze")
        for name, cost in before.items():
            out.setdefault(name, {})[n] = cost
    return out


def _list(url: str) -> Any:
    import obstore

    return (*obstore.list(object_store(url)), *obstore.list(object_store(ledger_url(url))))


@pytest.mark.timeout(1800)
def test_nothing_grows_faster_than_the_number_of_subjects(benchmark: Any, costs: dict[str, dict[int, Cost]]) -> None:
    benchmark.pedantic(lambda: None, rounds=1)
    print("\n" + " " * 16 + "".join(f"{n:>20,}" for n in SIZES))
    for name, by_size in costs.items():
        print(f"{name:<16}" + "".join(f"{by_size[n].seconds:>10.2f} s {by_size[n].memory:>4.0f} MiB" for n in SIZES))
    for name, by_size in costs.items():
        small, large = by_size[SIZES[1]], by_size[SIZES[2]]
        assert large.seconds <= NOISE * small.seconds * SIZES[2] / SIZES[1] + ROOM, name
        assert large.memory <= small.memory + (SIZES[2] - SIZES[1]) * MEMORY_A_SUBJECT, name
    assert costs["verify"][SIZES[2]].seconds / SIZES[2] <= 0.005
