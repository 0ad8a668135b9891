"""Standard errors of voxels through every estimator: against coefficients found by pushing each voxel, in native and template space, with weights."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cohort_engine import schema
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.maps import Maps
from cohort_engine.reduce.native import level_tables
from cohort_engine.reduce.operator import Operator
from cohort_engine.reduce.precision import Errors, precision
from cohort_engine.reduce.sums import LevelSums, pooled_cells
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.levels import LevelRange

LINEAR = ("wa", "bin", "ml", "map")
N, LABELS = 60, 4
CLUSTERS = {"white": (0, 1, 2), "grey": (3,)}
UNIONS = {"white matter": (0, 1, 2), "all": (0, 1, 2, 3)}
LEVEL = np.repeat([2, 3], N // 2)
LEVELS = [2, 3]


@pytest.fixture(scope="module")
def image() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.full(LABELS, 0.3), N).T.round(3)
    values = np.array([40.0, 42.0, 38.0, 25.0]) @ weights + rng.normal(0, 1, N)
    values[[3, 40]] = np.nan
    se = np.where(np.isnan(values), np.nan, rng.uniform(0.2, 2.0, N))
    return {"values": values, "weights": weights, "se": se, "precision": precision(values, se, parts(weights))}


def parts(weights: np.ndarray) -> np.ndarray:
    return np.stack([weights[list(c)].sum(axis=0) for c in CLUSTERS.values()])


REGIONS = [*((k,) for k in range(LABELS)), *UNIONS.values()]


def native(image: dict[str, np.ndarray], values: np.ndarray, name: str, weighted: bool, with_se: bool = True) -> dict[str, np.ndarray]:
    more = {"se": image["se"]} if with_se else {}
    more |= {"precision": image["precision"]} if weighted else {}
    reach = np.ones((2, len(LEVELS), LABELS))
    return level_tables(
        values, image["weights"], LEVEL, reach, LEVELS, REGIONS, list(CLUSTERS.values()), estimator=name, min_coverage=0.1, **more
    )  # fmt: skip


def template(image: dict[str, np.ndarray], values: np.ndarray, name: str, weighted: bool, with_se: bool = True) -> dict[str, np.ndarray]:
    labels = tuple(f"l{k}" for k in range(LABELS))
    atlas = Atlas(labels, UNIONS, CLUSTERS, sparse.csr_array(image["weights"].astype(np.float32)))
    operator = Operator.build(atlas, LEVEL, [LevelRange.parse(n) for n in ("C2", "C3")], atlas.regions)
    q = image["precision"][None] if weighted else None
    errors = Errors(image["se"][None], np.ones(1), q) if with_se or weighted else None
    return {k: v[0] for k, v in estimator(name).of_maps(operator, Maps(values[None], errors), min_coverage=0.1).items()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("space", [native, template])
def test_noise_is_that_of_the_coefficients_found_by_pushing_each_voxel(image, name: str, space, weighted: bool) -> None:
    values = image["values"]
    base = space(image, values, name, weighted)
    known = np.flatnonzero(np.isfinite(values))
    slopes = np.zeros((len(known), *base["value"].shape))
    for i, v in enumerate(known):
        pushed = values.copy()
        pushed[v] += 1000.0  # the tables are float32
        slopes[i] = (space(image, pushed, name, weighted)["value"].astype(float) - base["value"]) / 1000.0
    expected = np.sqrt(np.einsum("vlr,v->lr", slopes**2, image["se"][known] ** 2))
    np.testing.assert_allclose(base["noise"], np.where(np.isnan(base["value"]), np.nan, expected), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*LINEAR, "median", "max"])
@pytest.mark.parametrize("space", [native, template])
def test_errors_alone_change_no_value(image, name: str, space) -> None:
    with_se, without = (space(image, image["values"], name, False, with_se=w) for w in (True, False))
    assert ("noise" in with_se) == (name in LINEAR)
    assert "noise" not in without
    for key in without:
        np.testing.assert_array_equal(with_se[key], without[key])


@pytest.mark.parametrize("name", [*LINEAR, "median"])
@pytest.mark.parametrize("space", [native, template])
def test_a_voxel_that_is_hardly_known_hardly_counts(image, name: str, space) -> None:
    """One voxel is 500 off, and its standard error says so."""
    spoilt = image | {"values": image["values"].copy(), "se": image["se"].copy()}
    at = int(np.argmax(np.where(np.isfinite(image["values"]) & (LEVEL == 2), image["weights"][0], 0)))
    spoilt["values"][at] += 500
    spoilt["se"][at] = 5000.0
    spoilt["precision"] = precision(spoilt["values"], spoilt["se"], parts(spoilt["weights"]))
    assert spoilt["precision"][at] < 1e-3
    plain, weighted = (space(spoilt, spoilt["values"], name, w)["value"][0, 0] for w in (False, True))
    clean = space(image, image["values"], name, False)["value"][0, 0]
    assert abs(weighted - clean) < 3
    assert abs(weighted - clean) < abs(plain - clean) or name == "median"


@pytest.mark.parametrize("space", [native, template])
@pytest.mark.parametrize("name", LINEAR)
def test_coverage_stays_a_share_of_voxels_under_weights(image, name: str, space) -> None:
    plain, weighted = (space(image, image["values"], name, w) for w in (False, True))
    np.testing.assert_allclose(weighted["coverage"][:, :LABELS], plain["coverage"][:, :LABELS], rtol=1e-6)
    np.testing.assert_allclose(weighted["coverage"], plain["coverage"], rtol=5e-3)  # of a union, its labels are added by what they count


@pytest.mark.parametrize("space", [native, template])
@pytest.mark.parametrize("name", [*LINEAR, "median"])
def test_equal_errors_weigh_equally(image, name: str, space) -> None:
    even = image | {"se": np.where(np.isnan(image["values"]), np.nan, 0.7)}
    even["precision"] = precision(even["values"], even["se"], parts(even["weights"]))
    plain, weighted = (space(even, even["values"], name, w) for w in (False, True))
    for key in plain:
        np.testing.assert_allclose(weighted[key], plain[key], rtol=1e-5, err_msg=key)


def test_pooled_levels_keep_their_noise_through_the_store(image) -> None:
    """Of `wa` two levels at once are the whole set of voxels; errors that were packed are those that were not."""
    reach = np.ones((2, len(LEVELS), LABELS))
    args = (image["values"], image["weights"], LEVEL, reach, LEVELS, list(CLUSTERS.values()))
    sums = LevelSums.of(*args, se=image["se"])
    again = LevelSums.unpack(sums.pack(), LABELS, sums.pack_errors())
    cells = [pooled_cells(s, REGIONS, list(CLUSTERS.values()), estimator("wa"), min_coverage=0.1) for s in (sums, again)]
    w = image["weights"][:, np.isfinite(image["values"])]
    se = image["se"][np.isfinite(image["values"])]
    expected = [np.sqrt(((w[list(r)].sum(axis=0) * se) ** 2).sum()) / w[list(r)].sum() for r in REGIONS]
    for found in cells:
        np.testing.assert_allclose(found["noise"], expected, rtol=1e-5)
    assert np.isnan(LevelSums.of(*args).pack_errors()).all()


def test_voxels_of_a_template_that_share_one_of_the_image_share_its_error(image) -> None:
    atlas = Atlas(("a",), {}, {}, sparse.csr_array(np.ones((1, 8), np.float32)))
    operator = Operator.build(atlas, np.full(8, 2), [LevelRange.parse("C2")], atlas.regions)
    errors = Errors(np.full((1, 8), 0.3), np.array([4.0]))
    for name in ("wa", "bin", "ml"):
        cells = estimator(name).of_maps(operator, Maps(np.full((1, 8), 5.0), errors), min_coverage=0.5)
        assert cells["noise"].item() == pytest.approx(0.3 / np.sqrt(2), rel=1e-6), "eight voxels that are two of the image"


def test_where_tissue_itself_varies_more_than_errors_voxels_count_nearly_alike() -> None:
    rng = np.random.default_rng(1)
    se = np.tile([0.01, 0.02], 500)
    loose = precision(0.7 + rng.normal(0, 0.2, 1000), se, np.ones((1, 1000)))
    tight = precision(0.7 + rng.normal(0, 1, 1000) * se, se, np.ones((1, 1000)))
    assert loose[::2].mean() / loose[1::2].mean() < 1.05
    assert tight[::2].mean() / tight[1::2].mean() > 2.5
    assert precision(np.full(3, 0.5), np.zeros(3), np.ones((1, 3))).tolist() == [1, 1, 1]


def test_a_metric_with_errors_has_arrays_of_its_own() -> None:
    plain = schema.Metric("fa", "FA", "fractional anisotropy", "1", (0.0, 1.0), "mt")
    fa = schema.Metric("fa", "FA", "fractional anisotropy", "1", (0.0, 1.0), "mt", error=True)
    assert schema.Metric.of(fa.map) == fa
    for e in ("wa", "map", "median"):
        more = set(schema.table_specs(fa, e)) - set(schema.table_specs(plain, e))
        assert more == ({"noise"} if e != "median" else set())
    spec = schema.table_specs(fa.map, "wa", schema.SPACE_NATIVE)["noise"]
    assert (spec.path, spec.units) == ("tables/native/fa_wa_noise", "1")
    assert set(fa.quality) - set(plain.quality) == {"shared"}


def test_weights_of_a_study_reach_tables_and_answers(tmp_path) -> None:
    """Half of the voxels are measured ten times worse and are off by 0.2: with weights the tables follow the other half."""
    import pandas as pd

    from cohort_engine.config import parse_config
    from cohort_engine.query.cells import table
    from cohort_engine.query.reader import CohortReader
    from cohort_engine.reduce.cohort import tabulate
    from cohort_engine.store.maintenance import finalise
    from cohort_engine.template.parametric import parametric_cord
    from cohort_engine.testing import HandMadeStore

    template = parametric_cord(spacing=2, top="C2", bottom="C4")
    rng = np.random.default_rng(3)
    left = np.arange(len(template.packing)) % 2 == 0
    se = np.where(left, 0.2, 0.02).astype(np.float32)
    fa = (0.7 + rng.normal(0, 1, len(se)) * se + 0.2 * left).astype(np.float32)
    found = {}
    for weights in ("none", "precision"):
        url = str(tmp_path / f"{weights}.zarr")
        stages = {"metrics": ["fa"], "reduce": {"spaces": ["template"], "estimators": ["wa", "map"], "weights": weights}}
        config = parse_config({"data": {"bids": "b", "store": url}, "template": {"name": "parametric"}, "stages": stages})
        store = HandMadeStore.lay_out(config, template, pd.DataFrame({"participant_id": ["sub-01"]}), names=("fa",))
        store.write(store.rows[0], {"maps/fa": fa, "maps/fa_se": se, "qc/fa_shared": np.float32(1)})
        finalise(url, tabulate=lambda url=url: tabulate(url))
        assert tabulate(url) == 0, "nothing is old"
        reader = CohortReader(url)
        assert reader.current("fa", "wa", "template").all()
        for estimator_name in ("wa", "map"):
            held, pooled = (table(reader, "fa", "white matter", n, estimator=estimator_name).values for n in ("C3", "C3:C4"))
            found[weights, estimator_name] = float(held["value"].item()), float(pooled["value"].item()), float(held["noise"].item())
    for name in ("wa", "map"):
        plain, weighted = found["none", name], found["precision", name]
        assert weighted[2] < plain[2]
        assert max(weighted[:2]) < min(plain[:2]) - 0.02
    assert found["none", "wa"][:2] == pytest.approx((0.8, 0.8), abs=0.03)
    assert max(found["precision", "wa"][:2]) < 0.76
