"""Slices with drawn regions, from whatever source: what networks are trained on and judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import GeometryError, StorageError

MARK = 12
"""Letters of a mark."""
IMAGE = "image_{0}"
"""Name of an image's array in a file."""


@dataclass(frozen=True, eq=False)
class RoiSlices:
    """Axial slices of one pixel size, RAS+: x to the right, y to the front.

    Attributes
    ----------
    images : mapping of (slice, x, y) float32
        By name: `schema.B0_IMAGE`, `schema.FA`, ... NaN where there is no value.
    drawn : (slice, roi, x, y) bool
        Regions in the order of `schema.ROIS`; all False where a region was not drawn.
    cord : (slice, x, y) bool
        Cord as segmented.
    patient, position : (slice,) int
        Number of the patient, and of the slice in its stack.
    spacing : (2,) float64
        Pixel size, mm.
    prior : (slice, roi, x, y) float32, optional
        Share of each pixel that belongs to the whole part of the cord, by registration to the template.
    again : (slice, roi, x, y) bool, optional
        The same regions drawn by another rater.
    atlas : (slice, roi, x, y) bool, optional
        Cores of the template's parts brought into the image: the answer without a network.

    Raises
    ------
    GeometryError
        Arrays do not fit one another.

    Examples
    --------
    >>> drawn = np.zeros((3, 8, 4, 4), bool)
    >>> some = RoiSlices({"fa": np.zeros((3, 4, 4), np.float32)}, drawn, drawn[:, 0], np.array([0, 0, 1]), np.array([0, 1, 0]), np.ones(2))
    >>> len(some), len(some.at(some.patient == 0))
    (3, 2)
    """

    images: Mapping[str, NDArray[np.float32]]
    drawn: NDArray[np.bool_]
    cord: NDArray[np.bool_]
    patient: NDArray[np.int64]
    position: NDArray[np.int64]
    spacing: NDArray[np.float64]
    prior: NDArray[np.float32] | None = None
    again: NDArray[np.bool_] | None = None
    atlas: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Compare shapes."""
        n, rois, *plane = self.drawn.shape
        if rois != len(schema.ROIS):
            raise GeometryError(
                expected=f"{len(schema.ROIS)} regions a slice: {', '.join(schema.ROIS)}", found=f"{rois}", where="drawn regions",
                remedy="Give one mask for each region, all False where it was not drawn.",
            )  # fmt: skip
        shapes = {f"image {name}": (image.shape, (n, *plane)) for name, image in self.images.items()}
        shapes |= {"cord": (self.cord.shape, (n, *plane)), "patient": (self.patient.shape, (n,)), "position": (self.position.shape, (n,))}
        shapes |= {name: (getattr(self, name).shape, self.drawn.shape) for name in ("prior", "again", "atlas") if getattr(self, name) is not None}
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise GeometryError(
                    expected=f"shape {expected}, as the drawn regions have", found=f"{found}", where=name, remedy="Bring all to one grid."
                )

    def __len__(self) -> int:
        """Count slices."""
        return len(self.drawn)

    def at(self, chosen: NDArray[Any]) -> RoiSlices:
        """Take some slices, by a mask or by numbers."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("images", "spacing")}
        parts = {name: None if array is None else array[chosen] for name, array in parts.items()}
        return replace(self, images={name: image[chosen] for name, image in self.images.items()}, **parts)

    def middle(self, size: int) -> RoiSlices:
        """Keep the middle `size` x `size` pixels of each slice; all where it has fewer.

        Examples
        --------
        >>> drawn = np.zeros((1, 8, 5, 4), bool)
        >>> RoiSlices({}, drawn, drawn[:, 0], np.zeros(1, int), np.zeros(1, int), np.ones(2)).middle(2).drawn.shape
        (1, 8, 2, 2)
        """
        x, y = (slice(max(0, (n - size) // 2), max(0, (n - size) // 2) + size) for n in self.cord.shape[1:])
        planes = {name: getattr(self, name) for name in ("drawn", "cord", "prior", "again", "atlas")}
        parts: dict[str, Any] = {name: None if array is None else array[..., x, y] for name, array in planes.items()}
        return replace(self, images={name: image[..., x, y] for name, image in self.images.items()}, **parts)

    def save(self, path: str | Path) -> None:
        """Write all to one file (npz), whole or not at all."""
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images" and getattr(self, f.name) is not None}
        arrays |= {IMAGE.format(name): image for name, image in self.images.items()}
        aside = Path(path).with_name(Path(path).name + ".part")
        with aside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        aside.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> RoiSlices:
        """Read what `save` wrote.

        Raises
        ------
        StorageError
            Not such a file.
        """
        prefix = IMAGE.format("")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            images = {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
            return cls(images, **arrays)
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                expected="slices with drawn regions (npz)", found=str(error).splitlines()[0], where=Path(path).name,
                remedy="Give a file that was written by this package.",
            ) from error  # fmt: skip


def joined(parts: Sequence[RoiSlices]) -> RoiSlices:
    """Put slices of one pixel size and plane together; what only some of them have, prior, again or atlas, is left out."""
    arrays = {f.name: [getattr(p, f.name) for p in parts] for f in fields(RoiSlices) if f.name not in ("images", "spacing")}
    together: dict[str, Any] = {name: None if any(a is None for a in some) else np.concatenate(some) for name, some in arrays.items()}
    return RoiSlices(images={name: np.concatenate([p.images[name] for p in parts]) for name in parts[0].images}, **together, spacing=parts[0].spacing)


def marks(slices: RoiSlices) -> list[str]:
    """Mark each slice by what tells it from others, and nothing of whom it is: a hash of values in the cord, wherever that lies in the plane.

    Examples
    --------
    >>> cord = np.zeros((2, 4, 4), bool)
    >>> cord[:, 1:3, 1:3] = True
    >>> image = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    >>> some = RoiSlices({"fa": image}, np.zeros((2, 8, 4, 4), bool), cord, np.zeros(2, int), np.arange(2), np.ones(2))
    >>> len(set(marks(some))), marks(some) == marks(some.middle(2))
    (2, True)
    """
    name = schema.FA if schema.FA in slices.images else min(slices.images)
    image = np.asarray(slices.images[name], np.float32)
    return [hashlib.sha256(some[inside].tobytes()).hexdigest()[:MARK] for some, inside in zip(image, slices.cord, strict=True)]
