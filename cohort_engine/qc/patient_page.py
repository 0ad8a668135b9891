"""One patient on one A4 page: numbers against norms, earlier sessions, pictures and quality. Research, not for diagnosis."""

from __future__ import annotations

import base64
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from cohort_engine import __version__, schema
from cohort_engine.config import Config
from cohort_engine.errors import CohortError, ResourceError
from cohort_engine.io.places import storage_errors
from cohort_engine.qc.group import Group, in_words, look
from cohort_engine.qc.group_page import policy
from cohort_engine.qc.pages import HERE, write_whole
from cohort_engine.qc.panels import PANELS, encoded
from cohort_engine.qc.patient import LEVEL, Measured, Patient, patient
from cohort_engine.qc.scene import Scene, places_of, template_of
from cohort_engine.quality import vocabulary
from cohort_engine.report.page import fill, without_paths
from cohort_engine.store import layout
from cohort_engine.store.records import now

COLOURS = ("#1f2933", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f")
"""Of sessions: this one, the one before, and so on."""
SHOWN = ("levels", "template", "map")
"""Panels of which the page shows the first picture each."""
MOST = 4
"""Measured quantities that one page holds."""
MOST_FLAGS = 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LEFT, RIGHT, TOP, BOTTOM = 34.0, 224.0, 14.0, 82.0


@dataclass(frozen=True)
class Cell:
    """A value as text, with the side of the healthy interval on which it lies, and its centile."""

    text: str
    side: str = ""
    centile: str = ""


@dataclass(frozen=True)
class Line:
    """A session in a picture."""

    path: str
    colour: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shown:
    """A measured quantity on the page."""

    title: str
    levels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    drawn: str
    ticks: tuple[tuple[float, str], ...]
    names: tuple[tuple[float, str], ...]
    band: str
    middle: str
    sessions: tuple[Line, ...]


@dataclass(frozen=True)
class ShownPicture:
    """A picture on the page."""

    href: str
    title: str
    share: float


class PatientPage:
    """Everything that the template shows."""

    policy = policy()

    def __init__(self, found: Patient, group: Group, pictures: Sequence[ShownPicture], why: str = "") -> None:
        self.found, self.group, self.pictures, self.why = found, group, pictures, why
        self.at = int(np.flatnonzero(group.rows == found.row)[0])

    @property
    def name(self) -> str:
        return self.group.names[self.at]

    @property
    def about(self) -> list[tuple[str, str]]:
        units = {schema.AGE: " years"}
        return [(c, f"{w}{units.get(c, '')}") for c, w in self.found.about.items()]

    @property
    def usable(self) -> str:
        known = self.group.numbers.get(vocabulary.USABLE)
        value = math.nan if known is None else float(known.values[self.at])
        if math.isnan(value):
            return "not judged"
        return f"probability {value:.2f} that the values are usable"

    @property
    def flags(self) -> list[str]:
        told = [f.words for f in self.group.flags[self.at]]
        doubtful = in_words(str(self.group.doubtful[self.at])) if len(self.group.doubtful) else ""
        told += [f"doubtful slices: {doubtful}"] if doubtful else []
        more = [f"and {len(told) - MOST_FLAGS} more, see the quality page"] if len(told) > MOST_FLAGS else []
        return [t if len(t) <= 220 else f"{t[:219]}…" for t in told[:MOST_FLAGS]] + more

    @property
    def good(self) -> bool:
        known = self.group.numbers.get(vocabulary.USABLE)
        return not self.group.flags[self.at] and known is not None and float(known.values[self.at]) >= vocabulary.LEAST_USABLE

    @cached_property
    def measures(self) -> list[Shown]:
        return [_shown(m) for m in self.found.measured[:MOST]]

    @property
    def sessions(self) -> list[tuple[str, str]]:
        """Names and colours, where there are several."""
        names = [s or "session" for s in self.found.sessions][::-1][: len(COLOURS)]
        return list(zip(names, COLOURS, strict=False)) if len(names) > 1 else []

    @property
    def legend(self) -> str:
        left = self.found.measured[MOST:]
        text = (
            f"Small numbers: centile among healthy people. Red: below, blue: above the interval of {LEVEL:.0%} of them (shaded; line: expected). "
            f"Norms: {self.found.norms}. A value outside the interval is no finding by itself: of 20 values of a healthy person one lies outside."
        )
        return text + (f" Not shown: {', '.join(m.label for m in left)}." if left else "")

    @property
    def made(self) -> str:
        how = dict.fromkeys(m.how for m in self.found.measured)
        template = f"{self.group.template}; " if self.group.template else ""
        return f"Values: {'; '.join(how)}. Template {template}cohort_engine {__version__}, {now()[:10]}. R is the right of the body."


def _text(value: float, of: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """Digits by the size of the values beside it."""
    size = np.nanmedian(np.abs(of)) if np.isfinite(of).any() else 1.0
    return "–" if math.isnan(value) else f"{value:.{0 if size >= 200 else 1 if size >= 10 else 2}f}"


def _shown(m: Measured) -> Shown:
    """Lay a quantity out: a table of regions by levels, and the first region along the levels."""
    keep = [j for j in range(len(m.levels)) if np.isfinite(m.values[:, j]).any()]
    rows = []
    for k, region in enumerate(m.regions):
        cells = []
        for j in keep:
            value, low, high, centile = (float(a[j, k]) for a in (m.values[-1], m.lower, m.upper, m.centile))
            side = "low" if value < low else "high" if value > high else ""
            rank = "" if math.isnan(centile) or math.isnan(value) else "<1" if centile < 1 else ">99" if centile > 99 else f"{centile:.0f}"
            cells.append(Cell(_text(value, m.values), side, rank))
        rows.append((region, tuple(cells)))
    levels = tuple(m.levels[j] for j in keep)
    title = f"{m.label} ({m.units})" if m.units else m.label
    first = [np.asarray(a)[keep, 0] for a in (m.expected, m.lower, m.upper)]
    lines = m.values[:, keep, 0]
    every = np.concatenate([lines.ravel(), *first])
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)

    def x(j: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * (j + 0.5) / len(keep), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    def path(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
        parts, pen = [], "M"
        for j, v in enumerate(values):
            if math.isnan(v):
                pen = "M"
                continue
            parts.append(f"{pen}{x(j)} {y(float(v))}")
            pen = "L"
        return "".join(parts)

    held = [j for j in range(len(keep)) if np.isfinite(first[1][j]) and np.isfinite(first[2][j])]
    run = held if held and held[-1] - held[0] + 1 == len(held) > 1 else []
    back = "".join(f"L{x(j)} {y(float(first[1][j]))}" for j in run[::-1])
    band = f"{path(np.where(np.isin(np.arange(len(keep)), run), first[2], np.nan))}{back}Z" if run else ""
    newest = [(len(lines) - 1 - i, COLOURS[i]) for i in range(min(len(lines), len(COLOURS)))]
    sessions = tuple(
        Line(path(lines[s]), colour, tuple((x(j), y(float(v))) for j, v in enumerate(lines[s]) if not math.isnan(v))) for s, colour in newest[::-1]
    )
    ticks = tuple((y(t), _text(t, m.values)) for t in np.linspace(low, high, 3))
    return Shown(title, levels, tuple(rows), m.regions[0], ticks, tuple((x(j), n) for j, n in enumerate(levels)), band, path(first[0]), sessions)


def write_patient(
    store: str, participant: str, session: str | None = None, *, out: str | Path | None = None, config: Config | None = None,
    reference: str | None = None, pdf: bool = False,
) -> list[Path]:  # fmt: skip
    """Write the page of a patient.

    Parameters
    ----------
    store : str
        Folder or URL.
    participant, session : str
        As of `patient.patient`.
    out : path, optional
        HTML file to write; by default ``subject-<row>.html`` here, which names nobody.
    config : Config, optional
        The study file: it says where the images are.
    reference : str, optional
        Store of the healthy people.
    pdf : bool
        Print it as well, with a browser of the machine.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    UnknownNameError, StoreError, StorageError
        No such person or store, or a place that cannot be written.
    ResourceError
        A PDF was asked for and there is no browser.
    """
    found, group = patient(store, participant, session, reference=reference), look(store)
    pictures, why = _pictures(store, found.row, config)
    page = Path(out) if out is not None else Path(f"subject-{found.row:06d}.html")
    with storage_errors("page of a patient"):
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, fill("patient.html", folder=HERE, page=PatientPage(found, group, pictures, why)))
    return [page, print_pdf(page)] if pdf else [page]


def _pictures(store: str, row: int, config: Config | None) -> tuple[list[ShownPicture], str]:
    """Draw one picture of each of `SHOWN`; and say why there are none, where there are none."""
    places, _ = places_of(store, config)
    template = cache(lambda: template_of(layout.open_root(store), config))
    scene = Scene(store, places[row], template)
    out: list[ShownPicture] = []
    why = ""
    for key in SHOWN:
        try:
            for name, title, picture in PANELS[key].draw(scene):
                href = f"data:image/webp;base64,{base64.b64encode(encoded(picture)).decode()}"
                out.append(ShownPicture(href, f"{PANELS[key].title}: {title}", round(picture.shape[1] / picture.shape[0], 3)))
                if key != "map" or name == schema.MTR:
                    break
        except CohortError as error:
            why = why or without_paths(str(error))
    return out, why


def print_pdf(page: Path) -> Path:
    """Print a page with a browser of the machine, as A4.

    Raises
    ------
    ResourceError
        There is no browser, or it does not print.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ResourceError(
            expected="a browser that prints (chromium)", found="none", where="PDF", remedy="Install chromium, or print the HTML page yourself."
        )
    target = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory() as profile:
        asked = [
            browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--print-to-pdf={target.resolve()}",
            page.resolve().as_uri(),
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            asked.insert(1, "--no-sandbox")  # chromium refuses to run as root with one
        try:
            subprocess.run(asked, check=True, capture_output=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            raise ResourceError(
                expected="a printed page", found=type(error).__name__, where="PDF", remedy="Open the HTML page in a browser and print it."
            ) from error
    return target
