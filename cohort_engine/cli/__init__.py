"""The command line: each verb reads its arguments, calls one public function and prints what it returns.

Exit codes: 0 all well, 1 some subjects are not done, or something was found, 2 could not run.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from cohort_engine.cli.say import say
from cohort_engine.cli.words import app
from cohort_engine.errors import CohortError

for _name in ("study", "store", "images", "installed"):  # they add their verbs, which the help lists in this order
    import_module(f"cohort_engine.cli.{_name}")


def main() -> None:
    """Run the command line; a `CohortError` is one line on standard error and exit code 2."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy loads: the matrices are small, and waiting threads use the processor up
    try:
        app()
    except CohortError as error:
        say(f" {error}", head="error", colour="red", error=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say on standard error what is done; -vv says it in detail.")] = 0,
    log: Annotated[Path | None, typer.Option("--log", help="Append the same to this file.")] = None,
) -> None:
    if version:
        from cohort_engine import __version__

        typer.echo(__version__)
        raise typer.Exit
    if verbose or log is not None:
        _log(verbose, log)


def _log(verbose: int, file: Path | None) -> None:
    """Send the package's log to standard error, and to a file. It names subjects by row, never people or paths."""
    import logging

    from cohort_engine.errors import StorageError

    handlers: list[logging.Handler] = [logging.StreamHandler()] if verbose else []
    if file is not None:
        try:
            handlers.append(logging.FileHandler(file))
        except OSError as error:
            raise StorageError(
                expected="a file that can be written", found=error.strerror or "an error", where="--log", remedy="Choose another place."
            ) from error
    logger = logging.getLogger("cohort_engine")
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
