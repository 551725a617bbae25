"""Pairs in SHP's layout and columns, as many as SHP has and as long as its texts are, made in a minute.

The sentences are the simulator's, drawn at random: what a text says means nothing, and a label is a coin's. Lengths are
log-normal, posts of 90 and comments of 80 words on average, some as long as Reddit allows; a third of the texts holds
a letter beyond Latin-1, as people's apostrophes and emoji are, for Python keeps such a text in two or four bytes a
letter. A comment stands in one pair or in two.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from realm_lib.data.simulator.knowledge import DOMAINS, load_domain, load_grammar

SPLITS = {"train": 348_718, "validation": 18_436, "test": 18_409}
"""SHP's own, 385,563 pairs."""
LONGEST_COMMENT = 10_000
LONGEST_POST = 40_000
_POST_WORDS = (4.14, 0.85)  # of the logarithm, mean and deviation: 90 on average
_COMMENT_WORDS = (3.98, 0.9)  # 80 on average


def sizes(pairs: int) -> dict[str, int]:
    """So many pairs in the shares of SHP's splits."""
    whole = sum(SPLITS.values())
    held_out = {split: max(1, SPLITS[split] * pairs // whole) for split in ("validation", "test")}
    return {"train": pairs - sum(held_out.values()), **held_out}


def write_pairs(folder: Path, pairs: int) -> None:
    """So many pairs in ``folder``, a folder a domain with train.json, validation.json and test.json, a pair a line."""
    sentences = _sentences()
    for split, size in sizes(pairs).items():
        files = {}
        for domain in DOMAINS:
            (folder / domain).mkdir(parents=True, exist_ok=True)
            files[domain] = (folder / domain / f"{split}.json").open("w", encoding="utf-8")
        for row in islice(rows(split, sentences), size):
            files[row["domain"].rpartition("_")[0]].write(json.dumps(row, ensure_ascii=False) + "\n")
        for file in files.values():
            file.close()


def some_texts(number: int) -> list[str]:
    """Texts as these pairs have, to train a tokenizer on."""
    sentences = _sentences()
    rng = random.Random(1)
    return [_text(rng, sentences, _COMMENT_WORDS, LONGEST_COMMENT, str(place)) for place in range(number)]


def rows(split: str, sentences: list[str]) -> Iterator[dict[str, Any]]:
    """Pairs without end."""
    rng = random.Random(f"shp {split}")
    number = 0
    while True:
        number += 1
        post = f"{split[:2]}{number:x}"
        domain = rng.choice(DOMAINS)
        history = _text(rng, sentences, _POST_WORDS, LONGEST_POST, post)
        votes, second = rng.randint(2, 30), rng.randrange(60, 90_000)
        worse = _text(rng, sentences, _COMMENT_WORDS, LONGEST_COMMENT, f"{post}c")
        for pair in range(min(12, 1 + int(rng.expovariate(0.35)))):
            later, more = second + rng.randrange(1, 9_000), votes + rng.randint(1, 2 * votes)
            better = _text(rng, sentences, _COMMENT_WORDS, LONGEST_COMMENT, f"{post}c{pair}")
            preferred_is_a = rng.random() < 0.5
            a, b = (better, worse) if preferred_is_a else (worse, better)
            yield {
                "post_id": post,
                "domain": f"{domain}_{split}",
                "upvote_ratio": 0.9,
                "history": history,
                "c_root_id_A": f"{post}a{pair}",
                "c_root_id_B": f"{post}b{pair}",
                "created_at_utc_A": 1_600_000_000 + (later if preferred_is_a else second),
                "created_at_utc_B": 1_600_000_000 + (second if preferred_is_a else later),
                "score_A": more if preferred_is_a else votes,
                "score_B": votes if preferred_is_a else more,
                "human_ref_A": a,
                "human_ref_B": b,
                "labels": int(preferred_is_a),
                "seconds_difference": float(later - second),
                "score_ratio": more / votes,
            }
            if rng.random() < 0.45:
                worse, votes, second = better, more, later
            else:
                worse = _text(rng, sentences, _COMMENT_WORDS, LONGEST_COMMENT, f"{post}d{pair}")


def _sentences() -> list[str]:
    grammar = load_grammar()
    found = [*grammar.post_openers, *grammar.post_closers, *grammar.polite, *grammar.neutral, *grammar.fillers]
    for name in DOMAINS:
        domain = load_domain(name)
        found += domain.situations
        for question in domain.questions:
            found += [*question.asks, *question.facts, *question.details, *question.myths]
    return list(dict.fromkeys(found))


def _text(rng: random.Random, sentences: list[str], words: tuple[float, float], most: int, name: str) -> str:
    """Sentences up to about so many words, and the ``name``, by which no two texts are the same."""
    wanted = int(rng.lognormvariate(*words))
    text = f"{name}:"
    for part in rng.choices(sentences, k=1 + wanted // 12):
        text += f" {part}"
    kind = rng.random()
    if kind < 0.30:
        text += " That\u2019s it."
    elif kind < 0.33:
        text += " \U0001f642"
    return text[:most]
