"""Our PPO beside TRL 1.12.0's, the last that had one: ``python tests/benchmarks/bench_ppo.py``, by hand.

TRL 1.12.0 is installed without its dependencies into a throw-away folder, which only its own processes see. Both train
the same tiny Llama from the same files on the same prompts with the same text reward, lengths, epochs and minibatches.

Speed: responses are cut at RESPONSE tokens; once a part of them ends before, and once none does, where there is nothing
to gain from stopping early. Episodes a second of UPDATES updates after a first one that is not counted; ROUNDS rounds
in which the sides take turns, so that a busy machine slows all alike; the ratio is of two runs of one round. Ours with
the value head on the policy's backbone (the default), and with a second model for the values, as TRL has it.

Update for update: TRL makes one rollout of full-length responses and takes its update of four epochs; ours is given the
same rollout, rewards and weights, and the weights after are compared. TRL clips no gradients and its AdamW has the eps
of its arguments, so ours is told the same. Where a response ends early the two differ by intention: TRL puts the reward
one token after the end, in a state that the policy never acts in, and counts a value there. TRL also takes a response
to end at a sampled pad token, and hides that token from what follows: a rollout without one is compared. TRL divides
logits by the temperature plus 1e-7, and float32 sums come in another order: a weight whose gradient is nearly zero may
then move otherwise, because Adam divides it by its own size.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
BATCH, RESPONSE, PROMPT, EPOCHS = 32, 48, 24, 4
UPDATES, ROUNDS = 3, 3
RATE = 1e-3


def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:  # noqa: ARG001
    """Vowels of the response, as a share."""
    return [sum(letter in "aeiou" for letter in text) / (len(text) + 1) for text in completions]


def make_models(folder: Path, ends: bool) -> None:
    """A policy, its tokenizer, and a value model with the policy's backbone and a head of zeros."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from realm_lib.models.offline import train_tokenizer

    tokenizer = train_tokenizer(["Why does bread rise? Yeast makes gas, and gluten holds it."] * 4, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        initializer_range=0.05,
    )
    policy = LlamaForCausalLM(config)
    with torch.no_grad():
        output = policy.get_output_embeddings().weight
        output[tokenizer.pad_token_id] = 0
        output[tokenizer.eos_token_id] *= 10 if ends else 0
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    value = LlamaForSequenceClassification(config)
    value.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(value.score.weight)
    value.save_pretrained(folder / "value")


def prompts_of(tokenizer: Any) -> list[list[int]]:
    """Prompts of one length: TRL's padding of prompts is then none."""
    rng = np.random.default_rng(0)
    return [[tokenizer.bos_token_id, *rng.integers(6, 300, PROMPT - 1).tolist()] for _ in range(4 * BATCH)]


def run_trl(folder: Path, target: Path, updates: int, seed: int, ends: bool) -> None:
    """TRL's side, in a process that sees 1.12.0: seconds of each update, and the first rollout and what it led to."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == "1.12.0", trl.__version__
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(folder / "value")
    seen: list[dict[str, Any]] = []
    times: list[float] = []

    class Backbone(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            from transformers.modeling_outputs import BaseModelOutput

            return BaseModelOutput(hidden_states=(input_ids[..., None].float(),))

    class TextReward(torch.nn.Module):
        """TRL's reward is a model: this one decodes the ids that it is given as hidden states."""

        base_model_prefix = "backbone"

        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone()

        def score(self, hidden: torch.Tensor) -> torch.Tensor:
            ids = hidden[..., 0].long()
            texts = tokenizer.batch_decode(ids[:, PROMPT:], skip_special_tokens=True)
            rewards = torch.tensor(reward(texts, texts))
            seen.append({"ids": ids.tolist(), "rewards": rewards.tolist()})
            return rewards[:, None, None].expand(-1, ids.shape[1], 1)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(target.parent / "trl"),
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=EPOCHS,
            total_episodes=BATCH * updates,
            response_length=RESPONSE,
            stop_token="eos" if ends else None,
            temperature=1.0,
            learning_rate=RATE,
            seed=seed,
            adam_epsilon=1e-5,
            kl_coef=0.05,
            num_sample_generations=0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=10_000,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=TextReward(),
        value_model=value,
        train_dataset=datasets.Dataset.from_dict({"input_ids": prompts_of(tokenizer)}),
        callbacks=[Clock()],
    )
    start = time.perf_counter()
    trainer.train()
    torch.save({"policy": policy.state_dict(), "value": value.state_dict()}, target.with_suffix(".pt"))
    seconds = np.diff([start, *times]).tolist()
    target.write_text(json.dumps({"seconds": seconds, "pad": tokenizer.pad_token_id, **seen[0]}), encoding="utf-8")


