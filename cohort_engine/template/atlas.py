"""The tract atlas: sparse weights of labels on the packed voxel axis, addressed by name, bound to a content hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import InputError, unknown_name

if TYPE_CHECKING:
    from scipy import sparse


@dataclass(frozen=True)
class Region:
    """A label, or a sum of labels.

    Attributes
    ----------
    name : str
    members : tuple of int
        Rows of the atlas that are summed.

    Examples
    --------
    >>> Region("left", (0,)) + Region("right", (1,))
    Region(name='left + right', members=(0, 1))
    """

    name: str
    members: tuple[int, ...]

    def __add__(self, other: Region) -> Region:
        return Region(f"{self.name} + {other.name}", tuple(sorted({*self.members, *other.members})))


_SIDE = re.compile(r"^(WM|GM|ROI) (left|right) (.+)$")
_ABBREVIATION = re.compile(r"\s*\(.*\)$")


@dataclass(frozen=True, eq=False)
class Naming:
    """Names of the labels of an atlas, and which of them belong together.

    Attributes
    ----------
    labels : tuple of str
        Name of each row: 30 white-matter tracts, 6 grey-matter regions, 1 CSF contour.
    unions : mapping of str to tuple of int
        Official unions (``"white matter"`` ...), in their order.
    clusters : mapping of str to tuple of int
        Tissue clusters of the MAP estimator.
    drawn : tuple of str
        Regions that the template does not have: masks of each image give them. They are counted on behind the labels.

    Examples
    --------
    >>> Naming(("WM left tract", "WM right tract"), {"white matter": (0, 1)}, {}).region("tract").members
    (0, 1)
    >>> some = Naming(("WM tract",), {}, {}, drawn=("ROI left part", "ROI right part"))
    >>> some.region("ROI part").members, some.masks.region("ROI right part").members
    ((1, 2), (1,))
    """

    labels: tuple[str, ...]
    unions: Mapping[str, tuple[int, ...]]
    clusters: Mapping[str, tuple[int, ...]]
    drawn: tuple[str, ...] = field(default=(), kw_only=True)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """What tables report: every label, then every official union (PAM50: 37 + 6 = 43), then those that are drawn."""
        own, drawn = (tuple(Region(n, (i,)) for i, n in enumerate(names, at)) for names, at in ((self.labels, 0), (self.drawn, len(self.labels))))
        return (*own, *(Region(n, m) for n, m in self.unions.items()), *drawn)

    @cached_property
    def masks(self) -> Naming:
        """Regions that are drawn, by themselves: each is a label, and its own tissue."""
        return Naming(self.drawn, {}, {name: (i,) for i, name in enumerate(self.drawn)})

    def in_masks(self, region: Region) -> Region | None:
        """Find a region among `masks`: None of one of the atlas.

        Raises
        ------
        InputError
            A sum of both: their voxels are counted apart.
        """
        drawn = [m - len(self.labels) for m in region.members if m >= len(self.labels)]
        if drawn and len(drawn) < len(region.members):
            raise InputError(
                expected="a sum of regions of the atlas, or of drawn ones", found=f"{region.name!r}", where="atlas",
                remedy="Ask for both apart: they hold the same voxels.",
            )  # fmt: skip
        return Region(region.name, tuple(drawn)) if drawn else None

    @cached_property
    def bilateral(self) -> tuple[Region, ...]:
        """Left and right of each pair together: ``"WM lateral corticospinal tract"``."""
        pairs: dict[str, list[int]] = {}
        for i, label in enumerate((*self.labels, *self.drawn)):
            if m := _SIDE.match(label):
                pairs.setdefault(f"{m[1]} {m[3]}", []).append(i)
        return tuple(Region(name, tuple(members)) for name, members in pairs.items() if len(members) == 2)

    @cached_property
    def _by_name(self) -> dict[str, Region]:
        table: dict[str, Region] = {}
        for region in (*self.regions, *self.bilateral):
            short = _ABBREVIATION.sub("", region.name)
            for key in (region.name, short, re.sub(r"^(WM|GM) ", "", region.name), re.sub(r"^(WM|GM) ", "", short)):
                table.setdefault(key.lower(), region)
        return table

    def region(self, name: str) -> Region:
        """Find a region by name, without regard to case, tissue prefix or the remark in brackets.

        ``"lateral corticospinal tract"`` is both sides; ``"left fasciculus gracilis + left fasciculus cuneatus"`` is a sum.
        A name nobody knows is answered with the near ones.
        """
        parts = [p.strip() for p in name.split(" + ")]
        if len(parts) > 1:
            first, *rest = (self.region(p) for p in parts)
            for r in rest:
                first = first + r
            return first
        found = self._by_name.get(name.strip().lower())
        if found is None:
            names = [r.name for r in (*self.regions, *self.bilateral)]
            raise unknown_name("tract or region", name, sorted({*names, *self._by_name}), where="atlas")
        return found


@dataclass(frozen=True, eq=False)
class Atlas(Naming):
    """Label weights of a template.

    Attributes
    ----------
    labels, unions, clusters, drawn : as in `Naming`
    weights : (label, voxel) float32 CSR array, 0 to 1
    """

    weights: sparse.csr_array

    @cached_property
    def digest(self) -> str:
        """Content hash of names and weights: 16 hex digits."""
        h = hashlib.sha256(repr((self.labels, sorted(self.unions.items()), sorted(self.clusters.items()))).encode())
        for a, dtype in ((self.weights.indptr, np.int64), (self.weights.indices, np.int32), (self.weights.data, np.float32)):
            h.update(np.ascontiguousarray(a, dtype).tobytes())
        return h.hexdigest()[:16]

    def voxels(self, regions: Iterable[Region], inside: NDArray[np.bool_]) -> NDArray[np.intp]:
        """List the voxels of which any of the regions has a share, among those `inside` (voxel,)."""
        labels = sorted({label for region in regions for label in region.members})
        return np.intersect1d(self.weights[labels].indices, np.flatnonzero(inside)).astype(np.intp)

    def region_weights(self, regions: tuple[Region, ...]) -> sparse.csr_array:
        """Sum label rows into (region, voxel) weights."""
        from scipy import sparse

        rows = np.repeat(np.arange(len(regions)), [len(r.members) for r in regions])
        columns = np.concatenate([np.asarray(r.members) for r in regions])
        pick = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(regions), len(self.labels)))
        return sparse.csr_array(pick @ self.weights)

    def membership(self, regions: tuple[Region, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(region, label) matrix of ones: region weights are ``membership @ label weights``."""
        out = np.zeros((len(regions), len(self.labels)), np.float32)
        for i, r in enumerate(regions):
            out[i, list(r.members)] = 1
        return out


