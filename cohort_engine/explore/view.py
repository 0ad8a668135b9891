"""What is on the screen: a question to the cohort, and what it is compared with. It can be written as an address, a command and as Python."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from cohort_engine.query.question import Query, parse_query

QUESTION, SPLIT, REFERENCE, SCORE, ROW = "q", "split", "reference", "score", "row"
"""Names in the address."""


@dataclass(frozen=True)
class View:
    """A cell of the cohort, who is shown, and beside whom.

    Attributes
    ----------
    query : Query
        Of one metric, one region and one level; ``only`` says who is shown.
    split : str
        Column of the subject table by which people are coloured; empty: they are all alike.
    reference : str
        Value of that column whose people the others are compared with; empty: nobody.
    score : str
        Column of numbers that the cell is drawn against; empty: none.
    row : int, optional
        Row of the store of the person who is marked; None: nobody. (A row, since addresses are kept and sent.)
    """

    query: Query
    split: str = ""
    reference: str = ""
    score: str = ""
    row: int | None = None

    @property
    def metric(self) -> str:
        """Metric, or measure of the cord."""
        return self.query.metric

    @property
    def tract(self) -> str:
        """The region; empty for the whole cord of a measure."""
        return self.query.tracts[0] if self.query.tracts else ""

    @property
    def level(self) -> str:
        """Level, or pooled range."""
        return self.query.levels[0]

    def at(self, *, metric: str | None = None, tract: str | None = None, level: str | None = None) -> View:
        """Look at another cell.

        Examples
        --------
        >>> View(parse_query("mtr tract='white matter' level=C3")).at(level="C5").query.text()
        "mtr tract='white matter' level=C5"
        """
        tracts = self.query.tracts if tract is None else ((tract,) if tract else ())
        levels = self.query.levels if level is None else (level,)
        return replace(self, query=replace(self.query, metric=metric or self.metric, tracts=tracts, levels=levels))

    def showing(self, only: tuple[tuple[str, str], ...]) -> View:
        """Show other people."""
        return replace(self, query=replace(self.query, only=only))

    def address(self) -> str:
        """Write the view as the part of an address behind ``?``.

        Examples
        --------
        >>> view = View(parse_query("mtr tract='white matter' level=C3 site=A age=40:60"), split="group", reference="HC", row=3)
        >>> view.address()
        'q=mtr+tract%3D%27white+matter%27+level%3DC3+site%3DA+age%3D40%3A60&split=group&reference=HC&row=3'
        >>> View.of_address("?" + view.address(), View(parse_query("mtr"))) == view
        True
        """
        more = {SPLIT: self.split, REFERENCE: self.reference, SCORE: self.score, ROW: "" if self.row is None else str(self.row)}
        return urlencode({QUESTION: self.query.text()} | {k: v for k, v in more.items() if v})

    @classmethod
    def of_address(cls, search: str, otherwise: View) -> View:
        """Read an address back; what it does not say is as in another view.

        Raises
        ------
        ConfigError
            The question in it is none.
        """
        given = dict(parse_qsl(search.removeprefix("?"), keep_blank_values=True))
        if QUESTION not in given:
            return otherwise
        query = parse_query(given[QUESTION])
        query = query if query.levels else replace(query, levels=otherwise.query.levels)
        row = given.get(ROW, "")
        return cls(query, given.get(SPLIT, ""), given.get(REFERENCE, ""), given.get(SCORE, ""), int(row) if row.isdecimal() else None)

    def command(self, store: str) -> str:
        r"""Write the command that prints what is on the screen.

        Examples
        --------
        >>> View(parse_query("fa tract='white matter' level=C3")).command("study.zarr")
        'cohort-engine query study.zarr "fa tract=\'white matter\' level=C3"'

        A shell runs nothing of what a table says:

        >>> print(View(parse_query("fa level=C3 site='$(reboot)'")).command("study.zarr"))
        cohort-engine query study.zarr 'fa level=C3 site='"'"'$(reboot)'"'"''
        """
        text = self.query.text()
        quoted = shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'
        return f"cohort-engine query {shlex.quote(store)} {quoted}"

    def python(self, store: str) -> str:
        """Write the program that returns what is on the screen as a data frame."""
        return f"from cohort_engine.query.frame import run_query\n\nframe = run_query({store!r}, {self.query.text()!r})"
