"""Training steps through DeepSpeed; the one file that imports it.

Trainable parameters stay float32 in the module and the frozen base keeps its own type:
DeepSpeed's bf16/fp16 modes, which cast the whole module, are off, and low-precision compute is
the module's own business (`models.lora_linear`). ZeRO shards optimizer state (1),
gradients (2) and all parameters, the frozen base included (3).

Each parameter group has its own learning rate and its own gradient-norm limit. DeepSpeed knows
only one global norm, so its clipping is off and a pre-step hook on the torch optimizer clips
what it sees: with stages 1 to 3 DeepSpeed calls `optimizer.step()` once per group with this
rank's flat partition of the averaged gradient, and partition norms add up over ranks; with
stage 0 one call sees whole averaged gradients of all groups.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Rank:
    """This process's place among the learner's processes, which are started by somebody else."""

    rank: int = 0
    world_size: int = 1
    master_address: str = "127.0.0.1"
    master_port: int = 0  # 0: a free one; only possible with a single rank
    timeout_s: float = 1800.0


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a gradient-norm limit."""

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float
    max_grad_norm: float


@dataclass(frozen=True)
class EngineSettings:
    """`warmup_steps`: update k (from 1) uses lr * min(1, k / warmup_steps).

    `decay_steps`: that rate also falls linearly, by 1 - (k - 1) / decay_steps; 0: it stays.
    """

    zero_stage: int = 2
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay_steps: int = 0


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. Norms are before clipping; `skipped` is empty if applied."""

    grad_norms: Mapping[str, float]
    lrs: Mapping[str, float]
    skipped: str = ""


def init_distributed(rank: Rank) -> None:
    """Joins the process group (NCCL with CUDA, gloo without). Does nothing if already joined.

    Raises:
        ValueError: several ranks without an agreed port.
    """
    if dist.is_initialized():
        return
    if rank.world_size > 1 and rank.master_port == 0:
        raise ValueError("Rank.master_port must be set when world_size > 1")
    # One visible device per process, so that DeepSpeed's local rank is always 0.
    os.environ["LOCAL_RANK"] = "0"
    store = dist.TCPStore(
        rank.master_address,
        rank.master_port,
        rank.world_size,
        is_master=rank.rank == 0,
        timeout=timedelta(seconds=rank.timeout_s),
    )
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(seconds=rank.timeout_s),
    )


def _deepspeed() -> Any:
    """DeepSpeed, imported late: it picks its accelerator from the environment at import."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    # On CPU DeepSpeed would compile a shared-memory all-reduce with the system's C++ compiler,
    # and a killed build leaves a lock that hangs the next run. No op is needed here.
    deepspeed.ops.__compatible_ops__ = {}
    # DeepSpeed calls collectives by names that torch has deprecated, hundreds of times a step.
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger"
    )
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


