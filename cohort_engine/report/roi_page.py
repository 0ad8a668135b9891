"""The page of the DTI study: how well networks, the atlas and another rater find the drawn regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.figures.drawing import Drawn, settled
from cohort_engine.io.cells import defused_table
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import versions
from cohort_engine.report.page import FIGURES, Image, Picture, fill, save_figure
from cohort_engine.report.roi_figures import all_figures
from cohort_engine.report.roi_tables import (
    ATLAS,
    METHOD,
    PUBLISHED,
    RATER,
    REGION,
    Method,
    beside_published,
    choices_of,
    differences,
    icc_matrix,
    method_table,
    over_regions,
    region_table,
    settings_of,
    size_table,
    slice_table,
)  # fmt: skip
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.study.format import number

PAGE, RECORD, TABLES, TEMPLATE = "rois.html", "rois.json", "csv", "rois.html"
OUTLIERS: Final = "Outliers are slices in which a region was drawn and the found one does not meet it."
TITLE: Final = "Eight regions of the cervical cord: what networks find of what people draw"


@dataclass(frozen=True)
class Table:
    """A table as text: head, rows, caption, and a sentence below it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    sentence: str = ""


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    key: str
    title: str
    text: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class RoiPage:
    """All that the page says."""

    title: str
    made: str
    facts: Sequence[tuple[str, str]]
    summary: Sequence[str]
    notes: Sequence[str]
    parts: Sequence[Part]
    provenance: Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Methods judged on the same slices.

    Attributes
    ----------
    slices : RoiSlices
    methods : sequence of Method
        The first is looked at closely, and compared with the second where that is a network, too.
    sweep : DataFrame, optional
        Results of a sweep, see `read_results`.
    notes : sequence of str
        What a reader must know of data and training.
    provenance : mapping
    """

    slices: RoiSlices
    methods: Sequence[Method]
    sweep: pd.DataFrame | None = None
    notes: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def rivals(self) -> list[Method]:
        """Networks after the first."""
        return [m for m in self.methods[1:] if m.name not in (RATER, ATLAS)]


def write_evaluation(found: Evaluation, folder: str | Path) -> Path:
    """Write tables, figures and the page.

    Parameters
    ----------
    found : Evaluation
    folder : path
        Gets ``rois.html``, one file that asks for nothing from elsewhere; ``csv/``: regions, methods, differences, sizes, icc, slices, sweep;
        ``figures/``; and ``rois.json``, the provenance.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    folder = Path(folder)
    regions = region_table(found.methods, seed=found.seed)
    first = found.methods[0]
    tables: dict[str, pd.DataFrame] = {
        "regions": regions, "methods": method_table(regions), "published": beside_published(regions, first.name),
        "sizes": size_table(found.slices, first.scores), "slices": slice_table(found.methods, found.slices),
        "icc": pd.DataFrame(icc_matrix(first.scores), columns=list(schema.ROIS)).assign(**{REGION: schema.ROIS}).set_index(REGION).reset_index(),
    }  # fmt: skip
    if found.rivals:
        tables["differences"] = pd.concat([differences(first, other, seed=found.seed) for other in found.rivals], ignore_index=True)
    if found.sweep is not None:
        tables |= {"sweep": over_regions(found.sweep), "sweep_regions": found.sweep}
    drawn = [settled(d) for d in all_figures(found.methods, found.slices, regions, tables.get("sweep"))]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    with storage_errors("writing the evaluation"):
        for name in (FIGURES, TABLES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            defused_table(table).to_csv(folder / TABLES / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
        images = {d.name: save_figure(d, folder / FIGURES) for d in drawn}
        record = {"made": made, **found.provenance, "versions": versions(), "methods": {m.name: dict(m.facts) for m in found.methods}}
        (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        (folder / PAGE).write_text(fill(TEMPLATE, page=_page(found, tables, drawn, images, made)), encoding="utf-8")
    return folder / PAGE


def _page(found: Evaluation, tables: Mapping[str, pd.DataFrame], drawn: Sequence[Drawn], images: Mapping[str, Image], made: str) -> RoiPage:
    slices, first = found.slices, found.methods[0]
    figures = {d.name: Picture(d.name, d.title, d.caption, images[d.name].href, images[d.name].width, i) for i, d in enumerate(drawn, 1)}
    top = tables["methods"].to_dict("records")[0]
    facts = [
        (str(len(slices)), "slices"), (str(len(np.unique(slices.patient))), "patients"), (number(top["dice"]), f"Dice of {first.name}"),
        (f"{number(top['error_percent'], 1)} %", "error of mean FA"), (f"{_percent(top['wrong_side_worst'])} %", "on the wrong side at most"),
    ]  # fmt: skip
    parts = [
        Part("published", "Beside the published table", _about_published(first), _published(tables["published"], first.name)),
        Part(
            "methods", "All methods", "Means over the eight regions; the shares are those of the worst region.",
            [_methods(tables["methods"]), _dice(tables["regions"]), _errors(tables["regions"])], [figures["overlap"]],
        ),
        Part(
            "overlays", "To look at", f"What was drawn and what was found, in slices where {first.name} does best, middling and worst.", [],
            [figures["overlays"]],
        ),
        Part("agreement", "Agreement of mean FA", "Each found region with each drawn one.", [], [figures["icc"], figures["means"]]),
        Part("sizes", "Sizes of the regions", "Mean over the slices in which a region was drawn.", [_sizes(tables["sizes"])]),
    ]  # fmt: skip
    if "differences" in tables:
        text = "Slice by slice, with 95 % intervals over patients. Above 0, the first overlaps better; below 0, its error is smaller."
        pairs = [_difference(part) for _, part in tables["differences"].groupby("second", sort=False)]
        parts.insert(2, Part("differences", "Compared slice by slice", text, pairs))
    if "sweep" in tables:
        text = "All were trained and judged on the same slices."
        both = [_sweep(tables["sweep"]), _sweep_regions(tables["sweep_regions"])]
        parts.append(Part("sweep", "Losses, encoders and inputs", text, both, [figures["sweep"]]))
    provenance = [(k.replace("_", " ").capitalize(), str(v)) for k, v in found.provenance.items()]
    provenance += [(m.name, "; ".join(f"{k}: {v}" for k, v in m.facts.items() if not isinstance(v, Mapping))) for m in found.methods if m.facts]
    known = {k: v for k, v in versions().items() if v != "absent"}
    return RoiPage(
        TITLE, made[:10], facts, _summary(found, tables), [*found.notes, OUTLIERS], parts,
        [("Made", made), *provenance, ("Software", ", ".join(f"{k} {v}" for k, v in known.items()))],
    )  # fmt: skip


def _about_published(first: Method) -> str:
    return (
        f"Figures of {first.name} as the study gives them: mean ± SD over slices, and without outliers. Published: doi 10.3390/diagnostics13050817, "
        "heat-map loss, VGG16, FA, on patients' images that are not public; SCS-Net: doi 10.3390/bioengineering12070709."
    )


def _summary(found: Evaluation, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    out = []
    dice = dict(zip(tables["methods"][METHOD], map(float, tables["methods"]["dice"]), strict=True))
    first = found.methods[0].name
    line = f"{first[:1].upper()}{first[1:]} reaches a mean Dice of {number(dice[first])}"
    others = [f"{name} {number(value)}" for name, value in dice.items() if name != first]
    out.append(line + (f"; {', '.join(others)}." if others else "."))
    if (differing := tables.get("differences")) is not None:
        for second, part in differing.groupby("second", sort=False):
            better, sure = int((part["dice_difference"] > 0).sum()), int((part["dice_low"] > 0).sum())
            out.append(f"Against {second} its Dice is higher in {better} of 8 regions, in {sure} with an interval over patients above 0.")
    regions = tables["regions"].set_index([METHOD, REGION]).loc[first]
    bound = PUBLISHED["scs_net_error_percent"]
    below = int((regions["error_percent"] < bound).sum())
    nothing = f"it gives nothing in {_percent(float(regions['without_output'].max()))} % of the slices of its worst region."
    errors = regions["error_percent"].dropna()
    if len(errors):
        out.append(
            f"Its error of mean FA is {number(errors.min(), 1)} to {number(errors.max(), 1)} %, below the published one of SCS-Net in {below} of 8 "
            f"regions; {nothing}"
        )
    else:
        out.append(f"I{nothing[1:]}")
    return out


def _pm(mean: float, sd: float) -> str:
    return f"{number(mean)} ± {number(sd)}"


def _percent(share: float, digits: int = 1) -> str:
    return number(100 * share, digits)


def _published(table: pd.DataFrame, name: str) -> list[Table]:
    rows = table.to_dict("records")

    def pairs(r: Mapping[Any, Any], *names: str) -> list[str]:
        return [part for n in names for part in (_pm(r[n], r[f"{n}_sd"]), _pm(r[f"published_{n}"], r[f"published_{n}_sd"]))]

    overlap = [[r[REGION], *pairs(r, "dice", "recall", "precision")] for r in rows]
    rest = [
        [r[REGION], number(r["dice_without_outliers"]), number(r["published_dice_without_outliers"]), _percent(r["outliers"], 0),
         _percent(r["published_outliers"], 0), number(r["error_percent"], 1), number(r["published_error_percent"], 0),
         number(r["published_scs_net_error_percent"], 1)] for r in rows
    ]  # fmt: skip
    p = "published"
    return [
        Table([REGION, "Dice", p, "recall", p, "precision", p], overlap, f"Table 1a. Overlap: {name}"),
        Table(
            [REGION, "Dice without outliers", p, "outliers, %", p, "error of FA, %", p, "SCS-Net"], rest, f"Table 1b. Outliers and error: {name}",
            "Outliers of the right ventral column and grey matter are published as up to 10 %.",
        ),
    ]  # fmt: skip


def _methods(table: pd.DataFrame) -> Table:
    head = ["method", "Dice", "recall", "precision", "without outliers", "outliers, %", "no output, %", "error of FA, %", "ICC", "wrong side, %",
            "wrong half, %"]  # fmt: skip
    rows = [
        [r[METHOD], *(number(r[n]) for n in ("dice", "recall", "precision", "dice_without_outliers")), _percent(r["outliers"]),
         _percent(r["without_output_worst"]), number(r["error_percent"], 1), number(r["icc"]), _percent(r["wrong_side_worst"]),
         _percent(r["wrong_half_worst"])]
        for r in table.to_dict("records")
    ]  # fmt: skip
    sentence = (
        "Wrong side: share of the found pixels inside a region drawn on the other side; wrong half: nearer to such a region than to any of their own "
        "side. ICC: ICC(2,1) of the mean FA of a found region with that of the drawn one."
    )
    return Table(head, rows, "Table 2. All methods", sentence)


def _wide(regions: pd.DataFrame, column: str, digits: int, caption: str) -> Table:
    names = list(dict.fromkeys(regions[METHOD]))
    cells = regions.set_index([METHOD, REGION])
    rows = [[r, *(_interval(cells.loc[(name, r)], column, digits) for name in names)] for r in schema.ROIS]
    return Table([REGION, *names], rows, caption, "In brackets the 95 % interval over patients.")


def _interval(row: Mapping[Any, Any] | pd.Series[Any], column: str, digits: int, value: str = "") -> str:
    low, high = (number(row[f"{column}_{end}"], digits) for end in ("low", "high"))
    return f"{number(row[value or column], digits)} ({low} to {high})"


def _dice(regions: pd.DataFrame) -> Table:
    return _wide(regions, "dice", 2, "Table 3. Dice by region")


def _errors(regions: pd.DataFrame) -> Table:
    return _wide(regions, "error_percent", 1, "Table 4. Error of mean FA by region, percent")


def _difference(part: pd.DataFrame) -> Table:
    rows = [[r[REGION], *(_interval(r, n, d, f"{n}_difference") for n, d in (("dice", 3), ("error_percent", 1)))] for r in part.to_dict("records")]
    first, second = part.iloc[0][["first", "second"]]
    return Table([REGION, "difference of Dice", "difference of error, %"], rows, f"{first} less {second}")


def _sizes(table: pd.DataFrame) -> Table:
    head = [REGION, "drawn, mm²", "found, mm²", "published, mm²", "share of pixels, %", "published, %", "slices"]
    rows = [
        [r[REGION], _pm(r["drawn_area"], r["drawn_area_sd"]), _pm(r["area"], r["area_sd"]), number(r["published_area"]), _percent(r["share"], 3),
         _percent(r["published_share"], 3), str(r["slices"])]
        for r in table.to_dict("records")
    ]  # fmt: skip
    return Table(head, rows, "Class sizes")


SHARES: Final = ("outliers", "without_output", "wrong_side")
SWEEP_WORDS: Final[Mapping[str, str]] = {
    "dice": "Dice", "outliers": "outliers, %", "without_output": "no output, %", "error_percent": "error of FA, %", "wrong_side": "wrong side, %",
    "held_out_dice": "Dice, held out",
}  # fmt: skip


def _sweep(table: pd.DataFrame) -> Table:
    keys = choices_of(table)
    figures = [c for c in table if c not in (*keys, "seed")]
    grouped = table.groupby(keys, sort=False) if keys else table.groupby(settings_of(table))
    means, spread, n = grouped[figures].mean(), grouped[figures].std(), grouped.size()
    rows = []
    for name in means.sort_values("dice", ascending=False, kind="stable").index:
        cells = []
        for c in figures:
            scale, digits = (100, 1) if c in SHARES else (1, 1 if c == "error_percent" else 3)
            mean, sd = (float(part[c].loc[name]) for part in (means, spread))
            cells.append(number(scale * mean, digits) + (f" ± {number(scale * sd, digits)}" if n[name] > 1 else ""))
        rows.append([*(name if isinstance(name, tuple) else (name,)), str(n[name]), *cells])
    sentence = (
        "Mean ± SD over seeds of the mean over the regions; no output and wrong side: of the worst region. Held out: slices of the training's own "
        "split."
    )
    return Table([*(keys or ["setting"]), "seeds", *(SWEEP_WORDS.get(str(c), str(c)) for c in figures)], rows, "Trainings", sentence)


def _sweep_regions(results: pd.DataFrame) -> Table:
    setting = settings_of(results)
    means = results["dice"].groupby([setting, results[REGION]], sort=False).mean().unstack()[list(schema.ROIS)]
    order = means.mean(axis=1).sort_values(ascending=False, kind="stable").index
    rows = [[str(name), *(number(float(v)) for v in means.loc[name])] for name in order]
    short = [f"{r.split()[0][0].upper()} {r.split()[1]}" for r in schema.ROIS]
    return Table(["setting", *short], rows, "Dice by region, mean over seeds")
