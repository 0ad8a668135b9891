"""What a stage of a subject left: one object, whole or absent, with its entry (how it ended) and the arrays that are gathered.

Records lie beside the store, ``<url>.ledger/records/000017-fit_mt.record``, and so do files that stages made for a subject
(``<url>.ledger/000017/mt_mask.nii.gz``). Records are the only witness that a stage is done. `store.maintenance.gather` folds them: arrays into the
store, entries into blocks of subjects (``<url>.ledger/entries/000000.block``). A record that is there goes before what was gathered. Names of people
never enter; a subject is its row.

A record is ``MAGIC``, CRC-32 of what follows, length of the header, the header (JSON), and the arrays (zlib, bytes of one significance together).
Nothing in it can run: it is JSON and numbers.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.io import objects
from cohort_engine.io.places import join, ledger_url, local_path, object_store, storage_errors
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.store import layout

READERS = 32
"""Objects in flight while many are read: 3,000 a second on one busy core, and enough to hide the way to a bucket."""
ENTRY_BLOCK = 256
"""Subjects whose entries share an object."""
LARGEST_BLOCK = 256 * 2**20
"""Bytes of the entries of a block, at most: messages and traces of 256 subjects and all stages are a hundredth of it."""
MAGIC = b"CEREC2\n"
_HEAD = struct.Struct("<II")
_RECORD = re.compile(r"^records/(\d{6,})-([\w.-]+)\.record$")
_MADE = re.compile(r"^(\d{6,})/([\w.-]+)\.nii\.gz$")
_BLOCK = re.compile(r"^entries/(\d{6,})\.block$")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
LEDGER = "ledger"


def now() -> str:
    """Return the time of writing, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Entry:
    """How one stage of one subject ended.

    Attributes
    ----------
    subject : int
        Row of the store.
    stage : str
    status : str
        A value of `schema.STATUS_CODES`.
    key : str
        Content key of the stage: another key means other inputs or parameters.
    recipe : str
        Hash of version, parameters and template: the entry is stale where the study asks for another one.
    upstream : mapping of stage to str
        Keys of the stages whose results it took.
    made : mapping of role to str
        Stage that made the file of that role, where the study has none.
    inputs : mapping of role to (sha256, size, stamp)
        Files it read.
    seconds : float
        Wall time, s.
    peak_memory : float
        Peak resident memory of the worker, MiB.
    kind, message, remedy, trace : str
        Class name of the error, its text, what to do, and ``file:line (function)`` of an unforeseen one; empty when done.
    retryable : bool
        Whether doing the same again may help.
    finished : str
        ISO 8601 time in UTC.
    notes : str
        What its inputs left open and how it was settled (`errors.CohortWarning`), one sentence a line.
    """

    subject: int
    stage: str
    status: str
    key: str
    recipe: str = ""
    upstream: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seconds: float = float("nan")
    peak_memory: float = float("nan")
    kind: str = ""
    message: str = ""
    remedy: str = ""
    trace: str = ""
    retryable: bool = False
    finished: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.status not in _STATUSES:
            raise StoreError(
                expected=f"a status of {', '.join(_STATUSES)}", found=repr(self.status), where=f"ledger, stage {self.stage}",
                remedy="Use the constants of the schema.",
            )  # fmt: skip


_STATUSES: tuple[str, ...] = tuple(schema.STATUS_CODES.values())
STAGE_VALUES: Mapping[str, Callable[[Entry], Any]] = {
    schema.STATUS: lambda e: _STATUSES.index(e.status), schema.SECONDS: lambda e: e.seconds, schema.PEAK_MEMORY: lambda e: e.peak_memory,
    schema.KEY: lambda e: e.key, schema.RECIPE: lambda e: e.recipe,
}  # fmt: skip
"""Variable of ``stages/*`` -> what an entry says in it."""
_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Entry))


@dataclass(frozen=True)
class Record:
    """An entry and the arrays of its subject, by path, without the subject axis."""

    entry: Entry
    arrays: Mapping[str, NDArray[Any]]


class Broken(NamedTuple):
    """A record that is there and cannot be read."""

    subject: int
    stage: str


# --- one record -------------------------------------------------------------------------------------------------------
def record_name(subject: int, stage: str) -> str:
    """Object name inside the ledger.

    Examples
    --------
    >>> record_name(17, "fit_mt")
    'records/000017-fit_mt.record'
    """
    return f"records/{subject:06d}-{stage}.record"


