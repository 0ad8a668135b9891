"""A log holds rows and reasons, whole lines, and no names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cohort_engine import runlog, schema
from cohort_engine.engine.events import Both, Events, LogEvents
from cohort_engine.errors import ConfigError, StorageError
from cohort_engine.io.places import object_store
from cohort_engine.runlog import LEVELS, RunLog, configure


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{"status": schema.DONE, "seconds": 1.234, "peak_memory": 200.0, "kind": "", "message": "", "remedy": "", "notes": ()} | fields
    )


def result(row: int, entry: object, *, done: bool, cached: bool = False) -> Any:
    return SimpleNamespace(row=row, stage="mtr", entry=entry, cached=cached, done=done)


@pytest.mark.parametrize("level", LEVELS)
def test_only_what_is_urgent_enough_is_written(tmp_path: Path, level: str) -> None:
    log = RunLog(level, str(tmp_path / "a.log"))
    for each in LEVELS:
        log.write(each, "event")
    log.close()
    assert [line["level"] for line in lines(tmp_path / "a.log")] == list(LEVELS[LEVELS.index(level) :])


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="a level: debug, info, warning, error, found 'loud'"):
        RunLog("loud")


def test_a_line_is_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    store = str(tmp_path / "study.zarr")
    log = configure(store)
    log.write("info", "stage", row=3, message="cannot read /data/sub-01/x.nii", kind="")
    (file,) = (tmp_path / "study.zarr.ledger" / "log").iterdir()
    assert re.fullmatch(r"\d{8}T\d{12}\.log", file.name)
    (line,) = lines(file)
    assert line == {"time": line["time"], "level": "info", "event": "stage", "row": 3, "message": "cannot read ..."}
    log.close()


def test_nothing_happened_and_no_file_is_made(tmp_path: Path) -> None:
    configure(str(tmp_path / "study.zarr")).close()
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_gets_whole_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "PIECE_LINES", 3)
    log = RunLog("info", "memory:///logs/run.log")
    for row in range(7):
        log.write("info", "stage", row=row)
    log.close()
    log.close()
    store = object_store("memory:///logs")
    names = sorted(o["path"] for batch in store.list() for o in batch)
    assert names == ["run-0000.log", "run-0001.log", "run-0002.log"]
    rows = [json.loads(line)["row"] for name in names for line in bytes(store.get(name).bytes()).splitlines()]
    assert rows == list(range(7))


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="log: expected storage that answers"):
        RunLog("info", str(tmp_path / "file" / "a.log")).write("info", "event")


def test_a_build_in_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    events = LogEvents(RunLog("debug", str(path)))
    events.on_plan(SimpleNamespace(subjects=2, workers=1, tasks={"mtr": 2}))  # type: ignore[arg-type]
    events.on_start({0: "sub-01 ses-1", 1: "sub-02"})
    events.on_stage_end(result(0, entry(), done=True))
    failed = entry(status=schema.FAILED, kind="CordError", message="MT mask: expected a cord, found none.", remedy="Draw it.", seconds=float("nan"))
    events.on_stage_end(result(1, failed, done=False))
    events.on_stage_end(result(1, None, done=False))
    events.on_stage_end(result(0, entry(), done=True, cached=True))
    events.on_subject_end(0)
    events.on_waiting([(1, "fit_mt", 31.26)])
    events.on_interrupt("Stopped.")
    counts = {"mtr": {"done": 1, "failed": 1, "cached": 0}}
    events.on_finish(SimpleNamespace(exit_code=1, counts=counts, seconds=3.0, trouble=""))  # type: ignore[arg-type]
    events.close()
    found = lines(path)
    assert [(line["level"], line["event"]) for line in found] == [
        ("info", "plan"), ("info", "start"), ("info", "stage"), ("warning", "stage"), ("warning", "stage"), ("debug", "stage"), ("debug", "subject"),
        ("warning", "waiting"), ("warning", "interrupt"), ("warning", "finish"),
    ]  # fmt: skip
    assert (found[2]["row"], found[2]["seconds"], found[2]["peak_memory"]) == (0, 1.23, 200.0)
    assert (found[3]["kind"], found[3]["remedy"], "seconds" in found[3]) == ("CordError", "Draw it.", False)
    assert found[4]["status"] == "blocked"
    assert (found[5]["cached"], "seconds" in found[5]) == (True, False)
    assert found[7]["seconds"] == 31.26
    assert found[9]["counts"] == {"mtr": {"done": 1, "failed": 1}}
    assert "sub-0" not in path.read_text()


def test_both_observers_hear_everything() -> None:
    heard: list[tuple[int, str]] = []

    class Hear(Events):
        def __init__(self, number: int) -> None:
            self.number = number

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_") or name == "close":
                return lambda *args: heard.append((object.__getattribute__(self, "number"), name))
            return object.__getattribute__(self, name)

    moments = [name for name in vars(Events) if name.startswith("on_") or name == "close"]
    both = Both(Hear(1), Hear(2))
    for name in moments:
        arguments = () if name == "close" else (None,)
        getattr(both, name)(*arguments)
    assert heard == [(n, name) for name in moments for n in (1, 2)]
    assert len(moments) == 10
