"""Files of a subject: read once a worker, and what is hashed is what is decoded; and whether a file is still the one that was read.

A file is known again by its size and a *stamp*: on a disk the times of its last change and of the last change of its inode, which no copying tool can
set back; in a bucket the entity tag. Only where one of them differs is its content hashed. A stamp is not trusted (and left empty) where the file had
changed less than `UNSETTLED_S` before it was read.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cohort_engine import schema
from cohort_engine.errors import CohortError, MissingInputError
from cohort_engine.io import objects
from cohort_engine.io.places import apart, file_of, local_path, storage_errors
from cohort_engine.io.volume import read_raw
from cohort_engine.provenance import digest

LIMIT_BYTES = 512 * 2**20
"""Content that a worker keeps, at most."""
SUBJECTS_KEPT = 3
"""Subjects whose files a worker keeps: tasks of one follow each other, but for those of the next that wait in its queue."""
UNSETTLED_S = 2.0
"""A file that changed so shortly before it was read may change again within the same tick of the file system's clock, s."""
READERS = 32
"""Requests in flight while files of a bucket are looked at."""

Record = Sequence[Any]
"""What an entry keeps of a file: sha256, size, stamp; of landmarks their kind, too."""


@dataclass(frozen=True)
class Content:
    """A file (or folder) as it was read.

    Attributes
    ----------
    sha256 : str
        Of its bytes; of a folder, of names and content of all files below it.
    size : int
        Bytes.
    stamp : str
    data : bytes, optional
        None of a folder.
    """

    sha256: str
    size: int
    stamp: str
    data: bytes | None = field(default=None, repr=False)

    def record(self, kind: str | None) -> list[Any]:
        """Return what an entry keeps of it."""
        return [self.sha256, self.size, self.stamp, *([kind] if kind else [])]


def read_content(location: str, *, what: str) -> Content:
    """Read and hash a file or folder.

    Parameters
    ----------
    location : str
        Path or URL.
    what : str
        The words of its role, for messages.

    Raises
    ------
    MissingInputError
        It is gone since the study was indexed, or a git-annex link without its content.
    InputError, StorageError
        It cannot be read.
    """
    if len(several := apart(location)) > 1:
        every = [read_content(one, what=what) for one in several]
        data = b"\n".join(c.data or b"" for c in every)
        return Content(hashlib.sha256(data).hexdigest(), sum(c.size for c in every), _whole(c.stamp for c in every), data)
    path = local_path(location)
    if path is None:
        with storage_errors(what):
            try:
                data, meta = objects.get_with_meta(*file_of(location))
            except FileNotFoundError as error:
                raise _gone(what) from error
        return Content(hashlib.sha256(data).hexdigest(), len(data), _tag(meta), data)
    if path.is_dir():
        return _read_folder(str(path), what)
    try:
        stamp = _settled(path.stat())
    except OSError:
        stamp = ""  # what is wrong is said by the reader
    data = read_raw(str(path), what=what)
    return Content(hashlib.sha256(data).hexdigest(), len(data), stamp, data)


def _read_folder(location: str, what: str) -> Content:
    path = local_path(location)
    assert path is not None
    size, stamp = stamp_of(location) or (0, "")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return Content(digest([(p.relative_to(path).as_posix(), read_content(str(p), what=what).sha256) for p in files]), size, stamp)


def stamp_of(location: str) -> tuple[int, str] | None:
    """Size and stamp of a file or folder, without reading it; None where it is gone.

    Raises
    ------
    StorageError
        A bucket does not answer.
    """
    if len(several := apart(location)) > 1:
        stamps = [one for one in map(stamp_of, several) if one is not None]
        return (sum(size for size, _ in stamps), _whole(stamp for _, stamp in stamps)) if len(stamps) == len(several) else None
    path = local_path(location)
    if path is None:
        with storage_errors("files of the study"):
            try:
                meta = objects.head(*file_of(location))
            except FileNotFoundError:
                return None
        return int(meta["size"]), _tag(meta)
    try:
        if path.is_dir():
            looked = [(p.relative_to(path).as_posix(), p.stat()) for p in sorted(path.rglob("*")) if p.is_file()]
            stamped = [(name, s.st_size, _settled(s)) for name, s in looked]
            return sum(s.st_size for _, s in looked), digest(stamped) if all(stamp for *_, stamp in stamped) else ""
        found = path.stat()
    except OSError:
        return None
    return found.st_size, _settled(found)


def _whole(stamps: Iterable[str]) -> str:
    """Stamp of several files together: empty where one is not trusted."""
    stamps = list(stamps)
    return digest(stamps) if all(stamps) else ""


