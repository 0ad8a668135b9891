"""How well a template fits every shift of an image, where parts of both may be missing: windowed correlation of many slices at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatArray = NDArray[Any]
_TINY = 1e-12


def shifted_correlation(
    template: FloatArray, weight: FloatArray, data: FloatArray, valid: FloatArray, *, centred: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlation of a weighted template with every shift of an image.

    Parameters
    ----------
    template : (..., c, i, j) array
        Window of the template, c channels.
    weight : (..., i, j) array
        Weight of each of its places, shared by the channels.
    data : (..., c, i + 2 a, j + 2 b) array
        Images; leading axes broadcast with those of `template`.
    valid : (..., i + 2 a, j + 2 b) array
        1 where they hold data, else 0.
    centred : bool
        Take the weighted mean out of both, channel by channel.

    Returns
    -------
    correlation : (..., 2 a + 1, 2 b + 1) float32
        Element ``[a + u, b + v]`` compares ``template(p)`` with ``data(p + (u, v))``; 0 where nothing can be compared.
    overlap : (..., 2 a + 1, 2 b + 1) float32
        Part of the weight that falls on data.

    Examples
    --------
    >>> image = np.zeros((1, 9, 9))
    >>> image[0, 5, 3] = 1.0
    >>> rho, overlap = shifted_correlation(image[:, 3:8, 2:7], np.ones((5, 5)), np.roll(image, (-1, 2), (1, 2)), np.ones((9, 9)))
    >>> [int(i) for i in np.unravel_index(rho.argmax(), rho.shape)], float(rho.max().round(3))
    ([2, 4], 1.0)
    """
    shape, inner = data.shape[-2:], template.shape[-2:]
    keep = tuple(n - m + 1 for n, m in zip(shape, inner, strict=True))
    valid = np.asarray(valid, np.float32)
    data = np.asarray(data, np.float32)
    if centred:
        data = data - (data * valid[..., None, :, :]).sum((-2, -1), keepdims=True) / np.maximum(valid.sum((-2, -1)), 1)[..., None, None, None]
    data = data * valid[..., None, :, :]

    def spectrum(x: FloatArray) -> FloatArray:
        return np.asarray(fft.rfft2(np.asarray(x, np.float32), s=shape))

    def match(a: FloatArray, b: FloatArray) -> FloatArray:
        return np.asarray(fft.irfft2(np.conj(a) * b, s=shape)[..., : keep[0], : keep[1]])

    w, part = spectrum(weight), spectrum(valid)
    weighted = template * weight[..., None, :, :]
    wt, moved = spectrum(weighted), spectrum(data)
    square = spectrum((data**2).sum(-3))
    overlap = np.maximum(match(w, part), 0)
    cross = match(wt, moved).sum(-3)
    energy = match(spectrum((weighted * template).sum(-3)), part)
    power = match(w, square)
    if centred:
        total = np.maximum(overlap, _TINY)[..., None, :, :]
        mean, other = match(w[..., None, :, :], moved), match(wt, part[..., None, :, :])
        cross = cross - (mean * other / total).sum(-3)
        energy = energy - (other**2 / total).sum(-3)
        power = power - (mean**2 / total).sum(-3)
    share = overlap / max(float(np.max(np.sum(weight, (-2, -1)))), _TINY)
    good = (energy > 1e-5 * np.max(energy, (-2, -1), keepdims=True)) & (power > 1e-5 * np.max(power, (-2, -1), keepdims=True)) & (share > 0.05)
    rho = np.where(good, cross / np.sqrt(np.where(good, energy * power, 1)), 0)
    return np.clip(rho, -1, 1).astype(np.float32), np.broadcast_to(share, rho.shape).astype(np.float32)
