"""Rewards of many callers computed together: each response gets its own numbers or its own error.

A trainer that asks for a batch wants one answer or one error. A server that gathers strangers' texts into a batch, and
a file of many lines, want the fault of one text to stay with that text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from realm_lib.data.chats import PairsError
from realm_lib.features.signals import SignalError, SimilaritySignal
from realm_lib.models.embedders import EmbedderError, HostedEmbedder
from realm_lib.models.reward_models import ScorerError
from realm_lib.reward.combiner import CombinerError
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


Fault = PairsError | ScorerError | EmbedderError | SignalError | CombinerError
"""What is a text's own."""
Outcome = Explanation | Fault | RewardNotFiniteError | HostedModelError


def explain_each(reward: RealmReward, prompts: Sequence[str], responses: Sequence[str]) -> list[Outcome]:
    """For each (prompt, response) its explanation or the error that is its own, in the order given.

    All are computed together. When that fails, the halves are, and so on down to the texts at fault; a hosted embedder
    is not asked again, since it has had its retries: there every text gets :class:`HostedModelError`.
    """
    outcomes: dict[int, Outcome] = {}
    for embedder in _hosted_embedders(reward):
        outcomes |= _refused_by_host(embedder, prompts, responses)
    rest = [index for index in range(len(prompts)) if index not in outcomes]
    computed = _computed(reward, [prompts[index] for index in rest], [responses[index] for index in rest])
    outcomes |= dict(zip(rest, computed, strict=True))
    return [outcomes[index] for index in range(len(prompts))]


def _hosted_embedders(reward: RealmReward) -> list[HostedEmbedder]:
    signals = [signal.embedder for signal in reward.signals.values() if isinstance(signal, SimilaritySignal)]
    return [embedder for embedder in (reward.embedder, *signals) if isinstance(embedder, HostedEmbedder)]


def _refused_by_host(
    embedder: HostedEmbedder, prompts: Sequence[str], responses: Sequence[str]
) -> dict[int, EmbedderError]:
    """The errors of texts that the hosted embedder cannot send, such as empty ones, found without asking it."""
    refused = {}
    for index, texts in enumerate(zip(prompts, responses, strict=True)):
        try:
            embedder.quote(texts)
        except EmbedderError as error:
            refused[index] = error
    return refused


def _computed(reward: RealmReward, prompts: Sequence[str], responses: Sequence[str]) -> list[Outcome]:
    """As :func:`explain_each`, for texts that can be sent: together, or else by halves."""
    try:
        table = reward.explain(prompts, responses)
    except get_args(Fault) as error:
        if isinstance(error, EmbedderError) and _hosted_embedders(reward):
            return [HostedModelError(str(error)) for _ in prompts]
        if len(prompts) == 1:
            return [error]
        half = len(prompts) // 2
        return [
            *_computed(reward, prompts[:half], responses[:half]),
            *_computed(reward, prompts[half:], responses[half:]),
        ]
    return [_checked(row) for row in table.to_dict("records")]


def _checked(row: Mapping[Any, Any]) -> Explanation | RewardNotFiniteError:
    numbers = {name: float(value) for name, value in row.items()}
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        return RewardNotFiniteError(f"its {' and '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite")
    own = {name: numbers.pop(name) for name in ("reward", "spread", "score", "similarity")}
    return Explanation(**own, outside=bool(numbers.pop("outside")), signals=numbers)
