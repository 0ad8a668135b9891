"""How a network of the regions sees slices: scaled grey values, in a window around the cord, and back onto the slices' own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, unknown_name
from cohort_engine.rois.config import PRIOR, InputSection
from cohort_engine.rois.slices import RoiSlices

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255
NEAR = 10.0
"""What is this near the middle of a window sets the range of robust grey values, mm."""
NORMAL = 1.4826
"""Median absolute deviation to standard deviation."""


@dataclass(frozen=True, eq=False)
class Window:
    """A square of pixels around a point of each slice.

    Attributes
    ----------
    centre : (n, 2) float32 tensor
        mm from the first pixel of the slice, x and y.
    shape : (int, int)
        Pixels of the window.
    spacing : (2,) float32 tensor
        mm.
    of : (2,) float32 tensor
        Pixel size of the slices, mm.
    """

    centre: Tensor
    shape: tuple[int, int]
    spacing: Tensor
    of: Tensor

    def take(self, images: Tensor, move: Tensor | None = None) -> Tensor:
        """Sample images (n, c, x, y) linearly; nothing beyond their border is 0.

        Parameters
        ----------
        images : (n, c, x, y) tensor
        move : (n, 2, 3) tensor, optional
            Where a point of the window is taken from: a matrix, and a shift in mm, of its position from the centre.
        """
        at = self._grid(self.shape, self.spacing)
        if move is not None:
            at = (move[:, None, None, :, :2] @ at[..., None])[..., 0] + move[:, None, None, :, 2]
        return _sample(images, (at + self.centre[:, None, None]) / self.of)

    def back(self, maps: Tensor, plane: tuple[int, int]) -> Tensor:
        """Bring maps (n, c, *shape) of the window onto the slices' pixels (n, c, *plane); 0 outside the window.

        A pixel takes the mean of four points inside it where those of the window are smaller.
        """
        import torch

        finer = bool((self.spacing < 0.99 * self.of).any())
        at = torch.stack(torch.meshgrid(*(torch.arange(n, device=maps.device) for n in plane), indexing="ij"), -1) * self.of
        middle = torch.tensor([(n - 1) / 2 for n in self.shape], device=maps.device)
        total = torch.zeros(())
        for shift in ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)) if finer else ((0.0, 0.0),):
            point = at + self.of * torch.tensor(shift, device=maps.device) - self.centre[:, None, None]
            total = total + _sample(maps, point / self.spacing + middle)
        return total / (4 if finer else 1)

    def at(self, chosen: Any) -> Window:
        """Return the windows of some slices."""
        return Window(self.centre[chosen], self.shape, self.spacing, self.of)

    @staticmethod
    def _grid(shape: tuple[int, int], spacing: Tensor) -> Tensor:
        """Positions (x, y, 2) of a window's pixels from its centre, mm."""
        import torch

        axes = (torch.arange(n, dtype=torch.float32, device=spacing.device) - (n - 1) / 2 for n in shape)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) * spacing


def _sample(images: Tensor, at: Tensor) -> Tensor:
    """Values (n, c, ...) of images (n, c, x, y) at positions (n, ..., 2) in pixels, linear, 0 outside."""
    import torch
    from torch.nn.functional import grid_sample

    size = torch.tensor([max(1, n - 1) for n in images.shape[2:]], dtype=torch.float32, device=images.device)
    return grid_sample(images, (2 * at / size - 1).flip(-1), mode="bilinear", padding_mode="zeros", align_corners=True)


def window_of(slices: RoiSlices, settings: InputSection) -> Window:
    """Place a window on each slice: around the middle of its cord or of the slice, or over all of it where the settings have no size.

    Windows with the slices' own pixel size lie on their pixels. A slice without a cord has its window in its middle.

    Examples
    --------
    >>> cord = np.zeros((1, 40, 40), bool)
    >>> cord[0, 10:13, 20:23] = True
    >>> some = RoiSlices({}, np.zeros((1, 8, 40, 40), bool), cord, np.zeros(1, int), np.zeros(1, int), np.array([0.5, 0.5]))
    >>> window_of(some, InputSection(size=16)).centre.tolist(), window_of(some, InputSection(size=16, spacing=0.4)).centre.tolist()
    ([[5.75, 10.75]], [[5.5, 10.5]])
    """
    import torch

    plane = np.array(slices.drawn.shape[2:])
    of = np.asarray(slices.spacing, float)
    if settings.size is None:
        shape = tuple(int(n) for n in (plane if settings.spacing is None else np.ceil(plane * of / settings.spacing)))
        centre = np.tile((plane - 1) / 2, (len(slices), 1))
    else:
        shape = (settings.size, settings.size)
        count = slices.cord.sum((1, 2))
        sums = [(slices.cord.sum(3 - axis) * np.arange(plane[axis - 1])).sum(1) for axis in (1, 2)]
        found = (count[:, None] > 0) & (settings.around == "cord")
        centre = np.where(found, np.stack(sums, 1) / np.maximum(1, count)[:, None], (plane - 1) / 2)
        if settings.spacing is None:  # between pixels where the window has an even number of them
            half = (np.array(shape) - 1) / 2 % 1
            centre = np.round(centre - half + 1e-6) + half
    spacing = of if settings.spacing is None else np.full(2, settings.spacing)
    tensors = [torch.as_tensor(a, dtype=torch.float32) for a in (centre * of, spacing, of)]
    return Window(tensors[0], (shape[0], shape[1]), tensors[1], tensors[2])


