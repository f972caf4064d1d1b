"""How fast a machine is: the constants behind every predicted second, and where each comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from repo_ray.config.base import PositiveFloat, Settings
from repo_ray.config.load import ConfigError, describe, read_yaml

Seconds = Annotated[float, Field(ge=0)]


class Speeds(Settings):
    """What one device (a GPU, or all cores of a node without any) reaches, not its peak.

    FLOP/s and bytes/s. In `shared`, all actors of a node compute on the same device: their times
    add up, and nothing overlaps.
    """

    origin: str = Field(description="Where the numbers come from; printed with every prediction.")
    shared: bool = Field(False, description="Actors of one node share one device (CPUs).")
    learner_flops: PositiveFloat = Field(description="FLOP/s of forward and backward passes.")
    prefill_flops: PositiveFloat = Field(description="FLOP/s of engines on prompts.")
    scoring_flops: PositiveFloat = Field(
        description="FLOP/s of forward passes of reward model and local judge."
    )
    memory_bandwidth: PositiveFloat = Field(
        description="Bytes/s at which decoding reads weights and KV cache."
    )
    decode_step_s: Seconds = Field(description="Cost of a decode step besides reading: launches.")
    decode_token_s: Seconds = Field(
        description="Cost of each sequence in a decode step: sampling, log-probs."
    )
    link_bandwidth: PositiveFloat = Field(
        description="Bytes/s that a device receives from others of its node."
    )
    network_bandwidth: PositiveFloat = Field(
        description="Bytes/s that a node receives in collectives, all its adapters together."
    )
    broadcast_bandwidth: PositiveFloat = Field(
        description="Bytes/s, over all receivers, at which Ray copies one object to several nodes."
    )
    adapter_bandwidth: PositiveFloat = Field(
        description="Bytes/s of one pass over an adapter on a CPU: export, digest, check."
    )
    merge_bandwidth: PositiveFloat = Field(
        description="Bytes/s of base weights that an engine rereads, merges and makes live."
    )
    judge_latency_s: Seconds = Field(description="One answer of an endpoint judge.")
    rules_s: Seconds = Field(description="The rules on one reply.")


#: Measured on two cores of an AMX Xeon with SmolLM2-135M in bfloat16. An engine (eager) alone, with
#: 1 to 64 sequences of 200 + 64 tokens: prefill 3,700 tokens/s; a decode step 32 ms and 0.95 ms
#: more for each sequence, of which reading at 10 GB/s is a part. The reward model alone: 2,160
#: tokens/s. Learner, publication and rules from one quickstart run. No collective was measured
#: (`link_bandwidth` and below: an assumed 1 GB/s), nor was an endpoint judge.
CPU = Speeds(
    origin="measured on 2 CPU cores with SmolLM2-135M",
    shared=True,
    learner_flops=3.23e11,
    prefill_flops=8.5e11,
    scoring_flops=5.0e11,
    memory_bandwidth=1.0e10,
    decode_step_s=0.0046,
    decode_token_s=0.00042,
    link_bandwidth=1e9,
    network_bandwidth=1e9,
    broadcast_bandwidth=1e9,
    adapter_bandwidth=4.5e8,
    merge_bandwidth=4.1e8,
    judge_latency_s=5.0,
    rules_s=0.022,
)

#: Vendor's peaks (H100 SXM5 80 GB: 989.4 TFLOP/s dense bfloat16, 3.35 TB/s, NVLink 450 GB/s in
#: each direction; eight 400 Gb/s adapters a node), times a share that is assumed: 0.4 in training,
#: as Llama 3 reached on H100s (arXiv 2407.21783, table 4: 38-43%), and in scoring; 0.5 in prefill;
#: 0.7 of memory bandwidth and links. Assumed outright: 2 ms for a decode step's launches, 5 GB/s
#: per worker for rereading and merging the base (copies from pageable memory), 10 s for an answer
#: of the judge. Ray's broadcast is 50 x 1 GiB in 16.9 s (ray-project/ray,
#: release/perf_metrics/scalability/object_store.json). An adapter's passes are a CPU's and
#: measured: SHA-256 of 205 MB took 0.31 s, export 0.23 s.
H100 = Speeds(
    origin="ASSUMED for H100 80 GB: datasheet peaks times assumed efficiencies, not measured",
    learner_flops=0.4 * 989.4e12,
    prefill_flops=0.5 * 989.4e12,
    scoring_flops=0.4 * 989.4e12,
    memory_bandwidth=0.7 * 3.35e12,
    decode_step_s=0.002,
    decode_token_s=1e-5,
    link_bandwidth=0.7 * 450e9,
    network_bandwidth=0.7 * 400e9,
    broadcast_bandwidth=50 * 2**30 / 16.94,
    adapter_bandwidth=6.5e8,
    merge_bandwidth=5e9,
    judge_latency_s=10.0,
    rules_s=CPU.rules_s,
)


def read_speeds(path: Path) -> Speeds:
    """A file with every key of `Speeds`. Raises `ConfigError` naming file and key."""
    try:
        return Speeds.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {describe(e)}" for e in error.errors())) from None
