"""How networks of the regions are trained; files in configs/training/rois/."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cohort_engine import schema
from cohort_engine.config import Section, parse_section, read_yaml
from cohort_engine.errors import InputError
from cohort_engine.rois.slices import RoiSlices

PRIOR = "prior"
"""Channels of the parts of the cord that the registration brings, one a region."""
SMALL = "unet"
"""The small U-Net of the package, in place of a known encoder."""
LINEAR, SOFTMAX = "linear8", "softmax9"
HYBRID, HDL, MASK_L2, DICE = "hybrid", "hdl", "mask_l2", "dice"
PATIENT, SLICE = "patient", "slice"
IMAGE_ONLY, NONE, EXCHANGE = "image_only", "none", "exchange"


class NetSection(Section):
    """The network."""

    encoder: Literal["vgg16", "resnet50", "unet"] = "vgg16"
    """``vgg16`` and ``resnet50`` as published, or the package's small ``unet``."""
    width: float = Field(default=1.0, gt=0, le=1)
    """Channels of an encoder and its decoder, as a share of the published ones."""
    channels: tuple[int, ...] = (16, 32, 64, 96, 128)
    """Width of each level of the small one."""
    weights: str | None = None
    """File of initial weights of the encoder, named as torchvision's; by default random ones."""
    symmetric: bool = False
    """The network draws the left side; the right one is what it draws in the mirrored image. The sides differ in the image alone."""


class InputSection(Section):
    """What the network sees."""

    images: tuple[str, ...] = Field(default=(schema.FA,), min_length=1)
    """Images by name (``b0``, ``fa``, ``md`` ...), and ``prior``: shares of the parts of the cord by registration, eight channels."""
    norm: Literal["png8", "png8_unit", "robust"] = "png8"
    """``png8``: 0 to 255 between the smallest and largest value of a slice, rounded, as images exported to PNG; ``png8_unit``: the same, divided by
    255; ``robust``: median and spread of what lies near the middle of the window, whatever else the slice shows."""
    size: int | None = Field(default=None, ge=16)
    """Pixels a side of a window; by default the whole slice."""
    around: Literal["cord", "slice"] = "cord"
    """Where the window lies: around the middle of the cord, or of the slice, as where nobody has looked for the cord."""
    spacing: float | None = Field(default=None, gt=0)
    """Pixel size of the window, mm; by default the slice's own."""


class LossSection(Section):
    """What is made small."""

    kind: Literal["hybrid", "hdl", "mask_l2", "dice"] = "hdl"
    """``hybrid`` (Dice and focal), ``hdl`` (distance of heat maps), ``mask_l2`` (the same, of masks), ``dice`` (of each slice and region)."""
    distance: Literal["max", "min"] = "max"
    """Of ``hdl``: heat falls with the distance to a region's farthest or nearest pixel."""
    sigma: float | Literal["per_roi"] = "per_roi"
    """Of ``hdl``: width of the heat, mm; ``per_roi`` is 0.01 one extent of the region away."""
    output: Literal["linear8", "softmax9"] | None = None
    """A linear value a region, or shares of nine classes with the background; by default shares for losses that compare such, and else values."""
    reduction: Literal["paper", "code"] = "paper"
    """As the article writes its losses, or as the released code sums them up."""

    @model_validator(mode="after")
    def _shares(self) -> LossSection:
        if self.kind in (HYBRID, DICE) and self.output == LINEAR:
            raise ValueError(f"output: {SOFTMAX} with {self.kind}, which compares shares of classes")
        return self

    @property
    def shares(self) -> bool:
        """Whether the network gives shares of classes, the background last."""
        return self.output == SOFTMAX or (self.output is None and self.kind in (HYBRID, DICE))


