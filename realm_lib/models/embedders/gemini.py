"""Embeddings by Gemini: many texts in few requests, at a known cost, and no vector that was not checked."""

import random
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.embedding import GEMINI_MODEL, GEMINI_TEXTS_PER_REQUEST, EmbeddingParams, TaskType
from realm_lib.models.embedders.gemini_clients import GeminiClient, build_client
from realm_lib.models.embedders.vectors import EmbedderError, Quote, Role, cosine, unit_vectors
from realm_lib.models.hosted import RateLimiter, RemoteError, ask_all, estimate_tokens, with_retries
from realm_lib.runs.seeds import derive_seed

_FAILURES = (RemoteError, EmbedderError)
_FULL_DIMENSIONS = 3072
_DOLLARS_PER_TOKEN = 0.15e-6  # gemini-embedding-001, Google's price list of 2025
_MOST_BYTES = 2048 * 3
"""Where a text is cut: 2,048 tokens are the model's limit, and English has more than three bytes a token, so that the
service, which would cut without a word, has nothing left to cut."""

_PROBES = ("Seven lighthouse keepers counted herring.", "def invert(matrix): return numpy.linalg.inv(matrix)")
"""Two texts of known vectors, put at random places of each request: an answer carries no names, so vectors in another
order than the texts could not be told otherwise."""
_SAME_TEXT = 0.99  # cosine; Gemini's vectors of one text differ by rounding, those of the probes by far more


class BudgetError(EmbedderError):
    """The texts would cost more than ``embedding.max_cost`` allows; nothing was asked."""


class _Account:
    """What the embedders of prompts and responses share: the key, the limits, the client, and what was spent."""

    def __init__(self, params: EmbeddingParams) -> None:
        self.secret = Secret(params.api_key or "${GEMINI_API_KEY}")
        self.limiter = RateLimiter(params.requests_per_minute, params.tokens_per_minute)
        self.lock = threading.Lock()
        self.tokens = 0
        self._params = params
        self._client: GeminiClient | None = None

    def client(self) -> GeminiClient:
        """The client, made when it is first needed: a run whose texts are all in the store needs no key."""
        with self.lock:
            if self._client is None:
                self._client = build_client(self._params, self.secret)
            return self._client


