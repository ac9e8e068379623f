"""How a memory is written."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from gnm.config import StrictModel
from gnm.models.gates.write import GateSettings


class WriteSettings(StrictModel):
    """What a write reads of the pool: "nothing", "all", or the number of its last slots; and what it leaves there.

    gates: which segments of a document it stores, None: all.
    """

    reads: Literal["nothing", "all"] | int = "nothing"
    tap: Literal["inputs", "outputs"] = "inputs"
    tokens: int | None = Field(None, gt=0, description="slots of a document, with tap: outputs")
    gates: GateSettings | None = None

    @field_validator("reads")
    @classmethod
    def _positive(cls, reads):
        if isinstance(reads, int) and reads < 1:
            raise ValueError("a number of slots to read must be positive; use 'nothing' to read none")
        return reads

    @model_validator(mode="after")
    def _slots_of_a_document(self) -> "WriteSettings":
        if (self.tap == "outputs") != (self.tokens is not None):
            raise ValueError("write.tokens, the slots of a document, goes with write.tap: outputs, and only with it")
        if self.gates and self.tap == "outputs":
            raise ValueError("write.gates goes with write.tap: inputs; the other tap always writes write.tokens slots")
        return self
