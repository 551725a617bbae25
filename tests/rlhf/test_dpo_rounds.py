"""DPO in rounds: pairs of the policy as it is then, the start as reference; and what a training is known by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.dpo_run import make_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_policy

from realm_lib.config.profile import load_params
from realm_lib.config.rlhf import DPOParams, LoraParams, RlhfParams
from realm_lib.data.chats import Prompt, prompt_key
from realm_lib.rlhf.dpo.fitting import largest_move, training_identity
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.dpo.rounds import Rounds, first_part, train_rounds
from realm_lib.rlhf.dpo.training import make_pairs, train_dpo
from realm_lib.rlhf.errors import DPOError, RewardError
from realm_lib.rlhf.policies import Policy, load_policy, response_log_probs
from realm_lib.rlhf.rewards import reward_identity
from realm_lib.rlhf.tracking import Tracking

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def pairs(folder: Path) -> PreferencePairs:
    return make_pairs(make_params(folder), letters, PROMPTS)


def dpo_of(params: RlhfParams | None) -> DPOParams:
    assert params is not None
    assert params.dpo is not None
    return params.dpo


def margins(policy: Policy, start: Policy, pairs: PreferencePairs, beta: float) -> float:
    """The mean implicit margin, from two whole models."""
    prompts = pairs.table["prompt_ids"].tolist()

    def ratios(side: str) -> list[float]:
        answers = pairs.table[f"{side}_ids"].tolist()
        both = [response_log_probs(each.model, prompts, answers) for each in (policy, start)]
        return [float(own.sum() - other.sum()) for own, other in zip(*both, strict=True)]

    return beta * float(np.mean(np.array(ratios("chosen")) - np.array(ratios("rejected"))))


@pytest.mark.parametrize("lora", [None, LoraParams(r=4, alpha=8.0)])
def test_the_reference_of_every_round_is_the_start(
    folder: Path, pairs: PreferencePairs, tmp_path: Path, lora: LoraParams | None
) -> None:
    """A round of one batch: the margin of its first step is that of the policy after the first round."""
    parts = [PreferencePairs(pairs.table[a : a + 8].reset_index(drop=True), "on_policy", 8) for a in (0, 8)]
    watched = PreferencePairs(pairs.table[16:20].reset_index(drop=True), "on_policy", 4)
    asked: list[tuple[str, list[Prompt]]] = []

    def make(identity: str, prompts: Sequence[Prompt]) -> PreferencePairs:
        asked.append((identity, list(prompts)))
        return parts[1]

    def trained(rounds: int, name: str) -> tuple[Policy, Rounds]:
        params = dpo_of(make_params(folder, lora=lora, rounds=rounds, learning_rate=3e-3))
        policy = load_policy(params, trainable=True)
        first = PreferencePairs(parts[0].table, "on_policy", 8, later=("a", "b") if rounds > 1 else ())
        followed = HeldOutPairs.of(policy, watched, params, 4)
        found = train_rounds(
            policy, first, followed, params,
            checkpoints=tmp_path / name, start="the start", reward=None, folder=None, make=make,
            track=lambda identity: Tracking.start([], "dpo", identity, {}, None),
        )  # fmt: skip
        return policy, found

    torch.manual_seed(0)
    once, before = trained(1, "once")
    torch.manual_seed(0)
    _, both = trained(2, "twice")
    start = load_policy(dpo_of(make_params(folder)))
    history = both.history
    steps = history.loc[history["split"] == "training", "step"].tolist()
    assert steps == [1, 2, 3, 4], "two epochs of one batch, in each of two rounds"
    third = history[(history["step"] == 3) & (history["split"] == "training")].iloc[0]
    wanted = margins(once, start, parts[1], 0.1)
    assert abs(wanted) > 1e-3, "the first round moved it"
    assert third["margin"] == pytest.approx(wanted, abs=1e-5)
    assert [prompts for _, prompts in asked] == [["a", "b"]]
    assert asked[0][0] not in {"the start", both.identity, before.identity}
    pd.testing.assert_frame_equal(both.pairs.table, pd.concat([part.table for part in parts], ignore_index=True))
    assert (both.pairs.asked, both.pairs.later) == (16, ())


def test_later_rounds_are_made_of_the_other_prompts(folder: Path) -> None:
    params = make_params(folder, rounds=2, batch_size=2, num_epochs=1, learning_rate=1e-6)
    first = make_pairs(params, letters, PROMPTS, held_out=HELD_OUT)
    assert set(first.table["prompt"]) <= set(PROMPTS[::2])
    assert list(first.later) == PROMPTS[1::2]
    found = train_dpo(params, letters, first, held_out=[*HELD_OUT, PROMPTS[1]]).pairs
    assert set(found.table["prompt"][: len(first)]) == set(first.table["prompt"])
    assert set(found.table["prompt"][len(first) :]) <= set(PROMPTS[3::2]), "what became held out is not trained on"
    assert found.asked == first.asked + len(PROMPTS[3::2])
    with pytest.raises(DPOError, match="rounds is 1, but the pairs have 11 prompts for later rounds"):
        train_dpo(make_params(folder, batch_size=2), letters, first, held_out=HELD_OUT)
    few = PreferencePairs(first.table, "on_policy", first.asked, later=first.later[:1])
    with pytest.raises(DPOError, match=r"round 2 of 2: .* fewer than rlhf\.dpo\.batch_size 2"):
        train_dpo(params, letters, few, held_out=HELD_OUT)


def test_prompts_are_divided_and_equal_ones_count_once() -> None:
    assert first_part(["a", "B", " b", "c", "d"], 2) == (["a", "c"], (" b", "d"))
    assert first_part(["a", "b"], 1) == (["a", "b"], ())


def test_prompts_that_differ_in_case_and_space_are_the_same() -> None:
    assert prompt_key("Why  does\nBREAD rise? ") == prompt_key("why does bread rise?")
    assert prompt_key([{"role": "user", "content": "Straße"}]) == prompt_key("STRASSE")
    assert prompt_key("Why does bread rise") != prompt_key("Why does bread rise?")


def test_people_have_no_rounds(folder: Path) -> None:
    with pytest.raises(ValueError, match="rounds 2 need pairs on_policy"):
        DPOParams(model_name=str(folder), pairs="human", rounds=2)


class Rewarding:
    """A reward that says what it depends on."""

    def __init__(self, models: Any) -> None:
        self.models = models

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return letters(prompts, completions)


def test_a_training_is_known_by_its_reward(folder: Path, pairs: PreferencePairs) -> None:
    assert reward_identity(letters) is None
    first, second = Rewarding({"combiner": "1f"}), Rewarding({"combiner": "2e"})
    assert reward_identity(first) == {"combiner": "1f"}
    with pytest.raises(RewardError, match="models must be a mapping"):
        reward_identity(Rewarding("v2"))
    params = dpo_of(make_params(folder))
    known = [
        training_identity(params, "start", pairs, pairs, reward_identity(reward)) for reward in (first, second, letters)
    ]
    assert len(set(known)) == 3
    assert known[0] == training_identity(params, "start", pairs, pairs, {"combiner": "1f"})


@pytest.mark.parametrize("name", ["demo", "local", "small", "full", "test"])
def test_the_rates_of_the_profiles_move_the_weights(name: str) -> None:
    params = dpo_of(load_params(Path(__file__).parents[2] / "params" / f"{name}.yaml").rlhf)
    moved = largest_move(params, params.max_prompts or 1000)
    steps = -(-(params.max_prompts or 1000) // params.batch_size) * params.num_epochs
    assert moved == pytest.approx(params.learning_rate * steps / 2, rel=0.25), "a triangle's area"
    assert moved > (1e-3 if params.lora is not None else 5e-4)
