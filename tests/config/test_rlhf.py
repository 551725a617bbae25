"""The section ``rlhf``: what a short one means, and settings that do not go together."""

from pathlib import Path

import pytest
from support.profiles import profile, refusal, write

from realm_lib.config.profile import load_params


def test_a_policy_and_a_number_of_episodes_are_enough(tmp_path: Path) -> None:
    rlhf = load_params(write(tmp_path, profile())).rlhf
    assert rlhf is not None
    assert rlhf.dpo is None
    assert (rlhf.sampling.max_prompt_tokens, rlhf.sampling.max_new_tokens) == (1024, 512)
    assert (rlhf.ppo.clip_range, rlhf.ppo.gae_lambda, rlhf.comparison.best_of) == (0.2, 1.0, [4, 16])


def test_on_policy_pairs_are_the_default(tmp_path: Path) -> None:
    rlhf = load_params(write(tmp_path, profile()), ["rlhf.dpo.model_name=a/policy"]).rlhf
    assert rlhf is not None
    assert rlhf.dpo is not None
    assert (rlhf.dpo.pairs, rlhf.dpo.learning_rate, rlhf.dpo.beta) == ("on_policy", 5e-6, 0.1)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rlhf.dpo={pairs: human}", "rlhf.dpo.model_name: missing"),
        ("rlhf.ppo.total_episodes=65", "rlhf.ppo: total_episodes 65 is not a multiple of batch_size 64"),
        ("rlhf.ppo.lora={r: 4}", "rlhf.ppo.lora.alpha: missing"),
        ("rlhf.dpo={model_name: m, lora: {r: 4, alpha: 8.0, dropout: 0.1}}", "rlhf.dpo: lora.dropout must be 0"),
        ("rlhf.comparison.best_of=[1]", "rlhf.comparison.best_of.0: Input should be greater than or equal to 2"),
        ("rlhf.comparison.best_of=[4, 16, 4]", "rlhf.comparison: best_of holds 4 twice: each n is compared once"),
        ("rlhf.comparison.answers=0", "rlhf.comparison.answers: Input should be greater than or equal to 1"),
        ("rlhf.comparison.best_of=[]", "rlhf.comparison.best_of: List should have at least 1 item"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(write(tmp_path, profile()), (override,))
