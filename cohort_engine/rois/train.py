"""Train a network of the regions on drawn slices, and use it. Every epoch is a function of the seed and its number: a run goes on where it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import ConfigError, InputError, StorageError, optional
from cohort_engine.nn import losses, weights
from cohort_engine.nn.checkpoint import KEY, device_named, flat_state, load_state, load_tensors, save_tensors
from cohort_engine.nn.encoders import encoder_unet, load_encoder
from cohort_engine.nn.unet import unet
from cohort_engine.nn.weights import DESCRIPTION
from cohort_engine.provenance import digest
from cohort_engine.rois.augment import draw_variation, mirror, take_varied, vary_values
from cohort_engine.rois.config import DICE, HDL, HYBRID, PATIENT, PRIOR, SMALL, RoiTraining, check_apart, folds
from cohort_engine.rois.inputs import channels_of, mirrored_channels, window_of
from cohort_engine.rois.midline import sided
from cohort_engine.rois.slices import RoiSlices, joined, marks
from cohort_engine.rois.targets import heat_maps, with_background
from cohort_engine.rois.thresholds import above, against, best_sides, best_thresholds

if TYPE_CHECKING:
    from torch import Tensor, nn

TASK: Final = weights.ROIS
FILE: Final = f"{TASK}.safetensors"
CHECKPOINT: Final = f"{TASK}.ckpt"
_STRIDE = 1_000_003
_NO_MATTER: Final = {"threads", "device", "members", "threshold", "wrong_side", "midline", "mirror", "fill"}
"""What one network in training does not depend on."""
BATCH: Final = 64
"""Slices at a time where nothing is learnt."""

Say = Callable[[dict[str, Any]], None]


def build(config: RoiTraining) -> nn.Module:
    """Build the network of a configuration with its initial weights."""
    import torch
    from torch import nn

    net, outputs = config.net, len(schema.PARTS) + 1 if config.net.symmetric else config.outputs
    if net.encoder == SMALL:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            inner = unet(net.channels, outputs, inputs=config.inputs)
    else:
        inner = encoder_unet(net.encoder, config.inputs, outputs, width=net.width, seed=config.seed)
        if net.weights is not None:
            load_encoder(inner, net.weights)
    if not net.symmetric:
        return inner
    if not config.loss.shares:
        raise ConfigError(
            expected="a loss of shares with net.symmetric", found=config.loss.kind, where="training of the regions",
            remedy="The symmetric network gives a background, too: give loss.output: softmax9, or another loss.",
        )  # fmt: skip
    exchange, parts = mirrored_channels(config.input), len(schema.PARTS)

    class Symmetric(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.inner(torch.cat([x, mirror(x, exchange)])).chunk(2)
            right = right.flip(2)
            return torch.cat([left[:, :parts], right[:, :parts], (left[:, parts:] + right[:, parts:]) / 2], 1)

    return Symmetric()


def targets_of(slices: RoiSlices, config: RoiTraining) -> NDArray[np.float32]:
    """Draw what the network is to give (n, output, x, y), on the slices' own pixels."""
    loss = config.loss
    if loss.kind == HDL:
        regions = heat_maps(slices.drawn, slices.spacing, distance=loss.distance, sigma=loss.sigma)
    else:
        regions = slices.drawn.astype(np.float32)
    return with_background(regions) if loss.shares else regions


def _loss(config: RoiTraining, output: Tensor, target: Tensor) -> Tensor:
    kind, reduction = config.loss.kind, config.loss.reduction
    if config.loss.shares:  # outside the slice there is background
        target = target / target.sum(1, keepdim=True).clamp(min=1e-6) if kind in (HYBRID, DICE) else target
    if kind == HYBRID:
        return losses.hybrid(output, target, reduction=reduction)
    if kind == DICE:
        return losses.soft_dice(output, target)
    return losses.distance_of_maps(output.softmax(1) if config.loss.shares else output, target, reduction=reduction)


def _batches(numbers: Tensor, size: int) -> list[Tensor]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


