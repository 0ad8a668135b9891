"""The line that says that something is still at work comes late, tells the step, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

import pytest

from cohort_engine import progress


class Board:
    """Remembers what was shown; `seen` is set by the first line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cleared = 0
        self.seen = threading.Event()

    def show(self, text: str) -> None:
        self.lines.append(text)
        self.seen.set()

    def clear(self) -> None:
        self.cleared += 1


def test_work_within_work_is_its_step() -> None:
    board = Board()
    with progress.working("analyse", where=board, patience=0.01):
        for _ in progress.counted(["a", "b"], "subjects"):
            board.seen.clear()
            assert board.seen.wait(20)
    assert board.lines[0].startswith("analyse: subjects, 0 of 2 ... ")
    assert board.lines[-1].startswith("analyse: subjects, 1 of 2 ... ")
    assert board.cleared == 1


def test_what_is_quick_shows_nothing_and_what_fails_leaves_nothing() -> None:
    board = Board()
    with progress.working("query", where=board):
        pass

    def fail() -> None:
        with progress.working("query", where=board, patience=0.01):
            assert board.seen.wait(20)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert board.cleared == 1
    shown = len(board.lines)
    with progress.working("again", where=board):
        progress.clear()
    assert len(board.lines) == shown


def test_files_and_pipes_get_nothing() -> None:
    assert progress.screen() is None  # pytest's standard error is no terminal


def test_a_terminal_sees_the_line_and_standard_output_does_not() -> None:
    code = "import time; from cohort_engine.progress import working\nwith working('register', patience=0.1):\n    time.sleep(1)\nprint('done')"
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    seen = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert done.stdout == "done\n"
    assert "register ... 0 s" in seen
    assert seen.endswith("\r\x1b[K")
