"""What the image's say does to the map of real cords: explained variance of images fitted and not fitted, and drawn grey matter. ``-s`` prints it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scans import SCANS, figures, load_scan

from cohort_engine import schema
from cohort_engine.io.volume import read_volume
from cohort_engine.mapping.fractions import tissue_fractions
from cohort_engine.mapping.likelihood import around, explained
from cohort_engine.mapping.template_map import TemplateMap, fit_template_map, sample
from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise
from cohort_engine.single.fit import by_image
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real
DRAWN = {
    "HC003U T2*": "dcm_ou/sub-HC003U/ses-spinalcord/anat/T2star/sub-HC003U_ses-spinalcord_T2star_gmseg",
    **{
        f"gm_challenge {who} T2*": f"gm_challenge/derivatives/labels/sub-{who}/anat/sub-{who}_run-1_T2starw_gmseg-manual"
        for who in ("9418", "9584", "10062Ses1", "10062Ses2")
    },
}


def drawn_dice(fitted: TemplateMap, drawn: Path, template: Template) -> float:
    """Dice of drawn grey matter with the template's, in the template."""
    mask = read_volume(drawn, what="grey matter")
    there = np.nan_to_num(sample((mask.data > 0.5).astype(np.float32), mask.affine, fitted.block)) >= 0.5
    slices = there.any(axis=(0, 1))
    wanted = template.gm[:, :, slices] >= 0.5
    return float(2 * (there[:, :, slices] & wanted).sum() / (there.sum() + wanted.sum()))


@pytest.mark.parametrize("name", SCANS)
def test_before_and_after(name: str, real_data: Path, pam50: Template) -> None:
    scan = load_scan(SCANS[name], real_data, pam50)
    image, cord = scan.image, scan.cord
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    others = {
        other: apply_shifts(v.data, estimate_slicewise(image.data.astype(float), v.data.astype(float), cord.data > 0.5, spacing), spacing)
        for other, v in scan.others.items()
    }
    outline = fit_template_map(cord.data, cord.affine, scan.levels, pam50)
    start = time.process_time()
    refined = by_image(outline, image, cord, pam50)
    print(
        f"\n{name}: {time.process_time() - start:.1f} s CPU, "
        + ", ".join(f"{k} {refined.quality[k]:.3f}" for k in list(schema.FIT_QC)[6:] if k in refined.quality)
    )
    shares = []
    for how, fitted in (("outline", outline), ("refined", refined)):
        tissues = tissue_fractions(fitted, pam50, image.affine, image.data.shape)
        found = explained(image.data, tissues, around(cord.data))
        shares.append(found.mean)
        print(f"{name} {how}: {figures(found)}")
        for other, data in others.items():
            print(f"{name} {how}, {other} (not fitted): {explained(data, tissues, around(cord.data)).mean:.3f}")
        if name in DRAWN:
            print(f"{name} {how}, drawn grey matter: Dice {drawn_dice(fitted, real_data / (DRAWN[name] + '.nii.gz'), pam50):.3f}")
    assert shares[1] >= shares[0]
    if name == "HC003U MT-on":
        assert shares[1] >= 0.765
        assert refined.quality[schema.WHITE_BELOW_GREY] == 1
