"""The report: one page that opens anywhere, with every figure, what it was drawn from, and how everything was made."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd
import xarray as xr
import yaml

from cohort_engine import sections
from cohort_engine.config import SECTION_KINDS
from cohort_engine.errors import optional
from cohort_engine.io.cells import defused_table
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import digest
from cohort_engine.report.methods import Methods, software, write_methods
from cohort_engine.report.references import Reference
from cohort_engine.report.show import ROWS, Shown, show, unnamed
from cohort_engine.report.summary import summarise
from cohort_engine.sections.base import Laid
from cohort_engine.sections.people import Count, flow
from cohort_engine.store import layout
from cohort_engine.study.format import number

if TYPE_CHECKING:
    from cohort_engine.report.figures import Drawn
    from cohort_engine.study.result import Analysis

REPORT, METHODS, DICTIONARY, FIGURES = "report.html", "methods.md", "tables.json", "figures"
TEMPLATE = "page.html"
HERE = "cohort_engine.report"
LEFT_OUT = "excluded"
MOST_NAMED = 60
"""Scans that the page names for each reason."""
"""Table that stands on the page as it is, with names."""
TABLE_BYTES, ALL_BYTES = 150_000, 1_500_000
"""Data of one table, and of all tables, that the page carries; the others are links to the files beside it."""
FIGURE_BYTES = 400_000
"""A vector drawing above this goes into the page as pixels; the folder has both."""
PIXELS_PER_INCH = 200
CSS_PIXELS_PER_INCH = 96
PATH = re.compile(r"(?:[a-z0-9]+://|(?<![\w.])[~.]{0,2}/|[A-Za-z]:\\)[^\s'\",;]+[^\s'\",;.:)]")
MOST_FINDINGS = 5
PARAMETRIC = "parametric"
LARGER = 1.3
"""How much larger than in print figures are on a screen, where there is room: letters of 7 points can be read there."""


@dataclass(frozen=True)
class Data:
    """A table on the page: as text, and where all of it is.

    Attributes
    ----------
    name, title, sentence : str
    shown : Shown
    href : str
        ``data:`` URI of the whole table without names of people, or the file beside the page.
    embedded : bool
    columns : tuple of (name, meaning, unit)
    """

    name: str
    title: str
    sentence: str
    shown: Shown
    href: str
    embedded: bool
    columns: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Image:
    """What the page shows of a figure: ``data:`` URI, and width in pixels of a page."""

    href: str
    width: int


@dataclass(frozen=True)
class Picture:
    """A figure on the page: an image as a ``data:`` URI, and its data; tables that stand under an earlier figure are in `seen`."""

    name: str
    title: str
    caption: str
    href: str
    width: int
    number: int
    data: tuple[Data, ...] = ()
    seen: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    key: str
    title: str
    pictures: tuple[Picture, ...]
    data: tuple[Data, ...]
    laid: tuple[tuple[int, Laid], ...] = ()
    """Tables in sight, with their numbers."""


def write_report(found: Analysis, ds: xr.Dataset, folder: str | Path) -> Path:
    """Draw the figures and write the page.

    Parameters
    ----------
    found : Analysis
    ds : Dataset
        The cohort, from `open_cohort`.
    folder : path
        Gets ``report.html``, ``figures/<name>.svg`` and ``.png``, ``methods.md`` and ``tables.json``, the data dictionary.

    Returns
    -------
    Path
        Of the page: one file, which asks for nothing from elsewhere. It names people only in the list of those who are left out, and no places.

    Raises
    ------
    StorageError
        The folder cannot be written.

    Notes
    -----
    Figures are images with a ``data:`` URI, not drawings within the page: an image keeps its ids and styles to itself, where those of several
    drawings in one page would collide, and has an alternative text.
    """
    from cohort_engine.report.figures import draw_all

    folder = Path(folder)
    drawn = draw_all(found, ds)
    with storage_errors("writing the report"):
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        images = {d.name: save_figure(d, folder / FIGURES) for d in drawn}
        page = Page(found, ds, drawn, images)
        (folder / METHODS).write_text(str(page.methods), encoding="utf-8")
        words = sections.describe({name: table.columns for name, table in found.tables.items()})
        (folder / DICTIONARY).write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(render(page), encoding="utf-8")
    return folder / REPORT


def save_figure(drawn: Drawn, folder: Path) -> Image:
    """Write a figure as SVG and PNG; return what the page shows."""
    from cohort_engine.figures.drawing import render as picture

    images = {kind: picture(drawn.figure, kind) for kind in ("svg", "png")}
    for kind, image in images.items():
        (folder / f"{drawn.name}.{kind}").write_bytes(image)
    kind, name = ("svg", "svg+xml") if len(images["svg"]) <= FIGURE_BYTES else ("png", "png")
    width = int.from_bytes(images["png"][16:20], "big") * CSS_PIXELS_PER_INCH // PIXELS_PER_INCH  # PNG: the first number of its header
    return Image(f"data:image/{name};base64,{base64.b64encode(images[kind]).decode()}", width)


def without_paths(text: str) -> str:
    """Take places out of a message: the page may be given to others.

    Examples
    --------
    >>> without_paths("reference: expected a store, found nothing at /data/anna/norm.zarr. Check s3://bucket/norm.zarr, or mm/s.")
    'reference: expected a store, found nothing at [place]. Check [place], or mm/s.'
    """
    return PATH.sub("[place]", text)


class Page:
    """Everything that the template of the page shows."""

    def __init__(self, found: Analysis, ds: xr.Dataset, drawn: Sequence[Drawn], images: Mapping[str, Image]) -> None:
        self.found, self.ds, self.images = found, ds, images
        self.drawn = list(drawn)
        self._left = ALL_BYTES
        self._data: dict[str, Data] = {}

    @property
    def title(self) -> str:
        people, name = self.found.material.people, self.found.about["study"]["name"]
        groups = " against ".join(word for _, word in reversed(people.groups))
        return f"{name}: {groups}" if name else groups

    @property
    def made(self) -> str:
        return str(self.found.about["made"])[:10]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before anything else."""
        about = self.found.about
        out = ["The data are simulated: nobody was scanned."] if about["study"]["simulated"] else []
        if about["template"][layout.TEMPLATE_NAME] == PARAMETRIC:
            out.append("Template: the parametric cord, a schematic one. Values by region are not those of the PAM50 template.")
        return out

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Anchor, title and sentence of the findings at the top."""
        said = [(s.name, s.title, self.said[s.name]) for s in sections.every() if s.finding and s.name in self.said]
        return said[:MOST_FINDINGS]

    @cached_property
    def said(self) -> dict[str, str]:
        """Section -> what it found, in a sentence or two."""
        return summarise(self.found)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return a few numbers that are read at a glance."""
        found = self.found
        facts = [(str(len(found.material.people.table)), "people analysed")]
        if (table := found.tables.get("groups")) is not None:
            facts += [
                (str(int(table["p"].notna().sum())), "features tested"),
                (str(len(found.findings)), f"differ (q ≤ {found.config.alpha:g})"),
            ]
        if (table := found.tables.get("roc_best")) is not None and len(table) and table["p"].iloc[0] <= found.config.alpha:
            best = table.iloc[0]
            choice = f"area under the ROC curve of the best marker ({best['low']:.2f} to {best['high']:.2f}, the choice counted)"
            facts.append((number(float(best["auc"])), choice))
        return facts

    @property
    def notes(self) -> list[str]:
        notes = [*self.found.material.notes]
        if (table := self.found.tables.get("cluster_notes")) is not None:
            notes += [f"Subgroups: {n}" for n in table["note"]]
        return [without_paths(f"{n[:1].upper()}{n[1:]}{'' if n.endswith('.') else '.'}") for n in notes]

    @property
    def problems(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Sections that are not there, with the reason: those that failed, and those that the study has not enough for."""
        told = {k: (SECTION_KINDS[k].title, without_paths(v)) for k, v in self.found.problems.items()}
        failed = [text for k, text in told.items() if k in self.found.failed]
        rest = [text for k, text in told.items() if k not in self.found.failed]
        return [(head, texts) for head, texts in (("Sections that failed", failed), ("Not in this study", rest)) if texts]

    @property
    def flow(self) -> list[Count]:
        return flow(self.found)

    @property
    def excluded(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Who is left out: reason, number of scans, and whose they are."""
        rows: list[tuple[str, ...]] = []
        for reason, part in self.found.material.people.excluded.groupby("reason", sort=False):
            names = part[["participant_id", "session_id"]].astype(str).agg(" ".join, axis=1).str.strip().tolist()
            more = f" and {len(names) - MOST_NAMED} more, all in csv/{LEFT_OUT}.csv" if len(names) > MOST_NAMED else ""
            rows.append((str(reason), str(len(names)), ", ".join(names[:MOST_NAMED]) + more))
        return ("reason", "scans", "whose"), rows

    @property
    def _open(self) -> list[str]:
        """Tables that have rows, and no other place on the page."""
        return [n for n, t in self.found.tables.items() if len(t) and n != LEFT_OUT]

    @cached_property
    def parts(self) -> list[Part]:
        """Sections in their order: figures with their data, then tables that no figure shows."""
        out, count, printed = [], 0, 0
        for section in sections.every():
            pictures = []
            for d in (d for d in self.drawn if d.section == section.name):
                count += 1
                pictures.append(self._picture(d, count))
            data = tuple(self.data(n) for n in self._open if n in section.tables and n not in self._data)
            laid = [made for lay in section.laid if section.done(self.found) and (made := lay(self.found)) is not None and made.rows]
            if pictures or data or laid:
                out.append(Part(section.name, section.title, tuple(pictures), data, tuple(enumerate(laid, printed + 1))))
            printed += len(laid)
        unknown = [n for n in self._open if n not in sections.tables()]
        if unknown:
            out.append(Part("others", "Further tables", (), tuple(self.data(n) for n in unknown)))
        return out

    def _picture(self, d: Drawn, count: int) -> Picture:
        there = [n for n in d.tables if n in self._open]
        seen = tuple((n, sections.table(n).title) for n in there if n in self._data)
        data = tuple(self.data(n) for n in there if n not in self._data)
        image = self.images[d.name]
        return Picture(d.name, d.title, d.caption, image.href, round(LARGER * image.width), count, data, seen)

    def data(self, name: str) -> Data:
        """Lay a table out; the page carries all of it while there is room."""
        table, words = self.found.tables[name], sections.table(name)
        text = f"data:text/csv;charset=utf-8,{quote(_csv(table), safe=',-.')}" if table.size * 4 < TABLE_BYTES else ""
        embedded = bool(text) and len(text) <= min(TABLE_BYTES, self._left)
        self._left -= len(text) if embedded else 0
        columns = tuple((c, w["meaning"], w["unit"]) for c, w in sections.describe({name: unnamed(table).columns})[name]["columns"].items())
        self._data[name] = Data(
            name, words.title, words.sentence, show(name, table), text if embedded else f"csv/{name}.csv", embedded, columns,
        )  # fmt: skip
        return self._data[name]

    @cached_property
    def methods(self) -> Methods:
        return write_methods(self.found, self.ds)

    @property
    def references(self) -> list[tuple[str, str, str]]:
        """Text, DOI and link of each work."""
        return [(r.text, r.doi, link(r)) for r in self.methods.references]

    @property
    def provenance(self) -> list[tuple[str, str]]:
        about, template = self.found.about, self.found.about["template"]
        versions = {**{k: v for k, v in about["versions"].items() if v != "absent"}, **software()}
        return [
            ("Analysed", about["made"]), ("Cohort closed", about["finalised"] or "not yet"), ("Hash of the analysis", about["hash"]),
            ("Hash of the cohort's settings", digest(about["science"])),
            ("Template", f"{template[layout.TEMPLATE_NAME]}, version {template[layout.TEMPLATE_VERSION]}, hash {template[layout.TEMPLATE_DIGEST]}"),
            ("Atlas", f"hash {template[layout.ATLAS_DIGEST]}"), ("Software", ", ".join(f"{k} {v}" for k, v in versions.items())),
        ]  # fmt: skip

    @property
    def configuration(self) -> str:
        return yaml.safe_dump({"analysis": self.found.about["config"]}, sort_keys=False, allow_unicode=True, width=100)

    @property
    def results(self) -> list[Part]:
        """Sections without the one about people, which stands in a place of its own."""
        return [p for p in self.parts if p.key != "people"]

    @property
    def people(self) -> Part | None:
        return next((p for p in self.parts if p.key == "people"), None)

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Anchor and title of every section of the page."""
        more = [("methods", "Methods"), ("references", "References"), ("provenance", "Provenance")]
        return [("summary", "Summary"), ("who", "Who was analysed"), *((p.key, p.title) for p in self.results), *more]


def link(work: Reference) -> str:
    """Address of a work."""
    return f"https://doi.org/{quote(work.doi, safe='/():;.')}"


def _csv(table: pd.DataFrame) -> str:
    return defused_table(unnamed(table)).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def render(page: Page) -> str:
    """Fill the template of the page; whatever a study brings along is text, never markup."""
    return fill(TEMPLATE, page=page, rows=ROWS)


def fill(template: str, *, folder: str = HERE, **values: Any) -> str:
    """Fill a template of a package's folder, or of this one; whatever is put in is text, never markup."""
    return str(_templates(folder).get_template(template).render(**values))


@cache
def _templates(folder: str) -> Any:
    """Templates of a folder, compiled once."""
    with optional("jinja2", "analysis", where="report"):
        from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        places = (files(package).joinpath(name) for package in dict.fromkeys((folder, HERE)))
        return next(place for place in places if place.is_file()).read_text(encoding="utf-8")

    return Environment(loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
