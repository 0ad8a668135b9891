"""State of a training in a file: flat tensors, whole or not at all, with a key that says whose they are; and the device they are on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_engine.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

KEY = "key"


def device_named(name: str) -> str:
    """Return the device of this name; ``auto`` is the GPU where there is one, else the CPU.

    Raises
    ------
    ConfigError
        The device does not exist here.

    Examples
    --------
    >>> device_named("cpu")
    'cpu'
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(expected="a GPU that CUDA can use", found="none", where="device", remedy="Take device cpu, or auto.")
    return name


def flat_state(net: nn.Module, mean: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Flat state of a network, the average of its weights, and its optimiser: what `load_state` takes."""
    out = {f"net.{k}": v for k, v in net.state_dict().items()} | {f"mean.{k}": v for k, v in mean.state_dict().items()}
    names = [k for k, _ in net.named_parameters()]
    for index, moments in optimiser.state_dict()["state"].items():
        out |= {f"adam.{names[index]}.{k}": v for k, v in moments.items()}
    return {k: v.detach().cpu().contiguous() for k, v in out.items()}


def load_state(state: Mapping[str, Tensor], net: nn.Module, mean: nn.Module, optimiser: Optimizer) -> None:
    """Put a state back that `flat_state` made."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    net.load_state_dict(part("net."))
    mean.load_state_dict(part("mean."))
    moments: dict[int, dict[str, Any]] = {i: part(f"adam.{k}.") for i, (k, _) in enumerate(net.named_parameters())}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": {i: m for i, m in moments.items() if m}})


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors whole or not at all."""
    from safetensors.torch import save_file

    aside = path.with_name(path.name + ".part")
    try:
        save_file(tensors, aside, metadata)
        aside.replace(path)
    except OSError as error:
        raise StorageError(
            expected="room for a checkpoint", found=error.strerror or str(error), where=path.name, remedy="Free some space."
        ) from error


def load_tensors(path: Path, key: str, *, of: str) -> dict[str, Tensor] | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    StorageError
        Its key is another: it is not one of this training, of which `of` says what makes it what it is.
    """
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get(KEY) != key:
            raise StorageError(
                expected=f"a checkpoint of the same {of}", found="one of another training", where=path.name,
                remedy="Train into a new folder, or move the old one away.",
            )  # fmt: skip
        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no mapping)
