"""First steps: is this machine ready, and a study file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohort_engine.cli.say import note, say, show
from cohort_engine.cli.words import WORDS, command


@command()
def doctor(folder: Annotated[Path, typer.Argument(help="Where the store would be: how fast it writes is measured there.")] = Path()) -> None:
    """Look whether this machine is ready: versions, extras, processors, GPU, template, disk, clusters. Exit code 1: something is missing."""
    from cohort_engine.engine.doctor import WRONG, examine

    found = examine(folder)
    show({"what": [f.what for f in found], "state": [f.state for f in found], "found": [f.found for f in found], "remedy": [f.remedy for f in found]})
    raise typer.Exit(1 if any(f.state == WRONG for f in found) else 0)


@command()
def init(
    bids: Annotated[str, typer.Argument(help="BIDS folder or URL, or folder of another source.", metavar="STUDY")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Study file to write.")] = Path("study.yaml"),
    store: Annotated[str | None, typer.Option("--store", help="Where the cohort is to be; by default beside the study file.")] = None,
    source: Annotated[str, typer.Option(help="What the folder is: one of {sources}.", autocompletion=WORDS["sources"])] = "bids",
    template: Annotated[str, typer.Option(help="PAM50, or the built-in parametric cord.")] = "PAM50",
) -> None:
    """Write a study file for a folder, with the metrics that its images allow and a comment on each line; then: plan, build."""
    from cohort_engine.engine.draft import draft_study, write_draft
    from cohort_engine.errors import ConfigError

    draft = draft_study(bids, store or str(out.with_suffix(".zarr")), folder=out.parent, source=source, template=template)
    try:
        write_draft(draft, out)
    except FileExistsError as error:
        raise ConfigError(
            expected="no file of that name", found="a study file", where="init", remedy="Give another name with --out, or remove it."
        ) from error
    show({"metric": list(draft.complete), "complete": list(draft.complete.values())}, f"{draft.subjects} subjects")
    for line in draft.notes:
        note(line)
    say(f"{out} is written; next: cohort-engine plan {out}")
