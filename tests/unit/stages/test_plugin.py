"""Another package brings a metric, a study a ready-made map: both are built, tabulated, asked for, checked and reported like any other."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from cohort_engine.phantom.study import simulate
from cohort_engine.template.parametric import parametric_cord

PACKAGE = '''"""Signal of the MT-on image over its median in the cord: a metric of another package."""
import numpy as np
from pydantic import Field

from cohort_engine import schema
from cohort_engine.config import Section
from cohort_engine.io.grids import require_grid
from cohort_engine.io.volume import Volume
from cohort_engine.stages.base import StageKind, register
from cohort_engine.stages.metric import MetricImage, metric_quality, metric_stages

BRIGHTNESS = schema.METRICS.add(
    schema.Metric("brightness", "Brightness", "signal over the cord's median", "1", (0.0, 10.0), schema.MT, rises=True, error=True)
)
MASK = schema.CONTRASTS[schema.MT].mask


class BrightnessConfig(Section):
    """Relative signal."""

    power: float = Field(default=1.0, gt=0)
    """Exponent."""


def image(inputs):
    on, cord = inputs.volume(schema.MT_ON), inputs.volume(MASK)
    require_grid(cord.grid, on.grid, what="cord mask", like="the MT-on image")
    inside = cord.data > 0.5
    values = (on.data / np.median(on.data[inside])) ** inputs.params["power"]
    return MetricImage(Volume(values, on.affine), metric_quality(values, inside), se=np.full(on.data.shape, 0.1))


def stages(config):
    if BRIGHTNESS.name in config.stages.metrics:
        params = config.stages.brightness.model_dump()
        yield from metric_stages(config, BRIGHTNESS, image, version="1", roles=(schema.MT_ON, MASK), params=params)


def methods(science, metrics):
    power = science["stages"]["brightness"]["power"]
    return f"Brightness was raised to the power of {power:g} [@plugin]." if BRIGHTNESS.name in metrics else ""


register(StageKind("brightness", BrightnessConfig, stages, methods, {"plugin": ("Nobody N. A metric. Journal 2026;1:1.", "10.0000/none")}))
'''


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Install the package as pip would, and return the environment in which it is there."""
    site = tmp_path / "site"
    about = site / "brightness-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "brightness.py").write_text(PACKAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[cohort_engine.plugins]\nbrightness = brightness\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))}


def give_map(bids: Path, value: float) -> None:
    """Give everybody a map that is `value` everywhere, on the grid of the MT-on image, beside what the study has."""
    for image in [*bids.glob("sub-*/anat/*mt-on*.nii.gz"), *bids.glob("sub-*/anat/*acq-MTon*.nii.gz")]:
        who, folder = image.name.partition("_")[0], bids / "derivatives" / "qmri" / image.parent.relative_to(bids)
        folder.mkdir(parents=True)
        scan = nib.load(image)
        nib.Nifti1Image(np.full(scan.shape, value, np.float32), scan.affine).to_filename(folder / f"{who}_desc-t1_map.nii.gz")


def test_metrics_of_another_package_and_of_a_study_file_are_like_any_other(installed: dict[str, str], tmp_path: Path) -> None:
    assert len(PACKAGE.splitlines()) <= 50
    template = parametric_cord()
    study = simulate(tmp_path / "study", template=template, patients=2, controls=2, seed=1, labels=True)
    config = yaml.safe_load(study.study_file.read_text())
    config["stages"] = {**config.get("stages", {}), "metrics": ["mtr", "brightness"], "brightness": {"power": 2}}
    config["stages"]["maps"] = {"t1": {"file": "desc-t1_map", "contrast": "mt", "units": "s"}}
    give_map(study.study_file.parent / config["data"]["bids"], 1.25)
    config["stages"]["fit"] = {**config["stages"].get("fit", {}), "deformable": False}
    config["compute"] = {"cluster": "synchronous"}
    study.study_file.write_text(yaml.safe_dump(config))

    def run(*arguments: object) -> str:
        command = [sys.executable, "-W", "error", "-m", "cohort_engine.cli", *map(str, arguments)]
        done = subprocess.run(command, env=installed, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "brightness_native" in run("build", study.study_file, "--quiet")
    store = study.study_file.parent / config["data"]["store"]
    question = "brightness tract='spinal cord' level=C4"
    answer = run("query", store, question, "--csv", "-")
    values = [float(row["value"]) for row in csv.DictReader(io.StringIO(answer))]
    assert len(values) == 4
    assert all(0.2 < v < 5 for v in values)
    noise = {}
    for space in ("template", "native"):
        for level in ("C4", "C3:C4"):
            told = run("query", store, f"brightness tract='white matter' level={level} estimator=wa", "--csv", "-", "--space", space)
            noise[space, level] = np.array([float(row["noise"]) for row in csv.DictReader(io.StringIO(told))])
        assert (0.7 * noise[space, "C4"] / np.sqrt(2) < noise[space, "C3:C4"]).all()
        assert (noise[space, "C3:C4"] < 0.85 * noise[space, "C4"]).all(), "twice the voxels have less noise"
        ready = run("query", store, "t1 tract='spinal cord' level=C4 estimator=wa", "--csv", "-", "--space", space)
        assert [float(row["value"]) for row in csv.DictReader(io.StringIO(ready))] == pytest.approx([1.25] * 4)
    assert ((noise["native", "C4"] > 0.003) & (noise["native", "C4"] < 0.02)).all(), "0.1 over the root of some hundred voxels"
    assert (np.abs(np.log(noise["template", "C4"] / noise["native", "C4"])) < 0.25).all(), "voxels of the template that share one share its error"
    assert "0 problems" in run("verify", store, "--deep")
    run("analyse", study.study_file, "--quiet", "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Brightness was raised to the power of 2" in page
    assert "10.0000/none" in page
    assert "Maps of T1 (s) were part of the study" in page
    without = [sys.executable, "-m", "cohort_engine.cli", "query", str(store), question, "--csv", "-"]
    assert subprocess.run(without, capture_output=True, text=True, check=True).stdout == answer, "the store says what its metrics are"


def test_a_package_that_cannot_be_imported_is_told_by_name(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site" / "brightness.py").write_text("import nothing_of_that_name\n")
    study = tmp_path / "study.yaml"
    study.write_text("data: {bids: b, store: s}\n")
    done = subprocess.run([sys.executable, "-m", "cohort_engine.cli", "plan", str(study)], env=installed, capture_output=True, text=True)
    assert done.returncode == 2
    assert "plug-in 'brightness'" in done.stderr
    assert "Traceback" not in done.stderr
