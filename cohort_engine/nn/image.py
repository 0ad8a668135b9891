"""How a network sees an image: grey values scaled by their own robust range."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOW, HIGH = 0.02, 0.98
"""Quantiles of the grey values that set the range; brighter ones are cut a third of the range above."""
WINDOW = 30.0
"""Width of the window whose mean brightness is evened out, mm."""
MOST = 4096
"""Pixels a sample that the quantiles are taken from."""


def robust_scale(image: Tensor) -> Tensor:
    """Scale each sample to zero mean and unit deviation of its pixels that are not zero, bright outliers cut.

    Parameters
    ----------
    image : (n, channel, y, x) tensor
        Not negative; zero is no signal (outside the field of view).

    Returns
    -------
    (n, channel, y, x) float32 tensor
        Zeros where a sample has hardly any signal.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(8).view(1, 1, 4, 8)
    >>> torch.allclose(robust_scale(x), robust_scale(100 * x), atol=1e-4)
    True
    """
    import torch

    image = image.float()
    flat = image.flatten(1)
    step = max(1, flat.shape[1] // MOST) | 1  # odd: all columns are met
    pixels = flat[:, ::step].contiguous()
    seen = pixels > 0
    count = seen.sum(1)
    ordered = torch.where(seen, pixels, torch.inf).sort(1).values

    def quantile(q: float) -> Tensor:
        return ordered.gather(1, (q * (count - 1).clamp(min=0)).round().long()[:, None])[:, 0]

    enough = count >= 16
    low, high = (torch.where(enough, quantile(q), 0.0) for q in (LOW, HIGH))
    top = (high + 0.3 * (high - low))[:, None]
    cut = torch.minimum(pixels, top) * seen
    n = count.clamp(min=1)
    mean = cut.sum(1) / n
    deviation = (((cut - mean[:, None]) ** 2 * seen).sum(1) / n).sqrt()
    scaled = (torch.minimum(flat, top) - mean[:, None]) / (deviation[:, None] + 1e-5 * top + 1e-12)
    return torch.where(enough[:, None], scaled, 0.0).view(image.shape)


def evened(image: Tensor, spacing: float) -> Tensor:
    """Even out slow changes of brightness: each pixel over the mean around it.

    Parameters
    ----------
    image : (n, channel, y, x) tensor
        Not negative.
    spacing : float
        Pixel size, mm.

    Examples
    --------
    A steep ramp loses most of its height.

    >>> import torch
    >>> ramp = torch.linspace(1, 9, 64).expand(1, 1, 64, 64)
    >>> even = evened(ramp, 1.0)
    >>> bool(even.max() / even.min() < 3.9)
    True
    """
    from torch.nn.functional import avg_pool2d

    half = max(1, round(WINDOW / spacing / 2))
    mean = image
    for window, pad in 2 * [((2 * half + 1, 1), (half, 0)), ((1, 2 * half + 1), (0, half))]:  # twice a box is a triangle
        mean = avg_pool2d(mean, window, 1, pad, count_include_pad=False)
    return image / (mean + 0.1 * mean.amax((1, 2, 3), keepdim=True) + 1e-12)
