"""A trained retriever: search keys by which a question finds its segment where the two share few words.

- Two networks of two layers without biases, one for questions and one for segments, as in M+ (Wang et al. 2025,
  arXiv:2502.00592), E -> 512 -> 256. They take untrained search keys (`whitening.py`), and are trained by
  `gnm.training.retriever`.
- M+ scores a segment by the mean over a question's tokens q of sigmoid(q·k). Here a question has one key, and the
  sigmoid of one product grows with it. So the segments with the largest products are those with the largest scores,
  and the search needs no sigmoid.
- Keys have length 1, so a product is a cosine, as exact search, the index of FAISS and the weight of strengths expect.
  The scale and the offset within the sigmoid are trained, and change no order either.
- A search key is the networks' output beside the untrained key that they took, so its cosine is the mean of both. On
  documents written one by one this mean found more lines than the trained or the untrained key alone.

Shape letters: n texts, E size of an untrained key, H hidden size, D size of what the networks make of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gnm.errors import CheckpointError
from gnm.files import atomic_folder, check_files, checksums_of, write_json
from gnm.memory.retriever_file import ABOUT, WEIGHTS, read_retriever

SIDES = ("question", "segment")
Side = Literal["question", "segment"]
_SAVED = {"layer": int, "whiten": bool, "model": str, "adapter": str}


@dataclass(frozen=True)
class Retriever:
    """The matrices [H, E] and [D, H] of both sides, float32; layer, whiten: which untrained keys it takes.

    model: the digest of what these keys depend on (`gnm.weights.retrievers`). adapter: the folder of the adapter that
    it was trained for. Both are empty until it is trained.

        keys = Retriever.load("models/smollm2-135m/retriever")("question", untrained)
    """

    question: tuple[Tensor, Tensor]
    segment: tuple[Tensor, Tensor]
    layer: int
    whiten: bool
    model: str = ""
    adapter: str = ""

    @classmethod
    def new(cls, sizes: tuple[int, int, int], layer: int, whiten: bool, seed: int) -> "Retriever":
        """An untrained one of sizes E, H, D. Both networks start with the same weights, so similar texts get similar
        keys."""
        generator = torch.Generator().manual_seed(seed)
        shapes = zip(sizes, sizes[1:], strict=False)
        first, second = (torch.randn(into, of, generator=generator) * (2 / of) ** 0.5 for of, into in shapes)
        return cls((first, second), (first.clone(), second.clone()), layer, whiten)

    def __call__(self, side: Side, keys: Tensor) -> Tensor:
        """Search keys [n, D + E] of untrained ones [n, E] of length 1: trained and untrained, of length 1, float32."""
        return torch.cat((self.trained(side, keys), keys.float()), -1) / 2**0.5

    def trained(self, side: Side, keys: Tensor) -> Tensor:
        """What the networks make of untrained keys [n, E]: [n, D] of length 1, float32."""
        first, second = getattr(self, side)
        hidden = nn.functional.silu(nn.functional.linear(keys.float(), first))
        return nn.functional.normalize(nn.functional.linear(hidden, second), dim=-1)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, H, D."""
        first, second = self.question
        return first.shape[1], first.shape[0], second.shape[0]

    @property
    def key_size(self) -> int:
        """Numbers of a search key: D + E."""
        return self.sizes[2] + self.sizes[0]

    @property
    def flops(self) -> int:
        """Of one key."""
        return 2 * sum(matrix.numel() for matrix in self.question)

    def parameters(self) -> list[Tensor]:
        """The matrices of both sides."""
        return [*self.question, *self.segment]

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write it to `folder` in bfloat16, whole or not at all. about: how it was made, what JSON can hold."""
        tensors = {
            f"{side}.{place}": matrix.detach().bfloat16().cpu().contiguous()
            for side in SIDES
            for place, matrix in enumerate(getattr(self, side))
        }
        with atomic_folder(folder) as temporary:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            checksums = checksums_of(temporary, [temporary / WEIGHTS])
            own = {name: getattr(self, name) for name in _SAVED} | {"sizes": list(self.sizes)}
            write_json(temporary / ABOUT, {**own, **about, "checksums": checksums})

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "Retriever":
        """The retriever that was saved in `folder`. Raises CheckpointError if it is missing or damaged."""
        folder = Path(folder)
        about = read_retriever(folder)
        check_files(folder, about["checksums"], "restore the folder from a copy, or train it anew")
        try:
            tensors = load_file(folder / WEIGHTS, device=str(device))
            question, segment = (tuple(tensors[f"{side}.{n}"].float() for n in (0, 1)) for side in SIDES)
            found = cls(question, segment, **{name: kind(about[name]) for name, kind in _SAVED.items()})
            if list(found.sizes) != about["sizes"] or any(not bool(m.isfinite().all()) for m in found.parameters()):
                raise ValueError("its matrices are others than it says")
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the retriever {folder} is damaged ({error}); restore it, or train it anew"
            ) from error
        return found
