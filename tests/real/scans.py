"""Real scans that show grey matter, with their cord masks and levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import Landmarks, LevelAxis, landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import Volume, read_volume
from cohort_engine.mapping.likelihood import Explained
from cohort_engine.template.base import Template

HEALTHY = "dcm_ou/sub-HC003U/ses-spinalcord/anat/{0}/sub-HC003U_ses-spinalcord"


class Scan(NamedTuple):
    """An image that shows grey matter, the others on its grid, its cord mask and the levels along it."""

    image: Volume
    others: dict[str, Volume]
    cord: Volume
    levels: LevelAxis


class Source(NamedTuple):
    """Names of an image, others of its session on its grid, its mask (None: segmented here), and of a mask and landmarks (and their kind) of T2w."""

    image: str
    others: Mapping[str, str] = MappingProxyType({})
    cord: str | None = None
    levels: tuple[str, str, str] | None = None


def _gm_challenge(person: str, run: int = 1) -> Source:
    name = f"sub-{person}/anat/sub-{person}_run-{{}}_T2starw"
    return Source(f"gm_challenge/{name.format(run)}", cord=f"gm_challenge/derivatives/labels/{name.format(1)}_seg-manual" if run == 1 else None)


SCANS = {
    "HC003U MT-on": Source(
        HEALTHY.format("MTS") + "_acq-MTon_MTS", {"MT-off": HEALTHY.format("MTS") + "_acq-MToff_MTS", "T1w": HEALTHY.format("MTS") + "_acq-T1w_MTS"},
        HEALTHY.format("MTS") + "_acq-MTon_MTS_seg",
        (HEALTHY.format("T2w") + "_T2w_seg", HEALTHY.format("T2w") + "_T2w_seg_labeled_discs", "disc"),
    ),
    "HC003U T2*": Source(
        HEALTHY.format("T2star") + "_T2star", {}, HEALTHY.format("T2star") + "_T2star_seg",
        (HEALTHY.format("T2w") + "_T2w_seg", HEALTHY.format("T2w") + "_T2w_seg_labeled_discs", "disc"),
    ),
    "errsm_23 MT-on": Source(
        "errsm_23/mt/mt1", {"MT-off": "errsm_23/mt/mt0"}, "errsm_23/mt/mt_seg",
        ("errsm_23/t2/t2_manual_segmentation", "errsm_23/t2/t2_landmarks_C2_T2_center", "body"),
    ),
    "sct_019 MT-on": Source("sct_019/mt/mt1", {"MT-off": "sct_019/mt/mt0", "T1w": "sct_019/mt/t1w"}),
    "mts_unf 01 MT-on": Source("mts_unf/sub-01/anat/sub-01_acq-MTon_MTS", {"MT-off": "mts_unf/sub-01/anat/sub-01_acq-MToff_MTS"}),
    "mts_unf 05 MT-on": Source(
        "mts_unf/sub-05/anat/sub-05_acq-MTon_MTS", {"MT-off": "mts_unf/sub-05/anat/sub-05_acq-MToff_MTS"},
        "mts_unf/derivatives/labels/sub-05/anat/sub-05_acq-MTon_MTS_seg",
    ),
    **{f"gm_challenge {person} T2*": _gm_challenge(person) for person in ("9418", "9584", "10062Ses1", "10062Ses2")},
}  # fmt: skip


def load_scan(source: Source, data: Path, template: Template) -> Scan:
    """Read a scan; a slab without landmarks gets the middle of C4 in its middle."""

    def load(name: str, what: str = "image") -> Volume:
        return read_volume(data / f"{name}.nii.gz", what=what)

    image = load(source.image)
    if source.cord is None:
        from cohort_engine.cord.segment import segment

        cord = Volume(segment(image.data, image.affine).mask.astype(np.float32), image.affine)
    else:
        cord = load(source.cord, "cord mask")
    line = centreline_from_mask(cord.data, cord.affine, what="cord mask")
    if source.levels is None:
        height = template.landmarks["disc"]
        half = (height[4] - height[5]) / 2
        places = line.position(line.length / 2 + np.array([half, -half]))
        levels = level_axis(line, Landmarks("disc", np.array([4, 5]), places), template)
    else:
        mask, points = load(source.levels[0], "cord mask"), load(source.levels[1], "landmarks")
        landmarks = landmarks_from_labels(points.data, points.affine, kind=source.levels[2], what="landmarks")
        levels = transfer(level_axis(centreline_from_mask(mask.data, mask.affine, what="cord mask"), landmarks, template), line)
    return Scan(image, {name: load(path) for name, path in source.others.items()}, cord, levels)


def figures(found: Explained) -> str:
    """Mean share, slices in which white is below grey, and the share slice by slice in percent."""
    known = np.isfinite(found.share)
    below = found.white_below_grey[known]
    return f"{found.mean:.3f}, white below grey {np.nansum(below):.0f} of {known.sum()} | " + " ".join(f"{100 * s:.0f}" for s in found.share[known])
