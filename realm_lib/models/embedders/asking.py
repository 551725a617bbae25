"""Embeddings by a service: many texts in few requests, at a known cost, and no vector that was not checked."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders.vectors import EmbedderError, Quote, Role, unit_vectors
from realm_lib.models.hosted import RemoteError, ask_all, estimate_tokens, with_retries
from realm_lib.models.rate_limiter import RateLimiter

_FAILURES = (RemoteError, EmbedderError)

Client = TypeVar("Client")


class BudgetError(EmbedderError):
    """The texts would cost more than ``embedding.max_cost`` allows; nothing was asked."""


class Account(Generic[Client]):
    """What the embedders of prompts and responses share: the key, the limits, the client, and what was spent."""

    def __init__(self, params: EmbeddingParams, secret: Secret | None, build_client: Callable[[], Client]) -> None:
        """``secret`` is None for a service that takes no key."""
        self.secret = secret
        self.limiter = RateLimiter(params.requests_per_minute, params.tokens_per_minute)
        self.lock = threading.Lock()
        self.tokens = 0
        self._build_client = build_client
        self._client: Client | None = None

    def client(self) -> Client:
        """The client, made when it is first needed: a run whose texts are all in the store needs no key."""
        with self.lock:
            if self._client is None:
                self._client = self._build_client()
            return self._client


class AskingEmbedder(ABC, Generic[Client]):
    """An embedding model over the network. It embeds responses; :meth:`for_role` gives the embedder of prompts.

    Each distinct text is asked for once a call, several texts a request, several requests in flight within the limits
    on requests and tokens a minute. An answer counts only if its vectors are as many as the texts, of the right length,
    finite and not zero; any other is an error. That they are in the texts' order is for the class of the service to
    see to: where its answers carry no numbers, in :meth:`_ask`.
    """

    service: ClassVar[str]
    """The service's name, as errors say it."""
    identity: Mapping[str, Any]
    """What changes a vector besides its text."""
    dimensions: int
    """Length of a vector."""

    def __init__(self, params: EmbeddingParams, role: Role, account: Account[Client]) -> None:
        """``account`` is shared with another role's embedder."""
        self.params = params
        self.role = role
        self._account = account

    # What the class of a service says

    @property
    @abstractmethod
    def dollars_per_token(self) -> float:
        """The price, in US dollars."""

    @property
    @abstractmethod
    def texts_per_request(self) -> int:
        """Most texts in one request."""

    added_texts: ClassVar[int] = 0
    """Texts that the class of the service adds to each request of more than one."""

    @property
    @abstractmethod
    def limit(self) -> str:
        """The most that the model reads of a text, as an error says it."""

    @abstractmethod
    def for_role(self, role: Role) -> Self:
        """The embedder of prompts or of responses, with the same key, limits and budget."""

    @abstractmethod
    def by_task_type(self) -> Mapping[str, Self]:
        """This embedder under each purpose that the service embeds for, by the purpose's name."""

    @abstractmethod
    def _within_limit(self, text: str) -> str:
        """``text`` without what is over the model's limit: the very object where nothing is."""

    @abstractmethod
    def _send(self, client: Client, texts: list[str]) -> Sequence[Sequence[float] | NDArray[np.float64]]:
        """The vectors of ``texts``, from one request, sent once; their number and lengths are checked by the caller.

        Raises :class:`realm_lib.models.hosted.RemoteError` when there is no answer or a refusal, and
        :class:`EmbedderError` for an answer that cannot be read.
        """

    def _tokens(self, text: str) -> int:
        """About how many tokens ``text`` is, as it is sent."""
        return estimate_tokens(text)

    def _prepare(self, requests: Sequence[list[str]]) -> None:
        """What must be asked before ``requests`` are."""

    def _ask(self, texts: list[str], stopped: threading.Event) -> NDArray[np.float32]:
        """Unit vectors of ``texts`` [n, dimensions] in their order, from one request."""
        return self._vectors(texts, stopped)

    # What all have

    @property
    def spent(self) -> float:
        """US dollars, estimated, that this embedder and that of the other role have spent."""
        return self._account.tokens * self.dollars_per_token

    def quote(self, texts: Sequence[str]) -> Quote:
        """Number, tokens and cost of the distinct ``texts``, estimated without asking; and how many are cut."""
        distinct = {self._as_sent(text, index) for index, text in enumerate(texts)}
        tokens = sum(map(self._tokens, distinct))
        cut = sum(self._within_limit(text) is not text for text in set(texts))
        return Quote(len(distinct), tokens, tokens * self.dollars_per_token, cut)

    def authorise(self, quote: Quote) -> None:
        """Raise :class:`BudgetError` when ``quote`` is over the rest of ``max_cost``, ParamsError without a key."""
        limit = self.params.max_cost
        if limit is not None and self.spent + quote.cost > limit:
            spent = f", after ${self.spent:.2f} that are spent," if self.spent else ""
            raise BudgetError(
                f"{quote}{spent} is more than embedding.max_cost allows (${limit:.2f}); nothing was asked. Raise "
                "max_cost, or take fewer pairs (data.splits)"
            )
        if quote.texts and self._account.secret is not None:
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
            indices.setdefault(self._as_sent(text, index), []).append(index)
        self.authorise(self.quote(texts))
        requests = _requests(list(indices), self._most_texts(), self.params.tokens_per_minute, self._tokens)
        try:
            self._prepare(requests)
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

    def _most_texts(self) -> int:
        """Most texts in one request: where each counts as a request, no more than a minute allows."""
        most = self.params.batch_size or self.texts_per_request
        allowed = self.params.requests_per_minute
        return max(1, min(most, allowed - self.added_texts)) if allowed and self.params.texts_count else most

    def _as_sent(self, text: str, index: int) -> str:
        """``text`` as it is sent. Raises :class:`EmbedderError` for one that cannot be."""
        if not text.strip():
            raise EmbedderError(f"text {index} is empty: {self.service} has no vector for it")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EmbedderError(f"text {index} is not Unicode (a lone surrogate): {text[:60]!r}") from None
        within = self._within_limit(text)
        if within is not text and self.params.long_texts == "refuse":
            raise EmbedderError(
                f"text {index} is over {self.limit}, and embedding.long_texts is refuse: {text[:60]!r}", [index]
            )
        return within

    def _vectors(self, texts: list[str], stopped: threading.Event) -> NDArray[np.float32]:
        """The checked answer for ``texts``, from one request and its retries."""
        client = self._account.client()
        tokens = sum(map(self._tokens, texts))
        answer = with_retries(
            lambda: self._send(client, texts),
            limiter=self._account.limiter,
            tokens=tokens,
            requests=len(texts) if self.params.texts_count else 1,
            max_attempts=self.params.max_attempts,
            first_wait=self.params.retry_wait,
            cancelled=stopped,
        )
        with self._account.lock:
            self._account.tokens += tokens  # paid for, whether the answer is good or not
        if len(answer) != len(texts):
            raise EmbedderError(f"{self.service} answered {len(answer)} vectors to {len(texts)} texts")
        for vector in answer:
            if len(vector) != self.dimensions:
                raise EmbedderError(
                    f"{self.service} answered a vector of {len(vector)} dimensions, not {self.dimensions}"
                )
        return unit_vectors(np.array(answer, dtype=np.float64), texts)


def _requests(
    texts: list[str], most: int, most_tokens: int | None, tokens_of: Callable[[str], int] = estimate_tokens
) -> list[list[str]]:
    """``texts`` in requests of at most ``most``, none asking for more tokens than a minute allows."""
    requests: list[list[str]] = []
    tokens = 0
    for text in texts:
        size = tokens_of(text)
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
        f"{indices[request[0]][0]}, {texts[indices[request[0]][0]][:60]!r}{also}. Why: {error}"
    )
