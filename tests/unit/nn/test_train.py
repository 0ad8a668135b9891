"""Training: the loss falls, seeds repeat, and a run that was interrupted ends in the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.errors import ConfigError, StorageError, UnknownNameError
from cohort_engine.nn.anatomy import Anatomy, anatomy_of
from cohort_engine.nn.train import CordTraining, Training
from cohort_engine.nn.training import load_training, train_cord
from cohort_engine.nn.unet import for_inference, unet
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file

NET: dict[str, Any] = {"size": 32, "spacing": 1.0, "jitter": 3.0, "channels": [8, 16], "steps": 40, "heat": True}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(parametric_cord(spacing=1.0, top="C3", bottom="C4"))


def config(**changes: Any) -> CordTraining:
    return CordTraining.model_validate({"nets": {"fine": NET}, "batch": 4, "half": False, "device": "cpu", **changes})


def weights(run: Training) -> dict[str, Any]:
    return dict(run.mean.state_dict())


def test_the_loss_falls(anatomy: Anatomy) -> None:
    run = Training(config(rate=0.01), "fine", anatomy)
    losses = [run.advance() for _ in range(40)]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_seeds_repeat(anatomy: Anatomy) -> None:
    same, again, other = (Training(config(seed=s), "fine", anatomy) for s in (1, 1, 2))
    losses = [[run.advance() for _ in range(3)] for run in (same, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_an_interrupted_run_ends_in_the_same_bits(anatomy: Anatomy) -> None:
    straight, first, second = (Training(config(), "fine", anatomy) for _ in range(3))
    for _ in range(9):
        straight.advance()
    for _ in range(5):
        first.advance()
    second.restore(first.state())
    for _ in range(4):
        second.advance()
    assert second.step == straight.step
    a, b = straight.state(), second.state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_rate_warms_up_stays_and_falls_to_nothing(anatomy: Anatomy) -> None:
    run = Training(config(nets={"fine": NET | {"steps": 1000, "cool": 0.4}}), "fine", anatomy)
    rates = []
    for step in (0, 300, 600, 800, 1000):
        run.step = step
        rates.append(run.rate() / run.config.rate)
    assert rates == pytest.approx([1 / 100, 1, 1, 0.5, 0])


def test_validation_counts_false_cords(anatomy: Anatomy) -> None:
    scores = Training(config(), "fine", anatomy).validate(blocks=4)
    assert set(scores) == {"dice", "bias", "false"}
    assert 0 <= scores["dice"] < 0.6


def test_as_much_is_drawn_as_there_is(anatomy: Anatomy) -> None:
    """The constant is settled on held-out samples; on others the areas agree to chance."""
    run = Training(config(nets={"fine": {**NET, "heat": False}}), "fine", anatomy)
    for _ in range(40):
        run.advance()
    run.mean.load_state_dict(run.net.state_dict())
    with torch.no_grad():
        run.mean.head.bias[0] -= 2.0  # draws too little
    before = run.validate()["bias"]
    run.finish()
    assert before < -10
    assert abs(run.validate()["bias"]) < 0.5 * abs(before)
    assert run.describe({})["shift"] == round(run.shift, 4) > 0
    finder = Training(config(), "fine", anatomy)
    finder.finish()
    assert finder.shift == 0


def test_grey_matter_is_learnt_beside_the_cord(anatomy: Anatomy) -> None:
    net = {**NET, "heat": False, "grey": True, "odds": {"butterfly": 1.0, "absent": 0.0, "brain": 0.0, "cauda": 0.0}}
    run = Training(config(nets={"fine": net}, rate=0.01), "fine", anatomy)
    assert run.net_config.outputs == 2
    first = run.advance()
    assert sum(run.advance() for _ in range(39)) / 39 < 0.9 * first
    assert set(run.validate(blocks=2)) == {"dice", "bias", "false", "grey"}


def test_an_output_that_the_earlier_weights_lack_starts_from_chance(anatomy: Anatomy) -> None:
    old = Training(config(nets={"fine": {**NET, "heat": False}}, seed=1), "fine", anatomy)
    new = Training(config(nets={"fine": {**NET, "heat": False, "grey": True}}, seed=2), "fine", anatomy)
    own = new.net.head.weight.detach().clone()
    new.begin(old.weights(), "hash")
    torch.testing.assert_close(new.net.head.weight[:1], old.mean.head.weight.to(torch.bfloat16).float())
    assert torch.equal(new.net.head.weight[1:], own[1:])


def test_folding_the_normalisation_changes_nothing(anatomy: Anatomy) -> None:
    run = Training(config(), "fine", anatomy)
    for _ in range(3):
        run.advance()
    state = {k: v.detach() for k, v in run.net.state_dict().items()}
    plain = unet(NET["channels"], 2)
    plain.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(for_inference(state, NET["channels"], 2)(x), plain.eval()(x), atol=1e-5, rtol=1e-4)


def study(folder: Path, **changes: Any) -> Path:
    path = folder / "cord.yaml"
    net = {**NET, "steps": 3}
    path.write_text(json.dumps({"nets": {"fine": net}, "template": {"name": "parametric"}, "batch": 4, "half": False, "device": "cpu", **changes}))
    return path


def test_a_training_writes_checkpoint_log_and_weights_and_continues(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    written = train_cord(load_training(study(tmp_path)), tmp_path / "run", say=told.append)
    assert written["fine"].stat().st_size > 1000
    assert [t["step"] for t in told] == [3, 3]  # at the last step, and once it is put right
    longer = load_training(study(tmp_path, nets={"fine": {**NET, "steps": 5}}))
    train_cord(longer, tmp_path / "run", say=told.append)
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "fine.jsonl").read_text().splitlines()] == [3, 3, 5, 5]
    with pytest.raises(StorageError, match="another training"):
        train_cord(load_training(study(tmp_path, seed=2)), tmp_path / "run")


def test_a_training_starts_from_earlier_weights(tmp_path: Path) -> None:
    first = train_cord(load_training(study(tmp_path)), tmp_path / "run")["fine"]
    still = study(tmp_path, start=str(tmp_path / "run"), rate=1e-30, average=0.001)
    second = train_cord(load_training(still), tmp_path / "more")["fine"]
    before, after = load_file(first), load_file(second)
    assert all((before[k] == after[k]).all() for k in before if k.endswith("weight") and before[k].ndim == 4)  # nothing was learnt
    kept = study(tmp_path, start=str(tmp_path / "run"), rate=0.05, average=0.001, keep=0.9999)
    near = load_file(train_cord(load_training(kept), tmp_path / "kept")["fine"])
    far = load_file(train_cord(load_training(study(tmp_path, start=str(tmp_path / "run"), rate=0.05, average=0.001)), tmp_path / "far")["fine"])
    name = "down.0.0.weight"
    assert (near[name].float() - before[name].float()).abs().max() < 0.01 < (far[name].float() - before[name].float()).abs().max()
    other = study(tmp_path, start=str(tmp_path / "run"), rate=1e-30, average=0.001, nets={"border": {**NET, "steps": 3, "origin": "fine"}})
    assert (load_file(train_cord(load_training(other), tmp_path / "other")["border"])["head.weight"] == after["head.weight"]).all()
    wide = study(tmp_path, start=str(tmp_path / "run"), nets={"fine": {**NET, "channels": [4, 8]}})
    with pytest.raises(StorageError, match="as wide as this one"):
        train_cord(load_training(wide), tmp_path / "wide")
    with pytest.raises(StorageError, match=r"start, fine\.safetensors"):
        train_cord(load_training(study(tmp_path, start=str(tmp_path / "nowhere"))), tmp_path / "none")


def test_what_is_wrong_with_a_training_file_is_said(tmp_path: Path, anatomy: Anatomy) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'spacing'"):
        load_training(study(tmp_path, nets={"fine": {"spacng": 1.0, "jitter": 1.0, "steps": 1}}))
    with pytest.raises(UnknownNameError, match="network"):
        train_cord(load_training(study(tmp_path)), tmp_path / "run", nets=("fien",))
    with pytest.raises(ConfigError, match="odds of inset"):
        Training(config(nets={"fine": {**NET, "odds": {"lesions": 0.5}}}), "fine", anatomy)


@pytest.mark.parametrize(
    ("name", "nets"),
    [
        ("cord", {"coarse", "fine"}),
        ("cord_more", {"fine"}),
        ("patients", {"fine"}),
        ("grey", {"grey"}),
        ("horns", {"grey"}),
        ("cord_long", {"coarse", "fine"}),
    ],
)
def test_the_training_files_of_the_project_are_valid(name: str, nets: set[str]) -> None:
    assert set(load_training(ROOT / "configs" / "training" / f"{name}.yaml").nets) == nets
