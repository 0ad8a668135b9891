"""What is drawn is what the tables say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.text import Text
from numpy.testing import assert_allclose

from cohort_engine.config import SECTION_KINDS, AnalysisConfig, CompressionConfig, HarmoniseConfig
from cohort_engine.figures import by_region, cross_section, drawing, markers, people_figures
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import atlas_of, tabulate
from cohort_engine.report.figures import Drawn, draw_all, render
from cohort_engine.study.material import Material, Sessions
from cohort_engine.study.people import People
from cohort_engine.study.result import Analysis
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store

NAN = float("nan")
LEFT, RIGHT, HORN = "WM left lateral corticospinal tract", "WM right lateral corticospinal tract", "GM left ventral horn"
REGIONS = (LEFT, RIGHT, HORN, "white matter")
LEVELS = ("C5", "C4", "C4:C5", "compressed")
SORTED = ["C4", "C5", "C4:C5", "compressed"]

Make = Callable[..., Analysis]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Two levels of the parametric cord: what carries the atlas."""
    url = str(Path(tmp_path_factory.mktemp("figures")) / "study.zarr")
    simulate_store(url, 2, parametric_cord(spacing=1.0, top="C4", bottom="C5"), missing=0.0)
    tabulate(url)
    return open_cohort(url)


@pytest.fixture
def make() -> Make:
    """An analysis of five controls and three cases with the given tables."""

    def analysis(harmonise: str | None = None, **tables: pd.DataFrame) -> Analysis:
        group = np.array([0.0] * 5 + [1.0] * 3)
        table = pd.DataFrame(
            {"subject": np.arange(8), "participant_id": [f"sub-{i}" for i in range(8)], "session_id": "", "age": np.arange(40.0, 48)}
        )
        excluded = pd.DataFrame(
            {"subject": [8, 9, 10], "participant_id": ["a", "b", "c"], "session_id": "", "reason": ["no group", "no group", "blurred"]}
        )
        people = People(np.arange(8), table, group, "HC", "DCM", excluded)
        z = np.empty(0)
        who, values = np.repeat(np.arange(3), 2), np.array([[44.0], [42], [41], [42], [40], [40]])
        sessions = Sessions(values, who, who.astype(str), np.ones(6), np.tile([0.0, 1.0], 3), "session")
        material = Material(
            people, pd.DataFrame(), np.empty((8, 0)), np.empty((8, 0)), z, z.astype(int), {}, None, "", pd.DataFrame(), sessions=sessions
        )
        config = AnalysisConfig(compression=CompressionConfig(remote="C4:C5"), harmonise=HarmoniseConfig(site=harmonise))
        return Analysis(material, {"subjects": table, "excluded": excluded, **tables}, {}, config, {})

    return analysis


def features(regions: Iterable[str] = REGIONS, levels: Iterable[str] = LEVELS, measures: bool = True) -> pd.DataFrame:
    """A row a feature: MTR of each region, and the area, at each level."""
    rows = [{"metric": "mtr", "region": r, "level": n, "estimator": "native map", "units": "percent"} for n in levels for r in regions]
    if measures:
        rows += [{"metric": "area", "region": "spinal cord", "level": n, "estimator": "", "units": "mm2"} for n in levels]
    return pd.DataFrame(rows)


def group_table(seed: int = 0, method: str = "welch", **which: Any) -> pd.DataFrame:
    """Effects of -4 to 4; every third test is significant; the horn at C5 has no value."""
    out = features(**which)
    rng = np.random.default_rng(seed)
    effect = rng.uniform(-4, 4, len(out))
    hole = ((out["region"] == HORN) & (out["level"] == "C5")).to_numpy()
    effect[hole] = NAN
    out = out.assign(method=method, mean_control=45.0, mean_case=45.0 + effect, effect=effect, size=effect / 3, size_low=effect / 3 - 1)
    out = out.assign(size_high=effect / 3 + 1, size_kind="Hedges' g", q=np.where(np.arange(len(out)) % 3 == 0, 0.01, 0.5))
    out.loc[hole, "q"] = NAN
    return out


