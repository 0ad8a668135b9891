"""MT co-registration and MTR against the published result of a real subject, whose stored warp is one in-plane translation a slice."""

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise
from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def published(real_data):
    folder = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat/MTS"
    prefix = "sub-HC003U_ses-spinalcord_acq-"
    on, off, mask = (nib.as_closest_canonical(nib.load(folder / f"{prefix}{k}.nii.gz")) for k in ("MTon_MTS", "MToff_MTS", "MTon_MTS_seg"))
    warp = np.asarray(nib.load(folder / f"warp_{prefix}MToff_MTS2{prefix}MTon_MTS.nii.gz").dataobj)[:, :, :, 0] * [-1, -1, 1]  # LPS to RAS
    spacing = np.linalg.norm(on.affine[:3, :3], axis=0)
    cord = mask.get_fdata() > 0.5
    in_plane = (on.affine[:3, :3] / spacing)[:, :2]
    shifts = np.array([warp[:, :, z][cord[:, :, z]].mean(0) @ in_plane for z in range(cord.shape[2])])
    return on.get_fdata(), off.get_fdata(), cord, spacing, shifts


def test_shifts_agree_with_the_published_registration(published):
    on, off, cord, spacing, stored = published
    found = estimate_slicewise(on, off, cord, spacing)
    assert np.linalg.norm(found - stored, axis=1).mean() < 0.10  # mm; 0.076 measured, voxels are 0.9
    assert np.linalg.norm(found - stored, axis=1).max() < 0.25


def test_mtr_agrees_with_the_published_registration(published):
    on, off, cord, spacing, stored = published
    floor = cord_floor(off, cord, 0.05)
    ours, theirs, none = (
        mtr(apply_shifts(off, s, spacing), on, floor=floor)[0][cord]
        for s in (estimate_slicewise(on, off, cord, spacing), stored, np.zeros_like(stored))
    )
    assert np.nanmean(np.abs(ours - theirs)) < 0.35  # percent; 0.27 measured
    assert np.nanmean(np.abs(none - theirs)) > 1.0  # 1.23 without any registration
    assert abs(np.nanmedian(ours) - np.nanmedian(theirs)) < 0.2
    check_not_swapped(ours, np.ones_like(ours))


@pytest.mark.parametrize(
    ("on", "off", "mask"),
    [
        ("errsm_23/mt/mt1", "errsm_23/mt/mt0", "errsm_23/mt/mt_seg"),  # 5 slices of 16.5 mm
        (
            "mts_unf/sub-05/anat/sub-05_acq-MTon_MTS",
            "mts_unf/sub-05/anat/sub-05_acq-MToff_MTS",
            "mts_unf/derivatives/labels/sub-05/anat/sub-05_acq-MTon_MTS_seg",
        ),
    ],
)
def test_a_planted_shift_is_found_in_other_scans(real_data, on, off, mask):
    def load(name):
        return nib.as_closest_canonical(nib.load(real_data / f"{name}.nii.gz"))

    image = load(on)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    fixed, moving, cord = image.get_fdata(), load(off).get_fdata(), load(mask).get_fdata() > 0.5
    planted = np.stack([np.linspace(-0.6, 0.8, fixed.shape[2]), np.linspace(0.5, -0.4, fixed.shape[2])], 1)
    before = estimate_slicewise(fixed, moving, cord, spacing)
    after = estimate_slicewise(fixed, apply_shifts(moving, -planted, spacing), cord, spacing)
    in_cord = cord.any((0, 1))
    assert np.median(np.abs(after - before - planted)[in_cord]) < 0.1
