"""Regions of interest drawn inside the cord on diffusion images: left and right dorsal, lateral and ventral columns and grey matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cohort_engine.schema.diffusion import DWI, SLICE
from cohort_engine.schema.files import ROLES, Role, role
from cohort_engine.schema.words import AXIS, BOX_X, BOX_Y, HOMOGENEOUS
from cohort_engine.variable import SUBJECT, VariableSpec

ROI: Final = "roi"
"""Dimension of masks of regions, in the order of `ROIS`."""
SIDES: Final = ("left", "right")
PARTS: Final = ("dorsal column", "lateral column", "ventral column", "grey matter")
ROIS: Final[tuple[str, ...]] = tuple(f"{side} {part}" for side in SIDES for part in PARTS)
"""The order of the DTI study (doi 10.3390/diagnostics13050817)."""
ROI_REGION: Final = "ROI {}"
"""Name of such a region in tables, beside those of the atlas."""
OTHER_SIDE: Final[tuple[int, ...]] = tuple((i + len(PARTS)) % len(ROIS) for i in range(len(ROIS)))
"""Index of the same part on the other side."""
B0_IMAGE: Final = "b0"
"""Mean of the volumes without diffusion weighting."""

# --- files ------------------------------------------------------------------------------------------------------------
SHORT: Final[tuple[str, ...]] = ("LDC", "LLC", "LVC", "LGM", "RDC", "RLC", "RVC", "RGM")
"""How a file name calls each of `ROIS`: ``sub-01_dwi_label-LDC_mask.nii.gz``."""
ROI_LABELS = "rois"
"""Product of a series: an image of the numbers of regions, the place in `ROIS` counted from 1; 0 where there is none."""
DWI_ROIS = role(DWI, ROI_LABELS)
DWI_ROI_MASKS: Final[tuple[str, ...]] = tuple(role(DWI, f"roi{short.lower()}") for short in SHORT)
"""Masks of single regions, in the order of `ROIS`."""
ROLES.add(Role(DWI_ROIS, "regions drawn in the diffusion series", made_of=DWI))
for _role, _name in zip(DWI_ROI_MASKS, ROIS, strict=True):
    ROLES.add(Role(_role, f"mask of the {_name} drawn in the diffusion series", made_of=DWI))

# --- in a store -------------------------------------------------------------------------------------------------------
ROI_STAGE: Final = "rois"
DRAWN: Final = "drawn"
"""Group of tables of the regions that masks of the image give, in the image's own space, as `SPACE_NATIVE` is of those of the atlas."""
ROI_SUM, ROI_PAIR = "roi_sum", "roi_pair"
"""What `SUM` and `PAIR` are to the atlas."""
ROI_GROUP: Final = "rois"
MANUAL_ROIS, NETWORK_ROIS, ATLAS_ROIS = "manual", "network", "atlas"
ROI_SOURCES: Mapping[int, str] = {1: MANUAL_ROIS, 2: NETWORK_ROIS, 3: ATLAS_ROIS}
"""Who drew the regions of a subject: people, a network, or the template through its map."""
ROI_NUMBER, ROI_PLACE, ROI_SOURCE = "number", "place", "source"


def _spec(name: str, text: str, units: str, dims: tuple[str, ...], **more: object) -> VariableSpec:
    return VariableSpec(f"{ROI_GROUP}/{name}", text, units, (SUBJECT, *dims), stage=ROI_STAGE, **more)  # type: ignore[arg-type]


ROI_SPECS: Mapping[str, VariableSpec] = {
    ROI_NUMBER: _spec(
        ROI_NUMBER, "region of each voxel of a box around the cord", "1", (BOX_X, BOX_Y, SLICE), dtype="uint8", fill=0,
        flags={i: name.replace(" ", "_") for i, name in enumerate(ROIS, 1)},
    ),
    ROI_PLACE: _spec(ROI_PLACE, "affine of the box: index of a voxel to position of its centre (RAS+)", "mm", (AXIS, HOMOGENEOUS), dtype="float64"),
    ROI_SOURCE: _spec(ROI_SOURCE, "who drew the regions", "1", (), dtype="int8", fill=0, flags=ROI_SOURCES),
}  # fmt: skip
"""``rois/<name>`` (subject, ...): the number is ragged, 0 behind a subject's box."""
ROI_AREA, ROI_ABSENT, ROI_UNRELIABLE = "area", "absent", "unreliable"
ROI_QC: Mapping[str, tuple[str, str]] = {
    ROI_AREA: ("mean area of all regions of a slice together", "mm2"),
    ROI_ABSENT: ("fraction of the regions of the cord's slices that have no voxel", "1"),
    ROI_UNRELIABLE: ("fraction of the regions' voxels without a value that can be relied on", "1"),
}
"""Quality numbers: ``qc/rois_<key>``."""
