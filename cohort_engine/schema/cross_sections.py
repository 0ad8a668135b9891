"""Morphometry: measures of the cord slice by slice, and what is odd about slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from cohort_engine.errors import unknown_name
from cohort_engine.schema.words import LEVEL, STD, TABLES, Z
from cohort_engine.variable import SUBJECT, VariableSpec

# --- morphometry ------------------------------------------------------------------------------------------------------
PROFILES = "profiles"
SHAPE = "shape"
"""Stage that measures the cord, and the space of its tables: whole cross-sections, no regions."""
AREA = "area"
AREA_RIGHT = "area_right"
AREA_LEFT = "area_left"
SYMMETRY = "symmetry"
DIAMETER_AP = "diameter_ap"
DIAMETER_AP_ELLIPSE = "diameter_ap_ellipse"
DIAMETER_RL = "diameter_rl"
ECCENTRICITY = "eccentricity"
SOLIDITY = "solidity"
ORIENTATION = "orientation"
ORIENTATION_SIZE = "orientation_size"
ANGLE_AP = "angle_ap"
ANGLE_RL = "angle_rl"
LENGTH = "length"
MEASURES: Mapping[str, tuple[str, str]] = {
    AREA: ("cross-sectional area at right angles to the cord", "mm2"),
    AREA_RIGHT: ("part of the area on the right of the centroid", "mm2"),
    AREA_LEFT: ("part of the area on the left of the centroid", "mm2"),
    SYMMETRY: ("Dice overlap of the cross-section with its mirror image, right for left", "1"),
    DIAMETER_AP: ("mean front-to-back extent of the 3 mm around the centroid", "mm"),
    DIAMETER_AP_ELLIPSE: ("front-to-back axis of the ellipse with the same second moments", "mm"),
    DIAMETER_RL: ("right-to-left axis of the ellipse with the same second moments", "mm"),
    ECCENTRICITY: ("eccentricity of the ellipse with the same second moments", "1"),
    SOLIDITY: ("area over area of the convex hull", "1"),
    ORIENTATION: ("turn of the ellipse's right-to-left axis, right side to the front, seen along the cord", "degree"),
    ORIENTATION_SIZE: ("size of that turn, whichever way", "degree"),
    ANGLE_AP: ("lean of the cord to the right against the normal of the slice (a turn about the front-to-back axis)", "degree"),
    ANGLE_RL: ("lean of the cord to the front against the normal of the slice (a turn about the right-to-left axis)", "degree"),
    LENGTH: ("length of the cord within the slice", "mm"),
}
"""Measure -> what it is, and its unit."""

SUMMED = frozenset({LENGTH})
"""Measures that add up over slices; all others average."""

MEASURE_RANGES: Mapping[str, tuple[float, float]] = {"mm2": (0.0, math.inf), "mm": (0.0, math.inf), "1": (0.0, 1.0), "degree": (-90.0, 90.0)}
"""Unit of a measure -> the values it can have."""
PROFILE_TABLES = "tables"
"""Source of profiles: tables that somebody else normalised to the template."""
Z_LEVEL = "z_level"
SLICES = "slices"
SPLIT_SLICES, MISSING_SLICES, THIN_SLICES = "split_slices", "missing_slices", "thin_slices"
SLICE_FLAGS: Mapping[str, str] = {
    SPLIT_SLICES: "slices whose mask is in several pieces, of which one was measured",
    MISSING_SLICES: "slices without cord between slices with cord, or with nothing but specks and strays: not measured",
    THIN_SLICES: "slices with less than 0.4 of the area of the slices around them",
}
"""What is odd about slices of a mask: `tables/shape/<flag>` counts them by level."""

Z_AXIS: tuple[VariableSpec, ...] = (
    VariableSpec(f"{PROFILES}/{Z}", "height in the template, slice by slice from the bottom", "mm", (Z,), "float64"),
    VariableSpec(f"{PROFILES}/{Z_LEVEL}", "vertebral level number, 1 = C1, 8 = T1, 0 = none", "1", (Z,), "int8", fill=0),
)


def measure(name: str, *, where: str = "measure") -> str:
    """Check the name of a measure; a typo is answered with the near ones."""
    if name not in MEASURES:
        raise unknown_name("measure", name, list(MEASURES), where=where)
    return name


def profile_spec(name: str) -> VariableSpec:
    """``profiles/<measure>`` (subject, z), along the template. float64: an imported table comes back as it was.

    Examples
    --------
    >>> profile_spec("area").dims, profile_spec("area").units
    (('subject', 'z'), 'mm2')
    """
    text, units = MEASURES[measure(name)]
    return VariableSpec(f"{PROFILES}/{name}", text, units, (SUBJECT, Z), "float64", MEASURE_RANGES[units], stage=SHAPE)


def shape_specs() -> dict[str, VariableSpec]:
    """``profiles/*``, and ``tables/shape/*`` (subject, level): each measure with its spread over slices, and how many slices there were."""

    def every() -> Iterator[VariableSpec]:
        def table(name: str, text: str, units: str, limits: tuple[float, float]) -> VariableSpec:
            return VariableSpec(f"{TABLES}/{SHAPE}/{name}", text, units, (SUBJECT, LEVEL), "float64", limits, stage=SHAPE)

        yield from Z_AXIS
        yield from (profile_spec(m) for m in MEASURES if m not in SUMMED)
        for name, (text, units) in MEASURES.items():
            yield table(name, f"{text}: {'sum' if name in SUMMED else 'mean'} over the slices of the level", units, MEASURE_RANGES[units])
            if name not in SUMMED:
                yield table(f"{name}_{STD}", f"{text}: population standard deviation over the slices of the level", units, (0.0, math.inf))
        yield table(SLICES, "slices of the level that were measured", "1", (0.0, math.inf))
        yield from (table(flag, text.replace("slices", "slices of the level", 1), "1", (0.0, math.inf)) for flag, text in SLICE_FLAGS.items())

    return {s.path: s for s in every()}
