"""lm-evaluation-harness on a memory: `gnm harness --model gnm --tasks boolq --model_args document=passage`.

- The harness's own program, with `gnm` among its models; in Python `import gnm.harness`, then use `lm_eval` as ever.
- The plain command `lm_eval` finds the model by a task file that names this module (docs/elsewhere.md), and in versions
  after 0.4.13 by this package's entry point.
- `document` names the field of a task's documents that is written into the memory before its question is put; that text
  is taken out of the prompt, so the answer has to come from memory. Without it nothing is written.
- Requests are put as the adapter was trained to be asked, in its own turn of a chat; texts are stripped.
- Not covered: `--apply_chat_template`, and rolling windows over texts longer than the model attends over.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gnm.api import DEFAULT_ADAPTER, load
from gnm.conversation import Conversation
from gnm.errors import ConfigError, DataError, exit_on_error
from gnm.extras import optional_imports
from gnm.inference.generation import SAMPLING

with optional_imports():
    from lm_eval.__main__ import HarnessCLI, setup_logging
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from tqdm import tqdm

_MAX_NEW_TOKENS = 256  # where a task says nothing, as in the harness's own models


@register_model("gnm")
class HarnessMemory(LM):
    """A memory as a model of the harness.

    adapter, backbone, dtype: as in `gnm.load`. memory: a memory file to begin from.
    document: the field of a task's documents (a text, or a list of texts) that is written first. instruction: what it
    is written with; instruction_field: the field that holds each document's own.
    device, batch_size, max_batch_size: the harness's own; as many answers go together as fit.
    Raises ConfigError for any other argument.
    """

    def __init__(
        self,
        adapter: str | None = None,
        backbone: str | None = None,
        memory: str | None = None,
        document: str | None = None,
        instruction: str = "Memorize all facts.",
        instruction_field: str | None = None,
        dtype: str = "bfloat16",
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            known = "adapter, backbone, memory, document, instruction, instruction_field, dtype"
            raise ConfigError(f"unknown model_args {', '.join(unknown)}; known: {known}")
        adapter = adapter or (None if backbone else DEFAULT_ADAPTER)
        self.start = load(adapter, backbone=backbone, dtype=dtype, device=device or "auto")
        if memory is not None:
            self.start.load_memory(memory)
        self.document, self.instruction, self.instruction_field = document, instruction, instruction_field

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Each continuation's log-probability (nats) after its context, and whether it is the likeliest said."""
        found: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), desc="gnm: scoring", disable=disable_tqdm or None) as bar:
            for memory, prompt, group in self._asked(requests):
                for request, score in zip(group, memory.score(prompt, [r.args[1] for r in group]), strict=True):
                    found.append((score.log_probability, score.greedy))
                    self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
                bar.update(len(group))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Each text's log-probability (nats) as what the model says unasked; nothing is written."""
        texts = tqdm([request.args[0] for request in requests], desc="gnm: scoring", disable=disable_tqdm or None)
        return [self.start.score("", [text])[0].log_probability for text in texts]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is said to each context, up to the first of its `until`."""
        said: list[str] = []
        with tqdm(total=len(requests), desc="gnm: answering", disable=disable_tqdm or None) as bar:
            for memory, prompt, group in self._asked(requests):
                for request in group:
                    said.append(_until(memory, prompt, dict(request.args[1])))
                    self.cache_hook.add_partial("generate_until", request.args, said[-1])
                bar.update(len(group))
        return said

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise ConfigError("leave --apply_chat_template out: requests are put in the adapter's own chat turn already")

    @property
    def tokenizer_name(self) -> str:
        return self.start.tokenizer.name_or_path

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's results say of the model beside its arguments."""
        return {"gnm_document": self.document, "gnm_instruction": self.instruction_field or self.instruction}

    def _asked(self, requests: Sequence[Instance]) -> Iterator[tuple[Conversation, str, list[Instance]]]:
        """Requests in their order, those beside each other with one document and prompt together; with the memory
        that holds the document, and the prompt without it."""
        last, memory, group = None, self.start, []
        for request in requests:
            texts, instruction, prompt = self._parts(request)
            if (texts, instruction, prompt) != last:
                if group:
                    yield memory, last[2], group
                if last is None or (texts, instruction) != last[:2]:
                    memory = self.start.fork()
                    for text in texts:
                        memory.write(text, instruction, long="split")
                last, group = (texts, instruction, prompt), []
            group.append(request)
        if group:
            yield memory, last[2], group

    def _parts(self, request: Instance) -> tuple[list[str], str, str]:
        """The texts that are written for a request, their instruction, and the prompt without them.

        Where a text stands in the prompt several times, as with examples of the task before it, the last one goes.
        """
        prompt = request.args[0]
        if self.document is None:
            return [], self.instruction, prompt
        given = self._field(request, self.document)
        texts = [str(text) for text in (given if isinstance(given, list) else [given]) if str(text).strip()]
        for text in texts:
            before, _, after = prompt.rpartition(text)
            prompt = before + after
        instruction = self._field(request, self.instruction_field) if self.instruction_field else self.instruction
        return texts, str(instruction), prompt

    @staticmethod
    def _field(request: Instance, name: str) -> Any:
        if name not in request.doc:
            raise DataError(
                f"the documents of task {request.task_name} have no field {name!r}; they have {sorted(request.doc)}: "
                "name another in --model_args"
            )
        return request.doc[name]


def _until(memory: Conversation, prompt: str, settings: dict[str, Any]) -> str:
    """The answer to a prompt with a task's generation settings, in the harness's names."""
    stops = settings.pop("until", [])
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]
    settings["max_new_tokens"] = settings.pop("max_gen_toks", _MAX_NEW_TOKENS)
    if not settings.get("do_sample"):  # tasks say temperature: 0 with it
        settings = {name: value for name, value in settings.items() if name not in SAMPLING}
    text = ""
    for piece in memory.generate(prompt, **settings):
        text += piece
        ends = [text.index(stop) for stop in stops if stop in text]
        if ends:
            return text[: min(ends)]
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """The harness's program; errors that are the user's to solve end in one sentence."""
    if arguments is not None:
        sys.argv[1:] = arguments
    with exit_on_error():
        setup_logging()
        harness = HarnessCLI()
        options = harness.parse_args()
        if options.command == "run":
            _check_tasks(options.tasks, options.config)
        harness.execute(options)


def _check_tasks(tasks: Sequence[str] | None, config: str | None) -> None:
    """Raise ConfigError if neither the command line nor the file `config` names tasks, which the harness finds out
    after it has loaded the model."""
    if not tasks and not (config and EvaluatorConfig.load_yaml_config(config).get("tasks")):
        raise ConfigError("there is no task; name some with --tasks NAME (`gnm harness ls tasks` lists them)")


if __name__ == "__main__":
    main()
