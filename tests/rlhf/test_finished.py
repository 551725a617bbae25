"""A PPO that was launched: the same call afterwards trains nothing, another one does."""
# ruff: noqa: ARG001, the signature is a reward's

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, letters, make_params, make_policy, vowels

from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.runs.run import Run

SETS = {"held_out": HELD_OUT[:3], "choose_on": CHOOSE_ON}


def never(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    raise AssertionError("what was trained is not trained again")


@pytest.mark.slow
def test_the_same_call_finds_what_was_trained_and_another_trains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy, run = make_policy(tmp_path / "policy"), Run(tmp_path / "run")
    params = make_params(policy, total_episodes=8)
    first = train_ppo(params, letters, PROMPTS[:8], **SETS, judge=vowels, run=run, keep_result=True)
    caplog.clear()
    again = train_ppo(params, never, PROMPTS[:8], **SETS, judge=never, run=run)
    assert "ppo was trained before, by a launch; delete the file to train again" in caplog.text
    for name in ("history", "evaluations", "samples", "judged", "rollouts"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(first, name), check_dtype=False)
    assert again.metrics() == first.metrics()
    own, found = first.policy.model.state_dict(), again.policy.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.items())

    with pytest.raises(Exception, match="not trained again"):
        train_ppo(params, never, PROMPTS[:7], **SETS, run=run)
    assert "training starts over" in caplog.text
