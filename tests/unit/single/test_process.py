"""Temp folders go with their process, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cohort_engine.single.process import LOCK, PREFIX, peak_memory, sweep, task_folder

TASK = """
import sys, tempfile, time
from pathlib import Path
from cohort_engine.single.process import task_folder
with task_folder(17):
    Path(tempfile.mkdtemp(), "left").touch()
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temp folder that nobody else uses, for processes started by the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def begin(seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", TASK, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_that_ends_leaves_nothing(alone: Path) -> None:
    with begin(0) as process:
        assert process.wait(20) == 0
    assert list(alone.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_what_a_killed_process_leaves_is_swept_by_the_next_and_what_a_living_one_uses_is_not(alone: Path) -> None:
    with begin(60) as killed, begin(60) as living:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(alone.glob(f"{PREFIX}000017-*/*/left"))) == 2
        assert len(sweep(str(alone))) == 1
        assert len(list(alone.glob(f"{PREFIX}000017-*/*/left"))) == 1
        assert len(list(alone.glob(f"{PREFIX}*{LOCK}"))) == 1
        assert sweep(str(alone)) == []
        living.kill()


def test_a_folder_goes_with_its_task_however_it_ends(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(alone))
    with pytest.raises(ZeroDivisionError), task_folder(3) as folder:
        raise ZeroDivisionError((folder / "below").mkdir())
    assert list(alone.iterdir()) == []


def test_sweeping_a_full_temp_folder_takes_no_time(tmp_path: Path) -> None:
    for i in range(2000):
        (tmp_path / f"other-{i}").touch()
    started = time.process_time()
    sweep(str(tmp_path))
    assert time.process_time() - started < 0.1


def test_peak_memory_is_in_mebibytes() -> None:
    """A process of its own that fills 300 MiB, beside the interpreter, numpy and zarr."""
    code = "import numpy as np; from cohort_engine.single.process import peak_memory; np.ones(300 << 17); print(peak_memory())"
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 300 < peak < 600
    assert peak_memory() > 20
