"""The tract atlas: sparse weights of labels on the packed voxel axis, addressed by name, bound to a content hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_engine.errors import unknown_name

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


_SIDE = re.compile(r"^(WM|GM) (left|right) (.+)$")
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

    Examples
    --------
    >>> Naming(("WM left tract", "WM right tract"), {"white matter": (0, 1)}, {}).region("tract").members
    (0, 1)
    """

    labels: tuple[str, ...]
    unions: Mapping[str, tuple[int, ...]]
    clusters: Mapping[str, tuple[int, ...]]

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """What a table reports: every label, then every official union (PAM50: 37 + 6 = 43)."""
        return tuple(Region(n, (i,)) for i, n in enumerate(self.labels)) + tuple(Region(n, m) for n, m in self.unions.items())

    @cached_property
    def bilateral(self) -> tuple[Region, ...]:
        """Left and right of each pair together: ``"WM lateral corticospinal tract"``."""
        pairs: dict[str, list[int]] = {}
        for i, label in enumerate(self.labels):
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
    labels, unions, clusters : as in `Naming`
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


def parse_info(text: str) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Parse ``info_label.txt`` into label names (in row order), unions and MAP clusters (name -> rows).

    Examples
    --------
    >>> parse_info('''# Keyword=IndivLabels
    ... 0, WM left, a.nii.gz
    ... 1, WM right, b.nii.gz
    ... # Keyword=CombinedLabels
    ... 50, white matter, 0:1
    ... # Keyword=MAPLabels
    ... left only, 0''')
    (('WM left', 'WM right'), {'white matter': (0, 1)}, {'left only': (0,)})
    """
    sections = _sections(text)
    labels = {int(number): ", ".join(name) for number, *name, _ in sections["IndivLabels"]}
    unions = {", ".join(name): _rows(group) for _, *name, group in sections["CombinedLabels"]}
    clusters = {", ".join(name): _rows(group) for *name, group in sections["MAPLabels"]}
    return tuple(labels[i] for i in range(len(labels))), unions, clusters


def label_files(text: str) -> tuple[str, ...]:
    r"""Return the file name of each label of an ``info_label.txt``, in row order.

    Examples
    --------
    >>> label_files("# Keyword=IndivLabels\n0, WM left, a.nii.gz\n1, WM right, b.nii.gz")
    ('a.nii.gz', 'b.nii.gz')
    """
    files = numbered_files(text)
    return tuple(files[i] for i in range(len(files)))


def numbered_files(text: str) -> dict[int, str]:
    r"""Return the file name under each number of an ``info_label.txt``.

    Examples
    --------
    >>> numbered_files("# Keyword=IndivLabels\n3, spinal cord mask (binary), cord.nii.gz\n7, levels, levels.nii.gz")
    {3: 'cord.nii.gz', 7: 'levels.nii.gz'}
    """
    return {int(number): file for number, *_, file in _sections(text)["IndivLabels"]}


def _sections(text: str) -> dict[str, list[list[str]]]:
    """Rows of each ``Keyword=`` section, cut at the commas."""
    sections: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#"):
            _, found, keyword = line.partition("Keyword=")
            rows = sections.setdefault(keyword.split()[0], []) if found else rows
        elif line:
            rows.append([part.strip() for part in line.split(",")])
    return sections


def _rows(group: str) -> tuple[int, ...]:
    first, _, last = group.partition(":")
    return tuple(range(int(first), int(last or first) + 1))