INDIVIDUAL, COMBINED, MAP_LABELS = "IndivLabels", "CombinedLabels", "MAPLabels"
"""Sections of ``info_label.txt``."""
_NUMBERS = re.compile(r"(\d+)(?:\s*[:-]\s*(\d+))?")
_WHERE = "label folder: info_label.txt"


def parse_info(text: str) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Parse ``info_label.txt`` into label names (in row order), unions and MAP clusters (name -> rows).

    A name may hold commas. A group is a list of label numbers and ranges, in any order: ``0:29``, ``0-29``, ``0,2``, ``0:3;30``. Numbers are those of
    the list's first column; rows count the labels from 0 in the order of their numbers.

    Raises
    ------
    InputError
        A section is absent, a row cannot be read, a number or name is given twice, or a group names a label that is not there; with its line.

    Examples
    --------
    >>> parse_info('''# Keyword=IndivLabels
    ... 0, WM left, a.nii.gz
    ... 1, WM right, b.nii.gz
    ... 4, CSF, outer, c.nii.gz
    ... # Keyword=CombinedLabels
    ... 50, white matter, 0:1
    ... 51, left and fluid, 0,4
    ... # Keyword=MAPLabels
    ... left only, 0''')
    (('WM left', 'WM right', 'CSF, outer'), {'white matter': (0, 1), 'left and fluid': (0, 2)}, {'left only': (0,)})
    """
    sections = _sections(text)
    labels = _labels(sections)
    rows = {number: row for row, number in enumerate(labels)}
    names = {name.casefold(): "label" for name, _ in labels.values()}
    unions = _groups(sections, COMBINED, rows, names, numbered=True)
    return tuple(name for name, _ in labels.values()), unions, _groups(sections, MAP_LABELS, rows, {}, numbered=False)


def label_files(text: str) -> tuple[str, ...]:
    r"""Return the file name of each label of an ``info_label.txt``, in row order; errors as of `parse_info`.

    Examples
    --------
    >>> label_files("# Keyword=IndivLabels\n0, WM left, a.nii.gz\n1, WM right, b.nii.gz")
    ('a.nii.gz', 'b.nii.gz')
    """
    return tuple(numbered_files(text).values())


def numbered_files(text: str) -> dict[int, str]:
    r"""Return the file name under each number of an ``info_label.txt``, in the order of the numbers; errors as of `parse_info`.

    Examples
    --------
    >>> numbered_files("# Keyword=IndivLabels\n3, spinal cord mask (binary), cord.nii.gz\n7, levels, levels.nii.gz")
    {3: 'cord.nii.gz', 7: 'levels.nii.gz'}
    """
    return {number: file for number, (_, file) in _labels(_sections(text)).items()}


def _labels(sections: Mapping[str, list[tuple[int, list[str]]]]) -> dict[int, tuple[str, str]]:
    """Name and file of each label, by number."""
    found: dict[int, tuple[str, str]] = {}
    names: set[str] = set()
    for line, parts in _section(sections, INDIVIDUAL):
        number, name, file = parts[0], ", ".join(parts[1:-1]), parts[-1]
        if len(parts) < 3 or not number.isdigit() or not name or not file:
            raise _unreadable("number, name, file", parts, line)
        if "/" in file or "\\" in file or file == "..":
            raise _unreadable("the name of a file in this folder", parts, line)
        if int(number) in found or name.casefold() in names:
            raise _unreadable("each number and name once", parts, line)
        found[int(number)] = name, file
        names.add(name.casefold())
    return dict(sorted(found.items()))


def _groups(
    sections: Mapping[str, list[tuple[int, list[str]]]], keyword: str, rows: Mapping[int, int], names: dict[str, str], *, numbered: bool
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Rows of each group of labels; `names` are taken already."""
    found: dict[str, tuple[int, ...]] = {}
    for line, parts in _section(sections, keyword):
        number, words = (parts[0], parts[1:]) if numbered else ("0", parts)
        cut = len(words)
        while cut > 1 and _NUMBERS.fullmatch(words[cut - 1]):
            cut -= 1
        name, group = ", ".join(words[:cut]), words[cut:]
        if not number.isdigit() or not name or not group:
            raise _unreadable("number, name, group such as 0:29 or 0,2" if numbered else "name, group such as 0:29 or 0,2", parts, line)
        if names.setdefault(name.casefold(), keyword) != keyword or name in found:
            raise _unreadable("a name of its own", parts, line)
        members: set[int] = set()
        for part in group:
            match = _NUMBERS.fullmatch(part)
            assert match is not None
            first, last = int(match[1]), int(match[2] or match[1])
            absent = [n for n in range(first, min(last, first + len(rows)) + 1) if n not in rows]
            if last < first or absent:
                raise _unreadable(f"numbers of section {INDIVIDUAL}, the smaller one first", parts, line)
            members.update(rows[n] for n in range(first, last + 1))
        found[name] = tuple(sorted(members))
    return found


