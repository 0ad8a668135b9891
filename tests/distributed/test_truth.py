"""A store that cannot lie: what is there, what is asked for, and what is said of both agree, whatever happened. Each test tells the wrong answer
that a store gave when nothing compared the three.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from toys import FIT, MTR, STAGES, arrays, journal, make_study, say, stages, study_config

import cohort_engine
from cohort_engine.config import Config
from cohort_engine.engine.build import BuildReport, build, finalise, plan, retry, status
from cohort_engine.errors import IncompleteError, StorageError, StoreError
from cohort_engine.query.frame import run_query
from cohort_engine.stages.base import StageInput
from cohort_engine.store.lease import lease
from cohort_engine.store.records import read_entries
from cohort_engine.store.verify import verify

HERE = Path(__file__).parent


def run(config: Config) -> BuildReport:
    return build(config, stages=stages(config))


def outcomes(report: BuildReport, stage: str) -> dict[str, int]:
    return {k: n for k, n in report.counts[stage].items() if n}


def counts(found: Any, stage: str) -> dict[str, int]:
    return {k: n for k, n in found.counts.set_index("stage").loc[stage].to_dict().items() if n}


def attributes(root: Path) -> dict[str, Any]:
    return dict(zarr.open_group(str(root / "study.zarr"), mode="r", use_consolidated=False).attrs)


def with_data(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def images(root: Path, *people: int) -> None:
    """Give people images that nobody else has."""
    for i in people:
        for path in (root / f"bids/sub-{i:02d}/anat").glob("*.nii.gz"):
            path.write_text(f"{path.name} {i}")


def driver(root: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "toys.py"), str(root), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


# --- settings -----------------------------------------------------------------------------------------------------------
def test_settings_changed_then_retry(tmp_path: Path) -> None:
    """`retry` made the repaired subject with the new settings, the others stayed as they were; status, finalise and verify called that complete."""
    make_study(tmp_path, {}, {"fit": "bad"}, {})
    run(study_config(tmp_path))
    say(tmp_path, 1)
    other = study_config(tmp_path, low_signal=0.1)
    prepared = plan(other, stages=stages(other))
    assert prepared.runs["mtr"] == {"to_do": 1, "stale": 2, "failed": 0}
    assert "stages.mtr.low_signal changed: mtr of 2 subjects" in prepared.reasons
    report = retry(other, stages=stages(other))
    assert outcomes(report, "mtr") == {"done": 1}
    assert "stages.mtr.low_signal" in report.trouble
    assert report.exit_code == 1
    np.testing.assert_allclose(arrays(tmp_path)["qc/mtr_cord_median"], [40.05, 40.1, 40.05], rtol=1e-6)
    for found in (status(other, stages=stages(other)), status(str(tmp_path / "study.zarr"))):
        assert counts(found, "mtr") == {"done": 1, "stale": 2}
        assert counts(found, "fit_mt") == {"done": 3}
        assert found.exit_code == 1
        assert found.reasons == ["stages.mtr.low_signal changed: mtr of 2 subjects"]
        assert "low_signal" in found.mixed
    with pytest.raises(IncompleteError, match="low_signal"):
        finalise(str(tmp_path / "study.zarr"))
    finalise(str(tmp_path / "study.zarr"), allow_mixed=True)
    assert "low_signal" in attributes(tmp_path)["mixed"]
    assert run(other).exit_code == 0
    assert attributes(tmp_path)["mixed"] == ""
    assert status(other, stages=stages(other)).exit_code == 0


def test_settings_changed_and_nothing_run(tmp_path: Path) -> None:
    """With new settings `status` said that all was done, since the ledger said so of the old ones."""
    make_study(tmp_path, {}, {})
    run(study_config(tmp_path))
    other = study_config(tmp_path, low_signal=0.1)
    assert status(other, stages=stages(other)).reasons == ["stages.mtr.low_signal changed: mtr of 2 subjects"]
    assert status(str(tmp_path / "study.zarr")).exit_code == 0  # of what the store was asked
    assert status(study_config(tmp_path), stages=STAGES).exit_code == 0


def test_settings_changed_and_the_build_killed_half_way(tmp_path: Path) -> None:
    """Attributes said the new settings, half of the maps were made with the old ones, and `status` and `finalise` knew nothing of it."""
    make_study(tmp_path, {}, {}, {}, {})
    run(study_config(tmp_path))
    assert ended(driver(tmp_path, "synchronous", 0.1, 2)) == -9
    url, other = str(tmp_path / "study.zarr"), study_config(tmp_path, low_signal=0.1)
    ds = cohort_engine.open_cohort(url)  # nothing is gathered yet: what the killed build left is read all the same
    assert "low_signal" in ds.attrs["mixed"]
    np.testing.assert_allclose(np.sort(ds["mtr_cord_median"]), np.sort([40.05, 40.05, 40.1, 40.1]), rtol=1e-6)
    assert "low_signal" in " ".join(run_query(url, "mtr tract='white matter' level=C4").attrs["notes"])
    for found in (status(url), status(other, stages=stages(other))):
        assert counts(found, "mtr") == {"done": 2, "stale": 2}
        assert found.exit_code == 1
        assert found.finalised == ""
    with pytest.raises(IncompleteError, match=r"stages\.mtr\.low_signal changed: mtr of 2 subjects"):
        finalise(url)
    science = json.loads(attributes(tmp_path)["science"])["mtr"]
    assert sorted((s["params"]["low_signal"], s["rows"]) for s in science) == [(0.05, 2), (0.1, 2)]
    assert "2 and 2 subjects" in attributes(tmp_path)["mixed"]
    assert verify(url) == []
    assert "low_signal" in cohort_engine.open_cohort(url).attrs["mixed"]
    assert np.isfinite(run_query(url, "mtr tract='white matter' level=C4")["value"]).all()
    assert outcomes(run(other), "mtr") == {"done": 2, "cached": 2}
    np.testing.assert_allclose(arrays(tmp_path)["qc/mtr_cord_median"], np.full(4, 40.1), rtol=1e-6)
    assert [s["rows"] for s in json.loads(attributes(tmp_path)["science"])["mtr"]] == [4]


def test_killed_before_the_tables(tmp_path: Path) -> None:
    """`finalise` closed the store with empty tables, which a question then answered with NaN."""
    make_study(tmp_path, {}, {})
    assert ended(driver(tmp_path, "synchronous", 0.05, 2)) == -9
    finalise(str(tmp_path / "study.zarr"))
    found = arrays(tmp_path)
    assert np.isfinite(found["tables/template/mtr_wa"]).any(axis=(1, 2)).all()
    assert status(str(tmp_path / "study.zarr")).finalised
    assert np.isfinite(run_query(str(tmp_path / "study.zarr"), "mtr tract='white matter' level=C4")["value"]).all()


def test_a_question_to_a_build_that_was_killed_before_the_tables(tmp_path: Path) -> None:
    """Rows that no table was made from were NaN: now they are reduced from their maps."""
    make_study(tmp_path, {}, {})
    assert ended(driver(tmp_path, "synchronous", 0.05, 2)) == -9
    assert np.isfinite(run_query(str(tmp_path / "study.zarr"), "mtr tract='white matter' level=C4")["value"]).all()


def test_a_new_layout_is_open(tmp_path: Path) -> None:
    """A store that was laid out for more stayed `finalised`."""
    make_study(tmp_path, {}, {})
    run(with_data(study_config(tmp_path), include=("sub-00",)))
    assert attributes(tmp_path)["finalised"]
    assert ended(driver(tmp_path, "synchronous", 0.05, 1)) == -9
    assert attributes(tmp_path)["finalised"] == ""


# --- one writer ---------------------------------------------------------------------------------------------------------
def test_two_first_builds_at_once(tmp_path: Path) -> None:
    """The second cleared what the first was laying out, and both failed or one wrote into nothing."""
    make_study(tmp_path, *[{"sleep": 0.5}] * 3)
    both = [driver(tmp_path, "synchronous"), driver(tmp_path, "synchronous")]
    said = [p.communicate(timeout=120)[1] for p in both]
    codes = [p.returncode for p in both]
    assert sorted(codes) in ([0, 2], [0, 0]), said
    assert all("only writer" in text for text, code in zip(said, codes, strict=True) if code), said
    assert status(str(tmp_path / "study.zarr")).exit_code == 0
    assert len(journal(tmp_path)) == 6  # nothing ran twice


def test_two_builds_with_different_settings_at_once(tmp_path: Path) -> None:
    """Both wrote: who was last had its settings in the attributes, and maps of both were in the store."""
    make_study(tmp_path, *[{"sleep": 0.7}] * 3)
    first = driver(tmp_path, "synchronous", 0.05)
    deadline = time.monotonic() + 60
    while not journal(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    other = study_config(tmp_path, low_signal=0.1)
    with pytest.raises(StoreError, match=rf'process {first.pid} on .* does "build" since') as refused:
        run(other)
    assert "sub-" not in str(refused.value)
    assert ended(first) == 0
    assert [s["params"] for s in json.loads(attributes(tmp_path)["science"])["mtr"]] == [{"low_signal": 0.05}]
    assert run(other).exit_code == 0


def test_a_store_that_is_being_written_can_be_looked_at(tmp_path: Path) -> None:
    make_study(tmp_path, {})
    run(study_config(tmp_path))
    url = str(tmp_path / "study.zarr")
    with lease(url, "build"):
        writer = status(url).writer
    assert writer is not None
    assert writer.doing == "build"
    assert status(url).writer is None


# --- who ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exclude": ("sub-01",)}, "excluded in the study file"),
        ({"include": ("00", "02")}, "not among those included"),
        ({}, "no longer in the study"),
    ],
)
def test_who_left_and_comes_back(tmp_path: Path, change: dict[str, object], why: str) -> None:
    """Who was excluded stayed in every count, table and statistic."""
    make_study(tmp_path, {}, {}, {})
    images(tmp_path, 0, 1, 2)
    config = study_config(tmp_path)
    run(config)
    away, folder = tmp_path / "away", tmp_path / "bids/sub-01"
    if not change:
        folder.rename(away)
        table = tmp_path / "bids/participants.tsv"
        everybody = table.read_text()
        table.write_text("".join(line for line in everybody.splitlines(keepends=True) if "sub-01" not in line))
        (tmp_path / "bids/derivatives/labels/sub-01").rename(tmp_path / "labels")
    fewer = with_data(config, **change)
    assert plan(fewer, stages=STAGES).left == {why: 1}
    report = run(fewer)
    assert outcomes(report, "mtr") == {"cached": 2}
    assert arrays(tmp_path)["subjects/left"].tolist() == ["", why, ""]
    url = str(tmp_path / "study.zarr")
    assert run_query(url, "mtr tract='white matter' level=C4")["participant_id"].tolist() == ["sub-00", "sub-02"]
    assert verify(url) == []
    found = status(url)
    assert found.left == {"sub-01": why}
    assert counts(found, "mtr") == {"done": 2}
    if not change:
        away.rename(folder)
        table.write_text(everybody)
        (tmp_path / "labels").rename(tmp_path / "bids/derivatives/labels/sub-01")
    report = run(config)
    assert outcomes(report, "mtr") == {"cached": 3}
    assert arrays(tmp_path)["subjects/left"].tolist() == ["", "", ""]
    assert len(journal(tmp_path)) == 6


def test_settings_change_while_somebody_is_away(tmp_path: Path) -> None:
    """Rows of who left do not make a store mixed; who comes back is made again."""
    make_study(tmp_path, {}, {})
    run(study_config(tmp_path))
    other = study_config(tmp_path, low_signal=0.1)
    assert run(with_data(other, exclude=("sub-01",))).exit_code == 0
    assert attributes(tmp_path)["mixed"] == ""
    assert outcomes(run(other), "mtr") == {"done": 1, "cached": 1}


def rename(root: Path, old: str, new: str) -> None:
    for path in sorted((root / "bids").rglob(f"*{old}*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.replace(old, new)))
    table = root / "bids/participants.tsv"
    table.write_text(table.read_text().replace(old, new))


def test_a_renamed_subject_is_asked_about(tmp_path: Path) -> None:
    """A new name was a new subject: the person was counted twice."""
    make_study(tmp_path, {}, {"value": 1})
    images(tmp_path, 0, 1)
    config = study_config(tmp_path)
    run(config)
    before = arrays(tmp_path)["maps/mtr"][1]
    rename(tmp_path, "sub-01", "sub-P1")
    with pytest.raises(StoreError, match=r"those of sub-01 .* in sub-P1.*renamed: \{sub-P1: sub-01\}.*distinct: \[sub-P1\]"):
        run(config)
    assert len(arrays(tmp_path)["subjects/participant_id"]) == 2
    report = run(with_data(config, renamed={"sub-P1": "sub-01"}))
    assert outcomes(report, "mtr") == {"cached": 2}
    found = arrays(tmp_path)
    assert found["subjects/participant_id"].tolist() == ["sub-00", "sub-P1"]
    assert found["subjects/left"].tolist() == ["", ""]
    np.testing.assert_array_equal(found["maps/mtr"][1], before)
    assert run(with_data(config, renamed={"sub-P1": "sub-01"})).exit_code == 0


def test_a_twin_is_somebody_else_if_the_study_says_so(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {})
    images(tmp_path, 0, 1)
    config = study_config(tmp_path)
    run(config)
    rename(tmp_path, "sub-01", "sub-P1")
    report = run(with_data(config, distinct=("sub-P1",)))
    assert outcomes(report, "mtr") == {"cached": 1, "done": 1}
    assert arrays(tmp_path)["subjects/left"].tolist() == ["", "no longer in the study", ""]


def test_a_build_leaves_a_log_of_what_it_did_and_of_nobody(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bug"})
    run(study_config(tmp_path))
    (log,) = (tmp_path / "study.zarr.ledger").rglob("*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines][:2] == ["plan", "start"]
    assert lines[-1]["event"] == "finish"
    (failed,) = (line for line in lines if line.get("status") == "failed")
    assert (failed["row"], failed["stage"], failed["kind"]) == (1, "fit_mt", "ZeroDivisionError")
    assert "sub-" not in log.read_text()
    assert str(tmp_path) not in log.read_text()
    make_study(calm := tmp_path / "calm", {})
    run(study_config(calm))
    run(study_config(calm))
    assert len(list((calm / "study.zarr.ledger").rglob("*.log"))) == 1  # the second had nothing to do


# --- keys ---------------------------------------------------------------------------------------------------------------
def test_every_byte_of_an_input_counts(tmp_path: Path) -> None:
    """A key of the first 64 KiB took a file for the same whose end had changed."""
    make_study(tmp_path, {})
    (path,) = (tmp_path / "bids").rglob("*mt-off_MTS.nii.gz")
    path.write_bytes(bytes(200_000) + b"a")
    run(study_config(tmp_path))
    path.write_bytes(bytes(200_000) + b"b")
    assert status(study_config(tmp_path), stages=STAGES).reasons == ["files of the study changed: mtr of 1 subject"]
    assert outcomes(run(study_config(tmp_path)), "mtr") == {"done": 1}


def test_a_file_that_was_touched_is_the_same(tmp_path: Path) -> None:
    make_study(tmp_path, {})
    run(study_config(tmp_path))
    for path in (tmp_path / "bids").rglob("*.nii.gz"):
        os.utime(path, (1e9, 1e9))
    assert status(study_config(tmp_path), stages=STAGES).exit_code == 0
    assert outcomes(run(study_config(tmp_path)), "mtr") == {"cached": 1}


def test_a_failure_that_may_pass_is_not_final(tmp_path: Path) -> None:
    """A subject that storage had failed stayed failed, whatever `build` was run again."""
    make_study(tmp_path, {"fit": "storage"}, {"fit": "bad"}, {"fit": "memory"})
    config = study_config(tmp_path)
    run(config)
    assert plan(config, stages=STAGES).runs["fit_mt"] == {"to_do": 0, "stale": 0, "failed": 2}
    assert journal(tmp_path).count(("fit", "sub-00")) == 2
    run(config)
    assert journal(tmp_path).count(("fit", "sub-00")) == 4  # again, and once more
    assert journal(tmp_path).count(("fit", "sub-01")) == 1
    assert journal(tmp_path).count(("fit", "sub-02")) == 2  # for want of memory, which another worker may have


def test_an_entry_is_written_after_the_arrays_it_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the entry first, a build that died between had a stage that was done and no map."""
    make_study(tmp_path, {})
    config = study_config(tmp_path)
    run(config)
    say(tmp_path, 0, value=5)

    def lost(*_: object) -> None:
        raise StorageError(expected="storage that answers", found="none", where="maps", remedy="Mount it.")

    with monkeypatch.context() as patch:
        patch.setattr("cohort_engine.engine.runner.write_subject", dying(lost))
        run(config)
    assert [e.status for e in read_entries(str(tmp_path / "study.zarr")) if e.stage == "fit_mt"] != ["done"]
    assert outcomes(run(config), "fit_mt") == {"done": 1}


