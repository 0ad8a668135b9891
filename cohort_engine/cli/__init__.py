"""The command line: each verb reads its arguments, calls one public function and prints what it returns.

Exit codes: 0 all well, 1 some subjects are not done, or something was found, 2 could not run.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer

from cohort_engine.cli.say import note  # the module has the name of its function
from cohort_engine.cli.say import say as line
from cohort_engine.cli.words import Log, app
from cohort_engine.errors import CohortError, CohortWarning

for _name in (
    "begin",
    "study",
    "norms",
    "federate",
    "store",
    "explore",
    "quality",
    "images",
    "published",
    "installed",
):  # they add their verbs, which the help lists in this order
    import_module(f"cohort_engine.cli.{_name}")


def main() -> None:
    """Run the command line; a `CohortError` is one line on standard error and exit code 2, a `CohortWarning` one that begins with "note"."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy loads: the matrices are small, and waiting threads use the processor up
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, CohortWarning):
            note(str(message))
        else:
            others(message, category, *place, **more)

    warnings.showwarning = show
    try:
        app()
    except CohortError as error:
        line(f" {error}", head="error", colour="red", error=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Print the log of a build as it grows; -vv: in detail.")] = 0,
    log: Annotated[str | None, typer.Option("--log", help="Where the log of a build goes; by default beside the store's ledger.")] = None,
) -> None:
    if version:
        from cohort_engine import __version__

        typer.echo(__version__)
        raise typer.Exit
    context.obj = Log(verbose, log)
