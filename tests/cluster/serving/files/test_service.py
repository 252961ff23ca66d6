"""The processes that work on files: how many children there are, and which models the engine knows."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.serving.config import AudioLimits, ServingConfig
from cluster.serving.files.messages import END, ERROR, SOUND, START, Unpacker
from cluster.serving.files.process import FileProcess
from cluster.serving.files.service import FileService
from cluster.serving.files.upload import DenoiseOptions
from cluster.serving.models import ServedModel, ServedModels
from tests.cluster.serving.callers import wait_until
from tests.cluster.serving.clips import file_bytes, recording
from tests.cluster.serving.replica import file_process


def write_endless(path: Path) -> None:
    """A WAV file that takes minutes to decode and no room, since it is all hole."""
    num_bytes = 1 << 37
    chunk = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 8, 48_000, 48_000 * 16, 16, 16)
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, num_bytes + 72, num_bytes, num_bytes // 16, 0)
    with path.open("wb") as file:
        file.write(b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + chunk + b"data" + b"\xff" * 4)
        file.truncate(file.tell() + num_bytes)


def answer_of(connection: socket.socket) -> list[int]:
    """The kinds of message that come until the other end hangs up."""
    unpacker, kinds = Unpacker(), []
    while received := connection.recv(1 << 16):
        kinds += [kind for kind, _ in unpacker.feed(received)]
    return kinds


def test_so_many_files_are_decoded_at_a_time_and_none_for_a_caller_who_has_left(tmp_path: Path) -> None:
    endless, short = tmp_path / "endless", tmp_path / "short"
    write_endless(endless)
    short.write_bytes(file_bytes(recording()))
    order = {"limits": dataclasses.asdict(AudioLimits(max_seconds=1e9)), "max_children": 1}
    decoder = FileProcess("cluster.serving.files.decoder")

    def begin(path: Path) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        with theirs, path.open("rb") as audio:
            decoder.order(order, audio.fileno(), theirs.fileno())
        return ours

    try:
        decoder.wait_until_ready(60)
        with begin(endless), begin(short) as second:
            assert answer_of(second) == [ERROR]
        wait_until(lambda: not file_process("decoder").children())
        with begin(short) as third:
            assert answer_of(third) == [START, SOUND, END]
    finally:
        decoder.close()


@pytest.fixture
def files_and_orders(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ServedModels, FileService, list[dict]]]:
    """A service, and what its engine is told."""
    orders: list[dict] = []
    order_for_real = FileProcess.order

    def order(process: FileProcess, order: dict, *files: int) -> None:
        orders.append(order)
        order_for_real(process, order, *files)

    monkeypatch.setattr(FileProcess, "order", order)
    models = ServedModels([bundle])
    files = FileService(models, ServingConfig())
    files.wait_until_ready()
    yield models, files, orders
    files.close()


def num_denoised(files: FileService, model: ServedModel, path: Path) -> int:
    """Samples of the reply to a short recording."""

    async def denoise() -> int:
        with path.open("rb") as audio:
            async with files.denoise(audio, model, DenoiseOptions()) as reply:
                assert len(b"".join([part async for part in reply.body])) == reply.num_bytes
                return reply.num_frames

    path.write_bytes(file_bytes(recording()))
    return asyncio.run(denoise())


def test_a_replaced_model_is_forgotten_after_its_last_file(
    files_and_orders: tuple[ServedModels, FileService, list[dict]], other_bundle: Path, tmp_path: Path
) -> None:
    models, files, orders = files_and_orders
    old = models.default
    models.replace([other_bundle])
    files.synchronise()
    assert num_denoised(files, old, tmp_path / "a.wav") == num_denoised(
        files, models.default, tmp_path / "a.wav"
    )
    told = [order for order in orders if order.get("load") == old.id or "keep" in order]
    assert told[-1] == {"keep": [models.default.id]}
    assert [order.get("load") for order in told[:-1]] == [old.id, None, old.id]


def test_an_engine_that_died_again_while_it_was_told_gets_its_models(
    files_and_orders: tuple[ServedModels, FileService, list[dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models, files, _ = files_and_orders
    engine = file_process("engine")
    engine.kill()
    engine.wait(30)

    def order(*_: object) -> None:
        raise BlockingIOError("full")

    with monkeypatch.context() as broken:
        broken.setattr(FileProcess, "order", order)
        files.synchronise()
        assert not files.is_ready()
    files.synchronise()
    wait_until(files.is_ready)
    assert num_denoised(files, models.default, tmp_path / "a.wav") == len(recording())
