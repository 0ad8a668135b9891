"""A simulated study on disk, and copies of its subject that are broken on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_engine.phantom.study import simulate
from cohort_engine.template import load_template


@pytest.fixture(scope="session")
def one_subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BIDS folder with one simulated control, ``sub-HC001``."""
    out = tmp_path_factory.mktemp("simulated") / "study"
    simulate(out, template=load_template("parametric"), patients=0, controls=1, seed=4)
    shutil.rmtree(out / "derivatives" / "truth")
    return out


@pytest.fixture(scope="session")
def make_study(one_subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a study with a copy of the simulated subject for each name; returns the BIDS folder, the study file beside it."""

    def make(*names: str, stages: str = "") -> Path:
        out = tmp_path_factory.mktemp("study") / "study"
        for name in names:
            for source in one_subject.rglob("sub-HC001*"):
                if source.is_file():
                    target = out / Path(str(source.relative_to(one_subject)).replace("sub-HC001", f"sub-{name}"))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        for source in (*one_subject.glob("*.json"), *one_subject.glob("derivatives/*/*.json")):
            target = out / source.relative_to(one_subject)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        head, line = (one_subject / "participants.tsv").read_text().splitlines()
        (out / "participants.tsv").write_text("\n".join([head, *(line.replace("sub-HC001", f"sub-{n}") for n in names)]) + "\n")
        text = "data:\n  bids: study\n  store: study.zarr\ntemplate:\n  name: parametric\ncompute:\n  cluster: synchronous\n"
        out.with_suffix(".yaml").write_text(text + stages)
        return out

    return make
