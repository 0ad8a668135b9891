"""What a process has before its first task: thread limits, ANTs' seed, a cap on storage requests; and a temp folder for each task.

antspyx reads its seed and thread count when it is first imported, which no module here does before a task needs it; so the environment
set by `Workplace.apply` at the start of a process is early enough, on any cluster.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cohort_engine.errors import ResourceError

SEED = "ANTS_RANDOM_SEED"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
REQUESTS = 4
"""Storage requests in flight per worker: zarr's default of 10, times many workers, floods a bucket."""
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
        """Set up this process.

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


@contextmanager
def task_folder(row: int) -> Iterator[Path]:
    """Give a task a temp folder of its own, also to libraries that ask `tempfile`, and remove it whatever happens.

    It lies in the worker's own scratch folder where there is one: dask clears that even after a worker was killed.

    Examples
    --------
    >>> with task_folder(17) as folder:
    ...     inside = tempfile.mkdtemp()
    >>> Path(inside).parent == folder, folder.exists()
    (True, False)
    """
    with _ONE_TASK, tempfile.TemporaryDirectory(prefix=f"cohort-{row:06d}-", dir=_scratch()) as folder:
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


def peak_memory() -> float:
    """Peak resident memory of this process so far, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
