"""What the figures share: style, colours, names and order of levels and regions, and heat maps whose rows are regions."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.schema import scale as scale
from cohort_engine.schema import with_unit as with_unit
from cohort_engine.study.material import COMPRESSED, ESTIMATOR, KEYS, LEAST_BIASED_KIND, METRIC, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from cohort_engine.study.result import Analysis

MM = 1 / 25.4
WIDTH = 180.0
"""Width of a printed page, mm."""
SMALL = 7.0
"""Smallest letters, points."""
CONTROL_COLOUR, CASE_COLOUR = "#0072B2", "#D55E00"
OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#5D3A9B")
"""Colours of clusters, sites and curves: none is that of a group. Okabe and Ito, with more at the end."""
MISSING, INK, FAINT = "0.8", "0.25", "0.6"
DIVERGING = "RdBu_r"
DENSE = 1000
"""Cells or points from which on they are drawn as pixels: a vector image of more would be large."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "legend.title_fontsize": SMALL, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.2,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "hatch.linewidth": 0.4, "figure.dpi": 200, "savefig.dpi": 200,
    "svg.fonttype": "path", "svg.hashsalt": "cohort-engine", "mathtext.fontset": "dejavusans",
}  # fmt: skip
TEST_WORDS = {"welch": "Welch's t-test", "mann_whitney": "the Mann-Whitney U test", "linear": "a linear model with covariates"}
WHITE, GREY, WHOLE, CORD_SHAPE = "White matter tracts", "Grey matter", "Unions and other regions", "Shape of the cord"
_SIDE = re.compile(r"^(WM|GM) (left|right) (.+)$")
_REMARK = re.compile(r"\s*\(.*\)$")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure of a report.

    Attributes
    ----------
    name : str
        File stem.
    section : str
        Key of `tables.SECTIONS`.
    title, caption : str
    tables : tuple of str
        Names of the tables it was drawn from.
    figure : Figure
    """

    name: str
    section: str
    title: str
    caption: str
    tables: tuple[str, ...]
    figure: Figure


@contextmanager
def style() -> Iterator[None]:
    """Make and save figures alike everywhere, whatever the user's matplotlib is set to."""
    from matplotlib import style as styles

    with styles.context(["default", STYLE]):
        yield


def render(figure: Figure, kind: str = "svg") -> bytes:
    """Return a figure as a file: the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
    kind : str
        ``svg`` (letters are outlines, so that it looks the same without the font), ``png`` or ``pdf``.

    Examples
    --------
    >>> render(page(20, 20))[:5], render(page(20, 20), "png")[1:4]
    (b'<?xml', b'PNG')
    """
    out = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    with style():
        figure.savefig(out, format=kind, metadata=undated.get(kind), bbox_inches="tight", pad_inches=0.04)
    return out.getvalue()


def settled(drawn: Drawn) -> Drawn:
    """Lay a figure out once and for all: saving it in one format then does not move anything in the next."""
    drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")
    return drawn


def page(height: float, width: float = WIDTH) -> Figure:
    """Empty figure of a height and width in mm."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width * MM, height * MM), layout="constrained")


# --- words ------------------------------------------------------------------------------------------------------------
def table(found: Analysis, *names: str) -> pd.DataFrame | None:
    """Table of an analysis, or None where it or one of the others named is absent or has no row."""
    tables = [found.tables.get(n) for n in names]
    return tables[0] if all(t is not None and len(t) for t in tables) else None


def quantity(metric: str, estimator: str = LEAST_BIASED_KIND) -> str:
    """Name of a metric or measure for people.

    Examples
    --------
    >>> quantity("mtr"), quantity("mtr", "wa"), quantity("diameter_ap", "")
    ('MTR', 'MTR (wa)', 'AP diameter')
    """
    return label(metric, "", "", estimator)


def sample(found: Analysis) -> str:
    """Say how many people of each group are analysed."""
    people = found.material.people
    return " and ".join(f"{int((people.group == code).sum())} {name}" for code, name in reversed(people.groups))


def discovery(found: Analysis) -> str:
    """Say what q is."""
    family = " and ".join(found.config.tests.family)
    return f"q is the false discovery rate (Benjamini-Hochberg{f', within each {family}' if family else ', over all features'})"


UNKNOWN = "unknown"


def small(p: float) -> str:
    """P value for people.

    Examples
    --------
    >>> small(0.0312), small(0.00001), small(float("nan"))
    ('= 0.031', '< 0.001', 'unknown')
    """
    if np.isnan(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def measured(value: float, units: str, *, difference: bool = False, digits: str = ".3g") -> str:
    """Value with its unit.

    Examples
    --------
    >>> measured(45.71, "percent"), measured(-1.5, "percent", difference=True), measured(0.25, "1")
    ('45.7%', '−1.5 percentage points', '0.25')
    """
    unit = scale(units, difference=difference)
    return signed(value, digits) + (unit if unit in ("%", "°") else f" {unit}" if unit else "")


def between(low: float, high: float, digits: str = ".2f") -> str:
    """Interval in brackets with a space before it, or nothing where it is not known.

    Examples
    --------
    >>> between(0.5, 0.75), between(float("nan"), 1.0)
    (' (0.50 to 0.75)', '')
    """
    return f" ({signed(low, digits)} to {signed(high, digits)})" if np.isfinite([low, high]).all() else ""


def count_range(low: float, high: float) -> str:
    """``5`` or ``3 to 5``."""
    return f"{int(low)}" if low == high else f"{int(low)} to {int(high)}"


def feature_labels(rows: pd.DataFrame) -> list[str]:
    """Name each row's feature."""
    return [label(*map(str, key)) for key in rows[list(KEYS)].itertuples(index=False, name=None)]


