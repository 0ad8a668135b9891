"""Large motion of the slices of a series, and slices that lost their signal: what must be known before anything is refined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.qmri.correlation import shifted_correlation
from cohort_engine.qmri.slices import View, edges, sample

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
JUMP = 2.0
"""A displacement against the volumes around that counts as a jump, mm."""
OFTEN = 4.5
"""Times the usual displacement between volumes that a jump must exceed as well: a restless person moves all the time."""
SURE = 8.0
"""Log-likelihood by which a volume's place must stand out from places further away than `JUMP`."""
FITS = 0.08
"""A volume whose log-likelihood is less than this part of what others let expect may lie beyond the range."""
VOID = 0.6
"""A slice with less than this part of the signal that its volume and the other volumes predict may have lost it."""
NOTHING = 0.2
"""A volume with less than this part of the signal of others of its contrast has lost it."""
_TINY = 1e-12


def search(view: View, lost: BoolArray, max_shift: float, *, split: bool, begin: FloatArray | None = None) -> tuple[FloatArray, BoolArray]:
    """Displacement (t, z, 2) mm of each volume, or of its odd and even slices, and whether (t, z) it lies at the end of the range or beyond.

    All are compared by the orientation of their edges with one target: the volumes that are most alike, and from `begin` on, all of them.
    """
    nt, nz = lost.shape
    every = edges(view.data, view)
    inner = tuple(slice(m, m + n) for m, n in zip(view.margin, view.weight.shape[1:], strict=True))
    if begin is None:
        windows = every[..., inner[0], inner[1]]
        use = np.where(lost, 0.0, 1.0) * _alike(windows * view.weight[:, None])[:, None]
    else:
        windows = edges(sample(view, begin, np.zeros_like(begin), 1)[0], view)
        use = np.where(lost, 0.0, 1.0)
    target = np.einsum("tz,tzcab->zcab", use.astype(np.float32), windows, optimize=True)
    rho, share = shifted_correlation(target, view.weight, every, view.valid, centred=False)
    total = view.weight.sum((1, 2)) * view.independent
    gain = -0.5 * (total[:, None, None] * share) * np.log1p(-(np.clip(rho, 0, 0.999) ** 2))
    gain[lost] = 0
    tries = [np.arange(-m, m + 1) * s for m, s in zip(view.margin, view.spacing, strict=False)]
    far = np.add.outer(tries[0] ** 2, tries[1] ** 2)
    gain[:, :, far > (max_shift + 1e-6) ** 2] = 0
    cost = far / (2 * max_shift**2)
    votes = np.stack([gain[:, 0::2].sum(1), gain[:, 1::2].sum(1)], 1) if nz > 1 else gain[:, :1]
    whole = votes.sum(1)
    place, best = vote(whole - cost, tries)
    shift, absent = np.repeat(place[:, None], nz, 1), np.repeat(_absent(best, np.median(best))[:, None], nz, 1)
    if split and nz > 3:
        apart, each = vote(votes.reshape(-1, *votes.shape[2:]) - cost, tries)
        apart, each = apart.reshape(nt, 2, 2), each.reshape(nt, 2)
        differ = (each.sum(1) - best > SURE) & (np.linalg.norm(apart[:, 0] - apart[:, 1], axis=-1) > JUMP / 2)
        for parity in (0, 1):
            shift[differ, parity::2] = apart[differ, parity][:, None]
            usual = np.median(each, axis=0)
            like = usual[parity] / max(usual[1 - parity], _TINY) * each[:, 1 - parity]  # what the other half lets expect
            absent[:, parity::2] |= _absent(each[:, parity], like)[:, None]
    ends = np.linalg.norm(shift, axis=-1) > max_shift - float(view.spacing[:2].max())
    return shift - np.median(shift, axis=0), ends | (absent & ~lost)


def _absent(value: FloatArray, expected: FloatArray | np.floating[Any]) -> BoolArray:
    """Whether volumes (t,) fit nowhere in the range, by their log-likelihood and that of others."""
    return np.asarray((value < SURE) & (value < FITS * expected))


def frame_of(view: View, shift: FloatArray, lost: BoolArray) -> FloatArray:
    """Displacement (2,) mm from where the slices lie together to where the region lies, if that is more than they can be confused by.

    The region is that of one image, and after a jump the volumes may meet at another place: the edge of its core is compared with theirs.
    """
    whole = view.margin
    windows = edges(sample(view, shift, np.zeros_like(shift), 1, whole)[0], view)
    together = np.einsum("tz,tzcab->zcab", np.where(lost, np.float32(0), np.float32(1)), windows, optimize=True)
    rho, share = shifted_correlation(edges(view.near, view), view.weight, together, np.ones(together.shape[-2:]), centred=False)
    total = view.weight.sum((1, 2))[:, None, None] * view.independent
    score = (-0.5 * total * share * np.log1p(-(np.clip(rho, 0, 0.999) ** 2))).sum(0)
    tries = [np.arange(-m, m + 1) * s for m, s in zip(whole, view.spacing, strict=False)]
    place, best = vote(score[None], tries)
    clear = best[0] - score[whole[0], whole[1]] > SURE and np.hypot(*place[0]) > JUMP / 2
    return np.asarray(place[0] if clear else np.zeros(2))


