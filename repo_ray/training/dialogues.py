"""Whole dialogues through the rollout pool: the agent samples, the hotelier answers, and so on.

A dialogue is one sequence of tokens that only grows. What the agent sampled is kept as it is;
between two replies come the chat template's own tokens, the facts where they have changed (as
another system message) and the hotelier's message. The engine samples each reply to exactly the
tokens that the learner will see before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from statistics import fmean
from typing import Any, Literal, Protocol

from repo_ray.config.dialogue import DialogueConfig
from repo_ray.models.chat import encode_next_turn
from repo_ray.negotiation.episodes import open_episode
from repo_ray.records import Experience, FinishReason, Message, Prompt, Reward, Rollout, Score, Turn

#: Token ids of a conversation up to where the reply begins.
Encode = Callable[[Prompt], list[int]]
#: Samples the reply of a turn (from 1) to the token ids before it.
SampleTurn = Callable[[int, list[int]], Awaitable[Rollout]]

#: Seeds of training episodes: far more than episodes, so that none comes twice.
SEED_BITS = 48


class Episode(Protocol):
    """One negotiation. Its chat only grows: two messages, reply and answer, per turn. Facts, in
    the system message and the context, may change."""

    @property
    def prompt_id(self) -> str: ...

    def prompt(self) -> Prompt:
        """Today's facts and the conversation so far, which ends with the hotelier."""
        ...

    def hidden(self) -> dict[str, Any]:
        """The truth of this moment. Only evaluation reads it."""
        ...

    async def answer(self, reply: str) -> bool:
        """Takes the agent's reply and adds the hotelier's answer; true: the dialogue is over."""
        ...

    def outcome(self) -> Any:
        """How it stands or ended: a dataclass of JSON values. Only evaluation reads it."""
        ...


@dataclass(frozen=True)
class Played:
    """What the agent had and sampled at each turn. `cut`: the context had no room for more."""

    prompts: tuple[Prompt, ...]
    rollouts: tuple[Rollout, ...]
    cut: bool


@dataclass(frozen=True)
class NegotiationTurn:
    """One turn for evaluation; `hidden` is the truth before the reply, `tokens` its length."""

    prompt: Prompt
    hidden: Mapping[str, Any]
    reply: str
    finish_reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class Negotiation:
    """One whole dialogue for evaluation; `outcome` is the episode's at its end."""

    episode_seed: int
    prompt_id: str
    turns: tuple[NegotiationTurn, ...]
    outcome: Any


async def play(
    episode: Episode,
    sample: SampleTurn,
    encode: Encode,
    max_turns: int,
    max_prompt_tokens: int,
    on_reply: Callable[[Prompt, str], None] = lambda prompt, reply: None,
) -> Played:
    """Plays one episode to its end, `max_turns` replies, or as long as the context has room:
    a turn begins only if the tokens before it are `max_prompt_tokens` at most.

    `on_reply(prompt, reply)` is told of each reply before the hotelier hears it. A reply that was
    cut by the length limit is closed by the template's end of turn, which the loss never counts.
    Raises ValueError if the episode rewrites what was said, and what `sample` and `episode` raise.
    """
    prompt = episode.prompt()
    view = prompt.messages
    tokens = encode(prompt)
    prompts: list[Prompt] = []
    rollouts: list[Rollout] = []
    while True:
        rollout = await sample(len(rollouts) + 1, tokens)
        prompts.append(prompt)
        rollouts.append(rollout)
        on_reply(prompt, rollout.text)
        over = await episode.answer(rollout.text)
        if over or len(rollouts) == max_turns:
            return Played(tuple(prompts), tuple(rollouts), cut=False)
        (facts, said), prompt = _split(prompt), episode.prompt()
        new_facts, chat = _split(prompt)
        if chat[:-2] != said:
            raise ValueError(
                f"episode {episode.prompt_id}: turn {len(rollouts)} must add a reply and an answer "
                f"to its {len(said)} messages and leave them as they are"
            )
        view = (*view, chat[-2], *(new_facts if new_facts != facts else ()), chat[-1])
        between = encode_next_turn(encode, replace(prompt, messages=view))
        if rollout.token_ids[-1:] == tuple(between[:1]):
            between = between[1:]  # the agent ended its turn itself
        tokens = [*tokens, *rollout.token_ids, *between]
        if len(tokens) > max_prompt_tokens:
            return Played(tuple(prompts), tuple(rollouts), cut=True)


