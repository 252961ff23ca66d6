"""cluster/kuberay as the tests read it: all objects, and the clusters, jobs, pods and containers in them."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "cluster" / "kuberay"
FILES = sorted(HERE.rglob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


@functools.cache
def objects() -> dict[str, dict[str, Any]]:
    """{file: kind name: object} of all that is applied; groups that an overlay adds to the cluster are in it."""
    found = {}
    for file in FILES:
        if file.name == "kustomization.yaml":
            continue
        for one in documents(file):
            found[f"{file.relative_to(HERE)}: {one['kind']} {one['metadata']['name']}"] = one
    (cluster,) = (one for one in found.values() if one["kind"] == "RayCluster")
    (patch,) = documents(HERE / "overlays" / "gpu" / "kustomization.yaml")[0]["patches"]
    for operation in yaml.safe_load(patch["patch"]):
        assert (operation["op"], operation["path"]) == ("add", "/spec/workerGroupSpecs/-")
        cluster["spec"]["workerGroupSpecs"].append(operation["value"])
    return found


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    found = [one for one in objects().values() if one["kind"] in kinds]
    assert found
    return found


def clusters() -> list[dict[str, Any]]:
    """What RayCluster and RayService say of a cluster."""
    found = [one["spec"] for one in of_kind("RayCluster")]
    return found + [one["spec"]["rayClusterConfig"] for one in of_kind("RayService")]


def jobs() -> list[dict[str, Any]]:
    """What RayJob and RayCronJob say of a job."""
    return [one["spec"] for one in of_kind("RayJob")] + [
        one["spec"]["jobTemplate"] for one in of_kind("RayCronJob")
    ]


def pods(node: Any = None) -> Iterator[dict[str, Any]]:
    """Each template of a pod, wherever it stands."""
    node = list(objects().values()) if node is None else node
    if isinstance(node, Mapping):
        if "containers" in node.get("spec", {}):
            yield dict(node)
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def containers() -> list[dict[str, Any]]:
    found = [
        one for pod in pods() for one in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    ]
    found += [one["autoscalerOptions"] for one in clusters()]
    assert len(found) > 12
    return found


def entrypoints() -> Iterator[str]:
    """Of jobs, those that a kustomization puts in the place of another's included."""
    for job in jobs():
        yield job["entrypoint"]
    for file in HERE.rglob("kustomization.yaml"):
        for patch in documents(file)[0].get("patches", []):
            for operation in yaml.safe_load(patch.get("patch", "[]")):
                if operation["path"] == "/spec/entrypoint":
                    yield operation["value"]
    for one in of_kind("Job"):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        yield shlex.join(container["command"] + container["args"])
