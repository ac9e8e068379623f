"""The published form of the memory against inputs and outputs of the published implementation (tiny random models).

- The published model cannot mask padding while it reads a pool: padding is attended to as if it were text. Ours masks.
  To meet the padded golden rows, their padding is given here as text; greedy decoding of these rows hides it again
  after the first token, so only unpadded rows are compared there.
- The golden permutations say which slots each eviction kept; they take the place of our own draw.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from gnm.inference.chat import ChatFormat
from gnm.inference.reader import Reader
from gnm.memory import pool as pool_rules
from gnm.memory.pool import append
from gnm.memory.state import MIXED, MemoryState
from gnm.models.decoder import Decoder
from gnm.models.lora import DEFAULT, use_adapter
from gnm.models.tokens import TokenBatch
from gnm.weights.memoryllm import load_published, parse_config
from stock import IdDecoder

INITIALISED = ("case1_plain", "case3_lora", "case3b_lora_single_adapter")


class Golden:
    """One case: the loaded model, and its inputs and expected outputs by name."""

    def __init__(self, folder, weights=None):
        model, self.weights = load_published(weights or folder, torch.float32)
        self.model, self.lm = model, self.weights.lm(Decoder(model))
        self.given, self.expected = (load_file(folder / f"{what}.safetensors") for what in ("inputs", "expected"))

    def close(self, ours, name):
        torch.testing.assert_close(ours, self.expected[name], atol=1e-4, rtol=1e-4)

    def memory(self, batch=1):
        return self.lm.initial(torch.arange(batch))

    def write(self, memory, ids):
        return self.lm.write(memory, TokenBatch.of(ids, torch.ones_like(ids, dtype=torch.bool)))

    def delta(self, memory, ids):
        """The slots of `ids`, before they join a pool."""
        return self.write(memory, ids).state.slots[:, :, -self.lm.write_settings.tokens :]

    def joined(self, batch, name):
        """`batch` full pools with the deltas `name` in place of what the golden draw drops."""
        delta = self.given[f"{name}.delta_memory"].expand(batch, -1, -1, -1)
        return self.lm.attach(joined(self.memory(batch).state, delta, self.lm.pool))

    def hidden(self, memory, ids, mask=None):
        """Hidden states after the final norm, [B, T, E]; padding is text unless a mask says otherwise."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return self.lm.decoder.read(self.lm.prefix(memory), ids[:, None], mask[:, None])[:, 0]

    def logits(self, memory, ids, mask=None):
        return self.lm.decoder.logits(self.hidden(memory, ids, mask))


class NoText(IdDecoder):
    """A tokenizer to which no text means anything."""

    def __call__(self, text, **_):
        return {"input_ids": []}


def joined(state, delta, pool):
    valid = torch.ones(delta.shape[0], delta.shape[2], dtype=torch.bool)
    return append(state, delta, valid, pool.model_copy(update={"per_layer": True}))[0]


def shifted_loss(logits, labels):
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.fixture
def replay(monkeypatch):
    """Has the next evictions keep the first k slots of golden permutations [layers or 1, slots]."""

    def use(permutations, kept):
        order = torch.zeros(permutations.shape).scatter_(1, permutations[:, :kept], 1.0)  # what is first goes
        monkeypatch.setattr(pool_rules, "_noise", lambda row, state, draws: order if draws else order[0])

    return use


@pytest.fixture
def case(request, golden_folder):
    return Golden(golden_folder / request.param)


def outputs(*names):
    """Each case with each of the outputs `names` that it holds; the single adapter's case has a, b, c and e alone."""
    pairs = [(case, name) for case in INITIALISED for name in names if case != INITIALISED[2] or name in "abce"]
    return pytest.mark.parametrize(("case", "name"), pairs, indirect=["case"])


every_case = pytest.mark.parametrize("case", INITIALISED, indirect=True)
full_cases = pytest.mark.parametrize("case", INITIALISED[:2], indirect=True)


@torch.no_grad()
@outputs("a", "a_batch2", "a_eq", "b", "b1")
def test_documents_of_any_length_become_the_golden_slots(case, name):
    ids = case.given[f"{name}.context_ids"]
    case.close(case.delta(case.memory(len(ids)), ids), f"{name}.delta")


