"""Whole dialogues with the hotelier by rule: outcomes, what pays and what does not, invariants."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
import scripted_agents as agents
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_agents import Agent, play

from repo_ray.config.dialogue import HotelierConfig
from repo_ray.negotiation import episodes
from repo_ray.negotiation.dialogue import context_of, system_message
from repo_ray.negotiation.episodes import Episode, ItemOutcome, Outcome, open_episode
from repo_ray.negotiation.pairs import turn_in
from repo_ray.negotiation.scenarios import Item, Scenario
from repo_ray.negotiation.situations import FINAL, State
from repo_ray.records import Message

SEEDS = 60


def started(seed: int = 0, max_turns: int = 8) -> Episode:
    return open_episode(seed, "train", HotelierConfig(), max_turns)


def say(episode: Episode, *replies: str) -> Episode:
    for reply in replies:
        asyncio.run(episode.answer(reply))
    return episode


@cache
def outcomes(agent: Agent) -> list[Outcome]:
    return [play(agent, seed).outcome() for seed in range(SEEDS)]


def conceded(outcome: Outcome) -> float:
    """Share of the way to the reservation price that was offered, accepted or not."""
    return fmean(
        0.0 if i.quote is None else (i.opening - i.quote) / (i.opening - i.reservation)
        for i in outcome.items
    )


# --- one course of events ------------------------------------------------------------------


def test_the_same_seed_and_replies_give_the_same_dialogue() -> None:
    for seed in range(12):
        one, two = play(agents.good, seed), play(agents.good, seed)
        assert one.chat == two.chat
        assert one.outcome() == two.outcome()
    openings = {started(seed).chat[0].content for seed in range(30)}
    assert len(openings) > 8
    assert started(1).state.scenario != open_episode(1, "heldout", HotelierConfig()).state.scenario


def test_prompt_and_hidden_truth_have_the_format_of_the_data() -> None:
    row = turn_in("interest", "train", Random(1))
    for seed in range(10):
        episode = started(seed)
        while not episode.over:
            prompt, hidden = episode.prompt(), episode.hidden()
            assert prompt.prompt_id == episode.prompt_id == f"episode-{seed}"
            assert prompt.messages[0] == system_message(episode.state)
            assert [m.role for m in prompt.messages[1:]] == ["user", "assistant"] * (
                episode.turns
            ) + ["user"]
            assert set(prompt.context) == set(context_of(row.state))
            assert set(hidden) == set(row.hidden)
            for ticket, quote in prompt.context["quotes"].items():
                assert quote >= hidden["reservation_price"][ticket]
            assert json.loads(json.dumps([prompt.context, hidden])) == [prompt.context, hidden]
            say(episode, agents.good(episode.state, Random(seed), frozenset()))


def test_a_conversation_only_grows() -> None:
    episode = started(3)
    before = episode.prompt().messages[1:]
    while not episode.over:
        say(episode, agents.good(episode.state, Random(4), frozenset()))
        after = episode.prompt().messages[1:]
        assert after[: len(before)] == before
        before = after


def test_consent_means_that_nothing_is_left_to_ask_for() -> None:
    consents = 0
    for seed in range(SEEDS):
        episode = started(seed)
        rng = Random(seed)
        while not episode.over:
            if episode.hidden()["consents"]:
                consents += 1
                limits = {i.ticket: i.mandate for i in episode.state.open_items}
                assert all(episode.state.quotes[t] <= limit for t, limit in limits.items())
            say(episode, agents.good(episode.state, rng, frozenset()))
    assert consents > 20


def test_no_reply_is_taken_after_the_end_and_no_turns_are_refused() -> None:
    episode = say(started(max_turns=1), "Hello, who decides on prices?")
    assert (episode.over, episode.ending, episode.turns) == (True, "turns", 1)
    assert len(episode.chat) == 2
    with pytest.raises(RuntimeError, match=r"episode-0 is over \(turns\)"):
        say(episode, "Hello?")
    with pytest.raises(ValueError, match="max_turns must be at least 1, not 0"):
        started(max_turns=0)


def test_held_out_episodes_use_wording_that_training_never_sees() -> None:
    families = {
        split: frozenset().union(*(play(agents.good, s, split).families for s in range(40)))
        for split in ("train", "heldout")
    }
    assert min(map(len, families.values())) > 20
    assert not families["train"] & families["heldout"]


def test_the_hotelier_shares_nothing_with_rewards_or_evaluation() -> None:
    folder = Path(episodes.__file__).parent
    for path in [folder / "episodes.py", *(folder / "hotelier").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(
                    ("repo_ray.rewards", "repo_ray.evaluation")
                ), path
            elif isinstance(node, ast.Import):
                assert not any(a.name.startswith("repo_ray") for a in node.names), path


# --- accepting, leaving, closing -----------------------------------------------------------


def on_the_table(quotes: dict[str, int], situation: str, tickets: int = 1) -> Episode:
    """An episode of one or two tickets with these quotes.

    T1 sells at 468, elsewhere 439, net 410, target 375, mandate 392, lowest 370.
    T2 sells at 352, elsewhere 330, net 308, target 280, mandate 292, lowest 280.
    """
    items = (
        Item("T1", "Deluxe King", 468, 410, 439, 375, 392),
        Item("T2", "Standard Twin", 352, 308, 330, 280, 292),
    )[:tickets]
    lowest = {"T1": 370, "T2": 280}
    scenario = Scenario(
        city="Hangzhou",
        hotel="Willow Court Hotel",
        hotel_type="business",
        check_in="2026-03-04",
        items=items,
        persona="friendly",
        intent="bargaining",
        patience=4,
        reservation_price={i.ticket: lowest[i.ticket] for i in items},
    )
    episode = started()
    episode.state = State(scenario, situation, quotes)
    episode.mind = replace(
        episode.mind,
        trust=0.7,
        patience=4,
        first_patience=4,
        agenda=(),
        decides=True,
        floors=dict(scenario.reservation_price),
    )
    episode.chat = (Message("user", "so?"),)
    return episode


def test_an_accepted_quote_settles_the_ticket_and_the_next_reply_ends_the_dialogue() -> None:
    episode = say(on_the_table({"T1": 380}, "quote_middle"), "We accept a net price of 380.")
    assert episode.state.agreed == ("T1",)
    assert episode.state.situation == "settled"
    assert not episode.over
    say(episode, "Everything is settled, thank you.")
    assert episode.ending == "agreed"


def test_outcome_of_a_settled_dialogue_by_hand() -> None:
    episode = say(
        on_the_table({"T1": 380, "T2": 287}, "quote_middle", tickets=2),
        "We accept a net price of 380 for the Deluxe King.",
    )
    assert episode.state.agreed == ("T1",)
    outcome = episode.outcome()
    assert outcome.items[0] == ItemOutcome("T1", 468, 375, 392, 370, 410, 380, 380)
    assert outcome.items[0].reduction == pytest.approx(30 / 40)
    assert outcome.items[0].margin == pytest.approx(10 / 380)
    assert outcome.items[1] == ItemOutcome("T2", 352, 280, 292, 280, 308, 287, None)
    assert outcome.items[1].reduction == 0
    assert outcome.items[1].margin is None
    assert not outcome.agreed
    assert outcome.attainable
    assert outcome.reduction == pytest.approx(0.375)
    assert outcome.margin == pytest.approx(10 / 380)
    trust, patience = episode.mind.trust, episode.mind.patience
    assert patience == 4
    # Of the room of 40 on T1 the hotel keeps 10, of that on T2 nothing.
    assert outcome.satisfaction == pytest.approx(0.4 * trust + 0.3 + 0.3 * 0.25 / 2)


def test_a_price_over_the_mandate_binds_nobody_and_is_counted() -> None:
    episode = say(on_the_table({"T1": 400}, "quote_high"), "Deal, we accept 400.")
    assert episode.state.agreed == ()
    assert episode.outcome().mandate_violations == 1
    assert episode.mind.patience == 3
    say(episode, "Could you do 395 for the Deluxe King?", "We accept 385.")
    assert episode.outcome().mandate_violations == 2


@pytest.mark.parametrize(
    "reply",
    ["Thank you for agreeing to 375, I will update it.", "Everything is settled, thank you."],
)
def test_consent_that_was_not_given_is_disputed(reply: str) -> None:
    episode = on_the_table({}, "silence")
    trust = episode.mind.trust
    say(episode, reply)
    assert episode.state.agreed == ()
    assert episode.mind.trust == pytest.approx(trust - 0.2)
    assert episode.mind.patience == 3
    assert not episode.over


def test_an_ask_that_the_hotelier_would_grant_is_granted_at_that_price() -> None:
    episode = on_the_table({"T1": 390}, "quote_middle")
    episode.mind = replace(episode.mind, goodwill=1.0, moved={"T1": 0.9})
    say(episode, "I appreciate your time. Could you do 388 for the Deluxe King?")
    assert episode.state.quotes == {"T1": 388}
    assert episode.state.situation == "agree"
    assert episode.hidden()["consents"] is False  # within the mandate, over the target


def test_the_agent_may_hand_over_and_a_refusal_ends_the_dialogue() -> None:
    episode = on_the_table({"T1": 400}, "quote_high")
    assert say(episode, "I will ask a colleague to contact you.").ending == "left"
    for situation in FINAL:
        episode = on_the_table({"T1": 400}, situation)
        assert say(episode, "Could you do 375?").ending == "refused"
    assert say(on_the_table({"T1": 380}, "refuse"), "Then we accept 380.").ending == "open"


def test_silence_is_answered_by_asking_not_by_pressing() -> None:
    def after(reply: str) -> Episode:
        episode = on_the_table({}, "silence")
        episode.mind = replace(episode.mind, concern="silence")
        return say(episode, reply)

    asked = after("No rush, I understand this needs thought. Would 375 be possible for you?")
    assert asked.state.situation not in ("silence", "vague")
    assert asked.state.quotes
    ignored = after("The Deluxe King is 468 with us and 439 elsewhere.")
    assert ignored.state.situation == "silence"
    assert not ignored.state.quotes


def test_pushing_on_the_last_word_ends_in_refusal() -> None:
    episode = on_the_table({"T1": 370}, "hold")
    episode.mind = replace(episode.mind, goodwill=2.0, moved={"T1": 1.0})
    say(episode, "I appreciate that. Could you go to 360?")
    assert episode.state.quotes == {"T1": 370}
    say(episode, "Thank you. Is 362 possible for these dates?")
    assert episode.state.situation == "refuse"


# --- what pays -----------------------------------------------------------------------------


def test_a_good_agent_agrees_in_most_episodes() -> None:
    found = outcomes(agents.good)
    attainable = [o for o in found if o.attainable]
    assert fmean(o.agreed for o in found) > 0.7
    assert fmean(o.agreed for o in attainable) > 0.9
    assert 0.6 < fmean(o.reduction for o in attainable) < 0.95
    assert sum(o.mandate_violations for o in found) == 0
    assert not any(o.agreed for o in found if not o.attainable)


def test_reasons_and_kind_words_are_worth_more_than_the_right_action_alone() -> None:
    good, terse = outcomes(agents.good), outcomes(agents.terse)
    assert fmean(map(conceded, good)) > fmean(map(conceded, terse)) + 0.2
    assert fmean(o.satisfaction for o in good) > fmean(o.satisfaction for o in terse)
    assert fmean(map(conceded, terse)) > 0.1


BAD: Sequence[Agent] = (
    agents.pushy,
    agents.promising,
    agents.misinformed,
    agents.evidence_only,
    agents.flattering,
    agents.empty,
    agents.same_again,
    agents.babbling,
    agents.shuffled,
    agents.listing,
    agents.everything,
)


@pytest.mark.parametrize("agent", BAD, ids=lambda a: a.__name__)
def test_bad_and_cheating_agents_get_less_than_a_terse_one(agent: Agent) -> None:
    """They concede less than half of what plain asking brings, and agree a third as often."""
    found, terse = outcomes(agent), outcomes(agents.terse)
    assert fmean(map(conceded, found)) < 0.5 * fmean(map(conceded, terse))
    assert fmean(o.agreed for o in found) < fmean(o.agreed for o in terse) / 3
    assert fmean(o.satisfaction for o in found) < fmean(
        o.satisfaction for o in outcomes(agents.good)
    )


@pytest.mark.parametrize(
    "agent",
    [
        agents.pushy,
        agents.promising,
        agents.misinformed,
        agents.flattering,
        agents.empty,
        agents.babbling,
        agents.listing,
        agents.everything,
    ],
    ids=lambda a: a.__name__,
)
def test_one_bad_reply_among_good_ones_costs(agent: Agent) -> None:
    """The first reply to `interest` is bad, all others are good: compared pair by pair."""

    def once(seed: int) -> Outcome:
        used = False

        def mixed(state: State, rng: Random, said: frozenset[str]) -> str:
            nonlocal used
            if not used and state.situation == "interest":
                used = True
                return agent(state, rng, said)
            return agents.good(state, rng, said)

        return play(mixed, seed).outcome()

    pairs = list(zip(map(once, range(SEEDS)), outcomes(agents.good), strict=True))
    changed = [(bad, fine) for bad, fine in pairs if bad != fine]
    assert len(changed) > SEEDS / 3
    assert fmean(b.satisfaction - f.satisfaction for b, f in changed) < -0.03
    assert fmean(conceded(b) - conceded(f) for b, f in changed) < 0.02


# --- whatever is said ----------------------------------------------------------------------

_PHRASES = st.sampled_from(
    [
        "Deal, we accept {q}.",
        "We accept {m} for T1.",
        "Could you do {t}?",
        "Could you go to 1 yuan for the Deluxe King?",
        "Could you lower it by 99999%?",
        "I can go up to {m}.",
        "You must lower it now.",
        "We guarantee that you sell out.",
        "Everything is settled.",
        "I will hand this over to a colleague.",
        "Thank you for agreeing to {t}.",
        "I understand, costs weigh on you. The room is {c} elsewhere.",
        "T1 T2 T3 <|im_end|> [INST] 1,234,567,890 ¥¥ 0.0 -5 1e9",
        "",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    max_turns=st.integers(1, 9),
    replies=st.lists(
        st.one_of(_PHRASES, st.text(max_size=80), st.lists(_PHRASES, max_size=5).map(" ".join)),
        min_size=9,
        max_size=9,
    ),
)
def test_invariants_hold_whatever_the_agent_says(
    seed: int, max_turns: int, replies: list[str]
) -> None:
    episode = started(seed, max_turns)
    quotes: dict[str, int] = {}
    for reply in replies:
        if episode.over:
            break
        first = episode.state.open_items[0] if episode.state.open_items else None
        if first is not None and "{" in reply:
            known = {
                "{q}": episode.state.quotes.get(first.ticket, first.net_price),
                "{m}": first.mandate + 3,
                "{t}": first.target_price,
                "{c}": first.competitor_price,
            }
            for slot, value in known.items():
                reply = reply.replace(slot, str(value))
        say(episode, reply)
        items = {i.ticket: i for i in episode.state.scenario.items}
        for ticket, quote in episode.state.quotes.items():
            lowest = episode.state.scenario.reservation_price[ticket]
            assert lowest <= quote <= quotes.get(ticket, items[ticket].net_price)
        quotes = dict(episode.state.quotes)
        assert set(episode.state.agreed) <= set(quotes)
        assert len(set(episode.state.agreed)) == len(episode.state.agreed)
        assert all(quotes[t] <= items[t].mandate for t in episode.state.agreed)
        assert episode.chat[-1].content.strip() or episode.over
        outcome = episode.outcome()
        assert 0 <= outcome.satisfaction <= 1
        assert 0 <= outcome.reduction <= 1
        assert json.loads(json.dumps(asdict(outcome)))["turns"] == episode.turns
    assert episode.turns <= max_turns
    assert episode.over or episode.turns == len(replies)
