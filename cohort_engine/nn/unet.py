"""A small U-Net for slices, and its form for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SLICES = 3
"""Input channels: the slice below, the slice itself, the slice above."""


def unet(channels: Sequence[int], outputs: int) -> nn.Module:
    """Build a U-Net: two 3 x 3 convolutions a level, max pooling down, nearest neighbour up, logits out.

    Parameters
    ----------
    channels : sequence of int
        Width of each level. Multiples of 16 are quickest. A side of the input must be a multiple of ``2 ** (len(channels) - 1)``.
    outputs : int

    Examples
    --------
    >>> import torch
    >>> tuple(unet((8, 16), 2)(torch.zeros(1, 3, 16, 16)).shape)
    (1, 2, 16, 16)
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate, max_pool2d

    def block(inputs: int, width: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for n in (inputs, width):
            parts += [nn.Conv2d(n, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            below = [SLICES, *channels]
            self.down = nn.ModuleList(block(a, b) for a, b in zip(below, channels, strict=False))
            self.up = nn.ModuleList(block(a + b, b) for a, b in zip(channels[:0:-1], channels[-2::-1], strict=True))
            self.head = nn.Conv2d(channels[0], outputs, 1)

        def forward(self, x: Tensor) -> Tensor:
            kept: list[Tensor] = []
            for i, down in enumerate(self.down):
                x = down(max_pool2d(x, 2) if i else x)
                kept.append(x)
            for up, beside in zip(self.up, kept[-2::-1], strict=True):
                x = up(torch.cat([interpolate(x, scale_factor=2.0), beside], 1))
            logits: Tensor = self.head(x)
            return logits

    return UNet()


def seeded(channels: Sequence[int], outputs: int, seed: int) -> nn.Module:
    """Build a U-Net with initial weights that are a function of the seed; the global random state stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return unet(channels, outputs)


def for_inference(weights: Mapping[str, Tensor], channels: Sequence[int], outputs: int, *, device: str = "cpu", dtype: Any = None) -> nn.Module:
    """Build a network for inference: batch normalisation folded into the convolutions, channels last, no gradients."""
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = unet(channels, outputs)
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    net.eval().requires_grad_(False)
    for block in (m for m in net.modules() if isinstance(m, nn.Sequential)):
        for i in (0, 3):
            block[i] = fuse_conv_bn_eval(block[i], block[i + 1])  # type: ignore[type-var,arg-type]
            block[i + 1] = nn.Identity()
    placed: nn.Module = net.to(torch.device(device), dtype or torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
