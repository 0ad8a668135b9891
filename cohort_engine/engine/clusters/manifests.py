"""What Kubernetes is told: pods for scheduler, workers with and without a GPU, and the process that builds. Plain mappings, nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cohort_engine import schema
from cohort_engine.config import ComputeConfig
from cohort_engine.engine.clusters.on_dask import CPU

SCHEDULER_PORT, PAGE_PORT = 8786, 8787
"""Where the scheduler listens, and the page that shows the cluster at work."""
DATA, STUDY = "/data", "/study"
"""Where a pod sees the volume, and the study file."""
GPU_GROUP = "gpu"
"""Worker group of the workers with a GPU."""
GPU_RESOURCE = "nvidia.com/gpu"
"""What Kubernetes calls a GPU."""


def worker_command(resources: Mapping[str, float]) -> list[str]:
    """Give the command of a worker that finds the scheduler's address in its environment.

    Examples
    --------
    >>> " ".join(worker_command({"gpu": 1}))
    'dask worker --nthreads 1 --resources gpu=1'
    """
    offered = ",".join(f"{name}={amount:g}" for name, amount in resources.items())
    return ["dask", "worker", "--nthreads", "1", *(["--resources", offered] if offered else [])]


def scheduler_command() -> list[str]:
    """Give the command of a scheduler that other machines reach."""
    return ["dask", "scheduler", "--host", "0.0.0.0", "--port", str(SCHEDULER_PORT), "--dashboard-address", f":{PAGE_PORT}"]


def cluster(name: str, compute: ComputeConfig) -> dict[str, Any]:
    """Give a ``DaskCluster``: a scheduler with its service, and the workers without a GPU."""
    labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    ports = {"tcp-comm": SCHEDULER_PORT, "http-dashboard": PAGE_PORT}
    probe = {"httpGet": {"path": "/health", "port": "http-dashboard"}}
    scheduler = _container("scheduler", scheduler_command(), compute, compute.kubernetes.image, compute.memory) | {
        "ports": [{"name": n, "containerPort": p, "protocol": "TCP"} for n, p in ports.items()],
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 60},
        "livenessProbe": {**probe, "initialDelaySeconds": 30, "periodSeconds": 20, "timeoutSeconds": 60},
    }
    service = [{"name": n, "port": p, "protocol": "TCP", "targetPort": n} for n, p in ports.items()]
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": _workers(compute, compute.workers, compute.memory, {CPU: 1.0} if compute.gpus else {}),
            "scheduler": {
                "spec": {"containers": [scheduler], **_volumes(compute)},
                "service": {"type": "ClusterIP", "selector": labels, "ports": service},
            },
        },
    }


def gpu_workers(compute: ComputeConfig) -> dict[str, Any]:
    """Give the workers with a GPU, as ``spec.worker`` of a ``DaskWorkerGroup``."""
    group = _workers(compute, compute.gpus, compute.gpu_memory, {schema.GPU: 1.0}, compute.kubernetes.gpu_image)
    group["spec"]["containers"][0]["resources"]["limits"][GPU_RESOURCE] = "1"
    group["spec"]["tolerations"] = [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
    if compute.kubernetes.gpu_nodes:
        group["spec"]["nodeSelector"] = dict(compute.kubernetes.gpu_nodes)
    return group


def gpu_group(name: str, compute: ComputeConfig) -> dict[str, Any]:
    """Give the ``DaskWorkerGroup`` of the workers with a GPU, beside the cluster of that name."""
    metadata = {"name": f"{name}-{GPU_GROUP}"}
    spec = {"cluster": name, "worker": gpu_workers(compute)}
    return {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "metadata": metadata, "spec": spec}


def autoscaler(name: str, compute: ComputeConfig) -> dict[str, Any]:
    """Give the ``DaskAutoscaler`` that keeps as many workers as there is work for."""
    spec = {"cluster": name, "minimum": compute.at_least, "maximum": compute.workers}
    return {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler", "metadata": {"name": name}, "spec": spec}


def build_job(name: str, compute: ComputeConfig, *, study: str = "study", file: str = "study.yaml") -> dict[str, Any]:
    """Give the ``Job`` that builds the study file of a config map, on a running cluster; killed, it is started again and continues."""
    container = _container("build", ["cohort-engine", "build", f"{STUDY}/{file}"], compute, compute.kubernetes.image, compute.memory)
    pod = _volumes(compute)
    container["volumeMounts"] = [*container.get("volumeMounts", []), {"name": "study", "mountPath": STUDY, "readOnly": True}]
    volumes = [*pod.get("volumes", []), {"name": "study", "configMap": {"name": study}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-build"},
        "spec": {
            "backoffLimit": 3,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes}},
        },
    }


def _workers(compute: ComputeConfig, replicas: int, memory: str, resources: Mapping[str, float], image: str | None = None) -> dict[str, Any]:
    command = [*worker_command(resources), "--name", "$(DASK_WORKER_NAME)"]
    container = _container("worker", command, compute, image or compute.kubernetes.image, memory)
    return {"replicas": replicas, "spec": {"containers": [container], **_volumes(compute)}}


def _container(name: str, args: Sequence[str], compute: ComputeConfig, image: str, memory: str) -> dict[str, Any]:
    from dask.utils import parse_bytes

    kubernetes = compute.kubernetes
    room = f"{parse_bytes(memory) // 2**20}Mi"
    made: dict[str, Any] = {
        "name": name, "image": image, "args": list(args), "env": [{"name": k, "value": v} for k, v in kubernetes.env.items()],
        "resources": {"requests": {"cpu": str(compute.cores), "memory": room}, "limits": {"memory": room}},
    }  # fmt: skip
    if kubernetes.secret:
        made["envFrom"] = [{"secretRef": {"name": kubernetes.secret}}]
    if kubernetes.volume:
        made["volumeMounts"] = [{"name": "data", "mountPath": DATA}]
    return made


def _volumes(compute: ComputeConfig) -> dict[str, Any]:
    claim = compute.kubernetes.volume
    return {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]} if claim else {}
