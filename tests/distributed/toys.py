"""Stages whose images are words, so that a test says what each subject does. Workers and other processes import this file."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.events import Events
from cohort_engine.errors import CohortError, CordError, StorageError
from cohort_engine.stages.base import Stage, StageInput

ONCE, HAPPENED = " once", "happened"
"""What a mask says after what happens once, to whomever it comes first; and the file that says it has."""
BUILD = {"data": {"bids": "bids", "store": "study.zarr"}, "template": {"name": "parametric"}}


def make_study(root: Path, *subjects: dict[str, object] | None) -> Path:
    """One participant for each argument: what its MT mask says, or None for a participant without one."""
    bids = root / "bids"
    (bids / "derivatives" / "labels").mkdir(parents=True)
    (bids / "participants.tsv").write_text("\n".join(["participant_id\tage", *(f"sub-{i:02d}\t{40 + i}" for i in range(len(subjects)))]) + "\n")
    for i, words in enumerate(subjects):
        anat = bids / f"sub-{i:02d}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{i:02d}_flip-1_mt-on_MTS.nii.gz").write_text("on")
        (anat / f"sub-{i:02d}_flip-1_mt-off_MTS.nii.gz").write_text("off")
        if words is not None:
            say(root, i, **words)
    return root


def say(root: Path, i: int, **words: object) -> None:
    """Write (or replace) the MT mask of a participant."""
    anat = root / "bids" / "derivatives" / "labels" / f"sub-{i:02d}" / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    (anat / f"sub-{i:02d}_flip-1_mt-on_MTS_label-SC_seg.nii.gz").write_text(json.dumps(words))


def study_config(root: Path, *, low_signal: float = 0.05, seed: int = 1, **compute: object) -> Config:
    raw = {
        "data": {"bids": str(root / "bids"), "store": str(root / "study.zarr")},
        "template": {"name": "parametric"},
        "compute": {"cluster": "synchronous", "memory": "3 GiB", "retries": 1} | compute,
        "stages": {
            "fit": {"seed": seed},
            "mtr": {"low_signal": low_signal},
            "reduce": {"spaces": ["template"]},
            "segment": {"enabled": False},
            "levels": {"enabled": False},
        },
    }
    return parse_config(raw)


def words(inputs: StageInput) -> dict[str, object]:
    return json.loads(inputs.text("mt_mask"))


def obey(inputs: StageInput, stage: str) -> None:
    said = words(inputs)
    folder = Path(inputs.files["mt_mask"]).parents[5]
    name = Path(inputs.files["mt_mask"]).parents[1].name
    with (folder / "journal").open("a") as journal:
        journal.write(f"{stage} {name} {os.getpid()}\n")
    Path(tempfile.mkdtemp(), "left").touch()
    time.sleep(float(said.get("sleep", 0)))
    word, mark = str(said.get(stage, "")), folder / HAPPENED
    if word.endswith(ONCE):
        word = "" if mark.exists() else word.removesuffix(ONCE)
        mark.touch()
    match word:
        case "bad":
            raise CordError(expected="a cord", found="nothing", where="MT mask", remedy="Draw it.")
        case "bug":
            raise ZeroDivisionError(f"cannot divide {inputs.files['mt_mask']} of {name}")
        case "storage":
            raise StorageError(expected="a disk", found="none", where="disk", remedy="Buy one.")
        case "memory":
            raise MemoryError
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "hog":
            hoard = []
            while True:
                hoard.append(np.ones(2**23))
                time.sleep(0.05)


def fit(inputs: StageInput) -> dict[str, np.ndarray]:
    obey(inputs, "fit")
    rng = np.random.default_rng(inputs.params["seed"])
    xyz = np.asarray(inputs.template.packing.xyz + rng.normal() + float(words(inputs).get("value", 0)), np.float32)
    return {"fit/mt": xyz, "qc/mt_dice": np.float32(0.9)}


def mtr(inputs: StageInput) -> dict[str, np.ndarray]:
    obey(inputs, "mtr")
    xyz = inputs.load("fit/mt")
    return {"maps/mtr": 40 + 0.001 * xyz[:, 2], "qc/mtr_cord_median": np.float32(40 + inputs.params["low_signal"])}


def stages(config: Config) -> tuple[Stage, ...]:
    """The two stages, with what a study file says to them."""
    return (
        Stage("fit_mt", "1", fit, ("mt_mask",), (FIT_MAP, FIT_DICE), {"seed": config.stages.fit.seed}, memory=100, section="fit"),
        Stage(
            "mtr", "1", mtr, ("mt_on", "mt_off", "mt_mask"), (MTR_MAP, MTR_MEDIAN), {"low_signal": config.stages.mtr.low_signal}, needs=("fit_mt",),
            memory=100, section="mtr",
        ),
    )  # fmt: skip


FIT_MAP, FIT_DICE = schema.fit_spec("mt"), schema.qc_specs("mt", schema.FIT_QC, "fit_mt")["dice"]
MTR_MAP, MTR_MEDIAN = schema.METRICS["mtr"].map, schema.qc_specs("mtr", schema.METRICS["mtr"].quality, "mtr")["cord_median"]
STAGES = stages(parse_config({"data": {"bids": "bids", "store": "study.zarr"}}))
FIT, MTR = STAGES


def journal(root: Path) -> list[tuple[str, str]]:
    """(stage, participant) of every run so far, sorted."""
    path = root / "journal"
    return sorted(tuple(line.split()[:2]) for line in path.read_text().splitlines()) if path.exists() else []  # type: ignore[misc]


def arrays(root: Path, name: str = "study.zarr") -> dict[str, np.ndarray]:
    """Every array of the store but the times."""
    import zarr

    group = zarr.open_group(str(root / name), mode="r", use_consolidated=False)
    skip = {f"{schema.STAGES}/{schema.SECONDS}", f"{schema.STAGES}/{schema.PEAK_MEMORY}"}
    return {path: node[...] for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array) and path not in skip}


class KillAfter(Events):
    """Kill this process when so many subjects have ended."""

    def __init__(self, subjects: int) -> None:
        self.left = subjects

    def on_subject_end(self, row: int) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, cluster: str = "local", low_signal: str = "0.05", kill_after: str = "0") -> int:
    """Build the study of a folder."""
    from cohort_engine.engine.build import build

    config = study_config(Path(root), cluster=cluster, workers=2, window=1 if cluster == "synchronous" else 3, low_signal=float(low_signal))
    try:
        return build(config, stages=stages(config), events=KillAfter(int(kill_after))).exit_code
    except CohortError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
