"""Figures of markers and subgroups: ROC curves, areas under them, and clusters of people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.figures import drawing
from cohort_engine.figures.drawing import (
    CASE_COLOUR,
    CONTROL_COLOUR,
    FAINT,
    INK,
    OTHER_COLOURS,
    Drawn,
    between,
    clipped,
    feature_labels,
    remote_level,
    signed,
    small,
)  # fmt: skip
from cohort_engine.study.format import equals, percent
from cohort_engine.study.material import COMPRESSED, METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cohort_engine.study.result import Analysis

MOST_PAIRS, MOST_CURVES, MOST_FEATURES, MOST_ARROWS = 3, 4, 15, 6
MARKER_COLOURS = ("#000000", "#E69F00", "#009E73", "#CC79A7")
"""Curves of markers, the first marker of a pair first."""


# --- ROC --------------------------------------------------------------------------------------------------------------
def roc_curves(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Curves of the pairs that are held against each other; without pairs those of the best markers."""
    curves, areas = drawing.table(found, "roc_curves", "roc"), drawing.table(found, "roc", "roc_curves")
    if curves is None or areas is None:
        return []
    areas = areas.assign(marker=feature_labels(areas)).drop_duplicates("marker").set_index("marker")
    known = set(curves["marker"])
    sets: list[tuple[tuple[str, ...], int, pd.Series[Any] | None]] = []
    pairs = drawing.table(found, "roc_pairs")
    if pairs is not None:
        pairs = pairs[pairs["first"].isin(known) & pairs["second"].isin(known)]
        at = pairs.index.to_numpy()
        pairs = pairs.reset_index(drop=True)
        sets = [((str(pairs.at[i, "first"]), str(pairs.at[i, "second"])), int(at[i]), pairs.iloc[i]) for i in shown_pairs(found, pairs, areas)]
    if not sets:
        sets = [(tuple(areas.index[areas.index.isin(known)][np.argsort(-areas["auc"][areas.index.isin(known)].to_numpy())][:MOST_CURVES]), -1, None)]
    people = found.material.people
    most = max(len(names) for names, _, _ in sets)
    figure = drawing.page((59 if len(sets) > 1 else 68) + 8.5 * most, 60.0 * len(sets) if len(sets) > 1 else 75)
    said = []
    for axis, (names, number, pair) in zip(figure.subplots(1, len(sets), squeeze=False).flat, sets, strict=True):
        own = curves[curves["pair"] == (number if pair is not None and (curves["pair"] == number).any() else -1)]
        for name, side, colour in zip(names, ("first", "second", "", ""), MARKER_COLOURS, strict=False):
            row = areas.loc[[name]].iloc[0]
            ends = (row["auc"], row["auc_low"], row["auc_high"]) if pair is None else tuple(pair[f"auc_{side}{e}"] for e in ("", "_low", "_high"))
            _curve(axis, own[own["marker"] == name], ends, name, colour)
        axis.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--", zorder=1)
        axis.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="sensitivity")
        axis.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.22), handlelength=1.2, borderaxespad=0)
        if pair is not None:
            n = f"n = {int(pair['n_control'])} + {int(pair['n_case'])}"
            axis.set_title(f"difference {signed(pair['difference'])}, p {small(pair['p'])}\n{n}")
            said.append(
                f"{pair['first']} against {pair['second']}: difference {signed(pair['difference'])}{between(pair['low'], pair['high'])}, "
                f"p {small(pair['p'])}, q {small(pair['q'])}, {n}."
            )
    more = pairs is not None and len(pairs) > len(sets)
    caption = drawing.sentences(
        f"Receiver operating characteristic of telling {people.case} from {people.control} ({drawing.sample(found)}).",
        f"The legend gives the area under the curve with its {drawing.ci(found)} (DeLong), the point is the threshold of the largest Youden index, "
        "and the broken line is chance.",
        f"Curves, areas and differences (tested after DeLong) of a pair are all of the people who have both (n: {people.control} + {people.case})."
        if said
        else "",
        *said,
        f"These are {len(sets)} of {len(pairs)} pairs; the table has all." if pairs is not None and more else "",
    )
    title = "Markers against each other" if said else "ROC curves of the best markers"
    return [Drawn("roc_curves", "roc", title, caption, ("roc", "roc_curves", *(("roc_pairs",) if said else ())), figure)]


