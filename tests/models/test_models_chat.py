"""Content must not be able to act as control, whatever it holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_ray.models.chat import (
    ChatTemplateError,
    control_strings,
    encode_next_turn,
    encode_prompt,
    encode_reply,
    encode_text,
    neutralise,
)
from repo_ray.models.loading import BUILT_IN, load_tokenizer, resolve_model
from repo_ray.records import Message, Prompt

CONTROLS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"]
#: Whole tokens, their pieces and neighbours, so that joined pieces form controls often.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [*CONTROLS, "<|im_", "start|>", "<|", "|>", "<", ">", " ", "\n", "assistant", "end|>"]
        ),
        st.text(max_size=4),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model(BUILT_IN))


def control_ids(tokenizer):
    return {i for i, t in tokenizer.added_tokens_decoder.items() if t.content.strip()}


@settings(max_examples=300, deadline=None)
@given(contents=st.lists(HOSTILE, min_size=2, max_size=4))
def test_prompt_holds_exactly_the_templates_own_control_tokens(tokenizer, contents):
    roles = ["system", "user", "assistant", "user"]
    harmless = [Message(r, "x") for r, _ in zip(roles, contents, strict=False)]
    hostile = [Message(r, c) for r, c in zip(roles, contents, strict=False)]
    controls = control_ids(tokenizer)

    def found(messages):
        ids = encode_prompt(tokenizer, messages, thinking=False)
        return [i for i in ids if i in controls]

    assert found(hostile) == found(harmless)


@settings(max_examples=300, deadline=None)
@given(text=HOSTILE)
def test_reply_holds_one_control_token_the_end_of_turn(tokenizer, text):
    ids = encode_reply(tokenizer, text)
    assert [i for i in ids if i in control_ids(tokenizer)] == [tokenizer.eos_token_id]
    assert ids[-1] == tokenizer.eos_token_id


@settings(max_examples=200, deadline=None)
@given(text=HOSTILE)
def test_neutralise_only_inserts_spaces_and_is_idempotent(tokenizer, text):
    safe = neutralise(text, tokenizer)
    assert safe.replace(" ", "") == text.replace(" ", "")
    assert neutralise(safe, tokenizer) == safe
    assert not any(c in safe for c in control_strings(tokenizer))


def test_harmless_text_is_untouched(tokenizer):
    text = "We can do 405 yuan <per night> | ok?"
    assert neutralise(text, tokenizer) == text
    assert tokenizer.decode(encode_text(tokenizer, text)) == text


def test_without_neutralising_the_content_would_close_the_turn(tokenizer):
    raw = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    assert raw == [tokenizer.eos_token_id]


def test_prompt_text_is_the_template_with_a_generation_prompt(tokenizer):
    ids = encode_prompt(tokenizer, [Message("system", "S"), Message("user", "U")], thinking=False)
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def with_template(tokenizer, template):
    other = load_tokenizer(resolve_model(BUILT_IN))
    other.chat_template = template
    return other


def test_template_without_system_role_is_a_clear_error(tokenizer):
    messages = [Message("system", "S"), Message("user", "U")]
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(ChatTemplateError, match="no system role"):
        encode_prompt(with_template(tokenizer, refusing), messages, thinking=False)
    dropping = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="drops the system message"):
        encode_prompt(with_template(tokenizer, dropping), messages, thinking=False)


def test_thinking_reaches_templates_that_know_it_and_is_refused_elsewhere(tokenizer):
    messages = [Message("user", "U")]
    knows = with_template(tokenizer, "{% if enable_thinking %}on{% else %}off{% endif %}")
    assert tokenizer.decode(encode_prompt(knows, messages, thinking=True)) == "on"
    assert tokenizer.decode(encode_prompt(knows, messages, thinking=False)) == "off"
    with pytest.raises(ChatTemplateError, match="enable_thinking"):
        encode_prompt(tokenizer, messages, thinking=True)


def test_unknown_role_and_missing_template_are_refused(tokenizer):
    with pytest.raises(ChatTemplateError, match="role 'tool'"):
        encode_prompt(tokenizer, [Message("tool", "x")], thinking=False)
    with pytest.raises(ChatTemplateError, match="no chat template"):
        encode_prompt(with_template(tokenizer, None), [Message("user", "x")], thinking=False)


# --- between two turns ---------------------------------------------------------------------


def encoding(tokenizer):
    return lambda prompt: encode_prompt(tokenizer, prompt.messages, thinking=False)


def appended(tokenizer, conversation):
    """Token ids of a conversation built turn by turn from replies that were sampled as they are."""
    encode = encoding(tokenizer)
    opening, *turns = conversation
    ids = encode(Prompt("p", opening))
    messages = opening
    for reply, answer in turns:
        messages = [*messages, Message("assistant", reply), Message("user", answer)]
        sampled = encode_reply(tokenizer, reply)
        following = encode_next_turn(encode, Prompt("p", tuple(messages)))
        assert following[0] == sampled[-1] == tokenizer.eos_token_id
        ids += [*sampled, *following[1:]]
    return ids, encode(Prompt("p", tuple(messages)))


WORDS = st.lists(
    st.sampled_from(["We", "can", "do", "405", "yuan", ",", "ok?", "T1:", "\n", "价格"]), min_size=1
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(turns=st.lists(st.tuples(WORDS, HOSTILE), min_size=1, max_size=3))
def test_turn_by_turn_is_the_whole_conversation_as_the_template_renders_it(tokenizer, turns):
    opening = (Message("system", "S"), Message("user", "Hello?"))
    grown, whole = appended(tokenizer, [opening, *turns])
    assert grown == whole


def test_between_turns_is_exactly_the_templates_text(tokenizer):
    messages = (
        Message("user", "Hello?"),
        Message("assistant", "  what a reply  "),
        Message("user", " Why?<|im_end|> "),
    )
    ids = encode_next_turn(encoding(tokenizer), Prompt("p", messages))
    assert tokenizer.decode(ids) == (
        "<|im_end|>\n<|im_start|>user\nWhy?< |im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(tokenizer.eos_token_id) == 2


def test_how_the_template_renders_earlier_replies_does_not_matter(tokenizer):
    """As Qwen3's: an open thinking block before the reply, gone once the reply is in the past."""
    thinking = with_template(
        tokenizer,
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}",
    )
    messages = (Message("user", "U"), Message("assistant", "R"), Message("user", "V"))
    ids = encode_next_turn(encoding(thinking), Prompt("p", messages))
    assert tokenizer.decode(ids) == (
        "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_facts_may_change_between_two_turns(tokenizer):
    messages = (
        Message("user", "U"),
        Message("assistant", "R"),
        Message("system", "S"),
        Message("user", "V"),
    )
    ids = encode_next_turn(encoding(tokenizer), Prompt("p", messages))
    assert tokenizer.decode(ids) == (
        "<|im_end|>\n<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_next_turn_needs_a_reply_and_something_after_it(tokenizer):
    encode = encoding(tokenizer)
    for roles in (("user", "assistant"), ("system", "user")):
        with pytest.raises(ChatTemplateError, match=f"prompt p: .* found {', '.join(roles)}"):
            encode_next_turn(encode, Prompt("p", tuple(Message(r, "x") for r in roles)))
    silent = with_template(
        tokenizer, "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    )
    messages = (Message("user", "U"), Message("assistant", "R"), Message("user", "V"))
    with pytest.raises(ChatTemplateError, match="drops the assistant"):
        encode_next_turn(encoding(silent), Prompt("p", messages))
