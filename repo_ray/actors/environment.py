"""Environment variables of every actor's process."""

from __future__ import annotations


def thread_environment(threads: int, alone: bool = False) -> dict[str, str]:
    """For an actor that computes with `threads` threads.

    Actors take turns on the same cores, and a spinning thread of one costs another up to five
    times its speed; so waiting threads sleep. Only an actor that computes while all others wait
    (`alone`: the learner of a synchronous run, a supervised stage by itself) spins, which is a
    third faster (two cores, SmolLM2-135M). Spinning for a while is no way between: 20,000 turns
    are as fast as spinning alone, and half the speed of sleeping where two processes share.
    """
    variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return variables if alone else {**variables, "OMP_WAIT_POLICY": "PASSIVE"}
