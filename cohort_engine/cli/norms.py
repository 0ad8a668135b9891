"""Norms: centile curves of healthy people as a file, and people against them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cohort_engine.cli.say import say
from cohort_engine.cli.words import Command, app

norms_app = typer.Typer(help="Centile curves of healthy people by age and sex.", no_args_is_help=True)
app.add_typer(norms_app, name="norms")
norms_command = partial(norms_app.command, cls=Command)
Tables = Annotated[list[Path], typer.Argument(help="Values by level (TSV or CSV): participant_id, age, sex, level, area ...", metavar="TABLE...")]


@norms_command("fit")
def fit(
    tables: Tables,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: coefficients, no value of anybody.")] = Path("norms.json"),
) -> None:
    """Learn centile curves from tables of healthy people; each file, or each word of a column site, is a site."""
    from cohort_engine.study.norms import fit_norms, read_levels, write_norms

    norms = fit_norms(read_levels(tables))
    write_norms(norms, out)
    say(f" {', '.join(f'{n} of {site}' for site, n in norms.made_of.items())}", head="People")
    say(f" {', '.join(f'{m} {level}' for m, level in norms.features)}", head="Curves")
    say(f" {out}", head="Norms")


@norms_command("people")
def people(
    tables: Tables,
    norms: Annotated[str, typer.Option("--norms", help="File of norms; by default the packaged ones.", metavar="FILE")] = "pam50-shape",
    site: Annotated[str | None, typer.Option("--site", help="Site of the norms that the table is of, if it is one of these.")] = None,
    controls: Annotated[Path | None, typer.Option("--controls", help="Text file: a participant a line who places the site; else all do.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write.")] = Path("centiles.tsv"),
) -> None:
    """Say at which centile people lie, at a known site or at one that ten or more of its own controls place."""
    from cohort_engine import schema
    from cohort_engine.errors import ConfigError
    from cohort_engine.io.cells import defused_table
    from cohort_engine.study.norms import place_people, read_levels, read_norms

    if site is not None and controls is not None:
        raise ConfigError(expected="a site of the norms, or controls of another", found="both", where="norms people", remedy="Leave one out.")
    names = [] if controls is None else controls.read_text().split()
    found = place_people(read_norms(norms), read_levels(tables), site=site, controls=names)
    defused_table(found).to_csv(out, sep="\t", index=False, float_format="%.6g", na_rep="n/a")
    judged = found[~found["control"]] if names or site else found
    say(
        f" {judged[schema.PARTICIPANT].nunique()} people, {len(judged)} values; {int(found['control'].sum())} values placed the site", head="Centiles"
    )
    say(f" {out}", head="Table")
