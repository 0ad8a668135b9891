"""The BIDS App builds person by person into one cohort, and analyses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cohort_engine.cli.bids_app import app
from cohort_engine.phantom.study import simulate
from cohort_engine.query.frame import run_query
from cohort_engine.template import load_template

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]


def test_people_of_earlier_calls_stay(tmp_path: Path) -> None:
    simulate(tmp_path / "bids", template=load_template("parametric"), patients=2, controls=2, seed=1)
    call = [str(tmp_path / "bids"), str(tmp_path / "out")]
    names = sorted(p.name for p in (tmp_path / "bids").glob("sub-*"))
    for several in (names[:1], names[1:]):
        labels = [word for name in several for word in ("--participant-label", name.removeprefix("sub-"))]
        done = CliRunner().invoke(app, [*call, "participant", *labels, "--template", "parametric", "--n-cpus", "1"])
        assert done.exit_code == 0, done.output
        found = run_query(str(tmp_path / "out" / "cohort.zarr"), "mtr tract='white matter' level=C4")
        assert found["participant_id"].tolist() == names[: 1 if several == names[:1] else None]
    done = CliRunner().invoke(app, [*call, "group"])
    assert (tmp_path / "out" / "report" / "report.html").exists(), done.output
