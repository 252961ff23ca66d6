"""Serves a bundle over HTTP with Ray Serve until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading

from cluster.serving import ServingConfig, check_serving, serve_bundle
from cluster.session import connect
from jobs.cli import main, make_parser


def parser() -> argparse.ArgumentParser:
    defaults = ServingConfig()
    parser = make_parser(
        "serve",
        __doc__
        + """
POST /v1/audio/denoise takes a recording (WAV, FLAC, OGG, MP3; any rate and channels), as the body or as the
form's field `file`, with `strength` (0 to 1) and `response_format` (wav, flac, ogg) in form or query. It
answers with that recording denoised: same rate, channels and length. See /v1/models, /healthz and /docs.
Without a cluster it starts Ray on this machine; with RAY_ADDRESS set it serves there.

example: python -m jobs.serve --bundle runs/mine/bundle --port 8000""",
    )
    parser.add_argument("--bundle", required=True, metavar="DIR", help="bundle to serve")
    parser.add_argument(
        "--host", default=defaults.host, help="address to listen on; 0.0.0.0 lets other machines in"
    )
    parser.add_argument("--port", type=int, default=defaults.port, metavar="N", help="0 takes any free one")
    parser.add_argument(
        "--replicas", type=int, default=defaults.num_replicas, metavar="N", help="copies of the model"
    )
    parser.add_argument(
        "--cpus",
        type=float,
        default=defaults.cpus_per_replica,
        metavar="N",
        help="CPUs set aside for each replica",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=defaults.torch_threads,
        metavar="N",
        help="threads that work on one recording",
    )
    parser.add_argument(
        "--max-upload-mib",
        type=float,
        default=defaults.max_upload_bytes / 2**20,
        metavar="MIB",
        help="largest upload",
    )
    parser.add_argument(
        "--max-audio-s",
        type=float,
        default=defaults.max_audio_s,
        metavar="S",
        help="longest recording, in seconds",
    )
    return parser


def config_from(arguments: argparse.Namespace) -> ServingConfig:
    return ServingConfig(
        host=arguments.host,
        port=arguments.port,
        num_replicas=arguments.replicas,
        cpus_per_replica=arguments.cpus,
        torch_threads=arguments.threads,
        max_upload_bytes=int(arguments.max_upload_mib * 2**20),
        max_audio_s=arguments.max_audio_s,
    )


def run(arguments: argparse.Namespace) -> None:
    config = check_serving(arguments.bundle, config_from(arguments))  # before Ray takes seconds to start
    with connect() as where, serve_bundle(arguments.bundle, config) as url:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"serving {arguments.bundle} at {url} on {where}; Ctrl-C ends it")
        print(f"try: curl -F file=@noisy.wav -o enhanced.wav {url}/v1/audio/denoise", flush=True)
        stop.wait()
        print("stopping", flush=True)


if __name__ == "__main__":
    main(parser(), run)
