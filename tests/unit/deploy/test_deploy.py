"""What is committed in deploy/ is what is rendered, and what is rendered is what Kubernetes, Dask's operator and Docker take."""

from __future__ import annotations

import copy
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cohort_engine.config import ComputeConfig, compute_model
from cohort_engine.engine.clusters import make_pool, manifests
from cohort_engine.errors import ResourceError
from cohort_engine.single.process import Workplace

ROOT = Path(__file__).resolve().parents[3]
RENDER = runpy.run_path(str(ROOT / "deploy" / "render.py"))
PLACES = sorted(RENDER["RENDERED"])
CLUSTER, GROUP, SCALER = RENDER["cluster"]()
(JOB,) = RENDER["build"]()
COMPOSE = RENDER["compose"]()


@pytest.mark.parametrize("place", PLACES)
def test_what_is_committed_is_what_is_rendered(place: str) -> None:
    assert (ROOT / "deploy" / place).read_text() == RENDER["RENDERED"][place](), "run: python deploy/render.py"


# --- Kubernetes ---------------------------------------------------------------------------------------------------------
def closed(schema: Any) -> Any:
    """Forbid what a schema does not name: the operator's would let a misspelt key pass."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: closed(v) for k, v in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
    return made


def operator_schema(kind: str) -> Any:
    package = pytest.importorskip("dask_kubernetes")
    place = Path(package.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds" / f"{kind.lower()}.yaml"
    found = yaml.load(place.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = found["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {"const": f"{found['spec']['group']}/{version['name']}"}, "kind": {"const": kind}, "metadata": {}}
    return schema


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return {kind: operator_schema(kind) for kind in ("DaskCluster", "DaskWorkerGroup", "DaskAutoscaler")}


def check(document: dict[str, Any], schemas: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schemas[document["kind"]]).validate(document)


@pytest.mark.parametrize("document", [CLUSTER, GROUP, SCALER], ids=lambda d: d["kind"])
def test_the_operator_takes_our_manifests(document: dict[str, Any], schemas: dict[str, Any]) -> None:
    check(document, schemas)


def keys(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every key whose name Kubernetes gives."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in ("metadata", "selector", "nodeSelector", "requests", "limits", "env"):
                yield node, key
                yield from keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys(value)


def test_a_misspelt_key_anywhere_is_refused(schemas: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    refused = 0
    for document in (CLUSTER, GROUP, SCALER):
        validator = jsonschema.Draft202012Validator(schemas[document["kind"]])
        for i in range(len(list(keys(document)))):
            bad = copy.deepcopy(document)
            node, key = list(keys(bad))[i]
            node[f"{key}x"] = node.pop(key)
            assert not validator.is_valid(bad), key
            refused += 1
    assert refused > 60


def pods() -> dict[str, dict[str, Any]]:
    found = {
        "scheduler": CLUSTER["spec"]["scheduler"]["spec"], "worker": CLUSTER["spec"]["worker"]["spec"], "gpu": GROUP["spec"]["worker"]["spec"],
        "build": JOB["spec"]["template"]["spec"],
    }  # fmt: skip
    return {name: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec} for name, spec in found.items()}


def core() -> dict[str, dict[str, Any]]:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": CLUSTER["spec"]["scheduler"]["service"]}
    return {**pods(), "service": service, "job": JOB}


@pytest.mark.parametrize("name", ["scheduler", "worker", "gpu", "build", "service", "job"])
def test_kubernetes_takes_the_core_parts(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    newest = pytest.importorskip("kubernetes_validate").latest_version()
    validate(core()[name], newest, strict=True)
    bad = copy.deepcopy(core()[name])
    bad["spec"]["restartPolicyx"] = "Never"
    with pytest.raises(Exception, match="restartPolicyx"):
        validate(bad, newest, strict=True)


def test_the_job_finds_the_scheduler_that_the_cluster_makes() -> None:
    """The operator calls the service of a scheduler after its cluster."""
    inside = yaml.safe_load((ROOT / "configs/clusters/in-kubernetes.yaml").read_text())
    port = CLUSTER["spec"]["scheduler"]["service"]["ports"][0]["port"]
    assert inside["address"] == f"tcp://{CLUSTER['metadata']['name']}-scheduler:{port}"


def test_a_gpu_is_asked_for_by_those_that_offer_one_alone() -> None:
    (gpu,), (plain,) = (pods()[n]["spec"]["containers"] for n in ("gpu", "worker"))
    assert (gpu["resources"]["limits"]["nvidia.com/gpu"], "gpu=1" in gpu["args"], gpu["image"]) == ("1", True, "cohort-engine:cuda")
    assert ("nvidia.com/gpu" in plain["resources"]["limits"], "cpu=1" in plain["args"]) == (False, True)


# --- the pool -----------------------------------------------------------------------------------------------------------
class Operator:
    """Takes the place of dask-kubernetes' cluster, and writes down what it is asked for."""

    asked: tuple[Any, ...] = ()

    def __init__(self, **given: Any) -> None:
        Operator.asked = (given,)

    def add_worker_group(self, name: str, custom_spec: Any) -> None:
        Operator.asked += (name, custom_spec)

    def adapt(self, minimum: int, maximum: int) -> None:
        Operator.asked += (minimum, maximum)

    def close(self) -> None:
        Operator.asked += ("closed",)


