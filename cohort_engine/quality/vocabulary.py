"""The vocabulary of quality: what is measured of a subject, and what can have failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from cohort_engine import schema
from cohort_engine.schema import MT, QC, SUBJECT, T2W, VariableSpec

QUALITY_STAGE = "quality"
BORDER_SHIFT, BORDER_LACKS, BORDER_SEEN, BORDER_OUTWARD = "border_shift", "border_lacks", "border_seen", "border_outward"
CENTRE_JUMP, AREA_STEP = "centre_jump", "area_step"
MASK_QC: Mapping[str, tuple[str, str]] = {
    BORDER_SHIFT: ("shift of the image's edge around the cord against the border of the mask, median over slices", "mm"),
    BORDER_LACKS: ("depth that the mask lacks on one side, by the image's edge, mean of the worst tenth of the slices", "mm"),
    BORDER_SEEN: ("share of the mask's border, slice by slice on eight sides, where the image has an edge", "1"),
    BORDER_OUTWARD: ("share of the mask's border where the image is brighter outside: fluid is bright in T2w and MT images", "1"),
    CENTRE_JUMP: ("largest distance of a slice's middle from halfway between its neighbours'", "mm"),
    AREA_STEP: ("largest logarithm of a slice's area over the geometric mean of its neighbours'", "1"),
}
"""Quality numbers of a mask against its image: ``qc/<contrast>_<key>``."""
OUTLINE, EXPLAINED, WHITE_BELOW_GREY, BEND_MIN, BEND_MAX = "outline", "explained", "white_below_grey", "bend_min", "bend_max"
MAP_QC: Mapping[str, tuple[str, str]] = {
    OUTLINE: ("Dice of the mask with the template's cord, brought into the image by the stored map, mean of the worst tenth of the slices", "1"),
    EXPLAINED: ("share of the image's variance that the template's tissues explain, median over slices", "1"),
    WHITE_BELOW_GREY: ("share of the slices in which white matter is darker than grey matter", "1"),
    BEND_MIN: ("area that the map gives a template voxel of the cord, over the median of its slice: 1st percentile", "1"),
    BEND_MAX: ("the same: 99th percentile", "1"),
}
"""Quality numbers of a template map against its image: ``qc/<contrast>_<key>``."""
OTHER_DISTANCE, OTHER_DICE, MIRROR_PLACE, MIRROR_IMAGE = "other_mask_distance", "other_mask_dice", "mirror_place", "mirror_image"
PAIR_SHIFT, PAIR_LOOSE, PAIR_NEGATIVE, PAIR_CORD, PAIR_FLUID = "pair_shift", "pair_loose", "pair_negative", "pair_cord", "pair_fluid"
LEVEL_SPACING, LEVEL_OPINION = "level_spacing", "level_opinion"
SUBJECT_QC: Mapping[str, tuple[str, str]] = {
    OTHER_DISTANCE: ("distance of the MT mask's middle from that of the T2w mask in scanner coordinates, median over slices", "mm"),
    OTHER_DICE: ("Dice of the MT mask with the T2w mask in scanner coordinates, median over slices", "1"),
    MIRROR_PLACE: ("gain of that Dice where the MT mask is mirrored about the middle of its image, mean over slices", "1"),
    MIRROR_IMAGE: ("gain of the likeness of MT-on and T2w where MT-on is mirrored about the cord, correlation of gradients, median over slices", "1"),
    PAIR_SHIFT: ("largest shift between MT-on and MT-off", "mm"),
    PAIR_LOOSE: ("shift of single slices between MT-on and MT-off beyond what their neighbours suggest, mean of the worst tenth", "mm"),
    PAIR_NEGATIVE: ("fraction of cord voxels that are brighter in MT-on than in MT-off", "1"),
    PAIR_CORD: ("median MTR of the cord mask before the images are brought together", "percent"),
    PAIR_FLUID: ("the same minus the median MTR of the ring of 1 to 2.5 mm around the cord", "percent"),
    LEVEL_SPACING: ("largest logarithm of a stretch between neighbouring landmarks over the median stretch, by the template's vertebrae", "1"),
    LEVEL_OPINION: ("distance along the cord, in vertebrae, of the landmarks from discs that a network named without knowing them, largest", "1"),
}
"""Quality numbers of a subject: ``qc/<key>``."""
GAP = f"{MT}_gap"
DOUBTS: Mapping[str, str] = {
    GAP: "no mask", f"{MT}_{BORDER_LACKS}": "the mask lacks a part", f"{MT}_{CENTRE_JUMP}": "the mask jumps",
    f"{MT}_{EXPLAINED}": "the tissues explain little", OTHER_DISTANCE: "the masks lie apart", PAIR_LOOSE: "it moved",
}  # fmt: skip
"""What makes a single slice of the MT images doubtful, by the feature that names it."""
DOUBTFUL_SLICES, LARGEST_DOUBT, DOUBTFUL = "doubtful_slices", "largest_doubt", "doubtful"
"""How many slices are doubtful, how much the values depend on them, and both in words."""
DOUBT = "doubt"
"""Column of an answer: change of its value without the doubtful slices."""
MUCH_DOUBT = 1.96
"""A subject of whom a value would leave its own 95 % interval without the doubtful slices is named in reports."""
USABLE, REASONS = "usable", "reasons"
LEAST_USABLE = 0.8
"""A subject whose values are usable with less probability is named wherever they are used."""
LEVELS_FAULT, MASK_FAULT, SIDES_FAULT, MOTION_FAULT, CONTRAST_FAULT, MAP_FAULT = "levels", "mask", "sides", "motion", "contrast", "map"
FAULTS: Mapping[str, str] = {
    LEVELS_FAULT: "vertebral levels are wrong", MASK_FAULT: "the cord mask is shifted, or lacks a part", SIDES_FAULT: "left and right are swapped",
    MOTION_FAULT: "the subject moved", CONTRAST_FAULT: "an image is of another contrast", MAP_FAULT: "the template map has gone astray",
}  # fmt: skip
"""Kinds of failure: ``qc/fault_<kind>`` is the probability of each."""


def fault(kind: str) -> str:
    """Key of the probability of a kind of failure."""
    return f"fault_{kind}"


def quality_specs() -> dict[str, VariableSpec]:
    """All that the stage `QUALITY_STAGE` writes, by key; those of a contrast with its name: ``mt_explained``."""

    def spec(key: str, text: str, units: str, dtype: str = "float32") -> VariableSpec:
        ranged = (0.0, 1.0) if key == USABLE or key.startswith("fault_") else None
        return VariableSpec(f"{QC}/{key}", text, units, (SUBJECT,), dtype, ranged, fill="" if dtype == "str" else math.nan, stage=QUALITY_STAGE)

    told = {f"{MT}_{k}": v for k, v in {**MASK_QC, **MAP_QC}.items()} | {f"{T2W}_{k}": v for k, v in MASK_QC.items()} | dict(SUBJECT_QC)
    told |= {fault(kind): (f"probability that {words}", "1") for kind, words in FAULTS.items()}
    told[USABLE] = ("probability that the values are usable", "1")
    told[DOUBTFUL_SLICES] = ("slices of the MT images that are doubtful", "1")
    told[LARGEST_DOUBT] = (
        "largest change of a native value of MTR where its level does without its doubtful slices, in standard errors of the value",
        "1",
    )
    out = {key: spec(key, *text) for key, text in told.items()}
    said = {
        REASONS: "what stands against the values, with slices counted from 0 at the bottom",
        DOUBTFUL: "levels with doubtful slices, and how much their native MTR depends on them",
    }  # fmt: skip
    return out | {key: spec(key, text, "1", "str") for key, text in said.items()}


def doubtful_path(metric: str) -> str:
    """Path of the sums of a metric's doubtful slices."""
    return schema.table_path(metric, DOUBTFUL, schema.SPACE_NATIVE)


def doubt_path(metric: str, estimator: str) -> str:
    """Path of how much the values of a metric depend on its doubtful slices."""
    return schema.table_path(metric, estimator, schema.SPACE_NATIVE, DOUBT)


def doubt_spec(quantity: schema.Quantity, estimator: str) -> VariableSpec:
    """``tables/native/<metric>_<estimator>_doubt`` (subject, level, region): what doubtful slices change; 0 where none is, NaN with nothing left."""
    name = f"{quantity.long_name}, {estimator}: change without the doubtful slices of the level"
    value = schema.table_specs(quantity, estimator, schema.SPACE_NATIVE)[schema.VALUE]
    return replace(value, path=doubt_path(quantity.name, estimator), long_name=name, valid_range=None, stage=QUALITY_STAGE)


def doubtful_spec(quantity: schema.Quantity) -> VariableSpec:
    """``tables/native/<metric>_doubtful`` (subject, level, sum): what doubtful slices add to the sums of their levels; NaN in levels without."""
    name = f"{quantity.long_name}: sums of the doubtful slices of each level"
    return replace(schema.sums_spec(quantity), path=doubtful_path(quantity.name), long_name=name, stage=QUALITY_STAGE)
