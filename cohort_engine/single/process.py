"""What a process has before its first task: thread limits, ANTs' seed, a cap on storage requests; a temp folder for each task; its peak memory.

antspyx reads its seed and thread count when it is first imported, which no module here does before a task needs it; so the environment
set by `Workplace.apply` at the start of a process is early enough, on any cluster.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from cohort_engine.errors import ResourceError

Item = TypeVar("Item")
Made = TypeVar("Made")

SEED = "ANTS_RANDOM_SEED"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
REQUESTS = 4
"""Storage requests in flight per worker: zarr's default of 10, times many workers, floods a bucket."""
PREFIX, LOCK = "cohort-", ".lock"
"""Beginning of the names of temp folders, and end of the names of the files beside them that say whether they are used."""
_ARENA_MAX = -8
"""Number of glibc's setting."""
_ONE_TASK = threading.RLock()
"""The temp folder and antspyx's state belong to the process, so one process runs one task at a time."""


@dataclass(frozen=True)
class Workplace:
    """Settings of a worker process.

    Attributes
    ----------
    seed : int
        Seed of antspyx.
    threads : int
        Threads of BLAS, OpenMP and ITK inside one task.
    """

    seed: int
    threads: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """The variables it sets."""
        return {SEED: str(self.seed)} | dict.fromkeys(THREADS, str(self.threads))

    def apply(self) -> None:
        """Set up this process, and remove what killed ones have left in the temp folder.

        Raises
        ------
        ResourceError
            antspyx was imported before, with another seed, and cannot be told any more.
        """
        import zarr

        if "ants" in sys.modules and os.environ.get(SEED) != str(self.seed):
            raise ResourceError(
                expected=f"workers in which antspyx starts with seed {self.seed}", found=f"seed {os.environ.get(SEED)} in use", where="compute",
                remedy="Restart the workers (or this Python session), or give stages.fit.seed the seed in use.",
            )  # fmt: skip
        os.environ.update(self.environment)
        zarr.config.set({"async.concurrency": REQUESTS})
        sweep(tempfile.gettempdir())


def in_processes(one: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """Call a function for each item, in processes of their own where there are several workers; results come in the order of the items.

    Processes are started anew, not forked: threads of zarr would hang in a copy. So `one` must be something that a process can import.

    Examples
    --------
    >>> list(in_processes(len, ["a", "bc"], 1))
    [1, 2]
    """
    given = list(items)
    if min(workers, len(given)) < 2:
        yield from map(one, given)
        return
    with ProcessPoolExecutor(min(workers, len(given)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(one, given)


@contextmanager
def task_folder(row: int) -> Iterator[Path]:
    """Give a task a temp folder of its own, also to libraries that ask `tempfile`, and remove it whatever happens.

    It lies in the worker's own scratch folder where there is one. After a process was killed the next one removes it: see `sweep`.

    Examples
    --------
    >>> with task_folder(17) as folder:
    ...     inside = tempfile.mkdtemp()
    >>> Path(inside).parent == folder, folder.exists()
    (True, False)
    """
    with _ONE_TASK, _held_folder(f"{PREFIX}{row:06d}-", _scratch() or tempfile.gettempdir()) as folder:
        before, before_env = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before
            if before_env is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before_env


def _scratch() -> str | None:
    if "distributed" not in sys.modules:
        return None
    from distributed.worker import get_worker

    try:
        return str(get_worker().local_directory)
    except ValueError:  # not on a worker
        return None


@contextmanager
def _held_folder(prefix: str, base: str) -> Iterator[str]:
    """Make a folder beside a file that is held locked as long as the folder is used."""
    while True:
        handle, lock = tempfile.mkstemp(prefix=prefix, suffix=LOCK, dir=base)
        with suppress(OSError):
            _lock(handle)
            if os.path.exists(lock):  # nobody has swept it between the two
                break
        os.close(handle)
    folder = lock.removesuffix(LOCK)
    try:
        os.mkdir(folder, 0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
        if not os.path.exists(folder):
            Path(lock).unlink(missing_ok=True)


def sweep(base: str) -> list[str]:
    """Remove the folders of tasks whose process was killed, and return their names.

    A process holds a lock as long as its task runs, which no other can take, and which goes with it however it ends.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as base:
    ...     Path(base, f"{PREFIX}1{LOCK}").touch()
    ...     Path(base, f"{PREFIX}1").mkdir()
    ...     sweep(base) == [f"{PREFIX}1"], os.listdir(base)
    (True, [])
    """
    swept = []
    for lock in Path(base).glob(f"{PREFIX}*{LOCK}"):
        with suppress(OSError):  # held, or of somebody else, or swept by another process meanwhile
            handle = os.open(lock, os.O_RDWR)
            try:
                _lock(handle)
                shutil.rmtree(str(lock).removesuffix(LOCK), ignore_errors=True)
                swept.append(lock.name.removesuffix(LOCK))
            finally:
                os.close(handle)
            lock.unlink()
    return swept


def _lock(handle: int) -> None:
    """Lock an open file, or raise OSError where another process holds it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def one_arena() -> None:
    """Let the threads of this process take memory from one place, where the C library is glibc, which else gives each of them its own: what one has
    freed no other uses, and a process of many threads that lives for hours grows and grows, although it holds no more. To be called first: arenas
    that are there stay.

    Examples
    --------
    >>> one_arena()
    """
    if sys.platform == "linux":
        import ctypes

        if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
            mallopt(_ARENA_MAX, 1)


def peak_memory() -> float:
    """Peak resident memory of this process so far, MiB.

    Examples
    --------
    >>> 10 < peak_memory() < 100_000
    True
    """
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    if sys.platform == "linux":  # the maximum of getrusage begins with that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes, others KiB
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
