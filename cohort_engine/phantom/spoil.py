"""What must not change what is found in an image: noise in the air, fields of view, resolution, contrast, lost slices.

Plain functions of an image (x, y, z), which is not changed; random ones take a generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]


def noisy(image: NDArray[Any], share: float, rng: np.random.Generator) -> Image:
    """Add the noise of a magnitude image, in the air as everywhere: its standard deviation is `share` of the 95th percentile of what is not zero.

    Examples
    --------
    >>> out = noisy(np.zeros((20, 20, 2)) + np.r_[0, 1][None, None], 0.1, np.random.default_rng(1))
    >>> bool(0.1 < out[..., 0].mean() < 0.15), bool(abs(out[..., 1].mean() - 1) < 0.02)
    (True, True)
    """
    image = np.asarray(image, np.float32).clip(0)
    sigma = share * float(np.percentile(image[image > 0], 95))
    return np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape)).astype(np.float32)


def field_of_view(
    image: NDArray[Any], width: float, spacing: NDArray[Any], centre: NDArray[Any], rng: np.random.Generator
) -> tuple[Image, tuple[int, int]]:
    """Cut or widen the slices to `width` mm around a centre; what is beyond the scan is air, as noisy as the darkest part of the image.

    Parameters
    ----------
    image : (x, y, z) array
    width : float
        mm, both ways in the plane.
    spacing : (2 or 3,) array
        mm.
    centre : (2,) array
        Voxels.
    rng : Generator

    Returns
    -------
    image : (x', y', z) array
    first : (int, int)
        Index in the old image, perhaps negative, of the new first voxel.

    Examples
    --------
    >>> out, first = field_of_view(np.ones((9, 9, 1)), 5.0, np.ones(2), np.array([4, 4]), np.random.default_rng(1))
    >>> out.shape, first
    ((5, 5, 1), (2, 2))
    """
    image = np.asarray(image, np.float32)
    size = [max(1, round(width / s)) for s in spacing[:2]]
    first = [round(float(c) - (n - 1) / 2) for c, n in zip(centre, size, strict=True)]
    sigma = float(np.percentile(image[image > 0], 1))
    out = np.hypot(*rng.normal(0, sigma, (2, *size, image.shape[2]))).astype(np.float32)
    old = [slice(max(0, f), max(0, min(n, f + m))) for f, n, m in zip(first, image.shape, size, strict=False)]
    new = [slice(s.start - f, s.stop - f) for s, f in zip(old, first, strict=True)]
    out[new[0], new[1]] = image[old[0], old[1]]
    return out, (first[0], first[1])


def resampled(image: NDArray[Any], factor: float, order: int = 1) -> Image:
    """Resample in the plane to `factor` times as many voxels a side; onto fewer, over their width.

    Voxel i of the result lies at ``(i + 0.5) / factor - 0.5`` of the image, so a corner of the field of view stays where it is.

    Examples
    --------
    >>> resampled(np.arange(8.0).reshape(8, 1, 1) * np.ones((1, 4, 1)), 0.5)[:, 0, 0].tolist()
    [0.5, 2.5, 4.5, 6.5]
    """
    image = np.asarray(image, np.float32)
    if factor < 1 and order:
        step = round(1 / factor)
        trimmed = image[: image.shape[0] // step * step, : image.shape[1] // step * step]
        shape = (trimmed.shape[0] // step, step, trimmed.shape[1] // step, step, image.shape[2])
        out: Image = trimmed.reshape(shape).mean(axis=(1, 3), dtype=np.float32)
        return out
    at = [(np.arange(round(n * factor)) + 0.5) / factor - 0.5 for n in image.shape[:2]]
    grid = np.stack(np.meshgrid(*at, indexing="ij"))
    planes = [ndimage.map_coordinates(image[:, :, z], grid, order=1 if order else 0, mode="nearest") for z in range(image.shape[2])]
    return np.stack(planes, axis=2)


def flipped(image: NDArray[Any], *, air: bool = True) -> Image:
    """Turn bright into dark, with nothing cut: each voxel is as far below the brightest as it was above nothing.

    Parameters
    ----------
    image : (x, y, z) array
    air : bool
        Air becomes bright. Without it dark surroundings (their mean within 5 voxels is below a tenth of the 95th percentile of what is not zero in
        the slice) stay as they are, and tissue is turned within its own range.

    Examples
    --------
    >>> flipped(np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)).ravel().tolist()
    [2.0, 1.0, 0.0]
    >>> flipped(np.r_[np.zeros(9), 5, 7, 9, 5, 7, 9].reshape(15, 1, 1), air=False).ravel().tolist()[7:]
    [0.0, 0.0, 9.0, 7.0, 5.0, 9.0, 7.0, 5.0]
    """
    image = np.asarray(image, np.float32).clip(0)
    if air:
        out: Image = image.max() - image
        return out
    bright = np.nan_to_num(np.nanpercentile(np.where(image > 0, image, np.nan), 95, axis=(0, 1)))
    tissue = (ndimage.uniform_filter(image, (5, 5, 1)) > 0.1 * bright) & (image > 0)
    return np.where(tissue, image[tissue].max() + image[tissue].min() - image, image).astype(np.float32)


def blanked(image: NDArray[Any], share: float, rng: np.random.Generator) -> tuple[Image, NDArray[np.int64]]:
    """Empty this share of the slices, at least one, but neither the first nor the last; and which.

    Examples
    --------
    >>> out, which = blanked(np.ones((2, 2, 10)), 0.1, np.random.default_rng(1))
    >>> len(which), float(out[:, :, which].max()), int((out.max(axis=(0, 1)) > 0).sum())
    (1, 0.0, 9)
    """
    out = np.array(image, np.float32)
    depth = out.shape[2]
    which = np.sort(rng.choice(np.arange(1, depth - 1), min(depth - 2, max(1, round(share * depth))), replace=False))
    out[:, :, which] = 0
    return out, which
