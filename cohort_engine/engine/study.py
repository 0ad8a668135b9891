"""A study file brought to life: its stages, its template, its subjects, and how the store stands against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import zarr

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.clusters import Pool
from cohort_engine.engine.plan import Plan
from cohort_engine.engine.runner import Subject
from cohort_engine.engine.state import Outlook, People, join_subjects, survey
from cohort_engine.errors import CohortError, StoreError, TemplateError
from cohort_engine.io.bids import Study
from cohort_engine.stages.base import SOURCES, Stage
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.declare import Declaration, declare
from cohort_engine.stages.maps import map_roles
from cohort_engine.store import layout
from cohort_engine.store.writer import IDENTITY, check_template
from cohort_engine.template import load_template
from cohort_engine.template.base import Template


def index(config: Config) -> Study:
    """List the subjects of a study and their files; errors as of `io.bids.index_study`."""
    data = config.data
    source = SOURCES.find(data.source, where="data.source")
    return source.index(data.bids, derivatives=data.derivatives, include=data.include, exclude=data.exclude, roles=map_roles(config))


def open_store(url: str) -> tuple[zarr.Group | None, tuple[CohortError, ...]]:
    """Open a store where there is one, and say what is wrong with it; one that was not laid out to the end counts as none."""
    try:
        root = layout.open_root(url)
    except StoreError as error:
        return None, (error,) if error.expected.startswith("format version") else ()
    if root.attrs.get(layout.COMPACTED):
        remedy = "Work on the store the freeze was made from."
        return root, (StoreError(expected="a store that grows", found="a freeze made by compact", where="data.store", remedy=remedy),)
    return root, ()


class Undertaking:
    """What a study file asks for, looked up once.

    Parameters
    ----------
    config : Config
    stages : sequence of Stage, optional
        In place of the registered ones, upstream first.
    """

    def __init__(self, config: Config, stages: Sequence[Stage] | None = None) -> None:
        self.config = config
        self.url = config.data.store
        self.stages = stages_of(config) if stages is None else tuple(stages)

    @cached_property
    def template(self) -> Template:
        """Return the template."""
        chosen = self.config.template
        template = load_template(chosen.name, path=chosen.path)
        if chosen.digest is not None:
            template.check_digest(chosen.digest, where="template.digest")
        return template

    @cached_property
    def study(self) -> Study:
        """Return subjects and files."""
        return index(self.config)

    def digest(self, root: zarr.Group) -> str:
        """Content hash of the template, which is not loaded where the store was built with that of the same name."""
        chosen = self.config.template
        if "template" not in self.__dict__ and chosen.digest is None and root.attrs.get(layout.TEMPLATE_NAME) == chosen.name:
            return str(root.attrs[layout.TEMPLATE_DIGEST])
        return chosen.digest or self.template.digest

    def declared(self, template: str) -> Declaration:
        """Return what the store is told of the stages."""
        return declare(self.config, self.stages, template)

    def look(self, root: zarr.Group | None, *, again: bool = False, template: str | None = None) -> tuple[People, Outlook]:
        """Hold the store against the study; errors as of `survey`."""
        people = People.of(self.study, self.config.data, root)
        subjects = join_subjects(self.study, people.rows, self.stages)
        declared = self.declared(template or self.template.digest)
        return people, survey(self.url, root, people, subjects, self.stages, declared, again=again)

    def plan(self, pool: Pool, people: People, outlook: Outlook, root: zarr.Group | None, problems: Sequence[CohortError] = ()) -> Plan:
        """Count what a build would do."""
        found = [*problems, *outlook.problems]
        if root is not None:
            try:
                check_template(root, self.template.digest)
            except TemplateError as error:
                found.append(error)
        columns = len({*IDENTITY, *self.study.subjects.columns})
        declared = self.declared(self.template.digest)
        return Plan.of(
            self.config, outlook.subjects, self.stages, self.template, pool.offers(), specs=declared.specs, columns=columns, runs=outlook.counts(),
            reasons=outlook.states.reasons(), left=Counter(people.left.values()), problems=found,
        )  # fmt: skip

    def failed(self, outlook: Outlook) -> list[Subject]:
        """Subjects of whom a stage failed."""
        rows = {row for (row, stage), e in outlook.entries.items() if e.status == schema.FAILED and stage in outlook.states.stages}
        return [s for s in outlook.subjects if s.row in rows]
