"""Writing the pages: one of the cohort, one of each subject, and their pictures. Plain files that open from disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from cohort_engine.config import Config
from cohort_engine.errors import CohortError, describe_error
from cohort_engine.io.exclusions import PAGES, Rating, exclusions_among, exclusions_url
from cohort_engine.io.places import beside, local_path, storage_errors
from cohort_engine.provenance import digest
from cohort_engine.qc.group import Group, cut, look
from cohort_engine.qc.group_page import IndexPage
from cohort_engine.qc.panels import PANELS, Picture, encoded, picture_file
from cohort_engine.qc.scene import Places, Scene, places_of, template_of
from cohort_engine.qc.subject_page import SubjectPage
from cohort_engine.report.page import fill, without_paths
from cohort_engine.single.process import in_processes
from cohort_engine.store import layout
from cohort_engine.store.ratings import ratings_of

INDEX, MANIFEST, IMAGES, SUBJECTS = "index.html", "manifest.json", "images", "subjects"
VERSION = "1"
"""Counts changes of what pictures show: all are drawn again."""
BATCH = 8
"""Subjects of one task of a worker."""
HERE = "cohort_engine.qc"


@dataclass(frozen=True)
class Drawn:
    """Pictures of a subject, and why panels have none.

    Attributes
    ----------
    key : str
        Of what they were made: equal where nothing that they show has changed.
    pictures : tuple of Picture
    problems : mapping of panel to str
    """

    key: str
    pictures: tuple[Picture, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Drawn:
        """Read what a manifest says."""
        return cls(str(told["key"]), tuple(Picture(**p) for p in told["pictures"]), dict(told["problems"]))


@dataclass(frozen=True)
class Pages:
    """What was written.

    Attributes
    ----------
    index : Path
    drawn : int
        Subjects whose pictures were drawn; those of the others were there.
    problems : dict of str to int
        What panels said, and of how many subjects.
    flagged, people : int
    left_out : int
        Subjects who are left out of a metric or more by ratings.
    unknown : tuple of str
        Subjects who are rated and not there.
    """

    index: Path
    drawn: int
    problems: dict[str, int]
    flagged: int
    people: int
    left_out: int = 0
    unknown: tuple[str, ...] = ()


def folder_of(url: str) -> Path:
    """Folder of the pages beside a local store; for a store in a bucket one here."""
    place = beside(url, PAGES)
    return local_path(place) or Path.cwd() / place.rpartition("/")[2]


def write_pages(
    store: str, out: str | Path | None = None, *, config: Config | None = None, workers: int = 1, say: Callable[[str], None] | None = None,
) -> Pages:  # fmt: skip
    """Write the quality pages of a store.

    Parameters
    ----------
    store : str
        Folder or URL.
    out : path, optional
        By default `folder_of` the store.
    config : Config, optional
        The study file: it says where the images are.
    workers : int
        Processes that draw.
    say : callable, optional
        Is told how far it is.

    Returns
    -------
    Pages

    Raises
    ------
    StoreError, StorageError
        No store, or a place that cannot be written. What a single picture lacks is on its page.
    """
    tell = say or (lambda text: None)
    folder = folder_of(store) if out is None else Path(out)
    group = look(store)
    places, why = places_of(store, config)
    with storage_errors("quality pages"):
        for part in (IMAGES, SUBJECTS):
            (folder / part).mkdir(parents=True, exist_ok=True)
        known = _known(folder)
        keys = _keys(group, places)
        stale = [int(r) for r in group.rows if int(r) not in known or known[int(r)].key != keys[int(r)] or not _there(folder, int(r), known[int(r)])]
        drawn = {int(r): known[int(r)] for r in group.rows if int(r) not in stale}
        for row, found in _draw(store, config, [places[r] for r in stale], keys, folder, workers, tell):
            drawn[row] = found
            if len(drawn) % 100 == 0:
                write_whole(folder / MANIFEST, _manifest(drawn))
        _sweep(folder, drawn)
        write_whole(folder / MANIFEST, _manifest(drawn))
        ratings = ratings_of(store)
        _write_html(store, folder, group, drawn, why, ratings)
    problems: dict[str, int] = {}
    for found in drawn.values():
        for text in found.problems.values():
            problems[text] = problems.get(text, 0) + 1
    rated = exclusions_among(ratings, group.people, group.sessions)
    left_out = len({at for at, _ in rated.reasons})
    return Pages(folder / INDEX, len(stale), problems, sum(map(bool, group.flags)), len(group), left_out, rated.unknown)


def _write_html(store: str, folder: Path, group: Group, drawn: Mapping[int, Drawn], why: str, ratings: Sequence[Rating]) -> None:
    """Write the page of the cohort and those of the subjects."""
    for at in range(len(group)):
        row = int(group.rows[at])
        page = SubjectPage(group, at, drawn[row].pictures, drawn[row].problems)
        write_whole(folder / SUBJECTS / f"{row:06d}.html", fill("subject.html", folder=HERE, page=page))
    shown = {row: [(p.panel, p.name, p.title) for p in d.pictures] for row, d in drawn.items()}
    place = exclusions_url(store)
    whole = IndexPage(store, group, shown, why, ratings, "/".join(place.split("/")[-2:]))
    write_whole(folder / INDEX, whole.render())


# --- drawing ----------------------------------------------------------------------------------------------------------
def draw_subject(scene: Scene, folder: Path, key: str) -> Drawn:
    """Draw every panel of a subject; one that fails leaves its reason."""
    pictures: list[Picture] = []
    problems: dict[str, str] = {}
    for panel in PANELS.values():
        try:
            for name, title, picture in panel.draw(scene):
                made = Picture(panel.key, name, title, picture.shape[1], picture.shape[0])
                write_whole(folder / IMAGES / picture_file(scene.row, made), encoded(picture))
                pictures.append(made)
        except OSError:
            raise
        except CohortError as error:
            problems[panel.key] = cut(without_paths(str(error)))
        except Exception as error:  # a panel never costs more than itself
            kind, message, _ = describe_error(error)
            problems[panel.key] = cut(without_paths(f"it could not be drawn ({kind}: {message})"))
    return Drawn(key, tuple(pictures), problems)


def _draw(
    store: str, config: Config | None, places: Sequence[Places], keys: Mapping[int, str], folder: Path, workers: int, tell: Callable[[str], None]
) -> Iterator[tuple[int, Drawn]]:
    """Draw subjects, in processes where there are several workers."""
    batches = [places[i : i + BATCH] for i in range(0, len(places), BATCH)]
    task = partial(_draw_batch, store, config, keys, folder)
    done = 0
    for found in in_processes(task, batches, workers):
        done += len(found)
        tell(f"{done} of {len(places)} subjects drawn")
        yield from found


def _draw_batch(store: str, config: Config | None, keys: Mapping[int, str], folder: Path, batch: Sequence[Places]) -> list[tuple[int, Drawn]]:
    template = cache(lambda: template_of(layout.open_root(store), config))
    return [(p.row, draw_subject(Scene(store, p, template), folder, keys[p.row])) for p in batch]


def _keys(group: Group, places: Mapping[int, Places]) -> dict[int, str]:
    """Digest what the pictures of each row follow from: how its stages ended, and which files there are."""
    entries: dict[int, list[tuple[str, str, str]]] = {}
    for e in group.entries:
        entries.setdefault(e.subject, []).append((e.stage, e.key, e.status))
    return {int(r): digest(VERSION, entries.get(int(r), []), sorted(places[int(r)].files), places[int(r)].why) for r in group.rows}


# --- folder -----------------------------------------------------------------------------------------------------------
def _manifest(drawn: Mapping[int, Drawn]) -> str:
    return json.dumps({str(row): asdict(d) for row, d in sorted(drawn.items())}, separators=(",", ":"))


def _known(folder: Path) -> dict[int, Drawn]:
    """Read what an earlier run left; nothing where its manifest is none."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {int(row): Drawn.from_json(d) for row, d in told.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _there(folder: Path, row: int, drawn: Drawn) -> bool:
    return all((folder / IMAGES / picture_file(row, p)).is_file() for p in drawn.pictures)