class AugmentSection(Section):
    """How slices are varied as they are met again. By default as in the released code."""

    flip: Literal["image_only", "none", "exchange"] = "image_only"
    """Half of the slices are mirrored: ``image_only`` leaves the drawn regions where they were, ``exchange`` mirrors them too and exchanges left and
    right; ``none`` mirrors nothing."""
    scale: tuple[float, float] = (0.25, 2.0)
    """Least and largest size, as a factor."""
    jitter: float = Field(default=0.3, ge=0, lt=1)
    """Of the ratio of width to height: the quotient of two factors between 1 - jitter and 1 + jitter."""
    paste: bool = True
    """The scaled slice is put anywhere in its frame."""
    shift: float = Field(default=0.0, ge=0)
    """Largest shift in x and y, mm."""
    turn: float = Field(default=0.0, ge=0)
    """Deviation of the angle it is turned by, degrees."""
    gain: float = Field(default=0.0, ge=0)
    """Deviation of a factor on each image."""
    noise: float = Field(default=0.0, ge=0)
    """Largest deviation of noise that is added to the scaled images."""


class RoiTraining(Section):
    """Training of a network that draws the regions of a slice."""

    net: NetSection = NetSection()
    """The network."""
    input: InputSection = InputSection()
    """What it sees."""
    loss: LossSection = LossSection()
    """What is made small."""
    augment: AugmentSection = AugmentSection()
    """How slices are varied."""
    split: Literal["patient", "slice"] = "patient"
    """What is dealt to training, validation and held-out slices: patients; or slices, whatever patient they are of, which leaks."""
    fractions: tuple[float, float, float] = (0.81, 0.09, 0.10)
    """Shares of training, validation and held-out slices."""
    seed: int = 1
    """Everything random follows from it."""
    epochs: int = Field(default=500, ge=1)
    """Times that every slice is met."""
    batch: int = Field(default=16, ge=1)
    """Slices a step."""
    rate: float = Field(default=1e-4, gt=0)
    """Largest learning rate; it falls to `least` along a cosine."""
    least: float = Field(default=1e-6, gt=0)
    """Smallest learning rate, of the last `tail` epochs."""
    warm_up: int = Field(default=3, ge=0)
    """Epochs in which the rate rises."""
    tail: int = Field(default=15, ge=0)
    """Last epochs, at the smallest rate."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Share of the average of all weights that a step leaves in place; 0: no average, and the epoch with the lowest validation loss counts."""
    members: int = Field(default=1, ge=1)
    """So many networks, whose mean answer counts. Of several each is trained without one of as many parts of the training and validation slices, and
    thresholds are chosen on what each says of the part that it has not seen."""
    threshold: Literal["pooled_iou", "mean_dice"] = "pooled_iou"
    """What thresholds are chosen by, on the validation slices."""
    wrong_side: float | None = Field(default=None, gt=0, lt=1)
    """Largest share of a region's pixels that may lie in regions drawn on the other side, on the validation slices. Heat of the other side counts
    against the region's own, by so much as it takes."""
    midline: bool = False
    """Heat is dealt to left and right by one midline for all slices of a person: the registered one, moved by what they say together. For losses of
    shares."""
    mirror: bool = False
    """Predictions are the mean of those of the slice and of the mirrored one, sides exchanged."""
    fill: bool = False
    """A pixel has only its likeliest region; a region without a pixel above its threshold takes the likeliest ones, as many as it had on average in
    training."""
    half: bool = False
    """Multiply in bfloat16."""
    device: str = "auto"
    """``auto`` is the GPU where there is one, else the CPU."""
    threads: int = Field(default=1, ge=1)
    """CPU threads."""

    @model_validator(mode="after")
    def _learnable(self) -> RoiTraining:
        if self.loss.shares and self.loss.kind in (HDL, MASK_L2) and self.net.encoder != SMALL:
            raise ValueError(
                f"loss.output: {LINEAR} with {self.loss.kind} and {self.net.encoder}. The gradient of a region's logit is p (1 - p) times that of "
                "its share p; these encoders answer every pixel alike at first, all pixels push p down, and nothing brings it back from 0"
            )
        return self

    @property
    def inputs(self) -> int:
        """Channels that the network sees."""
        return sum(len(schema.ROIS) if name == PRIOR else 1 for name in self.input.images)

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return len(schema.ROIS) + self.loss.shares


