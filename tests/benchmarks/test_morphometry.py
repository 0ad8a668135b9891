import os
import resource
import subprocess
import sys

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


@pytest.mark.real
@pytest.mark.parametrize("options", [[], ["--per", "level"], ["--pam50"]], ids=["slices", "levels", "pam50"])
def test_one_mask_as_a_process(benchmark, real_data, tmp_path, options):
    """64 x 320 x 320 voxels; with levels, PAM50 is loaded from its cache. Processor time of the whole process."""
    folder = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat/T2w"
    mask, discs = (folder / f"sub-HC003U_ses-spinalcord_T2w_{n}.nii.gz" for n in ("seg", "seg_labeled_discs"))
    placed = ["--levels", str(discs), "--template-path", str(real_data / "PAM50")] if options else []
    command = [sys.executable, "-m", "cohort_engine.cli", "shape", str(mask), *placed, *options, "-o", str(tmp_path / "t.csv")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    benchmark.pedantic(subprocess.run, args=(command,), kwargs={"check": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}, rounds=3)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3
    print(f"\n{' '.join(options) or 'slices'}: {seconds:.2f} s of processor, {after.ru_maxrss / 1024:.0f} MiB at most")
