"""LoRA PPO on one frozen base with a policy and a value adapter. Knows nothing of Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from repo_ray.algorithms.advantages import gae, reward_at_end, whiten
from repo_ray.algorithms.ppo import (
    effective_sample_size,
    explained_variance,
    kl,
    policy_loss,
    value_loss,
)
from repo_ray.config.settings import Config
from repo_ray.learner.checkpoint import (
    CheckpointError,
    random_state,
    read_blob,
    read_tensors,
    set_random_state,
    write_tensors,
)
from repo_ray.learner.engine import EngineSettings, ParameterGroup, Rank, Step, build_engine
from repo_ray.models.actor_critic import (
    POLICY,
    VALUE,
    ActorCritic,
    Role,
    SequenceBatch,
    TokenSequence,
)
from repo_ray.models.adapters import adapter_parameters, export_adapter, import_adapter
from repo_ray.models.loading import load_base
from repo_ray.models.packing import token_budget_batches
from repo_ray.records import Experience


@dataclass(frozen=True)
class SampleUpdate:
    """One sample's part in an update, per response token [T]; columns of `TRAJECTORIES_SCHEMA`.

    `old_values`, `advantages` and `returns` are what the losses used. `new_logprobs` and
    `new_values` come from the pass whose loss was taken in the first epoch.
    """

    sample_id: str
    proximal_logprobs: list[float]
    new_logprobs: list[float]
    old_values: list[float]
    new_values: list[float]
    advantages: list[float]
    returns: list[float]


@dataclass(frozen=True)
class UpdateResult:
    """`samples` is in the order of the batch. `skipped` says why nothing was applied, if so."""

    metrics: Mapping[str, float]
    samples: Sequence[SampleUpdate]
    skipped: str = ""


@dataclass(frozen=True)
class _Filler:
    """What a rank computes where the samples do not divide evenly. The loss does not count it."""

    prompt_token_ids: tuple[int, ...] = (0,)
    token_ids: tuple[int, ...] = (0,)


@dataclass
class _Table:
    """One update's per-token numbers, [B + 1, T] on the CPU, the same on every rank.

    0 where absent. `there` marks response tokens, `mask` those of them that the loss counts.
    The last row belongs to the filler.
    """

    there: Bool[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    behaviour: Float[Tensor, "b t"]
    old_values: Float[Tensor, "b t"]
    next_values: Float[Tensor, " b"]
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]
    proximal: Float[Tensor, "b t"]
    new_logprobs: Float[Tensor, "b t"]
    new_values: Float[Tensor, "b t"]
    last_logprobs: Float[Tensor, "b t"]
    entropy: Float[Tensor, "b t"]

    @classmethod
    def of(cls, batch: Sequence[Experience]) -> _Table:
        rollouts = [e.rollout for e in batch]
        shape = len(rollouts) + 1, max(len(r.token_ids) for r in rollouts)
        there = torch.zeros(shape, dtype=torch.bool)
        mask = torch.zeros(shape, dtype=torch.bool)
        behaviour = torch.zeros(shape)
        for row, rollout in enumerate(rollouts):
            count = len(rollout.token_ids)
            there[row, :count] = True
            mask[row, :count] = torch.tensor(rollout.loss_mask, dtype=torch.bool)
            behaviour[row, :count] = torch.tensor(rollout.logprobs)
        there[-1, 0] = True
        zeros = [torch.zeros(shape) for _ in range(8)]
        return cls(there, mask, behaviour, zeros[0], torch.zeros(shape[0]), *zeros[1:])


class PPOLearner:
    """Holds the base with both adapters, the value head and their optimizer.

    One `update` is: values of all states (no gradient), GAE, then `ppo_epochs` passes of
    `minibatches` optimizer steps. The policy loss, minus `entropy_coef` times the entropy, and
    the value loss are each the mean over the response tokens of the whole (mini)batch, whatever
    the micro-batches and ranks. With more than one rank, every rank calls every method with the
    same arguments and works on its share; results are the same on all of them.

    In the `behaviour` mode, and with a single optimizer step per update, `proximal_logprobs` are
    those of the first epoch's own forward pass; several steps in the `decoupled` mode cost one
    more forward pass.
    """

    def __init__(self, config: Config, model_folder: Path, rank: Rank | None = None) -> None:
        """Loads the base and seeds the adapters. Sets this process's torch threads on the CPU."""
        self._config = config
        self._rank = rank or Rank()
        self._updates = 0
        if not torch.cuda.is_available():
            torch.set_num_threads(config.learner.threads)
        torch.manual_seed(config.run.seed)
        base = load_base(model_folder, getattr(torch, config.model.dtype), config.model.attention)
        learner = config.learner
        self._network = ActorCritic(
            base,
            config.lora,
            temperature=config.sampling.temperature,
            chunk=learner.logprob_chunk,
            entropy_gradient=config.algorithm.entropy_coef > 0,
        )
        self._policy = adapter_parameters(self._network.model, POLICY)
        self._value = adapter_parameters(self._network.model, VALUE)
        self._head = list(self._network.value_head.parameters())
        self._engine = build_engine(
            self._network,
            [
                ParameterGroup(
                    POLICY, self._policy, learner.policy_lr, learner.policy_max_grad_norm
                ),
                ParameterGroup(
                    VALUE,
                    [*self._value, *self._head],
                    learner.value_lr,
                    learner.value_max_grad_norm,
                ),
            ],
            EngineSettings(learner.zero_stage, learner.weight_decay, learner.warmup_steps),
            self._rank,
        )

    @property
    def updates(self) -> int:
        """Calls of `update` so far, skipped ones included."""
        return self._updates

    # --- update ------------------------------------------------------------------------

    def update(self, batch: Sequence[Experience]) -> UpdateResult:
        """One PPO update. See the class for what it does and `UpdateResult` for what it tells.

        Nothing is applied where the batch holds no token to learn from, a reward or behaviour
        log-probability is not finite, or a gradient is not: `skipped` says which.
        """
        started = time.perf_counter()
        self._updates += 1
        if problem := _problem(batch):
            return UpdateResult({"skipped": 1.0}, [], problem)
        algorithm = self._config.algorithm
        table = _Table.of(batch)
        rollouts: list[TokenSequence] = [*(e.rollout for e in batch), _Filler()]
        everything = list(range(len(batch)))

        with torch.no_grad():
            for rows, part in self._micro_batches(rollouts, everything):
                values, ends = self._engine.module(part, VALUE)
                _put(table.old_values, table.there, rows, values)
                table.next_values[rows] = ends.cpu()
            self._share(table.old_values, table.next_values)
            self._estimate(table, batch)
            steps = algorithm.ppo_epochs * algorithm.minibatches
            separate = algorithm.ratio == "decoupled" and steps > 1
            if separate:
                for rows, part in self._micro_batches(rollouts, everything):
                    _put(table.proximal, table.there, rows, self._engine.module(part, POLICY)[0])
                self._share(table.proximal)

        done: list[Step] = []
        for epoch in range(algorithm.ppo_epochs):
            for minibatch in self._minibatches(len(batch), epoch):
                step = self._optimize(table, rollouts, minibatch, separate, epoch == 0)
                done.append(step)
            if epoch == 0:
                self._share(table.new_logprobs, table.new_values)
                if not separate:
                    table.proximal = table.new_logprobs.clone()
        self._share(table.last_logprobs, table.entropy)

        seconds = time.perf_counter() - started
        skipped = next((s.skipped for s in done if s.skipped), "")
        metrics = {
            **self._losses(table),
            **{f"grad_norm_{name}": norm for name, norm in done[-1].grad_norms.items()},
            **{f"lr_{name}": lr for name, lr in done[-1].lrs.items()},
            "optimizer_steps": float(self._engine.steps),
            "skipped": float(bool(skipped)),
            "tokens": float(table.mask.sum()),
            "tokens_total": float(sum(_length(e.rollout) for e in batch)),
            "seconds": seconds,
        }
        metrics["tokens_per_s"] = metrics["tokens_total"] / seconds
        return UpdateResult(metrics, _per_sample(table, batch), skipped)

    def _estimate(self, table: _Table, batch: Sequence[Experience]) -> None:
        algorithm = self._config.algorithm
        rewards = torch.tensor([*(e.reward.total for e in batch), 0.0])
        truncated = torch.tensor([*(e.rollout.finish_reason == "length" for e in batch), False])
        table.advantages, table.returns = gae(
            reward_at_end(rewards, table.mask),
            table.old_values,
            table.mask,
            truncated,
            algorithm.gamma,
            algorithm.gae_lambda,
            algorithm.truncation,
            table.next_values,
        )
        if algorithm.whiten_advantages:
            table.advantages = whiten(table.advantages, table.mask)

    def _optimize(
        self,
        table: _Table,
        rollouts: Sequence[TokenSequence],
        minibatch: Sequence[int],
        separate: bool,
        first_epoch: bool,
    ) -> Step:
        """One optimizer step. Policy and value take turns, so one graph is alive at a time."""
        algorithm = self._config.algorithm
        device = self._engine.device
        count = max(int(table.mask[minibatch].sum()), 1)
        for rows, part in self._micro_batches(rollouts, minibatch):
            there = table.there[rows]
            weight = (table.mask[rows][there] / count).to(device)

            def take(column: Tensor, rows: list[int] = rows, there: Tensor = there) -> Tensor:
                return column[rows][there].to(device)

            new, entropy = self._engine(part, POLICY)
            proximal = take(table.proximal) if separate else new.detach()
            loss = policy_loss(
                new,
                proximal,
                take(table.behaviour),
                take(table.advantages),
                algorithm.clip,
                algorithm.ratio,
            ).loss
            if algorithm.entropy_coef:
                loss = loss - algorithm.entropy_coef * entropy
            self._engine.backward((loss * weight).sum())

            values, _ = self._engine(part, VALUE)
            error = value_loss(
                values, take(table.old_values), take(table.returns), algorithm.value_clip
            )
            self._engine.backward((error * weight).sum())

            if first_epoch:
                _put(table.new_logprobs, table.there, rows, new)
                _put(table.new_values, table.there, rows, values)
            _put(table.last_logprobs, table.there, rows, new)
            _put(table.entropy, table.there, rows, entropy)
        return self._engine.step()

    def _losses(self, table: _Table) -> dict[str, float]:
        """Losses of the first epoch's passes and diagnostics, over the whole batch's tokens."""
        algorithm = self._config.algorithm
        mask = table.mask
        behaviour, proximal = table.behaviour[mask], table.proximal[mask]
        new, last = table.new_logprobs[mask], table.last_logprobs[mask]
        advantages, returns = table.advantages[mask], table.returns[mask]
        old_values = table.old_values[mask]

        def loss_of(logprobs: Tensor) -> tuple[Tensor, Tensor]:
            result = policy_loss(
                logprobs, proximal, behaviour, advantages, algorithm.clip, algorithm.ratio
            )
            return result.loss, result.clipped

        errors = value_loss(table.new_values[mask], old_values, returns, algorithm.value_clip)
        return {
            "policy_loss": float(loss_of(new)[0].mean()),
            "value_loss": float(errors.mean()),
            "entropy": float(table.entropy[mask].mean()),
            "clip_share": float(loss_of(last)[1].float().mean()),
            "approx_kl": kl(proximal, last),
            "mismatch_kl": kl(behaviour, proximal),
            "ess": effective_sample_size(behaviour, proximal),
            "explained_variance": explained_variance(old_values, returns),
            "value_mean": float(old_values.mean()),
            "return_mean": float(returns.mean()),
        }

    # --- batching ----------------------------------------------------------------------

    def _minibatches(self, count: int, epoch: int) -> list[list[int]]:
        """Shuffled where there are several; a function of seed, update and epoch alone."""
        parts = self._config.algorithm.minibatches
        if parts == 1:
            return [list(range(count))]
        seed = (self._config.run.seed, self._updates, epoch)
        generator = torch.Generator().manual_seed(hash(seed) % 2**31)
        order = torch.randperm(count, generator=generator)
        return [part.tolist() for part in order.tensor_split(parts) if len(part)]

    def _micro_batches(
        self, samples: Sequence[TokenSequence], chosen: Sequence[int]
    ) -> Iterator[tuple[list[int], SequenceBatch]]:
        """This rank's share of the `chosen` samples, with their numbers, by token budget.

        Collectives run inside forward and backward, so every rank gets the same number of
        micro-batches: neighbours in order of length are dealt out one to each rank, and a rank
        that goes without in the last deal works on the filler (the last of `samples`).
        """
        world, mine = self._rank.world_size, self._rank.rank
        order = sorted(chosen, key=lambda i: _length(samples[i]))
        deals = [order[at : at + world] for at in range(0, len(order), world)]
        lengths = [_length(samples[deal[-1]]) for deal in deals]
        for group in token_budget_batches(lengths, self._config.learner.micro_batch_tokens):
            rows = [deals[g][mine] if mine < len(deals[g]) else len(samples) - 1 for g in group]
            yield rows, SequenceBatch.of([samples[r] for r in rows], self._engine.device)

    def _share(self, *columns: Tensor) -> None:
        """Adds the ranks' rows together: each filled in its own, the others are 0."""
        if self._rank.world_size == 1:
            return
        for column in columns:
            moved = column.to(self._engine.device)
            dist.all_reduce(moved)
            column.copy_(moved)

    # --- adapters and probes -------------------------------------------------------------

    def adapter_blob(self, name: str) -> bytes:
        """The current adapter `policy` or `value` on the wire format of `models.adapters`."""
        with self._engine.full_parameters(adapter_parameters(self._network.model, name)):
            return export_adapter(self._network.model, name)

    def set_policy(self, blob: bytes) -> None:
        """Starts the policy from an adapter, such as the warm start's. Optimizer state stays.

        Raises:
            ValueError: the blob does not fit (`models.adapters.import_adapter`).
        """
        self._set_adapter(POLICY, blob)

    def _set_adapter(self, name: str, blob: bytes) -> None:
        parameters = adapter_parameters(self._network.model, name)
        with self._engine.full_parameters(parameters, write=True):
            import_adapter(self._network.model, name, blob)

    def logprobs_of(
        self, samples: Sequence[TokenSequence], role: Role = POLICY
    ) -> list[list[float]]:
        """Log-probabilities (nats, at temperature 1) of each sample's response tokens.

        `role` is `policy` or `base` (adapters off). Every rank computes all samples.
        """
        head = self._network.logprob_head
        order = range(len(samples))
        budget = self._config.learner.micro_batch_tokens
        result: list[list[float]] = [[] for _ in order]
        head.temperature = 1.0
        try:
            with torch.no_grad():
                for rows in token_budget_batches([_length(s) for s in samples], budget):
                    part = SequenceBatch.of([samples[r] for r in rows], self._engine.device)
                    flat, _ = self._engine.module(part, role)
                    sizes = [len(samples[r].token_ids) for r in rows]
                    for row, values in zip(rows, flat.cpu().split(sizes), strict=True):
                        result[row] = values.tolist()
        finally:
            head.temperature = self._config.sampling.temperature
        return result

    # --- checkpoints -----------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes everything that `load` needs into `folder`. See `learner.checkpoint`."""
        folder.mkdir(parents=True, exist_ok=True)
        blobs = {name: self.adapter_blob(name) for name in (POLICY, VALUE)}
        with self._engine.full_parameters(self._head):
            head = {n: p.detach().clone() for n, p in self._network.value_head.named_parameters()}
        if self._rank.rank == 0:
            for name, blob in blobs.items():
                (folder / f"{name}.safetensors").write_bytes(blob)
            write_tensors(folder / "value_head.safetensors", head)
        rank = self._rank.rank
        counters = {"updates": torch.tensor(self._updates)}
        write_tensors(
            folder / f"optimizer-{rank}.safetensors", {**self._engine.state(), **counters}
        )
        write_tensors(folder / f"rng-{rank}.safetensors", random_state())

    def load(self, folder: Path) -> None:
        """Continues from `save`, bit for bit at the same world size and ZeRO stage.

        Raises:
            CheckpointError: a file is missing, damaged or of another learner.
        """
        rank = self._rank.rank
        blobs = {name: read_blob(folder / f"{name}.safetensors") for name in (POLICY, VALUE)}
        head = read_tensors(folder / "value_head.safetensors")
        state = read_tensors(folder / f"optimizer-{rank}.safetensors")
        try:
            for name, blob in blobs.items():
                self._set_adapter(name, blob)
            with self._engine.full_parameters(self._head, write=True):
                self._network.value_head.load_state_dict(head)
            self._updates = int(state.pop("updates"))
            self._engine.load_state(state)
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: {error}") from error
        set_random_state(read_tensors(folder / f"rng-{rank}.safetensors"))