def dying(fail: Any) -> Any:
    """Let `write_subject` fail at its first large array."""
    from cohort_engine.store import layout, writer

    def write(*arguments: Any, **named: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "whole", fail)
            writer.write_subject(*arguments, **named)

    return write


# --- faults -------------------------------------------------------------------------------------------------------------
class ForeignError(Exception):
    """An exception of somebody else's package that does not survive a journey."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} of /data/sub-07/{two}.nii.gz")


def foreign(inputs: StageInput) -> dict[str, np.ndarray]:
    if json.loads(inputs.text("mt_mask")).get("value") == 7:
        raise ForeignError(1, 2)
    return FIT.run(inputs)  # type: ignore[return-value]


def broken_look(inputs: StageInput) -> bool:
    return bool(json.loads(inputs.text("mt_mask"))["value"] / 0)


@pytest.mark.parametrize("cluster", ["synchronous", pytest.param("local", marks=pytest.mark.distributed)])
def test_a_foreign_exception_is_told_as_what_it_is(tmp_path: Path, cluster: str) -> None:
    """It was "a worker that survives the task": the process died, most often its memory was too small."""
    make_study(tmp_path, {}, {"value": 7}, {})
    report = build(study_config(tmp_path, cluster=cluster, workers=1), stages=(replace(FIT, run=foreign), MTR))
    (entry,) = report.entries
    assert (entry.subject, entry.stage, entry.kind, entry.retryable) == (1, "fit_mt", "ForeignError", False)
    assert "test_truth.py" in entry.trace
    assert "sub-07" not in entry.message
    assert outcomes(report, "mtr") == {"done": 2, "blocked": 1}


@pytest.mark.parametrize("cluster", ["synchronous", pytest.param("local", marks=pytest.mark.distributed)])
def test_an_exception_in_a_look_stops_its_subject_alone(tmp_path: Path, cluster: str) -> None:
    """An exception in `completes` ended the whole build, or was a lost worker."""
    from toys import FIT_DICE, FIT_MAP

    from cohort_engine.stages.base import Stage

    make_study(tmp_path, {"value": 1}, {})
    completing = Stage("look", "1", dict, ("mt_on",), (), alternatives=(("mt_mask",), ()), makes="mt_mask", completes=broken_look, memory=1)
    fit = replace(FIT, needs=("look",))
    report = build(study_config(tmp_path, cluster=cluster, workers=1), stages=(completing, fit, MTR))
    assert [(e.subject, e.stage, e.kind) for e in report.entries] == [(0, "look", "ZeroDivisionError"), (1, "look", "KeyError")]
    assert outcomes(report, "mtr") == {"blocked": 2}
    assert {FIT_MAP.path, FIT_DICE.path} <= set(arrays(tmp_path))


def leave(inputs: StageInput) -> dict[str, np.ndarray]:
    del inputs
    raise SystemExit(3)


def infinite(inputs: StageInput) -> dict[str, np.ndarray]:
    return MTR.run(inputs) | {"qc/mtr_cord_median": np.float32(np.inf)}  # type: ignore[return-value]


@pytest.mark.parametrize(("stage", "kind"), [(replace(MTR, run=leave), "SystemExit"), (replace(MTR, run=infinite), "StoreError")])
def test_a_stage_that_leaves_or_divides_by_zero_fails(tmp_path: Path, stage: Any, kind: str) -> None:
    make_study(tmp_path, {})
    report = build(study_config(tmp_path), stages=(FIT, stage))
    assert [(e.stage, e.kind) for e in report.entries] == [("mtr", kind)]
    assert np.isnan(arrays(tmp_path)["maps/mtr"]).all()


def stop(inputs: StageInput) -> dict[str, np.ndarray]:
    del inputs
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    return {}


def test_a_signal_during_a_stage_stops_the_build_and_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path, {}, {})
    config = study_config(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        build(config, stages=(FIT, replace(MTR, run=stop)))
    assert stopped.value.code == 143
    assert "what is done stays done" in capsys.readouterr().err
    assert [(e.subject, e.stage, e.status) for e in read_entries(str(tmp_path / "study.zarr"))] == [(0, "fit_mt", "done")]
    assert outcomes(build(config, stages=STAGES), "fit_mt") == {"done": 1, "cached": 1}


def test_a_stage_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """A build waited for it for ever."""
    make_study(tmp_path, {}, {"sleep": 1}, {})
    config = study_config(tmp_path)
    report = build(config, stages=(FIT, replace(MTR, timeout=0.5)))
    assert [(e.subject, e.stage, e.kind, e.retryable) for e in report.entries] == [(1, "mtr", "TimeoutWorkerError", True)]
    assert outcomes(report, "mtr") == {"done": 2, "failed": 1}
    assert outcomes(build(config, stages=STAGES), "mtr") == {"done": 1, "cached": 2}
