"""What scoring takes on a card, by a model's shape and precision: ``python tests/benchmarks/bench_scoring_shapes.py``.

By hand, on a CUDA device (70 billion weights in bfloat16 take 129.6 GiB: cases that do not fit are skipped). Models of
the real shapes with random weights, made on the card, behind REALM's own ``TransformerScorer``: tokens a second from
text to score, tokenising among it, by ``batch_tokens`` and with and without shared prefixes; the peak of memory beside
the estimate; and the share of the card's peak, which ``realm_lib.models.throughput`` plans with. Texts are
``bench_scoring``'s simulated posts and comments, in two rounds of different posts.

``--pass-costs`` tries what a pass is taken to cost when batches are planned, ``--tiny`` the same code with tiny models,
on a CPU too. Each measurement is a line of JSON.
"""

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_scoring import Counter, describe, filled, matrix_rate, simulated_pairs, tokenizer_of
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.pairs import distinct_texts
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification
from realm_lib.models.reward_models.loading import take_apart
from realm_lib.models.reward_models.memory import check_memory, estimate_memory
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.models.throughput import find_card
from realm_lib.runs.memory import release_memory

Batch = tuple[int, bool]
"""``batch_tokens``, and whether prefixes are shared."""

LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8}
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "Qwen3-0.6B": (
        "qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    ),
    "Llama-3.1-8B": (
        "llama",
        {
            **LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    ),
    "INF-ORM-70B": (
        "inform",
        {
            **LLAMA,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
        },
    ),
}
TINY = {
    "vocab_size": 9000,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


class CostedScorer(TransformerScorer):
    """A scorer that plans its batches with another cost of a pass."""

    cost: float | None = None
    """In tokens; None is the scorer's own."""

    @property
    def _pass_cost(self) -> float:
        return super()._pass_cost if self.cost is None else self.cost


class Case(NamedTuple):
    """A shape in a precision, and what to measure of it."""

    shape: str
    precision: str
    posts: int
    """Of a round."""
    batches: tuple[Batch, ...]


CASES = (
    Case("Qwen3-0.6B", "bfloat16", 200, ((16384, True), (4096, True), (65536, True), (16384, False))),
    Case("Qwen3-0.6B", "float32", 100, ((16384, True),)),
    Case("Llama-3.1-8B", "bfloat16", 100, ((16384, True), (4096, True), (65536, True), (16384, False))),
    Case("Llama-3.1-8B", "4bit", 100, ((16384, True), (4096, True))),
    Case("Llama-3.1-8B", "8bit", 50, ((16384, True), (4096, True))),
    Case("INF-ORM-70B", "4bit", 40, ((16384, True), (4096, True))),
    Case("INF-ORM-70B", "bfloat16", 40, ((16384, True), (4096, True), (32768, True), (16384, False))),
    Case("INF-ORM-70B", "8bit", 20, ((16384, True),)),
)
"""Small ones first: what is wrong with the script shows there."""


def lay_out_shape(case: Case, tiny: bool) -> tuple[type, Any]:
    """The class and the configuration of the shape."""
    import transformers

    kind, sizes = SHAPES[case.shape]
    config_class, model_class = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForSequenceClassification),
        "llama": (transformers.LlamaConfig, transformers.LlamaForSequenceClassification),
        "inform": (transformers.LlamaConfig, INFORMForSequenceClassification),
    }[kind]
    config = config_class(**(TINY if tiny else sizes), max_position_embeddings=4096, num_labels=1, pad_token_id=0)
    config._attn_implementation = "sdpa"
    return model_class, config


def params_of(case: Case, budget: int) -> RewardModelParams:
    quantised = case.precision in ("4bit", "8bit")
    return RewardModelParams.model_validate(
        {
            "backend": "inform" if SHAPES[case.shape][0] == "inform" else "sequence_classification",
            "model_id": case.shape,
            "quantization": case.precision if quantised else None,
            "dtype": "bfloat16" if quantised else case.precision,
            "device_map": "auto" if torch.cuda.is_available() else None,
            "max_length": 4096,
            "batch_tokens": budget,
        }
    )


