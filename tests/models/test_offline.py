"""The offline stand-ins: a tokenizer that loses nothing, models that learn, and the same ones every time."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import PolicyParams
from realm_lib.config.training import OfflinePolicyParams, OfflineRewardModelParams
from realm_lib.data.posts import post_key
from realm_lib.data.simulator import simulate_posts
from realm_lib.data.simulator.knowledge import load_grammar
from realm_lib.models.offline import in_batches, train_policy, train_reward_model, train_tokenizer
from realm_lib.models.reward_models import build_scorer
from realm_lib.rlhf.policies import encode_prompts, load_policy, response_log_probs, sample
from realm_lib.runs.trained_on import read_trained_on
from realm_lib.runs.weights import folder_digest

pytestmark = pytest.mark.slow

PARAMS = OfflineRewardModelParams(
    vocab_size=400,
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    max_length=128,
    learning_rate=1e-2,
    batch_size=16,
    num_epochs=3,
)


def polite_or_rude(count: int, seed: int) -> pd.DataFrame:
    """Simulated posts, each with a kind and a rude comment of the simulator's own; the kind one is preferred."""
    rng = random.Random(seed)
    rows = []
    for post in itertools.islice(simulate_posts(seed=seed, split="train"), count):
        kind, rude = rng.choice(load_grammar().polite), rng.choice(load_grammar().rude)
        kind_is_a = rng.random() < 0.5
        a, b = (kind, rude) if kind_is_a else (rude, kind)
        rows.append({"history": post.text[:60], "human_ref_A": a, "human_ref_B": b, "labels": int(kind_is_a)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    return polite_or_rude(120, seed=1)


@pytest.fixture(scope="module")
def trained(pairs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    folder = tmp_path_factory.mktemp("offline") / "reward_model"
    return folder, train_reward_model(pairs, PARAMS, folder, seed=7, progress=False)


# The tokenizer


@given(st.text(max_size=60).filter(lambda text: "<|" not in text))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_the_tokenizer(tiny_tokenizer: Any, text: str) -> None:
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(tiny_tokenizer.all_special_ids)


@given(st.text(max_size=30).filter(lambda text: "<|" not in text), st.text(max_size=30).filter(lambda t: "<|" not in t))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_chat_has_one_bos_and_ends_at_eos(tiny_tokenizer: Any, prompt: str, response: str) -> None:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tiny_tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert text == f"<|bos|><|user|>{prompt}<|assistant|>{response}<|eos|>"
    assert ids[0] == tiny_tokenizer.bos_token_id
    assert ids.count(tiny_tokenizer.bos_token_id) == ids.count(tiny_tokenizer.eos_token_id) == 1
    assert ids[-1] == tiny_tokenizer.eos_token_id
    opened = tiny_tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(opened)


def test_the_tokenizer_is_the_same_for_the_same_texts_and_of_the_size_asked(tmp_path: Path) -> None:
    texts = [f"{word} number {n}" for n in range(200) for word in ("bread", "horse", "statute")]
    for name in ("one", "two"):
        tokenizer = train_tokenizer(texts, 300)
        assert len(tokenizer) == 300
        tokenizer.save_pretrained(tmp_path / name)
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert special == [0, 1, 2]


# The reward model


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 9), st.integers(0, 9))
def test_batches_hold_every_text_once_and_near_lengths(lengths: list[int], size: int, seed: int) -> None:
    order = in_batches(lengths, size, seed)
    assert sorted(order) == list(range(len(lengths)))
    assert order == in_batches(lengths, size, seed)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    padded = sum(max(lengths[place] for place in batch) for batch in batches)
    assert padded == sum(max(sorted(lengths)[start : start + size]) for start in range(0, len(lengths), size))


def test_it_learns_and_is_scored_by_the_scorer(trained: tuple[Path, list[dict[str, float]]]) -> None:
    folder, log = trained
    scorer = build_scorer(RewardModelParams(backend="inform", model_id=str(folder), max_length=128))
    unseen = polite_or_rude(60, seed=2)
    a, b = (scorer.score(unseen["history"].tolist(), unseen[f"human_ref_{side}"].tolist()) for side in "AB")
    assert ((a > b) == (unseen["labels"] == 1)).mean() > 0.95
    assert log[0]["step"] >= 1
    assert [entry["step"] for entry in log] == sorted({entry["step"] for entry in log})
    assert set(log[0]) == {"step", "loss", "accuracy"}
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=0.3)
    assert log[-1]["loss"] < 0.2
    assert log[-1]["accuracy"] > 0.95


def test_what_it_leaves_is_a_checkpoint_and_no_pickle(trained: tuple[Path, list[dict[str, float]]]) -> None:
    folder, _ = trained
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    assert [path.name for path in folder.parent.iterdir()] == ["reward_model"]


