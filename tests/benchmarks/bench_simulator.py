"""How fast the simulator streams: ``python tests/benchmarks/bench_simulator.py [PAIRS]``, by hand, on one core.

Target: SHP's 385,000 pairs in at most three minutes with bounded memory.
"""

import resource
import sys
import time

from realm_lib.data.simulator import simulate_pairs


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    """Stream ``count`` pairs and print seconds, rate and memory."""
    start = time.perf_counter()
    next(iter(simulate_pairs(1, seed=42, split="train")))
    loaded, before = time.perf_counter() - start, peak_mib()
    start = time.perf_counter()
    characters = sum(
        len(pair["human_ref_A"]) + len(pair["human_ref_B"]) for pair in simulate_pairs(count, seed=42, split="train")
    )
    seconds = time.perf_counter() - start
    print(f"load {loaded:.2f} s; {count:,} pairs in {seconds:.1f} s, {count / seconds:,.0f} pairs/s")
    print(f"peak memory {peak_mib():.0f} MiB, {peak_mib() - before:.0f} MiB of it while streaming")
    print(f"{characters / (2 * count):.0f} characters a comment")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 385_000)
