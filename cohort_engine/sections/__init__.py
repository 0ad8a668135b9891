"""The sections of the report, one file each, in the order in which they are computed and read.

A further file here, or one of a plug-in, that adds a `base.Section` to `config.SECTION_KINDS` is a further section: it follows those of `ORDER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cohort_engine.config import SECTION_KINDS

if TYPE_CHECKING:
    from cohort_engine.sections.base import Section, Table

ORDER = ("people", "groups", "roc", "classifier", "compression", "clusters", "correlations", "norms", "sites", "repeats", "change")


def every() -> tuple[Section, ...]:
    """Sections in the order of the report."""
    return tuple(SECTION_KINDS[name] for name in dict.fromkeys((*ORDER, *SECTION_KINDS)))


def tables() -> dict[str, Table]:
    """Every table of every section, by name."""
    return {name: table for section in every() for name, table in section.tables.items()}


def table(name: str) -> Table:
    """Look a table up; one that is not described is shown under its own name."""
    from cohort_engine.sections.base import Table

    return tables().get(name) or Table(name.replace("_", " ").capitalize(), "", {}, open=True)


def describe(columns: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Lay out the data dictionary of tables (name -> columns), as JSON holds it.

    Examples
    --------
    >>> describe({"cluster_notes": ["note"]})["cluster_notes"]["columns"]
    {'note': {'meaning': 'note', 'unit': ''}}
    >>> describe({"subjects": ["subject", "mjoa"]})["subjects"]["columns"]["mjoa"]["meaning"]
    'a column of participants.tsv'
    """
    from cohort_engine.sections.base import STUDY, Column

    out, known = {}, tables()
    for name, names in columns.items():
        words = table(name)
        said = {str(c): words.columns.get(str(c)) or Column(STUDY if name in known else "") for c in names}
        meanings = {c: {"meaning": w.meaning, "unit": w.unit} for c, w in said.items()}
        out[name] = {"file": f"csv/{name}.csv", "title": words.title, "meaning": words.sentence, "columns": meanings}
    return out
