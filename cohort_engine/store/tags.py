"""Freezes of a store under a tag: made, listed, opened as ``study.zarr@TAG``, checked, and gone back to.

A freeze is a store of its own, with its ledger, at ``<url>.freezes/<tag>/cohort.zarr``: any program that reads Zarr reads it. On a disk it takes no
room: its files are hard links to those of the store, and as every write makes a new file that is renamed over the old one, what is written to the
store later never reaches the freeze (copy on write). In a bucket objects are copied within it, and no byte travels but for the hashes. Beside it
lies ``freeze.json``, the manifest: SHA-256 and size of every object. It is written last, so a freeze that was cut short is none. The root of a frozen
store says so (`layout.TAG`), and nothing writes to it but an erasure (`store.withdrawal`), which makes the manifest again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cohort_engine.errors import ConfigError, StoreError, unknown_name
from cohort_engine.io import objects
from cohort_engine.io.places import clear, file_of, join, ledger_url, local_path, object_store, remove_leftovers, storage_errors
from cohort_engine.store import layout
from cohort_engine.store.freeze import require_closed
from cohort_engine.store.lease import lease
from cohort_engine.store.records import now

STORE, LEDGER, MANIFEST = "cohort.zarr", "cohort.zarr.ledger", "freeze.json"
ROOT = f"{STORE}/zarr.json"
"""The object that makes a store of the others."""
READERS = 16
"""Objects that are hashed or copied at once."""
_TAG = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_AT = re.compile(rf"(?P<url>.+[^/])@(?P<tag>{_TAG.pattern})/?")
_KEPT = re.compile(r"(entries|records|\d{6,})/")
"""What is kept of a ledger: how stages ended, and files they made; leases and logs are of the day."""


@dataclass(frozen=True)
class Freeze:
    """A freeze, as its manifest tells.

    Attributes
    ----------
    tag : str
    created : str
        ISO 8601 time in UTC.
    subjects : int
        Rows.
    made_with : str
        Version of this package that wrote the store last.
    objects : mapping of name to (sha256, size, stamp)
        By path below the freeze's folder; the stamp tells an object that is as it was when it was hashed.
    """

    tag: str
    created: str
    subjects: int
    made_with: str
    objects: Mapping[str, tuple[str, int, str]]

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(size for _, size, _ in self.objects.values())

    @property
    def digest(self) -> str:
        """SHA-256 of names and content of all objects: two freezes with the same one are the same, whatever their tags."""
        listed = [(name, *self.objects[name][:2]) for name in sorted(self.objects) if name != ROOT]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def folder_of(url: str, tag: str) -> str:
    """Where a freeze of a store lies."""
    return join(f"{url.rstrip('/')}.freezes", tag)


def at_tag(url: str) -> str:
    """Resolve ``study.zarr@TAG`` to the store that is frozen there; any other location is itself.

    Raises
    ------
    UnknownNameError
        No freeze of that tag.

    Examples
    --------
    >>> at_tag("s3://bucket/study.zarr")
    's3://bucket/study.zarr'
    """
    found = _AT.fullmatch(url)
    path = local_path(url)
    if found is None or "/" in found["tag"] or (path is not None and path.exists()):
        return url
    tags = [f.tag for f in freezes(found["url"])]
    if found["tag"] not in tags:
        raise unknown_name("freeze", found["tag"], tags, where="store")
    return join(folder_of(found["url"], found["tag"]), STORE)


def freezes(url: str) -> list[Freeze]:
    """List the freezes of a store, oldest first.

    Raises
    ------
    StorageError
        The place does not answer.
    """
    base = f"{url.rstrip('/')}.freezes"
    path = local_path(base)
    if path is not None:
        names = [p.name for p in path.iterdir() if p.is_dir()] if path.is_dir() else []
    else:
        with storage_errors("freezes"):
            names = [f.rstrip("/").rpartition("/")[2] for f in objects.children(object_store(base))[0]]
    found = filter(None, (_read_manifest(join(base, name)) for name in names))
    return sorted(found, key=lambda f: (f.created, f.tag))


def freeze(url: str, tag: str, *, allow_mixed: bool = False) -> Freeze:
    """Freeze a closed store under a tag.

    Raises
    ------
    ConfigError
        No word for a tag.
    IncompleteError
        The store is not finalised, or mixed.
    StoreError
        No store, the tag is taken, or another process writes to the store.
    StorageError
        A place failed: do it again.
    """
    if not _TAG.fullmatch(tag):
        raise ConfigError(expected="a tag of letters, digits, '.', '-' and '_'", found=repr(tag), where="tag", remedy="Choose another word.")
    root = layout.open_root(url)
    if words := layout.frozen(root):
        raise StoreError(expected="a store that grows", found=words, where="store", remedy="Freeze the store it was made from.")
    require_closed(root, allow_mixed=allow_mixed)
    target = folder_of(url, tag)
    with lease(url, "freeze"), storage_errors("making a freeze"):
        earlier = freezes(url)
        if tag in (f.tag for f in earlier):
            raise StoreError(expected="a new tag", found="a freeze of that tag", where="freeze", remedy="Choose another tag, or delete that freeze.")
        if (path := local_path(target)) is not None:
            path.mkdir(parents=True, exist_ok=True)
        clear(target)  # what a try that was cut short has left
        _copy_all([(place, join(target, name)) for name, place in _live(url).items()])
        frozen = layout.open_root(join(target, STORE), "r+")
        frozen.update_attributes({layout.TAG: tag})
        layout.consolidate(frozen)
        return _write_manifest(target, tag, earlier[-1].objects if earlier else {})


def check(url: str) -> Iterator[tuple[str, str]]:
    """Compare a frozen store (``<url>.freezes/<tag>/cohort.zarr``) with its manifest, byte by byte: (object, what is wrong with it)."""
    target = url.rstrip("/").rpartition("/")[0]
    manifest = _read_manifest(target)
    if manifest is None:
        yield MANIFEST, "the manifest of the freeze is lost or damaged"
        return
    there = _hashed(target, {})
    for name in sorted({*there, *manifest.objects}):
        if name not in there:
            yield name, "lost from the freeze"
        elif name not in manifest.objects:
            yield name, "not of the freeze"
        elif there[name][:2] != tuple(manifest.objects[name][:2]):
            yield name, "other bytes than were frozen"


def renew(url: str) -> None:
    """Write the manifest of a frozen store again, after an erasure."""
    target = url.rstrip("/").rpartition("/")[0]
    known = _read_manifest(target)
    if known is not None:
        _write_manifest(target, known.tag, known.objects, created=known.created)


def roll_back(url: str, tag: str) -> int:
    """Make a store what it was when it was frozen, ledger and files that stages made included, and say how many objects changed.

    The root's metadata goes first and comes last: a return that was cut short is no store, and is done again. What the store has beside is lost,
    unless it was frozen. The freeze stays.

    Raises
    ------
    UnknownNameError
        No such freeze.
    StoreError
        The freeze is not whole, or another process writes to the store.
    StorageError
        A place failed: do it again.
    """
    found = {f.tag: f for f in freezes(url)}
    if tag not in found:
        raise unknown_name("freeze", tag, list(found), where="store")
    target, wanted = folder_of(url, tag), found[tag].objects
    with lease(url, "roll back"), storage_errors("going back to a freeze"):
        frozen, live = _stamps(target), _live(url)
        if lost := [n for n in wanted if n not in frozen or frozen[n][0] != wanted[n][1]]:
            raise StoreError(
                expected=f"a freeze of {len(wanted)} objects", found=f"{len(lost)} of them lost or cut short", where="freeze",
                remedy='"cohort-engine verify STORE@TAG" says which; bring them back from a backup.',
            )  # fmt: skip
        root = json.loads(bytes(objects.get(*_at(join(target, ROOT)))))
        root["attributes"].pop(layout.TAG)
        places = {name: _place(url, name) for name in wanted}
        if ROOT in live:
            _remove([places[ROOT]])
        changed = [name for name in wanted if name != ROOT and not _same(join(target, name), places[name], frozen[name], live.get(name))]
        _copy_all([(join(target, name), places[name]) for name in changed])
        gone = [place for name, place in live.items() if name not in wanted]
        _remove(gone)
        objects.put(*_at(places[ROOT]), json.dumps(root).encode())
        _tidy(url)
    return len(changed) + len(gone)


def delete_freeze(url: str, tag: str) -> None:
    """Delete a freeze; on a disk what no other freeze nor the store has goes with it.

    Raises
    ------
    UnknownNameError
        No such freeze.
    """
    tags = [f.tag for f in freezes(url)]
    if tag not in tags:
        raise unknown_name("freeze", tag, tags, where="store")
    target = folder_of(url, tag)
    with lease(url, "delete a freeze"), storage_errors("deleting a freeze"):
        _remove([join(target, MANIFEST)])
        clear(target)
        if (path := local_path(target)) is not None:
            path.rmdir()


# --- objects of store, ledger and freeze ------------------------------------------------------------------------------
def _place(url: str, name: str) -> str:
    """Where an object of a freeze lies in the store."""
    tree, _, rest = name.partition("/")
    return join(url if tree == STORE else ledger_url(url), rest)


def _live(url: str) -> dict[str, str]:
    """Objects of a store and its ledger that a freeze keeps: name there, and place here."""
    with suppress(FileNotFoundError):
        remove_leftovers(url)
    names = [f"{STORE}/{n}" for n in _names(url)] + [f"{LEDGER}/{n}" for n in _names(ledger_url(url)) if _KEPT.match(n)]
    return {name: _place(url, name) for name in names}


def _names(url: str) -> list[str]:
    path = local_path(url)
    return [] if path is not None and not path.is_dir() else list(objects.names_below(object_store(url)))


def _at(place: str) -> tuple[objects.Backend, str]:
    path = local_path(place)
    return file_of(place) if path is None else (object_store(str(path.parent)), path.name)


def _stamps(target: str) -> dict[str, tuple[int, str]]:
    """Size and stamp of every object of a freeze."""
    path = local_path(target)
    if path is None:
        kept = (o for o in objects.listing(object_store(target)) if not _of_the_day(str(o["path"])))
        return {str(o["path"]): (int(o["size"]), str(o["e_tag"])) for o in kept}
    files = {p.relative_to(path).as_posix(): p.stat() for p in path.rglob("*") if p.is_file()}
    return {n: (s.st_size, f"{s.st_ino}-{s.st_mtime_ns}") for n, s in files.items() if not _of_the_day(n)}


def _of_the_day(name: str) -> bool:
    tree, _, rest = name.partition("/")
    return name == MANIFEST or (tree == LEDGER and not _KEPT.match(rest))


def _hashed(target: str, known: Mapping[str, tuple[str, int, str]]) -> dict[str, tuple[str, int, str]]:
    """Hash, size and stamp of every object of a freeze; what `known` has with the same size and stamp is not read again."""
    seen = {(size, stamp): sha for sha, size, stamp in known.values()}

    def one(item: tuple[str, tuple[int, str]]) -> tuple[str, tuple[str, int, str]]:
        name, (size, stamp) = item
        sha = seen.get((size, stamp)) or hashlib.sha256(objects.get(*_at(join(target, name)))).hexdigest()
        return name, (sha, size, stamp)

    with ThreadPoolExecutor(READERS) as pool:
        return dict(pool.map(one, sorted(_stamps(target).items())))


def _copy_all(pairs: list[tuple[str, str]]) -> None:
    """Copy objects within a place: on a disk as hard links, where it has them."""
    for folder in {path.parent for _, target in pairs if (path := local_path(target)) is not None}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda pair: _copy(*pair), pairs):
            pass


def _copy(source: str, target: str) -> None:
    one, other = local_path(source), local_path(target)
    if one is None or other is None:
        (store, name), (_, to) = file_of(source), file_of(target)
        objects.copy(store, name, to)
        return
    aside = other.with_name(f"{other.name}#0")  # as a put that was cut short: swept by `remove_leftovers`
    aside.unlink(missing_ok=True)
    try:
        os.link(one, aside)
    except OSError:  # no links here, or too many
        shutil.copyfile(one, aside)
    aside.replace(other)
    aside.unlink(missing_ok=True)  # where both were the same file, nothing was renamed


def _same(frozen: str, place: str, stamp: tuple[int, str], live: str | None) -> bool:
    """Tell whether the store has the very object of the freeze."""
    if live is None:
        return False
    path, there = local_path(place), local_path(frozen)
    if path is not None and there is not None:
        return os.path.samefile(path, there)
    meta = objects.head(*file_of(place))
    return (int(meta["size"]), str(meta["e_tag"])) == stamp


def _remove(places: list[str]) -> None:
    local = [path for place in places if (path := local_path(place)) is not None]
    for path in local:
        path.unlink(missing_ok=True)
    if not local and places:
        found = [file_of(place) for place in places]
        objects.delete(found[0][0], [name for _, name in found])


def _tidy(url: str) -> None:
    """Take away folders that are empty now: zarr would take them for something foreign."""
    for path in filter(None, map(local_path, (url, ledger_url(url)))):
        for folder in sorted((p for p in Path(path).rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                folder.rmdir()


# --- the manifest -----------------------------------------------------------------------------------------------------
def _read_manifest(target: str) -> Freeze | None:
    with storage_errors("freeze"):
        try:
            raw: dict[str, Any] = json.loads(bytes(objects.get(*_at(join(target, MANIFEST)))))
            return Freeze(**{**raw, "objects": {n: (str(h), int(s), str(t)) for n, (h, s, t) in raw["objects"].items()}})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def _write_manifest(target: str, tag: str, known: Mapping[str, tuple[str, int, str]], *, created: str = "") -> Freeze:
    root = layout.open_root(join(target, STORE))
    made = Freeze(tag, created or now(), layout.row_count(root), layout.made_with(root), _hashed(target, known))
    objects.put(*_at(join(target, MANIFEST)), json.dumps(asdict(made)).encode())
    return made
