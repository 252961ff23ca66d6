"""Serving a bundle over HTTP with Ray Serve."""

from cluster.serving.config import ServingConfig
from cluster.serving.deployment import (
    ServingError,
    ServingHandle,
    bindable_port,
    check_serving,
    serve_bundle,
    start_serving,
    stop_serving,
)

__all__ = [
    "ServingConfig",
    "ServingError",
    "ServingHandle",
    "bindable_port",
    "check_serving",
    "serve_bundle",
    "start_serving",
    "stop_serving",
]