class RoiRun:
    """A network of the regions in training.

    Parameters
    ----------
    config : RoiTraining
    train, valid : RoiSlices
    """

    def __init__(self, config: RoiTraining, train: RoiSlices, valid: RoiSlices) -> None:
        import torch

        self.torch, self.config = torch, config
        self.device = device_named(config.device)
        self.net, self.mean = (build(config).to(self.device, memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
        self.mean.load_state_dict(self.net.state_dict())
        self.mean.requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=config.rate)
        self.parts = {name: self._part(slices) for name, slices in (("train", train), ("valid", valid))}
        self.exchange, self.outputs = mirrored_channels(config.input), [*schema.OTHER_SIDE, *range(len(schema.ROIS), config.outputs)]
        self.grey = [name != PRIOR for name in config.input.images for _ in range(len(schema.ROIS) if name == PRIOR else 1)]
        self.epoch, self.step, self.best = 0, 0, math.inf

    def _part(self, slices: RoiSlices) -> tuple[Tensor, Tensor, Any]:
        image, target = channels_of(slices, self.config.input), targets_of(slices, self.config)
        return self.torch.from_numpy(image), self.torch.from_numpy(target), window_of(slices, self.config.input)

    def rate(self, epoch: float) -> float:
        """Learning rate: it rises over the warm-up, falls along half a cosine, and stays at the least at the end."""
        c = self.config
        warm, tail = min(c.warm_up, 0.1 * c.epochs), min(c.tail, 0.2 * c.epochs)
        if epoch < warm:
            return c.rate * (0.1 + 0.9 * epoch / warm)
        part = min(1.0, (epoch - warm) / max(1e-9, c.epochs - warm - tail))
        return c.least + (c.rate - c.least) * 0.5 * (1 + math.cos(math.pi * part))

    def advance(self) -> float:
        """Make one epoch and return its mean loss."""
        torch, config = self.torch, self.config
        images, targets, window = self.parts["train"]
        r = torch.Generator().manual_seed(config.seed * _STRIDE + self.epoch)
        order = torch.randperm(len(images), generator=r)
        whole = max(1, len(order) // config.batch)  # a smaller batch at the end would upset batch normalisation
        batches = _batches(order[: whole * config.batch], config.batch)
        total = 0.0
        self.net.train()
        for i, chosen in enumerate(batches):
            frame = window.at(chosen)
            varied = draw_variation(config.augment, frame, r)
            image, target = take_varied(frame, images[chosen], targets[chosen], varied, config.augment, self.exchange, self.outputs)
            target = self._outside(target)
            image = vary_values(image, config.augment, self.grey, r)
            loss = self._loss(self.net, image, target)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(self.epoch + i / len(batches))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1e3)
            self.optimiser.step()
            self.step += 1
            if config.average:
                self._follow(min(config.average, (1 + self.step) / (10 + self.step)))
            total += float(loss.detach())
        self.epoch += 1
        return total / len(batches)

    def _outside(self, target: Tensor) -> Tensor:
        """Beyond the border of a slice there is background."""
        if self.config.loss.shares:
            rest = 1 - target[:, :-1].amax(1, keepdim=True)
            target = self.torch.cat([target[:, :-1], self.torch.where(target.sum(1, keepdim=True) < 0.5, rest, target[:, -1:])], 1)
        return target

    def _loss(self, net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        torch = self.torch
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.config.half):
            output = net(image.to(self.device).contiguous(memory_format=torch.channels_last))
        return _loss(self.config, output.float(), target.to(self.device))

    def _follow(self, keep: float) -> None:
        with self.torch.no_grad():
            for mean, now in zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - keep)
                else:
                    mean.copy_(now)

    def validate(self) -> float:
        """Mean loss of the validation slices, as they are; without an average, the best weights so far are kept."""
        images, targets, window = self.parts["valid"]
        net = self.mean if self.config.average else self.net
        net.eval()
        total = 0.0
        with self.torch.inference_mode():
            for chosen in _batches(self.torch.arange(len(images)), self.config.batch):
                both = window.at(chosen).take(self.torch.cat([images[chosen], targets[chosen]], 1))
                image, target = both[:, : images.shape[1]], self._outside(both[:, images.shape[1] :])
                total += float(self._loss(net, image, target)) * len(chosen)
        loss = total / len(images)
        if not self.config.average and loss < self.best:
            self.mean.load_state_dict(self.net.state_dict())
        self.best = min(self.best, loss)
        return loss

    def state(self) -> dict[str, Tensor]:
        """All of the run, flat: what `restore` takes."""
        facts = self.torch.tensor([self.epoch, self.step, self.best], dtype=self.torch.float64)
        return flat_state(self.net, self.mean, self.optimiser) | {"progress": facts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        load_state(state, self.net, self.mean, self.optimiser)
        epoch, step, self.best = state["progress"].tolist()
        self.epoch, self.step = int(epoch), int(step)


def train_rois(
    config: RoiTraining, train: RoiSlices, valid: RoiSlices, out: str | Path, *, say: Say | None = None, save_every: float = 120.0
) -> Path:
    """Train a network of the regions, or continue a training that was interrupted.

    Parameters
    ----------
    config : RoiTraining
    train, valid : RoiSlices
        Patients of the two must be others, unless the configuration splits by slice. Thresholds are chosen on `valid`; several members deal both
        anew.
    out : path
        Folder for the checkpoint (``rois.ckpt``), a log (``rois.jsonl``) and the weights; of several members, one folder each for the first two.
        What is there is continued, if configuration and data are the same.
    say : callable, optional
        Is told the figures of each epoch: losses, learning rate, seconds.
    save_every : float
        Seconds between checkpoints.

    Returns
    -------
    Path
        Weights (``rois.safetensors``) with their description: configuration, thresholds, mean area of each region, scores.

    Raises
    ------
    InputError
        A region was drawn in no training slice; a patient in both parts; images without values.
    StorageError
        The folder holds another training.
    ConfigError
        A device that is not there.
    """
    with optional("torch", "nn", where="training of the regions"):
        import torch

    if config.split == PATIENT:
        check_apart(train, valid)
    empty = [name for name, some in zip(schema.ROIS, np.atleast_1d(train.drawn.any((0, 2, 3))), strict=True) if not some]
    if empty:
        raise InputError(expected="slices in which each region is drawn", found=f"none with {', '.join(empty)}", where="training slices",
                         remedy="Give slices with all eight regions.")  # fmt: skip
    torch.set_num_threads(config.threads)
    folder = Path(out)
    if config.members == 1:
        runs, parts = [_run(config, train, valid, folder, say, save_every)], [valid]
    else:
        whole, runs, parts = joined([train, valid]), [], []
        for i, unseen in enumerate(folds(whole, config.members, by=config.split, seed=config.seed)):
            own = config.model_copy(update={"seed": config.seed + i})
            runs.append(_run(own, whole.at(~unseen), whole.at(unseen), folder / str(i), say, save_every))
            parts.append(whole.at(unseen))
    return _export(config, runs, parts, (train, valid), folder)


def _run(config: RoiTraining, train: RoiSlices, valid: RoiSlices, folder: Path, say: Say | None, save_every: float) -> RoiRun:
    """Train one network, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RoiRun(config, train, valid)
    key = digest({"config": config.model_dump(mode="json", exclude=_NO_MATTER), "train": _content(train), "valid": _content(valid)})
    state = load_tensors(folder / CHECKPOINT, key, of="configuration and slices")
    if state is not None:
        run.restore(state)
    started = saved = time.monotonic()
    while run.epoch < config.epochs:
        loss = run.advance()
        line = {"epoch": run.epoch, "loss": loss, "valid": run.validate(), "seconds": round(time.monotonic() - started, 1)}
        if not math.isfinite(loss):
            raise InputError(expected="a loss that is a number", found=str(loss), where=f"epoch {run.epoch}", remedy="Lower the rate.")
        with (folder / f"{TASK}.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        if say is not None:
            say(line)
        if time.monotonic() - saved > save_every or run.epoch == config.epochs:
            save_tensors(run.state(), folder / CHECKPOINT, {KEY: key})
            saved = time.monotonic()
    return run


def _export(config: RoiTraining, runs: list[RoiRun], parts: list[RoiSlices], data: tuple[RoiSlices, RoiSlices], folder: Path) -> Path:
    """Write the weights of networks, each with its thresholds' slices in `parts`."""
    train, valid = data
    area = np.where(train.drawn.any((2, 3)), train.drawn.sum((2, 3)), np.nan)
    facts: dict[str, Any] = {
        "config": config.model_dump(mode="json"), "area": [round(float(a), 4) for a in np.nanmean(area, 0) * np.prod(train.spacing)],
        "epochs": runs[0].epoch, "steps": runs[0].step, "loss": float(np.mean([run.best for run in runs])), "slices": [len(train), len(valid)],
        "patients": [len(np.unique(part.patient)) for part in data], "device": runs[0].device, "seen": [*marks(train), *marks(valid)],
    }  # fmt: skip
    tensors = [{k: _kept(v.detach().cpu()) for k, v in run.mean.state_dict().items()} for run in runs]
    one = config.model_copy(update={"members": 1}).model_dump(mode="json")
    heat = [
        RoiNet(each, facts | {"config": one, "thresholds": [0.5] * len(schema.ROIS)}, device=config.device).predict(part)
        for each, part in zip(tensors, parts, strict=True)
    ]
    facts |= _chosen(config, np.concatenate(heat), np.concatenate([part.drawn for part in parts]))
    save_tensors(_named(tensors), folder / FILE, {DESCRIPTION: json.dumps(facts)})
    return folder / FILE


def _chosen(config: RoiTraining, heat: NDArray[np.float32], drawn: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Thresholds, and what heat of the other side counts against a region: by the pixels where there is any heat, or a region."""
    there: NDArray[np.bool_] = np.any((heat > 0) | drawn, axis=(0, 1))
    x, y = (slice(int(along.argmax()), len(along) - int(along[::-1].argmax())) for along in (np.any(there, axis=1), np.any(there, axis=0)))
    heat, drawn = heat[..., x, y], drawn[..., x, y]
    if config.wrong_side is None:
        return {"thresholds": [round(float(t), 4) for t in best_thresholds(heat, drawn, by=config.threshold)]}
    thresholds, weights = best_sides(heat, drawn, config.wrong_side, by=config.threshold)
    return {"thresholds": [round(float(t), 4) for t in thresholds], "against": [float(w) for w in weights]}


def _kept(tensor: Tensor) -> Tensor:
    """Kernels are kept with 16 bits: a rounding of 0.05 %, and half of a file; means and variances may be too large for that."""
    return (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous()


def _named(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of several networks under their numbers; of one as they are."""
    return {f"{i}.{k}" if len(parts) > 1 else k: v for i, part in enumerate(parts) for k, v in part.items()}


def _content(slices: RoiSlices) -> str:
    import hashlib

    images = [np.ascontiguousarray(image) for _, image in sorted(slices.images.items())]
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (*images, slices.drawn, slices.patient))).hexdigest()


