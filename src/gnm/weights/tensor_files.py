"""The tensors of a checkpoint, whichever way they lie on disk, one at a time.

- Safetensors with an index or in one file, and state dicts of torch (`.pth`, `.pt`, `.bin`; read with
  `weights_only=True`). A folder that holds both is read from its safetensors.
- Training wrappers keep the network in an attribute `model`: where they were saved, every name begins with `model.`
  once too often. That prefix is taken off.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gnm.errors import CheckpointError
from gnm.files import atomic_path

_TORCH = (".pth", ".pt", ".bin")
_NAMES = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 5


class WeightFiles:
    """A checkpoint's tensors by name; `path` is a folder, or one weight file.

    shapes: of every tensor, by its name without the wrapper's prefix; known without reading the tensors.
    """

    def __init__(self, path: str | Path):
        """Raises CheckpointError if there are no weights at `path`, a shard is missing, or a file is damaged."""
        self.path = Path(path)
        self.files = _files(self.path)
        found = {name: (file, shape) for file in self.files for name, shape in _shapes(file)}
        self._prefix = "model." if any(name.startswith("model.model.") for name in found) else ""
        self._file = {self._own(name): file for name, (file, _) in found.items()}
        self.shapes = {self._own(name): shape for name, (_, shape) in found.items()}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, on the CPU; no two files are open at once."""
        for file in self.files:
            for name, tensor in _tensors(file):
                yield self._own(name), tensor

    def tensor(self, name: str) -> Tensor:
        """One tensor. Raises CheckpointError if there is none of this name."""
        if name not in self._file:
            raise CheckpointError(f"{self.path} has no tensor {name!r}; is it a checkpoint of another kind?")
        return next(tensor for found, tensor in _tensors(self._file[name]) if self._own(found) == name)

    def check(self, expected: Mapping[str, torch.Size]) -> None:
        """Raise CheckpointError that names missing, unknown and mis-shaped tensors, the first few of each."""
        problems = [
            f"{len(names)} {what}: {_first(names)}"
            for what, names in (
                ("missing", expected.keys() - self.shapes.keys()),
                ("not known", self.shapes.keys() - expected.keys()),
                (
                    "of another shape",
                    {
                        f"{name} {tuple(self.shapes[name])} instead of {tuple(expected[name])}"
                        for name in expected.keys() & self.shapes.keys()
                        if self.shapes[name] != expected[name]
                    },
                ),
            )
            if names
        ]
        if problems:
            raise CheckpointError(f"{self.path} does not fit the model: {'; '.join(problems)}")

    def _own(self, name: str) -> str:
        return name.removeprefix(self._prefix)


def convert(path: str | Path, target: str | Path) -> int:
    """Write a checkpoint's tensors to one safetensors file without the wrapper's prefix; returns how many they are.

    All of them are in host memory at once, so it takes what the checkpoint takes on disk.
    Raises CheckpointError if `path` cannot be read, or `target` is one of its files.
    """
    files, target = WeightFiles(path), Path(target)
    if target.resolve() in (file.resolve() for file in files.files):
        raise CheckpointError(f"{target} is a file of the checkpoint itself; name another one")
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in files}
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return len(tensors)


def _first(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for name in _NAMES:
        if (index := path / f"{name}.index.json").is_file():
            return _shards(index)
        if (path / name).is_file():
            return [path / name]
    for ends in ((".safetensors",), _TORCH):
        found = sorted(file for end in ends for file in path.glob(f"*{end}"))
        if len(found) == 1:
            return found
        if found:
            names = _first(file.name for file in found)
            raise CheckpointError(f"{path} holds {len(found)} weight files and no index ({names}); name one of them")
    raise CheckpointError(
        f"{path} holds no weights (*.safetensors, *.pth); fetch them with download_models.py, or check the path"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged ({type(error).__name__}: {error}); fetch it again") from error
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of its {len(names)} shards ({_first(missing)}); fetch it again"
        )
    return [index.parent / name for name in names]


def _shapes(file: Path) -> Iterator[tuple[str, torch.Size]]:
    if file.suffix in _TORCH:
        yield from ((name, tensor.shape) for name, tensor in _state_dict(file).items())
        return
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            yield name, torch.Size(opened.get_slice(name).get_shape())


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix in _TORCH:
        yield from _state_dict(file).items()
        return
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            yield name, opened.get_tensor(name)


def _opened(file: Path):
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error


def _state_dict(file: Path) -> dict[str, Tensor]:
    """A torch file's tensors, mapped from the disk instead of read at once."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} is no state dict that can be read safely ({reason}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} holds something else than named tensors; give a plain state dict")
    return state
