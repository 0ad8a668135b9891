"""A study: simulate, index, plan, build, status, analyse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cohort_engine.cli.quality import pages_of
from cohort_engine.cli.say import note, say, show
from cohort_engine.cli.words import (
    WORDS,
    Cluster,
    Log,
    Preset,
    Quiet,
    Store,
    Study,
    StudyFile,
    TemplateName,
    TemplatePath,
    command,
    is_study,
    study_of,
)


@command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=2)] = 7,
    controls: Annotated[int, typer.Option(min=2)] = 5,
    seed: int = 1,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    labels: Annotated[bool, typer.Option("--labels", help="Give the build true masks and disc labels; otherwise it makes its own.")] = False,
    dwi: Annotated[bool, typer.Option(help="With diffusion: FA beside MTR.")] = True,
) -> None:
    """Simulate a small DCM study, build its cohort from the images alone, compare every number with the truth, and analyse it."""
    from cohort_engine import schema
    from cohort_engine.engine.events import RichProgress
    from cohort_engine.report.demo import MIN_VOXELS, run_demo

    say(f"Simulating {patients} patients and {controls} controls in {out}/study")
    result = run_demo(out, patients=patients, controls=controls, seed=seed, workers=workers, labels=labels, dwi=dwi, events=RichProgress())
    for metric in result.cells:
        label, units = schema.METRICS[metric].label, schema.METRICS[metric].units
        of = label if units == "1" else f"{label} ({units})"
        for group, table in result.by_group(metric).items():
            show(table, f"{group}: mean {of} by tract and level; in brackets the mean error against the simulation's truth")
        show(result.errors(metric), f"Errors of {of}, cells of at least {MIN_VOXELS:.0f} native voxels", digits=3 if units != "1" else 4)
    places = {"Store": result.store, "Every value and its error": result.cells_table}
    places |= {f"Picture of {schema.METRICS[metric].label}": path for metric, path in result.figures.items()}
    for name, place in {**places, "Report": result.page}.items():
        say(f" {place}", head=name)
    for name in result.asked:
        say(f" {name}: its discs were not certain; one disc was labelled and the subject built again", head="needs a landmark", colour="yellow")
    _finish(result.report)


@command()
def simulate(
    out: Annotated[Path, typer.Argument(help="BIDS folder to make.")],
    template: TemplateName = "parametric",
    template_path: TemplatePath = None,
    patients: Annotated[int, typer.Option(min=0)] = 8,
    controls: Annotated[int, typer.Option(min=0)] = 4,
    seed: int = 1,
    labels: Annotated[bool, typer.Option(help="Write cord masks and disc labels as well.")] = True,
    dwi: Annotated[Literal["b800", "dti-study"] | None, typer.Option(help="Simulate diffusion series, too.")] = None,
    distortion: Annotated[float, typer.Option(min=0, max=15, help="Of them, mm; with an image of the opposite phase encoding.")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Write a simulated study with its truth as a BIDS folder, and a study file beside it."""
    from cohort_engine.phantom.dwi_files import DwiPlan
    from cohort_engine.phantom.study import simulate as run
    from cohort_engine.template import load_template

    loaded = load_template(template, path=template_path)
    plan = None if dwi is None else DwiPlan.named(dwi, distortion=distortion)
    run(
        out, template=loaded, patients=patients, controls=controls, seed=seed, template_path=template_path, labels=labels, dwi=plan, workers=workers
    )  # fmt: skip
    say(f"{patients + controls} subjects in {out}")


