"""Preference pairs: a good reply beside one with a labelled defect.

Most defects depend on the context: `SWAPS` lists pairs of situations in which what is right in
the one is wrong in the other, drawn equally often in both directions, so that the words of a
reply say nothing about which side of a pair it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from repo_ray.negotiation.dialogue import Turn, path_to, play
from repo_ray.negotiation.grammar import Draft, Split, draw, join
from repo_ray.negotiation.replies import Reply, Style, compose, good_style, sentences
from repo_ray.negotiation.scenarios import Item, generate_scenario
from repo_ray.negotiation.situations import FINAL, OBJECTIONS, SILENT, Action, State


@dataclass(frozen=True, slots=True)
class Pair:
    """`turn` with a better and a worse reply."""

    turn: Turn
    chosen: str
    rejected: str
    defect: str
    families: frozenset[str]


@dataclass(frozen=True, slots=True)
class Case:
    """In one of these situations `right` is right, and `wrong` has the defect."""

    situations: tuple[str, ...]
    right: Action
    wrong: Action
    defect: str


_BUSINESS = tuple(o for o in OBJECTIONS if o not in ("wrong_room", "busy"))
#: Each entry is a case and its mirror image.
SWAPS: tuple[tuple[Case, Case], ...] = (
    (
        Case(("quote_low",), "accept", "ask", "not_accepting_at_target"),
        Case(("quote_high",), "ask", "accept", "price_outside_mandate"),
    ),
    (
        Case(("agree",), "accept", "check_in", "repeated_confirmation"),
        Case(SILENT, "check_in", "accept", "consent_from_silence"),
    ),
    (
        Case(("settled",), "close", "ask", "still_pushing_after_accept"),
        Case(("interest",), "ask", "close", "wrong_stage"),
    ),
    (
        Case(("settled",), "close", "check_in", "repeated_confirmation"),
        Case(SILENT, "check_in", "close", "misread_silence"),
    ),
    (
        Case(("settled",), "close", "accept_query", "repeated_confirmation"),
        Case(("quote_low", "hold"), "accept_query", "close", "wrong_stage"),
    ),
    (
        Case(FINAL, "escalate", "ask", "wrong_stage"),
        Case((*_BUSINESS, "quote_high"), "ask", "escalate", "gave_up_price"),
    ),
    (
        Case(("ready",), "evidence", "ask", "wrong_stage"),
        Case(("interest",), "ask", "evidence", "wrong_stage"),
    ),
    (
        Case(("greet",), "introduce", "evidence", "wrong_stage"),
        Case(("ready",), "evidence", "introduce", "wrong_stage"),
    ),
    (
        Case(("greet",), "introduce", "ask", "wrong_stage"),
        Case(("interest", *_BUSINESS), "ask", "introduce", "wrong_stage"),
    ),
)

#: Defect of a number -> weight.
_NUMBER_DEFECTS = {
    "wrong_number": 2,
    "invented_number": 2,
    "selling_net_confusion": 1,
    "price_outside_mandate": 1,
}

_TRIES = 4


def turn_in(
    situation: str,
    split: Split,
    rng: Random,
    *,
    tickets: int | None = None,
    partial: bool | None = None,
) -> Turn:
    """The last turn of a fresh dialogue that leads to `situation`."""
    scenario = generate_scenario(rng, tickets)
    if partial is None:
        partial = rng.random() < 0.3
    return play(scenario, path_to(situation, rng), split, rng, partial=partial, last=3)[-1]


def swap(split: Split, rng: Random) -> Pair:
    """Right action against an action that is right elsewhere, with the same acknowledgement."""
    case = rng.choice(rng.choice(SWAPS))
    turn = turn_in(rng.choice(case.situations), split, rng)
    ack, style = _shared_front(turn.state, split, rng)
    right = compose(turn.state, case.right, style, split, rng, ack=ack)
    wrong = compose(turn.state, case.wrong, style, split, rng, ack=ack)
    return _pair(turn, right, wrong, case.defect)


def number(split: Split, rng: Random) -> Pair:
    """One sentence, once with the right number of this context and once with another."""
    defect = rng.sample(list(_NUMBER_DEFECTS), counts=list(_NUMBER_DEFECTS.values()), k=1)[0]
    while True:
        situation = rng.choice(("ready", "interest", "quote_high", "agree", *SILENT, *_BUSINESS))
        turn = turn_in(situation, split, rng)
        state = turn.state
        right = compose(state, state.spec.actions[0], good_style(state, rng), split, rng)
        wrong = _other_numbers(defect, right, state, rng)
        if wrong is not None and wrong != right.numbers:
            text = right.draft.fill(wrong)
            if text != right.text:
                families = turn.families | right.families
                return Pair(turn, right.text, text, defect, families)


def tickets(split: Split, rng: Random) -> Pair:
    """Several tickets: all open ones belong in the reply, and no settled one."""
    while True:
        situation = rng.choice(("interest", "why", "cost", "quote_high", "quote_low", "agree"))
        turn = _partly_settled(split, rng) if rng.random() < 0.5 else None
        turn = turn or turn_in(situation, split, rng, tickets=2, partial=True)
        state = turn.state
        ack, style = _shared_front(state, split, rng)
        style = replace(style, reason=style.reason and rng.random() < 0.5)
        action: Action = "accept" if state.due_items else "ask"
        seed = rng.random()
        right = compose(state, action, style, split, Random(seed), ack=ack)
        items = state.open_items
        if state.agreed:
            defect, shown = "still_pushing_after_accept", state.scenario.items
        else:
            defect, shown = "ticket_missed", (state.due_items or items)[:1]
        wrong = compose(state, action, style, split, Random(seed), ack=ack, items=shown)
        if right.text != wrong.text:
            return _pair(turn, right, wrong, defect)


def repeated(split: Split, rng: Random) -> Pair:
    """A fresh reply against the agent's own previous message word for word."""
    while True:
        situation = rng.choice((*_BUSINESS, *SILENT, "quote_high"))
        turn = turn_in(situation, split, rng, tickets=rng.choice((1, 1, 2)))
        earlier = turn.chat[-2].content
        right = compose(
            turn.state, turn.state.spec.actions[0], good_style(turn.state, rng), split, rng
        )
        if earlier != right.text:
            return Pair(
                turn, right.text, earlier, "repeated_script", turn.families | right.families
            )


