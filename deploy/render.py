"""Write what stands in deploy/docker and deploy/kubernetes from one description (a test compares): images, compose file, manifests.

``python deploy/render.py`` after a change of configs/clusters/kubernetes.yaml or of `cohort_engine.engine.clusters.manifests`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cohort_engine.config import compute_model, parse_section, read_yaml
from cohort_engine.engine.clusters import manifests

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
HEAD = "# Rendered by deploy/render.py: change it there.\n"
FILES = ("pyproject.toml", "README.md", "LICENSE", "requirements.lock", "cohort_engine", "configs")
"""What an image is made of."""
HOME = "/opt/cohort"
PYTHON = "python:3.11-slim"
"""The lock file was written with this Python."""
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
S3_IMAGE = "minio/minio:RELEASE.2025-04-22T22-12-26Z"


def dockerfile(*, cuda: bool = False) -> str:
    """Give the recipe of an image; the package index's own torch brings CUDA along, and needs the driver of the machine alone."""
    lines = [
        f"FROM {PYTHON}",
        "ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1",
        f"WORKDIR {HOME}",
        *(f"COPY {name} ./{name}" for name in FILES),
        *([] if cuda else [f'RUN pip install --index-url {CPU_TORCH} "$(grep ^torch== requirements.lock)"']),
        'RUN pip install --constraint requirements.lock ".[all,kubernetes]"',
        f"ENV COHORT_ENGINE_CLUSTERS={HOME}/configs/clusters OMP_NUM_THREADS=1",
        *(["ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"] if cuda else []),
        "RUN useradd --create-home --uid 1000 cohort",
        "USER cohort",
        f"WORKDIR {manifests.DATA}",
        'CMD ["cohort-engine", "--help"]',
    ]
    return "\n".join([HEAD, *lines, ""])


def dockerignore() -> str:
    """Give what of the folder goes into an image: images, masks and names of a study beside it do not."""
    return "\n".join([HEAD, "*", *(f"!{name}" for name in FILES), "**/__pycache__", ""])


def compose() -> dict[str, Any]:
    """Give the services: scheduler, workers, workers with a GPU, a bucket, and the build."""
    secrets = {"AWS_ACCESS_KEY_ID": "${S3_USER:?set S3_USER}", "AWS_SECRET_ACCESS_KEY": "${S3_PASSWORD:?set S3_PASSWORD, eight characters or more}"}
    bucket = {"AWS_ENDPOINT_URL": "http://s3:9000", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", **secrets}
    found = {"DASK_SCHEDULER_ADDRESS": f"tcp://scheduler:{manifests.SCHEDULER_PORT}", "COHORT_ENGINE_PAM50": f"{manifests.DATA}/PAM50"}
    alive = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{manifests.PAGE_PORT}/health')"
    context = {"context": "../..", "dockerfile": "deploy/docker/Dockerfile"}

    def ours(command: list[str], *, cuda: bool = False, **more: Any) -> dict[str, Any]:
        image = "cohort-engine:cuda" if cuda else "cohort-engine:latest"
        made = context | {"dockerfile": "deploy/docker/Dockerfile.cuda"} if cuda else context
        data = f"${{DATA:-./data}}:{manifests.DATA}"
        return {"image": image, "build": dict(made), "command": command, "environment": found | bucket, "volumes": [data], **more}

    def worker(memory: str, replicas: int, offers: dict[str, float], reserved: dict[str, Any], **more: Any) -> dict[str, Any]:
        deploy = {"replicas": replicas, "resources": {"limits": {"memory": memory}, **reserved}}
        return ours(manifests.worker_command(offers), deploy=deploy, depends_on=dict(ready), restart="unless-stopped", **more)

    ready = {"scheduler": {"condition": "service_healthy"}}
    gpu = {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}
    return {
        "name": "cohort",
        "services": {
            "scheduler": ours(
                manifests.scheduler_command(),
                ports=[f"127.0.0.1:{p}:{p}" for p in (manifests.SCHEDULER_PORT, manifests.PAGE_PORT)],
                healthcheck={"test": ["CMD", "python", "-c", alive], "interval": "5s", "timeout": "5s", "retries": 12},
            ),
            "worker": worker("4g", 2, {"cpu": 1.0}, {}),
            "worker-gpu": worker("16g", 1, {"gpu": 1.0}, gpu, cuda=True, profiles=["gpu"]),
            "build": ours(["cohort-engine", "build", f"{manifests.DATA}/study.yaml", "--cluster", "compose"], depends_on=ready, profiles=["build"]),
            "s3": {
                "image": S3_IMAGE,
                "command": ["server", "/buckets", "--console-address", ":9001"],
                "environment": {"MINIO_ROOT_USER": secrets["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": secrets["AWS_SECRET_ACCESS_KEY"]},
                "ports": ["127.0.0.1:9000:9000", "127.0.0.1:9001:9001"],
                "volumes": ["buckets:/buckets"],
            },
        },
        "volumes": {"buckets": {}},
    }


def cluster() -> list[dict[str, Any]]:
    """Give scheduler, workers with and without a GPU, and what keeps as many as there is work for."""
    compute, name = _kubernetes()
    return [manifests.cluster(name, compute), manifests.gpu_group(name, compute), manifests.autoscaler(name, compute)]


def build() -> list[dict[str, Any]]:
    """Give the job that builds."""
    compute, name = _kubernetes()
    return [manifests.build_job(name, compute)]


def _kubernetes() -> tuple[Any, str]:
    path = ROOT / "configs" / "clusters" / "kubernetes.yaml"
    compute = parse_section(compute_model(), read_yaml(path), where=path.name)
    return compute, compute.kubernetes.name


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice: people read it."""
        return True


def as_yaml(*documents: Any) -> str:
    """Write mappings in their order."""
    return HEAD + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=140)


RENDERED: dict[str, Callable[[], str]] = {
    "docker/Dockerfile": dockerfile,
    "docker/Dockerfile.dockerignore": dockerignore,
    "docker/Dockerfile.cuda": lambda: dockerfile(cuda=True),
    "docker/Dockerfile.cuda.dockerignore": dockerignore,
    "docker/compose.yaml": lambda: as_yaml(compose()),
    "kubernetes/cluster.yaml": lambda: as_yaml(*cluster()),
    "kubernetes/build.yaml": lambda: as_yaml(*build()),
}
"""What is rendered, by its place in deploy/."""

if __name__ == "__main__":
    for place, render in RENDERED.items():
        (FOLDER / place).parent.mkdir(exist_ok=True)
        (FOLDER / place).write_text(render())