def load_training(path: str | Path) -> RoiTraining:
    """Read a training file.

    Raises
    ------
    ConfigError
        A key that is not known, or a value that does not fit.
    """
    return parse_section(RoiTraining, read_yaml(Path(path)), where=Path(path).name)


def split(
    slices: RoiSlices, *, by: str = PATIENT, fractions: tuple[float, ...] = (0.81, 0.09, 0.10), seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Deal slices to training, validation and held-out ones.

    Parameters
    ----------
    slices : RoiSlices
    by : str
        ``"patient"``: all slices of a patient go together; ``"slice"``: each goes by itself, so that patients are on both sides.
    fractions : three floats
        Shares; what they leave is held out.
    seed : int

    Returns
    -------
    three (slice,) int arrays
        In ascending order, disjoint, together all slices.

    Raises
    ------
    InputError
        A part would be empty.

    Examples
    --------
    >>> drawn = np.zeros((20, 8, 2, 2), bool)
    >>> some = RoiSlices({}, drawn, drawn[:, 0], np.arange(20) // 2, np.arange(20) % 2, np.ones(2))
    >>> parts = split(some, fractions=(0.6, 0.2, 0.2))
    >>> [len(p) for p in parts], [len(set(some.patient[p])) for p in parts]
    ([12, 4, 4], [6, 2, 2])
    """
    of = slices.patient if by == PATIENT else np.arange(len(slices))
    names = np.unique(of)
    order = np.random.default_rng(seed).permutation(names)
    first = max(1, round(fractions[0] * len(order)))
    second = first + max(1, round(fractions[1] * len(order)))
    parts = [np.flatnonzero(np.isin(of, part)) for part in (order[:first], order[first:second], order[second:])]
    if not len(parts[1]) or (fractions[2] > 0 and not len(parts[2])):
        raise InputError(
            expected="slices for training, validation and a test", found=f"{len(names)} {'patients' if by == PATIENT else 'slices'}",
            where="split", remedy="Give more of them, or other fractions.",
        )  # fmt: skip
    return parts[0], parts[1], parts[2]


def folds(slices: RoiSlices, count: int, *, by: str = PATIENT, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Part slices in `count` parts of like size: masks (slice,), each slice in one of them.

    Parameters
    ----------
    slices, by, seed
        As of `split`.
    count : int

    Raises
    ------
    InputError
        Fewer patients, or slices, than parts.

    Examples
    --------
    >>> drawn = np.zeros((6, 8, 2, 2), bool)
    >>> some = RoiSlices({}, drawn, drawn[:, 0], np.array([4, 4, 5, 5, 6, 6]), np.arange(6), np.ones(2))
    >>> np.add(*folds(some, 2)).tolist(), [len(set(some.patient[part])) for part in folds(some, 2)]
    ([True, True, True, True, True, True], [2, 1])
    """
    of = slices.patient if by == PATIENT else np.arange(len(slices))
    order = np.random.default_rng(seed).permutation(np.unique(of))
    if len(order) < count:
        raise InputError(
            expected=f"{count} or more {'patients' if by == PATIENT else 'slices'}, one for each member", found=f"{len(order)}", where="members",
            remedy="Give more of them, or train fewer members.",
        )  # fmt: skip
    return [np.isin(of, order[i::count]) for i in range(count)]


def check_apart(train: RoiSlices, other: RoiSlices) -> None:
    """Refuse patients that are in both.

    Raises
    ------
    InputError
    """
    both = np.intersect1d(train.patient, other.patient)
    if len(both):
        raise InputError(
            expected="patients who are in one part of the data alone", found=f"{len(both)} in two", where="split by patient",
            remedy="Number patients of different files apart, or say split: slice to have it so.",
        )  # fmt: skip


def varied(config: RoiTraining, changes: dict[str, Any]) -> RoiTraining:
    """Change some settings of a configuration, section by section.

    Examples
    --------
    >>> varied(RoiTraining(), {"net": {"width": 0.25}, "seed": 3}).net.width
    0.25
    """
    from cohort_engine.config import merged

    return parse_section(RoiTraining, merged(config.model_dump(mode="json"), changes), where="settings of a training")
