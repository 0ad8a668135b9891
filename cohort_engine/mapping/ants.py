"""The only place that knows antspyx and ITK: deformable registration on a block, and warps that ITK tools can read.

ITK's world is LPS (x to the left, y to the back). Registration here runs on a block with axes of its own, in millimetres, where that
does not matter; `displacement_field` is where RAS+ becomes LPS.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import optional
from cohort_engine.template.packing import FloatArray, Grid

MEAN_SQUARES, CORRELATION = "meansquares", "CC"
RADIUS = 2
"""Radius (voxels) of the neighbourhood of `CORRELATION`; mean squares have none."""
SEED = "ANTS_RANDOM_SEED"
OUTSIDE = 1e5
"""Displacement (mm) of a voxel that has no counterpart: it lands outside of any image, and is background."""
FARTHEST = 1e4
"""Displacement (mm) from which on a voxel has no counterpart: tools write `OUTSIDE`, or the largest float."""
TO_LPS = np.array([-1.0, -1.0, 1.0])


def deform(
    fixed: FloatArray, moving: FloatArray, spacing: FloatArray, *, seed: int, iterations: tuple[int, ...], flow_sigma: float,
    metric: str = MEAN_SQUARES,
) -> NDArray[np.float32]:  # fmt: skip
    """Register two images on one grid with symmetric diffeomorphic normalisation; nothing moves along the third axis.

    Parameters
    ----------
    fixed, moving : (x, y, z) arrays
    spacing : (3,) array
        Voxel size, mm.
    seed : int
        Of ANTs, where the environment does not have one (``ANTS_RANDOM_SEED``). Both metrics look at every voxel and draw nothing: bits were the
        same with any seed and any number of threads.
    iterations : tuple of int
        From coarse to fine.
    flow_sigma : float
        Smoothing of the update field, voxels.
    metric : str
        `MEAN_SQUARES` for images of one contrast, `CORRELATION` (local, radius 2 voxels) for different ones.

    Returns
    -------
    (x, y, z, 3) float32 array
        Displacement, mm along the array axes: the point at x of `fixed` corresponds to x + displacement of `moving`.

    Notes
    -----
    antspyx leaves files behind; they go to a folder of this call, which is removed whatever happens.

    References
    ----------
    Avants BB et al. Symmetric diffeomorphic image registration with cross-correlation. Med Image Anal 2008;12:26. doi:10.1016/j.media.2007.06.004
    """
    os.environ.setdefault(SEED, str(seed))
    with optional("antspyx", "register", where="registration"):
        import ants

    with tempfile.TemporaryDirectory(prefix="ants-") as folder:
        images = (ants.from_numpy(np.ascontiguousarray(a, np.float32), spacing=[float(s) for s in spacing]) for a in (fixed, moving))
        found = ants.registration(
            *images, "SyNOnly", initial_transform="identity", outprefix=f"{folder}/", syn_metric=metric, syn_sampling=RADIUS,
            reg_iterations=iterations, flow_sigma=flow_sigma, restrict_transformation=(1, 1, 0),
        )  # fmt: skip
        warp = next(p for p in found["fwdtransforms"] if Path(p).name.endswith("Warp.nii.gz"))
        field = ants.image_read(warp).numpy()
    return np.asarray(field, np.float32)


def displacement_field(positions: FloatArray, affine: FloatArray) -> NDArray[np.float32]:
    """Turn corresponding positions into a displacement field as ANTs and ITK read it.

    Parameters
    ----------
    positions : (x, y, z, 3) array
        For each voxel of a grid, where its value is to be taken from, RAS+ mm. NaN: nowhere.
    affine : (4, 4) array
        Of the grid.

    Returns
    -------
    (x, y, z, 1, 3) float32 array
        Displacements, LPS mm; `OUTSIDE` where a position is NaN. To be stored with NIfTI intent ``vector``.

    Examples
    --------
    >>> displacement_field(np.array([[[[1.0, 2.0, 3.0]]]]), np.eye(4)).ravel().tolist()
    [-1.0, -2.0, 3.0]
    """
    x, y, z, _ = positions.shape
    grid, moved = Grid((x, y, z), np.asarray(affine, float)), np.full((x, y, z, 3), OUTSIDE, np.float32)
    for i, layer in enumerate(positions):
        known = np.argwhere(np.isfinite(layer).all(axis=-1))
        here = tuple(known.T)
        moved[i][here] = (layer[here] - grid.world(np.insert(known.astype(float), 0, i, axis=1))) * TO_LPS
    return moved[:, :, :, None, :]


def field_positions(field: FloatArray, affine: FloatArray) -> FloatArray:
    """Turn a displacement field of ANTs or ITK into positions: the inverse of `displacement_field`.

    Parameters
    ----------
    field : (x, y, z, 3) array
        Displacements, LPS mm, on a grid with axes in any order.
    affine : (4, 4) array
        Of the grid, RAS+ mm.

    Returns
    -------
    (x, y, z, 3) float64 array
        Where the value of each voxel is to be taken from, RAS+ mm. Missing: NaN where a component is not finite or `FARTHEST` or more.

    Examples
    --------
    >>> field_positions(np.array([[[[-1.0, -2.0, 3.0]], [[0.0, 3.4e38, 0.0]]]]), np.eye(4)).reshape(2, 3).tolist()
    [[1.0, 2.0, 3.0], [nan, nan, nan]]
    """
    x, y, z, _ = field.shape
    home = Grid((x, y, z), np.asarray(affine, float)).world(np.moveaxis(np.indices((x, y, z), dtype=float), 0, -1))
    with np.errstate(invalid="ignore"):
        known: NDArray[np.bool_] = np.asarray((np.abs(field) < FARTHEST).all(axis=-1))
    return np.where(known[..., None], home + np.where(known[..., None], field, 0.0) * TO_LPS, np.nan)
