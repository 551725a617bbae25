"""What a probe is worth and what precision does to it: ``python tests/benchmarks/bench_probe.py RUN``, by hand.

RUN is the folder of a run whose notebook 00 trained a probe (``make PROFILE=smol ...``). On its test pairs: how often
the probe is right, beside the small Llama that the same pairs trained and length, with intervals over posts and paired
differences. On some responses of these pairs: scores in bfloat16 and under PyTorch's dynamic int8
against those in float32 (in standard deviations of these), and tokens read in a second, the ways taking turns.
"""

import argparse
import copy
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.standard import standard_rewards
from realm_lib.features.kept import read_features
from realm_lib.models.reward_models import build_scorer
from realm_lib.models.reward_models.loading import take_apart
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.runs.run import Run
from realm_lib.runs.threads import take_threads

TEXTS = 200
ROUNDS = 2


def scorer_of(run: Run, name: str, backend: str, **changes: Any) -> TransformerScorer:
    """The reward model ``models/name`` of a run."""
    section = {"backend": backend, "model_id": f"run:models/{name}", "max_length": 1024, "long_responses": "cut"}
    scorer = build_scorer(RewardModelParams.model_validate(section | changes), run.folder)
    assert isinstance(scorer, TransformerScorer)
    return scorer


def in_int8(exact: TransformerScorer) -> TransformerScorer:
    """The same probe with its layers' products in int8, activations scaled as they come; the head stays."""
    model = copy.deepcopy(exact.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.model = torch.ao.quantization.quantize_dynamic(model.model, {torch.nn.Linear}, dtype=torch.qint8)
    return TransformerScorer(exact.params, loaded=take_apart(model, exact.encoder.tokenizer, exact.params, None))


def judged(run: Run) -> None:
    """How often each is right on the test pairs; the probe's scores are those that notebook 01 kept."""
    pairs = read_features(run, ("test",))["test"]
    kept = standard_rewards(pairs)
    rewards = {"probe": kept["reward_model"], "length": kept["length"]}
    if run.path("models", "reward_model").exists():
        small = scorer_of(run, "reward_model", "inform", max_length=4096)
        sides = [small.score(pairs["history"].tolist(), pairs[f"human_ref_{side}"].tolist()) for side in "AB"]
        rewards["small Llama"] = np.stack(sides, axis=1)
    compare = [("probe", name) for name in rewards if name != "probe"]
    found = evaluate_rewards(pairs, rewards, scales=dict.fromkeys(rewards, 1.0), compare=compare)
    for name, entry in found.metrics["rewards"].items():
        low, high = entry["ci"]
        print(f"{name:12s} {entry['accuracy']:.1%} ({low:.1%} to {high:.1%})")
    for name, entry in found.metrics["differences"].items():
        low, high = entry["ci"]
        print(f"{name:20s} {100 * entry['value']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")


def precisions(run: Run) -> None:
    """How far scores are from those in float32, and how fast they come."""
    pairs = read_features(run, ("test",))["test"].head(TEXTS // 2)
    prompts = [*pairs["history"], *pairs["history"]]
    responses = [*pairs["human_ref_A"], *pairs["human_ref_B"]]
    exact = scorer_of(run, "probe", "probe")
    ways = {"float32": exact, "bfloat16": scorer_of(run, "probe", "probe", dtype="bfloat16"), "int8": in_int8(exact)}
    found: dict[str, NDArray[np.float32]] = {}
    seconds = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        for name, scorer in ways.items():
            start = time.perf_counter()
            found[name] = scorer.score(prompts, responses)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    tokens = exact.tokens_computed / ROUNDS
    half, spread = len(pairs), found["float32"].std()
    exactly = found["float32"][:half] > found["float32"][half:]
    for name, scores in found.items():
        moved = np.abs(scores - found["float32"]) / spread
        alike = np.mean((scores[:half] > scores[half:]) == exactly)
        print(
            f"{name:9s} {tokens / seconds[name]:7,.0f} tokens a second; scores moved by {moved.mean():.4f} SD on "
            f"average, {moved.max():.4f} at most; {alike:.1%} of the pairs ordered alike"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    given = Run(parser.parse_args().run)
    take_threads(1)
    judged(given)
    precisions(given)
