"""A build in this process: what is done, what is not done twice, and what is left when something fails."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from toys import FIT, MTR, MTR_MAP, STAGES, arrays, journal, make_study, say, stages, study_config

from cohort_engine.engine.build import BuildReport, build, plan, retry, status
from cohort_engine.engine.events import Events, RichProgress
from cohort_engine.errors import CohortError, StorageError, TemplateError


def outcomes(report: BuildReport, stage: str) -> dict[str, int]:
    return {k: n for k, n in report.counts[stage].items() if n}


def value(root: Path, row: int) -> float:
    """Mean of the map of a row; NaN where there is none."""
    return float(np.mean(arrays(root)["maps/mtr"][row]))


def test_every_subject_ends_in_its_own_way(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bad"}, {"mtr": "bug"}, None, {"fit": "storage"}, {})
    report = build(study_config(tmp_path), stages=STAGES)
    assert outcomes(report, "fit_mt") == {"done": 3, "failed": 2, "missing_input": 1}
    assert outcomes(report, "mtr") == {"done": 2, "failed": 1, "blocked": 3}
    assert report.exit_code == 1
    assert [(e.subject, e.stage, e.kind, e.retryable) for e in report.entries] == [
        (1, "fit_mt", "CordError", False), (2, "mtr", "ZeroDivisionError", False), (3, "fit_mt", "MissingInputError", False),
        (4, "fit_mt", "StorageError", True),
    ]  # fmt: skip
    assert report.failures.name.tolist() == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert np.isfinite([value(tmp_path, row) for row in range(6)]).tolist() == [True, False, False, False, False, True]
    # the passing error was tried again once (retries: 1), the scientific one was not
    assert journal(tmp_path).count(("fit", "sub-04")) == 2
    assert journal(tmp_path).count(("fit", "sub-01")) == 1
    for found in (status(study_config(tmp_path), stages=STAGES), status(str(tmp_path / "study.zarr"))):
        row = found.counts.set_index("stage").loc["mtr"].to_dict()
        assert row == {"done": 2, "stale": 0, "failed": 1, "missing_input": 0, "not_needed": 0, "to_do": 3}
        assert found.failures.name.tolist() == ["sub-01", "sub-02", "sub-03", "sub-04"]
        assert found.exit_code == 1


def test_building_again_does_nothing_twice(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bad"}, {})
    build(study_config(tmp_path), stages=STAGES)
    before, ran = arrays(tmp_path), journal(tmp_path)
    report = build(study_config(tmp_path), stages=STAGES)
    assert journal(tmp_path) == ran
    assert outcomes(report, "fit_mt") == {"cached": 2, "failed": 1}
    assert outcomes(report, "mtr") == {"cached": 2, "blocked": 1}
    assert report.exit_code == 1
    after = arrays(tmp_path)
    assert all(np.array_equal(after[k], before[k], equal_nan=before[k].dtype.kind == "f") for k in before)


def test_a_build_with_nothing_to_do_loads_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path, {}, {"fit": "bad"})
    config = study_config(tmp_path)
    build(config, stages=STAGES)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study.zarr").rglob("*")}

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the template is loaded")

    monkeypatch.setattr("cohort_engine.engine.study.load_template", loaded)
    assert build(config, events=RichProgress(), stages=STAGES).exit_code == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "study.zarr").rglob("*")} == before


def test_retry_runs_what_failed_and_nothing_else(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bad"}, {"mtr": "bug"})
    config = study_config(tmp_path)
    build(config, stages=STAGES)
    ran = journal(tmp_path)
    report = retry(config, stages=STAGES)
    assert sorted([*ran, ("fit", "sub-01"), ("mtr", "sub-02")]) == journal(tmp_path)
    assert outcomes(report, "fit_mt") == {"cached": 1, "failed": 1}


def test_a_repaired_input_is_run_again_by_build(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bad"})
    build(study_config(tmp_path), stages=STAGES)
    say(tmp_path, 1, value=3)
    report = build(study_config(tmp_path), stages=STAGES)
    assert outcomes(report, "fit_mt") == {"done": 1, "cached": 1}
    assert report.exit_code == 0
    assert np.isfinite(value(tmp_path, 1))


def test_results_of_an_input_that_was_replaced_do_not_survive(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {})
    build(study_config(tmp_path), stages=STAGES)
    say(tmp_path, 1, fit="bad")
    report = build(study_config(tmp_path), stages=STAGES)
    assert outcomes(report, "mtr") == {"cached": 1, "blocked": 1}
    found = arrays(tmp_path)
    assert np.isnan(found["fit/mt"][1]).all()
    assert np.isnan(found["maps/mtr"][1]).all()
    assert np.isnan(found["tables/template/mtr_wa"][1]).all()
    assert status(str(tmp_path / "study.zarr")).counts.set_index("stage").to_do.to_dict() == {"fit_mt": 0, "mtr": 1}


def test_a_parameter_runs_its_own_stage_and_those_after_it(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {})
    build(study_config(tmp_path), stages=STAGES)
    other = study_config(tmp_path, low_signal=0.1)
    report = build(other, stages=stages(other))
    assert (outcomes(report, "fit_mt"), outcomes(report, "mtr")) == ({"cached": 2}, {"done": 2})
    report = build(other, stages=stages(other))
    assert (outcomes(report, "fit_mt"), outcomes(report, "mtr")) == ({"cached": 2}, {"cached": 2})


def test_new_subjects_are_appended(tmp_path: Path) -> None:
    make_study(tmp_path, {"value": 1}, {"value": 2})
    one = study_config(tmp_path)
    build(one.model_copy(update={"data": one.data.model_copy(update={"include": ("sub-01",)})}), stages=STAGES)
    first = value(tmp_path, 0)
    report = build(one, stages=STAGES)
    assert outcomes(report, "fit_mt") == {"done": 1, "cached": 1}
    assert value(tmp_path, 0) == first
    assert arrays(tmp_path)["subjects/participant_id"].tolist() == ["sub-01", "sub-00"]


def test_a_stage_that_forgets_an_array_fails(tmp_path: Path) -> None:
    from dataclasses import replace

    make_study(tmp_path, {})
    report = build(study_config(tmp_path), stages=(FIT, replace(MTR, writes=(MTR_MAP,))))
    assert report.entries[0].kind == "StoreError"
    assert report.entries[0].message == "what stage mtr returned: expected maps/mtr, found maps/mtr, qc/mtr_cord_median."


def test_no_name_of_anybody_outside_the_subject_table(tmp_path: Path) -> None:
    make_study(tmp_path, {}, {"fit": "bug"}, {"mtr": "bug"}, None)
    build(study_config(tmp_path), stages=STAGES)
    store = tmp_path / "study.zarr"
    files = [p for folder in (store, Path(f"{store}.ledger")) for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 20
    for path in files:
        assert "sub-0" not in str(path.relative_to(tmp_path))
        if path.suffix in (".json", ".log"):
            assert "sub-0" not in path.read_text()
            assert str(tmp_path) not in path.read_text()


def test_temp_folders_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "temp"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    make_study(tmp_path, {}, {"fit": "bad"}, {"fit": "bug"})
    build(study_config(tmp_path), stages=STAGES)
    assert not list(own.rglob("cohort-0*"))


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    make_study(tmp_path, {})
    config = study_config(tmp_path)
    (tmp_path / "file").touch()
    blocked = config.model_copy(update={"data": config.data.model_copy(update={"store": str(tmp_path / "file" / "study.zarr")})})
    with pytest.raises(StorageError):
        build(blocked, stages=STAGES)
    assert journal(tmp_path) == []


def test_a_disk_that_fills_up_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path, {}, {})

    def full(*_: object, **__: object) -> None:
        raise StorageError(expected="storage that answers", found="No space left on device", where="maps/mtr", remedy="Free disk space.")

    config = study_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cohort_engine.engine.runner.write_subject", full)
        patch.setattr("cohort_engine.reduce.cohort.tabulate", full)
        report = build(config, stages=STAGES)
    assert report.exit_code == 1
    assert "No space left" in report.trouble
    assert outcomes(report, "fit_mt") == {"failed": 2}
    assert all(e.retryable for e in report.entries)
    assert build(config, stages=STAGES).exit_code == 0


def test_the_plan_counts_what_is_then_made(tmp_path: Path) -> None:
    make_study(tmp_path, *[{}] * 3)
    config = study_config(tmp_path)
    planned = plan(config, stages=STAGES)
    assert not (tmp_path / "study.zarr").exists()
    build(config, stages=STAGES)
    made = [p for folder in ("study.zarr", "study.zarr.ledger") for p in (tmp_path / folder).rglob("*") if p.is_file() and p.suffix != ".log"]
    assert len(made) == planned.objects
    assert planned.tasks == {"fit_mt": 3, "mtr": 3}
    assert planned.runs == {stage: {"to_do": 3, "stale": 0, "failed": 0} for stage in ("fit_mt", "mtr")}


def test_another_template_is_a_problem_of_the_plan(tmp_path: Path) -> None:
    import zarr

    make_study(tmp_path, {})
    build(study_config(tmp_path), stages=STAGES)
    zarr.open_group(str(tmp_path / "study.zarr"), mode="r+").attrs["template_digest"] = "0" * 16
    prepared = plan(study_config(tmp_path), stages=STAGES)
    with pytest.raises(TemplateError, match="0000"):
        prepared.validate()


def test_a_template_of_another_hash_is_refused(tmp_path: Path) -> None:
    make_study(tmp_path, {})
    config = study_config(tmp_path)
    wanted = config.model_copy(update={"template": config.template.model_copy(update={"digest": "f" * 16})})
    with pytest.raises(CohortError, match=r"template\.digest"):
        build(wanted, stages=STAGES)


def test_an_interrupt_closes_cleanly_and_the_next_build_continues(tmp_path: Path) -> None:
    class Interrupt(Events):
        closed = False

        def on_subject_end(self, row: int) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            self.closed = True

    make_study(tmp_path, {}, {}, {}, {}, {})
    events = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        build(study_config(tmp_path), events=events, stages=STAGES)
    assert events.closed
    report = build(study_config(tmp_path), stages=STAGES)
    assert report.exit_code == 0
    assert len(journal(tmp_path)) == 10


def test_names_appear_on_the_screen_alone(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    make_study(tmp_path, {}, {"fit": "bad"})
    report = build(study_config(tmp_path), events=RichProgress(Console(file=screen, width=200)), stages=STAGES)
    shown = screen.getvalue()
    assert "sub-01 fit_mt: MT mask: expected a cord, found nothing. Draw it." in shown
    assert "sub-00" not in shown
    assert "sub-01" not in json.dumps([e.message for e in report.entries])
