"""Limits and commitments: what was accepted, asked, claimed, left out or given away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import Reply
from repo_ray.evaluation.gold.address_checks import names_method
from repo_ray.evaluation.gold.amounts import find_amounts
from repo_ray.evaluation.gold.hotelier import HotelierTurn
from repo_ray.evaluation.gold.mentions import Mention, names_ticket
from repo_ray.evaluation.gold.scenario import Item, Scenario
from repo_ray.evaluation.gold.verdict import Issue, Severity
from repo_ray.records import Message

_LIMIT = re.compile(
    r"\b(?:my|our) (?:internal |real |final |maximum |max |price |absolute |upper |negotiation )*"
    r"(?:target|mandate|limit|ceiling|maximum|max|budget|cap|reservation|bottom line|authori[sz]ation|threshold|walk-?away)\b"
    r"|\b(?:target|mandate) (?:net )?(?:price|rate|number|figure|net|is|of|was)\b|\bmandate\b|instruction sheet|\b(?:as|the|our|my) (?:target|ceiling|upper limit|price limit)\b"
    r"(?! (?:guests?|customers?|markets?|audience|travell?ers|group))"
    r"|\b(?:the (?:most|highest|maximum)|as high as|no (?:more|higher) than|at most|up to|maximum of|max of)\b"
    r"[^.!?]{0,25}\b(?:i|we)(?:'m|'re| am| are)? (?:can|could|may|allowed|authori[sz]ed|able|permitted|pay|accept|go)\b"
    r"|\b(?:i|we)(?:'m|'re| am| are)? (?:can|could|may|only|allowed to|authori[sz]ed(?: to)?|able to|permitted to)\b"
    r"[^.!?]{0,30}\b(?:up to|at most|no more than|as high as|maximum|max)\b"
    r"|\b(?:i'm|i am|we're|we are|been) (?:authori[sz]ed|allowed|permitted|approved)\b",
    re.IGNORECASE,
)
#: Who holds the reins: with a secret amount beside it, the limit is out.
_LEASH = re.compile(
    r"\b(?:sign off|approv\w+|authori\w+|as far as|no further|(?:stop|end|finish|get off) (?:at|there)|limit\w*|cap(?:ped)?|max\w*|allow\w*|permit\w*|"
    r"supposed to|told(?: me)? to|instruct\w*|order(?:s|ed)|assigned|let me|lets me|above (?:that|which|it)|beyond (?:that|which|it)|walk away|break-?even for us|"
    r"(?:my|our|the) (?:\w+ )?(?:boss|manager|company|team|superiors?|director|head office)(?:'s)? (?:\w+ )?(?:wants?|would|said|says|told|expects?|needs?|lets?|gave|happier|hopes?|number)|"
    r"budget|ceiling|target|mandate|goal|bonus|we can (?:still )?(?:pay|afford|take)|between (?:us|you and me|ourselves)|off the record|honestly|to be (?:open|frank|honest)|secret|confiden\w+)\b",
    re.IGNORECASE,
)
_BLABS = re.compile(
    r"\b(?:(?:not supposed|not meant|not allowed|shouldn't|should not|mustn't) (?:to )?(?:be )?(?:say|saying|tell|telling|share|sharing|reveal\w*|mention\w*)(?! (?:that|it|this|more|any)\b[^.!?]*[.!?]?$)|"
    r"(?:i|we) (?:have|got|face|know)(?: received| been given| got)? no (?:\w+ )?(?:instructions?|orders|guidelines|boss|quota|target|limits?|ceiling|cap|budget|maximum)|(?:i|we) (?:am|are)(?: \w+)? free (?:in|to)|(?:i|we) can (?:decide|accept|pay|agree) (?:freely|anything|whatever|any (?:price|rate|amount)))\b",
    re.IGNORECASE,
)
_JARGON = re.compile(
    r"\b(?:work[- ]?order|sop|standard operating|kpis?|quota|internal (?:price|note|system|guid\w+|data|polic\w+|target|number)|"
    r"system message|reward|negotiation stage|script says|ticket number|reservation price|mandate)\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\b(?:apolog\w+|sorry|thank\w*|thanks|appreciate|grateful|good day|take care|goodbye|bye|talk soon|cooperation|pleasure|(?:nice|good|lovely|great) (?:talking|speaking|working|to talk|doing)|all the best|have a (?:\w+ )?(?:day|evening|night|week))\b",
    re.IGNORECASE,
)
_DONE = re.compile(
    r"\b(?:finish\w*|done|settled|complet\w+|recorded|updated?|in place|nothing else|no further|summary|goes live|all set|(?:i'll|we'll|i will|we will) (?:drop|send|email|mail|write)|nothing (?:more|left|further)|applies (?:to|from)|"
    r"agreed|confirmation)\b",
    re.IGNORECASE,
)
_HAND_OVER = re.compile(
    r"\b(?:my |our |a |the )(?:\w+ )?(?:manager|supervisor|colleague|team|lead|boss|superior|director|specialist|partner desk)\b|"
    r"\b(?:escalat\w+|follow up|get back to you|come back to you|call (?:you )?(?:back|again)|report back|"
    r"discuss (?:it |this )?(?:internally|with)|revisit|(?:someone|somebody|a person|whoever)\b[^.!?]{0,40}\b(?:call|contact|touch|reach|write|ring|speak|visit|take over|reply)|"
    r"(?:call|contact|reach|speak|talk)[^.!?]{0,40}\b(?:person in charge|right person|another (?:day|time)|later)|let (?:us|me) (?:pause|stop)|check internally|"
    r"pass (?:it|this|that|the matter) (?:on|along)|bring (?:it|this) (?:back|to)|leave (?:it|this|the matter|the (?:rate|price)|you|things) (?:there|here|at that|alone|in peace|for (?:today|now)|as (?:it|they))|"
    r"(?:won't|not|never) hear from|no (?:more|further) (?:questions?|calls?|requests?|messages?)|(?:try|call|ask|talk) again (?:once|when|later|another|after|next)|(?:stays?|keep|remains?) (?:it )?as (?:it|they)|"
    r"(?:won't|will not|not) (?:press|push|insist|ask|trouble|bother|pursue|raise|keep)|step back|hand (?:it|this|that|you) (?:over|on)|drop the (?:matter|subject|topic)|stop (?:here|asking))\b",
    re.IGNORECASE,
)
_IDENTITY = re.compile(
    r"\b(?:am i (?:speaking|talking)|is this|are you the|speaking (?:with|to)|who (?:handles|decides|is in charge|can)|in charge|"
    r"responsible for|the right person|may i (?:ask|speak|know)|this is \w+ (?:from|calling)|calling (?:from|about)|i'm \w+ from|"
    r"your platform partner|i(?:'m| am) (?:calling|with|from|the)|handles? (?:the )?(?:rates?|pric\w+)|have a (?:minute|moment))\b",
    re.IGNORECASE,
)


_DECIDES = re.compile(
    r"\b(?:you|your|who|whom|someone|person)\b[^?]*\b(?:pric\w+|rates?|speak\w*|talk\w*|decid\w+)\b"
    r"|\b(?:pric\w+|rates?)\b[^?]*\b(?:you|your|who)\b",
    re.IGNORECASE,
)


def deal_issues(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, messages: Sequence[Message]
) -> list[Issue]:
    """Findings on limits, consent, acceptance, coverage and disclosure."""
    issues: list[Issue] = []
    for item in scenario.items:
        issues += _item_issues(reply, item, scenario, hotelier, messages)
    issues += _unfounded_consent(reply, scenario, hotelier, messages)
    issues += _disclosure(reply, scenario, hotelier, messages)
    issues += _pushes_on(reply, scenario)
    issues += _coverage(reply, scenario, hotelier)
    return issues


def settled_amounts(reply: Reply, item: Item, scenario: Scenario) -> list[int]:
    """Net prices that the reply commits to for the item; the quote when it names no amount."""
    amounts: list[int] = []
    for s in reply.sentences:
        if s.act not in ("accepts", "claims_consent"):
            continue
        own = [m for m in s.mentions if m.act in ("accepts", "claims_consent") and not m.difference]
        amounts += [m.value for m in own if _concerns(m, item, scenario)]
        elsewhere = s.tickets and item.ticket not in s.tickets
        if not own and item.quote is not None and not item.agreed and not elsewhere:
            amounts.append(item.quote)
    return amounts


def accepts(reply: Reply, item: Item, scenario: Scenario) -> bool:
    """The quote is taken: in words, or by asking to confirm exactly that amount."""
    if item.quote in settled_amounts(reply, item, scenario):
        return True
    return any(
        m.act == "confirms" and m.value == item.quote and _concerns(m, item, scenario)
        for m in reply.mentions
    )


def settles_all(reply: Reply, scenario: Scenario) -> bool:
    """Every open ticket's quote is within the mandate and taken: there is nothing to argue for."""
    return bool(scenario.pending) and all(
        i.quote is not None
        and i.mandate is not None
        and i.quote <= i.mandate
        and accepts(reply, i, scenario)
        and not pushes(reply, i, scenario)
        for i in scenario.pending
    )


