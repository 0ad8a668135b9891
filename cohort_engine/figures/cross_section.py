"""The cord cut across: tracts of the packed atlas as outlines, coloured by a number each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.groups import MANN_WHITNEY
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import DIVERGING, INK, MISSING, Drawn, level_order, quantity, scale
from cohort_engine.query.choice import Choice
from cohort_engine.query.frame import tidy
from cohort_engine.reduce.cohort import atlas_of, template_levels
from cohort_engine.study.material import COMPRESSED
from cohort_engine.template.levels import LevelRange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    from cohort_engine.study.result import Analysis

FloatArray = NDArray[np.float64]

TISSUES = ("WM ", "GM ")
"""Starts of the labels that are cord: the rest is around it."""
CORD = "cord"
"""Label of the patch that is the whole cord."""
FINE = 0.08
"""Distance of the points from which outlines are made, mm."""
STRAIGHT = 0.015
"""Points of an outline that lie this near to a straight line, mm, are left out."""
MOST_PANELS = 6
HATCH = "//////"
LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Share of red, green and blue in how bright a colour looks."""


@dataclass(frozen=True, eq=False)
class CrossSection:
    """Regions in the middle slice of a level.

    Attributes
    ----------
    level : str
    x, y : (point,) float64
        Places in the picture, mm: the right of the cord is at the left (smaller x), its front at the top (larger y).
    inside : mapping of region to (y, x) float64
        Positive where the region is the largest part of the cord, negative elsewhere; the outline is where it is 0.
    cord : (y, x) float64
        The same for the cord as a whole.
    """

    level: str
    x: FloatArray
    y: FloatArray
    inside: dict[str, FloatArray]
    cord: FloatArray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Least and largest x and y of the cord, mm."""
        y, x = np.nonzero(self.cord > 0)
        return float(self.x[x.min()]), float(self.x[x.max()]), float(self.y[y.min()]), float(self.y[y.max()])


def cross_section(ds: xr.Dataset, level: str, regions: Iterable[str]) -> CrossSection:
    """Cut the atlas of an opened cohort at the middle slice of a level.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    level : str
        A level, or a pool of several (``C2:C3``).
    regions : iterable of str
        Names of labels or unions. Where several have a label it goes to the smallest; where none has it the cord is blank.

    Returns
    -------
    CrossSection

    Raises
    ------
    UnknownNameError
        No such level or region.

    Notes
    -----
    A voxel is cord where labels of white and grey matter have more than half of it. Weights are interpolated (cubic splines) to a finer grid, and
    each point goes to the region with the largest weight.
    """
    from scipy import ndimage

    atlas = atlas_of(ds)
    numbers = LevelRange.parse(level, template_levels(ds)).numbers
    within = np.flatnonzero(np.isin(ds[schema.VOXEL_LEVEL].to_numpy(), numbers))
    heights = ds[schema.VOXEL_INDEX[2]].to_numpy()[within]
    slices = np.unique(heights)
    chosen = within[heights == slices[len(slices) // 2]]
    tissue = [k for k, name in enumerate(atlas.labels) if name.startswith(TISSUES)]
    members = _share_out({r: atlas.region(r).members for r in regions}, tissue)
    weights = atlas.weights[:, chosen].toarray().astype(float)
    ij = np.stack([ds[n].to_numpy()[chosen].astype(int) for n in schema.VOXEL_INDEX[:2]])
    mm = [ds[n].to_numpy()[chosen].astype(float) for n in schema.VOXEL_WORLD[:2]]
    low, high = ij.min(axis=1) - 1, ij.max(axis=1) + 1
    rest = sorted(set(tissue).difference(*members.values()))
    planes = np.stack([weights[tissue].sum(axis=0), weights[rest].sum(axis=0), *(weights[list(m)].sum(axis=0) for m in members.values())])
    steps = [_step(index, place) for index, place in zip(ij, mm, strict=True)]
    finer = max(2, round(max(map(abs, steps)) / FINE))
    image = np.zeros((len(planes), *(high - low + 1)))
    image[:, *(ij - low[:, None])] = planes
    fine = np.stack([ndimage.zoom(plane, finer, order=3, grid_mode=True, mode="grid-constant") for plane in image])
    axes = []
    for k in range(2):
        first = mm[k][0] + steps[k] * (low[k] - ij[k, 0] - 0.5 + 0.5 / finer)
        axes.append(first + steps[k] / finer * np.arange(fine.shape[k + 1]))
    x, y, order = -axes[0], axes[1], np.argsort(-axes[0])
    share, parts = fine[0], fine[1:]
    inside = {}
    for r, name in enumerate(members, start=1):  # the first part is what no region has
        others = np.max(np.delete(parts, r, axis=0), axis=0, initial=0.0)
        inside[name] = np.minimum(parts[r] - others, share - 0.5)[order].T
    return CrossSection(level, x[order], y, inside, (share - 0.5)[order].T)


def _step(index: NDArray[Any], mm: FloatArray) -> float:
    """Mm from voxel to voxel along an axis."""
    i, j = int(np.argmin(index)), int(np.argmax(index))
    return float((mm[j] - mm[i]) / (index[j] - index[i])) if index[j] > index[i] else 1.0


def _share_out(regions: Mapping[str, tuple[int, ...]], labels: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """Give each label to the smallest region that has it.

    Examples
    --------
    >>> _share_out({"white": (0, 1, 2), "left": (1,)}, [0, 1])
    {'white': (0,), 'left': (1,)}
    """
    owner: dict[int, str] = {}
    for name, members in sorted(regions.items(), key=lambda item: len(item[1])):
        for k in members:
            owner.setdefault(k, name)
    out: dict[str, tuple[int, ...]] = {}
    wanted = set(labels)
    for name in regions:
        mine = tuple(k for k in sorted(owner) if owner[k] == name and k in wanted)
        if mine:
            out[name] = mine
    return out


def draw_cord(
    axis: Axes, cut: CrossSection, values: Mapping[str, float], *, cmap: Colormap, norm: Normalize, hatched: Iterable[str] = (), bar: float = 5.0
) -> None:
    """Draw a cross-section: one patch a region, its label the region's name, and another one of the same label over it for the hatching.

    Parameters
    ----------
    axis : Axes
    cut : CrossSection
    values : mapping of region to float
        Missing: grey.
    cmap, norm
    hatched : iterable of str
        Regions that are hatched.
    bar : float
        Length of the scale bar, mm; 0: none.
    """
    from matplotlib.patches import PathPatch

    marked = set(hatched)
    whole = _outline(cut, cut.cord)
    if whole is not None:
        axis.add_patch(PathPatch(whole, facecolor="white", edgecolor=INK, linewidth=0.8, label=CORD))
    for name, field in cut.inside.items():
        outline = _outline(cut, field)
        if outline is None:
            continue
        value = values.get(name, np.nan)
        colour: Any = cmap(norm(value)) if np.isfinite(value) else MISSING
        axis.add_patch(PathPatch(outline, facecolor=colour, edgecolor=INK, linewidth=0.35, label=name))
        if name in marked and np.isfinite(value):
            dark = float(np.dot(colour[:3], LUMINANCE)) < 0.45
            axis.add_patch(PathPatch(outline, facecolor="none", edgecolor="0.85" if dark else INK, linewidth=0, hatch=HATCH, label=name))
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.autoscale_view()
    for place, side, align in ((0.0, "R", "left"), (1.0, "L", "right")):
        axis.text(place, 0.98, side, transform=axis.transAxes, ha=align, va="top", fontsize=8, weight="bold")
    if bar:
        left, bottom = axis.get_xlim()[0], axis.get_ylim()[0]
        axis.plot([left, left + bar], [bottom, bottom], color=INK, linewidth=1.5, solid_capstyle="butt")
        axis.annotate(f"{bar:g} mm", (left, bottom), (0, 2), textcoords="offset points", fontsize=drawing.SMALL, color=INK)


def rings(cut: CrossSection, field: FloatArray) -> list[FloatArray]:
    """Trace closed lines (point, 2), first = last, around where a field is positive and around its holes, mm."""
    from contourpy import FillType, contour_generator

    made: Any = contour_generator(cut.x, cut.y, field, fill_type=FillType.OuterOffset).filled(0.0, np.inf)
    points, offsets = made
    return [thinned(p[a:b]) for p, o in zip(points, offsets, strict=True) for a, b in pairwise(o)]


def _outline(cut: CrossSection, field: FloatArray) -> Path | None:
    """Outline of where a field is positive, with its holes."""
    from matplotlib.path import Path

    lines = rings(cut, field)
    return Path.make_compound_path(*(Path(ring, closed=True) for ring in lines)) if lines else None


def thinned(ring: FloatArray, tolerance: float = STRAIGHT) -> FloatArray:
    """Leave out points of a closed line, first = last, that are nearer than a tolerance to the line without them (Ramer, Douglas and Peucker).

    Examples
    --------
    >>> thinned(np.array([[0, 0], [1, 0.001], [2, 0], [2, 2], [0, 0]])).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
    """
    far = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    keep = np.zeros(len(ring), bool)
    keep[[0, far, -1]] = True
    parts = [(0, far), (far, len(ring) - 1)]
    while parts:
        a, b = parts.pop()
        if b - a < 2:
            continue
        chord = ring[b] - ring[a]
        inner = ring[a + 1 : b] - ring[a]
        length = float(np.hypot(*chord))
        off = np.abs(inner[:, 0] * chord[1] - inner[:, 1] * chord[0]) / length if length else np.hypot(*inner.T)
        most = a + 1 + int(np.argmax(off))
        if off[most - a - 1] > tolerance:
            keep[most] = True
            parts += [(a, most), (most, b)]
    out: FloatArray = ring[keep]
    return out


# --- groups and their difference -----------------------------------------------------------------------------------------
def shown_regions(rows: pd.DataFrame, labels: Iterable[str]) -> list[str]:
    """Regions to colour: single labels where there are any, or else unions."""
    known = [str(r) for r in dict.fromkeys(rows[schema.REGION])]
    single = [r for r in known if r in set(labels) and r.startswith(TISSUES)]
    return single or known


def shown_levels(rows: pd.DataFrame, remote: str | None, most: int = MOST_PANELS) -> list[str]:
    """Levels to draw, from the top down: the one of the largest effect size, the remote one, and the next in effect size."""
    strength = rows.dropna(subset=["difference"]).groupby(schema.LEVEL)["size"].agg(lambda s: s.abs().max())
    ranked = [str(n) for n in strength.sort_values(ascending=False, kind="stable").index]
    first = ranked[:1] + [n for n in (remote,) if n in ranked[1:]]
    return level_order(dict.fromkeys([*first, *ranked]).keys() if len(ranked) <= most else list(dict.fromkeys([*first, *ranked]))[:most])


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``difference``: case minus control in the unit of the metric, adjusted where the test is."""
    ranks = rows["method"] == MANN_WHITNEY
    return rows.assign(difference=rows["effect"].where(~ranks, rows["mean_case"] - rows["mean_control"]))


