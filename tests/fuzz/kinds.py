"""What the project reads from disk, each kind with a good example, how it is damaged, and what reading it has to do."""

import json
import math
import random
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from conversations import INSTRUCTION, LINES, saved_with
from fuzz.damage import HOSTILE, changed, damaged, safetensors_file, safetensors_header
from fuzz.kind import Kind
from fuzz.record_kinds import CounterFact, Documents, Evaluations
from gnm.api import load
from gnm.config import load_params
from gnm.learners import LearnerSettings
from gnm.memory import files as memory_files
from gnm.params import EvaluateParams, TrainParams
from gnm.shell import described
from gnm.weights.adapters import ABOUT, load_checkpoint, save_checkpoint
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import copied, trained_parameters
from small_runs import evaluate_settings, train_settings


def _loaded(folder: Path):
    return load(folder, dtype="float32", device="cpu")


class Memories(Kind):
    """Memory files: damaged, or with a right checksum over wrong values as only a program can make them."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.conversation = _loaded(saved_with(folder / "model", {"threshold": 0.0, "share": 0.5}))
        self.conversation.write(LINES, INSTRUCTION)
        self.empty = self.conversation._before._kept[0]
        self.conversation.save_memory(folder / "good")
        self.conversation.load_memory(folder / "good")
        self.raw, self.path = (folder / "good").read_bytes(), folder / "m"
        self.documents, self.slots = self.conversation.documents, self.conversation.state.slots
        self.changed = False

    def spoil(self, rng: random.Random) -> None:
        kind = rng.randrange(4)
        self.changed = kind == 3
        if kind < 2:
            raw = damaged(self.raw, rng)
        elif kind == 2:
            raw = safetensors_file(*(changed(part, rng) if n == 0 else part for n, part in
                                     enumerate(safetensors_header(self.raw))))  # fmt: skip
        else:
            raw = self._resealed(rng)
        self.path.write_bytes(raw)

    def _resealed(self, rng: random.Random) -> bytes:
        header, _ = safetensors_header(self.raw)
        meta, tensors = dict(header["__metadata__"]), load_file(self.folder / "good")
        meta.pop("checksum")
        if rng.random() < 0.5:
            meta["notes"] = json.dumps(changed(json.loads(meta["notes"]), rng))
        elif rng.random() < 0.3:
            meta[rng.choice(list(meta))] = str(rng.choice(HOSTILE)).encode("utf-8", "replace").decode()
        else:
            name = rng.choice(list(tensors))
            tensors[name] = _changed_tensor(tensors[name], rng)
        meta["checksum"] = memory_files._checksum(meta, tensors)
        return save_tensors(tensors, metadata=meta)

    def read(self) -> None:
        self.conversation._memory, self.conversation._notes = self.conversation._attach(self.empty[0]), {}
        self.conversation.clear_history()
        self.conversation.load_memory(self.path)
        described(self.conversation, self.path)
        if self.changed:
            self.conversation.ask("Oman is", max_new_tokens=1)
            self.conversation.save_memory(self.folder / "again")
        else:
            assert self.conversation.documents == self.documents, "damaged notes were read"
            assert torch.equal(self.conversation.state.slots, self.slots), "damaged slots were read"


def _changed_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Another dtype, shape or content."""
    how = rng.randrange(6)
    if how == 0:
        return tensor.to(rng.choice((torch.float64, torch.int32, torch.bool, torch.float16, torch.uint8)))
    if how == 1:
        return tensor[..., :-1].contiguous()
    if how == 2:
        return tensor.flatten()
    if how == 3:
        return torch.cat((tensor, tensor)).contiguous()
    tensor = tensor.clone()
    flat = tensor.view(-1)
    value = rng.choice((-3, -2, -1, 0, 1, 2, 10**6, 2**40, math.nan, math.inf, 1e30))
    if tensor.dtype == torch.long and not (math.isfinite(value) and abs(value) < 2**62):
        value = -(2**62)
    flat[rng.randrange(len(flat)) : (len(flat) if how == 4 else None)] = value
    return tensor


