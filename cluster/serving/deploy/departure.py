"""How a replica learns that it is to go away, so that it can tell those who are connected.

Ray Serve tells the code that it runs nothing when it stops a replica: it takes it off the list that new requests are
sent by, waits until no request is left, and calls the destructor then. A live call would learn of it when it is cut
off. So the replica looks at the mark that Serve sets on it first of all.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from ray import serve
from ray.serve.schema import ApplicationStatus

from cluster.machine.ray_internals import stopping_mark

_POLL_S = 0.1

Reason = Literal["redeploy", "shutdown"]


async def until_stopping(app_name: str) -> Reason:
    """Returns once Serve has begun to stop this replica: "shutdown" where all of the endpoint ends.

    Never returns where Serve's mark is not found, as may be after a new release of it: calls are then cut off unwarned.
    """
    is_stopping = stopping_mark()
    while not is_stopping():
        await asyncio.sleep(_POLL_S)
    return await asyncio.to_thread(_reason, app_name)


def _reason(app_name: str) -> Reason:
    try:
        application = serve.status().applications.get(app_name)
    except Exception:  # the controller is gone, too
        return "shutdown"
    is_ending = application is None or application.status == ApplicationStatus.DELETING
    return "shutdown" if is_ending else "redeploy"
