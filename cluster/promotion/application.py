"""The endpoint of a store as Ray Serve builds it: for a config whose `args` name the store, and no bundle.

Kubernetes keeps such a config and lays it over what runs (cluster/kuberay/serving). So what is in force cannot stand in
it: each replica looks into the store instead, when it starts and every few seconds.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from ray.serve import Application

from cluster.promotion.store import ModelStore
from cluster.serving.auth import read_keys
from cluster.serving.deploy.serve_config import config_from, following_application


def application(args: dict[str, Any]) -> Application:
    """What Serve calls. args: `store`, and settings of the endpoint as in cluster/serving/config.py.

    API keys come from WW_API_KEYS where `args` has none: their digests need not stand in the config.
    Raises StoreError where nothing is in force, and ConfigError for a setting that is none.
    """
    settings = dict(args)
    store = settings.pop("store")
    config = config_from(settings)
    if not config.api_keys:
        config = dataclasses.replace(config, api_keys=read_keys(None))
    ModelStore(store).current()
    return following_application(config, functools.partial(bundle_in_force, store))


def bundle_in_force(store: str) -> Path:
    """On this machine. Raises StoreError, BundleError or OSError."""
    there = ModelStore(store)
    return there.bundle(there.current())
