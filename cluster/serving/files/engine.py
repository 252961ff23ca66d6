"""The process that denoises recordings: one per replica, at low priority, one thread for all of them.

    python -m cluster.serving.files.engine DESCRIPTOR

Orders:  {"load": ID, "spec": ..., "rows": N} and the exported graph, or {"load": ID, "bundle": FOLDER} for a model
             that needs the whole clip
         {"keep": [ID, ...]}    forgets the other models once nothing uses them
         {"job": ID, "response_format": ..., "strength": ..., "band": ...} and two sockets: sound from the decoder,
             the reply
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import select
import socket
import sys
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, which would start as many as there are cores

import torch

from cluster.serving.errors import ApiError, our_fault
from cluster.serving.files.job import FileJob
from cluster.serving.files.messages import Unpacker
from cluster.serving.files.process import begin, receive_order, report_ready
from cluster.sound.streams import BatchedStreams, Streams, WindowedStreams
from ww_models import load_bundle
from ww_models.streaming.onnx_engine import OnnxEngine, StreamSpec

logger = logging.getLogger(__name__)

# Steps of the models between two looks at the sockets.
_MAX_STEPS = 2
_RECEIVE_BYTES = 1 << 18


@dataclasses.dataclass(eq=False)
class Connection:
    """A job and its sockets: sound comes from the decoder, the reply goes to the replica."""

    job: FileJob
    sound: socket.socket
    reply: socket.socket
    unpacker: Unpacker = dataclasses.field(default_factory=Unpacker)

    def receive(self) -> None:
        received = self.sound.recv(_RECEIVE_BYTES)
        if not received:
            self.job.on_decoder_lost()
        for message in self.unpacker.feed(received):
            self.job.receive(message)

    def send(self) -> None:
        sent = self.reply.send(self.job.outbox)
        del self.job.outbox[:sent]

    @property
    def is_over(self) -> bool:
        return self.job.has_ended and not self.job.outbox

    def close(self) -> None:
        self.job.close()
        self.sound.close()
        self.reply.close()


class FileEngine:
    """The loop: looks at the sockets, moves every job on, advances the models by some steps."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)
        self._models: dict[str, Streams] = {}
        self._connections: list[Connection] = []

    def run(self) -> None:
        """Until the replica is gone."""
        is_busy = False
        while self._look(wait=not is_busy):
            is_busy = False
            for streams in {id(one.job.streams): one.job.streams for one in self._connections}.values():
                is_busy |= self._advance(streams)
            for connection in list(self._connections):
                with self._isolated(connection):
                    is_busy |= connection.job.step()
                if connection.is_over:
                    self._drop(connection)

    def _look(self, wait: bool) -> bool:
        """Takes orders, receives and sends what can be; False when the replica is gone."""
        by_sound = {one.sound: one for one in self._connections if one.job.wants_input}
        by_reply = {one.reply: one for one in self._connections}
        waiting = [reply for reply, one in by_reply.items() if one.job.outbox]
        sources, timeout_s = [self._control, *by_sound, *by_reply], None if wait else 0
        readable, writable, _ = select.select(sources, waiting, [], timeout_s)
        for ready in readable:
            if ready is self._control:
                if not self._take_orders():
                    return False
            elif ready in by_reply:  # the replica sends nothing: it has hung up
                self._drop(by_reply[ready])
            else:
                with self._isolated(by_sound[ready]):
                    by_sound[ready].receive()
        for ready in writable:
            if by_reply[ready] in self._connections:
                with self._isolated(by_reply[ready]):
                    by_reply[ready].send()
        return True

    def _advance(self, streams: Streams) -> bool:
        try:
            return sum(1 for _ in range(_MAX_STEPS) if streams.advance()) > 0
        except Exception:
            logger.exception("a model failed")
            for connection in self._connections:
                if connection.job.streams is streams:
                    connection.job.fail(our_fault())
            return True

    @contextlib.contextmanager
    def _isolated(self, connection: Connection) -> Any:
        """What goes wrong inside ends this job alone."""
        try:
            yield
        except (BrokenPipeError, ConnectionResetError):
            self._drop(connection)
        except ApiError as error:
            connection.job.fail(error)
        except Exception:
            logger.exception("a job failed")
            connection.job.fail(our_fault())

    def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            connection.close()

    def _take_orders(self) -> bool:
        """Whether the replica is still there."""
        with contextlib.suppress(BlockingIOError):
            while received := receive_order(self._control):
                try:
                    self._execute(*received)
                except Exception:  # the replica sees its sockets closed
                    logger.exception("an order failed")
                    for file in received[1]:
                        os.close(file)
            return False
        return True

    def _execute(self, order: dict[str, Any], files: list[int]) -> None:
        if "job" in order:
            how = (order["response_format"], order["strength"], order["band"])
            job = FileJob(self._models[order["job"]], *how)
            sound, reply = (socket.socket(fileno=file) for file in files)
            sound.setblocking(False)
            reply.setblocking(False)
            self._connections.append(Connection(job, sound, reply))
        elif "keep" in order:
            self._models = {name: self._models[name] for name in order["keep"]}
        elif "bundle" in order:
            self._models[order["load"]] = WindowedStreams(load_bundle(order["bundle"]))
        elif "spec" in order:
            with os.fdopen(files[0], "rb", closefd=False) as file:
                file.seek(0)
                engine = OnnxEngine(file.read(), StreamSpec(**order["spec"]))
            self._models[order["load"]] = BatchedStreams(engine, order["rows"])
            os.close(files[0])
        else:
            report_ready(self._control)


def main(descriptor: str) -> None:
    torch.set_num_threads(1)
    FileEngine(begin(descriptor)).run()
    os._exit(0)  # nothing to save; open sockets are closed, which ends what waits for them


if __name__ == "__main__":
    main(sys.argv[1])
