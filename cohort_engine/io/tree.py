"""The files of a dataset, on disk or in a bucket: one listing, then reading by path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cohort_engine.errors import InputError
from cohort_engine.io import objects, places

READERS = 16
"""Small files read at once: a bucket answers in tens of milliseconds, and there is one sidecar a subject."""
_PLACE = re.compile(r"(?P<prefix>(?:[^/]+/)*?)(?P<participant>sub-[A-Za-z0-9]+)/(?:(?P<session>ses-[A-Za-z0-9]+)/)?(?![sS][eE][sS][^/]*/)")


@dataclass(frozen=True)
class Place:
    """Where a file lies: path of the dataset it belongs to (``""`` or ``"derivatives/labels/"``), participant and session folder."""

    prefix: str
    participant: str
    session: str


def place(path: str) -> Place | None:
    """Read dataset, participant and session off a path; None for files outside participant folders, and in session folders that cannot be read.

    Examples
    --------
    >>> place("derivatives/labels/sub-01/ses-2/anat/x.nii.gz")
    Place(prefix='derivatives/labels/', participant='sub-01', session='ses-2')
    >>> place("sub-HC_01/anat/x.nii.gz"), place("sub-01/ses-pre_op/anat/x.nii.gz")
    (None, None)
    """
    match = _PLACE.match(path)
    return match and Place(match["prefix"], match["participant"], match["session"] or "")


@dataclass(frozen=True)
class Tree:
    """All files below a folder or URL.

    Attributes
    ----------
    root : str
    """

    root: str

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Sorted paths from the root, with forward slashes. Hidden folders are left out; links count whether or not their content is here.

        Raises
        ------
        InputError
            A folder that may not be read.
        StorageError
            The bucket does not answer.
        """
        folder = places.local_path(self.root)
        if folder is None:
            with places.storage_errors("listing the dataset"):
                found = list(objects.names_below(places.object_store(self.root)))
            return tuple(sorted(p for p in found if not any(part.startswith(".") for part in p.split("/"))))
        return tuple(sorted(self._walk(folder)))

    @cached_property
    def names(self) -> frozenset[str]:
        """The same, to ask whether a file exists."""
        return frozenset(self.paths)

    def location(self, path: str) -> str:
        """Path or URL that any process can open."""
        folder = places.local_path(self.root)
        return str(folder / path) if folder is not None else places.below(self.root, path)

    def read(self, path: str, *, what: str) -> bytes:
        """Read one file, through the one connection of the tree."""
        if places.local_path(self.root) is not None:
            return places.read_bytes(self.location(path), what=what)
        with places.storage_errors(what):
            return bytes(objects.get(places.object_store(self.root), path))

    def read_many(self, paths: Iterable[str | None], *, what: str) -> list[bytes | None]:
        """Read small files together; None where the path is None."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda p: None if p is None else self.read(p, what=what), paths))

    def _walk(self, folder: Path) -> Iterable[str]:
        def refuse(error: OSError) -> None:
            if Path(error.filename) != folder or not isinstance(error, FileNotFoundError):
                raise InputError(
                    expected="folders that can be listed", found=error.strerror or "an error", where="the dataset", remedy="Check the permissions."
                ) from error

        for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
            folders[:] = [f for f in folders if not f.startswith(".")]
            base = os.path.relpath(parent, folder).replace(os.sep, "/")
            yield from (f if base == "." else f"{base}/{f}" for f in files if not f.startswith("."))
