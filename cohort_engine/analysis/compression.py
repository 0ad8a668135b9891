"""Maximal compression of the cord: where along the template a profile is smallest against its neighbourhood and healthy people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cohort_engine import schema
from cohort_engine.analysis.covariates import BoolArray, FloatArray, as_table
from cohort_engine.analysis.norms import centile_curves
from cohort_engine.errors import InputError

PROFILE, REFERENCE = "profile", "healthy reference"
NONE, UNKNOWN = "none", "unknown"
FEWEST = 5
"""Healthy people that a slice needs for a mean."""
KNOWN = 0.5
"""Part of the slices above (or below) that must be known for this side to count."""


@dataclass(frozen=True, eq=False)
class Compression:
    """What the profiles say.

    Attributes
    ----------
    ratio : (subject, z)
        Slice against the slices above and below, after division by the healthy mean; 1 is healthy. Missing: NaN.
    healthy : (subject, z)
        Slice over the healthy mean.
    smallest : (subject)
        Smallest `ratio` of the levels that were searched; NaN where none is known. ``100 (1 - smallest)`` is the MSCC in percent.
    plain : (subject)
        The same slice against those above and below without any healthy people, as Miyanji has it: ``100 (1 - plain)`` is his MSCC.
    z : (subject)
        Index of that slice, -1 where `smallest` is NaN.
    level : (subject)
        Its vertebral level (PAM50 number), 0 where `smallest` is NaN.
    margin : (subject)
        `limit` minus `smallest`: positive is compressed, and by how much.
    remote : (subject)
        Mean over the control levels over that of healthy people.
    against_remote : (subject)
        `healthy` at the site over `remote`; NaN where the site lies in the control levels.
    limit : float
        The `smallest` that only ``1 - specificity`` of healthy people fall below.
    n : (z)
        Healthy people at each slice.
    n_limit : int
        Healthy people that the limit was taken from.
    """

    ratio: FloatArray
    healthy: FloatArray
    smallest: FloatArray
    plain: FloatArray
    z: NDArray[np.int64]
    level: NDArray[np.int64]
    margin: FloatArray
    remote: FloatArray
    against_remote: FloatArray
    limit: float
    n: FloatArray
    n_limit: int

    @property
    def site(self) -> list[str]:
        """Level of the compression by name, ``none``, or ``unknown`` where there is no ratio at all."""
        names = [schema.LEVEL_NAMES[n - 1] if n else UNKNOWN for n in self.level]
        return [name if name == UNKNOWN or m > 0 else NONE for name, m in zip(names, self.margin, strict=True)]


def find_compression(
    profile: ArrayLike,
    reference: ArrayLike,
    level: ArrayLike,
    *,
    own: ArrayLike | None = None,
    search: tuple[str, str] = ("C2", "C7"),
    control: tuple[str, str] = ("C2", "C3"),
    gap: float = 10.0,
    extent: float = 20.0,
    spacing: float = 0.5,
    specificity: float = 0.95,
) -> Compression:
    """Find the slice that is compressed most.

    Parameters
    ----------
    profile : (subject, z)
        Front-to-back diameter (mm) or area (mm2) at each slice of the template, z from below upwards. Missing: NaN.
    reference : (healthy subject, z)
        The same of healthy people.
    level : (z)
        Vertebral level of each slice (PAM50 number; 0: none).
    own : (subject,) bool, optional
        Who of the subjects is in the reference, which has them in the same order: each of these is compared with the mean of the others, in every
        quantity. Compared with a mean that holds the own profile, healthy people look healthier than new ones do.
    search, control : first and last level, by name
        Where a compression may be, and the remote levels.
    gap, extent : float
        mm between the slice and its neighbourhood, and the length of that neighbourhood on each side.
    spacing : float
        mm from slice to slice.
    specificity : float
        Part of healthy people that are to be called ``none``.

    Returns
    -------
    Compression

    Raises
    ------
    InputError
        Tables of other shapes, values at or below 0, too few healthy people for the limit, levels that no slice has, lengths below a slice.
    UnknownNameError
        A level that does not exist.

    Formula
        ``ratio = (p / m) / mean(sum p / sum m above, sum p / sum m below)``, m the healthy mean, the sums over known slices; `plain` has m = 1. A
        side counts where half of it is known; where only one side counts it stands alone (the ends of a field of view). A healthy person's own ratio
        is taken against the mean of the others. No canal is needed. `limit` is the ``1 - specificity`` quantile (type 6) of the healthy people's
        `smallest`, so that looking at many slices is allowed for.
    Reference
        Miyanji et al., Radiology 243 (2007), doi:10.1148/radiol.2433060583; Valosek et al., Imaging Neuroscience 2 (2024),
        doi:10.1162/imag_a_00075.

    Examples
    --------
    >>> people = 8 * np.linspace(0.9, 1.1, 21)[:, None] * np.ones(60)
    >>> flat = np.full((2, 60), 8.0)
    >>> flat[0, 30] = 6
    >>> out = find_compression(flat, people, np.full(60, 5), control=("C5", "C5"), gap=2, extent=5)
    >>> out.site, out.z[0].item(), out.smallest.round(6).tolist()
    (['C5', 'none'], 30, [0.75, 1.0])
    """
    people, healthy = _positive(profile, PROFILE), _positive(reference, REFERENCE)
    numbers = np.asarray(level)
    if healthy.shape[1] != people.shape[1] or numbers.shape != people.shape[1:]:
        found = f"{healthy.shape[1]} in the reference, {numbers.size} levels"
        raise InputError(expected=f"{people.shape[1]} slices", found=found, where=PROFILE, remedy="Give all of them on the slices of the template.")
    mine = np.zeros(len(people), bool) if own is None else np.asarray(own, bool)
    if mine.shape != (len(people),) or (own is not None and mine.sum() != len(healthy)):
        found = f"{mine.sum()} of {mine.size}"
        raise InputError(expected=f"{len(healthy)} subjects of the reference", found=found, where=REFERENCE, remedy="Mark each of its people.")
    searched, remote_slices = _slices(numbers, search), _slices(numbers, control)
    away, length = round(gap / spacing), round(extent / spacing)
    if away < 0 or length < 1:
        found = f"gap {gap} mm, extent {extent} mm, spacing {spacing} mm"
        raise InputError(expected="a gap of 0 or more and an extent of a slice or more", found=found, where=PROFILE, remedy="Use 10 and 20 mm.")

    n = np.isfinite(healthy).sum(axis=0)
    total = np.nansum(healthy, axis=0)
    enough = n >= FEWEST
    mean = np.where(enough, total / np.maximum(n, 1), np.nan)[None]
    known = np.isfinite(healthy)
    others = np.where(enough, (total - np.where(known, healthy, 0)) / np.maximum(n - known, 1), np.nan)
    least = _smallest(_ratio(healthy, others, away, length), searched)[0]
    n_limit = int(np.isfinite(least).sum())
    limit = float(centile_curves(least[:, None], 100 * (1 - specificity)).item()) if 0 < specificity < 1 else np.nan
    if np.isnan(limit):
        raise InputError(
            expected=f"healthy people enough for a specificity of {specificity} (19 for 0.95)",
            found=f"{n_limit} with a known profile",
            where=REFERENCE,
            remedy="Add people, or lower the specificity.",
        )

    mean = np.repeat(mean, len(people), axis=0)
    if own is not None:
        mean[mine] = others
    ratio = _ratio(people, mean, away, length)
    smallest, z = _smallest(ratio, searched)
    rows = np.arange(len(people))
    there = np.where(z >= 0, numbers[z], 0).astype(np.int64)
    remote = _against(people, mean, remote_slices)
    at_site = np.where((z >= 0) & ~remote_slices[z], (people / mean)[rows, z], np.nan)
    alone = _ratio(people, np.ones((1, people.shape[1])), away, length)
    plain = np.where(z >= 0, alone[rows, z], np.nan)
    return Compression(ratio, people / mean, smallest, plain, z, there, limit - smallest, remote, at_site / remote, limit, n.astype(float), n_limit)


def _positive(values: ArrayLike, where: str) -> FloatArray:
    table = as_table(values, where=where)
    if (bad := int((table <= 0).sum())) > 0:
        raise InputError(expected="values above 0, or NaN", found=f"{bad} at or below 0", where=where, remedy="Make what was not measured NaN.")
    return table


def _slices(numbers: NDArray[Any], span: tuple[str, str]) -> BoolArray:
    """Slices of a span of levels (z)."""
    first, last = sorted(schema.level_number(name, where="levels") for name in span)
    inside: BoolArray = np.asarray((numbers >= first) & (numbers <= last))
    if not inside.any():
        raise InputError(
            expected=f"slices of {span[0]} to {span[1]}", found="none", where="levels", remedy="Give the levels of the template's slices."
        )
    return inside


def _smallest(ratio: FloatArray, where: BoolArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Smallest value (subject) of the slices `where`, and its index; NaN and -1 where none is known."""
    filled = np.where(where & np.isfinite(ratio), ratio, np.inf)
    z = filled.argmin(axis=1)
    value = filled[np.arange(len(ratio)), z]
    none = np.isinf(value)
    return np.where(none, np.nan, value), np.where(none, -1, z).astype(np.int64)


