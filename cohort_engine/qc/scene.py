"""What can be shown of one subject: what the store holds, and the files of the study where they are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.engine.state import People, join_subjects
from cohort_engine.engine.study import Undertaking
from cohort_engine.errors import CohortError, MissingInputError
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask, read_volume
from cohort_engine.store import layout
from cohort_engine.store.records import list_made, made_url
from cohort_engine.store.writer import read_subject
from cohort_engine.template import load_template
from cohort_engine.template.base import Template

STUDY_FILE = "Give the study file in place of the store: it says where the images are."


@dataclass(frozen=True)
class Places:
    """Files of one row.

    Attributes
    ----------
    row : int
    files : mapping of role to location
        Of the study, and what stages made.
    kinds : mapping of landmark role to kind
    why : str
        Why there are no images, where there are none.
    """

    row: int
    files: Mapping[str, str] = field(repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)
    why: str = ""


def places_of(url: str, config: Config | None = None) -> tuple[dict[int, Places], str]:
    """Look up the files of every row.

    Parameters
    ----------
    url : str
        The store.
    config : Config, optional
        The study file; without it only what stages made is known.

    Returns
    -------
    places : dict of row to Places
    why : str
        Why the study's files are not known; empty where they are.
    """
    root = layout.open_root(url)
    files: dict[int, dict[str, str]] = {row: {} for row in range(layout.row_count(root))}
    kinds: dict[int, dict[str, str]] = {}
    why = f"The images of the study are not known. {STUDY_FILE}"
    if config is not None:
        try:
            study = Undertaking(config)
            people = People.of(study.study, config.data, root)
            for subject in join_subjects(study.study, people.rows, study.stages):
                files[subject.row], kinds[subject.row] = dict(subject.files), dict(subject.kinds)
            why = ""
        except CohortError as error:
            why = str(error)
    for row, role in list_made(url):
        if row in files and (role not in files[row] or role.endswith(f"_{schema.LANDMARKS}")):
            files[row][role] = made_url(url, row, role)
            kinds.setdefault(row, {})[role] = schema.DISC
    return {row: Places(row, own, kinds.get(row, {}), why) for row, own in files.items()}, why


class Scene:
    """One subject, read as it is asked for.

    Parameters
    ----------
    url : str
    places : Places
    template : callable of nothing to Template
        `template_of` of the store.
    """

    def __init__(self, url: str, places: Places, template: Any) -> None:
        self.url, self.row, self.places = url, places.row, places
        self._template = template
        self._volumes: dict[tuple[str, str], Volume] = {}

    @cached_property
    def template(self) -> Template:
        """The template that the store was built with."""
        found: Template = self._template()
        return found

    @cached_property
    def root(self) -> zarr.Group:
        """The store."""
        return layout.open_root(self.url)

    @cached_property
    def specs(self) -> Mapping[str, schema.VariableSpec]:
        """What the store was laid out for."""
        return layout.stored_specs(self.root)

    def array(self, path: str) -> NDArray[Any] | None:
        """Read the subject's own part of a variable; None where the store has none, or no value in it."""
        if path not in self.specs:
            return None
        values = read_subject(self.url, self.row, path)
        return values if values.dtype.kind not in "f" or np.isfinite(values).any() else None

    def text(self, path: str) -> str:
        """Words that the store has of the subject; empty where it has none."""
        found = self.array(path)
        return "" if found is None else str(found)

    def has(self, *roles: str) -> bool:
        """Whether there are files of all these roles."""
        return all(role in self.places.files for role in roles)

    def _place(self, role: str) -> str:
        if role not in self.places.files:
            raise MissingInputError(
                expected=f"the {schema.words(role)}", found="none at hand", where="picture", remedy=self.places.why or "The subject has no such file."
            )
        return self.places.files[role]

    def image(self, role: str) -> Volume:
        """Read an image of the subject, RAS+."""
        if (role, "") not in self._volumes:
            self._volumes[role, ""] = read_volume(self._place(role), what=schema.words(role))
        return self._volumes[role, ""]

    def mask(self, role: str, on: str) -> Volume:
        """Read a mask on the voxels of the image of the role `on`."""
        if (role, on) not in self._volumes:
            mask = read_mask(self._place(role), what=schema.words(role))
            image = self.image(on)
            if image.data.shape != mask.data.shape or not image.grid.same(mask.grid):
                mask = on_voxels_of(image, mask, what=schema.words(role), like=f"the {schema.words(on)}")
            self._volumes[role, on] = mask
        return self._volumes[role, on]

    def positions(self, contrast: str) -> NDArray[np.float32] | None:
        """Template map (voxel, 3) of a contrast, RAS+ mm; None where it was not made."""
        return self.array(schema.fit_spec(contrast).path)

    @property
    def mapped(self) -> list[str]:
        """Contrasts that have a template map."""
        return [name for name in schema.CONTRASTS if self.positions(name) is not None]


def template_of(root: zarr.Group, config: Config | None = None) -> Template:
    """Load the template that a store was built with.

    Raises
    ------
    TemplateError
        It is not installed, or another one is.
    """
    path = None if config is None else config.template.path
    template = load_template(str(root.attrs[layout.TEMPLATE_NAME]), path=path)
    template.check_digest(str(root.attrs[layout.TEMPLATE_DIGEST]), where="pictures")
    return template
