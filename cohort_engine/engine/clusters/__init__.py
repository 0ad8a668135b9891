"""Where work runs: `base` says what the engine knows, and each kind of cluster is a file beside it."""

from importlib import import_module
from pkgutil import iter_modules

from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind, Interrupted, Pool, WorkerOffer, interruptible, make_pool

__all__ = ["CLUSTERS", "ClusterKind", "Interrupted", "Pool", "WorkerOffer", "interruptible", "make_pool"]

for _module in iter_modules(__path__, f"{__name__}."):  # in one order, whichever is asked for first
    import_module(_module.name)
