"""The command line: each verb reads its arguments, calls one public function and prints what it returns.

Exit codes: 0 all well, 1 some subjects failed, 2 could not run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohort_engine.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

WIDE = 140
"""Columns of a table that goes to a file."""

app = typer.Typer(
    name="cohort-engine",
    help="Spinal-cord quantitative MRI for whole cohorts: a BIDS study becomes a PAM50-space Zarr store with tract-wise tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
template_app = typer.Typer(help="Install and inspect templates.", no_args_is_help=True)
app.add_typer(template_app, name="template")
train_app = typer.Typer(help="Train the networks.", no_args_is_help=True)
app.add_typer(train_app, name="train")

StudyFile = Annotated[Path, typer.Argument(help="Study file (YAML); see configs/studies/.", metavar="STUDY.yaml")]
StoreUrl = Annotated[str, typer.Argument(help="Folder or URL of the cohort store.", metavar="STORE")]
Row = Annotated[int, typer.Argument(help="Row of the subject in the store.", metavar="ROW")]
TemplateName = Annotated[str, typer.Option("--template", help="PAM50, or the built-in parametric cord.")]
TemplatePath = Annotated[Path | None, typer.Option("--template-path", help="Folder of PAM50, where it is not installed.")]

Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Half = Annotated[bool | None, typer.Option("--half/--full", help="Compute in bfloat16; by default on a GPU only.")]


def main() -> None:
    """Run the command line; a `CohortError` is one line on standard error and exit code 2."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy loads: the matrices are small, and waiting threads use the processor up
    try:
        app()
    except CohortError as error:
        _print_error(str(error))
        sys.exit(2)


def _print_error(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error[/] {_plain(text)}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _say(*parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=WIDE)
    for part in parts:
        console.print(part)


def _table(frame: pd.DataFrame, title: str | None = None, digits: int = 2) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in frame.columns:
        numeric = frame[name].dtype.kind in "fiu"
        table.add_column(str(name), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.{digits}f}" if isinstance(v, float) else _plain(str(v)) for v in row))
    return table


# --- a study ----------------------------------------------------------------------------------------------------------
@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=2)] = 7,
    controls: Annotated[int, typer.Option(min=2)] = 5,
    seed: int = 1,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    labels: Annotated[bool, typer.Option("--labels", help="Give the build true masks and disc labels; otherwise it draws its own.")] = False,
) -> None:
    """Simulate a small DCM study, build its cohort from the images alone, compare every number with the truth, and analyse it."""
    from cohort_engine.engine.events import RichProgress
    from cohort_engine.report.demo import MIN_VOXELS, run_demo

    _say(f"Simulating {patients} patients and {controls} controls in {out}/study")
    result = run_demo(out, patients=patients, controls=controls, seed=seed, workers=workers, labels=labels, events=RichProgress())
    for group, table in result.by_group().items():
        _say(_table(table, f"{group}: mean MTR (percent) by tract and level; in brackets the mean error against the simulation's truth"))
    _say(_table(result.errors(), f"Errors of cells of at least {MIN_VOXELS:.0f} native voxels (percentage points)", digits=3))
    _say(f"[bold]Store[/] {result.store}", f"[bold]Every value and its error[/] {result.cells_table}", f"[bold]Picture[/] {result.figure}")
    _say(f"[bold]Report[/] {_plain(str(result.page))}")
    for name in result.asked:
        _say(f"[yellow]asked for a landmark[/] {_plain(name)}: its discs were not certain; one disc was labelled and the subject built again")
    _finish(result.report)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="BIDS folder to make.")],
    template: TemplateName = "parametric",
    template_path: TemplatePath = None,
    patients: Annotated[int, typer.Option(min=0)] = 8,
    controls: Annotated[int, typer.Option(min=0)] = 4,
    seed: int = 1,
    labels: Annotated[bool, typer.Option(help="Write cord masks and disc labels as well.")] = True,
) -> None:
    """Write a simulated study with its truth as a BIDS folder, and a study file beside it."""
    from cohort_engine.phantom.study import simulate as run
    from cohort_engine.template import load_template

    loaded = load_template(template, path=template_path)
    run(out, template=loaded, patients=patients, controls=controls, seed=seed, template_path=template_path, labels=labels)
    _say(f"{patients + controls} subjects in {out}")


