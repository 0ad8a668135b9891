"""Morphometry of one image: cord mask and landmarks in, values by slice, by level and along the template out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline, centreline_from_mask, cord_slices, slice_arc
from cohort_engine.cord.centreline import runs as listed
from cohort_engine.cord.levels import Landmarks, LevelAxis, level_axis, levels_at
from cohort_engine.errors import LevelError, unknown_name
from cohort_engine.io.volume import Volume
from cohort_engine.qmri.morphometry import Grouped, group_slices, measure_slices, template_profile
from cohort_engine.single.columns import Columns, runs
from cohort_engine.single.reading import AUTO, LANDMARKS, read_around, read_landmarks
from cohort_engine.template.base import Heights, Template
from cohort_engine.template.packing import FloatArray

SLICE = "slice"
PER = (SLICE, schema.LEVEL)
MASK = "cord mask"

TITLES = {
    schema.AREA: "area", schema.AREA_RIGHT: "area_right", schema.AREA_LEFT: "area_left", schema.SYMMETRY: "symmetry",
    schema.ANGLE_AP: "angle_AP", schema.ANGLE_RL: "angle_RL", schema.DIAMETER_AP: "diameter_AP", schema.DIAMETER_AP_ELLIPSE: "diameter_AP_ellipse",
    schema.DIAMETER_RL: "diameter_RL", schema.ECCENTRICITY: "eccentricity", schema.ORIENTATION: "orientation",
    schema.ORIENTATION_SIZE: "orientation_size", schema.SOLIDITY: "solidity", schema.LENGTH: "length",
}  # fmt: skip
"""Measure -> what it is called in tables, as in those of the Spinal Cord Toolbox where it has the measure."""


REACH = 20.0
"""Beyond the outer landmarks a level is a guess, and after this many mm along the cord none."""


AROUND, THIN = 15.0, 0.4
"""A slice with less than this share of the median area within this distance (mm) along the cord is thinner than compressed cords are."""


@dataclass(frozen=True, eq=False)
class Cord:
    """A measured cord.

    Attributes
    ----------
    centreline : Centreline
    arc : (z,) float64
        Arc length at which the centreline crosses each slice of the image, mm.
    values : {measure: (z,) float64}
        NaN in slices without cord.
    pieces : (z,) int
        Pieces of the mask in the slice; above 1 the largest was measured.
    axis : LevelAxis, optional
        Where the centreline lies in the template; None without landmarks.
    template : Heights, optional
    """

    centreline: Centreline
    arc: FloatArray
    values: dict[str, FloatArray]
    pieces: NDArray[np.int64]
    axis: LevelAxis | None = None
    template: Heights | None = None

    @property
    def missing(self) -> NDArray[np.int64]:
        """Slices without a value between slices with one."""
        measured = np.flatnonzero(np.isfinite(self.values[schema.AREA]))
        return np.setdiff1d(np.arange(measured[0], measured[-1]), measured) if len(measured) else measured

    @cached_property
    def flagged(self) -> dict[str, NDArray[np.int64]]:
        """Slices that are odd, by `schema.SLICE_FLAGS`."""
        area, measured = self.values[schema.AREA], np.isfinite(self.values[schema.AREA])
        at = np.flatnonzero(measured)
        near = [at[(np.abs(self.arc[at] - self.arc[k]) <= AROUND) & (at != k)] for k in at]
        thin = [k for k, others in zip(at, near, strict=True) if len(others) and area[k] < THIN * np.median(area[others])]
        return {
            schema.SPLIT_SLICES: np.flatnonzero(measured & (self.pieces > 1)),
            schema.MISSING_SLICES: np.union1d(self.missing, np.flatnonzero(~measured & (self.pieces > 0))),
            schema.THIN_SLICES: np.array(thin, np.int64),
        }

    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the values must know, slices counted from 0 at the bottom."""
        said = [f"{text}: {listed(self.flagged[flag])}" for flag, text in schema.SLICE_FLAGS.items() if len(self.flagged[flag])]
        if len(self.missing):
            worst = float(np.nanmax(self.centreline.standard_error(self.arc[self.missing]), initial=0.0))
            said.append(f"the centreline runs through {len(self.missing)} slices without cord; its standard error there is up to {worst:.2f} mm")
        return (*said, *(self.axis.notes if self.axis is not None else ()))

    @cached_property
    def level(self) -> NDArray[np.int64]:
        """Vertebral level number (z,) of each slice, by its place in the template; 0 where there is none, and beyond `REACH`."""
        if self.axis is None or self.template is None:
            return np.zeros(len(self.arc), np.int64)
        return np.where(_reached(self.axis, self.arc), levels_at(self.axis.z(self.arc), self.template), 0)

    def profiles(self) -> dict[str, FloatArray]:
        """Each measure but `schema.SUMMED` along the template's z (z,); NaN more than `REACH` beyond the outer landmarks."""
        if self.axis is None or self.template is None:
            raise LevelError(
                expected="vertebral landmarks", found="none", where=LANDMARKS, remedy="Give an image of numbered discs, or a mask labelled by level."
            )
        names = [n for n in self.values if n not in schema.SUMMED]
        found = template_profile(np.stack([self.values[n] for n in names]), self.arc, self.axis, self.template.z)
        return dict(zip(names, np.where(_reached(self.axis, self.axis.arc(self.template.z)), found, np.nan), strict=True))


