"""Every built-in rule: replies it must catch and replies it must let pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_ray.records import Message, Prompt
from repo_ray.rewards.rules import load_rules

RULES = load_rules()
KING = {
    "ticket": "T1",
    "room": "Deluxe King",
    "selling_price": 468,
    "net_price": 410,
    "competitor_price": 439,
    "target_price": 380,
    "mandate": 395,
}
TWIN = {
    "ticket": "T2",
    "room": "Garden Twin",
    "selling_price": 368,
    "net_price": 320,
    "competitor_price": 345,
    "target_price": 300,
    "mandate": 312,
}
FIRM = "Our price is already very low."


def negotiation(
    last: str = FIRM,
    *,
    stage: str = "ask",
    items: Sequence[Mapping[str, Any]] = (KING,),
    quotes: Mapping[str, int] | None = None,
    agreed: Sequence[str] = (),
    earlier: Sequence[Message] = (),
) -> Prompt:
    """A negotiation that waits for the agent's reply to `last`."""
    context = {
        "stage": stage,
        "items": list(items),
        "quotes": dict(quotes or {}),
        "agreed": list(agreed),
    }
    messages = (Message("system", "You ask hotels."), *earlier, Message("user", last))
    return Prompt("p", messages, context)


def hits(rule_id: str, reply: str, prompt: Prompt) -> bool:
    score = RULES.score(prompt, reply)
    assert score.valid, score.error
    return rule_id in score.detail


ASK = negotiation()
QUOTED_HIGH = negotiation("405, take it or leave it.", quotes={"T1": 405})
QUOTED_MIDDLE = negotiation("I can do 390.", quotes={"T1": 390})
QUOTED_LOW = negotiation("Fine, 375 then.", quotes={"T1": 375})
TWO = negotiation(
    "380 and 300, fine.", stage="confirm", items=(KING, TWIN), quotes={"T1": 380, "T2": 300}
)
TWO_ONE_AGREED = negotiation(
    "300 for the other.",
    stage="confirm",
    items=(KING, TWIN),
    quotes={"T1": 380, "T2": 300},
    agreed=["T1"],
)
SETTLED = negotiation("Good.", stage="close", quotes={"T1": 380}, agreed=["T1"])
SILENT = negotiation("...")
VAGUE = negotiation("Hmm, let me think about it.")
CLEAR = negotiation("Yes, agreed, 380 it is.", quotes={"T1": 380})
HISTORY = negotiation(
    earlier=(
        Message("user", "Hello?"),
        Message(
            "assistant",
            "Guests see 439 elsewhere, so could you lower the net price to 380, please?",
        ),
    )
)

