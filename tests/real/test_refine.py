"""What the image's say does to the map of real cords: explained variance of images fitted and not fitted, and drawn grey matter. ``-s`` prints it.

Images of the session that were not fitted lie where a registration by shifts puts them, which may be wrong by some tenths of a millimetre in a slice;
so each is judged once more where it fits the map best, map by map. Voxels that were held out of the fit are a second scan that one image can give.
"""

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
from cohort_engine.mapping.refine import refine_map
from cohort_engine.mapping.rim import RIM, with_rim
from cohort_engine.mapping.template_map import TemplateMap, fit_template_map, sample
from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise
from cohort_engine.single.fit import by_image
from cohort_engine.template.base import Template

pytestmark = [pytest.mark.real, pytest.mark.slow]
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


HELD_OUT = 2
"""Width of the stripes of voxels, across the cord, of which every second one is held out."""
ASIDE = np.arange(-3, 4) * 0.2
"""Shifts (mm) along each axis that an image may take to fit a map."""


def where_it_fits(data: np.ndarray, spacing: np.ndarray, tissues: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    """What the tissues explain of an image (mean over slices) when each slice lies where they explain most, and its mean distance from here, mm."""
    shifts = np.stack(np.meshgrid(ASIDE, ASIDE, indexing="ij"), axis=-1).reshape(-1, 2)
    shares = np.stack([explained(apply_shifts(data, np.tile(s, (data.shape[2], 1)), spacing), tissues, region).share for s in shifts])
    known = np.isfinite(shares).all(axis=0)
    best = shares[:, known].argmax(axis=0)
    return float(shares[best, np.flatnonzero(known)].mean()), float(np.hypot(*shifts[best].T).mean())


@pytest.mark.parametrize("name", SCANS)
def test_voxels_that_were_held_out(name: str, real_data: Path, pam50: Template) -> None:
    """A fit to half of the voxels explains the other half better than the outline does: it is the cord that it follows, not the noise."""
    scan = load_scan(SCANS[name], real_data, pam50)
    image, cord, region = scan.image, scan.cord, around(scan.cord.data)
    outline = fit_template_map(cord.data, cord.affine, scan.levels, pam50, likely=True)
    stripes = np.indices(image.data.shape)[0] // HELD_OUT % 2 == 0
    shares = []
    for fitted_to in (stripes, ~stripes):
        half = refine_map(outline, pam50, np.where(fitted_to, image.data, np.nan), image.affine, cord.data)
        tissues = [tissue_fractions(with_rim(m, pam50), pam50, image.affine, image.data.shape) for m in (outline, half.fitted)]
        shares.append([[explained(image.data, t, region & some).mean for t in tissues] for some in (fitted_to, ~fitted_to)])
    (own, own_after), (other, other_after) = np.mean(shares, axis=0)
    print(f"\n{name}: fitted half {own:.3f} -> {own_after:.3f}, half that was held out {other:.3f} -> {other_after:.3f}")
    assert other_after > other


@pytest.mark.parametrize("name", SCANS)
def test_before_and_after(name: str, real_data: Path, pam50: Template) -> None:
    scan = load_scan(SCANS[name], real_data, pam50)
    image, cord = scan.image, scan.cord
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    others = {
        other: apply_shifts(v.data, estimate_slicewise(image.data.astype(float), v.data.astype(float), cord.data > 0.5, spacing), spacing)
        for other, v in scan.others.items()
    }
    outline = fit_template_map(cord.data, cord.affine, scan.levels, pam50, likely=True)
    start = time.process_time()
    refined = by_image(outline, image, cord, pam50)
    print(
        f"\n{name}: {time.process_time() - start:.1f} s CPU, "
        + ", ".join(f"{k} {refined.quality[k]:.3f}" for k in list(schema.FIT_QC)[6:] if k in refined.quality)
    )
    shares: list[float] = []
    unfitted: dict[str, list[float]] = {other: [] for other in others}
    for how, fitted in (("outline", outline), ("refined", refined)):
        tissues = tissue_fractions(with_rim(fitted, pam50), pam50, image.affine, image.data.shape)
        found = explained(image.data, tissues, around(cord.data))
        shares.append(found.mean)
        print(f"{name} {how}: {figures(found)}")
        for other, data in others.items():
            best, away = where_it_fits(data, spacing, tissues, around(cord.data))
            print(
                f"{name} {how}, {other} (not fitted): {explained(data, tissues, around(cord.data)).mean:.3f};",
                f"where it fits best, {away:.2f} mm away: {best:.3f}",
            )
            unfitted[other].append(best)
        if name in DRAWN:
            print(f"{name} {how}, drawn grey matter: Dice {drawn_dice(fitted, real_data / (DRAWN[name] + '.nii.gz'), pam50):.3f}")
    short = tissue_fractions(refined, pam50, image.affine, image.data.shape)
    for other, data in {"itself": image.data, **others}.items():
        ends = [explained(data, t, around(cord.data)).mean for t in (short, tissues)]
        print(f"{name} refined, {other}: {ends[0]:.4f} where tissue ends with the outline, {ends[1]:.4f} where it reaches {RIM} mm beyond")
        assert other == "itself" or ends[1] > ends[0]
    assert shares[1] >= shares[0]
    assert all(after > before - 0.02 for before, after in unfitted.values())
    if name == "HC003U MT-on":
        assert shares[1] >= 0.765
        assert refined.quality[schema.WHITE_BELOW_GREY] == 1
