"""Which Ray cluster the run uses: the submitted job's, a given one, or an own embedded one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray._private.worker import get_dashboard_url
from ray.job_config import JobConfig

from repo_ray.actors.control import namespace
from repo_ray.actors.placement import require_room
from repo_ray.config import Config, environment
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import RunFolder, write_json
from repo_ray.pipeline.signals import Stopped
from repo_ray.planning.plan import reservations

log = logging.getLogger(__name__)

T = TypeVar("T")

_EMBEDDED = "local"
#: An embedded cluster does not grow; on a busy machine Ray takes a while to say what fits.
EMBEDDED_PLACEMENT_S = 20.0
#: A head may come back, where it keeps its state outside. Ray itself ends a driver that has not
#: reached it for 60 s.
HEAD_LOST_AFTER_S = 30.0
#: A connection is held to notice its end at once, and opened again to notice a silent one. gRPC
#: servers close one that says nothing after two minutes.
HOLD_S, RECONNECT_S, CONNECT_TIMEOUT_S = 10.0, 0.05, 5.0
MISSES = 3
#: For actors to be let go of and files to be closed when the cluster is lost.
CLEANUP_S = 10.0
_ADVICE = "submit the job with --resume to another one: it continues from its last checkpoint"


class ClusterLostError(Exception):
    """The head or the driver's own node is gone, and with it the cluster."""


def join(config: Config, folder: RunFolder, address: str | None) -> None:
    """Joins or starts a cluster.

    Inside a submitted job Ray sets RAY_ADDRESS. Without it and without `address`, a cluster of
    this run's own is started: a bare `ray.init()` would join any that is left on the machine.
    """
    chosen = _chosen(address)
    if chosen == _EMBEDDED:
        # Ray warns that its own default, token authentication, is on: said below.
        name = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.init(
        address=chosen,
        namespace=namespace(config.run.name),
        # For the dashboard. A submitted job shows that of `ray job submit --metadata-json`.
        job_config=JobConfig(metadata={"run": config.run.name, "folder": str(folder.root)}),
        include_dashboard=True if chosen == _EMBEDDED else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=True,
    )


def connect(config: Config, folder: RunFolder, address: str | None) -> str:
    """Joins or starts a cluster, if that is not done yet, and notes its address in the run folder;
    returns a description."""
    if not ray.is_initialized():
        join(config, folder, address)
    chosen = _chosen(address)
    gcs = ray.get_runtime_context().gcs_address
    url = get_dashboard_url()
    dashboard = f"http://{url}" if url else ""
    write_json(folder.cluster, {"address": gcs, "dashboard": dashboard, "run": config.run.name})
    kind = "embedded Ray cluster" if chosen == _EMBEDDED else f"Ray cluster at {gcs}"
    if not dashboard:
        return f"{kind}, dashboard not running"
    return f"{kind}, dashboard {dashboard} (its token: ray get-auth-token)"


def run_there(
    config: Config, address: str | None, display: Display, work: Coroutine[Any, Any, T]
) -> T:
    """Runs `work` on the connected cluster once it has room for every actor of `config`.

    Raises `PlacementError` before `work` starts, `ClusterLostError`, and what `work` raises.
    """
    limit = config.run.placement_timeout_s
    if _chosen(address) == _EMBEDDED:
        limit = min(limit, EMBEDDED_PLACEMENT_S)

    async def main() -> T:
        try:
            await require_room(
                reservations(config), limit, lambda text: display.console.print(f"  {text}")
            )
        except BaseException:
            work.close()
            raise
        context = ray.get_runtime_context()
        own = next(n for n in ray.nodes() if n["NodeID"] == context.get_node_id())
        node = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
        return await while_cluster_lives(work, context.gcs_address, node)

    return asyncio.run(main())


async def while_cluster_lives(work: Coroutine[Any, Any, T], head: str, node: str) -> T:
    """What `work` returns or raises; `ClusterLostError` if the cluster is gone.

    `head` and `node` are addresses (host:port) of the head and of the driver's own node. Without
    them calls hang or fail in many ways, and Ray may end the process without a word: the loss is
    noticed here, and told at once.
    """
    task = asyncio.ensure_future(work)
    watches = {
        asyncio.ensure_future(_gone(node, 0.0)),
        asyncio.ensure_future(_gone(head, HEAD_LOST_AFTER_S)),
    }
    error: BaseException | None = None
    try:
        await asyncio.wait({task, *watches}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            error = task.exception()
            if error is None or isinstance(error, Stopped):
                return task.result()
            alive = False
            with suppress(ConnectionRefusedError):
                alive = await _holds(head, 0.0) and await _holds(node, 0.0)
            if alive:
                return task.result()
        lost = ClusterLostError(f"lost the Ray cluster at {head}; {_ADVICE}")
        log.error("%s", lost)  # in case Ray ends this process while it cleans up
        task.cancel()
        await asyncio.wait({task}, timeout=CLEANUP_S)
        raise lost from error
    finally:
        for waiting in (task, *watches):
            waiting.cancel()


def _chosen(address: str | None) -> str:
    return address or environment("RAY_ADDRESS") or _EMBEDDED


async def _gone(address: str, grace_s: float) -> None:
    """Returns when nothing has accepted a connection at `address` for `grace_s`.

    A refusal says that nobody listens. A connection that does not come about in time says little:
    this program may have been too busy to see it.
    """
    seen, misses = time.monotonic(), 0
    while misses < MISSES or time.monotonic() - seen < grace_s:
        before = misses
        try:
            if await _holds(address, HOLD_S):
                seen, misses = time.monotonic(), 0
            else:
                misses += 1
        except ConnectionRefusedError:
            misses = max(misses + 1, MISSES)
        if before < MISSES <= misses:
            log.warning("no answer from the Ray cluster at %s; if none comes, %s", address, _ADVICE)
        await asyncio.sleep(RECONNECT_S)


async def _holds(address: str, seconds: float) -> bool:
    """Whether a connection to `address` is accepted; keeps it for a while, or until it is closed.

    Raises ConnectionRefusedError if nobody listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host.strip("[]"), int(port)), CONNECT_TIMEOUT_S
        )
    except ConnectionRefusedError:
        raise
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(4096):  # what the server says is of no interest
                pass
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()
    return True
