"""Predicted steps in words: of one plan, beside a run, and a row for each number of GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repo_ray.config import Config
from repo_ray.planning.forecast import Forecast, Role
from repo_ray.planning.memory import GIB
from repo_ray.planning.placement import PlanError
from repo_ray.planning.speeds import Speeds
from repo_ray.planning.split import Split


def describe_forecast(config: Config, predicted: Forecast, speeds: Speeds) -> str:
    """Seconds, idle shares, bytes and the bottleneck of one step, and hours for the run."""
    collect = "one after the other" if speeds.shared else "scoring while sampling"
    if not config.run.staleness:
        overlap = "phases one after the other"
    elif speeds.shared:
        overlap = "phases in turns: they share the cores"
    else:
        overlap = "generation and learning at the same time"
    lines = [
        *_premises(config, predicted, speeds),
        f"generation  {predicted.generation_s:9.2f} s",
        f"scoring     {predicted.scoring_s:9.2f} s",
        f"collect     {predicted.collect_s:9.2f} s  {collect}",
        f"update      {predicted.update_s:9.2f} s",
        f"push        {predicted.push_s:9.2f} s  adapter to verified engines",
        f"step        {predicted.step_s:9.2f} s  {overlap} (staleness {config.run.staleness}); "
        f"{config.run.batch_size / predicted.step_s:.2f} samples/s",
    ]
    lines += [
        f"{role.name:13}idle {predicted.idle(role):4.0%}, works mostly on {role.cause}"
        for role in predicted.roles
    ]
    lines += [_bytes("network", predicted.network), _bytes("object store", predicted.store)]
    lines += [f"bottleneck  {_bottleneck(config, predicted.bottleneck)}", _hours(config, predicted)]
    return "\n".join(lines)


def describe_errors(errors: Mapping[str, tuple[float, float]], steps: int) -> str:
    """Each phase of a run as measured and as predicted."""
    return "\n".join(
        f"{phase:8} measured {measured:8.2f} s (median of {steps} steps), predicted "
        f"{predicted:8.2f} s, error {predicted / measured - 1:+.0%}"
        for phase, (measured, predicted) in errors.items()
    )


def describe_splits(
    config: Config, rows: Sequence[tuple[int, Split | PlanError]], speeds: Speeds
) -> str:
    """A table with a row for each number of GPUs; a row that does not fit says why."""
    found = [split for _, split in rows if isinstance(split, Split)]
    lines = _premises(config, found[0].forecast, speeds) if found else []
    head = ["GPUs", "learner", "rollout", "RM", "judge", "step s", "samples/s"]
    head += ["idle L/R/RM/J", "network", "store", "GiB/GPU L/R/RM/J", "hours", "bottleneck"]
    table = [head]
    for gpus, split in rows:
        if isinstance(split, PlanError):
            table.append([str(gpus), f"does not fit: {split}"])
        else:
            table.append([str(gpus), *_row(split)])
    widths = [max(len(r[i]) for r in table if len(r) == len(head)) for i in range(len(head))]
    lines += [
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=False)).rstrip() for r in table
    ]
    lines += _limit(config, *rows[-1])
    return "\n".join(lines)


def _limit(config: Config, gpus: int, split: Split | PlanError) -> list[str]:
    """Where GPUs stay unused: what no further GPU makes shorter."""
    if isinstance(split, PlanError) or split.gpus >= gpus:
        return []
    role = split.forecast.bottleneck
    longest = sorted(role.busy.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in longest)
    return [
        f"note: {split.gpus:g} of {gpus} GPUs are as fast as all. More would have to divide a batch "
        f"of {config.run.batch_size} further, and what is left does not shrink by that: {role.name}: "
        f"{parts}"
    ]


def _row(split: Split) -> list[str]:
    config, predicted = split.config, split.forecast
    idle = {role.name: f"{predicted.idle(role):.0%}" for role in predicted.roles}
    used = {place.bundle.name.rpartition("-")[0]: place.bundle for place in split.plan.places}
    judges = config.judge.pool.replicas if config.judge.kind == "local" else "endpoint"
    return [
        str(config.learner.world_size),
        f"{config.rollout.pool.replicas} x {config.rollout.tensor_parallel}",
        str(config.reward_model.pool.replicas if config.reward_model.enabled else 0),
        str(judges if config.judge.enabled else 0),
        f"{predicted.step_s:.1f}",
        f"{config.run.batch_size / predicted.step_s:.2f}",
        "/".join(idle.get(r, "-") for r in ("learner", "rollout", "reward_model", "judge")),
        _size(sum(predicted.network.values())),
        _size(sum(predicted.store.values())),
        "/".join(
            f"{used[r].device_bytes / GIB:.0f}" if r in used and used[r].gpus else "-"
            for r in ("learner", "rollout", "reward_model", "judge")
        ),
        _hours(config, predicted).partition(" ")[0],
        _bottleneck(config, predicted.bottleneck),
    ]


def _premises(config: Config, predicted: Forecast, speeds: Speeds) -> list[str]:
    load = predicted.load
    longest = f"longest reply {load.longest:.0f}"
    limits = (config.model.max_prompt_tokens, config.sampling.max_new_tokens)
    bound = (
        ", an upper bound: the limits of the config" if (load.prompt, load.reply) == limits else ""
    )
    return [
        f"speeds      {speeds.origin}",
        f"samples     {config.run.batch_size} a step, prompts of {load.prompt:.0f} and replies of "
        f"{load.reply:.0f} tokens ({longest}){bound}",
    ]


def _bottleneck(config: Config, role: Role) -> str:
    """The role and what its time goes to; says so where the batch leaves it nothing to divide."""
    alone = {
        "learner": config.learner.world_size,
        "rollout": config.rollout.pool.replicas,
        "reward_model": config.reward_model.pool.replicas,
        "judge": config.judge.pool.replicas if config.judge.kind == "local" else 0,
    }.get(role.name, 0)
    divided = (
        f"; batch {config.run.batch_size}: one sample each"
        if alone >= config.run.batch_size
        else ""
    )
    return f"{role.name}: {role.cause}{divided}"


def _hours(config: Config, predicted: Forecast) -> str:
    steps = config.run.steps
    if steps is None and config.data.prompts is None:
        prompts = config.data.build_preferences * config.run.epochs * config.algorithm.group_size
        steps = -(-prompts // config.run.batch_size)
    if steps is None:
        return "- hours: set run.steps, or the length of a run is not known here"
    return (
        f"{steps * predicted.step_s / 3600:.1f} hours for {steps} steps, checks and stages left out"
    )


def _bytes(name: str, items: Mapping[str, float]) -> str:
    parts = ", ".join(f"{kind} {_size(size)}" for kind, size in items.items() if size)
    return f"{name:13}{_size(sum(items.values()))} a step: {parts}"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
