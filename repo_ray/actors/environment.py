"""Environment variables of every actor's process."""

from __future__ import annotations


def thread_environment(threads: int) -> dict[str, str]:
    """For an actor that computes with `threads` threads.

    Waiting threads sleep instead of spinning: actors take turns on the same cores, and a
    spinning thread of one costs another up to five times its speed (measured on two cores).
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
