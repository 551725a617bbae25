"""Models that think aloud: what reward and judges read of a response is its answer, where that is asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.dpo_run import make_params as make_dpo_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.rlhf import PolicyParams
from realm_lib.rlhf.dpo.training import make_pairs
from realm_lib.rlhf.policies import Policy, encode_prompts, load_policy, sample
from realm_lib.rlhf.policies.thinking import after_thinking
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.samples import SampleStore
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

TEMPLATE = (  # as Qwen3's: thinking that is not wanted is written as if it had been done
    "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
TAGS = ["<think>", "</think>"]


def make_thinker(folder: Path, tags: str, **changes: Any) -> Path:
    """A policy whose tokenizer has the tags as tokens (plain or special ones), or spells them."""
    import transformers

    make_policy(folder, vocab_size=320, **changes)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tags != "spelt":
        tokenizer.add_tokens(TAGS, special_tokens=tags == "special")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["plain", "special", "spelt"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_thinker(tmp_path_factory.mktemp("thinker") / request.param, request.param)
    return load_policy(PolicyParams(model_name=str(folder))).tokenizer


@pytest.mark.parametrize(
    ("prompt", "response", "answer"),
    [
        ("Why?", "Yeast.", "Yeast."),
        ("Why?", "<think>Is it gas?</think>\n\nYeast.", "Yeast."),
        ("Why?", "<think>a</think>b<think>c</think> Yeast.", "Yeast."),
        ("Why? <think>\n", "Is it gas?</think>Yeast.", "Yeast."),  # templates that open the thinking themselves
        ("Why? <think>\n\n</think>\n\n", "Yeast.", "Yeast."),
        ("What is <think> in a text?", "Yeast.", "Yeast."),
        ("Why?", "<think>Is it gas? And", ""),
        ("Why? <think>\n", "Is it gas? And", ""),
        ("Why?", "<think>a</think>Yeast. <think>But", ""),
        ("Why?", "<think>a</think>", ""),
    ],
)
def test_the_answer_is_what_follows_the_last_thought(tokenizer: Any, prompt: str, response: str, answer: str) -> None:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)]
    assert after_thinking(tokenizer, *ids) == answer


def test_the_template_is_told_whether_to_think(tokenizer: Any) -> None:
    def text(**options: Any) -> str:
        return str(tokenizer.decode(encode_prompts(tokenizer, ["Why?"], 60, **options).ids[0]))

    assert text() == text(enable_thinking=True) == "<|user|>Why?<|assistant|>"
    assert text(enable_thinking=False) == "<|user|>Why?<|assistant|><think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that writes </think> every few tokens and <think> now and then."""
    import torch

    folder = make_thinker(tmp_path_factory.mktemp("thinker") / "policy", "plain")
    policy = load_policy(PolicyParams(model_name=str(folder)))
    opened, closed = (policy.tokenizer.convert_tokens_to_ids(tag) for tag in TAGS)
    with torch.no_grad():
        weight = policy.model.get_output_embeddings().weight
        weight[closed] = weight[policy.tokenizer.eos_token_id] * 1.05
        weight[opened] = weight[policy.tokenizer.eos_token_id] * 0.8
    policy.model.save_pretrained(folder)
    return folder


def test_stripping_changes_texts_and_no_tokens(thinker: Path, tmp_path: Path) -> None:
    policy = load_policy(PolicyParams(model_name=str(thinker)))
    ids = encode_prompts(policy.tokenizer, PROMPTS, 60).ids
    options: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0, "seeds": range(len(ids)), "batch_size": 8}
    kept, stripped = (sample(policy, ids, thinking=thinking, **options) for thinking in ("keep", "strip"))
    assert [response.ids for response in kept] == [response.ids for response in stripped]
    assert [response.ended for response in kept] == [response.ended for response in stripped]
    texts = [response.text for response in stripped]
    assert texts == [answer_of(response.text) for response in kept]
    assert any(text and "</think>" in response.text for text, response in zip(texts, kept, strict=True))
    assert any(not text for text in texts)
    check_store(policy, thinker, ids, Run(tmp_path))


def answer_of(text: str) -> str:
    after = text.rpartition("</think>")[2]
    return "" if "<think>" in after else after.lstrip() if "</think>" in text else text


def check_store(policy: Policy, folder: Path, ids: list[list[int]], run: Run) -> None:
    """Texts of one kind are not taken for those of the other."""
    found = {}
    for thinking in ("keep", "strip"):
        params = make_dpo_params(folder, {"thinking": thinking})
        store = SampleStore.of(params.ppo, params.sampling, 0, run)
        found[thinking] = [responses[0].text for responses in store.draw(policy, ids, [0])]
    assert [answer_of(text) for text in found["keep"]] == found["strip"] != found["keep"]


def test_the_reward_of_ppo_and_dpo_reads_the_answers(thinker: Path) -> None:
    seen: list[str] = []

    def reward(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        seen.extend(completions)
        return letters(prompts, completions)

    for thinking in ("keep", "strip"):
        seen.clear()
        params = make_params(thinker, {"thinking": thinking})
        policy = load_policy(params.ppo, trainable=True)
        episodes = PPOTrainer(params, policy, reward, PROMPTS, held_out=HELD_OUT).collect()
        assert [episode.text for episode in episodes] == seen
        make_pairs(make_dpo_params(thinker, {"thinking": thinking}), reward, PROMPTS)
        assert any("think>" in text for text in seen) == (thinking == "keep")
