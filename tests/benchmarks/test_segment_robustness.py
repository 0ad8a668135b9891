"""What must not matter to segmentation, on real scans: noise, the field of view, resolution, bright and dark swapped, blank slices, MT-off.

Prints how much of Dice each costs against the image as it is (with the drawn mask, in the slices that are drawn and not blank), and how many slices
are lost. Two of them take away what there is to see, and that is measured, printed in brackets and judged by: beside half the resolution what the
mask of the image as it is loses by being a mask of those larger voxels (more than `FALL` where 0.9 mm become 1.8 mm), so that what is lost beyond
that is judged; beside noise the fall in those slices in which cord and fluid differ by more than the noise of a voxel. Nothing was trained on these
images; the limits of inference were chosen with some of them in sight.

``ROBUST="HC003U T2*,amu7t"`` takes these images only.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.cord.segment import segment
from cohort_engine.io.volume import read_volume
from cohort_engine.phantom import spoil

pytest.importorskip("torch")

HC = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
MTS = f"{HC}/MTS/sub-HC003U_ses-spinalcord_acq-{{0}}_MTS{{1}}"
GM = "gm_challenge/{0}sub-{1}/anat/sub-{1}_run-1_T2starw{2}"
EPI = "epi_leipzig/derivatives/{0}/sub-leipzigR01/func/sub-leipzigR01_task-rest_desc-{1}"
UNF = "mts_unf/{0}sub-05/anat/sub-05_acq-{1}_MTS{2}"
CASES = {
    "HC003U T2*": (f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star", f"{HC}/T2star/sub-HC003U_ses-spinalcord_T2star_seg"),
    "HC003U MT on": (MTS.format("MTon", ""), MTS.format("MTon", "_seg")),
    "HC003U MT off": (MTS.format("MToff", ""), MTS.format("MTon", "_seg")),
    "HC003U T1w": (MTS.format("T1w", ""), MTS.format("MTon", "_seg")),
    "unf05 MT on": (UNF.format("", "MTon", ""), UNF.format("derivatives/labels/", "MTon", "_seg")),
    "unf05 MT off": (UNF.format("", "MToff", ""), UNF.format("derivatives/labels/", "MTon", "_seg")),
    **{f"gm {s} T2*": (GM.format("", s, ""), GM.format("derivatives/labels/", s, "_seg-manual")) for s in ("9418", "9584", "10062Ses1", "10062Ses2")},
    "amu7t": ("amu7t/image", "amu7t/image_sc"),
    "epi_leipzig": (EPI.format("moco", "mocomean_bold"), EPI.format("label", "spinalcord_mask")),
    "errsm_18 GRE": ("errsm_18/gre/gre", "errsm_18/gre/segmentation_binary"),
    "errsm_23 MT on": ("errsm_23/mt/mt1", "errsm_23/mt/mt_seg"),
    "errsm_23 MT off": ("errsm_23/mt/mt0", "errsm_23/mt/mt_seg"),
}
"""Image and mask; MT-off and T1w are compared with the mask of MT-on, so the subject's motion counts in all their columns alike."""
FALL, NOISE = 0.03, 0.05
NOISY, HALF = f"noise {100 * NOISE:g} %", "x 0.5"
KINDS = (NOISY, "60 mm", "120 mm", "250 mm", "450 mm", HALF, "x 2", "swapped", "dark air", "blank 10 %")
"""``dark air``: bright and dark swapped in tissue alone."""
SOME = [name for name in CASES if name in os.environ.get("ROBUST", ",".join(CASES)).split(",")]


def dice(a, b):
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def regained(soft, factor, shape):
    """A soft mask that was resampled by this factor, on the grid that it was on."""
    full = spoil.resampled(soft, 1 / factor)[: shape[0], : shape[1]]
    return np.pad(full, [(0, n - m) for n, m in zip(shape, full.shape, strict=True)])


