"""The vocabulary: every dimension, group, variable, role and flag that a cohort store may hold, written once.

A `variable.VariableSpec` says what an array means (dims, dtype, unit, range, fill) and how it lies on disk (chunks). The writer lays
arrays out from it, the accessor reads by it, the documentation lists it. Names are typed here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from cohort_engine.errors import unknown_name
from cohort_engine.registry import Registry
from cohort_engine.variable import SUBJECT as SUBJECT
from cohort_engine.variable import VariableSpec as VariableSpec

FORMAT_VERSION = "2"
"""Version of the store layout. Opening another one is refused."""

# --- dimensions -------------------------------------------------------------------------------------------------------
VOXEL = "voxel"
AXIS = "axis"
LEVEL = "level"
REGION = "region"
STAGE = "stage"
SUM = "sum"
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
SE_NATIVE = "standard error, likeness of neighbouring voxels counted"

ESTIMATORS: Registry[Any] = Registry("estimator", "cohort_engine.reduce.estimators")
"""`reduce.estimators.base.Estimator` by SCT's name: each says which companions its tables have, and whether its values stay in the metric's range."""

# --- contrasts, roles of files ----------------------------------------------------------------------------------------
T2W = "t2w"
MT: Final = "mt"
MT_ON = "mt_on"
MT_OFF = "mt_off"
MASK = "mask"
LANDMARKS = "landmarks"
MTR: Final = "mtr"
IMAGE_ENDINGS = (".nii.gz", ".nii")


def role(contrast: str, kind: str) -> str:
    """Role of a derivative of a contrast, for instance ``role(T2W, MASK) == "t2w_mask"``."""
    return f"{contrast}_{kind}"


@dataclass(frozen=True)
class Role:
    """What a file of the study is for. Files have roles; messages name roles, never paths.

    Attributes
    ----------
    name : str
    words : str
        What a message calls it.
    suffixes : tuple of str
        Last word of the file's name in BIDS, of an image that a stage reads; empty for what is found by other rules.
    states : tuple of mapping
        Entities it must have, without regard to case: one of the alternatives.
    beside : str
        Role of the image it is compared with: of several files the one with the name most like it is taken.
    endings : tuple of str
        How the file's name ends.
    file : str
        Words that end the file's name, where a study file gives them: ``desc-t1_map``.
    sidecar_of : str
        Role of the image that this file lies beside, with the same name but for its ending: ``.json``, ``.bval``.
    """

    name: str
    words: str
    suffixes: tuple[str, ...] = ()
    states: tuple[Mapping[str, str], ...] = ({},)
    beside: str = ""
    endings: tuple[str, ...] = IMAGE_ENDINGS
    file: str = ""
    sidecar_of: str = ""


ROLES: Registry[Role] = Registry("role", "cohort_engine.stages")


def words(name: str) -> str:
    """Words that a message uses for a role; a role of a study file alone has its name.

    Examples
    --------
    >>> words("mt_mask"), words("t1_image")
    ('cord mask of the MT-on image', 't1 image')
    """
    return ROLES[name].words if name in ROLES else name.replace("_", " ")


@dataclass(frozen=True)
class Contrast:
    """A kind of image that gets a template map of its own.

    Attributes
    ----------
    name : str
    words : str
        ``"MT image"``.
    image : str
        Role of the image that its mask and landmarks belong to.
    grey : bool
        Whether such images may show grey matter, and so refine their map.
    """

    name: str
    words: str
    image: str
    grey: bool = True

    @property
    def mask(self) -> str:
        return role(self.name, MASK)

    @property
    def landmarks(self) -> str:
        return role(self.name, LANDMARKS)


CONTRASTS: Registry[Contrast] = Registry("contrast", "cohort_engine.stages")


def add_contrast(contrast: Contrast, image: Role) -> None:
    """Register a contrast with the role of its image and of what belongs to it: mask and landmarks."""
    ROLES.add(image)
    CONTRASTS.add(contrast)
    ROLES.add(Role(contrast.mask, f"cord mask of the {image.words}"))
    ROLES.add(Role(contrast.landmarks, f"vertebral landmarks of the {image.words}"))


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
SUBJECT_BLOCK = 64
"""Subjects in one chunk of a table: a reduction task owns whole blocks."""


@dataclass(frozen=True)
class Metric:
    """A scalar map that is sampled in template space.

    Attributes
    ----------
    name : str
    label : str
        How it is written: ``"MTR"``.
    long_name, units, valid_range : as in `VariableSpec`
    contrast : str
        Whose template map samples it.
    rises : bool
        Whether disease raises it; most metrics fall.
    """

    name: str
    label: str
    long_name: str
    units: str
    valid_range: tuple[float, float]
    contrast: str
    rises: bool = False

    @property
    def map(self) -> VariableSpec:
        """``maps/<metric>`` (subject, voxel): one chunk a subject, so that a task owns what it writes."""
        more = {LABEL: self.label, CONTRAST: self.contrast, RISES: self.rises}
        return VariableSpec(
            f"{MAPS}/{self.name}", self.long_name, self.units, (SUBJECT, VOXEL), valid_range=self.valid_range, chunks={SUBJECT: 1}, stage=self.name,
            more=more,
        )  # fmt: skip

    @classmethod
    def of(cls, spec: VariableSpec) -> Metric:
        """Read a metric back from the spec of its map: what a store holds says what it is.

        Examples
        --------
        >>> fa = Metric("fa", "FA", "fractional anisotropy", "1", (0.0, 1.0), "dwi")
        >>> Metric.of(fa.map) == fa
        True
        """
        low, high = spec.valid_range or (-math.inf, math.inf)
        return cls(
            spec.name, str(spec.more.get(LABEL, spec.name)), spec.long_name, spec.units, (low, high), str(spec.more.get(CONTRAST, "")),
            bool(spec.more.get(RISES, False)),
        )  # fmt: skip

    @property
    def quality(self) -> dict[str, tuple[str, str]]:
        """Its quality numbers, in its own unit: ``qc/<metric>_<key>``."""
        return {key: (text, units or self.units) for key, (text, units) in METRIC_QC.items()}


METRICS: Registry[Metric] = Registry("metric", "cohort_engine.stages")
"""Metrics that stages make. Those of a store are what it holds: `Metric.of`."""


def label_of(name: str) -> str:
    """How a metric is written; one that only a study file knows, in capitals.

    Examples
    --------
    >>> label_of("mtr"), label_of("t1")
    ('MTR', 'T1')
    """
    return METRICS[name].label if name in METRICS else name.upper().replace("_", " ")


LABEL, CONTRAST, RISES = "label", "contrast", "rises"


def fit_stage(contrast: str) -> str:
    """Name of the stage that makes ``fit/<contrast>``."""
    return f"fit_{contrast}"


def fit_spec(contrast: str) -> VariableSpec:
    """``fit/<contrast>`` (subject, voxel, axis): where each template voxel lies in the native image, RAS+ mm."""
    return VariableSpec(
        f"{FIT}/{contrast}", f"template map: position of each template voxel in the {contrast} image (x, y, z, RAS+)", "mm",
        (SUBJECT, VOXEL, AXIS), chunks={SUBJECT: 1}, stage=fit_stage(contrast),
    )  # fmt: skip


def table_name(metric_name: str, estimator: str, companion: str | None = None) -> str:
    """``mtr_wa``, ``mtr_wa_std`` ..."""
    return "_".join(filter(None, (metric_name, estimator, companion)))


class Quantity(Protocol):
    """What tables need to know of what they hold: a `Metric`, or the spec of ``maps/<metric>`` that a store keeps."""

    @property
    def name(self) -> str: ...
    @property
    def long_name(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def valid_range(self) -> tuple[float, float] | None: ...


def table_specs(quantity: Quantity | str, estimator: str, space: str = SPACE_TEMPLATE) -> dict[str, VariableSpec]:
    """Return the value (key ``"value"``) and its companions: ``tables/<space>/<metric>_<estimator>[_std|_n|_coverage]``.

    The estimator says which companions it has, and whether its values stay within the range of the metric. A metric of this package may be given by
    its name. A table in template space is reduced in blocks of subjects; one in native space is a row that the subject's own task writes.
    """
    m = METRICS.find(quantity, where="metric") if isinstance(quantity, str) else quantity
    kernel = ESTIMATORS.find(estimator, where="estimator")
    template = space == SPACE_TEMPLATE
    base = VariableSpec(
        f"{TABLES}/{space}/{table_name(m.name, estimator)}", f"{m.long_name}, {estimator}", m.units, (SUBJECT, LEVEL, REGION),
        valid_range=m.valid_range if kernel.bounded else None, chunks={SUBJECT: SUBJECT_BLOCK} if template else {},
        stage="" if template else native_stage(m.name),
    )  # fmt: skip
    meaning = {**COMPANIONS, SE: SE_NATIVE} if space == SPACE_NATIVE else COMPANIONS
    units = {STD: m.units, SE: m.units, N: "voxel", COVERAGE: "1"}
    ranges = {STD: (0.0, math.inf), SE: (0.0, math.inf), N: (0.0, math.inf), COVERAGE: (0.0, 1.0)}
    return {VALUE: base} | {
        c: replace(base, path=f"{base.path}_{c}", long_name=f"{base.long_name}: {meaning[c]}", units=units[c], valid_range=ranges[c])
        for c in kernel.companions
    }


SUMS = "sums"


def sums_spec(quantity: Quantity) -> VariableSpec:
    """``tables/native/<metric>_sums`` (subject, level, sum): what native cells of any levels and regions follow from (`reduce.sums`)."""
    return VariableSpec(
        f"{TABLES}/{SPACE_NATIVE}/{table_name(quantity.name, SUMS)}", f"{quantity.long_name}: sums of each level, for pooled cells",
        "1", (SUBJECT, LEVEL, SUM), "float64", chunks={LEVEL: 1}, stage=native_stage(quantity.name),
    )  # fmt: skip


VALUE = "value"
FEATURE = ("metric", REGION, LEVEL, "estimator")
"""What names a feature of an analysis."""

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


def native_stage(metric_name: str) -> str:
    """Name of the stage that fills a metric's native tables."""
    return f"{metric_name}_{SPACE_NATIVE}"


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
GPU = "gpu"
"""Resource that a worker with a GPU offers."""


