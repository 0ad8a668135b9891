"""The commands of the README for a scheduler of one's own, as they stand there, with one subject."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # a busy machine
ROOT = Path(__file__).resolve().parents[2]


def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8786)) == 0:
            pytest.skip("a scheduler runs on port 8786 already")
    block = re.search(r"### A scheduler of your own\n.*?```console\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    commands = [line.removeprefix("$ ") for line in block[1].splitlines()]
    assert len(commands) <= 5
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    modules = {"dask": "dask", "cohort-engine": "cohort_engine.cli"}
    behind: list[subprocess.Popen[bytes]] = []
    printed = ""
    try:
        for command in ("cohort-engine simulate study --patients 0 --controls 1", *commands):
            program, *words = shlex.split(command.removesuffix("&"), comments=True)
            line = [sys.executable, "-m", modules[program], *words]
            if command.endswith("&"):
                behind.append(subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                continue
            done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout + done.stderr
    finally:
        for process in reversed(behind):
            process.terminate()
            process.wait(timeout=30)
    assert "Waiting for the scheduler at tcp://127.0.0.1:8786" in printed
    assert "fit_mt" in printed
