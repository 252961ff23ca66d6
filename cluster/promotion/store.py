"""What was promoted, in order, with bundles and evidence: a folder, or an address such as s3://bucket/models.

    models/BUNDLE_ID/         the bundle, whole, and evidence.json, the record of its last promotion
    promotions/000001.json    a record for each decision, written last: without one nothing has changed

A promotion puts a model into force, a rollback the one that was in force before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cluster.runs.transfer import fetch_folder, send_folder
from cluster.serving.config import EVIDENCE_FILE
from ww_data import Storage
from ww_data.storage import cache_folder, held_alone, whole_folder
from ww_models import BundleError, load_bundle, read_bundle_info

_MODELS, _RECORDS, _LOCK_FILE = "models", "promotions", ".lock"


class StoreError(ValueError):
    """A store that cannot be used as asked; one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promotion:
    """A decision. by: user@host. overruled: why it was refused, where somebody put it into force anyway.

    evidence: what `decision.evidence` gathers from a report; None of a rollback.
    """

    number: int
    at: str
    action: Literal["promote", "rollback"]
    bundle_id: str
    by: str
    overruled: tuple[str, ...] = ()
    evidence: dict[str, Any] | None = None


class ModelStore:
    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """Raises StorageError for an address that no file system is known for."""
        self.storage = Storage(uri)

    def __str__(self) -> str:
        return str(self.storage)

    def history(self) -> list[Promotion]:
        """All decisions, the first one first. Raises StoreError for a damaged one."""
        return [self._read(file.name) for file in self.storage.child(_RECORDS).files()]

    def in_force(self) -> list[str]:
        """Ids of the models that promotions put into force and no rollback took back, the one in force last."""
        stack: list[str] = []
        for record in self.history():
            if record.action == "promote":
                stack.append(record.bundle_id)
            else:
                stack.pop()
        return stack

    def current(self) -> str:
        """The id of the model in force. Raises StoreError where there is none."""
        if not (stack := self.in_force()):
            raise StoreError(
                f"{self}: no model is in force; put one there with jobs.promote --report R --to {self}"
            )
        return stack[-1]

    def add(
        self, bundle: Path, evidence: dict[str, Any] | None, overruled: tuple[str, ...] = ()
    ) -> Promotion:
        """Copies a bundle and puts it into force. Raises BundleError for a damaged one, StoreError, OSError."""
        load_bundle(bundle)
        bundle_id = read_bundle_info(bundle).id
        with self._alone():
            record = self._next("promote", bundle_id, overruled, evidence)
            folder = f"{_MODELS}/{bundle_id}"
            send_folder(bundle, self.storage, folder)
            self.storage.write(f"{folder}/{EVIDENCE_FILE}", _as_json(record))
            self._write(record)
        return record

    def roll_back(self) -> Promotion:
        """Puts the model into force that was before. Raises StoreError where there was none."""
        with self._alone():
            stack = self.in_force()
            if len(stack) < 2:
                raise StoreError(
                    f"{self}: there is nothing to go back to; {len(stack)} model is in force in all"
                )
            record = self._next("rollback", stack[-2], (), None)
            self._write(record)
        return record

    def bundle(self, bundle_id: str) -> Path:
        """A model's folder on this machine: the store's own or, from afar, a copy that is fetched once.

        Raises BundleError where it is damaged.
        """
        if self.storage.is_local:
            folder = self.storage.path(f"{_MODELS}/{bundle_id}")
        else:
            folder = cache_folder() / _MODELS / bundle_id
            if not folder.exists():
                with whole_folder(folder) as partial:
                    fetch_folder(self.storage, f"{_MODELS}/{bundle_id}", partial)
        if (found := read_bundle_info(folder).id) != bundle_id:
            raise BundleError(f"{folder} holds {found}, not {bundle_id}: the store is damaged")
        return folder

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two decisions at once would both be the next. At an address nothing can be locked: see `_write`."""
        with contextlib.ExitStack() as held:
            if self.storage.is_local:
                self.storage.check_writable()
                self.storage.path().mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(held_alone(self.storage.path(_LOCK_FILE)))
                except BlockingIOError:
                    raise StoreError(f"{self}: another promotion is under way: wait for its end") from None
            yield

    def _next(
        self,
        action: Literal["promote", "rollback"],
        bundle_id: str,
        overruled: tuple[str, ...],
        evidence: dict[str, Any] | None,
    ) -> Promotion:
        history = self.history()
        return Promotion(
            number=history[-1].number + 1 if history else 1,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            action=action,
            bundle_id=bundle_id,
            by=f"{_user()}@{socket.gethostname()}",
            overruled=overruled,
            evidence=evidence,
        )

    def _write(self, record: Promotion) -> None:
        name, content = f"{_RECORDS}/{record.number:06d}.json", _as_json(record)
        if self.storage.size(name) is None:
            self.storage.write(name, content)
        if self.storage.read(name) != content:
            raise StoreError(f"{self}: somebody else promoted at the same moment: look at --history")

    def _read(self, name: str) -> Promotion:
        try:
            values = json.loads(self.storage.read(f"{_RECORDS}/{name}"))
            return Promotion(**{**values, "overruled": tuple(values["overruled"])})
        except (ValueError, TypeError, KeyError) as error:
            where = self.storage.address(f"{_RECORDS}/{name}")
            raise StoreError(f"{where} is damaged ({error}): bring it back, or remove it") from error


def _user() -> str:
    """A container may run as a number without a name."""
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())


def _as_json(record: Promotion) -> bytes:
    return json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False).encode()
