"""Groups of people that nobody named: k-means on standardised features, whether there are any, how many, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cohort_engine.analysis.arrays import FloatArray, IntArray
from cohort_engine.analysis.covariates import as_table, as_words
from cohort_engine.analysis.groups import false_discovery
from cohort_engine.errors import InputError, NotEnoughError, optional

WHERE = "clusters"
LEFT_OUT = -1
STABLE = 0.6
"""Mean adjusted Rand index under resampling from which on a number of clusters is taken seriously."""
STARTS = 10
SURE = 0.05
"""p of one single group above which people are taken for one."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """People in clusters.

    Attributes
    ----------
    labels : (subject) int
        0, 1, ... in the order of the first feature's mean; -1: left out, because a feature is missing.
    k : int
        1: there is nothing to say that the people are more than one group.
    candidates : (candidate) int
        Numbers of clusters that were tried.
    silhouette : (candidate)
        Mean silhouette width, -1 to 1.
    stability : (candidate)
        Mean adjusted Rand index of the clusters of bootstrap samples with those of everybody, 1 being the same.
    p_one_group : float
        How often people of one group (normal, with the covariance of these) reach the largest silhouette of the candidates; NaN without any.
    coordinates : (subject, component)
        First principal components of the standardised features; NaN where left out. A component's largest weight is positive.
    explained : (component)
        Part of the variance.
    weights : (component, feature)
    n, n_left_out : int
    warnings : tuple of str
    """

    labels: IntArray
    k: int
    candidates: IntArray
    silhouette: FloatArray
    stability: FloatArray
    p_one_group: float
    coordinates: FloatArray
    explained: FloatArray
    weights: FloatArray
    n: int
    n_left_out: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Profiles:
    """Clusters by feature: mean, SD (n - 1) and n (cluster, feature), and Kruskal-Wallis H, p and Benjamini-Hochberg q (feature)."""

    mean: FloatArray
    sd: FloatArray
    n: FloatArray
    h: FloatArray
    p: FloatArray
    q: FloatArray


def cluster(
    values: ArrayLike, *, k: int | None = None, largest: int = 6, least: int = 1, resamples: int = 50, components: int = 2, stable: float = STABLE,
    seed: int = 0,
) -> Clusters:  # fmt: skip
    """Cluster people by k-means.

    Parameters
    ----------
    values : (subject, feature)
        Each feature is standardised. Missing: a person without one of the features is left out; none is made up.
    k : int, optional
        Number of clusters, taken with a warning where they are not stable or may be one. None: one, unless shown otherwise; that is, if people of one
        group would hardly reach the silhouette (p at most `SURE`), and a number of 2 to `largest` is stable: of those whose stability reaches
        `stable` the one of the largest silhouette. Either alone cannot say: halves of one group along its longest axis are stable.
    largest, least, resamples, components, seed : int
        Most clusters to try, people for each that there must be, samples (of people, and of one group; with fewer than 19 nothing can be shown),
        principal components, and the seed of everything random.

    Returns
    -------
    Clusters

    Raises
    ------
    InputError
        Too few people without a missing feature, a constant feature, fewer different people than clusters, a k below 2, infinite values.

    Notes
    -----
    Stability: people are drawn with replacement, clustered, and everybody is given the nearest centre; the adjusted Rand index with the
    clusters of everybody is averaged (after Hennig, Comput. Stat. Data Anal. 52 (2007), doi:10.1016/j.csda.2006.11.025). Silhouette:
    Rousseeuw, J. Comput. Appl. Math. 20 (1987), doi:10.1016/0377-0427(87)90125-7. One group: ``(1 + samples that reach it) / (1 + samples)``, the
    samples drawn from one normal distribution and clustered alike (after Liu et al., J. Am. Stat. Assoc. 103 (2008),
    doi:10.1198/016214508000000454): a skewed group is none. Needs scikit-learn (extra ``analysis``).

    Examples
    --------
    >>> two = np.r_[np.zeros((10, 2)), np.full((10, 2), 8.0)] + np.random.default_rng(0).normal(size=(20, 2))
    >>> out = cluster(two[::-1], resamples=20)
    >>> out.k, out.labels.tolist() == [1] * 10 + [0] * 10
    (2, True)
    """
    with optional("scikit-learn", "analysis", where=WHERE):
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score
        from threadpoolctl import threadpool_limits

    table = as_table(values, where=WHERE)
    whole = np.isfinite(table).all(axis=1)
    kept = table[whole]
    candidates = np.arange(2, largest + 1) if k is None else np.array([k])
    _check(kept, candidates, len(table))
    candidates = candidates if k is not None else candidates[candidates * least <= len(kept)]
    z = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    candidates = candidates[candidates < len(np.unique(z, axis=0))]

    rng = np.random.default_rng(seed)
    draws = [z[rng.integers(0, len(z), len(z))] for _ in range(resamples)]
    spread, shape = np.linalg.eigh(np.cov(z, rowvar=False).reshape(z.shape[1], -1))
    scale = shape * np.sqrt(np.maximum(spread, 0))
    single = [rng.standard_normal(z.shape) @ scale.T for _ in range(resamples)]

    def fit(rows: FloatArray, number: int) -> Any:
        return KMeans(int(number), n_init=STARTS, random_state=seed).fit(rows)

    def silhouettes(rows: FloatArray, labels: Iterable[NDArray[Any]]) -> FloatArray:
        apart = pairwise_distances(rows)
        return np.array([silhouette_score(apart, one, metric="precomputed") for one in labels])

    with threadpool_limits(1):  # threads that wait for a busy core cost more than these small fits
        members, stability = [], []
        for number in candidates:
            mine = fit(z, number)
            others = [fit(drawn, number).predict(z) for drawn in draws if len(np.unique(drawn, axis=0)) >= number]
            members.append(mine.labels_)
            stability.append(float(np.mean([adjusted_rand_score(mine.labels_, other) for other in others])) if others else np.nan)
        silhouette, steady = silhouettes(z, members), np.array(stability)
        alike = (silhouettes(rows, (fit(rows, number).labels_ for number in candidates)) for rows in single if len(candidates))
        reached = sum(one.max() >= silhouette.max() for one in alike)
    p_one = (1 + reached) / (1 + resamples) if len(candidates) else np.nan
    trusted = steady >= stable
    best = int(np.argmax(np.where(trusted, silhouette, -np.inf) if trusted.any() else silhouette)) if len(candidates) else -1
    warnings = []
    if best < 0:
        warnings.append(f"{len(kept)} people are too few to look for subgroups of {least} or more: they are taken for one")
    elif not trusted[best]:
        warnings.append(f"{candidates[best]} clusters are not stable under resampling ({steady[best]:.2f} < {stable:g})")
    if p_one > SURE:
        warnings.append(f"one group of people would give such clusters as well (p {p_one:.2f})")
    one = k is None and bool(warnings)

    pca = PCA(min(components, *z.shape), svd_solver="full").fit(z)
    labels = np.full(len(table), LEFT_OUT, np.int64)
    labels[whole] = 0 if one else _ordered(members[best], kept[:, 0])
    coordinates = np.full((len(table), len(pca.components_)), np.nan)
    coordinates[whole] = pca.transform(z)
    n, number = int(whole.sum()), 1 if one else int(candidates[best])
    return Clusters(
        labels, number, candidates.astype(np.int64), silhouette, steady, p_one, coordinates, pca.explained_variance_ratio_,
        pca.components_, n, len(table) - n, tuple(warnings),
    )  # fmt: skip


def profiles(values: ArrayLike, labels: ArrayLike) -> Profiles:
    """Describe clusters by features, those they were made of or others.

    Parameters
    ----------
    values : (subject, feature)
        Missing: NaN, each feature by the people that have it.
    labels : (subject) int
        Negative: left out.

    Returns
    -------
    Profiles
        NaN with n where a cluster has no value (SD: fewer than two), and for tests with fewer than two clusters or no variance.

    Raises
    ------
    InputError
        No cluster, labels of another length, infinite values.

    Notes
    -----
    The clusters were made to differ in the features they were made of: a small p of such a feature describes, it does not test. q is
    Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995), doi:10.1111/j.2517-6161.1995.tb02031.x, over the features with a p.

    Examples
    --------
    >>> out = profiles([[1.0], [3.0], [7.0], [9.0], [np.nan]], [0, 0, 1, 1, 1])
    >>> out.mean.ravel().tolist(), out.n.ravel().tolist(), out.p.round(3).tolist()
    ([2.0, 8.0], [2.0, 2.0], [0.121])
    """
    table, group = as_table(values, where=WHERE), _labels(labels)
    if len(group) != len(table) or not (group >= 0).any():
        found = f"{len(group)} labels, {(group >= 0).sum()} of them clusters"
        raise InputError(expected=f"{len(table)} labels, one a subject", found=found, where=WHERE, remedy="Give the labels of these subjects.")
    numbers = np.unique(group[group >= 0])
    shape = (len(numbers), table.shape[1])
    mean, sd, n = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    h, p = np.full(shape[1], np.nan), np.full(shape[1], np.nan)
    for f, column in enumerate(table.T):
        parts = [column[(group == number) & np.isfinite(column)] for number in numbers]
        n[:, f] = [len(part) for part in parts]
        mean[:, f] = [part.mean() if len(part) else np.nan for part in parts]
        sd[:, f] = [part.std(ddof=1) if len(part) > 1 else np.nan for part in parts]
        filled = [part for part in parts if len(part)]
        if len(filled) > 1 and np.ptp(np.concatenate(filled)) > 0:
            h[f], p[f] = stats.kruskal(*filled)
    return Profiles(mean, sd, n, h, p, false_discovery(p))


def adjusted_rand(labels: ArrayLike, truth: ArrayLike) -> tuple[float, int]:
    """Compare clusters with known groups by the adjusted Rand index (1 the same, 0 as by chance), and count the people.

    Parameters
    ----------
    labels : (subject) int
        Negative: left out.
    truth : (subject)
        Numbers or words; None, NaN and empty are left out.

    Reference
        Hubert & Arabie, J. Classif. 2 (1985), doi:10.1007/BF01908075.

    Examples
    --------
    >>> adjusted_rand([0, 0, 1, 1, -1], ["b", "b", "a", "a", "a"])
    (1.0, 4)
    """
    with optional("scikit-learn", "analysis", where=WHERE):
        from sklearn.metrics import adjusted_rand_score

    group = _labels(labels)
    known = np.array(as_words(truth), dtype=str)
    if known.shape != group.shape:
        raise InputError(expected=f"{len(group)} known groups", found=f"{len(known)}", where=WHERE, remedy="Give one a subject.")
    both = (group >= 0) & (known != "")
    return (float(adjusted_rand_score(known[both], group[both])) if both.sum() > 1 else np.nan), int(both.sum())


def _check(kept: FloatArray, candidates: IntArray, subjects: int) -> None:
    if not len(candidates) or candidates.min() < 2:
        raise InputError(expected="two clusters or more", found=str(candidates.max(initial=1)), where=WHERE, remedy="Use k of 2 or more.")
    different = len(np.unique(kept, axis=0))
    if different <= candidates.min():
        found = f"{different} different people without a missing feature, of {subjects}"
        raise NotEnoughError(
            expected=f"more than {candidates.min()} people", found=found, where=WHERE, remedy="Leave out the features that many miss."
        )
    constant = np.flatnonzero(np.ptp(kept, axis=0) == 0)
    if len(constant):
        found = f"feature {constant[0]} constant" + (f" and {len(constant) - 1} more" if len(constant) > 1 else "")
        raise InputError(expected="features that vary", found=found, where=WHERE, remedy="Leave it out.")


def _ordered(members: NDArray[np.int32], first: FloatArray) -> IntArray:
    """Clusters numbered by the mean of one feature."""
    means = [first[members == c].mean() for c in range(members.max() + 1)]
    rank = np.argsort(np.argsort(means, kind="stable"))
    return rank[members].astype(np.int64)


def _labels(labels: ArrayLike) -> IntArray:
    group = np.asarray(labels)
    if group.ndim != 1 or group.dtype.kind not in "iu":
        raise InputError(
            expected="labels (subject) of whole numbers", found=f"{group.dtype} {group.shape}", where=WHERE, remedy="Use those of cluster."
        )
    return group.astype(np.int64)
