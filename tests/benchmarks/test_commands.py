"""What commands for one image cost beside the Spinal Cord Toolbox (SCT): ``pytest --benchmark-only -s tests/benchmarks/test_commands.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.io.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.real

SCT = {
    "extract wa": 3.5, "extract map": 21.0, "register": 45.0, "shape": 1.8, "shape --pam50": 12.0,
}  # fmt: skip
"""Seconds of SCT as published, on subject sct_019 of 192 x 192 x 22 voxels: extraction of 43 regions per level 3.5 s (wa) and 21 s (map) with 0.8 to
1.0 GB, warping the template and its 37 tracts to that image 45 s, shape per slice 1.8 s and with PAM50 normalisation 12 s. Ours are on sub-HC003U,
whose MT image has 256 x 256 x 22 voxels. The 45 s are for the warping alone; our `register` finds the transformation as well."""


@pytest.fixture(scope="module")
def commands(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """The commands by their name in `SCT`, all on the files of one subject."""
    anat, out = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat", tmp_path_factory.mktemp("out")
    metric, mt, t2w = out / "metric.nii.gz", anat / "MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS", anat / "T2w/sub-HC003U_ses-spinalcord_T2w_seg"
    image = read_volume(f"{mt}.nii.gz", what="metric image")
    write_volume(metric, Volume(image.data, image.affine))
    placed = ["--levels", f"{t2w}_labeled_discs.nii.gz", "--kind", "disc", "--template-path", real_data / "PAM50"]
    extract = ["extract", "--metric", metric, "--labels", anat / "MTS/label", "--per", "level", "-o", out / "regions.csv", "--estimator"]
    shape = ["shape", f"{t2w}.nii.gz", "-o", out / "shape.csv"]
    return {
        "extract wa": [*extract, "wa"], "extract map": [*extract, "map"], "shape": shape, "shape --pam50": [*shape, *placed, "--pam50"],
        "register": ["register", f"{mt}.nii.gz", "--mask", f"{mt}_seg.nii.gz", *placed, "-o", out / "registered"],
    }  # fmt: skip


def test_beside_sct(benchmark: Any, cost: Callable[..., Any], commands: dict[str, list[object]]) -> None:
    cost(*commands["register"], rounds=1)  # PAM50 is read once, then comes from its cache
    cost(*commands["shape --pam50"], rounds=1)
    found = benchmark.pedantic(lambda: {name: cost(*arguments) for name, arguments in commands.items()}, rounds=1)
    print(f"\n{'command':<16}{'CPU s':>8}{'MiB':>8}{'SCT s':>8}{'SCT / ours':>12}")
    for name, (seconds, memory) in found.items():
        print(f"{name:<16}{seconds:>8.2f}{memory:>8.0f}{SCT[name]:>8.1f}{SCT[name] / seconds:>12.1f}")
    assert all(seconds < SCT[name] for name, (seconds, _) in found.items())