def spoiled(kind, image, affine, centre, rng):
    """Image, affine, slices that are blank, and what brings a soft mask back onto the image's grid."""
    spacing, blank = np.linalg.norm(affine[:3, :3], axis=0), np.empty(0, int)
    if kind.endswith("mm"):
        out, first = spoil.field_of_view(image, float(kind.split()[0]), spacing, centre, rng)
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :2] @ first

        def back(soft):
            full = np.zeros(image.shape, np.float32)
            old = [slice(max(0, f), min(n, f + m)) for f, n, m in zip(first, image.shape, soft.shape, strict=False)]
            full[old[0], old[1]] = soft[tuple(slice(s.start - f, s.stop - f) for s, f in zip(old, first, strict=True))]
            return full

        return out, moved, blank, back
    if kind.startswith("x"):
        factor = float(kind[2:])
        scaled = affine.copy()
        scaled[:3, :2] /= factor
        scaled[:3, 3] += affine[:3, :2] @ np.full(2, 0.5 / factor - 0.5)
        out = spoil.resampled(image, factor)

        return out, scaled, blank, lambda soft: regained(soft, factor, image.shape)
    if kind == NOISY:
        return spoil.noisy(image, NOISE, rng), affine, blank, np.asarray
    if kind in ("swapped", "dark air"):
        return spoil.flipped(image, air=kind == "swapped"), affine, blank, np.asarray
    out, blank = spoil.blanked(image, 0.1, rng)
    return out, affine, blank, np.asarray


def shown(image, drawn):
    """Slices (z,) in which the medians of two voxels around the cord and of its inside differ by more than the noise that is added."""
    noise, out = NOISE * np.percentile(image[image > 0], 95), np.zeros(image.shape[2], bool)
    for z in np.flatnonzero(drawn.any(axis=(0, 1))):
        cord = drawn[:, :, z]
        inside, rim = ndimage.binary_erosion(cord), ndimage.binary_dilation(cord, iterations=2) & ~cord
        out[z] = abs(np.median(image[rim, z]) - np.median(image[inside, z])) > noise if inside.any() else False
    return out


class Row(NamedTuple):
    """Fall of Dice, and the part of it that is judged; slices lost, how many of them nothing names; what is printed beside."""

    fall: float
    judged: float
    lost: int
    unnamed: int
    note: str


def table(image, affine, drawn):
    """Dice of the image as it is, the slices that it lacks, and the kinds' rows."""
    plain = segment(image, affine)
    has = drawn.any(axis=(0, 1))
    centre = np.array(ndimage.center_of_mass(drawn))[:2]
    rows = {}
    for kind in KINDS:
        changed, there, blank, back = spoiled(kind, image, affine, centre, np.random.default_rng(zlib.crc32(kind.encode())))
        found = segment(changed, there)
        judged = has.copy()
        judged[blank] = False
        ours = back(found.soft) >= 0.5

        def fall(other, slices):
            return dice(plain.mask & slices, drawn & slices) - dice(other & slices, drawn & slices)

        lost = np.flatnonzero(judged & plain.mask.any(axis=(0, 1)) & ~found.mask.any(axis=(0, 1)))
        named = np.concatenate([np.empty(0, np.int64), *found.missing.values()])
        unnamed, whole = len(np.setdiff1d(np.r_[lost, blank], named)), fall(ours, judged)
        clear, note = whole, ""
        if kind == NOISY:
            seen = shown(image, drawn)
            clear = fall(ours, seen)
            note = f" [{-clear:+.3f} in {seen.sum()} of {has.sum()}]"
        elif kind == HALF:
            grid = fall(regained(spoil.resampled(plain.mask, 0.5) >= 0.5, 0.5, image.shape) >= 0.5, has)
            clear, note = whole - max(grid, 0.0), f" [{-grid:+.3f}]"
        rows[kind] = Row(whole, clear, len(lost), unnamed, (f" ({len(lost)} lost)" if len(lost) else "") + note)
    return dice(plain.mask & has, drawn), np.flatnonzero(has & ~plain.mask.any(axis=(0, 1))), rows


@pytest.mark.parametrize("name", SOME)
def test_what_must_not_matter(benchmark, name, real_data: Path):
    volume, mask = (read_volume(real_data / f"{p}.nii.gz", what="image") for p in CASES[name])
    image = np.asarray(volume.data, np.float32).clip(0)
    plain, missed, rows = benchmark.pedantic(table, (image, volume.affine, mask.data > 0.5), rounds=1)
    benchmark.extra_info |= {"dice": round(plain, 3), **{kind: round(row.fall, 3) for kind, row in rows.items()}}
    cells = "  ".join(f"{kind} {-row.fall:+.3f}{row.note}" for kind, row in rows.items())
    print(f"\n{name:16s} Dice {plain:.3f}" + (f" without {missed.tolist()}" if len(missed) else "") + f"  {cells}")
    assert all(row.unnamed == 0 for row in rows.values()), "every slice that is lost is named"
    assert all(row.fall < plain for row in rows.values()), "no cord is lost"
    assert not {kind: round(row.judged, 3) for kind, row in rows.items() if row.judged > FALL}
