"""A line that says that something which takes long is still at work: on a terminal, or below the cell of a notebook, and nowhere else.

It comes after `PATIENCE` seconds and goes when the work is done, so that nothing of it is left in an answer, a file or a pipe.

>>> with working("reading maps"):
...     for row in counted([1, 2, 3], "subjects"):
...         pass
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

PATIENCE = 2.0
"""Seconds before anything is shown."""
BEAT = 0.5
T = TypeVar("T")


class Screen(Protocol):
    """Where one line can be shown and taken away."""

    def show(self, text: str) -> None: ...

    def clear(self) -> None: ...


class Terminal:
    """The last line of standard error."""

    def show(self, text: str) -> None:
        import shutil

        sys.stderr.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class Notebook:
    """A line below the cell that runs."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import display

        said = {"text/plain": text}
        if self.handle is None:
            self.handle = display(said, raw=True, display_id=True)
        else:
            self.handle.update(said, raw=True)

    def clear(self) -> None:
        if self.handle is not None:
            self.handle.update({"text/plain": ""}, raw=True)


def screen() -> Screen | None:
    """Return where this process may show a line; None where nobody would see it go again."""
    shell = sys.modules.get("IPython")
    if shell is not None and "ipykernel" in sys.modules and shell.get_ipython() is not None:
        return Notebook()
    return Terminal() if sys.stderr.isatty() else None


class _Work:
    """One thing that takes long, with the beat that shows it."""

    def __init__(self, what: str, where: Screen, patience: float) -> None:
        self.what, self.where, self.patience, self.step = what, where, patience, ""
        self.began, self.ended, self.lock, self.shown = time.monotonic(), threading.Event(), threading.RLock(), False
        self.beat = threading.Thread(target=self._live, daemon=True, name="progress")
        self.beat.start()

    def _live(self) -> None:
        wait = self.patience
        while not self.ended.wait(wait):
            wait = BEAT
            with self.lock:
                if self.ended.is_set():
                    return
                self.where.show(f"{': '.join(filter(None, (self.what, self.step)))} ... {time.monotonic() - self.began:.0f} s")
                self.shown = True

    def clear(self) -> None:
        with self.lock:
            if self.shown:
                self.where.clear()
                self.shown = False

    def end(self) -> None:
        self.ended.set()
        self.clear()


_now: _Work | None = None


@contextmanager
def working(what: str, *, where: Screen | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Show that something is at work inside; work within work is a step of it.

    Parameters
    ----------
    what : str
    where : Screen, optional
        By default that of `screen`.
    patience : float
        Seconds before it is shown.
    """
    global _now
    if _now is not None:
        before, _now.step = _now.step, what
        try:
            yield
        finally:
            if _now is not None:
                _now.step = before
        return
    place = where or screen()
    if place is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _now = _Work(what, place, patience)
    try:
        yield
    finally:
        hush()


def step(text: str) -> None:
    """Say what is being done now, of the work that is shown."""
    if _now is not None:
        _now.step = text


def clear() -> None:
    """Take the line away, before something else is written there; it comes back with the next beat."""
    if _now is not None:
        _now.clear()


def hush() -> None:
    """Show nothing more: the work is done, or shows itself in another way."""
    global _now
    if _now is not None:
        _now.end()
        _now = None


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """Go through items, and say how far it is.

    Examples
    --------
    >>> list(counted("ab", "letters"))
    ['a', 'b']
    """
    with working(what):
        for i, item in enumerate(items):
            step(f"{what}, {i} of {len(items)}")
            yield item
