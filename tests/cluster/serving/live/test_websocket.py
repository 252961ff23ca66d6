"""Live calls over real sockets: the protocol of docs/serving.md, from the first sound to the end of the session."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

from cluster.serving.config import EVIDENCE_FILE
from cluster.serving.live.protocol import PATH
from cluster.serving.models import ServedModels
from tests.cluster.serving.callers import wait_until
from tests.cluster.serving.live_server import CONFIG, Heard, Server, denoised, serve, sound
from ww_models import read_bundle_info


def test_two_sessions_at_once_each_get_their_own_whole_clip(server: Server, bundle: Path) -> None:
    sounds = [(16_000, sound(1, 9000, 1)), (44_100, sound(2, 20_000, 2))]
    results: dict[int, np.ndarray] = {}

    def call(rate: int, samples: np.ndarray) -> None:
        channels = samples.shape[1]
        with server.connect(f"encoding=pcm_f32le&sample_rate={rate}&channels={channels}") as connection:
            heard = Heard(connection, channels)
            created = heard.until("session.created")
            assert created["input_sample_rate"] == rate
            assert created["model_sample_rate"] == 16_000
            assert created["channels"] == channels
            for chunk in np.array_split(samples, 37):
                connection.send(chunk.tobytes())
            connection.send(json.dumps({"type": "close"}))
            flushed = heard.until("flushed")
            assert flushed["samples_in"] == flushed["samples_out"] == len(samples)
            assert heard.until_closed() == (1000, {})
            results[rate] = heard.samples

    threads = [threading.Thread(target=call, args=arguments) for arguments in sounds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for rate, samples in sounds:
        np.testing.assert_allclose(results[rate], denoised(bundle, samples, rate), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_the_latency_in_session_created_is_true(server: Server, rate: int) -> None:
    with server.connect(f"encoding=pcm_f32le&sample_rate={rate}") as connection:
        heard = Heard(connection)
        created = heard.until("session.created")
        latency_samples = created["latency_samples"]
        assert created["latency_ms"] == pytest.approx(1000 * latency_samples / rate, abs=0.01)
        assert created["frame_ms"] == 16.0
        num_in = 0
        for size in (rate // 3, 7, rate // 100, 1, rate // 4):
            connection.send(sound(size, size).tobytes())
            num_in += size
            heard.until_samples(num_in - latency_samples)
        assert len(heard.samples) <= num_in


def test_a_flush_ends_a_stream_and_the_next_sound_begins_another(server: Server, bundle: Path) -> None:
    samples = sound(3, 3000)
    with server.connect("encoding=pcm_f32le&sample_rate=48000") as connection:
        heard = Heard(connection)
        for number in range(3):
            connection.send(samples.tobytes())
            connection.send('{"type": "flush"}')
            flushed = heard.until("flushed")
            assert flushed == {"type": "flushed", "samples_in": 3000, "samples_out": 3000}
            assert len(heard.samples) == 3000 * (number + 1)
        connection.send('{"type": "flush"}')
        assert heard.until("flushed")["samples_out"] == 0
        expected = denoised(bundle, samples, 48_000)
        np.testing.assert_allclose(heard.samples, np.concatenate([expected] * 3), atol=1e-5)


def test_16_bits_are_the_default_at_the_rate_of_the_model(server: Server, bundle: Path) -> None:
    samples = np.rint(32768 * sound(4)) / 32768
    with server.connect() as connection:
        heard = Heard(connection)
        created = heard.until("session.created")
        assert (created["encoding"], created["input_sample_rate"]) == ("pcm_s16le", 16_000)
        connection.send((32768 * samples).astype("<i2").tobytes())
        connection.send('{"type": "flush"}')
        heard.until("flushed")
    received = np.frombuffer(heard.sound, "<i2")[:, None] / 32768
    np.testing.assert_allclose(received, denoised(bundle, samples.astype(np.float32)), atol=0.6 / 32768)


def test_an_update_is_answered_and_goes_over_without_a_click(server: Server, bundle: Path) -> None:
    t = np.arange(16_000)[:, None] / 16_000
    samples = (0.5 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    clean = denoised(bundle, samples)
    with server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        connection.send(samples[:8000].tobytes())
        heard.until_samples(7000)
        connection.send('{"type": "session.update", "strength": 0.5}')
        assert heard.until("session.updated") == {
            "type": "session.updated",
            "strength": 0.5,
            "bypass": False,
        }
        num_before = len(heard.samples)
        connection.send('{"type": "session.update", "bypass": true}')
        assert heard.until("session.updated")["bypass"] is True
        num_changed = len(heard.samples) + 320  # 20 ms later all is the input
        connection.send(samples[8000:].tobytes())
        connection.send('{"type": "flush"}')
        heard.until("flushed")
    np.testing.assert_allclose(heard.samples[:num_before], clean[:num_before], atol=1e-5)
    np.testing.assert_array_equal(heard.samples[num_changed:], samples[num_changed:])
    step = max(np.abs(np.diff(signal, axis=0)).max() for signal in (samples, clean))
    ramp_step = np.abs(clean - samples).max() / 320
    assert np.abs(np.diff(heard.samples, axis=0)).max() <= step + 1.01 * ramp_step


def test_statistics_come_by_themselves_and_a_ping_is_answered(server: Server) -> None:
    with server.connect("encoding=pcm_s16le") as connection:
        heard = Heard(connection)
        loud = np.full(8000, 32767, "<i2")
        loud[::2] = -32768
        connection.send(loud.tobytes())
        connection.send('{"type": "ping"}')
        heard.until("pong")
        while not heard.stats or heard.stats[-1]["seconds"] < 0.4:
            heard.until("stats")
        stats = heard.stats[-1]
        assert set(stats) == {
            "type",
            "real_time_factor",
            "processing_ms_p50",
            "processing_ms_p99",
            "buffered_ms",
            "clipped_samples",
            "seconds",
        }
        assert 0 < stats["processing_ms_p50"] <= stats["processing_ms_p99"]
        assert stats["buffered_ms"] == 0


def test_a_short_stream_has_its_statistics_before_it_is_flushed(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, stats_interval_s=60)
    with serve(models, config) as server, server.connect() as connection:
        heard = Heard(connection)
        for number in (1, 2):
            connection.send(bytes(2 * 8000))
            connection.send('{"type": "flush"}')
            heard.until("flushed")
            assert [stats["seconds"] for stats in heard.stats] == [
                pytest.approx(0.5 * each, abs=0.05) for each in range(1, number + 1)
            ]
            assert heard.stats[-1]["real_time_factor"] > 0
            assert heard.stats[-1]["processing_ms_p99"] > 0
        connection.send('{"type": "flush"}')
        heard.until("flushed")
        assert len(heard.stats) == 2, "no news, no statistics"


def test_a_connection_that_breaks_leaves_nothing_behind(server: Server) -> None:
    connection = server.connect()
    Heard(connection).until("session.created")
    connection.send(sound(5).tobytes())
    connection.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.live.num_calls == 0, "the end of the session")
    connection.close()


def test_a_promotion_leaves_sessions_on_their_model(bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    other_bundle = Path(shutil.copytree(other_bundle, tmp_path / "promoted"))
    (other_bundle / EVIDENCE_FILE).write_text("{}")
    models, samples = ServedModels([bundle]), sound(6, 8000)
    with serve(models) as server, server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        created = heard.until("session.created")
        assert (created["model"], created["evidence"]) == (read_bundle_info(bundle).id, None)
        connection.send(samples[:5000].tobytes())
        heard.until_samples(4000)
        models.replace([other_bundle])
        connection.send(samples[5000:].tobytes())
        connection.send('{"type": "flush"}')
        with server.connect("encoding=pcm_f32le") as later:
            heard_later = Heard(later)
            created = heard_later.until("session.created")
            assert created["model"] == read_bundle_info(other_bundle).id
            assert created["evidence"] == str(other_bundle / EVIDENCE_FILE)
            later.send(samples.tobytes())
            later.send('{"type": "flush"}')
            heard_later.until("flushed")
        heard.until("flushed")
    np.testing.assert_allclose(heard.samples, denoised(bundle, samples), atol=1e-5)
    np.testing.assert_allclose(heard_later.samples, denoised(other_bundle, samples), atol=1e-5)
    assert np.abs(heard.samples - heard_later.samples).max() > 1e-3


def test_draining_lets_calls_end_and_nobody_in(models: ServedModels) -> None:
    with serve(models) as server, server.connect() as first, server.connect() as second:
        calls = [Heard(first), Heard(second)]
        for heard in calls:
            heard.until("session.created")
        url = server.url.replace("ws://", "http://").replace(PATH, "/drain")
        drain = threading.Thread(
            target=lambda: httpx.post(url, params={"seconds": 1.5, "reason": "redeploy"}, timeout=30)
        )
        drain.start()
        for heard in calls:
            notice = heard.until("draining")
            assert notice == {"type": "draining", "reason": "redeploy", "seconds": 1.5}
        with server.connect() as late:
            code, error = Heard(late).until_closed()
            assert (code, error["code"]) == (1001, "draining")
        first.send(sound(10).tobytes())
        first.send('{"type": "close"}')
        assert calls[0].until_closed() == (1000, {})
        assert calls[1].until_closed() == (1001, {}), "time is up"
        drain.join(30)
        assert server.live.num_calls == 0