@command("simulate-rois")
def simulate_rois(
    out: Annotated[Path, typer.Argument(help="File to make (npz).")],
    template: TemplateName = "parametric",
    template_path: TemplatePath = None,
    patients: Annotated[int, typer.Option(min=1, help="The DTI study had 89.")] = 89,
    first: Annotated[int, typer.Option(min=0, help="Number of the first patient.")] = 0,
    seed: int = 1,
    size: Annotated[int, typer.Option(min=16, help="Pixels a side that are kept, around the middle.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Simulate diffusion scans of patients and the regions that raters draw in them: slices to train and judge networks on."""
    from cohort_engine.phantom.roi_study import make_roi_slices
    from cohort_engine.template import load_template

    def told(done: int) -> None:
        if done % 10 == 0:
            say(f"{done} of {patients} patients")

    loaded = load_template(template, path=template_path)
    made = make_roi_slices(loaded, patients=patients, seed=seed, first=first, size=size, progress=told, workers=workers)
    made.save(out)
    say(f"{len(made)} slices of {patients} patients in {out}")


@command()
def index(
    study: Annotated[str, typer.Argument(help="Study file (YAML), or folder or URL of a BIDS dataset.", metavar="STUDY")],
    derivatives: Annotated[list[str] | None, typer.Option(help="Derivative folders; by default all under derivatives/.")] = None,
    source: Annotated[str | None, typer.Option(help="What the folder is: one of {sources}.", autocompletion=WORDS["sources"])] = None,
) -> None:
    """List the subjects of a study, what each of them lacks, and what was left out, with the reason."""
    from cohort_engine.config import parse_config
    from cohort_engine.engine.build import index as run
    from cohort_engine.engine.build import inputs_of
    from cohort_engine.engine.study import with_headers

    given: dict[str, Any] = {k: v for k, v in {"derivatives": derivatives, "source": source}.items() if v}
    if is_study(study):
        config = study_of(study)
        config = config.model_copy(update={"data": config.data.model_copy(update=given)})
    else:
        config = parse_config({"data": {"bids": study, "store": "", **given}}, where="index")
    found = with_headers(run(config))
    inputs = inputs_of(config, found)
    missing = found.missing(inputs.lacking)
    complete = sum(not roles for roles in inputs.lacking.values())
    show(inputs.files.reset_index(names="file"), f"{len(found)} subjects, {complete} complete")
    if len(missing):
        show({name: missing[name] for name in missing}, "What is missing")
    _tell(found.told())


def _tell(notes: Sequence[str]) -> None:
    """Print what was chosen and left out of a study."""
    if notes:
        say(f"{len(notes)} notes")
    for line in notes:
        say(f" {line}", head="note", colour="yellow")


@command()
def plan(study: StudyFile, preset: Preset = None, cluster: Cluster = None) -> None:
    """Print what a build would do: tasks, bytes, memory, missing inputs. Nothing is written, and no cluster is started."""
    from cohort_engine.engine.build import plan as make_plan

    prepared = make_plan(study_of(study, preset=preset, cluster=cluster))
    say(str(prepared))
    _tell(prepared.notes)
    prepared.validate()


@command()
def build(
    context: typer.Context,
    study: StudyFile,
    preset: Preset = None,
    cluster: Cluster = None,
    quiet: Quiet = False,
    pages: Annotated[bool, typer.Option("--qc/--no-qc", help="Draw the quality pages when it is built.")] = True,
) -> None:
    """Build the cohort, or continue a build that was interrupted; and draw its quality pages."""
    from cohort_engine.engine.build import build as run

    config = study_of(study, preset=preset, cluster=cluster)
    report = run(config, events=_screen(quiet), log=_log(context.obj, config.data.store))
    if pages:
        pages_of(config, quiet=quiet)
    _finish(report)


@command()
def retry(context: typer.Context, study: StudyFile, cluster: Cluster = None, quiet: Quiet = False) -> None:
    """Run again what failed, and what of these subjects is stale or to do, with the settings of now."""
    from cohort_engine.engine.build import retry as run

    config = study_of(study, cluster=cluster)
    _finish(run(config, events=_screen(quiet), log=_log(context.obj, config.data.store)))


def _screen(quiet: bool) -> Any:
    from cohort_engine.engine.events import Events, RichProgress

    return Events() if quiet else RichProgress()


def _log(log: Log, store: str) -> Any:
    """Where a build is logged, and whether the screen hears it, too."""
    from cohort_engine.runlog import configure

    echo = partial(say, error=True) if log.verbose else None
    return configure(store, level="debug" if log.verbose > 1 else "info", place=log.place, echo=echo)


def _finish(report: Any) -> None:
    counts = {"stage": list(report.counts), **{o: [c[o] for c in report.counts.values()] for o in next(iter(report.counts.values()), {})}}
    show(counts, f"Built in {report.seconds:.0f} s")
    say(f" {report.url}", head="Store")
    if report.trouble:
        say(f" {report.trouble}", head="The store is not closed.", colour="yellow")
    if len(report.failures):
        show(report.failures, "Subjects that did not finish")
    if len(report.notes):
        show(report.notes, "Notes")
    recorded = tuple(report.notes["note"])
    _tell([line for line in report.chosen if not recorded or not line.endswith(recorded)])
    raise typer.Exit(report.exit_code)


@command()
def status(store: Store) -> None:
    """Show how far a cohort is, and what is still to be done. Exit code 1: something is. With a study file: held against what it asks for now."""
    from cohort_engine.engine.build import status as look

    found = look(study_of(store) if is_study(store) else store)
    show(found.counts)
    for line in found.reasons:
        say(f" {line}", head="stale", colour="yellow")
    if len(found.failures):
        show(found.failures, "Subjects that did not finish")
    if len(found.notes):
        show(found.notes, "Notes")
    if found.doubtful:
        show({"who": list(found.doubtful), "usable": list(found.doubtful.values())}, f"{len(found.doubtful)} may not be usable")
    if found.left:
        show({"who": list(found.left), "why": list(found.left.values())}, f"{len(found.left)} left the study, and are in no answer")
    if found.withdrawn:
        say(f"{len(found.withdrawn)} withdrawn and erased: rows {', '.join(map(str, found.withdrawn))}")
    if found.mixed:
        note(found.mixed)
    if found.writer is not None:
        say(f'process {found.writer.process} on {found.writer.host} does "{found.writer.doing}" since {found.writer.since}')
    say(f"closed {found.finalised}" if found.finalised else "not closed")
    raise typer.Exit(found.exit_code)


@command()
def analyse(
    study: Study,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for tables, figures and report.html; by default beside the store.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what was found.")] = False,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Analyse although rows were made with different settings.")] = False,
) -> None:
    """Compare the groups of a finished cohort: tables, figures, and one page that says what was found and how.

    A section that failed is named, and the exit status is 1; the others are there all the same.
    """
    from cohort_engine.config import SECTION_KINDS
    from cohort_engine.report.analyse import analyse as run
    from cohort_engine.report.page import REPORT
    from cohort_engine.report.summary import summarise
    from cohort_engine.sections.groups import top_findings

    found = run(study_of(study, asked=True), out=out, say=None if quiet else say, allow_mixed=allow_mixed)
    for line in summarise(found).values():
        say(line)
    if len(best := top_findings(found)):
        show(best, f"Largest differences, cases against controls ({len(found.findings)} in all)")
    for text in found.material.notes:
        note(text)
    for name, why in found.problems.items():
        words = ("failed", "red") if name in found.failed else ("not in this study", "yellow")
        say(f" {why}", head=f"{SECTION_KINDS[name].title}, {words[0]}", colour=words[1])
    say(f" {found.out / REPORT if found.out else REPORT}", head="Report")
    raise typer.Exit(int(bool(found.failed)))


@command("import-morphometry")
def import_tables(
    tables: Annotated[Path, typer.Argument(help="Folder or tar archive of PAM50-normalised per-slice tables, one a subject.")],
    participants: Annotated[Path, typer.Option("--participants", help="participants.tsv with the covariates.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the cohort store to make.")],
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
) -> None:
    """Make a cohort store of morphometry tables of the Spinal Cord Toolbox."""
    from cohort_engine.engine.importing import import_morphometry
    from cohort_engine.template import load_template

    report = import_morphometry(tables, out, participants=participants, template=load_template(template, path=template_path))
    say(
        f" {out}: {report.subjects} subjects, {report.without_covariates} of them not in the participants table; "
        f"{report.without_table} participants have no table", head="Store",
    )  # fmt: skip
    for participant, session, text in report.told:
        note(": ".join(filter(None, (" ".join(filter(None, (participant, session))), text))))
    raise typer.Exit(int(report.failed > 0))
