from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.rois.targets import extents, heat_maps, with_background


def blob(shape: tuple[int, int], *pixels: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[tuple(np.array(pixels).T)] = True
    return out


def by_hand(drawn, spacing, distance, sigma):
    at = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(drawn.shape, spacing, strict=True)), indexing="ij"), -1)
    gap = np.linalg.norm(at[:, :, None] - at[drawn], axis=-1)
    d = gap.max(-1) if distance == "max" else gap.min(-1)
    return np.where(drawn, 1, np.exp(-(d**2) / (2 * sigma**2)))


@pytest.mark.parametrize("distance", ["max", "min"])
def test_heat_is_that_of_the_distance_to_every_pixel(distance) -> None:
    r = np.random.default_rng(1)
    drawn = r.random((5, 8, 12, 9)) < 0.1
    drawn[0, 0] = False
    drawn[1, 1] = blob((12, 9), (3, 2), (3, 3), (9, 7))  # rows without a pixel between
    heat = heat_maps(drawn, (0.6, 1.1), distance=distance, sigma=1.7)
    for i, j in np.ndindex(5, 8):
        expected = by_hand(drawn[i, j], (0.6, 1.1), distance, 1.7) if drawn[i, j].any() else 0 * heat[i, j]
        np.testing.assert_allclose(heat[i, j], expected, atol=1e-6)


def test_sigma_makes_heat_a_hundredth_one_extent_away() -> None:
    drawn = np.zeros((1, 20, 20), bool)
    drawn[0, 4:8, 6:9] = True
    assert extents(drawn, (0.5, 0.5)) == 2.0
    heat = heat_maps(drawn, (0.5, 0.5), distance="min")[0]
    assert heat[11, 7] == pytest.approx(0.01)  # 4 pixels from the nearest
    assert heat[4:8, 6:9].min() == 1


def test_published_distance_leaves_hardly_any_heat_outside_a_compact_region() -> None:
    """So the published loss is nearly the distance to the mask; with the nearest pixel there would be more heat outside than inside."""
    x, y = np.meshgrid(np.arange(24), np.arange(24), indexing="ij")
    for radius, pixels in ((1.9, 9), (2.1, 13), (2.3, 21)):
        drawn = ((x - 12) ** 2 + (y - 12) ** 2 < radius**2)[None]
        assert drawn.sum() == pixels
        outside = [float(heat_maps(drawn, (0.63, 0.63), distance=d)[~drawn].sum()) for d in ("max", "min")]
        assert outside[0] < 0.05 * pixels
        assert outside[1] > pixels


def test_background_is_what_regions_leave() -> None:
    regions = np.zeros((1, 2, 1, 3), np.float32)
    regions[0, :, 0] = [[1, 0, 0.2], [0, 0, 0.5]]
    np.testing.assert_allclose(with_background(regions)[0, 2, 0], [0, 1, 0.5])
