"""The tables of docs/scale.md, CALCULATED: ``python tests/benchmarks/plan_on_paper.py``, by hand.

What scoring all of SHP with a 70B reward model takes on 1, 8 and 64 cards, and PPO beside it. Texts and tokens a pair
are counted in ``bench_scoring``'s simulated posts, the 400 that were scored on a GPU; rates come from
``realm_lib.models.throughput``. Prices, and speeds of disks and networks, are examples that nobody confirmed.
"""

from typing import NamedTuple

import pandas as pd
from bench_scoring import SHAPES, SHP_PAIRS, simulated_pairs, tokenizer_of

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.pairs import distinct_texts
from realm_lib.models.reward_models.chat import ChatEncoder
from realm_lib.models.reward_models.packing import plan_batches
from realm_lib.models.throughput import CARDS, Card, Precision, cards_to_hold, tokens_per_second

GIB = 2**30
WEIGHTS = float(SHAPES["70B"].multiplied)
HELD: dict[Precision, float] = {"bfloat16": 129.6, "8bit": 65.9, "4bit": 35.0}
"""GiB of INF-ORM-70B's weights, by realm_lib.models.reward_models.memory."""
NUMBERS = (1, 8, 64)
BATCH_TOKENS = 16_384
SAMPLE = 200
"""Posts of each of two rounds."""
DOLLARS_A_MILLION = 0.15
"""Of gemini-embedding-001, as it was said to cost; not confirmed."""
DIMENSIONS = 768
CHECKPOINT = 141.0
"""GB: what is downloaded, and lies on the disk, of 70.6 billion weights in bfloat16."""
EPISODES, EPISODE_TOKENS = 20_000, 600
"""Of the profile ``full``, and tokens of a scored episode: a prompt of 256 and an answer, in the template (assumed)."""

PLANS: tuple[tuple[str, Precision], ...] = (
    ("RTX 4090", "4bit"),
    ("L40S", "4bit"),
    ("A100 80GB", "4bit"),
    ("A100 80GB", "bfloat16"),
    ("H100", "4bit"),
    ("H100", "8bit"),
    ("H100", "bfloat16"),
    ("H200", "bfloat16"),
    ("B200", "bfloat16"),
)


class Corpus(NamedTuple):
    """Counts for all of SHP's pairs, as many a pair as in the simulated sample."""

    pairs: int
    posts: float
    responses: float
    shared: float
    """Tokens, each post's once for all its responses."""
    apart: float
    """Tokens of the distinct texts, the post's again in each."""
    embedded: float
    """Tokens of posts and responses, each once."""


def corpus() -> Corpus:
    """The sample's counts, scaled to all of SHP."""
    rounds = [simulated_pairs(SAMPLE, seed, None) for seed in range(2)]
    pairs = pd.concat(rounds)
    tokenizer = tokenizer_of(rounds)
    texts = distinct_texts(pairs)
    prompts, responses = texts["prompt"].tolist(), texts["response"].tolist()
    max_length = RewardModelParams(backend="inform", model_id="m", max_length=4096).max_length
    ids = [chat.ids for chat in ChatEncoder(tokenizer, max_length).encode(prompts, responses)]
    shape = SHAPES["70B"]
    attention = shape.multiplied / shape.layers * 2 / (4 * shape.hidden)
    batches = plan_batches(ids, prompts, BATCH_TOKENS, attention_length=attention, pass_cost=1024.0)
    posts = texts["prompt"].unique().tolist()
    embedded = sum(len(row) for row in tokenizer([*posts, *responses])["input_ids"])
    scale = SHP_PAIRS / len(pairs)
    return Corpus(
        SHP_PAIRS,
        len(posts) * scale,
        len(texts) * scale,
        sum(row.length for batch in batches for row in batch) * scale,
        sum(map(len, ids)) * scale,
        embedded * scale,
    )


def scoring(found: Corpus) -> None:
    """Hours and dollars by card and number of cards; a copy of the model takes as many cards as hold it."""
    print("\n| card | precision | cards a copy | tokens a second and copy | " + " | ".join(map(str, NUMBERS)) + " |")
    print("| --- | --- | --- | --- |" + " --- |" * len(NUMBERS))
    cards = {card.name: card for card in CARDS}
    for name, precision in PLANS:
        card = cards[name]
        each = cards_to_hold(HELD[precision] * GIB, card)
        rate = tokens_per_second(WEIGHTS, card, precision, BATCH_TOKENS)
        cells = [cost(card, number, number // each, found.shared / rate / 3600) for number in NUMBERS]
        print(f"| {name} | {precision} | {each} | {rate:,.0f} | {' | '.join(cells)} |")


def cost(card: Card, number: int, copies: int, hours: float) -> str:
    """What ``hours`` of one copy take on ``copies`` of them, and what all cards cost in that time."""
    if not copies:
        return "does not fit"
    took = hours / copies
    spent = took * number * card.price
    return f"{took:.1f} h, ${spent:.0f}" if took >= 1 else f"{took * 60:.0f} min, ${spent:.0f}"


def around(found: Corpus) -> None:
    """What is not scoring."""
    texts = found.posts + found.responses
    print(f"\nembedding: {texts:,.0f} texts, {found.embedded / 1e6:.1f} M tokens")
    print(f"  ${found.embedded / 1e6 * DOLLARS_A_MILLION:.2f} at ${DOLLARS_A_MILLION} a million tokens (not confirmed)")
    for label, hours in (
        ("3,000 texts a minute", texts / 3000 / 60),
        ("100 texts a minute", texts / 100 / 60),
        ("1,000,000 tokens a minute", found.embedded / 1e6 / 60),
        ("10,000 texts a day", texts / 10_000 * 24),
    ):
        print(f"  {hours:.1f} h at {label}")
    print(f"store: {found.responses * 4 / 1e6:.1f} MB of scores, {texts * DIMENSIONS * 4 / 1e9:.2f} GB of embeddings")
    for label, speed in (
        ("1 Gbit/s", 0.125),
        ("10 Gbit/s", 1.25),
        ("a disk of 2 GB/s", 2.0),
        ("a shared disk of 2 GB/s, 8 machines", 0.25),
    ):
        print(f"checkpoint of {CHECKPOINT:.0f} GB over {label}: {CHECKPOINT / speed / 60:.0f} min")
    rate = tokens_per_second(WEIGHTS, next(card for card in CARDS if card.name == "H100"), "4bit", BATCH_TOKENS)
    tokens = EPISODES * EPISODE_TOKENS
    print(
        f"PPO's rewards: {EPISODES:,} episodes, {tokens / 1e6:.0f} M tokens, {tokens / rate / 3600:.1f} h on one H100"
    )
    trained = 8.03e9 * 16 / GIB
    print(
        f"8 billion weights, gradients and Adam's moments in float32: {trained:.0f} GiB, {trained / 8:.0f} on each of 8"
    )


def main() -> None:
    """Print the tables."""
    found = corpus()
    print(
        f"{found.pairs:,} pairs: {found.posts:,.0f} posts, {found.responses:,.0f} responses; tokens to score: "
        f"{found.shared / 1e6:.1f} M, posts once; {found.apart / 1e6:.1f} M without sharing"
    )
    scoring(found)
    around(found)


if __name__ == "__main__":
    main()