def shown_pairs(found: Analysis, pairs: pd.DataFrame, areas: pd.DataFrame) -> list[int]:
    """Pairs to draw: those that the study names, or else at the remote level, at the compression, and the ones with the largest first area."""
    if found.config.roc.compare or len(pairs) <= MOST_PAIRS:
        return list(range(min(len(pairs), MOST_PAIRS)))
    levels = areas[schema.LEVEL].reindex(pairs["first"]).tolist()
    remote = remote_level(found, areas[schema.LEVEL])
    wanted = [levels.index(n) for n in (remote, COMPRESSED) if n in levels]
    best = np.argsort(-pairs["auc_first"].to_numpy(float), kind="stable").tolist()
    return list(dict.fromkeys([*wanted, *best]))[:MOST_PAIRS]


def _curve(axis: Axes, curve: pd.DataFrame, area: tuple[float, ...], name: str, colour: str) -> None:
    words = f"{clipped(name, 38)}\nAUC {area[0]:.2f}{between(area[1], area[2])}"
    best = curve.iloc[int(np.argmax((curve["sensitivity"] + curve["specificity"]).to_numpy()))]
    axis.plot(1 - curve["specificity"], curve["sensitivity"], color=colour, label=words, drawstyle="default", rasterized=len(curve) > drawing.DENSE)
    axis.plot(
        1 - best["specificity"], best["sensitivity"], "o", ms=5, color=colour, markeredgecolor="white", markeredgewidth=0.6, zorder=4, clip_on=False
    )


