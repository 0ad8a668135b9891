"""A bucket on loopback, as the environment of this process and of those it starts names it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_engine.io import places

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    import s3

    with s3.serving() as (made, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        places.object_store.cache_clear()
        yield made
    places.object_store.cache_clear()
