"""One look for all figures: each method has one name, colour and marker wherever it appears.

- Colours are Okabe and Ito's palette (Color Universal Design, 2008), which colour-blind readers can tell apart.
- Methods of one family share a colour; markers differ always, and hollow marks mean "not trained on this task".
- Importing this changes no Matplotlib state: settings apply inside `style()` only, no pyplot, no backend is chosen.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from gnm.files import atomic_path

BLACK, GREY, BROWN = "#000000", "#7F7F7F", "#7A4B2A"
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How a method is shown; `hollow` marks have a white face."""

    name: str
    color: str
    marker: str
    hollow: bool = False

    @property
    def face(self) -> str:
        return "white" if self.hollow else self.color


METHODS: dict[str, MethodStyle] = {
    "gnm": MethodStyle("GNM", BLUE, "o"),
    "gnm_ablation": MethodStyle("GNM, no gradient through writing", SKY, "s"),
    "generalist": MethodStyle("GNM, generalist", PURPLE, "X"),
    "in_context_ft": MethodStyle("In-context FT (document first)", ORANGE, "^"),
    "in_context_ft_instruction_first": MethodStyle("In-context FT (instruction first)", VERMILLION, "v"),
    "retrieval_ft": MethodStyle("Retrieval FT", GREEN, "D"),
    "in_context": MethodStyle("In-context (untrained)", ORANGE, "<", hollow=True),
    "retrieval": MethodStyle("Retrieval (untrained)", GREEN, "d", hollow=True),
    "retrieval_bm25": MethodStyle("Retrieval, BM25 (untrained)", GREEN, "p", hollow=True),
    "latent_bank": MethodStyle("Latent bank (G-MemLLM)", BROWN, "H"),
    "knorm": MethodStyle("KNorm", SKY, "$K$"),
    "keydiff": MethodStyle("KeyDiff", SKY, "$D$"),
    "snapkv": MethodStyle("SnapKV, guided by the instruction", VERMILLION, "$S$"),
    "finch": MethodStyle("Finch, guided by the instruction", VERMILLION, "$F$"),
    "question_guided": MethodStyle("Guided by the question (oracle)", BLACK, "$Q$"),
    "block_retrieval": MethodStyle("Block retrieval", GREEN, "$B$"),
    "recurrent_memory": MethodStyle("Recurrent memory (RMT)", BROWN, "$R$"),
    "text_notes": MethodStyle("Text notes", PURPLE, "P", hollow=True),
    "memoryllm": MethodStyle("Memory, untrained", BLUE, "h", hollow=True),
    "no_memory": MethodStyle("No memory", BLACK, "8", hollow=True),
    "dummy": MethodStyle("Dummy", GREY, "*", hollow=True),
}

_VARIANTS = {  # in words; one that is a number is the share of a document that is stored
    "all": "every token stored",
    "all_random": "every token, random ones leave",
    "weakest": "the weakest leave",
}

# of bars beside each other: neighbours in the order of METHODS differ in print without colour
_HATCHES = (
    "",
    "///",
    "...",
    "xxx",
    "\\\\\\",
    "---",
    "+++",
    "ooo",
    "|||",
    "//",
    "..",
    "xx",
    "\\\\",
    "--",
    "++",
    "oo",
    "||",
    "**",
    "***",
    "/.",
    "x.",
)

_SETTINGS = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "gnm",
}


def style() -> AbstractContextManager[None]:
    """Matplotlib settings of the project's figures, in force inside a `with` block."""
    return matplotlib.rc_context(_SETTINGS)


def with_variant(method: str, variant: str) -> str:
    """The key under which a method's variant stands apart from it: "gnm" and "val_id" give "gnm (val_id)"."""
    return f"{method} ({variant})" if variant else method


def method_style(method: str) -> MethodStyle:
    """The method's style; a variant has its method's; an unlisted method is grey under its own name."""
    base, _, variant = method.removesuffix(")").partition(" (")
    shown = METHODS.get(base, MethodStyle(base, GREY, "."))
    return replace(shown, name=f"{shown.name}, {variant_words(variant)}") if variant else shown


def variant_words(variant: str) -> str:
    """A variant as figures name it: "all" gives "every token stored", "05" gives "5 % stored"."""
    if variant.isdecimal():
        return f"{int(variant)} % stored"
    return _VARIANTS.get(variant, variant.replace("_", " "))


def method_hatch(method: str) -> str:
    """The hatch of a method's bars; an unlisted method has none."""
    return dict(zip(METHODS, _HATCHES, strict=True)).get(method.partition(" (")[0], "")


def in_order(methods: Iterable[str]) -> list[str]:
    """The distinct methods in the fixed order of `METHODS`, others after them by name."""
    rank = {name: position for position, name in enumerate(METHODS)}
    return sorted(set(methods), key=lambda name: (rank.get(name.partition(" (")[0], len(rank)), name))


def save_figure(figure: Figure, path: str | Path, exact: bool = False) -> list[Path]:
    """Save as PNG and SVG beside each other, each whole or not at all; returns the two paths.

    `path` may carry either suffix or none. `exact`: at the figure's own size; otherwise its white margins are cut.
    The PNG has 256 colours, which makes a third of its size and is not seen; a matrix, whose colours are numbers,
    keeps all. The same figure gives the same bytes (no dates, fixed SVG ids). A dollar sign, as in a method's name,
    is one: no text is read as a formula.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    saved = []
    with style():
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            target = stem.with_name(f"{stem.name}.{suffix}")
            with atomic_path(target) as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata, bbox_inches=None if exact else "tight")
                if suffix == "png" and not figure.findobj(AxesImage):
                    reduce_colours(temporary)
            saved.append(target)
    return saved


def reduce_colours(path: Path) -> None:
    """Write a PNG anew with the 256 colours that are nearest to its own, by at most some 10 of 255."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(path, format="PNG", optimize=True, dpi=image.info.get("dpi"))
