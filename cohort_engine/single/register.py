"""One image at a time: the same functions as a build, for people who only want that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine import schema
from cohort_engine.cord.grey import grey_contrast
from cohort_engine.io.export import write_label_folder
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask, read_volume, write_volume
from cohort_engine.mapping import ANTS
from cohort_engine.progress import step
from cohort_engine.single.fit import fit_cord
from cohort_engine.single.process import Workplace, task_folder
from cohort_engine.single.reading import AUTO, read_landmarks
from cohort_engine.template.base import Template

if TYPE_CHECKING:
    import pandas as pd

    from cohort_engine.mapping.template_map import TemplateMap

TO_TEMPLATE, TO_IMAGE = "warp_anat2template.nii.gz", "warp_template2anat.nii.gz"
STRAIGHT, QUALITY = "anat2template.nii.gz", "quality.json"
MASK = "cord mask"


def register_image(
    image: str | Path, *, mask: str | Path, levels: str | Path, out: str | Path, template: Template, kind: str = AUTO,
    grey: str | Path | None = None, refine: bool = True, deformable: bool = True, engine: str = ANTS, seed: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Register one image to the template.

    Parameters
    ----------
    image, mask : path
        Image, and its cord mask on the same grid.
    levels : path
        Point labels (discs or vertebral bodies) or a cord mask labelled by level, in the image's world; the grid may be another.
    out : path
        Folder to make. It gets ``label/template`` and ``label/atlas`` in the layout of ``sct_warp_template``, the warps
        ``warp_template2anat.nii.gz`` (resamples template images to the image's grid) and ``warp_anat2template.nii.gz`` (the other way), the image
        in template space, and ``quality.json``, written last: a folder that has it is whole.
    template : Template
    kind : str
        ``disc``, ``body``, or ``auto``: from the file name.
    grey : path, optional
        Part of each voxel that is grey matter, 0 to 1, on the same grid (command ``grey``): it moves the inside of the cord.
    refine : bool
        Let the image refine the map, if it shows grey matter; without it only its geometry is used.
    deformable : bool
        Match the outlines after the geometric steps.
    engine : {"ants", "torch"}
        What does that.
    seed : int
        Of ANTs.

    Returns
    -------
    DataFrame
        quantity, value, unit and meaning: the numbers of ``quality.json``.

    Raises
    ------
    InputError, GeometryError, CordError, LevelError
        The image, the mask or the landmarks cannot be used.
    StorageError
        The folder cannot be written.
    """
    import pandas as pd

    from cohort_engine.mapping import template_map as mapping

    step("reading the image")
    moving = read_volume(image, what="image")

    def mask_of(place: str | Path, what: str) -> Volume:
        return on_voxels_of(moving, read_mask(place, what=what), what=what, like="the image", remedy="Resample it onto the image.")

    cord = mask_of(mask, MASK)
    butterfly = None if grey is None else mask_of(grey, "grey matter")
    landmarks = read_landmarks(levels, kind)
    step("fitting the template to the cord: the first fit of a process loads what it needs")
    Workplace(seed=seed).apply()
    with task_folder(0):
        fitted = fit_cord(
            cord, landmarks, template, grey=None if butterfly is None else butterfly.data, image=moving if refine else None, deformable=deformable,
            engine=engine, seed=seed, what=MASK,
        )  # fmt: skip

    step("writing the template on the image")
    folder = Path(out)
    with storage_errors("output folder"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / QUALITY).unlink(missing_ok=True)
    write_registration(folder, fitted, template, moving)
    straight = mapping.sample(moving.data, moving.affine, fitted.block)
    write_volume(folder / STRAIGHT, Volume(straight, np.asarray(template.block_grid.affine, np.float64)))
    figures = dict.fromkeys(schema.FIT_QC, np.nan) | fitted.quality
    if butterfly is not None:
        figures[schema.GREY_CONTRAST] = grey_contrast(moving.data, cord.data, butterfly.data)
    rows = [(key, figures[key], unit, text) for key, (text, unit) in schema.FIT_QC.items()]
    quality = {key: None if np.isnan(value) else round(value, 6) for key, value, _, _ in rows}
    with storage_errors("output folder"):
        (folder / QUALITY).write_text(json.dumps({"template": template.name, "template_digest": template.digest, **quality}, indent=2) + "\n")
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "meaning"])


def write_registration(folder: Path, fitted: TemplateMap, template: Template, image: Volume) -> None:
    """Write a template map in the layout of the Spinal Cord Toolbox: ``label/``, and the warps both ways.

    Parameters
    ----------
    folder : Path
        Exists.
    fitted : TemplateMap
    template : Template
    image : Volume
        What is written for it lies on its own voxels, in their order.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    from cohort_engine.mapping import fractions as filled
    from cohort_engine.mapping.ants import displacement_field
    from cohort_engine.mapping.inverse import invert

    affine, shape = image.affine, image.grid.shape
    native = invert(fitted, template, affine, shape)
    fractions = filled.native_fractions(fitted, template, affine, shape, columns=filled.tissue_columns(template))
    tissues = {name: (fractions @ getattr(template, name).ravel()).reshape(shape) for name in ("cord", "wm", "gm", "csf")}
    numbers = np.where(tissues["cord"] >= 0.5, _levels(native, template), 0)
    weights = filled.scatter(fractions, template, template.atlas.weights)
    write_label_folder(folder, template=template, weights=weights, levels=numbers, image=image, **tissues)
    write_volume(folder / TO_IMAGE, image.with_data(displacement_field(native, affine)), intent="vector")
    block = np.asarray(template.block_grid.affine, np.float64)
    write_volume(folder / TO_TEMPLATE, Volume(displacement_field(fitted.block, block), block), intent="vector")


def _levels(native: np.ndarray[Any, Any], template: Template) -> np.ndarray[Any, Any]:
    """Level number of each native voxel from its template position; 0 where there is none."""
    known = np.isfinite(native).all(axis=-1)
    row = np.rint(template.grid.voxel(native[known])[:, 2]).astype(int)
    out = np.zeros(known.shape, np.int16)
    out[known] = template.slice_level[np.clip(row, 0, len(template.slice_level) - 1)]
    return out
