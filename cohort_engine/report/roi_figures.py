"""Figures of the DTI study: overlap by region, means of the map, agreement, and slices with what was drawn and found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.figures.drawing import CASE_COLOUR, CONTROL_COLOUR, FAINT, INK, MISSING, OTHER_COLOURS, WIDTH, Drawn, page, style
from cohort_engine.report.roi_tables import ATLAS, METHOD, PUBLISHED, RATER, Method, icc_matrix, settings_of, shown_slices
from cohort_engine.rois.slices import RoiSlices

PART_COLOURS: Final = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
"""Dorsal, lateral, ventral column and grey matter: light on grey images; the right side is drawn broken."""
COLOURS: Final = (CASE_COLOUR, CONTROL_COLOUR, *OTHER_COLOURS)
AROUND: Final = 8.0
"""Half of the side of a picture of a slice, mm."""
SECTION: Final = "rois"
KEY: Final = f"{2 * AROUND:.0f} mm a side. Orange: dorsal, blue: lateral, pink: ventral column; yellow: grey matter; broken lines: right side."
ACROSS: Final = 8
"""Slices of a scan beside one another, at most."""
TITLES: Final = {schema.B0_IMAGE: "b0", schema.FA: "FA"}


def colours_of(names: Sequence[str]) -> dict[str, Any]:
    """Networks in their order; rater and atlas grey."""
    fixed = {RATER: INK, ATLAS: FAINT}
    return {name: fixed.get(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)}


def draw_overlap(regions: pd.DataFrame) -> Drawn:
    """Dice and error of each region and method, with intervals over patients, beside the published values."""
    names = list(dict.fromkeys(regions[METHOD]))
    with style():
        figure = page(62 + 5 * len(names))
        axes = figure.subplots(2, 1, sharex=True)
        colours, at = colours_of(names), np.arange(len(schema.ROIS))
        for i, name in enumerate(names):
            own = regions[regions[METHOD] == name]
            x = at + (i - (len(names) - 1) / 2) * 0.7 / max(len(names), 1)
            for ax, value in zip(axes, ("dice", "error_percent"), strict=True):
                mean, low, high = (own[f"{value}{ending}"].to_numpy(float) for ending in ("", "_low", "_high"))
                ax.errorbar(x, mean, [np.maximum(mean - low, 0), np.maximum(high - mean, 0)], fmt="o", ms=3, lw=0.9, color=colours[name], label=name)
        for ax, value, text in ((axes[0], "dice", "published: HDL, VGG16, FA"), (axes[1], "error_percent", "published: HDL, VGG16, FA")):
            ax.hlines(PUBLISHED[value], at - 0.42, at + 0.42, color="k", lw=0.8, linestyles=":", label=text)
        axes[1].hlines(PUBLISHED["scs_net_error_percent"], at - 0.42, at + 0.42, color=FAINT, lw=1.2, linestyles="-", label="published: SCS-Net")
        axes[0].set(ylabel="Dice", ylim=(0, 1))
        axes[1].set(ylabel="Error of mean FA (%)", xticks=at, xticklabels=[r.replace(" ", "\n", 1) for r in schema.ROIS])
        axes[1].set_ylim(bottom=0)
        axes[1].tick_params(axis="x", length=0)
        handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
    caption = (
        "Mean over slices with 95 % intervals over patients. Lines: published values; they are of other images, and say how hard those are, "
        "not which method is better."
    )
    return Drawn("overlap", SECTION, "Overlap with the drawn regions, and error of their mean FA", caption, ("regions",), figure)


def draw_means(method: Method) -> Drawn:
    """Mean of the map in the found against the drawn region, a panel a region."""
    scores = method.scores
    with style():
        figure = page(95)
        axes = figure.subplots(2, 4, sharex=True, sharey=True)
        for i, ax in enumerate(axes.flat):
            x, y = scores.drawn_mean[:, i], scores.mean[:, i]
            ax.plot(x, y, ".", ms=2.5, color=PART_COLOURS[i % 4] if i % 4 != 3 else "#B8A800", rasterized=len(x) > 1000)
            ax.axline((0.5, 0.5), slope=1, color=FAINT, lw=0.7)
            ax.set_title(schema.ROIS[i])
        low, high = np.nanmin([scores.mean, scores.drawn_mean]), np.nanmax([scores.mean, scores.drawn_mean])
        room = 0.05 * (high - low)
        axes[0, 0].set(xlim=(low - room, high + room), ylim=(low - room, high + room))
        figure.supxlabel("Mean FA of the drawn region", fontsize=8)
        figure.supylabel("Mean FA of the found region", fontsize=8)
    return Drawn("means", SECTION, f"Mean FA of the regions, {method.name}", "A point is a slice; the line is equality.", ("slices",), figure)


def draw_icc(method: Method) -> Drawn:
    """Matrix of intraclass correlations."""
    values = icc_matrix(method.scores)
    short = [r.replace("left ", "L ").replace("right ", "R ").replace(" column", "").replace(" matter", "") for r in schema.ROIS]
    with style():
        figure = page(95, 115)
        ax = figure.subplots()
        ax.set_facecolor(MISSING)
        image = ax.imshow(values, cmap="viridis", vmin=0, vmax=1)
        for i, j in np.ndindex(values.shape):
            if np.isfinite(values[i, j]):
                ax.text(j, i, f"{values[i, j]:.2f}".replace("-", "−"), ha="center", va="center", fontsize=6, color="w" if values[i, j] < 0.6 else "k")
        ax.set(xticks=range(8), yticks=range(8), yticklabels=short, xlabel="drawn", ylabel="found")
        ax.set_xticks(range(8), short, rotation=45, ha="right")
        for side in ax.spines.values():
            side.set_visible(False)
        figure.colorbar(image, ax=ax, label="ICC(2,1)", shrink=0.8)
    caption = "Agreement over slices of the mean FA of a found region (row) with that of a drawn one (column)."
    return Drawn("icc", SECTION, f"Intraclass correlation of mean FA, {method.name}", caption, ("icc",), figure)


def draw_slices(methods: Sequence[Method], slices: RoiSlices, *, each: int = 2, first: int = 0) -> Drawn:
    """Best, median and worst slices of a method, with the drawn regions and those of all methods."""
    chosen = [(word, i) for word, some in shown_slices(methods[first].scores, each).items() for i in some]
    images = [name for name in (schema.B0_IMAGE, schema.FA) if name in slices.images] or list(slices.images)[:1]
    panels: list[tuple[str, NDArray[np.bool_] | None]] = [*((name, None) for name in images), ("drawn", slices.drawn)]
    panels += [(m.name, m.masks) for m in methods]
    with style():
        figure = page(12 + len(chosen) * (WIDTH - 8) / len(panels))
        axes = figure.subplots(len(chosen), len(panels), squeeze=False)
        for row, (word, i) in zip(axes, chosen, strict=True):
            box = _box(slices, i)
            for ax, (name, masks) in zip(row, panels, strict=True):
                image = slices.images[name if masks is None else images[-1]][i]
                _show(ax, image, slices, i, box)
                if masks is not None:
                    _outline(ax, masks[i], box)
                if ax in axes[0]:
                    ax.set_title(_wrapped(name if masks is not None else TITLES.get(name, name)), fontsize=6.5)
            dice = np.nanmean(methods[first].scores.dice[i])
            row[0].set_ylabel(f"{word}\nDice {dice:.2f}", fontsize=6.5)
    caption = f"By mean Dice of {methods[first].name}; the patient's left is on the right, the front is up; {KEY}"
    return Drawn("overlays", SECTION, "Best, median and worst slices", caption, ("slices",), figure)


def draw_scan(slices: RoiSlices) -> Drawn:
    """All slices of one scan from the bottom up, with the regions over each image."""
    images = [name for name in (schema.B0_IMAGE, schema.FA) if name in slices.images] or list(slices.images)[:1]
    down = -(-len(slices) // ACROSS)
    across = -(-len(slices) // down)
    with style():
        figure = page(12 + len(images) * down * (WIDTH - 4) / across)
        axes = figure.subplots(len(images) * down, across, squeeze=False)
        for k, name in enumerate(images):
            for i in range(across * down):
                ax = axes[k * down + i // across, i % across]
                if i >= len(slices):
                    ax.set_visible(False)
                    continue
                box = _box(slices, i)
                _show(ax, slices.images[name][i], slices, i, box)
                _outline(ax, slices.drawn[i], box)
                ax.set_title(f"{TITLES.get(name, name)}, slice {slices.position[i]}", fontsize=6.5)
    return Drawn("scan", SECTION, "Regions of one scan", f"The patient's left is on the right, the front is up; {KEY}", (), figure)


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 16)


def _box(slices: RoiSlices, i: int) -> tuple[slice, slice]:
    """Pixels around the cord, or what was drawn."""
    there = np.argwhere(slices.cord[i] if slices.cord[i].any() else slices.drawn[i].any(axis=0))
    middle = there.mean(axis=0) if len(there) else np.array(slices.cord.shape[1:]) / 2
    half = AROUND / slices.spacing
    low = np.clip(np.round(middle - half), 0, None).astype(int)
    high = np.minimum(np.round(middle + half).astype(int) + 1, slices.cord.shape[1:])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def _show(ax: Any, image: NDArray[np.float32], slices: RoiSlices, i: int, box: tuple[slice, slice]) -> None:
    seen = image[box]
    known = seen[np.isfinite(seen)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0, 1)
    dx, dy = slices.spacing
    ax.set_facecolor(MISSING)
    ax.imshow(seen.T, origin="lower", cmap="gray", vmin=low, vmax=max(high, low + 1e-9), aspect=dy / dx, interpolation="nearest")
    ax.invert_xaxis()
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def _outline(ax: Any, masks: NDArray[np.bool_], box: tuple[slice, slice]) -> None:
    """Borders along the pixels' edges."""
    from matplotlib.collections import LineCollection

    for r, mask in enumerate(masks):
        inside = np.pad(mask[box], 1)
        x, y = np.nonzero(inside[1:] != inside[:-1])
        upright = [[(a - 0.5, b - 1.5), (a - 0.5, b - 0.5)] for a, b in zip(x, y, strict=True)]
        x, y = np.nonzero(inside[:, 1:] != inside[:, :-1])
        level = [[(a - 1.5, b - 0.5), (a - 0.5, b - 0.5)] for a, b in zip(x, y, strict=True)]
        right = r >= len(schema.PARTS)
        ax.add_collection(
            LineCollection(
                upright + level, colors=PART_COLOURS[r % len(schema.PARTS)], linewidths=0.9, linestyles=[(0, (1.5, 0.7))] if right else "-"
            )
        )


