"""Slices onto a network's pixels and back: areas are kept, any size goes through, batches do not matter."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import told
from cohort_engine.nn import infer
from cohort_engine.nn.infer import Network, neighbours, resampling
from cohort_engine.nn.speed import speed
from cohort_engine.nn.unet import for_inference, seeded

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(for_inference(seeded((8, 16, 16), 2, seed=1).state_dict(), (8, 16, 16), 2), size=32, spacing=1.0, multiple=4)


@pytest.mark.parametrize(("source", "target"), [(0.4, 0.5), (0.9, 0.5), (0.5, 0.5), (2.0, 0.5), (0.5, 1.5)])
def test_a_flat_image_stays_flat_and_a_ramp_a_ramp(source: float, target: float) -> None:
    at = torch.arange(5.0, 15.0, target)
    matrix = resampling(60, source, at, target)
    inside = at < 59 * source - 2
    torch.testing.assert_close(matrix.sum(-1)[inside], torch.ones(int(inside.sum())), atol=1e-5, rtol=0)
    ramp = matrix @ (torch.arange(60) * source)
    assert float((ramp - at)[inside].abs().max()) <= 0.26 * min(source, target)  # a box mean is not centred between samples


@pytest.mark.parametrize("spacing", [0.3, 0.7, 1.1])
def test_there_and_back_keeps_the_area(spacing: float) -> None:
    n, h = 40, 0.5
    width = round(n * h / spacing) - 2
    line = torch.zeros(width)
    line[width // 3 : 2 * width // 3] = 1.0
    at = (torch.arange(n) - (n - 1) / 2) * h + (width - 1) / 2 * spacing
    there = resampling(width, spacing, at, h) @ line
    back = resampling(n, h, torch.arange(width) * spacing - at[0], spacing) @ there
    assert float(back.sum()) == pytest.approx(float(line.sum()), rel=0.03)
    assert float((back - line).abs().max()) <= 0.5


def test_the_ends_are_their_own_neighbours() -> None:
    data = np.arange(5, dtype=np.float32)[None, None] * np.ones((2, 3, 1), np.float32)
    assert neighbours(data, np.array([0, 2, 4]), gap=1.0)[:, :, 0, 0].tolist() == [[0, 0, 1], [1, 2, 3], [3, 4, 4]]
    assert neighbours(data, np.array([2]), gap=0.3)[:, :, 0, 0].tolist() == [[0, 2, 4]]  # at least 0.6 mm away


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (7, 90)])
def test_any_size_goes_through(network: Network, size: tuple[int, int]) -> None:
    out = network(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)))
    assert out.shape == (2, 2, *size)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_a_batch_is_its_slices(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = network(slices)
    monkeypatch.setattr(infer, "PIXELS", 2 * 32 * 32)
    torch.testing.assert_close(network(slices), whole, atol=1e-5, rtol=1e-4)


class Small(torch.nn.Module):
    """A device whose memory holds so many slices of a batch; of those in bfloat16 alone, as on a GPU."""

    def __init__(self, net: torch.nn.Module, holds: int) -> None:
        super().__init__()
        self.net, self.holds, self.batches = net, holds, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bfloat16 and len(x) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(x))
        return self.net(x)


@pytest.fixture
def small(network: Network, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Network]:
    monkeypatch.setattr(infer, "ROOM", {})
    return lambda holds: replace(network, module=Small(deepcopy(network.module).to(torch.bfloat16), holds))


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(network: Network, small: Callable[[int], Network]) -> None:
    slices = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tight = small(3)
    torch.testing.assert_close(tight(slices), network(slices), atol=0.02, rtol=0)
    assert tight.module.batches == [2, 2, 2, 2, 2]  # 10, 5 were too many
    tight(slices[:4])
    assert tight.module.batches[5:] == [2, 2]


def test_where_no_slice_fits_the_cpu_computes_and_it_is_told(network: Network, small: Callable[[int], Network]) -> None:
    slices = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with told() as notes:
        found = small(0)(slices)
    torch.testing.assert_close(found, network(slices), atol=0.02, rtol=0)
    assert notes == ["network: computed on the CPU, since not even one slice fits into the memory of the GPU"]


def test_speed_is_measured_of_every_network() -> None:
    found = speed("cpu", subjects=(1,), seconds=0.0)
    assert [s.network for s in found] == ["cord, coarse", "cord, fine", "discs", "grey"]
    for s in found:
        assert s.slices > 0
        assert s.gigabytes > 0
