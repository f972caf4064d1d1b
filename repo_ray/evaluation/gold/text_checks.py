"""Checks that need no facts: language, shape, repetition, copying, tone."""

# ruff: noqa: SIM905 (word lists read better as text)

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from repo_ray.evaluation.gold.acts import split_sentences
from repo_ray.evaluation.gold.address_checks import labels, speaks_to_judge
from repo_ray.evaluation.gold.verdict import Issue, Severity
from repo_ray.records import Message

#: Common function words: about two in five words of spoken English, nearly none of a keyword list.
_FUNCTION = frozenset(
    "a an the i me my we us our you your it its he she they them their this that these those "
    "is are was were be been am do does did have has had can could will would shall should "
    "may might must to of in on at by for from with as and or but if so than then not no "
    "there here what which who when how just also very about up down out over into let's i'm "
    "i'll we're we'll you're it's that's don't can't i'd we'd you'd".split()
)
_FREQUENT = frozenset(("the", "you", "is", "to"))
#: Function words of Spanish, French, German, Portuguese and Italian that are no English words.
_OTHER_LANGUAGES = frozenset(
    "por favor que los las una para pero gracias usted señor muy con est nous vous merci pour "
    "avec une dans und nicht ist bitte danke sie wir der das ein mit für obrigado não você "
    "grazie sono della che il gli sehr auch ich".split()
)
_LOAN_WORDS = frozenset({"café", "cafés", "naïve", "décor", "à", "fiancé", "fiancée", "cliché"})
#: A line that stops on one of these was cut off.
_OPEN_ENDED = frozenset(
    "a an the my our your to of in on at by for from with as and or but if so than that which "
    "who is are was were be can could will would should may might i we you not very this".split()
)
_MARKUP = re.compile(
    r"```|^\s{0,3}#{1,6}\s|\*\*|^\s*[-*•]\s+\S|^\s*\d+[.)]\s+\S|</?[a-z][^>]{0,40}>|<\||\|>|^\s*[{\[]\s*[\"{]|\|\s*-{2,}",
    re.MULTILINE | re.IGNORECASE,
)
_ROLE_LABEL = re.compile(
    r"^\s*(?:(?:hotel|hotelier|manager|hotel manager|front desk|user|human|customer|owner|"
    r"system|agent|assistant|bd|me|you|ai|seller|buyer|negotiator|caller|speaker|guest|client|rep(?:resentative)?|platform|reply|response|answer)(?: \w+)?)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_LETTER = re.compile(
    r"^\s*(?:subject:|dear (?:sir|madam|hotel|mr|ms|\[|manager|\w+,))|\b(?:best|kind|warm) regards\b|"
    r"\bsincerely\b|\byours (?:truly|faithfully)\b",
    re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER = re.compile(
    r"\[[A-Z][^\]\d]{1,30}\]|\{\w+\}|<[a-z_ ]+>|_{3,}|\bXX+\b|\binsert \w+ here\b", re.IGNORECASE
)
_REASONING = re.compile(
    r"^\s*(?:reasoning|thoughts?|analysis|plan|note|strategy|thinking)\s*:|</?think\w*>|\b(?:let me think (?:step|about how)|the user (?:is|wants|said)|as an ai|"
    r"language model|i need to (?:respond|reply|generate|write)|my instructions?|the (?:system )?prompt|"
    r"(?:the|this) (?:hotelier|hotel manager) (?:is|was|seems|says|said|wants|does|has)|"
    r"(?:so|now|then|first),? i (?:should|must|need to|have to) (?!thank|say|be honest)|my (?:goal|plan|strategy|task) (?:is|here)|the stage is|next,? i (?:should|must|need to|have to)|"
    r"follow the (?:procedure|script|steps|process|instructions?)|"
    r"here(?:'s| is) (?:a|my|the) (?:possible |polite |draft )?(?:reply|response|answer)|step (?:1|one|two))\b",
    re.IGNORECASE,
)


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, apostrophes kept."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.lower().replace("’", "'"))


def text_issues(reply: str, messages: Sequence[Message]) -> list[Issue]:
    """All text-level findings; an empty reply has only that one."""
    if not words_of(reply):
        return [Issue("empty", "severe", "the reply has no words")]
    return [
        *_shape(reply),
        *_scripts(reply, messages),
        *_repetition(reply),
        *_ending(reply),
        *(_density(reply) if in_english(messages) else ()),
        *_copying(reply, messages),
    ]


def in_english(messages: Sequence[Message]) -> bool:
    """False where the conversation has two function words of another language and no frequent
    English one."""
    spoken = {w for m in messages for w in words_of(m.content)}
    return bool(spoken & _FREQUENT) or len(spoken & _OTHER_LANGUAGES) < 2


def _shape(reply: str) -> Iterator[Issue]:
    if words := speaks_to_judge(reply):
        yield Issue("addresses_judge", "severe", f"speaks of or to a judge: {words!r}")
    if labels(reply) >= 3:
        yield Issue("keyword_list", "major", "labelled parts, not a spoken line")
    if _REASONING.search(reply):
        yield Issue("reasoning_shown", "severe", "shows its own reasoning or instructions")
    if _MARKUP.search(reply):
        yield Issue("markup", "major", "markup in a spoken line")
    if _ROLE_LABEL.search(reply):
        yield Issue("speaks_for_hotelier", "major", "carries speaker labels, as a transcript would")
    if _LETTER.search(reply):
        yield Issue("markup", "major", "written as a letter, not spoken")
    if match := _PLACEHOLDER.search(reply):
        yield Issue("placeholder", "major", f"unfilled placeholder {match.group()!r}")
    count = len(words_of(reply))
    if count > 120:
        yield Issue("over_long", "major", f"{count} words in one turn")
    elif count > 75:
        yield Issue("over_long", "minor", f"{count} words in one turn")


def _scripts(reply: str, messages: Sequence[Message]) -> Iterator[Issue]:
    known = {s for m in messages for s in scripts_of(m.content)}
    extra = Counter(scripts_of(reply))
    foreign = sorted(s for s in extra if s not in known) if known else []
    if foreign:
        yield Issue("foreign_script", "major", f"{', '.join(foreign)} in a conversation without it")
    odd = sum(
        unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs") and c not in "\n\t\r" for c in reply
    )
    if borrowed := _borrowed(reply, messages):
        yield Issue("foreign_script", "major", f"another language: {', '.join(borrowed)}")
    if odd or "\ufffd" in reply:
        yield Issue("garbled", "major", "control or undecodable characters")


def _borrowed(reply: str, messages: Sequence[Message]) -> list[str]:
    """Words of another language in Latin script: two of its function words, or accented ones.

    Capitalised accented words are names. Words that the conversation uses are not foreign to it.
    """
    spoken = {w for m in messages for w in words_of(m.content)}
    if not spoken & _FREQUENT:
        return []
    own = set(words_of(reply)) - spoken
    foreign = sorted(own & _OTHER_LANGUAGES)
    accented = [
        w
        for w in re.findall(r"[^\W\d_]+", reply)
        if w.islower() and w not in spoken and w not in _LOAN_WORDS and any(_accented(c) for c in w)
    ]
    return [*foreign, *accented] if accented or len(foreign) >= 2 else []


def _accented(char: str) -> bool:
    return not char.isascii() and unicodedata.name(char, "").startswith("LATIN")


def scripts_of(text: str) -> list[str]:
    """Writing system per letter, as the first word of its Unicode name (LATIN, CJK, HIRAGANA)."""
    return [unicodedata.name(c, "UNNAMED").split()[0].split("-")[0] for c in text if c.isalpha()]


def _repetition(reply: str) -> Iterator[Issue]:
    words = words_of(reply)
    sentences = [" ".join(words_of(s)) for s in split_sentences(reply)]
    repeated = [s for s, n in Counter(sentences).items() if n > 1 and len(s.split()) > 2]
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    top = trigrams.most_common(1)[0] if trigrams else (("", "", ""), 0)
    distinct = len(set(itertools.pairwise(words))) / max(len(words) - 1, 1)
    if repeated:
        yield Issue("repetition", "major", f"says twice: {repeated[0]!r}")
    elif top[1] >= 4 or (len(words) >= 20 and distinct < 0.75):
        yield Issue("repetition", "major", f"keeps repeating {' '.join(top[0])!r}")
    if re.search(r"\b(\w{2,})(?:\s+\1\b){2,}", reply.lower()) or re.search(
        r"([^\s.\d_-])\1{4,}", reply
    ):
        yield Issue("garbled", "major", "the same word or character over and over")


def _ending(reply: str) -> Iterator[Issue]:
    text = reply.rstrip().rstrip("\"'”’)»")
    if text.endswith((".", "!", "?", "…", "。", "！", "？", "～", "~")):
        return
    last = words_of(text)[-1] if words_of(text) else ""
    if last in _OPEN_ENDED or text.endswith((",", ";", ":", "-", "¥", "(", "，")):
        yield Issue("unfinished", "major", f"stops mid-sentence at {text[-20:]!r}")
    else:
        tail = split_sentences(reply)[-1]
        # Spoken lines often lack the last mark; a long unclosed tail is a cut.
        severity: Severity = "major" if len(words_of(tail)) > 18 else "minor"
        yield Issue("unfinished", severity, "no closing punctuation")


def _density(reply: str) -> Iterator[Issue]:
    words = words_of(reply)
    latin = [w for w in words if w.isascii() and not w.isdigit()]
    if len(latin) < 8:
        return
    share = sum(w in _FUNCTION for w in latin) / len(latin)
    if share < 0.2:
        yield Issue(
            "keyword_list", "major", f"a list of words, not sentences ({share:.0%} function words)"
        )
        return
    for sentence in split_sentences(reply):
        own = [w for w in words_of(sentence) if w.isascii() and not w.isdigit()]
        if len(own) >= 10 and sum(w in _FUNCTION for w in own) / len(own) < 0.1:
            yield Issue("keyword_list", "major", f"a string of keywords: {sentence[:50]!r}")
            return


def _copying(reply: str, messages: Sequence[Message]) -> Iterator[Issue]:
    mine = words_of(reply)
    system = [m.content for m in messages if m.role == "system"]
    hotelier = [m.content for m in messages if m.role == "user"]
    own = [m.content for m in messages if m.role == "assistant"]
    if (share := copied_share(mine, system, 5)) > 0.35:
        yield Issue("prompt_echo", "major", f"{share:.0%} copied from the instructions")
    if (share := copied_share(mine, hotelier, 4)) > 0.5:
        yield Issue("hotelier_echo", "major", f"{share:.0%} repeats the hotelier's words")
    if (share := copied_share(mine, own, 4)) > 0.5:
        severity: Severity = "major" if share > 0.75 else "minor"
        yield Issue("script_repeat", severity, f"{share:.0%} repeats what the agent said before")


def copied_share(words: Sequence[str], sources: Sequence[str], n: int) -> float:
    """Share of the n-grams of `words` found in any source; 0 for fewer than n + 2 words."""
    if len(words) < n + 2:
        return 0.0
    known = {g for s in sources for g in _grams(words_of(s), n)}
    grams = list(_grams(words, n))
    return sum(g in known for g in grams) / len(grams)


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)
