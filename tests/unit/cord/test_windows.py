"""Windows: what is cut out comes back to where it was, whatever the voxels."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.cord.windows import Windows, look
from cohort_engine.nn.infer import Network
from cohort_engine.nn.unet import for_inference, seeded

torch = pytest.importorskip("torch")


def windows(shape: tuple[int, ...], spacing: tuple[float, float, float], x: float, y: float, slices: list[int]) -> Windows:
    n = len(slices)
    return Windows(shape, np.array(spacing), np.array(slices), np.full(n, x), np.full(n, y), 32, 0.5)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 3.0), (1.0, 0.8, 1.0), (0.35, 0.4, 5.0)], ids=str)
def test_a_spot_comes_back_to_its_place(spacing: tuple[float, float, float]) -> None:
    shape = (round(24 / spacing[0]), round(24 / spacing[1]), 4)
    x, y = (np.arange(n) * s for n, s in zip(shape[:2], spacing[:2], strict=True))
    spot = np.exp(-((x[:, None] - 11) ** 2 + (y - 13) ** 2) / (2 * 2**2)).astype(np.float32)
    image = np.zeros(shape, np.float32)
    image[:, :, 1], image[:, :, 2] = spot, 0.5 * spot
    where = windows(shape, spacing, 11.3, 12.1, [1, 2])
    cut = where.cut(image)
    assert cut.shape == (2, 3, 32, 32)
    back = where.paste(cut[:, 1])
    assert back[:, :, [1, 2]] == pytest.approx(image[:, :, [1, 2]], abs=0.06)
    assert not back[:, :, [0, 3]].any()
    peak = np.array(np.unravel_index(back[:, :, 1].argmax(), shape[:2])) * spacing[:2]
    assert np.abs(peak - (11, 13)).max() <= max(spacing[:2])


def test_beyond_the_image_there_is_nothing() -> None:
    shape = (20, 20, 2)
    where = windows(shape, (1.0, 1.0, 1.0), 0.0, 0.0, [0, 1])  # the centre is the image's corner
    cut = where.cut(np.ones(shape, np.float32))
    assert not cut[:, :, :13].any()
    assert (cut[:, :, 17:, 17:] == 1).all()
    assert where.paste(torch.ones(2, 32, 32)).max() <= 1


def test_left_and_right_are_looked_at_alike() -> None:
    network = Network(for_inference(seeded((8, 16), 2, seed=1).state_dict(), (8, 16), 2), size=32, spacing=0.5, multiple=2)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(look(network, image.flip(-1)), look(network, image).flip(-1))


def test_windows_in_turn_are_seen_as_they_are_and_mirrored_and_a_negative_as_its_negative() -> None:
    network = Network(for_inference(seeded((8, 16), 2, seed=1).state_dict(), (8, 16), 2), size=32, spacing=0.5, multiple=2)
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 1
    out = look(network, image, in_turn=True)
    torch.testing.assert_close(out[::2], network(image)[::2])
    torch.testing.assert_close(out[1], network(image.flip(-1)).flip(-1)[1])
    both = look(network, image, network.negative)
    torch.testing.assert_close(both, 0.5 * (network(image) + network.negative(image.flip(-1)).flip(-1)))
    torch.testing.assert_close(network.negative(image), network(3 - image), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.negative.negative(image), network(image))
