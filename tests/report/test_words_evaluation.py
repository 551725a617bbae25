"""An evaluation in words: they follow the intervals, and say no more than the numbers do."""

import copy
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.evaluation_made_up import EVALUATION, SEEDS, difference, reward

from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.result import Evaluation
from realm_lib.report.words.evaluation import (
    captions,
    power,
    questions_answered,
    runs_compared,
    seeds,
    two_sentences,
    verdict,
)
from realm_lib.report.words.numbers import in_words, listed, p_value, points


def changed(**differences: Any) -> dict[str, Any]:
    """The made-up evaluation with these differences to realm."""
    metrics = copy.deepcopy(EVALUATION)
    metrics["differences"] |= {f"realm - {name}": values for name, values in differences.items()}
    return metrics


def evaluation_of(metrics: dict[str, Any], confidence: float = 0.95) -> Evaluation:
    scales = dict.fromkeys(metrics["rewards"], 1.0)
    return Evaluation(metrics, pd.DataFrame(), scales, confidence, "ceiling" in metrics)


def told(realm: float, others: dict[str, float], subject: str = "realm") -> str:
    """The verdict on 400 pairs of 400 posts where rewards are right in these shares."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = pd.DataFrame({"post_id": range(400), "domain": "askvet_test", "labels": labels})
    rewards = {
        name: np.outer(
            np.where(labels == 1, 1, -1) * np.where(rng.permutation(400) < round(400 * share), 1, -1), [1, 0]
        )
        for name, share in {subject: realm, **others}.items()
    }
    return verdict(evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=200))


def test_the_verdict_says_better_worse_and_cannot_tell() -> None:
    text = told(0.80, {"reward_model": 0.60, "similarity": 0.81, "length": 0.5})
    assert "On 400 pairs of 400 posts the combined reward ranks 80.0 % rightly" in text
    assert "it is better than the reward model alone (+20.0 points, +1" in text
    assert "it is not to be told from similarity alone (-1.0 points, -" in text
    assert "it is better than taking the longer response (+30.0 points, " in text
    assert "simulated" not in text
    assert "the ceiling" not in text
    assert "it is better than a plain weighted sum of the two (" in told(0.8, {"linear": 0.6})
    assert "it is worse than the reward model alone (-20.0 points" in told(0.60, {"reward_model": 0.80})
    assert "boosted trees" in told(0.60, {"trees": 0.80})


def test_the_verdict_without_realm_is_about_the_first_reward() -> None:
    text = told(0.8, {"length": 0.6}, subject="reward_model")
    assert "the reward model alone ranks 80.0 % rightly" in text
    assert "it is better than taking the longer response (+20.0 points, " in text


def test_the_verdict_of_one_reward_compares_it_with_nothing() -> None:
    text = told(0.8, {})
    assert re.fullmatch(
        r"On 400 pairs .* \(95 % interval \d\d\.\d to \d\d\.\d\)\. Whether it is only length .*\.", text
    )
    assert "these pairs hold no texts" in text
    assert "such test sets" not in text


def test_the_verdict_of_simulated_pairs_says_so_and_names_the_ceilings() -> None:
    metrics = changed()
    text = verdict(evaluation_of(metrics, confidence=0.9))
    assert "1,234 simulated pairs of 321 posts" in text
    assert "(90 % interval 68.0 to 72.0; ties, 3 here, count half)" in text
    assert "reaches 76.0 %: the combined reward is 5.9 points below it" in text
    assert "best use" not in text
    assert text.count(power(metrics)) == 1
    metrics["ceiling"]["accuracy"] = 0.7
    metrics["feature_ceiling"] = reward(0.705, 0.6, 0.8) | {"difference": {"value": -0.004, "ci": [-0.01, 0.002]}}
    text = verdict(evaluation_of(metrics))
    assert "the combined reward is 0.1 points above it" in text
    assert "truth reaches 70.5 %: the combined reward differs from it by -0.4 points, -1.0 to +0.2." in text


def test_the_verdict_begins_as_the_two_sentences_do() -> None:
    metrics = changed()
    assert verdict(evaluation_of(metrics)).startswith(two_sentences(metrics))


_ABOVE, _HOLDS, _BELOW = (0.591, 0.628), (0.47, 0.55), (0.40, 0.45)


@pytest.mark.parametrize(
    ("controlled", "said", "answer"),
    [
        (_ABOVE, "It is more than length: where the longer and the shorter response count alike", "No. Where the"),
        (_HOLDS, "It is not shown to be more than length: where", "More than length is not shown. Where"),
        ((0.5, 0.6), "It is not shown to be more than length: where", "More than length is not shown. Where"),
        ((0.4, 0.5), "It is not shown to be more than length: where", "More than length is not shown. Where"),
        (_BELOW, "Apart from length it is wrong more often than right: where", "Apart from length it is wrong more"),
        (None, "Whether it is only length cannot be said: these pairs hold none whose", "Whether it is only length"),
    ],
)
@pytest.mark.parametrize(
    ("against", "p", "standing"),
    [
        ((0.02, 0.10), 0.01, "it is better than taking the longer response (+6.0 points, +2.0 to +10.0)"),
        ((0.02, 0.10), 0.12, "it is perhaps better than taking the longer response (+6.0 points, +2.0 to +10.0, but p"),
        ((-0.02, 0.10), 0.3, "it is not to be told from taking the longer response (+4.0 points, -2.0 to +10.0)"),
        ((-0.10, -0.02), 0.01, "it is worse than taking the longer response (-6.0 points, -10.0 to -2.0)"),
        ((-0.10, -0.02), 0.12, "it is perhaps worse than taking the longer response (-6.0 points, -10.0 to -2.0, but"),
    ],
)
def test_length_is_told_as_its_two_intervals_say(
    against: tuple[float, float],
    p: float,
    standing: str,
    controlled: tuple[float, float] | None,
    said: str,
    answer: str,
) -> None:
    metrics = changed(length=difference(sum(against) / 2, *against, p=p))
    metrics["rewards"]["realm"]["length_controlled"] = (
        {"accuracy": sum(controlled) / 2, "ci": list(controlled)} if controlled else None
    )
    sentences = two_sentences(metrics)
    assert said in sentences
    assert f"; {standing}" in sentences
    assert sentences.endswith(", which is right in 55.0 %.")
    assert len(re.findall(r"[a-z)%0-9]\.(?= |$)", sentences)) == 2, sentences
    told = dict(questions_answered(metrics))["Is it only length?"]
    assert told.startswith(answer)
    assert standing in told


def test_length_that_was_not_measured_is_not_told() -> None:
    metrics = changed()
    del metrics["differences"]["realm - length"]
    assert two_sentences(metrics).endswith("Whether it is only length was not measured: these pairs hold no texts.")
    metrics["length_split"] = {}
    assert two_sentences(metrics).endswith("Whether it is only length was not measured.")
    assert dict(questions_answered(metrics))["Is it only length?"] == "Whether it is only length was not measured."


@pytest.mark.parametrize(
    ("model", "similarity", "linear", "said"),
    [
        (
            (0.02, 0.08, 0.01),
            (0.02, 0.08, 0.01),
            (0.01, 0.03, 0.01),
            "Yes: it is better than the reward model alone and similarity alone. It is better",
        ),
        (
            (0.02, 0.08, 0.01),
            (0.02, 0.08, 0.2),
            (0.01, 0.03, 0.2),
            "In part: it is better than the reward model alone; it is perhaps better than similarity alone. It seems",
        ),
        (
            (0.02, 0.08, 0.01),
            (-0.02, 0.08, 0.9),
            (-0.03, 0.03, 1),
            "In part: it is better than the reward model alone; it is not to be told from similarity alone. The",
        ),
        (
            (-0.02, 0.08, 1),
            (-0.02, 0.08, 1),
            (-0.03, -0.01, 0.01),
            "Not shown: it is not to be told from the reward model alone and similarity alone. A plain weighted sum",
        ),
        (
            (-0.08, -0.02, 0.01),
            (0.02, 0.08, 0.01),
            (-0.03, -0.01, 0.2),
            "No: it is better than similarity alone; it is worse than the reward model alone. A plain weighted",
        ),
    ],
)
def test_better_is_answered_as_the_intervals_say(
    model: tuple[float, float, float],
    similarity: tuple[float, float, float],
    linear: tuple[float, float, float],
    said: str,
) -> None:
    ends = {"reward_model": model, "similarity": similarity, "linear": linear}
    metrics = changed(**{name: difference((low + high) / 2, low, high, p=p) for name, (low, high, p) in ends.items()})
    assert questions_answered(metrics)[0][1].startswith(said)


def test_how_sure_tells_power_and_the_spread_of_seeds() -> None:
    metrics = changed(similarity=difference(0.1, 0.05, 0.15, p=0.002)) | {"seeds": SEEDS}
    sure = dict(questions_answered(metrics))["How sure is that?"]
    assert sure.startswith("p < 0.001 against the reward model alone and p = 0.002 against similarity alone, after")
    assert "With 321 posts, a true difference of 4.0 points between the combined reward and" in sure
    assert seeds(SEEDS, [0.68, 0.72]) in sure


def test_the_spread_of_seeds_stands_beside_the_interval() -> None:
    assert seeds(SEEDS, [0.6, 0.7]) == (
        "Trained from 3 seeds, the combiner reaches 70.0 to 70.4 % on these pairs (standard deviation 0.12 points; "
        "single networks 0.34). The reward model is taken as it is: what another training of it would change is not in "
        "this. The interval over posts is 10.0 points wide."
    )
    retrained = {"reward_model": [0.6, 0.62], "linear": [0.7, 0.7], "realm": [0.72, 0.7]}
    again = {**retrained, "sd": {"reward_model": 0.0141, "linear": 0.0, "realm": 0.0142}}
    assert (
        "With the reward model trained again too, 2 trainings in all, the combiner reaches 70.0 to 72.0 % (standard "
        "deviation 1.42), the reward model alone 60.0 to 62.0 % (1.41). The interval"
    ) in seeds({**SEEDS, "retrained": again}, [0.6, 0.7])


def test_runs_are_compared_by_their_intervals() -> None:
    better = copy.deepcopy(EVALUATION)
    better["rewards"]["realm"] = reward(0.8, 0.78, 0.82)
    assert runs_compared(["a", "b"], [EVALUATION, EVALUATION], []).endswith("their intervals overlap.")
    text = runs_compared(["a", "b"], [EVALUATION, better], [f"model.x{n}" for n in range(6)])
    assert text == (
        "The runs differ in model.x0, model.x1, model.x2, model.x3 and 2 more. The combined reward of b ranks 80.0 % "
        "rightly, that of a 70.1 %: their intervals lie apart."
    )


def test_what_holm_takes_back_is_said_where_an_interval_claims_something() -> None:
    assert points(difference(0.068, 0.039, 0.097)) == "+6.8 points, +3.9 to +9.7"
    assert (
        points(difference(-0.02, -0.04, -0.001, p=0.116)) == "-2.0 points, -4.0 to -0.1, but p = 0.116 after correction"
    )
    assert points(difference(0.0, -0.01, 0.01, p=0.9)) == "+0.0 points, -1.0 to +1.0"
    said = {
        in_words(difference(0, *ends)) for ends in ((0.01, 0.02, 0.2), (0.01, 0.02), (-2, -1), (-2, -1, 0.06), (0, 1))
    }
    assert said == {"better, not surely", "better", "worse", "worse, not surely", "the data cannot tell"}


def test_small_words() -> None:
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert [p_value(p) for p in (0.0004, 0.0016)] == ["p < 0.001", "p = 0.002"]


def with_signal() -> dict[str, Any]:
    """The made-up evaluation of a reward with a third feature, each left out in turn."""
    metrics = changed(
        Log_words=difference(0.2, 0.1, 0.3),
        trees=difference(0.0, -0.1, 0.1),
        **{f"realm_without_{name}": difference(0.01, -0.01, 0.03) for name in ("score", "similarity", "Log_words")},
    )
    others = [name.removeprefix("realm - ") for name in metrics["differences"]]
    metrics["rewards"] |= {name: reward(0.6, 0.5, 0.7) for name in others if name not in metrics["rewards"]}
    metrics["feature_ceiling"] = reward(0.705, 0.6, 0.8) | {"difference": {"value": -0.004, "ci": [-0.01, 0.002]}}
    return metrics


def test_the_verdict_on_three_features_names_each_and_counts_them() -> None:
    metrics = with_signal()
    text = verdict(evaluation_of(metrics))
    assert "it is better than the reward model alone (+5.1 points, +2.0 to +8.0) and Log_words alone (+20.0 " in text
    assert "not to be told from a plain weighted sum of all three (" in text
    assert "boosted trees on all three (" in text
    assert "The best use of all three features that could be fitted" in text
    assert "realm_without" not in text
    assert "the two" not in text
    answers = dict(questions_answered(metrics))
    assert "against Log_words alone +20.0 points" in answers["By how much?"]
    assert "than a plain weighted sum of all three." in answers["Is it better?"]
    assert "against Log_words alone" in answers["How sure is that?"]
    assert "Which signals are worth paying for?" not in answers


def test_the_front_page_says_which_signals_are_worth_paying_for() -> None:
    cost = {"computed": 10, "cache_hits": 0, "tokens": None, "seconds": 3.0, "cost": None}
    metrics = with_signal() | {"signals": {"score": {"gained": difference(0.1, 0.05, 0.15), "cost": cost}}}
    answer = dict(questions_answered(metrics))["Which signals are worth paying for?"]
    shown = captions(metrics)
    assert "holds zero" in shown["evaluation_signals"][1]
    assert "the two features that matter most" in shown["combiner_surface"][1]
    assert "matter most" not in captions(changed())["combiner_surface"][1]
    assert answer.startswith("By what the reward loses without each, on 1,234 pairs. Shown to add something: score (")


def test_the_caption_of_the_reliability_figure_follows_the_bare_differences() -> None:
    metrics = changed()
    assert "were divided by 1.44, the temperature that fits" in captions(metrics)["evaluation_reliability"][1]
    after = {"ece": 0.021, "ece_ci": [0, 0.05], "ece_by_chance": 0.019}
    folded = {"factor": 0.69, "before": {"ece": 0.08, "ece_ci": [0.06, 0.1]}, "after": after}
    text = captions(metrics | {"calibration": folded})["evaluation_reliability"][1]
    assert "their calibration error is 2.1 points (0.0 to 5.0); before the factor 0.69 was folded in, it was " in text
    assert "REALM's distance from the line is 2.1 points on average; that of a perfect one would be about 1.9" in text
