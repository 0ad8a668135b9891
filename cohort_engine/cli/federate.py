"""Sites that may not share values compare their groups together: each writes its sums, one combines them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cohort_engine.cli.say import say, show
from cohort_engine.cli.words import Command, Study, app, study_of

federate_app = typer.Typer(help="Compare groups over sites that share sums and no value of anybody.", no_args_is_help=True)
app.add_typer(federate_app, name="federate")
federate_command = partial(federate_app.command, cls=Command)


@federate_command("share")
def share(
    study: Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, which may leave the site.")] = Path("sums.json"),
) -> None:
    """Write counts and moments of every feature by group; features with fewer than analysis.least people of a group are left out."""
    from cohort_engine.study.federate import share_sums
    from cohort_engine.study.material import gather

    config = study_of(study, asked=True)
    shared = share_sums(gather(config.data.store, config.analysis), config.analysis)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(shared) + "\n")
    part.replace(out)
    say(f" {out}: {sum(r > 0 for r in shared['rows'])} of {len(shared['features'])} features", head="Sums")


@federate_command("combine")
def combine(
    files: Annotated[list[Path], typer.Argument(help="What the sites wrote.", metavar="FILE...")],
    method: Annotated[Literal["linear", "welch"], typer.Option(help="With a mean of each site and the covariates, or none of them.")] = "linear",
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write.")] = Path("federated.csv"),
) -> None:
    """Compare cases with controls over all sites: the same numbers as of all people in one table."""
    from cohort_engine.study.federate import combine_sums

    found = combine_sums(files, method=method)
    found.to_csv(out, index=False, float_format="%.9g")
    first = found.sort_values("p", kind="stable").head(10)
    show(first.drop(columns=["method", "se", "df"]), f"Largest differences, cases against controls, of {len(files)} sites")
    say(f" {out}", head="Table")
