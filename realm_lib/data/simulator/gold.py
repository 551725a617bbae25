"""The simulator's truth: the utility of a response, from the texts alone.

    u = SHARPNESS * (g * q - (1 - g) * OFF_TOPIC)

``g`` in [0, 1] says how far the response is about the post's question, ``q`` how good it is if it is: right facts,
concrete details and a kind tone raise q, myths and rudeness lower it, and length helps up to a point. The product is
the point of the design: relevance gates quality, so no linear combination of a quality score and a relevance score
orders responses as u does.

Sentences are recognised by their content words, so paraphrases and the broken sentences of a small language model earn
partial credit, and any text at all has a utility under any simulated post. What is right in words that share no half of
a sentence's is not recognised: of a language model's own English the truth sees little but whether the topic is named.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from realm_lib.data.chats import Prompt, as_text
from realm_lib.data.simulator.knowledge import Question, load_grammar, questions_by_ask

SHARPNESS = 3.0
"""Utilities are log-odds of winning votes; a larger value leaves less noise in the votes."""
OFF_TOPIC = 0.3
FACTS, DETAILS, TONE, MYTHS = 1.3, 0.45, 0.55, 1.0
IDEAL_WORDS = 60
"""Length helps up to about here, and costs beyond."""

_WORD = re.compile(r"[a-z0-9]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_STOP = frozenset(
    """
    about above after again also although always another anyone around because been before being below between
    both cannot could does doing down during each even ever every from gets give given goes hardly have having
    here itself just keep like likely made make makes making many mean more most mostly much must need never
    nobody often only other over quite rarely rather same several should since some something still such take
    takes than that their them then there these they thing things this those though through under until upon
    usually very want well were what when where whether which while with within without would your yours
    """.split()
)


class UnknownPostError(ValueError):
    """The post asks nothing that the simulator knows; only simulated posts have a gold utility."""


@dataclass(frozen=True)
class Judgement:
    """What the gold utility saw in a response; ``utility`` is the number that matters."""

    relevance: float
    """g: 1 when a sentence answers the post's question, 0.5 when only its topic is named."""
    facts: float
    """Right facts, in facts."""
    details: float
    myths: float
    tone: float
    """-1 rude to 1 kind."""
    words: int
    utility: float


def gold_utility(prompt: str, response: str) -> float:
    """The known utility of ``response`` to the simulated post ``prompt``, in log-odds (Bradley-Terry).

    The response with the larger utility wins a vote with probability sigmoid of the difference.
    Raises :class:`UnknownPostError` when ``prompt`` is not a post of the simulator.
    """
    return judge(question_of(prompt), response).utility


def gold_utilities(prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> list[float]:
    """:func:`gold_utility` of each completion, with a judge's signature: texts, or messages of a chat."""
    return [gold_utility(as_text(prompt), as_text(text)) for prompt, text in zip(prompts, completions, strict=True)]


def question_of(prompt: str) -> Question:
    """The question that a simulated post asks."""
    for sentence in _SENTENCE_END.split(prompt.strip()):
        if question := questions_by_ask().get(sentence):
            return question
    raise UnknownPostError(f"not a post of the simulator (no known question in it): {prompt[:80]!r}")


def judge(question: Question, response: str) -> Judgement:
    """What ``response`` is worth as an answer to ``question``, with the parts that it comes from."""
    key = _key(question)
    said = _SENTENCE_END.split(response.strip())
    sentences = [stems for text in set(said) if (stems := content_stems(text))]
    facts = _credit(key.facts, sentences)
    details = _credit(key.details, sentences)
    myths = _credit(key.myths, sentences)
    # A sentence of the answer key makes a response relevant; naming the topic makes it half so.
    named = max((len(key.topic & stems) / len(key.topic) for stems in sentences), default=0.0)
    relevance = min(1.0, max(facts, details, myths, 0.5 * named))

    kind, unkind = _manners()
    tone = min(1.0, _credit(kind, sentences)) - min(1.0, _credit(unkind, sentences))
    words = len(response.split())
    # Saying a sentence twice makes a response longer, not better: only its first time counts towards the ideal.
    length_of = {" ".join(_WORD.findall(text.lower())): len(text.split()) for text in said}
    distinct = min(sum(length_of.values()), IDEAL_WORDS - 1)
    length = -0.8 * math.log((distinct + 1) / IDEAL_WORDS) ** 2 - 0.004 * max(0, words - IDEAL_WORDS)
    quality = (
        FACTS * (1 - math.exp(-facts / 1.5))
        + DETAILS * (1 - math.exp(-details))
        + TONE * tone
        - MYTHS * (1 - math.exp(-myths))
        + 0.25 * max(length, -4.0)
    )
    utility = SHARPNESS * (relevance * quality - (1 - relevance) * OFF_TOPIC)
    return Judgement(relevance, facts, details, myths, tone, words, utility)


@lru_cache(maxsize=100_000)  # the simulator's own sentences fit; a language model's are without end
def content_stems(text: str) -> frozenset[str]:
    """The first six letters of every content word: produces, produced and producing are one."""
    words = _WORD.findall(text.lower())
    return frozenset(word[:6] for word in words if (len(word) > 3 or word.isdigit()) and word not in _STOP)


@dataclass(frozen=True)
class _Key:
    topic: frozenset[str]
    facts: tuple[frozenset[str], ...]
    details: tuple[frozenset[str], ...]
    myths: tuple[frozenset[str], ...]


@cache
def _key(question: Question) -> _Key:
    def stems(sentences: tuple[str, ...]) -> tuple[frozenset[str], ...]:
        return tuple(content_stems(sentence) for sentence in sentences)

    # A topic named by short words only ("gut") still needs a stem to be found by.
    topic = content_stems(question.topic) or frozenset(_WORD.findall(question.topic.lower()))
    return _Key(topic, stems(question.facts), stems(question.details), stems(question.myths))


@cache
def _manners() -> tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]]:
    grammar = load_grammar()
    return tuple(map(content_stems, grammar.polite)), tuple(map(content_stems, grammar.rude))


def _credit(known: tuple[frozenset[str], ...], sentences: list[frozenset[str]]) -> float:
    """How many of the ``known`` sentences are said: each counts by its best coverage, nothing below half."""
    total = 0.0
    for stems in known:
        most = max((len(stems & said) for said in sentences), default=0)
        total += min(1.0, max(0.0, (most / len(stems) - 0.5) / 0.4))
    return total
