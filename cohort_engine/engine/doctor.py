"""What this machine can do for a study: versions, processors, accelerator, template, how fast it writes, where work can run."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from shutil import disk_usage, which

from cohort_engine.errors import CohortError

DISTRIBUTION = "cohort-engine"
SUMS = {"all", "dev", "docs", "test"}
"""Extras that bring others, or are for those who work on this software."""
SCHEDULERS = {"slurm": "sbatch", "kubernetes": "kubectl", "ssh": "ssh"}
"""Cluster -> the program by which it is reached."""
WRITTEN = 64 << 20
"""Bytes that are written to measure a place."""
SLOW = 20.0
"""MB/s below which a place holds a build up."""
LEAST_MEMORY = 4.0
"""GiB that a worker with networks and registration wants."""
GOOD, WANTING, WRONG = "ok", "optional", "missing"


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, optional (something more could be had) or missing (a study cannot run)."""

    what: str
    state: str
    found: str
    remedy: str = ""


def examine(folder: str | Path = ".") -> list[Finding]:
    """Look at this machine; nothing is changed, and a file of 64 MiB is written to `folder` and removed.

    Parameters
    ----------
    folder : str or Path
        Where the store would be.

    Returns
    -------
    list of Finding
    """
    looks: list[Callable[[], Iterator[Finding]]] = [_versions, _extras, _processors, _accelerator, _template, lambda: _place(Path(folder)), _clusters]
    return [finding for look in looks for finding in look()]


def _versions() -> Iterator[Finding]:
    yield Finding("cohort_engine", GOOD, version(DISTRIBUTION))
    yield Finding("python", GOOD, sys.version.split()[0])
    core = ("dask", "distributed", "xarray", "zarr", "numpy", "nibabel")
    yield Finding("core packages", GOOD, ", ".join(f"{name} {version(name)}" for name in core))


def _extras() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    needs = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    for extra in metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        packages = [r.name for r in needs if r.marker is not None and r.marker.evaluate({"extra": extra})]
        absent = [name for name in packages if not _installed(name)]
        if extra not in SUMS:
            found = ", ".join(f"{name} is not installed" for name in absent) or ", ".join(f"{name} {version(name)}" for name in packages)
            yield Finding(extra, WANTING if absent else GOOD, found, f'pip install ".[{extra}]"' if absent else "")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _processors() -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    each = memory / cores
    enough = each >= LEAST_MEMORY
    yield Finding(
        "processors", GOOD if enough else WANTING, f"{cores} cores, {memory:.0f} GiB",
        "" if enough else f"compute.workers: {max(1, int(memory // LEAST_MEMORY))}, so that each worker has {LEAST_MEMORY:.0f} GiB",
    )  # fmt: skip
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    yield Finding("threads", GOOD, ", ".join(f"{k}={v}" for k, v in threads.items()) or "as the libraries choose; workers use one each")


def _accelerator() -> Iterator[Finding]:
    if not _installed("torch"):
        return
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("gpu", GOOD, ", ".join(names))
    else:
        yield Finding("gpu", WANTING, "none; networks run on the processor")


def _template() -> Iterator[Finding]:
    from cohort_engine.template import load_heights

    try:
        load_heights("PAM50")
        yield Finding("template", GOOD, "PAM50 is installed")
    except CohortError as error:
        yield Finding("template", WRONG, error.found, "cohort-engine template install pam50")


def _place(folder: Path) -> Iterator[Finding]:
    path = folder / f".{uuid.uuid4().hex}.speed"
    block = os.urandom(1 << 20)
    try:
        started = time.perf_counter()
        try:
            with path.open("xb") as file:
                for _ in range(WRITTEN >> 20):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            speed = WRITTEN / 1e6 / (time.perf_counter() - started)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        yield Finding("writing here", WRONG, error.strerror or "not possible", "give a folder that you may write to")
        return
    free = disk_usage(folder).free / 2**30
    yield Finding(
        "writing here", GOOD if speed >= SLOW else WANTING, f"{speed:.0f} MB/s, {free:.0f} GiB free", "" if speed >= SLOW else "a faster disk"
    )


def _clusters() -> Iterator[Finding]:
    for name, program in SCHEDULERS.items():
        there = which(program) is not None
        yield Finding(f"cluster {name}", GOOD if there else WANTING, f"{program} {'is here' if there else 'is not here'}")
