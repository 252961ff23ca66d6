"""How a replica learns that it is to go away, so that it can tell those who are connected.

Ray Serve tells the code that it runs nothing when it stops a replica: it takes it off the list that new requests are
sent by, waits until no request is left, and calls the destructor then. A live call would learn of it when it is cut
off. So the replica looks at the mark that Serve sets on it first of all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

logger = logging.getLogger(__name__)

_POLL_S = 0.1

Reason = Literal["redeploy", "shutdown"]


async def until_stopping(app_name: str) -> Reason:
    """Returns once Serve has begun to stop this replica: "shutdown" where all of the endpoint ends.

    Never returns where Serve's mark is not found, as may be after a new release of it: calls are then cut off unwarned.
    """
    replica = _this_replica()
    if replica is None:
        logger.error(
            "Ray Serve's mark of stopping replicas is not where it was; live calls end without notice"
        )
        await asyncio.Event().wait()
    while not replica._shutting_down:
        await asyncio.sleep(_POLL_S)
    return await asyncio.to_thread(_reason, app_name)


def _this_replica() -> Any:
    """Serve's own object around the code in this process; there is no public way to it."""
    for actor in ray._private.worker.global_worker.actors.values():
        replica = getattr(actor, "_replica_impl", None)
        if hasattr(replica, "_shutting_down"):
            return replica
    return None


def _reason(app_name: str) -> Reason:
    try:
        application = serve.status().applications.get(app_name)
    except Exception:  # the controller is gone, too
        return "shutdown"
    is_ending = application is None or application.status == ApplicationStatus.DELETING
    return "shutdown" if is_ending else "redeploy"
