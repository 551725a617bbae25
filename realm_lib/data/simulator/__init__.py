"""Preference pairs made with a known utility: SHP's columns, SHP's domains, and a truth to compare with.

A post asks a question; comments answer it with facts, myths, details and manners, or miss it. Every comment has a
:func:`gold_utility`, computed from the texts alone, and wins votes by it with Gumbel noise, so that the better comment
of a pair is preferred with probability sigmoid(u_A - u_B) exactly (Bradley-Terry as a Plackett-Luce choice). The best
accuracy that any reward can reach is therefore known. All numbers that come from here are simulated.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from realm_lib.data.simulator.gold import Judgement, UnknownPostError, gold_utilities, gold_utility, judge, question_of
from realm_lib.data.simulator.knowledge import DOMAINS, Domain, Question, load_domain, load_grammar

__all__ = [
    "DOMAINS",
    "Comment",
    "Judgement",
    "Post",
    "UnknownPostError",
    "gold_utilities",
    "gold_utility",
    "judge",
    "question_of",
    "simulate_pairs",
    "simulate_posts",
]

_SHARES = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}
"""Tenths of all post texts that each split may draw from."""
_REMEMBERED = 100_000


@dataclass(frozen=True)
class Comment:
    """A comment, its utility, its votes (at least 2) and the second after the post at which it was written."""

    id: str
    text: str
    utility: float
    votes: int
    second: int


@dataclass(frozen=True)
class Post:
    """A post and its comments, in the order in which they were written."""

    id: str
    domain: str
    text: str
    upvote_ratio: float
    second: int
    """When it was written, in Unix seconds."""
    comments: tuple[Comment, ...]


def simulate_posts(*, seed: int, split: str, domains: Sequence[str] | None = None) -> Iterator[Post]:
    """An endless stream of posts, the same for the same seed and split.

    The text of a post belongs to one of train, validation and test by its hash, so that no two of them share a post;
    a split of any other name shares train's. Texts do not repeat among the last 100,000 posts and comments.
    Raises ValueError for a domain that the simulator does not know.
    """
    from realm_lib.runs.seeds import derive_seed

    chosen = [load_domain(name) for name in domains or DOMAINS]
    rng = random.Random(derive_seed(seed, "simulator", split))
    prefix = hashlib.sha256(f"{seed}/{split}".encode()).hexdigest()[:6]
    fresh = _Fresh()
    for number in itertools.count():
        yield _post(rng, rng.choice(chosen), f"{prefix}{number:x}", split, fresh)


def simulate_pairs(
    count: int, *, seed: int, split: str, domains: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """``count`` preference pairs in SHP's columns, with ``gold_A`` and ``gold_B``, one post after another.

    As in SHP the preferred comment of a pair is the later one, so that it did not win by being seen longer.
    """
    posts = simulate_posts(seed=seed, split=split, domains=domains)
    return itertools.islice((pair for post in posts for pair in _pairs(post, split)), count)


def _pairs(post: Post, split: str) -> Iterator[dict[str, Any]]:
    rng = random.Random(post.id)
    for later, comment in enumerate(post.comments):
        for earlier in post.comments[:later]:
            if comment.votes <= earlier.votes:
                continue
            preferred_is_a = rng.random() < 0.5
            a, b = (comment, earlier) if preferred_is_a else (earlier, comment)
            yield {
                "post_id": post.id,
                "domain": f"{post.domain}_{split}",
                "upvote_ratio": post.upvote_ratio,
                "history": post.text,
                "c_root_id_A": a.id,
                "c_root_id_B": b.id,
                "created_at_utc_A": post.second + a.second,
                "created_at_utc_B": post.second + b.second,
                "score_A": a.votes,
                "score_B": b.votes,
                "human_ref_A": a.text,
                "human_ref_B": b.text,
                "labels": int(preferred_is_a),
                "seconds_difference": float(comment.second - earlier.second),
                "score_ratio": comment.votes / earlier.votes,
                "gold_A": a.utility,
                "gold_B": b.utility,
            }


class _Fresh:
    """Says whether a text is new among the last ``_REMEMBERED``: memory stays bounded however long the stream."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def __call__(self, text: str) -> bool:
        key = _digest(text)
        if key in self._seen:
            return False
        if len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        return True


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _post(rng: random.Random, domain: Domain, post_id: str, split: str, fresh: _Fresh) -> Post:
    question = rng.choice(domain.questions)
    drawn = [_comment_text(rng, domain, question) for _ in range(rng.choice((2, 3, 3, 4, 4, 5, 6, 8)))]
    texts = [text for text in drawn if fresh(text)]
    utilities = [judge(question, text).utility for text in texts]
    # The order of u + Gumbel noise is a Plackett-Luce draw: each pair of it is Bradley-Terry.
    appeals = [utility - math.log(-math.log(rng.random())) for utility in utilities]
    seconds = sorted(rng.sample(range(60, 200_000), len(texts)))
    return Post(
        id=post_id,
        domain=domain.name,
        text=_own_post_text(rng, domain, question, split, fresh),
        upvote_ratio=round(rng.uniform(0.75, 1.0), 2),
        second=1_600_000_000 + rng.randrange(60_000_000),
        comments=tuple(
            Comment(f"{post_id}c{index}", text, utility, votes, second)
            for index, (text, utility, votes, second) in enumerate(
                zip(texts, utilities, _votes(rng, appeals), seconds, strict=True)
            )
        ),
    )


