"""Things that are known by name: metrics, contrasts, roles, stages, estimators, sources, clusters. Each lies in a file of its own and adds itself.

A registry has a home, a package whose modules are imported when a name is first looked up: a new file there is all that a new thing needs.
Other packages add theirs through the entry-point group `PLUGINS`, each entry naming a module whose import adds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from threading import RLock
from typing import Generic, Protocol, TypeVar

from cohort_engine.errors import ConfigError, unknown_name

PLUGINS = "cohort_engine.plugins"
"""Entry-point group of other packages."""


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
_LOOKING = RLock()


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name, in the order in which they were added.

    Parameters
    ----------
    kind : str
        What they are, for messages: ``"estimator"``.
    homes : str
        Packages whose modules add them.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> fruit = Registry("fruit")
    >>> fruit.add(SimpleNamespace(name="apple")).name, list(fruit)
    ('apple', ['apple'])
    >>> fruit.find("aple", where="basket")
    Traceback (most recent call last):
    ...
    cohort_engine.errors.UnknownNameError: basket: expected a known fruit, found 'aple'. Did you mean 'apple'?
    """

    def __init__(self, kind: str, *homes: str) -> None:
        self.kind, self.homes = kind, homes
        self._items: dict[str, T] = {}
        self._looked = False

    def add(self, item: T) -> T:
        """Add a thing; a name is given once.

        Raises
        ------
        ConfigError
            Another thing has the name.
        """
        if self._items.setdefault(item.name, item) is not item:
            raise ConfigError(
                expected=f"a new name for the {self.kind}", found=f"{item.name!r} twice", where=f"{self.kind} {item.name}",
                remedy="Choose another name, or remove one of the packages that add it.",
            )  # fmt: skip
        return item

    def find(self, name: str, *, where: str) -> T:
        """Look a thing up; a name that nobody has is answered with the near ones."""
        if name not in self:
            raise unknown_name(self.kind, name, list(self), where=where)
        return self[name]

    def __getitem__(self, name: str) -> T:
        self._look()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(tuple(self._items))

    def __len__(self) -> int:
        self._look()
        return len(self._items)

    def _look(self) -> None:
        """Import what adds things here, once; a look from within that import finds what is there so far, other threads wait for the end of it."""
        with _LOOKING:
            if self._looked:
                return
            self._looked = True
            for home in self.homes:
                package = import_module(home)
                for module in iter_modules(package.__path__, f"{home}."):
                    import_module(module.name)
            if self.homes:
                load_plugins()


_loaded: list[str] = []


def load_plugins() -> None:
    """Import the modules that other packages name as plug-ins, once a process.

    Raises
    ------
    ConfigError
        One of them cannot be imported.
    """
    if _loaded:
        return
    _loaded.append(PLUGINS)
    for point in sorted(entry_points(group=PLUGINS), key=lambda p: p.name):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(
                expected=f"a plug-in {point.name!r} that can be imported", found=f"{type(error).__name__}", where=f"plug-in {point.value}",
                remedy="Repair or remove the package that brings it.",
            ) from error  # fmt: skip
