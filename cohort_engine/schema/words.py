"""Words of the store: dimensions, groups, spaces, estimators and what goes with their values, sources, landmarks and levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from cohort_engine.errors import unknown_name
from cohort_engine.registry import Registry

FORMAT_VERSION = "2"
"""Version of the store layout. Opening another one is refused."""

# --- dimensions -------------------------------------------------------------------------------------------------------
VOXEL = "voxel"
AXIS = "axis"
LEVEL = "level"
LEVEL_NUMBER = "level_number"
"""Coordinate beside the names of levels."""
REGION = "region"
STAGE = "stage"
SUM = "sum"
PAIR = "pair"
PART = "part"
"""What `SUM` is to an image, to a map in template space."""
BOX_X, BOX_Y = "box_x", "box_y"
"""Voxels of a box around the cord, to the right and to the front."""
HOMOGENEOUS = "homogeneous"
"""Columns of an affine: three of the voxel's edges, and the origin."""
Z = "z"
NONZERO = "nonzero"
POINTER = "pointer"

# --- groups -----------------------------------------------------------------------------------------------------------
SUBJECTS = "subjects"
VOXELS = "voxels"
ATLAS = "atlas"
MAPS = "maps"
BY_REGION = "by_region"
"""Maps of a freeze cut by voxels, and the dimension of these."""
POSITION = "position"
FIT = "fit"
TABLES = "tables"
QC = "qc"
STAGES = "stages"
ANALYSIS = "analysis"
ANALYSIS_ROW = "row"
"""Start of the name of a dimension of tidy tables: ``row_groups``."""

# --- spaces, estimators, companions -----------------------------------------------------------------------------------
SPACE_TEMPLATE: Final = "template"
SPACE_NATIVE: Final = "native"
SPACES = (SPACE_TEMPLATE, SPACE_NATIVE)
SIGNAL: Final = "signal"
INTEGRAL: Final = "integral"
INTERPOLATE: Final = "interpolate"
WA: Final = "wa"
BIN = "bin"
MEDIAN = "median"
ML = "ml"
MAP = "map"
MAX = "max"
STD = "std"
SE = "se"
NOISE = "noise"
N = "n"
COVERAGE = "coverage"
LEAST_COVERAGE = 0.5
"""A cell with less of its region in the data has no value, where nobody says otherwise."""
COMPANIONS: Mapping[str, str] = {
    STD: "weighted population standard deviation over the voxels of the cell",
    SE: "standard error, template voxels counted as independent",
    NOISE: "standard error that the standard errors of the voxels alone give",
    N: "sum of the region's weights over valid voxels (soft voxel count)",
    COVERAGE: "weight of valid voxels over the weight of all voxels of the cell",
}
SE_NATIVE = "standard error: noise, what neighbouring voxels share, and how far the atlas may lie off"

ESTIMATORS: Registry[Any] = Registry("estimator", "cohort_engine.reduce.estimators")
"""`reduce.estimators.base.Estimator` by SCT's name: each says which companions its tables have, and whether its values stay in the metric's range."""


# --- sources ----------------------------------------------------------------------------------------------------------
BIDS: Final = "bids"
SCT: Final = "sct"
"""Where subjects come from: images with masks and landmarks, or what the Spinal Cord Toolbox made of them."""

# --- landmarks --------------------------------------------------------------------------------------------------------
DISC = "disc"
BODY = "body"

LEVEL_NAMES: tuple[str, ...] = (
    *(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)),
)  # fmt: skip
"""Vertebral level number n (PAM50: 1 = C1 ... 8 = T1 ... 20 = L1) is ``LEVEL_NAMES[n - 1]``."""


def level_number(name: str, *, where: str = "level") -> int:
    """Return the PAM50 number of a level name.

    Examples
    --------
    >>> level_number("C2"), level_number("t1")
    (2, 8)
    """
    upper = name.strip().upper()
    if upper not in LEVEL_NAMES:
        raise unknown_name("level", name, list(LEVEL_NAMES), where=where)
    return LEVEL_NAMES.index(upper) + 1


def level_position(name: str) -> float:
    """Return the number of a level, of a range that of its middle; NaN for what is neither, such as the whole cord.

    Examples
    --------
    >>> level_position("C2"), level_position("C2:C5"), level_position("all")
    (2.0, 3.5, nan)
    """
    first, _, last = name.partition(":")
    ends = [LEVEL_NAMES.index(n) + 1 for n in (first, last or first) if n in LEVEL_NAMES]
    return sum(ends) / 2 if len(ends) == 2 else math.nan