def channels_of(slices: RoiSlices, settings: InputSection) -> NDArray[np.float32]:
    """Scale the images that a network sees (n, channel, x, y); 0 where there is no value.

    Raises
    ------
    UnknownNameError, InputError
        The slices lack an image, or one has no value anywhere.

    Examples
    --------
    >>> drawn = np.zeros((1, 8, 1, 3), bool)
    >>> some = RoiSlices({"fa": np.array([[[0.2, 0.4, 0.7]]], np.float32)}, drawn, drawn[:, 0], np.zeros(1, int), np.zeros(1, int), np.ones(2))
    >>> channels_of(some, InputSection(images=("fa",))).ravel().tolist()
    [0.0, 102.0, 255.0]
    """
    out: list[NDArray[np.float32]] = []
    near = _near(slices, settings)
    for name in settings.images:
        if name == PRIOR:
            if slices.prior is None:
                raise InputError(
                    expected="shares of the parts of the cord", found="none", where="prior of the slices",
                    remedy="Register the slices to the template first, or take a network that does without.",
                )  # fmt: skip
            out.append(np.nan_to_num(slices.prior).astype(np.float32))
            continue
        if name not in slices.images:
            raise unknown_name("image of these slices", name, [*slices.images, PRIOR], where="input of the network")
        out.append(_scaled(np.asarray(slices.images[name], np.float32), settings.norm, name, near)[:, None])
    return np.concatenate(out, 1)


def _near(slices: RoiSlices, settings: InputSection) -> NDArray[np.bool_]:
    """Pixels (n, x, y) within `NEAR` of the middle of the window; all of them without a window."""
    if settings.size is None:
        return np.ones(slices.cord.shape, bool)
    centre = window_of(slices, settings).centre.numpy()
    x, y = (np.arange(n) * s - centre[:, i, None] for i, (n, s) in enumerate(zip(slices.cord.shape[1:], slices.spacing, strict=True)))
    return np.asarray(x[:, :, None] ** 2 + y[:, None] ** 2 < NEAR**2)


def _scaled(image: NDArray[np.float32], norm: str, name: str, near: NDArray[np.bool_]) -> NDArray[np.float32]:
    known = np.isfinite(image)
    if not (known & near).any((1, 2)).all():
        raise InputError(
            expected="values in every slice", found=f"{int((~(known & near).any((1, 2))).sum())} slices of NaN alone", where=f"image {name}",
            remedy="Leave these slices out.",
        )  # fmt: skip
    values = np.where(known, image, np.nan)
    if norm in ("png8", "png8_unit"):
        low, high = (f(values, axis=(1, 2), keepdims=True) for f in (np.nanmin, np.nanmax))
        levels = np.nan_to_num(np.round(LEVELS * (values - low) / np.maximum(high - low, 1e-12)))
        return np.asarray(levels if norm == "png8" else levels / LEVELS, np.float32)
    flat = np.where(near, values, np.nan).reshape(len(values), -1)
    middle = np.nanmedian(flat, 1)
    spread = NORMAL * np.nanmedian(np.abs(flat - middle[:, None]), 1)
    spread = np.where(spread > 0, spread, np.nanstd(flat, 1) + 1e-12)
    scaled = (values - middle[:, None, None]) / spread[:, None, None]
    return np.asarray(np.nan_to_num(np.clip(scaled, -10, 10)), np.float32)


def mirrored_channels(settings: InputSection) -> list[int]:
    """Which channel takes which one's place in a mirrored slice: those of the prior change sides.

    Examples
    --------
    >>> mirrored_channels(InputSection(images=("b0", "prior")))
    [0, 5, 6, 7, 8, 1, 2, 3, 4]
    """
    out: list[int] = []
    for name in settings.images:
        out += [len(out) + i for i in (schema.OTHER_SIDE if name == PRIOR else (0,))]
    return out
