"""MT-off onto MT-on by shifts, and with SyN after them: how much MTR inside the cord spreads, and how well a movement that was planted is undone.

Run with ``pytest -s --benchmark-only tests/benchmarks/test_mtr_registration.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.segment import segment
from cohort_engine.io.volume import Volume, read_mask, read_volume
from cohort_engine.single.mtr import COREGISTER, ratio

pytest.importorskip("ants")
pytestmark = pytest.mark.real

HC = "dcm_ou/sub-HC003U/ses-spinalcord/anat/MTS/sub-HC003U_ses-spinalcord_acq-"
SCANS = {
    "HC003U": (f"{HC}MTon_MTS", f"{HC}MToff_MTS", f"{HC}MTon_MTS_seg"),
    "sct_019": ("sct_019/mt/mt1", "sct_019/mt/mt0", None),
    "mts_unf": (
        "mts_unf/sub-05/anat/sub-05_acq-MTon_MTS", "mts_unf/sub-05/anat/sub-05_acq-MToff_MTS",
        "mts_unf/derivatives/labels/sub-05/anat/sub-05_acq-MTon_MTS_seg",
    ),
    "errsm_23": ("errsm_23/mt/mt1", "errsm_23/mt/mt0", "errsm_23/mt/mt_seg"),
}  # fmt: skip
"""MT-on, MT-off and a mask; without one the cord is segmented."""
STRETCH = 1.0
"""A bend moves a point 8 mm in front of the cord's centre by this much, mm."""


def images(folder: Path, name: str) -> tuple[Volume, Volume, Volume]:
    on, off = (read_volume(folder / f"{f}.nii.gz", what="image") for f in SCANS[name][:2])
    mask = SCANS[name][2]
    return on, off, on.with_data(segment(on.data, on.affine).soft) if mask is None else read_mask(folder / f"{mask}.nii.gz", what="mask")


def planted(off: Volume, cord: Volume, stretch: float) -> Volume:
    """MT-off shifted by 0.4 to 0.5 mm, otherwise in each slice, and stretched from back to front around the cord."""
    spacing, (nx, ny, nz) = off.grid.spacing, off.data.shape
    cx, cy, _ = np.argwhere(cord.data > 0.5).mean(axis=0)
    i, j = np.indices((nx, ny), dtype=float)
    near = np.exp(-(((i - cx) * spacing[0]) ** 2 + ((j - cy) * spacing[1]) ** 2) / 200)
    out = np.empty(off.data.shape, np.float32)
    for z, t in enumerate(np.linspace(0, 1, nz)):
        x, y = 0.9 * t - 0.5, 0.4 - 0.7 * t + stretch * (j - cy) * spacing[1] / 8 * near
        out[:, :, z] = ndimage.map_coordinates(off.data[:, :, z].astype(float), [i + x / spacing[0], j + y / spacing[1]], order=3, mode="nearest")
    return off.with_data(out)


def figures(on: Volume, off: Volume, cord: Volume, how: str) -> NDArray[np.float64]:
    """Spread of MTR inside the cord; mean change of MTR in the cord by a planted shift, and by a planted bend; percentage points."""
    plain = ratio(on, off, cord, coregister=how).values
    mask = cord.data > 0.5
    inside = np.stack([ndimage.binary_erosion(m) for m in np.moveaxis(mask, 2, 0)], axis=2)
    spread = [np.nanstd(plain[:, :, z][inside[:, :, z]]) for z in np.flatnonzero(inside.any(axis=(0, 1)))]
    changed = [ratio(on, planted(off, cord, s), cord, coregister=how).values - plain for s in (0.0, STRETCH)]
    return np.array([np.mean(spread), *(np.nanmean(np.abs(c[mask])) for c in changed)])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCANS)
def test_by_shifts_and_with_syn(benchmark: Any, name: str, real_data: Path) -> None:
    on, off, cord = images(real_data, name)
    found = benchmark.pedantic(lambda: {how: figures(on, off, cord, how) for how in COREGISTER}, rounds=1)
    print(f"\n{name}: MTR, percentage points    spread inside   changed by a shift   changed by a bend")
    for how, (spread, shift, bend) in found.items():
        print(f"  {how:11s}                        {spread:5.2f}          {shift:5.2f}                {bend:5.2f}")
    assert found["slicewise"][1] < found["none"][1]
    assert found["deformable"][2] < found["slicewise"][2]
