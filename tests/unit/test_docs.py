"""The reference pages are what the code says; what the other pages would have people type exists."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cohort_engine.cli import app
from cohort_engine.config import parse_config

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "make_reference.py"))["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_reference_pages_are_current(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == PAGES[name](), "run: python docs/make_reference.py"


# --- what people are to type --------------------------------------------------------------------------------------------
TEXTS = {str(p.relative_to(DOCS.parent)): p.read_text() for p in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")))}
STUDY = ("analysis", "compute", "data", "stages", "template")


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of a language; the pattern may be of several."""
    return [(page, text) for page, whole in TEXTS.items() for text in re.findall(rf"```(?:{language})\n(.*?)```", whole, flags=re.DOTALL)]


COMMANDS = [
    (page, line.removeprefix("$ "))
    for page, text in blocks("console")
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("$ cohort-engine ")
]
MENTIONED = [
    (page, said.replace("\n", " "))
    for page, text in TEXTS.items()
    for said in re.findall(r"`(cohort-engine [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_the_verbs_options_and_arguments_of_a_command_exist(page: str, line: str) -> None:
    verb: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(verb, "commands"):
        verb = verb.commands[words.pop(0)]
    given, left, _ = verb.make_parser(verb.make_context(verb.name, [], resilient_parsing=True)).parse_args(args=words)
    assert not left
    assert all(given.get(p.name) is not None for p in verb.params if p.required), f"{page}: {line}"


def test_what_is_mentioned_in_a_sentence_exists() -> None:
    for page, said in MENTIONED:
        verb: Any = typer.main.get_command(app)
        words = shlex.split(said)[1:]
        while hasattr(verb, "commands") and words and not words[0].startswith("-"):
            assert words[0] in verb.commands, f"{page}: {said}"
            verb = verb.commands[words.pop(0)]
        known = {option for p in verb.params for option in (*p.opts, *p.secondary_opts)}
        assert {w for w in words if w.startswith("--")} <= known, f"{page}: {said}"


PLUGGED = "brightness"
"""Metric of a package that one page writes, and that tests/cli/test_pages.py installs."""
PARTS = [(page, text) for page, text in blocks("yaml") if yaml.safe_load(text).keys() <= set(STUDY) and PLUGGED not in text]


@pytest.mark.parametrize(("page", "text"), PARTS)
def test_the_keys_of_a_study_file_exist(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "our-slurm.yaml").write_text("cluster: slurm\n")
    found = yaml.safe_load(text)
    config = parse_config({"template": {"name": "parametric"}} | found | {"data": {"bids": "study", "store": "study.zarr"} | found.get("data", {})})
    assert set(found) <= set(config.model_dump()), page
