"""Can the site still be told from the values? Harmonisation inside the folds, and chance from permuted sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cohort_engine.analysis.arrays import BoolArray, FloatArray, IntArray
from cohort_engine.analysis.covariates import Coding, Covariates, as_table, as_words
from cohort_engine.analysis.harmonise import SMALLEST, apply, learn
from cohort_engine.errors import CohortError, InputError, NotEnoughError

WHERE = "telling the site"
MOST_FOLDS = 5
"""Parts of the cross-validation, where sites are large enough."""
PERMUTATIONS = 39
FEWEST = SMALLEST + 1
"""People that a site needs: one can be held out then, and the others still have a variance."""


@dataclass(frozen=True)
class SiteCheck:
    """How well held-out people are assigned to their site.

    Attributes
    ----------
    accuracy : float
        Balanced: mean over sites of the share of its people that are assigned to it.
    chance, low, high : float
        Mean of the accuracy when sites are dealt out by chance, and the interval that holds it.
    p : float
        How often the accuracy is reached by chance.
    folds, n, left_out : int
        Parts of the cross-validation, subjects used, and left out.
    """

    accuracy: float
    chance: float
    low: float
    high: float
    p: float
    folds: int
    n: int
    left_out: int = 0


@dataclass(frozen=True, eq=False)
class _People:
    """Values (subject, feature), site by number, what is kept and harmonised together."""

    x: FloatArray
    site: IntArray
    covariates: Mapping[str, NDArray[Any]] | None
    blocks: tuple[NDArray[np.intp], ...]
    harmonise: bool


def tell_site(
    values: ArrayLike, site: ArrayLike, *, harmonise: bool = False, covariates: Covariates | None = None, strata: ArrayLike | None = None,
    blocks: Sequence[ArrayLike] | None = None, folds: int | None = None, permutations: int = PERMUTATIONS, confidence: float = 0.95, seed: int = 0,
) -> SiteCheck:  # fmt: skip
    """Tell the site of people that neither the classifier nor the harmonisation has seen: run it without and with `harmonise`.

    Parameters
    ----------
    values : (subject, feature)
        As measured. Missing: the feature's median; a feature without any value, and a subject without any, are left out.
    site : (subject,)
        A subject without one (``""``), and the sites of fewer than `FEWEST`, are left out.
    harmonise : bool
        Learn ComBat (`harmonise.learn`) in each training part, and apply it to the held-out one.
    covariates : mapping of name to (subject,), optional
        What harmonisation keeps: it must not take it for the site, and its effect is taken out before the site is told, since sites that scanned
        older people could be told by that. A subject without one is left out.
    strata : (subject,), optional
        Sites are permuted within these, such as the diagnosis: what differs because sites scanned other people is no trace of the scanner.
    blocks : sequence of (feature,) indices, optional
        Features that are harmonised together; by default all.
    folds : int, optional
        By default `MOST_FOLDS`, or as many as the smallest site has subjects.
    permutations, seed : int
        Each permutation of the sites goes through all of it again: folds, harmonisation, classifier.
    confidence : float
        Of the interval of chance.

    Returns
    -------
    SiteCheck

    Raises
    ------
    InputError
        Fewer than two sites that are large enough, or than folds; covariates that a training part cannot tell from site.

    Notes
    -----
    Values that were harmonised with the held-out people have these people's means removed: at three sites the classifier found 4 %. Harmonised
    without them, they still carry the error of the shifts of their site, against what the training part says, so that chance lies below guessing
    where sites are small: it is what permuted sites reach. The classifier is a linear discriminant with equal shares: the mean of each site, in the
    metric of the training part's total covariance plus the identity, of standardised features. Its inverse does not depend on the sites, so that many
    permutations of values as measured cost as much as one. A line between sites sees shifts, not scales.

    Examples
    --------
    >>> shifted = np.r_[np.zeros(20), np.ones(20)][:, None] * 9 + np.random.default_rng(0).normal(size=(40, 5))
    >>> before, after = (tell_site(shifted, ["A"] * 20 + ["B"] * 20, harmonise=h) for h in (False, True))
    >>> before.accuracy, before.p, bool(after.low <= after.accuracy <= after.high)
    (1.0, 0.025, True)
    """
    people, group, left_out, number = _prepare(values, site, harmonise, covariates, strata, blocks, folds)
    rng = np.random.default_rng(seed)
    observed = _accuracy(people, people.site[None], number, rng)[0]
    order = np.stack([_within(group, rng) for _ in range(permutations)])
    drawn = people.site[order]
    each = [drawn] if not harmonise else list(drawn[:, None])
    chance = np.concatenate([_accuracy(people, sites, number, rng) for sites in each])
    # of n + 1 exchangeable accuracies the observed one lies between these two with the probability that is promised, or a higher one
    beyond = max(int((1 - confidence) / 2 * (permutations + 1) + 1e-9), 1)
    low, high = np.sort(chance)[[beyond - 1, permutations - beyond]]
    p = (1 + int((chance >= observed - 1e-12).sum())) / (1 + permutations)
    return SiteCheck(float(observed), float(chance.mean()), float(low), float(high), p, number, len(people.x), left_out)


def _prepare(
    values: ArrayLike, site: ArrayLike, harmonise: bool, covariates: Covariates | None, strata: ArrayLike | None,
    blocks: Sequence[ArrayLike] | None, folds: int | None,
) -> tuple[_People, NDArray[np.str_], int, int]:  # fmt: skip
    """People that take part, their strata, how many do not, and the number of folds."""
    x, place = as_table(values, where=WHERE), np.array(as_words(np.atleast_1d(np.asarray(site))), dtype=str)
    if place.shape != (len(x),):
        raise InputError(expected=f"{len(x)} sites", found=f"{place.size}", where=f"{WHERE}: site", remedy="Give one a subject.")
    known: BoolArray = np.asarray(np.isfinite(x).any(axis=0))
    kept = Coding.of(covariates).matrix(covariates, len(x))
    rows: BoolArray = np.asarray(np.isfinite(x).any(axis=1) & (place != "") & np.isfinite(kept).all(axis=1))
    names, sizes = np.unique(place[rows], return_counts=True)
    rows &= np.isin(place, names[sizes >= FEWEST])
    names, code = np.unique(place[rows], return_inverse=True)
    smallest = int(np.bincount(code.ravel()).min()) if len(names) else 0
    number = min(MOST_FOLDS, smallest) if folds is None else folds
    if len(names) < 2 or smallest < number or number < 2:
        found = f"{len(names)} sites of {FEWEST} people or more with values, the smallest of {smallest}, and {number} folds"
        remedy = "Use fewer folds." if number > 2 and len(names) > 1 else "Add people, or leave the sites out of the analysis."
        raise NotEnoughError(expected="two sites or more, of at least as many subjects as folds", found=found, where=WHERE, remedy=remedy)
    chosen = x[np.ix_(rows, known)]
    filled = np.where(np.isfinite(chosen), chosen, np.nanmedian(chosen, axis=0)) if np.isfinite(chosen).any(axis=0).all() else np.nan_to_num(chosen)
    where = np.cumsum(known) - 1
    parts = [np.flatnonzero(known)] if blocks is None else [np.asarray(b, np.intp)[known[np.asarray(b, np.intp)]] for b in blocks]
    given = None if covariates is None else {name: np.asarray(column)[rows] for name, column in covariates.items()}
    group = np.full(int(rows.sum()), "") if strata is None else np.array(as_words(strata), dtype=str)[rows]
    together = tuple(where[part] for part in parts if len(part))
    return _People(filled, code.ravel().astype(np.int64), given, together, harmonise), group, int((~rows).sum()), number


def _within(strata: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Order of people in which each stands in the place of one of the same stratum."""
    out = np.arange(len(strata))
    for word in np.unique(strata):
        mine = np.flatnonzero(strata == word)
        out[mine] = rng.permutation(mine)
    return out


