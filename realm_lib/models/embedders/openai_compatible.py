"""Embeddings by a service of OpenAI's protocol, or by a server of one's own that speaks it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders.asking import Account, AskingEmbedder
from realm_lib.models.embedders.openai_client import OpenAIClient
from realm_lib.models.embedders.token_limit import TokenLimit
from realm_lib.models.embedders.vectors import Quote, Role
from realm_lib.models.hosted import RemoteError

_TEXTS_PER_REQUEST = 32
"""What TEI takes unless told otherwise; 32 texts of 8,192 tokens are within OpenAI's 300,000 tokens a request."""
_SAMPLE = "How long is a vector?"
_OF_A_TEXT = frozenset({400, 413, 422})
"""What a service answers where one of the texts may be too long."""


class OpenAIEmbedder(AskingEmbedder[OpenAIClient]):
    """A model behind OpenAI's route ``/embeddings``.

    An answer says by its index which vector is whose; one that does not is an error. A model whose vectors are longer
    than ``embedding.dimensions`` is asked for shorter ones; no other is sent that field, which several servers refuse.
    """

    service = "the service"

    def __init__(
        self,
        params: EmbeddingParams,
        role: Role = "response",
        account: Account[OpenAIClient] | None = None,
        limit: TokenLimit | None = None,
    ) -> None:
        """``account`` and ``limit`` are shared with another role's embedder; normally there are none to give.

        Raises :class:`EmbedderError` for a tokenizer that cannot be found.
        """
        known = params.openai_model
        if account is None:
            secret = Secret(params.api_key or "${OPENAI_API_KEY}") if params.sends_key() else None
            account = Account(params, secret, lambda: OpenAIClient(params, secret))
        super().__init__(params, role, account)
        self._limit = limit or TokenLimit(params.max_tokens or (known and known.max_tokens), params.tokenizer)
        self._price = known.price if params.price is None and known else params.price
        dimensions = params.dimensions or (known and known.dimensions)
        assert dimensions, "the section was checked"
        self.dimensions = dimensions
        of_prompts = role == "prompt"
        self._prefix = params.prompt_prefix if of_prompts else params.response_prefix
        self._fields = params.prompt_fields if of_prompts else params.response_fields
        self.identity: Mapping[str, Any] = {
            "backend": params.backend,
            "model": params.model_id,
            # Another address is perhaps another model, or the same in another precision.
            "api_endpoint": params.api_endpoint and params.api_endpoint.rstrip("/"),
            "dimensions": dimensions,
            "prefix": self._prefix,
            "fields": self._fields,
            **self._limit.identity,
        }

    @property
    def dollars_per_token(self) -> float:
        """The price, in US dollars; 0 where it is not known, which a quote then says."""
        return (self._price or 0.0) / 1e6

    @property
    def texts_per_request(self) -> int:
        """Most texts in one request, unless ``embedding.batch_size`` says it."""
        return _TEXTS_PER_REQUEST

    @property
    def limit(self) -> str:
        """The most that the model reads of a text, as an error says it."""
        return str(self._limit)

    def for_role(self, role: Role) -> Self:
        """The embedder of prompts or of responses, with the same key, limits and budget."""
        return type(self)(self.params, role, self._account, self._limit)

    def by_task_type(self) -> Mapping[str, Self]:
        """None: the protocol has no task types."""
        return {}

    def quote(self, texts: Sequence[str]) -> Quote:
        """See :class:`realm_lib.models.embedders.vectors.HostedEmbedder`; it says what is not known."""
        return replace(super().quote(texts), priced=self._price is not None, note=self._limit.doubt)

    def _tokens(self, text: str) -> int:
        return self._limit.count(self._prefix + text)

    def _within_limit(self, text: str) -> str:
        whole = self._prefix + text
        cut = self._limit.cut(whole)
        return text if cut == whole else cut.removeprefix(self._prefix)

    def _prepare(self, requests: Sequence[list[str]]) -> None:
        """How long the model's own vectors are, by a short text, so that all requests in flight know."""
        if requests and self._account.client().shortens is None:
            self._vectors([_SAMPLE], threading.Event())

    def _send(self, client: OpenAIClient, texts: list[str]) -> Sequence[NDArray[np.float64]]:
        texts = [self._prefix + text for text in texts]
        vectors = client.embed(texts, self._fields, self.dimensions if client.shortens else None)
        if client.shortens is None:
            client.shortens = any(len(vector) > self.dimensions for vector in vectors)
            if client.shortens:
                return client.embed(texts, self._fields, self.dimensions)
        return vectors

    def _ask(self, texts: list[str], stopped: threading.Event) -> NDArray[np.float32]:
        try:
            return super()._ask(texts, stopped)
        except RemoteError as error:
            if error.status in _OF_A_TEXT and len(texts) > 1:
                longest = max(texts, key=len)
                said = f"the longest of the {len(texts)} texts of this request has {len(longest):,} characters"
                error.args = (f"{error}; {said}: {longest[:60]!r}",)
            raise