@torch.no_grad()
@every_case
def test_ragged_documents_are_written_together_as_each_by_itself(case):
    names = [name for name in ("a", "b", "b1", "a_eq") if f"{name}.delta" in case.expected]
    texts = [case.given[f"{name}.context_ids"][0] for name in names]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=77)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
    together = case.lm.write(case.memory(len(texts)), TokenBatch.of(ids, mask))
    for row, text in enumerate(texts):
        memory = case.lm.initial(torch.tensor([row]))
        alone = case.write(memory, text[None])
        torch.testing.assert_close(together.state.slots[row : row + 1], alone.state.slots, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@outputs("c", "c_pad_other_id", "c_nomask")
def test_questions_read_the_golden_pool(case, name):
    ids = case.given[f"{name}.input_ids"]
    hidden = case.hidden(case.memory(len(ids)), ids)
    case.close(case.lm.decoder.logits(hidden), f"{name}.logits")
    if name == "c":
        case.close(hidden, "c.last_hidden_state")
        case.close(shifted_loss(case.lm.decoder.logits(hidden), case.given["e.labels"]), "e.loss")


@torch.no_grad()
@every_case
def test_our_own_padding_is_never_attended_to(case):
    """Where the published model lets padding change the answer, ours gives what the unpadded text gets."""
    ids, mask = case.given["c.input_ids"][1:], case.given["c.attention_mask"][1:].bool()
    for row, own in zip(ids, mask, strict=True):
        alone = case.logits(case.memory(), row[own][None])
        for pad in (0, 77):
            right = torch.cat((row[own], torch.full((3,), pad)))[None]
            padded = case.logits(case.memory(), right, torch.arange(right.shape[1])[None] < own.sum())
            torch.testing.assert_close(padded[:, : own.sum()], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@outputs("d", "d_single")
def test_greedy_answers_are_the_golden_ones(case, name):
    """Of the batch the first row, which is unpadded."""
    prompt = case.given["c.input_ids" if name == "d" else "d_single.input_ids"][0].tolist()
    said = case.expected[f"{name}.sequences"][0].tolist()[len(prompt) :]
    reader, prefix = Reader(case.lm.decoder, ChatFormat([], [], [2], NoText()), NoText()), case.lm.prefix(case.memory())
    begun = reader.passes.begin(prefix, [[prompt]])
    until_end = said[: said.index(2)] if 2 in said else said
    assert reader.passes.greedy(prefix, begun, [1], len(said))[0] == [[until_end]]
    steps = case.logits(case.memory(), torch.tensor([prompt + said[:-1]]))[0, len(prompt) - 1 :]
    torch.testing.assert_close(steps, case.expected[f"{name}.scores"][:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@outputs("f", "f2")
def test_new_slots_join_the_pool_as_in_the_golden_case(case, replay, name):
    replay(case.given[f"{name}.perm"], {"f": 24, "f2": 16}[name])
    logits = case.logits(case.joined(3, name), case.given["c.input_ids"])
    case.close(logits, f"{name}.logits")
    if name == "f":
        case.close(shifted_loss(logits, case.given["e.labels"]), "f.loss")


@torch.no_grad()
@full_cases
def test_slots_alone_are_a_pool(case):
    slots = case.given["f.delta_memory"]
    valid = torch.ones(1, 8, dtype=torch.bool)
    state = MemoryState(slots, valid, torch.full((1, 8), MIXED), torch.tensor([0]))
    case.close(case.delta(case.lm.attach(state), case.given["a_eq.context_ids"]), "f4.delta")
    ids = case.given["c.input_ids"]
    with use_adapter(case.model, DEFAULT):  # the published model reads a single delta with the writer's adapter
        case.close(case.logits(case.lm.attach(state.rows([0, 0, 0])), ids), "f3.logits")


@torch.no_grad()
@full_cases
def test_a_write_updates_the_golden_pool(case, replay):
    replay(case.given["g.perm"], 24)
    memory = case.write(case.memory(), case.given["g.context_ids"])
    case.close(memory.state.slots[0], "g.memory_after")
    case.close(memory.state.slots[:, :, -8:], "g.delta")
    assert memory.state.documents() == {0: 8}


@pytest.mark.parametrize(("said", "per_layer"), [({"drop_memory_per_layer": True}, True), ({}, False)])
def test_the_config_says_whether_each_layer_draws_what_it_drops(said, per_layer):
    pool = parse_config({"model_type": "llama", "num_tokens": 4, "num_blocks": 3, **said})[1].pool
    assert (pool.capacity, pool.per_layer, pool.fill, pool.eviction) == (12, per_layer, True, "random")


# --- a pool that was never written to


@pytest.fixture
def empty(golden_folder):
    return Golden(golden_folder / "case2_uninit")


@torch.no_grad()
def test_an_empty_memory_is_the_plain_decoder(empty):
    ids = empty.given["u0.input_ids"]
    empty.close(empty.logits(empty.memory(2), ids), "u0.logits")
    ids, mask = empty.given["u0_pad.input_ids"], empty.given["u0_pad.attention_mask"].bool()
    for row, own in enumerate(mask):
        ours = empty.logits(empty.memory(), ids[row, own][None])[0]
        torch.testing.assert_close(ours, empty.expected["u0_pad.logits"][row, own], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("chain", ["u1_long", "u1_short"])
def test_a_first_document_fills_the_pool_and_later_ones_replace_it(empty, replay, chain):
    given, expected = empty.given, empty.expected
    memory = empty.write(empty.memory(), given[f"{chain}.context_ids"])
    empty.close(memory.state.slots[0], f"{chain}/u1.memory_after")
    length = expected[f"{chain}/u1.delta"].shape[2]
    for name in ("u1", "u1_noupdate"):
        empty.close(memory.state.slots[:, :, :length], f"{chain}/{name}.delta")
    for name in ("u2", "u3"):
        replay(given[f"{chain}/{name}.perm"], 24)
        memory = empty.write(memory, given[f"{name}.context_ids"])
        empty.close(memory.state.slots[:, :, -8:], f"{chain}/{name}.delta")
        empty.close(memory.state.slots[0], f"{chain}/{name}.memory_after")
    ids = given["u4.input_ids"]
    batch = empty.lm.attach(memory.state.rows([0, 0]))
    empty.close(empty.logits(batch, ids), f"{chain}/u4.logits")


# --- gradients


@pytest.mark.parametrize("ablation", [False, True])
def test_gradients_pass_through_writing_as_in_the_golden_case(golden_folder, replay, ablation):
    golden = golden_folder
    case = Golden(golden / "case5_gradients", golden / "case3_lora")
    case.lm.gradient_through_writing = not ablation
    case.lm.requires_grad_(True)
    memory = case.memory(2)
    ids = case.given["ctx.input_ids"].expand(2, -1)
    delta = case.delta(memory, ids)
    torch.testing.assert_close(delta[:1], case.expected["delta"], atol=1e-4, rtol=1e-4)
    replay(case.given["q.perm"], 24)
    logits = case.logits(case.lm.attach(joined(memory.state, delta, case.lm.pool)), case.given["q.input_ids"])
    case.close(logits, "logits")
    loss = shifted_loss(logits, case.given["q.labels"])
    case.close(loss, "loss_ablation" if ablation else "loss")
    loss.backward()
    named = {name.removeprefix("decoder.model."): p.grad for name, p in case.lm.named_parameters()}
    prefix = "grad_ablation/" if ablation else "grad/"
    expected = {name.removeprefix(prefix): g for name, g in case.expected.items() if name.startswith(prefix)}
    assert len(expected) >= 3 and expected.keys() <= named.keys()
    for name, reference in expected.items():
        say = f"gradient of {name}: {{}}".format
        torch.testing.assert_close(named[name], reference, atol=1e-4, rtol=1e-3, msg=say)
    about = json.loads((golden / "case5_gradients" / "case.json").read_text())
    without = {name for name, grad in named.items() if grad is None or not grad.any()}
    assert without == set(about["names_without_grad_ablation" if ablation else "names_without_grad_all"])
