"""Slices that the border network lost, with a network that draws what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from cohort_engine.cord.curve import Curve
from cohort_engine.cord.recover import Sections, recover
from cohort_engine.cord.windows import Windows

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

torch = pytest.importorskip("torch")

N = 12
CURVE = Curve(np.arange(N) * 5.0, np.full(N, 20.0), np.full(N, 20.0), np.ones(N))
WHERE = Windows((41, 41, N), np.array([1.0, 1.0, 5.0]), np.arange(N), np.full(N, 20.0), np.full(N, 20.0), 32, 0.5)


def disc(radius: float, off: float = 0.0) -> Any:
    x = (torch.arange(32) - 15.5) * 0.5
    return (torch.hypot(x[:, None], x[None] - off) < radius).float()


class Constant:
    """A network that draws the same in each window; it counts how many it saw."""

    size, spacing, multiple = 32, 0.5, 1

    def __init__(self, radius: float) -> None:
        self.map, self.seen = disc(radius), 0

    @property
    def negative(self) -> Constant:
        return self

    def __call__(self, windows: Any, scale: Any = None) -> Any:
        self.seen += len(windows)
        return self.map.expand(len(windows), 1, 32, 32)


def again(drawn: Any, network: Constant, wanted: Any = None) -> tuple[Any, Windows]:
    image = np.random.default_rng(1).random(WHERE.shape).astype(np.float32)
    return recover(Sections.of(drawn, WHERE), image, CURVE, np.ones(N, bool) if wanted is None else wanted, cast("Network", network))


@pytest.mark.parametrize("lost", [[4], [0, 1], [4, 5, 11]])
def test_what_agrees_with_the_slices_around_is_taken(lost: list[int]) -> None:
    drawn = disc(5.0).repeat(N, 1, 1)
    drawn[lost] = 0
    out, where = again(drawn, Constant(5.2))
    assert where.slices.tolist() == list(range(N))
    assert (out[lost].sum((1, 2)) > 0.9 * disc(5.0).sum()).all()


def test_what_does_not_agree_is_left_out() -> None:
    drawn = disc(5.0).repeat(N, 1, 1)
    drawn[4] = 0
    out, _ = again(drawn, Constant(1.5))
    assert out[4].sum() == 0


def test_nothing_is_asked_where_nothing_is_lost_or_wanted() -> None:
    network = Constant(5.0)
    again(disc(5.0).repeat(N, 1, 1), network)
    drawn = disc(5.0).repeat(N, 1, 1)
    drawn[4] = 0
    again(drawn, network, np.arange(N) != 4)
    assert network.seen == 0


def test_what_lies_off_the_line_is_dropped_and_looked_for_on_it() -> None:
    """A vessel or the dens beside the cord: 7 mm from one slice to the next and back."""
    drawn = disc(4.0).repeat(N, 1, 1)
    drawn[6] = disc(3.0, off=6.5)
    out, where = again(drawn, Constant(4.0))
    assert where.x[6] == pytest.approx(20.0, abs=0.5)
    assert (out[6] * disc(4.0)).sum() > 0.9 * disc(4.0).sum()
    gone, _ = again(drawn, Constant(0.5))
    assert len(gone) == N - 1