@app.command()
def index(
    bids: Annotated[str, typer.Argument(help="Folder or URL of a BIDS dataset; with --source sct a folder of subject folders.")],
    derivatives: Annotated[list[str] | None, typer.Option(help="Derivative folders; by default all under derivatives/.")] = None,
    source: Annotated[str, typer.Option(help="bids, or sct: results of the Spinal Cord Toolbox.")] = "bids",
) -> None:
    """List the subjects of a study and what each of them lacks."""
    from cohort_engine.config import parse_config
    from cohort_engine.engine.build import index as run

    study = run(parse_config({"data": {"bids": bids, "store": "", "derivatives": derivatives or [], "source": source}}, where="index").data)
    missing = study.missing()
    _say(_table(study.present().reset_index(names="file"), f"{len(study)} subjects, {len(study) - len(missing)} complete"))
    if len(missing):
        _say(_table(missing, "What is missing"))
    for note in study.notes:
        _say(_plain(str(note)))


@app.command()
def plan(study: StudyFile) -> None:
    """Print what a build would do: tasks, bytes, memory, missing inputs. Nothing is written."""
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import plan as make_plan

    prepared = make_plan(load_config(study))
    _say(prepared.table())
    prepared.validate()


@app.command()
def build(
    study: StudyFile,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live progress.")] = False,
) -> None:
    """Build the cohort, or continue a build that was interrupted."""
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import build as run

    _finish(run(load_config(study), events=_events(quiet)))


@app.command()
def retry(
    study: StudyFile,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live progress.")] = False,
) -> None:
    """Run again only the subjects that failed."""
    from cohort_engine.config import load_config
    from cohort_engine.engine.build import retry as run

    _finish(run(load_config(study), events=_events(quiet)))


def _events(quiet: bool) -> Any:
    from cohort_engine.engine.events import Events, RichProgress

    return Events() if quiet else RichProgress()


def _finish(report: Any) -> None:
    _say(report.table(), f"[bold]Store[/] {report.url}")
    if len(report.failures):
        _say(_table(report.failures, "Subjects that did not finish"))
    raise typer.Exit(report.exit_code)


@app.command()
def status(store: StoreUrl) -> None:
    """Show how far a cohort is, and what failed."""
    from cohort_engine.engine.build import status as look

    counts, failures = look(store)
    _say(_table(counts))
    if len(failures):
        _say(_table(failures, "Subjects that did not finish"))
    raise typer.Exit(1 if len(failures) else 0)


# --- a store ----------------------------------------------------------------------------------------------------------
@app.command()
def finalise(
    store: StoreUrl,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Close although subjects are missing.")] = False,
) -> None:
    """Gather the ledger into the store and close it; refuses with the list of what is missing."""
    from cohort_engine.store.maintenance import finalise as run

    run(store, allow_missing=allow_missing)
    _say(f"{store} is closed")