def _against(values: FloatArray, mean: FloatArray, where: BoolArray) -> FloatArray:
    """Sum over the known slices `where` over that of the mean (subject); NaN where fewer than `KNOWN` of them are."""
    known = where & np.isfinite(values) & np.isfinite(mean)
    below = np.where(known, mean, 0).sum(axis=1)
    enough = known.sum(axis=1) >= KNOWN * where.sum()
    out: FloatArray = np.divide(np.where(known, values, 0).sum(axis=1), below, out=np.full(len(values), np.nan), where=enough & (below > 0))
    return out


def _ratio(values: FloatArray, mean: FloatArray, away: int, length: int) -> FloatArray:
    """Each slice (subject, z) against its neighbourhoods, both over the mean (subject or 1, z)."""
    mean = np.broadcast_to(mean, values.shape)
    known = np.isfinite(values) & np.isfinite(mean)
    sums = [np.pad(np.cumsum(np.where(known, a, 0), axis=1), ((0, 0), (1, 0))) for a in (values, mean, np.ones_like(values))]
    at = np.arange(values.shape[1])
    sides = []
    for first in (at + away + 1, at - away - length):
        low, high = (np.clip(i, 0, len(at)) for i in (first, first + length))
        value, expected, count = (s[:, high] - s[:, low] for s in sums)
        sides.append(np.divide(value, expected, out=np.full_like(values, np.nan), where=count >= max(KNOWN * length, 1)))
    above, below = sides
    around = np.where(np.isnan(above), below, np.where(np.isnan(below), above, (above + below) / 2))
    out: FloatArray = values / mean / around
    return out
