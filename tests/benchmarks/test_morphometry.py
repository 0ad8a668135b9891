import numpy as np
import pytest

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.qmri.morphometry import measure_slices


@pytest.fixture
def cord():
    """Factory: a whole sagittal T2w mask, 64 x 320 x 320 voxels of 0.8 mm, bent like a neck."""

    def make():
        i, j, k = np.ogrid[:64, :320, :320]
        middle = 160 + 60 * np.sin(k / 320)
        return (((i - 32) / 8.0) ** 2 + ((j - middle) / 5.0) ** 2 <= 1).astype(np.float32), np.diag([0.8, 0.8, 0.8, 1.0])

    return make


def test_measure_slices(benchmark, cord):
    mask, affine = cord()
    line = centreline_from_mask(mask, affine, what="cord mask")
    values, _ = benchmark(measure_slices, mask, affine, line)
    assert np.isfinite(values["area"]).all()


def test_with_the_centreline(benchmark, cord):
    mask, affine = cord()
    benchmark(lambda: measure_slices(mask, affine, centreline_from_mask(mask, affine, what="cord mask")))
