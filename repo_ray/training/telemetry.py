"""What Prometheus gets of a run, through Ray's metrics.

Prometheus sees `ray_` in front of every name. Ray hands a gauge on once and forgets it two export
intervals (20 s) later, so `Telemetry.report` sets all of them again, each second. They end with
the driver's process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray.util import metrics as ray_metrics

from repo_ray.records import Score

#: Ray histogram boundaries (seconds) must be positive.
LATENCY_BOUNDARIES_S = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]

PHASE_SECONDS = "repo_ray_phase_seconds"
SCORE_LATENCY = "repo_ray_score_latency_seconds"


@dataclass(frozen=True)
class Metric:
    """What a metric is. `tags` come beside `run`, which all have."""

    text: str
    tags: tuple[str, ...] = ()


#: Gauges of a pool, by what they are called behind `repo_ray_pool_`: the field of `PoolStats`.
POOL = {
    "wanted": "wanted",
    "ready": "ready",
    "starting": "starting",
    "queue": "queue",
    "queue_seconds": "queue_s",
    "in_flight": "in_flight",
    "busy_share": "busy_share",
    "calls": "calls",
    "restarts": "restarts",
    "timeouts": "timeouts",
    "requeued": "requeued",
}

#: Columns of metrics.jsonl that are gauges: `repo_ray_` and the column, `/` becoming `_`.
COLUMNS = {
    "batch/size": "Samples in the batch",
    "reward/total": "Reward, mean over the batch (so are the next)",
    "reward/r_model": "Reward model",
    "reward/e_judge": "Judge's points",
    "reward/e_func": "Rules' points",
    "reward/e_enh": "Points of both, clipped",
    "reward/multiplier": "What judge and rules make of the reward model's value",
    "reward/small_r_model_share": "Share of samples on which judge and rules have no effect",
    "rules/hits_per_reply": "Rules that a reply broke or met",
    "reply/tokens": "Tokens of a reply",
    "reply/truncated_share": "Share of replies cut off by the length limit",
    "rollout/lag": "Updates that the learner was ahead of the oldest sampled token's adapter",
    "rollout/tokens_per_s": "Sampled tokens per second of collecting",
    "tokens_per_s": "Learner's tokens per second, prompts included",
    "policy_loss": "Policy loss",
    "value_loss": "Value loss",
    "entropy": "Entropy per token, nats",
    "approx_kl": "KL of the policy after the update from before it, nats per token",
    "mismatch_kl": "KL of sampler and learner on the same adapter, nats per token",
    "ess": "Effective sample size, a share of the tokens",
    "clip_share": "Share of tokens that the clip stopped",
    "explained_variance": "Share of the returns' variance that the values explain",
    "advantage_std": "Standard deviation of the advantages before whitening",
    "advantages_zero": "1 where every advantage is 0: the policy learns nothing",
    "value_error": "RMS error of the values against the rewards that followed",
    "value_diverged": "1 where that is ten times the rewards' size",
    "steps_skipped": "Optimizer steps of the last update left out: a gradient was not finite",
    "grad_norm_policy": "Gradient norm of the policy",
    "grad_norm_value": "Gradient norm of the value network",
    "time/collect_s": "Seconds of the last step's sampling and scoring",
    "time/update_s": "Seconds of the last update",
    "time/push_s": "Seconds of the last push",
    "heldout/proxy": "Reward on held-out prompts",
    "heldout/gold": "Gold score (0-1) on held-out prompts",
    "heldout/gold_serious": "Share of held-out replies with a serious fault",
    "alarm/hacking": "1 where the reward rose while the gold score fell",
    "alarm/length": "1 where replies grew out of proportion",
    "alarm/collapse": "1 where replies became alike",
}

GAUGES: Mapping[str, Metric] = {
    "repo_ray_step": Metric("Updates made"),
    "repo_ray_steps": Metric("Updates that the run is to make"),
    "repo_ray_step_age_seconds": Metric("Seconds since the last update was pushed"),
    "repo_ray_skipped_in_a_row": Metric("Updates skipped in a row"),
    "repo_ray_adapter_version": Metric("Adapter of learner and engines", ("holder",)),
    "repo_ray_prompts_issued": Metric("Prompts issued"),
    "repo_ray_prompts_consumed": Metric("Prompts that entered a batch"),
    "repo_ray_prompts_dropped": Metric("Prompts given up, by cause", ("cause",)),
    "repo_ray_samples": Metric("Replies sampled, retries included"),
    "repo_ray_scores": Metric("Scores asked for"),
    "repo_ray_scores_invalid": Metric("Scores that could not be had", ("source", "cause")),
    **{f"repo_ray_pool_{name}": Metric(f"PoolStats.{POOL[name]}", ("pool",)) for name in POOL},
    **{f"repo_ray_{c.replace('/', '_')}": Metric(text) for c, text in COLUMNS.items()},
}
#: Prometheus sees `_total` behind these.
COUNTERS: Mapping[str, Metric] = {
    PHASE_SECONDS: Metric("Seconds that the controller spent in each phase", ("phase",))
}
#: Prometheus sees `_bucket`, `_count` and `_sum`.
HISTOGRAMS: Mapping[str, Metric] = {
    SCORE_LATENCY: Metric("Seconds that a score took, of scores that were used", ("source",))
}

Value = tuple[str, Mapping[str, str], float]


def gauges(status: Mapping[str, Any]) -> Iterator[Value]:
    """Name, tags and value of every gauge that follows from a status (`Controller.status`)."""
    yield "repo_ray_step", {}, status["step"]
    yield "repo_ray_steps", {}, status["steps"]
    yield "repo_ray_step_age_seconds", {}, status["step_age_s"]
    yield "repo_ray_skipped_in_a_row", {}, status["skipped_in_a_row"]
    for holder, version in status["versions"].items():
        yield "repo_ray_adapter_version", {"holder": holder}, version
    ledger = status["ledger"]
    yield "repo_ray_prompts_issued", {}, ledger["issued"]
    yield "repo_ray_prompts_consumed", {}, ledger["consumed"]
    yield "repo_ray_samples", {}, ledger["samples"]
    yield "repo_ray_scores", {}, ledger["scores"]
    for cause, count in ledger["dropped"].items():
        yield "repo_ray_prompts_dropped", {"cause": cause}, count
    for reason, count in ledger["invalid"].items():
        source, _, cause = reason.partition(": ")
        yield "repo_ray_scores_invalid", {"source": source, "cause": cause}, count
    for pool, stats in status["pools"].items():
        for name, stat in POOL.items():
            yield f"repo_ray_pool_{name}", {"pool": pool}, stats[stat]
    for column, value in status["metrics"].items():
        if column in COLUMNS:
            yield f"repo_ray_{column.replace('/', '_')}", {}, value


class Telemetry:
    """The metrics of one run."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._gauges = {
            name: ray_metrics.Gauge(name, metric.text, ("run", *metric.tags))
            for name, metric in GAUGES.items()
        }
        phases, latency = COUNTERS[PHASE_SECONDS], HISTOGRAMS[SCORE_LATENCY]
        self._phase_seconds = ray_metrics.Counter(PHASE_SECONDS, phases.text, ("run", *phases.tags))
        self._counted: dict[str, float] = {}
        self._latency = ray_metrics.Histogram(
            SCORE_LATENCY, latency.text, LATENCY_BOUNDARIES_S, ("run", *latency.tags)
        )

    def report(self, status: Mapping[str, Any]) -> None:
        """Tells Ray how things stand; to be called at least every ten seconds."""
        for name, tags, value in gauges(status):
            self._gauges[name].set(value, {**self._run, **tags})
        for phase, seconds in status["phases"].items():
            if (more := seconds - self._counted.get(phase, 0.0)) > 0:
                self._phase_seconds.inc(more, {**self._run, "phase": phase})
                self._counted[phase] = seconds

    def score(self, score: Score) -> None:
        self._latency.observe(score.latency_s, {**self._run, "source": score.source})