def _length(sample: TokenSequence) -> int:
    return len(sample.prompt_token_ids) + len(sample.token_ids)


def _problem(batch: Sequence[Experience]) -> str:
    """Why nothing can be learned from `batch`, or nothing."""
    if not any(any(e.rollout.loss_mask) for e in batch):
        return "empty batch: no response token that the loss counts"
    for e in batch:
        if not math.isfinite(e.reward.total):
            return f"sample {e.rollout.sample_id}: reward is {e.reward.total}"
        if not all(map(math.isfinite, e.rollout.logprobs)):
            return f"sample {e.rollout.sample_id}: a behaviour log-probability is not finite"
    return ""


def _put(column: Tensor, there: Tensor, rows: Sequence[int], flat: Tensor) -> None:
    """Writes flat per-token values, row by row, into the given rows of a [B + 1, T] column."""
    block = torch.zeros(len(rows), column.shape[1])
    block[there[rows]] = flat.detach().float().cpu()
    column[rows] = block


def _per_sample(table: _Table, batch: Sequence[Experience]) -> list[SampleUpdate]:
    columns = (
        table.proximal,
        table.new_logprobs,
        table.old_values,
        table.new_values,
        table.advantages,
        table.returns,
    )
    return [
        SampleUpdate(e.rollout.sample_id, *(c[row][table.there[row]].tolist() for c in columns))
        for row, e in enumerate(batch)
    ]
