"""ComBat: measures of several sites on one scale, what is known of the people kept; missing values allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cohort_engine.analysis.covariates import BoolArray, Coding, Covariates, FloatArray, as_table, as_words, by_pattern
from cohort_engine.errors import InputError, unknown_name

WHERE = "harmonise"
ARRAYS = ("mean", "effects", "sd", "shift", "scale", "n")
SMALLEST = 2
"""Values of a feature that a site needs for a variance."""
TOLERANCE, ROUNDS = 1e-10, 1000
"""Relative change at which the posterior means have settled, and the most steps towards it."""


@dataclass(frozen=True, eq=False)
class Model:
    """What `learn` found; `apply` needs nothing else.

    Attributes
    ----------
    sites : (site) tuple of str
    coding : Coding
        Of the covariates that are kept.
    mean, sd : (feature)
        Mean over sites weighted by their sizes, and residual standard deviation within sites, in the feature's unit. NaN: not harmonised;
        an `sd` of 0: constant, passed on as it is.
    effects : (covariate column, feature)
        What one unit of a covariate adds.
    shift, scale : (site, feature)
        Additive effect in units of `sd`, and factor of its standard deviation. NaN where the site has fewer than two values.
    n : (site, feature)
        Values that were learnt from.
    warnings : tuple of str
        What a reader must know: constant features, cells without enough values, people left out.
    """

    sites: tuple[str, ...]
    coding: Coding
    mean: FloatArray
    effects: FloatArray
    sd: FloatArray
    shift: FloatArray
    scale: FloatArray
    n: FloatArray
    warnings: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return lists, numbers and strings that JSON can hold; NaN is None."""
        arrays = {name: np.where(np.isnan(a := getattr(self, name)), None, a).tolist() for name in ARRAYS}  # type: ignore[call-overload]
        levels = {name: list(words) for name, words in self.coding.levels.items()}
        return {"sites": list(self.sites), "levels": levels, "warnings": list(self.warnings), **arrays}

    @classmethod
    def from_mapping(cls, saved: Mapping[str, Any]) -> Model:
        """Read what `to_mapping` wrote.

        Raises
        ------
        InputError
            A part is absent, or shapes do not fit.
        """
        try:
            coding = Coding({str(name): tuple(map(str, words)) for name, words in saved["levels"].items()})
            sites = tuple(map(str, saved["sites"]))
            arrays = {name: np.array(saved[name], float) for name in ARRAYS}
            features = len(arrays["mean"])
            arrays["effects"] = arrays["effects"].reshape(coding.columns, features)
            shapes = [arrays[name].shape for name in ARRAYS]
            if shapes != [(features,), (coding.columns, features), (features,), *[(len(sites), features)] * 3]:
                raise ValueError("shapes")
            return cls(sites=sites, coding=coding, warnings=tuple(map(str, saved["warnings"])), **arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise InputError(expected="saved parameters", found=found, where=WHERE, remedy="Learn again.") from error


@dataclass(frozen=True, eq=False)
class Harmonised:
    """Values (subject, feature) on the common scale, and the model that made them."""

    values: FloatArray
    model: Model


def learn(values: ArrayLike, site: ArrayLike, covariates: Covariates | None = None, *, shrink: bool = True) -> Harmonised:
    r"""Estimate the sites' shifts and scales, and remove them.

    Parameters
    ----------
    values : (subject, feature)
        Missing: NaN; each feature is learnt from the subjects that have it. A subject without a covariate is left out and becomes NaN.
    site : (subject)
    covariates : mapping of name to (subject), optional
        What is kept: numbers as they are, words as categories.
    shrink : bool
        Parametric empirical Bayes over the features. False: each feature's own site mean and variance.

    Returns
    -------
    Harmonised
        NaN where a value is missing, where a site has fewer than two values of the feature, and where a feature's own missing values
        leave a covariate confounded with site. A constant feature is passed on as it is. ``model.warnings`` says each of these with its count.

    Raises
    ------
    InputError
        One site; a site of one subject; site confounded with the covariates (the design has not full rank); infinite values; other lengths.

    Formula
        ``y = a + X b + sd (shift_i + scale_i e)``. Least squares with one indicator a site give a (weighted by the sites' sizes) and b; ``sd^2`` is
        the sum of squared residuals over n - sites, as the variances d are over n - 1: then scales are about one where sites are alike.
        (Published is n, which makes all values narrower by ``sqrt(1 - sites / n)``, and a test of them finds too much.)
        In site i, standardised values have mean g and variance d (over n - 1). Over features, g has mean
        ``g0`` and variance t, d has mean m and variance v; ``r = m^2 / v``. The posterior means satisfy ``g* = (n t g + d* g0) / (n t + d*)`` and
        ``d* = (sum (z - g*)^2 / 2 + m (1 + r)) / (n / 2 + 1 + r)``; ``shift = g*``, ``scale = sqrt(d*)``. They are iterated to 1e-10.
    Reference
        Johnson, Li & Rabinovic, Biostatistics 8 (2007), doi:10.1093/biostatistics/kxj037; Fortin et al., NeuroImage 167 (2018),
        doi:10.1016/j.neuroimage.2017.11.024.

    Examples
    --------
    >>> out = learn([[1.0], [3.0], [11.0], [13.0]], ["A", "A", "B", "B"], shrink=False)
    >>> out.values.ravel().round(2).tolist(), out.model.shift.ravel().round(6).tolist()
    ([6.0, 8.0, 6.0, 8.0], [-3.535534, 3.535534])
    """
    table, place = as_table(values, where=WHERE), _site(site)
    subjects, features = table.shape
    _same_length(place, subjects)
    coding = Coding.of(covariates)
    kept = coding.matrix(covariates, subjects)
    there = np.isfinite(kept).all(axis=1) & (place != "")
    sites = tuple(sorted(set(place[there].tolist())))
    member = place[:, None] == np.array(sites, dtype=str)
    _check_design(member[there], kept[there], sites)

    notes = [f"{(~there).sum()} subjects without a site or covariate are left out"] if not there.all() else []
    known = np.isfinite(table) & there[:, None]
    n = member.T.astype(float) @ known
    known &= (member.astype(float) @ (n >= SMALLEST)) > 0
    few = n < SMALLEST
    if few.any():
        notes.append(f"{few.sum()} of {few.size} cells (site, feature) have fewer than {SMALLEST} values: NaN")

    mean, sd = np.full(features, np.nan), np.full(features, np.nan)
    effects = np.full((kept.shape[1], features), np.nan)
    confounded = 0
    for rows, columns in by_pattern(known):
        present = member[rows].any(axis=0)
        x = np.concatenate([member[rows][:, present], kept[rows]], axis=1)
        if present.sum() < 2 or np.linalg.matrix_rank(x) < x.shape[1]:
            confounded += len(columns)
            continue
        y = table[np.ix_(rows, columns)]
        solution = np.linalg.lstsq(x, y)[0]
        mean[columns] = member[rows][:, present].mean(axis=0) @ solution[: present.sum()]
        effects[:, columns] = solution[present.sum() :]
        sd[columns] = np.sqrt(((y - x @ solution) ** 2).sum(axis=0) / (len(y) - present.sum()))
        sd[columns] = np.where(sd[columns] > 1e-9 * np.abs(y).max(axis=0), sd[columns], 0)
    if confounded:
        notes.append(f"{confounded} features are known at fewer than two sites, or too rarely to tell site from covariates: NaN")
    if (constant := sd == 0).any():
        notes.append(f"{constant.sum()} features are constant (feature {_some(constant)}): passed on as they are")

    usable = sd > 0
    scaled = np.full_like(table, np.nan)
    scaled[:, usable] = (table - mean - kept @ effects)[:, usable] / sd[usable]
    scaled[~known] = np.nan
    shift, scale = np.full((len(sites), features), np.nan), np.full((len(sites), features), np.nan)
    for i in range(len(sites)):
        mine = usable & ~few[i]
        if mine.any():
            shift[i, mine], scale[i, mine] = _posterior(scaled[np.ix_(member[:, i] & there, mine)], shrink and mine.sum() > 1)
        if shrink and mine.sum() == 1:
            notes.append(f"site {sites[i]} has one feature: nothing to borrow from, its own mean and variance are used")
    if (flat := scale == 0).any():
        scale[flat] = np.nan
        notes.append(f"{flat.sum()} cells (site, feature) have no variance: NaN")
    model = Model(sites, coding, mean, effects, sd, shift, scale, n, tuple(notes))
    return Harmonised(apply(model, table, np.where(there, place, ""), covariates), model)


def apply(model: Model, values: ArrayLike, site: ArrayLike, covariates: Covariates | None = None) -> FloatArray:
    """Put values (subject, feature) of known sites on the common scale of a model.

    Raises
    ------
    InputError, UnknownNameError
        A site or category that was not learnt, another number of features, other lengths, an absent covariate.

    Formula
        ``sd ((y - a - X b) / sd - shift) / scale + a + X b``. Missing: NaN as in `learn`.

    Examples
    --------
    >>> model = learn([[1.0], [3.0], [11.0], [13.0]], ["A", "A", "B", "B"], shrink=False).model
    >>> apply(model, [[2.0], [12.0]], ["A", "B"]).round(6).tolist()
    [[7.0], [7.0]]
    """
    table, place = as_table(values, where=WHERE), _site(site)
    _same_length(place, len(table))
    if table.shape[1] != len(model.sd):
        found = f"{table.shape[1]} features"
        raise InputError(expected=f"{len(model.sd)} features", found=found, where=WHERE, remedy="Give the features that were learnt, in their order.")
    if new := sorted(set(place.tolist()) - {*model.sites, ""}):
        raise unknown_name("site", new[0], list(model.sites), where=f"{WHERE}: site that was not learnt")
    kept = model.coding.matrix(covariates, len(table))
    there = np.isfinite(kept).all(axis=1) & (place != "")
    at = np.array([model.sites.index(p) if p else 0 for p in place.tolist()], int)
    people = model.mean + kept @ model.effects
    scaled = np.divide(table - people, model.sd, out=np.full_like(table, np.nan), where=model.sd > 0)
    out = people + model.sd * (scaled - model.shift[at]) / model.scale[at]
    out = np.where(model.sd == 0, table, out)
    return np.where(there[:, None], out, np.nan)


def _posterior(z: FloatArray, shrink: bool) -> tuple[FloatArray, FloatArray]:
    """Shift and scale (feature) of one site's standardised values (subject, feature)."""
    n = np.isfinite(z).sum(axis=0)
    g, d = np.nanmean(z, axis=0), np.nanvar(z, axis=0, ddof=1)
    if not shrink:
        return g, np.sqrt(d)
    g0, t, m, v = g.mean(), g.var(ddof=1), d.mean(), d.var(ddof=1)
    if m == 0:
        return g, d
    r = m**2 / max(v, 1e-12 * m**2)
    squares = d * (n - 1)  # sum (z - g*)^2 = squares + n (g - g*)^2
    shift, variance = g, d
    for _ in range(ROUNDS):
        before = shift, variance
        weight = n * t + variance
        shift = np.where(weight > 0, (n * t * g + variance * g0) / np.where(weight > 0, weight, 1), g0)
        variance = ((squares + n * (g - shift) ** 2) / 2 + m * (1 + r)) / (n / 2 + 1 + r)
        if max(np.abs(shift - before[0]).max(), np.abs(variance / np.maximum(before[1], 1e-300) - 1).max()) < TOLERANCE:
            break
    return shift, np.sqrt(variance)


def _check_design(member: BoolArray, kept: FloatArray, sites: tuple[str, ...]) -> None:
    if len(sites) < 2:
        raise InputError(expected="two sites or more", found=f"{len(sites)}", where=f"{WHERE}: site", remedy="There is nothing to harmonise.")
    if alone := list(_single(member, sites)):
        found = f"one subject at {', '.join(alone)}"
        raise InputError(
            expected="two subjects or more at each site",
            found=found,
            where=f"{WHERE}: site",
            remedy="Leave these out, or join them to the site of the same scanner.",
        )
    design = np.concatenate([member, (kept - kept.mean(axis=0)) / np.maximum(kept.std(axis=0), 1e-12)], axis=1)
    rank = int(np.linalg.matrix_rank(design))
    if rank < design.shape[1]:
        raise InputError(
            expected=f"sites and covariates that can be told apart (rank {design.shape[1]})",
            found=f"rank {rank}",
            where=f"{WHERE}: covariates",
            remedy="A covariate follows the site, as when each site has one diagnosis: leave it out, or add sites that have both.",
        )


def _single(member: BoolArray, sites: tuple[str, ...]) -> Iterator[str]:
    yield from (s for s, size in zip(sites, member.sum(axis=0), strict=True) if size < SMALLEST)


def _site(site: ArrayLike) -> NDArray[np.str_]:
    """Names of sites; empty where not known."""
    return np.array(as_words(np.atleast_1d(np.asarray(site))), dtype=str)


def _same_length(place: NDArray[np.str_], subjects: int) -> None:
    if place.shape != (subjects,):
        raise InputError(expected=f"{subjects} sites", found=f"{place.size}", where=f"{WHERE}: site", remedy="Give one a subject.")


def _some(which: BoolArray, most: int = 5) -> str:
    at = np.flatnonzero(which)
    return ", ".join(map(str, at[:most])) + (" ..." if len(at) > most else "")
