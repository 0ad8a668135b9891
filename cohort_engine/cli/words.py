"""What the verbs share: the application, names of fixed choices, and arguments that are a store or a study file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from cohort_engine.errors import ConfigError
from cohort_engine.progress import working

if TYPE_CHECKING:
    from cohort_engine.config import Config

app = typer.Typer(
    name="cohort-engine",
    help="Spinal-cord quantitative MRI for whole cohorts: a BIDS study becomes a PAM50-space Zarr store with tract-wise tables.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


# --- words of fixed choices -------------------------------------------------------------------------------------------
def _estimators() -> list[str]:
    from cohort_engine.schema import ESTIMATORS

    return list(ESTIMATORS)


def _spaces() -> list[str]:
    from cohort_engine.schema import SPACES

    return list(SPACES)


def _sources() -> list[str]:
    from cohort_engine.stages.base import SOURCES

    return list(SOURCES)


def _presets() -> list[str]:
    from cohort_engine.config import PRESETS

    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def _clusters() -> list[str]:
    from cohort_engine.engine.clusters import CLUSTERS

    return list(CLUSTERS)


WORDS: Mapping[str, Callable[[], list[str]]] = {
    "estimators": _estimators,
    "spaces": _spaces,
    "sources": _sources,
    "clusters": _clusters,
    "presets": _presets,
}
"""Name in a help text -> the words that may stand there. They are looked up when a verb's help is shown, so that the list of verbs stays quick."""


class Command(TyperCommand):
    """A verb that shows when it takes long, and whose help lists words of `WORDS` in place of their name in braces."""

    def invoke(self, ctx: Any) -> Any:
        """Run it, with a line that says so where it takes long."""
        with working(str(ctx.command_path)):
            return super().invoke(ctx)

    def format_help(self, *arguments: Any) -> None:
        """Fill in the words, and show the help."""
        parts: list[Any] = [self, *self.params]
        for part in parts:
            for name, words in WORDS.items():
                text = getattr(part, "help", None) or ""
                if f"{{{name}}}" in text:
                    part.help = text.replace(f"{{{name}}}", ", ".join(words()))
        super().format_help(*arguments)


command = partial(app.command, cls=Command)

TemplateName = Annotated[str, typer.Option("--template", help="PAM50, or the built-in parametric cord.")]
TemplatePath = Annotated[Path | None, typer.Option("--template-path", help="Folder of PAM50, where it is not installed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Half = Annotated[bool | None, typer.Option("--half/--full", help="Compute in bfloat16; by default on a GPU only.")]
Space = Annotated[
    str,
    typer.Option(
        "--space",
        help="One of {spaces}; by default that of the least biased value.",
        autocompletion=WORDS["spaces"],
    ),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="Settings to begin with, one of {presets}; the study file goes before them.", autocompletion=WORDS["presets"]),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Where to run, before what the study file says: one of {clusters}, or a file as in configs/clusters/.",
        autocompletion=WORDS["clusters"],
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No live progress.")]


@dataclass(frozen=True)
class Log:
    """What was asked of the log of a build: how often ``-v``, and its place."""

    verbose: int = 0
    place: str | None = None


# --- a store or a study file ------------------------------------------------------------------------------------------
StudyFile = Annotated[str, typer.Argument(help="Study file (YAML); see configs/studies/. compute.cluster: one of {clusters}.", metavar="STUDY.yaml")]
Store = Annotated[str, typer.Argument(help="Folder or URL of the cohort store, or the study file that says where it is.", metavar="STORE")]
Study = Annotated[str, typer.Argument(help="Study file (YAML), or a cohort store, which is analysed with default settings.", metavar="STUDY.yaml")]


def is_study(argument: str) -> bool:
    """Whether an argument is a study file, by its ending.

    Examples
    --------
    >>> is_study("dcm.yaml"), is_study("s3://bucket/dcm.zarr")
    (True, False)
    """
    return argument.lower().endswith((".yaml", ".yml"))


def store_of(argument: str) -> str:
    """Path or URL of a store, from itself or from a study file; of a freeze with ``@TAG`` behind either."""
    from cohort_engine.store.tags import at_tag

    study, at, tag = argument.rpartition("@")
    if at and is_study(study):
        return at_tag(f"{study_of(study).data.store}@{tag}")
    return study_of(argument).data.store if is_study(argument) else at_tag(argument)


def study_of(argument: str, *, asked: bool = False, preset: str | None = None, cluster: str | None = None) -> Config:
    """Read a study file, with the settings of a preset below its own, and those of a cluster above. With `asked` a store will do as well: it is a
    study whose settings are those the store was asked for last.

    Raises
    ------
    ConfigError
        A store where the images of a study are needed, or a study file that cannot be used.
    """
    from cohort_engine.config import load_config, parse_config

    if is_study(argument):
        return load_config(argument, preset=preset, cluster=cluster)
    if asked:
        from cohort_engine.store import layout

        science = layout.record_of(layout.open_root(argument), layout.ASKED).get("science", {})
        source = {k: science[k] for k in ("source",) if k in science}
        return parse_config({"data": {"bids": "", "store": argument, **source}, **{k: science[k] for k in ("template", "stages") if k in science}})
    raise ConfigError(
        expected="a study file, which ends in .yaml or .yml", found=repr(argument), where="command line",
        remedy="Give the study file: this command reads the images it names.",
    )  # fmt: skip
