"""The policy and, where there is one, the value network: adapters on one frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import add_adapters, computing
from repo_ray.models.heads import ValueHead
from repo_ray.models.logprobs import LogprobHead

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
class SequenceBatch:
    """Prompts with responses, padded on the right to one length.

    `states` [N] indexes, in the flattened [B * T] positions, the state before each response
    token, row by row; `targets` [N] are those tokens; `ends` [B] index the state after the last.
    """

    input_ids: Int[Tensor, "b t"]
    states: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    ends: Int[Tensor, " b"]

    @classmethod
    def of(cls, samples: Sequence[TokenSequence], device: torch.device) -> SequenceBatch:
        """Raises ValueError for an empty prompt: its first response token would have no state."""
        length = max(len(s.prompt_token_ids) + len(s.token_ids) for s in samples)
        ids = torch.zeros(len(samples), length, dtype=torch.long)
        states: list[Tensor] = []
        targets: list[int] = []
        ends: list[int] = []
        for row, sample in enumerate(samples):
            prompt, response = len(sample.prompt_token_ids), len(sample.token_ids)
            if prompt == 0:
                raise ValueError(f"sample {row} of the batch has an empty prompt")
            tokens = [*sample.prompt_token_ids, *sample.token_ids]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            first = row * length + prompt - 1
            states.append(torch.arange(first, first + response))
            targets.extend(sample.token_ids)
            ends.append(first + response)
        return cls(
            ids.to(device),
            torch.cat(states).to(device),
            torch.tensor(targets, dtype=torch.long, device=device),
            torch.tensor(ends, device=device),
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
            # Causal attention and padding on the right: real tokens never see padding, so no
            # mask is needed, and attention kernels are free to use their causal fast path.
            decoder = cast(PreTrainedModel, self.model.get_base_model()).base_model
            embedding = cast(PreTrainedModel, decoder).get_input_embeddings()
            embedded: Tensor = embedding(batch.input_ids)
            if self._compiled and torch.is_grad_enabled():
                embedded.requires_grad_()  # so that the first layer is compiled like the others
            hidden: Float[Tensor, "b t h"] = decoder(
                inputs_embeds=embedded, use_cache=False
            ).last_hidden_state
            # Flat rows: a 3-D product with the vocabulary matrix copies, and only response
            # positions are worth it.
            flat = hidden.flatten(0, 1)
            if role == VALUE:
                head = cast(ValueHead, self.value_head)  # with the adapter, there is a head
                return head(flat[batch.states]), head(flat[batch.ends])
            return self.logprob_head(flat[batch.states], batch.targets)
