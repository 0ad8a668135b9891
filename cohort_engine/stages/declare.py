"""What a store is told of the stages that will fill it: its arrays, what is asked for, and the recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.schema import VariableSpec
from cohort_engine.stages.base import Stage

SCIENCE, HASH, STAGES = "science", "hash", "stages"


@dataclass(frozen=True)
class Declaration:
    """Arguments of `store.writer.init_store`.

    Attributes
    ----------
    specs : tuple of VariableSpec
        What the stages write, and the tables of template space.
    asked : mapping
        The study's science and its hash, and of each stage, upstream first, its recipe and what it needs, makes and writes.
    recipes : mapping of hash to recipe
    """

    specs: tuple[VariableSpec, ...]
    asked: Mapping[str, Any]
    recipes: Mapping[str, Mapping[str, Any]]


def metrics_of(stages: Sequence[Stage]) -> tuple[schema.Metric, ...]:
    """Metrics whose maps the stages write."""
    return tuple(schema.Metric.of(spec) for stage in stages for spec in stage.writes if schema.is_metric(spec))


def declare(config: Config, stages: Sequence[Stage], template: str) -> Declaration:
    """Declare what a study asks of a store.

    Parameters
    ----------
    config : Config
    stages : sequence of Stage
        Upstream first.
    template : str
        Content hash of the template.
    """
    recipes = {stage.name: stage.recipe(template) for stage in stages}
    asked = {
        stage.name: {
            "recipe": recipes[stage.name].hash, "needs": list(stage.needs), "makes": stage.makes, "section": stage.section,
            "writes": [spec.path for spec in stage.writes],
        }
        for stage in stages
    }  # fmt: skip
    return Declaration(
        tuple(_specs(config, stages)), {SCIENCE: config.science(), HASH: config.science_hash, STAGES: asked},
        {recipe.hash: recipe.to_json() for recipe in recipes.values()},
    )  # fmt: skip


def _specs(config: Config, stages: Sequence[Stage]) -> Iterator[VariableSpec]:
    for stage in stages:
        yield from stage.writes
    if schema.SPACE_TEMPLATE in config.stages.reduce.spaces:
        for metric in metrics_of(stages):
            for estimator in config.stages.reduce.estimators:
                yield from schema.table_specs(metric, estimator).values()
