"""Exchanging the models of a running endpoint: replicas stay, and whatever has begun ends with what it began with.

An endpoint on a private Ray can only be reached by its own process. That one listens on a socket in the folder of its
Ray, which its owner alone can open; a command of the same user sends the order there. Both send one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import AF_UNIX, socket
from urllib.parse import urlsplit

import ray
from ray import serve
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from cluster.serving.deploy.deployment import CONTROLLER, ServingError, checked_bundles, wait_until_running
from cluster.serving.deploy.replica import APP_NAME
from ww_models import read_bundle_info

Served = list[tuple[str, str]]  # (id, bundle) of each model, the default one first

_CHECK_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 300.0
_FOLDERS = "ww-ray-{pid}-*"  # as cluster.machine.session makes them


def promote(
    bundles: Sequence[str | os.PathLike[str]], *, keep: bool = False, timeout_s: float = 120.0
) -> Served:
    """Serves these bundles instead, the first by default, on the cluster that this process is connected to.

    keep: what is served already can still be asked for by its id.
    Returns what is served now. Raises BundleError or ServingError; a bundle that cannot be loaded, here or where the
    replicas run, is refused before anything changes.
    """
    paths = [path.resolve() for path in checked_bundles(bundles)]
    configs = _running_configs()
    handle = serve.get_app_handle(APP_NAME)
    if wrong := handle.check.remote([str(path) for path in paths]).result(timeout_s=_CHECK_TIMEOUT_S):
        raise ServingError(f"a replica cannot load it: {wrong}; put it where all nodes find it")
    deployment = configs[APP_NAME].deployments[0]
    ids = [read_bundle_info(path).id for path in paths]
    selected = dict(zip(ids, map(str, paths), strict=True))
    if keep:
        served = handle.served.remote().result(timeout_s=_CHECK_TIMEOUT_S)
        selected = {**dict(served), **selected}
        selected = {model_id: selected[model_id] for model_id in dict.fromkeys((*ids, *selected))}
    deployment.user_config = {"bundles": list(selected.values())}
    began = serve.status().applications[APP_NAME].last_deployed_time_s
    controller = ray.get_actor(*CONTROLLER)
    ray.get(controller.apply_config.remote(ServeDeploySchema(applications=list(configs.values()))))
    wait_until_running(timeout_s, deployed_after=began)
    served = handle.served.remote().result(timeout_s=_CHECK_TIMEOUT_S)
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


@contextlib.contextmanager
def listening(url: str) -> Iterator[None]:
    """Takes promotions for the length of the block; does nothing where Ray is not this process' own."""
    folder = next(Path("/tmp").glob(_FOLDERS.format(pid=os.getpid())), None)
    if folder is None:
        yield
        return
    path = folder / _socket_name(urlsplit(url).port)
    with socketserver.UnixStreamServer(str(path), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink(missing_ok=True)


def promote_at(url: str | None, bundles: Sequence[Path], *, keep: bool = False) -> Served:
    """Like `promote`, by the process of this user that serves at this address, or by the only one for None.

    Raises ServingError.
    """
    order = {"bundles": [str(bundle.resolve()) for bundle in bundles], "keep": keep}
    with contextlib.ExitStack() as connections:
        endpoints = _connect_to(_socket_name(urlsplit(url).port if url else "*"), connections)
        if not endpoints:
            where = f"at {url}" if url else "with a Ray of its own"
            raise ServingError(
                f"none of your endpoints on this machine answers {where}; for one on a cluster set RAY_ADDRESS"
            )
        if len(endpoints) > 1:
            raise ServingError(
                f"several of your endpoints answer on this machine, at the ports {', '.join(sorted(endpoints))}; "
                "name the address of one with --url"
            )
        (connection,) = endpoints.values()
        connection.sendall(json.dumps(order).encode() + b"\n")
        with connection.makefile() as lines:
            answer = json.loads(lines.readline() or '{"error": "it ended before it answered"}')
    if "error" in answer:
        raise ServingError(answer["error"])
    return [(model_id, bundle) for model_id, bundle in answer["served"]]


def _connect_to(name: str, connections: contextlib.ExitStack) -> dict[str, socket]:
    """To the endpoints of this user whose sockets are called so, by port."""
    endpoints = {}
    for path in Path("/tmp").glob(f"{_FOLDERS.format(pid='*')}/{name}"):
        connection = connections.enter_context(socket(AF_UNIX))
        connection.settimeout(_ANSWER_TIMEOUT_S)
        with contextlib.suppress(OSError):  # left behind, or another user's
            connection.connect(str(path))
            endpoints[path.stem.rpartition("-")[2]] = connection
    return endpoints


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            order = json.loads(self.rfile.readline())
            answer: dict[str, object] = {"served": promote(order["bundles"], keep=order["keep"])}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def _socket_name(port: int | str | None) -> str:
    return f"promote-{port}.sock"