def pack(entry: Entry, arrays: Mapping[str, NDArray[Any]] = _NOTHING) -> bytes:
    """Make the bytes of a record.

    Examples
    --------
    >>> data = pack(Entry(3, "mtr", schema.DONE, "k"), {"qc/mtr_cord_median": np.float32(41)})
    >>> record = unpack(data)
    >>> record.entry.key, record.arrays["qc/mtr_cord_median"].item()
    ('k', 41.0)
    """
    described, parts = [], []
    for path, array in arrays.items():
        values = np.asarray(array)
        if values.dtype.kind in "OUT":
            described.append({"path": path, "shape": values.shape, "text": [str(v) for v in values.ravel()]})
        else:
            values = np.asarray(values, values.dtype.newbyteorder("<"), order="C")  # keeps a scalar a scalar
            described.append({"path": path, "shape": values.shape, "dtype": values.dtype.str})
            parts.append(np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(values.size, values.itemsize).T).tobytes())
    header = json.dumps({"entry": _plain(entry), "arrays": described}, separators=(",", ":")).encode()
    return _seal(header, zlib.compress(b"".join(parts), 1) if parts else b"")


def unpack(data: bytes) -> Record:
    """Read the bytes of a record.

    Raises
    ------
    ValueError
        It is damaged, or none.
    """
    header, body = _unseal(data)
    record = json.loads(header)
    entry = Entry(**_restored(record["entry"]))
    described = record["arrays"]
    lengths = [0 if "text" in d else math.prod(d["shape"]) * np.dtype(d["dtype"]).itemsize for d in described]
    raw = zlib.decompressobj().decompress(body, sum(lengths) + 1) if body else b""
    if len(raw) != sum(lengths):
        raise ValueError("the arrays are not as long as the header says")
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for d, length in zip(described, lengths, strict=True):
        shape = tuple(d["shape"])
        if "text" in d:
            arrays[d["path"]] = layout.text(d["text"]).reshape(shape)
            continue
        dtype = np.dtype(d["dtype"])
        if dtype.kind not in "fiub":
            raise ValueError("arrays of numbers only")
        planes = np.frombuffer(raw, np.uint8, length, at).reshape(dtype.itemsize, -1)
        arrays[d["path"]] = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
        at += length
    return Record(entry, arrays)


def _seal(header: bytes, body: bytes) -> bytes:
    rest = len(header).to_bytes(4, "little") + header + body
    return MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest


def _unseal(data: bytes) -> tuple[bytes, bytes]:
    at = len(MAGIC)
    if data[:at] != MAGIC or len(data) < at + _HEAD.size:
        raise ValueError("not a record")
    crc, length = _HEAD.unpack_from(data, at)
    if zlib.crc32(data[at + 4 :]) != crc:
        raise ValueError("its checksum does not fit")
    start = at + _HEAD.size
    return data[start : start + length], data[start + length :]


def _plain(entry: Entry) -> dict[str, Any]:
    out = {name: getattr(entry, name) for name in _FIELDS}
    return {k: (None if v != v else dict(v) if isinstance(v, Mapping) else v) for k, v in out.items()}


def _restored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None else v for k, v in values.items()}


def write_record(url: str, entry: Entry, arrays: Mapping[str, NDArray[Any]] = _NOTHING) -> None:
    """Write (or replace) a record, whole; call it after the chunks of large arrays, so that what it claims is there.

    Most callers want `store.writer.write_subject`, which checks what it writes. A record without arrays takes back what the stage had before.

    Raises
    ------
    StorageError
        The ledger cannot be written.
    """
    entry = entry if entry.finished else replace(entry, finished=now())
    with storage_errors(LEDGER):
        objects.put(object_store(ledger_url(url)), record_name(entry.subject, entry.stage), pack(entry, arrays))


def read_record(url: str, subject: int, stage: str) -> Record | None:
    """Read one record that is not gathered; None where there is none, or where what is there is broken (the stage then simply runs again)."""
    with storage_errors(LEDGER):
        try:
            data = bytes(objects.get(object_store(ledger_url(url)), record_name(subject, stage)))
        except FileNotFoundError:
            return None
    return _parse(subject, stage, data)


def read_entry(url: str, subject: int, stage: str) -> Entry | None:
    """Read one entry, from its record or from its block; None where there is none, or where the record is broken.

    Raises
    ------
    StoreError
        The block is damaged.
    StorageError
        The ledger cannot be read.
    """
    record = read_record(url, subject, stage)
    if record is not None:
        return record.entry
    block = read_block(url, subject // ENTRY_BLOCK * ENTRY_BLOCK)
    return next((e for e in block if e.subject == subject and e.stage == stage), None)


def _parse(subject: int, stage: str, data: bytes) -> Record | None:
    try:
        record = unpack(data)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error, StoreError):
        return None
    return record if (record.entry.subject, record.entry.stage) == (subject, stage) else None


