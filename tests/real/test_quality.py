"""Healthy people's real scans are usable, and failures planted into them are flagged for the right reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.io.volume import read_volume
from cohort_engine.phantom.failures import Case, lost_front, map_astray, motion_between, shifted_mask, swapped_pair
from cohort_engine.quality import vocabulary
from cohort_engine.quality.features import of_subject
from cohort_engine.quality.judge import judge, told
from cohort_engine.single.fit import fit_cord
from cohort_engine.template.pam50 import load_pam50

pytestmark = pytest.mark.real
MT_MASK, T2W_MASK = schema.role(schema.MT, schema.MASK), schema.role(schema.T2W, schema.MASK)


@pytest.fixture(scope="module")
def template(real_data: Path) -> Any:
    return load_pam50(real_data / "PAM50")


def scans(real_data: Path, who: str) -> tuple[dict[str, Path], Path, str]:
    """Files by role, landmarks, and what they number."""
    if who == "errsm_23":
        root = real_data / who
        files = {schema.MT_ON: "mt/mt1", schema.MT_OFF: "mt/mt0", MT_MASK: "mt/mt_seg", schema.T2W: "t2/t2", T2W_MASK: "t2/t2_manual_segmentation"}
        return {r: root / f"{p}.nii.gz" for r, p in files.items()}, root / "t2/t2_landmarks_C2_T2_center.nii.gz", schema.BODY
    root, prefix = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat", "sub-HC003U_ses-spinalcord_"
    files = {
        schema.MT_ON: f"MTS/{prefix}acq-MTon_MTS", schema.MT_OFF: f"MTS/{prefix}acq-MToff_MTS", MT_MASK: f"MTS/{prefix}acq-MTon_MTS_seg",
        T2W_MASK: f"T2w/{prefix}T2w_seg",
    }  # fmt: skip
    return {r: root / f"{p}.nii.gz" for r, p in files.items()}, root / f"T2w/{prefix}T2w_seg_labeled_discs.nii.gz", schema.DISC


@pytest.fixture(scope="module", params=["HC003U", "errsm_23"])
def case(request: pytest.FixtureRequest, real_data: Path, template: Any) -> Case:
    files, points, kind = scans(real_data, request.param)
    images = {role: read_volume(str(path), what=role) for role, path in files.items()}
    labels = read_volume(str(points), what="landmarks", dtype=np.int32)
    landmarks = landmarks_from_labels(labels.data, labels.affine, kind=kind, what="landmarks")
    positions = fit_cord(images[MT_MASK], landmarks, template, labelled=images[T2W_MASK]).packed(template)
    return Case(images, landmarks, positions)


def test_healthy_people_are_usable(case: Case, template: Any) -> None:
    found = of_subject(case.images, case.positions, template, case.landmarks)
    verdict = judge(found.values)
    print({k: round(v, 3) for k, v in found.values.items()}, round(verdict.usable, 3), told(found, verdict), sep="\n")
    assert verdict.usable > 0.9
    assert verdict.reasons == ()


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (shifted_mask, vocabulary.MASK_FAULT), (lost_front, vocabulary.MASK_FAULT), (motion_between, vocabulary.MOTION_FAULT),
        (swapped_pair, vocabulary.CONTRAST_FAULT), (map_astray, vocabulary.MAP_FAULT),
    ],
)  # fmt: skip
def test_planted_failures_are_flagged(case: Case, template: Any, plant: Any, kind: str) -> None:
    failed = plant(case, np.random.default_rng(3))
    found = of_subject(failed.images, failed.positions, template, failed.landmarks)
    verdict = judge(found.values)
    print(plant.__name__, round(verdict.usable, 3), told(found, verdict))
    assert verdict.usable < vocabulary.LEAST_USABLE
    assert kind in verdict.reasons
