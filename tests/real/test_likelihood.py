"""How much of real images the tissues explain through a template map, slice by slice within a voxel of the cord. ``pytest -s`` prints the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scans import HEALTHY, SCANS, figures, load_scan

from cohort_engine.io.volume import read_volume
from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.likelihood import CSF, around, explained
from cohort_engine.mapping.template_map import fit_template_map
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", SCANS)
def test_what_the_tissues_explain(name: str, real_data: Path, pam50: Template) -> None:
    scan = load_scan(SCANS[name], real_data, pam50)
    fitted = fit_template_map(scan.cord.data, scan.cord.affine, scan.levels, pam50)
    fractions = tissue_fractions(fitted, pam50, scan.image.affine, scan.image.data.shape)
    region = around(scan.cord.data)
    found = explained(scan.image.data, fractions, region)
    print(f"\n{name}: {figures(found)}")
    assert 0.3 < found.mean < 0.95
    # A judge that can fail: the same map two voxels to the side.
    aside = explained(scan.image.data, np.roll(fractions, 2, axis=0), region)
    print(f"{name}, two voxels to the side: {aside.mean:.3f}")
    assert aside.mean < found.mean - 0.1
    csf = found.means[:, CSF]
    assert np.isfinite(csf).any()


def test_labels_of_the_spinal_cord_toolbox(real_data: Path, pam50: Template) -> None:
    scan = load_scan(SCANS["HC003U MT-on"], real_data, pam50)
    rows = [
        read_volume(path, what="label").data for path in sorted((real_data / HEALTHY.format("MTS")).parent.glob("label/atlas/PAM50_atlas_*.nii.gz"))
    ]
    fractions = np.stack([sum(rows[:30]), sum(rows[30:36]), rows[36]], axis=-1)
    found = explained(scan.image.data, fractions, around(scan.cord.data))
    print(f"\nHC003U MT-on, labels of the Toolbox: {figures(found)}")
    assert found.mean == pytest.approx(0.719, abs=0.001)
