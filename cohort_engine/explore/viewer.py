"""One person's map in the template with the cord and the region in view, in NiiVue, which this package brings along."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import param
import xarray as xr
from panel.custom import JSComponent

from cohort_engine import schema
from cohort_engine.io.volume import Volume, encode_volume
from cohort_engine.query.cells import CORD
from cohort_engine.reduce.cohort import atlas_of
from cohort_engine.template.levels import LevelRange

VENDOR = Path(__file__).parent / "vendor"
SLUG = "vendor"
"""Where the explorer's server has the files of `VENDOR`."""
AROUND = 10.0
"""Mm above and below a level that are shown with it."""
HALF = 0.5
"""A voxel is cord where white and grey matter have more than this of it."""


def images(ds: xr.Dataset, row: int, metric: str, region: str, level: str) -> dict[str, bytes]:
    """Cut what the viewer shows out of a cohort: packed NIfTI images in template space, in the box of the atlas at a level and `AROUND` it.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    row : int
        Row of the person in the store.
    metric : str
        One that has maps.
    region : str
        Label or union of the atlas.
    level : str
        Level or range.

    Returns
    -------
    dict
        ``image``: the map, NaN where there is none; ``mask``: 1 in the cord; ``atlas``: weight of the region, 0 to 1.

    Raises
    ------
    UnknownNameError
        No such row, metric, region or level.
    """
    atlas, naming = atlas_of(ds), ds.cohort.source.naming
    found = naming.region(region)
    tissue = naming.region(CORD).members
    weights = {"mask": tissue, "atlas": found.members}
    dense = {name: np.asarray(atlas.weights[list(members)].sum(axis=0), np.float32).ravel() for name, members in weights.items()}
    dense["mask"] = (dense["mask"] > HALF).astype(np.float32)
    flat = {"image": ds[metric].sel({schema.SUBJECT: row})} | {n: xr.DataArray(v, dims=schema.VOXEL) for n, v in dense.items()}
    numbers = LevelRange.parse(level, ds.cohort.levels).numbers
    height = ds[schema.VOXEL_WORLD[2]].to_numpy()
    here = height[np.isin(ds[schema.VOXEL_LEVEL].to_numpy(), numbers)]
    shown = (height >= here.min() - AROUND) & (height <= here.max() + AROUND)
    index = [ds[n].to_numpy()[shown] for n in schema.VOXEL_INDEX]
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in index)
    out = {}
    for name, values in flat.items():
        whole = ds.cohort.unpack(values)
        affine = whole.attrs["affine"].copy()
        affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        cut = whole.to_numpy()[box]
        out[name] = gzip.compress(encode_volume(Volume(cut if name == "image" else np.nan_to_num(cut), affine)), 1, mtime=0)
    return out


class Viewer(JSComponent):  # type: ignore[misc]
    """The map in grey with the cord and the region over it; nothing is loaded before it is asked for with the button.

    ``low`` and ``high`` are the ends of the grey values.
    """

    image = param.Bytes(default=b"")
    mask = param.Bytes(default=b"")
    atlas = param.Bytes(default=b"")
    place = param.List(default=[])
    """Mm in the template on which the viewer looks."""
    low = param.Number(default=0.0)
    high = param.Number(default=1.0)
    version = param.Integer(default=0)
    """Counts the images that were given; the last parameter that is set."""

    _esm = """
    const load = () => window.niivue ? Promise.resolve() : window.niivueLoading ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL("vendor/niivue.umd.js", document.baseURI).href;
      script.onload = done; script.onerror = () => failed(new Error("the viewer could not be loaded"));
      document.head.appendChild(script);
    });
    export function render({ model }) {
      const box = document.createElement("div");
      box.className = "viewer"; box.style.cssText = "width: 420px";
      const canvas = document.createElement("canvas");
      canvas.setAttribute("aria-label", "Map of the person in the template, at the level that is chosen: in blue the cord, in red the region");
      canvas.setAttribute("role", "img");
      const frame = document.createElement("div");
      frame.style.cssText = "width: 420px; height: 400px; position: relative";
      frame.append(canvas);
      const line = document.createElement("div");
      line.style.cssText = "display: flex; gap: 1rem; align-items: center; padding: 0.3rem 0";
      const opacity = [["cord", 1, 0.25], ["region", 2, 0.6]].map(([name, at, value]) => {
        const label = document.createElement("label"), input = document.createElement("input");
        Object.assign(input, { type: "range", min: 0, max: 1, step: 0.05, value });
        label.append(name + " ", input); line.append(label);
        input.addEventListener("input", () => viewer && viewer.volumes[at] && viewer.setOpacity(at, Number(input.value)));
        return input;
      });
      const button = document.createElement("button");
      button.type = "button"; button.textContent = "Show the map in the template";
      button.addEventListener("click", () => { asked = true; button.replaceWith(frame, line); later(); });
      box.append(button);
      let viewer = null, queue = Promise.resolve(), asked = false;
      const draw = async () => {
        if (!asked || !model.image || !model.image.byteLength) return;
        await load();
        if (!viewer) {
          viewer = new niivue.Niivue({
            backColor: [0, 0, 0, 1], multiplanarShowRender: 0, crosshairWidth: 0.15, loadingText: "", dragAndDropEnabled: false,
            isRadiologicalConvention: true,
          });
          await viewer.attachToCanvas(canvas, false);
        }
        const file = (bytes) => URL.createObjectURL(new Blob([bytes]));
        const parts = [["image", "gray", 1], ["mask", "blue", Number(opacity[0].value)], ["atlas", "red", Number(opacity[1].value)]];
        const given = parts.map(([name, colormap, shown]) => ({ url: file(model[name]), name: name + ".nii.gz", colormap, opacity: shown }));
        Object.assign(given[0], { cal_min: model.low, cal_max: model.high });
        for (const over of given.slice(1)) Object.assign(over, { cal_min: 0.1, cal_max: 1 });
        await viewer.loadVolumes(given);
        given.forEach((one) => URL.revokeObjectURL(one.url));
        viewer.setSliceType(viewer.sliceTypeMultiplanar);
        if (model.place.length === 3) {
          const at = viewer.mm2frac(model.place);
          viewer.scene.crosshairPos = at; viewer.drawScene();
        }
        box.dataset.drawn = String(model.version);
      };
      const failed = (error) => {
        box.dataset.error = String(error);
        line.textContent = "The picture cannot be drawn here: " + error.message;
      };
      const later = () => { queue = queue.then(draw).catch(failed); };
      model.on("version", later);
      return box;
    }
    """
