"""What the simulator knows: 18 domains of questions with facts, details and myths, and the sentences around them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

DOMAINS = tuple(
    """
    askacademia askanthropology askbaking askcarguys askculinary askdocs askengineers askhistorians askhr askphilosophy
    askphysics askscience asksciencefiction asksocialscience askvet changemyview explainlikeimfive legaladvice
    """.split()
)
"""The domains of SHP, in alphabetical order."""


@dataclass(frozen=True)
class Question:
    """One thing that posts of a domain ask: its wordings, and the sentences that answer it well or badly."""

    domain: str
    topic: str
    asks: tuple[str, ...]
    facts: tuple[str, ...]
    details: tuple[str, ...]
    myths: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A domain's questions, and the sentences that its posters put around any of them."""

    name: str
    situations: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Grammar:
    """Sentences that fit every domain."""

    post_openers: tuple[str, ...]
    post_closers: tuple[str, ...]
    polite: tuple[str, ...]
    rude: tuple[str, ...]
    neutral: tuple[str, ...]
    fillers: tuple[str, ...]
    vague: tuple[str, ...]
    """Sentences with a ``{topic}`` that could stand under any question."""


def _read(name: str) -> Any:
    text = resources.files("realm_lib.data.simulator").joinpath(name).read_text(encoding="utf-8")
    # The C loader reads the 18 files in 0.2 s instead of 2 s; PyYAML's wheels carry it, a source build may not.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def load_grammar() -> Grammar:
    """The sentences that fit every domain."""
    return Grammar(**{key: tuple(value) for key, value in _read("grammar.yaml").items()})


@cache
def load_domain(name: str) -> Domain:
    """The knowledge of one domain. Raises ValueError for a name that is not in :data:`DOMAINS`."""
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}; the simulator knows: {', '.join(DOMAINS)}")
    content = _read(f"knowledge/{name}.yaml")
    return Domain(name, tuple(content["situations"]), tuple(_questions(content)))


def _questions(content: dict[str, Any]) -> Iterator[Question]:
    for topic in content["topics"]:
        for question in topic["questions"]:
            parts = {key: tuple(question[key]) for key in ("asks", "facts", "details", "myths")}
            yield Question(domain=content["domain"], topic=topic["name"], **parts)


@cache
def questions_by_ask() -> dict[str, Question]:
    """Every wording of every question, to recognise in a post what it asks."""
    return {ask: question for name in DOMAINS for question in load_domain(name).questions for ask in question.asks}
