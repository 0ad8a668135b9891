"""Windows around the cord: out of an image, through a network, and back onto the image's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from cohort_engine.nn.infer import Network

BATCH = 16
"""Windows that are cut at a time."""


@dataclass(frozen=True, eq=False)
class Windows:
    """A square window in each of some slices of an image.

    Attributes
    ----------
    shape, spacing : (3,)
        Of the image; mm.
    slices : (n,) int array
        Indices on axis 2.
    x, y : (n,) arrays
        Centres, mm along the image's axes from the centre of its first voxel.
    size : int
        Pixels a side.
    pixel : float
        Their size, mm.
    """

    shape: tuple[int, ...]
    spacing: FloatArray
    slices: NDArray[np.int64]
    x: FloatArray
    y: FloatArray
    size: int
    pixel: float

    @classmethod
    def around(cls, data: NDArray[Any], spacing: FloatArray, slices: NDArray[np.int64], x: FloatArray, y: FloatArray, network: Network) -> Windows:
        """Windows of the size that a network was trained with."""
        return cls(data.shape, spacing, slices, x, y, network.size, network.spacing)

    def cut(self, data: NDArray[Any]) -> Tensor:
        """Take the windows (n, 3, y, x) out of an image (x, y, z): each slice between its neighbours."""
        import torch

        from cohort_engine.nn.infer import neighbours, resampling

        offset = (torch.arange(self.size) - (self.size - 1) / 2) * self.pixel
        at = [torch.from_numpy(np.asarray(c)).float()[:, None] + offset for c in (self.x, self.y)]
        out = []
        for part in np.array_split(np.arange(len(self.slices)), max(1, len(self.slices) // BATCH)):
            rx, ry = (resampling(n, s, a[part], self.pixel)[:, None] for n, s, a in zip(self.shape, self.spacing[:2], at, strict=False))
            out.append(ry @ neighbours(data, self.slices[part], self.spacing[2]).mT @ rx.mT)
        return torch.cat(out)

    def paste(self, drawn: Tensor) -> NDArray[np.float32]:
        """Bring maps (n, y, x) of the windows onto the image's grid (x, y, z); 0 outside them."""
        import torch

        from cohort_engine.nn.infer import resampling

        out, h = np.zeros(self.shape, np.float32), self.pixel
        for k, z in enumerate(self.slices):
            boxes, onto = [], []
            for n, s, centre in zip(self.shape, self.spacing[:2], (self.x[k], self.y[k]), strict=False):
                origin = float(centre) - (self.size - 1) / 2 * h
                first, last = max(0, int(np.floor((origin - h) / s))), min(n, int(np.ceil((origin + self.size * h) / s)) + 1)
                boxes.append(slice(first, max(first, last)))
                at = torch.arange(boxes[-1].start, boxes[-1].stop, dtype=torch.float32) * s - origin
                onto.append(resampling(self.size, h, at, s))
            out[boxes[0], boxes[1], z] = (onto[0] @ drawn[k].mT @ onto[1].mT).numpy()
        return out


def look(network: Network, windows: Tensor, mirrored: Network | None = None, *, in_turn: bool = False) -> Tensor:
    """Probabilities (n, output, y, x): the mean over the windows as they are and mirrored, since left and right are alike.

    `mirrored` is the network that sees the mirrored ones, by default the same. `in_turn` sees one window as it is and the next mirrored: at half the
    cost where what is drawn is smoothed over neighbours anyway.
    """
    import torch

    other = mirrored or network
    if not in_turn:
        return 0.5 * (network(windows) + other(windows.flip(-1)).flip(-1))
    parts = network(windows[::2]), other(windows[1::2].flip(-1)).flip(-1)
    out = torch.empty(len(windows), *parts[0].shape[1:])
    out[::2], out[1::2] = parts
    return out
