"""A store is held against what the study file asks for now, also where nothing is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.status import stale

QUESTION = "mtr tract='white matter' level=C2"


def study(url: str, low_signal: float) -> dict[str, Any]:
    stages = {"reduce": {"spaces": ["template"]}, "mtr": {"low_signal": low_signal}}
    return {"data": {"bids": "b", "store": url}, "stages": stages}


def config(url: str, low_signal: float) -> Config:
    return parse_config(study(url, low_signal))


def test_rows_of_other_settings_are_named_by_the_setting(make_cohort: Callable[..., str]) -> None:
    url = make_cohort([[10] * 8, [20] * 8])
    assert stale(config(url, 0.05)) == []
    assert stale(config(url, 0.1)) == ["stages.mtr.low_signal changed: mtr of 2 subjects"]


def test_an_answer_to_a_study_file_says_what_is_stale(make_cohort: Callable[..., str], tmp_path: Path) -> None:
    """A question went to the store alone: the study file had changed, and the answer did not say so."""
    url = make_cohort([[10] * 8])
    path = tmp_path / "study.yaml"
    for low_signal, expected in ((0.05, False), (0.1, True)):
        path.write_text(yaml.safe_dump(study(url, low_signal)))
        result = CliRunner().invoke(app, ["query", str(path), QUESTION])
        assert result.exit_code == 0
        assert ("stages.mtr.low_signal changed: mtr of 1 subject" in result.stderr) is expected
