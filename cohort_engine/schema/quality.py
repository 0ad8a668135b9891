"""Quality numbers: what each stage says of its own work."""

from __future__ import annotations

from collections.abc import Mapping

from cohort_engine.schema.words import QC
from cohort_engine.variable import SUBJECT, VariableSpec

# --- quality numbers --------------------------------------------------------------------------------------------------
DICE, DICE_GEOMETRY, RESIDUAL = "dice", "dice_geometry", "landmark_residual"
JACOBIAN_MIN, JACOBIAN_MAX, FIT_COVERAGE = "jacobian_min", "jacobian_max", "cord_coverage"
GREY_CONTRAST, GREY_DICE, GAPS, CENTRELINE_ERROR = "grey_contrast", "grey_dice", "cord_gaps", "centreline_error"
EXPLAINED, EXPLAINED_BEFORE, WHITE_BELOW_GREY = "refined_explained", "outline_explained", "refined_order"
REFINED_AREA_MIN, REFINED_SHIFT, SHIFT = "refined_area_min", "refined_shift_max", "shift_max"
FLAGGED, NEGATIVE, CORD_MEDIAN = "flagged_fraction", "negative_fraction", "cord_median"

FIT_QC: Mapping[str, tuple[str, str]] = {
    DICE: ("Dice of the warped cord mask with the template cord, over the slices both have", "1"),
    DICE_GEOMETRY: ("the same Dice before the deformable step", "1"),
    RESIDUAL: ("largest distance along the cord between a landmark and its place in the template", "mm"),
    JACOBIAN_MIN: ("smallest Jacobian determinant of the deformable step inside the cord", "1"),
    JACOBIAN_MAX: ("largest Jacobian determinant of the deformable step inside the cord", "1"),
    FIT_COVERAGE: ("fraction of the template's cord voxels that lie inside the image", "1"),
    GREY_CONTRAST: ("step of the image from white to grey matter over the noise inside the cord, where the map may follow it", "1"),
    GREY_DICE: ("Dice of the image's grey matter with the template's, where it guided the map", "1"),
    GAPS: ("slices without cord between slices with cord", "1"),
    CENTRELINE_ERROR: ("largest standard error of the centreline in slices without cord between slices with cord", "mm"),
    EXPLAINED: ("share of the image's variance in and next to the cord that the tissues explain, mean over slices", "1"),
    EXPLAINED_BEFORE: ("the same share before the image refined the map", "1"),
    WHITE_BELOW_GREY: ("fraction of slices in which white matter is darker than grey matter", "1"),
    REFINED_AREA_MIN: ("smallest area change inside the cord by the refinement", "1"),
    REFINED_SHIFT: ("largest shift inside the cord by the refinement, in the template", "mm"),
}
"""Quality numbers of a template map: ``qc/<contrast>_<key>``."""

INVERSE_RESIDUAL, LABEL_DICE = "inverse_residual", "label_dice"
WARP_QC: Mapping[str, tuple[str, str]] = {
    INVERSE_RESIDUAL: ("distance between a template voxel and where the image's warp puts its place, 95th percentile", "mm"),
    LABEL_DICE: ("Dice of the label folder's cord with the template cord brought there by the warp", "1"),
}
"""Further quality numbers of a template map that was read from a warp: ``qc/<contrast>_<key>``."""

CORD_LENGTH, CONFIDENCE, LEAST_CONFIDENCE = "cord_length", "cord_confidence", "cord_confidence_min"
AREA_JUMP, ENDS, TAKEN = "area_jump", "cord_ends", "slices_taken"
SEGMENT_QC: Mapping[str, tuple[str, str]] = {
    CORD_LENGTH: ("length of the centreline inside the mask", "mm"),
    CONFIDENCE: ("mean over slices of how certain the place of the cord is", "1"),
    LEAST_CONFIDENCE: ("least over slices of how certain the place of the cord is", "1"),
    AREA_JUMP: ("largest change of the area from a slice to the next, over their mean", "1"),
    GAPS: ("slices without cord between slices with cord", "1"),
    TAKEN: ("slices whose outline is that of the T2w image of the person, since this image left them open", "1"),
    ENDS: ("ends of the cord inside the image: 0 to 2", "1"),
}
"""Quality numbers of a mask that was segmented here: ``qc/<contrast>_<key>``; NaN where the study has the mask."""


DISC_COUNT, DISC_CONFIDENCE = "disc_count", "disc_confidence_min"
LEVELS_QC: Mapping[str, tuple[str, str]] = {
    DISC_COUNT: ("discs that were found and named", "1"),
    DISC_CONFIDENCE: ("least probability of name and place among them", "1"),
}
"""Quality numbers of landmarks that were found here: ``qc/<contrast>_<key>``; NaN where the study has landmarks."""
METRIC_QC: Mapping[str, tuple[str, str]] = {
    SHIFT: ("largest in-plane shift found between the two images", "mm"),
    FLAGGED: ("fraction of cord voxels set to NaN by the low-signal and saturation rule", "1"),
    NEGATIVE: ("fraction of cord voxels with a negative value", "1"),
    CORD_MEDIAN: ("median over the cord mask", ""),
}
"""Quality numbers of a metric: ``qc/<metric>_<key>``; an empty unit is that of the metric."""

SHARED = "shared"
ERROR_QC: Mapping[str, tuple[str, str]] = {SHARED: ("template voxels that share one voxel of the image, and its error", "voxel")}
"""Quality numbers of a metric with standard errors besides."""

SPACE_DIFFERENCE = "space_difference"
SPACE_QC: Mapping[str, tuple[str, str]] = {
    SPACE_DIFFERENCE: ("median over cells of the absolute difference between native and template space, first estimator", ""),
}
"""Quality numbers of a metric's native tables: ``qc/<metric>_<key>``."""


def qc_specs(prefix: str, quantities: Mapping[str, tuple[str, str]], stage: str) -> dict[str, VariableSpec]:
    """``qc/<prefix>_<key>`` (subject) of a stage, for a contrast (`FIT_QC`), a metric (`Metric.quality`) or a stage (`SEGMENT_QC`)."""
    return {key: VariableSpec(f"{QC}/{prefix}_{key}", text, units, (SUBJECT,), stage=stage) for key, (text, units) in quantities.items()}
