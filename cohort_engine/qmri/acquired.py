"""How wide the voxels were that a scanner measured, where its image is interpolated: told by the image itself. Plain arrays in, plain arrays out.

Scanners fill the outside of k-space with zeros. The image has small voxels then, and each is as blurred as a large one. No header says so for
certain, but the spectrum ends where the measured part does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]

REACH = 0.1
"""To either side of an end of the spectrum power is compared, in parts of the highest frequency."""
BEGIN, END = 0.4, 0.95
"""Where an end is looked for: what is blurred by more than 2.5 was not interpolated by a scanner."""
STEP = 0.35
"""Power falls at an end by at least so many powers of ten more than before it: by 0.5 and more in means of simulated series that were interpolated,
by at most 0.2 in those of simulated and real ones that were not (two real ones)."""


def voxel_widths(image: FloatArray) -> tuple[float, float]:
    """Width of what was measured along the first two axes, in voxels of the image; 1 where nothing shows that it was interpolated.

    Parameters
    ----------
    image : (x, y, z) array
        Any unit, of the whole field of view. NaN counts as 0.

    Formula
        With P the mean power at a frequency, over all lines along the axis, the end is where the mean of log10 P falls most from `REACH` below to
        `REACH` above, beyond what it fell before, if by `STEP`. Taking the magnitude spreads a little power over the rest, which is why it is no
        cliff. Smooth images fall all along.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scan = np.abs(np.cumsum(rng.normal(size=(64, 64, 4)), axis=0)) + 5
    >>> k = np.zeros((96, 64, 4), complex)
    >>> k[16:80] = np.fft.fftshift(np.fft.fft(scan, axis=0), axes=0)
    >>> image = np.abs(np.fft.ifft(np.fft.ifftshift(k, axes=0), axis=0))
    >>> [round(width, 1) for width in voxel_widths(image)], voxel_widths(scan)
    ([1.5, 1.0], (1.0, 1.0))
    """
    known = np.nan_to_num(np.asarray(image, np.float64))
    return _width(known), _width(np.swapaxes(known, 0, 1))


def _width(lines: FloatArray) -> float:
    n = len(lines)
    power = (np.abs(np.fft.fft(lines, axis=0)) ** 2).reshape(n, -1).mean(axis=1)[: n // 2 + 1]
    if not (power > 0).all():
        return 1.0
    logs, at = np.log10(power), np.arange(n // 2 + 1) * 2 / n
    highest, width = STEP, 1.0
    for end in at[(at >= BEGIN) & (at <= END)]:
        before, below = (logs[(at >= end - k * REACH) & (at < end - (k - 1) * REACH - 1e-9)] for k in (2, 1))
        above = logs[(at > end + 1e-9) & (at <= end + REACH)]
        if min(len(before), len(below), len(above)) > 1:
            step = float(2 * below.mean() - before.mean() - above.mean())
            highest, width = (step, float(1 / end)) if step > highest else (highest, width)
    return width
