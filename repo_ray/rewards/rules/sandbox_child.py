"""The child side of `sandbox`: loads the rules once, then scores one reply after the other.

Messages are JSON on a pipe of their own, so that nothing a rule prints can be taken for one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from repo_ray.records import Message, Prompt, scores_to_json
from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.rules.rule_set import load_rules

_STARTS_PROCESS = ("os.fork", "os.posix_spawn", "os.spawn", "os.exec", "os.system", "subprocess.")
#: While rules are loaded they may allocate so many times what they may when they run.
_IMPORTS = 8


def main() -> None:
    """Serves requests until the pipe closes. `sys.argv[1]` holds the options as JSON."""
    options = json.loads(sys.argv[1])
    pipe: Connection[Any, Any] = Connection(options["fd"])
    memory = options["memory_limit_mib"] * 2**20
    # Loading runs the user's files. What they import maps far more memory than rules need.
    _limit_memory(_IMPORTS * memory)
    sys.addaudithook(_refuse_processes)
    _limit_time(options["start_timeout_s"])
    try:
        rules = load_rules(None if options["path"] is None else Path(options["path"]))
    except RewardConfigError as error:
        _send(pipe, {"refused": str(error)})
        return
    _limit_memory(memory)
    _limit_time(None)
    _send(pipe, {"digest": rules.digest})
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        _limit_time(options["time_limit_s"])
        number = request["request"]
        prompt = Prompt(
            request["prompt_id"],
            tuple(Message(*m) for m in request["messages"]),
            request["context"],
        )

        def progress(rule_id: str, number: int = number) -> None:
            _send(pipe, {"request": number, "rule": rule_id})

        score = rules.score(prompt, request["reply"], progress)
        _limit_time(None)
        _send(pipe, {"request": number, "score": scores_to_json((score,))})


def _send(pipe: Connection[Any, Any], message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _limit_memory(allowed_bytes: int) -> None:
    """Limits the address space to what the loaded program has plus `allowed_bytes`."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + allowed_bytes
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limit_time(seconds: float | None) -> None:
    """The parent kills in time; should it be gone, what hangs must not live on."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5 if seconds is not None else 0)


def _refuse_processes(event: str, arguments: object) -> None:
    """A process that a rule starts would outlive the rule's limits and share its pipe."""
    if event.startswith(_STARTS_PROCESS):
        raise PermissionError(f"rules may not start processes ({event})")