def wording(split: Split, rng: Random) -> Pair:
    """The same action in good and in flawed words."""
    defect = rng.choice(sorted(_WORDING))
    while True:
        situation = rng.choice(
            ("ready", "interest", *SILENT, *OBJECTIONS, "quote_high", "agree", "settled", *FINAL)
            if defect not in ("bare_demand", "blunt_pressure")
            else ("interest", *OBJECTIONS, "quote_high")
        )
        turn = turn_in(situation, split, rng)
        made = _WORDING[defect](turn.state, split, rng)
        if made is not None:
            chosen, rejected, families = made
            return Pair(turn, chosen, rejected, defect, turn.families | families)


CONTEXTUAL: dict[str, Callable[[Split, Random], Pair]] = {
    "swap": swap,
    "number": number,
    "tickets": tickets,
    "repeated": repeated,
}

#: Where the paper's preference rows come from: (rows of 6,632, what such a source corrects).
#: Language experts mend wording; task experts (human negotiators) numbers and procedure;
#: production cases are what really went wrong; the enriched set is a mixture of all.
SOURCES: dict[str, tuple[int, dict[str, float]]] = {
    "online": (252, {"swap": 40, "number": 10, "tickets": 12, "repeated": 13, "wording": 25}),
    "language_expert": (
        3178,
        {"swap": 22, "number": 18, "tickets": 4, "repeated": 6, "wording": 50},
    ),
    "task_expert": (1211, {"swap": 50, "number": 28, "tickets": 15, "repeated": 2, "wording": 5}),
    "bd_enriched": (1991, {"swap": 40, "number": 25, "tickets": 10, "repeated": 3, "wording": 22}),
}


def preference_pair(source: str, split: Split, rng: Random) -> Pair:
    """A pair as this source would give it; the chosen reply repeats no earlier sentence where
    the banks allow it."""
    weights = SOURCES[source][1]
    kind = rng.choices(list(weights), list(weights.values()))[0]
    make = wording if kind == "wording" else CONTEXTUAL[kind]
    pair = make(split, rng)
    for _ in range(_TRIES):
        said = sentences(" ".join(m.content for m in pair.turn.chat if m.role == "assistant"))
        if not said & sentences(pair.chosen):
            break
        pair = make(split, rng)
    return pair


def _pair(turn: Turn, right: Reply, wrong: Reply, defect: str) -> Pair:
    families = turn.families | right.families | wrong.families
    return Pair(turn, right.text, wrong.text, defect, families)


def _shared_front(state: State, split: Split, rng: Random) -> tuple[Draft | None, Style]:
    """The acknowledgement that both replies of a pair open with, and their common style."""
    style = Style(empathy=False, reason=rng.random() < 0.85)
    ack = state.spec.ack if rng.random() < 0.8 else "neutral"
    return draw("replies", f"ack.{ack}", split, rng), style


