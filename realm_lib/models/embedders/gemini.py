"""Embeddings by Gemini, which answers without saying which vector belongs to which text.

gemini-embedding-001 is told by a task type what its vectors are for; gemini-embedding-2 reads it before the text, in
the forms that Google's guide gives for it (read in a public copy of 2026). Both cut a long text without a word.
"""

import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.embedding import GEMINI_TEXTS_PER_REQUEST, EmbeddingParams, Instruction, TaskType
from realm_lib.models.embedders.asking import Account, AskingEmbedder
from realm_lib.models.embedders.gemini_clients import GeminiClient, build_client
from realm_lib.models.embedders.piece_estimate import count_pieces, cut_to_pieces
from realm_lib.models.embedders.token_limit import cut_to_bytes
from realm_lib.models.embedders.vectors import EmbedderError, Role, cosine
from realm_lib.models.hosted import estimate_tokens
from realm_lib.runs.seeds import derive_seed

_FULL_DIMENSIONS = 3072
_BYTES_PER_TOKEN = 3
"""Where gemini-embedding-001's texts are cut: English has more than three bytes a token, so that the service, which
would cut without a word, has nothing left to cut. gemini-embedding-2's are cut by a stricter estimate."""
_DOCUMENT = "title: none | text: "
_ALIKE = frozenset({"sentence similarity", "classification", "clustering"})
"""Instructions by which prompts and responses are embedded alike."""
_OWN_TOKENS = 8  # left for what the service may add to a text; how many it adds is not public

_PROBES = ("Seven lighthouse keepers counted herring.", "def invert(matrix): return numpy.linalg.inv(matrix)")
"""Two texts of known vectors, put at random places of each request: an answer carries no names, so vectors in another
order than the texts could not be told otherwise."""
_SAME_TEXT = 0.99  # cosine; Gemini's vectors of one text differ by rounding, those of the probes by far more


class GeminiEmbedder(AskingEmbedder[GeminiClient]):
    """gemini-embedding-001 or gemini-embedding-2 over the network.

    Up to 98 texts and two probes go in a request. The check of the order, by the probes, finds a shuffled, reversed,
    shifted or sorted answer, and two swapped vectors by chance only; ``embedding.batch_size: 1`` asks for each text
    alone and leaves nothing to be put out of order.
    """

    service = "Gemini"
    added_texts = len(_PROBES)

    def __init__(
        self, params: EmbeddingParams, role: Role = "response", account: Account[GeminiClient] | None = None
    ) -> None:
        """``account`` is shared with another role's embedder; normally there is none to give."""
        if account is None:
            secret = Secret(params.api_key or "${GEMINI_API_KEY}")
            account = Account(params, secret, lambda: build_client(params, secret))
        super().__init__(params, role, account)
        self._model = params.gemini_model
        self._task_type = (role == "prompt" and params.prompt_task_type) or params.task_type
        self._prefix = _prefix(params.instruction or "question answering", role) if self._instructed else ""
        self.dimensions = params.dimensions or _FULL_DIMENSIONS
        self._probes: NDArray[np.float32] | None = None
        purpose = {"prefix": self._prefix} if self._instructed else {"task_type": self._task_type}
        limit = {"max_tokens": self._model.max_tokens} if self._instructed else {"max_bytes": self._most_bytes}
        self.identity: Mapping[str, Any] = {
            "backend": params.backend,
            "model": params.model_id.removeprefix("models/"),
            **purpose,
            "dimensions": self.dimensions,
            **limit,
            # Another address is perhaps another model: a proxy's vectors are not taken for Google's.
            "api_endpoint": params.api_endpoint,
        }
        """Either client library gives the same vectors, so it is not in it."""

    @property
    def dollars_per_token(self) -> float:
        """The price, in US dollars."""
        return (self._model.price if self.params.price is None else self.params.price) / 1e6

    @property
    def texts_per_request(self) -> int:
        """Most texts in one request, the probes not counted."""
        return GEMINI_TEXTS_PER_REQUEST

    def for_role(self, role: Role) -> Self:
        """The embedder of prompts or of responses, with the same key, limits and budget."""
        return type(self)(self.params, role, self._account)

    @property
    def limit(self) -> str:
        """The most that the model reads of a text, as an error says it."""
        by = "a safe estimate" if self._instructed else f"{self._most_bytes:,} bytes"
        return f"the model's limit of {self._model.max_tokens:,} tokens (by {by})"

    def by_task_type(self) -> Mapping[str, Self]:
        """This embedder under each of the model's task types or forms of a text, by its name."""
        roles: dict[str, Role]
        if self._instructed:
            roles = {**dict.fromkeys(get_args(Instruction), "prompt"), "document": "response"}
            purposes = {name: {"instruction": None if name == "document" else name} for name in roles}
        else:
            roles = dict.fromkeys(get_args(TaskType), "response")
            purposes = {name: {"task_type": name, "prompt_task_type": None} for name in roles}
        return {
            name: type(self)(self.params.model_copy(update=purposes[name]), roles[name], self._account)
            for name in roles
        }

    @property
    def _instructed(self) -> bool:
        return self._model.takes_instructions

    @property
    def _most_bytes(self) -> int:
        return self._model.max_tokens * _BYTES_PER_TOKEN

    def _tokens(self, text: str) -> int:
        return estimate_tokens(self._prefix + text)

    def _within_limit(self, text: str) -> str:
        if self._instructed:
            return cut_to_pieces(text, self._model.max_tokens - count_pieces(self._prefix) - _OWN_TOKENS)
        return cut_to_bytes(text, self._most_bytes)

    def _send(self, client: GeminiClient, texts: list[str]) -> Sequence[Sequence[float]]:
        return client.embed([self._prefix + text for text in texts], self._task_type, self.dimensions)

    def _prepare(self, requests: Sequence[list[str]]) -> None:
        """The probes' vectors, each from a request that holds nothing else."""
        if self._probes is None and any(len(request) > 1 for request in requests):
            never = threading.Event()
            self._probes = np.concatenate([self._vectors([probe], never) for probe in _PROBES])

    def _ask(self, texts: list[str], stopped: threading.Event) -> NDArray[np.float32]:
        """Unit vectors of ``texts`` [n, dimensions], from one request."""
        if len(texts) == 1:
            return self._vectors(texts, stopped)
        assert self._probes is not None
        chance = random.Random(derive_seed(0, "probes", len(texts), texts[0]))
        probed = chance.sample(range(len(texts) + len(_PROBES)), len(_PROBES))
        own = [index for index in range(len(texts) + len(_PROBES)) if index not in probed]
        text_at = dict(zip([*own, *probed], [*texts, *_PROBES], strict=True))
        vectors = self._vectors([text_at[index] for index in range(len(text_at))], stopped)
        if cosine(vectors[probed], self._probes).min() < _SAME_TEXT:
            raise EmbedderError(
                "Gemini's answer is not in the order of the texts: a text of known vector came back with another"
            )
        return vectors[own]


def _prefix(instruction: str, role: Role) -> str:
    """What stands before a text."""
    return _DOCUMENT if role == "response" and instruction not in _ALIKE else f"task: {instruction} | query: "
