"""A folder of DICOM files to a BIDS folder of one person who is not named: the images that a study needs, found by what their headers say.

dcm2niix converts (Li et al. 2016, doi:10.1016/j.jneumeth.2016.03.001). Names, dates and places stay in the DICOM files: of the sidecars the fields in
`KEPT` are taken over and nothing else, free text of NIfTI headers is emptied, and file names hold the number of the series alone.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError, optional
from cohort_engine.io.places import storage_errors
from cohort_engine.io.sidecars import decode_json

T2W, MT_ON, MT_OFF, T1W, DWI = "T2w", "MTon", "MToff", "T1w", "dwi"
IMAGES: Mapping[str, str] = {
    T2W: "anat/{}_T2w", MT_ON: "anat/{}_acq-MTon_MTS", MT_OFF: "anat/{}_acq-MToff_MTS", T1W: "anat/{}_acq-T1w_MTS", DWI: "dwi/{}_dwi",
}  # fmt: skip
"""What an image is -> its name in BIDS."""
KEPT = frozenset({
    "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName", "SliceThickness",
    "SpacingBetweenSlices", "PhaseEncodingDirection", "PhaseEncodingAxis", "TotalReadoutTime", "EffectiveEchoSpacing", "EchoTrainLength",
    "PixelBandwidth", "MTState", "SliceTiming", "MRAcquisitionType", "ScanningSequence", "SequenceVariant", "BaseResolution", "ReconMatrixPE",
    "PartialFourier", "ParallelReductionFactorInPlane",
})  # fmt: skip
"""Fields of a sidecar that say how an image was made, and of whom nothing."""
PERSON = "sub-01"
WHERE = "DICOM folder"
DIRECTIONS = 6
"""Diffusion-weighted volumes that a series must have."""
WEIGHTED = 50.0
"""s/mm2 from which on a volume counts as diffusion-weighted."""
LONG_TE, LONG_TR = 0.06, 1.0
"""Seconds from which on a spin echo is T2-weighted."""
_TEXT = ((14, 32), (148, 252), (328, 344))
"""Bytes of a NIfTI-1 header that hold free text: db_name, descrip and aux_file, intent_name."""
_AWAY = re.compile(r"locali[sz]er|scout|survey|(?<![a-z])(adc|tracew|colfa|fa|exp)(?![a-z])")
_MT = re.compile(r"(?<![a-z])mt(?:[-_ ]?(on|off)|[-_ ]?([01])|sat|r|c|s)?(?![a-z])|(?<![a-z])(no)[-_ ]?mt(?![a-z])")
_T1 = re.compile(r"(?<![a-z])t1(?:w|[-_ ]|$)")
_T2 = re.compile(r"(?<![a-z])t2(?![a-z]*(?:s|\*|star|map))")
_GRADIENT = re.compile(r"(?<![a-z])(gre|flash|medic|merge|t2s|t2star)(?![a-z])|t2\*")


@dataclass(frozen=True)
class Series:
    """An image that dcm2niix made.

    Attributes
    ----------
    name : str
        Number of the series, with what tells apart several images of one.
    path : Path
    said : mapping
        Its sidecar, with the words of the scanner: these are for choosing alone.
    shape : tuple of int
    bvals : tuple of float
        s/mm2; none where it is no diffusion series.
    """

    name: str
    path: Path
    said: Mapping[str, Any]
    shape: tuple[int, ...]
    bvals: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """What the scanner calls it."""
        return " ".join(dict.fromkeys(str(self.said.get(k, "")) for k in ("SeriesDescription", "ProtocolName") if self.said.get(k)))

    @property
    def text(self) -> str:
        """Line for a person who chooses."""
        size = " x ".join(map(str, self.shape))
        return f"{self.name}: {self.words or 'without a name'} ({size}{f', b {max(self.bvals):g}' if self.bvals else ''})"


def kind_of(series: Series) -> str:
    """Say what an image is, one of `IMAGES`; empty where it is none of them, or where nothing says so.

    Examples
    --------
    >>> def called(words, **said):
    ...     return kind_of(Series("1", Path("1.nii.gz"), {"SeriesDescription": words, **said}, (64, 64, 20)))
    >>> [called(w) for w in ("T2w_sag_SPACE", "GRE-MT1", "GRE-MT0", "GRE-T1w", "t2s_medic", "localizer")]
    ['T2w', 'MTon', 'MToff', 'T1w', '', '']
    >>> called("", EchoTime=0.12, RepetitionTime=1.5, ScanningSequence="SE"), called("gre", MTState=True)
    ('T2w', 'MTon')
    """
    words, said = series.words.casefold(), series.said
    if _AWAY.search(words) or len(series.shape) < 3 or series.shape[2] < 2:
        return ""
    if sum(b > WEIGHTED for b in series.bvals) >= DIRECTIONS:
        return DWI
    if len(series.shape) > 3:
        return ""
    options = re.split(r"[_\\,;\s]+", str(said.get("ScanOptions", "")).upper())
    mt = _MT.search(words)
    if mt or isinstance(said.get("MTState"), bool) or "MT" in options:
        if isinstance(said.get("MTState"), bool):
            return MT_ON if said["MTState"] else T1W if _T1.search(words) else MT_OFF
        if mt and (mt[1] or mt[2]):
            return MT_ON if mt[1] == "on" or mt[2] == "1" else MT_OFF
        if _T1.search(words):
            return T1W
        return MT_OFF if mt and mt[3] else MT_ON if "MT" in options else ""
    if _T1.search(words):
        return T1W if _GRADIENT.search(words) else ""
    if _GRADIENT.search(words):
        return ""
    echo, repeat = (float(said.get(k) or 0.0) for k in ("EchoTime", "RepetitionTime"))
    spin = "SE" in re.split(r"[_\\,;\s]+", str(said.get("ScanningSequence", "")).upper()) and echo >= LONG_TE and repeat >= LONG_TR
    return T2W if _T2.search(words) or (spin and not words.strip()) else ""


def choose(found: list[Series], given: Mapping[str, str], ask: Callable[[str, list[Series]], str] | None = None) -> dict[str, Series]:
    """Choose the image of each kind.

    Parameters
    ----------
    found : list of Series
    given : mapping of kind to name
        What a person says; these are not guessed.
    ask : callable, optional
        Is asked for the name of one of several of a kind.

    Raises
    ------
    InputError
        No T2-weighted image; several of a kind and nobody to ask; a name or kind that is not there.
    """
    by_name = {s.name: s for s in found}
    listed = "; ".join(s.text for s in found)
    for kind, name in given.items():
        if kind not in IMAGES or name not in by_name:
            raise InputError(
                expected=f"series of the folder, as one of {', '.join(IMAGES)}", found=f"{name}={kind}", where=f"{WHERE}: --series",
                remedy=f"The series are {listed}.",
            )  # fmt: skip
    out = {kind: by_name[name] for kind, name in given.items()}
    for kind in IMAGES:
        some = [s for s in found if kind_of(s) == kind and s.name not in given.values()] if kind not in out else []
        if len(some) > 1:
            name = ask(kind, some) if ask else ""
            some = [s for s in some if s.name == name]
            if not some:
                raise InputError(
                    expected=f"one {kind} image", found="several that could be it", where=WHERE,
                    remedy=f"Say which with --series NUMBER={kind}. The series are {listed}.",
                )  # fmt: skip
        if some:
            out[kind] = some[0]
    if T2W not in out:
        raise InputError(
            expected="a T2-weighted image", found="none that says so", where=WHERE,
            remedy=f"Say which with --series NUMBER={T2W}. The series are {listed or 'none'}.",
        )  # fmt: skip
    if (MT_ON in out) != (MT_OFF in out):
        out = {k: s for k, s in out.items() if k not in (MT_ON, MT_OFF, T1W)}
    return {k: out[k] for k in IMAGES if k in out and not (k == T1W and MT_ON not in out)}


def convert(folder: str | Path, out: Path) -> list[Series]:
    """Convert every series of a folder and the folders in it.

    Raises
    ------
    MissingPackageError
        The extra ``dicom`` is not installed.
    MissingInputError
        No such folder, or no image in it that dcm2niix can convert.
    """
    with optional("dcm2niix", "dicom", where=WHERE):
        import dcm2niix
    if not Path(folder).is_dir():
        raise MissingInputError(expected="a folder of DICOM files", found="nothing there", where=WHERE, remedy="Correct the name.")
    source = str(Path(folder).absolute())  # a name that begins with a dash is no option
    asked = [dcm2niix.bin, "-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-f", "%s", "-o", str(out), source]
    subprocess.run(asked, capture_output=True, check=False)  # what it says names the person, and its exit code is not 0 for one odd series
    found = [_series(path) for path in sorted(out.glob("*.nii"), key=lambda p: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", p.stem)])]
    if not found:
        raise MissingInputError(
            expected="DICOM files of images", found="none that dcm2niix converts", where=WHERE, remedy="Give the folder that the scanner sent."
        )
    return found


def _series(path: Path) -> Series:
    beside = path.with_suffix(".json")
    said = decode_json(beside.read_text(encoding="utf-8", errors="replace"), what=WHERE) if beside.exists() else {}
    with path.open("rb") as file:
        header = file.read(352)
    dims = struct.unpack("<8h", header[40:56])
    bvals = path.with_suffix(".bval")
    values = tuple(float(b) for b in bvals.read_text().split()) if bvals.exists() else ()
    return Series(path.stem, path, said, tuple(dims[1 : 1 + dims[0]]), values)


def to_bids(
    folder: str | Path, out: str | Path, *, given: Mapping[str, str] | None = None, ask: Callable[[str, list[Series]], str] | None = None,
    age: float | None = None, sex: str = "",
) -> dict[str, str]:  # fmt: skip
    """Make a BIDS folder of one person, `PERSON`, from a DICOM folder.

    Parameters
    ----------
    folder, out : path
        `out` is made.
    given, ask
        As of `choose`.
    age, sex
        Of the person, in years and as the study's norms write it; nothing is taken from the DICOM files.

    Returns
    -------
    dict
        Kind -> the series that it was made of, for people.

    Raises
    ------
    MissingPackageError, MissingInputError, InputError
        As of `convert` and `choose`.
    StorageError
        A place that cannot be written.
    """
    root = Path(out)
    with tempfile.TemporaryDirectory(prefix="dicom-") as aside:
        chosen = choose(convert(folder, Path(aside)), given or {}, ask)
        with storage_errors("BIDS folder"):
            for kind, series in chosen.items():
                _write(series, root / PERSON / IMAGES[kind].format(PERSON))
            columns = {schema.PARTICIPANT: PERSON} | ({schema.AGE: f"{age:g}"} if age is not None else {}) | ({schema.SEX: sex} if sex else {})
            (root / "participants.tsv").write_text("\t".join(columns) + "\n" + "\t".join(columns.values()) + "\n", encoding="utf-8")
            about = {"Name": "One person", "BIDSVersion": "1.9.0", "GeneratedBy": [{"Name": "cohort-engine and dcm2niix"}]}
            (root / "dataset_description.json").write_text(json.dumps(about), encoding="utf-8")
    return {kind: series.text for kind, series in chosen.items()}


def _write(series: Series, stem: Path) -> None:
    """Write an image with what may be told of it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    raw = bytearray(series.path.read_bytes())
    for first, last in _TEXT:
        raw[first:last] = bytes(last - first)
    stem.with_name(f"{stem.name}.nii.gz").write_bytes(gzip.compress(bytes(raw), 6, mtime=0))
    kept = {k: v for k, v in series.said.items() if k in KEPT}
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    if stem.name.endswith("_dwi"):
        for ending in (".bval", ".bvec"):
            stem.with_name(stem.name + ending).write_text(series.path.with_suffix(ending).read_text())
