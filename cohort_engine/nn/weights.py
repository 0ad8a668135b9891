"""The networks in the package: weights as safetensors, and a card that says where they come from."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cohort_engine.errors import optional
from cohort_engine.nn.checkpoint import device_named
from cohort_engine.nn.unet import for_inference

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

FOLDER = "data"
CARD = "{0}.json"
CORD, GREY, DISCS, ROIS = "cord", "grey", "discs", "rois"
"""Tasks that the package has networks for; all but `CORD` are their network's names, too."""
DESCRIPTION = "description"
"""Key of a file's metadata: what the network is built from, and how it was trained (`nn.train.Training.describe`)."""


class CordNetworks(NamedTuple):
    """`coarse` (cord and heat map of its centre) finds the cord, `fine` draws its border."""

    coarse: Network
    fine: Network


def card(task: str = CORD) -> dict[str, Any]:
    """Return the card of packaged weights: data, seeds, configuration, samples seen, scores by image.

    Examples
    --------
    >>> sorted(card()["nets"]), sorted(card("discs")["nets"])
    (['coarse', 'fine'], ['discs'])
    """
    loaded: dict[str, Any] = json.loads(resources.files(__package__).joinpath(FOLDER, CARD.format(task)).read_text())
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
        Of other weights: ``coarse.safetensors`` and ``fine.safetensors``, as a training leaves them; by default those of the package.

    Returns
    -------
    CordNetworks
        Kept and returned again for the same arguments.

    Raises
    ------
    ConfigError
        The device does not exist here.
    """
    return CordNetworks(*(_load(name, device, half, None if folder is None else str(folder)) for name in CordNetworks._fields))


def load_discs(*, device: str = "auto", half: bool | None = None, folder: str | Path | None = None) -> Network:
    """Load the network of the discs; arguments and errors as of `load_cord`."""
    return _load(DISCS, device, half, None if folder is None else str(folder))


def load_grey(*, device: str = "auto", half: bool | None = None, folder: str | Path | None = None) -> Network:
    """Load the network of the grey matter (outputs: cord, grey matter); arguments and errors as of `load_cord`."""
    return _load(GREY, device, half, None if folder is None else str(folder))


@cache
def content(task: str) -> str:
    """Return the content hash of the packaged weights of a task: part of the key of all that is drawn with them."""
    names = CordNetworks._fields if task == CORD else (task,)
    files = [resources.files(__package__).joinpath(FOLDER, f"{name}.safetensors") for name in names]
    return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()


@cache
def _load(name: str, device: str, half: bool | None, folder: str | None) -> Network:
    with optional("torch", "nn", where="networks"):
        import torch

    device = device_named(device)
    dtype = torch.bfloat16 if (device != "cpu" if half is None else half) else torch.float32
    with resources.as_file(resources.files(__package__).joinpath(FOLDER)) as packaged:
        files = packaged if folder is None else Path(folder)
        return _network(files / f"{name}.safetensors", device, dtype)


def _network(path: Path, device: str, dtype: Any) -> Network:
    from safetensors import safe_open

    from cohort_engine.nn.infer import Network

    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()[DESCRIPTION])
        weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    module = for_inference(weights, facts["channels"], facts["outputs"], device=device, dtype=dtype)
    return Network(module, facts["size"], facts["spacing"], 2 ** (len(facts["channels"]) - 1))
