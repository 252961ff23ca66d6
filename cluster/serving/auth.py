"""Who may use the endpoint: API keys with limits of their own, for HTTP and WebSocket alike.

A key file has a line for each key, `#` begins a comment:

    anna    7d1f0c2be9a84e5f
    phone   0b6e55a1c3f94d27    requests_per_minute=60  max_concurrent=2

The environment variable WW_API_KEYS holds the same, entries separated by commas. Only digests of keys are kept, so
that none can leak into a log, a cluster's store or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from cluster.serving.config import ApiKey
from cluster.serving.errors import ApiError, busy

ENVIRONMENT_VARIABLE = "WW_API_KEYS"
MIN_KEY_LENGTH = 16
# Of a WebSocket from a browser, which cannot set headers.
KEY_SUBPROTOCOL = "key."
_LIMITS = ("requests_per_minute", "max_concurrent")


def read_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """The keys of a file, if one is given, and of WW_API_KEYS. ValueError for a line that is none."""
    entries = [(f"{ENVIRONMENT_VARIABLE}, entry", environment.get(ENVIRONMENT_VARIABLE, "").split(","))]
    if path is not None:
        entries.append((f"{path}, line", _text(path).splitlines()))
    keys: dict[str, ApiKey] = {}
    for where, lines in entries:
        for number, line in enumerate(lines, 1):
            if words := line.split("#")[0].split():
                key = _parse(words, f"{where} {number}")
                if key.name in keys:
                    raise ValueError(f"{where} {number}: the name {key.name!r} stands there twice")
                keys[key.name] = key
    if path is not None and not keys:
        raise ValueError(f"{path} holds no key; write a line: NAME KEY")
    return tuple(keys.values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # an editor may have put a mark in front
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None


def _parse(words: list[str], where: str) -> ApiKey:
    name, key, *rest = [*words, "", ""][: max(2, len(words))]
    if len(key) < MIN_KEY_LENGTH or not re.fullmatch(r"[\w.~-]+", key, re.ASCII):
        raise ValueError(
            f"{where}: expected NAME KEY, the key of at least {MIN_KEY_LENGTH} letters, digits and . _ ~ - "
            "(python -c 'import secrets; print(secrets.token_urlsafe(24))' makes one)"
        )
    limits = {}
    for word in rest:
        limit, _, value = word.partition("=")
        if limit not in _LIMITS or not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{where}: {word!r} is no limit; there are {' and '.join(_LIMITS)}, each =N")
        limits[limit] = int(value)
    return ApiKey(name=name, digest=hashlib.sha256(key.encode()).digest(), **limits)


class KeyRing:
    """The keys of a replica and what each is doing. Without any, everybody may do everything."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._uses = [_Use(key) for key in keys]

    @contextlib.contextmanager
    def admitted(self, scope: Scope) -> Iterator[str | None]:
        """For the length of a request or WebSocket; yields the key's name, None where no keys are asked for.

        Raises ApiError: 401 without a valid key, 429 beyond the key's limits.
        """
        if not self._uses:
            yield None
            return
        use = self._find(presented_key(scope))
        use.begin()
        try:
            yield use.key.name
        finally:
            use.num_now -= 1

    def _find(self, presented: str | None) -> _Use:
        if presented is None:
            raise _unauthorized("this endpoint asks for an API key; send it as Authorization: Bearer KEY")
        digest = hashlib.sha256(presented.encode()).digest()
        # All are compared, each in constant time: how long it takes tells nothing.
        found = [use for use in self._uses if hmac.compare_digest(use.key.digest, digest)]
        if not found:
            raise _unauthorized("this API key is not valid here")
        return found[0]


class _Use:
    """One key: how many requests run now, and how many may still begin (a bucket that fills with time)."""

    def __init__(self, key: ApiKey) -> None:
        self.key, self.num_now = key, 0
        self._left, self._when = float(key.requests_per_minute or 0), time.monotonic()

    def begin(self) -> None:
        key = self.key
        if key.max_concurrent is not None and self.num_now >= key.max_concurrent:
            raise _too_many(f"this key may do {key.max_concurrent} things at a time", 1)
        if key.requests_per_minute is not None:
            per_s, now = key.requests_per_minute / 60, time.monotonic()
            self._left = min(key.requests_per_minute, self._left + per_s * (now - self._when))
            self._when = now
            if self._left < 1:
                wait_s = math.ceil((1 - self._left) / per_s)
                raise _too_many(f"this key may begin {key.requests_per_minute} requests a minute", wait_s)
            self._left -= 1
        self.num_now += 1


def presented_key(scope: Scope) -> str | None:
    """The key that a request brings: Authorization: Bearer KEY, or the WebSocket subprotocol key.KEY."""
    scheme, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for subprotocol in scope.get("subprotocols", []):
        if subprotocol.startswith(KEY_SUBPROTOCOL):
            return subprotocol.removeprefix(KEY_SUBPROTOCOL)
    return None


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def _too_many(message: str, retry_after_s: int) -> ApiError:
    message = f"{message}; try again in {retry_after_s} s"
    return busy(message, retry_after_s, status=429, code="too_many_requests")
