"""What GitHub runs is what `.ci/run` runs: its workflows name targets, files and markers that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
RUN = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in JOBS.items()}


def test_everything_is_what_the_continuous_integration_runs() -> None:
    assert RUN["everything"][-1] == "sudo .ci/run"
    assert "make test-all" in (ROOT / ".ci" / "run").read_text()
    assert RUN["tests"] == ["make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_targets_and_places_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in (line for lines in RUN.values() for line in lines):
        for target in re.findall(r"\bmake ([\w-]+)", line):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), line
        for word in shlex.split(line):
            if word.startswith("tests/"):
                assert (ROOT / word).is_dir(), line


def test_every_python_that_is_promised_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f">={JOBS['tests']['strategy']['matrix']['python'][0]}" == project["requires-python"]


def test_a_token_is_left_to_nobody() -> None:
    steps = [step for job in JOBS.values() for step in job["steps"] if str(step.get("uses", "")).startswith("actions/checkout")]
    assert len(steps) == len(JOBS)
    assert all(step["with"]["persist-credentials"] is False for step in steps)
