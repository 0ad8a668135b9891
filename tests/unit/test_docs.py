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
TEXTS = {str(p.relative_to(DOCS)): p.read_text() for kind in ("how-to", "tutorials") for p in sorted((DOCS / kind).glob("*.md"))}
STUDY = ("analysis", "compute", "data", "stages", "template")


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of a language; the pattern may be of several."""
    return [(page, text) for page, whole in TEXTS.items() for text in re.findall(rf"```(?:{language})\n(.*?)```", whole, flags=re.DOTALL)]


COMMANDS = [
    (page, line.removeprefix("$ "))
    for page, text in blocks("console|")
    for line in text.replace("\\\n", " ").splitlines()
    if line.removeprefix("$ ").startswith("cohort-engine ")
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


@pytest.mark.parametrize(("page", "text"), [(page, text) for page, text in blocks("yaml") if yaml.safe_load(text).keys() <= set(STUDY)])
def test_the_keys_of_a_study_file_exist(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "our-slurm.yaml").write_text("cluster: slurm\n")
    found = yaml.safe_load(text)
    config = parse_config({"template": {"name": "parametric"}} | found | {"data": {"bids": "study", "store": "study.zarr"} | found.get("data", {})})
    assert set(found) <= set(config.model_dump()), page
