"""Exact search of a store's keys beside indexes of FAISS: `python benchmarks/store_search.py FACTS.json`.

- Keys are those of `StoreSettings()`: the mean over a line's tokens of what enters layer 2, whitened. A million lines
  are CounterFact's prompts with subjects, each with many objects; the states of an object's tokens are those that they
  have in the first line that states it. Questions are paraphrases of the prompts, read as the store reads them.
- "exact" and "index" are `gnm.memory.search`, the others FAISS's own, by their names in index_factory (Douze et al.
  2024), each with growing effort until enough is found. Effort is lists visited, or a tenth of HNSW's candidates.
- Printed for each size, and written as CSV: CPU milliseconds of one thread for a question asked alone, how many of the
  exact eight are found, megabytes and CPU seconds of building; and after how many questions building has paid.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gnm.data.counterfact import read_facts
from gnm.inference.chat import ChatFormat
from gnm.inference.reader import Reader
from gnm.learners.long_term import sample_texts
from gnm.memory import search
from gnm.memory.search import KeyIndex, nearest
from gnm.memory.store_settings import StoreSettings
from gnm.models.decoder import Decoder
from gnm.models.gates.keep import segment_means
from gnm.models.search_keys import early_inputs
from gnm.models.whitening import Whitening
from gnm.weights.backbones import load_backbone

LAYER, K = StoreSettings().layer, StoreSettings().k
PROMPTS, QUESTIONS, PART = 2_400, 100, 50_000
ALONE = 20  # questions that are timed in exact search
COPIES_MOST = 100_000  # FAISS's flat indexes hold a second copy of all keys: gigabytes above
EFFORTS = (8, 32, 64, 128)
ENOUGH = 0.95
HNSW_PART = 2_000


@dataclass(frozen=True)
class Row:
    """One line of the table. pays_after: questions; None where building never pays."""

    segments: int
    search: str
    effort: int | None
    milliseconds: float
    found: float
    megabytes: float
    build_seconds: float
    pays_after: float | None

    def __str__(self) -> str:
        pays = "-" if self.pays_after is None else f"{self.pays_after:.0f}"
        return (
            f"{self.segments:9d}  {self.search:16s}{self.effort or '':>7}{self.milliseconds:9.3f}"
            f"{100 * self.found:7.1f}%{self.megabytes:9.1f}{self.build_seconds:9.1f}{pays:>9s}"
        )


@dataclass(frozen=True)
class Lines:
    """Sums of what enters the layer over phrases [F, E] and objects [O, E], with their tokens [F, 1], [O, 1]; the
    whitening, and keys of questions [Q, E]."""

    phrases: tuple[Tensor, Tensor]
    objects: tuple[Tensor, Tensor]
    whitening: Whitening
    questions: Tensor

    def keys(self, count: int, path: Path) -> Tensor:
        """The keys [N, E] float32 of `count` distinct lines, in a file that is mapped."""
        size = self.questions.shape[1]
        keys = torch.from_file(str(path), shared=True, size=count * size).view(count, size)
        facts, others = len(self.phrases[0]), len(self.objects[0])
        if count > facts * others:
            raise SystemExit(f"{facts} prompts and {others} objects make no {count} lines; give smaller --sizes")
        for start in range(0, count, PART):
            number = torch.arange(start, min(start + PART, count))
            fact, other = number % facts, (number // facts + number) % others
            sums, tokens = (self.phrases[place][fact] + self.objects[place][other] for place in (0, 1))
            keys[start : start + PART] = self.whitening(sums / tokens)
        return keys


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path, help="categorised facts, such as data/counterfact_categorized/train.json")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--most-seconds", type=float, default=200, help="HNSW is given up if building takes longer")
    parser.add_argument("--csv", type=Path, help="where the table is written to, too")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    lines, rows = read_lines(options.facts, options.backbone), []
    print(f"{'segments':>9s}  {'search':16s}{'effort':>7s}{'ms':>9s}{'found':>8s}{'MB':>9s}{'build s':>9s}{'pays':>9s}")
    hnsw = True
    for size in options.sizes:
        with TemporaryDirectory() as folder:
            keys = lines.keys(size, Path(folder) / "keys")
            for row in measured(keys, lines.questions, options.most_seconds, hnsw):
                print(row, flush=True)
                rows.append(row)
        hnsw = any(row.segments == size and row.search.startswith("HNSW") for row in rows)
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=asdict(rows[0]))
            table.writeheader()
            table.writerows(asdict(row) for row in rows)


def read_lines(path: Path, backbone: str) -> Lines:
    """The lines of the facts in `path`."""
    facts, model = read_facts(path), load_backbone(backbone, dtype="float32")
    facts = facts[:: max(1, len(facts) // PROMPTS)]
    decoder = Decoder(model.model)
    reader = Reader(decoder, ChatFormat.of(model.tokenizer), model.tokenizer)

    def seen(texts: list[list[str]]) -> Iterator[tuple[Tensor, Tensor]]:
        for start in tqdm(range(0, len(texts), 64), desc="lines", mininterval=10):
            tokens = reader.encode_segments(texts[start : start + 64])
            means, _ = segment_means(early_inputs(decoder, reader.chat.preamble, tokens, LAYER), tokens.segment, 2)
            counts = torch.stack([(tokens.segment == part).sum(-1) for part in (0, 1)], dim=1)
            yield means * counts[..., None], counts[..., None].float()

    sums, counts = (torch.cat(each) for each in zip(*seen([[f.phrase, f" {f.true}\n"] for f in facts]), strict=True))
    first = {fact.true: place for place, fact in reversed(list(enumerate(facts)))}
    place = torch.tensor(sorted(first.values()))
    asked = [[f" {fact.paraphrases[0].strip()}", ""] for fact in facts[:: len(facts) // QUESTIONS][:QUESTIONS]]
    question_sums, question_counts = (torch.cat(each) for each in zip(*seen(asked), strict=True))
    sample = reader.encode(sample_texts())
    whitening = Whitening.fit(early_inputs(decoder, reader.chat.preamble, sample, LAYER)[sample.mask])
    questions = whitening(question_sums[:, 0] / question_counts[:, 0])
    return Lines((sums[:, 0], counts[:, 0]), (sums[place, 1], counts[place, 1]), whitening, questions)


def measured(keys: Tensor, questions: Tensor, most_seconds: float, hnsw: bool) -> Iterator[Row]:
    """The rows of the table for one size."""
    exact_ms, _ = timed(lambda one: nearest(one, keys, K), questions[:ALONE])
    exact = nearest(questions, keys, K).numpy()
    yield Row(len(keys), "exact", None, exact_ms, 1.0, keys.nbytes / 1e6, 0.0, None)

    def row(name: str, effort: int | None, ask: Callable, megabytes: float, build: float) -> Row:
        milliseconds, found = timed(ask, questions)
        right = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, exact, strict=True)])
        pays = 1e3 * build / (exact_ms - milliseconds) if milliseconds < exact_ms else None
        return Row(len(keys), name, effort, milliseconds, float(right), megabytes, build, pays)

    build, index = built(lambda: KeyIndex.build(keys))
    for effort in EFFORTS:
        index.inner.nprobe = effort
        yield row("index", effort, lambda one: nearest(one, keys, K, index=index), file_size(index.inner), build)
    names = ["Flat", f"IVF{search.list_count(len(keys))},Flat"] if len(keys) <= COPIES_MOST else []
    for name in [*names, "HNSW32,Flat"] if hnsw else names:
        inner = faiss.index_factory(keys.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        build, done = built(lambda inner=inner: fill(inner, keys, most_seconds))
        if done < len(keys):
            print(f"{len(keys):9d}  {name}: given up after {build:.0f} s, with {done} segments in it", flush=True)
            continue
        for effort in (None,) if name == "Flat" else EFFORTS:
            if name.startswith("HNSW"):
                inner.hnsw.efSearch = 10 * effort
            elif effort:
                inner.nprobe = effort
            last = row(name, effort, lambda one, i=inner: i.search(one.numpy(), K)[1], file_size(inner), build)
            yield last
            if last.found >= ENOUGH:
                break


def fill(inner: Any, keys: Tensor, most_seconds: float) -> int:
    """Train an index of FAISS and add the keys; how many were added within about `most_seconds`."""
    started = time.process_time()
    if not inner.is_trained:
        inner.train(keys[:: max(1, len(keys) // 40_000)].contiguous().numpy())
    for block in keys.split(HNSW_PART):
        if time.process_time() - started > most_seconds:
            break
        inner.add(block.numpy())
    return inner.ntotal


def built(build: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds that `build` took, and what it gave."""
    started = time.process_time()
    made = build()
    return time.process_time() - started, made


def timed(ask: Callable[[Tensor], Any], questions: Tensor) -> tuple[float, list[np.ndarray]]:
    """CPU milliseconds a question, asked one by one, and what was found."""
    ask(questions[:1])
    started = time.process_time()
    found = [np.asarray(ask(question[None]))[0] for question in questions]
    return 1e3 * (time.process_time() - started) / len(questions), found


def file_size(inner: Any) -> float:
    """Megabytes of an index of FAISS, as a file holds it."""
    with TemporaryDirectory() as folder:
        faiss.write_index(inner, f"{folder}/index")
        return Path(folder, "index").stat().st_size / 1e6


if __name__ == "__main__":
    main()
