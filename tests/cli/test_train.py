"""A training from the command line: figures on the way, weights at the end, continued when asked again."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import UnknownNameError
from cohort_engine.nn.weights import load_cord, load_discs

pytest.importorskip("torch")

CONFIG = """
template: {name: parametric}
device: cpu
half: false
batch: 4
nets:
  coarse: {size: 32, spacing: 1.5, jitter: 8, channels: [8, 16], heat: true, steps: 2}
  fine: {size: 32, spacing: 0.5, jitter: 2, channels: [8, 16], steps: 2}
"""


def test_train_writes_weights_that_load(tmp_path: Path) -> None:
    (tmp_path / "cord.yaml").write_text(CONFIG)
    arguments = ["train", "cord", str(tmp_path / "cord.yaml"), "-o", str(tmp_path / "run")]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "fine.safetensors" in result.output
    networks = load_cord(device="cpu", folder=tmp_path / "run")
    assert (networks.coarse.spacing, networks.fine.size, networks.fine.multiple) == (1.5, 32, 2)


def test_a_misspelt_key_is_answered(tmp_path: Path) -> None:
    (tmp_path / "cord.yaml").write_text(CONFIG.replace("jitter: 2", "jiter: 2"))
    result = CliRunner().invoke(app, ["train", "cord", str(tmp_path / "cord.yaml"), "-o", str(tmp_path / "run")])
    assert isinstance(result.exception, UnknownNameError)
    assert "Did you mean 'jitter'" in str(result.exception)


def test_train_discs_writes_weights_that_load(tmp_path: Path) -> None:
    (tmp_path / "discs.yaml").write_text(CONFIG[: CONFIG.index("nets:")] + "nets:\n  discs: {size: 32, channels: [8, 16], steps: 2}\n")
    result = CliRunner().invoke(app, ["train", "discs", str(tmp_path / "discs.yaml"), "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "discs.safetensors" in result.output
    assert load_discs(device="cpu", folder=tmp_path / "run").multiple == 2
