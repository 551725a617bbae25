"""What policies and rewards have seen: it goes on from start to policy, and judges none of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.dpo_run import make_params as make_dpo_params
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.rlhf import ComparisonParams
from realm_lib.data.posts import post_key
from realm_lib.rlhf.comparison.answers import compare_policies, starting_policy, trained_policy
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.unseen import trained_on, unseen
from realm_lib.runs.run import MissingStepError, Run
from realm_lib.runs.trained_on import read_trained_on, write_trained_on

OLD = "A post of the start's own training."


class Trained:
    """A reward that tells what its model was trained on."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return letters(prompts, completions)

    def trained_on(self) -> dict[str, frozenset[str] | None]:
        return {"reward_model": keys([f"  {HELD_OUT[0].upper()}"]), "combiner": None}


def keys(prompts: Sequence[str]) -> frozenset[str]:
    return frozenset(map(post_key, prompts))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose starting policy was trained on a post of its own and on a prompt that is held out later."""
    folder = make_policy(tmp_path / "models" / "policy_sft")
    write_trained_on(folder, keys([OLD, HELD_OUT[1]]))
    return Run(tmp_path)


def test_ppo_keeps_what_it_and_its_start_have_seen_and_is_not_judged_by_it(run: Run) -> None:
    params = make_params(Path("run:models/policy_sft"), total_episodes=16)
    asked = [*PROMPTS, HELD_OUT[2]]
    result = train_ppo(params, Trained(), asked, held_out=HELD_OUT, choose_on=CHOOSE_ON, run=run)
    seen = read_trained_on(run.path("models", "policy_ppo"))
    assert seen == keys([OLD, HELD_OUT[1], *PROMPTS, *CHOOSE_ON])
    assert set(result.judged["prompt"]) == set(range(2, 9)), "the places are those of the prompts that were given"
    assert "held out: 2 of 9 prompts left out: seen in training (start 1, reward_model 1)" in result.dropped


def test_dpo_too(run: Run) -> None:
    params = make_dpo_params(Path("run:models/policy_sft"), num_epochs=1)
    result = train_dpo(params, Trained(), [*PROMPTS, HELD_OUT[2]], held_out=HELD_OUT, run=run)
    seen = read_trained_on(run.path("models", "policy_dpo"))
    assert seen == keys([OLD, HELD_OUT[1], *result.pairs.table["prompt"]])
    assert result.answers["prompt"].tolist() == HELD_OUT[2:]
    assert set(result.held_out_pairs.table["prompt"]) <= set(HELD_OUT[2:])
    assert result.dropped == "2 of 9 prompts left out: seen in training (start 1, reward_model 1)"


def test_people_s_held_out_pairs_too(run: Run) -> None:
    params = make_dpo_params(Path("run:models/policy_sft"), pairs="human", num_epochs=1)
    table = pd.DataFrame({"prompt": PROMPTS, "chosen": "Yeast makes gas.", "rejected": "No idea, thank you."})
    watched = table.head(9).assign(prompt=HELD_OUT)
    result = train_dpo(params, Trained(), table, held_out=HELD_OUT, held_out_pairs=watched, run=run)
    assert result.held_out_pairs.table["prompt"].tolist() == HELD_OUT[2:]


def test_policies_are_compared_on_prompts_that_none_has_seen(run: Run) -> None:
    for name, seen in (("ppo", HELD_OUT[2:4]), ("dpo", HELD_OUT[3:4])):
        write_trained_on(make_policy(run.path("models", f"policy_{name}"), seed=0), keys(seen))
    params = make_dpo_params(Path("run:models/policy_sft"), {"temperature": 0.8})
    params = params.model_copy(
        update={"comparison": ComparisonParams(prompts=4, answers=1, best_of=[2], resamples=200)}
    )
    trained = {name: trained_policy(params.ppo, f"models/policy_{name}") for name in ("ppo", "dpo")}
    found = compare_policies(params, Trained(), HELD_OUT, starting_policy(params), trained, run=run)
    assert found.answers["prompt"].unique().tolist() == HELD_OUT[4:8], "as many as are asked for, where there are"
    said = "4 of 9 prompts left out: seen in training (base 1, ppo 2, dpo 1, reward_model 1)"
    assert found.metrics()["dropped"] == said


def test_nothing_unseen_is_an_error_that_says_who_has_seen_it(run: Run) -> None:
    known = {"reward_model": keys(HELD_OUT[:5]), "ppo": keys(HELD_OUT[5:])}
    with pytest.raises(PolicyError, match=r"9 of 9 .*\(reward_model 5, ppo 4\): nothing is left to judge by"):
        unseen(HELD_OUT, known)
    assert unseen(HELD_OUT, {"reward_model": None}) == (list(range(9)), "")
    with pytest.raises(PolicyError, match="held out: 1 of 1 prompts left out"):
        train_ppo(make_params(run.path("models", "policy_sft")), Trained(), PROMPTS, held_out=HELD_OUT[:1])


def test_a_start_of_an_earlier_version_is_named_before_anything_is_trained(run: Run) -> None:
    run.path("models", "policy_sft", "trained_on.json").unlink()
    params = make_params(Path("run:models/policy_sft"))
    assert trained_on(letters, {"start": params.ppo}, run.folder) == {"start": None}
    run.write_metrics("offline_models", {})
    with pytest.raises(MissingStepError, match="run notebook 00_offline_models again"):
        train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, run=run)
    with pytest.raises(MissingStepError, match="run notebook 00_offline_models again"):
        train_dpo(make_dpo_params(Path("run:models/policy_sft")), letters, PROMPTS, held_out=HELD_OUT, run=run)
