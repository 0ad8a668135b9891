"""Failures planted into the files of a simulated study: what quality control is to find, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.errors import unknown_name
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.phantom import failures
from cohort_engine.phantom.failures import Case
from cohort_engine.phantom.study import LABELS
from cohort_engine.phantom.subject import MT_MASK, T2W_LANDMARKS, T2W_MASK

Change = Callable[[Case, Generator], Mapping[str, NDArray[np.generic]]]
"""Of what a subject has to the data of the files that change, by role."""
LOST = 2
"""Neighbouring slices that are lost."""
PATTERNS: Mapping[str, str] = {
    schema.T2W: "*_T2w.nii.gz", schema.MT_ON: "*_mt-on_MTS.nii.gz", schema.MT_OFF: "*_mt-off_MTS.nii.gz", T2W_MASK: "*_T2w_label-SC_seg.nii.gz",
    MT_MASK: "*_MTS_label-SC_seg.nii.gz", T2W_LANDMARKS: "*_label-discs_dlabel.nii.gz",
}  # fmt: skip
"""How `phantom.study` names the files of a role, where sites name them by their entity ``mt``; ``acq`` is in `OTHER_NAMES`."""
OTHER_NAMES: Mapping[str, str] = {schema.MT_ON: "*_acq-MTon_MTS.nii.gz", schema.MT_OFF: "*_acq-MToff_MTS.nii.gz"}


def bad_mask(case: Case, rng: Generator) -> Mapping[str, NDArray[np.generic]]:
    """Shift the MT mask by 2 to 5 mm."""
    return {MT_MASK: failures.shifted_mask(case, rng).images[MT_MASK].data}


def wrong_level(case: Case, rng: Generator) -> Mapping[str, NDArray[np.generic]]:
    """Give every landmark a number that is one too high."""
    del rng
    labels = case.images[T2W_LANDMARKS].data
    return {T2W_LANDMARKS: np.where(labels > 0, labels + 1, 0).astype(labels.dtype)}


def swapped_pair(case: Case, rng: Generator) -> Mapping[str, NDArray[np.generic]]:
    """Take MT-on for MT-off, and MT-off for MT-on."""
    swapped = failures.swapped_pair(case, rng).images
    return {role: swapped[role].data for role in (schema.MT_ON, schema.MT_OFF)}


def motion(case: Case, rng: Generator) -> Mapping[str, NDArray[np.generic]]:
    """Move a third to two thirds of the MT-off slices by 2 to 4 mm."""
    return {schema.MT_OFF: failures.motion_between(case, rng).images[schema.MT_OFF].data}


def lost_slice(case: Case, rng: Generator) -> Mapping[str, NDArray[np.generic]]:
    """Take the signal of neighbouring slices (`LOST`) of MT-off away: they hold nothing but noise."""
    off = case.images[schema.MT_OFF].data.astype(np.float32)
    inner = np.flatnonzero((case.images[MT_MASK].data > 0).any(axis=(0, 1)))[2:-3]
    first = int(rng.choice(inner))
    off[:, :, first : first + LOST] = np.abs(rng.normal(0, 0.01 * float(off.max()), (*off.shape[:2], LOST)))
    return {schema.MT_OFF: off}


PLANTS: Mapping[str, Change] = {
    "bad mask": bad_mask, "wrong level": wrong_level, "swapped MT": swapped_pair, "motion": motion, "lost slice": lost_slice,
}  # fmt: skip
"""What can be planted into a study, by name."""


def plant(bids: str | Path, planted: Mapping[str, str], *, seed: int = 0) -> None:
    """Spoil the files of subjects of a simulated study that has labels.

    Parameters
    ----------
    bids : path
        Written by `phantom.study.simulate`.
    planted : mapping of participant to kind
        One of `PLANTS`.
    seed : int
        What is planted into a subject depends on it, the kind and the participant's place in the mapping.

    Raises
    ------
    UnknownNameError
        A kind that does not exist.
    """
    for number, (name, kind) in enumerate(planted.items()):
        if kind not in PLANTS:
            raise unknown_name("failure", kind, list(PLANTS), where="planted failures")
        places = {role: _place(Path(bids), name, role) for role in PATTERNS}
        images = {role: read_volume(place, what=schema.words(role)) for role, place in places.items()}
        labels = images[T2W_LANDMARKS]
        marks = landmarks_from_labels(labels.data.astype(int), labels.affine, kind=schema.DISC, what=schema.words(T2W_LANDMARKS))
        case = Case(images, marks, np.zeros((0, 3)))
        rng = np.random.default_rng(SeedSequence(seed, spawn_key=(list(PLANTS).index(kind), number)))
        for role, data in PLANTS[kind](case, rng).items():
            write_volume(places[role], Volume(np.asarray(data), images[role].affine))


def _place(bids: Path, name: str, role: str) -> Path:
    folder = (bids / LABELS if role in (MT_MASK, T2W_MASK, T2W_LANDMARKS) else bids) / name / "anat"
    found = [p for pattern in (PATTERNS[role], OTHER_NAMES.get(role, PATTERNS[role])) for p in sorted(folder.glob(pattern))]
    return next(p for p in found if ("_label-" in p.name) == (folder != bids / name / "anat"))
