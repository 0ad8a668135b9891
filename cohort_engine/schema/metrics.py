"""Metrics, template maps and tables: the arrays that hold values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from cohort_engine.registry import Registry
from cohort_engine.schema.quality import ERROR_QC, METRIC_QC, SHARED
from cohort_engine.schema.rois import DRAWN, ROI, ROI_PAIR, ROI_STAGE, ROI_SUM
from cohort_engine.schema.words import (
    AXIS,
    COMPANIONS,
    COVERAGE,
    ESTIMATORS,
    FIT,
    LEVEL,
    MAPS,
    NOISE,
    PAIR,
    PART,
    QC,
    REGION,
    SE,
    SE_NATIVE,
    SPACE_NATIVE,
    SPACE_TEMPLATE,
    SUM,
    TABLES,
    VOXEL,
    N,
)
from cohort_engine.variable import SUBJECT, VariableSpec

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
    error : bool
        Whether its stage gives the standard error of each voxel as well.
    """

    name: str
    label: str
    long_name: str
    units: str
    valid_range: tuple[float, float]
    contrast: str
    rises: bool = False
    error: bool = False

    @property
    def map(self) -> VariableSpec:
        """``maps/<metric>`` (subject, voxel): one chunk a subject, so that a task owns what it writes."""
        more = {LABEL: self.label, CONTRAST: self.contrast, RISES: self.rises} | ({ERROR: True} if self.error else {})
        return VariableSpec(
            f"{MAPS}/{self.name}", self.long_name, self.units, (SUBJECT, VOXEL), valid_range=self.valid_range, chunks={SUBJECT: 1}, stage=self.name,
            more=more,
        )  # fmt: skip

    @property
    def error_map(self) -> VariableSpec:
        """``maps/<metric>_se`` (subject, voxel) of a metric with `error`: standard error of the image there; NaN where the map is."""
        return VariableSpec(
            error_path(self.name), f"{self.long_name}: standard error of a voxel of the image", self.units, (SUBJECT, VOXEL),
            valid_range=(0.0, math.inf), chunks={SUBJECT: 1}, stage=self.name, more={ERROR_OF: self.name},
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
            bool(spec.more.get(RISES, False)), bool(spec.more.get(ERROR, False)),
        )  # fmt: skip

    @property
    def quality(self) -> dict[str, tuple[str, str]]:
        """Its quality numbers, in its own unit: ``qc/<metric>_<key>``."""
        numbers = {**METRIC_QC, **(ERROR_QC if self.error else {})}
        return {key: (text, units or self.units) for key, (text, units) in numbers.items()}


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


LABEL, CONTRAST, RISES, ERROR, ERROR_OF = "label", "contrast", "rises", "error", "error_of"


def error_path(metric_name: str) -> str:
    """``maps/<metric>_se``."""
    return f"{MAPS}/{metric_name}_{SE}"


def error_paths(metric_name: str) -> tuple[str, str]:
    """Where a store has the standard errors of a metric's voxels, and how many voxels of the template share one."""
    return error_path(metric_name), f"{QC}/{metric_name}_{SHARED}"


def is_metric(spec: VariableSpec) -> bool:
    """Whether an array is the map of a metric, not of its error.

    Examples
    --------
    >>> fa = Metric("fa", "FA", "fractional anisotropy", "1", (0.0, 1.0), "dwi", error=True)
    >>> is_metric(fa.map), is_metric(fa.error_map), has_error(fa.map)
    (True, False, True)
    """
    return spec.group == MAPS and ERROR_OF not in spec.more


def has_error(quantity: Quantity) -> bool:
    """Whether a metric, or the spec of its map, says that there are standard errors of its voxels."""
    return quantity.error if isinstance(quantity, Metric) else bool(getattr(quantity, "more", {}).get(ERROR, False))


def native_stage(metric_name: str) -> str:
    """Name of the stage that fills a metric's native tables."""
    return f"{metric_name}_{SPACE_NATIVE}"


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


def table_path(metric_name: str, estimator: str, space: str, companion: str | None = None) -> str:
    """``tables/<space>/<metric>_<estimator>`` and its companions."""
    return f"{TABLES}/{space}/{table_name(metric_name, estimator, companion)}"


