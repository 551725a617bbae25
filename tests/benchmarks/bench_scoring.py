"""Scoring the peers' way and ours: ``python tests/benchmarks/bench_scoring.py``, by hand.

The peers' way is RewardBench's: the pairs in the data set's order, batches of 8, padded to the longest, a text again
for every pair that holds it, the stock class. Ours is ``score_texts`` into a new feature store, as in notebook 01.
Between the two stand the steps: each text once (batches of 8 as before), then longest first under a token budget, then
the shared prefix. Both read the same weights and the same tokens, nothing is cut, and the scores must agree. Every
round scores posts of its own in each of the ways, one way after the other, so that a busy machine slows all alike; one
thread, and processor seconds beside wall seconds.

Without options the pairs are simulated to be like SHP's (see :func:`simulated_pairs` for what is assumed), the model is
a Llama of 8 layers with random weights. ``--pairs FOLDER`` takes pairs of yours, ``--cost`` adds what all of SHP would
take at 70B, calculated from the counted tokens, and ``--gpu`` runs both ways on a CUDA device: Llama-8B's shape in
bf16, then 70B's in nf4 (random weights).
"""

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.pairs import distinct_texts, read_pairs
from realm_lib.data.simulator.knowledge import DOMAINS, load_domain
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore
from realm_lib.models.offline import train_tokenizer
from realm_lib.models.reward_models.forward import last_states
from realm_lib.models.reward_models.loading import take_apart
from realm_lib.models.reward_models.packing import plan_batches
from realm_lib.models.reward_models.transformer import TransformerScorer

PEERS_BATCH = 8
SHP_PAIRS = 385_563

Text = tuple[str, str]


class Shape(NamedTuple):
    """A Llama's sizes; the vocabulary is the tokenizer's, whose matrix takes no time."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: the linear layers of the body."""
        attention = 2 * self.hidden**2 * (1 + self.kv_heads / self.heads)
        return int(self.layers * (attention + 3 * self.hidden * self.inner))


SHAPES = {
    "cpu": Shape(512, 1408, 8, 8, 4),
    "tiny": Shape(128, 256, 2, 4, 2),
    "8B": Shape(4096, 14336, 32, 32, 8),
    "70B": Shape(8192, 28672, 80, 64, 8),
}


# The texts


def simulated_pairs(posts: int, seed: int, most_pairs: int | None = None) -> pd.DataFrame:
    """SHP-like pairs (simulated): the simulator's words in SHP-like numbers and lengths.

    Assumed, since SHP itself is not at hand. Lengths, in words, which are about tokens here: log-normal, of a post
    median 130 (sigma 0.9, 10 to 1,200; mean about 190), of a comment 75 (0.85, 3 to 800; about 105): the 2,000 to
    2,300 bytes a pair of most of SHP's files, less the 500 or so of the other fields. Numbers: a post has 2 comments
    and, by a geometric law, 3 more on average (at most 20), and half of all pairs of comments have a label, since the
    later one must have won. ``most_pairs`` of a post are kept (SHP's authors advise 5 for training). The pairs of a
    post stand together, which spares the peers some padding.
    """
    rng = random.Random(seed)
    domains = [load_domain(name) for name in DOMAINS]
    sentences = [s for domain in domains for question in domain.questions for s in (*question.facts, *question.details)]
    words = " ".join(sentences).split()

    def text(median: float, sigma: float, low: int, high: int) -> str:
        count = min(high, max(low, round(rng.lognormvariate(math.log(median), sigma))))
        start = rng.randrange(len(words))
        return " ".join(words[(start + n) % len(words)] for n in range(count))

    rows = []
    for number in range(posts):
        post = text(130, 0.9, 10, 1200)
        comments = 2
        while comments < 20 and rng.random() < 0.75:
            comments += 1
        answers = [f"{text(75, 0.85, 3, 800)} ({n})" for n in range(comments)]
        labelled = [(a, b) for a in range(comments) for b in range(a) if rng.random() < 0.5] or [(1, 0)]
        for a, b in rng.sample(labelled, min(most_pairs or len(labelled), len(labelled))):
            sides = (a, b) if rng.random() < 0.5 else (b, a)
            rows.append((f"{seed}-{number}", post, answers[sides[0]], answers[sides[1]]))
    return pd.DataFrame(rows, columns=["post_id", "history", "human_ref_A", "human_ref_B"])


