"""Random numbers of a batch of samples: a function of its seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Draw:
    """Random numbers of one batch, shaped for broadcasting over (n, slice, sub-slice, y, x)."""

    def __init__(self, seed: int, n: int, device: torch.device) -> None:
        import torch

        self.torch, self.n, self.device = torch, n, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        u = self.torch.rand((self.n, *(shape or (1, 1, 1, 1))), generator=self.generator, device=self.device)
        return u * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return self.torch.randn((self.n, *(shape or (1, 1, 1, 1))), generator=self.generator, device=self.device)

    def yes(self, odds: float) -> Tensor:
        return (self.uniform(0, 1) < odds).float()

    def sign(self) -> Tensor:
        return self.yes(0.5) * 2 - 1

    def scalar(self, low: float, high: float) -> float:
        """One number for the whole batch."""
        return low + (high - low) * float(self.torch.rand((), generator=self.generator, device=self.device))

    def field(self, size: int, cells: float, *, drift: float = 0.5) -> Tensor:
        """Smooth random field (n, 3, 1, y, x), about unit variance, `cells` knots a side; neighbours differ by `drift`."""
        torch, c = self.torch, max(2, min(size, round(cells)))
        middle, slope = self.normal(1, c, c), self.normal(1, c, c) * drift
        knots = torch.cat([middle - slope, middle, middle + slope], 1)
        if c < size:
            knots = torch.nn.functional.interpolate(knots, size=(size, size), mode="bilinear", align_corners=True)
        out: Tensor = knots[:, :, None]
        return out
