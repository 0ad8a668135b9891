"""The Methods section of a study, written from its configuration, from what its store says of itself, and from what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import xarray as xr

from cohort_engine import schema, sections
from cohort_engine.config import STAGE_KINDS
from cohort_engine.query.choice import Choice
from cohort_engine.report.references import Reference, number
from cohort_engine.stages.base import SOURCES
from cohort_engine.store import layout
from cohort_engine.study.format import listed
from cohort_engine.study.material import ESTIMATOR, METRIC
from cohort_engine.study.result import Study

if TYPE_CHECKING:
    from cohort_engine.study.result import Analysis

LIBRARIES = {"scikit-learn": "scikit-learn", "pandas": "pandas", "matplotlib": "Matplotlib"}
"""Packages of the statistics and figures -> their names."""
BUILT = {"numpy": "NumPy", "scipy": "SciPy", "xarray": "xarray", "zarr": "Zarr", "dask": "Dask", "nibabel": "NiBabel", "antspyx": "ANTsPy"}


@dataclass(frozen=True)
class Methods:
    """Text of the section: (heading, paragraph) in order, with numbered citations, and the works cited."""

    parts: tuple[tuple[str, str], ...]
    references: tuple[Reference, ...]

    def __str__(self) -> str:
        text = "\n\n".join(f"## {heading}\n\n{paragraph}" for heading, paragraph in self.parts)
        works = "\n".join(f"{i}. {work}" for i, work in enumerate(self.references, start=1))
        return f"# Methods\n\n{text}\n\n# References\n\n{works}\n"


def write_methods(found: Analysis, ds: xr.Dataset) -> Methods:
    """Say how a study was made and analysed.

    Parameters
    ----------
    found : Analysis
        Its `about` has the configuration and the scientific settings of the store; sections without a table are left out.
    ds : Dataset
        The cohort, from `open_cohort`: how many masks and landmarks a network made is counted in its stages.

    Returns
    -------
    out : Methods
        Only works that the text cites.
    """
    study = Study(found, ds)
    people, *others = [(s.heading, s.methods(study) if s.done(found) else "") for s in sections.every()]
    written = [people, *((heading, part(study)) for heading, part in PREPARED.items()), *others, ("Software", _software(study))]
    kept = [(heading, text) for heading, text in written if text]
    texts, works = number(text for _, text in kept)
    return Methods(tuple(zip((heading for heading, _ in kept), texts, strict=True)), tuple(works))


def _template(s: Study) -> str:
    about = s.found.about["template"]
    name = about[layout.TEMPLATE_NAME]
    identity = f"(version {about[layout.TEMPLATE_VERSION]}, content hash {about[layout.TEMPLATE_DIGEST]}; atlas {about[layout.ATLAS_DIGEST]})"
    if name == "PAM50":
        return f"Data were analysed in the space of the PAM50 template {identity} [@pam50], with its atlas of white and grey matter [@levy]."
    return (
        f"Data were analysed in the space of the parametric cord of cohort_engine {identity}, whose diameters are those of healthy adults "
        "[@valosek], whose tracts are arranged after the white matter atlas [@levy], and whose levels have the heights of PAM50 [@pam50]."
    )


def _made(s: Study, stage: str, what: str, how: str) -> str:
    count = s.done(stage)
    if not count:
        return ""
    total = len(s.people.at)
    return f" {what} of {count} of the {total} participants {how}{'; the others were part of the study' if count < total else ''}."


def _images(s: Study) -> str:
    if s.stages["shape"]["source"] == schema.PROFILE_TABLES:
        return "Profiles along the template were taken from tables of the Spinal Cord Toolbox that were normalised to PAM50 [@sct]."
    text = SOURCES[s.source].methods or STAGE_KINDS[schema.FIT].methods(s.science, s.used)
    masks = (
        "were segmented by two convolutional networks trained on synthetic images alone [@billot], which find the centreline as one optimal curve "
        "[@gros] and then the border of the cord"
    )
    for contrast in schema.CONTRASTS.values():
        text += _made(s, schema.segment_stage(contrast.name), f"Cord masks ({contrast.name.upper()})", masks)
    discs = "were found by a network trained on synthetic images, and named as a hidden Markov chain [@rabiner]"
    return str(text + _made(s, schema.levels_stage(schema.T2W), "Vertebral landmarks", discs))


def _metrics(s: Study) -> str:
    text = [kind.methods(s.science, s.used) for kind in STAGE_KINDS.values() if kind.methods and kind.name != schema.FIT]
    used = {m: [Choice.of_kind(str(k)) for k in dict.fromkeys(rows)] for m, rows in s.found.material.features.groupby(METRIC, sort=False)[ESTIMATOR]}
    used = {m: [c for c in kinds if c.estimator in schema.ESTIMATORS] for m, kinds in used.items()}
    for name in dict.fromkeys(c.estimator for kinds in used.values() for c in kinds):
        kind = schema.ESTIMATORS[name]
        cite = ", ".join(f"@{key}" for key in kind.references)
        text.append(f"{kind.describe().rstrip('.')} [{cite}].")
    text += [_values(s, str(metric), kinds) for metric, kinds in used.items() if kinds]
    known = [schema.label_of(str(m)) for m, kinds in used.items() if kinds and s.ds[str(m)].attrs.get(schema.ERROR)]
    if known and s.stages["reduce"].get("weights") == "precision":
        text.append(
            f"Voxels of {listed(known)} were weighted by 1 over the sum of their squared standard error and of the variance between voxels beyond it "
            "[@dersimonian]."
        )
    if any(used.values()):
        text.append(f"A value was missing where less than {100 * s.stages['reduce']['min_coverage']:g}% of the region's weight lay inside the data.")
    return " ".join(filter(None, text))


def _values(s: Study, metric: str, kinds: list[Choice]) -> str:
    """Say which values of a metric were analysed, how levels were pooled, and why they are not the least biased, where they are not."""
    text = f"Values of {schema.label_of(metric)} were {listed(k.words for k in kinds)}, vertebral level by vertebral level"
    summed = [k for k in kinds if k.space == schema.SPACE_NATIVE and schema.ESTIMATORS[k.estimator].summed and k.estimator != schema.WA]
    if summed:
        text += (
            "; several levels together were the mean of their values weighted by the region's volume in each, with the standard error of that mean, "
            "which counts the noise of the voxels, the likeness of neighbouring ones, and what the model leaves out"
        )
    chosen = s.found.material.choices.get((metric, "", ""))
    return f"{text}{f' ({chosen.why})' if chosen is not None and chosen.why else ''}."


def _harmonisation(s: Study) -> str:
    chosen = s.config.harmonise
    if chosen.site is None or not s.found.material.models:
        return ""
    kept = [n for n in chosen.keep if n == schema.GROUP or s.varying([n])]
    keep = f", keeping the effects of {listed(kept)}" if kept else ""
    text = f"Effects of {chosen.site.replace('_', ' ')} were removed from each metric with ComBat [@combat, @fortin]{keep}."
    if s.has("site_check"):
        text += f" What was left was checked with a linear discriminant that told {chosen.site} from all features, in cross-validation with the "
        text += "harmonisation learnt in each training part alone, and held against permutations within the groups."
    return text


def software() -> dict[str, str]:
    """Versions of the packages of the statistics and figures, by name."""
    out = {}
    for package, name in LIBRARIES.items():
        try:
            out[name] = version(package)
        except PackageNotFoundError:
            continue
    return out


def _software(s: Study) -> str:
    made: Mapping[str, str] = s.found.about["versions"]
    libraries = {**{BUILT[k]: v for k, v in made.items() if k in BUILT and v != "absent"}, **software()}
    names = listed(f"{name} {number}" for name, number in libraries.items())
    return f"Everything was computed with cohort_engine {made['cohort_engine']} on Python {made['python']}, with {names}."


PREPARED: Mapping[str, Callable[[Study], str]] = {
    "Template": _template, "Registration": _images, "Metrics": _metrics, "Harmonisation": _harmonisation,
}  # fmt: skip
"""Heading -> what writes the paragraph of what was done before the sections, and after people were chosen; an empty one is left out."""
