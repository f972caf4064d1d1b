"""From chat messages to token ids, with nothing in the content able to act as control.

A hotelier's message or a model's reply may contain the text of a control token such as
`<|im_end|>`. Tokenised as it stands, it would close the turn. `neutralise` breaks every such
text with a space before content reaches the chat template, so that the only control tokens
in a prompt are the template's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from repo_ray.records import Message, Prompt

ROLES = ("system", "user", "assistant")


class ChatTemplateError(ValueError):
    """The messages cannot be put into this tokenizer's chat template."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, thinking: bool
) -> list[int]:
    """Token ids of a conversation that ends where the assistant's reply begins.

    `thinking` goes to templates that know `enable_thinking` (Qwen3). Raises
    `ChatTemplateError` for unknown roles, for a template that refuses or drops the messages
    (some have no system role), and for `thinking` where the template has no such switch.
    """
    template = tokenizer.chat_template
    if not template:
        raise ChatTemplateError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
    switch = "enable_thinking" in str(template)
    if thinking and not switch:
        raise ChatTemplateError(
            f"{tokenizer.name_or_path}: model.thinking is on, but the chat template has no enable_thinking"
        )
    options: dict[str, Any] = {"enable_thinking": thinking} if switch else {}
    turns = []
    for message in messages:
        if message.role not in ROLES:
            raise ChatTemplateError(f"role {message.role!r}: expected one of {', '.join(ROLES)}")
        turns.append(
            {"role": message.role, "content": neutralise(message.content, tokenizer).strip()}
        )
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        raise ChatTemplateError(
            f"{tokenizer.name_or_path}: the chat template refuses these messages "
            f"({', '.join(t['role'] for t in turns)}): {error}"
        ) from None
    for turn in turns:
        if turn["role"] == "system" and turn["content"] not in text:
            raise ChatTemplateError(
                f"{tokenizer.name_or_path}: the chat template drops the system message"
            )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_next_turn(encode: Callable[[Prompt], list[int]], prompt: Prompt) -> list[int]:
    """Token ids from the end of the last reply to where the next one begins, as the chat
    template renders them: the end of the assistant's turn, the messages after it, the header.

    `prompt` has at least one message after the last reply; `encode` gives a prompt's token ids
    (`encode_prompt`). They are what two conversations that differ in that reply alone end with,
    so the text of the reply is never tokenised, and it does not matter how the template renders
    what was before (Qwen3's drops the thinking of earlier replies). Raises `ChatTemplateError` for
    a prompt without them, and for a template that drops replies.
    """
    messages = prompt.messages
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=len(messages))
    if last >= len(messages) - 1:
        raise ChatTemplateError(
            f"prompt {prompt.prompt_id}: expected a reply and at least one message after it, found "
            f"{', '.join(m.role for m in messages)}"
        )
    one, other = (
        encode(
            replace(
                prompt,
                messages=(*messages[:last], Message("assistant", text), *messages[last + 1 :]),
            )
        )
        for text in ("a", "b")
    )
    pairs = takewhile(
        lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other), strict=False)
    )
    ending = [token for token, _ in pairs]
    if len(ending) == len(one):
        raise ChatTemplateError("the chat template drops the assistant's earlier replies")
    return ending[::-1]


def encode_reply(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an assistant's reply, ended by the end-of-turn token."""
    return [*encode_text(tokenizer, text.strip()), tokenizer.eos_token_id]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of plain text: no control token among them, none added."""
    return tokenizer(neutralise(text, tokenizer), add_special_tokens=False)["input_ids"]


def neutralise(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """`text` with a space inside every control token's text, so that none is left.

    Repeats until nothing changes, since breaking one text may leave another around it.
    """
    controls = control_strings(tokenizer)
    if not any(control in text for control in controls):
        return text
    pattern = re.compile("|".join(map(re.escape, controls)))
    while pattern.search(text):
        text = pattern.sub(_break, text)
    return text


def control_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that the tokenizer turns into control tokens, longest first.

    All added tokens count, special or not (`<think>` is not), except runs of whitespace.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    texts = added | set(tokenizer.all_special_tokens)
    return sorted((t for t in texts if t.strip()), key=lambda t: (-len(t), t))


def _break(match: re.Match[str]) -> str:
    text = match.group()
    return f"{text[0]} {text[1:]}" if len(text) > 1 else ""
