"""The endpoint as a config of Ray Serve: what `serve_bundles` deploys, a promotion changes and `serve deploy` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from cluster.serving.config import USUAL_PORT, ServingConfig
from cluster.serving.deploy.replica import APP_NAME, DenoiseServer, kill_after_s
from cluster.settings.experiment import build_section

DEPLOYMENT_NAME = "denoise"
# More than a replica carries: the application limits calls and files, can say so, and still answers health checks.
_MAX_ONGOING_REQUESTS = 1000
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
# Each message of a call would change threads twice on its way to ours and back; nothing of ours blocks Serve's loop.
_OF_REPLICAS = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
_ELSEWHERE = ("port", "num_replicas", "cpus_per_replica", "start_timeout_s")  # a replica need not know
_HEAD = """\
# The endpoint as Ray Serve's config, written by `python -m jobs.serve --write-config`.
#   serve deploy FILE                  on a cluster; all nodes must reach the bundles
# user_config names the bundles, the default one first: change it and deploy again, and they are exchanged in running
# replicas. The number of replicas changes in place, too. Any change in args starts new replicas.
"""


def application(args: dict[str, Any]) -> Application:
    """What Serve calls on the cluster, with the `args` of the config; ConfigError for a setting that is none."""
    return serve.deployment(name=DEPLOYMENT_NAME)(DenoiseServer).bind(config_from(args))


def following_application(config: ServingConfig, in_force: Callable[[], Path]) -> Application:
    """The same with all its settings, of replicas that ask by themselves which bundle is in force, and serve that."""
    return serve.deployment(**_deployment((), config))(DenoiseServer).bind(config, in_force)


def serve_config(bundles: Sequence[Path], config: ServingConfig) -> ServeDeploySchema:
    """The whole of it, checked by Serve's own schema."""
    app = {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": f"{__name__}:{application.__name__}",
        "args": {name: value for name, value in plain(config).items() if name not in _ELSEWHERE},
        "deployments": [_deployment(bundles, config)],
        **_code_of_this_job(),
    }
    endpoint = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": config.host, "port": USUAL_PORT if config.port is None else config.port},
        "logging_config": _QUIET,
        "applications": [app],
    }
    return ServeDeploySchema.model_validate(endpoint)


def as_yaml(schema: ServeDeploySchema) -> str:
    values = schema.model_dump(mode="json", exclude_unset=True)
    return _HEAD + yaml.safe_dump(values, sort_keys=False, width=100)


def plain(config: ServingConfig) -> dict[str, Any]:
    """The settings as YAML can hold them; of API keys the digests."""
    values = dataclasses.asdict(config)
    values["api_keys"] = [{**key, "digest": key["digest"].hex()} for key in values["api_keys"]]
    values["allowed_origins"] = list(config.allowed_origins)
    return values


def config_from(values: Mapping[str, Any]) -> ServingConfig:
    """The reverse of `plain`; what is not named has its default."""
    keys = [{**key, "digest": bytes.fromhex(key["digest"])} for key in values.get("api_keys", ())]
    return build_section(ServingConfig, {**values, "api_keys": keys}, "args")


def _deployment(bundles: Sequence[Path], config: ServingConfig) -> dict[str, Any]:
    values = {
        "name": DEPLOYMENT_NAME,
        "user_config": {"bundles": [str(bundle.resolve()) for bundle in bundles]},
        "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
        "graceful_shutdown_timeout_s": kill_after_s(config),
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": 2.0,
        "ray_actor_options": {"num_cpus": config.cpus_per_replica, "runtime_env": {"env_vars": _OF_REPLICAS}},
        "logging_config": _QUIET,
    }
    scaling = config.scaling
    if scaling.max_replicas is None:
        return {**values, "num_replicas": config.num_replicas}
    autoscaling = {
        "min_replicas": config.num_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_requests,  # a live call is one for as long as it lasts
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
        "look_back_period_s": min(5.0, scaling.upscale_delay_s),
        "metrics_interval_s": min(2.0, scaling.upscale_delay_s),
    }
    return {**values, "autoscaling_config": autoscaling}


def _code_of_this_job() -> dict[str, Any]:
    """Where `ray job submit --working-dir` brought the code, replicas have to find it there."""
    if not ray.is_initialized():
        return {}
    environment = ray.get_runtime_context().runtime_env
    brought = {name: environment[name] for name in ("working_dir", "py_modules") if environment.get(name)}
    return {"runtime_env": brought} if brought else {}
