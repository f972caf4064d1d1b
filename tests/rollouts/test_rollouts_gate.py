import asyncio

import pytest

from repo_ray.rollouts.gate import Gate


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_share_the_gate():
    gate = Gate()
    async with gate.shared(), gate.shared():
        pass


async def test_a_push_waits_for_samples_and_keeps_new_ones_out():
    gate, order = Gate(), []
    leave = asyncio.Event()

    async def first() -> None:
        async with gate.shared():
            order.append("first in")
            await leave.wait()
            order.append("first out")

    async def push() -> None:
        async with gate.exclusive():
            order.append("push in")
            await settle()
            order.append("push out")

    async def late() -> None:
        async with gate.shared():
            order.append("late in")

    tasks = []
    for work in (first, push, late):
        tasks.append(asyncio.create_task(work()))
        await settle()
    assert order == ["first in"]
    leave.set()
    await asyncio.gather(*tasks)
    assert order == ["first in", "first out", "push in", "push out", "late in"]


async def test_two_pushes_run_one_after_the_other():
    gate, inside, most = Gate(), 0, 0

    async def push() -> None:
        nonlocal inside, most
        async with gate.exclusive():
            inside += 1
            most = max(most, inside)
            await settle()
            inside -= 1

    await asyncio.gather(push(), push(), push())
    assert most == 1


async def test_a_cancelled_sample_does_not_block_the_next_push():
    gate = Gate()

    async def sample() -> None:
        async with gate.shared():
            await asyncio.sleep(3600)

    task = asyncio.create_task(sample())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1), gate.exclusive():
        pass


async def test_a_push_cancelled_while_draining_opens_the_gate_again():
    gate = Gate()
    leave = asyncio.Event()

    async def sample() -> None:
        async with gate.shared():
            await leave.wait()

    async def push() -> None:
        async with gate.exclusive():
            pytest.fail("entered although a sample is inside")

    held = asyncio.create_task(sample())
    await settle()
    waiting = asyncio.create_task(push())
    await settle()
    waiting.cancel()
    await settle()
    async with asyncio.timeout(1), gate.shared():
        pass
    leave.set()
    await held