def sums_path(metric_name: str, space: str = SPACE_NATIVE) -> str:
    """Path of the sums of a metric's levels."""
    return table_path(metric_name, SUMS, space)


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


REGIONS_OF = {SPACE_TEMPLATE: REGION, SPACE_NATIVE: REGION, DRAWN: ROI}
"""Group of tables -> their dimension of regions: those of the atlas have a place in the template and in each image, those of `DRAWN` in images."""
SUMS_OF = {SPACE_TEMPLATE: PART, SPACE_NATIVE: SUM, DRAWN: ROI_SUM}
PAIRS_OF = {SPACE_TEMPLATE: PAIR, SPACE_NATIVE: PAIR, DRAWN: ROI_PAIR}


def _maker(metric_name: str, space: str) -> str:
    """Stage that sums a metric in a space."""
    return {SPACE_TEMPLATE: metric_name, SPACE_NATIVE: native_stage(metric_name), DRAWN: ROI_STAGE}[space]


def table_specs(quantity: Quantity | str, estimator: str, space: str = SPACE_TEMPLATE) -> dict[str, VariableSpec]:
    """Return the value (key ``"value"``) and its companions: ``tables/<space>/<metric>_<estimator>[_std|_n|_coverage]``.

    The estimator says which companions it has, and whether its values stay within the range of the metric; of a metric with `Metric.error` a linear
    one has ``noise`` as well. A metric of this package may be given by
    its name. A table in template space is reduced in blocks of subjects; one in native space, or of `DRAWN` regions, is a row that the subject's own
    task writes.
    """
    m = METRICS.find(quantity, where="metric") if isinstance(quantity, str) else quantity
    kernel = ESTIMATORS.find(estimator, where="estimator")
    template = space == SPACE_TEMPLATE
    base = VariableSpec(
        table_path(m.name, estimator, space), f"{m.long_name}, {estimator}", m.units, (SUBJECT, LEVEL, REGIONS_OF[space]),
        valid_range=m.valid_range if kernel.bounded else None, chunks={SUBJECT: SUBJECT_BLOCK} if template else {},
        stage="" if template else _maker(m.name, space),
    )  # fmt: skip
    meaning = COMPANIONS if template else {**COMPANIONS, SE: SE_NATIVE}
    units = {N: "voxel", COVERAGE: "1"}
    companions = (*kernel.companions, *((NOISE,) if kernel.linear and has_error(m) else ()))
    specs = {c: replace(base, path=f"{base.path}_{c}", long_name=f"{base.long_name}: {meaning[c]}", units=units.get(c, m.units)) for c in companions}
    return {VALUE: base} | {c: replace(spec, valid_range=(0.0, 1.0 if c == COVERAGE else math.inf)) for c, spec in specs.items()}


SUMS = "sums"


def sums_spec(quantity: Quantity, space: str = SPACE_NATIVE) -> VariableSpec:
    """``tables/<space>/<metric>_sums`` (subject, level, sum): what cells of any levels and regions follow from (`reduce.sums`); those of template
    space (subject, level, part) are kept by the stage that samples the map (`reduce.maps.Kept`).
    """
    return VariableSpec(
        sums_path(quantity.name, space), f"{quantity.long_name}: sums of each level, for pooled cells",
        "1", (SUBJECT, LEVEL, SUMS_OF[space]), "float64", chunks={LEVEL: 1}, stage=_maker(quantity.name, space),
    )  # fmt: skip


def error_sums_spec(quantity: Quantity, space: str = SPACE_NATIVE) -> VariableSpec:
    """``tables/<space>/<metric>_errors`` (subject, level, pair): beside `sums_spec`, of a metric with `Metric.error`."""
    return VariableSpec(
        table_path(quantity.name, ERRORS, space), f"{quantity.long_name}: errors of each level, for pooled cells",
        "1", (SUBJECT, LEVEL, PAIRS_OF[space]), "float64", chunks={LEVEL: 1}, stage=_maker(quantity.name, space),
    )  # fmt: skip


ERRORS = "errors"
VALUE = "value"
FEATURE = ("metric", REGION, LEVEL, "estimator")
"""What names a feature of an analysis."""
