"""What the end of an actor, or of a call to it, says."""

from __future__ import annotations

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

#: How a call ends whose actor died, or whose result was lost with its node.
DEATH = (RayActorError, ObjectLostError)


def own_error(error: BaseException) -> bool:
    """Whether the actor's own code raised it: it would come again on another actor."""
    return isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)


def short(error: BaseException) -> str:
    """The line that says what happened, out of Ray's many: the exception of the actor's own
    code (last line of its traceback), or the head of a system failure."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1 if own_error(error) else 0].strip()}"
