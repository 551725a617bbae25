"""The explorer driven from Python: its numbers against the reward's own, its filters against pandas, its widgets."""

import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.standard import standard_rewards
from realm_lib.features.signals import FunctionSignal
from realm_lib.report.explorer import Explorer, ExplorerError, WrongPairs, compare
from realm_lib.reward.combiner import Combiner
from realm_lib.reward.explanations import Explanation
from realm_lib.reward.realm_reward import RealmReward

pytestmark = pytest.mark.slow

PROMPT = "Why does bread rise?"
TEXTS = ["Yeast makes gas, and gluten holds it.", "No idea.", "Because of the gas that yeast makes from sugar.", "Ask."]
SCALE = 0.2


def make_features(pairs: int = 60) -> pd.DataFrame:
    """Pairs of real texts; their features are made up, so that the reward is often wrong."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(pairs, 2)), columns=["score_A", "score_B"])
    frame[["similarity_A", "similarity_B"]] = rng.uniform(0, 0.8, size=(pairs, 2))
    frame["post_id"] = [f"p{row // 2}" for row in range(pairs)]
    frame["domain"] = [("askbaking", "askvet", "askhr")[row % 3] for row in range(pairs)]
    frame["history"] = [f"{PROMPT} <b>{row // 2}</b>" for row in range(pairs)]
    frame["human_ref_A"] = [TEXTS[row % 4] for row in range(pairs)]
    frame["human_ref_B"] = [f"{TEXTS[(row + 1) % 4]} <script>{row}</script>" for row in range(pairs)]
    frame["labels"] = rng.integers(0, 2, pairs)
    frame["score_ratio"] = rng.choice([1.0, 2.0, 5.0], pairs)
    return frame


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    return make_features()


@pytest.fixture(scope="module")
def evaluation(run_reward: RealmReward, features: pd.DataFrame) -> Evaluation:
    rewards = standard_rewards(features, realm=run_reward.combiner.reward)
    return evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, SCALE), resamples=50)


@pytest.fixture
def explorer(run_reward: RealmReward, features: pd.DataFrame, evaluation: Evaluation) -> Explorer:
    return Explorer(run_reward, features, evaluation, interactive=True)


# Two responses


def test_a_comparison_holds_the_rewards_own_numbers(run_reward: RealmReward) -> None:
    found = compare(run_reward, PROMPT, (TEXTS[0], TEXTS[1]), scale=SCALE)
    table = run_reward.explain([PROMPT, PROMPT], TEXTS[:2])
    for one, row in zip(found.explanations, table.to_dict("records"), strict=True):
        numbers = one.to_dict()
        assert numbers.pop("signals") == {}
        assert numbers == pytest.approx(row)
    difference = table["reward"][0] - table["reward"][1]
    assert found.probability == pytest.approx(1 / (1 + math.exp(-SCALE * difference)))
    swapped = compare(run_reward, PROMPT, (TEXTS[1], TEXTS[0]), scale=SCALE)
    assert swapped.probability == 1 - found.probability
    assert compare(run_reward, PROMPT, (TEXTS[0], TEXTS[0]), scale=SCALE).sentence() == "Both get the same reward."
    unsure = compare(run_reward, PROMPT, (TEXTS[0], TEXTS[1]), scale=0.0)
    assert unsure.probability == 0.5
    assert "no better than chance" in unsure.sentence(), "a scale of 0 says so; the rewards are not the same"


@pytest.mark.parametrize("preferred", [0, 1, None])
def test_the_sentence_names_the_winner_and_whether_people_agree(run_reward: RealmReward, preferred: int | None) -> None:
    found = compare(run_reward, PROMPT, (TEXTS[0], TEXTS[1]), scale=SCALE, preferred=preferred)
    winner = int(found.probability < 0.5)
    sure = max(found.probability, 1 - found.probability)
    assert f"Response {'AB'[winner]} would be preferred with {100 * sure:.0f} % probability." in found.sentence()
    assert ("Readers" in found.sentence()) == (preferred is not None)
    if preferred is not None:
        outcome = "right" if preferred == winner else "wrong"
        assert f"Readers preferred {'AB'[preferred]}: the reward is {outcome}." in found.sentence()


@pytest.mark.parametrize(
    ("prompt", "responses", "named"),
    [
        (" ", (TEXTS[0], TEXTS[1]), "the prompt is empty"),
        (PROMPT, (TEXTS[0], "\n"), "response B is empty"),
        (PROMPT, ("gas " * 4000, TEXTS[1]), "response A has no reward"),
    ],
)
def test_a_text_that_cannot_be_compared_is_named(
    run_reward: RealmReward, prompt: str, responses: tuple[str, str], named: str
) -> None:
    with pytest.raises(ExplorerError, match=named):
        compare(run_reward, prompt, responses, scale=SCALE)


# Pairs that it gets wrong


def test_the_wrong_pairs_are_those_and_the_surest_come_first(evaluation: Evaluation, features: pd.DataFrame) -> None:
    wrong = WrongPairs.of(evaluation, features).table
    judged = evaluation.per_pair
    margin = np.where(features["labels"] == 1, 1, -1) * (judged["realm_A"] - judged["realm_B"])
    expected = features[margin < 0]
    assert 10 < len(wrong) < 50
    assert sorted(wrong["prompt"]) == sorted(expected["history"])
    assert wrong["sure"].is_monotonic_decreasing
    assert wrong["sure"].between(0.5, 1).all()
    np.testing.assert_allclose(np.sort(wrong["sure"]), np.sort(1 / (1 + np.exp(SCALE * margin[margin < 0]))))
    first = features.iloc[int(np.argmin(margin))]
    chosen, rejected = ("A", "B") if first["labels"] == 1 else ("B", "A")
    assert wrong.loc[0, "chosen"] == first[f"human_ref_{chosen}"]
    assert wrong.loc[0, "rejected"] == first[f"human_ref_{rejected}"]


def test_filters_keep_what_they_say(evaluation: Evaluation, features: pd.DataFrame) -> None:
    wrong = WrongPairs.of(evaluation, features)
    assert wrong.domains == ["all domains", "askbaking", "askhr", "askvet"]
    assert len(wrong.select()) == len(wrong.table)
    assert set(wrong.select("askvet")["domain"]) == {"askvet"}
    assert wrong.select(sure=(0.6, 0.8))["sure"].between(0.6, 0.8).all()
    assert (wrong.select(score_ratio=2.0)["score_ratio"] >= 2).all()
    longer, shorter = (wrong.select(length=f"preferred one is {word}") for word in ("longer", "shorter"))
    assert (longer["words_chosen"] > longer["words_rejected"]).all()
    assert (shorter["words_chosen"] < shorter["words_rejected"]).all()
    assert 0 < len(longer) < len(wrong.table)
    assert wrong.select("askvet", (0.5, 0.5)).empty


def test_pairs_without_votes_can_be_browsed(run_reward: RealmReward, features: pd.DataFrame) -> None:
    plain = features.drop(columns="score_ratio")
    rewards = standard_rewards(plain, realm=run_reward.combiner.reward)
    evaluation = evaluate_rewards(plain, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=20)
    explorer = Explorer(run_reward, plain, evaluation, interactive=True)
    assert explorer.votes.disabled
    assert len(explorer.pairs.options) == len(explorer.wrong.table)


# The panel


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_typed_responses_are_answered(explorer: Explorer, run_reward: RealmReward) -> None:
    before = explorer.surface.value
    explorer.prompt.value, explorer.first.value, explorer.second.value = PROMPT, TEXTS[0], TEXTS[1]
    explorer.button.click()
    for value in run_reward([PROMPT, PROMPT], TEXTS[:2]):
        assert f"<b>{value:+.2f}</b>" in explorer.answer.value
    assert "would be preferred with" in explorer.answer.value
    assert "Readers" not in explorer.answer.value, "nobody has judged what was typed"
    assert (explorer.pick.label, explorer.prompt.value) == ("your own prompt", PROMPT)
    assert pixels(explorer.surface.value).shape == pixels(before).shape
    assert explorer.surface.value != before


def test_a_bad_text_is_answered_with_words_and_the_next_works(explorer: Explorer) -> None:
    good = explorer.answer.value
    explorer.second.value = ""
    explorer.button.click()
    assert explorer.message == "response B is empty: type something"
    assert "role='alert'" in explorer.answer.value
    explorer.second.value = "Yeast."
    explorer.button.click()
    assert explorer.message == ""
    assert "would be preferred" in explorer.answer.value != good


def test_a_prompt_can_be_picked_or_typed(explorer: Explorer, features: pd.DataFrame) -> None:
    assert explorer.prompt.value == features["history"].iloc[0]
    explorer.pick.value = explorer.pick.options[3][1]
    assert explorer.prompt.value == features["history"].drop_duplicates().iloc[2]
    assert "Readers preferred" in explorer.answer.value
    explorer.pick.value = -1
    assert (explorer.prompt.value, explorer.first.value) == ("", "")


def test_a_wrong_pair_is_put_on_display_as_wrong(explorer: Explorer) -> None:
    explorer.domain.value = "askvet"
    expected = explorer.wrong.select("askvet")
    assert explorer.count.value == f"{len(expected)} of {len(explorer.wrong.table)} wrong pairs"
    assert [row for _, row in explorer.pairs.options] == list(expected.index)
    explorer.pairs.value = explorer.pairs.options[0][1]
    pair = expected.iloc[0]
    assert (explorer.prompt.value, explorer.first.value) == (pair["prompt"], pair["chosen"])
    assert explorer.second.value == pair["rejected"]
    assert explorer.shown.preferred == 0


def test_texts_on_display_are_text(explorer: Explorer) -> None:
    html = explorer.shown.texts_to_html()
    assert "&lt;script&gt;" in html
    assert not re.search(r"<script|<b>\d", html)


def displayed(explorer: Explorer) -> list[dict[str, Any]]:
    """What a cell that ends in ``explorer`` shows, by mime type."""
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            explorer._ipython_display_()
    finally:
        InteractiveShell.clear_instance()
    return [output.data for output in captured.outputs]


def test_where_nobody_watches_it_is_a_table_and_a_picture(
    run_reward: RealmReward, features: pd.DataFrame, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALM_QUIET", "1")
    explorer = Explorer(run_reward, features, evaluation)
    assert not hasattr(explorer, "panel"), "no widgets: a run that nobody watches must not pay for them"
    shown = displayed(explorer)
    assert [next(iter(set(data) & {"text/html", "image/png"})) for data in shown] == ["text/html", "image/png"]
    assert "Combined reward" in shown[0]["text/html"]
    assert "JupyterLab" in shown[0]["text/html"]


def test_where_somebody_watches_it_is_a_panel(explorer: Explorer) -> None:
    (shown,) = displayed(explorer)
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_a_response_outside_the_usual_area_is_still_on_the_picture(explorer: Explorer) -> None:
    far = Explanation(reward=0.0, spread=0.0, score=40.0, similarity=-0.9, outside=True)
    explorer.shown = replace(explorer.shown, explanations=(far, far))
    (ax, *_) = explorer.figure().axes
    assert ax.get_xlim()[1] >= 40
    assert ax.get_ylim()[0] <= -0.9
    assert [text.get_text() for text in ax.texts][-2:] == ["A", "B"]
    assert "Responses A and B lie outside the training range" in explorer.shown.to_html()


def test_further_signals_are_shown_and_each_response_has_a_surface(run_reward: RealmReward) -> None:
    features = make_features()
    for side in "AB":
        features[f"Letters_{side}"] = features[f"human_ref_{side}"].str.len().astype(float)
    names = ("score", "similarity", "Letters")
    combiner = Combiner(ModelParams(), names)
    combiner.fit(features, features, TrainingParams())
    letters = FunctionSignal("Letters", {"model": "letters"}, lambda _, responses: [len(text) for text in responses])
    reward = RealmReward(run_reward.scorer, run_reward.embedder, combiner, signals={"Letters": letters})
    rewards = standard_rewards(features, names, realm=combiner.reward)
    evaluation = evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=20)
    explorer = Explorer(reward, features, evaluation, interactive=True)
    explorer.prompt.value, explorer.first.value, explorer.second.value = PROMPT, TEXTS[0], TEXTS[1]
    explorer.button.click()
    assert ">Letters</th>" in explorer.answer.value
    for text in TEXTS[:2]:
        assert f">{len(text)}.00</td>" in explorer.answer.value
    titles = [ax.get_title("left") for ax in explorer.figure().axes]
    assert [title for title in titles if title] == [f"The reward, other features as in {name}" for name in "AB"]
