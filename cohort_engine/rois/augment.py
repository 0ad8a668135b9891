"""Slices are varied as they are met again: scaled, stretched, moved, turned and mirrored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from cohort_engine.rois.config import IMAGE_ONLY, NONE, AugmentSection

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cohort_engine.rois.inputs import Window


class Variation(NamedTuple):
    """Where points of a window are taken from, (n, 2, 3) as `Window.take` has it, and which slices (n,) are mirrored."""

    move: Tensor
    mirrored: Tensor


def draw_variation(settings: AugmentSection, window: Window, r: torch.Generator) -> Variation:
    """Draw how each slice of a window is varied.

    As in the released code of the DTI study: the ratio of width to height is multiplied by the quotient of two factors; the longer side by the scale,
    and the other one follows; then the slice is put anywhere in its frame, or cut anywhere if it is larger.

    Examples
    --------
    >>> import torch
    >>> from cohort_engine.rois.inputs import Window
    >>> window = Window(torch.zeros(3, 2), (8, 8), torch.ones(2), torch.ones(2))
    >>> still = AugmentSection(scale=(1, 1), jitter=0, paste=False, flip="none")
    >>> draw_variation(still, window, torch.Generator().manual_seed(1)).move[0].abs().tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    import torch

    n, device = len(window.centre), window.centre.device

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=r, device=device)

    ratio = between(1 - settings.jitter, 1 + settings.jitter) / between(1 - settings.jitter, 1 + settings.jitter)
    size = torch.stack([ratio.clamp(max=1), (1 / ratio).clamp(max=1)], 1) * between(*settings.scale, 1)
    half = torch.tensor(window.shape, device=device) * window.spacing / 2
    shift = between(-1, 1, 2) * ((1 - size).abs() * half if settings.paste else 0.0)
    shift = shift + between(-1, 1, 2) * settings.shift
    angle = torch.randn(n, generator=r, device=device) * math.radians(settings.turn)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1) / size[:, :, None]
    move = torch.cat([matrix, -(matrix @ shift[..., None])], 2)
    mirrored = (torch.rand(n, generator=r, device=device) < 0.5) & (settings.flip != NONE)
    return Variation(move, mirrored)


def mirror(maps: Tensor, channels: list[int]) -> Tensor:
    """Mirror maps (n, c, x, y) from left to right, and let channels take one another's place.

    Examples
    --------
    >>> import torch
    >>> mirror(torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]]), [1, 0]).squeeze().tolist()
    [[4.0, 3.0], [2.0, 1.0]]
    """
    return maps[:, channels].flip(2)


def take_varied(
    window: Window, image: Tensor, target: Tensor, how: Variation, settings: AugmentSection, channels: list[int], outputs: list[int]
) -> tuple[Tensor, Tensor]:
    """Sample a batch as it is varied: slices are mirrored first, and moved then; the drawn regions with them, or not mirrored, as the settings say.

    Parameters
    ----------
    window : Window
    image, target : (n, c, x, y) tensor
        On the slices' pixels.
    how : Variation
    settings : AugmentSection
    channels, outputs : list of int
        Which channel takes which one's place in a mirrored slice, of the image and of the target.
    """
    import torch

    where = how.mirrored[:, None, None]
    turned = torch.where(where, how.move * torch.tensor([[-1.0], [1.0]], device=image.device), how.move)

    def exchanged(maps: Tensor, order: list[int]) -> Tensor:
        return maps if order == sorted(order) else torch.where(where[..., None], maps[:, order], maps)

    seen = exchanged(window.take(image, turned), channels)
    if settings.flip == IMAGE_ONLY:
        return seen, window.take(target, how.move)
    return seen, exchanged(window.take(target, turned), outputs)


def vary_values(image: Tensor, settings: AugmentSection, grey: list[bool], r: torch.Generator) -> Tensor:
    """Scale the channels that are `grey` values, each by its own factor, and add noise to them."""
    import torch

    if not (settings.gain or settings.noise):
        return image
    n, device = len(image), image.device
    only = torch.tensor(grey, dtype=image.dtype, device=device)[:, None, None]
    gain = settings.gain * torch.randn((n, len(grey), 1, 1), generator=r, device=device)
    noise = settings.noise * torch.rand((n, len(grey), 1, 1), generator=r, device=device) * torch.randn(image.shape, generator=r, device=device)
    return image + only * (gain * image + noise)
