"""Things known by name: a new file is all that a new thing needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from cohort_engine.errors import ConfigError
from cohort_engine.registry import Registry


@pytest.fixture
def fruit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[SimpleNamespace]:
    """A registry whose home, a package of this test alone, has two modules that take their time."""
    home = f"home_of_{tmp_path.name}"
    registry: Registry[SimpleNamespace] = Registry("fruit", home)
    (tmp_path / home).mkdir()
    (tmp_path / home / "__init__.py").touch()
    for name in ("apple", "pear"):
        (tmp_path / home / f"{name}.py").write_text(f"import time, {home}\ntime.sleep(0.1)\n{home}.add('{name}')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module(home).add = lambda name: registry.add(SimpleNamespace(name=name))  # type: ignore[attr-defined]
    return registry


def test_threads_that_look_at_once_all_see_everything(fruit: Registry[SimpleNamespace]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: sorted(fruit), range(4))) == [["apple", "pear"]] * 4


def test_a_name_is_given_once(fruit: Registry[SimpleNamespace]) -> None:
    pear = fruit["pear"]
    assert fruit.add(pear) is pear
    with pytest.raises(ConfigError, match="'pear' twice"):
        fruit.add(SimpleNamespace(name="pear", sweet=True))
