"""Exact search of a store's keys beside FAISS's indexes: `python benchmarks/segment_search.py FACTS.json`.

- Keys as a store of layer 0 has them, the mean of a line's token embeddings: CounterFact's prompts with subjects, each
  with many objects; questions are paraphrases. So a million distinct lines take no pass of the model.
- Keys are made part by part and never held together, so that a million fit beside what an index holds.
- Printed for each size: CPU milliseconds of one thread for a question, how many of the exact eight are found, megabytes
  and CPU seconds of building. Names are those of FAISS's index_factory (Douze et al. 2024).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from gnm.data.counterfact import read_facts
from gnm.memory.store import unit
from gnm.weights.backbones import load_backbone

K, QUESTIONS, PART = 8, 100, 50_000
TRAINED_ON = 40  # keys for each list of an IVF
HNSW_MOST = 100_000  # building takes hours above
MOST_LISTS = 1024  # more are trained for hours
EFFORTS = (1, 4, 16, 64)  # lists that IVF visits; candidates of HNSW are eight times as many
ENOUGH = 0.95


@dataclass(frozen=True)
class Lines:
    """Sums of the embeddings of phrases [F, E] and objects [O, E], with their tokens [F, 1], [O, 1]; question keys."""

    phrases: tuple[Tensor, Tensor]
    objects: tuple[Tensor, Tensor]
    questions: np.ndarray

    def keys(self, count: int) -> Iterator[np.ndarray]:
        """The keys of `count` distinct lines, part by part: [N, E] float32."""
        facts, others = len(self.phrases[0]), len(self.objects[0])
        for start in range(0, count, PART):
            number = torch.arange(start, min(start + PART, count))
            fact, other = number % facts, (number // facts + number) % others
            sums, tokens = (self.phrases[place][fact] + self.objects[place][other] for place in (0, 1))
            yield unit(sums / tokens).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path, help="categorised facts, such as data/counterfact_categorized/train.json")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    lines = read_lines(options.facts, options.backbone)
    print(f"{'segments':>9s}  {'search':20s}{'effort':>7s}{'ms':>9s}{'found':>8s}{'MB':>9s}{'build s':>9s}")
    for size in options.sizes:
        exact, milliseconds = exactly(lines, size)
        show(size, "exact", 0, milliseconds, 1.0, size * lines.questions[0].nbytes / 1e6, 0.0)
        lists = min(2 ** round(np.log2(4 * size**0.5)), MOST_LISTS)
        names = [f"IVF{lists},Flat", f"IVF{lists},SQ8"] if size <= HNSW_MOST else [f"IVF{lists},SQ8"]
        for name in names + (["HNSW32,Flat"] if size <= HNSW_MOST else []):
            tried(name, lines, size, exact)


def read_lines(path: Path, backbone: str) -> Lines:
    """The lines of the facts in `path`."""
    facts, model = read_facts(path), load_backbone(backbone, dtype="float32")
    table = model.model.get_input_embeddings().weight.detach()

    def sums(texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = [torch.tensor(model.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        return torch.stack([table[own].sum(0) for own in ids]), torch.tensor([[float(len(own))] for own in ids])

    objects = sorted({f" {name}" for fact in facts for name in (fact.true, fact.false)})
    total, tokens = sums([fact.paraphrases[0] for fact in facts[:: len(facts) // QUESTIONS][:QUESTIONS]])
    return Lines(sums([fact.phrase for fact in facts]), sums(objects), unit(total / tokens).numpy())


def exactly(lines: Lines, size: int) -> tuple[np.ndarray, float]:
    """The places of the nearest K keys of each question [Q, K], and CPU milliseconds a question, asked one by one."""
    best, places, spent = torch.zeros(len(lines.questions), 0), torch.zeros(len(lines.questions), 0).long(), 0.0
    for number, part in enumerate(lines.keys(size)):
        keys = torch.from_numpy(part)
        scores = torch.from_numpy(lines.questions) @ keys.T
        found = scores.topk(min(K, len(keys)))
        best, places = torch.cat((best, found.values), 1), torch.cat((places, found.indices + number * PART), 1)
        alone, _ = timed(lambda one, keys=keys: (keys @ torch.from_numpy(one)).topk(K), lines.questions[:10])
        spent += alone
    return places.gather(1, best.topk(K).indices).numpy(), spent


def timed(search: Callable[[np.ndarray], object], questions: np.ndarray) -> tuple[float, list]:
    """CPU milliseconds a question, asked one by one, and what was found."""
    started = time.process_time()
    found = [search(question) for question in questions]
    return 1e3 * (time.process_time() - started) / len(questions), found


def tried(name: str, lines: Lines, size: int, exact: np.ndarray) -> None:
    """Build an index and search it with growing effort, until it finds enough."""
    index = faiss.index_factory(lines.questions.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    started = time.process_time()
    if not index.is_trained:
        index.train(sample(lines, size, TRAINED_ON * index.nlist))
    making = 0.0
    for part in timed_parts(lines.keys(size)):
        making += part[1]
        index.add(part[0])
    build = time.process_time() - started - making
    megabytes = len(faiss.serialize_index(index)) / 1e6
    for effort in EFFORTS:
        if name.startswith("HNSW"):
            index.hnsw.efSearch = 8 * effort
        else:
            index.nprobe = effort
        milliseconds, found = timed(lambda one: index.search(one[None], K)[1][0], lines.questions)
        right = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, exact, strict=True)])
        show(size, name, effort, milliseconds, right, megabytes, build)
        if right >= ENOUGH:
            break


def sample(lines: Lines, size: int, count: int) -> np.ndarray:
    """About `count` of the keys of `size` lines, from all parts."""
    step = max(1, size // count)
    return np.concatenate([part[::step] for part in lines.keys(size)])


def timed_parts(parts: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
    """Each part, and the CPU seconds that it took to make."""
    started = time.process_time()
    for part in parts:
        yield part, time.process_time() - started
        started = time.process_time()


def show(size: int, name: str, effort: int, milliseconds: float, found: float, megabytes: float, build: float) -> None:
    """Print one line of the table."""
    row = f"{size:9d}  {name:20s}{effort or '':>7}{milliseconds:9.3f}{100 * found:7.1f}%{megabytes:9.1f}{build:9.1f}"
    print(row, flush=True)


if __name__ == "__main__":
    main()