def _alike(windows: FloatArray) -> FloatArray:
    """1 for the third of the volumes that are most like the one that is most like all: they lie at one place."""
    flat = windows.reshape(len(windows), -1)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), _TINY)
    near = flat @ flat.T
    middle = near[np.median(near, axis=1).argmax()]
    out = np.zeros(len(flat))
    out[np.argsort(-middle)[: -(-len(flat) // 3)]] = 1
    return out


def vote(score: FloatArray, tries: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Best place (n, 2) mm of each score (n, i, j) and its value; where it does not stand out, neighbours in n are asked too."""
    n = len(score)
    place, value, open_ = np.zeros((n, 2)), np.zeros(n), np.ones(n, bool)
    for radius in (0, 1, 2, 4, 8):
        if not open_.any() or radius >= max(n, 1):
            break
        sums = np.concatenate([np.zeros_like(score[:1], float), np.cumsum(score, 0, dtype=float)])
        low, high = np.maximum(np.arange(n) - radius, 0), np.minimum(np.arange(n) + radius + 1, n)
        group = (sums[high] - sums[low])[open_]
        flat = group.reshape(len(group), -1)
        top = flat.argmax(1)
        i, j = np.unravel_index(top, score.shape[1:])
        at = np.stack([tries[0][i], tries[1][j]], -1)
        far = np.hypot(tries[0][None, :, None] - at[:, 0, None, None], tries[1][None, None, :] - at[:, 1, None, None]) > JUMP
        margin = flat.max(1) - np.where(far, group, -np.inf).reshape(len(group), -1).max(1)
        which = np.flatnonzero(open_)
        place[which] = at + vertex(group, i, j) * [t[1] - t[0] for t in tries]
        value[which] = score[which, i, j]
        open_[which[margin > SURE]] = False
    return place, value


def vertex(score: FloatArray, i: IntArray, j: IntArray) -> FloatArray:
    """Where between voxels the maximum lies: parabolas through its neighbours, voxels (n, 2)."""
    out = np.zeros((len(score), 2))
    rows = np.arange(len(score))
    for a, (here, size) in enumerate(((i, score.shape[1]), (j, score.shape[2]))):
        inner = np.clip(here, 1, size - 2)
        low, mid, high = (score[(rows, inner + k, j) if a == 0 else (rows, i, inner + k)] for k in (-1, 0, 1))
        bend = low - 2 * mid + high
        out[:, a] = np.where((bend < 0) & (inner == here), np.clip(0.5 * (low - high) / np.where(bend < 0, bend, 1), -0.5, 0.5), 0)
    return out


def jumps_of(shift: FloatArray) -> FloatArray:
    """Take the part of a displacement that volumes around do not share, where it is large: the prior expects it."""
    away = shift - _running_median(shift)
    return np.where(np.linalg.norm(away, axis=-1, keepdims=True) > JUMP, away, 0.0)


def steps_of(shift: FloatArray) -> BoolArray:
    """Volumes and slices (t, z) that jump, for a moment or for longer, by more than `JUMP` and than what is usual in the series."""
    usual = _running_median(shift)
    away = _unusual(shift - usual)
    calm = np.where(away[..., None], usual, shift)
    step = np.zeros_like(away)
    step[1:] = _unusual(np.diff(calm, axis=0))
    return np.asarray(away | step)


def _unusual(move: FloatArray) -> BoolArray:
    size = np.linalg.norm(move, axis=-1)
    return np.asarray(size > max(JUMP, OFTEN * float(np.median(size)))) if size.size else np.zeros(size.shape, bool)


def _running_median(values: FloatArray, radius: int = 2) -> FloatArray:
    n = len(values)
    index = np.clip(np.arange(n)[:, None] + np.arange(-radius, radius + 1), 0, n - 1)
    return np.asarray(np.median(values[index], axis=1))


def voids(view: View, shift: FloatArray, kind: IntArray) -> BoolArray:
    """Slices of volumes (t, z) whose signal is far below what the other slices of the volume and the other volumes predict."""
    values, inside = sample(view, shift, np.zeros_like(shift), 1)
    w = view.near * inside
    total = w.sum((2, 3))
    level = np.where((total > 0) & view.signal, (w * values).sum((2, 3)) / np.maximum(total, _TINY), np.nan)
    log = np.log(np.maximum(level, 1e-3 * np.nanmedian(level)))
    out = np.zeros(level.shape, bool)
    known = view.region
    for k in np.unique(kind):
        mine = np.flatnonzero(kind == k)
        part = log[np.ix_(mine, np.flatnonzero(known))]
        if part.size == 0 or not np.isfinite(part).any():
            continue
        usual = np.zeros(part.shape)
        volume = np.zeros((len(part), 1))
        for _ in range(4):
            along = _median(part - volume, 0)
            volume = _median(part - along, 1)
        usual = along + volume
        away = part - usual
        scatter = 1.4826 * float(np.nanmedian(np.abs(away)))
        bad = (away < np.log(VOID)) & (away < -5 * scatter)
        if len(mine) > 2:
            bad |= volume - np.nanmedian(volume) < np.log(NOTHING)
        out[np.ix_(mine, np.flatnonzero(known))] = bad | ~np.isfinite(part)
    return out & known


def _median(values: FloatArray, axis: int) -> FloatArray:
    """Median over what is finite; 0 where nothing is."""
    none = ~np.isfinite(values).any(axis, keepdims=True)
    return np.asarray(np.nanmedian(np.where(none, 0.0, values), axis=axis, keepdims=True))
