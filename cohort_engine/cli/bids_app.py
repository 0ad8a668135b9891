"""The engine as a BIDS App: ``cohort-engine-bids BIDS OUT participant|group`` (Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cohort_engine.cli.say import say
from cohort_engine.errors import CohortError

STUDY, STORE, REPORT = "study.yaml", "cohort.zarr", "report"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def run(
    bids: Annotated[str, typer.Argument(help="BIDS folder or URL.")],
    out: Annotated[Path, typer.Argument(help="Folder for the study file, the store and the report.")],
    level: Annotated[Literal["participant", "group"], typer.Argument(help="participant builds the cohort; group closes and analyses it.")],
    participant_label: Annotated[list[str] | None, typer.Option("--participant-label", "--participant_label", help="Only these; repeat it.")] = None,
    template: Annotated[str, typer.Option(help="PAM50, or the built-in parametric cord.")] = "PAM50",
    workers: Annotated[int | None, typer.Option("--n-cpus", "--n_cpus", help="By default one worker for each core.")] = None,
) -> None:
    """Build a cohort from a BIDS folder, or analyse it.

    The study file in OUT is written by the first call and can be changed; further calls go by it. Participants of earlier calls stay in the cohort.
    Calls for one OUT come one after the other: the engine itself spreads subjects over workers.
    """
    study = out / STUDY
    if level == "group":
        _group(study)
        return
    out.mkdir(parents=True, exist_ok=True)
    if not study.exists():
        from cohort_engine.engine.draft import draft_study, write_draft

        draft = draft_study(bids, str(out / STORE), folder=out, template=template)
        write_draft(draft, study)
        say(f"{study} is written: {draft.subjects} subjects")
    _participant(study, [label if label.startswith("sub-") else f"sub-{label}" for label in participant_label or []], workers)


def _participant(study: Path, labels: list[str], workers: int | None) -> None:
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import build
    from cohort_engine.engine.status import subject_names
    from cohort_engine.engine.study import open_store

    config = load_config(study)
    if labels:
        there = subject_names(config.data.store).values() if open_store(config.data.store)[0] is not None else []
        known = {name.split(" ")[0] for name in there}
        config = config.model_copy(update={"data": config.data.model_copy(update={"include": tuple(sorted({*labels, *known}))})})
    if workers is not None:
        config = config.model_copy(update={"compute": config.compute.model_copy(update={"workers": workers})})
    report = build(config)
    say(str(report))
    raise typer.Exit(report.exit_code)


def _group(study: Path) -> None:
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import finalise
    from cohort_engine.report.analyse import analyse

    config = load_config(study)
    finalise(config, allow_missing=True)
    found = analyse(config, out=study.parent / REPORT)
    say(f"{study.parent / REPORT / 'report.html'}")
    raise typer.Exit(int(bool(found.failed)))


def main() -> None:
    """Run the app; a `CohortError` is one line on standard error and exit code 2."""
    try:
        app()
    except CohortError as error:
        say(f" {error}", head="error", colour="red", error=True)
        sys.exit(2)
