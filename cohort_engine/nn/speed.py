"""How fast the networks are on a device: what a GPU is worth to a cohort."""

from __future__ import annotations

import time
from typing import NamedTuple

from cohort_engine.nn.checkpoint import device_named
from cohort_engine.nn.weights import load_cord, load_discs, load_grey

WINDOWS = 60
"""Windows of one subject, about."""


class Speed(NamedTuple):
    """What a network does in a second.

    Attributes
    ----------
    network : str
    subjects : int
        Whose windows were in one batch.
    slices : float
        Windows a second.
    gigabytes : float
        Of grey values (float32, each window with the slices above and below) a second.
    """

    network: str
    subjects: int
    slices: float
    gigabytes: float


def speed(device: str = "auto", *, half: bool | None = None, subjects: tuple[int, ...] = (1, 4, 16), seconds: float = 2.0) -> list[Speed]:
    """Measure the networks of the package on windows of noise, of one subject and of several at once.

    Parameters
    ----------
    device : str
        As of `nn.weights.load_cord`; so is `half`.
    subjects : tuple of int
        Whose windows are sent at once.
    seconds : float
        Least time a measurement takes, after one run that does not count.

    Raises
    ------
    ConfigError
        The device does not exist here.
    """
    import torch

    device = device_named(device)
    coarse, fine = load_cord(device=device, half=half)
    networks = {
        "cord, coarse": coarse,
        "cord, fine": fine,
        "discs": load_discs(device=device, half=half),
        "grey": load_grey(device=device, half=half),
    }
    out = []
    for name, network in networks.items():
        for n in subjects:
            windows = torch.rand(n * WINDOWS, 3, network.size, network.size, generator=torch.Generator().manual_seed(n))
            network(windows)
            started, runs = time.perf_counter(), 0
            while (taken := time.perf_counter() - started) < seconds or not runs:
                network(windows)  # the answer is on the CPU: nothing is left to wait for
                runs += 1
            out.append(Speed(name, n, runs * len(windows) / taken, runs * windows.numel() * windows.element_size() / taken / 1e9))
    return out
