"""Reference spaces: a grid, cord maps, vertebral landmarks and a tract atlas. `load_template` finds them by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cohort_engine.errors import unknown_name

if TYPE_CHECKING:
    from cohort_engine.template.base import Heights, Template

NAMES = ("PAM50", "parametric")


def load_template(name: str, *, path: str | Path | None = None) -> Template:
    """Load a template by name.

    Parameters
    ----------
    name : str
        ``"PAM50"`` or ``"parametric"``, without regard to case.
    path : path, optional
        Folder of PAM50; by default ``$COHORT_ENGINE_PAM50``, else the installed copy.

    Raises
    ------
    UnknownNameError
        No such template.
    TemplateError
        PAM50 is absent, incomplete or changed.
    """
    match name.lower():
        case "pam50":
            from cohort_engine.template.pam50 import load_pam50

            return load_pam50(path)
        case "parametric":
            from cohort_engine.template.parametric import parametric_cord

            return parametric_cord()
        case _:
            raise unknown_name("template", name, list(NAMES), where="template.name")


def load_heights(name: str, *, path: str | Path | None = None) -> Heights:
    """Load what places a cord along a template, without its maps and atlas; arguments and errors as of `load_template`."""
    if name.lower() == "pam50":
        from cohort_engine.template import pam50

        return pam50.load_heights(path)
    return load_template(name, path=path)
