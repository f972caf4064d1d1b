"""Environment variables of every actor's process."""

from __future__ import annotations

from pathlib import Path

import ray

#: Training asks for and frees blocks of ever changing sizes. glibc spends up to a quarter of the
#: time of a step on that; jemalloc, which comes with Ray, does not when it keeps what it has and
#: splits any free block: a learner update 19-21 s against 26-30 s, with 30% less memory
#: (two cores, SmolLM2-135M).
_ALLOCATOR = Path(ray.__file__).parent / "core" / "libjemalloc.so"
_ALLOCATOR_SETTINGS = (
    "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1,lg_extent_max_active_fit:20"
)


def thread_environment(threads: int, alone: bool = False) -> dict[str, str]:
    """For an actor that computes with `threads` threads.

    Actors take turns on the same cores, and a spinning thread of one costs another up to five
    times its speed; so waiting threads sleep. Only an actor that computes while the others mostly
    wait (`alone`: learner and single engine of a synchronous run, a supervised stage by itself)
    spins, which is a third faster (two cores, SmolLM2-135M). Spinning for a while is no way
    between: 20,000 turns are as fast as spinning alone, and half the speed of sleeping where two
    processes share.
    """
    variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if not alone:
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
    if _ALLOCATOR.is_file():
        variables |= {"LD_PRELOAD": str(_ALLOCATOR), "MALLOC_CONF": _ALLOCATOR_SETTINGS}
    return variables
