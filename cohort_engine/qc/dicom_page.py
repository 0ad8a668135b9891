"""From a DICOM folder to one person's page: converted, built and drawn in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cohort_engine.config import load_config
from cohort_engine.engine.build import build
from cohort_engine.engine.draft import draft_study, write_draft
from cohort_engine.engine.events import Events
from cohort_engine.errors import ConfigError
from cohort_engine.io.dicom import PERSON, Series, to_bids
from cohort_engine.io.places import storage_errors
from cohort_engine.qc.patient_page import write_patient

BIDS, STUDY, STORE, PAGE = "bids", "study.yaml", "patient.zarr", "patient.html"
"""What the folder of a person holds."""


def page_of_dicom(
    dicom: str | Path, out: str | Path, *, given: Mapping[str, str] | None = None, ask: Callable[[str, list[Series]], str] | None = None,
    age: float | None = None, sex: str = "", reference: str | None = None, template: str = "PAM50", pdf: bool = False,
    events: Events | None = None, say: Callable[[str], None] | None = None,
) -> list[Path]:  # fmt: skip
    """Convert, build and draw one person.

    Parameters
    ----------
    dicom : path
        Folder that the scanner sent.
    out : path
        Folder to make: the BIDS folder, the study file, the store and the page, none of which names the person.
    given, ask, age, sex
        As of `io.dicom.to_bids`.
    reference : str, optional
        Store of the healthy people that the values are compared with; without, the page has values alone.
    template : str
    pdf : bool
        Print the page as well.
    events : Events, optional
        Who watches the build.
    say : callable, optional
        Is told which series became what, and what did not work.

    Returns
    -------
    list of Path
        The page, and its PDF.

    Raises
    ------
    ConfigError
        The folder to make is there and not empty.
    CohortError
        As of `to_bids`, `build` and `write_patient`. A stage that fails is told on the page.
    """
    tell = say or (lambda text: None)
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(expected="a folder to make", found="one that holds something", where="--out", remedy="Give another name.")
    for kind, text in to_bids(dicom, folder / BIDS, given=given, ask=ask, age=age, sex=sex).items():
        tell(f"{kind} is series {text}")
    draft = draft_study(str(folder / BIDS), str(folder / STORE), folder=folder, template=template)
    with storage_errors("study file"):
        write_draft(draft, folder / STUDY)
    config = load_config(folder / STUDY)
    report = build(config, events=events)
    if report.exit_code:
        tell(str(report))
    return write_patient(config.data.store, PERSON, out=folder / PAGE, config=config, reference=reference, pdf=pdf)
