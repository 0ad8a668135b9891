"""The packaged networks on drawn cords: every contrast and geometry finds the same cord, and what is no cord is empty and flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.segment import ABSENT, BROKEN, PARTIAL, fluid_is_bright, segment
from cohort_engine.cord.windows import Windows
from cohort_engine.errors import ConfigError, CordError, InputError
from cohort_engine.nn.weights import CORD, DISCS, GREY, card, load_cord
from cohort_engine.phantom import spoil

pytest.importorskip("torch")

AP, RL = 7.5, 12.0  # mm
TONES = {"T2w": (0.35, 1.0, 0.3, 0.15), "T1w": (0.7, 0.25, 0.45, 0.8), "T2*": (0.6, 1.0, 0.7, 0.4)}
"""Contrast -> cord, fluid, bone, background."""


def drawn(
    spacing: tuple[float, float, float],
    contrast: str = "T2w",
    *,
    size: tuple[float, float, float] = (60.0, 70.0, 60.0),
    lean: float = 0.1,
    seed: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
    """Image, affine and cord of an elliptic cord in a canal behind a vertebral body; it leans to the front by `lean` and bends."""
    rng = np.random.default_rng(seed)
    shape = [round(extent / s) for extent, s in zip(size, spacing, strict=True)]
    x, y, z = (
        np.arange(n)[tuple(slice(None) if a == i else None for i in range(3))] * s for a, (n, s) in enumerate(zip(shape, spacing, strict=True))
    )
    x, y, z = x - size[0] / 2, y - size[1] / 2 - lean * (z - size[2] / 2), z - size[2] / 2
    y = y + 2 * np.sin(z / 20)
    radius = np.hypot(x / (RL / 2), y / (AP / 2))
    cord, fluid, bone, rest = TONES[contrast]
    muscle = ndimage.gaussian_filter(rng.normal(size=shape), [4 / s for s in spacing])
    image = rest + 0.1 * muscle / muscle.std()
    image = np.where((np.abs(x) < 13) & (y > 9) & (y < 25), bone, image)
    image = np.where(np.hypot(x / 10.5, y / 7.5) < 1.25, 0.1, image)
    image = np.where(np.hypot(x / 10.5, y / 7.5) < 1, fluid, image)
    image = np.where(radius < 1, cord, image)
    image = ndimage.gaussian_filter(image, [0.4, 0.4, 0.0]) + 0.02 * rng.normal(size=shape)
    return image.astype(np.float32).clip(0), np.diag([*spacing, 1.0]), np.broadcast_to(radius < 1, image.shape)


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("contrast", TONES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0), (0.9, 0.9, 10.0), (2.2, 0.8, 0.8)], ids=str)
def test_every_contrast_and_resolution(contrast: str, spacing: tuple[float, float, float]) -> None:
    image, affine, cord = drawn(spacing, contrast)
    found = segment(image, affine)
    assert dice(found.mask, cord) > 0.87  # the border lies 0.25 mm inside by intent: 0.95 at most
    assert found.flags == ()
    assert found.confidence.min() > 0.5


def test_soft_and_binary_belong_together() -> None:
    image, affine, _ = drawn((1.0, 1.0, 1.0))
    found = segment(image, affine)
    assert found.soft.dtype == np.float32
    assert found.soft.min() >= 0
    assert found.soft.max() <= 1
    assert (found.soft[found.mask] >= 0.5).mean() > 0.99  # holes are filled
    assert abs(found.soft.sum() / found.mask.sum() - 1) < 0.08
    assert all(ndimage.label(found.mask[:, :, z])[1] == 1 for z in found.slices)


def test_the_centreline_is_the_cord_s_in_world_millimetres() -> None:
    image, affine, cord = drawn((0.8, 0.8, 3.0))
    affine[:3, 3] = -20.0, 30.0, -100.0
    found = segment(image, affine)
    truth = np.array([ndimage.center_of_mass(cord[:, :, z]) for z in range(cord.shape[2])]) * 0.8 + [-20.0, 30.0]
    assert np.hypot(*(found.points[:, :2] - truth).T).max() < 1.5
    assert found.points[:, 2].tolist() == pytest.approx((np.arange(cord.shape[2]) * 3.0 - 100).tolist())
    assert found.centreline.length == pytest.approx(57.5, abs=1.5)


def test_unit_and_offset_of_the_grey_values_do_not_matter() -> None:
    image, affine, _ = drawn((1.0, 1.0, 3.0))
    plain, scaled = (segment(i, affine).mask for i in (image, image * 1000))
    assert dice(plain, scaled) > 0.995


def test_missing_values_are_no_signal() -> None:
    image, affine, cord = drawn((1.0, 1.0, 3.0))
    image[:5] = np.nan
    assert dice(segment(image, affine).mask, cord) > 0.87


def test_bfloat16_draws_the_same_cord() -> None:
    image, affine, _ = drawn((1.0, 1.0, 3.0))
    full, half = (segment(image, affine, networks=load_cord(device="cpu", half=h)).mask for h in (False, True))
    assert dice(full, half) > 0.98


@pytest.mark.parametrize("kind", ["noise", "blobs", "fluid without cord"])
def test_no_cord_is_an_empty_mask_and_a_flag(kind: str) -> None:
    rng = np.random.default_rng(3)
    image = rng.rayleigh(size=(70, 70, 50))
    if kind == "blobs":
        image = np.abs(ndimage.gaussian_filter(rng.normal(size=image.shape), 4))
    if kind == "fluid without cord":
        image, _, cord = drawn((1.0, 1.0, 1.0), "T2w", size=(60.0, 70.0, 50.0))
        image = np.where(ndimage.binary_dilation(cord, iterations=1), 1.0, image)
    found = segment(image.astype(np.float32), np.eye(4))
    assert found.flags == (ABSENT,)
    assert not found.mask.any()
    assert not found.soft.any()
    assert np.isnan(found.points).all()
    with pytest.raises(CordError, match="at least two slices"):
        _ = found.centreline


def test_one_slice() -> None:
    image, affine, cord = drawn((0.5, 0.5, 5.0))
    found = segment(image[:, :, 5:6], affine)
    assert dice(found.mask, cord[:, :, 5:6]) > 0.87
    with pytest.raises(CordError):
        _ = found.centreline


def test_noise_in_the_air_and_the_field_of_view_change_nothing() -> None:
    """A cord in 60 mm, and the same in 300 mm of which most is noise; bright and dark swapped; resampled."""
    image, affine, cord = drawn((1.0, 1.0, 5.0))
    plain = segment(image, affine)
    rng = np.random.default_rng(1)
    wide, first = spoil.field_of_view(spoil.noisy(image, 0.03, rng), 300.0, np.ones(2), np.array([30.0, 35.0]), rng)
    inside = tuple(slice(-f, n - f) for f, n in zip(first, image.shape, strict=False))
    found = segment(wide, affine)
    assert dice(found.mask[inside], cord) > dice(plain.mask, cord) - 0.03
    assert found.mask.sum() == found.mask[inside].sum()
    assert found.curve.confidence.min() > 0.5
    for air in (True, False):
        assert dice(segment(spoil.flipped(image, air=air), affine).mask, cord) > dice(plain.mask, cord) - 0.03
    fine = segment(spoil.resampled(image, 2.0), np.diag([0.5, 0.5, 5.0, 1.0]))
    assert dice(fine.mask, spoil.resampled(cord, 2.0, order=0) > 0) > dice(plain.mask, cord) - 0.03


@pytest.mark.parametrize("contrast", ["T2w", "T1w"])
def test_a_negative_gives_the_mask_of_the_image_that_it_is_of(contrast: str) -> None:
    image, affine, _ = drawn((0.5, 0.5, 5.0), contrast)
    networks = load_cord()
    bright = []
    for seen in (image, spoil.flipped(image)):
        middle = np.full(seen.shape[2], seen.shape[0] * 0.25), np.full(seen.shape[2], seen.shape[1] * 0.25)
        windows = Windows.around(seen, np.array([0.5, 0.5, 5.0]), np.arange(seen.shape[2]), *middle, networks.fine)
        bright.append(fluid_is_bright(windows.cut(seen), networks.fine))
    assert bright == ([True, False] if contrast == "T2w" else [False, True])
    assert dice(*(segment(i, affine).mask for i in (image, spoil.flipped(image)))) > 0.96


def test_slices_that_are_not_segmented_are_named() -> None:
    image, affine, _ = drawn((1.0, 1.0, 5.0), size=(60.0, 70.0, 100.0))
    blank, which = spoil.blanked(image, 0.1, np.random.default_rng(2))
    found = segment(blank, affine)
    assert found.missing[BROKEN].tolist() == which.tolist()
    assert all(str(z) in found.told()[BROKEN] for z in which)
    image[:, :, 0] = np.random.default_rng(1).rayleigh(0.02, size=image.shape[:2])
    found = segment(image, affine)
    assert found.missing[PARTIAL].tolist() == [0] or not len(found.missing[PARTIAL])


def test_a_slice_that_hardly_shows_the_cord_is_looked_at_again() -> None:
    """In slices 8 and 9 the fluid is as bright as the cord, but for a trace; the rest tells where it is."""
    image, affine, cord = drawn((1.0, 1.0, 5.0), size=(60.0, 70.0, 100.0), lean=0.0)
    canal = ndimage.binary_dilation(cord, np.ones((3, 3, 1)), iterations=4)
    image[:, :, 8:10] = np.where(canal & ~cord, 0.37, image)[:, :, 8:10]
    found = segment(image, affine)
    near = [dice(found.mask[:, :, z], cord[:, :, z]) for z in (8, 9)]
    assert min(near) > 0.6 or set(found.missing[BROKEN].tolist()) == {8, 9}


def test_a_hole_is_said() -> None:
    image, affine, cord = drawn((1.0, 1.0, 1.0), size=(60.0, 70.0, 120.0), lean=0.0)
    image[:, :, 45:75] = 0
    found = segment(image, affine)
    assert BROKEN in found.flags
    assert not found.mask[:, :, 48:72].any()
    assert dice(found.mask[:, :, :40], cord[:, :, :40]) > 0.87


def test_a_cord_that_ends_in_the_image_is_said() -> None:
    image, affine, _ = drawn((1.0, 1.0, 1.0), size=(60.0, 70.0, 120.0), lean=0.0)
    image[:, :, 70:] = np.random.default_rng(1).rayleigh(0.02, size=image[:, :, 70:].shape)
    assert PARTIAL in segment(image, affine).flags


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((60, 60)), "a 3-D image, found shape"),
        (np.full((60, 60, 5), 7.0), "contrast"),
        (np.full((60, 60, 5), np.nan), "contrast"),
        (np.zeros((60, 60, 0)), "contrast"),
        (np.random.default_rng(1).random((60, 8, 5)), "at least 12 mm wide, found 60 x 8 mm"),
    ],
    ids=["2-D", "constant", "NaN", "empty", "narrow"],
)
def test_what_cannot_be_segmented_is_refused(image: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        segment(image, np.eye(4))


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="a GPU"):
        load_cord(device="cuda")


@pytest.mark.parametrize("task", [CORD, GREY, DISCS])
def test_the_card_belongs_to_the_weights(task: str) -> None:
    import hashlib
    from importlib import resources

    for name, facts in card(task)["nets"].items():
        raw = resources.files("cohort_engine.nn").joinpath("data", f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == facts["sha256"]
        assert len(raw) < 5e6