class GeminiEmbedder:
    """gemini-embedding-001 over the network. It embeds responses; :meth:`for_role` gives the embedder of prompts.

    Each distinct text is asked for once a call, up to 98 and two probes a request, several requests in flight within
    the limits on requests and tokens a minute. An answer counts only if its vectors are as many as the texts, in their
    order, of the right length, finite and not zero; any other is an error. The check of the order finds a shuffled,
    reversed, shifted or sorted answer, and two swapped vectors by chance only; ``embedding.batch_size: 1`` asks for
    each text alone and leaves nothing to be put out of order.
    """

    def __init__(self, params: EmbeddingParams, role: Role = "response", account: _Account | None = None) -> None:
        """``account`` is shared with another role's embedder; normally there is none to give."""
        self.params = params
        self._account = account or _Account(params)
        self._task_type = (role == "prompt" and params.prompt_task_type) or params.task_type
        self.dimensions = params.dimensions or _FULL_DIMENSIONS
        """Length of a vector."""
        self._probes: NDArray[np.float32] | None = None
        self.identity: Mapping[str, Any] = {
            "backend": params.backend,
            "model": GEMINI_MODEL,
            "task_type": self._task_type,
            "dimensions": self.dimensions,
            "max_bytes": _MOST_BYTES,
            # Another address is perhaps another model: a proxy's vectors are not taken for Google's.
            "api_endpoint": params.api_endpoint,
        }
        """Either client library gives the same vectors, so it is not in it."""

    @property
    def spent(self) -> float:
        """US dollars, estimated, that this embedder and that of the other role have spent."""
        return self._account.tokens * _DOLLARS_PER_TOKEN

    def for_role(self, role: Role) -> Self:
        """The embedder of prompts or of responses, with the same key, limits and budget."""
        return type(self)(self.params, role, self._account)

    def by_task_type(self) -> Mapping[str, Self]:
        """This embedder under each of Gemini's task types, by its name."""
        own = self.params.model_copy(update={"prompt_task_type": None})
        return {
            name: type(self)(own.model_copy(update={"task_type": name}), "response", self._account)
            for name in get_args(TaskType)
        }

    def quote(self, texts: Sequence[str]) -> Quote:
        """Number, tokens and cost of the distinct ``texts``, estimated without asking; and how many are cut."""
        distinct = {_as_sent(text, index) for index, text in enumerate(texts)}
        tokens = sum(map(estimate_tokens, distinct))
        cut = sum(len(text.encode()) > _MOST_BYTES for text in set(texts))
        return Quote(len(distinct), tokens, tokens * _DOLLARS_PER_TOKEN, cut)

    def authorise(self, quote: Quote) -> None:
        """Raise :class:`BudgetError` when ``quote`` is over the rest of ``max_cost``, ParamsError without a key."""
        limit = self.params.max_cost
        if limit is not None and self.spent + quote.cost > limit:
            spent = f", after ${self.spent:.2f} that are spent," if self.spent else ""
            raise BudgetError(
                f"{quote}{spent} is more than embedding.max_cost allows (${limit:.2f}); nothing was asked. Raise "
                "max_cost, or take fewer pairs (data.splits)"
            )
        if quote.texts:
            self._account.secret.reveal()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length vectors, float32 [n, dimensions], in the order given.

        Raises :class:`EmbedderError` when any text failed: see :meth:`stream`, which gives what succeeded.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for indices, answered in self.stream(texts):
            vectors[indices] = answered
        return vectors

    def stream(self, texts: Sequence[str]) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Indices of ``texts`` and their unit vectors, one request's at a time, in the order of the answers.

        The first failure that retries do not cure stops the asking; what is in flight is still given, and then
        :class:`EmbedderError` says how many texts are done, which failed and why.
        """
        indices: dict[str, list[int]] = {}
        for index, text in enumerate(texts):
            indices.setdefault(_as_sent(text, index), []).append(index)
        self.authorise(self.quote(texts))
        most = self.params.batch_size or GEMINI_TEXTS_PER_REQUEST
        requests = _requests(list(indices), most, self.params.tokens_per_minute)
        if any(len(request) > 1 for request in requests):
            try:
                self._learn_probes()
            except _FAILURES as error:
                raise EmbedderError(f"none of {len(texts)} texts was embedded: {error}") from None
        done = 0
        failures: list[tuple[list[str], Exception]] = []
        answers = ask_all(requests, self._ask, max_in_flight=self.params.max_in_flight, expected=_FAILURES)
        with closing(answers):  # a consumer that stops early must not leave requests in flight
            for number, answer in answers:
                if isinstance(answer, Exception):
                    failures.append((requests[number], answer))
                    continue
                equal = [indices[text] for text in requests[number]]
                answered = [index for same in equal for index in same]
                done += len(answered)
                yield answered, np.repeat(answer, [len(same) for same in equal], axis=0)
        if failures:
            raise _incomplete(texts, done, failures, indices)

    def _learn_probes(self) -> None:
        """The probes' vectors, each from a request that holds nothing else."""
        if self._probes is None:
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

    def _vectors(self, texts: list[str], stopped: threading.Event) -> NDArray[np.float32]:
        """The checked answer for ``texts``, from one request and its retries."""
        client = self._account.client()
        tokens = sum(map(estimate_tokens, texts))
        answer = with_retries(
            lambda: client.embed(texts, self._task_type, self.dimensions),
            limiter=self._account.limiter,
            tokens=tokens,
            max_attempts=self.params.max_attempts,
            first_wait=self.params.retry_wait,
            cancelled=stopped,
        )
        with self._account.lock:
            self._account.tokens += tokens  # paid for, whether the answer is good or not
        if len(answer) != len(texts):
            raise EmbedderError(f"Gemini answered {len(answer)} vectors to {len(texts)} texts")
        for vector in answer:
            if len(vector) != self.dimensions:
                raise EmbedderError(f"Gemini answered a vector of {len(vector)} dimensions, not {self.dimensions}")
        return unit_vectors(np.array(answer, dtype=np.float64), texts)


def _as_sent(text: str, index: int) -> str:
    """``text`` without what is over the model's limit. Raises :class:`EmbedderError` for one that cannot be sent."""
    if not text.strip():
        raise EmbedderError(f"text {index} is empty: Gemini has no vector for it")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise EmbedderError(f"text {index} is not Unicode (a lone surrogate): {text[:60]!r}") from None
    return text if len(encoded) <= _MOST_BYTES else encoded[:_MOST_BYTES].decode(errors="ignore")


def _requests(texts: list[str], most: int, most_tokens: int | None) -> list[list[str]]:
    """``texts`` in requests of at most ``most``, none asking for more tokens than a minute allows."""
    requests: list[list[str]] = []
    tokens = 0
    for text in texts:
        size = estimate_tokens(text)
        if not requests or len(requests[-1]) == most or (most_tokens and tokens + size > most_tokens):
            requests.append([])
            tokens = 0
        requests[-1].append(text)
        tokens += size
    return requests


def _incomplete(
    texts: Sequence[str], done: int, failures: list[tuple[list[str], Exception]], indices: Mapping[str, list[int]]
) -> EmbedderError:
    request, error = failures[0]
    failed = sorted(index for request, _ in failures for text in request for index in indices[text])
    also = f"; {len(texts) - done - len(failed)} were not asked for any more" if len(texts) > done + len(failed) else ""
    return EmbedderError(
        f"{done} of {len(texts)} texts were embedded; {len(failed)} failed, the first of them text "
        f"{indices[request[0]][0]}, {request[0][:60]!r}{also}. Why: {error}"
    )