def _deal(site: IntArray, number: int, rng: np.random.Generator) -> IntArray:
    """Fold of each person: the people of each site are shared out evenly."""
    out = np.empty(len(site), np.int64)
    for s in np.unique(site):
        mine = rng.permutation(np.flatnonzero(site == s))
        out[mine] = (np.arange(len(mine)) + rng.integers(number)) % number
    return out


def _accuracy(people: _People, sites: IntArray, number: int, rng: np.random.Generator) -> FloatArray:
    """Balanced accuracy (assignment,) for sites (assignment, subject); folds are those of the first assignment."""
    count = int(sites.max()) + 1
    fold = _deal(sites[0], number, rng)
    told = np.empty(sites.shape, np.int64)
    for k in range(number):
        test = fold == k
        x = _without_sites(people, sites[0], test) if people.harmonise else people.x
        told[:, test] = _assign(x, sites, test, count)
    hit = told == sites
    out: FloatArray = np.mean([(hit & (sites == s)).sum(axis=1) / (sites == s).sum(axis=1) for s in range(count)], axis=0)
    return out


def _without_sites(people: _People, site: IntArray, test: BoolArray) -> FloatArray:
    """Values with the shifts and scales of the training part's sites removed from everybody, and with them what the covariates explain."""
    out, words = people.x.copy(), site.astype(str)
    given = people.covariates
    learning = None if given is None else {name: column[~test] for name, column in given.items()}
    for block in people.blocks:
        try:
            model = learn(people.x[np.ix_(~test, block)], words[~test], learning).model
            done = apply(model, people.x[:, block], words, given) - model.coding.matrix(given, len(words)) @ model.effects
        except CohortError as error:
            raise NotEnoughError(
                expected="covariates that every part of the cross-validation can tell from site", found=error.found, where=WHERE,
                remedy="Keep fewer covariates in analysis.harmonise.keep, or join small sites.",
            ) from error  # fmt: skip
        out[:, block] = np.where(np.isfinite(done), done, people.x[:, block])
    return out


def _assign(x: FloatArray, sites: IntArray, test: BoolArray, count: int) -> IntArray:
    """Site (assignment, held-out subject) with the nearest mean of the training part."""
    centre, spread = x[~test].mean(axis=0), x[~test].std(axis=0)
    z = (x - centre) / np.where(spread > 0, spread, np.inf)
    train, held = z[~test], z[test]
    n, features = train.shape
    member = (sites[:, ~test][..., None] == np.arange(count)).astype(float)
    member = (member / np.maximum(member.sum(axis=1, keepdims=True), 1)).transpose(1, 0, 2).reshape(n, -1)  # (training subject, assignment and site)
    means = train.T @ member
    if features <= n:
        solved = np.linalg.solve(train.T @ train / n + np.eye(features), means)
    else:
        solved = train.T @ np.linalg.solve(train @ train.T / n + np.eye(n), member)
    score = (held @ solved - (means * solved).sum(axis=0) / 2).reshape(len(held), len(sites), count).transpose(1, 0, 2)
    out: IntArray = score.argmax(axis=2)
    return out
