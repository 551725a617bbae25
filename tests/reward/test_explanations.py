"""Rewards computed together: the numbers of RealmReward, and each fault stays with its own text."""

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest

from realm_lib.data.chats import PairsError
from realm_lib.features.signals import SignalError
from realm_lib.models.embedders import EmbedderError, HostedEmbedder, Quote
from realm_lib.models.reward_models import LongResponseError, ScorerError
from realm_lib.reward.explanations import Explanation, HostedModelError, RewardNotFiniteError, explain_each
from realm_lib.reward.realm_reward import RealmReward

LONG = "word " * 600


class Hosted:
    """A hosted embedder around a local one: it refuses empty texts, counts requests, and may be out of service."""

    def __init__(self, local: Any, *, down: bool = False) -> None:
        self.local, self.down, self.requests = local, down, 0
        self.identity, self.dimensions = local.identity, local.dimensions

    def embed(self, texts: Sequence[str]) -> Any:
        self.quote(texts)
        self.requests += 1
        if self.down:
            raise EmbedderError("none was embedded: 503, with a text in the message: secret words")
        return self.local.embed(texts)

    def for_role(self, role: str) -> "Hosted":  # noqa: ARG002
        return self

    def by_task_type(self) -> dict[str, "Hosted"]:
        return {"any": self}

    def quote(self, texts: Sequence[str]) -> Quote:
        for place, text in enumerate(texts):
            if not text:
                raise EmbedderError(f"text {place} is empty")
        return Quote(len(texts), 0, 0.0, 0)

    def authorise(self, quote: Quote) -> None: ...

    def stream(self, texts: Sequence[str]) -> Generator[tuple[list[int], Any]]:
        yield list(range(len(texts))), self.embed(texts)


