"""The cross-section of the cord as a drawing in which each tract can be clicked, or reached with the keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import param
import xarray as xr
from panel.custom import JSComponent

from cohort_engine.figures.cross_section import FloatArray, cross_section, rings

MARGIN = 0.8
"""Mm around the cord."""


def paths(ds: xr.Dataset, level: str, regions: list[str]) -> dict[str, Any]:
    """Outlines of regions at the middle of a level, as SVG paths.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    level : str
    regions : list of str
        Labels of white and grey matter.

    Returns
    -------
    dict
        ``box``: x, y, width and height of the picture in mm; ``cord``: path of the cord; ``parts``: list of (name, path).
    """
    cut = cross_section(ds, level, regions)
    left, right, low, high = cut.box
    size = right - left + 2 * MARGIN, high - low + 2 * MARGIN
    return {
        "box": [round(left - MARGIN, 2), round(-high - MARGIN, 2), round(size[0], 2), round(size[1], 2)],
        "cord": path(rings(cut, cut.cord)),
        "parts": [[name, path(rings(cut, field))] for name, field in cut.inside.items()],
    }


def path(lines: list[FloatArray]) -> str:
    """SVG path of closed lines, with y downwards.

    Examples
    --------
    >>> path([np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 0.0]])])
    'M0 0L1 0L1 -2Z'
    """
    return "".join("M" + "L".join(f"{x:g} {0.0 - y:g}" for x, y in np.round(line[:-1], 2)) + "Z" for line in lines)


class Cord(JSComponent):  # type: ignore[misc]
    """Cross-section: `chosen` is the region that was picked, `colours` fills parts by name, `words` are read out beside their names."""

    drawing = param.Dict(default={})
    colours = param.Dict(default={})
    words = param.Dict(default={})
    chosen = param.String(default="")

    _esm = """
    export function render({ model }) {
      const NS = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(NS, "svg");
      svg.setAttribute("role", "listbox");
      svg.setAttribute("aria-label", "Regions of the cord's cross-section");
      svg.style.width = "300px"; svg.style.height = "270px";
      const add = (name, attributes, parent = svg) => {
        const node = document.createElementNS(NS, name);
        for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
        parent.appendChild(node);
        return node;
      };
      const parts = () => [...svg.querySelectorAll("path.part")];
      const mark = () => {
        for (const part of parts()) {
          const here = part.dataset.name === model.chosen;
          part.setAttribute("aria-selected", here);
          part.setAttribute("stroke-width", here ? 0.22 : 0.04);
          if (here) part.parentNode.appendChild(part);
        }
      };
      const paint = () => {
        for (const part of parts()) {
          const name = part.dataset.name;
          part.setAttribute("fill", model.colours[name] ?? "#d9d9d9");
          part.querySelector("title").textContent = name + (model.words[name] ? ": " + model.words[name] : "");
          part.setAttribute("aria-label", part.querySelector("title").textContent);
        }
        mark();
      };
      const draw = () => {
        svg.replaceChildren();
        if (!model.drawing.box) return;
        const [x, y, w, h] = model.drawing.box;
        svg.setAttribute("viewBox", model.drawing.box.join(" "));
        add("path", { d: model.drawing.cord, fill: "white", stroke: "#222222", "stroke-width": 0.1, "fill-rule": "evenodd" });
        const group = add("g", {});
        for (const [name, d] of model.drawing.parts) {
          const part = add("path", { d, class: "part", role: "option", tabindex: 0, stroke: "#222222", "fill-rule": "evenodd" }, group);
          part.dataset.name = name;
          part.style.cursor = "pointer";
          add("title", {}, part);
          part.addEventListener("click", () => { model.chosen = name; });
          part.addEventListener("keydown", (event) => {
            if (event.key === "Enter" || event.key === " ") { model.chosen = name; event.preventDefault(); }
          });
        }
        for (const [side, at, anchor] of [["R", x + 0.1, "start"], ["L", x + w - 0.1, "end"]]) {
          const text = add("text", { x: at, y: y + 1, "font-size": 0.9, "text-anchor": anchor, "font-weight": "bold" });
          text.textContent = side;
        }
        paint();
      };
      model.on("drawing", draw); model.on("colours", paint); model.on("words", paint); model.on("chosen", mark);
      draw();
      return svg;
    }
    """


def filled(values: Mapping[str, float], palette: tuple[str, ...], low: float, high: float) -> dict[str, str]:
    """Colour of each value on a scale; NaN has none.

    Examples
    --------
    >>> filled({"a": 0.0, "b": 1.0, "c": float("nan")}, ("#000000", "#ffffff"), 0.0, 1.0)
    {'a': '#000000', 'b': '#ffffff'}
    """
    step = (high - low) / len(palette) if high > low else 1.0
    return {name: palette[int(np.clip((v - low) / step, 0, len(palette) - 1))] for name, v in values.items() if np.isfinite(v)}
