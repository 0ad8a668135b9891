"""What one array of a store means and how it lies on disk. Which arrays there are is said in `schema`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohort_engine.errors import StoreError

SUBJECT = "subject"
"""The dimension along which a cohort grows."""


@dataclass(frozen=True)
class VariableSpec:
    """What one array means and how it lies on disk.

    Attributes
    ----------
    path : str
        Group and name inside the store, ``"maps/mtr"``.
    long_name, units : str
        For people and for CF attributes; ``"1"`` where there is no unit.
    dims : tuple of str
        Dimension names, slowest first.
    dtype : str
        numpy dtype string; ``"str"`` for variable-length text.
    valid_range : pair of float, optional
        Inclusive; ``verify`` reports values outside.
    chunks : mapping of dim to int
        Chunk length; a dim that is not named is one whole chunk.
    fill : value of an element never written
        NaN for floats. Zero is a value, not a hole.
    flags : mapping of int to str
        CF flag_values and flag_meanings, for coded variables.
    stage : str
        Stage that writes it, row by row; empty where no stage does.
    more : mapping
        Further attributes, as JSON holds them.
    """

    path: str
    long_name: str
    units: str
    dims: tuple[str, ...]
    dtype: str = "float32"
    valid_range: tuple[float, float] | None = None
    chunks: Mapping[str, int] = field(default_factory=dict)
    fill: Any = math.nan
    flags: Mapping[int, str] = field(default_factory=dict)
    stage: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def gathered(self) -> bool:
        """Whether a stage's row of it travels in the stage's record and is gathered into blocks: small things that need no object of their own."""
        return bool(self.stage) and self.dims[:1] == (SUBJECT,) and self.chunks.get(SUBJECT) != 1

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it: NaN is None, an open end of a range ``"inf"``.

        Examples
        --------
        >>> spec = VariableSpec("qc/mt_dice", "Dice", "1", (SUBJECT,), valid_range=(0.0, math.inf), stage="fit_mt")
        >>> VariableSpec.from_json(spec.to_json()) == spec, spec.to_json()["valid_range"]
        (True, [0.0, 'inf'])
        """
        limits = None if self.valid_range is None else [str(v) if math.isinf(v) else v for v in self.valid_range]
        return {
            "path": self.path, "long_name": self.long_name, "units": self.units, "dims": list(self.dims), "dtype": self.dtype,
            "valid_range": limits, "chunks": dict(self.chunks), "fill": None if self.fill != self.fill else self.fill,
            "flags": {str(k): v for k, v in self.flags.items()}, "stage": self.stage, "more": dict(self.more),
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> VariableSpec:
        """Read what `to_json` gave."""
        limits, fill = record["valid_range"], record["fill"]
        return cls(
            record["path"], record["long_name"], record["units"], tuple(record["dims"]), record["dtype"],
            None if limits is None else (float(limits[0]), float(limits[1])), dict(record["chunks"]), math.nan if fill is None else fill,
            {int(k): v for k, v in record["flags"].items()}, record["stage"], dict(record["more"]),
        )  # fmt: skip

    def attributes(self) -> dict[str, Any]:
        """CF-style attributes written beside the array."""
        out: dict[str, Any] = {"long_name": self.long_name, "units": self.units, **self.more}
        if self.valid_range is not None:
            out["valid_range"] = list(self.valid_range)
        if self.flags:
            out |= {"flag_values": list(self.flags), "flag_meanings": " ".join(self.flags.values())}
        return out

    def chunk_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunk lengths for an array of `shape`; an empty axis still gets chunks of one."""
        return tuple(max(1, min(self.chunks.get(d, n), n)) for d, n in zip(self.dims, shape, strict=True))

    def check(self, array: np.ndarray[Any, Any], *, dims: tuple[str, ...] | None = None) -> None:
        """Refuse an array whose rank or dtype kind is not the declared one."""
        dims = self.dims if dims is None else dims
        if array.ndim != len(dims):
            raise StoreError(
                expected=f"dims {dims}", found=f"shape {array.shape}", where=self.path, remedy="Write arrays with the dims of the schema."
            )
        if self.dtype != "str" and not np.can_cast(array.dtype, np.dtype(self.dtype), "same_kind"):
            raise StoreError(expected=f"dtype {self.dtype}", found=str(array.dtype), where=self.path, remedy="Convert before writing.")
