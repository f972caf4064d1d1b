"""Builds the refund desk's data sets from `phrases.yaml`: the same phrases give the same bytes.

Run it after every change of a phrase: `python jobs/configs/refund/build.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PHRASES = yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8"))
CASES: dict[str, Any] = PHRASES["cases"]

#: Article (nominative, accusative), `my`, pronoun (nominative, accusative) by gender.
FORMS = {
    "m": ("der", "den", "Mein", "er", "ihn"),
    "f": ("die", "die", "Meine", "sie", "sie"),
    "n": ("das", "das", "Mein", "es", "es"),
}
GENDERS = {name: gender for name, gender, _ in PHRASES["goods"] + PHRASES["heldout_goods"]}

#: Rows for training and held out. Verdicts have several replies to each of so many prompts.
PROMPTS, SFT, JUDGED = (96, 24), (56, 8), (32, 8)
#: Pairs by what is wrong with the rejected reply; a quarter of each is held out.
PAIRS = {"amount": 24, "date": 20, "days": 8, "promise": 12, "blame": 10, "informal": 8}
PAIRS |= {"english": 6, "off_topic": 8}
#: Which parts of the good reply the rejected one keeps before its own. In the other pairs both have
#: the same words, and the rejected one has another number.
KEPT = {"promise": (0, 1), "blame": (1,), "off_topic": (0,), "informal": (), "english": ()}
#: Parts of the judged replies. Each label is the presence of one part.
JUDGED_PARTS = (
    *(("warm", "decision", "step"), ("plain", "decision", "blame")),
    *(("warm", "off_topic"), ("decision", "step", "promise")),
    *(("plain", "decision", "step"), ("warm", "decision", "promise")),
    *(("plain", "off_topic"), ("decision", "step", "blame")),
    *(("plain", "decision"), ("warm", "decision")),
    *(("plain", "off_topic", "promise"), ("off_topic", "blame")),
)
REPLIES_PER_PROMPT = 4
LABELS = {
    "addresses_request": "decision",
    "shows_understanding": "warm",
    "names_next_step": "step",
    "promises_too_much": "promise",
    "blames_customer": "blame",
}

Row = dict[str, Any]
Facts = dict[str, Any]


class Writer:
    """Draws customers, facts and phrases. Held-out rows have goods and phrases of their own."""

    def __init__(self, rng: random.Random, heldout: bool) -> None:
        self._rng, self._heldout = rng, heldout

    def row(self, prompt_id: str, case: str, follow_up: bool = False) -> Row:
        """A row without a reply. `context` holds the facts that rules check."""
        facts = self._facts(case)
        talk = [("system", PHRASES["system"]), ("user", self._pick(CASES[case]["asks"]))]
        if follow_up:
            talk.append(("assistant", self._pick(PHRASES["first_answers"])))
            talk.append(("user", self._pick(PHRASES["follow_ups"])))
        return {
            "prompt_id": prompt_id,
            "messages": [{"role": role, "content": say([text], facts)} for role, text in talk],
            "context": facts,
            "family": case,
            "split": "heldout" if self._heldout else "train",
        }

    def parts(self, case: str, names: Sequence[str]) -> list[str]:
        """A phrase, not filled in yet, for each part of a reply."""
        own = {"decision": CASES[case]["decisions"], "step": PHRASES["steps"][CASES[case]["steps"]]}
        return [self._pick(own.get(name) or PHRASES[name]) for name in names]

    def good(self, case: str) -> list[str]:
        return self.parts(case, (self._rng.choice(("warm", "plain")), "decision", "step"))

    def wrong(self, facts: Facts, defect: str, parts: Sequence[str]) -> Facts:
        """The facts with one of them wrong; a wrong refund is the amount paid where that differs."""
        if defect == "days":
            other = [d for d in (3, 5, 7, 10, 14) if d != facts["days"]]
            return {**facts, "days": self._rng.choice(other)}
        if defect == "date":
            shift = timedelta(days=self._rng.choice((-7, -3, -2, 4, 6, 10, 21)))
            return {**facts, "deadline": str(date.fromisoformat(facts["deadline"]) + shift)}
        names_paid = any("{bezahlt}" in part for part in parts)
        if facts["refund"] != facts["paid"] and not names_paid:
            return {**facts, "refund": facts["paid"]}
        shift = self._rng.choice((-10, -5, 5, 10, 20))
        return {**facts, "refund": round(facts["refund"] + shift, 2)}

    def _facts(self, case: str) -> Facts:
        rng = self._rng
        goods = PHRASES["heldout_goods" if self._heldout else "goods"]
        name, _, price = rng.choice(goods)
        price = round(price + 2 * rng.randrange(6), 2)
        paid, refund = price, price
        if case == "part":
            paid = round(price + rng.choice((19.9, 24.5, 38.0, 59.95, 72.0)), 2)
        elif case == "used":
            refund = round(price * rng.choice((0.7, 0.8, 0.9)), 2)
        elif case == "late":
            refund = 0.0
        deadline = date(2025, 3, 3) + timedelta(days=rng.randrange(200))
        deadline += timedelta(days=deadline.weekday() == 6)  # never a Sunday
        return {
            "case": case,
            "order": str(rng.randrange(10_000, 100_000)),
            "goods": name,
            "paid": paid,
            "refund": refund,
            "deadline": str(deadline),
            "days": rng.choice((3, 5, 7, 10)) if CASES[case]["steps"] == "return" else None,
        }

    def _pick(self, phrases: Sequence[str]) -> str:
        return phrases[-1] if self._heldout else self._rng.choice(phrases[:-1])


def say(parts: Sequence[str], facts: Facts) -> str:
    """The phrases with everything filled in."""
    der, den, mein, er, ihn = FORMS[GENDERS[facts["goods"]]]
    case, days = CASES[facts["case"]], facts["days"]
    return " ".join(parts).format(
        der=der,
        den=den,
        Der=der.capitalize(),
        er=er,
        ihn=ihn,
        Mein=mein,
        ware=facts["goods"],
        nr=facts["order"],
        betrag=_euros(facts["refund"]),
        bezahlt=_euros(facts["paid"]),
        frist=date.fromisoformat(facts["deadline"]).strftime("%d.%m.%Y"),
        fristname=case["fristname"],
        tage=days,
        auszahlung=f"Auszahlung: {days} Werktage nach Eingang. " if days else "",
        stand=case["stand"],
    )


def prompts() -> list[Row]:
    """Every fifth prompt is the second question of a conversation."""
    return [w.row(f"p{n:03d}", case, n % 5 == 4) for n, case, w in _each("prompts", PROMPTS)]


def sft() -> list[Row]:
    rows = []
    for number, case, writer in _each("sft", SFT):
        row = writer.row(f"s{number:03d}", case)
        rows.append({**row, "reply": say(writer.good(case), row["context"])})
    return rows


def preferences() -> list[Row]:
    plan = [
        (defect, heldout)
        for defect, count in PAIRS.items()
        for heldout in (False, True)
        for _ in range(count // 4 if heldout else count - count // 4)
    ]
    rng = random.Random("preferences")
    rows = []
    for number, (defect, heldout) in enumerate(plan):
        able = [c for c in CASES if _can_show(c, defect)]
        case, writer = able[number % len(able)], Writer(rng, heldout)
        row = writer.row(f"w{number:03d}", case)
        facts, good = row["context"], writer.good(case)
        if defect not in KEPT:
            rejected = say(good, writer.wrong(facts, defect, good))
        else:
            kept = [good[part] for part in KEPT[defect]]
            rejected = say([*kept, *writer.parts(case, [defect])], facts)
        rows.append({**row, "chosen": say(good, facts), "rejected": rejected, "defect": defect})
    return rows


def verdicts() -> list[Row]:
    rows = []
    groups = len(JUDGED_PARTS) // REPLIES_PER_PROMPT
    for number, case, writer in _each("verdicts", JUDGED):
        row = writer.row(f"u{number:03d}", case)
        group = (number + number // len(CASES)) % groups  # no case has always the same replies
        start = group * REPLIES_PER_PROMPT
        for names in JUDGED_PARTS[start : start + REPLIES_PER_PROMPT]:
            reply = say(writer.parts(case, names), row["context"])
            labels = {label: part in names for label, part in LABELS.items()}
            rows.append({**row, "reply": reply, "labels": labels})
    return rows


def build() -> dict[str, str]:
    """The text of every data set by its file name."""
    return {
        f"{make.__name__}.jsonl": "".join(
            json.dumps(row, ensure_ascii=False) + "\n" for row in make()
        )
        for make in (prompts, preferences, sft, verdicts)
    }


def _each(name: str, counts: tuple[int, int]) -> list[tuple[int, str, Writer]]:
    """Number, case and writer of each row: training rows, then held-out ones."""
    rng, kinds = random.Random(name), list(CASES)
    train, heldout = counts
    return [
        (number, kinds[number % len(kinds)], Writer(rng, number >= train))
        for number in range(train + heldout)
    ]


def _can_show(case: str, defect: str) -> bool:
    """A late return has no refund to be wrong about; only returns have a number of days."""
    if defect == "days":
        return CASES[case]["steps"] == "return"
    return case != "late" or defect not in ("amount", "informal", "english")


def _euros(amount: float) -> str:
    return f"{amount:.2f} Euro".replace(".", ",")


if __name__ == "__main__":
    for file, text in build().items():
        (HERE / file).write_text(text, encoding="utf-8")
