"""Adapters: saved alone with the commit of their base, merged before training goes on from them, and saved again."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.dpo_run import make_params as make_dpo_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.rlhf import LoraParams, PolicyParams
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.policies import (
    Policy,
    PolicyError,
    encode_prompts,
    load_policy,
    response_log_probs,
    sample,
    save_policy,
)
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.samples import policy_identity
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

LORA = LoraParams(r=2, alpha=4.0)
COMMITS = ("1" * 40, "2" * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Larger weights than usual: the distributions are far from uniform and depend on every token.
    return make_policy(tmp_path_factory.mktemp("policy"), scale=0.25)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter's folder."""
    return saved(moved(new_adapter(folder)), tmp_path_factory.mktemp("adapters") / "sft")


@pytest.fixture(scope="module")
def rows(folder: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses, as tokens."""
    policy = load_policy(PolicyParams(model_name=str(folder)))
    prompts = encode_prompts(policy.tokenizer, ["Why?", "Why does bread rise?", "Yeast? " * 4], 80).ids
    drawn = sample(policy, prompts, max_new_tokens=16, temperature=1.0, seeds=[0, 1, 2], batch_size=8)
    return prompts, [response.ids for response in drawn]


def new_adapter(model: Path | str, **options: Any) -> Policy:
    return load_policy(PolicyParams(model_name=str(model), lora=LORA, **options), trainable=True)


def moved(policy: Policy, seed: int = 0) -> Policy:
    """As if trained: the adapter changes the answers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return policy


def saved(policy: Policy, folder: Path) -> Path:
    save_policy(policy, folder)
    return folder


def log_probs(policy: Policy, rows: tuple[list[list[int]], list[list[int]]]) -> np.ndarray:
    return np.concatenate(response_log_probs(policy.model, *rows))


def test_an_adapter_is_saved_alone_and_loaded_with_its_base(folder: Path, rows: Any, tmp_path: Path) -> None:
    trained = new_adapter(folder)
    before = log_probs(load_policy(PolicyParams(model_name=str(folder))), rows)
    names = [name for name, value in trained.model.named_parameters() if value.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    np.testing.assert_allclose(log_probs(trained, rows), before, atol=1e-5)
    place = saved(moved(trained), tmp_path / "adapter")
    assert not (place / "model.safetensors").exists()
    assert not (place / "base").exists()
    found = log_probs(load_policy(PolicyParams(model_name=str(place))), rows)
    np.testing.assert_allclose(log_probs(trained, rows), found, atol=1e-6)
    assert np.abs(found - before).max() > 0.01
    unknown = LoraParams(r=2, alpha=4.0, target_modules=["no_such_layer"])
    with pytest.raises(PolicyError, match="target_modules"):
        load_policy(PolicyParams(model_name=str(folder), lora=unknown), trainable=True)


# Training from an adapter


@pytest.mark.parametrize("lora", [None, LORA])
def test_ppo_starts_from_the_merged_adapter_and_holds_on_to_it(
    adapter: Path, rows: Any, lora: LoraParams | None, tmp_path: Path
) -> None:
    """The reference is the adapter's policy, not its base, and does not learn with it."""
    expected = log_probs(load_policy(PolicyParams(model_name=str(adapter))), rows)
    params = make_params(adapter, lora=lora)
    policy = load_policy(params.ppo, trainable=True)
    np.testing.assert_allclose(log_probs(policy, rows), expected, atol=2e-5)
    trainer = PPOTrainer(params, policy, letters, PROMPTS, held_out=HELD_OUT)
    episodes = trainer.collect()
    assert max(abs(episode.kl) for episode in episodes) < 1e-4
    trainer.update(episodes)
    reference = trainer.models.reference_log_probs(*rows, 1.0)
    np.testing.assert_allclose(reference, expected, atol=2e-5)
    assert np.abs(log_probs(policy, rows) - expected).max() > 1e-3
    result = train_ppo(make_params(adapter, lora=lora), letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    again = load_policy(PolicyParams(model_name="run:models/policy_ppo"), tmp_path)
    np.testing.assert_allclose(log_probs(again, rows), log_probs(result.policy, rows), atol=1e-5)


@pytest.mark.parametrize("lora", [None, LORA])
def test_dpo_starts_from_the_merged_adapter(adapter: Path, rows: Any, lora: LoraParams | None, tmp_path: Path) -> None:
    """Held-out pairs have a margin of 0 before the first step: the policy is its reference."""
    result = train_dpo(make_dpo_params(adapter, lora=lora), letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    first = result.history[result.history["split"] == "held out"].iloc[0]
    assert (first["step"], first["margin"]) == (0, pytest.approx(0.0, abs=1e-6))
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    again = load_policy(PolicyParams(model_name="run:models/policy_dpo"), tmp_path)
    np.testing.assert_allclose(log_probs(again, rows), log_probs(result.policy, rows), atol=1e-5)
    assert (tmp_path / "models" / "policy_dpo" / "base").is_dir() == (lora is not None)


@pytest.mark.parametrize("tied", [False, True])
def test_a_new_adapter_on_a_merged_base_is_saved_with_it_and_can_be_moved(tied: bool, tmp_path: Path) -> None:
    """No other place holds the merged base; peft alone can load the folder too."""
    from peft import AutoPeftModelForCausalLM

    folder = make_policy(tmp_path / "policy", scale=0.25, tie_word_embeddings=tied)
    adapter = saved(moved(new_adapter(folder)), tmp_path / "sft")
    rows = ([[5, 6, 7], [9]], [[10, 11, 12, 13], [14, 15]])
    trained = moved(new_adapter(adapter), seed=1)
    expected = log_probs(trained, rows)
    place = saved(trained, tmp_path / "tuned")
    content = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
    assert content["base_model_name_or_path"] == str(place / "base")
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(place)).eval()
    np.testing.assert_allclose(np.concatenate(response_log_probs(theirs, *rows)), expected, atol=1e-5)
    shutil.rmtree(folder)
    shutil.rmtree(adapter)
    params = PolicyParams(model_name=str(shutil.move(place, tmp_path / "elsewhere")))
    np.testing.assert_allclose(log_probs(load_policy(params), rows), expected, atol=1e-5)
    assert policy_identity(params, None)
    third = moved(new_adapter(params.model_name), seed=2)
    np.testing.assert_allclose(
        log_probs(load_policy(PolicyParams(model_name=str(saved(third, tmp_path / "third")))), rows),
        log_probs(third, rows),
        atol=1e-5,
    )


def test_merging_rounds_in_low_precision_which_is_said(
    adapter: Path, rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        policy = new_adapter(adapter, dtype="bfloat16")
    assert "merged into bfloat16 weights, which rounds it" in caplog.text
    own = load_policy(PolicyParams(model_name=str(adapter), dtype="bfloat16"))
    assert np.abs(log_probs(policy, rows) - log_probs(own, rows)).max() < 0.3


@pytest.mark.parametrize("lora", [None, LORA])
def test_an_adapter_on_4_bit_weights_is_not_trained_from(adapter: Path, lora: LoraParams | None) -> None:
    params = PolicyParams(model_name=str(adapter), quantization="4bit", lora=lora)
    with pytest.raises(PolicyError, match=r"cannot be merged into 4bit weights.* set quantization null, or merge it"):
        load_policy(params, trainable=True)


def test_an_adapter_that_is_not_added_to_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    policy = load_policy(PolicyParams(model_name=str(folder)))
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prefixed = Policy(get_peft_model(policy.model, config), policy.tokenizer)
    with pytest.raises(PolicyError, match="the adapter cannot be merged into its base"):
        load_policy(PolicyParams(model_name=str(saved(prefixed, tmp_path / "prefix"))), trainable=True)


# The base's commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two commits of some/policy, of other weights each; main is the second."""
    place = tmp_path / "hub" / "models--some--policy"
    (place / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for seed, commit in enumerate(COMMITS):
        make_policy(place / "snapshots" / commit, seed=seed, scale=0.25)
        (place / "refs" / "main").write_text(commit)
    return place


@pytest.mark.parametrize("revision", [COMMITS[0], None])
def test_an_adapter_is_loaded_on_the_commit_that_it_was_trained_on(
    hub: Path, rows: Any, revision: str | None, tmp_path: Path
) -> None:
    if revision is None:
        (hub / "refs" / "main").write_text(COMMITS[0])
    trained = moved(new_adapter("some/policy", revision=revision))
    expected = log_probs(trained, rows)
    place = saved(trained, tmp_path / "adapter")
    params = PolicyParams(model_name=str(place))
    identity = policy_identity(params, None)
    (hub / "refs" / "main").write_text(COMMITS[1])
    content = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
    assert (content["base_model_name_or_path"], content["revision"]) == ("some/policy", COMMITS[0])
    np.testing.assert_allclose(log_probs(load_policy(params), rows), expected, atol=1e-6)
    assert policy_identity(params, None) == identity
    (place / "adapter_config.json").write_text(json.dumps(content | {"revision": COMMITS[1]}), encoding="utf-8")
    assert policy_identity(params, None) != identity
    assert np.abs(log_probs(load_policy(params), rows) - expected).max() > 0.1
    (place / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": None}))
    with pytest.raises(PolicyError, match="does not say which model the adapter belongs to"):
        load_policy(params)
