"""What is installed and trained: templates, networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cohort_engine.cli.say import say, show
from cohort_engine.cli.words import Command, Device, Half, TemplatePath, app

template_app = typer.Typer(help="Install and inspect templates.", no_args_is_help=True)
app.add_typer(template_app, name="template")
train_app = typer.Typer(help="Train the networks and the scorecard of quality.", no_args_is_help=True)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Measure how fast this machine is.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
template_command, train_command, bench_command = (partial(a.command, cls=Command) for a in (template_app, train_app, bench_app))


@template_command("install")
def template_install(
    name: Annotated[str, typer.Argument(help="Only pam50 can be installed; the parametric cord is built in.")] = "pam50",
    source: Annotated[str | None, typer.Option("--from", help="Folder, zip file or URL; by default the official release archive.")] = None,
) -> None:
    """Install PAM50 after checking its content hashes."""
    from cohort_engine.errors import unknown_name
    from cohort_engine.template.pam50 import install_pam50

    if name.lower() != "pam50":
        raise unknown_name("template to install", name, ["pam50"], where="template install")
    say(f"PAM50 is installed in {install_pam50(source)}")


@template_command("info")
def template_info(name: Annotated[str, typer.Argument()] = "PAM50", template_path: TemplatePath = None) -> None:
    """Print a template's grid, levels, regions and content hash."""
    from cohort_engine.template import load_template

    t = load_template(name, path=template_path)
    facts = {
        "version": t.version, "hash": t.digest, "grid": " x ".join(map(str, t.grid.shape)), "voxels": len(t.packing),
        "weights": t.atlas.weights.nnz, "levels": " ".join(t.levels), "regions": len(t.atlas.regions),
    }  # fmt: skip
    show({"": list(facts), t.name: [str(v) for v in facts.values()]})


# --- networks ---------------------------------------------------------------------------------------------------------
TrainingFile = Annotated[Path, typer.Argument(help="Training file (YAML); see configs/training/.", metavar="CONFIG.yaml")]
RunFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints and weights; what is there is continued.")]


@train_command("cord")
def train_cord(
    config: TrainingFile,
    out: RunFolder = Path("runs/cord"),
    net: Annotated[list[str] | None, typer.Option("--net", help="Only this network (coarse, fine); may be repeated.")] = None,
    template_path: TemplatePath = None,
) -> None:
    """Train the networks that find and segment the cord, on synthetic slices alone; again = continue."""
    from cohort_engine.nn.training import load_training, with_template
    from cohort_engine.nn.training import train_cord as run

    _trained(run(with_template(load_training(config), template_path), out, nets=tuple(net or ()), say=_figures))


@train_command("discs")
def train_discs(config: TrainingFile, out: RunFolder = Path("runs/discs"), template_path: TemplatePath = None) -> None:
    """Train the network that finds and names discs, on synthetic strips alone; again = continue."""
    from cohort_engine.nn.training import load_disc_training, with_template
    from cohort_engine.nn.training import train_discs as run

    _trained(run(with_template(load_disc_training(config), template_path), out, say=_figures))


@train_command("quality")
def train_quality(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features and the scorecard.")] = Path("runs/quality"),
    people: Annotated[int, typer.Option("--people", help="Simulated people.", min=1)] = 12,
    seed: Annotated[int, typer.Option("--seed", help="Everything random follows from it.")] = 1,
) -> None:
    """Fit the scorecard that tells usable subjects from failed ones, on simulated people in whom failures are planted."""
    from cohort_engine.phantom.usable import train_usable
    from cohort_engine.template.parametric import parametric_cord

    say(f" {train_usable(out, parametric_cord(spacing=1.0), people=people, seed=seed, say=say)}", head="quality")


# --- regions in the cord ------------------------------------------------------------------------------------------------
Slices = Annotated[Path, typer.Option("--data", help="Slices with drawn regions (npz).", metavar="SLICES.npz")]
Study = Annotated[str, typer.Option("--data", help="Slices with drawn regions (npz), or BIDS folder or store with manual masks.", metavar="SLICES")]


@train_command("rois")
def train_rois(config: TrainingFile, data: Study, out: RunFolder = Path("runs/rois"), template_path: TemplatePath = None) -> None:
    """Train a network that draws the eight regions of a slice, on slices with drawn regions; again = continue."""
    from cohort_engine.rois.config import load_training, split
    from cohort_engine.rois.train import train_rois as run
    from cohort_engine.single.roi_slices import load_slices

    settings = load_training(config)
    slices = load_slices(data, images=settings.input.images, template_path=template_path)
    train, valid, held_out = split(slices, by=settings.split, fractions=settings.fractions, seed=settings.seed)
    say(f" {len(train)} slices, validation {len(valid)}, held out {len(held_out)}", head="training")
    _trained({"rois": run(settings, slices.at(train), slices.at(valid), out, say=_figures)})


@train_command("rois-sweep")
def train_rois_sweep(
    sweep: TrainingFile,
    data: Slices,
    test: Annotated[Path, typer.Option("--test", help="Slices of other patients, by which all rows are judged.", metavar="SLICES.npz")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results and weights; rows that are there are not done again.")] = Path(
        "runs/sweep"
    ),
    workers: Annotated[int, typer.Option("--workers", help="Trainings at a time; 1: in this process.", min=1)] = 1,
    address: Annotated[str | None, typer.Option("--address", help="Scheduler of a running cluster, in place of workers here.")] = None,
) -> None:
    """Train and judge rows of choices crossed with one another: encoders, losses, images ...; again = continue."""
    from cohort_engine.config import ComputeConfig
    from cohort_engine.engine.clusters import make_pool
    from cohort_engine.rois.sweep import load_sweep, run_sweep
    from cohort_engine.single.process import Workplace
    from cohort_engine.stages.fit import FitConfig

    cluster = "address" if address else "local" if workers > 1 else "synchronous"
    pool = make_pool(ComputeConfig(cluster=cluster, address=address, workers=workers))
    try:
        pool.open(Workplace(seed=FitConfig().seed))
        rows = run_sweep(load_sweep(sweep), data.resolve(), test.resolve(), out.resolve(), pool, say=_row)
    finally:
        pool.close()
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def _row(row: dict[str, Any]) -> None:
    names = (
        "  ".join(str(v) for k, v in row.items() if k not in ("row", "test", "held_out", "error") and isinstance(v, str)) + f"  seed {row['seed']}"
    )
    say(f"  {row['error']}" if "error" in row else f"  Dice {sum(row['test']['dice']) / 8:.3f}  {row['seconds']:.0f} s", head=names)


def _figures(figures: dict[str, Any]) -> None:
    say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()))


def _trained(written: dict[str, Path]) -> None:
    for name, weights in written.items():
        say(f" {weights}", head=name)


# --- speed ------------------------------------------------------------------------------------------------------------
@bench_command("gpu")
def bench_gpu(
    device: Device = "auto",
    half: Half = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Least time of a measurement.", min=0.0)] = 2.0,
) -> None:
    """Measure the networks on a GPU (or CPU): slices and gigabytes a second, of one subject and of several at once."""
    from cohort_engine.nn.speed import Speed, speed

    found = speed(device, half=half, seconds=seconds)
    show({"network": [s.network for s in found], **{name: [getattr(s, name) for s in found] for name in Speed._fields[1:]}})