def _partly_settled(split: Split, rng: Random) -> Turn | None:
    """A turn about the second ticket after the first is settled."""
    scenario = generate_scenario(rng, 2)
    path = ["greet", "ready", rng.choice(("agree", "quote_low")), rng.choice(("interest", "why"))]
    turn = play(scenario, path, split, rng, partial=True)[-1]
    return turn if turn.state.agreed else None


def _other_numbers(defect: str, reply: Reply, state: State, rng: Random) -> dict[str, int] | None:
    """The reply's numbers with one of them wrong; None where the reply offers no occasion."""
    numbers = dict(reply.numbers)
    used = reply.draft.numbers
    if defect == "selling_net_confusion":
        shown = [k for k in used if k.startswith(("selling:", "net:", "ask:"))]
        if not shown:
            return None
        key = rng.choice(shown)
        kind, ticket = key.split(":")
        numbers[key] = numbers[f"{'net' if kind == 'selling' else 'selling'}:{ticket}"]
        return numbers
    if defect == "price_outside_mandate":
        asked = [k for k in used if k.startswith("ask:")]
        if not asked:
            return None
        key = rng.choice(asked)
        item = next(i for i in state.scenario.items if i.ticket == key.split(":")[1])
        numbers[key] = rng.randint(item.mandate + 1, item.net_price - 1)
        return numbers
    # The slots whose right number is the same in the whole scenario, not a quote just named.
    shown = [k for k in used if not k.startswith(("quote:", "accept:"))]
    if not shown:
        return None
    key = rng.choice(shown)
    kind, ticket = key.split(":")
    if defect == "wrong_number":
        others = [
            value
            for other in state.scenario.items
            for k, value in _facts(other).items()
            if (k, other.ticket) != (kind, ticket)
        ]
        numbers[key] = rng.choice([v for v in others if v != numbers[key]])
        return numbers
    known = state.scenario.prices | set(state.quotes.values())
    while True:
        factor = rng.uniform(1.06, 1.3) if rng.random() < 0.5 else rng.uniform(0.7, 0.94)
        numbers[key] = round(reply.numbers[key] * factor)
        if numbers[key] not in known:
            return numbers


def _facts(item: Item) -> dict[str, int]:
    return {
        "selling": item.selling_price,
        "competitor": item.competitor_price,
        "net": item.net_price,
    }


# --- flaws of wording ------------------------------------------------------------------

_Made = tuple[str, str, frozenset[str]] | None


def _restyled(chosen: Style, rejected: Style) -> Callable[[State, Split, Random], _Made]:
    """Both replies from the same draws, dressed differently."""

    def make(state: State, split: Split, rng: Random) -> _Made:
        seed = rng.random()
        action = state.spec.actions[0]
        good = compose(state, action, chosen, split, Random(seed))
        bad = compose(state, action, rejected, split, Random(seed))
        if good.text == bad.text or (chosen.reason and not good.style.reason):
            return None
        return good.text, bad.text, good.families | bad.families

    return make


def _inserted(kind: str) -> Callable[[State, Split, Random], _Made]:
    """A good reply, and the same one with sentences of this kind put in."""

    def make(state: State, split: Split, rng: Random) -> _Made:
        good = compose(state, state.spec.actions[0], good_style(state, rng), split, rng)
        item = (state.open_items or state.scenario.items)[0]
        slots = {
            "target": str(item.target_price),
            "mandate": str(item.mandate),
            "stage": state.spec.stage.value,
            "text": good.text,
        }
        extra = [draw("flaws", kind, split, rng, slots)]
        if kind == "frame":
            return good.text, extra[0].text, good.families | extra[0].families
        if kind == "padding":
            extra.append(draw("flaws", kind, split, rng, slots))
        body = Draft(good.text, good.families)
        first = kind == "thought" or (kind == "foreign" and rng.random() < 0.5)
        bad = join([*extra, body] if first else [body, *extra])
        return good.text, bad.text, bad.families

    return make


_PLAIN = Style()
_WORDING: dict[str, Callable[[State, Split, Random], _Made]] = {
    "over_promising": _restyled(Style(caution=True), Style(promise=True)),
    "blunt_pressure": _restyled(_PLAIN, Style(empathy=False, reason=False, pressure=True)),
    "no_empathy": _restyled(_PLAIN, Style(empathy=False)),
    "bare_demand": _restyled(_PLAIN, Style(reason=False)),
    "leaked_internal": _inserted("leak"),
    "leaked_reasoning": _inserted("thought"),
    "mixed_language": _inserted("foreign"),
    "format_breakage": _inserted("frame"),
    "over_long": _inserted("padding"),
}
