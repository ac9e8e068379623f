"""Milliseconds to the first token of an answer and for each further one: `python benchmarks/answer_latency.py`.

- After twenty documents of small_gates: transformers' own `generate` on the documents as a cached context, our reading
  of that context and of the memory, and `generate` on the memory; same weights, questions and number of tokens.
- What is read is there before the clock starts; all ways take turns, question by question, so that all see the machine
  in the same state.
- Of the context, ours and theirs have to say the same tokens; how many answers did is printed.
- Printed: entries that are attended to, median milliseconds, and their ratio to transformers' on the context.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from gnm.config import load_params
from gnm.data.asking import asked
from gnm.data.sequences import evaluation_sequences
from gnm.devices import pick_device
from gnm.evaluate import read_documents_of
from gnm.inference.cache import generate_inputs
from gnm.inference.generation import generate_tokens, generation_config
from gnm.inference.prompts import block
from gnm.learners import build_learner
from gnm.learners.memory import MemoryLearner
from gnm.models.lora import FusedLoraLinear
from gnm.models.prefix import Prefix
from gnm.params import EvaluateParams
from gnm.weights.backbones import Backbone, load_backbone
from gnm.weights.pretrained import load_model

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "small_gates"
METHOD = "generalist_weakest"
REFERENCE = "generate, cached context"


class Clock:
    """A streamer of transformers that notes when each token comes; the prompt is the first that it is given."""

    def __init__(self, now: Callable[[], float]):
        self.now, self.times = now, []

    def put(self, _: Tensor) -> None:
        self.times.append(self.now())

    def end(self) -> None:
        """Nothing is left to be shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=9, help="timed, after one that warms up")
    parser.add_argument("--tokens", type=int, default=9, help="of each answer")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processor-time", action="store_true", help="for a CPU that others use at the same time")
    options = parser.parse_args()
    now = time.process_time if options.processor_time else time.perf_counter
    length = f"loop.sequence_length={options.documents}"
    params = load_params(FOLDER / "params.yaml", EvaluateParams, [length], "evaluate_20")
    documents = read_documents_of([FOLDER / path for path in params.data])
    (sequence,) = evaluation_sequences(documents, params.sequences(), 1, seed=1)
    queries = asked(sequence, len(sequence.steps) - 1, params.sequences())[: options.questions + 1]
    backbone = loaded(params, options.device)
    stock = without_lora(deepcopy(backbone.model))
    learner = build_learner(params.method(METHOD), backbone).eval()
    memory, context = both(learner, sequence)
    prompts = [learner.reader.chat.encode_lead() + learner.reader.chat.encode_question(q.input) for _, q in queries]
    ways = {
        REFERENCE: (context, lambda prompt: theirs(stock, plain_inputs(context, prompt), options.tokens, now)),
        "ours, cached context": (context, lambda prompt: ours(learner, context, prompt, options.tokens, now)),
        "ours, memory": (memory, lambda prompt: ours(learner, memory, prompt, options.tokens, now)),
        "generate, memory": (memory, lambda prompt: on_memory(learner, memory, prompt, options.tokens, now)),
    }
    found = timed(ways, prompts)
    kind = str(learner.lm.decoder.dtype).removeprefix("torch.")
    print(f"{len(sequence.steps)} documents, {options.questions} questions, {options.tokens} tokens each, {kind}")
    print(f"{'':26s}{'entries':>9s}{'first ms':>10s}{'ratio':>7s}{'next ms':>9s}{'ratio':>7s}")
    best = [statistics.median(run[1][part] for run in found[REFERENCE]) for part in (0, 1)]
    for name, runs in found.items():
        first, following = (1e3 * statistics.median(run[1][part] for run in runs) for part in (0, 1))
        entries = int(ways[name][0].lengths[0])
        ratios = first / best[0] / 1e3, following / best[1] / 1e3
        print(f"{name:26s}{entries:9d}{first:10.1f}{ratios[0]:7.2f}{following:9.1f}{ratios[1]:7.2f}")
    same = sum(a == b for (a, _), (b, _) in zip(found[REFERENCE], found["ours, cached context"], strict=True))
    print(f"the same tokens on the context: {same} of {options.questions} answers")


def loaded(params: EvaluateParams, device: str) -> Backbone:
    """The backbone with the generalist's adapter in it."""
    settings = {**params.backbone_of(METHOD), "device": pick_device(device)}
    return load_model(FOLDER / params.method(METHOD).adapter, load_backbone(**settings))[1]


@torch.no_grad()
def without_lora(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with the adapter's weights in its own, and nothing but transformers' modules."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FusedLoraLinear):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.base_layer)
    assert not any(isinstance(module, FusedLoraLinear) for module in model.modules())
    model.set_attn_implementation("sdpa")
    return model.eval()


@torch.no_grad()
def both(learner: MemoryLearner, sequence) -> tuple[Prefix, Prefix]:
    """The memory of all documents, and the context that holds them word for word."""
    state, reader = learner.reset([0]), learner.reader
    texts = [block(step.document, step.instruction, learner.order) for step in sequence.steps]
    for step in sequence.steps:
        state = learner.write(state, [step.document], [step.instruction])
    context = reader.preamble(1)
    for text in texts:
        tokens = reader.encode([text])
        context = reader.decoder.extend(context, tokens.ids, tokens.mask)
    return learner.lm.prefix(state), context


def plain_inputs(context: Prefix, prompt: list[int]) -> dict:
    """What `generate` is called with to go on after a cached context, with nothing of this project in it."""
    cache = DynamicCache(zip(context.keys, context.values, strict=True))
    ids = torch.tensor([prompt], device=context.valid.device)
    seen = torch.ones(1, context.valid.shape[1] + len(prompt), dtype=torch.long, device=ids.device)
    return {"input_ids": ids, "attention_mask": seen, "past_key_values": cache}


def theirs(model: nn.Module, inputs: dict, tokens: int, now: Callable[[], float]) -> tuple[list[int], list[float]]:
    """Tokens that `generate` of transformers says, and when each came."""
    clock, began = Clock(now), now()
    said = model.generate(
        **inputs, do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, streamer=clock
    )
    return said[0, inputs["input_ids"].shape[1] :].tolist(), [at - began for at in clock.times[1:]]


def on_memory(
    learner: MemoryLearner, memory: Prefix, prompt: list[int], tokens: int, now: Callable[[], float]
) -> tuple[list[int], list[float]]:
    return theirs(learner.lm.decoder.model, generate_inputs(learner.lm.decoder, memory, [prompt]), tokens, now)


def ours(
    learner: MemoryLearner, prefix: Prefix, prompt: list[int], tokens: int, now: Callable[[], float]
) -> tuple[list[int], list[float]]:
    """Tokens that our own reading says, and when each came."""
    said, times, began = [], [], now()
    for token in generate_tokens(learner.lm.decoder, prefix, prompt, [], generation_config(max_new_tokens=tokens)):
        said.append(token)
        times.append(now() - began)
    return said, times


@torch.no_grad()
def timed(ways: dict[str, tuple[Prefix, Callable]], prompts: list[list[int]]) -> dict[str, list]:
    """Of each way and each prompt but the first: the tokens, and seconds to the first and for each further one."""
    found: dict[str, list] = {name: [] for name in ways}
    for number, prompt in enumerate(prompts):
        for name, (_, answer) in ways.items():
            said, times = answer(prompt)
            if number:
                found[name].append((said, (times[0], (times[-1] - times[0]) / (len(times) - 1))))
    return found


if __name__ == "__main__":
    main()