def measure(
    case: Case, device: torch.device, tiny: bool, times: int, costs: Sequence[float] | None
) -> Iterator[dict[str, Any]]:
    """The rows of a case, of ``times`` as many posts; with ``costs`` its first batch by each of them instead.

    Raises :class:`realm_lib.models.reward_models.ScorerError` when its model does not fit this machine.
    """
    model_class, config = lay_out_shape(case, tiny)
    params = params_of(case, 4096)
    check_memory(estimate_memory(model_class, config, params), params)
    rounds = [simulated_pairs(2 if tiny else times * case.posts, seed, None) for seed in range(2)]
    tokenizer = tokenizer_of(rounds)
    describe(rounds, tokenizer)
    texts = [distinct_texts(pairs) for pairs in rounds]
    start = time.perf_counter()
    with torch.device("meta"):
        model = model_class(config).to(getattr(torch, params.dtype))
    model = filled(model, device, getattr(torch, params.dtype), params.quantization)
    made = time.perf_counter() - start
    weights = sum(layer.in_features * layer.out_features for layer in model.model.modules() if is_linear(layer))
    counter = Counter(model.model)
    first: list[NDArray[np.float32]] = []
    ways: list[tuple[int, bool, float | None]] = [(*batch, None) for batch in case.batches]
    if costs:
        ways = [(*case.batches[0], cost) for cost in costs]
    for budget, shared, cost in ways:
        params = params_of(case, budget)
        loaded = take_apart(model, tokenizer, params, "random")
        if not shared:
            loaded = dataclasses.replace(loaded, not_shared="to measure what sharing saves")
        scorer = CostedScorer(params, loaded=loaded)
        scorer.cost = cost
        scorer.score(texts[0]["prompt"].tolist()[:40], texts[0]["response"].tolist()[:40])  # kernels are chosen
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        counter.tokens = counter.passes = scorer.tokens_computed = 0
        seconds, tokenising, scores = [], 0.0, []
        for some in texts:
            prompts, responses = some["prompt"].tolist(), some["response"].tolist()
            start = time.perf_counter()
            scores.append(scorer.score(prompts, responses))  # to numpy: the card has ended
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            lengths = scorer.count_tokens(prompts, responses)
            tokenising += time.perf_counter() - start
        first = first or scores
        rate = scorer.tokens_computed / sum(seconds)
        row = {
            "shape": case.shape,
            "precision": case.precision,
            "batch_tokens": budget,
            "batch_tokens_left": scorer.budget,
            "shared": shared,
            "pass_cost": scorer._pass_cost,
            "passes": counter.passes,
            "texts": sum(map(len, texts)),
            "tokens_a_text": round(float(lengths.mean())),
            "tokens": scorer.tokens_computed,
            "tokens_with_padding": counter.tokens,
            "seconds": [round(value, 2) for value in seconds],
            "seconds_tokenising": round(tokenising, 2),
            "tokens_per_second": round(rate),
            "texts_per_second": round(sum(map(len, texts)) / sum(seconds), 1),
            "weights": weights,
            "tflops": round(2 * weights * rate / 1e12, 1),
            "estimate_gib": round(estimate_memory(model_class, config, params).total / 2**30, 1),
            "seconds_made": round(made),
            "difference": round(difference(first, scores), 4),
        }
        if device.type == "cuda":
            card = find_card(torch.cuda.get_device_name())
            peak = card and (card.fp32 if case.precision == "float32" else card.bf16)
            row["share_of_peak"] = round(row["tflops"] / peak, 3) if peak else None
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
            row["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 1)
        yield row


def is_linear(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Linear)  # those of bitsandbytes too


def difference(first: list[NDArray[np.float32]], scores: list[NDArray[np.float32]]) -> float:
    """Largest difference from the first way's scores, in their standard deviations."""
    one, other = np.concatenate(first), np.concatenate(scores)
    return float(np.abs(one - other).max() / one.std())


def main() -> None:
    """Read the options, print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models, on a CPU too")
    parser.add_argument("--only", help="only cases whose shape or precision holds this")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no case after so many")
    parser.add_argument("--times", type=int, default=1, help="as many posts of each case")
    parser.add_argument("--pass-costs", type=float, nargs="+", help="costs of a pass in tokens, one after the other")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("skipped: torch.cuda.is_available() is False here (--tiny runs tiny models on the CPU)")
        return
    import transformers

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # 8 bit's casts, a line each
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    rate = matrix_rate(device, torch.bfloat16, 512 if options.tiny else 8192)
    print(f"{name}, {versions}; matrix products in bf16 at {rate / 1e12:.1f} TFLOP/s, measured", flush=True)
    begun = time.perf_counter()
    for case in CASES:
        if options.only and options.only not in f"{case.shape} {case.precision}":
            continue
        if time.perf_counter() - begun > options.seconds:
            print(f"not begun after {options.seconds:.0f} s: {case.shape} {case.precision}")
            continue
        try:
            for row in measure(case, device, options.tiny, options.times, options.pass_costs):
                print(json.dumps(row), flush=True)
        except ScorerError as error:
            print(f"skipped: {error}")
        release_memory()
    print(f"{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
