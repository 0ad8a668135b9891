"""What one image and one more subject cost on real scans: ``pytest --benchmark-only -s tests/benchmarks/test_further_subject.py``.

The subject has images alone (errsm_23: T2w, MT-on and MT-off); masks and levels are made. All is done in one process on one thread. To compare with
another commit, run this file with ``PYTHONPATH`` on a checkout of it: ``python tests/benchmarks/test_further_subject.py DATA FOLDER [mtr,fa]``: with
FA, the subject has its diffusion series (96 x 96 x 9 x 34 voxels) as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

SCANS = {"T2w": "t2/t2", "acq-MTon_MTS": "mt/mt1", "acq-MToff_MTS": "mt/mt0"}
SERIES = {"dwi.nii.gz": "dmri.nii.gz", "dwi.bval": "bvals.txt", "dwi.bvec": "bvecs.txt"}
PEOPLE = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")


def write_study(data: Path, root: Path, people: int) -> Path:
    """A BIDS folder in which the same scans, under other headers, are those of several people."""
    import nibabel as nib

    for who in range(people):
        folder = root / f"sub-{who}" / "anat"
        folder.mkdir(parents=True)
        for name, source in SCANS.items():
            image: Any = nib.load(data / f"errsm_23/{source}.nii.gz")
            image.header["descrip"] = f"copy {who}"
            nib.save(image, folder / f"sub-{who}_{name}.nii.gz")
        for name, source in SERIES.items():
            place = root / f"sub-{who}" / "dwi" / f"sub-{who}_{name}"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes((data / f"errsm_23/dmri/{source}").read_bytes())
    (root / "participants.tsv").write_text("participant_id\n" + "".join(f"sub-{who}\n" for who in range(people)))
    (root / "dataset_description.json").write_text('{"Name": "images alone", "BIDSVersion": "1.9.0"}')
    return root


def measure(data: Path, folder: Path, metrics: str = "mtr") -> dict[str, float]:
    """Processor time (s) of a further subject: by stage, without reading and writing the store, and in all."""
    import torch
    from stopwatch import timed_stages

    from cohort_engine.config import parse_config
    from cohort_engine.engine.build import build

    torch.set_num_threads(1)
    whole = []
    for people in (1, PEOPLE):
        config = parse_config({
            "data": {"bids": str(write_study(data, folder / f"study-{people}", people)), "store": str(folder / f"study-{people}.zarr")},
            "template": {"name": "PAM50", "path": str(data / "PAM50")}, "compute": {"cluster": "synchronous"},
            "stages": {"metrics": metrics.split(",")},
        })  # fmt: skip
        stages, taken = timed_stages(config, time.process_time)
        start = time.process_time()
        report = build(config, stages=stages)
        whole.append(time.process_time() - start)
        assert report.exit_code == 0, report.failures.to_string()
    return {name: sum(seconds[1:]) / (PEOPLE - 1) for name, seconds in taken.items()} | {"all": (whole[1] - whole[0]) / (PEOPLE - 1)}


@pytest.mark.parametrize(("metrics", "most"), [("mtr", 12), ("mtr,fa,md", 25)])  # 7.9 s on a machine where MTR alone was 11.9 before
def test_a_further_subject(benchmark: Any, real_data: Path, tmp_path: Path, metrics: str, most: float) -> None:
    command = [sys.executable, __file__, str(real_data), str(tmp_path), metrics]
    run = lambda: subprocess.run(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: E731
    found = json.loads(benchmark.pedantic(run, rounds=1).splitlines()[-1])
    print("\n" + "\n".join(f"{name:<16}{seconds:>6.2f} s" for name, seconds in found.items()))
    assert found["all"] < most


def test_register(benchmark: Any, real_data: Path, tmp_path: Path, cost: Callable[..., Any]) -> None:
    """The 1 mm T2w scan of errsm_11 with its checked mask."""
    scan = real_data / "errsm_11/t2"
    command = [
        "register", scan / "t2.nii.gz", "--mask", scan / "t2_manual_segmentation.nii.gz", "--levels", scan / "t2_landmarks_C2_T2_center.nii.gz",
        "--kind", "body", "--template-path", real_data / "PAM50", "-o", tmp_path / "out",
    ]  # fmt: skip
    cost(*command, rounds=1)  # PAM50 is read once, then comes from its cache
    seconds, memory = benchmark.pedantic(lambda: cost(*command, rounds=2), rounds=1)
    print(f"\nregister {seconds:.1f} s CPU, {memory:.0f} MiB")
    assert memory < 1000


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])))
