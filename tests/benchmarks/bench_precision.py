"""What precision does to scores: ``python tests/benchmarks/bench_precision.py [MODEL]``, by hand.

The texts are 120 comments of simulated posts. MODEL is an INF-ORM checkpoint; without it one of 4 layers with random
weights is made. For float32, bf16, 8 bit and 4 bit: how far the scores are from those in float32, one text at a time;
and, within one precision, how far a text's score in a batch with shared prefixes is from its score alone. In standard
deviations of the scores in float32, beside what it does to the order of a post's comments.
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.simulator import simulate_posts
from realm_lib.models.offline import train_tokenizer
from realm_lib.models.reward_models import build_scorer
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification

TEXTS = 120
PRECISIONS = (("float32", None), ("bfloat16", None), ("float32", "8bit"), ("float32", "4bit"))

Scores = NDArray[np.float32]


def kept_order(exact: Scores, found: Scores, posts: list[str]) -> float:
    """Share of the pairs of one post's comments that both rank alike."""
    pairs = [(a, b) for a in range(len(posts)) for b in range(a) if posts[a] == posts[b]]
    return float(np.mean([(exact[a] > exact[b]) == (found[a] > found[b]) for a, b in pairs]))


def main(model: str) -> None:
    """Print a line a precision."""
    posts = list(islice(simulate_posts(seed=11, split="test"), TEXTS))
    texts = [(post.text, comment.text) for post in posts for comment in post.comments][:TEXTS]
    prompts, responses = (list(side) for side in zip(*texts, strict=True))
    exact: Scores | None = None
    for dtype, quantization in PRECISIONS:
        scorer = build_scorer(
            RewardModelParams.model_validate(
                {
                    "backend": "inform",
                    "model_id": model,
                    "dtype": dtype,
                    "quantization": quantization,
                    "max_length": 512,
                }
            )
        )
        together = scorer.score(prompts, responses)
        alone = np.concatenate([scorer.score([prompt], [response]) for prompt, response in texts])
        exact = alone if exact is None else exact
        spread = exact.std()
        company, moved = np.abs(together - alone) / spread, np.abs(alone - exact) / spread
        print(
            f"{quantization or dtype:9} batch against alone: mean {company.mean():.1e}, max {company.max():.1e}; "
            f"from float32: mean {moved.mean():.1e}, max {moved.max():.1e}; "
            f"{kept_order(exact, alone, prompts):.1%} of a post's pairs keep their order"
        )


def random_checkpoint(folder: str) -> None:
    """A Llama of 4 layers with INF-ORM's head, in ``folder``."""
    tokenizer = train_tokenizer((post.text for post in islice(simulate_posts(seed=1, split="train"), 500)), 2000)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=1 / 16,
    )
    torch.manual_seed(0)
    INFORMForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(str(Path(sys.argv[1]).resolve()))
    else:
        with tempfile.TemporaryDirectory() as made:
            random_checkpoint(made)
            main(made)
