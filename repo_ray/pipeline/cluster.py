"""Which Ray cluster the run uses: the submitted job's, a given one, or an own embedded one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import ray

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
#: The head may restart where it keeps its state outside, but Ray itself ends a driver that has not
#: reached it for 60 s, and says little.
HEAD_LOST_AFTER_S = 30.0
HEAD_CHECK_EVERY_S = 5.0
CONNECT_TIMEOUT_S = 5.0
#: For actors to be let go of and files to be closed when the head is lost.
CLEANUP_S = 10.0


class HeadLostError(Exception):
    """The cluster's head is gone, and with it the cluster."""


def connect(config: Config, folder: RunFolder, address: str | None) -> str:
    """Joins or starts a cluster and notes its address in the run folder; returns a description.

    Inside a submitted job Ray sets RAY_ADDRESS. Without it and without `address`, a cluster of
    this run's own is started: a bare `ray.init()` would join any that is left on the machine.
    """
    chosen = _chosen(address)
    if chosen == _EMBEDDED:
        # Ray warns that its own default, token authentication, is on: said below.
        name = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.init(
        address=chosen,
        namespace=namespace(config.run.name),
        include_dashboard=True if chosen == _EMBEDDED else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=True,
    )
    gcs = ray.get_runtime_context().gcs_address
    dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
    write_json(folder.cluster, {"address": gcs, "dashboard": dashboard, "run": config.run.name})
    kind = "embedded Ray cluster" if chosen == _EMBEDDED else f"Ray cluster at {gcs}"
    if not dashboard:
        return f"{kind}, dashboard not running"
    return f"{kind}, dashboard {dashboard} (its token: ray get-auth-token)"


def run_there(
    config: Config, address: str | None, display: Display, work: Coroutine[Any, Any, T]
) -> T:
    """Runs `work` on the connected cluster once it has room for every actor of `config`.

    Raises `PlacementError` before `work` starts, `HeadLostError`, and what `work` raises.
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
        return await while_head_lives(work, ray.get_runtime_context().gcs_address)

    return asyncio.run(main())


async def while_head_lives(work: Coroutine[Any, Any, T], address: str) -> T:
    """What `work` returns or raises; `HeadLostError` if nothing answers at `address` any more.

    Without a head, calls fail in many ways or hang; the loss is what a person has to know.
    """
    task = asyncio.ensure_future(work)
    lost = asyncio.ensure_future(_lost(address))
    try:
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            error = task.exception()
            if error is None or isinstance(error, Stopped) or await _answers(address):
                return task.result()
        else:
            error = None
        log.warning("the Ray head at %s does not answer; ending the run", address)
        task.cancel()
        await asyncio.wait({task}, timeout=CLEANUP_S)
        raise HeadLostError(
            f"the head of the Ray cluster at {address} is lost, and the cluster with it; start "
            "another one and submit the job with --resume: it continues from its last checkpoint"
        ) from error
    finally:
        task.cancel()
        lost.cancel()


def _chosen(address: str | None) -> str:
    return address or environment("RAY_ADDRESS") or _EMBEDDED


async def _lost(address: str) -> None:
    """Returns when nothing has answered at `address` for `HEAD_LOST_AFTER_S`."""
    seen = time.monotonic()
    while time.monotonic() - seen < HEAD_LOST_AFTER_S:
        await asyncio.sleep(HEAD_CHECK_EVERY_S)
        if await _answers(address):
            seen = time.monotonic()


async def _answers(address: str) -> bool:
    """Whether a connection to `address` (host:port) is accepted."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(host.strip("[]"), int(port)), CONNECT_TIMEOUT_S
        )
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
