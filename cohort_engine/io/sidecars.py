"""Files that say more of an image, by the inheritance principle of BIDS: one nearer to the image wins, and may leave things to those above it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.io.names import entities_of
from cohort_engine.io.tree import Tree

if TYPE_CHECKING:
    from cohort_engine.io.volume import Volume

JSON = ".json"


def decode_json(text: str, *, what: str) -> dict[str, Any]:
    r"""Decode JSON mappings, one after the other: the first to say a thing holds.

    Parameters
    ----------
    text : str
    what : str
        Words for the file in messages.

    Raises
    ------
    InputError
        No JSON, or no mapping.

    Examples
    --------
    >>> decode_json('{"RepetitionTime": 0.035}\n{"RepetitionTime": 1, "FlipAngle": 9}', what="sidecar")
    {'RepetitionTime': 0.035, 'FlipAngle': 9}
    """
    decoder, text = json.JSONDecoder(), text.lstrip("\ufeff \t\r\n")
    found: dict[str, Any] = {}
    while text:
        try:
            one, end = decoder.raw_decode(text)
        except ValueError as error:
            raise InputError(expected="JSON", found=f"something else ({error})", where=what, remedy="Repair the file.") from error
        if not isinstance(one, dict):
            raise InputError(expected="a JSON mapping", found=type(one).__name__, where=what, remedy="Repair the file.")
        found, text = one | found, text[end:].lstrip("\ufeff \t\r\n")
    return found


def phase_axis(said: Mapping[str, Any], series: Volume) -> int:
    """Array axis of phase encoding in RAS+ order, as a sidecar says it of the stored axes; 1 (back-front) where it does not say, or says slices."""
    way = str(said.get("PhaseEncodingDirection") or said.get("PhaseEncodingAxis") or "")[:1]
    if way not in ("i", "j", "k") or series.stored is None:
        return 1
    axis = int(series.stored.orientation["ijk".index(way), 0])
    return axis if axis < 2 else 1


@dataclass(frozen=True)
class Sidecars:
    """The sidecars of a tree."""

    tree: Tree

    @cached_property
    def _by_folder(self) -> Mapping[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.tree.paths:
            if not path.endswith(schema.IMAGE_ENDINGS):
                folder, _, name = path.rpartition("/")
                found[folder or "."].append(name)
        return found

    def of(self, image: str, endings: Sequence[str] = (JSON,)) -> list[str]:
        """Sidecars of an image, the nearest first: in its folder and those above, of the same suffix, with none but its entities.

        Parameters
        ----------
        image : str
            Path from the root of the tree.
        endings : sequence of str
            Of the sidecar. One that is no JSON and lies beside an image of its very name says nothing of the others in the folder.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> (root / "sub-01").mkdir()
        >>> for name in ("T2w.json", "acq-ax_T2w.json", "T1w.json", "sub-01/sub-01_acq-ax_T2w.json"):
        ...     (root / name).touch()
        >>> Sidecars(Tree(str(root))).of("sub-01/sub-01_acq-ax_T2w.nii.gz")
        ['sub-01/sub-01_acq-ax_T2w.json', 'acq-ax_T2w.json', 'T2w.json']
        """
        path = PurePosixPath(image)
        own, suffix = entities_of(path.name.partition(".")[0])
        found: list[str] = []
        for folder in path.parents:
            fits: list[tuple[int, str]] = []
            for other in self._by_folder.get(str(folder), ()):
                ending = next((e for e in endings if other.endswith(suffix + e)), None)
                if ending is not None:
                    entities, last = entities_of(other.removesuffix(ending))
                    if last == suffix and entities <= own and (ending == JSON or entities == own or not self._has_image(folder, other, ending)):
                        fits.append((-len(entities), str(folder / other)))
            found += [name for _, name in sorted(fits)]
        return found

    def _has_image(self, folder: PurePosixPath, name: str, ending: str) -> bool:
        return any(str(folder / f"{name.removesuffix(ending)}{e}") in self.tree.names for e in schema.IMAGE_ENDINGS)

    def say(self, images: Sequence[Sequence[str]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return what the sidecars of several images of each person say, the first image first, and what is wrong with those that are no JSON."""
        paths = [[p for image in own for p in self.of(image)] for own in images]
        every = list(dict.fromkeys(p for own in paths for p in own))
        content: dict[str, dict[str, Any]] = {}
        wrong: dict[str, str] = {}
        for path, raw in zip(every, self.tree.read_many(every, what="sidecar"), strict=True):
            try:
                found = json.loads(raw or b"{}")
            except ValueError as error:
                found, wrong[path] = {}, str(error)
            content[path] = found if isinstance(found, dict) else {}
        merged = [{key: value for path in reversed(own) for key, value in content[path].items()} for own in paths]
        return merged, wrong
