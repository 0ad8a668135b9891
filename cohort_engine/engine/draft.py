"""A study file for a BIDS folder: what the folder allows, with a comment on each line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.engine.study import index, inputs_of
from cohort_engine.io.bids import Study

WHERE = "init"


@dataclass(frozen=True)
class Draft:
    """A study file, and what it was made from.

    Attributes
    ----------
    text : str
        The YAML.
    complete : dict of str to int
        How many subjects have, or get, what each metric needs; that of ``shape`` is morphometry.
    subjects : int
    notes : list of str
        What was chosen and left out, as of `index`.
    """

    text: str
    complete: dict[str, int]
    subjects: int
    notes: list[str]


def draft_study(bids: str, store: str, *, folder: str | Path = ".", source: str = "bids", template: str = "PAM50") -> Draft:
    """Write a study file for what a folder holds.

    Parameters
    ----------
    bids : str
        Folder or URL.
    store : str
        Where the cohort is to be.
    folder : str or Path
        Where the study file is to be: paths inside it are written from there, others in full.
    source : str
        One of `stages.base.SOURCES`.
    template : str

    Returns
    -------
    Draft
        Metrics are those that at least one subject has the images for; morphometry is on where there are T2w images.

    Raises
    ------
    InputError, ConfigError
        As of `index`.
    """
    data = {"bids": bids, "store": store, "source": source}
    study = index(parse_config({"data": data, "template": {"name": template}}, where=WHERE))
    complete = {name: _complete(study, data, template, metrics=[name]) for name in schema.METRICS}
    complete["shape"] = _complete(study, data, template, metrics=[], shape={"source": "t2w"})
    written = data | {key: _from(data[key], Path(folder)) for key in ("bids", "store")}
    return Draft(_yaml(study, written, template, complete), complete, len(study), list(study.told()))


def _from(place: str, folder: Path) -> str:
    """Write a local place as seen from a folder it lies in, else in full; a URL as it is."""
    if "://" in place:
        return place
    path, base = Path(place).resolve(), folder.resolve()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _complete(study: Study, data: dict[str, str], template: str, **stages: Any) -> int:
    """Count the subjects that have, or get, what stages need."""
    config = parse_config({"data": data, "template": {"name": template}, "stages": stages}, where=WHERE)
    return sum(not roles for roles in inputs_of(config, study).lacking.values())


def _yaml(study: Study, written: dict[str, str], template: str, complete: dict[str, int]) -> str:
    n = len(study)
    metrics = [m for m, count in complete.items() if count and m in schema.METRICS]
    source = [] if written["source"] == "bids" else [f"  source: {written['source']}"]
    some = {m: f"{complete[m]} of {n}" for m in metrics}
    none = [m for m in complete if m in schema.METRICS and m not in some]
    shape = f"shape: {{ source: t2w }} # area and diameters of the cord: {complete['shape']} of {n} have, or get, what they need"
    sessions = study.subjects[schema.SESSION].astype(bool).any()
    lines = [
        f"# A cohort of {n} {'sessions' if sessions else 'subjects'}. Next, with this file: cohort-engine plan, cohort-engine build.",
        "# Every key that there is: docs/reference/config.md",
        "data:", f"  bids: {_text(written['bids'])}", f"  store: {_text(written['store'])} # made by build", *source,
        "template:", f"  name: {template}" + (" # once: cohort-engine template install pam50" if template.upper() == "PAM50" else ""),
        "compute:", "  cluster: local # or slurm, kubernetes, ssh: docs/how-to/clusters.md", "  # workers: 2 # by default one for each core",
        "stages:", f"  metrics: [{', '.join(metrics)}]" + (f" # {', '.join(f'{m}: {t}' for m, t in some.items())}" if some else ""),
        *([f"  # without images here: {', '.join(none)}"] if none else []),
        f"  {shape}" if complete["shape"] else "  # shape: { source: t2w } # nobody has a T2w image",
    ]  # fmt: skip
    groups = _groups(study)
    lines += ["analysis:", "  groups:", f"    column: {schema.GROUP}", *groups] if groups else ["# analysis: # no column group in participants.tsv"]
    return "\n".join(lines) + "\n"


def _groups(study: Study) -> Sequence[str]:
    """Lines that name controls and cases, where two words say which they are."""
    if schema.GROUP not in study.subjects:
        return []
    words = sorted({str(w) for w in study.subjects[schema.GROUP].dropna() if str(w)})
    healthy = [w for w in words if w.casefold() in schema.HEALTHY]
    ill = [w for w in words if w not in healthy]
    if len(healthy) == 1 and len(ill) == 1:
        return [f"    control: {_text(healthy[0])}", f"    case: {_text(ill[0])}"]
    return [f"    # control: and case: choose among {', '.join(map(_text, words))}"] if words else []


def _text(word: str) -> str:
    """Text as YAML has it, in quotes where it could be read as something else, on one line.

    Examples
    --------
    >>> _text("/data/study"), _text("no"), _text("a: b")
    ('/data/study', '"no"', '"a: b"')
    """
    plain = (all(c.isalnum() or c in "/._-" for c in word) and word[:1] in "/.") or (word.isalpha() and word.isascii())
    return (
        word
        if plain and word.casefold() not in {"no", "yes", "on", "off", "true", "false", "null", "y", "n"}
        else json.dumps(word, ensure_ascii=False)
    )


def write_draft(draft: Draft, path: str | Path) -> None:
    """Write a study file where none is.

    Raises
    ------
    FileExistsError
        There is one.
    """
    with Path(path).open("x", encoding="utf-8") as file:
        file.write(draft.text)
