"""Files of simulated diffusion series: BIDS, with their truth as a derivative."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.io.volume import write_volume
from cohort_engine.phantom.diffusion import DwiScan
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800, DTI_STUDY, DwiProtocol

DWI_COLUMNS = {
    "fa": ("true FA of the region, no partial volume", "1"),
    "md": ("true MD of the region, no partial volume", schema.DIFFUSIVITY),
}
PROTOCOLS: Mapping[str, DwiProtocol] = {"b800": B800, "dti-study": DTI_STUDY}
ROOM = 64.8
"""Field of view along phase encoding of a distorted scan, mm: a cord that is moved by 11 mm stays in view."""


@dataclass(frozen=True)
class DwiPlan:
    """What diffusion series a study has.

    Attributes
    ----------
    protocol : DwiProtocol
        Sites have it each in its own way: `protocol.site_dwi`.
    imperfection : DwiImperfection
    reverse : bool
        With an image of the opposite phase encoding.
    """

    protocol: DwiProtocol = B800
    imperfection: DwiImperfection = DwiImperfection()  # noqa: RUF009 (frozen)
    reverse: bool = False

    @classmethod
    def named(cls, name: str, *, distortion: float = 0.0) -> DwiPlan:
        """Return the plan of one of `PROTOCOLS`; what is distorted (mm) has an image of the opposite phase encoding.

        Examples
        --------
        >>> DwiPlan.named("b800", distortion=6.0).reverse, DwiPlan.named("dti-study").protocol.b
        (True, 600.0)
        """
        protocol = PROTOCOLS[name]
        if distortion > 0:
            protocol = replace(protocol, plane=(protocol.plane[0], max(protocol.plane[1], ROOM)))
        return cls(protocol, DwiImperfection(distortion=distortion), reverse=distortion > 0)


def write_dwi(root: Path, truth: Path, name: str, scan: DwiScan, *, labels: Path | None = None) -> None:
    """Write a series and its truth.

    Parameters
    ----------
    root, truth : Path
        Dataset, and derivative for the truth.
    name : str
        Subject.
    scan : DwiScan
    labels : Path, optional
        Derivative for a cord mask.

    Notes
    -----
    ``dwi/sub-*_dwi.nii.gz``, ``.bval``, ``.bvec``, ``.json`` and ``fmap/sub-*_dir-PA_epi.nii.gz``; the truth has ``_desc-truth_dti.tsv`` (level x
    region), ``_desc-truth_motion.tsv`` (a row a volume and slice in RAS+ order), the cord's mask and, of a distorted series, the displacement.
    """
    raw, true = root / name / "dwi", truth / name / "dwi"
    for folder in (raw, true):
        folder.mkdir(parents=True, exist_ok=True)
    write_volume(raw / f"{name}_dwi.nii.gz", scan.series)
    for ending, text in (("bval", scan.bval), ("bvec", scan.bvec), ("json", _json(scan.json))):
        (raw / f"{name}_dwi.{ending}").write_text(text)
    if scan.reverse is not None:
        fmap = root / name / "fmap"
        fmap.mkdir(exist_ok=True)
        write_volume(fmap / f"{name}_dir-PA_epi.nii.gz", scan.reverse)
        meant = {"IntendedFor": [f"bids::{name}/dwi/{name}_dwi.nii.gz"]}
        (fmap / f"{name}_dir-PA_epi.json").write_text(_json({**scan.reverse_json, **meant}))
    if labels is not None:
        drawn = labels / name / "dwi"
        drawn.mkdir(parents=True, exist_ok=True)
        write_volume(drawn / f"{name}_dwi_label-SC_seg.nii.gz", scan.truth.mask)
    write_volume(true / f"{name}_desc-truth_DWImask.nii.gz", scan.truth.mask)
    if scan.truth.displacement.any():
        displacement = scan.truth.mask.with_data(scan.truth.displacement.astype(np.float32))
        write_volume(true / f"{name}_desc-truth_displacement.nii.gz", displacement)
    cells, motion = dwi_cells(scan), _motion(scan)
    for word, table in (("dti", cells), ("motion", motion)):
        table.to_csv(true / f"{name}_desc-truth_{word}.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")


def dwi_cells(scan: DwiScan) -> pd.DataFrame:
    """Truth of each level and region as a long table."""
    index = pd.MultiIndex.from_product([scan.truth.levels, scan.truth.regions], names=[schema.LEVEL, schema.REGION])
    return pd.DataFrame({name: getattr(scan.truth, name).ravel() for name in DWI_COLUMNS}, index=index).reset_index()


def _motion(scan: DwiScan) -> pd.DataFrame:
    truth = scan.truth
    volumes, slices = truth.dropped.shape
    return pd.DataFrame({
        "volume": np.repeat(np.arange(volumes), slices), "slice": np.tile(np.arange(slices), volumes), "x_mm": truth.shifts[..., 0].ravel(),
        "y_mm": truth.shifts[..., 1].ravel(), "jumped": truth.jumped.ravel().astype(int), "dropped": truth.dropped.ravel().astype(int),
    })  # fmt: skip


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