# --- blocks of entries ------------------------------------------------------------------------------------------------
def write_block(url: str, first: int, entries: Iterable[Entry]) -> None:
    """Replace the entries of subjects `first` to `first` + `ENTRY_BLOCK` - 1; none at all deletes the block."""
    listed = sorted(entries, key=lambda e: (e.subject, e.stage))
    store, name = object_store(ledger_url(url)), _block_name(first)
    with storage_errors(LEDGER):
        if listed:
            columns = {n: [_cell(getattr(e, n)) for e in listed] for n in _FIELDS}
            objects.put(store, name, _seal(b"{}", zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 1)))
        else:
            with suppress(FileNotFoundError):
                objects.delete(store, name)


def read_block(url: str, first: int) -> list[Entry]:
    """Read the entries of a block; none where it is not there.

    Raises
    ------
    StoreError
        It is damaged.
    """
    with storage_errors(LEDGER):
        try:
            data = bytes(objects.get(object_store(ledger_url(url)), _block_name(first)))
        except FileNotFoundError:
            return []
    try:
        columns = json.loads(_inflated(_unseal(data)[1]))
        for name in ("seconds", "peak_memory"):
            columns[name] = [float("nan") if v is None else v for v in columns[name]]
        columns.setdefault("notes", [""] * len(columns[schema.SUBJECT]))  # blocks of older versions have none
        return list(map(Entry, *(columns[n] for n in _FIELDS)))
    except (ValueError, TypeError, KeyError, zlib.error, StoreError) as error:
        raise StoreError(
            expected="the entries of a block of subjects", found="a damaged object", where=f"ledger, rows {first} to {first + ENTRY_BLOCK - 1}",
            remedy=f'Bring "{_block_name(first)}" back from a backup of the ledger, or delete it: the stages of these subjects then run again.',
        ) from error  # fmt: skip


def _inflated(body: bytes) -> bytes:
    """Undo the compression of a block, of `LARGEST_BLOCK` bytes at most."""
    stream = zlib.decompressobj()
    out = stream.decompress(body, LARGEST_BLOCK)
    if not stream.eof:
        raise ValueError("cut short, or larger than any block")
    return out


def _cell(value: Any) -> Any:
    return None if value != value else dict(value) if isinstance(value, Mapping) else value


def _block_name(first: int) -> str:
    return f"entries/{first:06d}.block"


# --- the whole ledger -------------------------------------------------------------------------------------------------
def list_ledger(url: str) -> tuple[list[tuple[int, str]], list[int]]:
    """List the (subject, stage) that have a record of their own, and the first subjects of the blocks. Files that stages made are not looked at."""
    records = sorted((int(m[1]), m[2]) for n in _listed(url, "records") if (m := _RECORD.match(n)))
    return records, sorted(int(m[1]) for n in _listed(url, "entries") if (m := _BLOCK.match(n)))


def _listed(url: str, folder: str = "") -> list[str]:
    """List the objects of the ledger, or of a folder of it; none where it is not there."""
    path = local_path(ledger_url(url))
    if path is not None and not path.joinpath(folder).is_dir():
        return []
    with storage_errors(LEDGER):
        return list(objects.names_below(object_store(ledger_url(url)), folder))


def read_records(url: str, places: Sequence[tuple[int, str]]) -> Iterator[Record | Broken | None]:
    """Read records, many at once; None where there is none any more, as another process gathers, or where a listing lags."""
    store, path = object_store(ledger_url(url)), local_path(ledger_url(url))

    def read(place: tuple[int, str]) -> Record | Broken | None:
        name = record_name(*place)
        try:
            data = bytes(objects.get(store, name)) if path is None else (path / name).read_bytes()
        except FileNotFoundError:  # gathered, or withdrawn, since it was listed
            return None
        return _parse(*place, data) or Broken(*place)

    def read_some(part: Sequence[tuple[int, str]]) -> list[Record | Broken | None]:
        with storage_errors(LEDGER):
            return list(map(read, part))

    size = 1 if path is None else 64  # a disk answers sooner than a thread starts
    with ThreadPoolExecutor(READERS if path is None else 4) as pool:
        for found in pool.map(read_some, (places[i : i + size] for i in range(0, len(places), size))):
            yield from found


def read_entries(url: str) -> list[Entry]:
    """Read all entries, by subject and stage: those of the blocks, and in their place those of single records. Broken records count as absent.

    A freeze has none; what it keeps of them is in ``stages/*``: status, key, recipe, seconds and memory.

    Raises
    ------
    StoreError
        A block is damaged.
    StorageError
        The ledger cannot be read.
    """
    return scan_entries(url)[0]