CASES: dict[str, tuple[list[tuple[str, Prompt]], list[tuple[str, Prompt]]]] = {
    "number_not_in_context": (
        [
            ("Guests see 431 elsewhere, could you do 380?", ASK),
            ("Guests see 388 elsewhere, could you help?", ASK),  # in range, but no proposal of ours
            ("The net price today is ¥412 per night.", ASK),
            ("Could you lower it to 350?", ASK),  # below target: nobody named it
            ("Would three hundred and forty work for you?", ASK),
            ("That is 35 yuan more than elsewhere.", ASK),
            ("We pay 1,410 yuan now.", ASK),
        ],
        [
            ("Guests see 439 elsewhere against 468 here. Could you do 380?", ASK),
            ("That is a gap of 29 yuan, so could you lower 410 to 380?", ASK),
            ("Even a small step, say 388 net, would help us both.", ASK),
            ("Could you meet us at 388?", ASK),  # a concession between target and mandate
            ("Would three hundred and eighty work for you?", ASK),
            ("On 14 March 2026 at 14:00, 3 nights, 12% fewer guests, 2026-03-14, room #512.", ASK),
            ("We had 120 bookings and 300 views in the last 90 days.", ASK),
            ("You said 405, which is still high.", QUOTED_HIGH),
            ("You mentioned 402 before.", negotiation("It was 402 last year.")),
            ("We need 999.", Prompt("p", (Message("user", "Hello"),), {"topic": "other"})),
        ],
    ),
    "price_outside_mandate": (
        [
            ("We accept 405 for the Deluxe King, thank you.", QUOTED_HIGH),
            ("That works for us, thank you very much.", QUOTED_HIGH),
            ("Deal, I will record it now.", QUOTED_HIGH),
            ("OK, 405 it is, thank you.", QUOTED_HIGH),
            ("Fine, 405 is okay, I'll update the system.", QUOTED_HIGH),
            ("Sure, we'll take 405.", QUOTED_HIGH),
            ("We can pay 410 per night.", ASK),
            ("Could we settle at 400 for now?", ASK),
            ("We agree to 320 for T2.", TWO),
            ("Could you do 380 for the King and 320 for the Twin?", TWO),
            ("We suggest a net price of 439, could you consider it?", ASK),
            ("Could you come a little closer, from 410 to 405?", QUOTED_HIGH),
        ],
        [
            ("We accept 390, thank you.", QUOTED_MIDDLE),
            ("We cannot accept 405; could you do 390?", QUOTED_HIGH),
            ("I see that you offer 405, could you come down to 380?", QUOTED_HIGH),
            ("405 is too high for us, would 390 work?", QUOTED_HIGH),
            ("We confirm 380, which keeps you below the 439 guests see elsewhere.", ASK),
            ("Could you confirm whether 405 is your best?", QUOTED_HIGH),
            ("We agree to 300 for T2.", TWO),
            ("I can confirm that the net price is 410 today.", ASK),
            ("I've been looking at your King: we list it at 468 while others have 439.", ASK),
            ("With others at 439, could you bring the net rate down from 410 to 380?", ASK),
            ("I agree, 405 shows good will, and I take your point on costs.", QUOTED_HIGH),
            ("405 would work for us if breakfast were included.", QUOTED_HIGH),
        ],
    ),
    "price_misattributed": (
        [
            ("Could you do 380 for the King and 380 for the Twin?", TWO),
            ("We agree to 439 for T2.", TWO),
            ("Guests see 468 elsewhere.", ASK),
            ("It is 439 with us and 468 on other platforms.", ASK),
        ],
        [
            ("Could you do 380 for the King and 300 for the Twin?", TWO),
            ("Could you do 390 for the King and 305 for the Twin?", TWO),
            ("It is 468 with us and 439 elsewhere.", ASK),
            ("Other sites have the King at 439 and our page has it at 468.", ASK),
            ("Other platforms list the King at 439 while ours is 468.", ASK),
        ],
    ),
    "pursues_settled_price": (
        [
            ("Could you still lower it to 370 for us?", SETTLED),
            ("Could you move from 380 to 370 for the King?", TWO_ONE_AGREED),
        ],
        [
            ("The price of 380 is in place, thank you.", SETTLED),
            ("Could you confirm 380 once more?", SETTLED),
            ("Could you do 295 for the Twin?", TWO_ONE_AGREED),
        ],
    ),
    "selling_net_confusion": (
        [
            ("The net price of 468 is above others.", ASK),
            ("Guests see 410 on our platform now.", ASK),
            ("Could you lower your selling price to 380?", ASK),
            ("Competitors sell at 410, please help.", ASK),
        ],
        [
            ("The selling price is 468 and the net price is 410.", ASK),
            ("Guests see 439 elsewhere; could the net price move from 410 to 380?", ASK),
            ("With a net price of 380, guests see a better offer here.", ASK),
            ("Could you lower the net price so that our selling price can match 439?", ASK),
            (
                "Could you lower the net price to 380 to match the 439 that guests see elsewhere?",
                ASK,
            ),
        ],
    ),
    "accept_at_target_missed": (
        [
            ("Could you lower it a little more, say 370?", QUOTED_LOW),
            ("Thank you. Could you do 370 instead?", QUOTED_LOW),
            ("375 is still high for us.", QUOTED_LOW),
            ("Is 375 your best price?", QUOTED_LOW),
            ("Thanks for 375, but can you go down to 370?", QUOTED_LOW),
            ("I confirm 380 for the Deluxe King.", TWO),  # T2 is quoted at its target, too
        ],
        [
            ("Deal at 375, thank you very much.", QUOTED_LOW),
            ("That works for us, I will record 375 now.", QUOTED_LOW),
            ("Thanks, 375 it is. I'll update the rate now.", QUOTED_LOW),
            ("I'm noting 375 as the new net price, thank you!", QUOTED_LOW),
            ("Happy to accept 375, thank you.", QUOTED_LOW),
            ("Just to be sure: 375 for the Deluxe King, right?", QUOTED_LOW),
            ("So we note 375 for the King, could you confirm so that I can update it?", QUOTED_LOW),
            ("So that's 380 for the King and 300 for the Twin, thanks again!", TWO),
            ("Thank you! We'll confirm 375 for the Deluxe King.", QUOTED_LOW),
            ("I confirm 380 for the Deluxe King and 300 for the Garden Twin.", TWO),
            ("Could you do 380?", QUOTED_MIDDLE),
            ("Could you do 380?", ASK),
        ],
    ),
    "accept_at_target": (
        [
            ("Deal at 375, thank you very much.", QUOTED_LOW),
            ("I confirm 380 for the Deluxe King and 300 for the Garden Twin.", TWO),
        ],
        [
            ("Could you do 370 instead?", QUOTED_LOW),
            ("I confirm 380 for the Deluxe King.", TWO),
            ("Deal at 390, thank you.", QUOTED_MIDDLE),
        ],
    ),
    "cites_market_price": (
        [("Guests see 439 elsewhere for that room.", negotiation(stage="present_evidence"))],
        [
            ("Guests see 431 elsewhere for that room.", negotiation(stage="present_evidence")),
            ("Guests see 439 elsewhere for that room.", negotiation(stage="close")),
            ("Could you do 439 for us?", negotiation(stage="handle_objection")),
        ],
    ),
    "asks_concrete_price": (
        [("Could you lower the net price to 380?", ASK), ("How about 390?", ASK)],
        [
            ("Could you lower the net price?", ASK),
            ("Could you lower it to 350?", ASK),
            ("Could you do 380?", negotiation(stage="identify")),
        ],
    ),
    "consent_from_silence": (
        [
            ("Great, I'll record 380 then, thank you.", SILENT),
            ("Thank you for agreeing, the new price is live.", VAGUE),
            ("I will take that as a yes and move on.", VAGUE),
            ("As you have agreed, we close this now.", negotiation("", quotes={"T1": 390})),
            ("The price is in place, thank you.", negotiation("ok?")),
            ("Agreed, we confirm 380.", negotiation("mm...")),
            ("Perfect, confirmed at 380.", negotiation("Maybe later.")),
            ("Wonderful, I have updated the net price to 380.", VAGUE),
            ("We will go with 380 then.", negotiation("I'm not sure.")),
        ],
        [
            ("Take your time, shall I write again tomorrow?", SILENT),
            (
                "I take your point and I agree that costs are up. What would make 380 possible?",
                VAGUE,
            ),
            ("I note your concern and will set the figures aside for now.", VAGUE),
            ("Nothing is settled yet, so let us look at the figures again.", VAGUE),
            ("I can confirm that guests see 439 elsewhere.", VAGUE),
            ("380 would be good for us, what do you think?", negotiation("I'm not sure.")),
            ("I understand you want to think. May I ask what holds you back?", VAGUE),
            ("Great, I'll record 380 then, thank you.", CLEAR),
            ("Thank you for agreeing.", CLEAR),
            (
                "Everything is settled, nothing else is needed.",
                negotiation("hmm, ok?", quotes={"T1": 380}, agreed=["T1"]),
            ),
            ("We accept your 390 then.", negotiation("Hmm.", quotes={"T1": 390})),
            ("If you agree, I will record 380.", VAGUE),
        ],
    ),
    "ticket_missed": (
        [
            ("I confirm 380 for the Deluxe King, thank you.", TWO),
            ("Thank you, that settles everything.", negotiation(items=(KING, TWIN))),
            ("Could you do 380 for the Deluxe King?", negotiation(items=(KING, TWIN))),
        ],
        [
            ("I confirm 380 for the Deluxe King and 300 for the Garden Twin.", TWO),
            ("I confirm T1 and T2, thank you.", TWO),
            ("I confirm the King and the Twin, thank you.", TWO),
            ("I confirm 380 and 300, thank you.", TWO),
            ("I confirm both prices, thank you.", TWO),
            ("I confirm 300 for the Garden Twin.", TWO_ONE_AGREED),
            ("Guests compare prices more than ever.", negotiation(items=(KING, TWIN))),
            ("That settles everything, thank you.", negotiation(stage="close")),
        ],
    ),
    "repeated_script": (
        [
            ("Guests see 439 elsewhere, so could you lower the net price to 380, please?", HISTORY),
            ("Again: guests see 439 elsewhere, so could you lower the net price to 380?", HISTORY),
        ],
        [
            ("I understand that costs have gone up, yet 380 would bring more bookings.", HISTORY),
            ("Guests see 439 elsewhere, so could you lower the net price to 380, please?", ASK),
        ],
    ),
    "format_breakage": (
        [
            ("", ASK),
            ("  \n", ASK),
            ("**Dear hotel**, could you help?", ASK),
            ("# Offer\nCould you help?", ASK),
            ("- first\n- second", ASK),
            ("1. first\n2. second", ASK),
            ("```\nhello\n```", ASK),
            ('{"reply": "hello"}', ASK),
            ("[1, 2]", ASK),
            ("Assistant: could you help?", ASK),
            ("Dear [Hotel Manager], could you help?", ASK),
            ("Dear {name}, could you help?", ASK),
            ("Could you help?<|im_end|>", ASK),
            ("Could you help?<br>", ASK),
        ],
        [
            ("Good morning, could you lower the net price to 380, please?", ASK),
            ("It is simple: a lower price - even a little - brings more guests (I hope).", ASK),
            ("3 < 4, as they say.", ASK),
        ],
    ),
    "leaked_reasoning": (
        [
            ("<think>He is annoyed.</think> Could you help?", ASK),
            ("As an AI, I cannot decide.", ASK),
            ("Let me think about what to answer here.", ASK),
            ("The user wants a higher price.", ASK),
            ("Reasoning: the price must go down.", ASK),
            ("The hotelier sounds upset, so I should show empathy.", ASK),
        ],
        [("I think 380 would help us both.", ASK), ("What do you think about 380?", ASK)],
    ),
    "leaked_internal_terms": (
        [
            ("Our target price is 380.", ASK),
            ("My MANDATE ends at 395.", ASK),
            ("This work order must be closed.", ASK),
        ],
        [
            ("Could you lower the net price to 380?", ASK),
            ("It is not mandatory; we target families. Soporific, isn't it?", ASK),
        ],
    ),
    "forbidden_words": (
        [("We guarantee ten more bookings.", ASK), ("That is ridiculous!", ASK)],
        [("Nobody can guarantee more bookings.", ASK), ("We cannot promise more bookings.", ASK)],
    ),
    "mixed_language": (
        [
            ("Could you lower it, 好吗谢谢您?", ASK),
            ("Спасибо, thank you.", ASK),
            (
                "Could you please",
                negotiation(
                    "价格已经很低了，不能再降了，我们也没有利润，真的没有办法，请理解我们酒店的难处。"
                ),
            ),
        ],
        [
            ("Could you lower it, café owner?", ASK),
            ("¥380, ok? 👍", ASK),
            ("12345", ASK),
        ],
    ),
    "over_long": ([("word " * 61, ASK)], [("word " * 60, ASK)]),
    "too_short": ([("Could you help me?", ASK), ("", ASK)], [("Could you help me please?", ASK)]),
    "degenerate_repetition": (
        [
            ("please please please please", ASK),
            ("could you do it now " * 4, ASK),
        ],
        [
            ("No, no, no, I understand that costs are high.", ASK),
            ("I understand that costs are high, and that the season is slow for you.", ASK),
        ],
    ),
}


