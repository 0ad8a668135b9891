"""How much of an image the tissues of the cord explain: the likelihood by which a template map is judged, slice by slice.

In the voxels in and around the cord each slice of the image is fitted by least squares as a mixture of white matter, grey matter, CSF and the rest,
with one value a tissue. A map that lies where the tissues are explains more. It is a judge that can fail: the map is fitted to the outline of a mask,
which says nothing of the inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.template.packing import FloatArray

TISSUES = ("white matter", "grey matter", "CSF", "rest")
WHITE, GREY, CSF, REST = range(4)
PRESENT = 0.5
"""Voxels' worth of a tissue that a slice must hold for the tissue to have a value there."""
FEWEST = 12
"""Voxels that a slice must have, three a value."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What the tissues explain of an image, slice by slice; NaN in slices that are not asked for, have fewer than `FEWEST` voxels, or one grey value.

    Attributes
    ----------
    share : (z,) array
        Share of the variance that the tissues explain, at most 1.
    means : (z, 4) array
        Value of white matter, grey matter, CSF and the rest, in the unit of the image; NaN where less than `PRESENT` voxels of it lie in the slice.
    n : (z,) int array
        Voxels that took part.
    """

    share: FloatArray
    means: FloatArray
    n: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean share over the slices that have one; NaN where none has."""
        known = np.isfinite(self.share)
        return float(self.share[known].mean()) if known.any() else float("nan")

    @property
    def white_darker(self) -> float:
        """Fraction of the slices that can tell in which white matter is darker than grey matter; NaN where none can."""
        known = self.white_below_grey[np.isfinite(self.white_below_grey)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def white_below_grey(self) -> FloatArray:
        """1 where white matter is darker than grey matter (as in MT-on and T2*), 0 where it is not, NaN where one of them has no value: (z,)."""
        step = self.means[:, GREY] - self.means[:, WHITE]
        return np.where(np.isfinite(step), (step > 0).astype(float), np.nan)


def around(cord: NDArray[Any], *, margin: int = 1) -> NDArray[np.bool_]:
    """Voxels of a cord mask (x, y, z), 0 to 1, and those within `margin` voxels of it in its slice, diagonals too.

    Examples
    --------
    >>> mask = np.zeros((5, 5, 2))
    >>> mask[2, 2, 0] = 1
    >>> around(mask).sum(axis=(0, 1)).tolist()
    [9, 0]
    """
    solid = np.nan_to_num(np.asarray(cord, float)) >= 0.5
    size = 2 * margin + 1
    return np.asarray(ndimage.binary_dilation(solid, structure=np.ones((size, size, 1), bool)))


def with_rest(fractions: FloatArray) -> FloatArray:
    """Add what is none of the tissues (..., 3): (..., 4)."""
    return np.concatenate([fractions, np.maximum(0.0, 1.0 - fractions.sum(axis=-1, keepdims=True))], axis=-1)


def explained(image: NDArray[Any], fractions: FloatArray, region: NDArray[np.bool_]) -> Explained:
    """Fit an image by the tissues, slice by slice.

    Parameters
    ----------
    image : (x, y, z) array
        Grey values. Missing: NaN takes no part.
    fractions : (x, y, z, 3) array
        Part of each voxel that is white matter, grey matter and CSF, 0 to 1 (`fractions.tissue_fractions`). Missing: NaN takes no part.
    region : (x, y, z) bool array
        Voxels to be explained (`around`).

    Returns
    -------
    Explained

    Notes
    -----
    In each slice ``y = F b + e`` by ordinary least squares, F the fractions and what they leave of 1; the share is ``1 - var(e) / var(y)``. No
    intercept: the columns sum to 1.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> fractions = rng.dirichlet(np.ones(4), (10, 10, 2))[..., :3]
    >>> image = 100 - 20 * fractions[..., 0] + 50 * fractions[..., 2]
    >>> found = explained(image, fractions, np.ones((10, 10, 2), bool))
    >>> found.share.round(6).tolist(), found.means[0].round(3).tolist(), found.n.tolist()
    ([1.0, 1.0], [80.0, 100.0, 150.0, 100.0], [100, 100])
    >>> found.white_below_grey.tolist()
    [1.0, 1.0]
    """
    slices = image.shape[2]
    known = region & np.isfinite(image) & np.isfinite(fractions).all(axis=-1)
    out = Explained(np.full(slices, np.nan), np.full((slices, len(TISSUES)), np.nan), known.sum(axis=(0, 1)))
    for z in np.flatnonzero(out.n >= FEWEST):
        values = image[:, :, z][known[:, :, z]].astype(float)
        design = with_rest(fractions[:, :, z][known[:, :, z]].astype(float))
        held = np.flatnonzero(design.sum(axis=0) >= PRESENT)
        if not len(held) or np.ptp(values) == 0:
            continue
        found = np.linalg.lstsq(design[:, held], values, rcond=None)[0]
        out.means[z, held] = found
        out.share[z] = 1.0 - (values - design[:, held] @ found).var() / values.var()
    return out