@app.command()
def verify(store: StoreUrl) -> None:
    """Re-read the whole store and check shapes, hashes, ranges and the ledger."""
    from cohort_engine.store.maintenance import verify as run

    problems = run(store)
    for problem in problems:
        _say(f"[red]{_plain(str(problem))}[/]")
    _say(f"{len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


@app.command()
def compact(store: StoreUrl, out: Annotated[str, typer.Argument(help="New store.")]) -> None:
    """Copy the store with many subjects in one file, for reading at a data freeze."""
    from cohort_engine.store.maintenance import compact as run

    run(store, out)
    _say(f"{out} holds the same arrays")


@app.command()
def withdraw(store: StoreUrl, row: Row) -> None:
    """Erase a subject from the store."""
    from cohort_engine.store.maintenance import withdraw as run

    for line in run(store, row):
        _say(line)


@app.command()
def query(
    store: StoreUrl,
    text: Annotated[str, typer.Argument(help="mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group", metavar="QUERY")],
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table here as well.")] = None,
    space: Annotated[str, typer.Option("--space", help="template, or native: tables made in each image.")] = "template",
) -> None:
    """Ask the cohort for tract values by subject or by group."""
    from cohort_engine.query.accessor import open_cohort
    from cohort_engine.query.frame import parse_query, run_query

    frame = run_query(open_cohort(store, space=space), parse_query(text))
    _say(_table(frame))
    if csv is not None:
        frame.to_csv(csv, index=False)


@app.command()
def analyse(
    study: StudyFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for tables, figures and report.html; by default beside the store.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what was found.")] = False,
) -> None:
    """Compare the groups of a finished cohort: tables, figures, and one page that says what was found and how."""
    from cohort_engine.config import load_config
    from cohort_engine.report.analyse import analyse as run
    from cohort_engine.report.page import REPORT
    from cohort_engine.report.summary import summarise, top_findings

    found = run(load_config(study), out=out, say=None if quiet else _say)
    for line in summarise(found).values():
        _say(_plain(line))
    if len(best := top_findings(found)):
        _say(_table(best, f"Largest differences, cases against controls ({len(found.findings)} in all)"))
    for note in found.material.notes:
        _say(f"[yellow]note[/] {_plain(note)}")
    for name, why in found.problems.items():
        _say(f"[yellow]{_plain(name)} could not be made[/] {_plain(why)}")
    _say(f"[bold]Report[/] {_plain(str(found.out / REPORT if found.out else REPORT))}")


# --- one image --------------------------------------------------------------------------------------------------------
@app.command()
def register(
    image: Annotated[Path, typer.Argument(help="Image to register.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    levels: Annotated[Path, typer.Option("--levels", help="Landmarks: point labels, or a mask labelled by level.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    kind: Annotated[
        str, typer.Option("--kind", help="disc: point n lies above vertebra n (3 = C2/C3); body: point n is vertebra n; auto reads the file name.")
    ] = "auto",
    grey: Annotated[Path | None, typer.Option("--grey", help="Grey matter of the image (command grey): moves the inside of the cord.")] = None,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    deformable: Annotated[bool, typer.Option(help="Run SyN after the geometric steps.")] = True,
    seed: int = 1,
) -> None:
    """Register one image to the template: atlas and masks in the image's space, warps both ways, quality numbers."""
    from cohort_engine.single.register import register_image
    from cohort_engine.template import load_template

    quality = register_image(
        image, mask=mask, levels=levels, out=out, kind=kind, grey=grey, template=load_template(template, path=template_path), deformable=deformable,
        seed=seed,
    )  # fmt: skip
    _say(_table(quality, f"{out}", digits=3))


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="Image of any contrast, resolution, orientation and field of view.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cord mask to write.")],
    soft: Annotated[Path | None, typer.Option("--soft", help="Write the part of each voxel that is cord here as well.")] = None,
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Segment the spinal cord. An image without one gives an empty mask; what is odd is printed."""
    from cohort_engine.single.segment import segment_image

    _say(_found(segment_image(image, out, soft=soft, device=device, half=half)))


@app.command()
def grey(
    image: Annotated[Path, typer.Argument(help="Image that shows grey matter, for instance T2* or MT.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Part of each voxel that is grey matter, to write.")],
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Draw the grey matter of the cord, and say how clearly the image shows it."""
    from cohort_engine.single.segment import grey_image

    found = grey_image(image, mask, out, device=device, half=half)
    _say(f"grey matter stands out by {found.contrast:+.1f} times the noise" + ("" if found.shown else ": too little, what was drawn is a guess"))


@app.command()
def centerline(
    image: Annotated[Path, typer.Argument(help="Image of any contrast, resolution, orientation and field of view.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV of slice, x, y, z (mm) and confidence; or .nii.gz, one voxel a slice.")],
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Find the centreline of the spinal cord as one optimal curve through all slices."""
    from cohort_engine.single.segment import centreline_image

    _say(_found(centreline_image(image, out, device=device, half=half)))


@app.command()
def label(
    image: Annotated[Path, typer.Argument(help="Image that shows discs.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cord mask labelled by vertebral level, to write (1 = C1, 8 = T1).")],
    discs: Annotated[Path | None, typer.Option("--discs", help="Write one point a disc here as well (3 = C2/C3).")] = None,
    points: Annotated[Path | None, typer.Option("--points", help="Landmarks that are known: point labels, or a mask labelled by level.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="What points are. disc: n lies above vertebra n (3 = C2/C3); body: n is vertebra n; auto: file name.")
    ] = "auto",
    init_disc: Annotated[int | None, typer.Option("--init-disc", help="Number of a disc that is known (3 = C2/C3).")] = None,
    init_z: Annotated[float | None, typer.Option("--init-z", help="Its slice, counted from 0 at the bottom.")] = None,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Find and name the discs, and label the cord by vertebral level. Where the names are not certain it asks for a landmark."""
    from cohort_engine.single.label import label_image
    from cohort_engine.template import load_heights

    found = label_image(
        image, mask, out, template=load_heights(template, path=template_path), discs=discs, points=points, kind=kind,
        init=None if init_disc is None and init_z is None else (init_disc, init_z), device=device, half=half,
    )  # fmt: skip
    _say(_table(found.table(), str(out)))


def _found(segmentation: Any) -> str:
    from cohort_engine.cord.segment import FLAGS

    slices, flags = segmentation.slices, [f"[yellow]{f}[/]: {FLAGS[f]}" for f in segmentation.flags]
    where = f"cord in {len(slices)} slices, {slices[0]} to {slices[-1]} from the bottom" if len(slices) else "no slice with cord"
    return "\n".join([where, *flags])


@app.command()
def extract(
    metric: Annotated[Path, typer.Option("--metric", help="Image to reduce, for instance an MTR map.")],
    labels: Annotated[Path, typer.Option("--labels", help="SCT's label folder, warped to the image.")],
    estimator: Annotated[str, typer.Option("--estimator", help="wa, bin, median, ml, map or max.")] = "map",
    levels: Annotated[str | None, typer.Option("--levels", help="C2:C5, or C3,C5.")] = None,
    slices: Annotated[str | None, typer.Option("--slices", help="3:8, or 3,5; counted from 0 at the bottom.")] = None,
    per: Annotated[
        str | None, typer.Option("--per", help="level, slice or all; by default all where levels or slices are chosen, else slice.")
    ] = None,
    regions: Annotated[list[str] | None, typer.Option("--regions", help="Name of a tract or union, a sum 'a + b', or all; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV to write; by default it is printed.")] = None,
) -> None:
    """Reduce one image over atlas labels that lie on its grid: value, spread, standard error and coverage by region."""
    from cohort_engine.single.extract import extract as run

    table = run(metric, labels, estimator=estimator, levels=levels, slices=slices, per=per, regions=regions or ["all"])
    if out is None:
        typer.echo(table.csv(), nl=False)
    else:
        table.write(out)


@app.command()
def shape(
    mask: Annotated[Path, typer.Argument(help="Cord mask, soft or binary.")],
    levels: Annotated[Path | None, typer.Option("--levels", help="Landmarks: point labels, or a mask labelled by level.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="disc: point n lies above vertebra n (3 = C2/C3); body: point n is vertebra n; auto.")] = "auto",
    per: Annotated[str, typer.Option("--per", help="slice or level.")] = "slice",
    pam50: Annotated[bool, typer.Option("--pam50", help="Along the template's z axis, slice numbers and all.")] = False,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV to write; by default it is printed.")] = None,
) -> None:
    """Measure the cord of one mask: area, diameters, form, tilt and symmetry by slice or level."""
    from cohort_engine.single.morphometry import shape as run
    from cohort_engine.template import load_heights

    reference = load_heights(template, path=template_path) if levels is not None else None
    table = run(mask, levels, kind=kind, per=per, template=reference, normalise=pam50)
    if out is None:
        typer.echo(table.csv(), nl=False)
    else:
        table.write(out)


@app.command("import-morphometry")
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
    _say(
        f"[bold]Store[/] {_plain(out)}: {report.subjects} subjects, {report.without_covariates} of them not in the participants table; "
        f"{report.without_table} participants have no table"
    )


# --- templates --------------------------------------------------------------------------------------------------------
@template_app.command("install")
def template_install(
    name: Annotated[str, typer.Argument(help="Only pam50 can be installed; the parametric cord is built in.")] = "pam50",
    source: Annotated[str | None, typer.Option("--from", help="Folder, zip file or URL; by default the official release archive.")] = None,
) -> None:
    """Install PAM50 after checking its content hashes."""
    from cohort_engine.errors import unknown_name
    from cohort_engine.template.pam50 import install_pam50

    if name.lower() != "pam50":
        raise unknown_name("template to install", name, ["pam50"], where="template install")
    _say(f"PAM50 is installed in {install_pam50(source)}")


@template_app.command("info")
def template_info(name: Annotated[str, typer.Argument()] = "PAM50", template_path: TemplatePath = None) -> None:
    """Print a template's grid, levels, regions and content hash."""
    import pandas as pd

    from cohort_engine.template import load_template

    t = load_template(name, path=template_path)
    facts = {
        "version": t.version, "hash": t.digest, "grid": " x ".join(map(str, t.grid.shape)), "voxels": len(t.packing),
        "weights": t.atlas.weights.nnz, "levels": " ".join(t.levels), "regions": len(t.atlas.regions),
    }  # fmt: skip
    _say(_table(pd.DataFrame({"": list(facts), t.name: [str(v) for v in facts.values()]})))


# --- networks ---------------------------------------------------------------------------------------------------------
TrainingFile = Annotated[Path, typer.Argument(help="Training file (YAML); see configs/training/.", metavar="CONFIG.yaml")]
RunFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints and weights; what is there is continued.")]


@train_app.command("cord")
def train_cord(
    config: TrainingFile,
    out: RunFolder = Path("runs/cord"),
    net: Annotated[list[str] | None, typer.Option("--net", help="Only this network (coarse, fine); may be repeated.")] = None,
    template_path: TemplatePath = None,
) -> None:
    """Train the networks that find and draw the cord, on synthetic slices alone; again = continue."""
    from cohort_engine.nn.training import load_training, with_template
    from cohort_engine.nn.training import train_cord as run

    _trained(run(with_template(load_training(config), template_path), out, nets=tuple(net or ()), say=_figures))


@train_app.command("discs")
def train_discs(config: TrainingFile, out: RunFolder = Path("runs/discs"), template_path: TemplatePath = None) -> None:
    """Train the network that finds and names discs, on synthetic strips alone; again = continue."""
    from cohort_engine.nn.training import load_disc_training, with_template
    from cohort_engine.nn.training import train_discs as run

    _trained(run(with_template(load_disc_training(config), template_path), out, say=_figures))


def _figures(figures: dict[str, Any]) -> None:
    _say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()))


def _trained(written: dict[str, Path]) -> None:
    for name, weights in written.items():
        _say(f"[bold]{_plain(name)}[/] {_plain(str(weights))}")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from cohort_engine import __version__

        typer.echo(__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