def effects_on_cord(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Tracts coloured by the difference of groups, one panel a level."""
    groups = drawing.table(found, "groups")
    if groups is None:
        return []
    out = []
    for number, kind in enumerate(drawing.map_kinds(groups)):
        rows = differences(drawing.of_kind(groups, kind))
        rows = rows[rows[schema.LEVEL] != COMPRESSED]
        rows = rows[rows[schema.REGION].isin(shown_regions(rows, atlas_of(ds).labels))]
        if np.isfinite(rows["difference"]).any():
            out.append(_effects(found, ds, rows, kind, drawing.suffix(number, kind)))
    return out


def _effects(found: Analysis, ds: xr.Dataset, rows: pd.DataFrame, kind: tuple[str, str], end: str) -> Drawn:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import CenteredNorm
    from matplotlib.patches import Patch

    people, alpha = found.material.people, found.config.alpha
    levels = shown_levels(rows, drawing.remote_level(found, rows[schema.LEVEL]))
    shown = rows[rows[schema.LEVEL].isin(levels)]
    limit, extend = drawing.limit_of(shown["difference"], 1e-6)
    norm, cmap = CenteredNorm(0, limit), colormaps[DIVERGING]
    across = min(3, len(levels))
    down = -(-len(levels) // across)
    regions = list(dict.fromkeys(shown[schema.REGION]))
    cuts = [cross_section(ds, level, regions) for level in levels]
    left, right, low, high = (f(c.box[k] for c in cuts) for k, f in enumerate((min, max, min, max)))
    box = ((left - 0.5, right + 0.5), (low - 1.2, high + 0.5))
    wide = (drawing.WIDTH - 6) / 3
    figure = drawing.page(17 + down * (7 + wide * (high - low + 1.7) / (right - left + 1)), max(90.0, across * wide + 6))
    grid = figure.subplots(down, across, squeeze=False)
    grey, counts = False, list[str]()
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, level, cut in zip(grid.flat, levels, cuts, strict=False):
        part = shown[shown[schema.LEVEL] == level].set_index(schema.REGION)
        values = {str(r): float(v) for r, v in part["difference"].items()}
        weak = [str(r) for r in part.index[~(part["q"] <= alpha)]]
        axis.set_axis_on()
        axis.set(xlim=box[0], ylim=box[1])
        draw_cord(axis, cut, values, cmap=cmap, norm=norm, hatched=weak, bar=0 if counts else 5.0)
        grey |= any(not np.isfinite(values.get(r, np.nan)) for r in cut.inside)
        n = int((part["q"] <= alpha).sum())
        axis.set_title(f"{level}: {n} of {int(part['difference'].notna().sum())} with q ≤ {alpha:g}")
        counts.append(f"{n} at {level}")
    unit = scale(str(rows["units"].iloc[0]), difference=True)
    name = quantity(*kind)
    colours = ScalarMappable(norm, cmap)
    bar = figure.colorbar(colours, ax=grid, location="bottom", shrink=0.66, anchor=(0.0, 0.5), aspect=30, pad=0.03, extend=extend)
    bar.set_label(drawing.with_unit(f"{name}, {people.case} − {people.control}", unit))
    bar.outline.set_linewidth(0.4)
    keys = [Patch(facecolor="white", edgecolor=INK, hatch=HATCH, linewidth=0.35, label=f"q > {alpha:g}")]
    keys += [Patch(facecolor=MISSING, edgecolor=INK, linewidth=0.35, label="no value")] if grey else []
    figure.legend(handles=keys, loc="lower right")
    adjusted = "adjusted difference" if (rows["method"] == "linear").all() else "difference of means"
    most = shown.iloc[int(np.nanargmax(shown["difference"].abs()))]
    case, control = people.case, people.control
    caption = drawing.sentences(
        f"Middle slice of the template at each level, tracts coloured by the {adjusted} of {name} ({case} minus {control}"
        f"{f', in {unit}' if unit else ''}): blue is lower in {case}, red is higher.",
        f"Hatched regions have q > {alpha:g}{'; grey ones have no value' if grey else ''}.",
        "Seen from below, as radiologists look: R is the right of the cord, its front is at the top.",
        f"{drawing.sample(found)}; {drawing.TEST_WORDS[str(rows['method'].iloc[0])]}, {drawing.discovery(found)}.",
        f"Regions with q ≤ {alpha:g}: {', '.join(counts)}.",
        drawing.not_drawn(rows[schema.LEVEL], levels),
        f"The largest difference drawn is {drawing.measured(most['difference'], str(most['units']), difference=True)}, in "
        f"{most[schema.REGION]} at {most[schema.LEVEL]}.",
    )
    return Drawn(f"effects_on_cord{end}", "groups", f"Where {name} differs", caption, ("groups",), figure)


def draw_groups(ds: xr.Dataset, metric: str = schema.MTR, level: str = "C5") -> Figure:
    """Draw the labels of one level coloured by a metric: the mean of each of two groups, and the first minus the second in the order of their names.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`, with a column ``group``.
    metric, level : str

    Returns
    -------
    Figure
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import CenteredNorm, Normalize

    labels = [n for n in atlas_of(ds).labels if n.startswith(TISSUES)]
    cells = ds.cohort.table(metric, labels, level)
    frame, kind = tidy(cells), Choice(str(cells.attrs["space"]), str(cells.attrs["estimator"])).kind
    means = frame.groupby([schema.GROUP, schema.REGION], sort=False)[schema.VALUE].mean().unstack(schema.REGION)[labels]
    first, second = sorted(means.index)[:2]
    cut, unit, name = cross_section(ds, level, labels), str(ds[metric].attrs.get("units", "1")), quantity(metric, kind)
    known = means.loc[[first, second]].to_numpy(float)
    low, high = np.percentile(known[np.isfinite(known)], (2, 98)) if np.isfinite(known).any() else (0.0, 1.0)
    difference = means.loc[first] - means.loc[second]
    limit, extend = drawing.limit_of(difference, 1e-6)
    plain, centred = Normalize(low, high), CenteredNorm(0, limit)
    with drawing.style():
        figure = drawing.page(58)
        panels = figure.subplots(1, 3)
        shown = [(first, means.loc[first], plain, "viridis"), (second, means.loc[second], plain, "viridis")]
        shown.append((f"{first} − {second}", difference, centred, DIVERGING))
        for axis, (title, values, norm, cmap) in zip(panels, shown, strict=True):
            draw_cord(axis, cut, {str(r): float(v) for r, v in values.items()}, cmap=colormaps[cmap], norm=norm)
            axis.set_title(f"{title}, {level}")
        below: dict[str, Any] = {"location": "bottom", "shrink": 0.8}
        words = drawing.with_unit(name, scale(unit)), drawing.with_unit(name, scale(unit, difference=True))
        figure.colorbar(ScalarMappable(plain, "viridis"), ax=panels[:2], label=words[0], extend="both", aspect=30, **below)
        figure.colorbar(ScalarMappable(centred, DIVERGING), ax=panels[2], label=words[1], extend=extend, aspect=15, **below)
    return figure
