"""These tests need a SLURM that runs, and are skipped without one: ``deploy/slurm/up.sh`` sets one up on this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest


def answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def missing() -> str:
    """Why there is no SLURM; empty where there is one."""
    if shutil.which("sbatch") is None:
        return "SLURM is not installed"
    try:
        return "" if "idle" in answer("sinfo", "--noheader", "--format=%T") or answer("squeue", "--me", "--noheader") else "no node of SLURM is idle"
    except (subprocess.SubprocessError, OSError):
        return "SLURM does not answer"


@pytest.fixture(scope="session", autouse=True)
def slurm() -> None:
    pytest.importorskip("dask_jobqueue")
    if reason := missing():
        pytest.skip(f"{reason}: run deploy/slurm/up.sh as root")


@pytest.fixture(autouse=True)
def own_jobs() -> Iterator[None]:
    """No job is left behind."""
    before = set(answer("squeue", "--me", "--noheader", "--format=%A").split())
    yield
    left = set(answer("squeue", "--me", "--noheader", "--format=%A", "--states=PENDING,RUNNING").split()) - before
    for job in left:
        subprocess.run(["scancel", job], check=False)
    assert not left
