"""Exchanging the models of a running endpoint: replicas stay, and whatever has begun ends with what it began with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import ray
from ray import serve
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from cluster.serving.deploy.deployment import CONTROLLER, ServingError, checked_bundles, wait_until_running
from cluster.serving.deploy.replica import APP_NAME
from ww_models import read_bundle_info

Served = list[tuple[str, str]]  # (id, bundle) of each model, the default one first

CHECK_TIMEOUT_S = 60.0


def promote(
    bundles: Sequence[str | os.PathLike[str]], *, keep: bool = False, timeout_s: float = 120.0
) -> Served:
    """Serves these bundles instead, the first by default, on the cluster that this process is connected to.

    keep: what is served already can still be asked for by its id.
    Returns what is served now. Raises BundleError or ServingError; a bundle that
    cannot be loaded, here or where the replicas run, is refused before anything changes.
    """
    paths = [path.resolve() for path in checked_bundles(bundles)]
    configs = _running_configs()
    handle = serve.get_app_handle(APP_NAME)
    if wrong := handle.check.remote([str(path) for path in paths]).result(timeout_s=CHECK_TIMEOUT_S):
        raise ServingError(f"a replica cannot load it: {wrong}; put it where all nodes find it")
    deployment = configs[APP_NAME].deployments[0]
    ids = [read_bundle_info(path).id for path in paths]
    selected = dict(zip(ids, map(str, paths), strict=True))
    if keep:
        served = handle.served.remote().result(timeout_s=CHECK_TIMEOUT_S)
        selected = {**dict(served), **selected}
        selected = {model_id: selected[model_id] for model_id in dict.fromkeys((*ids, *selected))}
    deployment.user_config = {"bundles": list(selected.values())}
    began = serve.status().applications[APP_NAME].last_deployed_time_s
    controller = ray.get_actor(*CONTROLLER)
    ray.get(controller.apply_config.remote(ServeDeploySchema(applications=list(configs.values()))))
    wait_until_running(timeout_s, deployed_after=began)
    served = handle.served.remote().result(timeout_s=CHECK_TIMEOUT_S)
    if [model_id for model_id, _ in served] != list(selected):
        raise ServingError(f"replicas go on with {', '.join(dict(served))}; their log says why")
    return served


def _running_configs() -> dict[str, ServeApplicationSchema]:
    """Of all applications on this cluster: a config that leaves one out ends it."""
    configs: dict[str, ServeApplicationSchema] = {}
    with contextlib.suppress(ValueError):  # Serve does not run
        configs = ray.get(ray.get_actor(*CONTROLLER).get_app_configs.remote())  # type: ignore[assignment]
    if APP_NAME not in configs:
        raise ServingError("no endpoint runs on this cluster; start one with python -m jobs.serve")
    return configs