class Engine:
    """Forward, backward and step of one module. Every rank must make the same calls in order."""

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParameterGroup],
        settings: EngineSettings,
        rank: Rank,
    ) -> None:
        init_distributed(rank)
        self._deepspeed = _deepspeed()
        self._groups = {group.name: group for group in groups}
        self._settings = settings
        self._norms: dict[str, float] = {}
        self._steps = 0
        self._check(module)
        optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters), "lr": g.lr, "name": g.name} for g in groups],
            betas=(0.9, 0.999),
            weight_decay=settings.weight_decay,
            fused=True,  # one pass over memory instead of a dozen
        )
        optimizer.register_step_pre_hook(self._clip)
        trainable = sum(p.numel() for g in groups for p in g.parameters)
        self._engine, *_ = self._deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                # The caller decides how many backward passes make a step.
                "managed_gradient_accumulation": False,
                "gradient_clipping": 0.0,
                "steps_per_print": 2**31,
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {
                    "stage": settings.zero_stage,
                    "overlap_comm": False,
                    # The default (5e8) is allocated whole at every backward pass.
                    "reduce_bucket_size": max(trainable, 1),
                    # One sub-group per parameter group, so that one hook call sees one group.
                    "sub_group_size": 10**15,
                    # Stage 3 would replace torch's linear for the whole process.
                    "memory_efficient_linear": False,
                },
            },
        )
        self._optimizer: torch.optim.AdamW = self._engine.basic_optimizer
        names = [g["name"] for g in self._optimizer.param_groups]
        if names != list(self._groups):
            raise RuntimeError(f"DeepSpeed changed the parameter groups: {names}")

    def _check(self, module: nn.Module) -> None:
        grouped = {id(p) for g in self._groups.values() for p in g.parameters}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad != (id(parameter) in grouped):
                state = "trainable" if parameter.requires_grad else "frozen"
                raise ValueError(
                    f"parameter {name} is {state} but "
                    f"{'in no' if parameter.requires_grad else 'in a'} parameter group"
                )
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise ValueError(f"trainable parameter {name} is {parameter.dtype}, not float32")

    # --- training ----------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        return self._engine.module

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def steps(self) -> int:
        """Optimizer steps applied so far."""
        return self._steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward pass, prepared for `backward`."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` (scalar). Gradients are summed over calls and over ranks."""
        # DeepSpeed averages over ranks; multiplying first makes it a sum, so that a loss
        # normalised by global counts gives the one-rank gradient.
        self._engine.backward(loss * dist.get_world_size())

    def step(self) -> Step:
        """Clips per group, applies AdamW and clears the gradients.

        Where any gradient is not finite, nothing is applied on any rank and `skipped` says so.
        """
        warmup = self._settings.warmup_steps
        factor = min(1.0, (self._steps + 1) / warmup) if warmup else 1.0
        if self._settings.decay_steps:
            factor *= max(0.0, 1.0 - self._steps / self._settings.decay_steps)
        lrs = {}
        for group in self._optimizer.param_groups:
            group["lr"] = lrs[group["name"]] = self._groups[group["name"]].lr * factor
        self._norms = {}
        self._engine.step()
        self._clear_stage_3_buffer()
        # Stages 1 to 3 find non-finite gradients themselves and never reach the hook.
        finite = len(self._norms) == len(self._groups) and all(
            math.isfinite(norm) for norm in self._norms.values()
        )
        if not finite:
            return Step(self._norms, lrs, "non-finite gradient")
        self._steps += 1
        return Step(self._norms, lrs)

    def _clear_stage_3_buffer(self) -> None:
        """Zeroes the ZeRO-3 gradient buffer.

        DeepSpeed overwrites it only in the first backward pass of a step and adds afterwards, so
        a group whose first gradient comes in a later pass would keep last step's gradient.
        """
        if self._settings.zero_stage == 3:
            self._engine.optimizer.grad_partitions_flat_buffer.zero_()

    def _clip(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Scales every visible group's gradient to its norm limit; see the module docstring."""
        visible = [g for g in optimizer.param_groups if g["params"]]
        if self._settings.zero_stage and len(visible) != 1:
            raise RuntimeError(
                f"expected one parameter group per optimizer call under ZeRO, got {len(visible)}"
            )
        for group in visible:
            name = group["name"]
            if name in self._norms:
                raise RuntimeError(f"group {name} was split: its norm would be a part's norm")
            grads = [p.grad for p in group["params"] if p.grad is not None]
            square = torch.zeros((), device=self.device)
            if grads:
                norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads]
                square += torch.stack(norms).square().sum()
            if self._settings.zero_stage:
                dist.all_reduce(square)
            self._norms[name] = norm = float(square.sqrt())
            limit = self._groups[name].max_grad_norm
            if norm > limit:
                for grad in grads:
                    grad.mul_(limit / norm)
        if not all(math.isfinite(norm) for norm in self._norms.values()):
            for group in visible:
                for parameter in group["params"]:
                    parameter.grad = None  # AdamW passes over parameters without a gradient

    # --- parameters and state ------------------------------------------------------------

    @contextmanager
    def full_parameters(
        self, parameters: Sequence[nn.Parameter], write: bool = False
    ) -> Iterator[None]:
        """Inside, the given parameters are whole on every rank, also under ZeRO-3.

        With `write`, changes made inside (the same on every rank) become the new weights.
        """
        gathered: AbstractContextManager[None] = self._deepspeed.zero.GatheredParameters(
            list(parameters),
            modifier_rank=0 if write else None,
            enabled=self._settings.zero_stage == 3,
        )
        with gathered:
            yield
        if write and self._settings.zero_stage:
            self._engine.optimizer.refresh_fp32_params()

    def _masters(self) -> dict[str, Tensor]:
        """The tensors that AdamW updates on this rank, keyed `<group>.<index>`."""
        optimizer = self._engine.optimizer
        if self._settings.zero_stage == 0:
            return {
                f"{g['name']}.{i}": p
                for g in self._optimizer.param_groups
                for i, p in enumerate(g["params"])
            }
        flat = (
            optimizer.fp32_partitioned_groups_flat
            if self._settings.zero_stage == 3
            else optimizer.single_partition_of_fp32_groups
        )
        if len(flat) != len(self._groups):
            raise RuntimeError(f"{len(flat)} partitions for {len(self._groups)} parameter groups")
        return {f"{name}.0": tensor for name, tensor in zip(self._groups, flat, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """This rank's AdamW state and step count, for `load_state` at the same world size and stage.

        Weights are not in it; save them through `full_parameters`.
        """
        state = {"steps": torch.tensor(self._steps)}
        for key, master in self._masters().items():
            for name, value in self._optimizer.state.get(master, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().clone()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned, bit for bit.

        Raises:
            ValueError: the state is of another model, world size or ZeRO stage.
        """
        masters = self._masters()
        restored: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name == "steps":
                continue
            key, _, field = name.rpartition(".")
            if key not in masters or (tensor.ndim and tensor.shape != masters[key].shape):
                raise ValueError(
                    f"optimizer state {name} {tuple(tensor.shape)} does not fit this learner: "
                    "it was saved with another model, LoRA rank, world size or ZeRO stage"
                )
            restored.setdefault(key, {})[field] = tensor.to(masters[key].device).clone()
        if int(state["steps"]) and restored.keys() != masters.keys():
            raise ValueError(f"optimizer state lacks {sorted(masters.keys() - restored.keys())}")
        self._steps = int(state["steps"])
        for key, master in masters.items():
            self._optimizer.state.pop(master, None)
            if key in restored:
                self._optimizer.state[master] = restored[key]

    def close(self) -> None:
        """Frees DeepSpeed's hooks and buffers; the process group stays."""
        self._engine.destroy()


def build_engine(
    module: nn.Module,
    groups: Sequence[ParameterGroup],
    settings: EngineSettings | None = None,
    rank: Rank | None = None,
) -> Engine:
    """Wraps `module` for training.

    Raises:
        ValueError: a trainable parameter is in no group, a frozen one is in a group, or a
            trainable one is not float32.
    """
    return Engine(module, groups, settings or EngineSettings(), rank or Rank())
