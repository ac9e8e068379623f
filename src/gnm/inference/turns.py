"""Several turns of a conversation as one prompt after a prefix that begins it."""

from collections.abc import Sequence

from gnm.inference.chat import ChatFormat

_MARKS = ("SENTINELOFFIRST", "SENTINELOFANSWER", "SENTINELOFNEXT")


def turns_prompt(chat: ChatFormat, turns: Sequence[str]) -> list[int]:
    """Ids of `turns`, of user and assistant in turn, from the first user's text up to where the next answer starts.

    The prefix holds what stands before the first text (`chat.preamble`). With one turn it is the prompt of a request.
    """
    between = _between(chat) if len(turns) > 1 else []
    prompt = chat.encode(turns[0]) + chat.tail
    for answer, request in zip(turns[1::2], turns[2::2], strict=True):
        prompt += chat.encode(answer) + between + chat.encode(request) + chat.tail
    return prompt


def _between(chat: ChatFormat) -> list[int]:
    """Ids that the template writes between an answer and the user's next text; without a template two line breaks."""
    tokenizer = chat.tokenizer
    if not tokenizer.chat_template:
        return chat.encode("\n\n")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, _MARKS, strict=True)]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    text = rendered.split(_MARKS[1])[1].split(_MARKS[2])[0]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
