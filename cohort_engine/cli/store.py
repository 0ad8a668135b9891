"""A store: ask, list, compare, close, check, freeze, erase."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cohort_engine.cli.say import note, plain, require_values, say, show
from cohort_engine.cli.words import WORDS, Space, Store, command, is_study, store_of, study_of

AllowMixed = Annotated[bool, typer.Option("--allow-mixed", help="Go on although rows were made with different settings.")]
Question = Annotated[
    str, typer.Argument(help="mtr tract='WM left lateral corticospinal tract' level=C2:C3 by=group site=A age=40:60", metavar="QUERY")
]
ALL = "all"


@command()
def query(
    store: Store,
    text: Question,
    columns: Annotated[str, typer.Option("--columns", help="Columns of the subject table to print as well: age,sex; or all.")] = "",
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table here as well; - prints it in place of the aligned one.")] = None,
    space: Space = "",
) -> None:
    """Ask the cohort for tract values by subject or by group; site=A, age=40:60 ... choose people by any column of the subject table."""
    from cohort_engine.query.answer import MEAN, answer
    from cohort_engine.query.choice import Choice
    from cohort_engine.query.question import parse_query
    from cohort_engine.query.reader import CohortReader
    from cohort_engine.schema import SESSION, VALUE
    from cohort_engine.single.columns import Columns

    asked = parse_query(text)
    chosen = None if columns == ALL else [n.strip() for n in columns.split(",") if n.strip()]
    found = answer(CohortReader(store_of(store), space=space), asked, chosen)
    table = {name: values.tolist() for name, values in found.columns.items()}
    if found.about.get("space") and not found.about["why"]:
        note(f"{found.about['metric']} is {Choice(found.about['space'], found.about['estimator']).words}")
    for line in (*found.notes, *_stale(store)):
        note(line)
    if csv == Path("-"):
        plain(Columns(table).csv())
    else:
        show({name: values for name, values in table.items() if name != SESSION or any(values)})
    if csv not in (None, Path("-")):
        Columns(table).write(csv)
    require_values(table, VALUE, MEAN, why="nobody who was asked about has enough of the region in the image, or their stages are not done (status)")


@command()
def export(
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the tables into.")],
    preset: Annotated[str, typer.Option("--preset", help="Whose tables, one of {presets}.", autocompletion=WORDS["presets"])] = "spine-generic",
) -> None:
    """Write tables as other software has them, one CSV file a metric and region: for a comparison with published results, line by line."""
    from cohort_engine.config import preset_of
    from cohort_engine.query.export import export_tables
    from cohort_engine.query.reader import CohortReader

    done = export_tables(CohortReader(store_of(store)), preset_of(preset), out)
    show({"file": list(done.written), "subjects": list(done.written.values())}, str(out))
    for file, why in done.left.items():
        note(f"{file}: {why}")
    for line in _stale(store):
        note(line)


def _stale(store: str) -> list[str]:
    """Say what of a store was made otherwise than its study file asks for now; a store alone says it in its own words."""
    if not is_study(store):
        return []
    from cohort_engine.engine.status import stale

    return stale(study_of(store))


@command()
def subjects(store: Store) -> None:
    """List the rows of a store: who each is, with group and site, and what is done, open, left or withdrawn."""
    from cohort_engine.store.people import subjects as listing

    show(listing(store_of(store)))


@command()
def compare(
    first: Annotated[str, typer.Argument(help="Store, freeze or study file.", metavar="A")],
    second: Annotated[str, typer.Argument(help="Another.", metavar="B")],
) -> None:
    """Say which subjects, settings and values of two stores differ, and by how much. Exit code 1: something does."""
    from cohort_engine.store.compare import compare as run

    found = run(store_of(first), store_of(second))
    say(str(found))
    raise typer.Exit(0 if found.equal else 1)


@command()
def finalise(
    store: Store,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Close although subjects are missing.")] = False,
    allow_mixed: AllowMixed = False,
) -> None:
    """Gather the ledger into the store, fill its tables and close it; refuses with the list of what is missing."""
    from cohort_engine.engine.build import finalise as run

    run(study_of(store) if is_study(store) else store, allow_missing=allow_missing, allow_mixed=allow_mixed)
    say(f"{store_of(store)} is closed")


@command()
def verify(
    store: Store,
    deep: Annotated[bool, typer.Option("--deep", help="Compare every table with the maps it was made from as well.")] = False,
) -> None:
    """Re-read the whole store and check shapes, hashes, ranges and the ledger. Exit code 1: there are problems."""
    from cohort_engine.reduce.cohort import table_block
    from cohort_engine.store.verify import verify as run

    url = store_of(store)
    problems = run(url, deep=partial(table_block, url, kept=False) if deep else None)
    for problem in problems:
        say(f" {problem}", head="problem", colour="red")
    for line in _stale(store):
        note(line)
    say(f"{len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


@command()
def compact(store: Store, out: Annotated[str, typer.Argument(help="New store.")], allow_mixed: AllowMixed = False) -> None:
    """Copy the store with many subjects in one file, for reading at a data freeze."""
    from cohort_engine.store.freeze import compact as run

    run(store_of(store), out, allow_mixed=allow_mixed)
    say(f"{out} holds the same arrays")


Tag = Annotated[str, typer.Argument(help="Name of the freeze, a word.", metavar="TAG")]


@command()
def freeze(store: Store, tag: Tag, allow_mixed: AllowMixed = False) -> None:
    """Keep the store as it is now under a tag: STORE@TAG is that state, whatever is built later."""
    from cohort_engine.store.tags import freeze as run

    made = run(store_of(store), tag, allow_mixed=allow_mixed)
    say(f"{store}@{tag}: {made.subjects} rows, {len(made.objects)} objects, {made.size / 2**20:.1f} MiB, sha256 {made.digest[:16]}")


@command()
def freezes(store: Store, delete: Annotated[str, typer.Option("--delete", help="Delete the freeze of this tag.", metavar="TAG")] = "") -> None:
    """List the freezes of a store: when each was made, and the hash of its content."""
    from cohort_engine.store.tags import delete_freeze
    from cohort_engine.store.tags import freezes as listing

    url = store_of(store)
    if delete:
        delete_freeze(url, delete)
    found = listing(url)
    columns = {
        "tag": [f.tag for f in found], "created": [f.created for f in found], "rows": [f.subjects for f in found],
        "objects": [len(f.objects) for f in found], "MiB": [round(f.size / 2**20, 1) for f in found], "made with": [f.made_with for f in found],
        "sha256": [f.digest[:16] for f in found],
    }  # fmt: skip
    show(columns, f"{len(found)} freezes")


@command()
def rollback(store: Store, tag: Tag, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Make the store what it was when it was frozen. What was built since is lost, unless it was frozen, too."""
    from cohort_engine.store.tags import roll_back

    url = store_of(store)
    if not yes and not typer.confirm(f"Go back to {tag}? What was built since is lost, unless it was frozen, too."):
        say("Nothing was changed.")
        raise typer.Exit(1)
    say(f"{url} is what it was at {tag}: {roll_back(url, tag)} objects changed")


