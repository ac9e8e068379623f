"""The settings of a long-term store (`store.py`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gnm.config import StrictModel
from gnm.memory.retriever_file import retriever_digest


class StoreSettings(StrictModel):
    """What goes into the store, and what a question reads of it.

    by: what a question and a segment are compared by, the mean over their tokens of what enters `layer`, or what enters
    it at the last token; "random" reads segments at random, to compare with. whiten: whether what all texts have in
    common is taken out of it. "trained" passes the mean through the networks of a trained retriever
    (`gnm.models.retriever`), which lies in the folder `retriever`. lexical: how much the tokens that both have in
    common count beside that (`gnm.models.lexical_keys`).
    """

    k: int = Field(8, gt=0, description="segments that a question reads, at most")
    layer: int = Field(2, ge=0, description="whose input gives the search keys")
    by: Literal["mean", "last", "random", "trained"] = "mean"
    retriever: Path | None = Field(None, description="folder of a trained retriever, for by: trained")
    whiten: bool = True
    lexical: float = Field(0.4, ge=0, le=1, description="share of the tokens in common in what both are compared by")
    strength_weight: float = Field(0.0, ge=0, description="of the logarithm of a segment's strength, beside the cosine")
    takes: Literal["evicted", "written"] = Field(
        "evicted", description="what the pool evicts, or all that is written at once; the pool then stays empty"
    )
    index_from: int | None = Field(
        100_000, gt=0, description="segments from which on an index searches them (FAISS); None: all are compared"
    )
    consolidate: bool = Field(
        False,
        description="segments of the same words become one, the newest, which counts the documents that stated it",
    )
    on_disk: bool = Field(False, description="a saved memory's entries stay on disk, and questions read what they find")

    @model_validator(mode="after")
    def _retriever_of_trained_keys(self) -> "StoreSettings":
        if (self.by == "trained") != (self.retriever is not None):
            raise ValueError("by: trained and the folder of a retriever go together; give both or neither")
        return self

    @property
    def search_key(self) -> str:
        """In words, what its search keys are; a store can only be searched with keys of the same kind.

        Raises CheckpointError if a trained retriever is missing.
        """
        kind = "last" if self.by == "last" else "mean"
        untrained = f"the {kind} input of layer {self.layer}{', whitened' if self.whiten else ''}"
        trained = "" if self.retriever is None else f", by the retriever {retriever_digest(self.retriever)}"
        lexical = f", and the tokens in common by {self.lexical:g}" if self.lexical else ""
        return f"{untrained}{trained}{lexical}"