class Adapters(Kind):
    """Adapter folders: damaged files; a gnm.json of other values without a checksum, as a hand may make one."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.good = saved_with(folder / "good", {"threshold": 0.0, "share": 0.5})
        self.digest = _loaded(self.good)._digest
        self.about = json.loads((self.good / ABOUT).read_text())
        self.about["learner"] = LearnerSettings(**self.about["learner"]).model_dump(mode="json")
        self.path = folder / "a"
        shutil.copytree(self.good, self.path)
        self.changed = False

    def spoil(self, rng: random.Random) -> None:
        for file in self.good.iterdir():
            shutil.copyfile(file, self.path / file.name)
        name = rng.choice((ABOUT, ABOUT, ABOUT, ABOUT, "adapter_model.safetensors", "memory_module.safetensors"))
        raw = (self.good / name).read_bytes()
        self.changed = name == ABOUT and rng.random() < 0.7
        if self.changed:
            about = changed({key: value for key, value in self.about.items() if key != "checksums"}, rng)
            (self.path / name).write_text(json.dumps(about))
        else:
            (self.path / name).write_bytes(damaged(raw, rng))

    def read(self) -> None:
        found = _loaded(self.path)
        assert self.changed or found._digest == self.digest, "a damaged adapter was read"


class Checkpoints(Kind):
    """Training checkpoints."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        backbone = load_backbone("tiny", dtype="float32")
        self.parameters, self.about = trained_parameters(backbone.model), {
            "backbone": {"name": "tiny", "digest": backbone.config_digest}, "lora": None, "learner": {"method": "gnm"}
        }  # fmt: skip
        self.good, self.path = folder / "good", folder / "c"
        progress = {"step": 3, "best": 0.25}
        held = {"optimizer": {"state": {0: torch.ones(5)}}, "best": copied(self.parameters)}
        save_checkpoint(self.good, held["best"], None, self.about, held, progress)
        shutil.copytree(self.good, self.path)
        self.files = [file for file in self.good.iterdir() if file.name != "README.md"]

    def spoil(self, rng: random.Random) -> None:
        for file in self.files:
            shutil.copyfile(file, self.path / file.name)
        file = rng.choice(self.files)
        (self.path / file.name).write_bytes(damaged(file.read_bytes(), rng))

    def read(self) -> None:
        held, progress = load_checkpoint(self.path, self.parameters, self.about)
        assert progress == {"step": 3, "best": 0.25}, "damaged progress was read"
        assert torch.equal(held["optimizer"]["state"][0], torch.ones(5)), "a damaged optimizer was read"


class Settings(Kind):
    """params.yaml of a training or an evaluation."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        data = folder / "data"
        self.values = ((train_settings(data, folder), TrainParams), (evaluate_settings(data, folder), EvaluateParams))
        self.path = folder / "params.yaml"

    def spoil(self, rng: random.Random) -> None:
        values, self.schema = rng.choice(self.values)
        if rng.random() < 0.5:
            self.path.write_bytes(damaged(yaml.safe_dump(values).encode(), rng))
        else:
            text = yaml.safe_dump(changed(values, rng), allow_unicode=True)
            self.path.write_text(text, encoding="utf-8", errors="surrogatepass")

    def read(self) -> None:
        load_params(self.path, self.schema)


class Words(Kind):
    """Documents, instructions and questions of any characters."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.conversation = _loaded(saved_with(folder / "model", {"threshold": 0.0, "share": 0.5}))
        self.empty = self.conversation.state

    def spoil(self, rng: random.Random) -> None:
        self.texts = [self._text(text, rng) for text in (LINES, INSTRUCTION, "Oman is")]

    def _text(self, text: str, rng: random.Random) -> str:
        if rng.random() < 0.3:
            return damaged(text.encode(), rng).decode("utf-8", rng.choice(("surrogateescape", "replace")))[:1500]
        drawn = (rng.choice((rng.randrange(0x250), rng.randrange(0x110000), 0x2028, 10, 13, 32)) for _ in range(40))
        return rng.choice(("", text)) + "".join(map(chr, drawn)) + rng.choice(("", text))

    def read(self) -> None:
        document, instruction, question = self.texts
        self.conversation._memory, self.conversation._notes = self.conversation._attach(self.empty), {}
        self.conversation.clear_history()
        self.conversation.write(document, instruction)
        described(self.conversation, "m")
        self.conversation.save_memory(self.folder / "m")
        self.conversation.load_memory(self.folder / "m")
        self.conversation.ask(question, max_new_tokens=1)


KINDS = {
    "memories": Memories, "adapters": Adapters, "checkpoints": Checkpoints, "settings": Settings,
    "documents": Documents, "counterfact": CounterFact, "evaluations": Evaluations, "words": Words,
}  # fmt: skip
