"""What cluster/kuberay promises: Kubernetes takes it, commands are ours, nobody gets more than he needs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.promotion import application
from cluster.serving.deploy.serve_config import config_from
from jobs import train, tune
from jobs.__main__ import COMMANDS
from tests.cluster.kubernetes_files import (
    FILES,
    HERE,
    ROOT,
    clusters,
    containers,
    documents,
    entrypoints,
    jobs,
    objects,
    of_kind,
    pods,
)

KUBERNETES = "1.33"
# Of KubeRay 1.7: which fields of a spec we use, all that it knows of a group, and what it demands.
KNOWN = {
    "RayCluster": {
        "rayVersion", "authOptions", "gcsFaultToleranceOptions", "enableInTreeAutoscaling", "autoscalerOptions",
        "headGroupSpec", "workerGroupSpecs",
    },
    "RayService": {
        "upgradeStrategy", "rayClusterDeletionDelaySeconds", "excludeHeadPodFromServeSvc", "serveConfigV2",
        "rayClusterConfig",
    },
    "RayJob": {
        "clusterSelector", "submissionMode", "entrypoint", "entrypointNumCpus", "runtimeEnvYAML", "submitterConfig",
        "submitterPodTemplate",
    },
    "RayCronJob": {"schedule", "timeZone", "jobTemplate"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
}  # fmt: skip
GROUP = {
    "groupName", "minReplicas", "replicas", "maxReplicas", "labels", "rayStartParams", "template", "serviceType",
}  # fmt: skip
LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_every_file_belongs_to_one_kustomization_and_all_that_is_listed_is_there() -> None:
    listed: set[Path] = set()
    for file in HERE.rglob("kustomization.yaml"):
        (one,) = documents(file)
        assert one["kind"] in ("Kustomization", "Component")
        assert set(one) <= {
            "apiVersion", "kind", "resources", "components", "patches", "namespace", "images",
        }  # fmt: skip
        names = [
            *one.get("resources", []),
            *one.get("components", []),
            *(patch["path"] for patch in one.get("patches", []) if "path" in patch),
        ]
        for name in names:
            path = (file.parent / name).resolve()
            assert path.is_file() or (path / "kustomization.yaml").is_file(), f"{file}: {name}"
            if path.is_file():
                assert path not in listed, f"{path} is listed twice"
                listed.add(path)
    assert listed == {file for file in FILES if file.name != "kustomization.yaml"}


def test_images_and_the_namespace_are_named_in_one_place() -> None:
    (settings,) = documents(HERE / "settings" / "kustomization.yaml")
    named = {image["name"] for image in settings["images"]}
    assert {one["image"] for pod in pods() for one in pod["spec"]["containers"]} == named
    for image in settings["images"]:
        assert image.get("newTag", "").split("-")[0] not in ("", "latest") or "digest" in image
    for name, one in objects().items():
        assert "namespace" not in one["metadata"], name
    for file in HERE.rglob("kustomization.yaml"):
        (one,) = documents(file)
        inherits = (
            file.parent.name in ("base", "settings")
            or one["resources"] == ["../train"]
            or any(Path(name).name == "settings" for name in one["components"])
        )
        assert inherits, f"{file} takes no settings"


@pytest.mark.parametrize("name", sorted(objects()))
def test_kubernetes_takes_it(name: str) -> None:
    one = objects()[name]
    for number, pod in enumerate(pods(one)):
        metadata = {"name": f"pod-{number}", **pod.get("metadata", {})}
        as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
        kubernetes_validate.validate(as_pod, KUBERNETES, strict=True)
    if one["kind"] not in KNOWN:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        return
    version = "monitoring.coreos.com/v1" if one["kind"] == "PodMonitor" else "ray.io/v1"
    assert one["apiVersion"] == version
    assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(one["spec"]) <= KNOWN[one["kind"]]


def test_kuberay_takes_its_clusters_and_jobs() -> None:
    """What its schema says of the fields that we use, and its rules beyond that."""
    for one in clusters():
        assert set(one) == KNOWN["RayCluster"]
        assert one["rayVersion"] == ray.__version__
        groups = one["workerGroupSpecs"]
        assert len({group["groupName"] for group in groups}) == len(groups)
        for group in (one["headGroupSpec"], *groups):
            assert set(group) <= GROUP
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for group in groups:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert not set(group["labels"]) & set(group["rayStartParams"])
    (training,) = of_kind("RayCluster")
    names = [one["metadata"]["name"] for one in of_kind("RayCluster", "RayService")]
    assert len(set(names)) == len(names), "KubeRay would give both the same service for the head"
    for job in jobs():
        assert set(job) <= KNOWN["RayJob"]
        assert job["clusterSelector"] == {"ray.io/cluster": training["metadata"]["name"]}
        assert job["submissionMode"] == "K8sJobMode"
        assert job["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
        assert isinstance(yaml.safe_load(job.get("runtimeEnvYAML", "{}")), dict)
    for one in of_kind("RayCronJob"):
        assert len(one["spec"]["schedule"].split()) == 5


def test_each_job_is_a_command_that_takes_its_arguments() -> None:
    ran = []
    for entrypoint in entrypoints():
        assert not re.search(r"[$`;|&<>*]", entrypoint), "a shell would make something of it, twice"
        python, option, module, *arguments = shlex.split(entrypoint)
        package, name = module.split(".")
        assert (python, option, package) == ("python", "-m", "jobs")
        assert name in COMMANDS
        parsed = importlib.import_module(module).parser().parse_args(arguments)
        if name == "train":  # beyond the options: whether the settings exist and go together
            train.config_from(parsed)
        if name == "tune":
            tune.plan_from(parsed)
        ran.append(name)
    assert set(ran) == {"prepare", "train", "tune", "evaluate", "promote"}


def test_the_endpoint_is_built_from_the_store() -> None:
    (one,) = of_kind("RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(one["spec"]["serveConfigV2"]))
    (app,) = config.applications
    module, _, name = app.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is application.application
    settings = dict(app.args)
    (promotion,) = of_kind("Job")
    assert settings.pop("store") in promotion["spec"]["template"]["spec"]["containers"][0]["args"]
    serving = config_from(settings)
    assert serving.api_keys == (), "keys come from a secret"
    assert serving.host == config.http_options.host == "0.0.0.0"
    for group in clusters()[-1]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == config.http_options.port
        assert serving.cpus_per_replica <= int(container["resources"]["limits"]["cpu"])
        assert "WW_API_KEYS" in {each["name"] for each in container["env"]}
        assert "cluster.serving.deploy.haproxy" in container["args"][0]


def test_nodes_ask_for_the_token_and_the_head_runs_no_work() -> None:
    for one in clusters():
        assert one["authOptions"]["mode"] == "token"
        assert one["authOptions"]["secretName"]
        assert one["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert one["enableInTreeAutoscaling"]
        assert one["autoscalerOptions"]["version"] == "v2"
        options = one["gcsFaultToleranceOptions"]
        assert options["backend"] == "redis"
        assert set(options["redisPassword"]) == {"valueFrom"}
    for job in jobs():
        (container,) = job["submitterPodTemplate"]["spec"]["containers"]
        environment = {each["name"]: each for each in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "wave-wizard-ray-token"
        assert job["entrypointNumCpus"] >= 1, "it would run on the head"


def test_no_secret_stands_in_a_file() -> None:
    assert not [name for name, one in objects().items() if one["kind"] in ("Secret", "ConfigMap")]
    secret = re.compile(r"secret|password|token|key", re.IGNORECASE)
    for container in containers():
        for variable in container.get("env", []):
            if "value" in variable:
                assert not secret.search(variable["name"]), variable["name"]
    for file in (*FILES, ROOT / "docs" / "kubernetes.md"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"AKIA[0-9A-Z]{16}|\b[0-9a-f]{32,}\b|BEGIN .*PRIVATE", text), file


def test_containers_are_locked_and_sized() -> None:
    for container in containers():
        name = container.get("name", "autoscaler")
        assert container["securityContext"] == LOCKED, name
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], name
        assert {"cpu", "memory"} <= set(resources["limits"]), name
    for pod in pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        assert not [name for name, volume in volumes.items() if "hostPath" in volume]
        for container in spec["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            if container["image"].startswith("wave-wizard"):
                assert {"/tmp", "/home/ww"} <= set(mounts), "nothing else can be written to"
                assert all(name in volumes for name in mounts.values())
            if container["name"].startswith("ray-"):
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
                assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_only_the_autoscaler_holds_a_token_of_the_kubernetes_api() -> None:
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert not [one for one in of_kind("ServiceAccount") if one["automountServiceAccountToken"]]
    known = {one["metadata"]["name"] for one in of_kind("ServiceAccount")}
    for pod in pods():
        assert pod["spec"].get("serviceAccountName", "wave-wizard-worker") in known
        for container in pod["spec"]["containers"]:
            assert place not in {mount["mountPath"] for mount in container["volumeMounts"]}
    for one in clusters():
        assert place in {mount["mountPath"] for mount in one["autoscalerOptions"]["volumeMounts"]}


def test_the_object_store_fits_into_shared_memory() -> None:
    for one in clusters():
        for group in (one["headGroupSpec"], *one["workerGroupSpecs"]):
            volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
            size = volumes["shared-mem"]["emptyDir"]["sizeLimit"]
            assert int(group["rayStartParams"]["object-store-memory"]) < int(size.removesuffix("Gi")) * 2**30


def test_nobody_outside_reaches_more_than_the_endpoint() -> None:
    """What listens on all addresses of a pod: from this namespace; the endpoint, also from those with a label."""
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind("NetworkPolicy")}
    inside = policies.pop("inside-only")
    assert inside["podSelector"] == {}, "it covers every pod"
    assert inside["policyTypes"] == ["Ingress", "Egress"]
    assert inside["ingress"] == [{"from": [{"podSelector": {}}]}]
    callers = policies.pop("callers")
    for pod in pods(clusters()[-1]["workerGroupSpecs"]):
        assert callers["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    for pod in pods(clusters()[0]):
        assert not callers["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (rule,) = callers["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"wave-wizard/may-call": "true"}}}]
    # Applied by nobody unless he asks for it: an operator in another namespace.
    operator = policies.pop("operator")
    assert operator["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert "podSelector" in operator["ingress"][0]["from"][0]
    # So is Prometheus, which reaches what KubeRay gives its pods for it.
    prometheus = policies.pop("prometheus")
    assert prometheus["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert "podSelector" in prometheus["ingress"][0]["from"][0]
    (monitor,) = of_kind("PodMonitor")
    assert monitor["spec"]["selector"] == prometheus["podSelector"]
    assert not [
        file for file in HERE.rglob("kustomization.yaml")
        if any(name.endswith(("operator-elsewhere", "monitoring")) for name in documents(file)[0].get("resources", []))
    ]  # fmt: skip
    assert not policies
    for service in of_kind("Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    assert all(one["headGroupSpec"]["serviceType"] == "ClusterIP" for one in clusters())
