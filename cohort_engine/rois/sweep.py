"""A table of trainings: choices crossed with one another, each row trained and judged by itself, and what is done is not done again."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from cohort_engine.config import Section, parse_section, read_yaml
from cohort_engine.errors import unknown_name
from cohort_engine.provenance import digest
from cohort_engine.rois.config import RoiTraining, split, varied
from cohort_engine.rois.slices import RoiSlices

RESULTS: Final = "results.jsonl"
RESULT: Final = "result.json"
ALL: Final = "all"


class Table(Section):
    """Rows that belong together: the product of the labels of each choice; a choice that is not named takes its first label."""

    rows: dict[str, Literal["all"] | tuple[str, ...]] = Field(default_factory=dict)
    """Labels by choice, or ``all``."""
    seeds: tuple[int, ...] = (1,)
    """Trainings of each row."""


class Sweep(Section):
    """Trainings of the regions to compare; files in configs/training/rois/."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Settings that all share, as in a training file."""
    choices: dict[str, dict[str, dict[str, Any]]]
    """By choice and label: the settings that it stands for."""
    tables: tuple[Table, ...]
    """What is trained, in this order; rows that are in several tables are trained once."""


class Row(NamedTuple):
    """One training: its label of each choice, and its configuration (with the seed)."""

    labels: dict[str, str]
    config: RoiTraining

    @property
    def name(self) -> str:
        """Folder of the row: its labels and seed, and a hash of its configuration.

        Examples
        --------
        >>> Row({"encoder": "VGG16", "loss": "HDL-max"}, RoiTraining()).name.rpartition("-")[0]
        'VGG16-HDL-max-1'
        """
        words = [re.sub("[^A-Za-z0-9]+", "-", label).strip("-") for label in (*self.labels.values(), str(self.config.seed))]
        return "-".join([*words, digest({"config": self.config.model_dump(mode="json", exclude={"threads", "device"})})[:8]])


class Runner(Protocol):
    """What a sweep needs of a pool of workers; `engine.clusters` has them."""

    def submit(self, function: Callable[..., Any], *args: Any, key: str, resources: Mapping[str, float], retries: int) -> Any:
        """Queue a call."""
        ...

    def completed(self) -> Iterator[Any]:
        """Yield calls that have ended."""
        ...

    def outcome(self, future: Any) -> Any:
        """Return their result, or the error."""
        ...


def load_sweep(path: str | Path) -> Sweep:
    """Read a file of trainings to compare."""
    return parse_section(Sweep, read_yaml(Path(path)), where=Path(path).name)


def rows_of(sweep: Sweep) -> list[Row]:
    """Cross the choices of all tables.

    Raises
    ------
    UnknownNameError
        A table names a choice or label that there is not.

    Examples
    --------
    >>> choices = {"input": {"b0": {"input": {"images": ["b0"]}}, "FA": {"input": {"images": ["fa"]}}}, "net": {"VGG16": {}}}
    >>> [(row.labels, row.config.seed) for row in rows_of(Sweep(choices=choices, tables=({"rows": {"input": ("FA",)}, "seeds": (1, 2)},)))]
    [({'input': 'FA', 'net': 'VGG16'}, 1), ({'input': 'FA', 'net': 'VGG16'}, 2)]
    """
    found: dict[str, Row] = {}
    for table in sweep.tables:
        for name, given in table.rows.items():
            if name not in sweep.choices:
                raise unknown_name("choice", name, list(sweep.choices), where="tables of the sweep")
            for label in () if given == ALL else given:
                if label not in sweep.choices[name]:
                    raise unknown_name(name, label, list(sweep.choices[name]), where="tables of the sweep")
        axes: list[tuple[str, ...]] = []
        for name, known in sweep.choices.items():
            given = table.rows.get(name, (next(iter(known)),))
            axes.append(tuple(known) if given == ALL else given)
        for labels in itertools.product(*axes):
            settings = varied(RoiTraining(), sweep.base)
            for name, label in zip(sweep.choices, labels, strict=True):
                settings = varied(settings, sweep.choices[name][label])
            for seed in table.seeds:
                row = Row(dict(zip(sweep.choices, labels, strict=True)), varied(settings, {"seed": seed}))
                found.setdefault(row.name, row)
    return list(found.values())