LONGEST = 46
"""Letters of a label beside an axis."""
_REMARKS = re.compile(r"\s*\([^()]* [^()]*\)")


def clipped(name: str, most: int = LONGEST) -> str:
    """Shorten a label: remarks of several words go first, then its middle; the level at its end stays.

    Examples
    --------
    >>> clipped("MTR (map) WM left spinal lemniscus (spinothalamic and spinoreticular tracts) C5")
    'MTR (map) WM left spinal lemniscus C5'
    >>> clipped("left fasciculus gracilis + left fasciculus cuneatus C4", 30)
    'left fasciculus g … uneatus C4'
    """
    name = _REMARKS.sub("", name)
    if len(name) <= most:
        return name
    tail = most // 3
    return f"{name[: most - tail - 3].rstrip()} … {name[-tail:].lstrip()}"


def map_kinds(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Metrics with estimators that have regions, in the order of the table: measures of the whole cord are not among them."""
    kinds = dict.fromkeys(rows[[METRIC, ESTIMATOR]].itertuples(index=False, name=None))
    return [(str(m), str(e)) for m, e in kinds if m not in schema.MEASURES]


def of_kind(rows: pd.DataFrame, kind: tuple[str, str]) -> pd.DataFrame:
    """Rows of a metric and estimator."""
    return rows[(rows[METRIC] == kind[0]) & (rows[ESTIMATOR] == kind[1])]


def suffix(number: int, kind: tuple[str, str]) -> str:
    """End of a figure's name: the first metric has none."""
    return "" if number == 0 else "_" + "_".join(kind)


def sentences(*parts: str) -> str:
    """Join the parts of a caption that there are."""
    return " ".join(p for p in parts if p)


def ci(found: Analysis) -> str:
    """Name the interval: ``95% interval``."""
    return f"{found.config.confidence:.0%} interval"


def listed(names: Iterable[str]) -> str:
    """Join names as a sentence does.

    Examples
    --------
    >>> listed(["age", "sex", "site"])
    'age, sex and site'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def signed(number: float, digits: str = ".2f") -> str:
    """Write a number with a minus sign that is one.

    Examples
    --------
    >>> signed(-0.123), signed(0.5, "+.1f")
    ('−0.12', '+0.5')
    """
    return UNKNOWN if np.isnan(number) else f"{number:{digits}}".replace("-", "−")


# --- levels -----------------------------------------------------------------------------------------------------------
def level_order(levels: Iterable[str]) -> list[str]:
    """Sort levels from the top down, then pools of several, then the level of the compression.

    Examples
    --------
    >>> level_order(["compressed", "T1", "C2:C3", "C4", "all"])
    ['C4', 'T1', 'C2:C3', 'all', 'compressed']
    """
    single = {n: i for i, n in enumerate(schema.LEVEL_NAMES)}

    def place(name: str) -> tuple[int, int]:
        first = name.partition(":")[0]
        kind = 0 if name in single else 3 if name == COMPRESSED else 1 if first in single else 2
        return kind, single.get(first, 0)

    return sorted(dict.fromkeys(levels), key=place)


def not_drawn(every: Iterable[str], shown: Iterable[str]) -> str:
    """Say which levels are in the table alone; empty where all are drawn.

    Examples
    --------
    >>> not_drawn(["C2", "C3", "C4", "compressed"], ["C3"]), not_drawn(["C2"], ["C2"])
    ('C2, C4 and each own level of compression are not drawn; the table has them.', '')
    """
    left = ["each own level of compression" if n == COMPRESSED else n for n in level_order(every) if n not in set(shown)]
    return f"{listed(left)} {'is' if len(left) == 1 else 'are'} not drawn; the table has {'it' if len(left) == 1 else 'them'}." if left else ""


def remote_level(found: Analysis, levels: Iterable[str]) -> str | None:
    """Level away from the compression, if it is among these: the pool that the configuration names, or its first level."""
    wanted = str(found.config.compression.remote)
    known = set(levels)
    return next((n for n in (wanted, wanted.partition(":")[0]) if n in known), None)


# --- regions ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Block:
    """Regions that stand together: their names in the tables, and the words beside their rows."""

    title: str
    names: tuple[str, ...]
    words: tuple[str, ...]


def region_blocks(names: Iterable[str]) -> list[Block]:
    """Group regions: tracts and grey matter, the left above the right of each pair, then unions and all others.

    Examples
    --------
    >>> blocks = region_blocks(["WM right a (b)", "white matter", "WM left a (b)", "GM left horn"])
    >>> [(b.title, b.words) for b in blocks]
    [('White matter tracts', ('a  L', 'R')), ('Grey matter', ('horn  L',)), ('Unions and other regions', ('white matter',))]
    """
    pairs: dict[str, dict[str, dict[str, str]]] = {WHITE: {}, GREY: {}}
    others: list[str] = []
    for name in dict.fromkeys(names):
        if m := _SIDE.match(name):
            pairs[WHITE if m[1] == "WM" else GREY].setdefault(m[3], {})[m[2]] = name
        else:
            others.append(name)
    out = []
    for title, found in pairs.items():
        cells = []
        for tract, sides in found.items():
            for i, side in enumerate(sorted(sides)):  # left, right
                letter = side[0].upper()
                cells.append((sides[side], f"{_REMARK.sub('', tract)}  {letter}" if i == 0 else letter))
        if cells:
            out.append(Block(title, *map(tuple, zip(*cells, strict=True))))
    others.sort(key=lambda name: name.startswith("CSF"))  # around the cord
    if others:
        out.append(Block(WHOLE, tuple(others), tuple(map(clipped, others))))
    return out


# --- heat maps --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Panel:
    """Columns of a heat map: `values` and `marks` have regions as their index; a bold line stands before each column of `borders`."""

    title: str
    values: pd.DataFrame
    marks: pd.DataFrame | None = None
    borders: tuple[int, ...] = ()


ROW, LETTER, FEW_ROWS = 3.3, 1.45, 14
"""Height of a row and width of a letter, mm; up to how many rows the colour bar lies below."""


def heat_map(
    blocks: Sequence[Block], panels: Sequence[Panel], *, norm: Normalize, label: str, cmap: str = DIVERGING, extend: str = "neither",
    column: float = 13.0, bottom: str = "",
) -> Figure:  # fmt: skip
    """Draw regions (rows) by columns, block by block.

    Missing values are grey; a dot stands where `Panel.marks` is true.

    Parameters
    ----------
    blocks, panels
        Rows and columns.
    norm : Normalize
    label : str
        Of the colours, with the unit.
    cmap, extend : str
    column : float
        Widest column, mm.
    bottom : str
        Words under the columns.
    """
    from matplotlib import colormaps

    rows = sum(len(b.names) for b in blocks)
    widest = max(len(w) for b in blocks for w in (*b.words, b.title))
    beside = 1.25 * widest + 26
    columns = sum(p.values.shape[1] for p in panels)
    width = min(WIDTH, max(95.0, beside + columns * column + 4 * len(panels)))
    cell = (width - beside - 4 * len(panels)) / columns
    names = [str(c) for p in panels for c in p.values]
    turned = [len(n) * LETTER > cell for n in names]
    if sum(turned) > 1:  # a single long one is turned alone
        turned = [True] * len(names)
    longest = max((len(n) for n, t in zip(names, turned, strict=True) if t), default=0)
    few = rows <= FEW_ROWS
    figure = page(rows * ROW * (1.4 if few else 1.0) + 6 * len(blocks) + (21 if few else 7) + max(4.0, 1.3 * longest), width)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.0, wspace=0.01)
    grid = figure.subplots(
        len(blocks), len(panels), squeeze=False,
        gridspec_kw={"height_ratios": [len(b.names) for b in blocks], "width_ratios": [p.values.shape[1] for p in panels]},
    )  # fmt: skip
    colours = colormaps[cmap].with_extremes(bad=MISSING)
    mesh: Any = None
    for i, block in enumerate(blocks):
        for j, panel in enumerate(panels):
            mesh = _cells(grid[i, j], block, panel, norm, colours, dense=rows * columns > DENSE)
            start = sum(p.values.shape[1] for p in panels[:j])
            _ticks(grid[i, j], block, panel, turned[start : start + panel.values.shape[1]] if i == 0 else [], left=j == 0)
    for axis in grid[-1] if bottom else ():
        axis.set_xlabel(bottom)
    place: dict[str, Any] = {"location": "bottom", "fraction": 0.1, "aspect": 25} if few else {"location": "right", "fraction": 0.04, "aspect": 30}
    bar = figure.colorbar(mesh, ax=grid, label=label, extend=extend, pad=0.02, **place)
    bar.outline.set_linewidth(0.4)
    return figure


def _cells(axis: Axes, block: Block, panel: Panel, norm: Normalize, colours: Colormap, *, dense: bool) -> Any:
    names = list(block.names)
    values = panel.values.reindex(names).to_numpy(float)
    mesh = axis.pcolormesh(
        values,
        cmap=colours,
        norm=norm,
        edgecolors="none" if dense else "white",
        linewidth=0 if dense else 0.3,
        rasterized=dense,
    )
    axis.set(ylim=(len(names), 0))
    axis.spines[:].set_visible(False)
    for border in panel.borders:
        axis.axvline(border, color="white", linewidth=2.5)
    if panel.marks is not None:
        at = np.argwhere(panel.marks.reindex(names).fillna(False).to_numpy(bool))
        strong = np.abs(2 * np.asarray(norm(values[tuple(at.T)]), float) - 1) > 0.6
        axis.scatter(at[:, 1] + 0.5, at[:, 0] + 0.5, s=4, c=np.where(strong, "white", "black"), linewidths=0, zorder=3)
    return mesh


def _ticks(axis: Axes, block: Block, panel: Panel, turned: Sequence[bool], *, left: bool) -> None:
    axis.tick_params(length=0, pad=2)
    axis.set_yticks(np.arange(len(block.words)) + 0.5, block.words if left else [])
    if left:
        axis.annotate(
            block.title,
            (0, 1),
            (-3, 1.5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            weight="bold",
            fontsize=SMALL,
        )
    columns = [str(c) for c in panel.values]
    axis.set_xticks([])
    if turned:
        shown = axis.secondary_xaxis("top")
        shown.spines[:].set_visible(False)
        shown.set_xticks(np.arange(len(columns)) + 0.5, columns)
        for word, turn in zip(shown.get_xticklabels(), turned, strict=True):
            word.set_rotation(90 if turn else 0)
        shown.tick_params(length=0, pad=2)
        if panel.title:
            axis.set_title(panel.title, pad=4)


def limit_of(values: Any, smallest: float) -> tuple[float, str]:
    """End of a colour scale that is the same on both sides, and which ends are cut off: few cells lie far out.

    Examples
    --------
    >>> limit_of([-1.0, 0.5, np.nan], 0.2)
    (1.0, 'neither')
    """
    known = np.abs(np.asarray(values, float))
    known = known[np.isfinite(known)]
    if not known.size:
        return smallest, "neither"
    largest, most = float(known.max()), float(np.percentile(known, 99))
    if largest > 1.5 * most:
        return max(most, smallest), "both"
    return max(largest, smallest), "neither"


def spread(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sideways places (-1 to 1) for points on a line, so that few cover each other: the same for the same values.

    Points are cut into bands of their value, and each band is laid out from the middle.
    """
    x = np.asarray(values, float)
    out = np.zeros(len(x))
    known = np.flatnonzero(np.isfinite(x))
    if len(known) < 2 or np.ptp(x[known]) == 0:
        out[known] = np.linspace(-0.5, 0.5, len(known)) if len(known) > 1 else 0.0
        return out
    bands = np.floor((x[known] - x[known].min()) / np.ptp(x[known]) * max(8, min(40, len(known)))).astype(int)
    fullest = max(int(np.bincount(bands).max()), 6)
    for band in np.unique(bands):
        members = known[bands == band]
        place = np.arange(len(members))
        out[members] = np.where(place % 2 == 0, place / 2, -(place + 1) / 2) * 2 / fullest
    return np.clip(out, -1, 1)
