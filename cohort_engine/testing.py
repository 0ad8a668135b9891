"""Simulated data for tests, documentation and benchmarks: one subject as arrays, or a whole cohort store with known tables."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.errors import InputError
from cohort_engine.phantom.cohort import (
    EVEN,
    SUBGROUPS,
    UNSQUEEZED,
    WIDTH,
    draw_patterns,
    draw_shape,
    slice_lengths,
    spread_by_level,
    template_shape,
)
from cohort_engine.phantom.subject import CLINICAL, CONTROL, PATIENT, PERFECT, Imperfection, Subject, clinical_scores, make_subject
from cohort_engine.phantom.tissue import AGE_SLOPE
from cohort_engine.provenance import digest
from cohort_engine.qmri.morphometry import group_slices
from cohort_engine.reduce.maps import weighted_average
from cohort_engine.reduce.operator import Operator
from cohort_engine.single.morphometry import store_arrays
from cohort_engine.stages.base import Stage
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.declare import declare, metrics_of
from cohort_engine.stages.metric import kept_sums
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import init_store, write_subject
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange

__all__ = ["AGE_SLOPE", "PERFECT", "HandMadeStore", "Imperfection", "StoreTruth", "Subject", "make_subject", "simulate_store"]

SITE_SD, SUBJECT_SD, VOXEL_SD = 1.5, 1.5, 4.0
"""Standard deviations of sites, of subjects and of the noise of a voxel, percentage points."""
SESSION_SD = 0.4
"""Of the sessions of one person, percentage points."""
AGE_CENTRE = 50.0
HIDDEN = ("offset", "subgroup", "compression_level", "compression_z", "compression_ratio")
"""Columns of the truth that nobody knows of a real subject; the severity is one as well where there are scores."""


@dataclass(frozen=True, eq=False)
class StoreTruth:
    """What a simulated store holds, and what is true about it.

    Attributes
    ----------
    subjects : DataFrame
        A row a row of the store: its columns, and ``severity``; ``offset``: percentage points that this subject (with its site, age, sex and session)
        has more than the mean; ``subgroup`` (empty for controls, and without subgroups); ``compression_level`` (empty where there is none),
        ``compression_z`` (mm) and ``compression_ratio``, the narrowest front-to-back diameter over the healthy one.
    levels, regions : tuple of str
    mtr : (subject, level, region) float32
        Weighted average of each subject's noise-free, complete map, percent.
    missing : (subject,) float64
        Share of the voxels that are NaN in the map.
    loss : (subject, level, region) float32
        What the disease took away, percentage points; already taken off `mtr`.
    sites : DataFrame
        site, ``offset`` (percentage points) and ``scale`` (factor of everything random about a subject of this scanner).
    age_slope, sex_effect : float
        Percentage points a year, and of men against women.
    """

    subjects: pd.DataFrame
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    mtr: NDArray[np.float32]
    missing: NDArray[np.float64]
    loss: NDArray[np.float32]
    sites: pd.DataFrame
    age_slope: float
    sex_effect: float

    @property
    def planted(self) -> NDArray[np.float64]:
        """Patients minus controls by the disease alone, (level, region), percentage points: 0 or less."""
        patients = (self.subjects[schema.GROUP] == PATIENT).to_numpy()
        out: NDArray[np.float64] = -self.loss[patients].mean(axis=0, dtype=np.float64)
        return out


def simulate_store(
    url: str, n_subjects: int, template: Template, seed: int = 0, *, missing: float = 0.1, sites: int = 3, effect: float = 1.0, width: float = WIDTH,
    site_offsets: Sequence[float] | None = None, site_scales: Sequence[float] | None = None, age_slope: float = 0.0, sex_effect: float = 0.0,
    tract_sd: float = 0.0, subgroups: bool = False, shape: bool = False, scores: bool = False, repeats: int = 0,
) -> StoreTruth:  # fmt: skip
    """Write MTR maps of simulated subjects straight into a new cohort store: no images, no registration.

    Parameters
    ----------
    url : str
        Path or URL.
    n_subjects : int
        Every second one is a patient.
    template : Template
    seed : int
        A subject depends on the seed and its number alone.
    missing : float
        Mean share of voxels that are NaN, 0 to 0.5: the field of view ends above the bottom of the template.
    sites : int
        Subjects of each group take turns at them.
    effect : float
        Factor of every patient's severity. 0: the groups do not differ in anything.
    width : float
        Levels from the middle of the damage, C5/C6, to 1/e of it: with 1.2, C1, C2 and T2 are whole.
    site_offsets, site_scales : sequences, optional
        Percentage points that each scanner adds (by default drawn, with `SITE_SD`), and factors of what is random about its subjects (by default 1).
    age_slope, sex_effect : float
        Percentage points of MTR a year (from 50), and of men. `AGE_SLOPE` is that of the phantom.
    tract_sd : float
        Standard deviation of each subject's own deviation of each label at each level, percentage points.
    subgroups : bool
        Each patient is motor- or sensory-dominant: `phantom.cohort.SUBGROUPS`.
    shape : bool
        Morphometry as well: ``profiles/*`` and ``tables/shape/*``, with patients compressed at one disc, by their severity.
    scores : bool
        Clinical scores in the subject table, from what the motor and sensory tracts lost. The severity is then in the truth alone.
    repeats : int
        So many of the first people have a second session, in rows after all others.

    Returns
    -------
    StoreTruth

    Raises
    ------
    InputError
        Another number of offsets or scales than sites, or more repeats than people.

    Notes
    -----
    The store is finalised for the stages that make the map and the shape; template maps (``fit``) and tables are empty. Run `reduce.tabulate` for
    the tables. A voxel is ``healthy + site + scale (subject + tract + voxel noise) + session + age + sex - severity x damage``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> with TemporaryDirectory() as folder:
    ...     truth = simulate_store(f"{folder}/study.zarr", 2, parametric_cord(spacing=1.0, top="C4", bottom="C5"))
    >>> truth.mtr.shape, truth.levels
    ((2, 2, 43), ('C4', 'C5'))
    """
    for name, given, most in (("site_offsets", site_offsets, sites), ("site_scales", site_scales, sites)):
        if given is not None and len(given) != most:
            raise InputError(expected=f"{most} numbers, one a site", found=f"{len(given)}", where=name, remedy="Give one a site.")
    if not 0 <= repeats <= n_subjects:
        raise InputError(expected=f"0 to {n_subjects} people", found=f"{repeats}", where="repeats", remedy="Nobody is scanned again who was not.")
    levels = tuple(LevelRange.parse(name) for name in template.levels)
    operator = Operator.build(template.atlas, template.packing.level, levels, template.atlas.regions)
    patterns = draw_patterns(template, width)
    kinds = list(patterns.lost)
    table = weighted_average(operator, np.stack([patterns.healthy, *patterns.lost.values()]), min_coverage=0)[schema.VALUE].astype(float)
    site_offset = np.random.default_rng([seed, 1]).normal(0, SITE_SD, sites) if site_offsets is None else np.asarray(site_offsets, float)
    site_scale = np.ones(sites) if site_scales is None else np.asarray(site_scales, float)
    healthy_shape = template_shape(template) if shape else {}

    rows: list[dict[str, Any]] = []
    maps, own, cords = [], [], []
    for number, session in [*((n, 0) for n in range(n_subjects)), *((n, 1) for n in range(repeats))]:
        rng = np.random.default_rng([seed, 2, number])
        at = (number if sites % 2 else number // 2) % sites  # each site scans both groups
        patient = number % 2 == 0
        deviation = float(rng.normal(0, SUBJECT_SD)) * site_scale[at]
        severity = effect * float(rng.uniform(0.25, 1)) if patient else 0.0
        age, sex = float(np.round(rng.uniform(25, 75))), "MF"[int(rng.integers(2))]
        offset = float(deviation + site_offset[at]) + age_slope * (age - AGE_CENTRE) + (sex_effect if sex == "M" else 0.0)
        share = rng.uniform(0, 2 * missing)
        kind = [*SUBGROUPS][int(np.random.default_rng([seed, 3, number]).integers(len(SUBGROUPS)))] if subgroups and patient else EVEN
        if session:  # another day, other noise
            rng = np.random.default_rng([seed, 7, number])
            offset += float(rng.normal(0, SESSION_SD))
        row: dict[str, Any] = {schema.PARTICIPANT: f"sub-{number + 1:05d}"}
        row |= {schema.SESSION: f"ses-{session + 1}"} if repeats else {}
        row |= {
            schema.GROUP: PATIENT if patient else CONTROL, schema.SITE: f"site{at + 1}", schema.AGE: age, schema.SEX: sex,
            "severity": severity, "offset": offset, "subgroup": kind if kind != EVEN else "",
        }  # fmt: skip
        if scores:
            lost = (severity * by_kind[kind] for by_kind in (patterns.motor, patterns.sensory))
            row |= clinical_scores(*lost, age=age, sex=sex, rng=np.random.default_rng([seed, 4, number]))
        squeeze = UNSQUEEZED
        if shape:
            measures, squeeze = draw_shape(template, healthy_shape, severity, np.random.default_rng([seed, 5, number]))
            cords.append(measures)
        row |= {"compression_level": squeeze.level, "compression_z": squeeze.z, "compression_ratio": squeeze.ratio}
        rows.append(row)
        own.append(np.random.default_rng([seed, 6, number]).normal(0, tract_sd * site_scale[at], (len(template.atlas.labels), len(levels))))
        maps.append((offset, severity, kind, site_scale[at], share, rng))

    subjects = pd.DataFrame(rows)
    path = schema.METRICS[schema.MTR].map.path
    known = subjects.drop(columns=[*HIDDEN, *(["severity"] if scores else [])])
    units = {schema.AGE: "year", **(CLINICAL if scores else {})}
    store = HandMadeStore.lay_out(_config(url, template, shape), template, known, units=units)
    truth = np.empty((len(rows), *table.shape[1:]), np.float32)
    loss = np.empty_like(truth)
    for i, (row_in_store, (offset, severity, kind, scale, share, rng)) in enumerate(zip(store.rows, maps, strict=True)):
        values = patterns.healthy + offset - severity * patterns.lost[kind] + scale * rng.normal(0, VOXEL_SD, len(patterns.healthy))
        loss[i] = severity * table[1 + kinds.index(kind)]
        truth[i] = table[0] + offset - severity * table[1 + kinds.index(kind)]
        if tract_sd:
            deviations = spread_by_level(template, own[i])
            values += deviations
            truth[i] += weighted_average(operator, deviations[None], min_coverage=0)[schema.VALUE][0]
        values[: round(share * len(values))] = np.nan
        arrays: dict[str, Any] = {path: values.astype(np.float32)}
        if shape:
            groups = group_slices(cords[i] | {schema.LENGTH: slice_lengths(template)}, template.slice_level)
            arrays |= store_arrays(cords[i], groups, dict.fromkeys(schema.SLICE_FLAGS, np.zeros(len(groups.groups), np.int64)), template)
        store.write(row_in_store, arrays)
    finalise(url)
    shares = np.array([round(share * len(patterns.healthy)) / len(patterns.healthy) for *_, share, _ in maps])
    scanners = pd.DataFrame({schema.SITE: [f"site{i + 1}" for i in range(sites)], "offset": site_offset, "scale": site_scale})
    regions = tuple(r.name for r in template.atlas.regions)
    return StoreTruth(subjects, template.levels, regions, truth, shares, loss, scanners, age_slope, sex_effect)


@dataclass(frozen=True)
class HandMadeStore:
    """A store whose rows are written by hand in place of stages; close it with `store.maintenance.finalise`.

    Attributes
    ----------
    url : str
    template : Template
    stages : tuple of Stage
        Those whose arrays are written.
    rows : tuple of int
        Row of each subject, in the order of the table.
    """

    url: str
    template: Template
    stages: tuple[Stage, ...]
    rows: tuple[int, ...]

    @classmethod
    def lay_out(
        cls, config: Config, template: Template, subjects: pd.DataFrame, *, names: Sequence[str] = (schema.MTR, schema.SHAPE),
        units: Mapping[str, str] | None = None,
    ) -> HandMadeStore:  # fmt: skip
        """Lay a store out for those of a study's stages that are called `names`, without what they need."""
        stages = tuple(replace(s, needs=()) for s in stages_of(config) if s.name in names)
        told, url = declare(config, stages, template.digest), config.data.store
        rows = init_store(url, template=template, subjects=subjects, specs=told.specs, asked=told.asked, recipes=told.recipes, units=units)
        return cls(url, template, stages, tuple(map(int, rows)))

    def write(self, row: int, arrays: Mapping[str, Any]) -> None:
        """Write a subject's arrays, each as its stage would, and the sums of a map with it; a stage of which there is none is not done."""
        for metric in metrics_of(self.stages):
            if metric.map.path in arrays and metric.error <= (metric.error_map.path in arrays):
                arrays = kept_sums(metric, self.template, {k: np.asarray(v) for k, v in arrays.items()}) | dict(arrays)
        for stage in self.stages:
            own = {spec.path: arrays[spec.path] for spec in stage.writes if spec.path in arrays}
            if own:
                recipe = stage.recipe(self.template.digest).hash
                entry = Entry(row, stage.name, schema.DONE, key=digest(stage.name, recipe, row), recipe=recipe, seconds=0.0)
                write_subject(self.url, row, own, entry, template_digest=self.template.digest)


def _config(url: str, template: Template, shape: bool) -> Config:
    """Study file of a simulated store."""
    stages: dict[str, Any] = {
        "reduce": {"spaces": [schema.SPACE_TEMPLATE], "estimators": [schema.WA]}, "segment": {"enabled": False}, "levels": {"enabled": False},
        **({"shape": {"source": schema.T2W}} if shape else {}),
    }  # fmt: skip
    return parse_config({"data": {"bids": "simulated", "store": url}, "template": {"name": template.name}, "stages": stages})


def imagej_roi(
    kind: int, bounds: tuple[int, int, int, int], corners: list[tuple[float, float]] | None = None, *,
    name: str = "", slice_: int = 0, position: int = 0, fine: bool = False, shapes: int = 0, rect: tuple[float, ...] = (0, 0, 0, 0),
) -> bytes:  # fmt: skip
    """Write an outline as ImageJ does (``.roi``): see `io.imagej`.

    Parameters
    ----------
    kind : int
        1 rectangle, 2 oval, 0 polygon, 7 freehand, 8 traced.
    bounds : left, top, right, bottom
    corners : list of (column, row), optional
        Of the image.
    name : str
    slice_, position : int
        Slice in the second and in the first header, from 1; 0 is none.
    fine : bool
        Keep corners, or `rect` (left, top, width, height), at sub-pixels.
    shapes : int
        Size of what a composite outline holds.

    Examples
    --------
    >>> from cohort_engine.io.imagej import decode_outline
    >>> decode_outline(imagej_roi(1, (0, 0, 2, 1), name="L-DC")).fill((3, 2)).sum()
    np.int64(2)
    """
    left, top, right, bottom = bounds
    corners = corners or []
    body = b"".join(struct.pack(">h", int(c[i]) - (left, top)[i]) for i in (0, 1) for c in corners)
    if fine and corners:
        body += b"".join(struct.pack(">f", c[i]) for i in (0, 1) for c in corners)
    second = 64 + len(body)
    head = b"Iout" + struct.pack(">hBx4hH4fhiiihhxxhii", 227, kind, top, left, bottom, right, len(corners), *rect, 0, shapes, 0, 0, 0,
                                 128 if fine else 0, 0, position, second)  # fmt: skip
    assert len(head) == 64
    tail = struct.pack(">6i", 0, 0, slice_, 0, second + 64, len(name)) + bytes(40) + name.encode("utf-16-be")
    return head + body + tail