def run_sweep(
    sweep: Sweep, data: str | Path, test: str | Path, out: str | Path, pool: Runner, *, say: Callable[[dict[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Train and judge all rows that are not done yet.

    Parameters
    ----------
    sweep : Sweep
    data, test : path
        Slices (npz): those that rows are trained on, validated on and, in part, held out of; and those of other patients that all rows are judged by.
    out : path
        Folder for one folder a row, and for the results, one line of JSON a row (``results.jsonl``). Rows that are there are not done again.
    pool : Runner
        Where rows are trained, several at a time.
    say : callable, optional
        Is told each row's result.

    Returns
    -------
    list of dict
        Results, in the order of the rows; of a row that failed its labels and ``error``.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / RESULTS
    done = {line["row"]: line for line in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    rows = rows_of(sweep)
    waiting = {}
    for row in rows:
        if row.name not in done:
            future = pool.submit(run_row, row.config.model_dump(mode="json"), str(data), str(test), str(folder / row.name), key=row.name,
                                 resources={}, retries=0)  # fmt: skip
            waiting[row.name] = (row, future)
    named = {id(future): row for row, future in waiting.values()}
    for future in pool.completed():
        row, result = named[id(future)], pool.outcome(future)
        line = {"row": row.name, **row.labels, "seed": row.config.seed}
        line |= {"error": f"{type(result).__name__}: {result}"} if isinstance(result, BaseException) else result
        done[row.name] = line
        if "error" not in line:
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if say is not None:
            say(line)
    return [done[row.name] for row in rows if row.name in done]


def run_row(config: dict[str, Any], data: str, test: str, out: str) -> dict[str, Any]:
    """Train one row and judge it, by the slices held out of its data and by those of the test; or return what was found before (``result.json``)."""
    from cohort_engine.rois.train import load_rois, train_rois

    path = Path(out) / RESULT
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    began = time.monotonic()
    settings, slices = RoiTraining(**config), RoiSlices.load(data)
    train, valid, held_out = (slices.at(part) for part in split(slices, by=settings.split, fractions=settings.fractions, seed=settings.seed))
    net = load_rois(train_rois(settings, train, valid, out))
    figures = {"test": judged(net, RoiSlices.load(test)), "held_out": judged(net, held_out) if len(held_out) else None}
    parameters = sum(p.numel() for module in net.modules for p in module.parameters())
    seconds = round(time.monotonic() - began, 1)
    result = {**figures, "epochs": settings.epochs, "slices": len(train), "parameters": parameters, "seconds": seconds}
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(result))
    aside.replace(path)
    return result


def judged(net: Any, slices: RoiSlices) -> dict[str, Any]:
    """Figures of a network on slices, each a list with one number a region."""
    from cohort_engine.rois.evaluate import score

    found = score(net.masks(slices), slices)
    means = {"dice": found.dice, "recall": found.recall, "precision": found.precision, "error": found.error, "error_percent": found.error_percent}
    shares = {"outliers": found.outlier_share, "without_output": found.without_output_share, "wrong_side": found.wrong_side}
    figures = {name: _mean(values) for name, values in means.items()} | {f"{name}_sd": _mean(means[name], np.nanstd) for name in ("dice",)}
    return {name: [round(float(v), 4) for v in values] for name, values in (figures | shares).items()}


def _mean(values: Any, of: Callable[..., Any] = np.nanmean) -> Any:
    """Mean of each column; NaN, without a word, where it has no number."""
    return [of(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in values.T]