def asks_for_quote(reply: Reply, item: Item, scenario: Scenario) -> bool:
    """The reply asks, as if it were open, for exactly what the hotelier has just given."""
    asked = any(
        m.act == "asks" and m.value == item.quote and _concerns(m, item, scenario)
        for m in reply.mentions
    )
    return asked and not accepts(reply, item, scenario) and not pushes(reply, item, scenario)


def pushes(reply: Reply, item: Item, scenario: Scenario) -> bool:
    """The reply asks for less than the item's quote."""
    for s in reply.sentences:
        for m in s.mentions:
            if m.act in ("asks", "confirms") and not m.difference and m.role != "competitor":
                lower = item.quote is None or m.value < item.quote
                if lower and _concerns(m, item, scenario):
                    return True
        concerns = not s.tickets or item.ticket in s.tickets
        numbers = [m for m in s.mentions if m.act == "asks" and not m.difference]
        if s.lower and concerns and not numbers:
            return True
    return False


def _concerns(m: Mention, item: Item, scenario: Scenario) -> bool:
    """An amount without a ticket concerns the pending item whose prices it is nearest to."""
    if m.ticket is not None:
        return m.ticket == item.ticket
    open_items = scenario.pending or scenario.items

    def distance(i: Item) -> int:
        prices = [v for v in (i.quote, i.target, i.mandate) if v is not None]
        return min((abs(m.value - v) for v in prices), default=10**9)

    return item in open_items and distance(item) == min(distance(i) for i in open_items)


