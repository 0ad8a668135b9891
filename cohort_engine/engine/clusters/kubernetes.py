"""Workers as pods of Kubernetes, by Dask's operator, which replaces those that are lost."""

from __future__ import annotations

import logging
from contextlib import suppress

from pydantic import Field

from cohort_engine.config import Section
from cohort_engine.engine.clusters import manifests
from cohort_engine.engine.clusters.base import CLUSTERS, ClusterKind
from cohort_engine.engine.clusters.elsewhere import ElsewherePool
from cohort_engine.errors import ConfigError, ResourceError, first_line, optional


class KubernetesConfig(Section):
    """Pods of Kubernetes. Dask's operator must be installed in the cluster."""

    name: str = "cohort"
    """Of the cluster that is made, and a word in the names of its pods: not of a study or of people."""
    namespace: str | None = None
    """Namespace; by default that of your context."""
    image: str = "cohort-engine:latest"
    """Image with this package (``deploy/docker/Dockerfile``)."""
    gpu_image: str = "cohort-engine:cuda"
    """Image of the workers with a GPU (``deploy/docker/Dockerfile.cuda``)."""
    volume: str | None = None
    """Claim of a volume that every pod sees as ``/data``; buckets need none."""
    secret: str | None = None
    """Secret whose keys become variables of the environment: the credentials of a bucket."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further variables of the environment; nothing secret."""
    gpu_nodes: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes with a GPU."""


class KubernetesPool(ElsewherePool):
    """A cluster of the operator, deleted with the build: as many workers as there is work for, and a group of those with a GPU."""

    check = "`kubectl get pods`, and at what `kubectl describe pod` says of those that are pending"

    def _start(self, workers: int) -> None:
        with optional("dask-kubernetes", "kubernetes", where="compute.cluster: kubernetes"):
            from dask_kubernetes.operator import KubeCluster
        compute, kubernetes = self.compute, self.compute.kubernetes
        if compute.tls:
            raise ConfigError(
                expected="certificates that pods have", found="`tls` with a cluster of pods", where="compute.tls",
                remedy="Keep pods apart by a network policy or the mesh of your site, or start a scheduler with certificates (cluster: address).",
            )  # fmt: skip
        spec = manifests.cluster(kubernetes.name, compute.model_copy(update={"workers": max(1, compute.at_least)}))
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            cluster = KubeCluster(custom_cluster_spec=spec, namespace=kubernetes.namespace, quiet=True, shutdown_on_close=True)
            self.clusters.append(cluster)
            if compute.gpus:
                cluster.add_worker_group(manifests.GPU_GROUP, custom_spec=manifests.gpu_workers(compute))
            if workers > compute.at_least:
                cluster.adapt(minimum=compute.at_least, maximum=workers)
        except Exception as error:  # of several libraries beneath, each with errors of its own
            raise ResourceError(
                expected="a Kubernetes cluster with Dask's operator", found=first_line(error), where="compute.cluster: kubernetes",
                remedy="Try `kubectl get daskclusters`: it must answer.",
            ) from error  # fmt: skip

    def _dashboard(self) -> str:
        with suppress(Exception):  # a page that is not forwarded stops nothing
            return str(self.clusters[0].dashboard_link)
        return ""


CLUSTERS.add(ClusterKind("kubernetes", KubernetesPool, KubernetesConfig))
