"""The vocabulary: every dimension, group, variable, role and flag that a cohort store may hold, written once.

A :class:`VariableSpec` says what an array means (dims, dtype, unit, range, fill) and how it lies on disk (chunks). The writer lays
arrays out from it, the accessor reads by it, the documentation lists it. Names are typed here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from cohort_engine.errors import StoreError, unknown_name

FORMAT_VERSION = "2"
"""Version of the store layout; any other is refused."""

# --- dimensions -------------------------------------------------------------------------------------------------------
SUBJECT = "subject"
VOXEL = "voxel"
AXIS = "axis"
LEVEL = "level"
REGION = "region"
STAGE = "stage"
Z = "z"
NONZERO = "nonzero"
POINTER = "pointer"

# --- groups -----------------------------------------------------------------------------------------------------------
SUBJECTS = "subjects"
VOXELS = "voxels"
ATLAS = "atlas"
MAPS = "maps"
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
N = "n"
COVERAGE = "coverage"
COMPANIONS: Mapping[str, str] = {
    STD: "weighted population standard deviation over the voxels of the cell",
    SE: "standard error, template voxels counted as independent",
    N: "sum of the region's weights over valid voxels (soft voxel count)",
    COVERAGE: "weight of valid voxels over the weight of all voxels of the cell",
}

ESTIMATORS: Mapping[str, tuple[str, ...]] = {
    WA: (STD, N, COVERAGE), BIN: (STD, N, COVERAGE), MEDIAN: (STD, N, COVERAGE),
    ML: (STD, SE, N, COVERAGE), MAP: (STD, SE, N, COVERAGE), MAX: (N, COVERAGE),
}  # fmt: skip
"""Estimator -> the companions its tables have."""

# --- contrasts, roles of files ----------------------------------------------------------------------------------------
T2W = "t2w"
MT: Final = "mt"
MT_ON = "mt_on"
MT_OFF = "mt_off"
MASK = "mask"
LANDMARKS = "landmarks"
FROM_TEMPLATE = "from_template"
TO_TEMPLATE = "to_template"
LABEL_FOLDER = "label_folder"
WARP = "warp"
MOVED = "moved"
IMAGE = "image"
MTR = "mtr"


def role(contrast: str, kind: str) -> str:
    """Role of a derivative of a contrast, for instance ``role(T2W, MASK) == "t2w_mask"``."""
    return f"{contrast}_{kind}"


ROLES: Mapping[str, str] = {
    T2W: "T2w image",
    role(T2W, MASK): "cord mask of the T2w image",
    role(T2W, LANDMARKS): "vertebral landmarks of the T2w image",
    MT_ON: "MT-on image",
    MT_OFF: "MT-off image",
    role(MT, MASK): "cord mask of the MT-on image",
    role(MT, LANDMARKS): "vertebral landmarks of the MT-on image",
    role(MT, FROM_TEMPLATE): "warp from the template to the MT image",
    role(MT, TO_TEMPLATE): "warp from the MT image to the template",
    role(MT, LABEL_FOLDER): "label folder of the MT image",
    role(MTR, IMAGE): "MTR image",
    role(MT_OFF, WARP): "warp from the MT-off to the MT-on image",
    role(MT_OFF, MOVED): "MT-off image on the grid of the MT-on image",
    role(T2W, FROM_TEMPLATE): "warp from the template to the T2w image",
    role(T2W, TO_TEMPLATE): "warp from the T2w image to the template",
    role(T2W, LABEL_FOLDER): "label folder of the T2w image",
}
"""Role -> the words a message uses for it. Files have roles; messages name roles, never paths."""

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


# --- variables --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class VariableSpec:
    """What one array means and how it lies on disk.

    Attributes
    ----------
    path : str
        Group and name inside the store, ``"maps/mtr"``.
    long_name, units : str
        For people and for CF attributes; ``"1"`` where there is no unit.
    dims : tuple of str
        Dimension names, slowest first.
    dtype : str
        numpy dtype string; ``"str"`` for variable-length text.
    valid_range : pair of float, optional
        Inclusive; ``verify`` reports values outside.
    chunks : mapping of dim to int
        Chunk length; a dim that is not named is one whole chunk.
    fill : value of an element never written
        NaN for floats. Zero is a value, not a hole.
    flags : mapping of int to str
        CF flag_values and flag_meanings, for coded variables.
    stage : str
        Stage that writes it, row by row; empty where no stage does.
    """

    path: str
    long_name: str
    units: str
    dims: tuple[str, ...]
    dtype: str = "float32"
    valid_range: tuple[float, float] | None = None
    chunks: Mapping[str, int] = field(default_factory=dict)
    fill: Any = math.nan
    flags: Mapping[int, str] = field(default_factory=dict)
    stage: str = ""

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def gathered(self) -> bool:
        """Whether a stage's row of it travels in the stage's record and is gathered into blocks: small things that need no object of their own."""
        return bool(self.stage) and self.dims[:1] == (SUBJECT,) and self.chunks.get(SUBJECT) != 1

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it: NaN is None, an open end of a range ``"inf"``.

        Examples
        --------
        >>> spec = VariableSpec("qc/mt_dice", "Dice", "1", (SUBJECT,), valid_range=(0.0, math.inf), stage="fit_mt")
        >>> VariableSpec.from_json(spec.to_json()) == spec, spec.to_json()["valid_range"]
        (True, [0.0, 'inf'])
        """
        limits = None if self.valid_range is None else [str(v) if math.isinf(v) else v for v in self.valid_range]
        fill = None if self.fill != self.fill else self.fill
        return {
            "path": self.path, "long_name": self.long_name, "units": self.units, "dims": list(self.dims), "dtype": self.dtype, "valid_range": limits,
            "chunks": dict(self.chunks), "fill": fill, "flags": {str(k): v for k, v in self.flags.items()}, "stage": self.stage,
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> VariableSpec:
        """Read what `to_json` gave."""
        limits = record["valid_range"]
        return cls(
            record["path"], record["long_name"], record["units"], tuple(record["dims"]), record["dtype"],
            None if limits is None else (float(limits[0]), float(limits[1])), dict(record["chunks"]),
            math.nan if record["fill"] is None else record["fill"], {int(k): v for k, v in record["flags"].items()}, record["stage"],
        )  # fmt: skip

    def attributes(self) -> dict[str, Any]:
        """CF-style attributes written beside the array."""
        out: dict[str, Any] = {"long_name": self.long_name, "units": self.units}
        if self.valid_range is not None:
            out["valid_range"] = list(self.valid_range)
        if self.flags:
            out |= {"flag_values": list(self.flags), "flag_meanings": " ".join(self.flags.values())}
        return out

    def chunk_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunk lengths for an array of `shape`; an empty axis still gets chunks of one."""
        return tuple(max(1, min(self.chunks.get(d, n), n)) for d, n in zip(self.dims, shape, strict=True))

    def check(self, array: np.ndarray[Any, Any], *, dims: tuple[str, ...] | None = None) -> None:
        """Refuse an array whose rank or dtype kind is not the declared one."""
        dims = self.dims if dims is None else dims
        if array.ndim != len(dims):
            raise StoreError(
                expected=f"dims {dims}", found=f"shape {array.shape}", where=self.path, remedy="Write arrays with the dims of schema.py."
            )
        if self.dtype != "str" and not np.can_cast(array.dtype, np.dtype(self.dtype), "same_kind"):
            raise StoreError(expected=f"dtype {self.dtype}", found=str(array.dtype), where=self.path, remedy="Convert before writing.")


SUBJECT_BLOCK = 64
"""Subjects in one chunk of a table: a reduction task owns whole blocks."""


@dataclass(frozen=True)
class MetricSpec:
    """A scalar map that can be sampled in template space. A metric is data: adding one is adding an entry to `METRICS`.

    Attributes
    ----------
    name, long_name, units, valid_range : as in `VariableSpec`
    contrast : str
        Whose template map samples it.
    inputs : tuple of str
        Roles of the images it is computed from.
    """

    name: str
    long_name: str
    units: str
    valid_range: tuple[float, float]
    contrast: str
    inputs: tuple[str, ...]


METRICS: Mapping[str, MetricSpec] = {
    MTR: MetricSpec(MTR, "magnetization transfer ratio", "percent", (-100.0, 100.0), MT, (MT_ON, MT_OFF)),
}


def metric(name: str, *, where: str = "metric") -> MetricSpec:
    """Look a metric up by name; a typo is answered with the near ones."""
    if name not in METRICS:
        raise unknown_name("metric", name, list(METRICS), where=where)
    return METRICS[name]


def map_spec(name: str) -> VariableSpec:
    """``maps/<metric>`` (subject, voxel): one chunk a subject, so that a task owns what it writes."""
    m = metric(name)
    return VariableSpec(f"{MAPS}/{name}", m.long_name, m.units, (SUBJECT, VOXEL), valid_range=m.valid_range, chunks={SUBJECT: 1})


def fit_spec(contrast: str) -> VariableSpec:
    """``fit/<contrast>`` (subject, voxel, axis): where each template voxel lies in the native image, RAS+ mm."""
    return VariableSpec(
        f"{FIT}/{contrast}", f"template map: position of each template voxel in the {contrast} image (x, y, z, RAS+)", "mm",
        (SUBJECT, VOXEL, AXIS), chunks={SUBJECT: 1},
    )  # fmt: skip


def table_name(metric_name: str, estimator: str, companion: str | None = None) -> str:
    """``mtr_wa``, ``mtr_wa_std`` ..."""
    return "_".join(filter(None, (metric_name, estimator, companion)))


def table_specs(metric_name: str, estimator: str, space: str = SPACE_TEMPLATE) -> dict[str, VariableSpec]:
    """Return the value (key ``"value"``) and its companions: ``tables/<space>/<metric>_<estimator>[_std|_n|_coverage]``.

    Least squares is not bounded by the data: where few voxels tell labels apart, ``ml`` and ``map`` may leave the range of the metric.
    A table in template space is reduced in blocks of subjects; one in native space is a row that the subject's own task writes.
    """
    m = metric(metric_name)
    base = VariableSpec(
        f"{TABLES}/{space}/{table_name(metric_name, estimator)}", f"{m.long_name}, {estimator}", m.units,
        (SUBJECT, LEVEL, REGION), valid_range=None if estimator in (ML, MAP) else m.valid_range,
        chunks={SUBJECT: SUBJECT_BLOCK if space == SPACE_TEMPLATE else 1},
    )  # fmt: skip
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, list(ESTIMATORS), where="estimator")
    units = {STD: m.units, SE: m.units, N: "voxel", COVERAGE: "1"}
    ranges = {STD: (0.0, math.inf), SE: (0.0, math.inf), N: (0.0, math.inf), COVERAGE: (0.0, 1.0)}
    return {VALUE: base} | {
        c: replace(
            base,
            path=f"{base.path}_{c}",
            long_name=f"{base.long_name}: {COMPANIONS[c].replace(SPACE_TEMPLATE, space)}",
            units=units[c],
            valid_range=ranges[c],
        )
        for c in ESTIMATORS[estimator]
    }


VALUE = "value"

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
SPLIT_SLICES = "split_slices"

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
    return VariableSpec(f"{PROFILES}/{name}", text, units, (SUBJECT, Z), "float64", MEASURE_RANGES[units], {SUBJECT: 1})


def shape_specs() -> dict[str, VariableSpec]:
    """``profiles/*``, and ``tables/shape/*`` (subject, level): each measure with its spread over slices, and how many slices there were."""

    def every() -> Iterator[VariableSpec]:
        def table(name: str, text: str, units: str, limits: tuple[float, float]) -> VariableSpec:
            return VariableSpec(f"{TABLES}/{SHAPE}/{name}", text, units, (SUBJECT, LEVEL), "float64", limits, {SUBJECT: 1})

        yield from Z_AXIS
        yield from (profile_spec(m) for m in MEASURES if m not in SUMMED)
        for name, (text, units) in MEASURES.items():
            yield table(name, f"{text}: {'sum' if name in SUMMED else 'mean'} over the slices of the level", units, MEASURE_RANGES[units])
            if name not in SUMMED:
                yield table(f"{name}_{STD}", f"{text}: population standard deviation over the slices of the level", units, (0.0, math.inf))
        yield table(SLICES, "slices of the level that were measured", "1", (0.0, math.inf))
        yield table(SPLIT_SLICES, "slices of the level whose mask is in several pieces, of which the largest was measured", "1", (0.0, math.inf))

    return {s.path: s for s in every()}


def native_stage(metric_name: str) -> str:
    """Name of the stage that fills a metric's native tables."""
    return f"{metric_name}_{SPACE_NATIVE}"


# --- quality numbers --------------------------------------------------------------------------------------------------
DICE = "dice"
DICE_GEOMETRY = "dice_geometry"
RESIDUAL = "landmark_residual"
JACOBIAN_MIN = "jacobian_min"
JACOBIAN_MAX = "jacobian_max"
FIT_COVERAGE = "cord_coverage"
GREY_CONTRAST = "grey_contrast"
GREY_DICE = "grey_dice"
SHIFT = "shift_max"
FLAGGED = "flagged_fraction"
NEGATIVE = "negative_fraction"
CORD_MEDIAN = "cord_median"

FIT_QC: Mapping[str, tuple[str, str]] = {
    DICE: ("Dice of the warped cord mask with the template cord, over the slices both have", "1"),
    DICE_GEOMETRY: ("the same Dice before the deformable step", "1"),
    RESIDUAL: ("largest distance along the cord between a landmark and its place in the template", "mm"),
    JACOBIAN_MIN: ("smallest Jacobian determinant of the deformable step inside the cord", "1"),
    JACOBIAN_MAX: ("largest Jacobian determinant of the deformable step inside the cord", "1"),
    FIT_COVERAGE: ("fraction of the template's cord voxels that lie inside the image", "1"),
    GREY_CONTRAST: ("step of the image from white to grey matter over the noise inside the cord, where the map may follow it", "1"),
    GREY_DICE: ("Dice of the image's grey matter with the template's, where it guided the map", "1"),
}
"""Quality numbers of a template map: ``qc/<contrast>_<key>``."""

INVERSE_RESIDUAL = "inverse_residual"
LABEL_DICE = "label_dice"
WARP_QC: Mapping[str, tuple[str, str]] = {
    INVERSE_RESIDUAL: ("distance between a template voxel and where the image's warp puts its place, 95th percentile", "mm"),
    LABEL_DICE: ("Dice of the label folder's cord with the template cord brought there by the warp", "1"),
}
"""Further quality numbers of a template map that was read from a warp: ``qc/<contrast>_<key>``."""

CORD_LENGTH = "cord_length"
CONFIDENCE = "cord_confidence"
LEAST_CONFIDENCE = "cord_confidence_min"
AREA_JUMP = "area_jump"
GAPS = "cord_gaps"
ENDS = "cord_ends"
SEGMENT_QC: Mapping[str, tuple[str, str]] = {
    CORD_LENGTH: ("length of the centreline inside the mask", "mm"),
    CONFIDENCE: ("mean over slices of how certain the place of the cord is", "1"),
    LEAST_CONFIDENCE: ("least over slices of how certain the place of the cord is", "1"),
    AREA_JUMP: ("largest change of the area from a slice to the next, over their mean", "1"),
    GAPS: ("slices without cord between slices with cord", "1"),
    ENDS: ("ends of the cord inside the image: 0 to 2", "1"),
}
"""Quality numbers of a mask that was drawn here: ``qc/<contrast>_<key>``; NaN where the study has the mask."""


DISC_COUNT = "disc_count"
DISC_CONFIDENCE = "disc_confidence_min"
LEVELS_QC: Mapping[str, tuple[str, str]] = {
    DISC_COUNT: ("discs that were found and named", "1"),
    DISC_CONFIDENCE: ("least probability of name and place among them", "1"),
}
"""Quality numbers of landmarks that were found here: ``qc/<contrast>_<key>``; NaN where the study has landmarks."""
GPU = "gpu"
"""Resource that a worker with a GPU offers."""


def segment_stage(contrast: str) -> str:
    """Name of the stage that draws the cord mask of a contrast."""
    return f"segment_{contrast}"


def levels_stage(contrast: str) -> str:
    """Name of the stage that finds the vertebral landmarks of a contrast."""
    return f"levels_{contrast}"


METRIC_QC: Mapping[str, tuple[str, str]] = {
    SHIFT: ("largest in-plane shift found between the two images", "mm"),
    FLAGGED: ("fraction of cord voxels set to NaN by the low-signal and saturation rule", "1"),
    NEGATIVE: ("fraction of cord voxels with a negative value", "1"),
    CORD_MEDIAN: ("median over the cord mask", "percent"),
}
"""Quality numbers of a metric: ``qc/<metric>_<key>``."""

SPACE_DIFFERENCE = "space_difference"
SPACE_QC: Mapping[str, tuple[str, str]] = {
    SPACE_DIFFERENCE: ("median over cells of the absolute difference between native and template space, first estimator", "percent"),
}
"""Quality numbers of a metric's native tables: ``qc/<metric>_<key>``."""


def qc_specs(prefix: str, quantities: Mapping[str, tuple[str, str]]) -> dict[str, VariableSpec]:
    """``qc/<prefix>_<key>`` (subject), one chunk a subject, for a contrast (`FIT_QC`) or a metric (`METRIC_QC`)."""
    return {key: VariableSpec(f"{QC}/{prefix}_{key}", text, units, (SUBJECT,), chunks={SUBJECT: 1}) for key, (text, units) in quantities.items()}


# --- subjects, voxels, atlas, stages ----------------------------------------------------------------------------------
PARTICIPANT = "participant_id"
SESSION = "session_id"
GROUP = "group"
SITE = "site"
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


def store_specs(
    *, contrasts: tuple[str, ...], metrics: tuple[str, ...], estimators: tuple[str, ...], spaces: tuple[str, ...] = (SPACE_TEMPLATE,),
    shape: bool = False, source: str = BIDS, segmented: tuple[str, ...] = (), labelled: tuple[str, ...] = (),
) -> dict[str, VariableSpec]:  # fmt: skip
    """Return every variable of a store with these contrasts, metrics, estimators and spaces, by path (subject columns aside).

    `shape` adds morphometry, `source` the quality numbers of warps, `segmented` and `labelled` those of masks and
    landmarks drawn here, by contrast.

    Examples
    --------
    >>> specs = store_specs(contrasts=("mt",), metrics=("mtr",), estimators=("wa",))
    >>> specs["maps/mtr"].dims, specs["tables/template/mtr_wa_coverage"].units
    (('subject', 'voxel'), '1')
    """

    def every() -> Iterator[VariableSpec]:
        yield from FIXED
        for c in contrasts:
            yield fit_spec(c)
            yield from qc_specs(c, {**FIT_QC, **WARP_QC} if source == SCT else FIT_QC).values()
        for m in metrics:
            yield map_spec(m)
            yield from qc_specs(m, METRIC_QC).values()
            if SPACE_NATIVE in spaces:
                yield from qc_specs(m, SPACE_QC).values()
            for space in spaces:
                for e in estimators:
                    yield from table_specs(m, e, space).values()
        for c in segmented:
            yield from qc_specs(segment_stage(c), SEGMENT_QC).values()
        for c in labelled:
            yield from qc_specs(levels_stage(c), LEVELS_QC).values()
        if shape:
            yield from shape_specs().values()

    return {s.path: s for s in every()}
