from __future__ import annotations

import math

import pytest
import torch

from cohort_engine.nn.losses import distance_of_maps, hybrid, soft_dice


def classes(*rows: list[float]) -> torch.Tensor:
    """One slice of one row of pixels, one list a class."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None]


def test_hybrid_loss_of_two_pixels_by_hand() -> None:
    target = classes([1, 0], [0, 1])
    p = classes([0.8, 0.3], [0.2, 0.7])
    tp, fn, fp = 0.8, 0.2, 0.3
    focal = -(0.2**2 * math.log(0.8) + 0.3**2 * math.log(0.7)) / 2
    assert float(hybrid(p.log(), target)) == pytest.approx(2 - tp / (tp + fn + fp) + focal, abs=1e-4)
    assert float(hybrid(p.log(), target, reduction="code")) == pytest.approx(1 - 2 * tp / (2 * tp + fn + fp) + 0.5 * focal, abs=1e-4)


def test_distance_of_maps_by_hand() -> None:
    output = torch.zeros(4, 2, 1, 2, dtype=torch.float64)
    output[0, 0, 0], output[1, 1, 0], output[3, 0, 0] = (torch.tensor(v) for v in ([3.0, 4.0], [0.0, 12.0], [8.0, 0.0]))
    zero = torch.zeros_like(output)
    assert float(distance_of_maps(output, zero)) == pytest.approx((5 + 12 + 8) / 4, abs=1e-4)
    # two rows: all classes of images 0 and 1, and of images 2 and 3
    assert float(distance_of_maps(output, zero, reduction="code")) == pytest.approx(math.hypot(5, 12) + 8, abs=1e-4)


def test_reductions_weigh_images_differently() -> None:
    """As the released code sums, the gradient of an image depends on those beside it; not as the article writes it."""
    good, bad = torch.full((1, 8, 4, 4), 0.1, dtype=torch.float64), torch.ones(1, 8, 4, 4, dtype=torch.float64)
    for reduction, same in (("paper", True), ("code", False)):
        gradients = []
        for other in (good, bad):
            batch = torch.cat([good] + [other] * 15).requires_grad_()
            distance_of_maps(batch, torch.zeros_like(batch), reduction=reduction).backward()
            gradients.append(batch.grad[0])
        assert torch.allclose(*gradients) == same


def test_dice_counts_drawn_regions_of_each_slice() -> None:
    target = torch.zeros(2, 3, 1, 4, dtype=torch.float64)
    target[0, 0, 0, 0] = target[1, 0, 0, 1] = target[0, 1, 0, 1] = 1  # region 1 is not drawn in slice 1
    target[:, 2] = 1 - target[:, :2].sum(1)
    p = torch.full((2, 3, 1, 4), 0.25, dtype=torch.float64)
    p[:, 2] = 0.5
    each = 2 * 0.25 / (1 + 1)
    assert float(soft_dice(p.log(), target, entropy=0)) == pytest.approx(1 - each, abs=1e-4)


@pytest.mark.parametrize("loss", [hybrid, distance_of_maps, soft_dice])
@pytest.mark.parametrize("reduction", ["paper", "code"])
def test_gradients(loss, reduction) -> None:
    r = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=r).requires_grad_()
    target = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=r).softmax(1)
    more = {} if loss is soft_dice else {"reduction": reduction}
    assert torch.autograd.gradcheck(lambda x: loss(x, target, **more), logits)


def test_gradient_is_a_number_where_maps_agree() -> None:
    output = torch.zeros(1, 2, 2, 2, requires_grad=True)
    distance_of_maps(output, torch.zeros(1, 2, 2, 2)).backward()
    assert torch.equal(output.grad, torch.zeros(1, 2, 2, 2))
