"""The parametric cord, checked against the formulas and the published numbers it is made from."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.errors import CohortError, LevelError, TemplateError, UnknownNameError
from cohort_engine.template.base import Template
from cohort_engine.template.parametric import LABELS, SECTIONS, SUBSAMPLE, TRACTS, parametric_cord

PUBLISHED_AREA = {1: 73.96, 2: 71.65, 3: 72.48, 4: 77.35, 5: 76.38, 6: 69.13, 7: 56.76, 8: 46.84, 9: 41.83}
"""Mean cross-sectional area by level (mm2), doi:10.1162/imag_a_00075."""


@pytest.fixture(scope="module")
def fine() -> Template:
    return parametric_cord()


@pytest.fixture(scope="module")
def coarse() -> Template:
    return parametric_cord(spacing=1.0)


def dense(t: Template, rows: slice | list[int]) -> np.ndarray:
    return t.packing.unpack(np.asarray(t.atlas.weights[rows].sum(axis=0)), fill=0)


def test_the_area_of_each_level_is_the_published_one(fine):
    pixel = float(fine.grid.spacing[:2].prod())
    area = {n: fine.cord[:, :, fine.slice_level == n].sum(axis=(0, 1)).mean() * pixel for n in PUBLISHED_AREA}
    assert area == pytest.approx(PUBLISHED_AREA, rel=0.015)


@pytest.mark.parametrize(("name", "axis"), [("rl", 0), ("ap", 1)])
def test_diameters_at_mid_level(fine, name, axis):
    for n, section in enumerate(SECTIONS.values(), start=1):
        if n in fine.landmarks["body"]:
            k = int(np.rint(fine.grid.voxel(np.array([0, 0, fine.landmark_z("body", n)]))[2]))
            line = fine.cord[:, :, k].take(fine.grid.shape[1 - axis] // 2, axis=1 - axis)
            assert line.sum() * 0.5 == pytest.approx(getattr(section, name), abs=SUBSAMPLE)


def test_spacing_changes_the_sampling_not_the_cord(fine, coarse):
    assert (fine.cord.sum() * 0.5**3) == pytest.approx(coarse.cord.sum(), rel=0.002)
    fine_volume, volume = fine.atlas.weights.sum(axis=1) * 0.5**3, coarse.atlas.weights.sum(axis=1)
    np.testing.assert_allclose(fine_volume, volume, rtol=0.01)
    assert fine.landmarks == coarse.landmarks


@pytest.mark.parametrize("spacing", [0.4, 0.5, 1.0, 2.0])
def test_labels_are_parts_of_a_whole(spacing):
    t = parametric_cord(spacing=spacing, top="C4", bottom="C5")
    assert t.atlas.weights.data.min() > 0
    assert t.atlas.weights.data.max() <= 1
    np.testing.assert_allclose(dense(t, slice(0, 30)), t.wm, atol=1e-6)
    np.testing.assert_allclose(dense(t, slice(30, 36)), t.gm, atol=1e-6)
    np.testing.assert_allclose(t.wm + t.gm, t.cord, atol=1e-6)
    assert (t.cord + t.csf).max() <= 1 + 1e-6
    x, y = (t.grid.world(np.stack(np.indices(t.grid.shape), axis=-1).astype(float))[..., a] for a in (0, 1))
    deep = (x / 5) ** 2 + (y / 2.5) ** 2 < 1
    np.testing.assert_allclose(t.cord[deep], 1, atol=1e-6)


def test_the_contour_surrounds_the_cord_by_a_millimetre(fine):
    contour = dense(fine, [36])
    k = int(np.flatnonzero(fine.slice_level == 5).mean())
    middle = fine.grid.shape[0] // 2
    assert contour[middle, :, k].sum() * 0.5 == pytest.approx(2.0, abs=0.01)
    assert (contour[fine.cord > 0.999] == 0).all()
    assert (fine.csf >= contour - 1e-6).all()


def test_left_is_minus_x_and_mirrors_right(fine):
    x = fine.atlas.weights @ fine.packing.xyz[:, 0] / fine.atlas.weights.sum(axis=1)
    for i in range(0, 36, 2):
        assert " left " in LABELS[i]
        assert LABELS[i + 1] == LABELS[i].replace(" left ", " right ")
        assert x[i] < 0
        np.testing.assert_array_equal(dense(fine, [i]), dense(fine, [i + 1])[::-1])


@pytest.mark.parametrize(
    ("label", "side", "behind"),
    [
        ("fasciculus gracilis", 0.6, True),
        ("lateral corticospinal tract", 3.9, True),
        ("ventral corticospinal tract", 0.3, False),
        ("dorsal horn", 2.4, True),
    ],
)
def test_dorsal_things_lie_dorsally(fine, label, side, behind):
    (members,) = {r.members for r in fine.atlas.bilateral if r.name.endswith(label)}
    w = fine.atlas.weights[[members[1]]].toarray()[0]
    x, y, _ = w @ fine.packing.xyz / w.sum()
    assert x == pytest.approx(side, abs=0.3)
    assert (y < 0) == behind


def test_the_enlargement_has_the_widest_ventral_horns(fine):
    horns = dense(fine, [30, 31]).sum(axis=(0, 1))
    by_level = [horns[fine.slice_level == n].mean() for n in range(1, 10)]
    assert int(np.argmax(by_level)) + 1 == 5


def test_every_label_has_a_few_hundred_voxels(fine):
    assert fine.atlas.weights.sum(axis=1).min() > 300


def test_levels_run_between_discs(fine):
    assert fine.levels == ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2")
    for n in range(1, 10):
        z = fine.grid.world(np.stack([np.zeros_like(k := np.flatnonzero(fine.slice_level == n)), k * 0, k], axis=1).astype(float))[:, 2]
        assert fine.landmark_z("disc", n) > z.max() > fine.landmark_z("body", n) > z.min() > fine.landmark_z("disc", n + 1)
        assert z.max() - z.min() + 0.5 == list(SECTIONS.values())[n - 1].height


def test_a_part_of_the_cord_is_the_same_cord():
    whole, part = parametric_cord(spacing=1.0), parametric_cord(spacing=1.0, top="C3", bottom="C4")
    slices = np.isin(whole.slice_level, (3, 4))
    np.testing.assert_array_equal(whole.cord[:, :, slices], part.cord)
    assert part.landmarks["disc"] == {n: whole.landmark_z("disc", n) for n in (3, 4, 5)}
    assert part.grid.affine[2, 3] == whole.grid.affine[2, 3] + np.flatnonzero(slices)[0]


def test_the_same_arguments_give_the_same_object_and_the_same_numbers():
    one = parametric_cord(spacing=2.0)
    assert parametric_cord(spacing=2.0) is one
    assert parametric_cord.__wrapped__(spacing=2.0).digest == one.digest
    assert parametric_cord(spacing=1.0).digest != one.digest


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spacing": 0}, TemplateError, "voxel size"),
        ({"spacing": 3.0}, TemplateError, "voxel size"),
        ({"top": "C5", "bottom": "C3"}, LevelError, "at or below C5"),
        ({"bottom": "L1"}, LevelError, "C1 C2 .* T4"),
        ({"top": "C9"}, UnknownNameError, "Did you mean"),
    ],
)
def test_impossible_cords_are_refused(arguments: dict[str, object], error: type[CohortError], message: str):
    with pytest.raises(error, match=message):
        parametric_cord(**arguments)  # type: ignore[arg-type]


def test_tracts_are_fifteen_a_side():
    assert len(TRACTS) == 15
    assert len(LABELS) == len(set(LABELS)) == 37


def test_the_digest_is_the_same_on_every_processor():
    """Only sums, products and quotients of single numbers enter it, whose every bit is defined; `make test-processors` looks with other kernels."""
    assert parametric_cord(spacing=1.0, top="C3", bottom="C5").digest == "6afd8d32a71d9561"
