"""Write docs/reference/config.md, store.md and analysis.md from the code, so that they cannot go stale (a test compares)."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from cohort_engine import schema
from cohort_engine.config import Config, Section
from cohort_engine.report.words import OWN, SECTION_TITLES, TABLES

FOLDER = Path(__file__).parent / "reference"


def config_page() -> str:
    """Every key of a study file, with its default and its sentence."""
    lines = ["# Study file", "", "Every key, its default, and what it does. Unknown keys are refused.", ""]

    def walk(model: type[Section], name: str) -> None:
        sections = []
        lines.extend(
            [
                f"## `{name}`" if name else "## Sections",
                "",
                (model.__doc__ or "").strip().splitlines()[0],
                "",
                "| key | default | meaning |",
                "|---|---|---|",
            ]
        )
        for key, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                sections.append((info.annotation, f"{name}.{key}" if name else key))
                default = "section" + (", required" if info.is_required() else "")
            else:
                default = "required" if info.default is PydanticUndefined else f"`{info.default!r}`"
            meaning = " ".join((info.description or "").split())
            lines.append(f"| `{key}` | {default} | {meaning} |")
        lines.append("")
        for section in sections:
            walk(*section)

    walk(Config, "")
    return "\n".join(lines)


def store_page() -> str:
    """Every array of a store."""
    specs = schema.store_specs(
        contrasts=(schema.MT,),
        metrics=tuple(schema.METRICS),
        estimators=(schema.WA, schema.MAP),
        spaces=schema.SPACES,
        shape=True,
        source=schema.SCT,
        segmented=(schema.MT,),
        labelled=(schema.T2W,),
    )
    lines = [
        "# Cohort store", "",
        f"Zarr v3, `format_version` {schema.FORMAT_VERSION}. Identity of a subject is its row. Names of people are array values only, never paths or",
        "attributes. NaN is missing; zero is a value. The ledger lies beside the store (`<store>.ledger/<row>/<stage>.json`).", "",
        "Shown for the contrast `mt`, the metric `mtr`, the estimators `wa` and `map`, with morphometry (`stages.shape.source`), and with the",
        "quality numbers of warps (`qc/mt_inverse_residual`, `qc/mt_label_dice`) that only `data.source: sct` has;",
        "`subjects/*` holds the typed columns of `participants.tsv`, `analysis/*` the [tables of an analysis](analysis.md), one array a column.",
        "",
        "| array | dims | chunk | dtype | unit | meaning |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for path, s in specs.items():
        chunk = ", ".join(f"{d} {n}" for d, n in s.chunks.items()) or "whole"
        lines.append(f"| `{path}` | {', '.join(s.dims)} | {chunk} | {s.dtype} | {s.units} | {s.long_name} |")
    return "\n".join([*lines, ""])


def analysis_page() -> str:
    """Every table of an analysis."""
    lines = [
        "# Tables of an analysis", "",
        "`cohort-engine analyse` writes each table as `csv/<table>.csv` and `parquet/<table>.parquet`, and into the store as",
        "`analysis/<table>/<column>`, there without names of people. `tables.json` beside them says the same as this page. An empty cell is",
        "missing; zero is a value.",
        f"Unit `{OWN}`: each row has its own, in the column `units`.", "",
    ]  # fmt: skip
    for section, heading in SECTION_TITLES.items():
        tables = {name: table for name, table in TABLES.items() if table.section == section}
        if tables:
            lines += [f"## {heading}", ""]
        for name, table in tables.items():
            lines += [f"### `{name}`: {table.title}", "", table.sentence, "", "| column | unit | meaning |", "|---|---|---|"]
            lines += [f"| `{column}` | {words.unit} | {words.meaning} |" for column, words in table.columns.items()]
            lines += ["| others | | columns of participants.tsv |"] if table.open else []
            lines.append("")
    return "\n".join(lines)


PAGES = {"config.md": config_page, "store.md": store_page, "analysis.md": analysis_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
