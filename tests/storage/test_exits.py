"""A process that wrote or read ends with 0, on a busy machine too.

40 exits here, 500 by ``pytest --benchmark-only -s tests/storage/test_exits.py``.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ARRAY = """
import sys, numpy as np, zarr
from cohort_engine.io.places import open_zarr_store
array = zarr.create_array(open_zarr_store(sys.argv[1], create=True), shape=(8,), chunks=(1,), dtype="f4")
array[:] = np.arange(8)
assert array[:].sum() == 28
array[:] = 1
"""
"""As tasks write: through zarr and its thread."""
LOOP = """
import asyncio, sys
from zarr.core.buffer import default_buffer_prototype
from cohort_engine.io.places import open_zarr_store
store, value = open_zarr_store(sys.argv[1], create=True), default_buffer_prototype().buffer.from_bytes(b"x" * 100)
async def write():
    await asyncio.gather(*(store.set(f"c/{i}", value) for i in range(8)))
asyncio.run(write())
"""
"""Nothing lies between the last answer and the end of the process: obstore's own coroutines fail here in a third of processes."""
BUSY = 2
"""Processes that use the processors up meanwhile."""


def exits(folder: Path, count: int) -> Counter[int]:
    """Count the exit codes of processes that write to a store of their own and end at once, half of them in each way."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]

    def one(number: int) -> int:
        ended = subprocess.run([sys.executable, "-c", ARRAY if number % 2 else LOOP, str(folder / f"{number}.zarr")], stderr=subprocess.PIPE)
        assert ended.returncode != 1, ended.stderr.decode()
        return ended.returncode

    try:
        with ThreadPoolExecutor(BUSY) as threads:
            return Counter(threads.map(one, range(count)))
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_forty_processes_end_well(tmp_path: Path) -> None:
    assert exits(tmp_path, 40) == {0: 40}


@pytest.mark.timeout(1800)
def test_five_hundred_processes_end_well(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = benchmark.pedantic(exits, (tmp_path, 500), rounds=1)
    with capsys.disabled():
        print(f"\nexit codes of 500 processes beside {BUSY} busy ones: {dict(found)}")
    assert found == {0: 500}
