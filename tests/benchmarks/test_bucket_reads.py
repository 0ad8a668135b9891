"""What questions to a freeze in a bucket cost: requests and bytes, of 1,000 subjects at the size of PAM50.

Run with ``pytest --benchmark-only -s tests/benchmarks/test_bucket_reads.py``; READS_SUBJECTS makes it smaller.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.io import places
from cohort_engine.query.answer import answer
from cohort_engine.query.question import parse_query
from cohort_engine.query.reader import CohortReader
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.store import by_region, layout
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise
from cohort_engine.template import load_template
from cohort_engine.template.base import Template
from cohort_engine.testing import HandMadeStore

sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))
SUBJECTS = int(os.environ.get("READS_SUBJECTS", "1000"))
TRACTS = ("WM left lateral corticospinal tract", "WM right fasciculus gracilis", "GM left ventral horn", "WM left rubrospinal tract")


@pytest.fixture(scope="module")
def freeze(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Template]]:
    """A freeze whose maps no codec can shrink, in a bucket."""
    import s3

    template, place = load_template("PAM50", path=real_data / "PAM50"), tmp_path_factory.mktemp("reads")
    config = parse_config({"data": {"bids": "b", "store": str(place / "study.zarr")}})
    subjects = pd.DataFrame({"participant_id": [f"sub-{i:04d}" for i in range(SUBJECTS)]})
    store = HandMadeStore.lay_out(config, template, subjects, names=["mtr"])
    noise = np.random.default_rng(0).normal(40, 4, (8, len(template.packing))).astype(np.float32)
    for i in range(SUBJECTS):
        store.write(i, {"maps/mtr": np.roll(noise[i % 8], 997 * i)})
    finalise(store.url, tabulate=lambda: tabulate(store.url), allow_missing=True)
    started = perf_counter()
    compact(store.url, str(place / "freeze.zarr"))
    print(f"\ncompact: {perf_counter() - started:.0f} s")
    with s3.serving() as (bucket, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        places.object_store.cache_clear()
        for file in (f for f in (place / "freeze.zarr").rglob("*") if f.is_file()):
            bucket.change(f"freeze.zarr/{file.relative_to(place / 'freeze.zarr').as_posix()}", file.read_bytes())
        yield bucket, f"{bucket.url}/freeze.zarr", template
    places.object_store.cache_clear()


def of(requests: list[Any], group: str) -> list[Any]:
    return [r for r in requests if r.key.startswith(f"freeze.zarr/{group}") and "/c/" in r.key]


def test_a_tract_at_a_level_reads_at_most_twice_what_it_needs(benchmark: Any, freeze: tuple[Any, str, Template]) -> None:
    bucket, url, template = freeze
    atlas, level = template.atlas, template.packing.level

    def ask(tract: str, at: str) -> tuple[float, int]:
        """Bytes that are read of maps, to those that are needed, and requests."""
        with bucket.counting() as requests:
            answer(CohortReader(url), parse_query(f"mtr tract='{tract}' level={at} estimator=median"))
        maps = of(requests, by_region.GROUP)
        assert not of(requests, schema.MAPS)
        needed = len(atlas.voxels([atlas.region(tract)], level == schema.LEVEL_NAMES.index(at) + 1))
        maps = [r for r in maps if "position" not in r.key]
        return sum(r.sent for r in maps) / (SUBJECTS * needed * 4), len(maps)

    found = {(tract, at): ask(tract, at) for tract in TRACTS for at in ("C2", "C4", "T3")}
    benchmark.pedantic(ask, args=(TRACTS[0], "C2"), rounds=1)
    print(f"\n{SUBJECTS} subjects: bytes of maps read / needed, requests of maps")
    for (tract, at), (ratio, requests) in found.items():
        print(f"{tract:<40}{at:<4}{ratio:>6.2f}{requests:>6}")
    place = np.argsort(by_region.order_of(atlas, template.packing))
    ratios = []
    for number in range(1, 21):
        for region in atlas.regions[: len(atlas.labels)]:
            voxels = atlas.voxels([region], level == number)
            if len(voxels):
                ratios.append((len(np.unique(place[voxels] // by_region.VOXELS)) * by_region.VOXELS, len(voxels)))
    read, needed = np.array(ratios).T
    print(f"all {len(ratios)} cells: {read.sum() / needed.sum():.2f} together, {np.mean(read <= 2 * needed):.0%} of them at most 2")
    assert read.sum() <= 2 * needed.sum()
    assert found[TRACTS[0], "C2"][0] <= 2


def test_a_table_needs_few_requests(benchmark: Any, freeze: tuple[Any, str, Template]) -> None:
    bucket, url, _ = freeze

    def ask() -> list[Any]:
        with bucket.counting() as requests:
            answer(CohortReader(url), parse_query(f"mtr tract='{TRACTS[0]}' level=C2 estimator=wa"))
        return requests

    requests = benchmark.pedantic(ask, rounds=1)
    tables = of(requests, schema.TABLES)
    assert not of(requests, schema.MAPS)
    assert not of(requests, by_region.GROUP)
    kinds = {k: sum(k in r.key for r in requests) for k in ("zarr.json", "/c/")}
    print(f"\n{SUBJECTS} subjects: {len(requests)} requests in all {kinds}, {len(tables)} of the table, {sum(r.sent for r in requests) / 1e6:.2f} MB")
    for r in requests:
        print(r.method, r.status, r.sent, r.key)
    assert len(tables) <= 20 * max(1, SUBJECTS / 1000)
    assert layout.open_root(url).attrs[layout.COMPACTED]
