"""DICOM files of a made-up scanner become a BIDS folder that says of whom nothing."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.errors import ConfigError, InputError, MissingInputError
from cohort_engine.io import dicom
from cohort_engine.io.volume import read_volume
from cohort_engine.phantom.study import simulate
from cohort_engine.qc.dicom_page import page_of_dicom
from cohort_engine.query.frame import run_query
from cohort_engine.template.parametric import parametric_cord

SECRETS = ("DOE^JANE", "MRN0815", "19590203", "GENERAL HOSPITAL", "20260131", "101112", "DR^WHO")
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


def element(tag: int, kind: str, value: Any) -> bytes:
    """An element in explicit VR, little endian."""
    if kind == "US":
        raw = struct.pack("<H", value)
    elif kind in ("OW", "OB"):
        raw = bytes(value)
    else:
        raw = str(value).encode()
        raw += (b"\0" if kind == "UI" else b" ") * (len(raw) % 2)
    length = struct.pack("<2xI", len(raw)) if kind in ("OW", "OB") else struct.pack("<H", len(raw))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode() + length + raw


@dataclass(frozen=True)
class Scan:
    """A series that a scanner sends: (column, row, slice) voxels on a grid in RAS+ mm."""

    number: int
    words: str
    voxels: np.ndarray
    te: float
    tr: float
    options: str = ""
    affine: np.ndarray = field(default_factory=lambda: np.diag([-1.0, -1.0, 5.0, 1.0]))

    def send(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for k in range(self.voxels.shape[2]):
            (folder / f"{self.number}_{k + 1}.dcm").write_bytes(self._slice(k))

    def _slice(self, k: int) -> bytes:
        uid, lps = f"1.2.3.{self.number}.{k + 1}", np.diag([-1.0, -1.0, 1.0]) @ self.affine[:3]
        size = np.linalg.norm(lps[:, :3], axis=0)
        pixels = self.voxels[:, :, k].T
        meta = element(0x00020002, "UI", MR) + element(0x00020003, "UI", uid) + element(0x00020010, "UI", EXPLICIT)
        elements = [
            (0x00080008, "CS", "ORIGINAL\\PRIMARY\\M"), (0x00080016, "UI", MR), (0x00080018, "UI", uid), (0x00080020, "DA", "20260131"),
            (0x00080030, "TM", "101112"), (0x00080031, "TM", "101112"), (0x00080032, "TM", "101112"), (0x00080060, "CS", "MR"),
            (0x00080070, "LO", "GE MEDICAL SYSTEMS"), (0x00080080, "LO", "GENERAL HOSPITAL"), (0x00080090, "PN", "DR^WHO"),
            (0x0008103E, "LO", self.words), (0x00100010, "PN", "DOE^JANE"), (0x00100020, "LO", "MRN0815"), (0x00100030, "DA", "19590203"),
            (0x00180020, "CS", "SE" if self.te > 50 else "GR"), (0x00180022, "CS", self.options), (0x00180023, "CS", "2D"),
            (0x00180050, "DS", decimals(size[2])), (0x00180080, "DS", self.tr), (0x00180081, "DS", self.te), (0x00180087, "DS", "3"),
            (0x00181030, "LO", self.words), (0x00181314, "DS", "9"), (0x0020000D, "UI", "1.2.3"), (0x0020000E, "UI", f"1.2.3.{self.number}"),
            (0x00200011, "IS", self.number), (0x00200013, "IS", k + 1), (0x00200032, "DS", decimals(*(lps @ [0, 0, k, 1]))),
            (0x00200037, "DS", decimals(*(lps[:, :2] / size[:2]).T.ravel())), (0x00280002, "US", 1), (0x00280004, "CS", "MONOCHROME2"),
            (0x00280010, "US", pixels.shape[0]), (0x00280011, "US", pixels.shape[1]), (0x00280030, "DS", decimals(size[1], size[0])),
            (0x00280100, "US", 16), (0x00280101, "US", 16), (0x00280102, "US", 15), (0x00280103, "US", 0),
            (0x7FE00010, "OW", pixels.astype("<u2").tobytes()),
        ]  # fmt: skip
        body = b"".join(element(*e) for e in elements)
        return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + body


def decimals(*values: float) -> str:
    return "\\".join(f"{v:.6g}" for v in values)


@pytest.fixture
def scanner(tmp_path: Path) -> Path:
    """T2w, MT pair and a localiser, each of four slices of 16 x 16 voxels."""
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    folder = tmp_path / "dicom"
    voxels = np.broadcast_to(np.arange(1, 5), (16, 16, 4))
    kinds = {2: ("t2_tse_sag", 90, 3000, ""), 3: ("GRE MT on", 3, 35, "MT"), 4: ("GRE MT off", 3, 35, ""), 1: ("localizer", 3, 10, "")}
    for number, (words, te, tr, options) in kinds.items():
        Scan(number, words, 100 * number + voxels, te, tr, options).send(folder)
    return folder


def test_images_are_found_by_their_headers_and_keep_their_voxels(scanner: Path, tmp_path: Path) -> None:
    told = dicom.to_bids(scanner, tmp_path / "bids", age=61, sex="F")
    assert list(told) == ["T2w", "MTon", "MToff"]
    for name, series in (("T2w", 2), ("acq-MTon_MTS", 3), ("acq-MToff_MTS", 4)):
        image = nib.load(tmp_path / "bids" / "sub-01" / "anat" / f"sub-01_{name}.nii.gz")
        assert image.shape == (16, 16, 4)
        assert np.asarray(image.dataobj)[0, 0].tolist() == [100 * series + n for n in range(1, 5)]
    said = json.loads((tmp_path / "bids" / "sub-01" / "anat" / "sub-01_acq-MTon_MTS.json").read_text())
    assert said["RepetitionTime"] == pytest.approx(0.035)
    assert (tmp_path / "bids" / "participants.tsv").read_text() == "participant_id\tage\tsex\nsub-01\t61\tF\n"


def test_nothing_says_of_whom_they_are(scanner: Path, tmp_path: Path) -> None:
    dicom.to_bids(scanner, tmp_path / "bids")
    files = [p for p in (tmp_path / "bids").rglob("*") if p.is_file()]
    assert len(files) == 8
    for path in files:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in content, path.name
        if path.suffix == ".json" and path.parent.name == "anat":
            assert set(json.loads(content)) <= dicom.KEPT


def test_where_it_is_not_clear_a_person_says(scanner: Path, tmp_path: Path) -> None:
    Scan(9, "t2_tse_tra", np.full((16, 16, 4), 900), 90, 3000).send(scanner)
    with pytest.raises(InputError, match=r"one T2w image.*--series NUMBER=T2w.*9: t2_tse_tra"):
        dicom.to_bids(scanner, tmp_path / "bids")
    assert not (tmp_path / "bids").exists()
    assert dicom.to_bids(scanner, tmp_path / "given", given={"T2w": "9"})["T2w"].startswith("9: ")
    assert dicom.to_bids(scanner, tmp_path / "asked", ask=lambda kind, some: some[0].name)["T2w"].startswith("2: ")
    with pytest.raises(InputError, match="7=T2w"):
        dicom.to_bids(scanner, tmp_path / "wrong", given={"T2w": "7"})


def test_folders_without_images(scanner: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="none that dcm2niix converts"):
        dicom.to_bids(tmp_path / "empty", tmp_path / "bids")
    with pytest.raises(MissingInputError, match="nothing there"):
        dicom.to_bids(tmp_path / "nowhere", tmp_path / "bids")
    for path in scanner.glob("2_*"):
        path.unlink()
    with pytest.raises(InputError, match="a T2-weighted image"):
        dicom.to_bids(scanner, tmp_path / "bids")


def test_a_folder_that_holds_something_is_left_alone(scanner: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="holds something"):
        page_of_dicom(scanner, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_the_page_of_a_simulated_person(tmp_path: Path) -> None:
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    template = parametric_cord()
    simulate(tmp_path / "study", template=template, patients=0, controls=1, seed=5)
    [image] = (tmp_path / "study").glob("sub-*/anat/*_T2w.nii.gz")
    scan = read_volume(image, what="image")
    voxels = np.clip(np.nan_to_num(scan.data) * (1000 / np.nanmax(scan.data)), 0, None)
    Scan(4, "T2w SPACE", voxels, 120, 1500, affine=scan.affine).send(tmp_path / "dicom")
    [page] = page_of_dicom(tmp_path / "dicom", tmp_path / "out", template="parametric")
    text = page.read_text()
    assert "not for diagnosis" in text
    for secret in SECRETS:
        assert secret not in text
    area = run_query(str(tmp_path / "out" / "patient.zarr"), "area level=C3")["value"].item()
    assert 50 < area < 110
