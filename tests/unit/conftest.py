"""A cohort of a few voxels, whose every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.store.maintenance import finalise
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.base import Template
from cohort_engine.template.packing import Grid, Packing
from cohort_engine.testing import HandMadeStore

LEFT, RIGHT, HORN = "WM left lateral corticospinal tract", "WM right lateral corticospinal tract", "GM left ventral horn"

MakeCohort = Callable[..., str]


@pytest.fixture(scope="session")
def tiny_template() -> Template:
    """Two slices of four voxels, the lower C3 (voxels 0-3), the upper C2 (voxels 4-7); the same weights in both.

    ===========  ====  ====  ====  ====
    voxel        0/4   1/5   2/6   3/7
    left tract   1     0.5   0     0
    right tract  0     0     0.5   1
    horn         0     0.5   0.5   0
    ===========  ====  ====  ====  ====
    """
    grid = Grid((6, 3, 2), np.array([[0.5, 0, 0, -1], [0, 0.5, 0, -2], [0, 0, 0.5, 40], [0, 0, 0, 1]]))
    mask = np.zeros(grid.shape, bool)
    mask[1:5, 1] = True
    packing = Packing.of_mask(mask, grid, slice_level=np.array([3, 2]))
    one = np.array([[1, 0.5, 0, 0], [0, 0, 0.5, 1], [0, 0.5, 0.5, 0]], np.float32)
    weights = sparse.csr_array(np.hstack([one, one]))
    atlas = Atlas((LEFT, RIGHT, HORN), {"white matter": (0, 1), "spinal cord": (0, 1, 2)}, {"white matter": (0, 1), "gray matter": (2,)}, weights)
    cord = mask.astype(np.float32)
    landmarks = {schema.DISC: {2: 41.0, 3: 40.5}, schema.BODY: {2: 40.5, 3: 40.0}}
    return Template(
        name="tiny", version="1", grid=grid, corner=(0, 0, 0), cord=cord, wm=cord, gm=0 * cord, csf=0 * cord,
        slice_level=np.array([3, 2], np.int8), landmarks=landmarks, packing=packing, atlas=atlas,
    )  # fmt: skip


@pytest.fixture
def make_cohort(tmp_path: Path, tiny_template: Template) -> MakeCohort:
    """Store with the maps given (a row a subject, eight voxels a row; None for a subject that was never built) and columns of the subject table."""

    def make(maps: Sequence[Sequence[float] | None], *, close: bool = True, min_coverage: float = 0.75, **columns: Any) -> str:
        url = str(tmp_path / f"cohort_{len(list(tmp_path.iterdir()))}.zarr")
        names = [f"sub-{i + 1:02d}" for i in range(len(maps))]
        subjects = pd.DataFrame({schema.PARTICIPANT: names} | columns)
        reduce = {"spaces": ["template"], "estimators": ["wa"], "min_coverage": min_coverage}
        config = parse_config({"data": {"bids": "b", "store": url}, "stages": {"reduce": reduce}})
        store = HandMadeStore.lay_out(config, tiny_template, subjects, names=[schema.MTR])
        for row, values in enumerate(maps):
            if values is not None:
                store.write(row, {"maps/mtr": np.asarray(values, np.float32)})
        if close:
            finalise(url, tabulate=lambda: tabulate(url), allow_missing=True)
        return url

    return make
