"""A small U-Net for slices, and its form for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SLICES = 3
"""Input channels: the slice below, the slice itself, the slice above."""


def unet(channels: Sequence[int], outputs: int, *, inputs: int = SLICES) -> nn.Module:
    """Build a U-Net: two 3 x 3 convolutions a level, max pooling down, nearest neighbour up, logits out.

    Parameters
    ----------
    channels : sequence of int
        Width of each level. Multiples of 16 are quickest. A side of the input must be a multiple of ``2 ** (len(channels) - 1)``.
    outputs, inputs : int
        Channels.

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
            below = [inputs, *channels]
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
    """Build a network for inference: batch normalisation folded into the convolutions, channels last, no gradients.

    On the way up nothing is enlarged and put beside: see `rising`. Probabilities are those of `unet` to 1e-5.
    """
    import torch
    from torch import nn
    from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d, relu_
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net: Any = unet(channels, outputs)
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    net.eval().requires_grad_(False)
    for block in (m for m in net.modules() if isinstance(m, nn.Sequential)):
        for i in (0, 3):
            block[i] = fuse_conv_bn_eval(block[i], block[i + 1])  # type: ignore[type-var,arg-type]
            block[i + 1] = nn.Identity()

    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.head = net.down, net.head
            self.second = nn.ModuleList(nn.Sequential(up[3], up[5]) for up in net.up)
            for i, up in enumerate(net.up):
                below, beside = rising(up[0].weight)
                for name, tensor in (("below", below), ("beside", beside), ("bias", up[0].bias.detach())):
                    self.register_buffer(f"{name}_{i}", tensor)

        def forward(self, x: Tensor) -> Tensor:
            kept: list[Tensor] = []
            for i, down in enumerate(self.down):
                x = down(max_pool2d(x, 2) if i else x)
                kept.append(x)
            for i, (second, beside) in enumerate(zip(self.second, kept[-2::-1], strict=True)):
                first = conv2d(beside, self.get_buffer(f"beside_{i}"), self.get_buffer(f"bias_{i}"), padding=1)
                first += conv_transpose2d(x, self.get_buffer(f"below_{i}"), stride=2, padding=1)
                x = second(relu_(first))
            logits: Tensor = self.head(x)
            return logits

    placed: nn.Module = Inference().to(  # type: ignore[call-overload]
        torch.device(device), dtype or torch.float32, memory_format=torch.channels_last
    )
    return placed


def rising(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Split the kernel of a convolution of two things beside one another, of which the first is enlarged by repeating every pixel in x and y.

    Neighbours of an enlarged pixel are mostly the same pixel. The sum of their weights, one kernel for each of the four places of a small pixel in a
    large one, is a transposed convolution of stride 2 over the small image: 4 products a pixel instead of 9, and nothing is copied.

    Parameters
    ----------
    kernel : (width, small + width, 3, 3) tensor

    Returns
    -------
    below : (small, width, 4, 4) tensor
        Kernel of ``conv_transpose2d(..., stride=2, padding=1)`` over the image that is not enlarged.
    beside : (width, width, 3, 3) tensor
        Kernel over the rest.

    Examples
    --------
    >>> import torch
    >>> from torch.nn.functional import conv2d, conv_transpose2d, interpolate
    >>> kernel, small, large = torch.arange(54.0).view(2, 3, 3, 3), torch.arange(6.0).view(1, 1, 2, 3), torch.ones(1, 2, 4, 6)
    >>> below, beside = rising(kernel)
    >>> whole = conv2d(torch.cat([interpolate(small, scale_factor=2.0), large], 1), kernel, padding=1)
    >>> torch.equal(whole, conv_transpose2d(small, below, stride=2, padding=1) + conv2d(large, beside, padding=1))
    True
    """
    import torch

    small = kernel.shape[1] - kernel.shape[0]
    # the four places of the transposed kernel, each the sum of these of the three weights
    sums = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
    below = torch.einsum("pi,qj,oaij->aopq", sums, sums, kernel[:, :small].double()).to(kernel.dtype)
    return below.contiguous(), kernel[:, small:].contiguous()
