"""Which stages a study file asks for, in order, and what must be made for a subject so that they have their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter

from cohort_engine import schema
from cohort_engine.config import STAGE_KINDS, Config
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.stages.base import SOURCES, Stage


def stages_of(config: Config) -> tuple[Stage, ...]:
    """Return the stages a configuration asks for, upstream first.

    Raises
    ------
    UnknownNameError, ConfigError
        A metric, contrast or source that nobody has registered; a metric that no stage makes; a stage that needs one which is not there.

    Examples
    --------
    >>> from cohort_engine.config import parse_config
    >>> [s.name for s in stages_of(parse_config({"data": {"bids": "b", "store": "s"}}))]
    ['segment_t2w', 'segment_mt', 'levels_t2w', 'fit_mt', 'mtr', 'mtr_native', 'quality']
    """
    source = SOURCES.find(config.data.source, where="data.source")
    found: dict[str, Stage] = {}
    for kind in STAGE_KINDS.values():
        for stage in source.stands_in.get(kind.name, kind.stages)(config):
            if stage.name in found:
                raise ConfigError(
                    expected="a new stage name", found=f"{stage.name!r} twice", where=f"stages.{kind.name}", remedy="Choose another name."
                )
            found[stage.name] = replace(
                stage, section=stage.section or kind.name, timeout=config.compute.timeout.get(stage.name, stage.timeout),
                resources={**stage.resources, **({schema.GPU: 1.0} if stage.gpu and (config.compute.gpu or config.compute.gpus) else {})},
            )  # fmt: skip
    for name in config.compute.timeout:
        if name not in found:
            raise unknown_name("stage", name, list(found), where="compute.timeout")
    for metric in config.stages.metrics:
        if metric not in found:
            raise ConfigError(
                expected="a metric that a stage makes", found=repr(metric), where="stages.metrics",
                remedy=f"Source {source.name!r} has none for it: leave it out, or install the package that brings it.",
            )  # fmt: skip
    return ordered(found)


def ordered(stages: Mapping[str, Stage]) -> tuple[Stage, ...]:
    """Put each stage behind those it needs, and behind those that make what its subjects may lack; makers that nobody reads are left out."""
    makers = {s.makes: s for s in stages.values() if s.makes}
    chosen: dict[str, Stage] = {}
    queue = [s for s in stages.values() if not s.makes]
    while queue:
        stage = queue.pop(0)
        if stage.name not in chosen:
            ahead = [makers[role] for role in stage.reads if role in makers and role != stage.makes]
            chosen[stage.name] = replace(stage, needs=(*(s.name for s in ahead), *stage.needs))
            queue += ahead
    for stage in chosen.values():
        for upstream in stage.needs:
            if upstream not in chosen:
                raise ConfigError(
                    expected=f"stage {upstream}, which {stage.name} needs", found="none in this study file", where=f"stages.{stage.section}",
                    remedy="Add what makes it.",
                )  # fmt: skip
    order = TopologicalSorter({name: stage.needs for name, stage in chosen.items()}).static_order()
    return tuple(chosen[name] for name in order)


def to_make(files: Mapping[str, str], stages: Sequence[Stage]) -> frozenset[str]:
    """Roles that must be made for a subject so that every stage has its files, as far as that is possible.

    Parameters
    ----------
    files : mapping of role to location
        What the study has for the subject.
    stages : sequence of Stage
        Those that make files, and those that read.

    Examples
    --------
    >>> make = Stage("segment", "1", dict, ("mt_on",), (), makes="mt_mask")
    >>> read = Stage("read", "1", dict, ("mt_mask",), ())
    >>> sorted(to_make({"mt_on": "i"}, [make, read])), sorted(to_make({"mt_mask": "m"}, [make, read])), sorted(to_make({}, [make, read]))
    (['mt_mask'], [], [])
    """
    makers = {s.makes: s for s in stages if s.makes}
    obtainable = set(files)
    while more := {r for r, s in makers.items() if r not in obtainable and any(obtainable.issuperset(roles) for roles in s.sets)}:
        obtainable |= more
    out: set[str] = set()
    queue = [s for s in stages if not s.makes]
    while queue:
        stage = queue.pop()
        possible = [roles for roles in stage.sets if obtainable.issuperset(roles)]
        if not possible:
            continue
        wanted = {*(possible[0] if stage.lacking(files) else ()), *(r for r in stage.optional if r in obtainable)}
        made = wanted.difference(files, out)
        out |= made
        queue += [makers[r] for r in made]
    return frozenset(out)