def rounds_of(arguments: argparse.Namespace) -> list[pd.DataFrame]:
    """The pairs of each round, no post in two of them."""
    if arguments.pairs is None:
        return [simulated_pairs(arguments.posts, seed, arguments.pairs_per_post) for seed in range(arguments.rounds)]
    pairs = read_pairs(arguments.pairs)
    ids = (
        pairs["post_id"].drop_duplicates().sample(frac=1, random_state=0).tolist()[: arguments.posts * arguments.rounds]
    )
    return [pairs[pairs["post_id"].isin(ids[n :: arguments.rounds])] for n in range(arguments.rounds)]


def in_data_order(pairs: pd.DataFrame) -> list[list[Text]]:
    """Batches as RewardBench makes them: of 8 pairs first the one side, then the other."""
    batches = []
    for start in range(0, len(pairs), PEERS_BATCH):
        some = pairs.iloc[start : start + PEERS_BATCH]
        batches += [list(zip(some["history"], some[side], strict=True)) for side in ("human_ref_A", "human_ref_B")]
    return batches


# The model


def random_model(shape: Shape, tokenizer: Any, device: torch.device, dtype: torch.dtype, nf4: bool) -> Any:
    """A stock LlamaForSequenceClassification with random weights, made on ``device`` layer by layer."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
    )
    with torch.device("meta"):
        model = LlamaForSequenceClassification._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return filled(model, device, dtype, "4bit" if nf4 else None)


def filled(model: Any, device: torch.device, dtype: torch.dtype, quantization: str | None) -> Any:
    """``model``, laid out on the meta device, with random weights that are made on ``device`` itself.

    In 4 or 8 bit no more than one matrix is there in full precision at any time; the head stays in ``dtype``.
    """
    torch.manual_seed(0)
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    make = {"4bit": _random_nf4, "8bit": _random_int8}[quantization] if quantization else None
    for parent in list(model.model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear) and make:
                setattr(parent, name, make(layer, device, dtype))
    for parent in model.modules():
        for name, weights in list(parent.named_parameters(recurse=False)):
            if weights.is_meta:
                real = torch.ones if weights.ndim == 1 else torch.randn
                values = real(weights.shape, dtype=dtype, device=device)
                scale = 1.0 if weights.ndim == 1 else weights.shape[-1] ** -0.5
                setattr(parent, name, torch.nn.Parameter(values.mul_(scale), requires_grad=False))
    return model.eval()


def _random_nf4(layer: torch.nn.Linear, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    import bitsandbytes as bnb

    weights = torch.randn(layer.out_features, layer.in_features, dtype=dtype, device=device)
    quantised = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, device="meta")
    quantised.weight = bnb.nn.Params4bit(
        weights.mul_(layer.in_features**-0.5), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    return quantised.to(device)


def _random_int8(layer: torch.nn.Linear, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:  # noqa: ARG001
    import bitsandbytes as bnb

    weights = torch.randn(layer.out_features, layer.in_features, dtype=torch.float16, device=device)
    values, scales, _ = bnb.functional.int8_vectorwise_quant(weights.mul_(layer.in_features**-0.5))
    quantised = bnb.nn.Linear8bitLt(
        layer.in_features, layer.out_features, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    quantised.weight = bnb.nn.Int8Params(values, requires_grad=False, CB=values, SCB=scales)
    return quantised


# The ways


class Counter:
    """Tokens that went through the model's body, padding among them."""

    def __init__(self, body: torch.nn.Module) -> None:
        self.tokens = 0
        body.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        self.tokens += kwargs["input_ids"].numel() if "input_ids" in kwargs else args[0].numel()


