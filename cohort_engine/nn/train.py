"""Training on synthetic samples: seeded step by step, so that a run that was interrupted ends in the same bits.

Step t trains on samples drawn from the newest blocks of a ring; block b is `Generator.batch` with a seed made of b, and what is drawn at
step t with a seed made of t. So the state of a run is its step number, network, average and optimiser: there is no hidden random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from cohort_engine.config import Section
from cohort_engine.errors import ConfigError
from cohort_engine.nn import synth
from cohort_engine.nn.checkpoint import device_named, flat_state, load_state
from cohort_engine.nn.unet import seeded

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cohort_engine.nn.anatomy import Anatomy

RING = 40
"""Blocks that samples are drawn from."""
WARM_UP = 200
"""Steps in which the rate rises, at most a tenth of all."""
HELD_OUT = 1 << 40
"""Block numbers from here on are never trained on."""
HEAD_BIAS = "head.bias"
"""Constants of a network's outputs."""
HEAD = ("head.weight", HEAD_BIAS)
"""Weights that have a row an output."""
CALIBRATION = 1 << 20
"""Blocks from here on beyond `HELD_OUT` settle the constant of `Training.finish`."""
_STRIDE = 1_000_003


class Net(Section):
    """One network: how wide it is and how long it learns."""

    channels: tuple[int, ...] = (16, 32, 64, 96, 128)
    """Width of each level of the U-Net."""
    steps: int = Field(ge=1)
    """Optimiser steps."""
    cool: float = Field(default=0.3, gt=0, le=1)
    """Last part of the steps, in which the rate falls to zero."""
    odds: dict[str, float] = Field(default_factory=dict)
    """How often something happens in a sample, where it is not the default; see the generator's odds."""
    origin: str | None = None
    """Which network of the training's `start` it goes on from; by default the one of its own name."""

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return 1


class NetConfig(Net):
    """A network of the cord: what it sees."""

    size: int = 64
    """Pixels a side of a training sample."""
    spacing: float = Field(gt=0)
    """Pixel size, mm."""
    jitter: float = Field(ge=0)
    """Distance of the cord from the middle of a sample, at most, in x and y, mm."""
    heat: bool = False
    """Output after the cord: a heat map of its centre."""
    grey: bool = False
    """Last output: grey matter."""

    @property
    def outputs(self) -> int:
        return 1 + self.heat + self.grey

    @property
    def frame(self) -> synth.Frame:
        return synth.Frame(self.size, self.spacing, self.jitter)


class TrainTemplate(Section):
    """Template whose label maps are drawn from."""

    name: str = "PAM50"
    """``PAM50``, or the built-in ``parametric`` cord."""
    path: str | None = None
    """Folder of PAM50; by default ``$COHORT_ENGINE_PAM50`` or the installed copy."""


class TrainingConfig(Section):
    """How networks are trained; files in configs/training/."""

    nets: Mapping[str, Net]
    """The networks by name."""
    template: TrainTemplate = TrainTemplate()
    """Where samples come from."""
    seed: int = 1
    """Everything random follows from it."""
    device: str = "auto"
    """``auto`` is the GPU where there is one, else the CPU."""
    threads: int = Field(default=1, ge=1)
    """CPU threads."""
    half: bool = True
    """Multiply in bfloat16."""
    batch: int = Field(default=32, ge=2)
    """Samples a step and a block."""
    reuse: int = Field(default=2, ge=1)
    """Steps for each new block: how often a sample is seen on average."""
    rate: float = Field(default=2e-3, gt=0)
    """Learning rate after the warm-up."""
    average: float = Field(default=0.999, gt=0, lt=1)
    """Decay of the moving average of weights, which is what is exported."""
    start: str | None = None
    """Weights to go on from: ``package``, or the folder of an earlier training; by default random ones."""
    keep: float = Field(default=0.0, ge=0, lt=1)
    """Share of the weights to go on from that is kept in the end: what is exported is this mean of both, which forgets less of what they knew."""


