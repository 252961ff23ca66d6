"""A running endpoint changes, and nobody is cut off: replicas come and go, models are promoted, a replica dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from ray.serve.schema import ServeDeploySchema
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cluster.serving.client import StreamClient, StreamError
from cluster.serving.config import LiveConfig, ScalingConfig, ServingConfig
from cluster.serving.deploy.deployment import CONTROLLER, serve_bundles
from cluster.serving.deploy.promotion import promote
from cluster.serving.deploy.replica import APP_NAME
from cluster.serving.deploy.serve_config import DEPLOYMENT_NAME
from cluster.serving.live.protocol import PATH
from cluster.sound.offset import OffsetRemover
from tests.cluster.serving.clips import DENOISE, file_bytes, recording
from ww_models import load_bundle, read_bundle_info, stream
from ww_models.streaming.onnx_engine import OnnxEngine

pytestmark = pytest.mark.cluster

# After so long something will not happen any more: a replica starts in seconds, or in minutes where cores are slow and
# calls keep them busy.
PATIENCE_S = 240.0
CALL_S = float(os.environ.get("WW_CALL_S", "20"))
CHUNK = 1280  # samples: 80 ms, so that many calls leave room for replicas that start
ROOMY = LiveConfig(max_streams=16, follows_load=False)  # a busy machine would let nobody else in
RATE = 16_000


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.3)  # asking takes cores away from what is waited for


def pids() -> dict[str, int]:
    """Of the replicas that answer, by their id."""
    details = ray.get(ray.get_actor(*CONTROLLER).get_serve_instance_details.remote())
    replicas = details["applications"][APP_NAME]["deployments"][DEPLOYMENT_NAME]["replicas"]
    return {one["replica_id"]: one["pid"] for one in replicas if one["state"] == "RUNNING"}


class Endpoint:
    def __init__(self, url: str) -> None:
        self.url = url

    def post(self) -> httpx.Response:
        # `verify`: or each request would read all certificates of this machine, for a tenth of a second.
        return httpx.post(
            self.url + DENOISE, content=file_bytes(recording(0.2)), timeout=PATIENCE_S, verify=False
        )


@pytest.fixture
def run(local_ray: str) -> Iterator[Callable[..., Endpoint]]:
    """run(bundle, ScalingConfig(...), num_replicas) serves until the test ends."""
    with ExitStack() as stack:

        def start(bundle: Path, scaling: ScalingConfig, num_replicas: int = 1) -> Endpoint:
            config = ServingConfig(
                port=0,
                num_replicas=num_replicas,
                cpus_per_replica=0.2,
                scaling=scaling,
                live=ROOMY,
            )
            return Endpoint(stack.enter_context(serve_bundles(bundle, config)))

        yield start


class Call:
    """A call in real time, in a thread; `end` returns what came back of what was said; `heard` is its future."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self.said: list[np.ndarray] = []
        self.client = StreamClient(url)
        self._rng, self._url = np.random.default_rng(seed), url
        self._is_over, self._is_live = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self.heard = self._thread.submit(self._run)
        assert self._is_live.wait(PATIENCE_S) or self.heard.result(1) is not None

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.shutdown()

    def _run(self) -> np.ndarray:
        with self.client:
            self._is_live.set()
            return np.concatenate(list(self.client.denoise(self._chunks())))

    def _chunks(self) -> Iterator[np.ndarray]:
        began = time.monotonic()
        while not self._is_over.is_set():
            self.said.append(0.1 * self._rng.standard_normal(CHUNK).astype(np.float32))
            yield self.said[-1]
            time.sleep(max(0.0, began + len(self.said) * CHUNK / RATE - time.monotonic()))

    @property
    def seconds(self) -> float:
        return len(self.said) * CHUNK / RATE

    def end(self) -> np.ndarray:
        self._is_over.set()
        return self.heard.result(PATIENCE_S)

    def error(self) -> StreamError:
        error = self.heard.exception(PATIENCE_S)
        assert isinstance(error, StreamError)
        return error

    def assert_whole(self, bundle: Path) -> None:
        """Every sample came back, as the model of this bundle makes it."""
        heard = self.end()
        streamer = stream(OnnxEngine.from_model(load_bundle(bundle)))
        said_1T = OffsetRemover(RATE, 1).feed(np.concatenate(self.said)[None])
        expected_1T = np.concatenate([streamer.feed(said_1T), streamer.flush()], axis=1)
        np.testing.assert_allclose(heard, expected_1T[0], atol=1e-5)


