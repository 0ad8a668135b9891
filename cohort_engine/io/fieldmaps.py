"""Which image was taken with the opposite phase encoding of a diffusion series: by what sidecars say, then by names.

BIDS says it in one of two ways: the fieldmap names the images it is for (``IntendedFor``), or both name one fieldmap (``B0FieldIdentifier`` and
``B0FieldSource``). Direction is ``PhaseEncodingDirection``; where a sidecar lacks it, the entity ``dir-`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cohort_engine.io.names import ImageFile
from cohort_engine.io.sidecars import Sidecars

DIRECTION, INTENDED = "PhaseEncodingDirection", "IntendedFor"
IDENTIFIER, SOURCE = "B0FieldIdentifier", "B0FieldSource"
OPPOSITE = {"AP": "PA", "PA": "AP", "LR": "RL", "RL": "LR", "SI": "IS", "IS": "SI", "HF": "FH", "FH": "HF"}
"""Words of ``dir-`` that are opposite to each other."""

Said = Mapping[str, Any]


def reverse_of(image: ImageFile, others: Sequence[ImageFile], sidecars: Sidecars) -> tuple[list[ImageFile], list[tuple[ImageFile, str]]]:
    """Find the images of opposite phase encoding that go with an image.

    Parameters
    ----------
    image : ImageFile
    others : sequence of ImageFile
        Images of the same person and session: fieldmaps (``epi``) and further series.
    sidecars : Sidecars
        Of the dataset.

    Returns
    -------
    fits : list of ImageFile
        Best first: those that sidecars say are for the image, then the most like it in name.
    out : list of (ImageFile, str)
        Fieldmaps that do not fit, and why. Further series that are not of opposite phase encoding are none of them.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from cohort_engine.io.names import split_name
    >>> from cohort_engine.io.tree import Tree
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> names = "sub-01/dwi/sub-01_dir-AP_dwi", "sub-01/fmap/sub-01_dir-PA_epi"
    >>> for name, way in zip(names, ("j-", "j"), strict=True):
    ...     (root / name).parent.mkdir(parents=True, exist_ok=True)
    ...     _ = (root / f"{name}.json").write_text(json.dumps({"PhaseEncodingDirection": way}))
    >>> series, fieldmap = (split_name(f"{name}.nii.gz") for name in names)
    >>> [f.short for f in reverse_of(series, [fieldmap], Sidecars(Tree(str(root))))[0]]
    ['dir-PA_epi.nii.gz']
    """
    if not others:
        return [], []
    (own, *theirs), _ = sidecars.say([[f.path] for f in (image, *others)])
    fits: dict[ImageFile, tuple[bool, int, tuple[Any, ...]]] = {}
    out: list[tuple[ImageFile, str]] = []
    for f, said in zip(others, theirs, strict=True):
        fieldmap = f.entities.get("suffix") == "epi"
        meant = is_meant(image, own, said)
        if meant is False:
            out += [(f, "its sidecar says it is for other images")] * fieldmap
        elif not are_opposite(image, own, f, said):
            out += [(f, "not of opposite phase encoding")] * fieldmap
        else:
            fits[f] = not meant, len(f.image ^ image.image), f.rank
    return sorted(fits, key=lambda f: fits[f]), out


def is_meant(image: ImageFile, own: Said, said: Said) -> bool | None:
    """Tell whether a fieldmap's sidecar says that it is for an image; None where it says nothing."""
    identifiers, sources = ({str(v) for v in _listed(of.get(key))} for of, key in ((said, IDENTIFIER), (own, SOURCE)))
    if identifiers and sources:
        return bool(identifiers & sources)
    intended = [str(v) for v in _listed(said.get(INTENDED))]
    if not intended:
        return None
    return any(f"/{image.path}".endswith(f"/{name.removeprefix('bids:').rpartition(':')[2].lstrip('/.')}") for name in intended)


def are_opposite(image: ImageFile, own: Said, other: ImageFile, said: Said) -> bool:
    """Tell whether two images have opposite phase encoding."""
    ways = [str(of.get(DIRECTION) or "") for of in (own, said)]
    if all(ways):
        return ways[0][:1] == ways[1][:1] and ways[0] != ways[1]
    here, there = image.entity("dir").upper(), other.entity("dir").upper()
    return bool(there) and OPPOSITE.get(there, "") == here


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value] if value else []
