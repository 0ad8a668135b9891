"""Deformable registration in torch: many pairs of straightened blocks at once, on CPU or GPU.

The same question as `mapping.ants.deform` asks, answered by symmetric log-domain demons: a stationary velocity in the plane, whose flow carries one
image half of the way and the other one back. Slices are warped by themselves and tied along the cord by the smoothing of each update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import optional
from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

SQUARINGS = 5
"""The flow of a velocity is that of 1/32 of it, composed with itself five times: steps of a few hundredths of a voxel are flows already."""
STEP = 0.5
"""Largest displacement of one update, voxels of its level."""
RADIUS = 4
"""Half-width of the Gaussians, standard deviations, as far as float32 goes."""
FLAT = 1e-6
"""Squared slope (per voxel) of what has no edge."""


def deform(
    fixed: FloatArray, moving: FloatArray, *, iterations: tuple[int, ...], flow_sigma: float, lengths: NDArray[np.int64] | None = None,
    device: str | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Register pairs of images of one contrast, each pair on its grid; nothing moves along the third axis.

    Parameters
    ----------
    fixed, moving : (pair, x, y, z) arrays
    iterations : tuple of int
        From coarse to fine; each level has half the voxels of the next along x and y.
    flow_sigma : float
        Standard deviation of the smoothing of each update along x, y and z, voxels of its level.
    lengths : (pair,) array, optional
        Slices of each pair that count: what lies after them is filling, so that pairs of different length go together. All by default.
    device : str, optional
        Of torch: the GPU where there is one, else the CPU.

    Returns
    -------
    (pair, x, y, z, 2) float32 array
        Displacement, voxels: the point at (x, y) of `fixed` corresponds to (x, y) + displacement of `moving`. Zero in slices that are filling. A pair
        has the same displacement alone and among others, but for rounding.

    Raises
    ------
    MissingPackageError
        torch is not installed.

    Notes
    -----
    With velocity v, ``F = fixed o exp(-v/2)``, ``M = moving o exp(v/2)``, d = F - M and g the mean of their gradients, each iteration adds
    ``G * (d g / (|g|^2 + d^2 / STEP^2))`` to v, G a Gaussian: the symmetric force of log-domain demons, at most half of `STEP`, smoothed as a fluid.
    The result is exp(v).

    References
    ----------
    Vercauteren T et al. Symmetric log-domain diffeomorphic registration: a demons-based approach. MICCAI 2008. doi:10.1007/978-3-540-85988-8_90

    Examples
    --------
    >>> x = np.arange(32.0)[:, None, None] + np.zeros((32, 8, 3))
    >>> edge = np.clip((x - 12) / 8, 0, 1)[None]
    >>> found = deform(edge, np.clip((x - 14) / 8, 0, 1)[None], iterations=(10, 5), flow_sigma=1.5)
    >>> found[0, 16, 4, 1, 0].round(1).item()
    2.0
    """
    with optional("torch", "nn", where="stages.fit.engine"):
        import torch
    from torch.nn import functional

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pairs, nx, ny, nz = fixed.shape
    lengths = np.full(pairs, nz) if lengths is None else np.asarray(lengths)
    along = torch.as_tensor(_along(lengths, nz, flow_sigma), device=device)
    images = torch.as_tensor(np.stack([fixed, moving]), dtype=torch.float32, device=device)
    images = images.permute(0, 1, 4, 2, 3).reshape(2 * pairs * nz, 1, nx, ny)
    velocity: Tensor | None = None
    with torch.inference_mode():
        for level, rounds in enumerate(iterations):
            by = 2 ** (len(iterations) - 1 - level)
            shape = [max(-(-n // by), 2) for n in (nx, ny)]
            small = images if by == 1 else functional.interpolate(_blur(images, by / 2), size=shape, mode="bilinear", align_corners=True)
            still, other = small.chunk(2)
            if velocity is None:
                velocity = small.new_zeros((pairs * nz, 2, *shape))
            else:
                ratio = torch.tensor([(a - 1) / (b - 1) for a, b in zip(shape, velocity.shape[2:], strict=True)], device=device).reshape(1, 2, 1, 1)
                velocity = functional.interpolate(velocity, size=shape, mode="bilinear", align_corners=True) * ratio
            for _ in range(rounds):
                half = _flow(velocity / 2)
                here, there = _warp(still, _flow(-velocity / 2)), _warp(other, half)
                off = here - there
                slope = (_gradient(here) + _gradient(there)) / 2
                update = off * slope / ((slope**2).sum(1, keepdim=True) + (off / STEP) ** 2 + FLAT)
                velocity = velocity + _tied(_blur(update, flow_sigma), along)
        assert velocity is not None
        found = _flow(velocity).reshape(pairs, nz, 2, nx, ny).permute(0, 3, 4, 1, 2)
        return np.ascontiguousarray(found.cpu().numpy()) * (np.arange(nz) < lengths[:, None])[:, None, None, :, None]


def _along(lengths: NDArray[np.int64], nz: int, sigma: float) -> NDArray[np.float32]:
    """Smoothing along z, (pair, z, z): a Gaussian over the slices that count, the end slices repeated beyond the ends; zero in filling."""
    reach = max(int(np.ceil(RADIUS * sigma)), 1)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else (offsets == 0).astype(float)
    kernel /= kernel.sum()
    out = np.zeros((len(lengths), nz, nz), np.float32)
    for pair, n in enumerate(lengths):
        rows = np.arange(n)
        np.add.at(out[pair], (rows[:, None], np.clip(rows[:, None] + offsets, 0, n - 1)), kernel.astype(np.float32))
    return out


def _tied(update: Tensor, along: Tensor) -> Tensor:
    """Smooth (pair * z, 2, x, y) along z."""
    pairs, nz, _ = along.shape
    return (along @ update.reshape(pairs, nz, -1)).reshape(update.shape)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Smooth (image, channel, x, y) in the plane, edges repeated."""
    import torch
    from torch.nn import functional

    if sigma <= 0:
        return images
    reach = max(int(np.ceil(RADIUS * sigma)), 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    n, channels, x, y = images.shape
    flat = functional.pad(images.reshape(n * channels, 1, x, y), (reach, reach, reach, reach), mode="replicate")
    flat = functional.conv2d(functional.conv2d(flat, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    return flat.reshape(n, channels, x, y)


def _gradient(images: Tensor) -> Tensor:
    """Slopes (image, 2, x, y) along x and y, per voxel, of (image, 1, x, y)."""
    import torch

    return torch.cat(torch.gradient(images, dim=(2, 3)), dim=1)


def _warp(images: Tensor, move: Tensor) -> Tensor:
    """Interpolate (image, channel, x, y) at each pixel's place plus a displacement (image, 2, x, y), pixels; edges repeated."""
    import torch
    from torch.nn import functional

    nx, ny = images.shape[2:]
    x = torch.arange(nx, device=images.device, dtype=images.dtype)[:, None]
    y = torch.arange(ny, device=images.device, dtype=images.dtype)
    at = torch.stack([(y + move[:, 1]) * (2 / (ny - 1)) - 1, (x + move[:, 0]) * (2 / (nx - 1)) - 1], dim=-1)
    out: Tensor = functional.grid_sample(images, at, mode="bilinear", padding_mode="border", align_corners=True)
    return out


def _flow(velocity: Tensor) -> Tensor:
    """Displacement (image, 2, x, y) of the flow of a stationary velocity after one unit of time, by scaling and squaring."""
    move: Tensor = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        move = move + _warp(move, move)
    return move
