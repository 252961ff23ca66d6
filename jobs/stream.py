"""Sends sound to a running endpoint as a live call: a recording, or the microphone.

With --input the recording goes as fast as the server takes it, or with --realtime as fast as it was spoken; the
result has its sample rate, channels and length. Live calls take usual rates from 8000 to 192000 Hz, such as 16000,
44100 or 48000; a recording of another rate goes over HTTP: curl -F file=@noisy.wav -o clean.wav URL/v1/audio/denoise

Without --input the microphone is denoised into the headphones until Ctrl-C (this needs the package sounddevice:
pip install sounddevice).

example: python -m jobs.stream --url ws://127.0.0.1:8000 --input noisy.wav --output clean.wav
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from cluster.enhancement import FORMATS, read_recording, write_recording
from cluster.machine.progress import progress
from cluster.serving.client import StreamClient, StreamError
from cluster.sound.bands import BANDS
from cluster.sound.level import saturation_note
from cluster.sound.strength import OPTIONS, strength_from
from jobs.cli import main, make_parser
from ww_data.audio import source_name

CHUNK_S = 0.02
KEY_VARIABLE = "WW_API_KEY"


def parser() -> argparse.ArgumentParser:
    parser = make_parser("stream", __doc__)
    option = parser.option
    option("--url URL", "endpoint: ws(s):// or http(s)://", default="ws://127.0.0.1:8000")
    option("--input FILE", "recording to send; the microphone unless given")
    option("--output FILE", "where its result goes: .wav, .flac or .ogg")
    option("--realtime", "send as fast as it was spoken", action="store_true")
    band = "full keeps what the sound has above the band of the model, model leaves it out"
    option("--band", band, choices=BANDS, default="full")
    option("--strength S", "share of the denoised signal, 0 (input) to 1 (unless given)", type=float)
    most = "take at most so many dB of the noise away, instead of all; or give --strength"
    option("--max-attenuation DB", most, type=float)
    option("--model ID", "one of the models that the endpoint serves")
    option("--api-key KEY", f"where one is asked for; or {KEY_VARIABLE} is set")
    return parser


def run(arguments: argparse.Namespace) -> None:
    if bool(arguments.input) != bool(arguments.output):
        raise ValueError("--input and --output go together; without both the microphone is used")
    strength_from(
        arguments.strength, arguments.max_attenuation, OPTIONS
    )  # says what is wrong by its option's name
    options = {
        "strength": arguments.strength,
        "max_attenuation_db": arguments.max_attenuation,
        "band": arguments.band,
        "model": arguments.model,
        "api_key": arguments.api_key or os.environ.get(KEY_VARIABLE),
    }
    if arguments.input:
        stream_file(arguments.url, Path(arguments.input), Path(arguments.output), arguments.realtime, options)
    else:
        stream_microphone(arguments.url, options)


def chunks_of(samples: np.ndarray, sample_rate: int, is_realtime: bool) -> Iterator[np.ndarray]:
    """Pieces of 20 ms; in real time each comes when its last sample would have been spoken."""
    step = round(CHUNK_S * sample_rate)
    started = time.monotonic()
    for start in range(0, len(samples), step):
        chunk = samples[start : start + step]
        if is_realtime:
            time.sleep(max(0.0, started + (start + len(chunk)) / sample_rate - time.monotonic()))
        yield chunk


def stream_file(url: str, source: Path, target: Path, is_realtime: bool, options: dict[str, Any]) -> None:
    """Denoises one recording; the result appears whole or not at all."""
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {target} does not end in {', '.join(FORMATS)}")
    if target.exists() and target.resolve() == source.resolve():
        raise ValueError(f"--output {target} is the input and would be overwritten; choose another name")
    if not target.parent.is_dir():
        raise ValueError(f"the folder {target.parent} of --output does not exist; make it first")
    samples_TC, sample_rate, subtype, channel_mask = read_recording(source)
    num_channels = samples_TC.shape[1]
    sound = samples_TC[:, 0] if num_channels == 1 else samples_TC
    with (
        _point_to_http(url, source, target),
        StreamClient(url, sample_rate=sample_rate, channels=num_channels, **options) as client,
    ):
        started = time.monotonic()
        cleaned, num_done = [], 0
        with progress("streaming") as report:
            for clean in client.denoise(chunks_of(sound, sample_rate, is_realtime)):
                cleaned.append(clean.reshape(-1, num_channels))
                num_done += len(clean)
                report(num_done, len(sound), source.name)
        elapsed_s = time.monotonic() - started
    result_TC = np.concatenate(cleaned)
    write_recording(target, result_TC, sample_rate, subtype, channel_mask)
    if note := saturation_note(source_name(source), float(np.abs(result_TC).max())):
        print(f"note: {note}")
    seconds = len(sound) / sample_rate
    print(
        f"{seconds:.1f} s of sound in {elapsed_s:.1f} s ({elapsed_s / seconds:.3f} s per second), latency "
        f"{client.session['latency_ms']:.1f} ms, model {client.session['model']}, in {target}"
    )


@contextlib.contextmanager
def _point_to_http(url: str, source: Path, target: Path) -> Iterator[None]:
    """Turns the refusal of a rate that live calls do not take into an error that says what takes it."""
    try:
        yield
    except StreamError as error:
        if error.fields.get("parameter") != "sample_rate":
            raise
        parts = urlsplit(url)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        command = f"curl -F file=@{source} -o {target} {scheme}://{parts.netloc}/v1/audio/denoise"
        raise ValueError(f"{error}; a recording of another rate goes over HTTP: {command}") from error


def stream_microphone(url: str, options: dict[str, Any]) -> None:
    """The default microphone, denoised, into the default output, until Ctrl-C."""
    sounddevice = _sounddevice()
    blocks: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()

    def send() -> None:
        with contextlib.suppress(StreamError):  # the receiving side raises it, too
            while (block := blocks.get()) is not None:
                client.send(block)

    with StreamClient(url, **options) as client:
        settings = {"samplerate": client.sample_rate, "channels": 1, "dtype": "float32", "latency": "low"}
        microphone = sounddevice.InputStream(
            blocksize=client.session["frame_samples"],
            callback=lambda data, *_: blocks.put(data[:, 0].copy()),
            **settings,
        )
        sender = threading.Thread(target=send, name="sender")
        with microphone, sounddevice.OutputStream(**settings) as headphones:
            sender.start()
            print(
                f"live at {client.sample_rate} Hz, latency {client.session['latency_ms']:.1f} ms and that of the "
                "sound device; wear headphones; Ctrl-C ends it",
                flush=True,
            )
            try:
                while True:
                    headphones.write(client.receive())
                    show(client.stats)
            except KeyboardInterrupt:
                print(file=sys.stderr)
            finally:
                blocks.put(None)
                sender.join()


def show(stats: dict[str, Any]) -> None:
    """Rewrites one line with what the server said last."""
    if stats:
        line = (
            f"{stats['seconds']:.0f} s, {stats['processing_ms_p99']:.1f} ms at most to process, "
            f"{stats['real_time_factor']:.4f} s of computing per second "
        )
        print(f"\r{line}", end="", file=sys.stderr, flush=True)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, the PortAudio library is not
        raise ValueError(
            f"the microphone needs the package sounddevice and the PortAudio library ({error}): pip install "
            "sounddevice, or send a recording with --input and --output"
        ) from error
    try:
        sounddevice.check_input_settings()
        sounddevice.check_output_settings()
    except sounddevice.PortAudioError as error:
        raise ValueError(
            f"there is no microphone or no output here ({error}): use --input and --output"
        ) from error
    return sounddevice


if __name__ == "__main__":
    main(parser(), run)
