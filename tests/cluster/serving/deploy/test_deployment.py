"""The endpoint on Ray Serve: it answers there, and what cannot be started is refused before anything is."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
    ReplicaState,
    ServeDeploySchema,
    ServeStatus,
)

from cluster.serving.config import USUAL_PORT, ApiKey, LiveConfig, ScalingConfig, ServingConfig
from cluster.serving.deploy import deployment
from cluster.serving.deploy.deployment import ServingError, check_serving, serve_bundles, what_is_wrong
from cluster.serving.deploy.promotion import promote
from cluster.serving.deploy.replica import APP_NAME
from cluster.serving.deploy.serve_config import as_yaml, config_from, plain, serve_config
from cluster.settings.experiment import ConfigError
from tests.cluster.serving.clips import DENOISE, error_of, file_bytes, recording, samples_of
from ww_models import BundleError, read_bundle_info


@pytest.fixture(scope="module")
def client(local_ray: str, bundle: Path, other_bundle: Path) -> Iterator[httpx.Client]:
    config = ServingConfig(port=0, cpus_per_replica=0.5)
    with (
        serve_bundles([bundle, other_bundle], config) as url,
        httpx.Client(base_url=url, timeout=240) as client,
    ):
        yield client


def test_files_are_denoised_by_each_model(client: httpx.Client, bundle: Path, other_bundle: Path) -> None:
    ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert ids == [read_bundle_info(path).id for path in (bundle, other_bundle)]
    for model_id in ids:
        response = client.post(
            DENOISE,
            files={"file": file_bytes(recording(0.5, 48_000, 2), 48_000)},
            params={"model": model_id},
            headers={"X-Request-Id": "mine-1"},
        )
        assert response.headers.get_list("x-request-id") == ["mine-1"]
        assert response.headers["x-model-id"] == model_id
        assert samples_of(response.content).shape == (24_000, 2)
    assert error_of(client.post(DENOISE, content=b"RIFF\x04\0\0\0WAVE"), 400)["code"] == "bad_audio"
    assert client.get("/readyz").json() == {"status": "ready"}

    assert what_is_wrong() == ""


@pytest.mark.parametrize(
    ("status", "num_running", "said"),
    [
        (ApplicationStatus.RUNNING, 1, ""),
        (ApplicationStatus.UNHEALTHY, 1, ""),  # one of two is left
        (ApplicationStatus.UNHEALTHY, 0, "no replica runs (UNHEALTHY): out of memory"),
        (None, 0, "was deleted"),
    ],
)
def test_an_endpoint_is_down_when_no_replica_runs(
    monkeypatch: pytest.MonkeyPatch, status: ApplicationStatus | None, num_running: int, said: str
) -> None:
    deployment = DeploymentStatusOverview(
        status="UNHEALTHY",
        status_trigger="UNSPECIFIED",
        replica_states={ReplicaState.RUNNING: num_running, ReplicaState.STARTING: 1},
        message="of memory",
    )
    applications = {}
    if status is not None:
        applications[APP_NAME] = ApplicationStatusOverview(
            status=status, message="out", last_deployed_time_s=0.0, deployments={"denoise": deployment}
        )
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(serve, "status", lambda: ServeStatus(applications=applications))
    assert said in what_is_wrong()
    assert bool(said) == bool(what_is_wrong())


def test_its_metrics_stand_at_rays_prometheus_endpoint(client: httpx.Client) -> None:
    client.post(DENOISE, content=file_bytes(recording(0.5)))
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    deadline, text = time.monotonic() + 60, ""
    while "ray_ww_file_audio_seconds" not in text:  # processes report every few seconds
        assert time.monotonic() < deadline, "the metrics did not appear"
        time.sleep(0.5)
        text = httpx.get(address, timeout=30).text
    assert 'path="/v1/audio/denoise"' in text


def test_a_taken_port_is_said_before_anything_starts(bundle: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServingError, match=rf"127\.0\.0\.1:{port} .*in use"):
            check_serving(bundle, ServingConfig(port=port))
    assert check_serving(bundle, ServingConfig(port=port)).port == port
    assert (check_serving(bundle, ServingConfig(port=0)).port or 0) > 0


def test_a_port_that_nobody_asked_for_is_the_next_that_is_free(bundle: Path) -> None:
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):  # taken already
            taken.enter_context(socket.create_server(("127.0.0.1", USUAL_PORT)))
        port = check_serving(bundle, ServingConfig()).port
        assert port is not None
        assert port > USUAL_PORT
        with socket.create_server(("127.0.0.1", port)):
            assert check_serving(bundle, ServingConfig()).port != port
    assert serve_config([bundle], ServingConfig()).http_options.port == USUAL_PORT


def test_a_damaged_bundle_is_refused_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    weights = damaged / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    for path in (damaged, tmp_path):
        with pytest.raises(BundleError):
            check_serving(path, ServingConfig(port=0))


def test_a_second_endpoint_is_refused(client: httpx.Client, bundle: Path) -> None:
    with pytest.raises(ServingError, match="already"), serve_bundles(bundle, ServingConfig(port=0)):
        pass
    assert client.get("/healthz").status_code == 200


def test_no_room_on_the_cluster_is_said_with_the_arithmetic(local_ray: str, bundle: Path) -> None:
    config = ServingConfig(port=0, num_replicas=3, cpus_per_replica=1)
    with pytest.raises(ServingError, match=r"3 replica\(s\) x 1 CPU = 3 CPU"), serve_bundles(bundle, config):
        pass


def test_a_promotion_changes_what_is_served(client: httpx.Client, bundle: Path, other_bundle: Path) -> None:
    first, second = (read_bundle_info(path).id for path in (bundle, other_bundle))
    assert promote([other_bundle]) == [(second, str(other_bundle))]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [second]
    assert promote([bundle], keep=True) == [(first, str(bundle)), (second, str(other_bundle))]
    response = client.post(DENOISE, content=file_bytes(recording(0.5)))
    assert response.headers["x-model-id"] == first


def test_a_bundle_that_cannot_be_loaded_is_not_promoted(
    client: httpx.Client, bundle: Path, tmp_path: Path
) -> None:
    before = client.get("/v1/models").json()["data"]
    with pytest.raises(BundleError):
        promote([bundle, tmp_path])
    assert client.get("/v1/models").json()["data"] == before


def test_the_config_file_is_serves_own_and_holds_every_setting(bundle: Path) -> None:
    key = ApiKey(name="anna", digest=b"\x00\xff" * 16, max_concurrent=2)
    config = ServingConfig(
        precision="int8",
        num_replicas=2,
        scaling=ScalingConfig(max_replicas=4, drain_s=300),
        api_keys=(key,),
        allowed_origins=("https://example.org",),
        live=LiveConfig(max_streams=3),
    )
    assert config_from(plain(config)) == config
    schema = ServeDeploySchema.model_validate(yaml.safe_load(as_yaml(serve_config([bundle], config))))
    assert schema == serve_config([bundle], config)
    (app,) = schema.applications
    there = config_from(app.args)
    assert (there.api_keys, there.live, there.scaling) == (config.api_keys, config.live, config.scaling)
    (deployment,) = app.deployments
    assert deployment.user_config == {"bundles": [str(bundle)]}
    assert deployment.autoscaling_config["min_replicas"] == 2
    assert deployment.autoscaling_config["max_replicas"] == 4
    assert deployment.graceful_shutdown_timeout_s > 300
    with pytest.raises(ConfigError, match=r"did you mean args\.num_replicas"):
        config_from({"num_replica": 2})


def test_wrong_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_replicas=1 lies below num_replicas=2"):
        ServingConfig(num_replicas=2, scaling=ScalingConfig(max_replicas=1))
    with pytest.raises(ValueError, match="drain_s"):
        ScalingConfig(drain_s=0)


@pytest.mark.parametrize("port", [None, 0, "taken"])
def test_a_port_that_is_taken_while_serve_starts(
    monkeypatch: pytest.MonkeyPatch, port: int | str | None
) -> None:
    """Another one where none was asked for, else the usual line."""
    tried = list[int]()
    with contextlib.ExitStack() as stack:

        def start(*, http_options: HTTPOptions, **_: object) -> None:
            tried.append(http_options.port)
            if len(tried) == 1:  # somebody is faster
                stack.enter_context(socket.create_server((http_options.host, http_options.port)))
                raise RuntimeError("\x1b[36mray::Proxy\x1b[39m\n  a trace\nOSError: in use")

        monkeypatch.setattr(serve, "start", start)
        monkeypatch.setattr(deployment, "_shut_down", lambda timeout_s: None)
        if port == "taken":
            port = deployment.bindable_port("127.0.0.1", 0)
            with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port} "):
                deployment._start_serve(ServingConfig(port=port))
        else:
            assert deployment._start_serve(ServingConfig(port=port)).port == tried[1] != tried[0]


def test_a_serve_that_does_not_start_is_said_without_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: object) -> None:
        raise RuntimeError("\x1b[36mray::Proxy\x1b[39m\n  a trace\nOSError: it is so")

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(deployment, "_shut_down", lambda timeout_s: None)
    with pytest.raises(ServingError, match=r"^Ray Serve did not start \(OSError: it is so\)"):
        deployment._start_serve(ServingConfig(port=0))
