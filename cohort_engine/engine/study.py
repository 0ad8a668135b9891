"""A study file brought to life: its stages, its template, its subjects, and how the store stands against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import zarr

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.clusters import Pool
from cohort_engine.engine.plan import Plan, lacking
from cohort_engine.engine.runner import Subject
from cohort_engine.engine.state import Outlook, People, join_subjects, survey
from cohort_engine.errors import CohortError, StoreError, TemplateError
from cohort_engine.io.bids import Study
from cohort_engine.io.choose import Selection
from cohort_engine.io.header import judge_header
from cohort_engine.io.places import local_path
from cohort_engine.single.process import one_arena
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
    asked = {"selection": Selection(data.patterns, data.wanted)} if data.files or data.filters else {}
    return source.index(data.bids, derivatives=data.derivatives, include=data.include, exclude=data.exclude, roles=map_roles(config), **asked)


@dataclass(frozen=True)
class Inputs:
    """What a build of a study needs and has.

    Attributes
    ----------
    lacking : mapping of row to tuple of str
        Roles that stages of a subject need, and that it neither has nor gets.
    files : DataFrame
        By the words of a role: subjects that have it, for whom it is made, and that lack it.
    """

    lacking: Mapping[int, tuple[str, ...]]
    files: pd.DataFrame


def with_headers(study: Study) -> Study:
    """Add to a study's notes what the headers of its images leave open, of those on this machine. Each file is opened, and little of it is read."""
    found = [
        (participant, session, role, note)
        for role in study.roles
        for participant, session, place in zip(study.subjects[schema.PARTICIPANT], study.subjects[schema.SESSION], study.files[role], strict=True)
        if place and (path := local_path(str(place))) is not None and path.name.endswith((".nii", ".nii.gz"))
        for note in judge_header(path, what=schema.words(role))
    ]  # fmt: skip
    return replace(study, notes=pd.concat([study.notes, pd.DataFrame(found, columns=study.notes.columns)])) if found else study


def inputs_of(config: Config, study: Study) -> Inputs:
    """Count which files a build needs, which of them are there, and which it makes. What no stage of the configuration needs is not missing."""
    stages = stages_of(config)
    subjects = join_subjects(study, range(len(study)), stages)
    lost = {subject.row: lacking(subject, stages) for subject in subjects}
    roles = [role for role in study.roles if study.files[role].notna().any() or any(role in s.make or role in lost[s.row] for s in subjects)]
    counts = {
        schema.words(role): (
            int(study.files[role].notna().sum()), sum(role in s.make for s in subjects), sum(role in lost[s.row] for s in subjects)
        )
        for role in roles
    }  # fmt: skip
    table = pd.DataFrame(list(counts.values()), columns=["present", "made", "missing"], index=list(counts))
    return Inputs({row: tuple(role for role in study.roles if role in of) for row, of in lost.items()}, table)


def open_store(url: str) -> tuple[zarr.Group | None, tuple[CohortError, ...]]:
    """Open a store where there is one, and say what is wrong with it; one that was not laid out to the end counts as none."""
    try:
        root = layout.open_root(url)
    except StoreError as error:
        return None, (error,) if error.expected.startswith("format version") else ()
    if words := layout.frozen(root):
        remedy = "Work on the store the freeze was made from."
        return root, (StoreError(expected="a store that grows", found=words, where="data.store", remedy=remedy),)
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
        one_arena()
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
            reasons=outlook.states.reasons(), left=Counter(people.left.values()), problems=found, notes=self.study.told(),
        )  # fmt: skip

    def failed(self, outlook: Outlook) -> list[Subject]:
        """Subjects of whom a stage failed."""
        rows = {row for (row, stage), e in outlook.entries.items() if e.status == schema.FAILED and stage in outlook.states.stages}
        return [s for s in outlook.subjects if s.row in rows]
