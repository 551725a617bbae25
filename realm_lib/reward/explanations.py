"""Rewards of many callers computed together: each response gets its own numbers or its own error.

A trainer that asks for a batch wants one answer or one error. A server that gathers strangers' texts into a batch, and
a file of many lines, want the fault of one text to stay with that text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import pandas as pd

from realm_lib.config.feature_models import FEATURES
from realm_lib.data.chats import PairsError, as_messages, asked_texts
from realm_lib.features.signals import Signal, SignalError, name_error
from realm_lib.models.embedders import EmbedderError
from realm_lib.models.reward_models import ScorerError
from realm_lib.reward.realm_reward import RealmReward


class RewardNotFiniteError(RuntimeError):
    """A reward, or a number that it is made of, is NaN or infinite; the message says which number."""


class HostedModelError(RuntimeError):
    """The service behind a hosted model did not answer: no text is at fault, and another try may help."""


@dataclass(frozen=True)
class Explanation:
    """A response's reward and what it is made of, all finite."""

    reward: float
    spread: float
    """Standard deviation of the reward over the combiner's ensemble."""
    score: float
    """Of the reward model."""
    similarity: float
    """Cosine of prompt and response."""
    outside: bool
    """Whether one of the features lies beyond the range of the training responses; there it counts as its border."""
    signals: Mapping[str, float] = field(default_factory=dict)
    """The further features, by name."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, those of signals in a dict of their own."""
        return asdict(self)


Fault = PairsError | ScorerError | EmbedderError | SignalError
"""What is a text's own."""
Outcome = Explanation | Fault | RewardNotFiniteError | HostedModelError
Number = float | Fault | RewardNotFiniteError | HostedModelError
Text = tuple[str, str]
"""A prompt, cut as the reward cuts it, and a response."""


def explain_each(reward: RealmReward, prompts: Sequence[str], responses: Sequence[str]) -> list[Outcome]:
    """For each (prompt, response) its explanation or the error that is its own, in the order given.

    Texts that a model is known to refuse, as for their length, are left out before anything is computed, all at once;
    of the others each feature is computed once, whatever is wrong with some: see :func:`_numbers`.
    """
    asked: list[Text | PairsError] = [_read(reward, *texts) for texts in zip(prompts, responses, strict=True)]
    left = list(dict.fromkeys(texts for texts in asked if not isinstance(texts, PairsError)))
    outcomes: dict[Text, Outcome] = {}
    for name, signal in reward.features.items():
        outcomes |= _refused(name, signal, left)
        left = [texts for texts in left if texts not in outcomes]
    features: dict[str, dict[Text, float]] = {}
    for name, signal in reward.features.items():
        told = dict(zip(left, _numbers(name, signal, left), strict=True))
        features[name] = {texts: value for texts, value in told.items() if isinstance(value, float)}
        outcomes |= {texts: value for texts, value in told.items() if not isinstance(value, float)}
        left = list(features[name])
    if left:
        rows = pd.DataFrame({name: [values[texts] for texts in left] for name, values in features.items()})
        outcomes |= zip(left, map(_checked, reward.combine(rows).to_dict("records")), strict=True)
    return [texts if isinstance(texts, PairsError) else outcomes[texts] for texts in asked]


def _read(reward: RealmReward, prompt: str, response: str) -> Text | PairsError:
    try:
        ((read, told),) = asked_texts([prompt], [response], reward.read_prompt)
        as_messages(read)  # every model of dialogues needs its turns
    except PairsError as error:
        return error
    return read, told


def _refused(name: str, signal: Signal, texts: Sequence[Text]) -> dict[Text, Fault]:
    errors = signal.refused([prompt for prompt, _ in texts], [response for _, response in texts])
    return {texts[place]: _named(name, error) for place, error in errors.items()}


def _numbers(name: str, signal: Signal, texts: Sequence[Text]) -> list[Number]:
    """A feature of each text, or the error that is the text's own.

    All are computed together. Texts that an error names are then asked alone and the others together; where it names
    none, each half is, down to the texts at fault. A service is not asked again, since it has had its retries: there
    every text gets :class:`HostedModelError`, unless the error names some.
    """
    if not texts:
        return []
    try:
        values = signal.values([prompt for prompt, _ in texts], [response for _, response in texts])
        return [_finite(name, float(value)) for value in values]
    except get_args(Fault) as error:
        fault = _named(name, error)
    places = set(range(len(texts))).intersection(getattr(fault, "places", ()))
    if signal.hosted and not places:
        return [HostedModelError(str(fault))] * len(texts)
    if len(texts) == 1:
        return [fault]
    if places:
        parts = [[place] for place in sorted(places)] + [[place for place in range(len(texts)) if place not in places]]
    else:
        half = len(texts) // 2
        parts = [list(range(half)), list(range(half, len(texts)))]
    told: dict[int, Number] = {}
    for part in parts:
        told |= zip(part, _numbers(name, signal, [texts[place] for place in part]), strict=True)
    return [told[place] for place in range(len(texts))]


def _named(name: str, error: Fault) -> Fault:
    if name not in FEATURES:
        name_error(name, error)
    return error


def _finite(name: str, value: float) -> float | RewardNotFiniteError:
    return value if math.isfinite(value) else RewardNotFiniteError(f"its {name} is not finite")


def _checked(row: Mapping[Any, Any]) -> Explanation | RewardNotFiniteError:
    numbers = {name: float(value) for name, value in row.items()}
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        return RewardNotFiniteError(f"its {' and '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite")
    own = {name: numbers.pop(name) for name in ("reward", "spread", "score", "similarity")}
    return Explanation(**own, outside=bool(numbers.pop("outside")), signals=numbers)
