"""A live call from another program: sound in, denoised sound out, over the WebSocket of docs/serving.md.

    with StreamClient("http://127.0.0.1:8000", sample_rate=48_000) as client:
        for clean in client.denoise(chunks):        # float arrays (n,), or (n, channels); any n
            play(clean)

`send` and `receive` do the same apart, also from two threads; there the caller must stay less than 2 s ahead of what
has come back, as `denoise` does. Sample k out is sample k in, denoised.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.proxy import get_proxy
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from cluster.serving.addresses import is_loopback, without_secrets
from cluster.serving.live.protocol import DTYPES, PATH, Encoding
from cluster.sound.bands import Band

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]

_SEND_S = 0.1  # of sound in a message, where more is given at once
# How far `denoise` is ahead; at 2 s the server stops reading, or ends the call before long.
_UNANSWERED_S = 1.5


class StreamError(ConnectionError):
    """The server refused the call or ended it, or it is gone; `code` is the protocol's word for it."""

    def __init__(self, code: str, message: str, fields: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.fields = code, fields or {}


class StreamClient:
    """One call. Raises StreamError with the server's own message, at once when it is refused.

    url: of the endpoint, http(s):// or ws(s)://, with or without the path. This machine is reached directly, others
        through the proxy that http_proxy and its like name, if they do.
    sample_rate: Hz of what is sent and returned; the model's unless given.
    encoding: pcm_s16le takes half the bytes; what is beyond full scale is clipped.
    strength: share of the denoised sound, all unless given; or max_attenuation_db: what is taken away at most.
    timeout_s: for the connection, and for the next sound where something is waited for.

    session: what the server said at the start, with latency_ms. stats: its latest word on itself.
    draining: why and when the server goes away, once it has said so: finish, and connect again.
    """

    def __init__(
        self,
        url: str,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        encoding: Encoding = "pcm_f32le",
        strength: float | None = None,
        max_attenuation_db: float | None = None,
        band: Band = "full",
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 20.0,
    ) -> None:
        options = {"encoding": encoding, "sample_rate": sample_rate, "channels": channels}
        mix = {"strength": strength, "max_attenuation": max_attenuation_db}
        self.url = _address(url, _given(**options, **mix, band=band, model=model))
        self.channels, self.timeout_s = channels, timeout_s
        self.session: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}
        self.draining: dict[str, Any] | None = None
        self.is_overrun = False
        self._dtype = DTYPES[encoding]
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._refusal: StreamError | None = None
        self._num_sent = self._num_received = 0  # samples per channel
        self._open = contextlib.ExitStack()
        self._connection: ClientConnection | None = None

    def __enter__(self) -> StreamClient:
        proxy = None
        try:
            proxy = _proxy_to(self.url)
            connection = connect(
                self.url,
                proxy=proxy,
                additional_headers=self._headers,
                compression=None,  # sound does not shrink
                open_timeout=self.timeout_s,
                close_timeout=2.0,
                max_size=None,
            )
        except (
            OSError,
            WebSocketException,
            ImportError,
        ) as error:  # the last: nothing speaks to SOCKS proxies
            through = f" through the proxy {without_secrets(proxy)} of the environment" if proxy else ""
            raise StreamError("not_connected", f"cannot connect to {self.url}{through}: {error}") from error
        self._connection = self._open.enter_context(connection)
        try:
            while not self.session:
                self._note(self._next(self.timeout_s))
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def sample_rate(self) -> int:
        """Hz, of both directions."""
        return int(self.session["input_sample_rate"])

    def denoise(self, chunks: Iterable[npt.ArrayLike]) -> Iterator[Samples]:
        """Sends one chunk after the other and yields what has come back; at the end all the rest.

        Never sends more than about 1.5 s ahead, however fast chunks come and however slow the server is.
        """
        most = round(_UNANSWERED_S * self.sample_rate) + 2 * int(self.session["latency_samples"])
        for chunk in chunks:
            for piece in self._pieces(chunk):
                while self._num_sent - self._num_received > most and (clean := self.receive()) is not None:
                    yield clean
                self._send_sound(piece)
                with contextlib.suppress(TimeoutError):  # what has come back already
                    while (clean := self.receive(0.0)) is not None:
                        yield clean
        self.flush()
        while (clean := self.receive()) is not None:
            yield clean

    def send(self, samples: npt.ArrayLike) -> None:
        """(n,) or (n, channels) floats, full scale +-1."""
        for piece in self._pieces(samples):
            self._send_sound(piece)

    def receive(self, timeout_s: float | None = None) -> Samples | None:
        """The next sound, shaped like what is sent; None when a stream that was flushed is at its end.

        TimeoutError if there was none for so long.
        """
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:  # statistics come in between, and are not what is waited for
            message = self._next(max(0.0, deadline - time.monotonic()))
            if isinstance(message, bytes):
                return self._samples(message)
            if self._note(message) == "flushed":
                return None

    def update(
        self,
        *,
        strength: float | None = None,
        max_attenuation_db: float | None = None,
        bypass: bool | None = None,
    ) -> None:
        """Changes strength (0 the input, 1 denoised), also as what is taken away at most, or bypass while the call goes
        on, without a click."""
        changes = _given(strength=strength, max_attenuation=max_attenuation_db, bypass=bypass)
        self._send(json.dumps({"type": "session.update", **changes}))

    def flush(self) -> None:
        """Ends the stream: `receive` returns its rest, then None. What is sent after that begins a new one."""
        self._send(json.dumps({"type": "flush"}))

    def _pieces(self, chunk: npt.ArrayLike) -> Iterator[bytes]:
        samples = np.asarray(chunk, np.float32)
        expected = (samples.size // self.channels, self.channels)[: 1 if self.channels == 1 else 2]
        if samples.shape != expected:
            raise ValueError(
                f"expected samples ({', '.join(['n', str(self.channels)][: len(expected)])}); got {samples.shape}"
            )
        if self._dtype.kind == "i":
            samples = np.rint(samples * 32768).clip(-32768, 32767)
        step = max(1, round(_SEND_S * self.sample_rate))
        for start in range(0, len(samples), step):
            yield samples[start : start + step].astype(self._dtype).tobytes()

    def _send_sound(self, data: bytes) -> None:
        self._num_sent += self._num_samples(data)
        self._send(data)

    def _num_samples(self, data: bytes) -> int:
        return len(data) // (self._dtype.itemsize * self.channels)

    def _samples(self, data: bytes) -> Samples:
        self._num_received += self._num_samples(data)
        samples = np.frombuffer(data, self._dtype).astype(np.float32)
        if self._dtype.kind == "i":
            samples /= 32768
        return samples if self.channels == 1 else samples.reshape(-1, self.channels)

    def _note(self, message: str | bytes) -> str:
        """Keeps what the server says about the call; returns the type of that."""
        content = json.loads(message)
        kind = str(content.pop("type"))
        if kind == "session.created":
            self.session = content
        elif kind == "stats":
            self.stats = content
        elif kind in {"overrun", "overrun.ended"}:
            self.is_overrun = kind == "overrun"
        elif kind == "draining":
            self.draining = content
            logger.warning("the server goes away in %g s: finish and connect again", content["seconds"])
        elif kind == "error":
            self._refusal = StreamError(content.pop("code"), content.pop("message"), content)
        return kind

    def _send(self, message: str | bytes) -> None:
        try:
            self._open_connection().send(message)
        except ConnectionClosed as error:
            raise self._reason(error) from error

    def _next(self, timeout_s: float) -> str | bytes:
        try:
            return self._open_connection().recv(timeout_s)
        except ConnectionClosed as error:
            raise self._reason(error) from error

    def _open_connection(self) -> ClientConnection:
        if self._connection is None:
            raise ValueError("the client is not connected: use it in a `with` block")
        return self._connection

    def _reason(self, closed: ConnectionClosed) -> StreamError:
        """What the server said before it closed, where it said something."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            while self._refusal is None:  # it may still lie unread behind sound
                message = self._open_connection().recv(0.0)
                if isinstance(message, str):
                    self._note(message)
        if self._refusal is not None:
            return self._refusal
        if self.draining is not None:
            return StreamError("draining", "the server has gone away, as it said it would: connect again")
        return StreamError("connection_lost", f"the connection to {self.url} ended: {closed}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _proxy_to(url: str) -> str | None:
    """The proxy that the environment names for an address, if any; this machine is reached directly, always."""
    address = parse_uri(url)
    return None if is_loopback(address.host) else get_proxy(address)


def _address(url: str, options: dict[str, Any]) -> str:
    """The WebSocket's address of an endpoint's."""
    parts = urlsplit(url)
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.netloc:
        raise ValueError(f"{url!r} is no address; expected something like ws://127.0.0.1:8000")
    path = parts.path if parts.path.strip("/") else PATH
    query = "&".join(part for part in (parts.query, urlencode(options)) if part)
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, query, ""))