def test_the_same_seed_gives_the_same_model_and_another_does_not(
    pairs: pd.DataFrame, trained: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    folder, log = trained
    torch.manual_seed(123)  # what was drawn before does not matter
    again = train_reward_model(pairs, PARAMS, tmp_path / "again", seed=7, progress=False)
    assert again == log
    weights = {place: folder_digest(place) for place in (folder, tmp_path / "again")}
    assert len(set(weights.values())) == 1
    few = pairs.head(16)
    for seed in (7, 8):
        train_reward_model(few, PARAMS, tmp_path / str(seed), seed=seed, progress=False)
    assert folder_digest(tmp_path / "7") != folder_digest(tmp_path / "8")


def test_each_stand_in_keeps_the_posts_that_it_was_trained_on(
    pairs: pd.DataFrame, trained: tuple[Path, list[dict[str, float]]], policy_folder: Path
) -> None:
    posts = {post_key(post) for post in pairs["history"]}
    assert read_trained_on(trained[0]) == read_trained_on(policy_folder) == posts


def test_a_failure_in_training_leaves_what_was_there(
    pairs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth step fails, as when memory runs out."""
    step, calls = torch.optim.AdamW.step, []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    for there in ([], ["reward_model"]):
        calls.clear()
        for name in there:
            (tmp_path / name).mkdir()
            (tmp_path / name / "old").write_text("old")
        with pytest.raises(RuntimeError, match="out of memory"):
            train_reward_model(pairs, PARAMS, tmp_path / "reward_model", seed=7, progress=False)
        assert [path.name for path in tmp_path.iterdir()] == there
    assert (tmp_path / "reward_model" / "old").read_text() == "old"


def test_a_response_longer_than_the_model_reads_is_an_error(pairs: pd.DataFrame, tmp_path: Path) -> None:
    from realm_lib.models.reward_models import ScorerError

    long = pairs.head(4).assign(human_ref_A="word salad " * 200)
    with pytest.raises(ScorerError, match="its response and the chat template take"):
        train_reward_model(long, PARAMS, tmp_path / "reward_model", seed=7, progress=False)
    assert not list(tmp_path.iterdir())


# The policy

POLICY = OfflinePolicyParams(
    **PARAMS.model_dump(exclude={"retrained"}) | {"learning_rate": 1e-2, "batch_size": 8, "num_epochs": 12},
    domains=None,
    max_comments=1000,
)


@pytest.fixture(scope="module")
def policy_folder(pairs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline") / "policy_sft"
    log = train_policy(pairs, POLICY, folder, seed=7, progress=False)
    assert log[-1]["loss"] < log[0]["loss"] / 2
    assert set(log[0]) == {"step", "loss"}
    return folder


def test_the_policy_answers_with_what_it_read_and_ends(policy_folder: Path) -> None:
    policy = load_policy(PolicyParams(model_name=str(policy_folder)))
    posts = polite_or_rude(12, seed=3)["history"].tolist()
    encoded = encode_prompts(policy.tokenizer, posts, 90)
    answers = sample(
        policy, encoded.ids, max_new_tokens=40, temperature=0.0, seeds=[0] * len(encoded.ids), batch_size=4
    )
    known = {*load_grammar().polite, *load_grammar().rude}
    assert sum(answer.ended for answer in answers) >= 10
    assert sum(answer.text in known for answer in answers) >= 6


def test_only_the_comment_and_its_end_carry_loss(pairs: pd.DataFrame, tiny_tokenizer: Any) -> None:
    from realm_lib.models.offline import _encoded_comments

    examples = _encoded_comments(pairs, tiny_tokenizer, POLICY)
    prompt = encode_prompts(tiny_tokenizer, pairs["history"].tolist()[:1], 128).ids[0]
    ids, labels = examples["input_ids"][0], examples["labels"][0]
    assert ids[: len(prompt)] == prompt, "the policy is trained on prompts as it is given them later"
    assert labels == [-100] * len(prompt) + ids[len(prompt) :]
    assert tiny_tokenizer.decode(ids[len(prompt) :]) == pairs["human_ref_A"][0] + "<|eos|>"
    said = {
        (post, text) for side in "AB" for post, text in zip(pairs["history"], pairs[f"human_ref_{side}"], strict=True)
    }
    assert len(examples["labels"]) == len(said), "each comment once"
    few = _encoded_comments(pairs, tiny_tokenizer, POLICY.model_copy(update={"max_comments": 5}))
    assert few["input_ids"] == examples["input_ids"][:5]
    with pytest.raises(ValueError, match="max_length is 16: no post fits"):
        _encoded_comments(pairs, tiny_tokenizer, POLICY.model_copy(update={"max_length": 16}))


def test_a_policy_is_the_same_for_the_same_seed(pairs: pd.DataFrame, tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        train_policy(pairs.head(16), POLICY, tmp_path / name, seed=seed, progress=False)
    digests = [folder_digest(tmp_path / name) for name in ("one", "two", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_a_trained_policy_finds_its_comments_likelier_than_others(policy_folder: Path) -> None:
    policy = load_policy(PolicyParams(model_name=str(policy_folder)))
    prompt = encode_prompts(policy.tokenizer, ["Why does bread rise?"], 90).ids[0]
    texts = [load_grammar().polite[0], " ".join(reversed(load_grammar().polite[0].split()))]
    rows = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    said, garbled = response_log_probs(policy.model, [prompt] * 2, rows)
    assert said.mean() > garbled.mean() + 1
