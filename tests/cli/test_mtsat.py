"""MTsat and T1 of one triplet, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import CohortError, GeometryError, InputError, MissingInputError
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.qmri.mtsat import Protocol, Triplet, saturation

PROTOCOL = {"on": (0.035, 9), "off": (0.035, 9), "t1w": (0.015, 15)}
SIGNALS = {"on": 160.0, "off": 250.0, "t1w": 170.0}


@pytest.fixture
def triplet(tmp_path: Path) -> dict[str, Path]:
    """Three images of one texture with a cord of 6 x 6 voxels, each with its JSON file, stored from right to left."""
    texture = np.random.default_rng(0).uniform(0.8, 1.0, (24, 24, 4))
    affine = np.diag([-1.0, 1.0, 5.0, 1.0])
    out = {}
    for name, signal in SIGNALS.items():
        out[name] = tmp_path / f"{name}.nii.gz"
        write_volume(out[name], Volume((signal * texture).astype(np.float32), affine))
        tr, flip = PROTOCOL[name]
        (tmp_path / f"{name}.json").write_text(json.dumps({"RepetitionTime": tr, "FlipAngle": flip}))
    mask = np.zeros(texture.shape, np.float32)
    mask[9:15, 9:15] = 1
    out["mask"] = tmp_path / "mask.nii.gz"
    write_volume(out["mask"], Volume(mask, affine))
    return out


def run(files: dict[str, Path], *more: object) -> Result:
    words = [w for name in ("on", "off", "t1w", "mask") for w in (f"--{name}", str(files[name]))]
    return CliRunner().invoke(app, ["mtsat", *words, "-o", str(files["on"].with_name("mtsat.nii.gz")), "--coregister", "none", *map(str, more)])


def test_maps_and_their_sidecars(triplet: dict[str, Path], tmp_path: Path) -> None:
    result = run(triplet, "--t1", tmp_path / "t1.nii.gz")
    assert result.exit_code == 0, result.output
    true = saturation(Triplet(*(np.array([v]) for v in SIGNALS.values())), Triplet(*(Protocol(*p) for p in PROTOCOL.values())))
    for name, expected in (("mtsat", true.mtsat), ("t1", true.t1)):
        assert np.nanmedian(read_volume(tmp_path / f"{name}.nii.gz", what=name).data) == pytest.approx(expected.item(), rel=1e-4)
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts["RepetitionTimeExcitation"] == {"MT-on": 0.035, "MT-off": 0.035, "T1w": 0.015}
        assert facts["Cord"]["Voxels"] == 144
        assert str(tmp_path) not in json.dumps(facts)
    assert f"median MTsat {true.mtsat.item():.2f} %" in result.output


def test_numbers_given_go_before_those_beside_the_image(triplet: dict[str, Path], tmp_path: Path) -> None:
    for name in PROTOCOL:
        (tmp_path / f"{name}.json").unlink()
    assert run(triplet, "--tr", "0.035,0.035,0.015", "--flip", "9 9 15").exit_code == 0
    assert run(triplet, "--tr", "0.035,0.015", "--flip", "9,9,15").exit_code == 2


def error(result: Result) -> CohortError:
    assert isinstance(result.exception, CohortError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ("no sidecar", MissingInputError, "sidecar of the MT-off image: expected a JSON file of the same name beside the image"),
        ("no flip angle", MissingInputError, "sidecar of the MT-off image: expected the flip angle (FlipAngle), found none"),
        ("flip angle 0", InputError, "MT-off image: expected a flip angle above 0, below 90 degrees, found 0"),
        ("another grid", GeometryError, "MT-off image: expected the grid of the MT-on image"),
        ("T1w for MT-off", InputError, "expected a T1 of 0.2 to 5 s in most of the cord"),
        ("sidecars swapped", InputError, "expected more T1 weighting (flip angle, repetition time) than in the MT-off image"),
        ("no JSON", InputError, "sidecar of the MT-off image: expected JSON"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(triplet: dict[str, Path], change: str, kind: type[CohortError], message: str) -> None:
    beside = triplet["off"].with_name("off.json")
    said = json.loads(beside.read_text())
    if change == "no sidecar":
        beside.unlink()
    elif change == "no flip angle":
        beside.write_text(json.dumps({k: v for k, v in said.items() if k != "FlipAngle"}))
    elif change == "flip angle 0":
        beside.write_text(json.dumps(said | {"FlipAngle": 0}))
    elif change == "no JSON":
        beside.write_text("{RepetitionTime: 0.035}")
    elif change == "another grid":
        image = read_volume(triplet["off"], what="MT-off image")
        write_volume(triplet["off"], Volume(image.data, image.affine + np.diag([0, 0, 0, 0.0]) + np.array([[0, 0, 0, 4.0], *np.zeros((3, 4))])))
    elif change == "T1w for MT-off":
        off, t1w = triplet["off"].read_bytes(), triplet["t1w"].read_bytes()
        triplet["off"].write_bytes(t1w)
        triplet["t1w"].write_bytes(off)
    elif change == "sidecars swapped":
        other = triplet["t1w"].with_name("t1w.json")
        beside.write_text(other.read_text())
        other.write_text(json.dumps(said))
    found = error(run(triplet))
    assert isinstance(found, kind)
    assert message in str(found)