def our_trainer(folder: Path, updates: int, value_model: str) -> Any:
    """Our side, with TRL's settings."""
    from realm_lib.config.rlhf import PPOParams, RlhfParams, SamplingParams
    from realm_lib.rlhf.policies import EncodedPrompts, load_policy
    from realm_lib.rlhf.ppo.trainer import PPOTrainer

    params = RlhfParams(
        sampling=SamplingParams(max_prompt_tokens=PROMPT, max_new_tokens=RESPONSE, batch_size=64),
        ppo=PPOParams.model_validate(
            {
                "model_name": str(folder / "policy"),
                "total_episodes": BATCH * updates,
                "batch_size": BATCH,
                "minibatch_size": BATCH,
                "num_epochs": EPOCHS,
                "learning_rate": RATE,
                "gae_lambda": 0.95,  # TRL's default
                "value_model": value_model,
                "max_grad_norm": 1e9,
            }
        ),
    )
    policy = load_policy(params.ppo, trainable=True)
    trainer = PPOTrainer(params, policy, reward, ["Why?"], held_out=["What?"])
    ids = prompts_of(policy.tokenizer)
    trainer._encoded = EncodedPrompts(ids, [0] * len(ids), 0, "")  # the very tokens that TRL is given
    return trainer


def run_ours(folder: Path, target: Path, updates: int, value_model: str) -> None:
    trainer = our_trainer(folder, updates, value_model)
    seconds = []
    for _ in range(updates):
        start = time.perf_counter()
        trainer._record(trainer.update(trainer.collect()))
        seconds.append(time.perf_counter() - start)
    target.write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def compare_update(folder: Path, found: dict[str, Any], weights: dict[str, dict[str, torch.Tensor]]) -> None:
    """One update of four epochs on TRL's own rollout: how far the weights are apart."""
    from realm_lib.rlhf.policies import response_log_probs
    from realm_lib.rlhf.ppo.rollout import Episode

    trainer = our_trainer(folder, 1, "separate")
    trainer.models.value_head.bias.requires_grad_(False)  # TRL's head has none
    before = {name: value.detach().clone() for name, value in trainer.models.model.named_parameters()}
    before_value = {name: value.detach().clone() for name, value in trainer.models._value_backbone.named_parameters()}
    prompts = [row[:PROMPT] for row in found["ids"]]
    answers = [row[PROMPT:] for row in found["ids"]]
    log_probs = response_log_probs(trainer.models.model, prompts, answers)
    episodes = [
        Episode(0, p, a, "", True, row.astype(float), row.astype(float), np.zeros(len(a)), 0.0, {"reward": value})
        for p, a, row, value in zip(prompts, answers, log_probs, found["rewards"], strict=True)
    ]
    trainer.update(episodes)
    ours = dict(trainer.models.model.named_parameters())
    backbone = dict(trainer.models._value_backbone.named_parameters())
    print(f"one update of {EPOCHS} epochs on TRL's rollout:")
    for kind, mine, theirs, start in (
        ("policy", ours, weights["policy"], before),
        ("value model", backbone, {n: weights["value"][f"model.{n}"] for n in backbone}, before_value),
    ):
        apart = torch.cat([(mine[name] - theirs[name]).detach().abs().flatten() for name in mine])
        moved = torch.cat([(mine[name] - start[name]).detach().abs().flatten() for name in mine])
        print(
            f"  {kind}: weights moved by up to {moved.max():.1e}; apart by {apart.max():.1e} at most, "
            f"{apart.mean() / moved.mean():.1e} of the way on average, more than 1e-5 in {(apart > 1e-5).sum():,} of "
            f"{len(apart):,} weights",
            flush=True,
        )


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    try:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(scratch / "trl112")]
        subprocess.run([*pip, "trl==1.12.0"], check=True)
        for name, ends in (("ending", True), ("full", False)):
            make_models(scratch / name, ends)

        def run(side: str, models: str, updates: int, seed: int = 0) -> dict[str, Any]:
            target = scratch / f"{side}.json"
            path = [str(ROOT)] if side != "trl" else [str(scratch / "trl112"), str(ROOT)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRL_EXPERIMENTAL_SILENCE": "1"}
            words = [sys.executable, __file__, side, str(scratch / models), str(target), str(updates), str(seed)]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
            return found

        for seed in range(20):
            found = run("trl", "full", 1, seed)
            if not any(token == found["pad"] for row in found["ids"] for token in row[PROMPT:]):
                break
        compare_update(scratch / "full", found, torch.load(scratch / "trl.pt", weights_only=True))
        for models, says in (("ending", "a part of the responses ends early"), ("full", "all responses full length")):
            speeds: dict[str, list[float]] = {"trl": [], "backbone": [], "separate": []}
            for _ in range(ROUNDS):
                for side, rates in speeds.items():
                    seconds = run(side, models, UPDATES + 1)["seconds"][1:]
                    rates.append(BATCH * len(seconds) / sum(seconds))
            print(f"{says}, {ROUNDS} rounds of {UPDATES} updates:")
            for side, rates in speeds.items():
                ratios = [ours / theirs for ours, theirs in zip(rates, speeds["trl"], strict=True)]
                spread = f"{statistics.median(ratios):.2f} times TRL's ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"  {side:9} {statistics.median(rates):7.1f} episodes/s, {spread}", flush=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        side, models, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
        updates, seed = int(sys.argv[4]), int(sys.argv[5])
        torch.set_num_threads(1)
        if side == "trl":
            run_trl(models, target, updates, seed, models.name == "ending")
        else:
            run_ours(models, target, updates, side)
    else:
        main()
