from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from repo_ray.actors.batching import DynamicBatcher


def run(items: Sequence[int], max_size: int, max_wait_s: float = 0.05) -> list[list[int]]:
    batches: list[list[int]] = []

    def double(batch: Sequence[int]) -> list[int]:
        batches.append(list(batch))
        time.sleep(0.01)
        return [2 * item for item in batch]

    async def body() -> None:
        batcher = DynamicBatcher(double, lambda item: item, max_size, max_wait_s)
        results = await asyncio.gather(*(batcher.submit(item) for item in items))
        assert results == [2 * item for item in items]

    asyncio.run(body())
    return batches


def test_requests_at_the_same_time_share_a_batch() -> None:
    assert run([1, 2, 3], max_size=100) == [[1, 2, 3]]


def test_a_batch_stays_within_its_size() -> None:
    assert run([4, 4, 4, 4, 4], max_size=9) == [[4, 4], [4, 4], [4]]


def test_an_item_larger_than_a_batch_runs_alone() -> None:
    assert run([3, 50, 3], max_size=10) == [[3], [50], [3]]


def test_an_error_reaches_every_caller_and_the_next_batch_runs() -> None:
    def fail_on_odd(batch: Sequence[int]) -> list[int]:
        if any(item % 2 for item in batch):
            raise ValueError("odd")
        return list(batch)

    async def body() -> None:
        batcher = DynamicBatcher(fail_on_odd, lambda _: 1, 2, 0.01)
        first = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [type(error) for error in first] == [ValueError, ValueError]
        assert await batcher.submit(4) == 4

    asyncio.run(body())


def test_a_wrong_number_of_results_is_an_error() -> None:
    async def body() -> None:
        batcher = DynamicBatcher(lambda batch: [], lambda _: 1, 2, 0.01)
        with pytest.raises(RuntimeError, match="0 results for a batch of 1"):
            await batcher.submit(1)

    asyncio.run(body())
