"""What the agent says: an action in a state, put into words from the phrase banks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from repo_ray.negotiation.grammar import Draft, Split, draw, join
from repo_ray.negotiation.scenarios import Item
from repo_ray.negotiation.situations import SILENT, Action, State

MAX_WORDS = 45
#: Actions that name no reason of their own and take one in front.
_REASONED = ("ask", "check_in", "escalate")
_BENEFITED = ("accept", "accept_query", "close")


@dataclass(frozen=True, slots=True)
class Style:
    """How an action is dressed: each field is a sentence that is there or not."""

    empathy: bool = True
    reason: bool = True
    promise: bool = False
    caution: bool = False
    pressure: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A composed reply: its draft, the right numbers and how it was made."""

    draft: Draft
    numbers: dict[str, int]
    action: Action
    style: Style
    items: tuple[Item, ...]

    @property
    def persuades(self) -> bool:
        """A reason or evidence is given, and no pressure put."""
        grounded = self.style.reason or self.style.caution or self.action == "evidence"
        return grounded and not self.style.pressure

    @property
    def text(self) -> str:
        return self.draft.fill(self.numbers)

    @property
    def families(self) -> frozenset[str]:
        return self.draft.families


def good_style(state: State, rng: Random) -> Style:
    """The dress of a good reply: always empathic where a feeling is shown, else mostly."""
    if state.situation == "greet":
        return Style(empathy=rng.random() < 0.3, reason=rng.random() < 0.7)
    must = state.spec.ack != "neutral"
    return Style(empathy=must or rng.random() < 0.75, reason=rng.random() < 0.92)


def good_reply(
    state: State, split: Split, rng: Random, said: frozenset[str] = frozenset()
) -> Reply:
    """A right action of the state in good words, 15 to 45 words where the tickets allow it.

    Sentences in `said` (the agent's own earlier ones) are avoided as far as the banks allow.
    """
    best, *others = state.spec.actions
    action = rng.choice(others) if others and rng.random() < 0.25 else best
    reply = compose(state, action, good_style(state, rng), split, rng)
    for _ in range(6):
        if not sentences(reply.text) & said:
            break
        reply = compose(state, action, good_style(state, rng), split, rng)
    return reply


def compose(
    state: State,
    action: Action,
    style: Style,
    split: Split,
    rng: Random,
    *,
    items: Sequence[Item] | None = None,
    ack: Draft | None = None,
) -> Reply:
    """`action` in words. `items` are the tickets it speaks of (those that the action is due for
    by default); `ack` a ready acknowledgement instead of a drawn one. Nothing checks that the
    action is right in this state."""
    due, pending = _subjects(state, action, items)
    labels = _labels(state, rng)
    if ack is not None:
        front = [ack]
    elif style.empathy:
        front = [draw("replies", f"ack.{state.spec.ack}", split, rng)]
    elif rng.random() < 0.4:
        front = [draw("replies", "opener", split, rng)]
    else:
        front = []
    core = _core(state, action, due, pending, labels, split, rng)
    before: list[Draft] = []
    after: list[Draft] = []
    if style.reason:
        if action in _REASONED:
            before = [_reason(state, action, due + pending, labels, split, rng)]
        elif action == "introduce":
            after = [draw("replies", "purpose", split, rng)]
        elif action == "evidence":
            after = [draw("replies", "so_what", split, rng)]
        else:
            after = [draw("replies", "benefit", split, rng)]
    if style.promise:
        after = [*after, draw("flaws", "promise", split, rng)]
    elif style.caution:
        after = [draw("flaws", "calibrated", split, rng)]
    if style.pressure:
        before, after = [], [draw("flaws", "pressure", split, rng)]
    numbers = _numbers(state, action)
    parts = [*front, *before, *core, *after]
    if len(join(parts).text.split()) > MAX_WORDS and style.reason and not style.promise:
        kept = [] if action in _REASONED else before
        parts = [*front, *kept, *core]
        style = replace(style, reason=False, caution=False)
    return Reply(join(parts), numbers, action, style, due + pending)


def sentences(text: str) -> frozenset[str]:
    """The sentences of a reply, for finding repetitions."""
    return frozenset(re.split(r"(?<=[.?!:]) ", text))


