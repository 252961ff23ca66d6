"""Serves bundles over HTTP and WebSocket with Ray Serve until Ctrl-C or SIGTERM.

POST /v1/audio/denoise takes a recording (WAV, FLAC, OGG, MP3, M4A, WebM, AAC, AIFF, CAF, AU or W64; any rate
and channels), as the body or as the form's field `file`, with `strength` (0 to 1), `response_format` (wav, flac,
ogg, pcm) and `model` in form or query. It answers with that recording denoised: same rate, channels and length.
Live calls go over a WebSocket; the address itself shows a page to try both. See docs/serving.md.
API keys: a file with lines NAME KEY [requests_per_minute=N] [max_concurrent=N], or WW_API_KEYS with the
same, separated by commas. Without either, everybody who reaches the address may use it.
Without a cluster it starts Ray on this machine; with RAY_ADDRESS set it serves there.

example: python -m jobs.serve --port 8000
         python -m jobs.serve --bundle runs/mine/bundle --port 8000
         python -m jobs.serve --store models
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from cluster.machine.session import connect
from cluster.promotion.follow import following
from cluster.promotion.store import ModelStore
from cluster.serving.auth import read_keys
from cluster.serving.config import USUAL_PORT, ServingConfig
from cluster.serving.deploy.deployment import check_serving, checked_bundles, serve_bundles, what_is_wrong
from cluster.serving.deploy.haproxy import PROXIES, proxy_before_replicas
from cluster.serving.deploy.promotion import listening, promote
from cluster.serving.deploy.serve_config import as_yaml, serve_config
from jobs.cli import Parser, main, make_parser
from ww_models import PRETRAINED, pretrained_note
from ww_models.streaming.onnx_export import PRECISIONS
from ww_models.whole_files import write_whole


def parser() -> argparse.ArgumentParser:
    defaults = ServingConfig()
    parser = make_parser("serve", __doc__)
    option = parser.option
    bundles = (
        "bundle to serve; may be given several times, the first one is the default (without one: the model that "
        "comes with Wave Wizard)"
    )
    option("--bundle DIR", bundles, action="append", default=[])
    option(
        "--store STORE", "serve what jobs.promote put into force there, instead of --bundle, and follow it"
    )
    option("--host HOST", "address to listen on; 0.0.0.0 lets other machines in", default=defaults.host)
    usual = f"0 takes any free one (default: {USUAL_PORT}, or the next that is free)"
    option("--port N", usual, type=int)
    option("--precision", "of causal models", choices=PRECISIONS, default=defaults.precision)
    instead = "write all of this as a config for `serve deploy`, and serve nothing"
    option("--write-config FILE", instead, type=Path)
    option(
        "--proxy",
        "what callers reach on this machine: HAProxy, which carries several times the live calls, Ray Serve's "
        "own, which listens on any HOST, or HAProxy where it is installed and HOST is 127.0.0.1 or 0.0.0.0",
        choices=PROXIES,
        default="auto",
    )
    _add_resources(parser, defaults)
    option("--api-keys FILE", "who may use it; see above", type=Path)
    origins = "web pages of this origin may use it, too; may be given several times"
    option("--allow-origin URL", origins, action="append", default=[])
    option("--max-upload-mib MIB", "largest upload", type=float, default=defaults.max_upload_bytes / 2**20)
    option("--max-audio-s S", "longest recording, in seconds", type=float, default=defaults.audio.max_seconds)
    option("--max-channels N", "most channels of a recording", type=int, default=defaults.audio.max_channels)
    return parser


def _add_resources(parser: Parser, defaults: ServingConfig) -> None:
    count = functools.partial(parser.option, type=int)
    number = functools.partial(parser.option, type=float)
    count("--replicas N", "copies of the models", default=defaults.num_replicas)
    count("--max-replicas N", "start more, up to so many, as calls and files come, and stop them again")
    number(
        "--calls-per-replica N",
        "with --max-replicas: more calls and files than that start another replica",
        default=defaults.scaling.target_requests,
    )
    number(
        "--drain-s S",
        "how long calls of a replica that is stopped may go on, in seconds",
        default=defaults.scaling.drain_s,
    )
    number("--cpus N", "CPUs set aside for each replica", default=defaults.cpus_per_replica)
    count(
        "--max-pending N",
        "files that a replica works on at a time; more are answered 503",
        default=defaults.max_pending,
    )
    count(
        "--max-streams N",
        "live channels that a replica carries at a time; measured at the start unless given",
    )


def config_from(arguments: argparse.Namespace) -> ServingConfig:
    defaults = ServingConfig()
    return ServingConfig(
        host=arguments.host,
        port=arguments.port,
        precision=arguments.precision,
        num_replicas=arguments.replicas,
        cpus_per_replica=arguments.cpus,
        scaling=dataclasses.replace(
            defaults.scaling,
            max_replicas=arguments.max_replicas,
            target_requests=arguments.calls_per_replica,
            drain_s=arguments.drain_s,
        ),
        max_pending=arguments.max_pending,
        max_upload_bytes=int(arguments.max_upload_mib * 2**20),
        audio=dataclasses.replace(
            defaults.audio, max_seconds=arguments.max_audio_s, max_channels=arguments.max_channels
        ),
        live=dataclasses.replace(defaults.live, max_streams=arguments.max_streams),
        api_keys=read_keys(arguments.api_keys),
        allowed_origins=tuple(arguments.allow_origin),
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.bundle and arguments.store:
        raise ValueError("give either --bundle DIR or --store STORE: what to serve")
    config = config_from(arguments)
    store = ModelStore(arguments.store) if arguments.store else None
    in_force = store.current() if store else ""
    if not (store or arguments.bundle):
        print(pretrained_note())
    bundles = [store.bundle(in_force)] if store else arguments.bundle or [PRETRAINED]
    if arguments.write_config:
        schema = serve_config(checked_bundles(bundles), config)
        write_whole({arguments.write_config: as_yaml(schema).encode()})
        print(f"wrote {arguments.write_config}: serve deploy {arguments.write_config}")
        return
    # Before Ray takes seconds to start. A free port is only chosen after that: Ray takes some of them.
    check_serving(bundles, config)
    with (
        proxy_before_replicas(arguments.proxy, config.host),
        connect() as where,
        serve_bundles(bundles, config) as url,
        listening(url),
        following(store, in_force, lambda bundle: promote([bundle]), say) if store else nullcontext(),
    ):
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        if arguments.port is None and not url.endswith(f":{USUAL_PORT}"):
            print(f"note: port {USUAL_PORT} is taken, so it listens on another one", file=sys.stderr)
        print(f"serving {', '.join(map(str, bundles))} at {url} on {where}; Ctrl-C ends it")
        print(ways_to_try(url, with_key=bool(config.api_keys)), flush=True)
        wrong = watch(stop, config.start_timeout_s)
        print("stopping", flush=True)
    if wrong:
        print(f"error: nothing has served for {config.start_timeout_s:g} s: {wrong}", file=sys.stderr)
        sys.exit(1)


def say(line: str) -> None:
    print(line, flush=True)


def watch(stop: threading.Event, patience_s: float, look_every_s: float = 3.0) -> str:
    """Waits until `stop`, and returns ""; or until nothing serves for so long, and returns why."""
    last_good, wrong = time.monotonic(), ""

    def look() -> None:  # in a thread, since a Ray that is gone may never answer
        nonlocal last_good, wrong
        while not stop.wait(look_every_s):
            wrong = what_is_wrong()
            if not wrong:
                last_good = time.monotonic()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    # In short waits: a signal that another thread receives does not end one.
    while not stop.wait(0.5):
        if time.monotonic() - last_good > patience_s:
            stop.set()
            return wrong or "Ray does not answer"
    looking.join(look_every_s)
    return ""


def ways_to_try(url: str, *, with_key: bool) -> str:
    """A line for each way to use the endpoint."""
    header = "-H 'Authorization: Bearer KEY' " if with_key else ""
    option = " --api-key KEY" if with_key else ""
    live = url.replace("http", "ws", 1)
    return (
        f"try: curl {header}-F file=@noisy.wav -o clean.wav {url}/v1/audio/denoise\n"
        f"live: python -m jobs.stream --url {live} --input noisy.wav --output clean.wav{option}\n"
        f"page: {url}/   with a microphone or a file\n"
        f"docs: {url}/docs"
    )


if __name__ == "__main__":
    main(parser(), run)
