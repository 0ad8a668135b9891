"""Rows of a store as estimators take them: by the sums that were kept of their maps where these are enough, else by the maps, read when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import Cells, Estimator
from cohort_engine.reduce.maps import Kept, Maps
from cohort_engine.reduce.operator import Operator
from cohort_engine.reduce.precision import NONE, errors_of
from cohort_engine.template.atlas import Atlas

Read = Callable[[str, NDArray[np.intp]], NDArray[Any]]
"""Values of a variable of the store, by its path, of some rows."""


@dataclass(frozen=True, eq=False)
class StoredRows:
    """A metric of some rows of a store.

    Attributes
    ----------
    metric : str
    rows : (row,) int array
    has : callable of a path
        Whether the store has such a variable.
    read : callable of a path and rows
    atlas : Atlas
        On the voxels that `read` gives of a map.
    weights : str
        How voxels count that have standard errors, see `reduce.precision`.
    numbers : sequence of int
        Levels that `read` gives of sums; empty where these are not to be looked at.
    """

    metric: str
    rows: NDArray[np.intp]
    has: Callable[[str], bool]
    read: Read
    atlas: Atlas
    weights: str = NONE
    numbers: Sequence[int] = ()
    _maps: dict[bytes, Maps] = field(default_factory=dict)

    @cached_property
    def kept(self) -> Kept | None:
        """What was kept of all rows, NaN where it was not; None where voxels are needed whoever the row is."""
        sums, errors = (schema.table_path(self.metric, of, schema.SPACE_TEMPLATE) for of in (schema.SUMS, schema.ERRORS))
        if not self.numbers or not self.has(sums) or (self._measured and not (self.weights == NONE and self.has(errors))):
            return None
        beside = (self.read(errors, self.rows), self.read(schema.error_paths(self.metric)[1], self.rows)) if self._measured else ()
        return Kept.unpack(self.read(sums, self.rows), self.numbers, len(self.atlas.labels), *beside)

    @cached_property
    def _measured(self) -> bool:
        """Whether voxels have standard errors."""
        return all(map(self.has, schema.error_paths(self.metric)))

    def maps(self, rows: NDArray[np.intp]) -> Maps:
        """Read maps; the same ones once, so that estimators share their sums."""
        if rows.tobytes() not in self._maps:
            values = self.read(f"{schema.MAPS}/{self.metric}", rows)
            errors = None
            if self._measured:
                se, shared = (self.read(path, rows) for path in schema.error_paths(self.metric))
                errors = errors_of(values, se, shared, self.atlas, weights=self.weights)
            self._maps[rows.tobytes()] = Maps(values, errors)
        return self._maps[rows.tobytes()]

    def reduce(self, kernel: Estimator, operator: Operator, *, min_coverage: float) -> Cells:
        """Reduce all rows with an estimator, see `Estimator.of_maps`."""
        kept = self.kept if kernel.summed else None
        if kept is None:
            return kernel.of_maps(operator, self.maps(self.rows), min_coverage=min_coverage)
        known = kept.known
        sums = cast(Maps, kept if known.all() else kept.of_rows(known))  # an estimator that is `summed` asks for what is `maps.Summed` alone
        parts = [(known, kernel.of_maps(operator, sums, min_coverage=min_coverage))] if known.any() or not len(known) else []
        parts += [] if known.all() else [(~known, kernel.of_maps(operator, self.maps(self.rows[~known]), min_coverage=min_coverage))]
        out: Cells = {}
        for name in parts[0][1]:
            first = parts[0][1][name]
            out[name] = np.empty((len(known), *first.shape[1:]), first.dtype)
            for who, cells in parts:
                out[name][who] = cells[name]
        return out
