"""The one place that prints. Text is printed as it is: no word of the user's is ever read as markup, and no table is cut."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from cohort_engine import progress

GAP = "  "
"""Between two columns of a table that goes to a file or pipe."""


def say(text: str, *, head: str = "", colour: str | None = None, error: bool = False) -> None:
    """Print a line, begun by a bold word; colours reach a terminal only."""
    progress.clear()
    typer.echo((typer.style(head, fg=colour, bold=colour is None) if head else "") + text, err=error)


def note(text: str) -> None:
    """Print on standard error what a reader of the answer must know."""
    say(f" {text}", head="note", colour="yellow", error=True)


def plain(text: str) -> None:
    """Print text that is whole with its line ends."""
    progress.clear()
    typer.echo(text, nl=False)


def require_values(table: Mapping[str, Sequence[Any]], *columns: str, why: str) -> None:
    """End with a sentence and exit code 1 where none of the named columns of an answer holds a number; those that it lacks are left out.

    Examples
    --------
    >>> require_values({"value": [float("nan"), 40.0]}, "value", "mean", why="nobody was measured")
    """
    values = [v for name in columns if name in table for v in table[name]]
    if not any(isinstance(v, int | float) and v == v for v in values):
        say(f" in {len(values)} rows: {why}", head="not one value", colour="red", error=True)
        raise typer.Exit(1)


def show(table: Any, title: str = "", *, digits: int = 2) -> None:
    """Print a table: drawn and wrapped on a terminal, aligned and never cut in a file or pipe.

    Parameters
    ----------
    table : DataFrame or mapping of name to sequence
    title : str
    digits : int
        Of numbers that are not whole.
    """
    progress.clear()
    columns = {str(name): list(table[name]) for name in table}
    words = {name: [_word(v, digits) for v in values] for name, values in columns.items()}
    right = {name for name, values in columns.items() if values and not any(isinstance(v, str) for v in values)}
    if title:
        typer.echo(title)
    if sys.stdout.isatty():
        _draw(words, right)
    else:
        typer.echo("\n".join([*lines(words, right), ""]))


def lines(words: Mapping[str, Sequence[str]], right: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    r"""Align columns of text; those named in `right` to the right.

    Examples
    --------
    >>> print("\n".join(lines({"name": ["a", "bcd"], "n": ["10", "9"]}, {"n"})))
    name   n
    a     10
    bcd    9
    """
    width = {name: max(map(len, (name, *column))) for name, column in words.items()}
    cells = [[v.rjust(width[n]) if n in right else v.ljust(width[n]) for v in (n, *column)] for n, column in words.items()]
    return [GAP.join(row).rstrip() for row in zip(*cells, strict=True)]


def _word(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else " ".join(str(value).splitlines())


def _draw(words: Mapping[str, Sequence[str]], right: set[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in words:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in zip(*words.values(), strict=True):
        table.add_row(*map(Text, row))
    Console(highlight=False, markup=False, emoji=False).print(table)