@command()
def withdraw(
    store: Store,
    participant: Annotated[str, typer.Argument(help="Participant as in the subject table, with or without sub-.", metavar="PARTICIPANT")],
    session: Annotated[str | None, typer.Option("--session", help="Only this session, with or without ses-; by default all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase a participant from the store, after showing who it is and what goes."""
    from cohort_engine.store.people import find_rows
    from cohort_engine.store.withdrawal import withdraw as run

    url = store_of(store)
    rows = find_rows(url, participant, session)
    _show_person(url, rows)
    if not yes and not typer.confirm("Erase this from the store? It cannot be undone."):
        say("Nothing was changed.")
        raise typer.Exit(1)
    remaining = list(dict.fromkeys(line for row in rows for line in run(url, row)))
    from cohort_engine.qc.pages import remove_pages
    from cohort_engine.store.ratings import forget_ratings

    gone = forget_ratings(url, [participant]) if session is None else 0
    remove_pages(url, rows)
    say(f"{len(rows)} rows of {url} are erased, with {gone} ratings and the pictures of the quality pages beside it; draw these again with qc.")
    say("", head="Still to be done by hand")
    for line in remaining:
        say(f"- {line}")


def _show_person(url: str, rows: list[int]) -> None:
    """Show who would be erased, and what of theirs the store holds."""
    from cohort_engine.store.people import subjects as listing
    from cohort_engine.store.records import read_entries

    everybody = listing(url)
    show(everybody[everybody["row"].isin(rows)], "To be erased")
    results = [e for e in read_entries(url) if e.subject in rows]
    if results:
        show({"row": [e.subject for e in results], "stage": [e.stage for e in results], "state": [e.status for e in results]}, "Their stages")
    say("Every array, record and file of these rows goes, and the analysis of the whole cohort, which was made with them.")
