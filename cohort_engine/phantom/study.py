"""A simulated DCM study as a BIDS folder, with its truth as a derivative."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.phantom.compression import draw_patient
from cohort_engine.phantom.diffusion import make_dwi, reoriented
from cohort_engine.phantom.dwi_files import DWI_COLUMNS, DwiPlan, dwi_cells, write_dwi
from cohort_engine.phantom.protocol import site_dwi
from cohort_engine.phantom.subject import CLINICAL, CONTROL, MT_MASK, PATIENT, T2W_LANDMARKS, T2W_MASK, Imperfection, Subject, make_subject
from cohort_engine.single.process import in_processes
from cohort_engine.template.base import Template

BIDS_VERSION = "1.9.0"
LABELS, TRUTH = "derivatives/labels", "derivatives/truth"
DIGITS = "%.6g"
TRUE_DISCS = "desc-truth_discs.nii.gz"
"""File of true discs, written where nobody gets labels."""
TRUE_MASKS = {T2W_MASK: "T2wmask", MT_MASK: "MTmask"}
"""Good masks of compressed cords."""
MT_NAMES = (
    {schema.MT_ON: "flip-1_mt-on_MTS", schema.MT_OFF: "flip-1_mt-off_MTS"},
    {schema.MT_ON: "acq-MTon_MTS", schema.MT_OFF: "acq-MToff_MTS"},
)
"""Two habits of naming; sites take turns."""
DICTIONARY: Mapping[str, Mapping[str, Any]] = {
    schema.GROUP: {"LongName": "group", "Levels": {PATIENT: "degenerative cervical myelopathy", CONTROL: "healthy control"}},
    schema.SITE: {"LongName": "scanner site"},
    schema.AGE: {"LongName": "age", "Units": "year"},
    schema.SEX: {"LongName": "sex", "Levels": {"M": "male", "F": "female"}},
    "mjoa": {"LongName": "modified Japanese Orthopaedic Association score, 18 = no deficit", "Units": CLINICAL["mjoa"]},
    "dexterity": {"LongName": "pegboard time", "Units": CLINICAL["dexterity"]},
    "grip": {"LongName": "grip strength", "Units": CLINICAL["grip"]},
    "balance": {"LongName": "postural sway", "Units": CLINICAL["balance"]},
}
TRUTH_COLUMNS = {
    "raw": ("true MTR of the region, no partial volume", "percent"),
    "wa": ("weighted average of the noise-free MTR at the true positions of the template voxels", "percent"),
    "coverage": ("share of the region's weight inside the MT slab", "1"),
    "native_voxels": ("volume of the region in this subject over the volume of an MT voxel", "1"),
}


@dataclass(frozen=True)
class Simulation:
    """What was simulated.

    Attributes
    ----------
    bids : Path
        The study.
    study_file : Path
        A study file beside it, ready to build.
    participants : DataFrame
        As in ``participants.tsv``, and what nobody knows of a real subject: severity, the MTR offset of the site, the largest shift.
    truth : DataFrame
        One line a subject, level and region: `participant_id`, `level`, `region`, `TRUTH_COLUMNS` and, of diffusion, `DWI_COLUMNS`.
    """

    bids: Path
    study_file: Path
    participants: pd.DataFrame
    truth: pd.DataFrame


def simulate(
    out: str | Path, *, template: Template, patients: int = 8, controls: int = 4, sites: int = 2, seed: int = 0,
    imperfection: Imperfection = Imperfection(),  # noqa: B008 (frozen)
    template_path: str | Path | None = None, labels: bool = True, settings: Mapping[str, Any] | None = None, grades: Sequence[str] = (),
    dwi: DwiPlan | None = None, workers: int = 1,
) -> Simulation:  # fmt: skip
    """Write a simulated study.

    Parameters
    ----------
    out : path
        BIDS folder to make; it must not hold anything yet.
    template : Template
    patients, controls : int
    sites : int
        Subjects of a group take turns at the sites.
    seed : int
        The same seed gives the same bytes. A subject does not depend on how many others there are.
    imperfection : Imperfection
        Noise, motion, bias field and mask wobble.
    template_path : path, optional
        Folder that `template` was loaded from, for the study file; without it a build takes the installed copy.
    labels : bool
        Write cord masks and disc labels. Without them a build has to draw its own.
    settings : mapping, optional
        Further sections of the study file.
    grades : sequence of str
        Of `compression.GRADES`: patients take turns at them, with cords pressed from any side and masks as others give them; without, all are
        flattened evenly by a severity that is drawn. Good masks are then part of the truth.
    dwi : DwiPlan, optional
        Simulate diffusion series, too. The other scans of a subject stay what they are without.
    workers : int
        Processes. The bytes do not depend on it.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        `out` is not empty, or nobody is to be simulated.

    Notes
    -----
    Layout: scans in ``sub-*/anat``, cord masks and disc labels in ``derivatives/labels``, truth in ``derivatives/truth``: per subject
    ``sub-*_desc-truth_mtr.tsv`` (level x region), ``_desc-truth_csa.tsv``, ``_desc-truth_shifts.tsv``, the perfect MTR and, of all subjects together,
    ``truth.tsv``, ``csa.tsv`` and ``participants.tsv``. Sites differ in scanner offset, file names, voxel size and axis
    order on disk. Files of diffusion: `dwi_files.write_dwi`.
    """
    root = Path(out)
    if patients + controls < 1:
        raise InputError(expected="at least one subject", found="0 patients and 0 controls", where="simulation", remedy="Ask for some of either.")
    if root.is_dir() and any(root.iterdir()):
        raise InputError(expected="an empty folder", found="a folder with files in it", where="simulation output", remedy="Choose another folder.")
    drawn = _Drawn(root, template, sites, seed, imperfection, tuple(grades), dwi, labels)
    numbers = [(group, number) for group, count in ((PATIENT, patients), (CONTROL, controls)) for number in range(count)]
    made = list(in_processes(drawn, numbers, workers))
    participants = pd.DataFrame([row for row, _, _ in made])
    truths, areas_of_all = (pd.concat([tables[k] for _, *tables in made], ignore_index=True) for k in (0, 1))
    folders = {root: "Simulated DCM study", root / LABELS: "Cord masks and disc labels", root / TRUTH: "Truth of the simulation"}
    if not labels:
        del folders[root / LABELS]
    _write_dataset(folders, template, participants, {"truth": truths, "csa": areas_of_all}, seed)
    study_file = root.with_name(f"{root.name}.yaml")
    place = {"path": str(Path(template_path).resolve())} if template_path is not None else {}
    study = {"data": {"bids": root.name, "store": f"{root.name}.zarr"}, "template": {"name": template.name, **place}, **(settings or {})}
    study_file.write_text(yaml.safe_dump(study, sort_keys=False))
    return Simulation(root, study_file, participants, truths)


def give_landmark(bids: Path, name: str, disc: int = 3) -> None:
    """Label one disc of a subject of a simulated study without labels, as a person would who was asked for a landmark.

    Parameters
    ----------
    bids : Path
        The study.
    name : str
        Participant.
    disc : int
        Number of the vertebra below it; 3 is C2/C3.
    """
    anat, labels, truth = (bids / part / name / "anat" for part in (".", LABELS, TRUTH))
    discs = read_volume(str(truth / f"{name}_{TRUE_DISCS}"), what=schema.words(T2W_LANDMARKS))
    labels.mkdir(parents=True, exist_ok=True)
    image = next(anat.glob("*_T2w.nii.gz")).name.removesuffix(".nii.gz")
    write_volume(labels / f"{image}_label-discs_dlabel.nii.gz", Volume(np.where(discs.data == disc, disc, 0).astype(np.uint8), discs.affine))


@dataclass(frozen=True)
class _Drawn:
    """Draws subjects and writes them: group and number -> its row of the participants, the truth of its cells, and its areas."""

    root: Path
    template: Template
    sites: int
    seed: int
    imperfection: Imperfection
    grades: tuple[str, ...]
    dwi: DwiPlan | None
    labels: bool

    def __call__(self, who: tuple[str, int]) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
        group, number = who
        name, site, grade, patient = f"sub-{group}{number + 1:03d}", number % self.sites, "none", None
        if self.grades and group == PATIENT:
            grade = self.grades[number % len(self.grades)]
            patient = draw_patient(grade, np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(4, number))))
        drawn: dict[str, Any] = {"group": group, "number": number, "seed": self.seed, "site": site, "patient": patient}
        subject = make_subject(self.template, **drawn, imperfection=self.imperfection)
        _write_subject(self.root, name, subject, labels=self.labels)
        known = _cells(subject)
        if (plan := self.dwi) is not None:
            protocol = site_dwi(site, self.seed, plan.protocol)
            scan = make_dwi(self.template, **drawn, protocol=protocol, imperfection=plan.imperfection, reverse=plan.reverse)
            write_dwi(self.root, self.root / TRUTH, name, scan, labels=self.root / LABELS if self.labels else None)
            known = known.merge(dwi_cells(scan), on=[schema.LEVEL, schema.REGION])
        truth = subject.truth
        row = {
            schema.PARTICIPANT: name, **{k: subject.covariates[k] for k in DICTIONARY}, "severity": truth.anatomy.severity,
            "site_mtr_offset": subject.protocol.mtr_offset, "shift_max": float(np.abs(truth.shifts).max()),
            **({"grade": grade} if self.grades else {}),
        }  # fmt: skip
        return row, known.assign(**{schema.PARTICIPANT: name}), _areas(subject).assign(**{schema.PARTICIPANT: name})


def _write_subject(root: Path, name: str, subject: Subject, *, labels: bool) -> None:
    words = MT_NAMES[int(subject.protocol.site.removeprefix("site")) % len(MT_NAMES) - 1]
    anat, drawn, truth = (root / part / name / "anat" for part in (".", LABELS, TRUTH))
    for folder in (anat, drawn, truth) if labels else (anat, truth):
        folder.mkdir(parents=True, exist_ok=True)
    t2w, on, off = (f"{name}_{w}" for w in ("T2w", words[schema.MT_ON], words[schema.MT_OFF]))
    axes = {k: subject.protocol.t2w_axes if k.startswith(schema.T2W) else subject.protocol.mt_axes for k in subject.images}
    files = {
        schema.T2W: anat / t2w, schema.MT_ON: anat / on, schema.MT_OFF: anat / off, T2W_MASK: drawn / f"{t2w}_label-SC_seg",
        MT_MASK: drawn / f"{on}_label-SC_seg", T2W_LANDMARKS: drawn / f"{t2w}_label-discs_dlabel",
    }  # fmt: skip
    files = {role: path for role, path in files.items() if labels or path.parent == anat}
    for role, path in files.items():
        write_volume(f"{path}.nii.gz", reoriented(subject.images[role], axes[role]))
        if role in (schema.T2W, schema.MT_ON, schema.MT_OFF):
            sidecar = {"Manufacturer": "Simulated", "MagneticFieldStrength": 3, "InstitutionName": subject.protocol.site}
            _json(path.with_name(f"{path.name}.json"), sidecar | ({"MTState": role == schema.MT_ON} if role != schema.T2W else {}))
    if not labels:
        write_volume(truth / f"{name}_{TRUE_DISCS}", reoriented(subject.images[T2W_LANDMARKS], axes[T2W_LANDMARKS]))
    write_volume(truth / f"{name}_desc-truth_MTRmap.nii.gz", reoriented(subject.truth.mtr, subject.protocol.mt_axes))
    shifts = subject.truth.shifts
    if subject.truth.anatomy.deformity is not None:
        for role, mask in subject.truth.masks.items():
            write_volume(truth / f"{name}_desc-truth_{TRUE_MASKS[role]}.nii.gz", reoriented(mask, axes[role]))
    _tsv(truth / f"{name}_desc-truth_mtr.tsv", _cells(subject))
    _tsv(truth / f"{name}_desc-truth_csa.tsv", _areas(subject))
    _tsv(truth / f"{name}_desc-truth_shifts.tsv", pd.DataFrame({"slice": np.arange(len(shifts)), "x_mm": shifts[:, 0], "y_mm": shifts[:, 1]}))


def _cells(subject: Subject) -> pd.DataFrame:
    """Truth of each level and region as a long table."""
    truth = subject.truth
    index = pd.MultiIndex.from_product([truth.levels, truth.regions], names=[schema.LEVEL, schema.REGION])
    return pd.DataFrame({name: np.asarray(getattr(truth, name), float).ravel() for name in TRUTH_COLUMNS}, index=index).reset_index()


def _areas(subject: Subject) -> pd.DataFrame:
    return pd.DataFrame({schema.LEVEL: subject.truth.levels, "csa_mm2": subject.truth.csa})


def _write_dataset(
    folders: Mapping[Path, str], template: Template, participants: pd.DataFrame, tables: Mapping[str, pd.DataFrame], seed: int
) -> None:
    """Write the tables and descriptions of the whole study; the first folder is the dataset."""
    root = next(iter(folders))
    for folder, words in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        made = {"GeneratedBy": [{"Name": "cohort-engine simulate", "Description": f"template {template.name} {template.digest}, seed {seed}"}]}
        kind = {"DatasetType": "raw"} if folder == root else {"DatasetType": "derivative"}
        _json(folder / "dataset_description.json", {"Name": words, "BIDSVersion": BIDS_VERSION, "License": "CC0", **kind, **made})
    _tsv(root / "participants.tsv", participants[[schema.PARTICIPANT, *DICTIONARY]])
    _json(root / "participants.json", {schema.PARTICIPANT: {"Description": "identifier"}, **DICTIONARY})
    _tsv(root / TRUTH / "participants.tsv", participants)
    for name, table in tables.items():
        _tsv(root / TRUTH / f"{name}.tsv", table[[schema.PARTICIPANT, *(c for c in table if c != schema.PARTICIPANT)]])
    columns = {name: told for name, told in {**TRUTH_COLUMNS, **DWI_COLUMNS}.items() if name in tables["truth"]}
    _json(root / TRUTH / "truth.json", {name: {"LongName": text, "Units": units} for name, (text, units) in columns.items()})
    (root / "README").write_text("Simulated subjects. Nobody was scanned.\n")


def _tsv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format=DIGITS, lineterminator="\n")


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
