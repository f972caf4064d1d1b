"""What it takes to believe that an engine samples the adapter it was given.

Pure logic: which live tensors a push reads back, what they must equal, and the canary. Why so
much: the digest of the bytes received proves receipt, not what is live, and a log-prob probe
cannot see one small missed update (bf16 noise is about 0.03 nats; a learner step moves less).
So live tensors are compared bit for bit with a recomputed merge after every push, and at start
an adapter large enough to be seen must move log-probs as PEFT says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from repo_ray.models.adapters import build_blob, parse_adapter

#: The canary must move log-probs by this many tolerances, or its answer says nothing.
CANARY_MARGIN = 10.0
#: Standard deviation of what the canary adds to every linear layer's output: the first try,
#: and the factor of the next. Log-probs must move by ten tolerances, but not much further, since
#: the rounding by which engine and PEFT may differ grows with it (SmolLM2-135M in bf16: 1.1 nats
#: moved and 0.07 apart at 0.5, 1.9 and 0.09 at 0.7).
FIRST_SCALE, SCALE_STEP, MAX_TRIES = 0.4, 1.15, 14
#: How far beyond the required move PEFT's should be, so that the engine's is beyond it too.
RESERVE = 1.1

#: Log-probs (nats) of the response tokens of several samples; one list per sample [T].
Logprobs = Sequence[Sequence[float]]


class PublicationError(RuntimeError):
    """The engine does not, or cannot be shown to, sample the adapter that was pushed."""


@dataclass(frozen=True)
class EngineState:
    """What an engine says it samples. Without any push, `digest` is empty: the bare base."""

    engine: str
    version: int
    digest: str
    verified: bool


@dataclass(frozen=True)
class PushReport:
    """One verified push. Times in seconds; `max_difference` is zero unless a check is broken."""

    engine: str
    version: int
    digest: str
    verified_tensors: int
    max_difference: float
    drain_s: float
    load_s: float
    verify_s: float
    total_s: float


@dataclass(frozen=True)
class Canary:
    """An adapter large enough to be seen, as a blob, and what PEFT says of it: the log-probs of the
    probes before (the base) and after (with the adapter)."""

    blob: bytes
    before: Logprobs
    after: Logprobs


@dataclass(frozen=True)
class CanaryReport:
    """Mean absolute log-prob differences in nats per token, over all probe tokens.

    `engine_moved`, `peft_moved`: how far the canary moved each; `base_difference`,
    `canary_difference`: engine against PEFT without and with it.
    """

    tokens: int
    engine_moved: float
    peft_moved: float
    base_difference: float
    canary_difference: float


# --- read-back -------------------------------------------------------------------------


def tensors_to_verify(modules: Sequence[str], count: int, push: int) -> list[str]:
    """Modules to read back at push number `push` of this engine (0 is the first: all).

    Later pushes take `count` in rotation, so that every module comes round.
    """
    ordered = sorted(modules)
    if push == 0 or count >= len(ordered):
        return ordered
    start = (push - 1) * count
    return [ordered[(start + i) % len(ordered)] for i in range(count)]


def expected_shard(
    full: Float[Tensor, "out in"], shape: Sequence[int], rank: int, world: int
) -> Float[Tensor, "rows columns"]:
    """The part, of `shape` [rows, columns], that tensor-parallel rank `rank` of `world` must hold.

    Column-parallel layers split the rows, row-parallel ones the columns. Key and value heads
    fewer than ranks are held by several ranks in a row (Megatron-LM, arXiv 1909.08053;
    replication as in vLLM's QKVParallelLinear).
    """

    def start(size: int, part: int) -> int:
        replicas = max(1, part * world // size)
        return 0 if part == size else rank // replicas * part

    rows, columns = shape
    top, left = start(full.shape[0], rows), start(full.shape[1], columns)
    return full[top : top + rows, left : left + columns]


def difference(live: Tensor, expected: Tensor) -> float:
    """Largest absolute difference of two tensors; NaN anywhere, or another shape, is infinite."""
    if live.shape != expected.shape:
        return math.inf
    largest = float((live.float() - expected.float()).abs().max())
    return math.inf if math.isnan(largest) else largest


def check_read_back(
    engine: str, version: int, wanted: Sequence[str], readings: Sequence[Mapping[str, float]]
) -> float:
    """The largest difference of all readings, which must be zero.

    `readings` holds one mapping per worker, module to difference. Raises `PublicationError`
    naming the modules that differ or that a worker left out.
    """
    for rank, reading in enumerate(readings):
        missing = [m for m in wanted if m not in reading]
        if missing:
            raise PublicationError(
                f"{engine}: version {version}: worker {rank} did not read back {missing[:3]}"
            )
        wrong = {m: reading[m] for m in wanted if reading[m] != 0.0}
        if wrong:
            worst = sorted(wrong, key=lambda m: -wrong[m])[:3]
            raise PublicationError(
                f"{engine}: version {version} is not live: {len(wrong)} of {len(wanted)} tensors "
                f"read back from worker {rank} differ from the recomputed ones, worst "
                + ", ".join(f"{m} by {wrong[m]:.3g}" for m in worst)
            )
    return max((reading[m] for reading in readings for m in wanted), default=0.0)


# --- the canary ------------------------------------------------------------------------


def make_canary(template: bytes, seed: int, scale: float) -> bytes:
    """A random adapter, shaped like the blob `template`, large enough to be seen.

    A and B are normal, so that for an input x of unit variance every element of
    `alpha / r * B A x` has standard deviation `scale`.
    """
    adapter = parse_adapter(template)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in adapter.modules.items():
        tensors[f"{path}.lora_A.weight"] = torch.randn(a.shape, generator=generator) / math.sqrt(
            a.shape[1]
        )
        tensors[f"{path}.lora_B.weight"] = torch.randn(b.shape, generator=generator) * (
            scale / (adapter.scale * math.sqrt(adapter.rank))
        )
    return build_blob(tensors, adapter.rank, adapter.alpha)


def visible_canary(
    template: bytes,
    seed: int,
    tolerance: float,
    before: Logprobs,
    logprobs: Callable[[bytes], Logprobs],
) -> Canary:
    """The weakest canary of the scales tried that PEFT sees clearly, else the strongest.

    `before` is what PEFT says of the base, `logprobs` what it says of the same tokens under an
    adapter.
    """
    for attempt in range(MAX_TRIES):
        blob = make_canary(template, seed, FIRST_SCALE * SCALE_STEP**attempt)
        after = logprobs(blob)
        if mean_difference(after, before) >= RESERVE * CANARY_MARGIN * tolerance:
            break
    return Canary(blob, before, after)


def check_canary(
    engine_before: Logprobs,
    engine_after: Logprobs,
    peft_before: Logprobs,
    peft_after: Logprobs,
    tolerance: float,
) -> CanaryReport:
    """Compares what the canary did to the engine's log-probs with what PEFT says.

    Raises:
        PublicationError: the two disagree by more than `tolerance` (mean, nats) before or
            after, or the canary did not move the engine or PEFT by ten tolerances.
    """
    report = CanaryReport(
        tokens=sum(map(len, engine_before)),
        engine_moved=mean_difference(engine_after, engine_before),
        peft_moved=mean_difference(peft_after, peft_before),
        base_difference=mean_difference(engine_before, peft_before),
        canary_difference=mean_difference(engine_after, peft_after),
    )
    needed = CANARY_MARGIN * tolerance
    # Written so that NaN fails every check.
    if not report.base_difference <= tolerance:
        raise PublicationError(
            f"canary: before the push, engine and PEFT differ by {report.base_difference:.3g} nats "
            f"per token (allowed: {tolerance:g}); they do not run the same base model"
        )
    if not report.peft_moved >= needed:
        raise PublicationError(
            f"canary: it moves PEFT's log-probs by {report.peft_moved:.3g} nats per token only; "
            f"at least {needed:g} is needed to tell a live adapter from a dead one"
        )
    if not report.engine_moved >= needed:
        raise PublicationError(
            f"canary: the engine's log-probs moved by {report.engine_moved:.3g} nats per token, "
            f"PEFT's by {report.peft_moved:.3g}: the pushed adapter is not what the engine samples"
        )
    if not report.canary_difference <= tolerance:
        raise PublicationError(
            f"canary: with it, engine and PEFT differ by {report.canary_difference:.3g} nats per "
            f"token (allowed: {tolerance:g}); the engine samples another adapter than was pushed"
        )
    return report


def mean_difference(first: Logprobs, second: Logprobs) -> float:
    """Mean absolute difference (nats per token). Raises `PublicationError` without tokens."""
    pairs = [
        (x, y)
        for one, other in zip(first, second, strict=True)
        for x, y in zip(one, other, strict=True)
    ]
    if not pairs:
        raise PublicationError("canary: the probe has no tokens")
    return fmean(abs(x - y) for x, y in pairs)
