"""One writer: who lays a store out, builds, gathers, closes or erases holds its lease, and a second one is told who that is.

The lease is an object that is created only if absent, ``<url>.ledger/lease.json``; a thread renews it. It says which process holds it, what for and
since when. Of a holder that is dead (its process is gone from this machine; or it has not renewed the object for `LIMIT_S`, and does not while
somebody watches for `WATCH_S`) the lease is taken over: by creating, again only if absent, the object that is named after the dead holder's token.
So two takers cannot both succeed, a taker that dies is taken over in the same way, and a holder that was only asleep finds that object and knows.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from obstore.exceptions import AlreadyExistsError

from cohort_engine.errors import StorageError, StoreError
from cohort_engine.io import objects
from cohort_engine.io.objects import Backend
from cohort_engine.io.places import ledger_url, local_path, object_store, storage_errors
from cohort_engine.provenance import digest

RENEW_S = 15.0
"""Between two renewals, s."""
LIMIT_S = 120.0
"""A lease of another machine that was not renewed for so long may be dead, s."""
WATCH_S = 40.0
"""How long it is watched then, s: clocks of two machines need not agree."""
LEASE = "lease.json"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes
    ----------
    token : str
        Of this lease alone.
    host : str
    place : str
        Hash of machine, its start and its process numbers: processes can only be looked up where it is the same.
    process : int
    started : str
        When the process began, as the system counts: process numbers are used again.
    doing : str
        ``"build"``.
    since, renewed : str
        ISO 8601 times in UTC.
    """

    token: str
    host: str
    place: str
    process: int
    started: str
    doing: str
    since: str
    renewed: str


class Lease:
    """A lease that is held: see `lease`."""

    def __init__(self, store: Backend, name: str, holder: Holder) -> None:
        self._store, self._name, self.holder = store, name, holder
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on where another process has taken the lease over.

        Raises
        ------
        StoreError
            It is lost.
        """
        if self._lost:
            raise StoreError(
                expected="to be the only writer", found="that another process took the lease over", where="store",
                remedy="This process was not heard of for too long. Nothing is lost: wait for the other one, then run again.",
            )  # fmt: skip

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            with suppress(Exception):  # storage that fails for a while costs the lease only after LIMIT_S
                if _read(self._store, _successor(self.holder)) is not None or _read(self._store, self._name) is None:
                    self._lost = True
                    return
                _put(self._store, self._name, Holder(**{**asdict(self.holder), "renewed": _now()}))

    def release(self) -> None:
        """Give it back; the object at the front goes first, so that nobody takes over from one that is gone."""
        self._stop.set()
        self._thread.join()
        with suppress(StorageError):  # it is given back by the end of this process then
            if self._lost or _read(self._store, _successor(self.holder)) is not None:
                return
            chain = [holder for holder, _ in _chain(self._store)]
            for name in (LEASE, *map(_successor, chain)):
                with storage_errors("lease"), suppress(FileNotFoundError):
                    objects.delete(self._store, name)


_HELD: dict[tuple[str, int], Lease] = {}


@contextmanager
def lease(url: str, doing: str) -> Iterator[Lease]:
    """Be the only writer of a store; inside a block that holds the lease already (in the same thread), this is that lease.

    Parameters
    ----------
    url : str
        The store; it need not exist yet.
    doing : str
        What for, in a word: ``"build"``.

    Raises
    ------
    StoreError
        Another process holds it.
    StorageError
        The place does not answer.
    """
    place = ledger_url(url), threading.get_ident()
    if place in _HELD:
        yield _HELD[place]
        return
    held = _acquire(place[0], doing)
    _HELD[place] = held
    try:
        yield held
    finally:
        del _HELD[place]
        held.release()


def holder_of(url: str) -> Holder | None:
    """Say who writes to a store now, or None; a dead holder is nobody.

    Raises
    ------
    StorageError
        The place does not answer.
    """
    path = local_path(ledger_url(url))
    if path is not None and not path.is_dir():
        return None
    chain = _chain(object_store(ledger_url(url)))
    return chain[-1][0] if chain and not _gone(chain[-1][0]) else None


def _acquire(place: str, doing: str) -> Lease:
    store = object_store(place)
    while True:
        now = _now()
        mine = Holder(uuid.uuid4().hex, socket.gethostname(), _place(), os.getpid(), _started(os.getpid()), doing, now, now)
        chain = _chain(store)
        if chain:
            holder = chain[-1][0]
            if not _gone(holder) and not _silent(store, chain[-1]):
                raise _refusal(holder)
            name = _successor(holder)
        else:
            name = LEASE
        if _put(store, name, mine, new=True):
            if (end := _chain(store)) and end[-1][0].token == mine.token:
                return Lease(store, name, mine)
            with storage_errors("lease"), suppress(FileNotFoundError):  # the holder we followed had been taken over and given back meanwhile
                objects.delete(store, name)


def _refusal(holder: Holder) -> StoreError:
    return StoreError(
        expected="to be the only writer",
        found=f'that process {holder.process} on {holder.host} does "{holder.doing}" since {holder.since}',
        where="store",
        remedy="Wait until it has ended, or stop it there; status and query work meanwhile. "
        f"A process that was killed gives way by itself: at once on its machine, after {(LIMIT_S + WATCH_S) / 60:.0f} minutes elsewhere.",
    )


def _chain(store: Backend) -> list[tuple[Holder, str]]:
    """Holders in the order in which each took over, with the names of their objects; the last one counts."""
    out: list[tuple[Holder, str]] = []
    name = LEASE
    while (holder := _read(store, name)) is not None:
        out.append((holder, name))
        name = _successor(holder)
    return out


def _gone(holder: Holder) -> bool:
    """Whether the holder's process is known to have ended."""
    return holder.place == _place() and _started(holder.process) != holder.started


def _silent(store: Backend, held: tuple[Holder, str]) -> bool:
    """Whether a holder has not renewed its lease for `LIMIT_S`, and does not while we watch."""
    holder, name = held
    if time.time() - datetime.fromisoformat(holder.renewed).timestamp() < LIMIT_S:
        return False
    time.sleep(WATCH_S)
    return _read(store, name) == holder


def _successor(holder: Holder) -> str:
    return f"lease-{holder.token}.json"


def _read(store: Backend, name: str) -> Holder | None:
    with storage_errors("lease"):
        try:
            data = bytes(objects.get(store, name))
        except FileNotFoundError:
            return None
    try:
        record: dict[str, Any] = json.loads(data)
        return Holder(**record)
    except (ValueError, TypeError) as error:
        raise StoreError(
            expected="a lease", found="an object that is none", where="ledger", remedy=f"Delete {name} beside the store, if nobody writes to it."
        ) from error


def _put(store: Backend, name: str, holder: Holder, *, new: bool = False) -> bool:
    data = json.dumps(asdict(holder)).encode()
    try:
        with storage_errors("lease"):
            objects.put(store, name, data, mode="create" if new else "overwrite")
    except StorageError as error:
        if not isinstance(error.__cause__, AlreadyExistsError):
            raise
        there = _read(store, name)  # our own, where the answer to a first try was lost
        return there is not None and there.token == holder.token
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def _place() -> str:
    """Hash of what a process number means something within: the machine, its start, the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return digest(*parts)


def _started(process: int) -> str:
    """When a process of this machine began, in the system's own count; ``"unknown"`` where it does not say, empty where there is no such process."""
    if Path("/proc/self/stat").exists():
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            return "" if fields[0] == "Z" else fields[19]
        return ""
    if os.name != "posix":
        return "unknown"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