@pytest.mark.timeout(900 + 2 * CALL_S)
def test_a_call_survives_a_scale_out_a_promotion_and_a_scale_in(
    run: Callable[..., Endpoint], bundle: Path, other_bundle: Path
) -> None:
    scaling = ScalingConfig(
        max_replicas=2,
        target_requests=2,
        upscale_delay_s=0.5,
        downscale_delay_s=2,
        drain_s=CALL_S + PATIENCE_S,
    )
    endpoint = run(bundle, scaling)
    statuses: list[int] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            statuses.append(endpoint.post().status_code)
            time.sleep(0.2)  # leaves the cores to the replicas that start

    asking = threading.Thread(target=keep_asking)
    with Call(endpoint.url) as call:
        asking.start()
        with ExitStack() as stack:
            others = [stack.enter_context(Call(endpoint.url, seed)) for seed in range(1, 3)]
            wait_for(lambda: len(pids()) == 2, "a scale-out")
            served = promote([other_bundle])
            assert served == [(read_bundle_info(other_bundle).id, str(other_bundle))]
            with Call(endpoint.url, 9) as newcomer:
                wait_for(lambda: newcomer.seconds > 1, "a call")
                newcomer.assert_whole(other_bundle)
            for other in others:
                other.assert_whole(bundle)
        wait_for(lambda: len(pids()) == 1, "a scale-in")
        wait_for(lambda: call.seconds >= CALL_S, "the call", 2 * CALL_S + PATIENCE_S)
        is_over.set()
        asking.join()
        call.assert_whole(bundle)
    assert set(statuses) == {200}


def test_calls_hear_that_the_endpoint_ends_and_may_finish(local_ray: str, bundle: Path) -> None:
    config = ServingConfig(port=0, cpus_per_replica=0.2, scaling=ScalingConfig(shutdown_s=6), live=ROOMY)
    endpoint = ExitStack()
    url = endpoint.enter_context(serve_bundles(bundle, config))
    with endpoint, Call(url) as polite, Call(url, 1) as deaf, ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(endpoint.close)
        wait_for(lambda: polite.client.draining is not None, "the notice")
        assert polite.client.draining == {"reason": "shutdown", "seconds": 6}
        polite.assert_whole(bundle)
        assert deaf.error().code == "draining"
        stopping.result(PATIENCE_S)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=5)


@pytest.mark.soak
def test_a_replica_that_is_taken_away_says_so_and_its_calls_finish(
    run: Callable[..., Endpoint], bundle: Path
) -> None:
    scaling = ScalingConfig(max_replicas=2, target_requests=1, upscale_delay_s=0.5, downscale_delay_s=2)
    endpoint = run(bundle, scaling)
    with ExitStack() as stack:
        calls = [stack.enter_context(Call(endpoint.url, seed)) for seed in range(3)]
        wait_for(lambda: len(pids()) == 2, "a scale-out")
        calls += [stack.enter_context(Call(endpoint.url, seed)) for seed in range(3, 6)]
        config = ray.get(ray.get_actor(*CONTROLLER).get_app_configs.remote())
        config[APP_NAME].deployments[0].autoscaling_config["max_replicas"] = 1
        schema = ServeDeploySchema(applications=list(config.values()))
        ray.get(ray.get_actor(*CONTROLLER).apply_config.remote(schema))
        wait_for(lambda: any(call.client.draining for call in calls), "a notice")
        told = [call for call in calls if call.client.draining]
        assert {call.client.draining["reason"] for call in told} == {"redeploy"}
        with Call(endpoint.url, 7) as newcomer:
            wait_for(lambda: newcomer.seconds > 1, "a call")
            newcomer.assert_whole(bundle)
            assert newcomer.client.draining is None
        for call in calls:
            call.assert_whole(bundle)


def test_who_sends_far_ahead_of_the_results_is_sent_away(run: Callable[..., Endpoint], bundle: Path) -> None:
    endpoint = run(bundle, ScalingConfig())
    address = endpoint.url.replace("http", "ws", 1) + PATH
    messages: list[str | bytes] = []
    with connect(address, compression=None, max_size=None) as connection, Call(endpoint.url) as other:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1500):  # 50 minutes, which Ray Serve takes at once
                connection.send(bytes(2 * 2 * RATE))
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(connection.recv(60))
        assert connection.close_code == 1008
        assert json.loads(messages[-1])["code"] == "too_fast"
        other.assert_whole(bundle)


def test_a_killed_replica_harms_no_other_and_comes_back(run: Callable[..., Endpoint], bundle: Path) -> None:
    endpoint = run(bundle, ScalingConfig(), num_replicas=2)
    with ExitStack() as stack:
        calls = [stack.enter_context(Call(endpoint.url, seed)) for seed in range(6)]
        victim, killed_at = next(iter(pids().items())), time.monotonic()
        os.kill(victim[1], signal.SIGKILL)
        answered_alone = False  # by the one that lives, while no other has come
        while len(running := set(pids()) - {victim[0]}) < 2 or not answered_alone:
            response = endpoint.post()
            assert response.status_code in {200, 503}, response.text
            if response.status_code == 200:
                assert answered_alone or len(running) == 1, "files waited until another replica was there"
                answered_alone = True
            assert time.monotonic() < killed_at + PATIENCE_S, "no other replica came"
        lost = [call for call in calls if call.heard.done()]
        assert lost, "the killed replica had no call"
        assert len(lost) < len(calls), "the other replica's calls were lost, too"
        assert {call.error().code for call in lost} == {"connection_lost"}
        for call in calls:
            if call not in lost:
                call.assert_whole(bundle)
        assert endpoint.post().status_code == 200
