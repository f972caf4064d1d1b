"""Runs rules in a child process that can be killed.

Guards a run against mistakes in user rules (hangs, endless allocation, exits). It is no jail for
hostile code: rules run with the rights of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from time import monotonic
from typing import Any

from repo_ray.records import Prompt, Score, scores_from_json
from repo_ray.rewards.declaration import RewardConfigError

# The child takes this process's import path, which Ray may have extended at run time.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from repo_ray.rewards.rules.sandbox_child import main; main()"
)


class RuleRunner:
    """Scores replies with the rules of one YAML file under a time and a memory limit.

    The child starts once and is reused; one that hangs or exits is replaced before the next
    reply. Safe to call from several threads, which take turns.
    """

    def __init__(
        self,
        path: Path | None = None,
        time_limit_s: float = 2.0,
        memory_limit_mib: int = 512,
        start_timeout_s: float = 60.0,
    ) -> None:
        """Starts the child and loads the rules there.

        `path`: the rule file (None: the built-in rules); `time_limit_s`: for all rules of one
        reply; `memory_limit_mib`: what rules may allocate beyond the loaded program (Linux);
        `start_timeout_s`: for starting the child and loading the rules.
        Raises `RewardConfigError` as `load_rules` does, and if the child ends or hangs meanwhile.
        """
        self._path = path
        self._time_limit_s = time_limit_s
        self._memory_limit_mib = memory_limit_mib
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._request = 0
        self.restarts = -1
        self.digest = ""
        self._start()

    def score(self, prompt: Prompt, reply: str) -> Score:
        """E_func of one reply; see `RuleSet.score`.

        Further errors: `timeout:` (the rule that ran when the time was up is named), `exited:`
        (the rule ended its process) and `start:` (no new child could be started).
        """
        with self._lock:
            start = monotonic()
            if self._process is None or self._process.poll() is not None:
                self._kill()
                try:
                    self._start()
                except RewardConfigError as error:
                    return Score.invalid("rules", f"start: {error}", monotonic() - start)
            return self._ask(prompt, reply)

    def close(self) -> None:
        """Ends the child. The runner may be used again: it starts another."""
        with self._lock:
            self._kill()

    def _start(self) -> None:
        ours, theirs = Pipe()
        options = {
            "fd": theirs.fileno(),
            "path": None if self._path is None else str(self._path),
            "memory_limit_mib": self._memory_limit_mib,
            "time_limit_s": self._time_limit_s,
            "start_timeout_s": self._start_timeout_s,
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._pipe = ours
        self.restarts += 1
        deadline = monotonic() + self._start_timeout_s
        answer = self._receive(deadline)
        if answer is None or "digest" not in answer:
            late = monotonic() >= deadline
            code = self._kill()
            if answer is not None:
                raise RewardConfigError(answer["refused"])
            happened = (
                f"were not loaded within {self._start_timeout_s:g} s"
                if late
                else f"ended the process that loads them (exit status {code})"
            )
            raise RewardConfigError(f"{self._path or 'built-in rules'}: the rules {happened}")
        self.digest = answer["digest"]

    def _ask(self, prompt: Prompt, reply: str) -> Score:
        assert self._pipe is not None
        start = monotonic()
        self._request += 1
        request = {
            "request": self._request,
            "prompt_id": prompt.prompt_id,
            "messages": [(m.role, m.content) for m in prompt.messages],
            "context": dict(prompt.context),
            "reply": reply,
        }
        rule_id = "(none)"
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
        except OSError:
            code = self._kill()
            return Score.invalid("rules", f"exited: before any rule (exit status {code})")
        while answer := self._receive(start + self._time_limit_s):
            if answer["request"] != self._request:
                continue
            if "score" in answer:
                return scores_from_json(answer["score"])[0]
            rule_id = answer["rule"]
        latency = monotonic() - start
        code = self._kill()
        if latency >= self._time_limit_s:
            error = f"timeout: rule {rule_id} ran when the {self._time_limit_s:g} s were up"
        else:
            error = f"exited: rule {rule_id} ended its process (exit status {code})"
        return Score.invalid("rules", error, latency)

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The child's next message; None when it has ended or the deadline has passed."""
        assert self._pipe is not None
        try:
            if not self._pipe.poll(max(0.0, deadline - monotonic())):
                return None
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            return None
        return message

    def _kill(self) -> int | None:
        """Ends the child with everything in its process group; its exit status."""
        if self._process is None or self._pipe is None:
            return None
        self._pipe.close()
        # One that has ended by itself keeps its own status.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._process = self._pipe = None
        return code
