"""Simulated data for tests, documentation and benchmarks: one subject as arrays, or a whole cohort store with known tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.io import layout
from cohort_engine.io.closing import finalise
from cohort_engine.io.ledger import LedgerEntry, now, write_entry
from cohort_engine.io.writer import init_store, write_subject
from cohort_engine.phantom.subject import CONTROL, PATIENT, PERFECT, Imperfection, Subject, make_subject
from cohort_engine.phantom.tissue import BASE_MTR, DAMAGE, OTHER, TRACT_MTR, clusters
from cohort_engine.reduce.operator import LevelRange, Operator, weighted_average
from cohort_engine.template.base import Template

__all__ = ["PERFECT", "Imperfection", "StoreTruth", "Subject", "make_subject", "simulate_store"]

SITE_SD, SUBJECT_SD, VOXEL_SD = 1.5, 1.5, 4.0
"""Standard deviations of sites, of subjects and of the noise of a voxel, percentage points."""


@dataclass(frozen=True, eq=False)
class StoreTruth:
    """What a simulated store holds.

    Attributes
    ----------
    subjects : DataFrame
        As stored, and ``offset``: percentage points that this subject (with its site) has more than the mean.
    levels, regions : tuple of str
    mtr : (subject, level, region) float32
        Weighted average of each subject's noise-free, complete map, percent.
    missing : (subject,) float64
        Share of the voxels that are NaN in the map.
    """

    subjects: pd.DataFrame
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    mtr: NDArray[np.float32]
    missing: NDArray[np.float64]


def simulate_store(url: str, n_subjects: int, template: Template, seed: int = 0, *, missing: float = 0.1, sites: int = 3) -> StoreTruth:
    """Write MTR maps of simulated subjects straight into a new cohort store: no images, no registration.

    Parameters
    ----------
    url : str
        Path or URL.
    n_subjects : int
        Every second one is a patient.
    template : Template
    seed : int
        A subject's map depends on the seed and its number alone.
    missing : float
        Mean share of voxels that are NaN, 0 to 0.5: the field of view ends above the bottom of the template.
    sites : int

    Returns
    -------
    StoreTruth

    Notes
    -----
    The store is finalised for the stage that makes the map; template maps (``fit``) and tables are empty. Run `reduce.tabulate` for the tables.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> with TemporaryDirectory() as folder:
    ...     truth = simulate_store(f"{folder}/study.zarr", 2, parametric_cord(spacing=1.0, top="C4", bottom="C5"))
    >>> truth.mtr.shape, truth.levels
    ((2, 2, 43), ('C4', 'C5'))
    """
    levels = tuple(LevelRange.parse(name) for name in template.levels)
    operator = Operator.build(template.atlas, template.packing.level, levels, template.atlas.regions)
    healthy, lost = _patterns(template)
    table = weighted_average(operator, np.stack([healthy, lost]), min_coverage=0)[schema.VALUE]
    site_offset = np.random.default_rng([seed, 1]).normal(0, SITE_SD, sites)
    rows, maps, shares = [], [], []
    for number in range(n_subjects):
        rng = np.random.default_rng([seed, 2, number])
        patient = number % 2 == 0
        offset, severity = float(rng.normal(0, SUBJECT_SD) + site_offset[number % sites]), float(rng.uniform(0.25, 1)) if patient else 0.0
        rows.append({
            schema.PARTICIPANT: f"sub-{number + 1:05d}", schema.GROUP: PATIENT if patient else CONTROL, schema.SITE: f"site{number % sites + 1}",
            schema.AGE: float(np.round(rng.uniform(25, 75))), schema.SEX: "MF"[int(rng.integers(2))], "severity": severity, "offset": offset,
        })  # fmt: skip
        shares.append(rng.uniform(0, 2 * missing))
        maps.append((offset, severity, rng))
    subjects = pd.DataFrame(rows)
    stages = {"reduce": {"spaces": [schema.SPACE_TEMPLATE]}, "segment": {"enabled": False}, "levels": {"enabled": False}}
    config = parse_config({"data": {"bids": "simulated", "store": url}, "template": {"name": template.name}, "stages": stages})
    path = schema.map_spec(schema.MTR).path
    stage = layout.stage_of(path) or schema.MTR
    rows_in_store = init_store(url, template=template, config=config, subjects=subjects.drop(columns="offset"), units={schema.AGE: "year"})
    for row, share, (offset, severity, rng) in zip(rows_in_store, shares, maps, strict=True):
        values = healthy + offset - severity * lost + rng.normal(0, VOXEL_SD, len(healthy))
        values[: round(share * len(values))] = np.nan
        write_subject(url, int(row), {path: values.astype(np.float32)}, template_digest=template.digest)
        write_entry(url, LedgerEntry(int(row), stage, schema.DONE, key="simulated", seconds=0.0, finished=now()))
    finalise(url, (stage,))
    offsets, severities = (subjects[c].to_numpy()[:, None, None] for c in ("offset", "severity"))
    truth = (table[0] + offsets - severities * table[1]).astype(np.float32)
    regions = tuple(r.name for r in template.atlas.regions)
    return StoreTruth(subjects, template.levels, regions, truth, np.array([round(s * len(healthy)) / len(healthy) for s in shares]))


def _patterns(template: Template) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean healthy MTR (voxel,), and what the worst disease takes away (voxel,), percentage points."""
    base, damage = [], []
    for name, tissue in zip(template.atlas.labels, clusters(template), strict=True):
        tract = next((t for t in {**TRACT_MTR, **DAMAGE} if f" {t}" in name), "")
        base.append(BASE_MTR[tissue] + TRACT_MTR.get(tract, 0.0))
        damage.append(DAMAGE.get(tract, OTHER[tissue]).at if tissue in OTHER else 0.0)
    weights = template.atlas.weights
    total = np.asarray(weights.sum(axis=0)).ravel()
    mean = [np.asarray(weights.T @ np.array(values)) / np.where(total > 0, total, 1) for values in (base, damage)]
    near = np.exp(-(((template.packing.level.astype(float) - 5.5) / 2.5) ** 2))
    return mean[0], mean[1] * near
