"""Judges by name: the reward, the simulator's truth, and anybody's function, from the parameters."""
# ruff: noqa: ARG001, ARG005, the signature of a judge is what is tested

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.ppo_run import letters, vowels
from support.small_scorers import scorer_of

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import Params, load_params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.pairs import load_pairs
from realm_lib.data.simulator import gold_utilities, gold_utility
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.judges import load_judges, named_judges
from realm_lib.rlhf.rewards import ask_judge
from realm_lib.runs.run import MissingStepError, Run

PROFILE = "params/test.yaml"


@pytest.fixture
def own_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of a user's, as PYTHONPATH would make it known."""
    (tmp_path / "my_judges.py").write_text(
        "class House:\n"
        "    @staticmethod\n"
        "    def polite(prompts, completions):\n"
        "        return [float('please' in text) for text in completions]\n"
        "class Brief:\n"
        "    def __call__(self, prompts, completions):\n"
        "        return [-float(len(text)) for text in completions]\n"
        "brief = Brief()\n"
        "threshold = 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_judges")
def test_judges_are_loaded_by_name_from_the_parameters() -> None:
    named = "rlhf.judges={polite: 'my_judges:House.polite', brief: 'my_judges:brief'}"
    params = load_params(PROFILE, [named])
    judges = load_judges(params.rlhf.judges, letters, simulated=True)
    assert list(judges) == ["realm", "gold", "polite", "brief"]
    assert judges["realm"] is letters
    assert ask_judge("polite", judges["polite"], ["a", "b"], ["Yes, please.", "No."], [0, 1]).tolist() == [1.0, 0.0]
    assert ask_judge("brief", judges["brief"], ["a"], ["Yes."], [0]).tolist() == [-4.0]
    assert list(load_judges({}, letters, simulated=False)) == ["realm"]


