"""Stages: what is done to one subject. Each says what it reads, writes and needs, and how it is configured.

All modules are imported in one order, whichever is asked for first: so is the order of what they register.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
