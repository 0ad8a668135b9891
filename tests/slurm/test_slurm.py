"""Builds on a real SLURM: jobs are cancelled, end, are refused; what is built is what an undisturbed build makes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cohort_engine import schema
from cohort_engine.config import ComputeConfig, Config, compute_model, parse_config
from cohort_engine.engine.build import build
from cohort_engine.engine.clusters import Pool, make_pool
from cohort_engine.engine.events import Events
from cohort_engine.errors import ResourceError
from cohort_engine.phantom.study import simulate
from cohort_engine.single.process import Workplace
from cohort_engine.store.verify import verify
from cohort_engine.template import load_template

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)  # a busy machine
WORKPLACE = Workplace(seed=int(os.environ.get("ANTS_RANDOM_SEED", "1")))


@pytest.fixture(autouse=True)
def workers_know_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs take the environment of who submits them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def compute(**options: Any) -> ComputeConfig:
    slurm = {"hours": 0.25, "handover": 60, **options.pop("slurm", {})}
    return compute_model().model_validate({"cluster": "slurm", "workers": 2, "at_least": 2, "memory": "1500 MiB", "slurm": slurm, **options})


def jobs(*options: str) -> list[str]:
    asked = ["squeue", "--me", "--noheader", "--format=%A", "--sort=i", *options]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


# --- a cohort -----------------------------------------------------------------------------------------------------------
def study(root: Path, store: Path, **where: Any) -> Config:
    return parse_config(
        {
            "data": {"bids": str(root / "bids"), "store": str(store)},
            "template": {"name": "parametric"},
            "compute": where,
            "stages": {"fit": {"deformable": False}, "reduce": {"spaces": ["template"]}},
        }
    )


class Cancel(Events):
    """Cancels a running job when the first stage has ended, and notes which jobs there are when later ones end."""

    def __init__(self) -> None:
        self.cancelled = ""
        self.later: set[str] = set()
        self.dashboard = ""

    def on_dashboard(self, address: str) -> None:
        self.dashboard = address

    def on_stage_end(self, result: Any) -> None:
        if not self.cancelled:
            self.before = set(jobs())
            self.cancelled = jobs("--states=RUNNING")[0]
            subprocess.run(["scancel", self.cancelled], check=True)
        else:
            self.later |= set(jobs("--states=PENDING,RUNNING"))


def arrays(url: Path) -> dict[str, Any]:
    found = dict(zarr.open_group(str(url), mode="r").members(max_depth=None))
    return {path: node[:] for path, node in found.items() if isinstance(node, zarr.Array)}


OF_A_RUN = ("seconds", "peak_memory")
"""What no two runs share."""


def test_a_cohort_whose_job_is_cancelled_is_the_cohort_of_an_undisturbed_build(tmp_path: Path) -> None:
    simulate(tmp_path / "bids", template=load_template("parametric"), patients=1, controls=2, seed=3)
    watch = Cancel()
    where = compute().model_dump(exclude_defaults=True)
    report = build(study(tmp_path, tmp_path / "slurm.zarr", **where), events=watch)
    assert report.exit_code == 0, report.failures.to_string()
    assert report.counts["mtr"] == {"done": 3, "cached": 0, "failed": 0, "missing_input": 0, "not_needed": 0, "blocked": 0}
    assert watch.cancelled in watch.before
    assert watch.later - watch.before, "the cancelled job was not replaced"
    assert watch.dashboard.startswith("http://127.0.0.1:")
    assert build(study(tmp_path, tmp_path / "here.zarr", cluster="synchronous")).exit_code == 0
    found, expected = arrays(tmp_path / "slurm.zarr"), arrays(tmp_path / "here.zarr")
    assert found.keys() == expected.keys()
    assert "maps/mtr" in found
    for path, values in expected.items():
        if path.rpartition("/")[2] not in OF_A_RUN:
            np.testing.assert_array_equal(found[path], values, err_msg=path)
    assert verify(str(tmp_path / "slurm.zarr")) == []


# --- jobs ---------------------------------------------------------------------------------------------------------------
def sleeping(folder: Path, seconds: float) -> Any:
    def sleep(i: int) -> tuple[str, str]:
        import os
        import time

        with open(os.path.join(str(folder), "starts"), "a") as file:
            file.write(f"{i} {os.environ['SLURM_JOB_ID']}\n")
        time.sleep(seconds)
        return os.environ["SLURM_JOB_PARTITION"], os.environ["SLURM_JOB_ID"]

    return sleep


def run(pool: Pool, folder: Path, number: int, seconds: float, **resources: float) -> list[tuple[str, str]]:
    for i in range(number):
        pool.submit(sleeping(folder, seconds), i, key=f"task-{i}-{len(resources)}", resources=resources, retries=2)
    return [pool.outcome(f) for f in pool.completed()]


def test_work_with_and_without_a_gpu_runs_in_jobs_of_their_own_on_one_scheduler(tmp_path: Path) -> None:
    pool = make_pool(compute(workers=1, at_least=1, gpus=1, gpu_memory="1500 MiB", slurm={"gpu_partition": "gpu"}))
    try:
        pool.open(WORKPLACE)
        sleep = sleeping(tmp_path, 0.1)
        for i in range(4):
            pool.submit(sleep, i, key=f"plain-{i}", resources={}, retries=2)
            pool.submit(sleep, i, key=f"net-{i}", resources={schema.GPU: 1.0}, retries=2)
        found = {future.key: pool.outcome(future)[0] for future in pool.completed()}
        kept = pool.client.run(lambda dask_worker: [name for name in dask_worker.periodic_callbacks if "profile" in name])
    finally:
        pool.close()
    assert found == {f"{kind}-{i}": where for kind, where in (("plain", "all"), ("net", "gpu")) for i in range(4)}
    assert kept
    assert not any(kept.values()), "what dask's profiler keeps would make workers grow"


def test_jobs_that_reach_their_wall_time_hand_over_and_nothing_is_done_again(tmp_path: Path) -> None:
    """Jobs of a minute whose workers leave after 16 to 38 seconds: 90 tasks of a second need more than the first two."""
    pool = make_pool(compute(slurm={"hours": 60 / 3600, "handover": 44}))
    try:
        pool.open(WORKPLACE)
        used = {job for _, job in run(pool, tmp_path, 90, 1.0)}
    finally:
        pool.close()
    starts = [line.split()[0] for line in (tmp_path / "starts").read_text().splitlines()]
    assert sorted(starts, key=int) == [str(i) for i in range(90)]
    assert len(used) > 2


def test_a_job_that_is_refused_is_told_in_slurms_words() -> None:
    pool = make_pool(compute(slurm={"partition": "nowhere"}))
    with pytest.raises(ResourceError, match=r"compute.slurm: expected a job that SLURM accepts, found .*[Ii]nvalid partition"):
        pool.open(WORKPLACE)
    assert jobs("--states=PENDING,RUNNING") == []


def test_a_job_that_never_starts_is_waited_for_with_the_reason_in_slurms_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour in a partition of five minutes: SLURM takes such a job, and lets it wait for ever."""
    monkeypatch.setattr("cohort_engine.engine.clusters.elsewhere.SILENCE_SECONDS", 3.0)
    said: list[str] = []
    events = Events()
    events.on_wait = said.append  # type: ignore[method-assign]
    pool = make_pool(compute(at_least=1, patience=12, slurm={"partition": "short", "hours": 1}))
    with pytest.raises(ResourceError, match=r"expected a worker, found none within 12 s \(1 x PENDING \(PartitionTimeLimit\)\)"):
        pool.open(WORKPLACE, events=events)
    assert said[-1] == "Still waiting for the first worker: 1 x PENDING (PartitionTimeLimit)"
    assert jobs("--states=PENDING,RUNNING") == []


# --- the README ---------------------------------------------------------------------------------------------------------
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    """As they stand there, but for the installation, and with one subject."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"### SLURM\n.*?```console\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    commands = [line.removeprefix("$ ") for line in block[1].splitlines()]
    assert len(commands) <= 5
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    printed = {}
    for command in commands:
        words = shlex.split(command.replace("--patients 2 --controls 2", "--patients 0 --controls 1"), comments=True)
        if words[0] in ("pip", "cohort-engine"):
            words = [sys.executable, "-m", *(["pip", "--version"] if words[0] == "pip" else ["cohort_engine.cli", *words[1:]])]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout + done.stderr
    assert any("The cluster at work: http://" in text for text in printed.values())
    assert any("fit_mt" in text for text in printed.values())
