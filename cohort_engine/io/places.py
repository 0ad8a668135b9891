"""Places: from a path or URL to a store, opened once per process, and its failures in words.

Every location is text: a local path, or any URL obstore knows (``s3://``, ``gs://``, ``az://``, ``file://``, ``memory://``), with escapes as URLs
have them. Credentials and endpoints come from the environment, as obstore documents them, and stand in no URL. Tasks carry the text, never the
store: a store object opened before a fork hangs, and one opened per call costs a connection. Single files of a bucket share one.

A put is whole or absent: obstore writes ``<name>#<n>`` beside the object and renames it on a local disk, and object storage never shows a part.
That holds when a process is killed. It does not flush the disk's cache: after a power cut a chunk can be empty or torn, which
`store.maintenance.verify` finds by its checksum.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from obstore import exceptions
from obstore import store as backends

from cohort_engine.errors import LONGEST_TEXT, ConfigError, MissingInputError, StorageError, StoreError, scrub
from cohort_engine.io import objects
from cohort_engine.io.objects import Backend
from cohort_engine.io.zarr_store import PlaceStore

BUCKETS = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
"""Schemes whose first part is a bucket."""
CREDENTIALS = (
    "Check the credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, "
    "AZURE_STORAGE_ACCOUNT_NAME and its key, or the role of the machine), and that they may read and write there."
)

REMEDIES = {
    errno.ENOSPC: "Free disk space, then run again: what is done stays done.",
    errno.EDQUOT: "Free quota, then run again: what is done stays done.",
    errno.EACCES: "Allow this user to write there, then run again.",
    errno.EPERM: "Allow this user to write there, then run again.",
    errno.EROFS: "Choose a place that can be written.",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_LEFTOVER = re.compile(r"#\d+$")


def local_path(url: str) -> Path | None:
    """Folder or file of a local location, or None where the location is remote.

    Examples
    --------
    >>> str(local_path("file:///data/study%20one.zarr")), local_path("s3://bucket/study.zarr")
    ('/data/study one.zarr', None)
    """
    if "://" not in url:
        return Path(os.path.abspath(url))
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def together(locations: Iterable[str]) -> str:
    """Make one location of several files that are read as one, in this order: `apart` takes it apart.

    Examples
    --------
    >>> apart(together(["sub-01/anat/sub-01_T2w.json", "T2w.json"])), apart("T2w.json")
    (['sub-01/anat/sub-01_T2w.json', 'T2w.json'], ['T2w.json'])
    """
    return "\n".join(locations)


def apart(location: str) -> list[str]:
    """Return the files that a location stands for; see `together`."""
    return location.split("\n")


def join(url: str, *parts: str) -> str:
    """Extend a path or URL.

    Examples
    --------
    >>> join("s3://bucket/studies/", "one.zarr")
    's3://bucket/studies/one.zarr'
    """
    return "/".join([url.rstrip("/"), *(p.strip("/") for p in parts)])


def ledger_url(url: str) -> str:
    """Where the ledger of a store lives: a sibling, so that zarr never lists it.

    Examples
    --------
    >>> ledger_url("s3://bucket/study.zarr/")
    's3://bucket/study.zarr.ledger'
    """
    return url.rstrip("/") + ".ledger"


def beside(url: str, ending: str) -> str:
    """Place beside a store that has its name, without ``.zarr``, and an ending.

    Examples
    --------
    >>> beside("s3://bucket/study.zarr/", "_qc"), beside("study.zarr", "_qc")
    ('s3://bucket/study_qc', 'study_qc')
    """
    return f"{url.rstrip('/').removesuffix('.zarr')}{ending}"


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn a failure of the disk or bucket into a `StorageError`; its text holds the reason, and never a path."""
    try:
        yield
    except (OSError, exceptions.BaseError) as error:
        text = str(error)[:LONGEST_TEXT]
        if objects.refused(error):
            raise StorageError(expected="storage that lets us in", found="that it refuses", where=where, remedy=CREDENTIALS) from error
        if objects.NO_BUCKET.search(text):
            raise StorageError(expected="a bucket", found="none of that name", where=where, remedy="Check its name, or create it.") from error
        number = error.errno if isinstance(error, OSError) else None
        if match := _OS_ERROR.search(text):
            number = int(match[1])
        reason = os.strerror(number) if number else scrub(text.splitlines()[0] if text else type(error).__name__)
        remedy = REMEDIES.get(number or 0, "Check that the storage is reachable and can be written, then run again.")
        raise StorageError(expected="storage that answers", found=reason, where=where, remedy=remedy) from error


