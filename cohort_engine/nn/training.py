"""Train the networks of the package: template in, checkpoints on the way, weights out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cohort_engine.config import parse_section, read_yaml
from cohort_engine.errors import StorageError, optional, unknown_name
from cohort_engine.nn import weights
from cohort_engine.nn.checkpoint import KEY, load_tensors, save_tensors
from cohort_engine.nn.weights import DESCRIPTION
from cohort_engine.provenance import digest

if TYPE_CHECKING:
    from cohort_engine.nn.anatomy import Anatomy
    from cohort_engine.nn.discs import DiscTraining
    from cohort_engine.nn.train import CordTraining, Run, TrainingConfig

Config = TypeVar("Config", bound="TrainingConfig")

PACKAGE = "package"
"""What `start` calls the weights that are installed."""
SAVE_EVERY = 480.0
"""Seconds between checkpoints."""


def load_training(path: str | Path) -> CordTraining:
    """Read a training file of the cord, see configs/training/; a relative template folder is taken from the file's."""
    from cohort_engine.nn.train import CordTraining

    return _load(path, CordTraining)


def load_disc_training(path: str | Path) -> DiscTraining:
    """Read a training file of the discs; otherwise as `load_training`."""
    from cohort_engine.nn.discs import DiscTraining

    return _load(path, DiscTraining)


def _load(path: str | Path, kind: type[Config]) -> Config:
    path = Path(path)
    config = parse_section(kind, read_yaml(path), where=path.name)
    return with_template(config, None if config.template.path is None else path.resolve().parent / config.template.path)


def with_template(config: Config, path: Path | None) -> Config:
    """Take the template from this folder, if one is given."""
    return config if path is None else config.model_copy(update={"template": config.template.model_copy(update={"path": str(path)})})


def load_anatomy(name: str, path: str | Path | None = None) -> Anatomy:
    """Prepare a template for the generator; PAM50 with its vertebrae, where the folder has them."""
    from cohort_engine.nn.anatomy import anatomy_of
    from cohort_engine.template import load_template, pam50

    template = load_template(name, path=path)
    spine = pam50.find_spine(path) if template.name == pam50.NAME else None
    return anatomy_of(template, None if spine is None else pam50.read_sparse(spine).dense(np.zeros(3, np.int64), template.grid.shape))


def train_cord(
    config: CordTraining, out: str | Path, *, nets: tuple[str, ...] = (), say: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Path]:
    """Train the cord networks, or continue a training that was interrupted.

    Parameters
    ----------
    config : CordTraining
    out : path
        Folder for checkpoints (``<net>.ckpt``), a log (``<net>.jsonl``) and weights (``<net>.safetensors``). What is there is continued
        if seed and network are the same; `steps` may have been changed.
    nets : tuple of str
        Only these; by default all.
    say : callable, optional
        Is told the figures of each checkpoint: step, samples, loss, seconds, and the scores on held-out samples.

    Returns
    -------
    dict
        Network -> its weights: the moving average over the last steps, in bfloat16.

    Raises
    ------
    UnknownNameError, ConfigError, TemplateError, StorageError
    """
    from cohort_engine.nn.train import Training

    def source() -> Callable[[str], Run]:
        anatomy = load_anatomy(config.template.name, config.template.path)
        return lambda name: Training(config, name, anatomy)

    return _train(config, source, out, nets, say)


def train_discs(config: DiscTraining, out: str | Path, *, say: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Path]:
    """Train the network of the discs, or continue; arguments, result and errors as of `train_cord`."""
    from cohort_engine.nn.discs import DiscRun
    from cohort_engine.nn.strips import spine_of
    from cohort_engine.template import load_template

    def source() -> Callable[[str], Run]:
        spine = spine_of(load_template(config.template.name, path=config.template.path))
        return lambda name: DiscRun(config, name, spine)

    return _train(config, source, out, (), say)


def _train(
    config: TrainingConfig, source: Callable[[], Callable[[str], Run]], out: str | Path, nets: tuple[str, ...],
    say: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Path]:  # fmt: skip
    with optional("torch", "nn", where="training"):
        import torch

    for name in nets:
        if name not in config.nets:
            raise unknown_name("network", name, list(config.nets), where="training")
    torch.set_num_threads(config.threads)
    make = source()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name in nets or tuple(config.nets):
        run = make(name)
        _begin(run, name)
        state = load_tensors(folder / f"{name}.ckpt", _key(run, name), of="seed, template and network")
        if state is not None:
            run.restore(state)
        _run(run, folder, name, say or (lambda figures: None))
        written[name] = folder / f"{name}.safetensors"
    return written


def _run(run: Run, folder: Path, name: str, say: Callable[[dict[str, Any]], None]) -> None:
    started = saved = time.monotonic()
    losses: list[float] = []
    while run.step < run.net_config.steps:
        losses.append(run.advance())
        if time.monotonic() - saved < SAVE_EVERY and run.step < run.net_config.steps:
            continue
        save_tensors(run.state(), folder / f"{name}.ckpt", {KEY: _key(run, name)})
        _export(run, folder, name, say, {"seconds": round(time.monotonic() - started, 1), "loss": float(np.mean(losses[-200:]))})
        saved = time.monotonic()
    run.finish()
    run.blend()
    _export(run, folder, name, say, {"seconds": round(time.monotonic() - started, 1)})


def _export(run: Run, folder: Path, name: str, say: Callable[[dict[str, Any]], None], figures: dict[str, Any]) -> None:
    """Judge the averaged weights, write them, and note the figures."""
    scores = run.validate()
    save_tensors(run.weights(), folder / f"{name}.safetensors", {DESCRIPTION: json.dumps(run.describe(scores))})
    line = {"net": name, "step": run.step, **figures, **scores}
    with (folder / f"{name}.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    say(line)


def _begin(run: Run, name: str) -> None:
    """Start from earlier weights, if the configuration says so."""
    start = run.config.start
    if start is None:
        return
    from safetensors.torch import load

    folder = resources.files(weights.__package__).joinpath(weights.FOLDER) if start == PACKAGE else Path(start)
    file = f"{run.net_config.origin or name}.safetensors"
    try:
        content = folder.joinpath(file).read_bytes()
        run.begin(load(content), hashlib.sha256(content).hexdigest())
    except (OSError, RuntimeError) as error:
        raise StorageError(
            expected="weights of a network as wide as this one", found=str(error).splitlines()[0], where=f"start, {file}",
            remedy=f"Take start: {PACKAGE}, or the folder of an earlier training with the same channels.",
        ) from error  # fmt: skip


def _key(run: Run, name: str) -> str:
    """Hash of what makes a checkpoint another run's: everything but length and speed."""
    config = run.config
    net = config.nets[name].model_dump(mode="json", exclude={"steps", "cool"})
    facts = {"net": net, "seed": config.seed, "batch": config.batch, "reuse": config.reuse, "template": config.template.name}
    return digest(facts | ({"start": run.start} if run.start else {}))