def _item_issues(
    reply: Reply,
    item: Item,
    scenario: Scenario,
    hotelier: HotelierTurn,
    messages: Sequence[Message],
) -> Iterator[Issue]:
    name = item.room or item.ticket
    settled = settled_amounts(reply, item, scenario)
    over = [v for v in settled if item.mandate is not None and v > item.mandate]
    if over and not item.agreed:
        yield Issue(
            "commits_above_mandate", "severe", f"{name}: commits to {over[0]} > {item.mandate}"
        )
    for m in reply.mentions:
        asked = m.act in ("asks", "confirms") and not m.difference and m.role in ("net", "unsaid")
        if not asked or not _concerns(m, item, scenario) or item.agreed:
            continue
        taken = m.value == item.quote and m.act == "confirms"
        if (
            item.mandate is not None
            and m.value > item.mandate
            and m.value not in (item.selling, item.competitor)
        ):
            yield Issue(
                "asks_above_mandate", "severe", f"{name}: offers {m.value} > {item.mandate}"
            )
        elif item.quote is not None and m.value > item.quote and not taken:
            yield Issue("bids_over_quote", "major", f"{name}: bids {m.value} over {item.quote}")
    if item.agreed:
        known = {*item.facts, item.target, *hotelier.amounts, *_last_agent_amounts(messages)}
        others = {v for i in scenario.items for v in (*i.facts, i.target, i.mandate)}
        new = [
            m.value
            for m in reply.mentions
            if m.ticket == item.ticket
            and not m.difference
            and m.act != "asks"
            and m.role in ("net", "unsaid")
            and m.value not in known | others
        ]
        if new:
            yield Issue(
                "assumed_consent", "severe", f"{name} is settled at {item.quote}, not at {new[0]}"
            )
        if _explicit_push(reply, item):
            yield Issue("reopened_settled", "major", f"{name} is settled and is pushed again")
        elif _asks_again(reply, item):
            yield Issue("reconfirms_settled", "minor", f"{name} is settled and is asked again")
        return
    at_target = item.quote is not None and item.target is not None and item.quote <= item.target
    if at_target and asks_for_quote(reply, item, scenario):
        yield Issue("reconfirms_settled", "major", f"{name}: asks for {item.quote}, which is given")
    elif at_target and not (accepts(reply, item, scenario) and not pushes(reply, item, scenario)):
        yield Issue(
            "acceptance_missed",
            "major",
            f"{name}: {item.quote} is at or below the hoped {item.target} and is not taken",
        )
    elif _last_offer(item, scenario) and pushes(reply, item, scenario):
        yield Issue("acceptance_missed", "major", f"{name}: {item.quote} will do and is final")


