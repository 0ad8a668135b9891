"""Where the border of a cord mask lies: how far the image's edge at half height is from it, for our masks, those people drew, and PAM50's own cord.

Half height: the value halfway between the cord's inside and what is around it, along lines from the cord's middle, averaged over 30 degrees.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.segment import segment
from cohort_engine.io.volume import read_volume

pytest.importorskip("torch")
pytestmark = pytest.mark.real

HC = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
GM = "gm_challenge/{0}sub-{1}/anat/sub-{1}_run-1_T2starw{2}"
IMAGES = {
    "HC003U T2*": (f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star", f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star_seg"),
    "HC003U MT on": (f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS", f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS_seg"),
    **{f"gm {s} T2*": (GM.format("", s, ""), GM.format("derivatives/labels/", s, "_seg-manual")) for s in ("9418", "9584", "10062Ses1", "10062Ses2")},
    "amu7t": ("amu7t/image", "amu7t/image_sc"),
    "errsm_18 GRE": ("errsm_18/gre/gre", "errsm_18/gre/segmentation_binary"),
    "errsm_23 MT on": ("errsm_23/mt/mt1", "errsm_23/mt/mt_seg"),
    "errsm_23 MT off": ("errsm_23/mt/mt0", "errsm_23/mt/mt_seg"),
    **{f"errsm_{n} T2w": (f"errsm_{n}/t2/t2", f"errsm_{n}/t2/t2_manual_segmentation") for n in (11, 18, 23)},
}
RAYS, SECTOR, STEP = 72, 6, 0.1
ALONG = np.arange(-2.5, 2.51, STEP)
SLICES = 25


def half_height(image: NDArray[np.float32], mask: NDArray[np.float32], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (mm, outwards) from the border of one slice's mask to the half height of the image, a value for each side that shows an edge."""
    centre = np.array(ndimage.center_of_mass(mask))
    turn, r = np.arange(RAYS) * 2 * np.pi / RAYS, np.arange(0, 14, STEP)
    at = np.stack([centre[0] + np.outer(np.cos(turn), r) / spacing[0], centre[1] + np.outer(np.sin(turn), r) / spacing[1]])
    inside, value = (ndimage.map_coordinates(np.asarray(v, float), at, order=1) for v in (mask, image))
    last = np.array([np.flatnonzero(line >= 0.5)[-1] if (line >= 0.5).any() else -1 for line in inside])
    if (last < 0).any() or (last + 1 >= len(r)).any():
        return np.empty(0)
    rows = np.arange(RAYS)
    fall = inside[rows, last] - inside[rows, last + 1]
    border = r[last] + STEP * (inside[rows, last] - 0.5) / np.maximum(fall, 1e-6)
    out = []
    for first in range(0, RAYS, SECTOR):
        side = np.arange(first, first + SECTOR)
        profile = np.mean([np.interp(border[k] + ALONG, r, value[k]) for k in side], axis=0)
        core, beyond = profile[ALONG < -1.0], (ALONG > 0) & (ALONG < 2.2)
        level, end = np.median(core), np.flatnonzero(beyond)[np.argmax(np.abs(profile[beyond] - np.median(core)))]
        step = profile[end] - level
        if abs(step) < max(4 * core.std(), 0.15 * abs(level)):
            continue
        above = (profile - level - step / 2) * np.sign(step)
        start = end
        while start > 0 and above[start] > 0:
            start -= 1
        if start and above[start + 1] > above[start]:
            lean = np.arctan2((border[side[-1]] - border[side[0]]) / ((SECTOR - 1) * 2 * np.pi / RAYS), border[side].mean())
            out.append((ALONG[start] - STEP * above[start] / (above[start + 1] - above[start])) * np.cos(lean))
    return np.array(out)


def offset(image: NDArray[np.float32], mask: NDArray[np.float32], spacing: NDArray[np.float64], slices: NDArray[np.int64]) -> float:
    """Median over sides and slices."""
    return float(np.median(np.concatenate([half_height(image[:, :, z], mask[:, :, z], spacing) for z in slices])))


@cache
def measured(folder: Path, name: str) -> tuple[float, float]:
    """Offsets of our soft mask and of the drawn one."""
    image, drawn = (read_volume(folder / f"{p}.nii.gz", what="image") for p in IMAGES[name])
    ours, spacing = segment(image.data, image.affine).soft, image.grid.spacing
    slices = np.flatnonzero((ours > 0.5).any(axis=(0, 1)) & (drawn.data > 0.5).any(axis=(0, 1)))
    slices = slices[:: -(-len(slices) // SLICES)]
    return offset(image.data, ours, spacing, slices), offset(image.data, (drawn.data > 0.5).astype(np.float32), spacing, slices)


def test_masks_end_as_far_inside_half_height_as_people_and_the_template(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What decides the convention: a quarter of a millimetre inside half height is where drawn masks and PAM50's cord end, too (unf01 left out)."""
    rows = {name: measured(real_data, name) for name in IMAGES}
    image, cord = (read_volume(real_data / f"PAM50/small/PAM50_small_{n}.nii.gz", what="template") for n in ("t2", "cord"))
    slices = np.flatnonzero((cord.data > 0.5).any(axis=(0, 1)))
    template = offset(image.data, (cord.data > 0.5).astype(np.float32), image.grid.spacing, slices[len(slices) // 2 :: 3])
    ours, drawn = np.array(list(rows.values())).T
    with capsys.disabled():
        print("\nhalf height of the image's edge, mm outside the border of the mask")
        for name, (a, b) in rows.items():
            print(f"{name:18s} ours {a:+.2f}  drawn {b:+.2f}")
        print(
            f"median of {len(rows)} images: ours {np.median(ours):+.2f}, drawn {np.median(drawn):+.2f}; PAM50's cord in PAM50's T2w {template:+.2f}"
        )
    assert abs(np.median(ours) - 0.25) < 0.08
    assert abs(np.median(ours) - np.median(drawn)) < 0.12
    assert abs(template - 0.25) < 0.1


def test_half_height_of_a_drawn_edge() -> None:
    """A blurred ellipse whose mask ends 0.3 mm inside it: the measure says so."""
    x, y = np.meshgrid((np.arange(60) - 29.5) * 0.5, (np.arange(60) - 29.5) * 0.5, indexing="ij")
    edge, mask = ((a - np.hypot(x, y)) for a in (5.0, 4.7))
    image = ndimage.gaussian_filter(np.where(edge > 0, 1.0, 2.0), 1.0)
    found = half_height(image.astype(np.float32), (mask / 0.5 + 0.5).clip(0, 1).astype(np.float32), np.array([0.5, 0.5]))
    assert len(found) == 12
    assert np.median(found) == pytest.approx(0.3, abs=0.1)