def one(drawn: list[Drawn]) -> Drawn:
    assert len(drawn) == 1
    assert not drawn[0].caption.startswith(" ")
    assert drawn[0].caption.endswith(".")
    assert "nan" not in drawn[0].caption
    return drawn[0]


def meshes(drawn: Drawn) -> list[np.ma.MaskedArray[Any, Any]]:
    """Values of the heat map's blocks, without its colour bar."""
    return [c.get_array() for a in drawn.figure.axes if a.get_label() != "<colorbar>" for c in a.collections if isinstance(c, QuadMesh)]


def marks(drawn: Drawn) -> int:
    return sum(len(c.get_offsets()) for a in drawn.figure.axes for c in a.collections if isinstance(c, PathCollection))


# --- heat map of effect sizes -----------------------------------------------------------------------------------------
def test_cells_of_the_heat_map_are_the_sizes_of_the_table(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table()
    drawn = one(by_region.effect_sizes(make(groups=groups), cohort))
    cell = groups.set_index(["metric", "region", "level"])["size"]
    blocks = [[("mtr", LEFT), ("mtr", RIGHT)], [("mtr", HORN)], [("mtr", "white matter")], [("area", "spinal cord")]]
    for mesh, rows in zip(meshes(drawn), blocks, strict=True):
        assert_allclose(mesh.filled(NAN).reshape(len(rows), 4), [[cell[(*row, level)] for level in SORTED] for row in rows])
    assert meshes(drawn)[1].mask.ravel().tolist() == [False, True, False, False]  # no value: grey
    assert drawn.figure.axes[0].collections[0].get_cmap().get_bad().tolist() == list(to_rgba(drawing.MISSING))


def test_as_many_dots_as_significant_tests(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table()
    drawn = one(by_region.effect_sizes(make(groups=groups), cohort))
    count = int((groups["q"] <= 0.05).sum())
    assert marks(drawn) == count > 3
    assert f"({count} of {len(groups) - 1} cells)" in drawn.caption


def test_dots_stand_on_their_cells(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table().assign(q=0.5)
    groups.loc[(groups["region"] == RIGHT) & (groups["level"] == "C4:C5"), "q"] = 0.001
    drawn = one(by_region.effect_sizes(make(groups=groups), cohort))
    dots = [c.get_offsets() for a in drawn.figure.axes for c in a.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    assert_allclose(dots, [[[2.5, 1.5]]])  # third column, second row


def test_many_estimators_have_figures_of_their_own(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table()
    other = group_table(1, measures=False).assign(estimator="map")
    drawn = by_region.effect_sizes(make(groups=pd.concat([groups, other], ignore_index=True)), cohort)
    assert [d.name for d in drawn] == ["effect_sizes", "effect_sizes_mtr_map"]
    assert [len(meshes(d)) for d in drawn] == [4, 3]  # the shape of the cord once


def test_a_study_of_shape_alone_has_a_heat_map(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table(regions=())
    drawn = one(by_region.effect_sizes(make(groups=groups), cohort))
    assert_allclose(meshes(drawn)[0].ravel(), groups.set_index("level").loc[SORTED, "size"])
    assert cross_section.effects_on_cord(make(groups=groups), cohort) == []


def test_long_names_leave_room_for_the_cells(make: Make, cohort: xr.Dataset) -> None:
    long = " + ".join(["left fasciculus gracilis"] * 5)
    drawn = drawing.settled(one(by_region.effect_sizes(make(groups=group_table(regions=[LEFT, long])), cohort)))
    tract, union = drawn.figure.axes[:2]
    assert union.get_yticklabels()[0].get_text() == "left fasciculus gracilis + l … iculus gracilis"
    assert tract.get_position().width == union.get_position().width > 0.25


# --- the cord cut across ----------------------------------------------------------------------------------------------
def panels(drawn: Drawn) -> dict[str, Any]:
    """Level -> axes of a picture of the cord."""
    return {a.get_title().rsplit(": ", 1)[0]: a for a in drawn.figure.axes if a.patches and a.get_title()}


def test_tracts_have_the_colour_of_their_effect(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table()
    drawn = one(cross_section.effects_on_cord(make(groups=groups), cohort))
    shown = panels(drawn)
    assert list(shown) == ["C4", "C5", "C4:C5"]  # the level of the compression is no place
    limit = groups.loc[groups["region"].isin([LEFT, RIGHT, HORN]) & (groups["level"] != "compressed"), "effect"].abs().max()
    value = groups.set_index(["level", "region"])["effect"]
    for level, axis in shown.items():
        colours = {p.get_label(): p.get_facecolor() for p in axis.patches if p.get_facecolor()[3] > 0}
        for region in (LEFT, RIGHT, HORN):
            v = value[level, region]
            expected = colormaps["RdBu_r"](0.5 + v / limit / 2) if np.isfinite(v) else to_rgba(drawing.MISSING)
            assert_allclose(colours[region], expected, atol=0.01)
        assert "white matter" not in colours  # single tracts go first


def test_hatched_is_what_is_not_significant(make: Make, cohort: xr.Dataset) -> None:
    groups = group_table()
    for level, axis in panels(one(cross_section.effects_on_cord(make(groups=groups), cohort))).items():
        part = groups[(groups["level"] == level) & groups["region"].isin([LEFT, RIGHT, HORN])]
        expected = part.loc[(part["q"] > 0.05) & part["effect"].notna(), "region"]
        assert sorted(p.get_label() for p in axis.patches if p.get_hatch()) == sorted(expected)


def test_ranks_are_coloured_by_the_difference_of_means() -> None:
    groups = group_table(method="mann_whitney").assign(effect=0.4)
    assert_allclose(cross_section.differences(groups)["difference"], groups["mean_case"] - groups["mean_control"])
    linear = group_table(method="linear").assign(effect=0.4)
    assert (cross_section.differences(linear)["difference"] == 0.4).all()


def test_seven_levels_make_six_panels_with_the_strongest_and_the_remote_one() -> None:
    levels = [f"C{i}" for i in range(1, 8)]
    rows = pd.DataFrame({"level": levels, "size": [-0.1, 0.2, 0.3, -0.9, 0.4, 0.5, 0.6], "difference": 1.0})
    assert cross_section.shown_levels(rows, "C1") == ["C1", "C3", "C4", "C5", "C6", "C7"]
    assert cross_section.shown_levels(rows, None) == levels[1:]
    assert cross_section.shown_levels(rows, "C1", most=2) == ["C1", "C4"]


def test_the_right_of_the_cord_is_at_the_left_and_the_front_at_the_top(cohort: xr.Dataset) -> None:
    horns = ("GM left ventral horn", "GM left dorsal horn")
    cut = cross_section.cross_section(cohort, "C5", [LEFT, RIGHT, *horns])

    def middle(region: str) -> tuple[float, float]:
        y, x = np.nonzero(cut.inside[region] > 0)
        return float(cut.x[x].mean()), float(cut.y[y].mean())

    assert middle(RIGHT)[0] < -1 < 1 < middle(LEFT)[0]
    assert middle(horns[0])[1] > middle(horns[1])[1] + 1


def test_outlines_cover_the_cord_once(cohort: xr.Dataset) -> None:
    atlas: Atlas = atlas_of(cohort)
    labels = [n for n in atlas.labels if n.startswith(("WM ", "GM "))]
    cut = cross_section.cross_section(cohort, "C5", labels)
    covered = sum((f > 0).astype(int) for f in cut.inside.values())
    assert covered.max() == 1
    assert_allclose(covered.sum(), (cut.cord > 0).sum(), rtol=0.03)
    k = cohort["k"].to_numpy()
    at = np.flatnonzero(cohort["voxel_level"].to_numpy() == 5)
    slices = np.unique(k[at])
    weights = atlas.weights[: len(labels), at[k[at] == slices[len(slices) // 2]]]
    pixel = np.diff(cut.x)[0] * np.diff(cut.y)[0]
    assert_allclose((cut.cord > 0).sum() * pixel, weights.sum(), rtol=0.05)  # mm2, of voxels of 1 mm


def test_what_no_region_has_stays_blank(cohort: xr.Dataset) -> None:
    cut = cross_section.cross_section(cohort, "C5", ["white matter"])
    every = cross_section.cross_section(cohort, "C5", ["white matter", "gray matter"])
    assert_allclose((cut.inside["white matter"] > 0).sum(), (every.inside["white matter"] > 0).sum(), rtol=0.01)


def test_groups_are_drawn_with_their_difference(cohort: xr.Dataset) -> None:
    figure = cross_section.draw_groups(cohort, level="C4")
    assert [a.get_title() for a in figure.axes[:3]] == ["DCM, C4", "HC, C4", "DCM − HC, C4"]
    drawn = {p.get_label(): p.get_facecolor() for p in figure.axes[2].patches}
    values = cohort.cohort.frame("mtr", [LEFT, RIGHT], "C4").set_index(["group", "region"])["value"]
    difference = values["DCM"] - values["HC"]
    limit = cohort.cohort.frame("mtr", [n for n in atlas_of(cohort).labels if n[:3] in ("WM ", "GM ")], "C4")
    limit = limit.set_index(["group", "region"])["value"].unstack("group").eval("DCM - HC").abs().max()
    for region in (LEFT, RIGHT):
        assert_allclose(drawn[region], colormaps["RdBu_r"](0.5 + difference[region] / limit / 2), atol=0.01)
    assert figure.axes[-1].get_xlabel() == "MTR (wa) (percentage points)"


# --- ROC --------------------------------------------------------------------------------------------------------------
def roc_tables() -> dict[str, pd.DataFrame]:
    roc = features(regions=["white matter"], levels=["C4", "C5"])
    roc = roc.assign(
        direction="lower", selected=False, auc=[0.8, 0.9, 0.6, 0.7], auc_low=[0.6, 0.7, 0.4, NAN], auc_high=[0.9, 0.95, 0.8, NAN], threshold=41.5
    )
    roc = roc.assign(sensitivity=[0.7, 0.75, 0.5, 0.6], specificity=[0.8, 0.85, 0.9, 0.65])
    names = ["MTR white matter C4", "MTR white matter C5", "area C4", "area C5"]
    curves = pd.concat(
        [pd.DataFrame({"marker": n, "pair": -1, "threshold": 0.0, "sensitivity": [0, 0.5, 1], "specificity": [1, 0.75, 0]}) for n in names]
    )
    pairs = pd.DataFrame({"first": names[:2], "second": names[2:], "auc_first": [0.8, 0.9], "difference": [0.2, 0.2], "low": 0.1, "high": 0.3})
    pairs = pairs.assign(auc_second=[0.6, 0.7], n_control=5, n_case=3, p=0.02, q=0.04)
    ends = {"auc_first_low": [0.6, 0.7], "auc_first_high": [0.9, 0.95], "auc_second_low": [0.4, NAN], "auc_second_high": [0.8, NAN]}
    return {"roc": roc, "roc_curves": curves, "roc_pairs": pairs.assign(**ends)}


def test_roc_panels_are_pairs_with_their_areas_and_thresholds(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(markers.roc_curves(make(**roc_tables()), cohort))
    first, second = drawn.figure.axes
    words = [t.get_text() for t in second.get_legend().get_texts()]
    assert words == ["MTR white matter C5\nAUC 0.90 (0.70 to 0.95)", "area C5\nAUC 0.70"]  # an interval that nobody knows is not written
    assert_allclose(first.lines[0].get_xydata(), [[0, 0], [0.25, 0.5], [1, 1]])
    assert_allclose(first.lines[1].get_xydata(), [[0.25, 0.5]])
    assert "difference 0.20 (0.10 to 0.30), p = 0.02, q = 0.04, n = 5 + 3." in drawn.caption


def test_a_pair_is_drawn_of_the_people_who_have_both(make: Make, cohort: xr.Dataset) -> None:
    """The legend was of all who have the one, the title of those who have both."""
    tables = roc_tables()
    few = tables["roc_curves"].iloc[:3].assign(pair=0, sensitivity=[0, 0.25, 1])
    tables["roc_curves"] = pd.concat([tables["roc_curves"], few, few.assign(marker=tables["roc_pairs"]["second"].iloc[0])])
    tables["roc_pairs"].loc[0, "auc_first"] = 0.66
    first = one(markers.roc_curves(make(**tables), cohort)).figure.axes[0]
    assert first.get_legend().get_texts()[0].get_text().startswith("MTR white matter C4\nAUC 0.66 (")
    assert_allclose(first.lines[0].get_xydata(), [[0, 0], [0.25, 0.25], [1, 1]])
    assert first.get_title().endswith("n = 5 + 3")


def test_without_pairs_the_best_curves_share_a_panel(make: Make, cohort: xr.Dataset) -> None:
    tables = roc_tables()
    tables["roc_pairs"] = tables["roc_pairs"].iloc[:0]
    drawn = one(markers.roc_curves(make(**tables), cohort))
    words = [t.get_text().partition("\n")[0] for t in drawn.figure.axes[0].get_legend().get_texts()]
    assert words == ["MTR white matter C5", "MTR white matter C4", "area C5", "area C4"]


def test_leading_areas_are_sorted(make: Make, cohort: xr.Dataset) -> None:
    axis = one(markers.roc_areas(make(**roc_tables()), cohort)).figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["MTR white matter C5", "MTR white matter C4", "area C5", "area C4"]
    assert_allclose(np.asarray(axis.containers[0].lines[0].get_xdata(), float), [0.9, 0.8, 0.7, 0.6])


def test_the_classifier_is_drawn_with_its_weights(make: Make, cohort: xr.Dataset) -> None:
    row = {
        "markers": 3,
        "folds": 5,
        "kept_together": "site",
        "auc": 0.85,
        "auc_low": 0.7,
        "auc_high": 0.93,
        "n_control": 5,
        "n_case": 3,
        "note": "few people",
    }
    weights = pd.DataFrame({"marker": ["a", "b", "c"], "coefficient": [0.1, -0.9, 0.4], "same_sign": [0.6, 1.0, 0.8]})
    tables = {"classifier": pd.DataFrame([row]), "classifier_curve": roc_tables()["roc_curves"].head(3), "classifier_markers": weights}
    drawn = one(markers.classifier(make(**tables), cohort))
    left, right = drawn.figure.axes
    assert_allclose(left.lines[0].get_xydata(), [[0, 0], [0.25, 0.5], [1, 1]])
    assert [t.get_text() for t in right.get_yticklabels()] == ["b", "c", "a"]  # the largest first
    assert_allclose([p.get_width() for p in right.patches], [-0.9, 0.4, 0.1])
    assert [t.get_text() for t in right.texts] == ["100%", "80%", "60%"]
    assert "AUC 0.85 (0.70 to 0.93)" in drawn.caption
    assert drawn.caption.endswith("Few people.")


# --- clusters ---------------------------------------------------------------------------------------------------------
def test_standardised_means_are_those_of_the_raw_values() -> None:
    rng = np.random.default_rng(3)
    raw, cluster = rng.normal(40, 5, 30), np.arange(30) % 3
    rows = [{"feature": "a", "cluster": c, "mean": raw[cluster == c].mean(), "sd": raw[cluster == c].std(ddof=1), "n": 10} for c in range(3)]
    z = (raw - raw.mean()) / raw.std(ddof=1)
    assert_allclose(markers.standardised_means(pd.DataFrame(rows)).loc["a"], [z[cluster == c].mean() for c in range(3)])


def cluster_tables() -> dict[str, pd.DataFrame]:
    who = pd.DataFrame({"subject": range(5), "cluster": [0, 0, 1, 1, -1], "pc1": [-2.0, -1.5, 1, 2, NAN], "pc2": [0.5, -0.5, 0.2, -0.2, NAN]})
    axes = [{"component": c, "explained": 0.6 / c, "feature": f, "weight": w} for c in (1, 2) for f, w in (("a", 0.9 / c), ("b", -0.3 * c))]
    choice = pd.DataFrame({"k": [2, 3], "silhouette": [0.5, 0.3], "stability": [0.9, 0.4], "chosen": [True, False], "p_one_group": 0.01})
    profile = [
        {"cluster": c, "feature": f, "made_of": m, "mean": 2.0 * c, "sd": 1.0, "n": 2, "q": q}
        for c in (0, 1) for f, m, q in (("a", True, NAN), ("b", True, NAN), ("age", False, 0.01), ("mjoa", False, 0.3))
    ]  # fmt: skip
    notes = pd.DataFrame({"note": ["1 people lack a feature and are left out"]})
    return {
        "clusters": who,
        "cluster_axes": pd.DataFrame(axes),
        "cluster_choice": choice,
        "cluster_profiles": pd.DataFrame(profile),
        "cluster_notes": notes,
    }


def test_people_stand_at_their_components(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(markers.clusters(make(**cluster_tables()), cohort))
    left, right = drawn.figure.axes
    points = np.concatenate([c.get_offsets() for c in left.collections])
    assert_allclose(points, [[-2, 0.5], [-1.5, -0.5], [1, 0.2], [2, -0.2]])  # not the one left out
    assert (left.get_xlabel(), left.get_ylabel()) == ("component 1 (60% of variance)", "component 2 (30% of variance)")
    assert_allclose(right.lines[0].get_xydata(), [[2, 0.5], [3, 0.3]])
    assert_allclose(right.lines[1].get_xydata(), [[2, 0.9], [3, 0.4]])


def test_what_clusters_were_made_of_stands_apart(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(markers.cluster_profiles(make(**cluster_tables()), cohort))
    assert [m.size for m in meshes(drawn)] == [4, 4]
    assert [t.get_text() for t in drawn.figure.axes[1].get_yticklabels()] == ["age *", "mjoa"]
    assert "* marks q ≤ 0.05 (Kruskal-Wallis, Benjamini-Hochberg): age." in drawn.caption


# --- correlations, norms, repeats -------------------------------------------------------------------------------------
def test_correlations_at_the_strongest_and_the_remote_level(make: Make, cohort: xr.Dataset) -> None:
    base = features(measures=False)
    rng = np.random.default_rng(5)
    parts = [base.assign(score=s, method="spearman", n=20, r=rng.uniform(-0.5, 0.5, len(base)), low=-0.9, high=0.9, q=0.5) for s in ("mjoa", "grip")]
    table = pd.concat(parts, ignore_index=True)
    at = table.index[(table["region"] == RIGHT) & (table["level"] == "C5") & (table["score"] == "grip")][0]
    table.loc[at, ["r", "q"]] = -0.8, 0.001
    drawn = one(by_region.correlations(make(correlations=table), cohort))
    r = table.set_index(["level", "region", "score"])["r"]
    values = meshes(drawn)  # blocks by panels
    assert_allclose(values[0].reshape(2, 2), [[r["C5", side, s] for s in ("mjoa", "grip")] for side in (LEFT, RIGHT)])
    assert_allclose(values[1].reshape(2, 2), [[r["C4:C5", side, s] for s in ("mjoa", "grip")] for side in (LEFT, RIGHT)])
    assert marks(drawn) == 1
    assert "with grip: ρ = −0.80, n = 20, q = 0.001" in drawn.caption


def test_cases_are_sorted_by_their_distance_from_the_norm(make: Make, cohort: xr.Dataset) -> None:
    z = {5: [-1.0, -2.0], 6: [-6.0, -4.0], 7: [0.5, NAN]}
    rows = [
        {"subject": s, "metric": "mtr", "region": r, "level": n, "estimator": "native map", "z": v}
        for n in ("C4", "C5") for s, pair in z.items() for r, v in zip((LEFT, RIGHT), pair, strict=True) if np.isfinite(v)
    ]  # fmt: skip
    summary = features((LEFT, RIGHT), ("C4", "C5"), measures=False).assign(
        reference="own controls", n_reference=5, n_case=[3, 2, 3, 2], outside=[0, 0, 1, 2]
    )
    drawn = one(by_region.norm_deviations(make(norms=pd.DataFrame(rows), norms_summary=summary), cohort))
    mesh = meshes(drawn)[0]
    assert_allclose(mesh.reshape(2, 3).filled(NAN), [[-6, -1, 0.5], [-4, -2, NAN]])
    assert ", at C5: there most values are outside" in drawn.caption
    assert f"in {RIGHT}, 100%; 5% are expected" in drawn.caption


def repeat_table() -> pd.DataFrame:
    out = features(["white matter"], ["C4"], measures=False).assign(n=3, sessions=2, icc21=0.7, icc21_low=0.2, icc21_high=0.9, cv=3.0)
    return out.assign(bias=1 / 3, limit_low=-2.6, limit_high=3.3)


def test_differences_of_sessions_stand_against_their_mean(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(people_figures.repeat_differences(make(repeats=repeat_table()), cohort))
    axis = drawn.figure.axes[0]
    assert_allclose(axis.collections[0].get_offsets(), [[43, 2], [41.5, -1], [40, 0]])
    assert_allclose([line.get_ydata()[0] for line in axis.lines], [1 / 3, -2.6, 3.3, 0])
    assert "limits of agreement −2.6 to +3.3 percentage points (n = 3)" in drawn.caption


def test_agreement_by_region(make: Make, cohort: xr.Dataset) -> None:
    axes = one(by_region.repeat_agreement(make(repeats=repeat_table()), cohort)).figure.axes
    assert_allclose([axes[0].lines[0].get_xdata()[0], axes[1].lines[0].get_xdata()[0]], [0.7, 3.0])


# --- people, shape, scanners ------------------------------------------------------------------------------------------
def shape_tables() -> dict[str, pd.DataFrame]:
    z = np.arange(8.0)
    profile = pd.DataFrame(
        {"measure": "area", "units": "mm2", "z_mm": z, "level_number": [5] * 4 + [4] * 4, "control_low": 60 + z, "control_median": 70 + z}
    )
    profile = profile.assign(control_high=80 + z, control_mean=70.0, case_median=65 + z, case_mean=66 + z, case_sd=1.0)
    profile = profile.assign(n_control=5, n_case=[2] + [3] * 7)
    rows = pd.DataFrame({"group": ["HC"] * 5 + ["DCM"] * 3, "ratio": [0.97, 0.98, 0.99, 1, 1, 0.7, 0.8, NAN], "margin": [-0.1] * 5 + [0.2, 0.1, NAN]})
    counts = [
        {"group": g, "level": n, "people": k}
        for g, ks in (("HC", (0, 0, 5)), ("DCM", (2, 1, 0)))
        for n, k in zip(("C4", "C5", "none"), ks, strict=True)
    ]
    summary = pd.DataFrame([{"measure": "area", "limit": 0.9, "n_limit": 5, "auc": 1.0, "auc_low": NAN, "auc_high": NAN}])
    return {"profiles": profile, "compression": rows, "compression_levels": pd.DataFrame(counts), "compression_summary": summary}


def test_profiles_run_upwards_with_the_names_of_levels(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(people_figures.profiles(make(**shape_tables()), cohort))
    cord, sites = drawn.figure.axes
    assert dict(zip(cord.get_yticks(), (t.get_text() for t in cord.get_yticklabels()), strict=True)) == {5.5: "C4", 1.5: "C5"}
    median, case = cord.lines[:2]
    assert_allclose(median.get_xydata(), [[70 + z, z] for z in range(8)])
    assert_allclose(case.get_xdata(), 65 + np.arange(8))
    band = cord.collections[0].get_paths()[0].vertices
    assert (band[:, 0].min(), band[:, 0].max()) == (60, 87)
    bars = {round(b.get_y() + b.get_height() / 2): b.get_width() for b in sites.patches if b.get_width()}
    assert sorted(bars.values()) == [1, 2]
    assert cord.get_xlabel() == "area (mm²)"
    assert "A slice has 5 HC and 2 to 3 DCM" in drawn.caption
    assert "5 are not compressed" in drawn.caption


def test_compression_by_group_and_level(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(people_figures.compression(make(**shape_tables()), cohort))
    left, right = drawn.figure.axes
    assert [len(c.get_offsets()) for c in left.collections] == [5, 2]
    assert 0.9 in [line.get_ydata()[0] for line in left.lines if line.get_linestyle() == "--"]
    bars = [[b.get_height() for b in c] for c in right.containers if isinstance(c, BarContainer)]
    assert bars == [[0, 0, 5], [2, 1, 0]]
    assert "2 DCM and 0 HC" in drawn.caption


@pytest.mark.parametrize(("site", "count"), [("site", 2), (None, 1)])
def test_sites_before_and_after(make: Make, cohort: xr.Dataset, site: str | None, count: int) -> None:
    base = features(["white matter"], ["C4:C5", "C4"], measures=False)
    parts = [
        base.assign(site=s, group=g, n=2, mean=m, sd=1.0, mean_harmonised=45.0, sd_harmonised=0.5)
        for s, m in (("a", 44.0), ("b", 46.0)) for g in ("HC", "DCM")
    ]  # fmt: skip
    check = pd.DataFrame({"when": ["before", "after"], "accuracy": [0.9, 0.5], "chance": 0.5, "low": 0.2, "high": 0.8, "p": 0.3, "n": 8, "folds": 2})
    drawn = one(people_figures.sites(make(site, sites=pd.concat(parts, ignore_index=True), site_check=check.head(count)), cohort))
    assert len(drawn.figure.axes) == count
    for axis, means in zip(drawn.figure.axes, ([44, 46], [45, 45]), strict=False):
        assert_allclose(np.asarray(axis.containers[0].lines[0].get_ydata(), float), means)
    chance = "(by chance 20% to 80%, p = 0.300)"
    told = f"90% before harmonisation {chance} and 50% after harmonisation {chance}" if site else f"90% {chance}"
    assert f"tells the site of 8 held-out people with a balanced accuracy of {told}; 2-fold" in drawn.caption


def test_the_flow_of_people_adds_up(make: Make, cohort: xr.Dataset) -> None:
    drawn = one(people_figures.flow(make(), cohort))
    words = [t.get_text() for t in drawn.figure.axes[0].texts if t.get_text()]
    assert words == ["sessions in the store: 11", "people analysed: 8", "left out: 3\nno group: 2\nblurred: 1", "DCM\nn = 3", "HC\nn = 5"]


# --- all of them ------------------------------------------------------------------------------------------------------
def everything() -> dict[str, pd.DataFrame]:
    return {"groups": group_table(), **roc_tables(), **cluster_tables(), **shape_tables(), "repeats": repeat_table()}


def test_every_figure_says_where_it_comes_from(make: Make, cohort: xr.Dataset) -> None:
    found = make(**everything())
    drawn = draw_all(found, cohort)
    assert len(drawn) == 11
    assert len({d.name for d in drawn}) == 11
    for d in drawn:
        assert d.section in SECTION_KINDS
        assert set(d.tables) <= set(found.tables)
        assert d.figure.get_figwidth() <= drawing.WIDTH * drawing.MM + 1e-9
        letters = [t.get_fontsize() for t in d.figure.findobj(Text) if t.get_text()]
        assert min(letters) >= drawing.SMALL


def test_without_tables_nothing_is_drawn(make: Make, cohort: xr.Dataset) -> None:
    found = make(**{name: t.iloc[:0] for name, t in everything().items()})
    assert [d.name for d in draw_all(found, cohort)] == ["flow"]


def test_the_same_analysis_gives_the_same_bytes(make: Make, cohort: xr.Dataset) -> None:
    def files(kinds: tuple[str, ...]) -> list[dict[str, bytes]]:
        drawn = [d for d in draw_all(make(groups=group_table(), **cluster_tables()), cohort) if d.name in ("effects_on_cord", "clusters")]
        return [{kind: render(d.figure, kind) for kind in kinds} for d in drawn]

    first, again = files(("svg", "png")), files(("png", "svg"))
    assert first == again
    assert all(len(f["svg"]) < 400_000 and b"<dc:date>" not in f["svg"] and b"<text" not in f["svg"] for f in first)
