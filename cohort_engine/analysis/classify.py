"""Several markers at once: logistic regression that tells two groups apart, judged on people it was not learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import t

from cohort_engine.analysis.arrays import COLLINEAR, MAX_MISSING, BoolArray, FloatArray, IntArray, basis, enough, tally, two_groups, varies
from cohort_engine.analysis.covariates import Coding, Covariates, as_table, as_words
from cohort_engine.analysis.harmonise import SMALLEST, apply, learn
from cohort_engine.analysis.roc import auc
from cohort_engine.errors import InputError, NotEnoughError, UnknownNameError

WHERE = "classifier"
GRID = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, one over the weight of the penalty, of which the inner folds choose."""
NEWTON, HALVINGS = 50, 30
"""Most steps of a fit, and of how often one is halved."""
LEFT_OUT = -1
FEWEST = 2
"""Members of either group that a training part needs: inner folds must leave one of them."""

Words = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """What a classifier says of people it was not learnt from.

    Attributes
    ----------
    score : (subject)
        High in group 1: the logit without its constant, in standard deviations of the training part's; mean over repeats. NaN: left out.
    probability : (subject)
        Of group 1, at the training part's share of it; mean over repeats. NaN: left out.
    fold : (repeat, subject) int
        The fold in which a subject was held out; -1: left out.
    fold_auc : (repeat, fold)
        NaN where a fold holds out one group only.
    auc, se, low, high : float
        Area under the ROC curve of `score`, DeLong's standard error, and the interval: see Notes.
    p : float
        One-sided, by permutation of the groups; NaN without.
    coefficients : (repeat, fold, feature)
        Change of the logit with one standard deviation of a feature.
    mean_coefficient, sign_stability : (feature)
        Mean over all fits, and the share of fits with the mean's sign.
    strength : (repeat, fold)
        The C that the inner folds chose.
    n : (2) int
        Subjects of group 0 and of group 1.
    warnings : tuple of str
    """

    score: FloatArray
    probability: FloatArray
    fold: IntArray
    fold_auc: FloatArray
    auc: float
    se: float
    low: float
    high: float
    p: float
    coefficients: FloatArray
    mean_coefficient: FloatArray
    sign_stability: FloatArray
    strength: FloatArray
    n: IntArray
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _People:
    """Rows that take part: values (row, feature), whether in group 1, number of the unit that is never split, site, covariates."""

    x: FloatArray
    one: BoolArray
    unit: IntArray
    site: Words | None
    covariates: Mapping[str, NDArray[Any]] | None


@dataclass(frozen=True, eq=False)
class _Fit:
    """One model on its held-out part: score, logit and strength, and the coefficients (feature)."""

    score: FloatArray
    logit: FloatArray
    coefficients: FloatArray
    strength: float