def _subjects(
    state: State, action: Action, items: Sequence[Item] | None
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The tickets to accept and those to ask for."""
    chosen = tuple(items) if items is not None else (state.open_items or state.scenario.items)
    if action in ("accept", "accept_query"):
        due = tuple(i for i in chosen if i in state.due_items)
        # Where nothing is due the acceptance is a flaw or at the agent's choice: take what was
        # quoted, else everything.
        quoted = tuple(i for i in chosen if i.ticket in state.quotes)
        due = due or quoted or chosen
        return due, tuple(i for i in chosen if i not in due)
    return (), chosen


def _core(
    state: State,
    action: Action,
    due: tuple[Item, ...],
    pending: tuple[Item, ...],
    labels: dict[str, str],
    split: Split,
    rng: Random,
) -> list[Draft]:
    def offers(items: Sequence[Item], kind: str) -> str:
        return _listed([f"<{kind}:{i.ticket}> for {labels[i.ticket]}" for i in items])

    if action in ("accept", "accept_query"):
        form = "accept.state" if action == "accept" else "accept.query"
        parts = [draw("replies", form, split, rng, {"accepts": offers(due, "accept")})]
        if pending:
            parts.append(draw("replies", "rest", split, rng, {"asks": offers(pending, "ask")}))
        return parts
    if action == "ask":
        quoted = tuple(i for i in pending if i in state.open_items and i.ticket in state.quotes)
        rest = tuple(i for i in pending if i not in quoted)
        if not quoted:
            return [draw("replies", "ask", split, rng, {"asks": offers(rest, "ask")})]
        moves = [
            f"from <quote:{i.ticket}> to <ask:{i.ticket}> for {labels[i.ticket]}" for i in quoted
        ]
        parts = [draw("replies", "push", split, rng, {"moves": _listed(moves)})]
        if rest:
            parts.append(draw("replies", "rest", split, rng, {"asks": offers(rest, "ask")}))
        return parts
    if action == "evidence":
        gaps = _listed([_gap(i, labels, split, rng) for i in pending])
        return [draw("replies", "evidence", split, rng, {"gaps": gaps})]
    if action == "check_in":
        return [draw("replies", "check_in", split, rng, {"asks": offers(pending, "ask")})]
    slots = {"hotel": state.scenario.hotel, "city": state.scenario.city}
    return [draw("replies", action, split, rng, slots)]


def _reason(
    state: State,
    action: Action,
    items: tuple[Item, ...],
    labels: dict[str, str],
    split: Split,
    rng: Random,
) -> Draft:
    if action == "escalate":
        return draw("replies", "reason.soft", split, rng)
    kind = rng.choices(
        ("gap", "net", state.scenario.hotel_type, "soft"),
        (40, 15, 30, 15) if len(items) == 1 else (10, 5, 45, 40),
    )[0]
    item = items[0]
    slots: dict[str, str] = {}
    if kind == "gap":
        slots["gaps"] = _gap(item, labels, split, rng)
    elif kind == "net":
        slots["nets"] = draw("replies", "net_fact", split, rng, _prices(item, labels)).text
    return draw("replies", f"reason.{kind}", split, rng, slots)


def _gap(item: Item, labels: dict[str, str], split: Split, rng: Random) -> str:
    return draw("replies", "gap", split, rng, _prices(item, labels)).text


def _prices(item: Item, labels: dict[str, str]) -> dict[str, str]:
    prices = {k: f"<{k}:{item.ticket}>" for k in ("selling", "competitor", "net")}
    return prices | {"room": labels[item.ticket]}


def _labels(state: State, rng: Random) -> dict[str, str]:
    """How the reply calls each ticket."""
    # Three tickets by room and id would leave no room for a reason.
    both = "{1} ({0})" if len(state.scenario.items) < 3 else "{1}"
    form = rng.choice(("the {0}", "the {0}", both, "{1}"))
    if len(state.scenario.items) == 1:
        form = rng.choice(("the {0}", "the {0}", "your {0}", "{1}"))
    return {i.ticket: form.format(i.room, i.ticket) for i in state.scenario.items}


def _numbers(state: State, action: Action) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for item in state.scenario.items:
        ticket, quote = item.ticket, state.quotes.get(item.ticket)
        ask = item.target_price
        if quote is not None and quote <= item.target_price:
            # Asking below a quote that is good enough is a flaw; asking again for it is another.
            ask = quote if action == "check_in" else round(quote * 0.96)
        silent_yes = state.situation in SILENT and quote is None
        accept = item.target_price if quote is None or silent_yes else quote
        numbers |= {
            f"selling:{ticket}": item.selling_price,
            f"competitor:{ticket}": item.competitor_price,
            f"net:{ticket}": item.net_price,
            f"ask:{ticket}": ask,
            f"accept:{ticket}": accept,
            f"quote:{ticket}": quote if quote is not None else item.net_price,
        }
    return numbers


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
