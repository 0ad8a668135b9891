"""How clearly an image shows the grey matter of the cord."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE = 0.9
"""A voxel lies inside the cord where this part of it is cord."""
FEWEST = 20
"""Voxels inside the cord that a slice must have."""
SHOWN = 1.5
"""Contrast (either sign) from which on grey matter is seen rather than guessed: T2* and MT images have 2 to 5, T1w and most T2w images less than
1.2 (``tests/real/test_segment.py``).
"""


def grey_contrast(data: NDArray[Any], soft: NDArray[Any], grey: NDArray[Any]) -> float:
    """Step of the grey values from white to grey matter, over the noise inside the cord.

    Parameters
    ----------
    data, soft, grey : (x, y, z) arrays
        Image, and the parts of its voxels that are cord and grey matter, 0 to 1.

    Returns
    -------
    float
        Median over slices; positive where grey matter is brighter (T2*, MT), negative where it is darker (T1w). NaN where no slice has
        `FEWEST` voxels inside the cord, or none of them differ.

    Notes
    -----
    In each slice, over the voxels that are cord, the grey values are fitted by least squares as ``a + b x + c y + s grey``; the contrast is
    s over the standard deviation of the residuals. The plane takes up the sensitivity of the coil.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> grey = rng.uniform(size=(20, 20, 3))
    >>> image = 100 + 6 * grey + rng.normal(0, 2, grey.shape)
    >>> 2.8 < grey_contrast(image, np.ones_like(grey), grey) < 3.2
    True
    """
    steps = []
    for z in np.flatnonzero((soft >= WHOLE).any(axis=(0, 1))):
        x, y = np.nonzero(soft[:, :, z] >= WHOLE)
        if len(x) < FEWEST:
            continue
        design = np.stack([np.ones(len(x)), x, y, grey[x, y, z]], axis=1)
        values = data[x, y, z].astype(float)
        fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
        noise = np.sqrt(((values - design @ fitted) ** 2).sum() / (len(x) - rank))
        if rank == design.shape[1] and noise > 0:
            steps.append(fitted[3] / noise)
    return float(np.median(steps)) if steps else float("nan")
