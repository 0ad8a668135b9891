"""The reference pages are what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "make_reference.py"))["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_reference_pages_are_current(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == PAGES[name](), "run: python docs/make_reference.py"
