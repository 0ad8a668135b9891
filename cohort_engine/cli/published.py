"""Published studies: networks of the DTI study judged, and both studies from nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohort_engine.cli.say import say, show
from cohort_engine.cli.words import Command, Device, TemplateName, TemplatePath, app

if TYPE_CHECKING:
    from cohort_engine.report.roi_page import Evaluation

evaluate_app = typer.Typer(help="Judge networks on images that people drew on.", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate")
evaluate_command = partial(evaluate_app.command, cls=Command)


@evaluate_command("rois")
def evaluate_rois(
    data: Annotated[str, typer.Option("--data", help="Slices (npz), or BIDS folder or store with manual masks.", metavar="SLICES")],
    run: Annotated[Path | None, typer.Argument(help="Weights, or folder of a training; by default the packaged network.", metavar="RUN")] = None,
    against: Annotated[list[Path] | None, typer.Option("--against", help="Another training to compare with; may be repeated.")] = None,
    results: Annotated[Path | None, typer.Option("--results", help="results.jsonl of a sweep, to be shown beside.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for page, tables and figures.")] = Path("rois"),
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the intervals over patients.")] = 0,
    template_path: TemplatePath = None,
) -> None:
    """Judge networks of the eight regions slice by slice: Dice, recall, precision, outliers, error of FA, sides; with a page to look at."""
    from cohort_engine.report.roi_page import PAGE
    from cohort_engine.report.roi_study import PACKAGED, name_runs
    from cohort_engine.report.roi_study import evaluate_rois as evaluate

    first = {PACKAGED: None} if run is None else {}
    runs = name_runs([part for part in (run, *(against or [])) if part is not None])
    found = evaluate({**first, **runs}, data, out, results=results, device=device, seed=seed, template_path=template_path, say=say)
    _show(found)
    say(f" {out / PAGE}", head="Page")


def _show(found: Evaluation) -> None:
    from cohort_engine.report.roi_tables import METHOD, REGION, method_table, region_table

    regions = region_table(found.methods, seed=found.seed)
    show(method_table(regions), "Means over the eight regions; worst: of the worst region")
    first = regions[regions[METHOD] == found.methods[0].name]
    columns = [REGION, "dice", "dice_low", "dice_high", "recall", "precision", "outliers", "without_output", "error_percent", "wrong_side"]
    show(first[columns], f"{found.methods[0].name}, by region")


reproduce_app = typer.Typer(help="Repeat a published study from nothing.", no_args_is_help=True)
app.add_typer(reproduce_app, name="reproduce")
reproduce_command = partial(reproduce_app.command, cls=Command)


@reproduce_command("mtr-dcm")
def reproduce_mtr_dcm(
    out: Annotated[Path, typer.Argument(help="Folder; what is there is continued.", metavar="OUT")],
    size: Annotated[str, typer.Option("--size", help="small (10 people), or full (45, as in the study).")] = "small",
    template: TemplateName = "parametric",
    template_path: TemplatePath = None,
    workers: Annotated[int, typer.Option("--workers", help="Worker processes.", min=1)] = 2,
) -> None:
    """Repeat the MTR study: simulate its people, build their cohort from the images alone, and set its findings beside the published ones."""
    from cohort_engine.report.mtr_dcm import reproduce
    from cohort_engine.template import load_template

    loaded = load_template(template, path=template_path)
    show(reproduce(out, loaded, size=size, template_path=template_path, workers=workers, say=say))
    say(f" {out / 'study_analysis' / 'report.html'}", head="Report")


@reproduce_command("dti-csm")
def reproduce_dti_csm(
    out: Annotated[Path, typer.Argument(help="Folder; what is there is continued.", metavar="OUT")],
    size: Annotated[str, typer.Option("--size", help="small (minutes), reduced (hours on two cores), or full (on a GPU).")] = "small",
    template: TemplateName = "parametric",
    template_path: TemplatePath = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that simulate and train.", min=1)] = 1,
    address: Annotated[str | None, typer.Option("--address", help="Scheduler of a running cluster, which trains in their place.")] = None,
    device: Device = "auto",
) -> None:
    """Repeat the DTI study: simulate its patients, train its networks and ours, and write its tables and figures; again = continue."""
    from cohort_engine.report.dti_csm import reproduce
    from cohort_engine.report.roi_page import PAGE
    from cohort_engine.template import load_template

    loaded = load_template(template, path=template_path)
    _show(reproduce(out, loaded, size=size, workers=workers, address=address, device=device, say=say))
    say(f" {out / PAGE}", head="Page")
