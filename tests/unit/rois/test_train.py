from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cohort_engine import schema
from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters import make_pool
from cohort_engine.errors import ConfigError, InputError, StorageError, UnknownNameError
from cohort_engine.nn import weights
from cohort_engine.rois.augment import Variation, draw_variation, mirror, take_varied
from cohort_engine.rois.config import AugmentSection, InputSection, RoiTraining, folds, load_training, split, varied
from cohort_engine.rois.evaluate import score
from cohort_engine.rois.inputs import channels_of, window_of
from cohort_engine.rois.slices import RoiSlices, joined
from cohort_engine.rois.sweep import Sweep, rows_of, run_sweep
from cohort_engine.rois.train import CHECKPOINT, FILE, RoiNet, RoiRun, build, load_rois, train_rois

PLACES = ((-1.8, -3.5), (-5.0, 0.0), (-2.4, 3.2), (-1.8, 0.0))
"""Middle of the regions of the left side, pixels from the middle of the cord."""


def drawn_slices(patients: int, each: int = 2, *, seed: int = 0, first: int = 0, plane: int = 40) -> RoiSlices:
    """Cords with eight discs in them: bright in one image, and the cord in both."""
    r = np.random.default_rng(seed)
    n = patients * each
    x, y = np.meshgrid(np.arange(plane), np.arange(plane), indexing="ij")
    drawn, cord = np.zeros((n, 8, plane, plane), bool), np.zeros((n, plane, plane), bool)
    for i in range(n):
        middle = r.normal(plane / 2, 2, 2)
        cord[i] = ((x - middle[0]) / 9) ** 2 + ((y - middle[1]) / 6) ** 2 < 1
        for part, (dx, dy) in enumerate(PLACES):
            for side, sign in ((0, 1), (len(PLACES), -1)):
                drawn[i, side + part] = (x - middle[0] - sign * dx) ** 2 + (y - middle[1] - dy) ** 2 < 1.9**2
    noise = r.normal(0, 0.02, cord.shape)
    fa = 0.1 + 0.3 * cord + 0.2 * drawn[:, :3].any(1) + 0.2 * drawn[:, 4:7].any(1) + noise
    images = {schema.B0_IMAGE: (1000 - 400 * cord + 1000 * noise).astype(np.float32), schema.FA: fa.astype(np.float32)}
    prior = np.stack([drawn[:, i] * 0.5 for i in range(8)], 1).astype(np.float32)
    return RoiSlices(images, drawn, cord, np.arange(n) // each + first, np.arange(n) % each, np.array([0.63, 0.63]), prior=prior)


SMALL = {
    "net": {"encoder": "unet", "channels": [8, 16]}, "input": {"size": 32}, "epochs": 2, "batch": 4, "rate": 3e-3, "average": 0.5,
    "augment": {"flip": "none", "scale": [1, 1], "jitter": 0, "paste": False},
}  # fmt: skip


def settings(**changes) -> RoiTraining:
    return varied(varied(RoiTraining(), SMALL), changes)


# --- what a network sees ------------------------------------------------------------------------------------------------
def test_windows_on_the_slices_pixels_take_and_give_back_the_same_values() -> None:
    some = drawn_slices(2)
    window = window_of(some, InputSection(size=32))
    images = torch.from_numpy(channels_of(some, InputSection(images=("b0", "fa"))))
    taken = window.take(images)
    assert taken.shape == (4, 2, 32, 32)
    assert torch.allclose(taken, taken.round(), atol=1e-2)  # no pixel lies between two
    back = window.back(taken, (40, 40))
    inside = back > 0.5
    assert torch.allclose(back[inside], images[inside], atol=1e-2)
    assert float(inside.float().mean()) > 0.6
    whole = window_of(some, InputSection())
    assert torch.allclose(whole.back(whole.take(images), (40, 40)), images, atol=1e-2)


def test_finer_windows_bring_regions_back_to_where_they_were() -> None:
    some = drawn_slices(3)
    window = window_of(some, InputSection(size=64, spacing=0.3))
    drawn = torch.from_numpy(some.drawn.astype(np.float32))
    back = window.back(window.take(drawn), (40, 40)) > 0.5
    both = (back & (drawn > 0)).sum((2, 3))
    assert (2 * both / (back.sum((2, 3)) + drawn.sum((2, 3)))).min() > 0.85


def test_images_are_scaled_slice_by_slice() -> None:
    some = drawn_slices(1)
    png = channels_of(some, InputSection(images=("fa", "prior")))
    assert png.shape == (2, 9, 40, 40)
    assert (png[:, 0].min(), png[:, 0].max()) == (0, 255)
    assert np.array_equal(png[:, 0], png[:, 0].round())
    twice = RoiSlices({"fa": 2 * some.images["fa"] + 1}, some.drawn, some.cord, some.patient, some.position, some.spacing)
    robust = InputSection(norm="robust")
    np.testing.assert_allclose(channels_of(some, robust), channels_of(twice, robust), atol=1e-3)


def test_images_without_values_and_unknown_ones_are_refused() -> None:
    some = drawn_slices(1)
    some.images["fa"][0] = np.nan
    with pytest.raises(InputError, match="1 slices of NaN"):
        channels_of(some, InputSection())
    some.images["fa"][0, 0, 0] = 0.5  # the rest is background
    assert np.isfinite(channels_of(some, InputSection())).all()
    with pytest.raises(UnknownNameError, match="'md'"):
        channels_of(some, InputSection(images=("md",)))
    with pytest.raises(InputError, match="prior"):
        channels_of(RoiSlices(some.images, some.drawn, some.cord, some.patient, some.position, some.spacing), InputSection(images=("prior",)))


# --- variation ----------------------------------------------------------------------------------------------------------
def test_scaled_slices_are_where_they_were_put() -> None:
    some = drawn_slices(30, 1)
    window = window_of(some, InputSection())
    how = AugmentSection(flip="none", scale=(0.5, 0.5), jitter=0.0)
    varied_ = draw_variation(how, window, torch.Generator().manual_seed(1))
    ones = window.take(torch.ones(30, 1, 40, 40), varied_.move)
    assert torch.allclose(ones.sum((1, 2, 3)), torch.tensor(400.0), rtol=0.1)  # a quarter of the frame, always inside it
    middle = (ones.sum(3)[:, 0] * torch.arange(40)).sum(1) / ones.sum((1, 2, 3))
    assert middle.min() < 13
    assert middle.max() > 27


def test_mirroring_moves_labels_with_the_image_or_leaves_them() -> None:
    some = drawn_slices(1)
    image, target = torch.from_numpy(some.images["fa"])[:, None], torch.from_numpy(some.drawn.astype(np.float32))
    window, other = window_of(some, InputSection()), list(schema.OTHER_SIDE)
    still = torch.eye(2, 3).repeat(2, 1, 1)
    how = Variation(still, torch.tensor([True, False]))
    seen, moved = take_varied(window, image, target, how, AugmentSection(flip="exchange"), [0], other)
    near = {"atol": 1e-3}
    assert torch.allclose(seen[0], image[0].flip(1), **near)
    assert torch.allclose(seen[1], image[1], **near)
    assert torch.allclose(moved[0, 0], target[0, 4].flip(0), **near)
    assert torch.allclose(moved[1], target[1], **near)
    assert torch.allclose(mirror(moved[:1], other), target[:1], **near)
    seen, left = take_varied(window, image, target, how, AugmentSection(flip="image_only"), [0], other)
    assert torch.allclose(seen[0], image[0].flip(1), **near)
    assert torch.allclose(left, target, **near)


def test_slices_are_mirrored_before_they_are_moved() -> None:
    some = drawn_slices(1, 1)
    image = torch.from_numpy(some.images["fa"])[:, None]
    window = window_of(some, InputSection())
    shifted = torch.eye(2, 3)[None] + torch.tensor([[[0, 0, 5 * 0.63], [0, 0, 0]]])
    alone = AugmentSection(flip="image_only")
    both = [take_varied(window, image, image, Variation(shifted, torch.tensor([yes])), alone, [0], [0])[0][0, 0] for yes in (False, True)]
    for seen, as_it_was in zip(both, (image[0, 0], image[0, 0].flip(0)), strict=True):
        assert torch.allclose(seen[:-5], as_it_was[5:], atol=1e-3)


# --- networks -----------------------------------------------------------------------------------------------------------
LOSSES = [
    {"kind": "hybrid"}, {"kind": "hybrid", "reduction": "code"}, {"kind": "hdl", "reduction": "code"}, {"kind": "hdl"},
    {"kind": "hdl", "distance": "min"}, {"kind": "mask_l2"}, {"kind": "dice"},
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_one_batch_is_learnt(loss) -> None:
    """The loss of two slices falls; how far, with each encoder: tests/benchmarks/test_rois_learn.py."""
    some = drawn_slices(1)
    run = RoiRun(settings(loss=loss, epochs=500, warm_up=0, average=0, rate=1e-2), some, some)
    losses = [run.advance() for _ in range(20)]
    least = 1 if loss == {"kind": "hybrid"} else 0
    assert losses[-1] - least < 0.85 * (losses[0] - least)


def test_symmetric_network_answers_mirrored_slices_with_the_mirror() -> None:
    config = settings(net={"symmetric": True}, loss={"kind": "dice"}, input={"images": ["fa", "prior"]})
    net = build(config).eval()
    image = torch.randn(2, 9, 32, 32, generator=torch.Generator().manual_seed(1))
    exchange = [0, *(1 + i for i in schema.OTHER_SIDE)]
    with torch.inference_mode():
        there, mirrored = net(image), net(mirror(image, exchange))
    assert torch.allclose(mirror(mirrored, [*schema.OTHER_SIDE, 8]), there, atol=1e-5)
    assert not torch.allclose(there[:, 0], there[:, 4].flip(2), atol=1e-3)
    with pytest.raises(ConfigError, match="symmetric"):
        build(varied(config, {"loss": {"kind": "hdl"}}))


def test_trained_network_finds_regions_and_goes_on_where_it_was(tmp_path) -> None:
    train, valid = drawn_slices(8), drawn_slices(3, seed=1, first=100)
    config = settings(
        net={"symmetric": True, "channels": [8, 16, 16]}, loss={"kind": "dice"}, epochs=24, augment={"shift": 1.0}, threshold="mean_dice"
    )
    path = train_rois(config, train, valid, tmp_path / "whole")
    net = load_rois(tmp_path / "whole")
    found = score(net.masks(valid), valid)
    assert np.nanmean(found.dice) > 0.6
    assert (found.wrong_side < 0.05).all()
    np.testing.assert_allclose(net.area, 9 * 0.63**2, rtol=0.5)

    def stop(line) -> None:
        if line["epoch"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rois(config, train, valid, tmp_path / "parts", say=stop, save_every=0)
    again = train_rois(config, train, valid, tmp_path / "parts")
    assert again.read_bytes() == path.read_bytes()
    assert [json.loads(line)["epoch"] for line in (tmp_path / "parts" / "rois.jsonl").read_text().splitlines()].count(20) == 1
    with pytest.raises(StorageError, match="another training"):
        train_rois(varied(config, {"rate": 1e-3}), train, valid, tmp_path / "parts")
    with pytest.raises(StorageError, match=r"rois\.safetensors"):
        load_rois(tmp_path / "parts" / CHECKPOINT)


@pytest.mark.parametrize("encoder", ["vgg16", "resnet50"])
@pytest.mark.parametrize("kind", ["hdl", "mask_l2"])
def test_heat_is_no_share_where_it_would_not_be_learnt(kind, encoder) -> None:
    with pytest.raises(ConfigError, match=r"nothing brings it back from 0"):
        settings(loss={"kind": kind, "output": "softmax9"}, net={"encoder": encoder})
    assert settings(loss={"kind": kind, "output": "softmax9"}).loss.shares


def test_members_are_trained_without_a_part_each_and_answer_with_their_mean(tmp_path) -> None:
    train, valid = drawn_slices(6), drawn_slices(2, seed=1, first=100)
    config = settings(loss={"kind": "dice"}, members=3, threshold="mean_dice", wrong_side=0.01)
    path = train_rois(config, train, valid, tmp_path)
    before = path.read_bytes()
    net = load_rois(path)
    assert len(net.modules) == len(list(tmp_path.glob("*/rois.ckpt"))) == 3
    whole = joined([train, valid])
    heat, unseen = [], folds(whole, 3, seed=config.seed)
    assert np.add.reduce([part.astype(int) for part in unseen]).tolist() == [1] * 16
    for i, part in enumerate(unseen):
        one = varied(config, {"members": 1, "seed": config.seed + i})
        alone = train_rois(one, whole.at(~part), whole.at(part), tmp_path / "alone" / str(i))
        heat.append(load_rois(alone).predict(drawn_slices(1, seed=9)))
    np.testing.assert_allclose(net.predict(drawn_slices(1, seed=9)), np.mean(heat, 0), atol=1e-6)
    assert train_rois(config, train, valid, tmp_path).read_bytes() == before
    assert net.seen(whole).all()
    assert not net.seen(drawn_slices(3, seed=9)).any()
    with pytest.raises(InputError, match="9 or more patients"):
        train_rois(varied(config, {"members": 9}), train, valid, tmp_path / "many")


def test_a_region_without_output_takes_its_likeliest_pixels() -> None:
    some = drawn_slices(1)
    config = settings(fill=True)
    facts = {"config": config.model_dump(mode="json"), "thresholds": [0.5] * 8, "area": [9 * 0.63**2] * 8}
    net = RoiNet(build(config).state_dict(), facts)
    heat = np.random.default_rng(1).random(some.drawn.shape).astype(np.float32) * 0.4
    heat[0, 0, 3, 3] = 0.9
    masks = net.masks(some, heat)
    assert masks[0, 0].sum() == 1
    assert (masks.sum((2, 3)).ravel()[1:] == 9).all()
    assert not RoiNet(build(config).state_dict(), facts | {"config": settings().model_dump(mode="json")}).masks(some, heat)[0, 1:].any()


# --- data ---------------------------------------------------------------------------------------------------------------
def test_patients_stay_together_unless_slices_are_dealt() -> None:
    some = drawn_slices(20, 3)
    for by in ("patient", "slice"):
        parts = split(some, by=by, seed=3)
        assert sorted(np.concatenate(parts)) == list(range(60))
        shared = set(some.patient[parts[0]]) & set(some.patient[parts[2]])
        assert bool(shared) == (by == "slice")
    with pytest.raises(InputError, match="2 patients"):
        split(drawn_slices(2))


def test_bad_data_is_refused(tmp_path) -> None:
    some = drawn_slices(2)
    with pytest.raises(InputError, match="1 in two"):
        train_rois(settings(), some, some.at(some.patient == 1), tmp_path)
    some.drawn[:, 2] = False
    with pytest.raises(InputError, match="left ventral column"):
        train_rois(settings(), some, drawn_slices(1, first=9), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="a GPU"):
            RoiRun(settings(device="cuda"), some, some)


@pytest.mark.parametrize("name", ["paper", "published_code", "ours"])
def test_configurations_of_the_package_build(name) -> None:
    config = load_training(f"configs/training/rois/{name}.yaml")
    with torch.device("meta"):
        net = build(config)
    assert net(torch.zeros(1, config.inputs, 32, 32, device="meta")).shape == (1, config.outputs, 32, 32)


# --- tables of trainings --------------------------------------------------------------------------------------------------
def test_rows_are_trained_once_and_judged_by_one_test(tmp_path) -> None:
    drawn_slices(6).save(tmp_path / "train.npz")
    drawn_slices(2, seed=5, first=50).save(tmp_path / "test.npz")
    sweep = Sweep(
        base={**SMALL, "fractions": [0.5, 0.25, 0.25]},
        choices={"input": {"FA": {}, "b0": {"input": {"images": ["b0"]}}}, "split": {"patient": {}, "slice": {"split": "slice"}}},
        tables=({"rows": {"input": "all"}}, {"rows": {"input": ("FA",), "split": "all"}, "seeds": (1,)}),
    )
    assert [tuple(row.labels.values()) for row in rows_of(sweep)] == [("FA", "patient"), ("b0", "patient"), ("FA", "slice")]
    told = []
    for _ in range(2):
        pool = make_pool(ComputeConfig(cluster="synchronous"))
        rows = run_sweep(sweep, tmp_path / "train.npz", tmp_path / "test.npz", tmp_path / "out", pool, say=told.append)
    assert len(told) == 3
    assert all(len(row["test"][name]) == 8 for row in rows for name in ("dice", "outliers", "wrong_side", "error"))
    assert all((tmp_path / "out" / row["row"] / FILE).exists() for row in rows)


# --- the network of the package -------------------------------------------------------------------------------------------
def test_packaged_network_is_the_one_of_its_card() -> None:
    net, card = load_rois(), weights.card(weights.ROIS)["nets"]["rois"]
    assert weights.ROIS == "rois"
    assert hashlib.sha256(Path(weights.__file__).parent.joinpath(weights.FOLDER, FILE).read_bytes()).hexdigest() == card["sha256"]
    assert net.thresholds.tolist() == card["thresholds"]
    expected = load_training("configs/training/rois/ours.yaml")
    assert net.config == expected
