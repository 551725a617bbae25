"""Texts longer than an embedding model reads: their word pieces counted, and the windows that hold them all."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from realm_lib.data.chats import as_messages, as_text, readable
from realm_lib.data.lengths import cut_prompt, word_count
from realm_lib.models.embedders.vectors import EmbedderError, PieceCounts

SHAPE = "windows of the model's length, a quarter shared; each piece counts once"
"""How a long text becomes one vector: what it is changes with it, so the identity holds it."""

_NO_LIMIT = 100_000  # tokenizers write a huge number where they know none
_SHARED = 4
_AT_ONCE = 512
"""Texts whose pieces are in memory while they are counted: some hundred bytes a piece."""


class Windows(NamedTuple):
    """A text as the model reads it: parts of it, one after the other, and the pieces that each stands for."""

    texts: list[str]
    weights: list[float]
    """A piece that lies in several windows is shared by them alike: the sum is the number of the text's pieces."""


class PieceReader:
    """The word pieces of texts by the tokenizer of a model of sentence-transformers, as it reads them itself."""

    def __init__(self, model: Any, name: str) -> None:
        """Raise :class:`EmbedderError` for a model with a limit whose tokenizer does not say where its pieces lie."""
        from transformers import PreTrainedTokenizerFast

        self._prefix: str = model.prompts.get(model.default_prompt_name) or ""
        tokenizer: Any = getattr(model[0], "tokenizer", None)
        limit = model.max_seq_length
        self.counts = isinstance(tokenizer, Tokenizer | PreTrainedTokenizerFast)
        """Whether the pieces can be counted; not for a model of whole words, say."""
        self.most: int | None = None
        """The pieces of a text that the model reads, its own special tokens and prompt not counted; None: all."""
        self._tokenizer = tokenizer
        if self.counts:
            backend = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.backend_tokenizer
            unknown = getattr(backend.model, "unk_token", None) or getattr(tokenizer, "unk_token", None)
            self._unknown = backend.token_to_id(unknown) if unknown else None
        if limit is None or limit > _NO_LIMIT:
            return
        if not self.counts:
            raise EmbedderError(
                f"embedding.model_id {name}: reads {limit} tokens, and its tokenizer ({type(tokenizer).__name__}) does "
                "not say where in a text they lie, so that nobody would know what it leaves unread: take another model"
            )
        shown = model.preprocess(["a"], prompt=self._prefix or None)["input_ids"]
        self.most = int(limit) - (shown.shape[-1] - len(self._encoded(["a"])[0].ends))
        if self.most < 2 * _SHARED:
            raise EmbedderError(f"embedding.model_id {name}: reads {limit} tokens, which leave {self.most} for a text")

    def count(self, texts: Sequence[str]) -> PieceCounts:
        """The pieces of each of ``texts``, and how many of them the vocabulary lacks."""
        counts = np.zeros((len(texts), 2), dtype=np.int64)
        for start in range(0, len(texts), _AT_ONCE):
            for place, (offsets, ids) in enumerate(self._placed(texts[start : start + _AT_ONCE]), start):
                kept = [number for (_, end), number in zip(offsets, ids, strict=True) if end > len(self._prefix)]
                counts[place] = len(kept), kept.count(self._unknown)
        return PieceCounts(*counts.T.copy())

    def windows(self, texts: Sequence[str]) -> list[Windows]:
        """Each text as it is where the model reads it whole, else in windows that hold all of it."""
        if self.most is None:
            return [Windows([text], [1.0]) for text in texts]
        return [
            Windows([text], [1.0]) if len(pieces.ends) <= self.most else self._divided(text, pieces)
            for text, pieces in zip(texts, self._encoded(texts), strict=True)
        ]

    def _divided(self, text: str, pieces: "_Pieces") -> Windows:
        assert self.most is not None
        room = self.most
        while room >= 2 * _SHARED:
            spans = _spans(pieces.begin_words(text), room)
            parts = [text[pieces.edge(start) : pieces.edge(end)] for start, end in spans]
            # A word that a window begins or ends in has perhaps other pieces alone than within the text.
            over = max(len(part.ends) for part in self._encoded(parts)) - self.most
            if over <= 0:
                return Windows(parts, _weights(spans))
            room -= over
        raise EmbedderError(f"a text cannot be divided into windows of {self.most} word pieces: {text[:60]!r}")

    def _encoded(self, texts: Sequence[str]) -> list["_Pieces"]:
        own = len(self._prefix)
        encoded = []
        for text, (offsets, _) in zip(texts, self._placed(texts), strict=True):
            kept = [(max(0, a - own), b - own) for a, b in offsets if b > own]
            encoded.append(_Pieces([a for a, _ in kept], [b for _, b in kept], len(text)))
        return encoded

    def _placed(self, texts: Sequence[str]) -> "Iterable[tuple[list[tuple[int, int]], list[int]]]":
        """Of each text where its pieces lie, the model's prompt before it, and which they are."""
        told = [self._prefix + text for text in texts]
        if not told:
            return []
        if isinstance(self._tokenizer, Tokenizer):
            encodings = self._tokenizer.encode_batch(told, add_special_tokens=False)
            return ((found.offsets, found.ids) for found in encodings)
        found = self._tokenizer(
            told, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        return zip(found["offset_mapping"], found["input_ids"], strict=True)


class _Pieces(NamedTuple):
    """Where the pieces of a text lie in it, in characters."""

    starts: list[int]
    ends: list[int]
    length: int
    """Of the text."""

    def edge(self, number: int) -> int:
        """Where a part that begins or ends at piece ``number`` is cut off: what is between two goes to the later."""
        if number == len(self.ends):
            return self.length
        return self.ends[number - 1] if number else 0

    def begin_words(self, text: str) -> NDArray[np.bool_]:
        """For each piece whether white space is before it, within the piece or not."""
        before = [0, *self.ends[:-1]]
        places = zip(self.starts, before, strict=True)
        return np.array([start > end or text[start : start + 1].isspace() for start, end in places])


def _spans(begins: NDArray[np.bool_], room: int) -> list[tuple[int, int]]:
    """Windows of at most ``room`` pieces, evenly over all of them, neighbours sharing an eighth of it at least.

    A window begins and ends where a word does, if one does within an eighth of it: ``begins`` says which pieces do.
    """
    count, shared = len(begins), room // _SHARED
    number = math.ceil((count - shared) / (room - shared))
    slack = shared // 2
    spans = []
    for index in range(number):
        first = index * (count - room) // (number - 1)
        start, end = first, first + room
        if index:
            start += next(iter(np.flatnonzero(begins[first : first + slack + 1]).tolist()), 0)
        if index < number - 1:
            end -= next(iter(np.flatnonzero(begins[end - slack : end + 1][::-1]).tolist()), 0)
        spans.append((start, end))
    return spans


def _weights(spans: Sequence[tuple[int, int]]) -> list[float]:
    held = np.zeros(spans[-1][1])
    for start, end in spans:
        held[start:end] += 1
    return [float((1 / held[start:end]).sum()) for start, end in spans]


def fitting(prompts: Sequence[str], reader: PieceReader) -> list[str]:
    """Prompts as people read them, the long ones cut: oldest turns of a dialogue first, as :func:`cut_prompt` does.

    What is still too long, as a single post is, loses its end when it is embedded.
    """
    shown = list(map(readable, prompts))
    if reader.most is None:
        return shown
    lengths = reader.count(shown).pieces
    return [
        text if length <= reader.most else _cut(prompt, reader)
        for prompt, text, length in zip(prompts, shown, lengths, strict=True)
    ]


def _cut(prompt: str, reader: PieceReader) -> str:
    """The most words of a dialogue that fit; its last turn alone, where that is too long beside the system's."""
    turns = as_messages(prompt)
    if len(turns) == 1:
        return readable(prompt)

    def cut(words: int) -> str:
        return readable(cut_prompt(as_text(prompt), words))

    def too_long(words: int) -> bool:
        return bool(reader.count([cut(words)]).pieces[0] > (reader.most or 0))

    total = sum(word_count(turn["content"]) for turn in turns)
    # The first number of words that is too many; what is longer holds all that the shorter one does.
    words = bisect_left(range(1, total + 1), True, key=too_long)
    return cut(words) if words else readable([turns[-1]])