class CordTraining(TrainingConfig):
    """Training of the cord networks."""

    nets: dict[str, NetConfig]
    """The networks by name: ``coarse`` finds the cord, ``fine`` draws its border."""


def odds_of(kind: type[Any], given: Mapping[str, float], *, where: str) -> Any:
    """Make a generator's odds of a configuration's; an error names those that there are."""
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(
            expected=f"odds of {', '.join(kind.__dataclass_fields__)}",
            found=", ".join(given),
            where=where,
            remedy="See nn/synth.py and nn/strips.py.",
        ) from error


class Source(Protocol):
    """Where blocks of samples come from."""

    def batch(self, n: int, seed: int) -> synth.Batch:
        """Draw `n` samples, a function of the seed."""
        ...


class Run:
    """One network in training: all but what it sees and how it is judged.

    Parameters
    ----------
    config : TrainingConfig
    name : str
        Which of its networks.
    source : callable
        Makes the generator, given the device.
    """

    config: TrainingConfig
    net_config: Net

    def __init__(self, config: TrainingConfig, name: str, source: Callable[[str], Source]) -> None:
        import torch

        self.torch, self.config, self.net_config = torch, config, config.nets[name]
        self.device = torch.device(device_named(config.device))
        self.generator = source(str(self.device))
        self.net = self._build()
        self.mean = self._build().requires_grad_(False)
        self.mean.load_state_dict(self.net.state_dict())
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=config.rate, weight_decay=1e-4)
        self.step, self._made = 0, 0
        self.start: str | None = None
        self.before: dict[str, Tensor] = {}
        self.shift = 0.0
        self._ring: list[synth.Batch] = []

    def begin(self, weights: Mapping[str, Tensor], content: str) -> None:
        """Start from these weights instead of random ones; `content` is their hash. Outputs that they lack keep their random weights."""
        for net in (self.net, self.mean):
            own = net.state_dict()
            given = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
            for key in HEAD:
                if key in given:
                    given[key] = self.torch.cat([given[key].to(self.device), own[key][len(given[key]) :]])
            net.load_state_dict(given)
        self.before = {k: v.clone() for k, v in self.mean.state_dict().items()}
        self.start = content

    def blend(self) -> None:
        """Go back part of the way to the weights that the training started from, as the configuration says."""
        with self.torch.no_grad():
            for key, now in self.mean.state_dict().items():
                if key in self.before and now.is_floating_point():
                    now.lerp_(self.before[key], self.config.keep)

    def _build(self) -> nn.Module:
        net = seeded(self.net_config.channels, self.net_config.outputs, self.config.seed)
        placed: nn.Module = net.to(self.device, memory_format=self.torch.channels_last)  # type: ignore[call-overload]
        return placed

    def block(self, number: int) -> synth.Batch:
        """Return a block of samples; numbers from `HELD_OUT` on are for validation."""
        return self.generator.batch(self.config.batch, self.config.seed * _STRIDE + number)

    def _blocks(self) -> list[synth.Batch]:
        """Blocks in the ring at this step; after a restart they are drawn again."""
        newest = RING // 4 + self.step // self.config.reuse
        for number in range(max(self._made, newest - RING + 1), newest + 1):
            self._ring.append(synth.Batch(*(t.half() for t in self.block(number))))
            self._made = number + 1
        del self._ring[:-RING]
        return self._ring

    def _samples(self) -> synth.Batch:
        """Draw a batch from the ring, and vary it at little cost."""
        torch, n = self.torch, self.config.batch
        r = torch.Generator(self.device).manual_seed(self.config.seed * _STRIDE + self.step)
        ring = self._blocks()
        pick = torch.randint(len(ring) * n, (n,), generator=r, device=self.device).tolist()
        image, label = (torch.stack([ring[i // n][k][i % n] for i in pick]).float() for k in (0, 1))

        return self.vary(synth.Batch(image, label), r)

    def vary(self, batch: synth.Batch, r: torch.Generator) -> synth.Batch:
        """Vary samples at little cost, as they are met again."""
        raise NotImplementedError

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return what is made small."""
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Scores of the averaged network on held-out samples."""
        raise NotImplementedError

    def rate(self) -> float:
        """Learning rate of this step: a warm-up, a plateau, and a linear fall over the last part."""
        total, cool = self.net_config.steps, self.net_config.cool
        return self.config.rate * min(1.0, (self.step + 1) / min(WARM_UP, 0.1 * total), max(0.0, (total - self.step) / (cool * total)))

    def advance(self) -> float:
        """Make one step and return its loss."""
        torch = self.torch
        image, label = self._samples()
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.half):
            logits = self.net(image.contiguous(memory_format=torch.channels_last))
        loss = self.loss(logits.float(), label)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - keep)
                else:
                    mean.copy_(now)
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """All of the run, flat: what `restore` takes."""
        return flat_state(self.net, self.mean, self.optimiser) | {"step": self.torch.tensor(self.step)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        load_state(state, self.net, self.mean, self.optimiser)
        self.step, self._made = int(state["step"]), 0
        self._ring = []

    def describe(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Say what these weights are: what a network is built from, and how far its training went."""
        config, net = self.config, self.net_config
        facts = config.model_dump(include={"seed", "batch", "reuse", "rate", "average", "half", "keep"})
        made = config.batch * (RING // 4 + 1 + self.step // config.reuse)
        return {
            **net.model_dump(mode="json"), "outputs": net.outputs, "template": config.template.name, **facts, "step": self.step,
            "start": self.start, "shift": round(self.shift, 4), "samples": made, "device": self.device.type,
            "held_out": {k: round(v, 4) for k, v in scores.items()},
        }  # fmt: skip

    def finish(self) -> None:
        """Put right what training leaves wrong on average, once all steps are made."""

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights for the package, in bfloat16."""
        return {k: (v.to(self.torch.bfloat16) if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in self.mean.state_dict().items()}


class Training(Run):
    """A network of the cord in training.

    Parameters
    ----------
    config : CordTraining
    name : str
        Which of its networks.
    anatomy : Anatomy

    Examples
    --------
    >>> from cohort_engine.nn.anatomy import anatomy_of
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> net = {"size": 32, "spacing": 1.0, "jitter": 4.0, "channels": (8, 16), "steps": 4}
    >>> config = CordTraining(nets={"fine": net}, batch=2, half=False, device="cpu")
    >>> run = Training(config, "fine", anatomy_of(parametric_cord(spacing=1.0, top="C3", bottom="C4")))
    >>> losses = [run.advance() for _ in range(4)]
    >>> run.step, all(0 < x < 3 for x in losses)
    (4, True)
    """

    net_config: NetConfig

    def __init__(self, config: CordTraining, name: str, anatomy: Anatomy) -> None:
        net = config.nets[name]
        odds = odds_of(synth.Odds, net.odds, where=f"nets.{name}.odds")
        super().__init__(config, name, lambda device: synth.Generator(anatomy, net.frame, odds, device=device))

    def vary(self, batch: synth.Batch, r: torch.Generator) -> synth.Batch:
        """Mirror, swap, invert, scale and roughen samples."""
        torch, (image, label), n = self.torch, batch, len(batch.image)

        def yes(odds: float) -> Tensor:
            out: Tensor = torch.rand((n, 1, 1, 1), generator=r, device=self.device) < odds
            return out

        mirrored = yes(0.5)
        image, label = torch.where(mirrored, image.flip(-1), image), torch.where(mirrored, label.flip(-1), label)
        image = torch.where(yes(0.3), image.flip(1), image)
        image = torch.where(yes(0.1), -image, image)
        gain = 1 + 0.15 * torch.randn((n, 1, 1, 1), generator=r, device=self.device)
        image = image * gain + 0.1 * torch.randn((n, 1, 1, 1), generator=r, device=self.device)
        noise = torch.randn(image.shape, generator=r, device=self.device)
        return synth.Batch(image + noise * torch.rand((n, 1, 1, 1), generator=r, device=self.device) ** 3 * 0.2, label)

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Cross entropy and soft Dice of the cord, and of the heat map and grey matter where the network draws them."""
        cord, grey = label[:, :1], label[:, 1:]
        total = cross_entropy_and_dice(logits[:, :1], cord, 1.0)
        if self.net_config.heat:
            total = total + cross_entropy_and_dice(logits[:, 1:2], synth.heat_map(cord, self.net_config.spacing), 0.5)
        if self.net_config.grey:
            total = total + 0.5 * cross_entropy_and_dice(logits[:, -1:], grey, 1.0)
        return total

    def finish(self, blocks: int = 12) -> None:
        """Shift the logits of the cord by a constant, so that on held-out samples as much lies above a half as there is cord.

        Of the network that draws the border; the one that finds the cord stays as it is. The samples are not those of `validate`.
        """
        if self.net_config.heat:
            return
        torch = self.torch
        self.mean.eval()
        logits, total = [], 0.0
        with torch.no_grad():
            for number in range(blocks):
                image, label = self.block(HELD_OUT + CALIBRATION + number)
                label = label[:, :1]
                there = label.sum((1, 2, 3)) * self.net_config.spacing**2 > synth.CUT
                logits.append(self.mean(image.contiguous(memory_format=torch.channels_last))[there, :1].flatten())
                total += float((label[there] > 0.5).sum())
            drawn = torch.cat(logits).sort(descending=True).values
            self.shift = -float(drawn[min(len(drawn) - 1, round(total))])
            dict(self.mean.named_parameters())[HEAD_BIAS][0] += self.shift

    def validate(self, blocks: int = 6) -> dict[str, float]:
        """Scores of the averaged network on held-out samples: mean Dice of the slices with a cord, area bias (%), false cords (share).

        And, where it draws grey matter, mean Dice of that.
        """
        torch = self.torch
        dice, grey, drawn, true, false, empty = [], [], 0.0, 0.0, 0, 0
        self.mean.eval()
        with torch.no_grad():
            for number in range(blocks):
                image, label = self.block(HELD_OUT + number)
                logits = self.mean(image.contiguous(memory_format=torch.channels_last))
                if self.net_config.grey:
                    grey += _overlap(logits[:, -1:] > 0, label[:, 1:] > 0.5)
                label = label[:, :1]
                p, q = logits[:, :1] > 0, label > 0.5
                size = q.sum((1, 2, 3))
                there = size * self.net_config.spacing**2 > synth.CUT
                dice += _overlap(p[there], q[there])
                drawn, true = drawn + float(p[there].sum()), true + float(q[there].sum())
                none = label.sum((1, 2, 3)) == 0
                empty, false = empty + int(none.sum()), false + int((p.sum((1, 2, 3))[none] * self.net_config.spacing**2 > synth.CUT).sum())
        scores = {"dice": math.fsum(dice) / max(1, len(dice)), "bias": 100 * (drawn / max(true, 1e-9) - 1), "false": false / max(1, empty)}
        return scores | ({"grey": math.fsum(grey) / max(1, len(grey))} if self.net_config.grey else {})


def _overlap(p: Tensor, q: Tensor) -> list[float]:
    """Dice of the samples (n, 1, y, x) in which there is something."""
    both, size = 2 * (p & q).sum((1, 2, 3)), q.sum((1, 2, 3))
    out: list[float] = (both / (p.sum((1, 2, 3)) + size).clamp(min=1))[size > 0].tolist()
    return out


def cross_entropy_and_dice(logits: Tensor, target: Tensor, weight: float) -> Tensor:
    """Mean cross entropy of logits (n, 1, ...) with a soft target, plus `weight` times one minus the soft Dice."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    p = logits.sigmoid()
    overlap, size = 2 * (p * target).sum((1, 2, 3)) + 1, (p * p).sum((1, 2, 3)) + (target * target).sum((1, 2, 3)) + 1
    return binary_cross_entropy_with_logits(logits, target) + weight * (1 - (overlap / size).mean())
