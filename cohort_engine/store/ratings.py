"""Ratings of a store: read, merged with those of others, and saved whole beside its quality pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cohort_engine.io import objects
from cohort_engine.io.exclusions import FILE, Rating, exclusions_url, latest, read_exclusions, write_exclusions
from cohort_engine.io.places import file_of, local_path, storage_errors


def ratings_of(store: str) -> list[Rating]:
    """Read the ratings of a store; none where there are none."""
    return latest(read_exclusions((), optional=[exclusions_url(store)]))


def save_ratings(store: str, ratings: Iterable[Rating]) -> None:
    """Write the ratings of a store, whole or not at all.

    Raises
    ------
    StorageError
        The place cannot be written.
    """
    place, text = exclusions_url(store), write_exclusions(ratings).encode()
    path = local_path(place)
    with storage_errors(FILE):
        if path is None:
            objects.put(*file_of(place), text)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        aside.write_bytes(text)
        aside.replace(path)


def merge_ratings(store: str, files: Sequence[str | Path]) -> list[Rating]:
    """Add the ratings of files, of either format, to those of a store: the last word of each rater counts.

    Returns
    -------
    list of Rating
        All of them.

    Raises
    ------
    MissingInputError, InputError, StorageError
        A file that is not there, or is neither format.
    """
    merged = latest([*ratings_of(store), *read_exclusions([str(f) for f in files])])
    save_ratings(store, merged)
    return merged


def take_ratings(store: str, given: Iterable[Rating], removed: Iterable[Rating] = ()) -> int:
    """Save what a page sends: its ratings, without those that were taken back; those of others that came in the meantime stay.

    Returns
    -------
    int
        Ratings that are now kept.
    """
    gone = {(*r.of, r.rater) for r in removed}
    kept = latest([*(r for r in ratings_of(store) if (*r.of, r.rater) not in gone), *(r for r in given if (*r.of, r.rater) not in gone)])
    save_ratings(store, kept)
    return len(kept)


def forget_ratings(store: str, participants: Iterable[str]) -> int:
    """Take out all ratings of people; the number of ratings that went."""
    names = {p.removeprefix("sub-") for p in participants}
    held = ratings_of(store)
    kept = [r for r in held if r.of[0] not in names]
    if len(kept) < len(held):
        save_ratings(store, kept)
    return len(held) - len(kept)
