"""Run what a page would have people type, as it stands there and in its order, in one shell.

    python docs/run_pages.py README.md --folder FOLDER [--section TITLE ...] [--allow COMMAND ...]

Prints what each command took. Needs the standard library alone, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
LANGUAGES = ("console", "python", "yaml", "toml", "text")
"""Of blocks: what is typed, programs, files, and what is only to be read."""
NAMED = re.compile(r"# ([\w./-]+\.(?:yaml|toml|py))\n")
"""First line of a block that is a file."""
MARK = "\x1e"


@dataclass(frozen=True)
class Step:
    """What is typed at once: a command, a program or a file, with its line on the page."""

    line: int
    title: str
    script: str


@dataclass(frozen=True)
class Done:
    """What came of a step: exit code, seconds, and what it printed."""

    step: Step
    code: int
    seconds: float
    printed: str


def blocks(page: str) -> list[tuple[int, str, str]]:
    """Line, language and text of every block of a page."""
    return [(page.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in FENCE.finditer(page)]


def section(page: str, title: str) -> str:
    """Give the part of a page below a heading of the second order, with empty lines before it, so that lines keep their numbers."""
    start = page.index(f"\n## {title}\n")
    end = page.find("\n## ", start + 1)
    return "\n" * page.count("\n", 0, start) + page[start : end if end > 0 else len(page)]


def commands(text: str) -> Iterator[tuple[int, str]]:
    """Line within the block and text of every command: what follows a prompt, with the lines that continue it."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("$ "):
            end = next(i for i in range(at, len(lines)) if not lines[i].endswith("\\"))
            yield at, "\n".join([line[2:], *lines[at + 1 : end + 1]])


def steps(page: str, part: Callable[[str], str] = lambda text: "") -> Iterator[Step]:
    """Give what is typed on a page, in its order; YAML without a name is a part of ``study.yaml``: `part` says what the shell does with it."""
    for line, language, text in blocks(page):
        name = NAMED.match(text)
        if language == "console":
            for at, command in commands(text):
                yield Step(line + at, command, command)
        elif language == "yaml" and not name:
            yield Step(line, f"study.yaml: {text.splitlines()[0]}", part(text))
        elif language != "text" and (name or language == "python"):
            place = name[1] if name else f"block_{line}.py"
            folder = shlex.quote(os.path.dirname(place) or ".")
            script = f"mkdir -p {folder}\ncat > {shlex.quote(place)} <<'END OF BLOCK'\n{text}END OF BLOCK"
            if language == "python":
                script += f"\npython -W error::FutureWarning {place}"
            yield Step(line, f"{place}: {text.splitlines()[0]}", script)


def run(steps: Iterable[Step], folder: Path, environment: dict[str, str], before: str = "") -> list[Done]:
    """Run steps in one shell, each whatever became of the one before.

    Parameters
    ----------
    steps : iterable of Step
        What is typed.
    folder : path
        Where.
    environment : dict
        Of the shell: nothing else is there.
    before : str
        What the shell reads first, as functions that stand in for programs.

    Notes
    -----
    Whatever is asked is answered with ``y``.
    """
    steps = list(steps)
    log = folder / ".typed"
    tell = f"typed() {{ printf '{MARK}%s {MARK}%s\\n' $1 $EPOCHREALTIME; }}\n"
    answers = folder.resolve() / ".answers"
    answers.write_text("y\n" * 20)  # read by each from the start: a program may read ahead
    body = "".join(f"{{ {step.script or ':'}\n}} < {shlex.quote(str(answers))}\ntyped $?\n" for step in steps)
    script = f"{tell}{before}\ntyped 0\n{body}kill $(jobs -p) 2>/dev/null\nwait\n"
    with log.open("wb") as out:
        subprocess.run(["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    parts = re.split(f"{MARK}(\\d+) {MARK}([\\d.,]+)\n", log.read_text(errors="replace"))
    times = [float(t.replace(",", ".")) for t in parts[2::3]]
    assert len(times) == len(steps) + 1, f"the shell ended after {steps[len(times) - 1].title}"
    return [
        Done(step, int(code), end - start, printed)
        for step, code, start, end, printed in zip(steps, parts[4::3], times[:-1], times[1:], parts[3::3], strict=False)
    ]


def main() -> int:
    """Run a page, and say what each command took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where it is typed")
    parser.add_argument("--section", action="append", help="heading of the second order; by default the whole page")
    parser.add_argument("--allow", action="append", default=[], help="a command that may end with an exit code of 1")
    given = parser.parse_args()
    page = given.page.read_text()
    texts = [section(page, title) for title in given.section] if given.section else [page]
    bad = 0
    for done in run([s for text in texts for s in steps(text)], given.folder, dict(os.environ)):
        wrong = done.code > (done.step.title in given.allow)
        bad += wrong
        print(f"{done.seconds:7.1f} s  exit {done.code}  {given.page}:{done.step.line}  {done.step.title}", flush=True)
        if wrong:
            print(done.printed, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
