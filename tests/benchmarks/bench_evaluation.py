"""Intervals over posts at the size of SHP's test split: ours beside a loop that gathers the drawn posts' pairs.

    python tests/benchmarks/bench_evaluation.py [PAIRS] [RESAMPLES]

The loop is what a bootstrap by hand looks like: draw posts, gather their rows, take the mean. It runs a hundredth of
the resamples, and its time is multiplied. Both are timed in turn, three rounds.
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray

from realm_lib.evaluation.resampling import bootstrap_over_posts, permutation_p_value

REWARDS, ROUNDS, SHARE = 10, 3, 100


def by_hand(values: NDArray[np.float64], posts: NDArray[np.int64], resamples: int) -> NDArray[np.float64]:
    """Resampled means [resamples, rewards], one resample after the other."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(np.unique(posts, return_counts=True)[1])
    rows = np.split(np.argsort(posts, kind="stable"), ends[:-1])
    return np.array(
        [
            values[np.concatenate([rows[post] for post in rng.integers(0, len(rows), len(rows))])].mean(axis=0)
            for _ in range(resamples)
        ]
    )


def main(pairs: int, resamples: int) -> None:
    """Print seconds of each round and their ratio; the two ways' standard errors must agree."""
    rng = np.random.default_rng(0)
    posts = rng.integers(0, pairs // 6, pairs)
    values = (rng.random((pairs, REWARDS)) < 0.7).astype(float)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        ours = bootstrap_over_posts(values, posts, resamples=resamples)
        middle = time.perf_counter()
        loop = by_hand(values, posts, max(2, resamples // SHARE))
        end = time.perf_counter()
        slow = (end - middle) * resamples / len(loop)
        print(
            f"{pairs:,} pairs x {REWARDS} rewards, {resamples:,} resamples: ours {middle - start:.2f} s, "
            f"loop {slow:.1f} s (from {len(loop)} resamples), {slow / (middle - start):.0f} times; "
            f"standard error {ours.resampled[:, 0].std():.5f} and {loop[:, 0].std():.5f}"
        )
    start = time.perf_counter()
    permutation_p_value(values[:, 0] - values[:, 1], posts, resamples=resamples)
    print(f"permutation test over posts, {resamples:,} flips: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    sizes = [int(text) for text in sys.argv[1:]]
    main(*(sizes or [18_409, 10_000]))