def _split(prompt: Prompt) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system messages and the chat."""
    facts = tuple(m for m in prompt.messages if m.role == "system")
    return facts, tuple(m for m in prompt.messages if m.role != "system")


async def negotiate(
    seed: int,
    episode: Episode,
    sample: SampleTurn,
    encode: Encode,
    max_turns: int,
    max_prompt_tokens: int,
) -> Negotiation:
    """Plays the episode opened with `seed` for evaluation: with hidden truth and outcome."""
    hidden: list[dict[str, Any]] = []
    played = await play(
        episode,
        sample,
        encode,
        max_turns,
        max_prompt_tokens,
        lambda prompt, reply: hidden.append(episode.hidden()),
    )
    turns = tuple(
        NegotiationTurn(p, h, r.text, r.finish_reason, len(r.token_ids))
        for p, h, r in zip(played.prompts, hidden, played.rollouts, strict=True)
    )
    return Negotiation(seed, episode.prompt_id, turns, episode.outcome())


def join(sample_id: str, played: Played) -> tuple[Rollout, list[int]]:
    """The dialogue as one rollout, and the index of each reply's last token in its response."""
    first, last = played.rollouts[0], played.rollouts[-1]
    opening = len(first.prompt_token_ids)
    mask: list[bool] = []
    logprobs: list[float] = []
    versions: list[int] = []
    ends: list[int] = []
    for rollout in played.rollouts:
        between = len(rollout.prompt_token_ids) - opening - len(mask)
        mask += [*([False] * between), *rollout.loss_mask]
        logprobs += [*([0.0] * between), *rollout.logprobs]
        versions += [*(rollout.versions[:1] * between), *rollout.versions]
        ends.append(len(mask) - 1)
    whole = Rollout(
        sample_id=sample_id,
        prompt_id=first.prompt_id,
        attempt=first.attempt,
        prompt_token_ids=first.prompt_token_ids,
        token_ids=(*last.prompt_token_ids[opening:], *last.token_ids),
        loss_mask=tuple(mask),
        logprobs=tuple(logprobs),
        versions=tuple(versions),
        finish_reason="length" if played.cut else last.finish_reason,
        text="\n".join(r.text for r in played.rollouts),
        engine=", ".join(dict.fromkeys(r.engine for r in played.rollouts)),
        latency_s=sum(r.latency_s for r in played.rollouts),
    )
    return whole, ends


def dialogue_experience(
    sample_id: str,
    played: Played,
    scores: Sequence[tuple[Score, ...]],
    rewards: Sequence[Reward],
    place: Literal["turn", "end"],
) -> Experience:
    """A scored dialogue. `place` puts each turn's reward on its own last token, or the mean of
    all on the dialogue's last (`config.dialogue.DialogueConfig.reward`)."""
    rollout, ends = join(sample_id, played)
    mean = Reward(**{f.name: fmean(getattr(r, f.name) for r in rewards) for f in fields(Reward)})
    if place == "turn":
        placed = tuple(zip(ends, (r.total for r in rewards), strict=True))
    else:
        placed = ((ends[-1], mean.total),)
    return Experience(
        prompt=played.prompts[0],
        rollout=rollout,
        scores=tuple(score for turn in scores for score in turn),
        reward=mean,
        token_rewards=placed,
        turns=tuple(
            Turn(prompt, r.text, r.finish_reason, end, turn_scores, reward)
            for prompt, r, end, turn_scores, reward in zip(
                played.prompts, played.rollouts, ends, scores, rewards, strict=True
            )
        ),
    )


class Episodes:
    """The training episodes of a run, functions of run seed and position alone.

    Their openings take the places of the training prompts in the schedule; `reopen` turns one
    back into its episode, so a retry or a resumed run plays the same negotiation.
    """

    def __init__(self, dialogue: DialogueConfig, run_seed: int) -> None:
        self.dialogue = dialogue
        self._run_seed = run_seed

    def openings(self, count: int) -> list[Prompt]:
        """The openings of `count` episodes; their ids end with the episode's seed."""
        seeds = Random(f"{self._run_seed}/episodes")
        return [self._open(seeds.getrandbits(SEED_BITS)).prompt() for _ in range(count)]

    def reopen(self, opening: Prompt) -> Episode:
        """The episode of an opening, from its beginning."""
        return self._open(int(opening.prompt_id.rpartition("-")[2]))

    def _open(self, seed: int) -> Episode:
        return open_episode(seed, "train", self.dialogue.hotelier, self.dialogue.max_turns)
