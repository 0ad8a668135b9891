"""Tables of morphometry that somebody normalised to the template become a cohort store of their own."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path

import numpy as np

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.engine.runner import failure
from cohort_engine.errors import CohortError, InputError, StoreError, TemplateError
from cohort_engine.io.participants import Person, Told, read_participants_file
from cohort_engine.io.table import read_column, read_table
from cohort_engine.qmri.morphometry import group_slices
from cohort_engine.single.morphometry import store_arrays
from cohort_engine.stages.base import Stage
from cohort_engine.stages.declare import declare
from cohort_engine.store import layout
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import IDENTITY, init_store, write_subject
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

TABLE = "morphometry table"
SLICE, LEVEL = "Slice (I->S)", "VertLevel"
ELLIPSE = "MEAN(diameter_AP_ellipse)"
MEANS = {
    "MEAN(area)": (schema.AREA, 1.0), "MEAN(angle_AP)": (schema.ANGLE_AP, -1.0), "MEAN(angle_RL)": (schema.ANGLE_RL, 1.0),
    "MEAN(diameter_AP)": (schema.DIAMETER_AP, 1.0), ELLIPSE: (schema.DIAMETER_AP_ELLIPSE, 1.0), "MEAN(diameter_RL)": (schema.DIAMETER_RL, 1.0),
    "MEAN(eccentricity)": (schema.ECCENTRICITY, 1.0), "MEAN(orientation)": (schema.ORIENTATION_SIZE, 1.0), "MEAN(solidity)": (schema.SOLIDITY, 1.0),
}  # fmt: skip
"""Column of the Spinal Cord Toolbox -> our measure, and its factor: the angle_AP there counts a lean to the left, orientation has no sign."""
LARGEST = 64 * 2**20
"""A table of one subject is 200 kB; an archive member above this (bytes) is something else."""
IMPORT = Stage(
    schema.SHAPE, "tables-1", lambda inputs: {}, (), tuple(s for s in schema.shape_specs().values() if s.stage), {"source": schema.PROFILE_TABLES},
    section=schema.SHAPE,
)  # fmt: skip
"""Stands for the import where a store says what made its rows; nothing runs it."""
_NAME = re.compile(r"(?P<participant>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?(?:_[^/]*)?\.csv")


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    subjects : int
    without_covariates : int
        Subjects that the participants table does not have.
    without_table : int
        Participants that no morphometry table belongs to: they are not in the store.
    told : tuple of (participant, session, note)
        What could not be read of a person: covariates, slices, or the whole table.
    failed : int
        Subjects whose table could not be used.
    """

    subjects: int
    without_covariates: int
    without_table: int
    told: tuple[Told, ...] = ()
    failed: int = 0


def import_morphometry(tables: str | Path, store: str, *, participants: str | Path, template: Template) -> ImportReport:
    """Make a cohort store of per-slice tables of ``sct_process_segmentation -normalize-PAM50 1 -perslice 1``.

    Parameters
    ----------
    tables : path
        Folder or tar archive (any compression) with one ``sub-<name>[_ses-<name>][_...].csv`` a subject. An archive is read member by member;
        nothing is unpacked, and links in it are passed over.
    store : str
        Folder or URL, new; or the store of the same tables, which is written again.
    participants : path
        ``participants.tsv`` with the covariates.
    template : Template
        Whose slices the tables count: each one's VertLevel must be that of the template.

    Returns
    -------
    ImportReport

    Raises
    ------
    InputError
        No tables, a table twice, a damaged archive; and what is wrong with the first table, where none can be used: no table, a column of values
        that are no numbers, a slice twice.
    TemplateError
        As well: slices or levels are not those of the template.
    StoreError, StorageError
        The store is that of something else, or the place fails.

    Notes
    -----
    ``diameter_AP`` is the axis of the ellipse in tables without a column ``diameter_AP_ellipse`` (its square with diameter_RL gives their
    eccentricity), and the mean extent of the middle 3 mm in tables with one. Orientation has no sign there (``orientation_size``).
    Empty fields are NaN. Values by level are means over the template's slices. A row with a field too few or too many, and a value that is no number,
    are missing slices; a table that cannot be used is a failed subject: `ImportReport.told` says which, and the others are imported.
    """
    found = dict(sorted(_tables(Path(tables))))
    if not found:
        raise InputError(expected="files sub-....csv", found="none", where=TABLE, remedy="Give the folder or archive that holds one table a subject.")
    known = read_participants_file(str(participants))
    people = list(found)
    subjects, units, told = known.rows(people)
    told = [t for t in (*known.told, *told) if not t[0] or t[0] in {participant for participant, _ in people}]
    subjects = subjects.drop(columns=[c for c in IDENTITY if c in subjects])
    for at, column in enumerate(IDENTITY):
        subjects.insert(at, column, [p[at] for p in people])
    _refuse_others(store, people)
    measured: list[dict[str, FloatArray] | CohortError] = []
    for number, (person, raw) in enumerate(found.items(), 1):
        try:
            profiles, notes = _read(raw, f"{TABLE} {number} of {len(found)}", template)
        except (InputError, TemplateError) as error:
            measured.append(error)
            told.append((*person, str(error)))
        else:
            measured.append(profiles)
            told += [(*person, note) for note in notes]
    failed = [m for m in measured if isinstance(m, CohortError)]
    if len(failed) == len(measured):
        raise failed[0]

    science = {"metrics": [], "shape": {"source": schema.PROFILE_TABLES}, "reduce": {"min_coverage": 0.0}}
    config = parse_config({"data": {"bids": "", "store": store}, "template": {"name": template.name}, "stages": science})
    declared = declare(config, (IMPORT,), template.digest)
    level = np.asarray(template.slice_level, np.int64)
    with lease(store, "import"):
        rows = init_store(
            store, template=template, subjects=subjects, units=units, specs=declared.specs, asked=declared.asked, recipes=declared.recipes
        )
        recipe = IMPORT.recipe(template.digest).hash
        for row, raw, of in zip(map(int, rows), found.values(), measured, strict=True):
            key = hashlib.sha256(raw).hexdigest()[:16]
            if isinstance(of, CohortError):
                arrays, ended = {}, failure(of)
            else:
                arrays, ended = store_arrays(of, group_slices(of, level), {}, template), {"status": schema.DONE}
            write_subject(store, row, arrays, Entry(row, IMPORT.name, key=key, recipe=recipe, seconds=0.0, **ended), template_digest=template.digest)
        finalise(store, allow_missing=bool(failed))
    with_table = {participant for participant, _ in people}
    without = sum(p[0] not in known.names for p in people)
    return ImportReport(len(people), without, len(known.names - with_table), tuple(told), len(failed))


