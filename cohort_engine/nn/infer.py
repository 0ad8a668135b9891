"""Inference: slices onto a network's pixels, through it, and back."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import warn
from cohort_engine.nn.image import local_scale, robust_scale

if TYPE_CHECKING:
    from torch import Tensor, nn

PIXELS = 64 * 64 * 32
"""Pixels of a batch on a CPU: bounds the memory, and is quickest."""
PIXELS_GPU = 64 * 64 * 1024
"""The same on a GPU: all windows of an image at once. It is halved where that does not fit, for as long as the process lives."""
NEIGHBOUR = 0.7
"""The slices above and below are at least about this far away, mm."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network ready to use.

    Attributes
    ----------
    module : nn.Module
        From `unet.for_inference`.
    size : int
        Pixels a side it was trained with.
    spacing : float
        Pixel size, mm.
    multiple : int
        Sides must be multiples of this.
    sign : float
        What the scaled grey values are multiplied by.
    """

    module: nn.Module
    size: int
    spacing: float
    multiple: int
    sign: float = 1.0

    @property
    def negative(self) -> Network:
        """The same network, which sees bright and dark the other way round."""
        return replace(self, sign=-self.sign)

    def wide(self, slices: Tensor) -> Tensor:
        """Probabilities of slices wider than in training: each pixel is scaled by what is as near as it was there."""
        return self(slices, lambda part: local_scale(part, self.spacing, self.size * self.spacing))

    def __call__(self, slices: Tensor, scale: Callable[[Tensor], Tensor] = robust_scale) -> Tensor:
        """Probabilities (n, output, y, x), float32 on the CPU, of slices (n, 3, y, x) that are not scaled yet; any size.

        Where the memory of a GPU does not hold a batch, half of it is tried, and at last the CPU, in float32: what it gave up is told.
        """
        import torch

        height, width = slices.shape[2:]
        pad = [max(self.size, -(-side // self.multiple) * self.multiple) - side for side in (width, height)]
        border = [p for side in pad for p in (side // 2, side - side // 2)]
        pixels = (height + pad[1]) * (width + pad[0])
        out: list[Tensor] = []
        first, module = 0, self.module
        with torch.inference_mode():
            while first < len(slices):
                device = next(module.parameters()).device.type
                step = max(1, _room(device) // pixels)
                part = slices[first : first + step]
                try:
                    y = _run(module, part, border, lambda x: self.sign * scale(x))
                except torch.OutOfMemoryError:
                    if device == "cuda":
                        torch.cuda.empty_cache()
                    if len(part) > 1:
                        ROOM[device] = pixels * (len(part) // 2)
                        continue
                    if module is not self.module or not _lower(module):
                        raise
                    warn("computed on the CPU, since not even one slice fits into the memory of the GPU", where="network")
                    module = self._spare
                    continue
                out.append(y[:, :, border[2] : border[2] + height, border[0] : border[0] + width].float().sigmoid().cpu())
                first += len(part)
        return torch.cat(out)

    @cached_property
    def _spare(self) -> nn.Module:
        """The same network on the CPU."""
        import torch

        return deepcopy(self.module).to("cpu", torch.float32)


ROOM: dict[str, int] = {}
"""Pixels of a batch that fit, by kind of device, where they were found to be fewer than is tried first."""


def _room(device: str) -> int:
    return ROOM.get(device, PIXELS if device == "cpu" else PIXELS_GPU)


def _lower(module: nn.Module) -> bool:
    """Whether a network is anywhere but on the CPU in float32, where it can go."""
    import torch

    parameter = next(module.parameters())
    return bool(parameter.device.type != "cpu" or parameter.dtype != torch.float32)


def _run(module: nn.Module, slices: Tensor, border: list[int], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Pad and scale slices and send them through a network, where that is; a copy to a GPU does not wait for what is computed there."""
    import torch

    parameter = next(module.parameters())
    if parameter.device.type == "cuda":
        slices = slices.contiguous().pin_memory().to(parameter.device, non_blocking=True)  # not a view of fewer values, which cannot be pinned
    x = torch.nn.functional.pad(scale(slices), border)
    out: Tensor = module(x.to(parameter.dtype).contiguous(memory_format=torch.channels_last))
    return out


def resampling(source: int, source_spacing: float, target: Tensor, target_spacing: float) -> Tensor:
    """Matrix (..., target, source) that brings samples onto other positions along one axis.

    A target takes the mean over its own width, or over a source's where that is wider (which is linear interpolation). Beyond the first
    and last source there is nothing: a row sums to less than one there.

    Parameters
    ----------
    source : int
        Samples, at 0, 1, 2 ... times `source_spacing`.
    source_spacing, target_spacing : float
        mm.
    target : (..., target) tensor
        Positions, mm.

    Examples
    --------
    >>> import torch
    >>> resampling(3, 1.0, torch.tensor([0.5, 1.0, 9.0]), 0.5).tolist()
    [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    import torch

    width = max(source_spacing, target_spacing)
    at = torch.arange(source, dtype=torch.float32) * source_spacing
    gap = (target[..., None] - at).abs()
    return ((width + source_spacing) / 2 - gap).clamp(0, min(width, source_spacing)) / width


def neighbours(data: NDArray[Any], slices: NDArray[np.int64], gap: float) -> Tensor:
    """Slices (n, 3, x, y), below, here and above, of a volume (x, y, z); the first and last slice are their own neighbours."""
    import torch

    step = max(1, round(NEIGHBOUR / gap))
    index = np.clip(slices[:, None] + np.array([-step, 0, step]), 0, data.shape[2] - 1)
    used, where = np.unique(index, return_inverse=True)
    stack = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data[:, :, used], 2, 0), np.float32))
    return stack[torch.from_numpy(where.reshape(index.shape))]
