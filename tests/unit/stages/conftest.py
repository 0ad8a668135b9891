"""A template of a few voxels, of which a stage knows no more than it needs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.template.atlas import Atlas


class FewVoxels(SimpleNamespace):
    """Voxels of 1 mm, all of one label and of C3."""

    __hash__ = object.__hash__


@pytest.fixture
def make_few_voxels() -> Callable[[int], Any]:
    def make(voxels: int) -> Any:
        packing = SimpleNamespace(grid=SimpleNamespace(affine=np.eye(4)), level=np.full(voxels, 3))
        atlas = Atlas(("cord",), {}, {"cord": (0,)}, sparse.csr_array(np.ones((1, voxels), np.float32)))
        return FewVoxels(packing=packing, atlas=atlas, levels=("C3",))

    return make
