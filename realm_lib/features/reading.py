"""What an embedding model reads of prompts and responses: how a prompt is shown to it, what it leaves unread."""

from collections.abc import Sequence

from realm_lib.data.chats import readable
from realm_lib.models.embedders import Embedder, EmbedderError, HostedEmbedder, Reading, ReadingEmbedder, by_role
from realm_lib.models.reward_models import UnscorableError
from realm_lib.models.reward_models.chat import name_text

_NAMED = 5


class LongTextError(UnscorableError, EmbedderError):
    """Texts that are longer than the embedding model reads, where ``embedding.long_texts`` is ``refuse``."""


def as_read(prompts: Sequence[str], embedder: Embedder) -> list[str]:
    """Prompts (:func:`realm_lib.data.chats.as_text`) as the embedder gets them: the one rule, for all that embeds."""
    return embedder.as_read(prompts) if isinstance(embedder, ReadingEmbedder) else list(map(readable, prompts))


def texts_read(prompts: Sequence[str], responses: Sequence[str], embedder: Embedder) -> Reading | None:
    """How much of the distinct texts ``embedder`` reads; None of one that does not say.

    A hosted one says which texts it cuts, and raises :class:`EmbedderError` for those that it cannot send.
    """
    prompts, responses = list(dict.fromkeys(prompts)), list(dict.fromkeys(responses))
    shown = list(map(readable, prompts))
    if isinstance(embedder, HostedEmbedder) and not isinstance(embedder, ReadingEmbedder):
        of_prompts, of_responses = by_role(embedder)
        assert isinstance(of_prompts, HostedEmbedder)
        assert isinstance(of_responses, HostedEmbedder)
        return Reading(len(prompts), len(responses), of_prompts.quote(shown).cut, of_responses.quote(responses).cut)
    if not isinstance(embedder, ReadingEmbedder):
        return None
    asked, answered = embedder.count_pieces(shown), embedder.count_pieces(responses)
    most = embedder.most_pieces
    if asked is None or answered is None:
        long = 0 if most is None else None
        return Reading(len(prompts), len(responses), long, long)
    pieces, unknown = (int(a.sum() + b.sum()) for a, b in zip(asked, answered, strict=True))
    if most is None:
        return Reading(len(prompts), len(responses), 0, 0, pieces, 0, unknown)
    unread = 0
    if embedder.long_texts == "cut":
        told = embedder.count_pieces(embedder.as_read(prompts))
        assert told is not None
        unread = pieces - int(told.pieces.clip(max=most).sum() + answered.pieces.clip(max=most).sum())
    long_prompts, long_responses = (int((side.pieces > most).sum()) for side in (asked, answered))
    return Reading(len(prompts), len(responses), long_prompts, long_responses, pieces, unread, unknown)


def refused_for_length(
    prompts: Sequence[str], responses: Sequence[str], embedder: Embedder
) -> dict[int, LongTextError]:
    """The errors of the texts that ``embedding.long_texts: refuse`` refuses, as if each were alone, by their index."""
    return {
        index: LongTextError(f"{_named(0, prompts[index], responses[index], pieces)}; {_advice(embedder)}", [0])
        for index, pieces in _too_long(prompts, responses, embedder).items()
    }


def refuse_long(prompts: Sequence[str], responses: Sequence[str], embedder: Embedder) -> None:
    """Raise :class:`LongTextError`, with their places, for texts that ``embedding.long_texts: refuse`` refuses."""
    if long := _too_long(prompts, responses, embedder):
        named = [_named(n, prompts[n], responses[n], pieces) for n, pieces in list(long.items())[:_NAMED]]
        more = f" and {len(long) - _NAMED} more" if len(long) > _NAMED else ""
        raise LongTextError(f"{'; '.join(named)}{more}; {_advice(embedder)}", long)


def _too_long(prompts: Sequence[str], responses: Sequence[str], embedder: Embedder) -> dict[int, tuple[int, int]]:
    """The word pieces of prompt and response where one is over the limit and is to be refused, by their index."""
    if not isinstance(embedder, ReadingEmbedder) or embedder.long_texts != "refuse" or embedder.most_pieces is None:
        return {}
    asked, answered = _pieces(list(map(readable, prompts)), embedder), _pieces(responses, embedder)
    both = zip(asked, answered, strict=True)
    return {index: pieces for index, pieces in enumerate(both) if max(pieces) > embedder.most_pieces}


def _pieces(texts: Sequence[str], embedder: ReadingEmbedder) -> list[int]:
    """The word pieces of each text; equal ones are counted once."""
    distinct = list(dict.fromkeys(texts))
    counts = embedder.count_pieces(distinct)
    assert counts is not None
    found = dict(zip(distinct, counts.pieces.tolist(), strict=True))
    return [found[text] for text in texts]


def _named(number: int, prompt: str, response: str, pieces: tuple[int, int]) -> str:
    return f"{name_text(number, prompt, response)}: {pieces[0]} and {pieces[1]} word pieces"


def _advice(embedder: Embedder) -> str:
    assert isinstance(embedder, ReadingEmbedder)
    return (
        f"the embedding model ({embedder.identity['model']}) reads {embedder.most_pieces} of a text at once: leave "
        "these texts out, set embedding.long_texts: windows or cut, or take a model that reads more"
    )