@pytest.mark.usefixtures("own_judges")
@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            "my_judge:brief",
            r"rlhf.judges.mine: my_judge:brief cannot be imported: No module named 'my_judge'.*PYTHONPATH",
        ),
        ("my_judges:polite", "cannot be imported: module 'my_judges' has no attribute 'polite'"),
        ("my_judges:threshold", "my_judges:threshold is a int, not a function"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_with_its_key(place: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        load_judges({"mine": place}, letters, simulated=False)


@pytest.mark.parametrize(
    ("judges", "says"),
    [
        ("{gold: 'm:f'}", "'gold' is taken"),
        ("{realm: 'm:f'}", "'realm' is taken"),
        ("{length: 'm:f'}", "'length' is taken"),
        ("{'my judge': 'm:f'}", "'my judge' is taken or not a plain name"),
        ("{mine: 'm.f'}", "write module:function"),
        ("{mine: 'm:f()'}", "write module:function"),
        ("[mine]", "a mapping of keys, not a list"),
    ],
)
def test_names_and_places_that_cannot_be_are_refused_by_the_parameters(judges: str, says: str) -> None:
    with pytest.raises(ParamsError, match=rf"rlhf.*{says}"):
        load_params(PROFILE, [f"rlhf.judges={judges}"])


def test_a_reward_model_judges_by_its_score_and_is_loaded_when_it_is_first_asked(
    inform_folder: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    (tmp_path / "models").mkdir()
    place = tmp_path / "models" / "strict"
    shutil.copytree(inform_folder, place)
    own = "{backend: inform, model_id: 'run:models/strict', max_length: 64}"
    params = load_params(PROFILE, [f"rlhf.judges={{second: {own}}}"])
    judges = load_judges(params.rlhf.judges, letters, simulated=True, run=run)
    assert list(judges) == ["realm", "gold", "second"]
    prompts, answers = ["Why does bread rise?", "Why?"], ["Yeast makes gas.", ""]
    scores = scorer_of(inform_folder, max_length=64).score(prompts, answers)
    assert ask_judge("second", judges["second"], prompts, answers, [0, 1]).tolist() == scores.tolist()
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    said = [[{"role": "assistant", "content": answer}] for answer in answers]
    assert list(judges["second"](prompts=chats, completions=said)) == scores.tolist()
    long = ["Yeast makes gas.", "gas " * 200]
    with pytest.raises(RewardError, match=r"judge 'second' failed .*LongResponseError.*rlhf\.floor_reward"):
        ask_judge("second", judges["second"], prompts, long, [0, 1])
    floored = ask_judge("second", judges["second"], prompts, long, [0, 1], floor=-9.0).tolist()
    assert floored == [pytest.approx(scores[0]), -9.0]


def test_a_reward_model_that_is_not_there_is_missed_before_anything_is_asked(tmp_path: Path) -> None:
    judge = RewardModelParams(backend="inform", model_id="run:models/strict")
    with pytest.raises(MissingStepError, match="00_offline_models"):
        load_judges({"second": judge}, letters, simulated=False, run=Run(tmp_path))
    with pytest.raises(ParamsError, match="run:models/strict: which run"):
        load_judges({"second": judge}, letters, simulated=False)
    hosted = RewardModelParams(backend="nim", model_id="nvidia/llama-3.1-nemotron-70b-reward")
    assert list(load_judges({"hosted": hosted}, letters, simulated=False)) == ["realm", "hosted"]


def test_a_name_that_would_overwrite_a_column_is_refused_from_python_too() -> None:
    for name in ("length", "win_rate", "reward", "entropy", "no name"):
        with pytest.raises(ParamsError, match=f"{name!r} is taken or not a plain name"):
            named_judges({name: vowels})


def test_one_judge_is_gold_several_keep_their_names_and_the_reward_is_none_of_them() -> None:
    assert named_judges(None) == {}
    assert named_judges(vowels) == {"gold": vowels}
    assert list(named_judges({"realm": letters, "polite": vowels, "gold": letters}).items()) == [
        ("polite", vowels),
        ("gold", letters),
    ]


def broken(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    raise KeyError("temperature")


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (broken, "judge 'mine' failed on prompts 7, 9: KeyError: 'temperature'"),
        (lambda prompts, completions: [1.0], "judge 'mine' answered 1 numbers for the 2"),
        (lambda prompts, completions: [1.0, math.nan], "judge 'mine' answered nan for prompt 9"),
        (lambda prompts, completions: [1.0, None], "judge 'mine' answered None for prompt 9"),
        (lambda prompts, completions: 1.0, "judge 'mine' answered float, not a list"),
        (lambda prompts: [1.0], "judge 'mine' failed .*TypeError"),
    ],
)  # fmt: skip
def test_a_judge_s_answer_is_believed_only_when_it_is_one_number_a_completion(judge: Any, says: str) -> None:
    with pytest.raises(RewardError, match=says):
        ask_judge("mine", judge, ["a", "b"], ["c", "d"], [7, 9])
    assert ask_judge("mine", vowels, ["a"], ["aei"], [0]).tolist() == [3.0]


def test_gold_is_the_simulator_s_utility() -> None:
    params: Params = load_params(PROFILE)
    pair = load_pairs(params.data, "test").iloc[0]
    asked = [pair["history"]] * 2, [pair["human_ref_A"], pair["human_ref_B"]]
    judge = load_judges({}, letters, simulated=True)["gold"]
    assert judge is gold_utilities
    found = ask_judge("gold", judge, *asked, [0, 0])
    assert found.tolist() == [gold_utility(pair["history"], text) for text in asked[1]]
    assert found.tolist() == pytest.approx([pair["gold_A"], pair["gold_B"]])
    chats = [[{"role": "user", "content": prompt}] for prompt in asked[0]]
    assert ask_judge("gold", judge, chats, asked[1], [0, 0]).tolist() == found.tolist()
    with pytest.raises(RewardError, match="judge 'gold'"):
        ask_judge("gold", judge, ["Not a post of the simulator."], ["Yes."], [0])