def cross_validate(
    values: ArrayLike, group: ArrayLike, *, folds: int | None = 5, fold_by: ArrayLike | None = None, site: ArrayLike | None = None,
    covariates: Covariates | None = None, repeats: int = 1, grid: Sequence[float] = GRID, inner: int = 5, max_missing: float = MAX_MISSING,
    confidence: float = 0.95, permutations: int = 0, seed: int = 0,
) -> CrossValidated:  # fmt: skip
    """Judge a classifier of several markers by cross-validation.

    Parameters
    ----------
    values : (subject, feature)
        Any units. Missing: NaN; a gap gets the median of the training part, and a subject without any value is left out.
    group : (subject)
        0, 1, or NaN for neither.
    folds : int or None
        Held-out parts, with the groups (and the groups at each site) shared out evenly. None: one for each label of `fold_by`.
    fold_by : (subject), optional
        Labels that are never split: person, where a person has several rows, or site, for what a new site would give. Inner folds keep them, too.
    site : (subject), optional
        Given, ComBat (`harmonise.learn`) is fitted inside each training part and applied to the held-out one.
    covariates : mapping of name to (subject), optional
        What harmonisation keeps. What gives the diagnosis is refused.
    repeats : int
        How often the folds are dealt anew.
    grid : sequence of float
        Values of C, one over the weight of the L2 penalty. The smallest mean deviance over inner folds of the training part decides; a single one
        needs none.
    inner : int
        Inner folds; fewer where the smaller group is smaller.
    max_missing : float
        Largest share of either group in which a feature may be missing.
    confidence : float
    permutations : int
        How often the groups are dealt out by chance (within sites, where there are some) and everything is done again, the choice of the penalty and
        the harmonisation, too; 0 for no p, and an interval that takes the scores for given.
    seed : int

    Returns
    -------
    CrossValidated
        Missing: a subject without group, label, site or covariate is left out, and counted in `warnings`.

    Raises
    ------
    InputError
        Fewer than three subjects in a group, fewer than folds, a feature that is constant or mostly missing, sites of one group each, sites or
        labels that leave a training part without what it needs, covariates that give the group, other lengths, infinite values.

    Notes
    -----
    Median, then mean and standard deviation, then logistic regression, each learnt from the training part alone. C is chosen on values that were
    harmonised with the whole training part: this uses no diagnosis.

    Score. A training part without the people who do not fit is surer of itself: these get large logits of the wrong sign, the others small ones of
    the right sign. A constant learnt without a person speaks against that person, too. Pooled probabilities therefore say less than chance: over 150
    studies without effect, of 30 and 15 subjects, their mean area is 0.459 (standard error 0.009), that of `score` 0.491 (0.010). Ranks within folds
    give 0.491, vary more (standard deviation 0.132 for 0.123), and need both groups in each fold, which folds by site may not have.

    Interval. DeLong's takes the scores as given, not as learnt from the same people. For 95 % promised it holds 0.5 in 85 % of these studies; with
    an area of 0.72 it holds that of the folds' models in 93 %. With permutations the interval has the areas a for which
    ``|logit(auc) - logit(a)| <= t s(a)``, t being Student's for the people less two, and s the spread of areas of chance at 0.5 and DeLong's error
    far from it, mixed by ``(1 - |2 a - 1|)^2``: it leaves 0.5 out where chance does not reach the area. How often it holds the area of the folds'
    models is in ``tests/benchmarks/test_analysis.py``.

    Harmonisation does not know the diagnosis. Kept in the training part and not used for the held-out one, it would still leak: where the difference
    of the groups is overrated by chance, the site with more patients is corrected too little, and its held-out people look like patients, which most
    of them are. At two sites of 20, 80 and 20 % of them patients, with a site effect and none of the disease, the mean area would be 0.54 (standard
    error 0.01). Without `site` it is 0.79, as it is 0.49. The price: what of the groups' difference goes with site is taken away. With an effect the
    area is 0.70, where keeping the diagnosis gives 0.81. ``tests/benchmarks/test_analysis.py`` prints these figures.

    References
    ----------
    Pooled and averaged areas: Airola et al., Comput. Stat. Data Anal. 55 (2011), doi:10.1016/j.csda.2010.11.018. Intervals after cross-validation:
    Bates et al., J. Am. Stat. Assoc. 119 (2024), doi:10.1080/01621459.2023.2197686.

    Examples
    --------
    >>> group = np.repeat([0, 1], [30, 15])
    >>> values = np.random.default_rng(0).normal(size=(45, 3)) + [2, 1, 0] * group[:, None]
    >>> found = cross_validate(values, group)
    >>> round(found.auc, 2), found.sign_stability.round(1).tolist()[:2], found.n.tolist()
    (0.87, [1.0, 1.0], [30, 15])
    """
    people, rows, notes = _people(values, group, fold_by, site, covariates, max_missing)
    if site is None and covariates:
        raise InputError(
            expected="sites with the covariates", found="covariates alone", where=f"{WHERE}: covariates",
            remedy="Harmonisation keeps covariates: give site. To classify by a covariate, make it a column of the values.",
        )  # fmt: skip
    strengths = sorted({float(c) for c in grid})
    if not strengths or not all(0 < c < np.inf for c in strengths) or inner < 2 or repeats < 1:
        found = f"grid {strengths}, {inner} inner folds, {repeats} repeats"
        raise InputError(expected="a grid above 0, two inner folds, one repeat, or more", found=found, where=WHERE, remedy="Correct the call.")
    number = _number_of_folds(people, folds, whole=fold_by is not None)
    n, features = people.x.shape
    score, probability = np.zeros(n), np.zeros(n)
    fold, chosen = np.full((repeats, len(rows)), LEFT_OUT, np.int64), np.empty((repeats, number))
    coefficients = np.empty((repeats, number, features))
    fold_auc = np.empty((repeats, number))
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        part = _deal(_strata(people), people.unit, number, rng)
        _check_parts(people, part, number)
        this = np.empty(n)
        for k in range(number):
            fit = _fit(people, part == k, strengths, inner, rng, notes)
            this[part == k] = fit.score
            probability[part == k] += expit(fit.logit) / repeats
            coefficients[repeat, k], chosen[repeat, k] = fit.coefficients, fit.strength
        score += this / repeats
        fold[repeat, rows] = part
        each = np.where(part[:, None] == np.arange(number), this[:, None], np.nan)
        fold_auc[repeat] = auc(each, people.one, max_missing=1.0).auc
    if np.isnan(fold_auc).any():
        notes.append(f"{np.isnan(fold_auc).sum()} of {fold_auc.size} folds hold out one group only: no area of their own")
    area = auc(score[:, None], people.one, confidence=confidence)
    chance = _by_chance(people, number, strengths, inner, permutations, seed)
    value, low, high, p = float(area.auc[0]), float(area.low[0]), float(area.high[0]), np.nan
    if len(chance):
        p = (1 + np.sum(chance[:, 0] >= value)) / (1 + len(chance))
        if 0 < value < 1:
            low, high = _interval(value, float(area.se[0]), chance[:, 0], n, confidence)
    mean = coefficients.mean(axis=(0, 1))
    whole = np.full((2, len(rows)), np.nan)
    whole[:, rows] = score, probability
    return CrossValidated(
        whole[0], whole[1], fold, fold_auc, value, float(area.se[0]), low, high, float(p), coefficients, mean,
        (np.sign(coefficients) == np.sign(mean)).mean(axis=(0, 1)), chosen, area.n[:, 0], tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _by_chance(people: _People, number: int, grid: list[float], inner: int, permutations: int, seed: int) -> FloatArray:
    """Area and its standard error (permutation, 2) of people whose groups are dealt out by chance.

    Groups are dealt within each site; where units are whole and of one group each, units are dealt.
    """
    out = []
    whole = len(np.unique(people.unit)) < len(people.unit)
    pure = whole and all(len(np.unique(people.one[people.unit == u])) == 1 for u in np.unique(people.unit))
    within = people.site if people.site is not None else people.unit if whole and not pure else np.zeros(len(people.one), int)
    for turn in range(permutations):
        rng = np.random.default_rng([seed, turn, 1])
        one = people.one.copy()
        if pure:
            units = np.unique(people.unit)
            first = np.array([people.one[people.unit == u][0] for u in units])
            one = rng.permutation(first)[np.searchsorted(units, people.unit)]
        else:
            for label in np.unique(within):
                at = np.flatnonzero(within == label)
                one[at] = rng.permutation(one[at])
        dealt = replace(people, one=one)
        part = _deal(_strata(dealt), dealt.unit, number, rng)
        score = np.empty(len(one))
        try:
            _check_parts(dealt, part, number)
            for k in range(number):
                score[part == k] = _fit(dealt, part == k, grid, inner, rng, []).score
        except InputError:  # a deal that leaves a training part without one of the groups
            continue
        area = auc(score[:, None], one)
        out.append((area.auc[0], area.se[0]))
    return np.array(out).reshape(-1, 2)


def _interval(value: float, se: float, chance: FloatArray, people: int, confidence: float) -> tuple[float, float]:
    """Bound the areas that do not contradict the one found: near 0.5 by the spread of areas of chance, far from it by DeLong's error.

    Examples
    --------
    >>> chance = np.array([0.3, 0.4, 0.45, 0.55, 0.6, 0.7])
    >>> [round(v, 2) for v in _interval(0.7, 0.08, chance, 40, 0.95)], [round(v, 2) for v in _interval(0.9, 0.05, chance, 40, 0.95)]
    ([0.45, 0.84], [0.75, 0.96])
    """
    areas = np.linspace(0, 1, 2001)[1:-1]
    told = se / (value * (1 - value))
    by_chance = max(float(np.sqrt(np.mean(logit(chance.clip(1e-3, 1 - 1e-3)) ** 2))), told)
    spread = told + (by_chance - told) * (1 - np.abs(2 * areas - 1)) ** 2
    possible = areas[np.abs(logit(value) - logit(areas)) <= t.ppf(0.5 + confidence / 2, people - 2) * spread]
    return (float(possible[0]), float(possible[-1])) if len(possible) else (value, value)


def _people(
    values: ArrayLike, group: ArrayLike, fold_by: ArrayLike | None, site: ArrayLike | None, covariates: Covariates | None, max_missing: float
) -> tuple[_People, BoolArray, list[str]]:
    """Rows that take part, which these are (subject), and what to say of the others."""
    x = as_table(values, where=f"{WHERE}: values")
    groups = two_groups(group, len(x), where=f"{WHERE}: group")
    rows: BoolArray = np.asarray(groups.any(axis=0))
    notes: list[str] = []

    def without(missing: BoolArray, what: str) -> None:
        nonlocal rows
        if (lost := rows & missing).any():
            notes.append(f"{lost.sum()} subjects without {what} are left out")
            rows = rows & ~missing

    without(np.asarray(np.isnan(x).all(axis=1)), "any value")
    labels = [None if given is None else _labels(given, len(x), name) for given, name in ((fold_by, "fold_by"), (site, "site"))]
    for words, what in zip(labels, ("a label of fold_by", "a site"), strict=True):
        if words is not None:
            without(words == "", what)
    kept = Coding.of(covariates).matrix(covariates, len(x))
    without(np.asarray(np.isnan(kept).any(axis=1)), "a covariate")

    size = groups[:, rows].sum(axis=1)
    if size.min() <= FEWEST:
        raise NotEnoughError(
            expected=f"{FEWEST + 1} subjects or more in each group", found=f"{size[0]} in group 0 and {size[1]} in group 1 that can be used",
            where=f"{WHERE}: group", remedy="Add people, or give the missing values, sites and covariates of those left out.",
        )  # fmt: skip
    x, groups = x[rows], groups[:, rows]
    _check_features(x, groups, max_missing)
    _check_covariates(kept[rows], groups[1])
    unit = np.arange(len(x)) if labels[0] is None else np.unique(labels[0][rows], return_inverse=True)[1].reshape(-1)
    if len(np.unique(unit)) < len(unit):
        notes.append("rows that share a label of fold_by count as independent in the interval; to judge people, average the score of each")
    place = None if labels[1] is None else labels[1][rows]
    if place is not None:
        _check_sites(place, groups[1], notes)
    chosen = None if covariates is None else {name: np.asarray(column)[rows] for name, column in covariates.items()}
    return _People(x, groups[1], unit, place, chosen), rows, notes


def _labels(given: ArrayLike, subjects: int, name: str) -> Words:
    words = np.array(as_words(np.atleast_1d(np.asarray(given))), dtype=str)
    if words.shape != (subjects,):
        raise InputError(expected=f"{subjects} labels", found=f"{words.size}", where=f"{WHERE}: {name}", remedy="Give one a subject.")
    return words


def _check_features(x: FloatArray, groups: BoolArray, max_missing: float) -> None:
    few = ~enough(groups, tally(x, groups), max_missing)
    for bad, expected, what in (
        (few, f"features known of {1 - max_missing:.0%} of each group or more", "known of fewer"),
        (~varies(x), "features that vary", "constant"),
    ):
        if (at := np.flatnonzero(bad)).size:
            found = f"{at.size} {what}: feature {', '.join(map(str, at[:5]))}" + (" ..." if at.size > 5 else "")
            remedy = f"Leave {'it' if at.size == 1 else 'them'} out" + (", or raise max_missing." if bad is few else ".")
            raise InputError(expected=expected, found=found, where=f"{WHERE}: values", remedy=remedy)


def _check_covariates(kept: FloatArray, one: BoolArray) -> None:
    """Refuse covariates that give the diagnosis: the held-out part's is not known."""
    columns, _ = basis(kept, len(kept), where=f"{WHERE}: covariates")
    y = one.astype(float)
    rest = y - columns @ (columns.T @ y)
    if columns.shape[1] < len(y) and rest @ rest <= COLLINEAR * (y @ y):
        raise InputError(
            expected="covariates that are known before the diagnosis", found="covariates that give the group of each subject",
            where=f"{WHERE}: covariates", remedy="Leave out the diagnosis and what follows from it, such as its subtype.",
        )  # fmt: skip


def _check_sites(place: Words, one: BoolArray, notes: list[str]) -> None:
    names = np.unique(place)
    single = [name for name in names.tolist() if len(np.unique(one[place == name])) == 1]
    if len(single) == len(names):
        raise NotEnoughError(
            expected="sites that have both groups", found=f"{len(names)} sites of one group each", where=f"{WHERE}: site",
            remedy="Site and group cannot be told apart: add people, or leave out site and say that the areas may be those of the scanners.",
        )  # fmt: skip
    if single:
        notes.append(f"sites of one group, whose difference from the others harmonisation takes away: {', '.join(single)}")


def _number_of_folds(people: _People, folds: int | None, *, whole: bool) -> int:
    units = len(np.unique(people.unit))
    number = units if folds is None else folds
    smaller = int(min(people.one.sum(), (~people.one).sum()))
    if folds is None and not whole:
        raise InputError(expected="a number of folds", found="None", where=f"{WHERE}: folds", remedy="Without fold_by, give 5 or 10.")
    if number < 2 or number > units or (not whole and number > smaller):
        have = f"{units} labels of fold_by" if whole else f"{smaller} subjects in the smaller group"
        raise (NotEnoughError if folds is None or folds >= 2 else InputError)(
            expected="two folds or more, and no more than there are subjects or labels to share out", found=f"{number} folds and {have}",
            where=f"{WHERE}: folds", remedy="Use folds=None for one a label, or fewer." if whole else "Use fewer folds, but two, or add people.",
        )  # fmt: skip
    return number


def _strata(people: _People) -> BoolArray:
    """Return what the folds share out evenly (row, stratum): the groups, and the groups at each site."""
    groups = np.stack([~people.one, people.one], axis=1)
    if people.site is None:
        return groups
    sites = people.site[:, None] == np.unique(people.site)
    out = np.concatenate([groups, *(sites & g[:, None] for g in groups.T)], axis=1)
    return np.asarray(out[:, out.any(axis=0)])


def _deal(strata: BoolArray, unit: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    """Fold of each row (row): whole units, large ones first, each to the fold that has least of its strata (row, stratum).

    Shares of strata are used, so that the rare ones weigh most; of equal folds the one with fewest rows, and of these one by chance. Where each row
    is a unit, those of the same strata are dealt out in turn, and the next ones go on from there.

    Examples
    --------
    >>> two = np.array([[True, False]] * 4 + [[False, True]] * 2)
    >>> part = _deal(two, np.arange(6), 2, np.random.default_rng(0))
    >>> np.bincount(part[:4]).tolist(), np.bincount(part[4:]).tolist()
    ([2, 2], [1, 1])
    """
    names, unit = np.unique(unit, return_inverse=True)
    unit = unit.reshape(-1)
    order = rng.permutation(len(names))
    if len(names) == len(unit):
        alike = np.unique(strata, axis=0, return_inverse=True)[1].reshape(-1)
        out = np.empty(len(unit), np.int64)
        out[order[np.argsort(alike[order], kind="stable")]] = rng.permutation(folds)[np.arange(len(unit)) % folds]
        return out
    size = np.bincount(unit)
    content = np.zeros((len(names), strata.shape[1]))
    np.add.at(content, unit, strata / strata.sum(axis=0))
    held, rows, out = np.zeros((folds, strata.shape[1])), np.zeros(folds), np.empty(len(names), np.int64)
    for u in order[np.argsort(-size[order], kind="stable")]:
        crowded = (held @ content[u]).round(12)
        k = np.lexsort((rng.random(folds), rows, crowded))[0]
        out[u] = k
        held[k] += content[u]
        rows[k] += size[u]
    return out[unit]


def _check_parts(people: _People, part: IntArray, number: int) -> None:
    for k in range(number):
        train, test = part != k, part == k
        if min(people.one[train].sum(), (~people.one[train]).sum()) < FEWEST:
            raise NotEnoughError(
                expected=f"{FEWEST} of each group in every training part", found=f"fewer without fold {k}", where=f"{WHERE}: folds",
                remedy="Use more folds, or people of that group under more labels.",
            )  # fmt: skip
        if people.site is None:
            continue
        learnt, size = np.unique(people.site[train], return_counts=True)
        if new := sorted(set(people.site[test].tolist()) - set(learnt.tolist())):
            raise NotEnoughError(
                expected="held-out people of sites that are in the training part", found=f"site {new[0]} wholly in fold {k}", where=f"{WHERE}: site",
                remedy="A site that was not learnt cannot be harmonised: leave out site to see what a new scanner gives, or fold by person.",
            )  # fmt: skip
        if size.min() < SMALLEST:
            raise NotEnoughError(
                expected=f"{SMALLEST} people of each site in every training part", found=f"one of site {learnt[size.argmin()]} without fold {k}",
                where=f"{WHERE}: site", remedy="Leave the site out, or join it to the site of the same scanner.",
            )  # fmt: skip


def _fit(people: _People, test: BoolArray, grid: list[float], inner: int, rng: np.random.Generator, notes: list[str]) -> _Fit:
    """Learn from the training part, and score the held-out one."""
    one, x = people.one[~test], _harmonised(people, test, notes)
    strength = grid[0] if len(grid) == 1 else _choose(x[~test], one, people.unit[~test], grid, inner, rng, notes)
    ready = _standardised(x, ~test)
    found = _logistic(ready[None, ~test], one, np.ones((1, len(one))), np.array([strength]))[0]
    coefficients = found[:-1]
    spread = (ready[~test] @ coefficients).std()
    score = ready[test] @ coefficients
    return _Fit(score / (spread if spread > 0 else 1.0), score + found[-1], coefficients, strength)


def _harmonised(people: _People, test: BoolArray, notes: list[str]) -> FloatArray:
    """Values of everybody with the sites' effects of the training part removed."""
    if people.site is None:
        return people.x
    learning = None if people.covariates is None else {name: column[~test] for name, column in people.covariates.items()}
    model = learn(people.x[~test], people.site[~test], learning).model
    notes.extend(f"harmonisation: {note}" for note in model.warnings)
    try:
        return apply(model, people.x, people.site, people.covariates)
    except UnknownNameError as error:
        raise InputError(
            expected="categories that every training part has", found=f"{error.found} in one fold only", where=f"{WHERE}: covariates",
            remedy="Join rare categories, or leave the covariate out.",
        ) from error  # fmt: skip


def _choose(x: FloatArray, one: BoolArray, unit: IntArray, grid: list[float], inner: int, rng: np.random.Generator, notes: list[str]) -> float:
    """Return the C of the smallest mean deviance over inner folds, of equal ones the smallest."""
    smaller = int(min(one.sum(), (~one).sum()))
    groups = np.stack([~one, one], axis=1)
    number = min(inner, smaller, len(np.unique(unit)))
    part = _deal(groups, unit, number, rng) if number > 1 else np.zeros(len(one), np.int64)
    if any(len(np.unique(one[part != k])) < 2 for k in range(number)):
        notes.append("too few labels of fold_by to choose the penalty between them: chosen between their rows")
        number = min(inner, smaller)
        part = _deal(groups, np.arange(len(one)), number, rng)
    training = part[None] != np.arange(number)[:, None]
    ready = np.stack([_standardised(x, rows) for rows in training])
    fold, strength = np.repeat(np.arange(number), len(grid)), np.tile(grid, number)
    w = _logistic(ready[fold], one, training[fold].astype(float), strength)
    told = np.einsum("fnk,fk->fn", ready[fold], w[:, :-1]) + w[:, -1:]
    each = np.logaddexp(0, -np.where(one, 1.0, -1.0) * told)
    held = ~training[fold]
    deviance = ((each * held).sum(axis=1) / held.sum(axis=1)).reshape(number, len(grid)).sum(axis=0)
    return grid[int(np.argmin(deviance))]


def _standardised(x: FloatArray, training: BoolArray) -> FloatArray:
    """Values (row, feature) of all rows with gaps filled by the median, then standardised, as the training rows have it."""
    known = x[training]
    nobody = np.isnan(known).all(axis=0)
    filled = np.where(np.isnan(x), np.nanmedian(np.where(nobody, 0.0, known), axis=0), x)
    mean, sd = filled[training].mean(axis=0), filled[training].std(axis=0)
    out: FloatArray = (filled - mean) / np.where(sd > 10 * np.finfo(float).eps * np.abs(mean), sd, 1.0)
    return out


def _logistic(x: FloatArray, one: BoolArray, rows: FloatArray, strength: FloatArray) -> FloatArray:
    """Coefficients and constant (fit, feature + 1) of many logistic regressions with an L2 penalty at once, by Newton's method.

    Parameters
    ----------
    x : (fit, row, feature)
    one : (row,)
    rows : (fit, row)
        1 for the rows that a fit learns from, else 0.
    strength : (fit,)
        C: minus the log likelihood times C plus half the squared coefficients is smallest.

    Examples
    --------
    >>> _logistic(np.array([[[-1.0], [0.0], [1.0]]]), np.array([False, True, True]), np.ones((1, 3)), np.ones(1)).round(3).tolist()
    [[0.702, 0.748]]
    """
    fits, n, features = x.shape
    wide = np.concatenate([x, np.ones((fits, n, 1))], axis=2)
    ridge = np.append(np.ones(features), 1e-10)
    target, factor = one.astype(float), strength[:, None]

    def loss(w: FloatArray) -> FloatArray:
        eta = np.einsum("fnk,fk->fn", wide, w)
        out: FloatArray = strength * (rows * (np.logaddexp(0, eta) - target * eta)).sum(axis=1) + (ridge * w * w).sum(axis=1) / 2
        return out

    w = np.zeros((fits, features + 1))
    now = loss(w)
    for _ in range(NEWTON):
        chance = expit(np.einsum("fnk,fk->fn", wide, w))
        gradient = factor * np.einsum("fnk,fn->fk", wide, rows * (chance - target)) + ridge * w
        if np.abs(gradient).max() < 1e-10 * max(1.0, float(strength.max())):
            break
        bend = wide * (factor * rows * chance * (1 - chance))[:, :, None]
        step = np.linalg.solve(wide.transpose(0, 2, 1) @ bend + np.diag(ridge), gradient[..., None])[..., 0]
        size = np.ones(fits)
        for _ in range(HALVINGS):
            then = loss(w - size[:, None] * step)
            worse = then > now + 1e-12 * np.abs(now)
            if not worse.any():
                break
            size[worse] /= 2
        w, now = w - size[:, None] * step, then
    return w
