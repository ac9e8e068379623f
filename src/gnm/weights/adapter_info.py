"""What gnm.json says of an adapter or of a saved memory model, as a typed value."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from gnm.config import StrictModel
from gnm.models.lora import LoraSettings

VERSION = 1
"""Of the layout of an adapter's folder; it is raised when a program for the last one could not read the next."""


class BackboneInfo(StrictModel):
    """The backbone that weights belong to: its name, the digest of its configuration, and the dtype it computed in."""

    name: str
    digest: str
    dtype: str | None = None


class AdapterInfo(BaseModel):
    """The content of gnm.json, but for checksums; `read_about` refuses other keys.

    version: of the folder's layout; a file that says none is of version 1.
    lora: shape of the adapters, None if there are none. learner: the settings of its method (`LearnerSettings`).
    training: the settings of the training. start: digest of the model that the training started from.
    made: by what command, from which commit, on which device, in how many steps.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    version: int = VERSION
    backbone: BackboneInfo
    lora: LoraSettings | None
    learner: dict[str, Any]
    training: dict[str, Any] | None = None
    start: str | None = None
    made: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """For gnm.json, without what is not known."""
        return {"version": self.version, **self.model_dump(mode="json", exclude_unset=True)}
