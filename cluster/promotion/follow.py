"""An endpoint that follows a store: what is put into force there is served here, some seconds later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.errors import one_line
from cluster.promotion.store import ModelStore

LOOK_EVERY_S = 5.0


@contextlib.contextmanager
def following(
    store: ModelStore,
    served_id: str,
    serve: Callable[[Path], object],
    say: Callable[[str], object],
    look_every_s: float = LOOK_EVERY_S,
) -> Iterator[None]:
    """For the length of the block: has `serve` serve the bundle in force whenever that is another than before.

    serve: raises where a bundle cannot be served; what is served stays then, until the store changes again. say: is
    told of each change and each failure, in a line.
    """
    stop = threading.Event()

    def look() -> None:
        tried, said = served_id, ""
        while not stop.wait(look_every_s):
            try:
                wanted = store.current()
                if wanted != tried:
                    tried = wanted
                    serve(store.bundle(wanted))
                    say(f"serving {wanted} now, as {store} says")
                said = ""
            except Exception as error:  # whatever it is, the endpoint goes on
                if one_line(error) != said:
                    said = one_line(error)
                    say(f"note: {store}: {said}; what was served is served on")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(look_every_s)
