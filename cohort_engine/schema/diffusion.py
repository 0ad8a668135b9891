"""Diffusion: roles of its files, its metrics, and what is kept of the motion of each volume and slice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cohort_engine.schema.files import MASK, ROLES, Contrast, Role, add_contrast, role
from cohort_engine.schema.words import BOX_X, BOX_Y
from cohort_engine.variable import SUBJECT, VariableSpec

DWI: Final = "dwi"
"""The series of volumes as it was scanned, and the contrast whose image is the mean of its diffusion-weighted volumes."""
DWI_BVAL, DWI_BVEC, DWI_JSON = "dwi_bval", "dwi_bvec", "dwi_json"
DWI_REVERSE = "dwi_reverse"
"""An image of the same slices with the opposite phase encoding."""
DWI_REVERSE_BVAL = "dwi_reverse_bval"
MOCO, MEAN = "moco", "mean"
"""What is made of a series: ``role(DWI, MOCO)``."""
DWI_MOCO = role(DWI, MOCO)
"""The series after correction of motion and distortion: NaN where a slice of a volume was lost."""
DWI_MOCO_BVAL, DWI_MOCO_BVEC = f"{DWI_MOCO}_bval", f"{DWI_MOCO}_bvec"
"""Gradients of a corrected series that the study has, where they lie beside it: a tool may have turned directions, or left volumes out."""
DWI_MEAN = role(DWI, MEAN)
"""Mean of its diffusion-weighted volumes."""
DWI_TENSOR = "dwi_tensor"
"""What the tensor fit gives, one channel each (x, y, z, channel)."""
DWI_MASK = role(DWI, MASK)

FA: Final = "fa"
MD: Final = "md"
AD: Final = "ad"
RD: Final = "rd"
S0 = "s0"
DIFFUSIVITY = "um2/ms"
"""Unit of MD, AD and RD: 1 um2/ms is 1e-3 mm2/s."""

SCANNER_MADE = ("average", "mean", "trace", "tracew", "adc", "fa", "colfa", "tensor")
"""Values of ``rec-`` of images that a scanner made of a series: no series themselves."""

ROLES.add(Role(DWI, "diffusion series", ("dwi",), without={"rec": SCANNER_MADE}))
ROLES.add(Role(DWI_BVAL, "b-values of the diffusion series", endings=(".bval", ".bvals"), sidecar_of=DWI))
ROLES.add(Role(DWI_BVEC, "directions of the diffusion series", endings=(".bvec", ".bvecs"), sidecar_of=DWI))
ROLES.add(Role(DWI_JSON, "sidecar of the diffusion series", endings=(".json",), sidecar_of=DWI))
ROLES.add(Role(DWI_REVERSE, "diffusion image with reverse phase encoding"))
ROLES.add(Role(DWI_REVERSE_BVAL, "b-values of the diffusion image with reverse phase encoding", endings=(".bval", ".bvals"), sidecar_of=DWI_REVERSE))
ROLES.add(Role(DWI_MOCO, "corrected diffusion series", made_of=DWI))
ROLES.add(Role(DWI_MOCO_BVAL, "b-values of the corrected diffusion series", endings=(".bval", ".bvals"), sidecar_of=DWI_MOCO))
ROLES.add(Role(DWI_MOCO_BVEC, "directions of the corrected diffusion series", endings=(".bvec", ".bvecs"), sidecar_of=DWI_MOCO))
add_contrast(Contrast(DWI, "mean diffusion-weighted image", DWI_MEAN), Role(DWI_MEAN, "mean diffusion-weighted image", made_of=DWI))
ROLES.add(Role(DWI_TENSOR, "diffusion tensor"))

# --- motion -----------------------------------------------------------------------------------------------------------
MOTION = "motion"
"""Group of the store: what was found of the motion of each volume and slice of a series."""
VOLUME, SLICE, PLANE = "volume", "slice", "plane"
GROWN: Mapping[str, int] = {VOLUME: 64, SLICE: 32, BOX_X: 32, BOX_Y: 32}
"""Dimensions as long as the longest row of the cohort, and the length of their chunks: shorter rows are filled up."""
MOVED, DROPPED, UNCERTAIN, LIMIT = 1, 2, 4, 8
MOTION_FLAGS: Mapping[int, str] = {MOVED: "moved", DROPPED: "dropped", UNCERTAIN: "uncertain", LIMIT: "beyond"}
"""Bits of a flag of a volume's slice: it moved much (a jump from the volumes around it), its signal was lost and it is left out, the image
does not tell how it moved and its neighbours do, or it lies beyond the range that was searched and is left out."""
LOST = DROPPED | LIMIT
"""Bits of slices that have no value after correction."""
MOTION_SHIFT, MOTION_STRETCH, MOTION_SHEAR = "shift", "stretch", "shear"
MOTION_FLAG, MOTION_AGREEMENT, MOTION_B = "flag", "agreement", "b"


def _spec(name: str, text: str, units: str, dims: tuple[str, ...], **more: object) -> VariableSpec:
    return VariableSpec(f"{MOTION}/{DWI}_{name}", text, units, (SUBJECT, *dims), stage=f"{MOCO}_{DWI}", **more)  # type: ignore[arg-type]


MOTION_SPECS: Mapping[str, VariableSpec] = {
    MOTION_SHIFT: _spec(MOTION_SHIFT, "in-plane displacement that was corrected, to the right and to the front", "mm", (VOLUME, SLICE, PLANE)),
    MOTION_STRETCH: _spec(MOTION_STRETCH, "stretch along phase encoding that was corrected (eddy currents)", "1", (VOLUME, SLICE)),
    MOTION_SHEAR: _spec(MOTION_SHEAR, "shear along phase encoding that was corrected (eddy currents)", "1", (VOLUME, SLICE)),
    MOTION_FLAG: _spec(
        MOTION_FLAG, "what is odd about a slice of a volume", "1", (VOLUME, SLICE), dtype="int8", fill=-1,
        more={"flag_masks": list(MOTION_FLAGS), "flag_meanings": " ".join(MOTION_FLAGS.values())}),
    MOTION_AGREEMENT: _spec(MOTION_AGREEMENT, "correlation of a slice with the target after correction", "1", (VOLUME, SLICE)),
    MOTION_B: _spec(MOTION_B, "b-value of the volume", "s/mm2", (VOLUME,), valid_range=(0.0, math.inf)),
}  # fmt: skip
"""``motion/dwi_<name>`` (subject, volume, slice, ...): ragged, NaN (flags: -1) behind the last volume and slice of a subject."""


# --- quality numbers --------------------------------------------------------------------------------------------------
SHARE_MOVED, SHARE_DROPPED, SHARE_BEYOND = "share_moved", "share_dropped", "share_beyond"
MOCO_QC: Mapping[str, tuple[str, str]] = {
    "largest_shift": ("largest in-plane displacement of a slice of a volume", "mm"),
    "median_shift": ("median in-plane displacement of the slices of all volumes", "mm"),
    SHARE_MOVED: ("fraction of slices of volumes that jumped from the volumes around them", "1"),
    SHARE_DROPPED: ("fraction of slices of volumes whose signal was lost, and which are left out", "1"),
    SHARE_BEYOND: ("fraction of slices of volumes that lie beyond the range that is searched, and are left out", "1"),
    "largest_displacement": ("largest distortion along phase encoding in the cord", "mm"),
    **{
        f"spread_{kind}_{when}": (f"standard deviation over the {of}, over their mean: median over the cord, {when} correction", "1")
        for kind, of in (("b0", "volumes without diffusion weighting"), ("dwi", "diffusion-weighted volumes")) for when in ("before", "after")
    },
}  # fmt: skip
"""Quality numbers of the correction of a series: ``qc/moco_dwi_<key>``; NaN where the study has the corrected series."""
TENSOR_QC: Mapping[str, tuple[str, str]] = {
    "snr": ("median signal without diffusion weighting over the noise, in the cord", "1"),
    "reliable": ("fraction of the cord's voxels whose tensor can be relied on", "1"),
    "residual": ("median residual of the tensor fit in the cord", "percent"),
    "goodness": ("median share of the signal's variance that the tensor explains", "1"),
    "lost": ("fraction of the cord's signals that were left out of the fit", "1"),
    "lost_slices": ("fraction of the slices of volumes that had lost their signal, and were left out of the fit", "1"),
    "e1_cosine": ("mean cosine between the first eigenvector and the cord", "1"),
    "direction_margin": ("how far directions as given are ahead of the best other flip or permutation, in standard errors", "1"),
    "axis_margin": ("the same, of those that exchange the axis along the cord", "1"),
    "directions_contradicted": ("1 where another flip or permutation of the directions follows the cord better", "1"),
}
"""Quality numbers of the tensor fit: ``qc/tensor_dwi_<key>``."""
