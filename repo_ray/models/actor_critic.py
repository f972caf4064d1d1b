"""The policy and, where there is one, the value network: adapters on one frozen base."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import add_adapters, computing
from repo_ray.models.heads import ValueHead
from repo_ray.models.logprobs import LogprobHead
from repo_ray.models.packing import PackedBatch, hidden_states, pack, prefix_tree

POLICY: Final = "policy"
VALUE: Final = "value"
Role = Literal["policy", "value", "base"]


class TokenSequence(Protocol):
    """A prompt and a response, such as a `Rollout`."""

    @property
    def prompt_token_ids(self) -> Sequence[int]: ...

    @property
    def token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class PromptReply:
    """The plainest `TokenSequence`: nothing but the tokens."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]


@dataclass(frozen=True)
class SequenceBatch:
    """B prompts with responses, packed, so that what they have in common is computed once.

    `states` [N] are the places, in the row, of the state before each response token, sample by
    sample; `targets` [N] are those tokens; `ends` [B] the places of the state after the last.
    """

    packed: PackedBatch
    states: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    ends: Int[Tensor, " b"]

    @classmethod
    def of(cls, samples: Sequence[TokenSequence], device: torch.device) -> SequenceBatch:
        """Raises ValueError for an empty prompt: its first response token would have no state."""
        tree, paths = prefix_tree([(*s.prompt_token_ids, *s.token_ids) for s in samples])
        firsts = list(itertools.accumulate((len(s.tokens) for s in tree), initial=0))
        states: list[int] = []
        targets: list[int] = []
        ends: list[int] = []
        for number, (sample, path) in enumerate(zip(samples, paths, strict=True)):
            if not sample.prompt_token_ids:
                raise ValueError(f"sample {number} of the batch has an empty prompt")
            places = [p for i in path for p in range(firsts[i], firsts[i + 1])]
            states.extend(places[len(sample.prompt_token_ids) - 1 : -1])
            targets.extend(sample.token_ids)
            ends.append(places[-1])
        return cls(
            pack([tree], device),
            *(torch.tensor(x, dtype=torch.long, device=device) for x in (states, targets, ends)),
        )


class ActorCritic(nn.Module):
    """Adapters `policy` and `value` on `base`, log-probabilities of the one, values of the other.

    Without a `critic` there is neither a value adapter nor a value head.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        lora: LoraShape,
        *,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
        critic: bool = True,
    ) -> None:
        super().__init__()
        self.value_head = ValueHead(base.config.hidden_size) if critic else None
        self.logprob_head = LogprobHead(
            base.get_output_embeddings(), temperature, chunk, entropy_gradient
        )
        self.model = add_adapters(base, [POLICY, VALUE] if critic else [POLICY], lora)
        self._compiled = False

    def compile_layers(self) -> None:
        """Has the decoder's layers and the head compiled when they are first used (torch.compile).

        All layers share their code, which takes any shape; there is one for each adapter, with
        and without gradients. Torch keeps it on disk for the next process.

        Raises:
            RuntimeError: on a CPU without a C++ compiler.
        """
        if self.logprob_head.weight.device.type == "cpu":
            # A second to import, in every process that knows of learners.
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler

            try:
                get_cpp_compiler()
            except InvalidCxxCompiler as error:
                raise RuntimeError(
                    "learner.compile needs a C++ compiler on the CPU (Debian, Ubuntu: apt install "
                    "g++); install one or set learner.compile to false"
                ) from error
        decoder = cast(PreTrainedModel, self.model.get_base_model()).base_model
        for layer in cast(nn.ModuleList, decoder.layers):
            layer.compile(dynamic=True)
        self.logprob_head.compile_distribution()
        self._compiled = True

    def forward(self, batch: SequenceBatch, role: Role) -> tuple[Tensor, Tensor]:
        """One pass of the decoder.

        Returns:
            `policy` and `base` (adapters off): log-probabilities [N] and entropies [N] (nats,
            after temperature) of the response tokens. `value`: values [N] of the states before
            each response token, and [B] of the state after the last.

        Raises:
            KeyError: `value` of a network without a critic.
        """
        with computing(self.model, None if role == "base" else role):
            decoder = cast(PreTrainedModel, self.model.get_base_model()).base_model
            # A first layer whose inputs want no gradient would be compiled once more than the others.
            inputs = self._compiled and torch.is_grad_enabled()
            hidden = hidden_states(decoder, batch.packed, differentiate_inputs=inputs)
            if role == VALUE:
                head = cast(ValueHead, self.value_head)  # with the adapter, there is a head
                return head(hidden[batch.states]), head(hidden[batch.ends])
            return self.logprob_head(hidden[batch.states], batch.targets)