@pytest.mark.parametrize(
    ("rule_id", "reply", "prompt"),
    [(rule_id, reply, prompt) for rule_id, (bad, _) in CASES.items() for reply, prompt in bad],
)
def test_applies(rule_id: str, reply: str, prompt: Prompt) -> None:
    assert hits(rule_id, reply, prompt)


@pytest.mark.parametrize(
    ("rule_id", "reply", "prompt"),
    [(rule_id, reply, prompt) for rule_id, (_, good) in CASES.items() for reply, prompt in good],
)
def test_stays_quiet(rule_id: str, reply: str, prompt: Prompt) -> None:
    assert not hits(rule_id, reply, prompt)


def test_every_built_in_rule_has_cases() -> None:
    assert {r.rule.rule_id for r in RULES.rules} == set(CASES)


GOOD_REPLIES = [
    ("I understand that costs are up this season. Guests see 439 elsewhere against 468 here, so a net price of 380 would bring them back. Could you consider it?", ASK),
    ("That is kind of you, 375 works for us. I will record it for the Deluxe King right away, thank you.", QUOTED_LOW),
    ("Thank you for moving to 390. Since other sites show 439, could we meet at 385 for this season?", QUOTED_MIDDLE),
    ("I hear you, 405 is a step, yet it is beyond what I can accept. Would 390 be possible for the Deluxe King?", QUOTED_HIGH),
    ("No hurry at all. When you have had a moment to think, I would be glad to hear what you make of 380.", VAGUE),
    ("Thank you. I confirm 380 for the Deluxe King and 300 for the Garden Twin, effective from 2026-03-14.", TWO),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "prompt"), GOOD_REPLIES)
