"""A store in the browser."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cohort_engine.cli.say import say
from cohort_engine.cli.words import Store, command, store_of


@command()
def explore(
    store: Store,
    port: Annotated[int, typer.Option("--port", help="By default a free one.")] = 0,
    address: Annotated[str, typer.Option("--address", help="Where to listen; by default nobody but this machine reaches it.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Look at a cohort in the browser: choose people, regions and levels; groups, norms, scores, ROC; until Ctrl-C."""
    from cohort_engine.errors import optional
    from cohort_engine.progress import hush

    with optional("panel", "explore", where="explore"):
        from cohort_engine.explore.serve import serve

    def ready(page: str) -> None:
        hush()  # the page shows itself
        say(page)
        sys.stdout.flush()  # who started this may wait for it
        if browser:
            typer.launch(page)

    serve(store_of(store), port=port, address=address, ready=ready)
