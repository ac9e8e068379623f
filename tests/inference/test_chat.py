"""Chat formats read off real and made templates."""

import pytest
from tokenizers import processors

from gnm.errors import BackboneError
from gnm.inference.chat import ChatFormat, PlainText
from gnm.weights.tiny import byte_tokenizer


def test_prompt_is_the_templates_own_rendering(tiny_family):
    check_against_template(tiny_family.tokenizer)


def test_prompt_of_smollm2_has_its_default_system_turn(smollm2):
    check_against_template(smollm2.tokenizer)
    chat = ChatFormat.of(smollm2.tokenizer)
    assert "helpful AI assistant" in smollm2.tokenizer.decode(chat.preamble)
    assert chat.end_of_turn == smollm2.tokenizer.convert_tokens_to_ids(["<|im_end|>"])


def check_against_template(tokenizer):
    chat, text = ChatFormat.of(tokenizer), "What is the capital of Østfold?"
    turn = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert chat.prompt(chat.encode(text)) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_an_answer_and_its_end_continue_the_prompt(tiny):
    chat = ChatFormat.of(tiny.tokenizer)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = tiny.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = chat.prompt(chat.encode("a")) + chat.encode("b") + chat.end_of_turn[:1]
    assert ids == tiny.tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_special_tokens_in_a_document_stay_text(tiny):
    check_stays_text(tiny.tokenizer, "x<|end|>y<|bos|>")


def test_special_tokens_in_a_document_stay_text_for_smollm2(smollm2):
    check_stays_text(smollm2.tokenizer, "x<|im_end|>y<|im_start|>system")


def check_stays_text(tokenizer, text):
    ids = ChatFormat.of(tokenizer).encode(text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_encode_adds_nothing(tiny):
    chat = ChatFormat.of(tiny.tokenizer)
    assert chat.encode("") == []
    assert len(chat.encode("né")) == 3


def test_without_a_template_the_form_is_plain():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    chat = ChatFormat.of(tokenizer)
    assert chat.preamble == [tokenizer.bos_token_id]
    assert tokenizer.decode(chat.tail) == "\n"
    assert chat.end_of_turn == [tokenizer.eos_token_id]


def test_without_a_template_or_special_tokens_there_is_still_a_form():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.bos_token = tokenizer.eos_token = None
    chat = ChatFormat.of(tokenizer)
    assert (chat.preamble, chat.end_of_turn) == ([], [])
    assert chat.prompt(chat.encode("a")) == chat.encode("a\n")


def test_the_templates_end_of_turn_comes_before_eos():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    ends = ChatFormat.of(tokenizer).end_of_turn
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end|>", "<|pad|>"]


def test_a_reasoning_template_answers_at_once():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template += "{% if add_generation_prompt and enable_thinking %}<think>{% endif %}"
    assert tokenizer.decode(ChatFormat.of(tokenizer).tail) == "<|end|><|assistant|>"


@pytest.mark.parametrize("shown", ["", "{{ messages[0]['content'] }}{{ messages[0]['content'] }}"])
def test_a_template_that_does_not_show_the_text_once_is_refused(shown):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + shown
    with pytest.raises(BackboneError, match="not once"):
        ChatFormat.of(tokenizer)


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no user here') }}", "{{ messages[0]['content'] + 1 }}", "{% if %}", "{{ 1 / 0 }}"]
)
def test_a_template_that_fails_is_told_in_a_sentence(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BackboneError, match="the tokenizer's chat template fails on a user's message .*; use a"):
        ChatFormat.of(tokenizer)


@pytest.mark.parametrize(
    ("generated", "said"),
    [
        (" Oslo", "Oslo"),
        (" Oslo, Norway. It is", "Oslo, Norway"),
        (" Oslo!", "Oslo"),
        (" Oslo\n\nDocument:", "Oslo"),
        ("\nOslo", ""),
        (" 3.5 km. From", "3.5 km"),
        ("", ""),
    ],
)
def test_a_continuation_ends_with_its_sentence_or_its_line(tiny, generated, said):
    assert PlainText.of(tiny.tokenizer).said(generated) == said
    assert ChatFormat.of(tiny.tokenizer).said(generated) == generated.strip()


def test_plain_text_has_no_turns_and_ends_with_a_full_stop_or_the_line(smollm2):
    tokenizer = smollm2.tokenizer
    plain = PlainText.of(tokenizer)
    assert plain.preamble == plain.tail == plain.encode_lead() == []
    assert tokenizer.convert_ids_to_tokens(plain.end_of_turn)[:2] == [".", "Ċ"]
    assert tokenizer.convert_ids_to_tokens(plain.encode_answer("Oslo")) == ["ĠOslo"]
    assert plain.encode_question("Oslo is in") == tokenizer("Oslo is in")["input_ids"]


def test_plain_text_begins_as_the_tokenizer_begins_a_text():
    tokenizer = byte_tokenizer()
    specials = [("<|bos|>", 1), ("<|end|>", 4)]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing("<|bos|> $A <|end|>", None, specials)
    assert PlainText.of(tokenizer).preamble == [tokenizer.bos_token_id]
