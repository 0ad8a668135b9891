import numpy as np
import pytest

from cohort_engine.phantom.anatomy import draw_anatomy
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C2", bottom="C7")


@pytest.mark.parametrize("seed", range(4))
def test_there_and_back(cord, seed):
    anatomy = draw_anatomy(cord, np.random.default_rng(seed), severity=0.8)
    xyz = cord.packing.xyz[::37] * [1.5, 1.5, 1.0]
    assert np.abs(anatomy.template(anatomy.world(xyz)) - xyz).max() < 1e-3
    guess = xyz[:, 2] + 2.5
    assert np.abs(anatomy.template(anatomy.world(xyz), start=guess, iterations=2) - xyz).max() < 0.03


def test_the_frame_is_right_handed_and_looks_right(cord):
    anatomy = draw_anatomy(cord, np.random.default_rng(0), severity=0.0)
    np.testing.assert_allclose(np.cross(anatomy.e_x, anatomy.e_y), anatomy.tangent, atol=1e-9)
    assert anatomy.e_x[:, 0].min() > 0.95
    assert anatomy.tangent[:, 2].min() > 0.8


def test_jacobian_is_the_volume_ratio(cord):
    anatomy = draw_anatomy(cord, np.random.default_rng(3), severity=0.7)
    at, h = np.array([*anatomy.centre[len(anatomy.z) // 2], anatomy.z[len(anatomy.z) // 2]]), 0.4
    columns = [(anatomy.world(at + h * e) - anatomy.world(at - h * e)) / (2 * h) for e in np.eye(3)]
    assert np.linalg.det(np.stack(columns, 1)) == pytest.approx(anatomy.jacobian(at[2]), rel=0.01)


def test_compression_is_local_and_thins_the_cord(cord):
    healthy, ill = (draw_anatomy(cord, np.random.default_rng(0), severity=s) for s in (0.0, 1.0))
    at = ill.compressed_z
    assert ill.area_factor(at) / healthy.area_factor(at) == pytest.approx(0.55 * 1.12, abs=0.01)
    assert ill.area_factor(at + 40) == pytest.approx(healthy.area_factor(at + 40), rel=1e-3)
    assert abs(at - cord.landmark_z("disc", 6)) <= 4
