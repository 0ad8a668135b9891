"""What landmark numbers mean: the study file's word goes before the file's name, and neither before the stage that made the file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.fit import FitConfig, cord_of, fit_methods, fit_params, landmarks_of

ROLE = "t2w_landmarks"


@pytest.fixture
def labels(tmp_path: Path) -> str:
    data = np.zeros((4, 4, 30), np.uint8)
    data[2, 2, 20], data[2, 2, 10] = 3, 4
    path = tmp_path / "labels.nii.gz"
    write_volume(path, Volume(data, np.eye(4)))
    return str(path)


def kind_of(location: str, *, named: str, said: str, made: bool) -> str:
    inputs = StageInput({ROLE: location}, {ROLE: named}, {}, SimpleNamespace(), lambda path: np.zeros(0), frozenset({ROLE} if made else ()))  # type: ignore[arg-type]
    return landmarks_of(inputs, ROLE, said).kind


@pytest.mark.parametrize(
    ("named", "said", "made", "expected"),
    [
        (schema.BODY, "auto", False, schema.BODY),
        (schema.DISC, schema.BODY, False, schema.BODY),
        (schema.BODY, schema.DISC, False, schema.DISC),
        (schema.DISC, schema.BODY, True, schema.DISC),  # discs that were found here are not vertebrae because the study's labels are
    ],
)
def test_who_says_what_the_numbers_mean(labels: str, named: str, said: str, made: bool, expected: str) -> None:
    assert kind_of(labels, named=named, said=said, made=made) == expected


@pytest.mark.filterwarnings("ignore::cohort_engine.errors.CohortWarning")
@pytest.mark.parametrize(("shift", "image", "lies"), [(0.3, True, 0.0), (0.3, False, 0.3), (0.7, True, 0.7)])
def test_a_mask_lies_where_its_image_does(tmp_path: Path, shift: float, image: bool, lies: float) -> None:
    """A tool moved the header of the mask by a third of a voxel; one on a grid of its own lies where it says: levels need no common grid."""
    contrast, data = schema.CONTRASTS[schema.MT], np.zeros((4, 4, 30), np.float32)
    data[1:3, 1:3] = 1
    moved = np.eye(4)
    moved[0, 3] = shift
    write_volume(tmp_path / "mask.nii.gz", Volume(data, moved))
    write_volume(tmp_path / "image.nii.gz", Volume(data, np.eye(4)))
    files = {contrast.mask: str(tmp_path / "mask.nii.gz")} | ({contrast.image: str(tmp_path / "image.nii.gz")} if image else {})
    cord = cord_of(StageInput(files, {}, {}, SimpleNamespace(), lambda path: np.zeros(0)), contrast)  # type: ignore[arg-type]
    assert cord.affine[0, 3] == pytest.approx(lies)
    np.testing.assert_array_equal(cord.data, data)


def test_maps_are_made_anew_by_another_engine_only_and_the_methods_name_it() -> None:
    studies: list[Any] = [SimpleNamespace(stages=SimpleNamespace(fit=fit)) for fit in (FitConfig(engine="ants"), FitConfig(engine="torch"))]
    before, other = (fit_params(study) for study in studies)
    assert "engine" not in before
    assert other == before | {"engine": "torch"}
    syn, demons = (fit_methods({"stages": {"fit": p}}, frozenset()) for p in (before, other))
    assert ("@syn" in syn, "@demons" in syn) == (True, False)
    assert ("@syn" in demons, "@demons" in demons) == (False, True)
