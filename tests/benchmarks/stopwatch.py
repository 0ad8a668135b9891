"""How long each stage takes of each subject; of benchmarks that are scripts as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cohort_engine.config import Config
from cohort_engine.stages.base import Stage
from cohort_engine.stages.choose import stages_of


def timed_stages(config: Config, clock: Callable[[], float]) -> tuple[list[Stage], dict[str, list[float]]]:
    """Give the stages of a study, and where they note what each call took by the clock, by stage."""
    taken: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any) -> Any:
            start = clock()
            try:
                return run(*arguments)
            finally:
                taken.setdefault(name, []).append(clock() - start)

        return inner

    return [replace(stage, run=timed(stage.name, stage.run)) for stage in stages_of(config)], taken
