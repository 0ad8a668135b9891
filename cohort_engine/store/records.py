"""The ledger: one small JSON per subject and stage, written when the stage has ended, whole or absent.

It lives beside the store at ``<url>.ledger/000017/fit.json``, with the masks that stages drew for the subject (``mt_mask.nii.gz``). It is the only
witness that a stage is done: a chunk that is all NaN is not stored, so the absence of a chunk says nothing. Names of people never enter it; a
subject is its row.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import obstore

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.io.places import join, ledger_url, local_path, object_store, storage_errors
from cohort_engine.io.volume import Volume, write_volume

READERS = 32
"""Entries in flight while the whole ledger is read: 3,000 a second on one busy core, and enough to hide the way to a bucket."""
_NAME = re.compile(r"^(\d{6,})/([\w.-]+)\.json$")


def now() -> str:
    """Return the time of writing, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class LedgerEntry:
    """How one stage of one subject ended.

    Attributes
    ----------
    subject : int
        Row of the store.
    stage : str
    status : str
        A value of `schema.STATUS_CODES`.
    key : str
        Content key of the stage: another key means the entry is stale.
    seconds : float
        Wall time, s.
    peak_memory : float
        Peak resident memory of the worker, MiB.
    kind, message, remedy : str
        Class name of the error, its text, what to do; empty when done.
    retryable : bool
        Whether doing the same again may help.
    finished : str
        ISO 8601 time in UTC.
    """

    subject: int
    stage: str
    status: str
    key: str
    seconds: float = float("nan")
    peak_memory: float = float("nan")
    kind: str = ""
    message: str = ""
    remedy: str = ""
    retryable: bool = False
    finished: str = ""

    def __post_init__(self) -> None:
        if self.status not in schema.STATUS_CODES.values():
            raise StoreError(
                expected=f"a status of {', '.join(schema.STATUS_CODES.values())}", found=repr(self.status), where=f"ledger, stage {self.stage}",
                remedy="Use the constants of schema.py.",
            )  # fmt: skip


def entry_name(subject: int, stage: str) -> str:
    """Object name inside the ledger.

    Examples
    --------
    >>> entry_name(17, "fit")
    '000017/fit.json'
    """
    return f"{subject:06d}/{stage}.json"


def write_entry(url: str, entry: LedgerEntry) -> None:
    """Write (or replace) an entry; call it after the chunks, so that what it claims is there.

    Raises
    ------
    StorageError
        The ledger cannot be written.
    """
    record = {k: None if v != v else v for k, v in asdict(entry).items()}
    record["finished"] = entry.finished or now()
    with storage_errors("ledger"):
        obstore.put(object_store(ledger_url(url)), entry_name(entry.subject, entry.stage), json.dumps(record).encode())


def read_entry(url: str, subject: int, stage: str) -> LedgerEntry | None:
    """Read one entry; None where there is none, or where what is there is broken (the stage then simply runs again)."""
    with storage_errors("ledger"):
        try:
            data = obstore.get(object_store(ledger_url(url)), entry_name(subject, stage)).bytes()
        except FileNotFoundError:
            return None
    return _parse(subject, stage, bytes(data))


def read_ledger(url: str) -> list[LedgerEntry]:
    """Read all entries, by subject and stage; broken ones count as absent."""
    return scan_ledger(url)[0]


def scan_ledger(url: str) -> tuple[list[LedgerEntry], list[tuple[int, str]]]:
    """Read all entries, and list the (subject, stage) whose entry is no valid record."""
    with storage_errors("ledger"):
        store = object_store(ledger_url(url))
        names = [o["path"] for batch in obstore.list(store, chunk_size=1000) for o in batch]
        places = sorted((int(m[1]), m[2]) for n in names if (m := _NAME.match(n)))

        def read(place: tuple[int, str]) -> LedgerEntry | None:
            return _parse(*place, bytes(obstore.get(store, entry_name(*place)).bytes()))

        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(read, places))
    return [e for e in found if e is not None], [place for place, e in zip(places, found, strict=True) if e is None]


def drawn_url(url: str, subject: int, role: str) -> str:
    """Place of a file that a stage drew for a subject, beside its entries: it goes when they go."""
    return join(ledger_url(url), f"{subject:06d}", f"{role}.nii.gz")


def write_drawn(url: str, subject: int, role: str, volume: Volume) -> None:
    """Write a file that a stage drew, whole or not at all.

    Raises
    ------
    StorageError
        The ledger cannot be written.
    """
    place = drawn_url(url, subject, role)
    path = local_path(place)
    with storage_errors("ledger"):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(place, volume)


def remove_drawn(url: str, subject: int, role: str) -> None:
    """Remove a file that a stage drew, if it is there."""
    with storage_errors("ledger"), suppress(FileNotFoundError):
        obstore.delete(object_store(ledger_url(url)), f"{subject:06d}/{role}.nii.gz")


def delete_entries(url: str, subject: int) -> int:
    """Remove every entry of a subject and say how many there were."""
    with storage_errors("ledger"):
        store = object_store(ledger_url(url))
        names = [o["path"] for o in obstore.list(store, prefix=f"{subject:06d}").collect()]
        if names:
            obstore.delete(store, names)
    return len(names)


def _parse(subject: int, stage: str, data: bytes) -> LedgerEntry | None:
    try:
        record: dict[str, Any] = json.loads(data)
        values: dict[str, Any] = {k: float("nan") if v is None else v for k, v in record.items()}
        entry = LedgerEntry(**values)
    except (ValueError, TypeError, AttributeError, StoreError):
        return None
    return entry if (entry.subject, entry.stage) == (subject, stage) else None
