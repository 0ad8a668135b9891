"""Write docs/reference/config.md, store.md and analysis.md from the code, so that they cannot go stale (a test compares)."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_origin

from cohort_engine import schema, sections
from cohort_engine.config import Section, parse_config, study_model
from cohort_engine.sections.base import OWN
from cohort_engine.stages.base import SOURCES
from cohort_engine.stages.choose import stages_of
from cohort_engine.stages.dwi import moco_quality
from cohort_engine.stages.rois import roi_quality, roi_table_specs
from cohort_engine.stages.tensor import tensor_quality

FOLDER = Path(__file__).parent / "reference"


def config_page() -> str:
    """Every key of a study file, with its default and its sentence."""
    lines = ["# Study file", "", "Every key, its default, and what it does. Unknown keys are refused.", ""]

    def walk(model: type[Section], name: str) -> None:
        sections = []
        lines.extend([f"## `{name}`" if name else "## Sections", "", _first(model), "", "| key | default | meaning |", "|---|---|---|"])
        for key, info in model.model_fields.items():
            inner, inside = info.annotation, f"{name}.{key}" if name else key
            meaning = " ".join((info.description or "").split())
            if isinstance(inner, type) and issubclass(inner, Section):
                sections.append((inner, inside))
                default = "section" + (", required" if info.is_required() else "")
                meaning = meaning or _first(inner)
            elif get_origin(inner) is dict and isinstance(of := get_args(inner)[1], type) and issubclass(of, Section):
                sections.append((of, f"{inside}.<name>"))
                default = "none"
            else:
                default = "required" if info.is_required() else f"`{info.get_default(call_default_factory=True)!r}`"
            lines.append(f"| `{key}` | {default} | {meaning} |")
        lines.append("")
        for section in sections:
            walk(*section)

    walk(study_model(), "")
    lines += ["## Words of fixed choices", ""]
    for registry, where in ((SOURCES, "data.source"), (schema.METRICS, "stages.metrics"), (schema.ESTIMATORS, "stages.reduce.estimators")):
        lines.append(f"* `{where}`: {', '.join(f'`{name}`' for name in registry)}.")
    return "\n".join([*lines, ""])


def _first(model: type[Section]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _specs(source: str) -> dict[str, schema.VariableSpec]:
    """Arrays that the stages of a source and the tables of template space have."""
    stages = {"shape": {"source": schema.T2W}, "reduce": {"estimators": [schema.WA, schema.MAP]}}
    chosen = stages_of(parse_config({"data": {"bids": "b", "store": "s", "source": source}, "stages": stages}))
    tables = (spec for e in (schema.WA, schema.MAP) for spec in schema.table_specs(schema.MTR, e).values())
    return {spec.path: spec for spec in (*(spec for stage in chosen for spec in stage.writes), *tables)}


def store_page() -> str:
    """Every array of a store."""
    specs = {s.path: s for s in schema.FIXED} | _specs(schema.BIDS) | _specs(schema.SCT)
    specs |= {s.path: s for s in (*schema.MOTION_SPECS.values(), *moco_quality().values(), *tensor_quality().values())}
    drawn = roi_table_specs([schema.METRICS[schema.FA]], (schema.WA, schema.MAP))
    specs |= {s.path: s for s in (*schema.ROI_SPECS.values(), *drawn, *roi_quality().values())}
    lines = [
        "# Cohort store", "",
        f"Zarr v3, `format_version` {schema.FORMAT_VERSION}. Identity of a subject is its row. Names of people are array values only, never paths or",
        "attributes. NaN is missing; zero is a value. The root holds `subject`, `voxel`, `level`, `region`, `participant_id` and",
        "`session_id`, so that `xarray.open_datatree` opens a finished store with its coordinates, without this package.", "",
        "Large arrays (chunk `subject 1`) are written by the stage itself. What it leaves beside them is one record in",
        "`<store>.ledger/records/`, whose arrays are *gathered* into blocks of subjects; how each stage ended is then in",
        "`<store>.ledger/entries/`, and what stages made (masks, landmarks) in `<store>.ledger/<row>/`. A table in template space says in",
        "its attribute `made_from` what each block of 64 subjects was made from.", "",
        "| attribute of the root | meaning |", "|---|---|",
        "| `specs` | what every array means, as the list below |",
        "| `asked` | what the study file asked for last: settings, and of each stage its recipe, needs and arrays |",
        "| `recipes` | version, parameters and template by the hash of a recipe |",
        "| `science` | what the rows were made with: by stage, each recipe and how many rows have it |",
        "| `mixed` | a sentence, where rows were not made alike |",
        "| `finalised` | when all was gathered and closed; empty while a build is at work |", "",
        "Shown for the contrast `mt`, the metric `mtr`, the estimators `wa` and `map`, with morphometry (`stages.shape.source`), and with the",
        "quality numbers of warps (`qc/mt_inverse_residual`, `qc/mt_label_dice`) that only `data.source: sct` has;",
        "A metric with standard errors (`fa`, `md` ...) also has `maps/<metric>_se`, `qc/<metric>_shared`, `tables/<space>/<metric>_errors` and, of",
        "each linear estimator, `tables/<space>/<metric>_<estimator>_noise`; with diffusion there are `motion/*` and quality numbers of its stages.",
        "`motion/*` is ragged: `volume` and `slice` are as long as the longest series that was gathered, and what is behind the end of a shorter one",
        "is NaN (in flags -1); a record has its own length.",
        "`subjects/*` holds the typed columns of `participants.tsv`, `analysis/*` the [tables of an analysis](analysis.md), one array a column.",
        "",
        "| array | dims | chunk | dtype | unit | stage | meaning |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for path, s in specs.items():
        chunk = ", ".join(f"{d} {n}" for d, n in s.chunks.items()) or ("gathered" if s.gathered else "whole")
        lines.append(f"| `{path}` | {', '.join(s.dims)} | {chunk} | {s.dtype} | {s.units} | {s.stage} | {s.long_name} |")
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
    for section in sections.every():
        lines += [f"## {section.title}", ""]
        for name, table in section.tables.items():
            lines += [f"### `{name}`: {table.title}", "", table.sentence, "", "| column | unit | meaning |", "|---|---|---|"]
            lines += [f"| `{column}` | {words.unit} | {words.meaning} |" for column, words in table.columns.items()]
            lines += ["| others | | columns of participants.tsv |"] if table.open else []
            lines.append("")
    return "\n".join(lines)


PAGES = {"config.md": config_page, "store.md": store_page, "analysis.md": analysis_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