def kubernetes(**options: Any) -> ComputeConfig:
    return compute_model().model_validate({"cluster": "kubernetes", "workers": 8, **options})


def test_the_pool_asks_the_operator_for_what_is_rendered(monkeypatch: pytest.MonkeyPatch, schemas: dict[str, Any]) -> None:
    pytest.importorskip("dask_kubernetes")
    monkeypatch.setattr("dask_kubernetes.operator.KubeCluster", Operator)
    given = kubernetes(gpus=2, kubernetes={"namespace": "lab", "secret": "bucket", "gpu_nodes": {"gpu": "a100"}})
    pool: Any = make_pool(given)
    pool._start(5)
    options, group, spec, least, most = Operator.asked
    pool.close()
    assert (options["namespace"], options["shutdown_on_close"], group, least, most) == ("lab", True, "gpu", 1, 5)
    check(options["custom_cluster_spec"], schemas)
    assert spec == manifests.gpu_workers(given)
    assert spec["spec"]["nodeSelector"] == {"gpu": "a100"}
    assert spec["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert Operator.asked[-1] == "closed"


def test_a_machine_without_a_cluster_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_kubernetes")

    def refuse(**given: Any) -> None:
        raise ValueError("Unable to find valid credentials")

    monkeypatch.setattr("dask_kubernetes.operator.KubeCluster", refuse)
    with pytest.raises(ResourceError, match=r"with Dask's operator, found Unable to find valid credentials. Try `kubectl get daskclusters`"):
        make_pool(kubernetes()).open(Workplace(seed=1))


# --- images and compose -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_is_made_of_what_is_there_and_runs_as_nobody_special(name: str) -> None:
    lines = [line.split(" ", 1) for line in (ROOT / "deploy/docker" / name).read_text().splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD"}
    assert {word for word, _ in lines} <= known
    assert lines[0][0] == "FROM"
    copied = [shlex.split(rest)[0] for word, rest in lines if word == "COPY"]
    assert all((ROOT / source).exists() for source in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"all", "kubernetes"} <= set(extras)
    assert [rest for word, rest in lines if word == "USER"][-1] != "root"
    assert any("download.pytorch.org/whl/cpu" in rest for _, rest in lines) == (name == "Dockerfile")
    assert any(line.startswith("torch==") for line in (ROOT / "requirements.lock").read_text().splitlines())


def test_an_image_holds_nothing_of_a_study() -> None:
    ignored = (ROOT / "deploy/docker/Dockerfile.dockerignore").read_text().splitlines()[2:]
    assert ignored[0] == "*"
    assert all(line.startswith("!") for line in ignored[1:-1])


def test_the_services_fit_together() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        if "build" in service:
            assert (ROOT / "deploy/docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            assert volume.startswith("${") or volume.split(":")[0] in COMPOSE["volumes"]
    assert {name: s["command"][-1] for name, s in services.items() if name.startswith("worker")} == {"worker": "cpu=1", "worker-gpu": "gpu=1"}
    address = yaml.safe_load((ROOT / "configs/clusters/compose.yaml").read_text())["address"]
    assert services["worker"]["environment"]["DASK_SCHEDULER_ADDRESS"] == address
    assert not any("password" in str(v).lower() and "${" not in str(v) for s in services.values() for v in s["environment"].values())
