"""Shared fixtures: factories, and the place of the real scans."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
os.environ.setdefault("ANTS_RANDOM_SEED", "1")

DATA_VARIABLE = "COHORT_ENGINE_TEST_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans: ``$COHORT_ENGINE_TEST_DATA``, or ``shared/data`` beside the repository."""
    folder = Path(os.environ.get(DATA_VARIABLE) or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "PAM50").is_dir():
        pytest.skip(f"real scans not found: set {DATA_VARIABLE} to a folder that holds PAM50, errsm_23, ...")
    return folder
