"""Where work runs: `base` says what the engine knows, and each kind of cluster is a file beside it."""

from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind, Interrupted, Pool, WorkerOffer, interruptible, make_pool

__all__ = ["CLUSTERS", "ClusterKind", "Interrupted", "Pool", "WorkerOffer", "interruptible", "make_pool"]
