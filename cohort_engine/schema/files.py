"""Files of a study: the role of each, and the contrasts that get a template map of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cohort_engine.registry import Registry

# --- contrasts, roles of files ----------------------------------------------------------------------------------------
T2W = "t2w"
MT: Final = "mt"
MT_ON = "mt_on"
MT_OFF = "mt_off"
MASK = "mask"
LANDMARKS = "landmarks"
MT_T1W = "mt_t1w"
MT_B1 = "mt_b1"
MTR: Final = "mtr"
MTSAT: Final = "mtsat"
T1: Final = "t1"
SIDECAR = "json"
IMAGE_ENDINGS = (".nii.gz", ".nii")


def role(contrast: str, kind: str) -> str:
    """Role of a derivative of a contrast, for instance ``role(T2W, MASK) == "t2w_mask"``."""
    return f"{contrast}_{kind}"


@dataclass(frozen=True)
class Role:
    """What a file of the study is for. Files have roles; messages name roles, never paths.

    Attributes
    ----------
    name : str
    words : str
        What a message calls it.
    suffixes : tuple of str
        Last word of the file's name in BIDS, of an image that a stage reads; empty for what is found by other rules.
    states : tuple of mapping
        Entities it must have, without regard to case: one of the alternatives.
    beside : str
        Role of the image it is compared with: of several files the one with the name most like it is taken.
    endings : tuple of str
        How the file's name ends.
    file : str
        Words that end the file's name, where a study file gives them: ``desc-t1_map``.
    sidecar_of : str
        Role of the image that this file says more of: ``.json``, ``.bval``. It is found by the inheritance principle of BIDS; of JSON files all that
        apply are one file, in which what the nearest says holds.
    made_of : str
        Role of the image that this one is made of (a mean of a series): it is called after that, and so is what belongs to it.
    without : mapping of str to tuple of str
        Values of an entity, in lower case, that it does not have.
    """

    name: str
    words: str
    suffixes: tuple[str, ...] = ()
    states: tuple[Mapping[str, str], ...] = ({},)
    beside: str = ""
    endings: tuple[str, ...] = IMAGE_ENDINGS
    file: str = ""
    sidecar_of: str = ""
    made_of: str = ""
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ROLES: Registry[Role] = Registry("role", "cohort_engine.stages")


def words(name: str) -> str:
    """Words that a message uses for a role; a role of a study file alone has its name.

    Examples
    --------
    >>> words("mt_mask"), words("t1_image")
    ('cord mask of the MT-on image', 't1 image')
    """
    return ROLES[name].words if name in ROLES else name.replace("_", " ")


@dataclass(frozen=True)
class Contrast:
    """A kind of image that gets a template map of its own.

    Attributes
    ----------
    name : str
    words : str
        ``"MT image"``.
    image : str
        Role of the image that its mask and landmarks belong to.
    grey : bool
        Whether such images may show grey matter, and so refine their map; that white matter is darker or brighter than grey is found, not said.
        Without it the map follows the mask to its border.
    """

    name: str
    words: str
    image: str
    grey: bool = True

    @property
    def mask(self) -> str:
        return role(self.name, MASK)

    @property
    def landmarks(self) -> str:
        return role(self.name, LANDMARKS)


CONTRASTS: Registry[Contrast] = Registry("contrast", "cohort_engine.stages")


def add_contrast(contrast: Contrast, image: Role) -> None:
    """Register a contrast with the role of its image and of what belongs to it: mask and landmarks."""
    ROLES.add(image)
    CONTRASTS.add(contrast)
    ROLES.add(Role(contrast.mask, f"cord mask of the {image.words}"))
    ROLES.add(Role(contrast.landmarks, f"vertebral landmarks of the {image.words}"))


# --- the contrasts and images that every study may have ----------------------------------------------------------------
add_contrast(Contrast(T2W, "T2w image", T2W, grey=False), Role(T2W, "T2w image", ("T2w",)))
add_contrast(Contrast(MT, "MT image", MT_ON), Role(MT_ON, "MT-on image", ("MTS", "MTR"), ({"mt": "on"}, {"acq": "MTon"})))
ROLES.add(Role(MT_OFF, "MT-off image", ("MTS", "MTR"), ({"mt": "off"}, {"acq": "MToff"}), beside=MT_ON))
ROLES.add(Role(MT_T1W, "T1w image of the MT protocol", ("MTS",), ({"mt": "off", "flip": "2"}, {"acq": "T1w"}), beside=MT_ON))
ROLES.add(Role(MT_B1, "map of the transmit field", ("TB1map",), beside=MT_ON))
for _name, _words in ((MT_ON, "MT-on image"), (MT_OFF, "MT-off image"), (MT_T1W, "T1w image of the MT protocol")):
    ROLES.add(Role(role(_name, SIDECAR), f"sidecar of the {_words}", endings=(".json",), sidecar_of=_name))