class Ways:
    """One model and the ways to score with it, from the peers' to ours."""

    def __init__(self, model: Any, tokenizer: Any, dtype: str, budget: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.params = RewardModelParams.model_validate(
            {
                "backend": "sequence_classification",
                "model_id": "random weights",
                "dtype": dtype,
                "max_length": 4096,
                "batch_tokens": budget,
            }
        )
        self.loaded = take_apart(model, tokenizer, self.params, None)
        self.scorer = TransformerScorer(self.params, loaded=self.loaded)
        self.ways: dict[str, Callable[[pd.DataFrame], dict[Text, float]]] = {
            "peers": lambda pairs: self.in_eights(in_data_order(pairs)),
            "distinct": self.distinct,
            "+ order": self.ordered,
            "+ prefix = ours": self.ours,
        }

    @torch.inference_mode()
    def in_eights(self, batches: Sequence[Sequence[Text]]) -> dict[Text, float]:
        """The stock class, its own pooling, the tokenizer's own padding."""
        scores: dict[Text, float] = {}
        for batch in batches:
            chats = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], tokenize=False
                )
                for prompt, response in batch
            ]
            inputs = self.tokenizer(chats, padding=True, add_special_tokens=False, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            logits = self.model(**inputs.to(self.model.device)).logits[:, 0].float().cpu()
            scores.update(zip(batch, logits.tolist(), strict=True))
        return scores

    def distinct(self, pairs: pd.DataFrame) -> dict[Text, float]:
        """The same batches of the texts that were not there before."""
        texts = list(dict.fromkeys(text for batch in in_data_order(pairs) for text in batch))
        return self.in_eights([texts[start : start + PEERS_BATCH] for start in range(0, len(texts), PEERS_BATCH)])

    @torch.inference_mode()
    def ordered(self, pairs: pd.DataFrame) -> dict[Text, float]:
        """Distinct texts, longest first under the token budget, no prefix shared."""
        texts = distinct_texts(pairs)
        chats = self.scorer.encoder.encode(texts["prompt"].tolist(), texts["response"].tolist())
        keys = list(zip(texts["prompt"], texts["response"], strict=True))
        scores: dict[Text, float] = {}
        ids = [chat.ids for chat in chats]
        for batch in plan_batches(ids, range(len(ids)), self.params.batch_tokens, attention_length=None):
            states = last_states(self.loaded.body, batch, self.model.device, positions=True)
            assert self.loaded.head is not None
            values = self.loaded.head(states).float().cpu().tolist()
            scores.update(zip((keys[place] for row in batch for place in row.indices), values, strict=True))
        return scores

    def ours(self, pairs: pd.DataFrame) -> dict[Text, float]:
        """What notebook 01 calls, into a store that is new."""
        texts = distinct_texts(pairs)
        prompts, responses = texts["prompt"].tolist(), texts["response"].tolist()
        with tempfile.TemporaryDirectory() as folder:
            found = score_texts(self.scorer, prompts, responses, FeatureStore(folder), label=None)
        return dict(zip(zip(prompts, responses, strict=True), found.values.tolist(), strict=True))


class Measured(NamedTuple):
    """One way over all rounds: seconds of each, and tokens that it put through the model, padding among them."""

    seconds: list[float]
    processor: float
    tokens: int


def compare(ways: Ways, rounds: Sequence[pd.DataFrame], tolerance: float, names: Sequence[str]) -> dict[str, Measured]:
    """Every round in every way, in turn. Ends the script when a score differs from the peers' by over ``tolerance``."""
    counter = Counter(ways.loaded.body)
    warm = rounds[0].head(PEERS_BATCH)
    for name in names:
        ways.ways[name](warm)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processor = dict.fromkeys(names, 0.0)
    tokens = dict.fromkeys(names, 0)
    worst = 0.0
    for number, pairs in enumerate(rounds):
        found = {}
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            counter.tokens = 0
            start, used = time.perf_counter(), time.process_time()
            found[name] = ways.ways[name](pairs)
            seconds[name].append(time.perf_counter() - start)
            processor[name] += time.process_time() - used
            tokens[name] += counter.tokens
        theirs = found[names[0]]
        for scores in found.values():
            worst = max(worst, *(abs(scores[text] - theirs[text]) for text in theirs))
    spread = statistics.pstdev(theirs.values())
    print(f"largest difference of a score from the peers': {worst:.1e} (standard deviation of the scores {spread:.2f})")
    if not worst <= tolerance:
        raise SystemExit(f"scores differ by {worst}: over {tolerance}")
    return {name: Measured(seconds[name], processor[name], tokens[name]) for name in names}


def report(measured: dict[str, Measured], pairs: int) -> None:
    """A line a way: tokens and seconds, times less than the peers' and (step) than the way before."""
    first = before = next(iter(measured.values()))
    for name, way in measured.items():
        ratios = [theirs / mine for theirs, mine in zip(first.seconds, way.seconds, strict=True)]
        wall = sum(way.seconds)
        print(
            f"{name:16} {way.tokens:9,} tokens: {first.tokens / way.tokens:4.1f}x less, {way.tokens / pairs:5.0f} a "
            f"pair; {wall:6.1f} s: {sum(first.seconds) / wall:4.1f}x less (rounds {min(ratios):.1f} "
            f"to {max(ratios):.1f}); processor {way.processor:6.1f} s: {first.processor / way.processor:4.1f}x less, "
            f"step {before.processor / way.processor:.2f}x; {way.tokens / wall:7,.0f} tok/s"
        )
        before = way


def describe(rounds: Sequence[pd.DataFrame], tokenizer: Any) -> None:
    """How large the texts are."""
    pairs = pd.concat(rounds)
    texts = distinct_texts(pairs)
    prompts = [len(ids) for ids in tokenizer(texts["prompt"].unique().tolist())["input_ids"]]
    responses = [len(ids) for ids in tokenizer(texts["response"].tolist())["input_ids"]]
    print(
        f"{len(rounds)} rounds, {len(pairs):,} pairs of {len(prompts):,} posts, {len(texts):,} distinct texts; tokens "
        f"of a post: mean {statistics.mean(prompts):.0f}, median {statistics.median(prompts):.0f}; of a response: "
        f"{statistics.mean(responses):.0f}, {statistics.median(responses):.0f}"
    )


def cost(measured: dict[str, Measured], pairs: int) -> None:
    """All of SHP at 70B, CALCULATED: the tokens a pair counted above, a token's operations, a card's rate."""
    shape = SHAPES["70B"]
    rates = {
        "H100, bf16": (989e12, 0.40, 2, 2.5),
        "H100, nf4": (989e12, 0.30, 1, 2.5),
        "A100 80 GB, nf4": (312e12, 0.35, 1, 1.5),
    }
    print(f"CALCULATED, not run: {SHP_PAIRS:,} pairs at {2 * shape.multiplied / 1e9:.0f} GFLOP a token")
    for card, (peak, share, cards, dollars) in rates.items():
        for name in (next(iter(measured)), list(measured)[-1]):
            tokens = measured[name].tokens / pairs * SHP_PAIRS
            hours = tokens * 2 * shape.multiplied / (peak * share * cards) / 3600
            print(
                f"{cards} x {card:14} at {share:.0%} of {peak / 1e12:.0f} TFLOP/s, ${dollars:.2f} an hour: {name:16} "
                f"{tokens / 1e6:6.0f} M tokens, {hours:6.1f} h, ${hours * cards * dollars:6.0f}"
            )


# On a card


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of this device's matrix product, measured: the rate that nothing can exceed."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(4):
            c = a @ b
        float(c[0, 0])  # waits for the device
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best


def on_device(
    arguments: argparse.Namespace, device: torch.device, shapes: Sequence[tuple[str, bool]], size: int
) -> None:
    """Peers and ours for each (shape, nf4?): tokens a second, and the layers' share of the matrix rate."""
    dtype = torch.bfloat16
    rate = matrix_rate(device, dtype, size)
    print(f"{device}: matrix products in bf16 at {rate / 1e12:.2f} TFLOP/s, measured")
    for name, nf4 in shapes:
        shape = SHAPES[name]
        posts = max(2, arguments.posts // (8 if nf4 else 1))
        rounds = [simulated_pairs(posts, seed, arguments.pairs_per_post) for seed in range(2)]
        tokenizer = tokenizer_of(rounds)
        start = time.perf_counter()
        model = random_model(shape, tokenizer, device, dtype, nf4)
        print(f"{name} in {'nf4' if nf4 else 'bf16'}, random weights, made in {time.perf_counter() - start:.0f} s")
        describe(rounds, tokenizer)
        ways = Ways(model, tokenizer, "bfloat16", arguments.budget or 16384)
        measured = compare(ways, rounds, 0.3, ["peers", "+ prefix = ours"])
        report(measured, sum(map(len, rounds)))
        for way, found in measured.items():
            share = found.tokens / sum(found.seconds) * 2 * shape.multiplied / rate
            print(f"  {way}: {share:.0%} of the matrix rate, by the linear layers alone")
        del model, ways
        if device.type == "cuda":
            torch.cuda.empty_cache()


def tokenizer_of(rounds: Sequence[pd.DataFrame]) -> Any:
    """Trained on the texts themselves; words are mostly one token."""
    pairs = pd.concat(rounds)
    return train_tokenizer(pd.concat([pairs[c] for c in ("history", "human_ref_A", "human_ref_B")]).tolist(), 8000)


def main() -> None:
    """Read the options, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="a file or folder of pairs instead of simulated ones")
    parser.add_argument("--posts", type=int, default=16, help="posts a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs-per-post", type=int, help="at most so many of a simulated post (no limit)")
    parser.add_argument("--budget", type=int, help="tokens in a batch (4096; on a card 16384)")
    parser.add_argument("--shape", choices=("cpu", "tiny"), default="cpu", help="of the model with random weights")
    parser.add_argument("--cost", action="store_true", help="calculate all of SHP at 70B")
    parser.add_argument("--gpu", action="store_true", help="8B in bf16 and 70B in nf4 on the CUDA device")
    parser.add_argument("--try-gpu-code", action="store_true", help="the same code on the CPU, with a tiny model")
    arguments = parser.parse_args()
    if arguments.gpu and not torch.cuda.is_available():
        print("skipped: --gpu needs a CUDA device, and torch.cuda.is_available() is False here")
        return
    if arguments.gpu:
        on_device(arguments, torch.device("cuda"), [("8B", False), ("70B", True)], 8192)
        return
    if arguments.try_gpu_code:
        on_device(arguments, torch.device("cpu"), [("tiny", False), ("tiny", True)], 512)
        return
    rounds = rounds_of(arguments)
    torch.set_num_threads(1)
    tokenizer = tokenizer_of(rounds)
    describe(rounds, tokenizer)
    model = random_model(SHAPES[arguments.shape], tokenizer, torch.device("cpu"), torch.float32, nf4=False)
    ways = Ways(model, tokenizer, "float32", arguments.budget or 4096)
    measured = compare(ways, rounds, 1e-4, list(ways.ways))
    count = sum(map(len, rounds))
    report(measured, count)
    if arguments.cost:
        cost(measured, count)


if __name__ == "__main__":
    main()