def draw_sweep(table: pd.DataFrame) -> Drawn:
    """Mean Dice of the eight regions of each setting, a point a seed."""
    setting = settings_of(table)
    order = table["dice"].groupby(setting, sort=False).mean().sort_values(kind="stable").index
    with style():
        figure = page(18 + 4.6 * len(order))
        ax = figure.subplots()
        for y, name in enumerate(order):
            own = table.loc[setting == name, "dice"]
            ax.plot([own.min(), own.max()], [y, y], color=CONTROL_COLOUR, lw=0.8)
            ax.plot(own, np.full(len(own), y), "o", ms=3, color=CONTROL_COLOUR, alpha=0.8)
        ax.axvline(float(PUBLISHED["dice"].mean()), color="k", lw=0.8, ls=":", label="published: HDL, VGG16, FA")
        ax.set(yticks=range(len(order)), yticklabels=list(order), xlabel="Mean Dice of the eight regions")
        ax.legend(loc="lower right")
    return Drawn("sweep", SECTION, "Losses, encoders and inputs", "A point is a training with a seed of its own.", ("sweep",), figure)


def all_figures(methods: Sequence[Method], slices: RoiSlices, regions: pd.DataFrame, sweep: pd.DataFrame | None) -> list[Drawn]:
    """Draw everything; the first method is the one that is looked at closely."""
    drawn = [draw_overlap(regions), draw_slices(methods, slices), draw_icc(methods[0]), draw_means(methods[0])]
    return drawn if sweep is None else [*drawn, draw_sweep(sweep)]
