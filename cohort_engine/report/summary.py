"""What an analysis found, section by section, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cohort_engine import sections

if TYPE_CHECKING:
    from cohort_engine.study.result import Analysis


def summarise(found: Analysis) -> dict[str, str]:
    """Say what was found, a sentence or two a section; all numbers are read from the tables. Sections without any are left out."""
    said = {section.name: section.sentence(found) for section in sections.every() if section.done(found)}
    return {key: text for key, text in said.items() if text}