def _tables(source: Path) -> Iterator[tuple[Person, bytes]]:
    """Tables by person, each once."""
    seen: set[Person] = set()
    for name, raw in _members(source):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        person = match["participant"], match["session"] or ""
        if person in seen:
            raise InputError(expected="one table a participant and session", found="two of one", where=TABLE, remedy="Import each kind alone.")
        seen.add(person)
        yield person, raw


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Bare names and contents of the files of a folder or archive that could be tables."""
    remedy = "Give a folder of tables, or a tar archive of them; download it again if it is damaged."
    if source.is_dir():
        for path in sorted(source.rglob("*.csv")):
            yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not member.isfile() or _NAME.fullmatch(name) is None:
                    continue
                if member.size > LARGEST:
                    raise InputError(expected="tables of one subject", found=f"{member.size / 2**20:.0f} MiB in one", where=TABLE, remedy=remedy)
                content = archive.extractfile(member)
                yield name, content.read() if content is not None else b""
    except (OSError, EOFError, tarfile.TarError, LZMAError, zlib.error) as error:
        found = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise InputError(expected="a folder or a tar archive", found=found, where=TABLE, remedy=remedy) from error


def _read(raw: bytes, where: str, template: Template) -> tuple[dict[str, FloatArray], list[str]]:
    """Profiles (z,) of one table, on the template's slices, and what is missing of them for want of a number."""
    remedy = "Make the tables with sct_process_segmentation -normalize-PAM50 1 -perslice 1."
    table = read_table(raw, where=where)
    lacking = [c for c in (SLICE, LEVEL, "MEAN(area)") if c not in table.header]
    if lacking:
        raise InputError(expected=f"columns {', '.join(lacking)}", found="none", where=where, remedy=remedy)
    told = [f"{TABLE}: {table.why(row)}: its slice is missing" for row in table.misfits]

    def numbers(column: str) -> FloatArray:
        read = read_column(table.column(column), numeric=True)
        if not read.numeric or len(read.unread) > np.isfinite(read.values).sum():
            raise InputError(expected="numbers", found=f"other values in {column}", where=where, remedy=remedy)
        told.extend(f"{TABLE}: line {table.rows[i].line}: {column} is {text!r}, not a number: missing" for i, text in read.unread.items())
        if read.note:
            told.append(f"{TABLE}: {column}: {read.note}")
        return np.asarray(read.values, np.float64)

    at = numbers(SLICE)
    known = np.isfinite(at)  # a row that does not say its slice is missing
    at, level = at[known], numbers(LEVEL)[known]
    if not ((at == np.rint(at)).all() and len(np.unique(at)) == len(at)):
        raise InputError(expected="one row a slice", found="parts of slices, or repeated ones", where=where, remedy=remedy)
    k = at.astype(np.int64)
    if k.min(initial=0) < 0 or k.max(initial=0) >= len(template.z):
        raise TemplateError(expected=f"slices 0 to {len(template.z) - 1}", found=f"{k.min()} to {k.max()}", where=where, remedy=remedy)
    off = np.isfinite(level) & (level != template.slice_level[k])
    if off.any():
        raise TemplateError(
            expected=f"the levels of {template.name} {template.version}", found=f"another level in {off.sum()} slices", where=where, remedy=remedy
        )
    profiles: dict[str, FloatArray] = {}
    for column, (measure, sign) in MEANS.items():
        if column in table.header:
            name = schema.DIAMETER_AP_ELLIPSE if measure == schema.DIAMETER_AP and ELLIPSE not in table.header else measure
            profiles[name] = np.full(len(template.z), np.nan)
            profiles[name][k] = sign * numbers(column)[known]
    return profiles, told


def _refuse_others(store: str, people: list[Person]) -> None:
    """Take a new place, or the store of these very people."""
    with suppress(StoreError):
        root = layout.open_root(store)
        there = [tuple(map(str, p)) for p in zip(*(layout.array_at(root, f"{schema.SUBJECTS}/{c}")[:] for c in IDENTITY), strict=True)]
        if there != people:
            raise InputError(expected="a new place", found="the store of another cohort", where="store", remedy="Choose another place.")
