"""The networks in the package: weights as safetensors, and a card that says where they come from."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cohort_engine.errors import ConfigError
from cohort_engine.nn.unet import for_inference

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

FOLDER = "data"
CARD = "cord.json"


class CordNetworks(NamedTuple):
    """Both stages: `coarse` (cord and heat map of its centre) finds the cord, `fine` draws its border."""

    coarse: Network
    fine: Network


def card() -> dict[str, Any]:
    """Return the card of the packaged weights: data, seeds, configuration, samples seen, scores by image.

    Examples
    --------
    >>> sorted(card()["nets"])
    ['coarse', 'fine']
    """
    loaded: dict[str, Any] = json.loads(resources.files(__package__).joinpath(FOLDER, CARD).read_text())
    return loaded


def load_cord(*, device: str = "auto", half: bool | None = None, folder: str | Path | None = None) -> CordNetworks:
    """Load the cord networks.

    Parameters
    ----------
    device : str
        ``"auto"`` is the GPU where there is one, else the CPU.
    half : bool, optional
        Compute in bfloat16. By default on a GPU only: on a CPU the result would depend on whether its processor can.
    folder : path, optional
        Of other weights: ``<net>.safetensors`` and a card; by default those of the package.

    Returns
    -------
    CordNetworks
        Kept and returned again for the same arguments.

    Raises
    ------
    ConfigError
        The device does not exist here.
    """
    return _load(device, half, None if folder is None else str(folder))


@cache
def _load(device: str, half: bool | None, folder: str | None) -> CordNetworks:
    import torch
    from safetensors.torch import load

    from cohort_engine.nn.infer import Network

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(expected="a GPU that CUDA can use", found="none", where="device", remedy="Take device cpu, or auto.")
    dtype = torch.bfloat16 if (device != "cpu" if half is None else half) else torch.float32
    files = resources.files(__package__).joinpath(FOLDER) if folder is None else Path(folder)
    nets = json.loads(files.joinpath(CARD).read_text())["nets"]

    def network(name: str) -> Network:
        net = nets[name]
        weights = load(files.joinpath(f"{name}.safetensors").read_bytes())
        module = for_inference(weights, net["channels"], 2 if net["heat"] else 1, device=device, dtype=dtype)
        return Network(module, net["size"], net["spacing"], 2 ** (len(net["channels"]) - 1))

    return CordNetworks(network("coarse"), network("fine"))
