"""Shared fixtures: factories, and the place of the real scans."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cohort_engine.config import Config, parse_config
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import parametric_cord

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


@pytest.fixture(scope="session")
def small_template() -> Template:
    """Parametric cord of C2 and C3 at 2 mm: a few hundred packed voxels, 43 regions."""
    return parametric_cord(spacing=2, top="C2", bottom="C3")


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Return a study configuration with these sections, and placeholders for its places."""
    return lambda **sections: parse_config({"data": {"bids": "bids", "store": "store"}, **sections})


@pytest.fixture
def make_store(tmp_path: Path, small_template: Template, make_config: Callable[..., Config]) -> Callable[..., str]:
    """Lay out a store of n subjects called sub-000, sub-001 ... (or of a given table), on the small template."""
    from cohort_engine.io.writer import init_store

    def make(subjects: int | pd.DataFrame = 3, *, url: str = "", units: dict[str, str] | None = None, **sections: Any) -> str:
        url = url or str(tmp_path / "store.zarr")
        if isinstance(subjects, int):
            subjects = pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(subjects)], "session_id": ""})
        init_store(url, template=small_template, config=make_config(**sections), subjects=subjects, units=units)
        return url

    return make