def _section(sections: Mapping[str, list[tuple[int, list[str]]]], keyword: str) -> list[tuple[int, list[str]]]:
    if keyword not in sections:
        raise InputError(
            expected=f"sections {INDIVIDUAL}, {COMBINED} and {MAP_LABELS}", found=f"{', '.join(sections) or 'none of them'}", where=_WHERE,
            remedy="Take the label folder of sct_warp_template, or of 'cohort-engine register'.",
        )  # fmt: skip
    return sections[keyword]


def _sections(text: str) -> dict[str, list[tuple[int, list[str]]]]:
    """Rows of each ``Keyword=`` section with their line numbers, cut at commas and semicolons."""
    sections: dict[str, list[tuple[int, list[str]]]] = {}
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(map(str.strip, text.removeprefix("\ufeff").splitlines()), 1):
        if line.startswith("#"):
            _, found, keyword = line.partition("Keyword=")
            rows = sections.setdefault(keyword.split()[0], []) if found and keyword.strip() else rows
        elif line:
            rows.append((number, [part.strip().strip('"') for part in re.split(r"[,;]", line.rstrip(",; "))]))
    return sections


def _unreadable(expected: str, parts: list[str], line: int) -> InputError:
    return InputError(expected=expected, found=repr(", ".join(parts)), where=f"{_WHERE}, line {line}", remedy="Correct the row.")
