"""Morphometry of the T2w cord (stage ``shape``): ``profiles/*`` along the template, and values by level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.errors import ConfigError
from cohort_engine.stages.base import Array, Stage, StageInput, StageKind, register
from cohort_engine.stages.fit import LANDMARKS, landmarks_of


class ShapeConfig(Section):
    """Morphometry of the cord (stage ``shape``): ``profiles/*`` along the template, and values by level."""

    source: Literal["t2w", "tables"] | None = None
    """``t2w`` measures the T2w cord mask, placed by its landmarks; ``tables`` marks a store made by import-morphometry; by default none."""


def run_shape(inputs: StageInput) -> dict[str, Array]:
    """Measure the cord of the T2w mask: ``profiles/*`` (z,) along the template and ``tables/shape/*`` (level,)."""
    from cohort_engine.single.morphometry import measure_cord, subject_arrays

    t2w = schema.CONTRASTS[schema.T2W]
    words = (schema.words(t2w.mask), schema.words(t2w.landmarks))
    landmarks = landmarks_of(inputs, t2w.landmarks, inputs.params[LANDMARKS])
    found = measure_cord(inputs.mask(t2w.mask), landmarks, inputs.template, what=words)
    return subject_arrays(found, inputs.template)


def shape_stages(config: Config) -> Iterable[Stage]:
    """One stage, where a source is given.

    Raises
    ------
    ConfigError
        The source is that of imported tables, which no stage makes.
    """
    chosen: ShapeConfig = config.stages.shape
    if chosen.source == schema.PROFILE_TABLES:
        raise ConfigError(
            expected=f"{schema.T2W} or nothing", found=f"{schema.PROFILE_TABLES!r}, the mark of imported tables", where="stages.shape.source",
            remedy=f"Write source: {schema.T2W}, or add to that store with import-morphometry.",
        )  # fmt: skip
    if chosen.source:
        t2w = schema.CONTRASTS[schema.T2W]
        yield Stage(
            name=schema.SHAPE, version="4", run=run_shape,
            params=chosen.model_dump(mode="json") | {LANDMARKS: config.stages.fit.landmarks}, roles=(t2w.mask, t2w.landmarks),
            writes=tuple(s for s in schema.shape_specs().values() if s.stage), memory=300.0,
        )  # fmt: skip


def shape_methods(science: Mapping[str, Any], metrics: frozenset[str]) -> str:
    """Say how the cord was measured."""
    used = [schema.MEASURES[m][0] for m in schema.MEASURES if m in metrics]
    if not used:
        return ""
    tables = science["stages"]["shape"]["source"] == schema.PROFILE_TABLES
    how = "" if tables else ", measured at right angles to the cord in the T2w masks [@sct],"
    names = " and ".join(filter(None, (", ".join(used[:-1]), used[-1])))
    return f"Shape of the cord ({names}){how} was averaged over the slices of each level."


register(StageKind("shape", ShapeConfig, shape_stages, shape_methods))
