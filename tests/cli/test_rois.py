"""A network of the regions from the command line: trained on slices, judged on others, with the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.errors import InputError, StorageError
from cohort_engine.rois.slices import RoiSlices

pytest.importorskip("torch")

HOW_TO = (Path(__file__).parents[2] / "docs/how-to/dti-study.md").read_text()
CORNERS = [(5, 5), (3, 10), (6, 16), (8, 10), (18, 5), (20, 10), (17, 16), (15, 10)]


def slices(patients: int, first: int) -> RoiSlices:
    """Two slices a patient: squares of 4 x 4 pixels, left at low x, brighter in FA; a rater who is one pixel off."""
    rng, n = np.random.default_rng(first), 2 * patients
    drawn = np.zeros((n, 8, 28, 24), bool)
    for r, (x, y) in enumerate(CORNERS):
        drawn[:, r, x : x + 4, y : y + 4] = True
    fa = (0.3 + 0.3 * drawn.any(axis=1) + rng.normal(0, 0.02, (n, 28, 24))).astype(np.float32)
    cord = np.zeros(fa.shape, bool)
    cord[:, 2:26, 3:22] = True
    patient = np.repeat(np.arange(first, first + patients), 2)
    return RoiSlices({schema.FA: fa}, drawn, cord, patient, np.tile([0, 1], patients), np.array([0.6, 0.6]), again=np.roll(drawn, 1, axis=2))


def test_the_how_to_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (settings,) = re.findall(r"```yaml\n(.*?)```", HOW_TO, flags=re.DOTALL)
    Path("small.yaml").write_text(settings)
    slices(6, 0).save("train.npz")
    slices(3, 100).save("test.npz")
    output = ""
    for line in re.findall(r"^\$ cohort-engine ((?:train|evaluate) rois .*)$", HOW_TO, flags=re.MULTILINE):
        result = CliRunner().invoke(app, shlex.split(line))
        assert result.exit_code == 0, result.output
        output += result.output
    assert "another rater" in output
    table = pd.read_csv("page/csv/regions.csv")
    assert table.loc[table["method"] == "another rater", "dice"].tolist() == pytest.approx([0.75] * 8)
    assert "small" in set(table["method"])
    assert "data:image/" in Path("page/rois.html").read_text()
    result = CliRunner().invoke(app, ["evaluate", "rois", "runs/small", "--data", "train.npz", "-o", "again"])
    assert isinstance(result.exception, InputError)
    assert "12 of 12 that small was" in str(result.exception)


def test_what_is_no_network_is_answered(tmp_path: Path) -> None:
    slices(1, 0).save(tmp_path / "test.npz")
    (tmp_path / "rois.safetensors").write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["evaluate", "rois", str(tmp_path), "--data", str(tmp_path / "test.npz")])
    assert isinstance(result.exception, StorageError)