def _tag(meta: Mapping[str, Any]) -> str:
    """Stamp of an object in a bucket."""
    changed = meta.get("last_modified")
    return str(meta.get("e_tag") or (changed.isoformat() if changed is not None else ""))


def _settled(found: os.stat_result) -> str:
    """Stamp of a file on a disk."""
    times = found.st_mtime_ns, found.st_ctime_ns
    return ":".join(map(str, times)) if all(abs(time.time() - t / 1e9) >= UNSETTLED_S for t in times) else ""


def _gone(what: str) -> MissingInputError:
    return MissingInputError(
        expected="the file the study lists", found="none", where=what, remedy="Fetch it (git-annex, network drive), or index the study again."
    )


# --- on the worker ------------------------------------------------------------------------------------------------------
class Shelf:
    """Files that this process has read, by build, subject and location. Those of earlier subjects go, and all that is too much."""

    def __init__(self) -> None:
        self._subjects: dict[tuple[str, int], dict[str, Content]] = {}
        self._lock = threading.RLock()

    def get(self, build: str, row: int, location: str, *, what: str) -> Content:
        """Return a file of a subject, read at most once a build."""
        with self._lock:
            own = self._subjects.pop((build, row), {})
            self._subjects[build, row] = own  # the latest is last
            if location not in own:
                own[location] = read_content(location, what=what)
                self._tidy(build)
            return own[location]

    def forget(self, build: str, row: int, location: str) -> None:
        """Read a file anew next time: it was written."""
        with self._lock:
            self._subjects.get((build, row), {}).pop(location, None)

    def _tidy(self, build: str) -> None:
        names = list(self._subjects)
        for name in names:
            total = sum(len(c.data or b"") for files in self._subjects.values() for c in files.values())
            if name[0] != build or len(self._subjects) > SUBJECTS_KEPT or (total > LIMIT_BYTES and name != names[-1]):
                del self._subjects[name]
        if total > LIMIT_BYTES and len(self._subjects) == 1:
            own = self._subjects[names[-1]]
            for location in list(own)[:-1]:
                del own[location]


SHELF = Shelf()
"""Of this process."""


@dataclass
class Reader:
    """Files of one task: reads through the shelf, and keeps what an entry is to say of them.

    Attributes
    ----------
    build : str
        Token of the build.
    row : int
    files : mapping of role to location
    kinds : mapping of landmark role to kind
    records : dict of role to Record
        Of the files that were read.
    """

    build: str
    row: int
    files: Mapping[str, str] = field(repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    def content(self, role: str) -> Content:
        """Return the file of a role."""
        found = SHELF.get(self.build, self.row, self.files[role], what=schema.words(role))
        self.records[role] = found.record(self.kinds.get(role))
        return found

    def bytes_of(self, role: str) -> bytes:
        """Return the bytes of the file of a role."""
        data = self.content(role).data
        return read_raw(self.files[role], what=schema.words(role)) if data is None else data


# --- on the client ------------------------------------------------------------------------------------------------------
class Looked:
    """What files are now, looked at once: stamps first, content only where those differ."""

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[int, str] | None] = {}
        self._hashes: dict[str, str] = {}

    def look(self, locations: Iterable[str]) -> None:
        """Take the stamps of many files at once."""
        new = [p for p in dict.fromkeys(locations) if p not in self._stamps]
        remote = [p for p in new if "://" in p]
        with ThreadPoolExecutor(READERS) as pool:
            self._stamps.update(zip(remote, pool.map(stamp_of, remote), strict=True))
        self._stamps.update((p, stamp_of(p)) for p in new if "://" not in p)

    def size(self, location: str) -> int:
        """Bytes of a file; -1 where it is gone."""
        self.look([location])
        found = self._stamps[location]
        return -1 if found is None else found[0]

    def sha256(self, location: str) -> str:
        """Content hash of a file; empty where it cannot be read."""
        if location not in self._hashes:
            try:
                self._hashes[location] = read_content(location, what="file").sha256
            except CohortError:
                self._hashes[location] = ""
        return self._hashes[location]

    def same(self, location: str, record: Record) -> bool:
        """Tell whether a file is the one that an entry tells of."""
        sha256, size, stamp = record[:3]
        self.look([location])
        found = self._stamps[location]
        if found is None:
            return False
        if stamp and (size, stamp) == found:
            return True
        return bool(size == found[0]) and self.sha256(location) == str(sha256)


def file_bytes(locations: Iterable[str]) -> int:
    """Add up local files, and those of folders; what is not there is left to the stage that needs it."""
    paths = [p for location in locations for p in map(local_path, apart(location)) if p is not None]
    return sum(os.path.getsize(f) for p in paths for f in (p.rglob("*") if p.is_dir() else (p,)) if f.is_file())
