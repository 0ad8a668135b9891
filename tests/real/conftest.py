"""The template of the tests with real scans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cohort_engine.template import load_template
from cohort_engine.template.base import Template

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture(scope="session")
def pam50(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """PAM50, its cache in a folder of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load_template("PAM50", path=real_data / "PAM50")


@pytest.fixture(scope="session")
def healthy_cohort(real_data: Path, pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Store of the morphometry of 203 healthy people (spine-generic)."""
    from cohort_engine.engine.importing import import_morphometry

    folder, study = real_data / "morphometrics", "spine-generic_multi-subject"
    url = str(tmp_path_factory.mktemp("healthy") / "cohort.zarr")
    import_morphometry(folder / f"spinal_cord_{study}.tar.xz", url, participants=folder / f"{study}_participants.tsv", template=pam50)
    return url
