"""Regions that people drew in a diffusion image: a label image, a mask a region, or outlines of ImageJ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.io import places
from cohort_engine.io.imagej import decode_outlines, outline_masks, region_of
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask

WHAT = "drawn regions"
OUTLINES = (".zip", ".roi")
LABEL = "label-"
REMEDY = "Draw on this image, or resample the masks to it."


def read_drawn(locations: Sequence[str | Path], image: Volume, *, view: str = "radiological", like: str = "the diffusion image") -> NDArray[np.bool_]:
    """Read the eight regions as masks on the voxels of an image.

    Parameters
    ----------
    locations : sequence of str or Path
        One image of labels 1 to 8 in the order of `schema.ROIS`; or masks, each with its region in its name (``label-LDC_mask``); or zips of ImageJ
        outlines that are named by their regions.
    image : Volume
    view : str
        How the image was seen in ImageJ, see `imagej.outline_masks`.
    like : str
        Words for the image in messages.

    Returns
    -------
    (roi, x, y, z) bool
        All False where a region was not drawn.

    Raises
    ------
    InputError
        Labels that are no whole numbers from 0 to 8, masks whose names say no region, or what the files' readers refuse.
    GeometryError
        Masks on another grid than the image.
    """
    out = np.zeros((len(schema.ROIS), *image.grid.shape), dtype=bool)
    for location in locations:
        if str(location).lower().endswith(OUTLINES):
            raw = places.read_bytes(str(location), what=WHAT)
            out |= outline_masks(decode_outlines(raw, where=WHAT), image.grid.shape, view=view, where=WHAT)
            continue
        data = on_voxels_of(image, read_mask(location, what=WHAT), what=WHAT, like=like, remedy=REMEDY).data
        roi = _named(str(location))
        if roi is not None:
            out[roi] |= data > 0.5
        elif len(locations) > 1:
            raise InputError(
                expected=f"{len(locations)} masks whose names say their regions, such as label-LDC_mask", found="one whose name says none",
                where=WHAT, remedy="Rename it, or give one image of labels.",
            )  # fmt: skip
        else:
            out |= labelled(data)
    return out


def _named(location: str) -> int | None:
    words = PurePosixPath(location.replace("\\", "/")).name.split("_")
    return next((region_of(word.removeprefix(LABEL)) for word in words if word.startswith(LABEL)), None)


def labelled(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Take an image (x, y, z) of labels 1 to 8 apart: (roi, x, y, z).

    Raises
    ------
    InputError
        Other labels, or none.
    """
    values = np.unique(data)
    wrong = values[(values != np.round(values)) | (values < 0) | (values > len(schema.ROIS))]
    if len(wrong) or values.max(initial=0) == 0:
        raise InputError(
            expected=f"labels 1 to {len(schema.ROIS)}: {', '.join(schema.ROIS)}", where=WHAT, remedy="Number the regions in this order, 0 outside.",
            found=f"also {', '.join(f'{v:g}' for v in wrong[:4])}{' ...' if len(wrong) > 4 else ''}" if len(wrong) else "only zeros",
        )  # fmt: skip
    return np.asarray(data == np.arange(1, len(schema.ROIS) + 1)[:, None, None, None])
