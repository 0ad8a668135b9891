"""Tables as the Spinal Cord Toolbox writes them, of a whole cohort: one file a question, one line a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import Preset, PresetTable
from cohort_engine.errors import UnknownNameError
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import versions
from cohort_engine.query.cells import MEASURES, ask
from cohort_engine.query.question import Query, parse_query
from cohort_engine.query.reader import CohortReader
from cohort_engine.single.columns import Columns


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    written : mapping of file to int
        Subjects with a value.
    left : mapping of file to str
        Why others were not written.
    """

    written: Mapping[str, int]
    left: Mapping[str, str]


def export_tables(cohort: CohortReader, preset: Preset, out: str | Path) -> Exported:
    """Write the tables of a preset.

    Parameters
    ----------
    cohort : CohortReader
    preset : Preset
    out : str or Path
        Folder, made where it is absent.

    Returns
    -------
    Exported
        A table whose metric the cohort does not have is left out.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    folder = Path(out)
    with storage_errors("folder of the tables"):
        folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    left: dict[str, str] = {}
    for file, table in preset.tables.items():
        try:
            columns = sct_table(cohort, table, preset.estimator)
        except UnknownNameError as error:
            left[file] = str(error)
            continue
        columns.write(folder / file)
        written[file] = sum(v == v for v in next(values for name, values in columns.columns.items() if name.startswith(("WA", "MAP", "MEAN"))))
    return Exported(written, left)


def sct_table(cohort: CohortReader, table: PresetTable, estimator: str) -> Columns:
    """Answer one question in the columns of ``sct_extract_metric`` or ``sct_process_segmentation``, a line a subject and session.

    The column ``Filename`` is the image below the subject's folder, from which readers of such tables take the name of the subject. ``Slice (I->S)``
    is empty: pooled levels are not whole slices here.

    Raises
    ------
    UnknownNameError
        The cohort has no such metric, region or level.
    """
    query: Query = parse_query(table.ask)
    measure = query.metric in MEASURES and query.metric not in cohort.metrics
    if not measure:
        query = replace(query, estimator=estimator)
    cells = ask(cohort, query)
    who = zip(*(cohort.column(n) for n in (schema.PARTICIPANT, schema.SESSION)), strict=True)
    values, std, n = (np.asarray(cells.values[k], float)[:, 0, 0] for k in (schema.VALUE, schema.STD, schema.N))
    count = cohort.subjects
    numbers = [schema.level_number(name) for name in cells.levels[0].split(":")]
    out: dict[str, list[Any]] = {
        "Timestamp": [str(cohort.attributes.get("finalised", ""))] * count,
        "SCT Version": [f"cohort_engine {versions()['cohort_engine']}"] * count,
        "Filename": [_image(participant, session, table.image) for participant, session in who],
        "Slice (I->S)": [""] * count,
        "VertLevel": [":".join(map(str, numbers))] * count,
        "DistancePMJ": [""] * count,
    }  # fmt: skip
    if measure:
        return Columns({**out, f"MEAN({query.metric})": values.tolist(), f"STD({query.metric})": std.tolist()})
    named = {f"{estimator.upper()}()": (values * table.scale).tolist(), "STD()": (std * table.scale).tolist()}
    return Columns({**out, "Label": [cells.regions[0]] * count, "Size [vox]": n.tolist(), **named})


def _image(participant: str, session: str, image: str) -> str:
    """Path of an image below a subject's folder.

    Examples
    --------
    >>> _image("sub-01", "", "anat/mtr.nii.gz"), _image("sub-01", "ses-2", "anat/mtr.nii.gz")
    ('sub-01/anat/mtr.nii.gz', 'sub-01/ses-2/anat/mtr.nii.gz')
    """
    return "/".join(filter(None, (participant, session, image)))
