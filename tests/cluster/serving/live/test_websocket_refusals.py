"""What a live call is refused or ended for, and how it hears of that: parameters, messages, silence, places, keys."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope
from websockets.exceptions import ConnectionClosed

from cluster.serving.errors import ApiError
from cluster.serving.models import ServedModels
from tests.cluster.serving.callers import wait_until
from tests.cluster.serving.engines import WatchedEngine
from tests.cluster.serving.live_server import CONFIG, Heard, Server, held_server, serve, sound
from ww_models import read_bundle_info


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("encoding=mp3", "encoding"),
        ("sample_rate=47999", "sample_rate"),
        ("sample_rate=1000", "sample_rate"),
        ("sample_rate=much", "sample_rate"),
        ("channels=0", "channels"),
        ("channels=9", "channels"),
        ("strength=1.1", "strength"),
        ("strength=nan", "strength"),
        ("max_attenuation=-1", "max_attenuation"),
        ("max_attenuation=much", "max_attenuation"),
        ("max_attenuation=20&strength=0.9", "max_attenuation"),
        ("strenght=1", "strenght"),
    ],
)
def test_a_wrong_parameter_is_named(server: Server, query: str, word: str) -> None:
    with server.connect(query) as connection:
        code, error = Heard(connection).until_closed()
    assert (code, error["code"], error["parameter"]) == (1008, "bad_parameter", word)
    assert word in error["message"]
    assert error["session_id"]


def test_an_unknown_model_and_one_that_cannot_run_live_are_refused(
    bundle: Path, whole_clip_bundle: Path
) -> None:
    models = ServedModels([bundle, whole_clip_bundle])
    whole_id = read_bundle_info(whole_clip_bundle).id
    with serve(models) as server:
        for model, code in (("nobody", "unknown_model"), (whole_id, "not_live")):
            with server.connect(f"model={model}") as connection:
                closed, error = Heard(connection).until_closed()
            assert (closed, error["code"]) == (1008, code)
            assert model in error["message"]


@pytest.mark.parametrize(
    ("query", "message", "closed", "code"),
    [
        ("", b"\0" * 3, 1007, "bad_audio"),
        ("channels=2", b"\0" * 6, 1007, "bad_audio"),
        ("encoding=pcm_f32le", np.array([0, np.nan], "<f4").tobytes(), 1007, "bad_audio"),
        ("encoding=pcm_f32le", np.array([np.inf], "<f4").tobytes(), 1007, "bad_audio"),
        ("", b"\0" * (CONFIG.max_message_bytes + 2), 1009, "message_too_big"),
        ("", "no JSON", 1003, "bad_message"),
        ("", "[" * 100_000, 1003, "bad_message"),
        ("", '{"type": "sing"}', 1003, "bad_message"),
        ("", '{"type": 3}', 1003, "bad_message"),
        ("", '{"type": "session.update"}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strength": NaN}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strength": true}', 1003, "bad_message"),
        ("", '{"type": "session.update", "strenght": 1}', 1003, "bad_message"),
        ("", '{"type": "session.update", "bypass": 1}', 1003, "bad_message"),
        ("", '{"type": "session.update", "max_attenuation": -1}', 1003, "bad_message"),
        ("", '{"type": "session.update", "max_attenuation": 20, "strength": 0.9}', 1003, "bad_message"),
    ],
)
def test_what_is_no_sound_and_no_message_ends_the_session_with_a_reason(
    server: Server, query: str, message: str | bytes, closed: int, code: str
) -> None:
    with server.connect(query) as connection:
        heard = Heard(connection)
        heard.until("session.created")
        connection.send(message)
        found, error = heard.until_closed()
    assert (found, error["code"]) == (closed, code)
    wait_until(lambda: server.live.num_calls == 0, "the end of the session")


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=600),
            st.text(max_size=60),
            st.sampled_from(["flush", "ping", "close"]).map(lambda kind: json.dumps({"type": kind})),
            st.dictionaries(
                st.sampled_from(["type", "strength", "max_attenuation", "bypass"]), st.integers() | st.text()
            ).map(json.dumps),
        ),
        max_size=8,
    )
)
def test_no_messages_are_ever_our_fault(server: Server, messages: list[str | bytes]) -> None:
    with server.connect("encoding=pcm_f32le") as connection:
        heard = Heard(connection)
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                connection.send(message)
            connection.send('{"type": "close"}')
        code, error = heard.until_closed()
    assert code in {1000, 1003, 1007}, error
    assert bool(error) == (code != 1000)


def test_our_own_fault_ends_the_session_without_internals(held: tuple[Server, WatchedEngine]) -> None:
    server, engine = held
    for fails in (True, False):  # and the next one works again
        engine.fails = fails
        with server.connect("encoding=pcm_f32le") as connection:
            heard = Heard(connection)
            connection.send(sound(8).tobytes())
            if not fails:
                heard.until_samples(3000)
                continue
            code, error = heard.until_closed()
            assert (code, error["code"]) == (1011, "internal_error")
            assert "secret" not in error["message"]


def test_who_says_nothing_is_sent_away(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, idle_s=0.5)
    with serve(models, config) as server, server.connect() as idle, server.connect() as busy:
        heard = Heard(idle)
        heard.until("session.created")

        def keep_busy() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    busy.send('{"type": "ping"}')
                    time.sleep(0.05)

        thread = threading.Thread(target=keep_busy)
        thread.start()
        code, error = heard.until_closed()
        assert (code, error["code"]) == (1008, "idle")
        busy.ping().wait(5)
        wait_until(lambda: server.live.num_calls == 1, "the end of the silent session alone")
        busy.close()
        thread.join()


def test_one_session_too_many_is_told_when_to_come_again(models: ServedModels) -> None:
    with serve(models, dataclasses.replace(CONFIG, max_streams=3)) as server:
        with server.connect("channels=2") as first, server.connect() as second:
            for connection in (first, second):
                Heard(connection).until("session.created")
            assert server.live.load == pytest.approx(1)
            with server.connect() as third:
                code, error = Heard(third).until_closed()
            assert (code, error["code"]) == (1013, "busy")
            assert error["retry_after_s"] > 0
        wait_until(lambda: server.live.num_calls == 0, "the end of both sessions")
        with server.connect("channels=3") as later:
            Heard(later).until("session.created")


def test_while_steps_come_late_nobody_new_is_let_in(models: ServedModels) -> None:
    config = dataclasses.replace(CONFIG, follows_load=True)
    with held_server(models, config=config) as (server, engine):
        query, samples = "encoding=pcm_f32le", sound(3, 4000)
        with server.connect(query) as first, server.connect(query) as second:
            inside, silent = Heard(first), Heard(second)
            for heard in (inside, silent):
                heard.until("session.created")
            first.send(samples.tobytes())
            inside.until_samples(2000)
            engine.gate.clear()
            first.send(samples.tobytes())
            time.sleep(0.3)  # until that is seen
            second.send(samples.tobytes())  # it would begin with this
            assert silent.until_closed()[1]["code"] == "busy"
            with server.connect(query) as third:
                code, error = Heard(third).until_closed()
            assert (code, error["code"], error["retry_after_s"]) == (1013, "busy", 5)
            engine.gate.set()
            first.send('{"type": "flush"}')
            assert inside.until("flushed")["samples_out"] == 8000
        wait_until(lambda: server.live.num_calls == 0, "the end of the sessions")
        with server.connect(query) as later:
            later.send(samples.tobytes())
            Heard(later).until_samples(2000)


def test_who_may_not_enter_hears_why_and_the_key_may_come_as_a_subprotocol(models: ServedModels) -> None:
    held: list[str] = []

    @contextlib.contextmanager
    def admitted(scope: Scope) -> Iterator[None]:
        if "key.open-sesame" not in scope["subprotocols"]:
            raise ApiError(401, "unauthorized", "this endpoint asks for an API key")
        held.append("in")
        yield
        held.append("out")

    with serve(models, admitted=admitted) as server:
        with server.connect() as connection:
            code, error = Heard(connection).until_closed()
        assert (code, error["code"]) == (1008, "unauthorized")
        with server.connect(subprotocols=["wave-wizard", "key.open-sesame"]) as connection:
            Heard(connection).until("session.created")
            assert connection.subprotocol == "wave-wizard"
            assert held == ["in"]
        wait_until(lambda: held == ["in", "out"], "the end of the session")