def _sweep(folder: Path, drawn: Mapping[int, Drawn]) -> None:
    """Remove pages and pictures of people who are no longer there, and pictures that were not drawn again."""
    kept = {picture_file(row, p) for row, d in drawn.items() for p in d.pictures}
    for path in (folder / IMAGES).glob("[0-9]*-*.webp"):
        if path.name not in kept:
            path.unlink()
    for path in (folder / SUBJECTS).glob("[0-9]*.html"):
        if path.stem.isdigit() and int(path.stem) not in drawn:
            path.unlink()


def remove_pages(store: str, rows: Iterable[int], out: str | Path | None = None) -> int:
    """Remove what the pages of a store show of these rows: pictures, pages and the page of the cohort; the number of files that went."""
    folder, gone = folder_of(store) if out is None else Path(out), 0
    if not (folder / MANIFEST).is_file():
        return 0
    with storage_errors("quality pages"):
        for row in rows:
            for path in (*(folder / IMAGES).glob(f"{row:06d}-*.webp"), folder / SUBJECTS / f"{row:06d}.html"):
                gone += path.is_file()
                path.unlink(missing_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        left = {row: d for row, d in _known(folder).items() if row not in set(rows)}
        write_whole(folder / MANIFEST, _manifest(left))
    return gone + 1


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
