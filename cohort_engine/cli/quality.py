"""Quality that is looked at: pages, ratings, one patient's page."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohort_engine.cli.say import note, say, show
from cohort_engine.cli.words import Quiet, Store, command, is_study, store_of, study_of

if TYPE_CHECKING:
    from cohort_engine.config import Config
    from cohort_engine.io.dicom import Series


@command()
def qc(
    store: Store,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pages; by default beside the store.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that draw.")] = 1,
    ratings: Annotated[
        list[str] | None, typer.Option("--ratings", help="Ratings to add: exclusions.yaml of another rater, or exclude.yml; may be repeated.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show the pages from a server of this machine alone, which saves ratings.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the server; 0: any that is free.")] = 0,
) -> None:
    """Draw the quality pages of a cohort, to look through and rate. Images are read where a study file says where they are."""
    from cohort_engine.io.exclusions import agreement
    from cohort_engine.progress import hush
    from cohort_engine.qc.pages import write_pages
    from cohort_engine.qc.serve import serve as run
    from cohort_engine.store.ratings import merge_ratings

    url = store_of(store)
    if ratings:
        merged = merge_ratings(url, ratings)
        say(f"{len(merged)} ratings")
        if pairs := agreement(merged):
            first, second, values, share, kappa = zip(*pairs, strict=True)
            columns: dict[str, Any] = {"rater": first, "and": second, "values": values, "agree": share, "kappa": kappa}
            show(columns, "Agreement of raters on whether a value is left out")
    made = write_pages(url, out, config=study_of(store) if is_study(store) else None, workers=workers, say=say)
    for text, count in made.problems.items():
        note(f"pictures of {count} subjects: {text}")
    if made.unknown:
        note(f"ratings of people who are not in the store: {', '.join(made.unknown)}")
    say(
        f"{made.flagged} of {made.people} subjects are flagged, {made.left_out} are left out of a metric or more; pictures of {made.drawn} were drawn"
    )
    say(f" {made.index}", head="Pages")
    if serve:
        hush()  # it shows itself
        run(url, made.index.parent, port=port, say=partial(say, head=""))


@command()
def subject(
    store: Store,
    participant: Annotated[str, typer.Argument(help="Participant as in the subject table, with or without sub-.", metavar="SUBJECT")],
    session: Annotated[str | None, typer.Option("--session", help="With or without ses-; by default the last in time.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file to write; by default one here that names nobody.")] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="Store of the healthy people; by default those of this one.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it as well, with a browser of this machine.")] = False,
) -> None:
    """Write one A4 page of one person: values against norms, earlier sessions, pictures and quality. Research, not for diagnosis."""
    from cohort_engine.qc.patient_page import write_patient

    config = study_of(store) if is_study(store) else None
    for path in write_patient(store_of(store), participant, session, out=out, config=config, reference=reference, pdf=pdf):
        say(f" {path}", head="Page")


@command()
def patient(
    dicom: Annotated[Path, typer.Argument(help="Folder of DICOM files, as the scanner sent it.", metavar="DICOM")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, with the page, the study and its store.")] = Path("patient"),
    series: Annotated[list[str] | None, typer.Option("--series", help="Which series is what: 5=T2w; MTon, MToff, T1w, dwi; repeat it.")] = None,
    age: Annotated[float | None, typer.Option("--age", help="Years, for the norms; nothing is taken from the DICOM files.")] = None,
    sex: Annotated[str, typer.Option("--sex", help="As in the subject table of the healthy people.")] = "",
    reference: Annotated[str | None, typer.Option("--reference", help="Store of the healthy people; without, the page has values alone.")] = None,
    template: Annotated[str, typer.Option(help="PAM50, or the built-in parametric cord.")] = "PAM50",
    pdf: Annotated[bool, typer.Option("--pdf", help="Print the page as well, with a browser of this machine.")] = False,
    quiet: Quiet = False,
) -> None:
    """From a DICOM folder to one person's page: find the T2w, MT and diffusion series, convert, build, draw. Research, not for diagnosis."""
    from cohort_engine.engine.events import Events, RichProgress
    from cohort_engine.qc.dicom_page import page_of_dicom

    pairs = [text.partition("=") for text in series or ()]
    given = {kind.strip(): number.strip() for number, _, kind in pairs}
    written = page_of_dicom(
        dicom, out, given=given, ask=_which if sys.stdin.isatty() else None, age=age, sex=sex, reference=reference, template=template, pdf=pdf,
        events=Events() if quiet else RichProgress(), say=say,
    )  # fmt: skip
    for path in written:
        say(f" {path}", head="Page")


def _which(kind: str, some: list[Series]) -> str:
    """Ask which of several series is meant."""
    from cohort_engine.progress import hush

    for one in some:
        say(one.text)
    hush()  # who is asked may take long
    return str(typer.prompt(f"Which is {kind}"))


def pages_of(config: Config, *, quiet: bool = False) -> None:
    """Draw the quality pages of a build; whatever is wrong with them is a note, and the build stands."""
    from cohort_engine.errors import CohortError, describe_error
    from cohort_engine.qc.pages import write_pages

    try:
        made = write_pages(config.data.store, config=config, workers=config.compute.workers, say=None if quiet else say)
    except CohortError as error:
        note(f"no quality pages: {error}")
    except Exception as error:  # pages never cost a build
        kind, message, _ = describe_error(error)
        note(f"no quality pages: {kind}: {message}")
    else:
        say(f" {made.index} ({made.flagged} of {made.people} subjects are flagged)", head="Quality")