def _reached(axis: LevelAxis, arc: FloatArray) -> NDArray[np.bool_]:
    return np.asarray((arc >= axis.knot_arc[0] - REACH) & (arc <= axis.knot_arc[-1] + REACH))


def measure_cord(mask: Volume, landmarks: Landmarks | None, template: Heights | None, *, what: tuple[str, str]) -> Cord:
    """Measure the cord of one image.

    Parameters
    ----------
    mask : Volume
    landmarks : Landmarks, optional
        In the same scanner space.
    template : Heights, optional
        What the landmarks are placed in; needed with them.
    what : pair of str
        Words of the roles of mask and landmarks, for messages.

    Returns
    -------
    Cord
    """
    line = centreline_from_mask(mask.data, mask.affine, what=what[0])
    cord, _ = cord_slices(mask.data, affine=mask.affine, what=what[0])
    values, pieces = measure_slices(mask.data, mask.affine, line, cord=cord, what=what[0])
    arc = slice_arc(line, mask.affine, np.arange(mask.data.shape[2]))
    if landmarks is None or template is None:
        return Cord(line, arc, values, pieces)
    return Cord(line, arc, values, pieces, level_axis(line, landmarks, template, what=what[1]), template)


def store_arrays(
    profiles: dict[str, FloatArray], groups: Grouped, flagged: Mapping[str, NDArray[np.int64]], template: Template
) -> dict[str, NDArray[Any]]:
    """Lay profiles and values by level out as one subject's row of a store.

    Parameters
    ----------
    profiles : {measure: (z,)}
        On the template's z.
    groups : Grouped
        By level number.
    flagged : {flag: (group,) int array}
        How many slices of each group have a flag of `schema.SLICE_FLAGS`; without those that nobody counted.
    template : Template

    Returns
    -------
    {path: array}
        The variables of ``schema.shape_specs()``; NaN where something was not measured.
    """
    rows = np.array([schema.level_number(n) for n in template.levels])
    known = np.isin(groups.groups, rows)
    at = np.searchsorted(rows, groups.groups[known])

    def table(values: NDArray[Any], empty: float = np.nan) -> FloatArray:
        out = np.full(len(rows), empty)
        out[at] = values[known]
        return out

    tables = {n: table(v) for n, v in groups.value.items()}
    tables |= {f"{n}_{schema.STD}": table(v) for n, v in groups.std.items() if n not in schema.SUMMED}
    tables[schema.SLICES] = table(groups.n[schema.AREA], 0.0)
    tables |= {flag: table(n, 0.0) for flag, n in flagged.items()}
    return {schema.profile_spec(n).path: v for n, v in profiles.items()} | {f"{schema.TABLES}/{schema.SHAPE}/{n}": v for n, v in tables.items()}


def subject_arrays(cord: Cord, template: Template) -> dict[str, NDArray[Any]]:
    """Return what the stage ``shape`` writes for one subject: see `store_arrays`."""
    groups = group_slices(cord.values, cord.level)
    flagged = {flag: np.array([int((cord.level[k] == n).sum()) for n in groups.groups], np.int64) for flag, k in cord.flagged.items()}
    return store_arrays(cord.profiles(), groups, flagged, template)


