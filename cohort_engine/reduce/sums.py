"""What a level of one image adds to the linear estimators: its sums, and the estimate of any levels and regions from them.

A level range, a union or a sum of tracts that nobody thought of when the image was at hand is estimated from a few hundred numbers of each level as
if the image were still there. Plain arrays in, plain arrays out; the level axis is the last but those of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce import linear
from cohort_engine.reduce.linear import FloatArray, Members, Moments, indicator
from cohort_engine.reduce.moved import Moves, Part, Seen, seen
from cohort_engine.reduce.neighbours import likeness
from cohort_engine.reduce.precision import noise_of

VECTORS = ("w", "wy", "wyy", "size", "square", "seen", "held")
SCALARS = ("yy", "count")
MATRICES = ("gram", "shared")
NEXT = 0.5
"""How alike two levels are in what their voxels share, however far apart: errors of tracts and unions in simulated cords (seed 1) are alike by 0.3 to
0.7 in levels one to four apart, since a map is off in its outline and in the size of the inside from end to end."""


@dataclass(frozen=True, eq=False)
class LevelSums:
    """Sums of each level of an image, or of many images (leading axes).

    Attributes
    ----------
    w, wy, wyy : (..., level, label)
        As in `Moments`, over the voxels that have a value.
    size : (..., level, label)
        Weight in all voxels, those without a value too.
    square : (..., level, label)
        Sum of ``w r^2``, r being what the level's own mixture and what is seen of how the atlas lies off (`reduce.moved`) leave of a voxel.
    seen, held : (..., level, label)
        Template weight that lies in the image, and all of it.
    yy, count : (..., level)
        Sum of ``y^2``, and number, of the voxels that any label touches.
    gram : (..., level, label, label)
        Sum of ``w_k w_l``.
    shared : (..., level, label, label)
        What voxels have in common of the error of ``wy``, as a second moment, in the square of the metric's unit: sum over pairs of neighbouring
        voxels, both ways round, of ``w_k w_l`` times their noises times how alike residuals are; and what an atlas that lies off adds.
    errors : (..., level, label, label), optional
        Sum of ``se^2 w_k w_l`` over the voxels that have a value, of a metric with standard errors; with weights q of `reduce.precision`, of
        ``q^2 se^2 w_k w_l``. All other sums count a voxel q times.
    """

    w: FloatArray
    wy: FloatArray
    wyy: FloatArray
    size: FloatArray
    square: FloatArray
    seen: FloatArray
    held: FloatArray
    yy: FloatArray
    count: FloatArray
    gram: FloatArray
    shared: FloatArray
    errors: FloatArray | None = None

    @classmethod
    def of(
        cls, values: FloatArray, weights: FloatArray, level: NDArray[np.integer[Any]], reach: FloatArray, levels: Sequence[int], clusters: Members,
        *, places: NDArray[np.integer[Any]] | None = None, prior: bool = True, se: FloatArray | None = None, precision: FloatArray | None = None,
        moves: Moves | None = None,
    ) -> LevelSums:  # fmt: skip
        """Sum one image, level by level.

        Parameters
        ----------
        values : (voxel,) float
            NaN where the metric has no value: the voxel then has no weight.
        weights : (label, voxel) float, 0 to 1
        level : (voxel,) int
            Level number of each voxel.
        reach : (2, level, label) float
            Weight of the label in each of `levels` that lies in the image, and all of it.
        levels : sequence of int
        clusters : sequence of tuples of labels
        places : (voxel, 3) int, optional
            Index of each voxel in the image, slices along the last axis: `shared` is that of the whole image. Without, voxels count as independent.
        prior : bool
            Whether residuals are those of ``map``, rather than of ``ml``.
        se : (voxel,) float, optional
            Standard error of each value.
        precision : (voxel,) float, optional
            How often each voxel counts, see `reduce.precision.precision`.
        moves : Moves, optional
            How the atlas may lie off (`moved.moves_of`), of an image whose `places` are known; without, it lies where it should.

        Examples
        --------
        >>> w, y, level = np.array([[1.0, 0.5, 1.0]]), np.array([40.0, 10.0, 20.0]), np.array([2, 2, 3])
        >>> sums = LevelSums.of(y, w, level, np.ones((2, 2, 1)), [2, 3], [(0,)])
        >>> sums.wy.tolist(), sums.gram.ravel().tolist()
        ([[45.0], [20.0]], [1.25, 1.0])
        """
        n = len(weights)
        shapes: dict[str, tuple[int, ...]] = {**dict.fromkeys(VECTORS, (n,)), **dict.fromkeys(SCALARS, ()), **dict.fromkeys(MATRICES, (n, n))}
        out: dict[str, FloatArray] = {k: np.zeros((len(levels), *shape)) for k, shape in shapes.items()}
        out["seen"], out["held"] = (np.asarray(r, np.float64) for r in reach)
        valid = np.isfinite(values)
        errors = None if se is None else np.zeros((len(levels), n, n))
        counted = np.ones(len(values)) if precision is None else np.where(valid, precision, 0.0)
        weighted, model, touched = weights * np.sqrt(counted), np.full(len(values), np.nan), np.asarray((weights > 0).any(axis=0))
        rows, parts = [], []
        for i, number in enumerate(levels):
            here = level == number
            out["size"][i] = weights[:, here].sum(axis=1)
            some = np.flatnonzero(here & valid)
            if not len(some):
                continue
            w = weights[:, some]
            moments = Moments.of(w, values[some], None if precision is None else counted[some])
            for name in ("w", "wy", "wyy", "yy", "count", "gram"):
                out[name][i] = getattr(moments, name)
            if precision is not None:  # coverage stays a share of voxels
                held = w.sum(axis=1)
                out["size"][i] *= np.divide(moments.w, held, out=np.ones_like(held), where=held > 0)
            if errors is not None and se is not None:
                errors[i] = (w * (counted[some] * se[some]) ** 2) @ w.T
            known, here, some = linear.labels_by(moments.gram, clusters, prior=prior), here & touched, some[touched[some]]
            model[here], root = known @ moments.wy @ weights[:, here], np.sqrt(counted[some])
            rows.append(i)
            parts.append(Part(some, weighted[:, some], root * (values[some] - model[some]), known, root))
        found = [Seen(p.residual, 0.0, np.zeros((n, n))) for p in parts] if moves is None or places is None else seen(moves, model, places, parts)
        noise, residual, placed = np.zeros(len(values)), np.zeros(len(values)), np.full(len(values), -1)
        for i, part, of in zip(rows, parts, found, strict=True):
            count, free = float(out["count"][i]), part.free
            more = free / (free - of.used) if free - of.used > 1 else 1.0
            out["square"][i], out["shared"][i] = more * (weights[:, part.voxels] @ of.left**2), of.second
            placed[part.voxels], residual[part.voxels] = i, of.left
            noise[part.voxels] = linear.voxel_noise(of.left, part.weights) * np.sqrt(more * count / free if free > 0.5 else 1.0)
        residual = np.divide(residual, noise, out=np.zeros_like(residual), where=noise > 0)
        there = np.flatnonzero(placed >= 0)
        tissues = linear.indicator(linear.complete(clusters, n), n).T @ weights[:, there]
        tissues = np.divide(tissues, tissues.sum(axis=0), out=np.zeros_like(tissues), where=tissues.sum(axis=0) > 0)
        for first, second, alike in likeness(residual[there], places[there], tissues, placed[there]) if places is not None and len(there) else ():
            a, b = there[first], there[second]
            for i in np.unique(placed[a]):
                some = placed[a] == i
                product = (weighted[:, a[some]] * (alike[some] * noise[a[some]] * noise[b[some]])) @ weighted[:, b[some]].T
                out["shared"][i] += product + product.T
        return cls(**out, errors=errors)

    @property
    def moments(self) -> Moments:
        """Sums of each level, (..., level, ...)."""
        return Moments(self.w, self.wy, self.wyy, self.gram, self.yy, self.count)

    def at(self, where: Any) -> LevelSums:
        """Index the level axis: some levels, or ``[:, None]`` for each by itself."""
        out = {n: getattr(self, n)[..., where, :] for n in VECTORS} | {n: getattr(self, n)[..., where] for n in SCALARS}
        errors = None if self.errors is None else self.errors[..., where, :, :]
        return LevelSums(**out, **{n: getattr(self, n)[..., where, :, :] for n in MATRICES}, errors=errors)

    def without(self, some: LevelSums) -> LevelSums:
        """Take away the sums of some of the voxels: what the others say.

        Sums of residuals are of fits to other voxels, so that the values hold, and their standard errors are an approximation.

        Examples
        --------
        >>> w, y, level = np.array([[1.0, 0.5, 1.0]]), np.array([40.0, 10.0, 20.0]), np.array([2, 2, 2])
        >>> whole, some = (LevelSums.of(y[i], w[:, i], level[i], np.ones((2, 1, 1)), [2], [(0,)]) for i in ([0, 1, 2], [1]))
        >>> whole.without(some).wy.tolist()
        [[60.0]]
        """
        less = ("w", "wy", "wyy", "size", "square", "yy", "count", "gram")
        return replace(self, **{n: np.maximum(getattr(self, n) - getattr(some, n), 0.0 if n in ("w", "size", "square") else -np.inf) for n in less})

    # --- as a store holds them ---
    def pack(self) -> FloatArray:
        """Lay them out as a store holds them: (..., level, sum)."""
        rows, columns = np.triu_indices(self.w.shape[-1])
        parts = [*(getattr(self, n) for n in VECTORS), *(getattr(self, n)[..., None] for n in SCALARS)]
        return np.concatenate([*parts, *(getattr(self, n)[..., rows, columns] for n in MATRICES)], axis=-1)

    def pack_errors(self) -> FloatArray:
        """Lay `errors` out as a store holds them: (..., level, pair); NaN without any."""
        rows, columns = np.triu_indices(self.w.shape[-1])
        return np.full((*self.w.shape[:-1], len(rows)), np.nan) if self.errors is None else self.errors[..., rows, columns]

    @classmethod
    def unpack(cls, packed: FloatArray, labels: int, errors: FloatArray | None = None) -> LevelSums:
        """Read what `pack` gave, and `pack_errors`.

        Examples
        --------
        >>> w = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
        >>> sums = LevelSums.of(np.array([4.0, 3.0, 2.0]), w, np.full(3, 2), np.ones((2, 1, 2)), [2], [(0, 1)])
        >>> again = LevelSums.unpack(sums.pack(), labels=2)
        >>> np.array_equal(again.gram, sums.gram), np.array_equal(again.held, sums.held), sums.pack().shape
        (True, True, (1, 22))
        """
        rows, columns = np.triu_indices(labels)
        pairs = len(rows)
        ends = np.cumsum([*[labels] * len(VECTORS), *[1] * len(SCALARS), *[pairs] * len(MATRICES)])[:-1]
        parts = dict(zip((*VECTORS, *SCALARS, *MATRICES), np.split(packed, ends, axis=-1), strict=True))
        parts |= {name: parts[name][..., 0] for name in SCALARS}

        def square(pairs: FloatArray) -> FloatArray:
            out = np.zeros((*packed.shape[:-1], labels, labels))
            out[..., rows, columns] = out[..., columns, rows] = pairs
            return out

        parts |= {name: square(parts[name]) for name in MATRICES}
        return cls(**parts, errors=None if errors is None else square(errors))


def combine(sums: LevelSums, regions: Members, clusters: Members, *, prior: bool) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray | None]:
    """Fit the mixture level by level, and average over the levels by how much of a region each holds.

    One fit to all levels at once is the other way, that of SCT. On simulated cords the mean of the fits is closer to the truth, since each level's
    small tracts are held back by their tissue there (``tests/benchmarks/test_native_space.py`` prints both).

    Parameters
    ----------
    sums : LevelSums
        Of the levels that are pooled; one level is itself.
    regions, clusters, prior : as in `linear.coefficients`

    Returns
    -------
    value, spread, se : (..., region) arrays
        Missing: NaN where no level determines the region. Levels in which it has no voxel do not count.
    noise : (..., region) array, or None
        What the errors of the voxels alone give, where the sums have them.

    Formula
        ``value = sum_l s_l u_l'W_l y_l``: u_l the coefficients of level l, s_l its share of the region's volume. With ``c_l = s_l u_l`` and K what
        voxels share, the standard error is that of `linear.standard_error`, the levels counted together::

            se^2 = sum_l noise_l c_l'G_l c_l + sum_lm r_lm (c_l'K_l c_l c_m'K_m c_m)^(1/2)
                   + (sum_l (G_l c_l - t_l)'b0_l)^2 + spread |sum_l (G_l c_l - t_l)|^2

        What voxels share, levels share in part: a template map that is off in one is likely off in the next. r is 1 within a level, and `NEXT`
        between two. A negative ``c'Kc`` counts
        as 0. Noise is the mean square residual of the region's voxels; `spread` the mean of the levels', by s_l.
    """
    join = indicator(regions, sums.w.shape[-1])
    fitted = linear.fit(sums.moments, regions, clusters, prior=prior)
    n = sums.w @ join
    known = np.isfinite(fitted.value) & (n > 0)
    held = np.where(known[..., None], sums.held[..., None, :] * join.T, 0.0)
    target = _divide(held, held.sum(axis=(-3, -1), keepdims=True))
    share = target.sum(axis=-1)
    c = share[..., None] * np.nan_to_num(fitted.coefficients)
    noise = _divide(sums.square @ join, n) * fitted.inflation[..., None]

    reached = c @ sums.gram
    astray = reached - target
    single = np.where(known, noise * (reached * c).sum(axis=-1), 0.0).sum(axis=-2)
    shared = np.where(known, ((c @ sums.shared) * c).sum(axis=-1), 0.0)
    bias = (astray * fitted.tissues[..., None, :]).sum(axis=(-3, -1))
    spread = (share * np.asarray(fitted.spread)[..., None]).sum(axis=-2)
    own = np.maximum(shared, 0)
    variance = (
        single + NEXT * np.sqrt(own).sum(axis=-2) ** 2 + (1 - NEXT) * own.sum(axis=-2) + bias**2 + spread * (astray.sum(axis=-3) ** 2).sum(axis=-1)
    )

    nothing = ~known.any(axis=-2)
    value = (np.nan_to_num(fitted.value) * share).sum(axis=-2)
    about = np.where(known, noise * share, 0.0).sum(axis=-2)
    value, about, error = (np.where(nothing, np.nan, a) for a in (value, np.sqrt(about), np.sqrt(np.maximum(variance, 0))))
    if sums.errors is None:
        return value, about, error, None
    measured = np.where(known, noise_of(c, sums.errors) ** 2, 0.0).sum(axis=-2)
    return value, about, error, np.where(nothing, np.nan, np.sqrt(measured))


def pooled_cells(sums: LevelSums, regions: Members, clusters: Members, kernel: Any, *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
    """Estimate regions over the levels of an image, all pooled.

    Parameters
    ----------
    sums : LevelSums
        Of these levels.
    regions, clusters : sequences of tuples of labels
    kernel : Estimator
        One that is `summed`.
    min_coverage : float
        A cell with less of its region in the data is NaN, 0 to 1.

    Returns
    -------
    dict of (..., region) float32 arrays
        ``value`` and the companions of the estimator. Coverage is the share of the region's levels that lies in the image, times the share of it that
        has a value; ``std`` is about the weighted average.
    """
    join = indicator(regions, sums.w.shape[-1])
    n, size, wy, wyy, seen, held = ((getattr(sums, k) @ join).sum(axis=-2) for k in ("w", "size", "wy", "wyy", "seen", "held"))
    n = np.maximum(n, 0.0)
    coverage = np.minimum(_divide(n, size), 1.0) * _divide(seen, held)  # of interpolated weights some are below 0
    low = (coverage < min_coverage) | (coverage <= 0)
    found = kernel.of_sums(sums, regions, clusters)
    mean = _divide(wy, n)
    rest = {schema.VALUE: found.value, schema.STD: np.sqrt(np.maximum(_divide(wyy, n) - mean**2, 0)), schema.SE: found.se}
    rest |= {} if found.noise is None else {schema.NOISE: found.noise}
    out = {schema.N: n, schema.COVERAGE: coverage} | {k: np.where(low, np.nan, v) for k, v in rest.items()}
    return {key: out[key].astype(np.float32) for key in (schema.VALUE, *kernel.companions, *({schema.NOISE} & out.keys()))}


def _divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """Divide; 0 where there is nothing to divide by."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)