def segment_stage(contrast: str) -> str:
    """Name of the stage that segments the cord of a contrast."""
    return f"segment_{contrast}"


def levels_stage(contrast: str) -> str:
    """Name of the stage that finds the vertebral landmarks of a contrast."""
    return f"levels_{contrast}"


METRIC_QC: Mapping[str, tuple[str, str]] = {
    SHIFT: ("largest in-plane shift found between the two images", "mm"),
    FLAGGED: ("fraction of cord voxels set to NaN by the low-signal and saturation rule", "1"),
    NEGATIVE: ("fraction of cord voxels with a negative value", "1"),
    CORD_MEDIAN: ("median over the cord mask", ""),
}
"""Quality numbers of a metric: ``qc/<metric>_<key>``; an empty unit is that of the metric."""

SPACE_DIFFERENCE = "space_difference"
SPACE_QC: Mapping[str, tuple[str, str]] = {
    SPACE_DIFFERENCE: ("median over cells of the absolute difference between native and template space, first estimator", ""),
}
"""Quality numbers of a metric's native tables: ``qc/<metric>_<key>``."""


def qc_specs(prefix: str, quantities: Mapping[str, tuple[str, str]], stage: str) -> dict[str, VariableSpec]:
    """``qc/<prefix>_<key>`` (subject) of a stage, for a contrast (`FIT_QC`), a metric (`Metric.quality`) or a stage (`SEGMENT_QC`)."""
    return {key: VariableSpec(f"{QC}/{prefix}_{key}", text, units, (SUBJECT,), stage=stage) for key, (text, units) in quantities.items()}


# --- subjects, voxels, atlas, stages ----------------------------------------------------------------------------------
PARTICIPANT, SESSION = "participant_id", "session_id"
GROUP, SITE = "group", "site"
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

# --- the contrasts and images that every study may have ----------------------------------------------------------------
add_contrast(Contrast(T2W, "T2w image", T2W, grey=False), Role(T2W, "T2w image", ("T2w",)))
add_contrast(Contrast(MT, "MT image", MT_ON), Role(MT_ON, "MT-on image", ("MTS", "MTR"), ({"mt": "on"}, {"acq": "MTon"})))
ROLES.add(Role(MT_OFF, "MT-off image", ("MTS", "MTR"), ({"mt": "off"}, {"acq": "MToff"}), beside=MT_ON))