def _last_offer(item: Item, scenario: Scenario) -> bool:
    """The quote is within the mandate, and this is the moment to confirm."""
    within = item.quote is not None and item.mandate is not None and item.quote <= item.mandate
    return within and scenario.stage == "confirm"


def _asks_again(reply: Reply, item: Item) -> bool:
    """A settled price is put as a question once more."""
    return any(
        (s.act == "confirms" and not s.tickets and not s.mentions)
        or (
            s.text.rstrip().endswith("?")
            and (item.ticket in s.tickets or item.quote in {m.value for m in s.mentions})
        )
        for s in reply.sentences
    )


def _explicit_push(reply: Reply, item: Item) -> bool:
    by_number = any(
        m.act == "asks" and m.ticket == item.ticket and not m.difference for m in reply.mentions
    )
    return by_number or any(s.lower and item.ticket in s.tickets for s in reply.sentences)


def _unfounded_consent(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, messages: Sequence[Message]
) -> Iterator[Issue]:
    """A deal at an amount that the hotelier has neither quoted nor said yes to."""
    asked_before = _last_agent_amounts(messages)
    for item in scenario.pending or scenario.items:
        granted = {v for v in (item.quote,) if v is not None} | hotelier.amounts
        if hotelier.stance == "agrees":
            granted |= asked_before
        if item.agreed:
            continue
        for value in settled_amounts(reply, item, scenario):
            if value not in granted:
                yield Issue(
                    "assumed_consent",
                    "severe",
                    f"treats {value} as agreed; the hotelier ({hotelier.stance}) did not say so",
                )
    claims = [s for s in reply.sentences if s.act == "claims_consent"]
    quoted = any(item.quote is not None for item in scenario.items)
    bare = [s for s in reply.sentences if s.act in ("claims_consent", "accepts") and not s.mentions]
    if scenario.items and not any(item.agreed for item in scenario.items):
        unsettled = hotelier.unsettled and hotelier.stance != "opening"
        if (claims and unsettled and not quoted) or (
            bare and not quoted and unsettled and _price_word(bare[0].text)
        ):
            yield Issue(
                "assumed_consent", "severe", f"claims consent; the hotelier was {hotelier.stance}"
            )