class RoiNet:
    """A trained network of the regions.

    Parameters
    ----------
    tensors : mapping
        Its weights.
    facts : mapping
        Their description: ``config``, ``thresholds``, ``area``; ``against`` where heat of the other side counts.
    device : str

    Attributes
    ----------
    config : RoiTraining
    thresholds, against : (roi,) float64
        See `thresholds.best_sides`.
    modules : list of nn.Module
        Members.
    area : (roi,) float64
        Mean area of the drawn regions in training, mm2.
    """

    def __init__(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, device: str = "auto") -> None:
        import torch

        self.facts, self.config = dict(facts), RoiTraining(**facts["config"])
        self.thresholds, self.area = np.asarray(facts["thresholds"], float), np.asarray(facts["area"], float)
        self.against = np.asarray(facts.get("against", np.zeros(len(schema.ROIS))), float)
        self.device = device_named(device)
        plain = self.config.model_copy(update={"net": self.config.net.model_copy(update={"weights": None})})
        self.modules: list[nn.Module] = []
        for i in range(self.config.members):
            built, start = build(plain), f"{i}." if self.config.members > 1 else ""
            own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            built.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in own.items()})
            self.modules.append(built.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last))  # type: ignore[call-overload]

    def seen(self, slices: RoiSlices) -> NDArray[np.bool_]:
        """Slices (slice,) that the network was trained or its thresholds were chosen on, by their `slices.marks`; none where it does not say."""
        return np.isin(marks(slices), self.facts.get("seen", []))

    def predict(self, slices: RoiSlices) -> NDArray[np.float32]:
        """Probability or heat (slice, roi, x, y) on the slices' own pixels; 0 outside the window around the cord.

        Raises
        ------
        UnknownNameError, InputError
            The slices lack an image that the network sees, one has no value, or they have no prior where the midline counts.
        """
        import torch

        images, window = torch.from_numpy(channels_of(slices, self.config.input)), window_of(slices, self.config.input)
        exchange, plane = mirrored_channels(self.config.input), (slices.drawn.shape[2], slices.drawn.shape[3])
        out = np.zeros(slices.drawn.shape, np.float32)
        with torch.inference_mode():
            for chosen in _batches(torch.arange(len(images)), BATCH):
                frame = window.at(chosen)
                seen = frame.take(images[chosen])
                maps = self._maps(seen)
                if self.config.mirror:
                    maps = (maps + mirror(self._maps(mirror(seen, exchange)), list(schema.OTHER_SIDE))) / 2
                out[chosen.numpy()] = frame.back(maps, plane).numpy()
        return sided(out, slices) if self.config.midline else out

    def _maps(self, image: Tensor) -> Tensor:
        import torch

        image = image.to(self.device).contiguous(memory_format=torch.channels_last)
        outputs = [module(image).float().cpu() for module in self.modules]
        maps = torch.stack([output.softmax(1) if self.config.loss.shares else output for output in outputs]).mean(0)
        return maps[:, : len(schema.ROIS)]

    def masks(self, slices: RoiSlices, heat: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """Regions (slice, roi, x, y): where heat, less what counts against it, reaches the region's threshold. `heat`: what `predict` gave, if known.

        Where the configuration says ``fill``, a pixel has only the region of most heat, and a region of a slice without a pixel takes its likeliest
        ones, as many as it had on average in training.
        """
        heat = self.predict(slices) if heat is None else heat
        left = against(heat, self.against)
        masks = above(left, self.thresholds)
        if not self.config.fill:
            return masks
        masks &= left == left.max(1, keepdims=True)
        pixels = np.maximum(1, np.round(self.area / np.prod(slices.spacing))).astype(int)
        for i, roi in zip(*np.nonzero(~masks.any((2, 3))), strict=True):
            ranked = np.sort(heat[i, roi], axis=None)
            if ranked[-1] > 0:
                masks[i, roi] = heat[i, roi] >= max(ranked[-min(pixels[roi], ranked.size)], np.nextafter(np.float32(0), np.float32(1)))
        return masks


def load_rois(path: str | Path | None = None, *, device: str = "auto") -> RoiNet:
    """Load a network of the regions.

    Parameters
    ----------
    path : path, optional
        Weights that a training left (a file, or its folder); by default those of the package.
    device : str
        ``"auto"`` is the GPU where there is one, else the CPU.

    Raises
    ------
    StorageError
        No such weights.
    """
    with optional("torch", "nn", where="network of the regions"):
        import torch  # noqa: F401
    if path is None:
        with resources.as_file(resources.files(weights.__package__).joinpath(weights.FOLDER, FILE)) as packaged:
            return _read(packaged, device)
    path = Path(path)
    return _read(path / FILE if path.is_dir() else path, device)


def _read(path: Path, device: str) -> RoiNet:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[DESCRIPTION])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        return RoiNet(tensors, facts, device=device)
    except (OSError, KeyError, SafetensorError, RuntimeError) as error:
        raise StorageError(
            expected="weights of a network of the regions", found=str(error).splitlines()[0], where=path.name,
            remedy="Give the file rois.safetensors that a training wrote.",
        ) from error  # fmt: skip
