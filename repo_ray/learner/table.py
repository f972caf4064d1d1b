"""One update's numbers per response token, and what of them is handed back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repo_ray.records import Experience


@dataclass(frozen=True)
class SampleUpdate:
    """One sample's part in an update, per response token [T]; columns of `TRAJECTORIES_SCHEMA`.

    `old_values`, `advantages` and `returns` are what the losses used. `new_logprobs` and
    `new_values` come from the pass whose loss was taken in the first epoch. Without a value
    network the values and the returns are empty lists.
    """

    sample_id: str
    proximal_logprobs: list[float]
    new_logprobs: list[float]
    old_values: list[float]
    new_values: list[float]
    advantages: list[float]
    returns: list[float]


@dataclass
class Table:
    """One update's per-token numbers, [B + 1, T] on the CPU, the same on every rank.

    0 where absent. `there` marks response tokens, `mask` those of them that the loss counts.
    The last row belongs to the filler (`learner.batching`).
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
    def of(cls, batch: Sequence[Experience]) -> Table:
        """Masks and behaviour log-probabilities of `batch`; everything else is 0 yet."""
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

    def put(self, column: Tensor, rows: Sequence[int], flat: Tensor) -> None:
        """Writes flat per-token values [N], row by row, into the given rows of `column`."""
        block = torch.zeros(len(rows), column.shape[1])
        block[self.there[rows]] = flat.detach().float().cpu()
        column[rows] = block

    def samples(self, batch: Sequence[Experience], critic: bool) -> list[SampleUpdate]:
        """The columns by sample, in the order of `batch`; those of the `critic` only with one."""

        def per_token(column: Tensor, row: int) -> list[float]:
            return column[row][self.there[row]].tolist()

        return [
            SampleUpdate(
                e.rollout.sample_id,
                proximal_logprobs=per_token(self.proximal, row),
                new_logprobs=per_token(self.new_logprobs, row),
                old_values=per_token(self.old_values, row) if critic else [],
                new_values=per_token(self.new_values, row) if critic else [],
                advantages=per_token(self.advantages, row),
                returns=per_token(self.returns, row) if critic else [],
            )
            for row, e in enumerate(batch)
        ]
