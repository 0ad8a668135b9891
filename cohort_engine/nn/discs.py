"""Training of the network of the discs: where discs lie on a strip, and which number each row is near to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cohort_engine.nn import strips
from cohort_engine.nn.synth import Batch
from cohort_engine.nn.train import HELD_OUT, Net, Run, TrainingConfig, cross_entropy_and_dice, odds_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FOUND = 0.5
"""A row is named right where the likeliest coordinate is less than this from the truth."""


class StripNet(Net):
    """A network of strips."""

    channels: tuple[int, ...] = (16, 24, 32, 48, 64, 64)
    """Width of each level of the U-Net."""
    size: int = 192
    """Rows of a training strip."""
    spacing: float = 1.0
    """Distance of rows, mm."""

    @property
    def outputs(self) -> int:
        """Heat map, and a score for each number a row can be near to."""
        return 1 + strips.STATES


class DiscTraining(TrainingConfig):
    """Training of the network of the discs."""

    nets: dict[str, StripNet]
    """One network: ``discs``."""
    batch: int = 16


class DiscRun(Run):
    """The network of the discs in training.

    Parameters
    ----------
    config : DiscTraining
    name : str
    spine : Spine

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> config = DiscTraining(nets={"discs": {"size": 64, "channels": (8, 16), "steps": 4}}, batch=2, half=False, device="cpu")
    >>> run = DiscRun(config, "discs", strips.spine_of(parametric_cord(spacing=2.0)))
    >>> losses = [run.advance() for _ in range(4)]
    >>> run.step, all(0 < x < 9 for x in losses)
    (4, True)
    """

    net_config: StripNet

    def __init__(self, config: DiscTraining, name: str, spine: strips.Spine) -> None:
        net = config.nets[name]
        odds = odds_of(strips.StripOdds, net.odds, where=f"nets.{name}.odds")
        super().__init__(config, name, lambda device: strips.StripGenerator(spine, net.size, odds, device=device))

    def vary(self, batch: Batch, r: torch.Generator) -> Batch:
        """Invert, scale and roughen the grey values; forget or roughen the area."""
        torch, (image, label), n = self.torch, batch, len(batch.image)

        def normal(*shape: int) -> Tensor:
            out: Tensor = torch.randn((n, *shape), generator=r, device=self.device)
            return out

        def uniform() -> Tensor:
            out: Tensor = torch.rand((n, 1, 1, 1), generator=r, device=self.device)
            return out

        grey, area, mask = (image[:, k : k + 1] for k in range(3))
        grey = torch.where(uniform() < 0.05, -grey, grey) * (1 + 0.15 * normal(1, 1, 1)) + 0.1 * normal(1, 1, 1)
        grey = grey + normal(*grey.shape[1:]) * uniform() ** 3 * 0.5
        known = (uniform() >= 0.1).float()
        area = (area + (0.1 * normal(1, 1, 1) + 0.05 * normal(1, area.shape[2], 1)) * mask) * known
        return Batch(torch.cat([grey, area, mask], 1), label)

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Cross entropy and soft Dice of the heat map, and cross entropy of the numbers next to each row."""
        heat = 3 * cross_entropy_and_dice(logits[:, :1], label[:, :1], 0.3)
        score = logits[:, 1:].mean(-1).log_softmax(1)
        along, seen = self._along(label)
        low = along.floor().clamp(max=strips.STATES - 2)
        part = along - low
        below, above = (score.gather(1, k.long()[:, None])[:, 0] for k in (low, low + 1))
        wrong = -((1 - part) * below + part * above)
        return heat + 0.5 * (wrong * seen).sum() / seen.sum().clamp(min=1)

    def validate(self, blocks: int = 12) -> dict[str, float]:
        """Soft Dice of the heat map, and share of rows whose number is right."""
        torch = self.torch
        number = torch.arange(strips.STATES, device=self.device, dtype=torch.float32).view(1, -1, 1)
        overlap = size = right = seen = 0.0
        self.mean.eval()
        with torch.no_grad():
            for k in range(blocks):
                image, label = self.block(HELD_OUT + k)
                out = self.mean(image.contiguous(memory_format=torch.channels_last))
                p, q = out[:, :1].sigmoid(), label[:, :1]
                overlap, size = overlap + float((p * q).sum()), size + float((p * p).sum() + (q * q).sum())
                along, mask = self._along(label)
                chance = out[:, 1:].mean(-1).softmax(1)
                top = chance.argmax(1, keepdim=True)
                near = (number - top).abs() <= 1
                mean = (chance * near * number).sum(1) / (chance * near).sum(1)
                right, seen = right + float((((mean - along).abs() < FOUND) * mask).sum()), seen + float(mask.sum())
        return {"dice": 2 * overlap / max(size, 1e-9), "named": right / max(seen, 1.0)}

    def _along(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinate of each row (n, row), and 1 where it counts."""
        along = label[:, 1, :, 0]
        return along.clamp(min=0), (along != strips.IGNORED).float()
