"""Settings of the service: limits of requests, and how many questions it answers side by side."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gnm.config import StrictModel, load_params

MOST_QUESTIONS = 1_000
_ESCAPED = 12  # bytes that JSON may need for a character
_BESIDE = 1_000  # bytes of keys and short values


class Limits(StrictModel):
    """Limits of sizes, numbers and waiting times. A request that exceeds one is refused before any work."""

    body_bytes: int = Field(3_000_000, gt=0, description="a request's JSON")
    import_bytes: int = Field(500_000_000, gt=0, description="a memory file that is imported")
    import_header_bytes: int = Field(
        4_000_000, gt=0, description="of these, what the file says of its documents: instructions, stored words"
    )
    body_seconds: float = Field(
        30.0, gt=0, description="until a request's head has arrived, and its body; of an import, each piece"
    )
    unread_seconds: float = Field(
        30.0, gt=0, description="a connection is cut off if its caller takes nothing of an answer for so long"
    )
    document_characters: int = Field(200_000, gt=0)
    question_characters: int = Field(4_000, gt=0, description="a question, an instruction")
    chat_characters: int = Field(20_000, gt=0, description="all messages of a chat")
    questions: int = Field(32, gt=0, le=MOST_QUESTIONS, description="in one request")
    answer_tokens: int = Field(64, gt=0, description="of a short answer, which is finished once it is begun")
    max_new_tokens: int = Field(512, gt=0, description="of an answer of a chat")
    memories: int = Field(1_000, gt=0, description="of a user")
    files: int = Field(
        4, gt=0, description="imports and exports of a user at the same time: each may hold a file's room"
    )
    waiting: int = Field(128, gt=0, description="requests that wait for the model or are answered by it")
    waiting_of_user: int = Field(64, gt=0, description="those of one user")
    wait_seconds: float = Field(60.0, gt=0, description="for the model's turn, and for another process's lock")
    connections: int = Field(256, gt=0, description="that are open; requests of further ones are refused")

    @property
    def characters(self) -> int:
        """The most characters that the texts of a request can have together."""
        return max(
            self.document_characters + self.question_characters,
            self.questions * self.question_characters,
            self.chat_characters,
        )

    @model_validator(mode="after")
    def _check_bodies(self) -> Self:
        """Whatever the other limits allow fits into a body, also with all of its characters escaped."""
        if self.body_bytes < (needed := _ESCAPED * self.characters + _BESIDE):
            raise ValueError(
                f"body_bytes is {self.body_bytes}, and the characters that are allowed may take {needed} in JSON: "
                "raise it, or lower document_characters, questions, question_characters or chat_characters"
            )
        return self


class ServeSettings(StrictModel):
    """What `gnm serve --params FILE` reads."""

    limits: Limits = Limits()
    batch: int = Field(16, gt=0, description="questions that are answered side by side")
    gather_seconds: float = Field(0.005, ge=0, description="how long a first question waits for others to join it")
    streams: int = Field(8, gt=0, description="answers that are streamed at the same time; others wait")
    undo_steps: int = Field(10, ge=0, description="changes of a memory that can be undone, while it is kept loaded")
    cached_slots: int = Field(20_000, gt=0, description="slots of memories that are kept loaded, with what undo needs")
    hosts: tuple[str, ...] = Field((), description="names, beside loopback's, that a service without keys answers to")


def serve_settings(path: Path | None) -> ServeSettings:
    """The settings in a YAML file, or the defaults without one. Raises ConfigError if they are wrong."""
    return ServeSettings() if path is None else load_params(path, ServeSettings)
