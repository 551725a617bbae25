"""The reward in the signatures that frameworks call, and in real TRL trainers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realm_lib.config.base import ParamsError
from realm_lib.data.chats import PairsError
from realm_lib.inference import frameworks
from realm_lib.reward.realm_reward import RealmReward

ROOT = Path(__file__).parents[2]
PROMPTS = ["Why does bread rise?", "How do cats purr?"]
RESPONSES = ["Yeast makes gas.", "With the larynx."]


@pytest.fixture
def in_run(monkeypatch: pytest.MonkeyPatch, run_folder: Path) -> Path:
    monkeypatch.setenv("REALM_RUN", str(run_folder))
    return run_folder


@pytest.mark.usefixtures("in_run")
def test_openrlhf_from_a_file(run_reward: RealmReward, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Loaded as OpenRLHF loads it: a file by its path, whose name reward_func is called with keywords."""
    file = tmp_path / "reward_func.py"
    file.write_text("from realm_lib.inference.frameworks import reward_func\n")
    spec = importlib.util.spec_from_file_location("reward_func", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prompts = [
        tiny_tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in PROMPTS
    ]
    queries = [f"{prompt}{response}<|eos|>" for prompt, response in zip(prompts, RESPONSES, strict=True)]
    found = module.reward_func(queries=queries, prompts=prompts, labels=["", ""])
    assert found["rewards"].tolist() == pytest.approx(run_reward(PROMPTS, RESPONSES), abs=1e-5)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-found["rewards"].numpy())), atol=1e-6)
    assert set(found["extra_logs"]) == {"spread", "score", "similarity", "outside"}
    assert all(values.shape == (2,) for values in found["extra_logs"].values())
    with pytest.raises(frameworks.FrameworkError, match="query 1 does not begin with its prompt"):
        module.reward_func(queries=queries, prompts=[prompts[0], "other"], labels=["", ""])
    empty = module.reward_func(queries=[], prompts=[], labels=[])
    assert empty["rewards"].shape == (0,)


def test_signals_are_logged(signals_folder: Path, signals_reward: RealmReward) -> None:
    wanted = signals_reward.explain(PROMPTS, RESPONSES)
    queries = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    logs = frameworks.reward_func(queries, PROMPTS, run=str(signals_folder))["extra_logs"]
    assert set(logs) == set(wanted.columns) - {"reward"}
    np.testing.assert_allclose(logs["words"], wanted["words"], atol=1e-6)
    np.testing.assert_allclose(logs["outside"], wanted["outside"], atol=0)
    found = frameworks.compute_score("x", RESPONSES[0], None, {"prompt": PROMPTS[0]}, run=str(signals_folder))
    assert found["realm_words"] == pytest.approx(wanted["words"][0])
    assert found["realm_outside"] == float(wanted["outside"][0])


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPTS[0],
        [{"role": "user", "content": PROMPTS[0]}],
        np.array([{"role": "user", "content": PROMPTS[0]}], dtype=object),
    ],
    ids=["text", "messages", "from parquet"],
)
def test_verl(run_folder: Path, run_reward: RealmReward, prompt: Any) -> None:
    found = frameworks.compute_score(
        data_source="x",
        solution_str=RESPONSES[0],
        ground_truth=None,
        extra_info={"prompt": prompt, "index": 3},
        run=str(run_folder),
        reward_router_address=None,
    )
    assert found["score"] == pytest.approx(run_reward(PROMPTS[:1], RESPONSES[:1])[0], abs=1e-5)
    assert set(found) == {"score", "realm_spread", "realm_score", "realm_similarity", "realm_outside"}
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("extra_info", [None, {}, {"prompt": None}])
def test_verl_without_a_prompt_is_told_what_to_add(run_folder: Path, extra_info: Any) -> None:
    with pytest.raises(frameworks.FrameworkError, match="extra_info must hold"):
        frameworks.compute_score("x", "b", None, extra_info, run=str(run_folder))


def test_without_a_run_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REALM_RUN", raising=False)
    with pytest.raises(ParamsError, match="REALM_RUN"):
        frameworks.compute_score("x", "b", None, {"prompt": "a"})


def test_the_reward_is_loaded_once(in_run: Path) -> None:
    assert frameworks._reward(None) is frameworks._reward(str(in_run))


TRAIN = """
import json, os, sys, warnings
os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
import trl
from realm_lib import RealmReward

run, folder, policy = sys.argv[1:4]
reward = RealmReward.from_pretrained(run)
tokenizer = AutoTokenizer.from_pretrained(f"{run}/models/reward_model")
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)).save_pretrained(policy)
tokenizer.save_pretrained(policy)
calls = []
class Watched:
    __name__ = reward.__name__
    def __call__(self, prompts, completions, **columns):
        calls.append((prompts, completions, reward(prompts, completions, **columns)))
        return calls[-1][2]
for name in ("GRPO", "RLOO"):
    prompts = [[{"role": "user", "content": "Why?"}]] * 4 if name == "GRPO" else ["Why?"] * 4
    config = getattr(trl, f"{name}Config")(f"{folder}/{name}", max_steps=2, per_device_train_batch_size=2,
        num_generations=2, max_completion_length=4, use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", save_strategy="no", logging_steps=1, learning_rate=1e-3, beta=0.0)
    reward_functions = [reward] if name == "GRPO" else [Watched()]
    trainer = getattr(trl, f"{name}Trainer")(policy, reward_functions, args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    print(json.dumps({"name": name, "steps": trainer.state.global_step,
        "rewards": [row["rewards/realm_reward/mean"] for row in logged]}))
print(json.dumps({"calls": [(p, c, r) for p, c, r in calls]}))
"""


@pytest.mark.slow
def test_trls_trainers_take_the_reward_as_it_is(run_folder: Path, run_reward: RealmReward, tmp_path: Path) -> None:
    """Two steps of GRPO (messages) and of RLOO (text) on a random Llama; what TRL logs is what the reward says."""
    command = [sys.executable, "-c", TRAIN, str(run_folder), str(tmp_path), str(tmp_path / "policy")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    *trainers, last = [row for row in shown if "name" in row or "calls" in row]
    assert [(row["name"], row["steps"], len(row["rewards"])) for row in trainers] == [("GRPO", 2, 2), ("RLOO", 2, 2)]
    assert all(np.isfinite(row["rewards"]).all() for row in trainers)
    for (prompts, completions, rewards), mean in zip(last["calls"], trainers[1]["rewards"], strict=True):
        assert rewards == pytest.approx(run_reward(prompts, completions), abs=1e-4)
        assert np.mean(rewards) == pytest.approx(mean, abs=1e-4)


def test_a_lone_surrogate_is_named(run_folder: Path) -> None:
    with pytest.raises(PairsError, match="completion 1: holds a lone surrogate"):
        frameworks.reward_func(["a b", "a \ud83d"], ["a", "a"], run=str(run_folder))
    with pytest.raises(PairsError, match="the prompt of completion 0: holds a lone surrogate"):
        frameworks.compute_score("x", "b", None, {"prompt": "\ud83d"}, run=str(run_folder))
