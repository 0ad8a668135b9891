"""Losses of the DTI study (doi 10.3390/diagnostics13050817) as its article has them and as its released code computes them, and ours.

All take tensors (n, channel, x, y); the background, where there is one, is the last channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

PAPER, CODE = "paper", "code"
REDUCTIONS: Final = (PAPER, CODE)
ALPHA, GAMMA = 0.5, 2.0
"""Weight and exponent of the focal term."""
SMOOTH: Final = 1e-5


def hybrid(logits: Tensor, target: Tensor, *, reduction: str = PAPER, alpha: float = ALPHA, gamma: float = GAMMA) -> Tensor:
    """Dice and focal loss together.

    ``"paper"``: ``C - sum_{i<C} TP / (TP + FN + FP) - 1/N sum_c sum_n g (1 - p)^gamma log p``, sums over all N pixels of the batch.
    ``"code"``: one minus the mean F1 of the regions, ``2 TP / (2 TP + FN + FP)``, plus `alpha` times the focal term.

    Parameters
    ----------
    logits : (n, C, x, y) tensor
    target : (n, C, x, y) tensor
        Share of each class, which sum to one.

    Examples
    --------
    >>> import torch
    >>> target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> logits = torch.zeros(1, 2, 1, 2)  # p = 1/2: TP = FN = FP = 1/2, focal 1/4 log 2
    >>> round(float(hybrid(logits, target)), 3), round(2 - 1 / 3 + 0.25 * 0.6931, 3)
    (1.84, 1.84)
    >>> round(float(hybrid(logits, target, reduction="code")), 3), round(1 - 1 / 2 + 0.5 * 0.25 * 0.6931, 3)
    (0.587, 0.587)
    """
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    both, drawn, found = ((x[:, :-1]).sum((0, 2, 3)) for x in (p * target, target, p))
    focal = -(target * (1 - p) ** gamma * log_p).sum(1).mean()
    if reduction == PAPER:
        return logits.shape[1] - (both / (drawn + found - both + SMOOTH)).sum() + focal
    return 1 - ((2 * both + SMOOTH) / (drawn + found + SMOOTH)).mean() + alpha * focal


def distance_of_maps(output: Tensor, heat: Tensor, *, reduction: str = PAPER) -> Tensor:
    """Heatmap-distance loss: the sum over classes of the Euclidean norm of the difference of two maps.

    ``"paper"`` takes the norm of each class of each image, and the mean over images. ``"code"`` reshapes the batch to as many rows as there are
    classes, without moving the axis of the images: each row holds all classes of a few images, and norms are of those.

    Parameters
    ----------
    output, heat : (n, C, x, y) tensor

    Examples
    --------
    >>> import torch
    >>> output = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).view(2, 2, 1, 1)
    >>> heat = torch.zeros(2, 2, 1, 1)
    >>> [round(float(distance_of_maps(output, heat, reduction=r)), 3) for r in REDUCTIONS]  # (3 + 4) / 2; sqrt(3^2 + 4^2)
    [3.5, 5.0]
    """
    gap = output - heat
    if reduction == PAPER:
        return _norm(gap.flatten(2)).sum(1).mean()
    return _norm(gap.contiguous().reshape(gap.shape[1], -1)).sum()


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm along the last axis, with a gradient of zero where it is zero."""
    return (x.square().sum(-1) + 1e-12).sqrt()


def soft_dice(logits: Tensor, target: Tensor, *, entropy: float = 0.2) -> Tensor:
    """One minus the mean Dice of regions and slices, each by itself, plus `entropy` times the cross entropy.

    A region that was not drawn in a slice does not count.

    Parameters
    ----------
    logits, target : (n, C, x, y) tensor
        As for `hybrid`.

    Examples
    --------
    >>> import torch
    >>> target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> round(float(soft_dice(torch.zeros(1, 2, 1, 2), target, entropy=0.0)), 3)  # 2 x 1/2 / (1 + 1)
    0.5
    """
    log_p = logits.log_softmax(1)
    p, g = log_p.exp()[:, :-1], target[:, :-1]
    drawn = g.sum((2, 3))
    there = (drawn > 0).to(p.dtype)
    dice = (2 * (p * g).sum((2, 3)) + SMOOTH) / (p.sum((2, 3)) + drawn + SMOOTH)
    return 1 - (dice * there).sum() / there.sum().clamp(min=1) - entropy * (target * log_p).sum(1).mean()
