"""Asking a memory: questions, free requests, scores of answers. `gnm.conversation` writes it.

The memory stays as it is. A long-term store alone counts what questions find in it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnm.errors import ConfigError, DataError
from gnm.inference.cache import generate_inputs
from gnm.inference.generation import decode_stream, generate_tokens, generation_config
from gnm.inference.scoring import Score, answer_pairs, score
from gnm.learners.memory import MemoryLearner
from gnm.models.projected import Memory
from gnm.texts import check_text, checked_texts

SAY = "say what the model is to do"


class Asking:
    """A model and one memory that it answers from.

    memory.ask("Oslo lies on a")
    "".join(memory.generate("Tell me of Oslo.", max_new_tokens=32))
    """

    def __init__(self, learner: MemoryLearner, memory: Memory):
        self._learner, self._memory = learner, memory

    def ask(self, phrase: str, max_new_tokens: int = 16) -> str:
        """The answer to a question ("What is the capital of France?") or the continuation of a phrase ("The capital of
        France is"), from memory and the model's own knowledge.

        Raises DataError if there is nothing to answer.
        """
        return self.ask_all([phrase], max_new_tokens)[0]

    @torch.no_grad()
    def ask_all(self, phrases: Sequence[str], max_new_tokens: int = 16) -> list[str]:
        """The answers to several questions or phrases. They are read in one pass, and none of them sees another."""
        phrases = checked_texts(phrases, "phrase", "ask a question, or for the continuation of some words")
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: {max_new_tokens!r} is no number of tokens; give an int from 1 on")
        if max_new_tokens >= (limit := self._learner.reader.decoder.reach):
            raise ConfigError(
                f"max_new_tokens: {max_new_tokens} do not fit into the model's {limit} positions; give fewer"
            )
        answers = self._learner.say(self._memory, [phrases], max_new_tokens)[0]
        self._memory = self._learner.counted(self._memory, [phrases])
        return answers

    def generate(self, request: str, seed: int = 0, **settings: Any) -> Iterator[str]:
        """The answer to a free request, as an iterator over pieces of text.

        settings: those of transformers' GenerationConfig that `gnm.inference.generation.SETTINGS` lists, such as
        max_new_tokens, do_sample, temperature, top_p; the last two with do_sample alone. seed: of the sampling.
        Raises DataError for an empty request and ConfigError for a wrong setting, already at the call.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed: {seed!r} is no seed; give an int from 0 on")
        config, reader, prompt = generation_config(**settings), self._learner.reader, self._prompt(request)
        prefix = self._learner.prefix(self._memory, [request.strip()])
        tokens = generate_tokens(reader.decoder, prefix, prompt, reader.chat.end_of_turn, config, seed)
        return decode_stream(reader.tokenizer, tokens)

    @torch.no_grad()
    def generate_inputs(self, requests: str | Sequence[str]) -> dict[str, Any]:
        """Arguments for transformers' `model.generate`, with which it answers requests from this memory.

            memory.model.generate(**memory.generate_inputs("Who ...?"), max_new_tokens=32, num_beams=4)

        They are good for one call. The memory stays as it is. Raises DataError for an empty request.
        """
        requests = checked_texts([requests] if isinstance(requests, str) else requests, "request", SAY)
        if not requests:
            raise DataError("there is no request; give one text, or a list of them")
        prompts = [self._prompt(request) for request in requests]
        reader, padding = self._learner.reader, self.tokenizer.pad_token_id
        ends, pad = reader.chat.end_of_turn, 0 if padding is None else padding
        inputs = generate_inputs(reader.decoder, self._learner.prefix(self._memory, requests), prompts, pad)
        return {**inputs, "eos_token_id": ends or None, "pad_token_id": pad}

    @torch.no_grad()
    def score(self, request: str, answers: Sequence[str]) -> list[Score]:
        """How likely each of `answers` is after a request: log-probability (nats), tokens, whether it is greedy.

        With an empty request they are scored as text that stands by itself. Raises DataError for an empty answer.
        """
        check_text(request, "request", None)
        answers = checked_texts(answers, "answer", "there is nothing to score")
        reader = self._learner.reader
        pairs = answer_pairs(reader.chat, request, answers)
        return score(reader.decoder, self._learner.prefix(self._memory, [request]), pairs) if pairs else []

    def _prompt(self, request: str) -> list[int]:
        check_text(request, "request", SAY)
        chat = self._learner.reader.chat
        return chat.encode(request.strip()) + chat.tail

    @property
    def model(self) -> PreTrainedModel:
        """The decoder that reads the memory, a model of transformers with the adapter in it."""
        return self._learner.lm.decoder.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._learner.reader.tokenizer
