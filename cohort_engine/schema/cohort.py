"""What every store has, whatever its metrics: subjects, voxels, atlas, and how each stage of each subject ended."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cohort_engine.schema.words import ATLAS, NONZERO, POINTER, STAGE, STAGES, SUBJECTS, VOXEL, VOXELS
from cohort_engine.variable import SUBJECT, VariableSpec

# --- subjects, voxels, atlas, stages ----------------------------------------------------------------------------------
PARTICIPANT, SESSION = "participant_id", "session_id"
GROUP, SITE = "group", "site"
HEALTHY = frozenset(
    {"hc", "nc", "cn", "con", "ctl", "ctrl", "control", "controls", "healthy", "healthy control", "healthy controls", "healthy volunteer"}
)
"""Words for healthy people, in lower case."""
AGE = "age"
SEX = "sex"


def subject_spec(column: str, dtype: str, units: str = "1", long_name: str = "") -> VariableSpec:
    """``subjects/<column>`` (subject): a typed column of participants.tsv. Text is ``""`` and numbers are NaN where absent."""
    return VariableSpec(
        f"{SUBJECTS}/{column}", long_name or column.replace("_", " "), units, (SUBJECT,), dtype, fill="" if dtype == "str" else math.nan
    )


VOXEL_INDEX = ("i", "j", "k")
VOXEL_WORLD = ("x_mm", "y_mm", "z_mm")
VOXEL_LEVEL = "voxel_level"
INDPTR = "indptr"
INDICES = "indices"
WEIGHT = "weight"
LABEL_NAME = "label_name"

STATUS = "status"
SECONDS = "seconds"
PEAK_MEMORY = "peak_memory"
KEY = "key"
RECIPE = "recipe"
NOT_RUN, DONE, FAILED, MISSING, NOT_NEEDED = "not_run", "done", "failed", "missing_input", "not_needed"
STATUS_CODES: Mapping[int, str] = {0: NOT_RUN, 1: DONE, 2: FAILED, 3: MISSING, 4: NOT_NEEDED}
"""How a stage of a subject ended, as it was recorded."""
STALE, TO_DO = "stale", "to_do"
STATES: tuple[str, ...] = (TO_DO, DONE, FAILED, MISSING, NOT_NEEDED, STALE)
"""How a stage of a subject is judged against what the study asks for now."""
OPEN: frozenset[str] = frozenset({TO_DO, FAILED, MISSING, STALE})
"""States that leave something to be done."""

GPU = "gpu"
"""Resource that a worker with a GPU offers."""


def segment_stage(contrast: str) -> str:
    """Name of the stage that segments the cord of a contrast."""
    return f"segment_{contrast}"


def levels_stage(contrast: str) -> str:
    """Name of the stage that finds the vertebral landmarks of a contrast."""
    return f"levels_{contrast}"


FIXED: tuple[VariableSpec, ...] = (
    *(
        VariableSpec(f"{VOXELS}/{n}", f"index of the voxel on the template grid, axis {n} (RAS+ order)", "1", (VOXEL,), "int16", fill=-1)
        for n in VOXEL_INDEX
    ),
    *(VariableSpec(f"{VOXELS}/{n}", f"template world coordinate {n[0]} (RAS+)", "mm", (VOXEL,)) for n in VOXEL_WORLD),
    VariableSpec(f"{VOXELS}/{VOXEL_LEVEL}", "vertebral level number, 1 = C1, 8 = T1, 0 = none", "1", (VOXEL,), "int8", fill=0),
    VariableSpec(f"{ATLAS}/{INDPTR}", "CSR row pointer of the (label, voxel) weights", "1", (POINTER,), "int64", fill=0),
    VariableSpec(f"{ATLAS}/{INDICES}", "CSR voxel index", "1", (NONZERO,), "int32", fill=0),
    VariableSpec(f"{ATLAS}/{WEIGHT}", "CSR weight of the voxel in the label", "1", (NONZERO,), valid_range=(0.0, 1.0)),
    VariableSpec(f"{STAGES}/{STATUS}", "how the stage ended", "1", (SUBJECT, STAGE), "int8", fill=0, flags=STATUS_CODES),
    VariableSpec(f"{STAGES}/{SECONDS}", "wall time of the stage", "s", (SUBJECT, STAGE)),
    VariableSpec(f"{STAGES}/{PEAK_MEMORY}", "peak resident memory of the worker after the stage", "MiB", (SUBJECT, STAGE)),
    VariableSpec(f"{STAGES}/{KEY}", "content key of the stage", "1", (SUBJECT, STAGE), "str", fill=""),
    VariableSpec(f"{STAGES}/{RECIPE}", "hash of the stage's version, parameters and template", "1", (SUBJECT, STAGE), "str", fill=""),
)
"""Variables every store has, whatever its metrics."""
