"""What a notebook's cell shows: pictures that were drawn, and sentences."""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure; a notebook shows its PNG."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()

    def __repr__(self) -> str:
        return f"picture {self.path.name}"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Figures that belong together; a notebook shows them below each other."""

    pictures: tuple[Picture, ...]

    def _repr_html_(self) -> str:
        drawn = [(each.path.stem, b64encode(each.path.read_bytes()).decode()) for each in self.pictures]
        return "".join(f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>' for name, data in drawn)

    def __repr__(self) -> str:
        return f"pictures {', '.join(each.path.name for each in self.pictures)}"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Text; a notebook shows it as Markdown."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text