def scan_entries(url: str) -> tuple[list[Entry], list[tuple[int, str]]]:
    """Read all entries, and list the (subject, stage) whose record is broken.

    Another process may gather meanwhile, and the listing of a bucket may lag: records are read first, and blocks by their number.
    """
    places, blocks = list_ledger(url)
    records = dict(zip(places, read_records(url, places) if places else (), strict=True))  # reading makes no folder
    wanted = {*blocks, *(row // ENTRY_BLOCK * ENTRY_BLOCK for (row, _), record in records.items() if record is None)}
    if local_path(url) is None:
        with suppress(StoreError):
            wanted |= set(range(0, layout.row_count(layout.open_root(url)), ENTRY_BLOCK))
    found: dict[tuple[int, str], Entry] = {}
    with ThreadPoolExecutor(4) as pool:
        for block in pool.map(lambda first: read_block(url, first), sorted(wanted)):
            found.update(((e.subject, e.stage), e) for e in block)
    if not found and not places:
        return _frozen_entries(url), []
    broken = [place for place, record in records.items() if isinstance(record, Broken)]
    found |= {place: record.entry for place, record in records.items() if isinstance(record, Record)}
    for place in broken:
        found.pop(place, None)
    order = sorted(found) if places else found
    return [found[p] for p in order], broken


def _frozen_entries(url: str) -> list[Entry]:
    try:
        root = layout.open_root(url)
    except StoreError:
        return []
    if not root.attrs.get(layout.COMPACTED):
        return []
    with storage_errors(schema.STAGES):
        names = [str(n) for n in np.asarray(layout.array_at(root, layout.STAGE_NAMES.path)[...])]
        columns = [
            np.asarray(layout.array_at(root, f"{schema.STAGES}/{n}")[...])
            for n in (schema.STATUS, schema.KEY, schema.RECIPE, schema.SECONDS, schema.PEAK_MEMORY)
        ]
    status, key, recipe, seconds, memory = columns
    return [
        Entry(
            int(r), names[s], schema.STATUS_CODES[int(status[r, s])], str(key[r, s]), str(recipe[r, s]),
            seconds=float(seconds[r, s]), peak_memory=float(memory[r, s]),
        )
        for r, s in np.argwhere(status != 0)
    ]  # fmt: skip


def delete_records(url: str, places: Iterable[tuple[int, str]]) -> None:
    """Delete single records, if they are there."""
    _delete(url, [record_name(*p) for p in places])


def delete_subject(url: str, subject: int) -> int:
    """Remove all that the ledger has of a subject (records, made files, its part of the block), and say how many objects and entries that were."""
    with storage_errors(LEDGER):
        names = list(objects.names_below(object_store(ledger_url(url)), f"{subject:06d}"))
    names += [record_name(*p) for p in list_ledger(url)[0] if p[0] == subject]
    _delete(url, names)
    first = subject // ENTRY_BLOCK * ENTRY_BLOCK
    block = read_block(url, first)
    kept = [e for e in block if e.subject != subject]
    if len(kept) < len(block):
        write_block(url, first, kept)
    return len(names) + len(block) - len(kept)


def _delete(url: str, names: Sequence[str]) -> None:
    path = local_path(ledger_url(url))
    with storage_errors(LEDGER):
        if path is None:
            if names:
                objects.delete(object_store(ledger_url(url)), list(names))
            return
        for name in names:
            (path / name).unlink(missing_ok=True)


# --- files that stages made -------------------------------------------------------------------------------------------
def made_url(url: str, subject: int, role: str) -> str:
    """Place of a file that a stage made for a subject, beside its records: it goes when they go."""
    return join(ledger_url(url), f"{subject:06d}", f"{role}.nii.gz")


def write_made(url: str, subject: int, role: str, volume: Volume) -> None:
    """Write a file that a stage made, whole or not at all.

    Raises
    ------
    StorageError
        The ledger cannot be written.
    """
    place = made_url(url, subject, role)
    path = local_path(place)
    with storage_errors(LEDGER):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(place, volume)


def list_made(url: str) -> set[tuple[int, str]]:
    """List the files that stages made: (subject, role).

    Raises
    ------
    StorageError
        The ledger cannot be read.
    """
    return {(int(m[1]), m[2]) for n in _listed(url) if (m := _MADE.match(n))}


def remove_made(url: str, subject: int, role: str) -> None:
    """Remove a file that a stage made, if it is there."""
    _delete(url, [f"{subject:06d}/{role}.nii.gz"])
