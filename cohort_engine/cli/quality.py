"""Quality that is looked at: pages, ratings, one patient's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohort_engine.cli.say import note, say
from cohort_engine.cli.words import Store, command, is_study, store_of, study_of


@command()
def qc(
    store: Store,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pages; by default beside the store.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that draw.")] = 1,
) -> None:
    """Draw the quality pages of a cohort: every subject's pictures and flags, and one page of all. Images are read where a study file names them."""
    from cohort_engine.qc.pages import write_pages

    config = study_of(store) if is_study(store) else None
    made = write_pages(store_of(store), out, config=config, workers=workers, say=say)
    for text, count in made.problems.items():
        note(f"pictures of {count} subjects: {text}")
    say(f"{made.flagged} of {made.people} subjects are flagged; pictures of {made.drawn} were drawn")
    say(f" {made.index}", head="Pages")
