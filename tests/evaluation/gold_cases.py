"""Hand-written scenarios with good and bad replies for the gold evaluator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from repo_ray.records import Message

SYSTEM = (
    "You negotiate hotel rates for a travel platform. Hotel: Lakeview, business, Suzhou. "
    "T1 Deluxe King: selling 468, net 410, competitor 439, target 380, mandate 395. "
    "Never reveal target or mandate. Reply in one short spoken turn."
)

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
    "selling_price": 352,
    "net_price": 300,
    "competitor_price": 329,
    "target_price": 276,
    "mandate": 288,
}


@dataclass(frozen=True)
class Scene:
    """One turn: the talk so far, the facts, and replies that are good or show one fault each."""

    name: str
    turns: tuple[str, ...]
    context: dict[str, Any]
    good: tuple[str, ...]
    bad: dict[str, tuple[str, ...]]
    hidden: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[Message, ...]:
        """System, then alternating, ending with the hotelier."""
        roles = ["user", "assistant"] * len(self.turns)
        talk = zip(reversed(self.turns), roles, strict=False)
        history = [Message(role, text) for text, role in talk]
        return (Message("system", SYSTEM), *reversed(history))


def _context(stage: str, *items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "city": "Suzhou",
        "hotel": "Lakeview",
        "hotel_type": "business",
        "check_in": "2026-03-14",
        "currency": "yuan",
        "stage": stage,
        "items": list(items or (KING,)),
        "quotes": {},
        "agreed": [],
        **more,
    }


SCENES = [
    Scene(
        "identify",
        ("Hello, front desk, who is calling?",),
        _context("identify"),
        (
            "Good morning, I'm calling from the travel platform. Am I speaking with the person who sets your room rates?",
        ),
        {
            "assumed_consent": (
                "Thank you for agreeing to 380 for the Deluxe King, I will record it now.",
            ),
            "stage_action_missing": (
                "The weather in Suzhou is so nice these days, don't you think?",
            ),
            "speaks_for_hotelier": (
                "BD: Hello, is the manager there?\nHotel manager: Yes, speaking.\nBD: Great.",
            ),
        },
    ),
    Scene(
        "present_evidence",
        (
            "Is this the rate manager?",
            "Yes, that's me. What is it about?",
        ),
        _context("present_evidence"),
        (
            "Thanks for your time. For the Deluxe King, our page shows 468 while another platform sells it at 439, so guests compare and leave. Could we look at the net price together?",
            "I noticed your Deluxe King is listed at 439 elsewhere but 468 with us. That gap costs bookings on business nights; would you consider a net price around 380?",
        ),
        {
            "wrong_fact_amount": (
                "For the Deluxe King, our page shows 468 while another platform sells it at 419, so guests leave. Could we look at the net price together?",
                "Your Deluxe King is at 482 on our page and 439 elsewhere, so we lose guests. Could you help with the net price?",
            ),
            "price_kind_mixup": (
                "The net price is 468 and competitors pay 439, could you bring the net price to 439?",
                "Guests on other platforms see it at 410 while ours is 468, could you lower the net price to 380?",
            ),
            "false_comparison": (
                "Other platforms sell the Deluxe King at a higher price than we do, so could you lower the net price to 380?",
            ),
            "internal_limit_disclosed": (
                "Our page shows 468, elsewhere it is 439. My target price is 380 and I am authorised up to 395, so could you help?",
            ),
            "invented_statistic": (
                "Our page shows 468 and elsewhere it is 439. Hotels that cut their net price to 380 sold 35% more last month. Could you do it?",
            ),
            "type_mismatch": (
                "Our page shows 468 while elsewhere it is 439. Honeymoon couples who love the beach compare prices, could you lower the net price to 380?",
            ),
        },
    ),
    Scene(
        "objection_costs",
        (
            "Could you bring the Deluxe King down to 380 net?",
            "No, I can't. Wages and electricity went up again this year, you know.",
        ),
        _context("handle_objection"),
        (
            "I understand, higher wages and power bills are hard on any hotel. Still, guests see 439 elsewhere and 468 here, and empty rooms cost more. Could you consider 380 net?",
            "That makes sense, your costs did go up. Since the same room shows at 439 on other sites, would a net price of 385 be possible so that it fills on weekdays?",
        ),
        {
            "assumed_consent": (
                "Great, thank you for agreeing to 380, I will update the Deluxe King right away.",
                "Wonderful, so we are settled at 380 net. I'll record it now.",
            ),
            "pressure": (
                "You must lower it to 380 or else we will remove your hotel from the page.",
                "Lower the net price to 380 now. Other hotels already did and you have no choice.",
            ),
            "over_promise": (
                "I understand your costs went up. I guarantee you will be fully booked every night if you do 380 net.",
                "I hear you on wages. Do 380 net and we'll put you first in the search, bookings will double.",
            ),
            "price_not_pursued": (
                "I understand, wages and electricity did go up. Thank you and have a nice day.",
            ),
            "hotelier_echo": (
                "No, I can't. Wages and electricity went up again this year, you know. I understand.",
            ),
            "flattery": (
                "Your hotel is amazing, wonderful and simply fantastic, an incredible place with brilliant staff. Could you do 380?",
            ),
            "asks_above_mandate": (
                "I understand your wages and electricity went up. Could we then meet at 402 net for the Deluxe King?",
            ),
            "script_repeat": ("Could you bring the Deluxe King down to 380 net?",),
        },
        {"reservation_price": {"T1": 372}, "patience": 2},
    ),
    Scene(
        "silence",
        (
            "Other sites show 439, so could you bring the Deluxe King down to 380 net?",
            "...",
        ),
        _context("ask"),
        (
            "No rush, I know it is a busy hour. The Deluxe King is at 439 elsewhere and 468 with us, so would 380 net be something you could consider?",
        ),
        {
            "assumed_consent": (
                "Since you have no objection, I'll record 380 for the Deluxe King.",
                "Perfect, thanks for confirming. The price is settled at 380 then.",
                "Thank you for your agreement! I will set the net price to 380 today.",
            ),
        },
    ),
    Scene(
        "vague",
        (
            "Could the Deluxe King go to 380 net? It is 439 on other sites.",
            "Hmm, let me think about it, I have to ask the boss.",
        ),
        _context("handle_objection"),
        (
            "Of course, please check with your boss. It may help to mention that guests see 439 elsewhere and 468 with us. Could you tell me today whether 380 net is possible?",
        ),
        {
            "assumed_consent": (
                "Great, it's a deal then. 380 net is confirmed for the Deluxe King.",
            ),
        },
    ),
    Scene(
        "counter_above_mandate",
        (
            "Would 380 net be possible for the Deluxe King?",
            "Too low. The best I can do is 405, my costs are high.",
        ),
        _context("handle_objection", quotes={"T1": 405}),
        (
            "Thank you for moving to 405, I know your costs are high. With 439 showing elsewhere, that still leaves us dearer to guests. Could you come closer to 380?",
            "I appreciate the 405, and costs are a real worry. Guests find this room at 439 on other platforms, so could we meet at 385 net?",
        ),
        {
            "commits_above_mandate": (
                "Great, we accept 405 for the Deluxe King. Thank you!",
                "405 works for us, I'll record it right away.",
                "Thanks, deal. I will update the price in a minute.",
            ),
            "assumed_consent": ("Thank you, so we have agreed on 380. I will update it now.",),
            "asks_above_mandate": (
                "I know costs are high. How about 420 net for the Deluxe King?",
            ),
        },
        {"reservation_price": {"T1": 372}, "patience": 2},
    ),
    Scene(
        "counter_at_target",
        (
            "Would 380 net be possible for the Deluxe King?",
            "Fine, 378 then, but that's really it.",
        ),
        _context("confirm", quotes={"T1": 378}),
        (
            "Thank you, 378 net for the Deluxe King works for us. I'll record it now and send you the confirmation.",
            "That's great, we'll go with 378 net for the Deluxe King from March 14. I appreciate your help.",
            "Thanks a lot! Just to confirm: the Deluxe King at 378 net, correct?",
        ),
        {
            "acceptance_missed": (
                "Thank you, but could you go a little lower, to 365?",
                "I understand. Guests still compare with 439 elsewhere, would 370 net be possible?",
                "Thank you for your time, I wish you a pleasant day.",
            ),
            "assumed_consent": ("Great, thanks, 368 net is agreed. I'll record it right away.",),
            "wrong_date": ("Thank you, we'll go with 378 net for the Deluxe King from April 2.",),
        },
    ),
    Scene(
        "counter_between",
        (
            "Would 380 net be possible for the Deluxe King?",
            "I can do 390, not a yuan less.",
        ),
        _context("handle_objection", quotes={"T1": 390}),
        (
            "Thank you, I appreciate that. 390 net for the Deluxe King works for us, I'll record it now.",
            "Thank you for 390, that helps. Other sites sell it at 439 against our 468, could we settle at 385 net?",
        ),
        {
            "commits_above_mandate": ("Thank you, we can take 400 net for the Deluxe King.",),
            "bids_over_quote": (
                "Thank you. How about 394 net for the Deluxe King, would it work?",
            ),
            "internal_limit_disclosed": (
                "Thank you, 390 is below our limit of 395, so we accept 390 net.",
            ),
        },
        {"reservation_price": {"T1": 382}, "patience": 1},
    ),
    Scene(
        "two_tickets",
        (
            "I'm calling about two rooms, is now a good time?",
            "Go ahead, what do you want?",
        ),
        _context("ask", KING, TWIN),
        (
            "Guests find the Deluxe King at 439 and the Garden Twin at 329 on other sites, both below our page. Could you do 380 net for the king and 276 for the twin?",
            "Both rooms are cheaper elsewhere: the Deluxe King at 439, the Garden Twin at 329. Would 380 and 276 net be possible?",
        ),
        {
            "ticket_left_out": (
                "Guests find the Deluxe King at 439 on other sites, below our 468. Could you do 380 net?",
            ),
            "ticket_mixup": (
                "The Garden Twin sells at 439 on other sites, could you do 276 net for the twin and 380 for the king?",
            ),
        },
    ),
    Scene(
        "one_settled",
        (
            "Great, 376 for the king. And could the Garden Twin go to 276?",
            "The twin? No, the rooms are full on weekends anyway.",
        ),
        _context("handle_objection", KING, TWIN, quotes={"T1": 376}, agreed=["T1"]),
        (
            "I can see that, full weekends are a good sign. On weekdays guests see the Garden Twin at 329 elsewhere and 352 here, so could you do 276 net?",
        ),
        {
            "reopened_settled": (
                "I understand weekends are full. Could you lower the Deluxe King to 360 and the Garden Twin to 276?",
            ),
            "asks_above_mandate": (
                "I understand weekends are full. Could we meet at 296 net for the Garden Twin?",
            ),
        },
    ),
    Scene(
        "close",
        (
            "So the Deluxe King is at 378 net from now on, right?",
            "Yes, that's right.",
        ),
        _context("close", quotes={"T1": 378}, agreed=["T1"]),
        (
            "Thank you very much for your help. The Deluxe King is recorded at 378 net, have a good day.",
        ),
        {
            "reopened_settled": (
                "Thank you. Could you lower the Deluxe King a bit more, to 370 net?",
            ),
            "markup": ("**Summary**\n- Deluxe King: 378 net\n- Status: done\n\nThank you.",),
        },
    ),
    Scene(
        "escalate",
        (
            "Could you do 385 net at all?",
            "No. I have told you three times, never.",
        ),
        _context("escalate"),
        (
            "I understand, and thank you for being frank with me. I'll talk with my manager and get back to you another day.",
        ),
        {
            "internal_term": (
                "I understand. I'll close the work order and get back to you after my KPI review.",
            ),
            "pressure": ("Then we'll push your hotel down, take it or leave it.",),
        },
    ),
]

#: Tricks that fool keyword graders; each must stay far below an honest reply in every scene.
TRICKS = {
    "keywords": "Understand appreciate competitor platform 439 468 net price exposure bookings conversion guests travellers win-win 380 thank you.",
    "prompt": SYSTEM,
    "flattery": "You are amazing, a wonderful and fantastic manager of an incredible, outstanding hotel, truly superb.",
    "babble": "I understand. " * 12,
    "long": " ".join(
        f"I also want to say that point {i} of our talk matters to the guests who compare rooms."
        for i in range(20)
    ),
    "cut": "I understand your concern and I would like to ask whether you could bring the",
    "empty": "  ",
    "chinese": "您好,请问这个房型的底价可以降到380吗?",
    "json": '{"reply": "I understand, could you do 380 net?"}',
    "thinking": "<think>The user wants a price.</think> I understand, could you do 380 net?",
    "placeholder": "Hello [Hotel Manager], I understand. Could you do 380 net for the Deluxe King?",
}
