"""What an embedder is, and what its vectors must be."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.embedding import LongTexts

Role = Literal["prompt", "response"]
_MANY_UNKNOWN = 0.01


class Embedder(Protocol):
    """An embedding model. A vector depends on its own text alone."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything besides the text that changes a vector; the feature store keys on it."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-length vectors, float32 [n, dimensions], in the order given; or an error, never a guess."""


@dataclass(frozen=True)
class Quote:
    """What asking for some texts would take: estimates, made without asking."""

    texts: int
    """Distinct texts."""
    tokens: int
    cost: float
    """US dollars."""
    cut: int
    """Texts over the model's input limit, which lose their end."""
    priced: bool = True
    """Whether the price is known; ``cost`` is 0 where it is not."""
    note: str = ""
    """What the user must know of the limit; empty where nothing is in doubt."""

    def __add__(self, other: "Quote") -> "Quote":
        return Quote(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.cost + other.cost,
            self.cut + other.cut,
            self.priced and other.priced,
            self.note or other.note,
        )

    def __str__(self) -> str:
        cost = f"about ${self.cost:.2f}" if self.priced else "at a price that is not known (embedding.price)"
        cut = f"; {self.cut:,} too long for the model are cut" if self.cut else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.texts:,} texts to embed, about {self.tokens:,} tokens, {cost}{cut}{note}"


class PieceCounts(NamedTuple):
    """Word pieces of some texts, each int64 [n]."""

    pieces: NDArray[np.int64]
    unknown: NDArray[np.int64]
    """Those that stand for what the model's vocabulary lacks, and say nothing of it."""


@runtime_checkable
class ReadingEmbedder(Embedder, Protocol):
    """An embedder that knows how much of a text it reads."""

    @property
    def long_texts(self) -> LongTexts:
        """What becomes of a text over its limit."""

    @property
    def most_pieces(self) -> int | None:
        """The pieces of a text that it reads at once; None where there is no limit."""

    def count_pieces(self, texts: Sequence[str]) -> PieceCounts | None:
        """The pieces of texts, read or not; None where they cannot be counted."""

    def as_read(self, prompts: Sequence[str]) -> list[str]:
        """Prompts (:func:`realm_lib.data.chats.as_text`) as they are embedded: readable, and cut where it cuts."""


@dataclass(frozen=True)
class Reading:
    """How much of some distinct texts an embedding model reads; None where it does not say."""

    prompts: int
    responses: int
    long_prompts: int | None
    """Those over its limit."""
    long_responses: int | None
    pieces: int | None = None
    """Word pieces of all texts."""
    unread: int | None = None
    """Those that no vector knows of; none where long texts are read in windows."""
    unknown: int | None = None
    """Those that the model's vocabulary lacks."""

    @property
    def is_notable(self) -> bool:
        """Whether a text is over the limit, or more pieces than one in a hundred are unknown."""
        unknown = self.pieces and self.unknown and self.unknown / self.pieces > _MANY_UNKNOWN
        return bool(self.long_prompts or self.long_responses or unknown)

    def __str__(self) -> str:
        if self.long_prompts is None or self.long_responses is None:
            long = "how many texts are longer than the embedding model reads is not known"
        elif self.long_prompts or self.long_responses:
            long = (
                f"{self.long_prompts:,} of {self.prompts:,} prompts and {self.long_responses:,} of "
                f"{self.responses:,} responses are longer than the embedding model reads at once"
            )
        else:
            long = "no text is longer than the embedding model reads at once"
        if self.pieces is None or self.unread is None:
            return long
        share = 100 / max(1, self.pieces)
        unread = f"{share * self.unread:.1f} %" if self.unread else "none"
        text = f"{long}; of {self.pieces:,} word pieces {unread} are left unread"
        if self.unknown is None:
            return text
        text += f" and {share * self.unknown:.1f} % are unknown to its vocabulary"
        if self.unknown * share > 100 * _MANY_UNKNOWN:
            text += ", so that it knows nothing of them: take a model of the texts' language (embedding.model_id)"
        return text

    def __add__(self, other: "Reading") -> "Reading":
        mine, others = astuple(self), astuple(other)
        added: list[Any] = [None if a is None or b is None else a + b for a, b in zip(mine, others, strict=True)]
        return Reading(*added)


@runtime_checkable
class HostedEmbedder(Embedder, Protocol):
    """An embedder that is paid by the token, answers in pieces, and may embed prompts and responses differently."""

    def for_role(self, role: Role) -> Self:
        """The embedder of prompts or of responses; they share limits and budget, and differ in identity if at all."""

    def by_task_type(self) -> Mapping[str, Self]:
        """This embedder under each purpose that the service embeds for, by the purpose's name."""

    def quote(self, texts: Sequence[str]) -> Quote:
        """What ``texts`` would take, estimated here without asking."""

    def authorise(self, quote: Quote) -> None:
        """An error when ``quote`` is over what is left of the budget, or when the key is missing."""

    def stream(self, texts: Sequence[str]) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Indices of ``texts`` and their vectors, as answers come; an error comes after all that succeeded."""


class EmbedderError(RuntimeError):
    """An embedding model that cannot be loaded, or a text that could not be embedded.

    ``places`` are the indices, in what was asked, of the texts at fault where single ones are.
    """

    def __init__(self, message: str, places: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.places = list(places)


def by_role(embedder: Embedder) -> tuple[Embedder, Embedder]:
    """The embedders of prompts and of responses: the same object twice unless the model treats them differently."""
    if not isinstance(embedder, HostedEmbedder):
        return embedder, embedder
    of_prompts, of_responses = embedder.for_role("prompt"), embedder.for_role("response")
    return (of_responses if of_prompts.identity == of_responses.identity else of_prompts), of_responses


def unit_vectors(vectors: NDArray[np.floating[Any]], texts: Sequence[str]) -> NDArray[np.float32]:
    """Rows of ``vectors`` [n, d] at length one. Raises :class:`EmbedderError` for a row that has no direction."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        raise EmbedderError(
            f"text {bad[0]} has a vector that is zero or not finite ({len(bad)} of {len(texts)}): "
            f"{texts[bad[0]][:60]!r}",
            bad.tolist(),
        )
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of the rows of ``a`` and ``b`` [n, d], unit vectors, in float64 and within [-1, 1]."""
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
    return products.clip(-1.0, 1.0)
