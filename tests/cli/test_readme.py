"""The commands of the README are run as they stand there, in an empty folder, in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from docs.run_pages import blocks, section

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TUTORIALS = ("mtr-study.md", "python.md")


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_all(text: str, folder: Path) -> dict[str, str]:
    """Run what stands in a text, in its order; what each verb printed last."""
    printed = {}
    for _, language, block in blocks(text):
        if language == "python":
            printed["python"] = run([sys.executable, "-W", "error::FutureWarning", "-c", block], folder)
        elif language == "console":
            for line in block.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                printed[words[1]] = run(words, folder)
    return printed


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_of_your_own(tmp_path: Path) -> None:
    printed = run_all(section(README, "A study of your own"), tmp_path)
    assert "4 subjects" in printed["simulate"]
    assert "4 people were analysed" in printed["analyse"]
    assert (tmp_path / "study_analysis" / "report.html").stat().st_size > 50_000
    assert "fit_mt" in printed["status"]
    assert "DCM" in printed["query"]
    assert "0 problems" in printed["verify"]
    assert "white matter" in printed["python"]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tutorials(tmp_path: Path) -> None:
    printed = {}
    for name in TUTORIALS:
        printed |= run_all((ROOT / "docs" / "tutorials" / name).read_text(), tmp_path)
    assert "6 subjects" in printed["index"]
    assert re.search(r"^mtr +6$", printed["init"], flags=re.MULTILINE)
    assert (tmp_path / "mine_analysis" / "report.html").exists()
    assert (tmp_path / "dorsal.csv").read_text().count("\n") == 7
    assert (tmp_path / "mean_mtr.nii.gz").exists()


OTHERS = ("dask", "docker", "helm", "kubectl", "pip", "source", "uv")
"""Programs of others."""


def test_every_command_exists() -> None:
    lines = [line.removeprefix("$ ") for _, language, text in blocks(README) if language == "console" for line in text.splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in OTHERS or "=" in words[0]:
            continue
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        else:
            verb = words[1:3] if words[1] == "template" else words[1:2]
            assert "Usage" in run([words[0], *verb, "--help"], ROOT)


def test_every_link_of_the_readme_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