def shape(
    mask: str | Path | Volume,
    levels: str | Path | Volume | None = None,
    *,
    kind: str = AUTO,
    per: str = SLICE,
    template: Heights | None = None,
    normalise: bool = False,
) -> Columns:
    """Measure the cord of one mask, and write it down as the Spinal Cord Toolbox would.

    Parameters
    ----------
    mask : path or Volume
        Cord mask, 0 to 1; a soft one counts with its values.
    levels : path or Volume, optional
        Disc or body points, or a mask labelled by level.
    kind : str
        ``disc`` (3 is C2/C3), ``body`` (2 is C2), or ``auto``: from the file name. A mask needs no name.
    per : str
        One row a ``slice``, or a ``level``.
    template : Heights, optional
        Needed with `levels`.
    normalise : bool
        Along the template's z (PAM50): slices are then those of the template.

    Returns
    -------
    Columns
        ``Slice (I->S)`` (from 0 at the bottom) and ``VertLevel``, then ``MEAN()`` and ``STD()`` of each measure and ``SUM(length)``; last ``Slices``,
        how many were measured, ``Pieces``, the most pieces of the mask in any of them, and ``SE(centreline)``, the largest standard error (mm) of the
        centreline in them (both empty along the template). An STD of one slice is empty. A slice without cord between others has a row without
        values and 0 slices; `Columns.notes` names it.

    Raises
    ------
    LevelError
        Levels or the template's z were asked for, and there are no usable landmarks; or nobody says what points count.
    UnknownNameError
        A grouping or kind nobody has heard of.
    CohortError
        The mask cannot be measured: see `qmri.morphometry.measure_slices`.

    Examples
    --------
    >>> data = np.zeros((12, 10, 4))
    >>> data[1:11, 1:9, 1:] = 1
    >>> table = shape(Volume(data, np.diag([1.0, 1.0, 5.0, 1.0])))
    >>> table.columns["Slice (I->S)"], table.columns["MEAN(area)"], table.columns["SUM(length)"]
    (['1', '2', '3'], [80.0, 80.0, 80.0], [5.0, 5.0, 5.0])
    """
    if per not in PER:
        raise unknown_name("choice", per, list(PER), where="per")
    image = mask if isinstance(mask, Volume) else read_around(mask, what=MASK)
    cord = measure_cord(image, None if levels is None else read_landmarks(levels, kind), template, what=(MASK, LANDMARKS))
    if (per == schema.LEVEL or normalise) and cord.axis is None:
        raise LevelError(
            expected="vertebral landmarks", found="none", where=LANDMARKS, remedy="Add --levels: numbered discs, or a mask labelled by level."
        )
    if normalise and template is not None:
        return replace(_table(cord.profiles(), np.asarray(template.slice_level, np.int64), per), notes=cord.notes())
    return replace(_table(cord.values, cord.level, per, cord), notes=cord.notes())


def _table(values: dict[str, FloatArray], level: NDArray[np.int64], per: str, cord: Cord | None = None) -> Columns:
    """Lay out measures of the slices of a template or, with `cord`, of its image: then slices without cord in between have a row, too."""
    measured = np.isfinite(values[schema.AREA])
    if cord is not None and per == SLICE:
        measured = measured | (cord.pieces > 0)
        measured[cord.missing] = True
    found = np.flatnonzero(measured)
    group = level[found] if per == schema.LEVEL else found + 1
    grouped = group_slices({n: v[found] for n, v in values.items()}, group)
    members = [found[group == n] for n in grouped.groups]
    columns: dict[str, list[Any]] = {
        "Slice (I->S)": [runs(m.tolist()) for m in members],
        "VertLevel": [runs(sorted({int(level[k]) for k in m if level[k] > 0})) for m in members],
    }
    for name, title in TITLES.items():
        if name in schema.SUMMED:
            columns[f"SUM({title})"] = grouped.value[name].tolist() if name in values else [np.nan] * len(members)
        else:
            columns[f"MEAN({title})"], columns[f"STD({title})"] = grouped.value[name].tolist(), grouped.std[name].tolist()
    columns["Slices"] = grouped.n[schema.AREA].tolist()
    columns["Pieces"] = [""] * len(members) if cord is None else [int(cord.pieces[m].max()) for m in members]
    error = np.full(len(level), np.nan) if cord is None else cord.centreline.standard_error(cord.arc)
    columns["SE(centreline)"] = [float(np.max(error[m])) for m in members]
    return Columns(columns)
