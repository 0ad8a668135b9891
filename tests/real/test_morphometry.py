"""Morphometry of a published subject against the tables of the Spinal Cord Toolbox that come with it."""

import time

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.cord.centreline import centreline_from_mask, slice_arc
from cohort_engine.cord.levels import landmarks_from_labels, level_axis
from cohort_engine.io.volume import read_volume
from cohort_engine.qmri.morphometry import group_slices, measure_slices, template_profile
from cohort_engine.schema import (
    ANGLE_AP,
    ANGLE_RL,
    AREA,
    DIAMETER_AP,
    DIAMETER_AP_ELLIPSE,
    DIAMETER_RL,
    ECCENTRICITY,
    LENGTH,
    ORIENTATION,
    SOLIDITY,
)
from cohort_engine.template import load_template

pytestmark = pytest.mark.real

WHAT = schema.words(schema.role(schema.T2W, schema.MASK))
SIGN = {ANGLE_AP: -1.0}
"""The table counts a lean to the left as positive."""


@pytest.fixture(scope="module")
def folder(real_data):
    return real_data / "dcm_ou" / "sub-HC003U" / "ses-spinalcord" / "anat" / "T2w"


@pytest.fixture(scope="module")
def cord(folder):
    mask = read_volume(next(folder.glob("*T2w_seg.nii.gz")), what=WHAT)
    line = centreline_from_mask(mask.data, mask.affine, what=WHAT)
    return mask, line, measure_slices(mask.data, mask.affine, line, what=WHAT)


@pytest.fixture(scope="module")
def labels(folder):
    """Labelled mask, and the level of each slice: the rounded mean of the labels in it."""
    labelled = read_volume(next(folder.glob("*seg_labeled.nii.gz")), what=WHAT)
    counts = np.maximum((labelled.data > 0).sum(axis=(0, 1)), 1)
    return labelled, np.round(labelled.data.sum(axis=(0, 1)) / counts).astype(int)


def table(path):
    t = pd.read_csv(path)
    t.columns = [c[c.find("(") + 1 : c.find(")")] if "(" in c and c[0] in "MS" and c.startswith(("MEAN", "SUM")) else c for c in t.columns]
    return t


TOLERANCES = [  # measure, column of the table, mean absolute difference per slice, largest per level
    (AREA, "area", 0.15, 0.5),
    (DIAMETER_AP_ELLIPSE, "diameter_AP", 0.06, 0.05),
    (DIAMETER_AP, "diameter_AP", 0.2, 0.25),  # another definition of the same thing
    (DIAMETER_RL, "diameter_RL", 0.08, 0.1),  # the table's outline is smoothed
    (ECCENTRICITY, "eccentricity", 0.005, 0.005),
    (SOLIDITY, "solidity", 0.01, 0.01),  # smoothed likewise
    (ORIENTATION, "orientation", 1.0, 1.5),  # the table leaves out the shear of a cord that leans forwards in a slice that leans sideways
    (ANGLE_AP, "angle_AP", 0.5, 1.0),  # two smoothings of one centreline
    (ANGLE_RL, "angle_RL", 0.5, 1.0),
    (LENGTH, "length", 0.002, 0.05),
]


@pytest.mark.parametrize(("measure", "column", "per_slice", "per_level"), TOLERANCES)
def test_slices_and_levels(folder, cord, labels, measure, column, per_slice, per_level):
    values = cord[2][0]
    value = np.abs(values[measure]) if measure == ORIENTATION else SIGN.get(measure, 1.0) * values[measure]
    slices = table(folder / "t2w_shape_perslice.csv").set_index("Slice (I->S)")
    assert np.abs(value[slices.index] - slices[column]).mean() <= per_slice
    levels = table(folder / "t2w_shape_perlevel.csv").set_index("VertLevel")[column]
    ours = group_slices({measure: value}, labels[1])
    ours = pd.Series(ours.value[measure], ours.groups)
    assert np.abs(ours[levels.index] - levels).max() <= per_level


def test_the_level_of_every_slice(folder, labels):
    slices = table(folder / "t2w_shape_perslice.csv").set_index("Slice (I->S)")
    np.testing.assert_array_equal(labels[1][slices.index], slices["VertLevel"])


def test_the_profile_along_the_template(folder, real_data, cord, labels):
    mask, line, (values, _) = cord
    template = load_template("PAM50", path=real_data / "PAM50")
    axis = level_axis(line, landmarks_from_labels(labels[0].data, labels[0].affine, kind=None, what="levels"), template)
    theirs = table(folder / "t2w_shape_PAM50_perslice.csv").set_index("Slice (I->S)")["area"].dropna().sort_index()
    k = theirs.index.to_numpy()
    z = template.grid.world(np.stack([np.zeros_like(k), np.zeros_like(k), k], axis=1).astype(float))[:, 2]
    ours = template_profile(values[AREA], slice_arc(line, mask.affine, np.arange(mask.data.shape[2])), axis, z)
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).mean() <= 0.6
    assert abs((ours - theirs).mean()) <= 0.1
    borders = np.flatnonzero(np.diff(template.slice_level[k]))
    step, their_step = (np.abs(np.diff(v))[borders] for v in (ours, theirs))
    assert step.mean() < 0.6 * their_step.mean()  # 0.38 and 0.81 mm2: no stretch begins anew at a border


def test_all_measures_of_a_whole_mask_are_quick(cord):
    mask, line, _ = cord
    seconds = []
    for _ in range(5):
        start = time.process_time()
        measure_slices(mask.data, mask.affine, line, what=WHAT)
        seconds.append(time.process_time() - start)
    assert mask.data.shape == (64, 320, 320)
    assert min(seconds) < 0.2


@pytest.mark.parametrize("landmarks", ["seg_labeled", "seg_labeled_discs"])
def test_the_command_gives_the_published_levels(folder, real_data, tmp_path, landmarks):
    mask, levels = (next(folder.glob(f"*T2w_{n}.nii.gz")) for n in ("seg", landmarks))
    out = tmp_path / "levels.csv"
    options = ["--levels", levels, "--per", "level", "--template-path", real_data / "PAM50", "-o", out]
    result = CliRunner().invoke(app, ["shape", str(mask), *map(str, options)])
    assert result.exit_code == 0, result.output
    ours = pd.read_csv(out).set_index("VertLevel")
    theirs = pd.read_csv(folder / "t2w_shape_perlevel.csv").set_index("VertLevel")
    assert np.abs(ours["MEAN(area)"].loc[theirs.index] - theirs["MEAN(area)"]).max() <= 0.5