class Infinite:
    """A scorer that keeps its protocol but for one thing: the score of one response is infinite."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.identity, self.count_tokens = scorer, scorer.identity, scorer.count_tokens

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        scores = self.scorer.score(prompts, responses)
        return np.where([response == "infinite" for response in responses], np.inf, scores).astype(np.float32)


def test_each_gets_the_numbers_of_the_reward(run_reward: RealmReward) -> None:
    prompts, responses = ["Why?", "How?", "Why?"], ["Because.", "So.", "Because."]
    found = explain_each(run_reward, prompts, responses)
    wanted = [{**row, "signals": {}} for row in run_reward.explain(prompts, responses).to_dict("records")]
    assert [outcome.to_dict() for outcome in found if isinstance(outcome, Explanation)] == wanted
    assert explain_each(run_reward, [], []) == []


@pytest.mark.slow
@pytest.mark.parametrize("bad", [{0, 2}, {0, 1, 2}])
def test_a_fault_stays_with_its_text(run_reward: RealmReward, bad: set[int]) -> None:
    responses = [LONG if place in bad else f"Answer {place}." for place in range(3)]
    found = explain_each(run_reward, ["Why?"] * 3, responses)
    for place, outcome in enumerate(found):
        if place in bad:
            assert isinstance(outcome, LongResponseError)
            assert max(outcome.tokens.values()) > outcome.limit == 512
        else:
            assert isinstance(outcome, Explanation)
            assert outcome.reward == pytest.approx(run_reward(["Why?"], [responses[place]])[0], abs=1e-4)


def test_a_prompt_that_is_answered_already_is_its_own_error(run_reward: RealmReward) -> None:
    answered = "\n\nHuman: Why?\n\nAssistant: Because."
    bad, good = explain_each(run_reward, [answered, "Why?"], ["So.", "Because."])
    assert isinstance(bad, PairsError)
    assert isinstance(good, Explanation)


def test_a_number_that_is_not_finite_is_an_error(run_reward: RealmReward) -> None:
    reward = RealmReward(Infinite(run_reward.scorer), run_reward.embedder, run_reward.combiner)
    good, bad = explain_each(reward, ["Why?", "Why?"], ["Because.", "infinite"])
    assert isinstance(good, Explanation)
    assert math.isfinite(good.reward)
    assert isinstance(bad, Exception)
    assert "Because" not in str(bad)


def test_a_combiner_that_answers_nan_is_an_error_that_names_the_numbers(run_reward: RealmReward) -> None:
    class Broken:
        """Gives NaN where a real one gives a reward."""

        features = run_reward.combiner.features
        outside = run_reward.combiner.outside

        def reward_and_spread(self, features: Any) -> Any:
            return np.full(len(features), np.nan), np.zeros(len(features))

    reward = RealmReward(run_reward.scorer, run_reward.embedder, Broken())  # type: ignore[arg-type]
    (found,) = explain_each(reward, ["Why?"], ["Because."])
    assert isinstance(found, RewardNotFiniteError)
    assert str(found) == "its reward is not finite"


def test_a_hosted_embedder_out_of_service_is_asked_once(run_reward: RealmReward) -> None:
    hosted = Hosted(run_reward.embedder, down=True)
    assert isinstance(hosted, HostedEmbedder)
    found = explain_each(RealmReward(run_reward.scorer, hosted, run_reward.combiner), ["Why?"] * 4, list("abcd"))
    assert [type(outcome) for outcome in found] == [HostedModelError] * 4
    assert hosted.requests == 1


def test_what_a_hosted_embedder_cannot_send_stays_with_its_text(run_reward: RealmReward) -> None:
    hosted = Hosted(run_reward.embedder)
    reward = RealmReward(run_reward.scorer, hosted, run_reward.combiner)
    empty, good = explain_each(reward, ["Why?", "Why?"], ["", "Because."])
    assert isinstance(empty, EmbedderError)
    assert isinstance(good, Explanation)
    assert hosted.requests == 1


def test_another_fault_is_ours_and_is_raised(run_reward: RealmReward) -> None:
    class Wrong:
        """A scorer with a defect."""

        identity = run_reward.scorer.identity

        def score(self, *_: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explain_each(RealmReward(Wrong(), run_reward.embedder, run_reward.combiner), ["a"], ["b"])  # type: ignore[arg-type]


def test_signals_are_told_and_their_faults_stay_with_their_text(signals_reward: RealmReward) -> None:
    prompts, responses = ["Why does bread rise?"] * 3, ["Bread makes gas.", "no number", "word " * 50]
    good, bad, long = explain_each(signals_reward, prompts, responses)
    assert isinstance(good, Explanation)
    (row,) = signals_reward.explain(prompts[:1], responses[:1]).to_dict("records")
    assert good.signals == pytest.approx({name: row[name] for name in ("second", "words", "repeats")}, abs=1e-4)
    assert good.outside is row["outside"]
    assert isinstance(bad, SignalError)
    assert isinstance(long, LongResponseError)
    assert str(long).startswith("signals.second: text 0")


class Counting:
    """A scorer and an embedder that keep to what they wrap, and count the texts that they are asked about."""

    def __init__(self, scorer: Any, embedder: Any) -> None:
        self.scorer, self.embedder = scorer, embedder
        self.identity, self.dimensions = scorer.identity, embedder.dimensions
        self.count_tokens, self.refused = scorer.count_tokens, scorer.refused
        self.scored: list[int] = []
        self.embedded: list[int] = []

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        self.scored.append(len(responses))
        bad = [place for place, response in enumerate(responses) if response.startswith("bad")]
        if bad:
            raise ScorerError(f"{len(bad)} have no score", bad)
        if "unnamed" in responses:
            raise ScorerError("one has no score")
        return self.scorer.score(prompts, responses)

    def embed(self, texts: Sequence[str]) -> Any:
        self.embedded.append(len(texts))
        return self.embedder.embed(texts)


def counted(run_reward: RealmReward, responses: list[str]) -> tuple[Counting, list[Any]]:
    models = Counting(run_reward.scorer, run_reward.embedder)
    reward = RealmReward(models, models, run_reward.combiner)
    return models, explain_each(reward, ["Why?"] * len(responses), responses)


@pytest.mark.slow
def test_texts_that_do_not_fit_are_found_before_anything_is_computed(run_reward: RealmReward) -> None:
    responses = [LONG + str(place) if place % 3 else f"Answer {place}." for place in range(12)]
    models, found = counted(run_reward, responses)
    assert (models.scored, models.embedded) == ([4], [5])
    assert [isinstance(outcome, LongResponseError) for outcome in found] == [bool(place % 3) for place in range(12)]
    alone = [explain_each(run_reward, ["Why?"], [response])[0] for response in responses]
    for outcome, own in zip(found, alone, strict=True):
        if isinstance(own, Explanation):
            assert outcome.reward == pytest.approx(own.reward, abs=1e-4)
        else:
            assert str(outcome) == str(own)
    models, _ = counted(run_reward, [LONG + str(place) for place in range(8)])
    assert (models.scored, models.embedded) == ([], [])


def test_named_texts_are_asked_alone_and_nothing_else_is_asked_again(run_reward: RealmReward) -> None:
    models, found = counted(run_reward, ["a", "bad", "b", "bad too", "c", "d", "bad"])
    assert models.scored == [6, 1, 1, 4], "equal texts are asked about once"
    assert models.embedded == [5]
    assert [place for place, outcome in enumerate(found) if isinstance(outcome, ScorerError)] == [1, 3, 6]
    assert all(isinstance(found[place], Explanation) for place in (0, 2, 4, 5))


def test_a_fault_without_a_place_is_looked_for_in_its_own_feature_only(run_reward: RealmReward) -> None:
    models, found = counted(run_reward, ["a", "unnamed", "b", "c"])
    assert models.scored == [4, 2, 1, 1, 2]
    assert models.embedded == [4]
    assert [isinstance(outcome, Explanation) for outcome in found] == [True, False, True, True]


def test_an_explanation_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Explanation(1.0, 0.0, 1.0, 0.0, outside=False).reward = 2.0  # type: ignore[misc]
    assert issubclass(LongResponseError, ScorerError)