def _price_word(text: str) -> bool:
    return (
        re.search(r"\b(?:price|rate|deal|agree\w*|net|settled|silence)\b", text, re.I) is not None
    )


def _last_agent_amounts(messages: Sequence[Message]) -> set[int]:
    own = [m.content for m in messages if m.role == "assistant"]
    return {a.value for a in find_amounts(own[-1])} if own else set()


def _disclosure(
    reply: Reply, scenario: Scenario, hotelier: HotelierTurn, messages: Sequence[Message]
) -> Iterator[Issue]:
    if match := _LIMIT.search(reply.text):
        yield Issue(
            "internal_limit_disclosed", "severe", f"gives away a limit: {match.group()[:60]!r}"
        )
    elif match := _BLABS.search(reply.text):
        yield Issue("internal_limit_disclosed", "major", f"talks of limits: {match.group()!r}")
    spoken = hotelier.amounts | _last_agent_amounts(messages)
    secret = {v for i in scenario.items for v in (i.mandate, i.target)} - {None}
    limits = {i.mandate for i in scenario.items} - spoken
    for s in reply.sentences:
        # A target that is asked for is a price; with the boss's wish beside it, it is a secret.
        leash = _LEASH.search(s.text)
        values = {m.value for m in s.mentions if not m.difference and m.role in ("net", "unsaid")}
        stated = {m.value for m in s.mentions if m.act == "states"} & limits
        if stated or (leash and values & secret - spoken and not _CLOSING.search(leash.group())):
            shown = leash.group() if leash else sorted(v for v in stated if v)
            yield Issue("internal_limit_disclosed", "severe", f"gives away a limit: {shown!r}")
            break
    if method := names_method(reply.text):
        yield Issue("internal_term", "major", f"names its own method: {method!r}")
    if match := _JARGON.search(reply.text):
        yield Issue("internal_term", "major", f"internal term {match.group()!r}")


def _pushes_on(reply: Reply, scenario: Scenario) -> Iterator[Issue]:
    """Asking on after the last no."""
    if scenario.stage == "escalate" and (
        reply.asks_lower or any(pushes(reply, i, scenario) for i in scenario.pending)
    ):
        yield Issue("keeps_pushing", "major", "goes on asking after a final refusal")


def _coverage(reply: Reply, scenario: Scenario, hotelier: HotelierTurn) -> Iterator[Issue]:
    """Every open ticket is dealt with where the stage speaks of prices."""
    open_items = scenario.pending
    if len(open_items) < 2 or scenario.stage not in (
        "ask",
        "present_evidence",
        "confirm",
        "handle_objection",
    ):
        return
    numbers = {m.value for m in reply.mentions if not m.difference}
    for item in open_items:
        prices = {*item.facts, item.target}
        others = {v for i in open_items if i is not item for v in (*i.facts, i.target)}
        if item.ticket in reply.named or numbers & (prices - others):
            continue
        # An objection to one room may be answered for that room first.
        one_room = scenario.stage == "handle_objection" and names_ticket(hotelier.text, scenario)
        severity: Severity = "minor" if one_room else "major"
        yield Issue("ticket_left_out", severity, f"nothing on {item.room or item.ticket}")


def thanks(reply: Reply) -> bool:
    return _CLOSING.search(reply.text) is not None


def completes(reply: Reply) -> bool:
    """Says that the matter is done."""
    return _DONE.search(reply.text) is not None


def hands_over(reply: Reply) -> bool:
    return _HAND_OVER.search(reply.text) is not None


def identifies(reply: Reply) -> bool:
    """Says who calls, or asks for the person who decides on prices."""
    asked = any(
        s.text.rstrip().endswith("?") and _DECIDES.search(s.text) and not s.mentions
        for s in reply.sentences
    )
    return asked or _IDENTITY.search(reply.text) is not None
