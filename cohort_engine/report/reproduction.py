"""What studies that are simulated from nothing share: the record of what they were made of, and their build from images alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.engine.events import Events
from cohort_engine.errors import StoreError
from cohort_engine.phantom.study import give_landmark
from cohort_engine.provenance import versions

RECORD: Final = "reproduction.json"


def claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a reproduction with the versions of everything; one that is there must be of the same.

    Raises
    ------
    StoreError
        The folder holds another reproduction.
    """
    path = folder / RECORD
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(record))
        if other := [k for k, v in now.items() if before.get(k) != v]:
            raise StoreError(
                expected="an empty folder, or a reproduction of the same plan, size and template", found=f"one that differs in {', '.join(other)}",
                where="folder of the reproduction", remedy="Give another folder.",
            )  # fmt: skip
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, "versions": versions()}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def build_simulated(config: Config, bids: Path, *, workers: int, events: Events | None = None) -> tuple[BuildReport, tuple[str, ...]]:
    """Build a simulated study; where discs cannot be named with certainty, answer with one landmark, as a person would, and build again.

    Parameters
    ----------
    config : Config
    bids : Path
        The simulated study.
    workers : int
        Worker processes.
    events : Events, optional
        Who watches the build.

    Returns
    -------
    BuildReport
    tuple of str
        Who was asked about.
    """
    config = config.model_copy(update={"compute": config.compute.model_copy(update={"workers": workers})})
    report = build(config, events=events)
    asking = tuple(map(str, report.failures.loc[report.failures["stage"] == schema.levels_stage(schema.T2W), "name"]))
    if asking:
        for name in asking:
            give_landmark(bids, name)
        report = build(config, events=events)
    return report, asking