def _votes(rng: random.Random, appeals: Sequence[float]) -> list[int]:
    """Votes in the order of ``appeals``: no two comments of a post have as many, so that no pair is tied."""
    audience = rng.lognormvariate(1.8, 0.9)
    votes = [0] * len(appeals)
    floor = 2
    for index in sorted(range(len(appeals)), key=appeals.__getitem__):
        votes[index] = max(floor, round(audience * math.exp(0.45 * appeals[index])))
        floor = votes[index] + 1
    return votes


def _own_post_text(rng: random.Random, domain: Domain, question: Question, split: str, fresh: _Fresh) -> str:
    """A post text that belongs to ``split`` and is new."""
    low, high = _SHARES.get(split, _SHARES["train"])
    while True:
        text = _post_text(rng, domain, question)
        if low <= _digest(text) % 10 < high and fresh(text):
            return text


def _post_text(rng: random.Random, domain: Domain, question: Question) -> str:
    grammar = load_grammar()
    first, second = rng.sample(domain.situations, 2)
    ask = rng.choice(question.asks)
    before = rng.choice(([], [first], [rng.choice(grammar.post_openers)], [rng.choice(grammar.post_openers), first]))
    after = rng.choice(([second], [rng.choice(grammar.post_closers)], [second, rng.choice(grammar.post_closers)]))
    return " ".join([*before, ask, *after])


def _comment_text(rng: random.Random, domain: Domain, question: Question) -> str:
    """A comment to ``question``: an answer, a myth, an answer to something else, or talk."""
    grammar = load_grammar()
    kind = rng.random()
    if kind < 0.60:
        body = _answer(rng, question)
    elif kind < 0.90:
        home = domain if rng.random() < 0.75 else load_domain(rng.choice(DOMAINS))
        body = _answer(rng, rng.choice([other for other in home.questions if other is not question]))
    else:
        body = [sentence.format(topic=question.topic) for sentence in rng.sample(grammar.vague, rng.choice((1, 2)))]
    body += rng.sample(grammar.fillers, rng.choice((0, 0, 0, 0, 1, 2)))
    rng.shuffle(body)
    manner = rng.choice((grammar.polite, grammar.neutral, grammar.neutral, grammar.rude))
    before = [rng.choice(manner)] if rng.random() < 0.6 else []
    after = [rng.choice(manner)] if rng.random() < 0.4 else []
    return " ".join(dict.fromkeys([*before, *body, *after]))


def _answer(rng: random.Random, question: Question) -> list[str]:
    """Facts and details, or myths, of one question; never nothing."""
    myths = rng.choice((0, 0, 0, 1, 1, 2))
    facts = rng.choice((0, 1, 1)) if myths else rng.choice((1, 1, 2, 2, 3))
    return [
        *rng.sample(question.facts, facts),
        *rng.sample(question.myths, myths),
        *rng.sample(question.details, rng.choice((0, 0, 1, 1, 2))),
    ]
