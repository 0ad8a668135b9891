"""Training on strips: the loss falls, and a run that was interrupted ends in the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.errors import ConfigError
from cohort_engine.nn.discs import DiscRun, DiscTraining
from cohort_engine.nn.strips import STATES, Spine, spine_of
from cohort_engine.nn.training import load_disc_training, train_discs
from cohort_engine.nn.weights import load_discs
from cohort_engine.template.parametric import parametric_cord

torch = pytest.importorskip("torch")

NET: dict[str, Any] = {"size": 64, "channels": [8, 16, 16], "steps": 40}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def spine() -> Spine:
    return spine_of(parametric_cord(spacing=2.0))


def config(**changes: Any) -> DiscTraining:
    return DiscTraining.model_validate({"nets": {"discs": NET}, "batch": 4, "half": False, "device": "cpu", **changes})


def test_the_loss_falls(spine: Spine) -> None:
    run = DiscRun(config(rate=0.01), "discs", spine)
    losses = [run.advance() for _ in range(40)]
    assert sum(losses[-8:]) < 0.75 * sum(losses[:8])


def test_an_interrupted_run_ends_in_the_same_bits(spine: Spine) -> None:
    straight, first, second = (DiscRun(config(), "discs", spine) for _ in range(3))
    for _ in range(7):
        straight.advance()
    for _ in range(4):
        first.advance()
    second.restore(first.state())
    for _ in range(3):
        second.advance()
    a, b = straight.state(), second.state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_perfect_answer_costs_little_and_a_wrong_one_much(spine: Spine) -> None:
    run = DiscRun(config(), "discs", spine)
    label = run.block(1).label
    along, seen = run._along(label)
    right = torch.full((len(label), 1 + STATES, *label.shape[2:]), -20.0)
    right[:, :1] = torch.logit(label[:, :1].clamp(1e-6, 1 - 1e-6))
    low = along.floor().clamp(max=STATES - 2).long()
    for n, part in ((low, 1 - (along - low)), (low + 1, along - low)):
        right[:, 1:].scatter_(
            1, n[:, None, :, None].expand(-1, 1, -1, label.shape[3]), part.clamp(min=1e-6).log()[:, None, :, None].expand_as(label[:, :1])
        )
    wrong = right.clone()
    wrong[:, 1:] = wrong[:, 1:].roll(1, 1)
    assert float(run.loss(wrong, label)) > float(run.loss(right, label)) + 3
    assert seen.mean() > 0.3


def test_validation_scores_are_shares(spine: Spine) -> None:
    scores = DiscRun(config(), "discs", spine).validate(blocks=2)
    assert set(scores) == {"dice", "named"}
    assert all(0 <= s <= 1 for s in scores.values())


def test_a_training_leaves_weights_that_load(tmp_path: Path) -> None:
    path = tmp_path / "discs.yaml"
    path.write_text(
        json.dumps({"nets": {"discs": NET | {"steps": 2}}, "template": {"name": "parametric"}, "batch": 2, "half": False, "device": "cpu"})
    )
    written = train_discs(load_disc_training(path), tmp_path / "run")
    assert written["discs"].stat().st_size > 1000
    network = load_discs(device="cpu", folder=tmp_path / "run")
    assert (network.size, network.spacing, network.multiple) == (64, 1.0, 4)


def test_odds_that_nobody_knows_are_refused(spine: Spine) -> None:
    with pytest.raises(ConfigError, match="odds of neck"):
        DiscRun(config(nets={"discs": NET | {"odds": {"nek": 0.5}}}), "discs", spine)


def test_the_training_file_of_the_project_is_valid() -> None:
    assert set(load_disc_training(ROOT / "configs" / "training" / "discs.yaml").nets) == {"discs"}
