"""How a network sees an image: grey values scaled by their own robust range."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOW, HIGH = 0.02, 0.98
"""Quantiles of the grey values that set the range; brighter ones are cut a third of the range above."""
WINDOW = 30.0
"""Width of the window whose mean brightness is evened out, mm."""
REGION = 12.0
"""Width of the surroundings whose mean tells tissue from air, mm."""
APART = 1.4
"""Air is darker than tissue by at least this factor's logarithm, on average."""
SPARSE = 0.2
"""Surroundings with less tissue than this share count as if they had as much."""
MOST = 4096
"""Pixels a sample that the quantiles are taken from."""
FEWEST = 16
"""Pixels that a range needs."""
STRIDE, EVERY = 36.0, 6.0
"""Distance of the windows that an image wider than in training is scaled by, and of the pixels in them that are asked, mm."""


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
    top, mean, deviation, enough = (v[:, None] for v in _range(flat[:, ::step].contiguous()))
    scaled = (torch.minimum(flat, top) - mean) / (deviation + 1e-5 * top + 1e-12)
    return torch.where(enough, scaled, 0.0).view(image.shape)


def _range(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the grey values of each row (n, k) are cut, their mean and deviation below that, and whether there are enough; zero is no signal."""
    import torch

    seen = pixels > 0
    count = seen.sum(1)
    ordered = torch.where(seen, pixels, torch.inf).sort(1).values
    enough = count >= FEWEST

    def quantile(q: float) -> Tensor:
        at = ordered.gather(1, (q * (count - 1).clamp(min=0)).round().long()[:, None])[:, 0]
        return torch.where(enough, at, 0.0)

    low, high = quantile(LOW), quantile(HIGH)
    top = high + 0.3 * (high - low)
    cut = torch.minimum(pixels, top[:, None]) * seen
    n = count.clamp(min=1)
    mean = cut.sum(1) / n
    return top, mean, (((cut - mean[:, None]) ** 2 * seen).sum(1) / n).sqrt(), enough


def foreground(image: Tensor, spacing: float) -> Tensor:
    """Tell tissue from air by the mean of the surroundings, 0 or 1: noise in the air is no signal.

    Where the means fall into two groups far apart (the split of most variance between groups, of their logarithm), the darker one is air; where they
    do not, as in a narrow field of view, all that is not zero counts.

    Parameters
    ----------
    image : (n, channel, y, x) tensor
        Not negative.
    spacing : float
        Pixel size, mm.

    Examples
    --------
    >>> import torch
    >>> body = torch.rand(1, 1, 64, 64) * 0.1
    >>> body[..., 16:48, 16:48] += 1
    >>> round(float(foreground(body, 2.0).mean()), 1), float(foreground(body[..., 16:48, 16:48], 2.0).mean())
    (0.3, 1.0)
    """
    import torch

    level = torch.log(boxed(image.mean(1, keepdim=True), REGION, spacing).flatten(1) + 1e-12)
    ordered = level[:, :: max(1, level.shape[1] // MOST) | 1].sort(1).values
    n = ordered.shape[1]
    part = torch.arange(1, n, device=image.device) / n
    low = ordered.cumsum(1)[:, :-1] / (part * n)
    high = (ordered.sum(1, keepdim=True) - low * part * n) / ((1 - part) * n)
    best = (part * (1 - part) * (high - low) ** 2).argmax(1, keepdim=True)
    apart = (high - low).gather(1, best) > APART
    limit = torch.where(apart, ordered.gather(1, best).add(ordered.gather(1, best + 1)) / 2, -torch.inf)
    return ((level > limit).view(-1, 1, *image.shape[2:]) & (image > 0)).to(image.dtype)


def boxed(image: Tensor, width: float, spacing: float) -> Tensor:
    """Mean over a square window of this width (mm) around each pixel; beyond the image there is nothing.

    Examples
    --------
    >>> import torch
    >>> boxed(torch.tensor([[[[0.0, 3.0, 6.0]]]]), 4.0, 1.0).tolist()
    [[[[3.0, 3.0, 3.0]]]]
    """
    from torch.nn.functional import avg_pool2d

    half = max(1, round(width / spacing / 2))
    for window, pad in (((2 * half + 1, 1), (half, 0)), ((1, 2 * half + 1), (0, half))):
        image = avg_pool2d(image, window, 1, pad, count_include_pad=False)
    return image


def local_scale(image: Tensor, spacing: float, width: float) -> Tensor:
    """Scale as `robust_scale`, each pixel by the tissue within a window around it: what lies further away, air or body, does not matter.

    The range is that of windows every `STRIDE` mm, and goes over from one to the next.

    Parameters
    ----------
    image : (n, channel, y, x) tensor
        Not negative.
    spacing, width : float
        Pixel size, and what `robust_scale` saw in training, mm.

    Examples
    --------
    The middle of a wide image is scaled as that of a narrow one.

    >>> import torch
    >>> wide = torch.rand(1, 1, 40, 160, generator=torch.Generator().manual_seed(1)) + 0.5
    >>> wide[..., 120:] *= 3
    >>> near = local_scale(wide[..., 20:60], 1.0, 20.0)[..., 15:25] - local_scale(wide, 1.0, 20.0)[..., 35:45]
    >>> bool(near.abs().max() < 0.2)
    True
    """
    import torch
    from torch.nn.functional import interpolate, pad, unfold

    image = image.float()
    n, height, across = len(image), *image.shape[2:]
    every, apart = (max(1, round(mm / spacing)) for mm in (EVERY, STRIDE))
    side = max(1, round(width / spacing / every))
    half, rows, columns = (side - 1) * every // 2, -(-(height - 1) // apart) + 1, -(-(across - 1) // apart) + 1
    border = [half, (columns - 1) * apart - across + 1 + half, half, (rows - 1) * apart - height + 1 + half]
    windows = unfold(pad(image * foreground(image, spacing), border), side, dilation=every, stride=apart)
    *facts, enough = (v.view(n, rows, columns).float() for v in _range(windows.mT.reshape(n * rows * columns, -1)))
    known = torch.stack([*(v * enough for v in facts), enough], 1)
    size = [(k - 1) * apart + 1 for k in (rows, columns)]
    spread = interpolate(known, size, mode="bilinear", align_corners=True)[:, :, :height, :across]
    top, mean, deviation, share = (v[:, None] for v in spread.unbind(1))
    seen = share > 0
    top, mean, deviation = (v / share.clamp(min=1e-6) for v in (top, mean, deviation))
    least = 0.1 * known[:, 2].sum((1, 2)) / enough.sum((1, 2)).clamp(min=1)
    scaled = (torch.minimum(image, top) - mean) / (torch.maximum(deviation, least.view(-1, 1, 1, 1)) + 1e-5 * top + 1e-12)
    return torch.where(seen, scaled, 0.0)


def evened(image: Tensor, spacing: float) -> Tensor:
    """Even out slow changes of brightness: each pixel over the mean of the tissue around it, in all channels.

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
    seen = foreground(image, spacing)
    parts = (q.mean(1, keepdim=True) for q in (image * seen, seen))
    total, share = (boxed(boxed(q, WINDOW, spacing), WINDOW, spacing) for q in parts)  # twice a box is a triangle
    mean = total / share.clamp(min=SPARSE)
    return image / (mean + 0.1 * mean.amax((1, 2, 3), keepdim=True) + 1e-12)
