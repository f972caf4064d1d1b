"""Adapters on their way at small learning rates, and what each kind of engine makes of them.

Replies of the built-in task (its last message alone, so that a sequence is short) are trained on
with the real learner and fixed random rewards. Every function writes files into the study's
folder and reads those of the ones before it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.benchmark.merging import Merge, kept, nearest
from repo_ray.config.settings import Config
from repo_ray.config.supervised import SupervisedConfig
from repo_ray.data.reader import read_prompts, read_sft
from repo_ray.learner.ppo_learner import PPOLearner
from repo_ray.learner.preparation import adapted, write_policy
from repo_ray.learner.sft_training import train_sft
from repo_ray.models.actor_critic import POLICY, SequenceBatch
from repo_ray.models.adapters import Adapter, adapter_digest, merge_weight, parse_adapter
from repo_ray.models.chat import encode_prompt
from repo_ray.models.loading import load_base, load_tokenizer
from repo_ray.models.logprobs import token_logprobs
from repo_ray.models.packing import hidden_states
from repo_ray.negotiation.datasets import build_datasets
from repo_ray.records import Experience, Prompt, Reward, Rollout
from repo_ray.rollouts.engine import RolloutEngine, engine_environment


@dataclass(frozen=True)
class Start:
    """What the policy was before: `steps` of supervised fine-tuning at `lr`, eight rows each."""

    name: str
    lr: float = 0.0
    steps: int = 0


#: The base itself, as without a warm start; a warm start at the rate of jobs/configs/qwen3-32b.yaml
#: with about as many steps (3,316 rows in batches of 128); one at the default rate.
STARTS = (Start("base"), Start("sft-1e-5", 1e-5, 26), Start("sft-2e-4", 2e-4, 26))
#: Steps after which weights are measured, by learning rate.
MARKS: Mapping[float, Sequence[int]] = {
    1e-6: (1, 2, 5, 10, 20, 50, 100),
    1e-4: (1, 2, 5, 10, 20),
}
#: Steps after which log-probs are measured; adapters of these are kept.
SAMPLED: Mapping[float, Sequence[int]] = {1e-6: (20, 100), 1e-4: (5, 20)}
#: Prompts trained on, replies to each, and replies whose log-probs are measured.
PROMPTS, GROUP, PROBES = 12, 4, 32

Mode = Literal["merged", "native", "float32"]
MODES: Sequence[Mode] = ("merged", "native", "float32")


def points(start: Start) -> list[tuple[str, float, int]]:
    """(name, learning rate, step) of every adapter that is kept, the start first."""
    rest = [(f"{start.name}_{lr:g}_{s}", lr, s) for lr, steps in SAMPLED.items() for s in steps]
    return [(f"{start.name}_0", 0.0, 0), *rest]


# --- adapters --------------------------------------------------------------------------


def make_starts(config: Config, model: Path, out: Path) -> None:
    """Data, the adapters to start from, and replies to train on and to measure with."""
    build_datasets(out / "data", config.run.seed, 600)
    rows = [
        replace(row, prompt=_last_message(row.prompt)) for row in read_sft(out / "data/sft.parquet")
    ]
    for start in STARTS:
        folder = out / "starts" / start.name
        if not start.steps:
            _, network = adapted(config, model, POLICY, SupervisedConfig(), whole=True)
            write_policy(folder, network)
            continue
        stage = SupervisedConfig(
            lr=start.lr, batch_size=8, max_rows=8 * start.steps, max_eval_rows=1
        )
        train_sft(config, stage, model, rows, folder)
    asyncio.run(_sample_starts(config, model, out))


def _last_message(prompt: Prompt) -> Prompt:
    return replace(prompt, messages=prompt.messages[-1:])


async def _sample_starts(config: Config, model: Path, out: Path) -> None:
    prompts = [_last_message(p) for p in read_prompts(out / "data/prompts.parquet", "train")]
    tokenizer = load_tokenizer(model)
    wanted = [p for p in prompts[:PROMPTS] for _ in range(GROUP)]
    wanted += prompts[PROMPTS : PROMPTS + PROBES]
    ids = [encode_prompt(tokenizer, p.messages, thinking=False) for p in wanted]
    engine = await _engine(config, model)
    for number, start in enumerate(STARTS):
        await _push(engine, (out / "starts" / start.name / "adapter.safetensors"), number + 1)
        replies = await asyncio.gather(
            *(
                engine.sample(f"0-{i}-{start.name}", p.prompt_id, 0, tokens, seed=i)
                for i, (p, tokens) in enumerate(zip(wanted, ids, strict=True))
            )
        )
        _write(out / "replies" / f"{start.name}.json", [asdict(r) for r in replies])
    await engine.shutdown()


def train(config: Config, model: Path, out: Path, start: Start, lr: float) -> None:
    """The learner at `lr` from `start`: adapters at the steps to be sampled, weights at all marks.

    One group of four replies a step, in turns; each reply's reward is random and stays.
    """
    learner = PPOLearner(config.model_copy(update={"learner": _at(config, lr)}), model)
    first = (out / "starts" / start.name / "adapter.safetensors").read_bytes()
    learner.set_policy(first)
    (out / "adapters").mkdir(exist_ok=True)
    (out / "adapters" / f"{start.name}_0.safetensors").write_bytes(first)
    before, base = parse_adapter(first), _weights(load_base(model, torch.bfloat16, "eager"))
    batches = _experiences(read_replies(out, start)[: PROMPTS * GROUP], config.run.seed)
    last = before
    rows = []
    for step in range(1, max(MARKS[lr]) + 1):
        result = learner.update(batches[step % PROMPTS])
        if result.skipped:
            raise RuntimeError(f"step {step} was skipped: {result.skipped}")
        if step in MARKS[lr]:
            blob = learner.adapter_blob(POLICY)
            now = parse_adapter(blob)
            row = {"start": start.name, "lr": lr, "step": step}
            row |= {"since_start": asdict(kept(base, before, now, nearest))}
            row |= {"last_push": asdict(kept(base, last, now, nearest))}
            rows.append(row)
            if step in SAMPLED[lr]:
                name = f"{start.name}_{lr:g}_{step}.safetensors"
                (out / "adapters" / name).write_bytes(blob)
        if step + 1 in MARKS[lr]:
            last = parse_adapter(learner.adapter_blob(POLICY))
    _write(out / "weights" / f"{start.name}_{lr:g}.json", rows)


def _at(config: Config, lr: float) -> Any:
    return config.learner.model_copy(update={"policy_lr": lr})


def _experiences(replies: Sequence[Rollout], seed: int) -> list[list[Experience]]:
    rng = random.Random(seed)
    rewards = [rng.gauss(0, 1) for _ in replies]
    made = [
        Experience(Prompt(r.prompt_id, ()), r, (), Reward(x, x, 0, 0, 0, 1))
        for r, x in zip(replies, rewards, strict=True)
    ]
    return [made[i : i + GROUP] for i in range(0, len(made), GROUP)]


def _weights(base: PreTrainedModel) -> dict[str, Tensor]:
    layers = base.named_modules()
    return {n: m.weight.data for n, m in layers if isinstance(m, nn.Linear) and n != "lm_head"}


# --- log-probs -------------------------------------------------------------------------


def forward(config: Config, model: Path, out: Path, start: Start) -> None:
    """Log-probs of the probes: the learner's own, and float32 passes over weights as rounded.

    `exact` is W0 + alpha/r B A in float32; `nearest` is that in bf16; `native` has bf16 factors beside
    W0; `dithered` is `merge_weight` as it is. That also has its weights measured.
    """
    probes = read_replies(out, start)[PROMPTS * GROUP :]
    exact_model = load_base(model, torch.float32, "eager", packed=True)
    base = {n: w.bfloat16() for n, w in _weights(exact_model).items()}
    live = _weights(exact_model)
    learner = PPOLearner(config, model)

    def exact(w0: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
        return merge_weight(w0.float(), a, b, s)

    def native(w0: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
        return merge_weight(w0.float(), a.bfloat16(), b.bfloat16(), s)

    merges: Mapping[str, Merge] = {
        "exact": exact, "nearest": nearest, "native": native, "dithered": merge_weight
    }  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {}
    weights: dict[str, dict[str, float]] = {}
    first: Adapter | None = None
    for name, _, _ in points(start):
        blob = (out / "adapters" / f"{name}.safetensors").read_bytes()
        adapter = parse_adapter(blob)
        if first is None:
            first = adapter
        else:
            weights[name] = asdict(kept(base, first, adapter, merge_weight))
        learner.set_policy(blob)
        row = {"learner": _flat(learner.logprobs_of(probes))}
        for mode, merge in merges.items():
            for module, (a, b) in adapter.modules.items():
                live[module].copy_(merge(base[module], a, b, adapter.scale))
            row[mode] = _logprobs(exact_model, probes)
        found[name] = row
    _write(out / "dithered" / f"{start.name}.json", weights)
    _write(out / "forward" / f"{start.name}.json", found)


def _logprobs(model: PreTrainedModel, samples: Sequence[Rollout]) -> list[float]:
    batch = SequenceBatch.of(samples, torch.device("cpu"))
    with torch.no_grad():
        hidden = hidden_states(model.base_model, batch.packed)
        weight = cast(nn.Linear, model.get_output_embeddings()).weight
        found, _ = token_logprobs(hidden[batch.states], weight, batch.targets, 1, 512)
    return found.tolist()


def engine(config: Config, model: Path, out: Path, mode: Mode, start: Start) -> None:
    """Every adapter in a real engine: log-probs of the probes, the seconds a push took, and
    replies sampled with the last adapter at 1e-6, with their log-probs and the tokens a second."""
    asyncio.run(_measure_engine(_of_mode(config, mode), model, out, mode, start))


def _of_mode(config: Config, mode: Mode) -> Config:
    publication = "native" if mode == "native" else "merged"
    changes: dict[str, Any] = {
        "rollout": config.rollout.model_copy(update={"publication": publication})
    }
    if mode == "float32":
        changes["model"] = config.model.model_copy(update={"dtype": "float32"})
    return config.model_copy(update=changes)


async def _measure_engine(config: Config, model: Path, out: Path, mode: Mode, start: Start) -> None:
    engine = await _engine(config, model)
    found: dict[str, Any] = {}
    probes = read_replies(out, start)[PROMPTS * GROUP :]
    for version, (name, lr, step) in enumerate(points(start), start=1):
        pushed = await _push(engine, out / "adapters" / f"{name}.safetensors", version)
        row: dict[str, Any] = {"push_s": pushed}
        row["probes"] = _flat(
            await engine.probe([(r.prompt_token_ids, r.token_ids) for r in probes])
        )
        if (lr, step) == (1e-6, max(SAMPLED[1e-6])):
            began = time.perf_counter()
            replies = await asyncio.gather(
                *(
                    engine.sample(f"1-{i}-{name}", r.prompt_id, 0, r.prompt_token_ids, seed=i)
                    for i, r in enumerate(probes)
                )
            )
            seconds = time.perf_counter() - began
            row["tokens_per_s"] = sum(len(r.token_ids) for r in replies) / seconds
            row["replies"] = [asdict(r) for r in replies]
        found[name] = row
    await engine.shutdown()
    _write(out / "engines" / f"{mode}_{start.name}.json", found)


async def _engine(config: Config, model: Path) -> RolloutEngine:
    os.environ.update(engine_environment(config))  # before vLLM is imported
    engine = RolloutEngine(config, model, "merge-study")
    await engine.start()
    return engine


async def _push(engine: RolloutEngine, file: Path, version: int) -> float:
    blob = file.read_bytes()
    return (await engine.push(blob, version, adapter_digest(blob))).total_s


def learner_of_replies(config: Config, model: Path, out: Path) -> None:
    """The learner's log-probs of what each engine sampled, by `<mode>/<adapter>`."""
    learner = PPOLearner(config, model)
    found: dict[str, list[float]] = {}
    for mode in MODES:
        for start in STARTS:
            file = out / "engines" / f"{mode}_{start.name}.json"
            for name, row in json.loads(file.read_text(encoding="utf-8")).items():
                if "replies" in row:
                    learner.set_policy((out / "adapters" / f"{name}.safetensors").read_bytes())
                    replies = [rollout_of(r) for r in row["replies"]]
                    found[f"{mode}/{name}"] = _flat(learner.logprobs_of(replies))
    _write(out / "learner.json", found)


# --- files -----------------------------------------------------------------------------


def read_replies(out: Path, start: Start) -> list[Rollout]:
    """The replies of `start`: first those trained on, then the probes."""
    rows = json.loads((out / "replies" / f"{start.name}.json").read_text(encoding="utf-8"))
    return [rollout_of(row) for row in rows]


def rollout_of(row: Mapping[str, Any]) -> Rollout:
    """A rollout from JSON, whose lists were tuples."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Rollout(**fields)


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [x for row in rows for x in row]


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
