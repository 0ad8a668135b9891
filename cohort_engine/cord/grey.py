"""The grey matter of a cord whose mask is known, and how clearly the image shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.cord.windows import Windows, look
from cohort_engine.errors import GeometryError
from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

WHOLE = 0.9
"""A voxel lies inside the cord where this part of it is cord."""
FEWEST = 20
"""Voxels inside the cord that a slice must have."""
SHOWN = 1.5
"""Contrast (either sign) from which on grey matter is seen rather than guessed: T2* and MT images have 2 to 5, T1w and T2w images at most 1.3
(``tests/real/test_segment.py``).
"""


@dataclass(frozen=True, eq=False)
class GreyMatter:
    """Grey matter of one image.

    Attributes
    ----------
    soft : (x, y, z) float32 array
        Part of each voxel that is grey matter, 0 to 1, at most that of the cord. Where the image shows none it is what the network expects in
        such a cord.
    contrast : float
        See `grey_contrast`.
    """

    soft: NDArray[np.float32]
    contrast: float

    @property
    def shown(self) -> bool:
        """Whether the image shows it."""
        return abs(self.contrast) >= SHOWN


def grey_matter(data: NDArray[Any], affine: FloatArray, cord: NDArray[Any], *, network: Network | None = None, what: str = "cord mask") -> GreyMatter:
    """Segment the grey matter of a cord.

    Parameters
    ----------
    data, cord : (x, y, z) arrays
        Image, and its cord mask on the same grid, 0 to 1. Grey values that are not finite or negative count as no signal.
    affine : (4, 4) array
        Voxel to RAS+ mm, axes as close to RAS+ as the scan allows.
    network : Network, optional
        From `nn.weights.load_grey`; by default that of the package.
    what : str
        Words of the mask's role, for messages.

    Returns
    -------
    GreyMatter
        In shapes of nn/butterfly.py: its dorsal horns end near the edge of the cord. Empty, with a contrast of NaN, where the mask is.

    Raises
    ------
    GeometryError
        Shapes differ.
    """
    from cohort_engine.nn.weights import load_grey

    if data.shape != cord.shape:
        raise GeometryError(expected=f"a mask of shape {data.shape}", found=str(cord.shape), where=what, remedy="Segment this very image.")
    values, mask = (np.nan_to_num(np.asarray(a, np.float32), nan=0.0, posinf=0.0, neginf=0.0) for a in (data, cord))
    np.maximum(values, 0.0, out=values)
    slices = np.flatnonzero((mask >= 0.5).any(axis=(0, 1)))
    if not len(slices):
        return GreyMatter(np.zeros(values.shape, np.float32), float("nan"))
    spacing = np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)
    part = mask[:, :, slices]
    x, y = ((part.sum(axis=1 - a) * (np.arange(values.shape[a]) * spacing[a])[:, None]).sum(axis=0) / part.sum(axis=(0, 1)) for a in (0, 1))
    net = network or load_grey()
    windows = Windows.around(values, spacing, slices, x, y, net)
    inside, soft = (np.minimum(windows.paste(drawn), mask) for drawn in look(net, windows.cut(values)).unbind(1))
    return GreyMatter(soft, grey_contrast(values, inside, soft))


def grey_contrast(data: NDArray[Any], cord: NDArray[Any], grey: NDArray[Any]) -> float:
    """Step of the grey values from white to grey matter, over the noise inside the cord.

    Parameters
    ----------
    data, cord, grey : (x, y, z) arrays
        Image, and the parts of its voxels that are cord and grey matter, 0 to 1.

    Returns
    -------
    float
        Median over slices; positive where grey matter is brighter (T2*, MT), negative where it is darker. NaN where no slice has `FEWEST` voxels
        inside the cord, or none of them differ.

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
    for z in np.flatnonzero((cord >= WHOLE).any(axis=(0, 1))):
        x, y = np.nonzero(cord[:, :, z] >= WHOLE)
        if len(x) < FEWEST:
            continue
        design = np.stack([np.ones(len(x)), x, y, grey[x, y, z]], axis=1)
        values = data[x, y, z].astype(float)
        fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
        noise = np.sqrt(((values - design @ fitted) ** 2).sum() / (len(x) - rank))
        if rank == design.shape[1] and noise > 0:
            steps.append(fitted[3] / noise)
    return float(np.median(steps)) if steps else float("nan")
