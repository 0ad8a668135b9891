"""The log of a build: lines of JSON beside the ledger, rows in place of names.

One file a build, ``<store>.ledger/log/<time>.log``; on object storage one object for each `PIECE_LINES` lines or `PIECE_SECONDS`, whole or absent:
``<time>-0000.log`` and so on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cohort_engine.errors import ConfigError, scrub
from cohort_engine.io import objects
from cohort_engine.io.places import file_of, join, ledger_url, local_path, storage_errors

LEVELS = ("debug", "info", "warning", "error")
"""From the least to the most urgent."""
PIECE_LINES = 1000
PIECE_SECONDS = 60.0
LOG = "log"
"""Folder of the ledger."""


def log_place(store: str) -> str:
    """Where the log of a build that begins now lies.

    Examples
    --------
    >>> log_place("s3://bucket/study.zarr").startswith("s3://bucket/study.zarr.ledger/log/2")
    True
    """
    return join(ledger_url(store), LOG, f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.log")


class RunLog:
    """Takes lines of a level, and writes those that are urgent enough.

    Parameters
    ----------
    level : str
        The least urgent level that is written, of `LEVELS`.
    place : str, optional
        Path or URL of the file; made with the first line. Without it nothing is stored.
    echo : function of str, optional
        Is given every line in words as well: for a screen.

    Raises
    ------
    ConfigError
        No such level.

    Examples
    --------
    >>> log = RunLog("info", echo=print)
    >>> log.write("info", "stage", row=3, stage="mtr", status="done")
    info stage: row 3, stage mtr, status done
    >>> log.write("debug", "nobody asked")
    """

    def __init__(self, level: str = "info", place: str | None = None, *, echo: Callable[[str], None] | None = None) -> None:
        if level not in LEVELS:
            raise ConfigError(expected=f"a level: {', '.join(LEVELS)}", found=repr(level), where="log", remedy="Choose one of them.")
        self.least, self.place, self.echo = LEVELS.index(level), place, echo
        self._file: IO[str] | None = None
        self._lines: list[str] = []
        self._pieces, self._put_at = 0, time.monotonic()
        self._lock = threading.Lock()

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write a line: its time, level, event and fields. Texts are scrubbed, empty ones left out.

        Raises
        ------
        StorageError
            The disk or bucket failed.
        """
        if LEVELS.index(level) < self.least:
            return
        kept = {k: scrub(v) if isinstance(v, str) else v for k, v in fields.items() if v not in ("", None)}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event} | kept)
        if self.echo is not None:
            self.echo(f"{level} {event}" + (": " if kept else "") + ", ".join(f"{k} {v}" for k, v in kept.items()))
        if self.place is not None:
            with self._lock, storage_errors("log"):
                self._store(line + "\n")

    def close(self) -> None:
        """Write what waits."""
        with self._lock, storage_errors("log"):
            self._put()
            if self._file is not None:
                self._file.close()
                self._file = None

    def _store(self, line: str) -> None:
        path = local_path(str(self.place))
        if path is not None:
            if self._file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
            self._file.write(line)
            return
        self._lines.append(line)
        if len(self._lines) >= PIECE_LINES or time.monotonic() - self._put_at >= PIECE_SECONDS:
            self._put()

    def _put(self) -> None:
        self._put_at = time.monotonic()
        if not self._lines:
            return
        store, name = file_of(str(self.place))
        objects.put(store, f"{name.removesuffix('.log')}-{self._pieces:04d}.log", "".join(self._lines).encode())
        self._pieces += 1
        self._lines.clear()


def configure(store: str, *, level: str = "info", place: str | None = None, echo: Callable[[str], None] | None = None) -> RunLog:
    """Make the log of a build that begins now, beside the store's ledger or at a `place` of one's own."""
    return RunLog(level, place or log_place(store), echo=echo)
