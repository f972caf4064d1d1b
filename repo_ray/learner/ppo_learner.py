"""LoRA PPO on one frozen base, with a value network or with groups. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repo_ray.algorithms.ppo import (
    effective_sample_size,
    explained_variance,
    kl,
    policy_loss,
    value_loss,
)
from repo_ray.config.settings import Config
from repo_ray.learner.batching import FILLER, length, micro_batches, minibatches, share
from repo_ray.learner.checkpoint import (
    HEAD,
    CheckpointError,
    check_critic,
    random_state,
    read_blob,
    read_tensors,
    set_random_state,
    write_tensors,
)
from repo_ray.learner.engine import EngineSettings, ParameterGroup, Rank, Step, build_engine
from repo_ray.learner.estimation import estimate, returns
from repo_ray.learner.faults import problem, warnings
from repo_ray.learner.table import SampleUpdate, Table
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
from repo_ray.models.packing import budget_batches
from repo_ray.records import Experience


@dataclass(frozen=True)
class UpdateResult:
    """`samples` is in the order of the batch. `skipped` says why nothing was applied, if so.

    `warnings` are for people: what is wrong with an update that went on nevertheless.
    """

    metrics: Mapping[str, float]
    samples: Sequence[SampleUpdate]
    skipped: str = ""
    warnings: Sequence[str] = ()


class PPOLearner:
    """Holds the base with its adapters, the value head and their optimizer.

    One `update` is: values of all states, GAE, then `ppo_epochs` passes of `minibatches` optimizer
    steps. The policy loss, minus `entropy_coef` times the entropy, and the value loss are each
    the mean over the response tokens of the whole (mini)batch, whatever the micro-batches and
    ranks. Where the first step takes the whole batch, its own value pass gives those values, as
    a return depends on no other sample's; else they cost a forward pass more. With more than one rank, every rank calls every method with the
    same arguments and works on its share; results are the same on all of them.

    With `algorithm.advantage: group` advantages come from comparing the replies to one prompt
    (`algorithms.grpo`), and there is no value network: no adapter, head, pass or loss of it.

    In the `behaviour` mode, and with a single optimizer step per update, `proximal_logprobs` are
    those of the first epoch's own forward pass; several steps in the `decoupled` mode cost one
    more forward pass.
    """

    def __init__(self, config: Config, model_folder: Path, rank: Rank | None = None) -> None:
        """Loads the base and seeds the adapters."""
        self._config = config
        self._rank = rank or Rank()
        self._updates = 0
        torch.manual_seed(config.run.seed)
        base = load_base(
            model_folder, getattr(torch, config.model.dtype), config.model.attention, packed=True
        )
        learner = config.learner
        self._network = ActorCritic(
            base,
            config.lora,
            temperature=config.sampling.temperature,
            chunk=learner.logprob_chunk,
            entropy_gradient=config.algorithm.entropy_coef > 0,
            critic=config.algorithm.advantage == "gae",
        )
        if learner.compile:
            self._network.compile_layers()
        self._head = self._network.value_head
        policy = adapter_parameters(self._network.model, POLICY)
        groups = [ParameterGroup(POLICY, policy, learner.policy_lr, learner.policy_max_grad_norm)]
        if self._head is not None:
            value = [*adapter_parameters(self._network.model, VALUE), *self._head.parameters()]
            groups.append(
                ParameterGroup(VALUE, value, learner.value_lr, learner.value_max_grad_norm)
            )
        self._engine = build_engine(
            self._network,
            groups,
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
        log-probability is not finite, or no gradient is: `skipped` says which. Of several
        optimizer steps, one with a finite gradient is applied whatever the others have; the
        metrics `steps_applied` and `steps_skipped` count them.

        Sets this process's torch threads.
        """
        torch.set_num_threads(self._config.learner.threads)
        started = time.perf_counter()
        self._updates += 1
        if fault := problem(batch, self._config.algorithm):
            none = {"skipped": 1.0, "steps_applied": 0.0, "steps_skipped": 0.0}
            return UpdateResult(none, [], fault)
        algorithm = self._config.algorithm
        table = Table.of(batch)
        rollouts: list[TokenSequence] = [*(e.rollout for e in batch), FILLER]
        everything = list(range(len(batch)))

        one_pass = algorithm.minibatches == 1
        if self._head is not None:
            with torch.set_grad_enabled(one_pass):
                for rows, part in self._passes(rollouts, everything):
                    self._old_values(table, batch, rows, part)
            self._share(table.old_values, table.next_values)
        estimated = estimate(table, batch, algorithm)
        steps = algorithm.ppo_epochs * algorithm.minibatches
        separate = algorithm.ratio == "decoupled" and steps > 1
        if separate:
            with torch.no_grad():
                for rows, part in self._passes(rollouts, everything):
                    table.put(table.proximal, rows, self._engine.module(part, POLICY)[0])
            self._share(table.proximal)

        done: list[Step] = []
        for epoch in range(algorithm.ppo_epochs):
            for minibatch in minibatches(
                len(batch), algorithm.minibatches, self._config.run.seed, self._updates, epoch
            ):
                learned = one_pass and epoch == 0  # the values have their gradient already
                step = self._optimize(table, rollouts, minibatch, separate, epoch == 0, learned)
                done.append(step)
            if epoch == 0:
                self._share(table.new_logprobs, table.new_values)
                if not separate:
                    table.proximal = table.new_logprobs.clone()
        self._share(table.last_logprobs, table.entropy)

        seconds = time.perf_counter() - started
        applied = sum(not s.skipped for s in done)
        skipped = "" if applied else done[0].skipped
        metrics = {
            **self._losses(table),
            **estimated,
            **{f"grad_norm_{name}": norm for name, norm in done[-1].grad_norms.items()},
            **{f"lr_{name}": lr for name, lr in done[-1].lrs.items()},
            "optimizer_steps": float(self._engine.steps),
            "steps_applied": float(applied),
            "steps_skipped": float(len(done) - applied),
            "skipped": float(bool(skipped)),
            "tokens": float(table.mask.sum()),
            "tokens_total": float(sum(length(e.rollout) for e in batch)),
            "seconds": seconds,
        }
        metrics["tokens_per_s"] = metrics["tokens_total"] / seconds
        return UpdateResult(
            metrics,
            table.samples(batch, self._head is not None),
            skipped,
            warnings(metrics, self._config.learner),
        )

    def _old_values(
        self, table: Table, batch: Sequence[Experience], rows: list[int], part: SequenceBatch
    ) -> None:
        """The values before the update and, where gradients are on, their loss's gradient."""
        learn = torch.is_grad_enabled()
        values, ends = (self._engine if learn else self._engine.module)(part, VALUE)
        table.put(table.old_values, rows, values)
        table.next_values[rows] = ends.detach().float().cpu()
        if learn:
            table.put(table.new_values, rows, values)
            table.returns[rows] = returns(table, batch, rows, self._config.algorithm)
            self._learn_values(table, rows, values, list(range(len(batch))))

    def _learn_values(
        self, table: Table, rows: list[int], values: Tensor, minibatch: Sequence[int]
    ) -> None:
        """Backward from the value loss of `rows`, as their part of the mean over `minibatch`."""
        take, weight = self._columns(table, rows, minibatch)
        clip = self._config.algorithm.value_clip
        error = value_loss(values, take(table.old_values), take(table.returns), clip)
        self._engine.backward((error * weight).sum())

    def _columns(
        self, table: Table, rows: list[int], minibatch: Sequence[int]
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What takes a column's response tokens of `rows` [N] to the device, and their weights in
        the mean over the counted tokens of `minibatch` [N]."""
        there, device = table.there[rows], self._engine.device
        count = max(int(table.mask[minibatch].sum()), 1)
        weight = (table.mask[rows][there] / count).to(device)
        return (lambda column: column[rows][there].to(device)), weight

    def _optimize(
        self,
        table: Table,
        rollouts: Sequence[TokenSequence],
        minibatch: Sequence[int],
        separate: bool,
        first_epoch: bool,
        values_learned: bool,
    ) -> Step:
        """One optimizer step. Policy and value take turns, so one graph is alive at a time."""
        algorithm = self._config.algorithm
        for rows, part in self._passes(rollouts, minibatch):
            take, weight = self._columns(table, rows, minibatch)
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

            if self._head is not None and not values_learned:
                values, _ = self._engine(part, VALUE)
                self._learn_values(table, rows, values, minibatch)
                if first_epoch:
                    table.put(table.new_values, rows, values)

            if first_epoch:
                table.put(table.new_logprobs, rows, new)
            table.put(table.last_logprobs, rows, new)
            table.put(table.entropy, rows, entropy)
        return self._engine.step()

    def _losses(self, table: Table) -> dict[str, float]:
        """Losses of the first epoch's passes and diagnostics, over the whole batch's tokens."""
        algorithm = self._config.algorithm
        mask = table.mask
        behaviour, proximal = table.behaviour[mask], table.proximal[mask]
        new, last = table.new_logprobs[mask], table.last_logprobs[mask]
        advantages = table.advantages[mask]

        def loss_of(logprobs: Tensor) -> tuple[Tensor, Tensor]:
            result = policy_loss(
                logprobs, proximal, behaviour, advantages, algorithm.clip, algorithm.ratio
            )
            return result.loss, result.clipped

        losses = {
            "policy_loss": float(loss_of(new)[0].mean()),
            "entropy": float(table.entropy[mask].mean()),
            "clip_share": float(loss_of(last)[1].float().mean()),
            "approx_kl": kl(proximal, last),
            "mismatch_kl": kl(behaviour, proximal),
            "ess": effective_sample_size(behaviour, proximal),
        }
        if self._head is None:
            return losses
        old_values, returns = table.old_values[mask], table.returns[mask]
        errors = value_loss(table.new_values[mask], old_values, returns, algorithm.value_clip)
        return losses | {
            "value_loss": float(errors.mean()),
            "explained_variance": explained_variance(old_values, returns),
            "value_mean": float(old_values.mean()),
            "return_mean": float(returns.mean()),
        }

    def _passes(
        self, samples: Sequence[TokenSequence], chosen: Sequence[int]
    ) -> Iterator[tuple[list[int], SequenceBatch]]:
        """This rank's micro-batches of the `chosen` samples, with the samples' numbers."""
        budget = self._config.learner.micro_batch_tokens
        for rows in micro_batches(samples, chosen, self._rank, budget):
            yield rows, SequenceBatch.of([samples[r] for r in rows], self._engine.device)

    def _share(self, *columns: Tensor) -> None:
        share(columns, self._rank, self._engine.device)

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

        `role` is `policy` or `base` (adapters off). Every rank computes all samples. Nothing is
        compiled for it: that takes longer than the few samples of a probe.
        """
        head = self._network.logprob_head
        budget = self._config.learner.micro_batch_tokens
        result: list[list[float]] = [[] for _ in samples]
        head.temperature = 1.0
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                for rows in budget_batches([length(s) for s in samples], budget):
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
        files = {POLICY: self.adapter_blob(POLICY)}
        if self._head is not None:
            files[VALUE] = self.adapter_blob(VALUE)
            with self._engine.full_parameters(list(self._head.parameters())):
                head = {n: p.detach().clone() for n, p in self._head.named_parameters()}
        if self._rank.rank == 0:
            for name, blob in files.items():
                (folder / f"{name}.safetensors").write_bytes(blob)
            if self._head is not None:
                write_tensors(folder / HEAD, head)
        rank = self._rank.rank
        counters = {"updates": torch.tensor(self._updates)}
        write_tensors(
            folder / f"optimizer-{rank}.safetensors", {**self._engine.state(), **counters}
        )
        write_tensors(folder / f"rng-{rank}.safetensors", random_state())

    def load(self, folder: Path) -> None:
        """Continues from `save`, bit for bit at the same world size and ZeRO stage.

        Raises:
            CheckpointError: a file is missing, damaged or of another learner, such as one with
                a value network where this one has none.
        """
        rank = self._rank.rank
        blobs = {POLICY: read_blob(folder / f"{POLICY}.safetensors")}
        check_critic(folder, self._head is not None)
        if self._head is not None:
            blobs[VALUE] = read_blob(folder / f"{VALUE}.safetensors")
            head = read_tensors(folder / HEAD)
        state = read_tensors(folder / f"optimizer-{rank}.safetensors")
        try:
            for name, blob in blobs.items():
                self._set_adapter(name, blob)
            if self._head is not None:
                with self._engine.full_parameters(list(self._head.parameters()), write=True):
                    self._head.load_state_dict(head)
            self._updates = int(state.pop("updates"))
            self._engine.load_state(state)
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: {error}") from error
        set_random_state(read_tensors(folder / f"rng-{rank}.safetensors"))