def roc_areas(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Areas under the curve of the leading features, with intervals."""
    areas = drawing.table(found, "roc")
    if areas is None or not np.isfinite(areas["auc"]).any():
        return []
    every = areas[np.isfinite(areas["auc"])]
    known = every[~every["selected"]]
    if not len(known):
        return []
    top = known.sort_values("auc", ascending=False, kind="stable").head(MOST_FEATURES)
    names = feature_labels(top)
    figure = drawing.page(18 + 4.6 * len(top))
    axis = figure.subplots()
    y = np.arange(len(top))
    arms = np.stack([top["auc"] - top["auc_low"], top["auc_high"] - top["auc"]])
    axis.errorbar(top["auc"], y, xerr=arms, fmt="s", ms=3.5, color=INK, elinewidth=0.9)
    axis.axvline(0.5, color=FAINT, linewidth=0.8, linestyle="--")
    axis.set_yticks(y, [clipped(n) for n in names])
    axis.set(ylim=(len(top) - 0.4, -0.6), xlim=(min(0.45, float(top["auc_low"].min()) - 0.02), 1.005), xlabel="area under the ROC curve")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    for at, row in zip(y, top.to_dict("records"), strict=True):
        text = f"{row['auc']:.2f}{between(row['auc_low'], row['auc_high'])}"
        axis.annotate(text, (1.0, at), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=drawing.SMALL)
    people = found.material.people
    raised = sorted({str(m) for m in top.loc[top["direction"] == "higher", METRIC]})
    caption = drawing.sentences(
        f"Area under the ROC curve of the {len(top)} leading of {len(known)} features, with its {drawing.ci(found)}; {drawing.sample(found)}.",
        f"Low values are taken as the sign of {people.case}{f', high ones of {drawing.listed(raised)}' if raised else ''}.",
        f"{len(every) - len(known)} features at each person's own level of compression were selected by looking and are not ranked."
        if len(every) > len(known)
        else "",
        "Each interval is that of its feature alone; the leading ones of many look better than they will in new people.",
        best_marker(found),
    )
    return [Drawn("roc_areas", "roc", "Leading markers", caption, ("roc",), figure)]


def best_marker(found: Analysis) -> str:
    """Say which of the single markers is the best, with the interval and the p that count that it was chosen."""
    table = found.tables.get("roc_best")
    if table is None or not len(table):
        return ""
    r, config = table.iloc[0], found.config
    many = int(r["markers"])
    among = "" if many == 1 else f" of {many} markers"
    counted = f"{percent(config.confidence)} confidence interval{' that counts the choice' if many > 1 else ''} {r['low']:.2f} to {r['high']:.2f}"
    numbers = f"area under the ROC curve {r['auc']:.2f} (n = {int(r['n_control'])} + {int(r['n_case'])}; {counted}; p {equals(r['p'])})"
    if r["p"] > config.alpha:
        return f"No single marker tells the groups apart beyond chance: the best{among}, {r['marker']}, reaches an {numbers}."
    return f"The best single marker{among} is {r['marker']}: {numbers}."


# --- several markers together -----------------------------------------------------------------------------------------
def classifier(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """ROC curve of the classifier on held-out people, and the weights of its markers."""
    summary, curve, weights = (drawing.table(found, n) for n in ("classifier", "classifier_curve", "classifier_markers"))
    if summary is None or curve is None or weights is None:
        return []
    row, people = summary.iloc[0], found.material.people
    top = weights.loc[weights["coefficient"].abs().sort_values(ascending=False, kind="stable").index[:MOST_FEATURES]]
    figure = drawing.page(max(66.0, 18 + 4.6 * len(top)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    left.plot(1 - curve["specificity"], curve["sensitivity"], color=INK, rasterized=len(curve) > drawing.DENSE)
    left.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle="--", zorder=1)
    left.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="sensitivity")
    area = f"AUC {row['auc']:.2f}{between(row['auc_low'], row['auc_high'])}"
    left.text(0.98, 0.04, area, transform=left.transAxes, ha="right", va="bottom", fontsize=drawing.SMALL)
    y = np.arange(len(top))
    right.barh(y, top["coefficient"], height=0.6, color=np.where(top["coefficient"] > 0, CASE_COLOUR, CONTROL_COLOUR))
    right.axvline(0, color=INK, linewidth=0.6)
    right.set_yticks(y, [clipped(str(n), 34) for n in top["marker"]])
    right.set(ylim=(len(top) - 0.4, -0.6), xlabel="weight (logit per SD)")
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)
    for at, share in zip(y, top["same_sign"], strict=True):
        right.annotate(
            f"{share:.0%}", (1.0, at), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=drawing.SMALL
        )
    together = f", each {row['kept_together']} held out as a whole" if row["kept_together"] else ""
    note = str(row["note"]).rstrip(".")
    caption = drawing.sentences(
        f"Left: ROC curve of a classifier of {int(row['markers'])} markers on people it was not learnt from ({int(row['folds'])}-fold "
        f"cross-validation{together}; {int(row['n_case'])} {people.case} and {int(row['n_control'])} {people.control}); the broken line is chance.",
        f"Right: weights of the {len(top)} leading markers; a positive one raises the odds of {people.case} where the marker is high. The number "
        "is the share of the parts of the cross-validation in which the weight has this sign.",
        f"{area}{f' (in brackets the {drawing.ci(found)})' if '(' in area else ''}.",
        f"{note[:1].upper()}{note[1:]}." if note else "",
    )
    tables = ("classifier", "classifier_markers", "classifier_curve")
    return [Drawn("classifier", "classifier", "Several markers together", caption, tables, figure)]


# --- clusters ---------------------------------------------------------------------------------------------------------
def clusters(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """People by principal components, coloured by cluster; silhouette and stability of every number of clusters."""
    who, axes, choice = (drawing.table(found, n) for n in ("clusters", "cluster_axes", "cluster_choice"))
    if who is None or axes is None or choice is None:
        return []
    labels = sorted(c for c in who["cluster"].unique() if c >= 0)
    figure = drawing.page(100)
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    flat = bool(who["pc2"].isna().all())
    dense = len(who) > DENSE_PEOPLE
    for c in labels:
        part = who[who["cluster"] == c]
        y = np.full(len(part), 0.0) + drawing.spread(part["pc1"]) if flat else part["pc2"]
        left.scatter(
            part["pc1"], y, s=14, color=OTHER_COLOURS[c % len(OTHER_COLOURS)], marker="osD^vPX*"[c % 8], linewidths=0.4, edgecolors="white", zorder=6,
            label=f"cluster {c + 1} (n = {len(part)})", rasterized=dense,
        )  # fmt: skip
    explained = axes.drop_duplicates("component").set_index("component")["explained"]
    left.set_xlabel(f"component 1 ({explained.get(1, np.nan):.0%} of variance)")
    if flat:
        left.set_yticks([])  # spread only so that points can be seen
    left.set_ylabel("" if flat else f"component 2 ({explained.get(2, np.nan):.0%} of variance)")
    key = [] if flat else _arrows(left, axes, who)
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.17), borderaxespad=0)
    if key:
        left.text(0.4, -0.18, "\n".join(key), transform=left.transAxes, ha="left", va="top", fontsize=drawing.SMALL, linespacing=1.3)
    tried = choice[choice["k"] > 1]
    right.plot(tried["k"], tried["silhouette"], "o-", ms=4, color=INK, label="silhouette")
    right.plot(tried["k"], tried["stability"], "s--", ms=4, color=OTHER_COLOURS[2], label="stability (adjusted Rand)")
    chosen = choice[choice["chosen"]]
    if len(chosen):
        right.axvline(chosen["k"].iloc[0], color=FAINT, linewidth=6, alpha=0.35, zorder=0)
    right.set_xticks(choice["k"])
    right.set(
        xlabel="number of clusters k",
        ylabel="silhouette, stability (1 is best)",
        ylim=(float(np.nanmin([0.0, *tried["silhouette"], *tried["stability"]])), 1.02),
    )
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.17), borderaxespad=0)
    out = int((who["cluster"] < 0).sum())
    k, p = len(labels), float(choice["p_one_group"].iloc[0])
    notes = drawing.table(found, "cluster_notes")
    said = " ".join(f"{str(n)[:1].upper()}{str(n)[1:].rstrip('.')}." for n in (notes["note"] if notes is not None else []))
    people = found.material.people.case if found.config.clusters.who == "cases" else "people"
    split = f"coloured by cluster (k-means, k = {k})" if k > 1 else "taken for one group"
    caption = drawing.sentences(
        f"Left: {len(who) - out} {people} by the first principal components of the standardised features, {split}"
        f"{'; arrows are the features with the largest weights, numbered in the key' if key else ''}.",
        "Right: mean silhouette width, and adjusted Rand index under resampling, for each number of clusters; the grey bar is the one taken.",
        f"People of one single group reach such a silhouette with p {small(p)}." if np.isfinite(p) else "",
        "Subgroups are not shown." if k == 1 else "",
        said,
    )
    return [Drawn("clusters", "clusters", "Subgroups of people", caption, ("clusters", "cluster_axes", "cluster_choice", "cluster_notes"), figure)]


DENSE_PEOPLE = 500


def _arrows(axis: Axes, axes: pd.DataFrame, who: pd.DataFrame) -> list[str]:
    """Draw the largest weights as numbered arrows; return the key."""
    wide = axes.pivot(index="feature", columns="component", values="weight")
    if not {1, 2} <= set(wide):
        return []
    wide = wide.loc[list(dict.fromkeys(axes["feature"]))]
    length = pd.Series(np.hypot(wide[1], wide[2]), wide.index).sort_values(ascending=False, kind="stable")
    top = wide.loc[length.index[:MOST_ARROWS]]
    far = who[["pc1", "pc2"]].abs().max().to_numpy(float)
    axis.set(xlim=(-1.08 * far[0], 1.08 * far[0]), ylim=(-1.08 * far[1], 1.08 * far[1]))
    reach = 0.8 * float(np.min(far / np.maximum(top[[1, 2]].abs().max().to_numpy(), 1e-9)))
    angle = np.arctan2(top[2].to_numpy(float), top[1].to_numpy(float))
    order = np.argsort(angle, kind="stable")
    out, last, step = [""] * len(top), -np.inf, 0
    for number, i in enumerate(order):
        x, y = top[1].iloc[i] * reach, top[2].iloc[i] * reach
        step = (step + 1) % 3 if angle[i] - last < np.deg2rad(14) else 0
        last = angle[i]
        axis.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}, zorder=1)
        away = 7 + 9 * step
        axis.annotate(
            str(number + 1), (x, y), (away * np.cos(angle[i]), away * np.sin(angle[i])), textcoords="offset points", ha="center", va="center",
            fontsize=drawing.SMALL, weight="bold", color=INK, zorder=2, bbox={"boxstyle": "circle,pad=0.12", "fc": "white", "ec": INK, "lw": 0.4},
        )  # fmt: skip
        out[number] = f"{number + 1}  {clipped(str(top.index[i]), 38)}"
    return out


def standardised_means(profile: pd.DataFrame) -> pd.DataFrame:
    """Cluster means in SD of everybody clustered, feature by cluster: from means, SDs and counts of the clusters.

    Examples
    --------
    >>> rows = [{"feature": "a", "cluster": c, "mean": m, "sd": 0.0, "n": 2} for c, m in ((0, 1.0), (1, 3.0))]
    >>> standardised_means(pd.DataFrame(rows)).round(3).loc["a"].tolist()
    [-0.866, 0.866]
    """
    order = list(dict.fromkeys(profile["feature"]))
    mean, sd, n = (profile.pivot(index="feature", columns="cluster", values=c).loc[order].astype(float) for c in ("mean", "sd", "n"))
    total = n.sum(axis=1)
    centre = (n * mean.fillna(0)).sum(axis=1) / total
    squares = ((n - 1).clip(lower=0) * sd.fillna(0) ** 2 + n * mean.sub(centre, axis=0).fillna(0) ** 2).sum(axis=1)
    spread = (squares / (total - 1).where(total > 1)) ** 0.5
    out: pd.DataFrame = mean.sub(centre, axis=0).div(spread.where(spread > 0), axis=0)
    return out


def cluster_profiles(found: Analysis, ds: xr.Dataset) -> list[Drawn]:
    """Show what clusters are like: means in SD of what they were made of, and of what else is known."""
    from matplotlib.colors import CenteredNorm

    profile = drawing.table(found, "cluster_profiles")
    if profile is None or profile["cluster"].nunique() < 2:
        return []
    z = standardised_means(profile)
    facts = profile.drop_duplicates("feature").set_index("feature")
    made = facts["made_of"].astype(bool)
    strength = z.abs().max(axis=1)
    parts = []
    for title, group in (("Made of", made), ("Not used for clustering", ~made)):
        leading = strength[group.loc[z.index]].nlargest(MOST_FEATURES)
        parts.append((title, [str(f) for f in z.index if f in leading.index]))
    keep = [f for _, names in parts for f in names]
    alpha = found.config.alpha
    blocks = [drawing.Block(t, tuple(f), tuple(_tested(n, float(facts["q"].loc[n]), alpha) for n in f)) for t, f in parts if f]
    counts = profile.groupby("cluster")["n"].max()
    z.columns = pd.Index([f"{int(c) + 1}" for c in counts.index])
    limit, extend = drawing.limit_of(z.loc[keep], 1.0)
    figure = drawing.heat_map(
        blocks, [drawing.Panel("cluster", z)], norm=CenteredNorm(0, limit), extend=extend, label="standardised mean (SD)", cmap="PuOr_r", column=16
    )
    for axis, block in zip(figure.axes, blocks, strict=False):
        _numbers(axis, z.loc[list(block.names)].to_numpy(float), limit)
    different = [str(n) for n in facts.index[~made & (facts["q"] <= alpha)]]
    sizes = ", ".join(f"cluster {c + 1}: n = {int(n)}" for c, n in enumerate(counts.to_numpy()))
    test = f"q ≤ {alpha:g} (Kruskal-Wallis, Benjamini-Hochberg)"
    rest = (f"* marks {test}: {drawing.listed(different)}" if different else f"none differs with {test}") if not made.all() else "nothing"
    caption = drawing.sentences(
        f"Means of the clusters, standardised over everybody clustered ({sizes}).",
        "Above are the features that clusters were made of: that these differ is no finding.",
        f"Below is what was not used: {rest}.",
        f"The {len(keep)} features of {len(z)} that differ most are drawn." if len(keep) < len(z) else "",
    )
    return [Drawn("cluster_profiles", "clusters", "What the subgroups are like", caption, ("cluster_profiles",), figure)]


def _tested(name: str, q: float, alpha: float) -> str:
    return f"{clipped(name)} *" if q <= alpha else clipped(name)


def _numbers(axis: Axes, values: NDArray[np.float64], limit: float) -> None:
    for (i, j), v in np.ndenumerate(values):
        if np.isfinite(v):
            axis.text(
                j + 0.5,
                i + 0.52,
                f"{v:.1f}".replace("-0.0", "0.0").replace("-", "−"),
                ha="center",
                va="center",
                fontsize=drawing.SMALL,
                color="white" if abs(v) > 0.65 * limit else "black",
            )
