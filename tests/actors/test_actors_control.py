"""The run's mailbox outlives its actor, killed or frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import ray

from repo_ray.actors.control import CONTROL, Mailbox, find_control, namespace

RUN = "mailbox"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actor_process() -> int:
    """The control actor's process: the only one of this test's own descendants with its title."""
    found = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "ray::ControlActor" in " ".join(process.info["cmdline"] or [])
        and process.is_running()
        and process.status() != psutil.STATUS_STOPPED
    ]
    return max(found)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_actor_is_replaced_and_found_under_its_name(fault: signal.Signals) -> None:
    async def run() -> None:
        mailbox = Mailbox(RUN, 300.0, answer_s=2.0)
        try:
            find_control(RUN).request_scale.remote("judge", 3)
            assert await mailbox.next_request(5.0) == ("judge", 3)
            pid = actor_process()
            os.kill(pid, fault)
            for _ in range(20):
                assert await mailbox.next_request(0.5) is None
                await mailbox.report({"step": 1})
                try:
                    if ray.get(find_control(RUN).status.remote(), timeout=2) == {"step": 1}:
                        break
                except (LookupError, ray.exceptions.RayError, TimeoutError):
                    continue
            else:
                raise AssertionError("no new control actor")
            find_control(RUN).request_scale.remote("rules", 2)
            assert await mailbox.next_request(5.0) == ("rules", 2)
            if fault == signal.SIGSTOP and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        finally:
            mailbox.close()
        for _ in range(50):
            try:
                find_control(RUN)
            except LookupError:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("a closed mailbox can still be found")

    asyncio.run(run())


def test_a_run_that_is_active_is_not_started_again() -> None:
    mailbox = Mailbox("twice", 300.0)
    try:
        with pytest.raises(ValueError, match=CONTROL):
            Mailbox("twice", 300.0)
    finally:
        mailbox.close()
    assert namespace("twice") == "repo_ray.twice"


DRIVER = """
import asyncio, ray, sys
from repo_ray.actors.control import Mailbox
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

async def main():
    mailbox = Mailbox("frozen", 2.0)
    beating = asyncio.ensure_future(mailbox.keep_beating())
    await asyncio.sleep(6)
    print("beats", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_frozen_driver_is_killed_and_one_that_lives_is_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "beats\n"  # three times the silence that is allowed
        process.send_signal(signal.SIGSTOP)
        assert process.wait(timeout=30) == -signal.SIGKILL
    finally:
        process.kill()