def test_good_replies_get_no_deduction(reply: str, prompt: Prompt) -> None:
    score = RULES.score(prompt, reply)
    assert [name for name, d in score.detail.items() if d.points < 0] == []


FORM = {
    "format_breakage",
    "leaked_reasoning",
    "leaked_internal_terms",
    "forbidden_words",
    "mixed_language",
    "over_long",
    "too_short",
    "degenerate_repetition",
    "repeated_script",
}
CONTEXTS: list[Any] = [
    {},
    {"topic": "other"},
    {"items": []},
    {"items": "none"},
    {"items": [1, "x", None]},
    {"items": [{"ticket": "T1", "net_price": "dear"}], "quotes": 3, "agreed": "T1"},
    {"items": [{}], "stage": None},
]


@pytest.mark.parametrize("context", CONTEXTS)
def test_without_negotiation_facts_only_form_is_judged(context: Any) -> None:
    prompt = Prompt("p", (Message("user", "..."),), context)
    reply = "As you agreed, we accept 999 for everything; all set, the net price is 777."
    assert set(RULES.score(prompt, reply).detail) <= FORM


@given(st.text(max_size=200), st.sampled_from([ASK, QUOTED_LOW, TWO, VAGUE, HISTORY]))
def test_no_text_breaks_a_rule(reply: str, prompt: Prompt) -> None:
    score = RULES.score(prompt, reply)
    assert score.valid, score.error
    assert score.value == sum(d.points for d in score.detail.values())


@given(st.text(alphabet="0123456789,.- ¥%yuanT#\n", max_size=60))
def test_no_digits_break_a_rule(reply: str) -> None:
    assert RULES.score(QUOTED_LOW, reply).valid
