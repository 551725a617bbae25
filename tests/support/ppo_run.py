"""A tiny policy and a whole PPO run of it: imported by the tests, and run by them as a program to kill or to launch.

python tests/support/ppo_run.py POLICY_FOLDER RUN_FOLDER RESULT.json [section=value ...]
"""
# ruff: noqa: ARG001, the signature is what is tested

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from realm_lib.config.rlhf import PPOParams, RlhfParams, SamplingParams

PROMPTS = [f"Why {'really ' * (n % 4)}does bread {n} rise?" for n in range(23)]
CHOOSE_ON = ["Which crumb is open?", "Which crust is thin?"]
HELD_OUT = [f"What {'ever ' * (n % 3)}makes dough {n} rise?" for n in range(9)]


def make_policy(folder: Path, *, seed: int = 0, scale: float = 0.1, **changes: Any) -> Path:
    """A Llama of two layers with random weights and its tokenizer; ``scale`` is that of the weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from realm_lib.models.offline import train_tokenizer

    tokenizer = train_tokenizer(["Why does bread rise? Yeast makes gas, and gluten holds it."] * 4, 300)
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": scale,
        **changes,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        # So that a good part of the responses ends: an untrained model ends one token in three hundred.
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 0.8 / scale
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_params(policy: Path, sampling: dict[str, Any] | None = None, **ppo: Any) -> RlhfParams:
    """Small and quick: six rollouts of eight."""
    drawn = {"max_prompt_tokens": 60, "max_new_tokens": 10, "held_out_prompts": 9, "batch_size": 8, **(sampling or {})}
    trained = {
        "model_name": str(policy),
        "total_episodes": 48,
        "batch_size": 8,
        "minibatch_size": 4,
        "num_epochs": 2,
        "learning_rate": 3e-3,
        "kl_target": 1.0,
        "reward_scaling": True,
        "missing_eos_penalty": 0.5,
        "checkpoint_every": 2,
        "evaluate_every": 3,
        **ppo,
    }
    return RlhfParams(sampling=SamplingParams(**drawn), ppo=PPOParams(**trained))


def letters(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    """A reward that can be learned: how many of the letters are vowels, and a little for length."""
    return [sum(c in "aeiou" for c in text) / (len(text) + 1) + 0.01 * len(text) for text in completions]


def vowels(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    """A judge."""
    return [float(sum(c in "aeiou" for c in text)) for text in completions]


def main() -> None:
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from realm_lib.rlhf.errors import ProcessError, RewardError
    from realm_lib.rlhf.policies.sharding import local_weights
    from realm_lib.rlhf.ppo.training import train_ppo
    from realm_lib.rlhf.processes import Peers
    from realm_lib.runs.files import write_json
    from realm_lib.runs.run import Run

    policy, run, target = map(Path, sys.argv[1:4])
    changes = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in sys.argv[4:])}
    pause, fails_in, fails_after = (
        changes.pop("pause", 0),
        changes.pop("fails_in", None),
        changes.pop("fails_after", None),
    )
    if changes.pop("by_card", False):
        from support.card import join_by_card

        join_by_card()
        changes["device_map"] = "cpu"  # the card can carry what is exchanged, and no model
    params = make_params(policy, **changes)

    def reward(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        done = len((run / "logs" / "ppo.jsonl").read_text(encoding="utf-8").splitlines())
        if PartialState().process_index == fails_in and done >= (fails_after or 0):
            raise OSError("no route to the reward model")
        time.sleep(pause * (run / "logs" / "ppo.jsonl").stat().st_size / 3000)
        return letters(prompts, completions)

    sets: Any = {"held_out": HELD_OUT, "choose_on": CHOOSE_ON}
    left: list[str] = []
    try:
        result = train_ppo(params, reward, PROMPTS, **sets, judge=vowels, run=Run(run))
    except (RewardError, ProcessError):
        if fails_after is None:
            raise
        left, fails_in = sorted(path.name for path in run.glob("models/.ppo_checkpoint/**/*.*")), None
        result = train_ppo(params, reward, PROMPTS, **sets, judge=vowels, run=Run(run))
    weights = {name: value.double().sum().item() for name, value in result.policy.model.named_parameters()}
    timed = [name for name in result.history if "second" in str(name)]
    history = result.history.drop(columns=timed).to_dict("records")
    found = {"history": history, "evaluations": result.evaluations.to_dict("records"), "weights": weights}
    found["samples"] = result.samples.to_dict("records")
    found["judged"] = result.judged.to_dict("records")
    found["left"] = left
    found["processes"] = PartialState().num_processes
    trained = {name: value for name, value in result.policy.model.named_parameters() if value.requires_grad}
    found["trained"], found["held"] = (
        sum(value.numel() for value in trained.values()),
        gather_object([local_weights(trained.values())]),
    )
    if PartialState().is_main_process:
        write_json(target, json.loads(json.dumps(found).replace("NaN", "null")))
    Peers().leave()


if __name__ == "__main__":
    main()