@cache
def object_store(url: str) -> Backend:
    """Open a location as an obstore store, once per process; a local folder is made when absent.

    Raises
    ------
    StorageError
        The place cannot be reached or made.
    StoreError
        A scheme that nobody knows.
    """
    path = local_path(url)
    with storage_errors("opening a store"):
        if path is not None:
            return backends.LocalStore(path, mkdir=True)
        _refuse_secrets(url)
        try:
            if url.startswith("memory:"):
                return backends.from_url(url)
            return backends.from_url(url, client_options=objects.client_options(os.environ), retry_config=objects.RETRY)
        except ValueError as error:
            raise _unknown_place(url) from error
        except exceptions.GenericError as error:
            if "recogni" in str(error) or "scheme" in str(error).lower():
                raise _unknown_place(url) from error
            raise


def file_of(url: str) -> tuple[Backend, str]:
    """Return where a file or object lies: a store and its name there. All of a bucket share one connection, whatever their folders."""
    _refuse_secrets(url)
    parts = urlsplit(url)
    if parts.scheme in BUCKETS:
        return object_store(f"{parts.scheme}://{parts.netloc}"), unquote(parts.path.lstrip("/"))
    folder, _, name = url.rpartition("/")
    return object_store(folder), unquote(name) if "://" in url else name


def below(root: str, path: str) -> str:
    """Path or URL of what lies below a root by a path with slashes, as a listing gives it.

    Examples
    --------
    >>> below("s3://bucket/study/", "sub-01/a b.nii"), below("/data", "sub-01/a b.nii")
    ('s3://bucket/study/sub-01/a%20b.nii', '/data/sub-01/a b.nii')
    """
    return join(root, quote(path, safe="/")) if "://" in root else join(root, path)


def open_zarr_store(url: str, *, create: bool = False) -> PlaceStore:
    """Open a location for zarr.

    Parameters
    ----------
    url : str
        Path or URL of a cohort store.
    create : bool
        Make a local folder when absent. Without it an absent folder is an error, so that a typo in a question leaves nothing behind.

    Raises
    ------
    StoreError
        Nothing is there.
    StorageError
        The place cannot be reached.
    """
    path = local_path(url)
    if path is not None and not create and not path.is_dir():
        raise StoreError(expected="a cohort store", found="no such folder", where=f"store {url}", remedy="Check the path, or build the cohort first.")
    return PlaceStore(object_store(url))


def read_bytes(url: str, *, what: str = "file") -> bytes:
    """Read one whole object or file.

    Parameters
    ----------
    url : str
        Path or URL.
    what : str
        The words of its role, for messages.

    Raises
    ------
    MissingInputError
        It does not exist.
    StorageError
        It cannot be reached.
    """
    path = local_path(url)
    try:
        with storage_errors(what):
            return path.read_bytes() if path is not None else bytes(objects.get(*file_of(url)))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise MissingInputError(
                expected="a file", found="nothing there", where=what, remedy="Check that the file is where the study says."
            ) from error
        raise


def exists(url: str) -> bool:
    """Tell whether a file lies at a path or URL.

    Raises
    ------
    StorageError
        The place cannot be reached.
    """
    path = local_path(url)
    if path is not None:
        return path.is_file()
    with storage_errors("file"):
        try:
            objects.head(*file_of(url))
        except FileNotFoundError:
            return False
    return True


def clear(url: str) -> None:
    """Delete everything below a location; on a local disk the empty folders too, which zarr would take for something foreign."""
    path = local_path(url)
    if path is None:
        store = object_store(url)
        objects.delete(store, list(objects.names_below(store)))
        return
    for child in path.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def remove_leftovers(url: str) -> int:
    """Delete what writes that a crash cut short have left on a local disk (``<name>#<n>``, in no listing), and say how many there were.

    No task may write meanwhile. Object storage leaves unfinished uploads instead, which only its own rules can expire.
    """
    path = local_path(url)
    found = [] if path is None else [f for f in path.rglob("*#*") if _LEFTOVER.search(f.name)]
    for file in found:
        file.unlink()
    return len(found)


def _refuse_secrets(url: str) -> None:
    """Refuse a URL that carries a key: it would stand in study files, stores and logs."""
    parts = urlsplit(url)
    if parts.password is not None or parts.query:
        raise ConfigError(
            expected="a URL without credentials", found="a key or signature in it", where="location",
            remedy=f"Take it out of the URL. {CREDENTIALS}",
        )  # fmt: skip


def _unknown_place(url: str) -> StoreError:
    scheme = url.partition("://")[0]
    return StoreError(
        expected="a folder, or a URL that begins with s3://, gs://, az://, file:// or memory://", found=f"{scheme}://", where="location",
        remedy="Check the spelling.",
    )  # fmt: skip
